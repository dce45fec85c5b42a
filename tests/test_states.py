"""return_states=, return_gates= and recompute=: what comes back, and that it changes nothing."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from cases import CELLS, assert_close, initial_state, layers, pack, run, tensors_of, tolerance
from torch import Tensor

import fusedrnn
from fusedrnn import functional

ALLOWED = tolerance(torch.float32, 24)
LENGTHS = torch.tensor([2, 6, 0])
FIELDS = {
    "rnn_tanh": ("RNNStates", ("h",), "RNNGates", ("h",)),
    "rnn_relu": ("RNNStates", ("h",), "RNNGates", ("h",)),
    "lstm": ("LSTMStates", ("h", "c"), "LSTMGates", ("i", "f", "g", "o")),
    "gru": ("RNNStates", ("h",), "GRUGates", ("r", "z", "n")),
}
BOTH: dict[str, Any] = {"return_states": True, "return_gates": True}
each_cell = pytest.mark.parametrize("cell", CELLS)


@pytest.mark.parametrize("form", ["time_first", "batch_first", "one_sequence"])
@each_cell
def test_named_tuples_laid_out_as_the_input(cell: str, form: str, device: str) -> None:
    module = layers(
        fusedrnn, cell, 5, 7, 2, bidirectional=True, batch_first=form == "batch_first",
        device=device,
    )  # fmt: skip
    steps = {"time_first": (6, 3), "batch_first": (3, 6), "one_sequence": (6,)}[form]
    input = torch.randn(*steps, 5, device=device)
    _, _, states, gates = module(input, **BOTH)
    states_name, states_fields, gates_name, gates_fields = FIELDS[cell]
    assert type(states) is getattr(functional, states_name) and states._fields == states_fields
    assert type(gates) is getattr(functional, gates_name) and gates._fields == gates_fields
    assert all(tensor.shape == (4, *steps, 7) for tensor in (*states, *gates))
    assert len(module(input, return_states=True)) == len(module(input, return_gates=True)) == 3


@each_cell
def test_asking_changes_no_other_result(cell: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True, device=device)
    input, hx = torch.randn(6, 3, 5, device=device), initial_state(module, 3, torch.float32)
    plain = tensors_of(module(input, hx), "result")
    asked = tensors_of(module(input, hx, **BOTH)[:2], "result")
    for name, result in plain.items():
        assert torch.equal(asked[name], result), name


@pytest.mark.parametrize("proj_size", [0, 3])
def test_states_of_an_lstm_agree_with_its_other_results(proj_size: int, device: str) -> None:
    module = fusedrnn.LSTM(5, 7, 2, bidirectional=True, proj_size=proj_size, device=device)
    output, (h_n, c_n), states, gates = module(torch.randn(6, 3, 5, device=device), **BOTH)
    assert torch.equal(torch.cat([states.h[2], states.h[3]], -1), output)
    for state, final in ((states.h, h_n), (states.c, c_n)):
        assert torch.equal(state[0::2, -1], final[0::2])
        assert torch.equal(state[1::2, 0], final[1::2])
    before = torch.cat([torch.zeros_like(states.c[:, :1]), states.c[:, :-1]], 1)
    expected = gates.f * before + gates.i * gates.g
    assert_close(states.c[0::2], expected[0::2], ALLOWED, "c")
    if proj_size == 0:
        assert_close(states.h, gates.o * states.c.tanh(), ALLOWED, "h")


@each_cell
def test_zeros_past_a_rows_length(cell: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True, batch_first=True, device=device)
    input = torch.randn(3, 6, 5, device=device)
    for row, length in enumerate(LENGTHS.tolist()):
        input[row, length:] = float("nan")
    hx = initial_state(module, 3, torch.float32)
    _, _, states, gates = module(input, hx, lengths=LENGTHS, **BOTH)
    for tensor in (*states, *gates):
        assert tensor.isfinite().all()
        for row, length in enumerate(LENGTHS.tolist()):
            assert not tensor[:, row, length:].any()


def test_states_are_those_before_dropout(device: str) -> None:
    module = fusedrnn.LSTM(5, 7, 2, dropout=1.0, device=device)
    input = torch.randn(6, 3, 5, device=device)
    dropped = module(input, **BOTH)
    kept = module.eval()(input, **BOTH)
    for actual, expected in zip((*dropped[2], *dropped[3]), (*kept[2], *kept[3]), strict=True):
        assert torch.equal(actual[0], expected[0])
        assert not torch.equal(actual[1], expected[1])


@each_cell
def test_nothing_is_kept_for_what_is_not_asked(cell: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, device=device)
    assert len(module(torch.randn(6, 3, 5, device=device))) == 2


@pytest.mark.parametrize("recompute", ["gates", "chunk:1", "chunk:4", "chunk:100"])
@each_cell
def test_recomputing_gives_the_same_bits(cell: str, recompute: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True, device=device)
    input, hx = torch.randn(23, 3, 5, device=device), initial_state(module, 3, torch.float32)
    state = initial_state(module, 1, torch.float32)
    for options in (
        {},
        {"lengths": torch.tensor([23, 0, 17])},
        {"reset": torch.rand(23, 3, device=device) < 0.2, "reset_state": state, **BOTH},
    ):
        expected = run(module, input, hx, **options)
        for name, result in run(module, input, hx, recompute=recompute, **options).items():
            assert torch.equal(result, expected[name]), name


@each_cell
def test_recomputing_takes_a_packed_sequence(cell: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True, device=device)
    input = pack(torch.randn(6, 3, 5, device=device), [2, 6, 4])
    expected = run(module, input)
    for name, result in run(module, input, recompute="chunk:2").items():
        assert torch.equal(result, expected[name]), name


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_named_tuples_compile_and_survive_an_exported_file(
    cell: str, compiled_part: None, device: str
) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True, batch_first=True, device=device)

    def options(rows: int, steps: int) -> dict[str, Any]:
        lengths = torch.randint(0, steps + 1, (rows,), device=device)
        return {"lengths": lengths, "reset": torch.rand(rows, steps, device=device) < 0.3, **BOTH}

    rows, steps = (torch.export.Dim(name, min=2, max=100) for name in ("rows", "steps"))
    exported = torch.export.export(
        module,
        (torch.randn(3, 6, 5, device=device),),
        options(3, 6),
        dynamic_shapes={
            "input": {0: rows, 1: steps},
            "lengths": {0: rows},
            "reset": {0: rows, 1: steps},
            **dict.fromkeys(BOTH),
        },
    )
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    buffer.seek(0)
    torch._dynamo.reset()
    input, given = torch.randn(4, 9, 5, device=device), options(4, 9)
    expected = tensors_of(module(input, **given), "result")
    for run_again in (
        torch.export.load(buffer).module(),
        torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager"),
    ):
        result = run_again(input, **given)
        assert [type(part).__name__ for part in result[2:]] == list(FIELDS[cell][0::2])
        for name, tensor in tensors_of(result, "result").items():
            assert_close(tensor, expected[name], ALLOWED, name)


@each_cell
def test_autocast_reaches_every_result(cell: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True, device=device)
    input, hx = torch.randn(6, 3, 5, device=device), initial_state(module, 3, torch.float32)
    state = initial_state(module, 1, torch.float32)
    reset = torch.rand(6, 3, device=device) < 0.4

    def call(module: Any, input: Tensor, hx: Any, state: Any) -> dict[str, Tensor]:
        result = module(input, hx, lengths=LENGTHS, reset=reset, reset_state=state, **BOTH)
        return tensors_of(result, "result")

    with torch.autocast(device, dtype=torch.bfloat16):
        actual = call(module, input, hx, state)
    expected = call(module, input, hx, state)
    for name, result in actual.items():
        assert result.dtype == torch.bfloat16, name
        assert_close(result, expected[name], tolerance(torch.bfloat16, 24), name)
