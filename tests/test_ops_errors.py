"""An operator called directly with anything raises, and says what is wrong; it never crashes."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from layer_cases import VARIANTS, Layer, make_layer, op_args
from layer_cases import named_backward_args as backward_args
from torch import Tensor

from fusedrnn import _library

if not _library.available:
    pytest.skip(f"needs the compiled part: {_library.reason}", allow_module_level=True)

OPS = torch.ops.fusedrnn
FLAGS = ("cell", "save", "return_c", "mask")


def forward_args(layer: Layer) -> dict[str, Any]:
    return layer.named_args(save=True)


def sizes(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


# Variant of the layer, what is changed, and what the message says. Sizes are T 4, B 3, I 5, H 7.
FORWARD_ERRORS: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("plain", {"cell": "mgu"}, ValueError, "cell: expected one of rnn_tanh, rnn_relu, lstm, gru"),
    ("plain", {"cell": ""}, ValueError, "cell: expected one of"),
    ("plain", {"cell": "gru"}, RuntimeError, "weight_hh: expected shape"),
    ("plain", {"cell": "peephole_lstm"}, ValueError, "with a projection, then params, got shapes"),
    ("plain", {"input": torch.randn(3, 5)}, RuntimeError, "expected dtype float32 as input's"),
    ("plain", {"input": torch.ones(4, 3, 5, dtype=torch.int64)}, RuntimeError, "got int64"),
    ("plain", {"input": torch.randn(3, 5).double()}, RuntimeError, "input: expected 3 dimensions"),
    ("plain", {"input": torch.tensor(1.0).double()}, RuntimeError, "input: expected 3 dimensions"),
    (
        "plain",
        {"input": torch.randn(0, 3, 5).double()},
        RuntimeError,
        "Expected sequence length to be larger than 0 in RNN",
    ),
    (
        "plain",
        {"input": torch.randn(4, 3, 6).double()},
        RuntimeError,
        r"weight_ih: expected shape \(4 \* hidden_size, input_size\) = \(28, 6\), got \(28, 5\)",
    ),
    ("plain", {"input": torch.randn(4, 3, 5).double().to_sparse()}, Exception, "dense|to_dense"),
    ("plain", {"input": torch.randn(4, 3, 5, device="meta").double()}, RuntimeError, "device"),
    ("plain", {"h_0": torch.randn(3, 7).double()}, RuntimeError, r"h_0: expected shape \(directio"),
    ("plain", {"h_0": torch.randn(1, 4, 7).double()}, RuntimeError, r"= \(1, 3, 7\), got \(1, 4,"),
    ("plain", {"h_0": torch.randn(1, 3, 7)}, RuntimeError, "h_0: expected dtype float64"),
    ("plain", {"c_0": torch.randn(2, 3, 7).double()}, RuntimeError, "c_0: expected shape"),
    (
        "plain",
        {"weight_hh": torch.randn(21, 7).double()},
        RuntimeError,
        r"weight_hh: expected shape \(4 \* hidden_size, hidden_size\) = \(28, 7\), got \(21, 7\)",
    ),
    (
        "plain",
        {"weight_hh": torch.randn(28).double()},
        ValueError,
        r"got shapes \[\(28, 5\), \(28,",
    ),
    ("plain", {"weight_hh": torch.randn(0, 0).double()}, ValueError, "hidden_size > 0"),
    ("plain", {"bias_ih": None}, ValueError, "both biases or neither, and"),
    ("plain", {"bias_hh": torch.randn(28, 1).double()}, ValueError, "weights: expected for each d"),
    ("plain", {"bias_hh": torch.randn(27).double()}, RuntimeError, r"bias_hh: .* = \(28,\), got"),
    ("plain", {"bias_hh": torch.randn(28).bfloat16()}, RuntimeError, "got bfloat16"),
    ("plain", {"weight_hr": torch.randn(7, 7).double()}, ValueError, "0 < proj_size < hidden_siz"),
    ("plain", {"weight_hr": torch.randn(3, 7).double()}, RuntimeError, "proj_size"),
    ("plain", {"weight_hr": torch.randn(3).double()}, ValueError, "weights: expected for each dir"),
    (
        "plain",
        {"weight_ih_reverse": torch.randn(28, 5).double()},
        ValueError,
        "weight_hr: expected",
    ),
    ("plain", {"bias_ih_reverse": torch.randn(28).double()}, ValueError, "weights: expected for e"),
    ("both", {"weight_hh_reverse": torch.randn(28, 8).double()}, RuntimeError, "hh_reverse: expec"),
    ("both", {"bias_hh_reverse": None}, ValueError, "weights: expected for each direction"),
    ("projection", {"weight_hr_reverse": None}, ValueError, "weights: expected for each direction"),
    ("projection", {"weight_hr": None}, ValueError, "weights: expected for each direction"),
    ("projection", {"cell": "gru"}, ValueError, "gru, which has no projection"),
    ("packed", {"batch_sizes": None}, RuntimeError, "input: expected 3 dimensions"),
    ("plain", {"batch_sizes": sizes(3, 3, 3, 3)}, RuntimeError, "lengths: expected shape"),
    ("packed", {"batch_sizes": sizes()}, RuntimeError, "Expected sequence length to be larger"),
    ("packed", {"batch_sizes": sizes(3, 2, 1)}, ValueError, "expected the sum 7"),
    ("packed", {"batch_sizes": sizes(3, 2, 2, 1)}, ValueError, "expected the sum 7"),
    ("packed", {"batch_sizes": sizes(3, 1, 2, 1)}, ValueError, "never increase, got 2 at step 2"),
    ("packed", {"batch_sizes": sizes(3, 3, 1, 0)}, ValueError, "positive values.* got 0 at step 3"),
    ("packed", {"batch_sizes": sizes(4, 2, 1, -1)}, ValueError, "positive values"),
    ("packed", {"batch_sizes": sizes(2**62, 2**62, 2**62)}, ValueError, "expected the sum 7"),
    ("packed", {"batch_sizes": sizes(3, 2, 1, 1).int()}, RuntimeError, "int64 CPU tensor"),
    ("packed", {"batch_sizes": sizes(3, 2, 1, 1)[None]}, RuntimeError, "of one dimension"),
    ("packed", {"batch_sizes": sizes(4, 2, 1)}, RuntimeError, r"h_0: expected .* \(2, 4, 7\)"),
    ("plain", {"lengths": sizes(4, 2)}, RuntimeError, r"\(batch_size,\) = \(3,\), got \(2,\)"),
    ("plain", {"lengths": sizes(4, 2, 1).int()}, RuntimeError, "expected dtype int64, got int32"),
    ("plain", {"lengths": sizes(4, 2, 5)}, ValueError, "seq_len = 4, got 5 at row 2"),
    ("plain", {"lengths": sizes(4, -1, 2)}, ValueError, "from 0 to seq_len = 4, got -1 at row 1"),
    ("plain", {"reset": torch.ones(4, 3)}, RuntimeError, "reset: expected dtype bool, got float32"),
    ("plain", {"reset": torch.ones(3, 4).bool()}, RuntimeError, r"= \(4, 3\), got \(3, 4\)"),
    ("packed", {"reset": torch.ones(4, 3).bool()}, RuntimeError, r"\(total_rows,\) = \(7,\), got"),
    ("plain", {"reset_h": torch.zeros(1, 3, 7).double()}, ValueError, "because reset is None"),
    ("reset", {"reset_h": torch.zeros(1, 3, 7).double()}, RuntimeError, r"reset_h: expected shape"),
    ("reset", {"reset_c": torch.zeros(2, 3, 7)}, RuntimeError, "reset_c: expected dtype float64"),
    ("plain", {"recompute": -1}, ValueError, "recompute: expected 0 or a number of steps, got -1"),
]


def call_with(op: Any, args: dict[str, Any], changes: dict[str, Any]) -> Any:
    assert changes.keys() <= args.keys()
    return op(*op_args(op, args | changes))


@pytest.mark.parametrize(("variant", "changes", "kind", "message"), FORWARD_ERRORS)
def test_bad_argument_of_forward(
    variant: str, changes: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        call_with(OPS.layer_forward, forward_args(make_layer("lstm", **VARIANTS[variant])), changes)


@pytest.mark.parametrize(("variant", "changes", "kind", "message"), FORWARD_ERRORS)
def test_bad_argument_of_backward(
    variant: str, changes: dict[str, Any], kind: type[Exception], message: str
) -> None:
    args = backward_args(make_layer("lstm", **VARIANTS[variant]))
    with pytest.raises(kind, match=message):
        call_with(OPS.layer_backward, args, changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grad_output": torch.randn(4, 3, 8).double()}, "grad_output: expected shape of output"),
        ({"grad_output": torch.randn(4, 3, 7)}, "grad_output: expected dtype float64"),
        ({"grad_h_n": torch.randn(1, 2, 7).double()}, "grad_h_n: expected shape of h_n"),
        ({"grad_c_n": torch.randn(3, 7).double()}, "grad_c_n: expected shape of c_n"),
        (
            {"kept_output": torch.randn(4, 3, 8).double()},
            "kept_output: expected shape that lay",
        ),
        ({"saved": torch.randn(0).double()}, r"save=True = \(1, 4, 3, 5, 7\), got \(0,\)"),
        ({"saved": torch.randn(1, 4, 3, 5, 7)}, "saved: expected dtype float64"),
        ({"grad_c": torch.randn(1, 4, 3, 7)}, "grad_c: expected dtype float64"),
        ({"grad_c": torch.randn(1, 3, 4, 7).double()}, "grad_c: expected shape of c"),
        ({"mask": [True] * 8}, "mask: expected 9 values, of each tensor .* got 8"),
    ],
)
def test_bad_gradient_or_result(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((RuntimeError, ValueError), match=message):
        call_with(OPS.layer_backward, backward_args(make_layer("lstm")), changes)


@pytest.mark.parametrize("name", ["lstm\0", "lstm\0\0x", "", "LSTM", "lstm "])
def test_a_name_of_no_cell_is_refused(name: str) -> None:
    for op, args in ((OPS.layer_forward, forward_args), (OPS.layer_backward, backward_args)):
        with pytest.raises(ValueError, match="cell: expected one of"):
            call_with(op, args(make_layer("lstm")), {"cell": name})
    with pytest.raises(ValueError, match="cell: expected one of"):
        OPS.explain_layer(name, torch.float32, 3, 2, 5, 7, 0, 1, False)


@pytest.mark.parametrize("sizes", [(2**40, 2**20, 0), (2**51, 3, 0), (2**50, 4, 1)])
def test_sizes_beyond_64_bits_are_refused(sizes: tuple[int, int, int]) -> None:
    """Of tensors that need no memory of that size."""
    input = torch.zeros(1, 1, sizes[2], dtype=torch.float64).expand(sizes)
    args = forward_args(make_layer("lstm", sizes=(1, 1, sizes[2], 7), state=False))
    with pytest.raises(ValueError, match="at most 2.52 elements"):
        call_with(OPS.layer_forward, args, {"input": input})


@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu", "lstm", "gru"])
def test_checks_come_before_mathematics_for_dual_tensors(cell: str) -> None:
    layer = make_layer(cell)
    bad: list[tuple[dict[str, Any], str]] = [
        ({"input": torch.zeros(0, 3, 5).double()}, "sequence length"),
        ({"cell": "mgu"}, "cell: expected one of"),
        ({"reset": torch.zeros(2, 3, dtype=torch.bool)}, "reset: expected shape"),
        ({"weight_hh": torch.zeros(3, 7).double()}, "weight_hh: expected shape"),
    ]
    with torch.autograd.forward_ad.dual_level():

        def dual(args: dict[str, Any]) -> dict[str, Any]:
            make = torch.autograd.forward_ad.make_dual
            return {
                name: make(value, torch.ones_like(value))
                if isinstance(value, Tensor) and value.is_floating_point()
                else value
                for name, value in args.items()
            }

        for changes, message in bad:
            for op, args in (
                (OPS.layer_forward, forward_args(layer)),
                (OPS.layer_backward, backward_args(layer)),
            ):
                with pytest.raises((RuntimeError, ValueError), match=message):
                    call_with(op, dual(args | changes), {})
        for name in ("grad_output", "grad_h_n"):
            with pytest.raises(RuntimeError, match=f"{name}: expected shape"):
                changed = backward_args(layer) | {name: torch.zeros(1, 1, 7).double()}
                call_with(OPS.layer_backward, dual(changed), {})


def test_cell_without_c_refuses_c_0() -> None:
    args = forward_args(make_layer("gru"))
    with pytest.raises(ValueError, match="c_0: expected None for cell gru"):
        call_with(OPS.layer_forward, args, {"c_0": torch.zeros(1, 3, 7, dtype=torch.float64)})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"weights": []}, r"weights: expected for each direction .* got shapes \[\]"),
        ({"weights": [None] * 4}, r"type 'List\[Tensor\]' for argument 'weights'"),
        ({"grads": [None] * 3}, "grads: expected 4 gradients or None, .* got 3"),
        ({"kept": []}, "kept: expected saved and kept_output, got 0 tensors"),
        ({"mask": []}, "mask: expected 8 values"),
    ],
    ids=str,
)
def test_lists_of_another_length_or_with_none_are_named(
    changes: dict[str, Any], match: str
) -> None:
    layer = make_layer("gru")
    for op, named in (
        (OPS.layer_forward, forward_args(layer)),
        (OPS.layer_backward, backward_args(layer)),
    ):
        names = [arg.name for arg in op.default._schema.arguments]
        if changes.keys() <= set(names):
            args = dict(zip(names, op_args(op, named), strict=True)) | changes
            with pytest.raises((RuntimeError, ValueError), match=match):
                op(*args.values())


JUNK: list[Any] = [
    None,
    torch.tensor(float("nan")),
    torch.empty(0),
    torch.empty(0, 0, dtype=torch.float64),
    torch.randn(1, 1, 1).double(),
    torch.randn(2, 3, 7).double(),
    torch.randn(28, 7).double(),
    torch.randn(28, 5).double().t(),
    torch.randn(28).double(),
    torch.randn(1).double().expand(4, 3, 5),
    torch.randn(4, 3, 5).double().to_sparse(),
    torch.randn(4, 3, 5, device="meta"),
    torch.ones(4, dtype=torch.int64),
    torch.tensor([-1, 2**62]),
    torch.ones(3, 3, dtype=torch.bool),
    torch.empty(4, 3, 5, dtype=torch.float8_e4m3fn),
    torch.empty(2**40, 0, 5, dtype=torch.float64),
    torch.empty(1, dtype=torch.float64).expand(2**40).reshape(-1, 1, 1),
]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("op", ["layer_forward", "layer_backward"])
def test_junk_in_any_place_raises_or_works(op: str, variant: str) -> None:
    layer = make_layer("lstm", **VARIANTS[variant])
    args = forward_args(layer) if op == "layer_forward" else backward_args(layer)
    places = [name for name in args if name not in FLAGS]
    call = getattr(OPS, op)
    draw = random.Random(20)
    refused = 0
    for round_idx in range(len(places) * len(JUNK) + 200):
        # Each junk in each place, then in several places at once.
        if round_idx < len(places) * len(JUNK):
            place, junk = divmod(round_idx, len(JUNK))
            changes = {places[place]: JUNK[junk]}
        else:
            changes = {name: draw.choice(JUNK) for name in draw.sample(places, 3)}
        try:
            call_with(call, args, changes)
        except (RuntimeError, ValueError, NotImplementedError, TypeError) as error:
            assert str(error)
            refused += 1
    assert refused > len(places) * len(JUNK) / 2


@pytest.mark.parametrize(
    ("x", "r", "match"),
    [
        (None, torch.zeros(2, 12), "x: expected a tensor, got None"),
        (torch.zeros(2, 12), None, "r: expected a tensor, got None"),
        (torch.zeros(2, 3), torch.zeros(2, 3), r"x: expected 4 gates of one size .* \[2, 3\]"),
        (torch.zeros(()), torch.zeros(()), "x: expected 4 gates of one size"),
        (torch.zeros(2, 12), torch.zeros(2, 5), r"r: expected 4 gates of one size .* \[2, 5\]"),
        (torch.zeros(2, 12), torch.zeros(3, 12), r"r: expected x's shape \[2, 12\]"),
        (torch.zeros(2, 12).int(), torch.zeros(2, 12).int(), "x: expected real or complex"),
    ],
)
def test_activate_gates_refuses_what_are_no_gates(x: Any, r: Any, match: str) -> None:
    with pytest.raises(RuntimeError, match=match):
        torch.ops.fusedrnn.activate_gates("lstm", x, r, None, None, None)


@pytest.mark.parametrize(
    ("cell", "changes", "match"),
    [
        ("lstm", {"h": torch.zeros(2, 4)}, "h: expected 2 dimensions, the last of size 3"),
        ("lstm", {"c": torch.zeros(3)}, "c: expected 2 dimensions"),
        ("rnn_tanh", {"c": torch.zeros(2, 12)}, "c: expected None for cell rnn_tanh"),
        ("lstm", {"params": torch.zeros(9)}, "params: expected None for cell lstm"),
        ("peephole_lstm", {}, "params: expected a tensor for cell peephole_lstm"),
        ("peephole_lstm", {"params": torch.zeros(8)}, r"params: .* \(3 \* hidden_size,\) = \(9,\)"),
    ],
)
def test_activate_gates_refuses_states_and_params_that_do_not_fit(
    cell: str, changes: dict[str, Tensor], match: str
) -> None:
    gates = torch.zeros(2, 12)
    others = dict.fromkeys(("h", "c", "params")) | changes
    with pytest.raises((RuntimeError, ValueError), match=match):
        torch.ops.fusedrnn.activate_gates(cell, gates, gates, *others.values())
