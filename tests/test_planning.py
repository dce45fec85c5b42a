"""`fusedrnn.explain`: which layers it describes, what it asks the planner, what it refuses."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import fusedrnn
from fusedrnn import _library, planning

compiled = pytest.mark.skipif(not _library.available, reason="needs the compiled extension")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """The questions put to the planner, which answers with one pass."""
    questions: list[tuple] = []

    def explain_layer(*arguments: object) -> list[tuple]:
        questions.append(arguments)
        return [("forward", "some", 1e-3, [("forward", "some, modelled 1.0 ms")])]

    monkeypatch.setattr(_library, "available", True)
    monkeypatch.setattr(torch.ops.fusedrnn, "explain_layer", explain_layer, raising=False)
    return questions


def test_every_layer_is_asked_about_with_its_own_input_size(asked: list[tuple]) -> None:
    module = fusedrnn.LSTM(5, 7, num_layers=3, bidirectional=True, proj_size=2)
    explanation = fusedrnn.explain(module, torch.randn(11, 3, 5))
    question = ("lstm", torch.float32, 11, 3)
    assert asked == [
        (*question, 5, 7, 2, 2, True, None),
        (*question, 4, 7, 2, 2, True, None),
        (*question, 4, 7, 2, 2, True, None),
    ]
    assert len(explanation.layers) == 3


@pytest.mark.parametrize(
    ("module", "input", "expected"),
    [
        (fusedrnn.GRU(5, 7, batch_first=True), torch.ones(3, 11, 5), ("gru", 11, 3)),
        (fusedrnn.GRU(5, 7), torch.ones(11, 5), ("gru", 11, 1)),
        (fusedrnn.RNN(5, 7, nonlinearity="relu"), torch.ones(11, 3, 5), ("rnn_relu", 11, 3)),
        (fusedrnn.RNNCell(5, 7), torch.ones(3, 5), ("rnn_tanh", 1, 3)),
        (fusedrnn.RNNCell(5, 7, nonlinearity="relu"), torch.ones(3, 5), ("rnn_relu", 1, 3)),
        (fusedrnn.GRUCell(5, 7), torch.ones(5), ("gru", 1, 1)),
        (fusedrnn.LSTMCell(5, 7), torch.ones(3, 5), ("lstm", 1, 3)),
        (fusedrnn.compat.LSTM(5, 7), torch.ones(11, 3, 5), ("lstm", 11, 3)),
        (
            fusedrnn.GRU(5, 7),
            pack_padded_sequence(torch.ones(11, 3, 5), [4, 11, 2], enforce_sorted=False),
            ("gru", 11, 3),
        ),
    ],
)
def test_steps_and_batch_are_read_off_the_input(
    asked: list[tuple], module: nn.Module, input: torch.Tensor, expected: tuple
) -> None:
    fusedrnn.explain(module, input)
    [(cell, _, seq_len, batch_size, *_)] = asked
    assert (cell, seq_len, batch_size) == expected


def test_a_cuda_tensor_asks_about_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def explain_layer_cuda(*arguments: object) -> list[tuple]:
        asked.append(arguments)
        return []

    monkeypatch.setattr(_library, "available", True)
    monkeypatch.setattr(_library, "has_cuda_kernels", lambda: True)
    monkeypatch.setattr(torch.ops.fusedrnn, "explain_layer_cuda", explain_layer_cuda, raising=False)
    data = SimpleNamespace(dtype=torch.float32, device=torch.device("cuda", 1), requires_grad=False)
    monkeypatch.setattr(planning, "_measure", lambda module, input: (data, 11, 3))
    fusedrnn.explain(fusedrnn.GRU(5, 7), torch.empty(11, 3, 5))
    is_packed, device_index = False, 1
    assert asked == [("gru", torch.float32, 11, 3, 5, 7, 0, 1, True, is_packed, device_index)]


def test_training_follows_what_can_ask_for_a_gradient(asked: list[tuple]) -> None:
    module, input, h_0 = fusedrnn.GRU(5, 7), torch.randn(11, 3, 5), torch.zeros(1, 3, 7)
    fusedrnn.explain(module.eval(), input)  # eval mode does not end gradients
    with torch.no_grad():
        fusedrnn.explain(module, input)
    module.requires_grad_(False)
    fusedrnn.explain(module, input)
    fusedrnn.explain(module, input, h_0.requires_grad_())
    assert [question[8] for question in asked] == [True, False, False, True]


def test_autocast_decides_the_dtype(asked: list[tuple]) -> None:
    module, input = fusedrnn.GRU(5, 7), torch.randn(11, 3, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fusedrnn.explain(module, input)
    fusedrnn.explain(module.double(), input.double())
    assert [question[1] for question in asked] == [torch.bfloat16, torch.float64]


def test_the_table_is_printed_and_returned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def explain_layer(cell: str, dtype: object, *sizes: int) -> list[tuple]:
        forward = [
            ("problem", f"gru float32, seq_len 11, batch_size 3, input_size {sizes[2]}"),
            ("forward", "persistent, modelled 67.1 us, 1 thread"),
            ("input projection", "50 steps at once"),
        ]
        backward = [("backward", "per_step, modelled 1.2 ms, 1 thread")]
        return [
            ("forward", "persistent", 67.1e-6, forward),
            ("backward", "per_step", 1.2e-3, backward),
        ]

    monkeypatch.setattr(_library, "available", True)
    monkeypatch.setattr(torch.ops.fusedrnn, "explain_layer", explain_layer, raising=False)
    module = fusedrnn.GRU(5, 7, num_layers=3)
    explanation = fusedrnn.explain(module, torch.randn(11, 3, 5))
    assert capsys.readouterr().out == f"{explanation}\n"
    rows = [
        "  forward           persistent, modelled 67.1 us, 1 thread",
        "  input projection  50 steps at once",
        "  backward          per_step, modelled 1.2 ms, 1 thread",
    ]
    assert str(explanation).splitlines() == [
        "GRU(5, 7, num_layers=3): seq_len 11, batch_size 3, float32, training",
        "",
        "layer 0, input_size 5",
        *rows,
        "",
        "layers 1 to 2, input_size 7",
        *rows,
    ]


def test_a_plan_comes_in_parts_and_as_text(asked: list[tuple]) -> None:
    plan = fusedrnn.explain(fusedrnn.GRU(5, 7), torch.randn(11, 3, 5))
    assert plan.input_sizes == (5,)
    [[forward]] = plan.plans
    assert (forward.name, forward.schedule, forward.modelled_seconds) == ("forward", "some", 1e-3)
    assert plan.layers == ("forward: some, modelled 1.0 ms",)


def test_without_the_extension_the_fallback_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_library, "available", False)
    monkeypatch.setattr(_library, "reason", "no such file")
    explanation = fusedrnn.explain(fusedrnn.GRU(5, 7), torch.randn(11, 3, 5))
    assert explanation.layers == ("runs as: PyTorch fallback: no such file",)
    assert str(explanation).endswith(
        "\nlayer 0, input_size 5\n  runs as  PyTorch fallback: no such file"
    )


@compiled
@pytest.mark.parametrize("schedule", ["per_step", "persistent"])
def test_a_forced_schedule_is_the_one_explained(
    schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSEDRNN_SCHEDULE", schedule)
    explanation = fusedrnn.explain(fusedrnn.LSTM(32, 64), torch.randn(11, 3, 32))
    [passes] = explanation.plans
    assert [(one.name, one.schedule) for one in passes] == [
        ("forward", schedule),
        ("backward", schedule),
    ]
    for one in passes:
        [(_, value)] = [fact for fact in one.facts if fact[0] == one.name]
        assert value.startswith(f"{schedule}, modelled ") and one.modelled_seconds > 0


@compiled
def test_an_unknown_forced_schedule_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSEDRNN_SCHEDULE", "abacus")
    with pytest.raises(RuntimeError, match="abacus"):
        fusedrnn.explain(fusedrnn.LSTM(32, 64), torch.randn(11, 3, 32))


@compiled
def test_a_rejected_schedule_comes_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUSEDRNN_SCHEDULE", raising=False)
    [passes] = fusedrnn.explain(fusedrnn.LSTM(512, 512), torch.randn(100, 32, 512)).plans
    assert [one.name for one in passes] == ["forward", "backward"]
    for one in passes:
        [rejected] = {"per_step", "persistent"} - {one.schedule}
        assert "modelled " in dict(one.facts)[f"not {rejected}"]


@compiled
@pytest.mark.parametrize("cell", [fusedrnn.LSTM, fusedrnn.GRU, fusedrnn.RNN])
def test_a_step_reads_weights_in_place_and_a_large_batch_packs_them(
    cell: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSEDRNN_SCHEDULE", "persistent")
    module = cell(64, 64)
    [text] = fusedrnn.explain(module, torch.randn(1, 1, 64)).layers
    assert "\nweights: read in place\n" in text
    [text] = fusedrnn.explain(module, torch.randn(500, 64, 64)).layers
    assert "\nweights: packed once a call\n" in text


@pytest.mark.parametrize(
    ("module", "input", "error", "message"),
    [
        (nn.LSTM(5, 7), torch.ones(3, 2, 5), TypeError, r"got torch.*LSTM; .*replace\(model\)"),
        (nn.Linear(5, 7), torch.ones(3, 5), TypeError, "got torch.*Linear; .*recurrent layers"),
        (fusedrnn.GRU(5, 7), [1.0], TypeError, "input: expected a Tensor .*got list"),
        (fusedrnn.GRU(5, 7), torch.ones(3, 2, 4), RuntimeError, r"got shape \(3, 2, 4\)"),
        (fusedrnn.GRU(5, 7), torch.ones(5), RuntimeError, "2 or 3 dimensions"),
        (fusedrnn.GRUCell(5, 7), torch.ones(3, 2, 5), RuntimeError, "1 or 2 dimensions"),
        (
            fusedrnn.GRUCell(5, 7),
            pack_padded_sequence(torch.ones(3, 1, 5), [3]),
            TypeError,
            "for a cell, got PackedSequence",
        ),
    ],
)
def test_what_it_cannot_explain_is_refused(
    module: nn.Module, input: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fusedrnn.explain(module, input)


@compiled
def test_nvidia_may_forbid_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    matmul = torch.backends.cuda.matmul
    try:
        matmul.allow_tf32 = True
        for value, allowed in (("0", False), ("1", True), ("", True)):
            monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", value)
            assert torch.ops.fusedrnn.allows_tf32() == allowed
    finally:
        matmul.allow_tf32 = False
        matmul.fp32_precision = "none"


@compiled
@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({}, False),
        ({"allow_tf32": True}, True),
        ({"fp32_precision": "tf32"}, True),
        ({"allow_tf32": True, "fp32_precision": "ieee"}, False),
        ({"fp32_precision": "tf32", "allow_tf32": False}, False),
    ],
    ids=str,
)
def test_tf32_is_allowed_as_torch_has_it_for_products(
    settings: dict[str, object], allowed: bool, recwarn: pytest.WarningsRecorder
) -> None:
    matmul = torch.backends.cuda.matmul
    try:
        for name, value in settings.items():
            setattr(matmul, name, value)
        assert torch.ops.fusedrnn.allows_tf32() == allowed
        assert not recwarn.list
    finally:
        matmul.allow_tf32 = False
        matmul.fp32_precision = "none"


EPYC = fusedrnn.Machine(cores=64, sockets=2, isa="avx2", l1=32 << 10, l2=512 << 10, l3=32 << 20)


@compiled
def test_a_machine_that_is_not_at_hand_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUSEDRNN_SCHEDULE", raising=False)

    def threads(module: nn.Module, machine: fusedrnn.Machine) -> list[int]:
        plan = fusedrnn.explain(module, torch.randn(100, 1, module.input_size), machine=machine)
        assert plan.title.endswith(f"; on {machine}")
        [passes] = plan.plans
        return [int(re.findall(r"(\d+) thread", one.facts[0][1])[0]) for one in passes]

    # A barrier of 64 threads is not for a layer of 64 units, nor one of two sockets for a sequence.
    assert threads(fusedrnn.GRU(64, 64), EPYC) == [1, 1]
    assert threads(fusedrnn.LSTM(512, 512), EPYC) == [32, 32]
    assert threads(fusedrnn.LSTM(512, 512), fusedrnn.Machine(cores=8, isa="avx512")) == [8, 8]
    assert threads(fusedrnn.LSTM(512, 512), fusedrnn.Machine(cores=1)) == [1, 1]


@compiled
def test_a_machine_is_this_one_in_what_is_left_out() -> None:
    here = torch.ops.fusedrnn.describe_cpu()
    assert fusedrnn.Machine()._numbers() == here
    assert fusedrnn.Machine(cores=16, l2=512 << 10)._numbers() == [
        16,
        0,
        here[2],
        512 << 10,
        here[4],
    ]
    assert EPYC._numbers() == [64, 32, 32 << 10, 512 << 10, 32 << 20]
    assert str(EPYC) == "64 cores on 2 sockets, avx2, L1 32 KiB, L2 512 KiB, L3 32 MiB"


@compiled
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cores": 8, "sockets": 3}, "sockets: expected a divisor of cores, got 3 for 8"),
        ({"sockets": 2}, "sockets: expected a divisor of cores, got 2 for None"),
        ({"cores": 0}, "machine: expected 1 to 4096 threads"),
        (
            {"cores": 8, "l2": 0},
            "machine: expected 1 to 4096 threads, .* caches of at least a byte",
        ),
        ({"isa": "neon"}, "isa: expected generic, avx2 or avx512, got 'neon'"),
    ],
)
def test_a_machine_that_cannot_be_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fusedrnn.explain(
            fusedrnn.GRU(5, 7), torch.randn(3, 2, 5), machine=fusedrnn.Machine(**options)
        )
