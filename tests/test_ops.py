"""The operators: numbers, gradients, strides and schedules."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import DTYPES, assert_close, tolerance
from layer_cases import (
    CELL_VARIANTS,
    GRADS,
    VARIANTS,
    Layer,
    backward_args,
    make_layer,
    operator,
    oracle,
)
from torch import Tensor
from torch.utils._pytree import tree_map

from fusedrnn import _library, ops, reference

if not _library.available:
    pytest.skip(f"needs the compiled part: {_library.reason}", allow_module_level=True)

CELLS = tuple(reference.CELLS)
OPS = torch.ops.fusedrnn
DOUBLE = torch.float64
# seq_len, batch_size, input_size, hidden_size: ones, primes, one over tiles and vectors.
SHAPES = [(1, 1, 1, 1), (2, 17, 3, 9), (7, 5, 33, 17), (13, 9, 8, 33), (3, 33, 65, 65)]
SCHEDULES = ("per_step", "persistent")


def assert_matches_oracle(layer: Layer) -> None:
    actual, expected = operator(layer), oracle(layer)
    # A gradient's chain goes through the sequence twice, forward and back.
    allowed = tolerance(layer.input.dtype, 2 * 13)
    for name, result in actual.items():
        assert result.dtype == layer.input.dtype, name
        assert_close(result, expected[name], allowed, name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("cell", "variant"), CELL_VARIANTS)
def test_results_and_gradients_match_the_reference(
    cell: str, variant: str, dtype: torch.dtype, device: str
) -> None:
    assert_matches_oracle(make_layer(cell, dtype, **VARIANTS[variant], device=device))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_every_shape_under_each_schedule(
    cell: str, sizes: tuple[int, ...], schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSEDRNN_SCHEDULE", schedule)
    layer = make_layer(cell, torch.float32, sizes=sizes, bidirectional=True)
    assert_matches_oracle(layer)


@pytest.mark.parametrize(("cell", "variant"), CELL_VARIANTS)
def test_gradcheck_and_gradgradcheck(cell: str, variant: str, device: str) -> None:
    options = dict(VARIANTS[variant])
    if "proj_size" in options:
        options["proj_size"] = 2
    layer = make_layer(cell, sizes=(3, 2, 2, 3), **options, device=device).leaves()

    def forward(*tensors: Tensor) -> tuple[Tensor, ...]:
        changed = layer.replace(**dict(zip(layer.present, tensors, strict=True)))
        return tuple(result for result in changed.run(ops.layer_forward) if result.numel())

    inputs = tuple(layer.present.values())
    torch.autograd.gradcheck(forward, inputs)
    torch.autograd.gradgradcheck(forward, inputs)


@pytest.mark.parametrize("cell", CELLS)
def test_third_derivative_matches_the_reference(cell: str, device: str) -> None:
    layer = make_layer(cell, sizes=(3, 2, 2, 3), device=device)

    def third(forward: Any) -> Tensor:
        leaves = layer.leaves()
        value = leaves.run(forward)[0].square().sum()
        for _ in range(3):
            inputs = (leaves.input, leaves.weights.weight_hh)
            grads = torch.autograd.grad(value, inputs, create_graph=True)
            value = sum(grad.square().sum() for grad in grads)
        return value

    assert_close(third(ops.layer_forward), third(reference.layer_forward), tolerance(DOUBLE, 99))


def test_double_backward_keeps_tied_arguments_apart(device: str) -> None:
    layer = make_layer("gru", bidirectional=True, device=device)

    def second(forward: Any) -> Tensor:
        leaves = layer.leaves()
        tied = leaves.replace(
            **{f"{name}_reverse": w for name, w in leaves.weights._asdict().items()}
        )
        weight = leaves.weights.weight_hh
        (grad,) = torch.autograd.grad(tied.run(forward)[0].sum(), weight, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), weight)[0]

    assert_close(second(ops.layer_forward), second(reference.layer_forward), tolerance(DOUBLE, 99))


def comparable(layer: Layer) -> Layer:
    """With whole rows: opcheck compares `saved` as well, of which shorter ones leave a part."""
    if layer.lengths is None:
        return layer
    whole = torch.full_like(layer.lengths, layer.input.size(0))
    return layer._replace(input=layer.input.nan_to_num(), lengths=whole)


# Every cell with every variant, and with every dtype.
OPCHECK = [
    (cell, variant, dtype)
    for cell, variant in CELL_VARIANTS
    for dtype in (DTYPES if variant in ("plain", "everything") else DTYPES[:1])
]


@pytest.mark.parametrize(("cell", "variant", "dtype"), OPCHECK, ids=str)
def test_opcheck_layer_forward(cell: str, variant: str, dtype: torch.dtype, device: str) -> None:
    layer = comparable(make_layer(cell, dtype, **VARIANTS[variant], device=device)).leaves()
    torch.library.opcheck(OPS.layer_forward.default, layer.forward_args())


@pytest.mark.parametrize("cell", CELLS)
def test_opcheck_plain_layer_forward(cell: str, device: str) -> None:
    layer = make_layer(cell, torch.float32, device=device).leaves()
    weights = [weight for weight in layer.weights if weight is not None]
    args = (cell, layer.input, layer.h_0, layer.c_0, weights)
    torch.library.opcheck(OPS.plain_layer_forward.default, args)


@pytest.mark.parametrize("cell", CELLS)
def test_plain_layer_is_the_layer_without_options(cell: str, device: str) -> None:
    for bidirectional in (False, True):
        layer = make_layer(cell, torch.float32, bidirectional=bidirectional, device=device)
        args = (cell, layer.input, layer.h_0, layer.c_0, layer.weights, layer.weights_reverse)
        for found, expected in zip(ops.plain_layer_forward(*args), ops.layer_forward(*args)):
            assert torch.equal(found, expected)
    layer = make_layer(cell, torch.float32, state=False, device=device)
    samples = torch.stack([layer.input, -layer.input])
    found = torch.vmap(lambda x: ops.plain_layer_forward(cell, x, None, None, layer.weights)[0])
    for output, input in zip(found(samples), samples):
        expected = ops.layer_forward(cell, input, None, None, layer.weights)[0]
        assert_close(output, expected, tolerance(torch.float32, 4))


@pytest.mark.parametrize("batch", [(3,), ()], ids=["rows", "row"])
@pytest.mark.parametrize("cell", CELLS)
def test_opcheck_cell_forward(cell: str, batch: tuple[int, ...], device: str) -> None:
    layer = make_layer(cell, torch.float32, device=device).leaves()
    input, h = (torch.randn(*batch, size, device=device) for size in (5, 7))
    c = h + 1 if reference.CELLS[cell].states == 2 else None
    weights = [weight for weight in layer.weights if weight is not None]
    torch.library.opcheck(OPS.cell_forward.default, (cell, input, h, c, weights))


@pytest.mark.parametrize(("cell", "variant", "dtype"), OPCHECK, ids=str)
def test_opcheck_layer_backward(cell: str, variant: str, dtype: torch.dtype, device: str) -> None:
    layer = comparable(make_layer(cell, dtype, **VARIANTS[variant], device=device))
    torch.library.opcheck(OPS.layer_backward.default, backward_args(layer))


@pytest.mark.parametrize("cell", CELLS)
def test_backward_returns_only_what_the_mask_asks_for(cell: str, device: str) -> None:
    layer = make_layer(cell, bidirectional=True, device=device)
    args = backward_args(layer)
    everything = OPS.layer_backward(*args)
    assert len(everything) == len(layer.present) + 2
    for wanted in range(len(everything)):
        mask = [idx == wanted for idx in range(len(everything))]
        (one,) = OPS.layer_backward(*args[:-1], mask)
        assert torch.equal(one, everything[wanted])


@pytest.mark.parametrize("kept", GRADS)
def test_absent_gradients_count_as_zeros(kept: str, device: str) -> None:
    layer = make_layer("lstm", bidirectional=True, return_c=True, device=device)
    args = dict(zip(GRADS, backward_args(layer)[1]))
    absent = {name: None for name in args if name != kept}
    zeros = {name: torch.zeros_like(args[name]) for name in absent}
    given = {kept: args[kept]}
    actual = OPS.layer_backward(*backward_args(layer, **given, **absent))
    expected = OPS.layer_backward(*backward_args(layer, **given, **zeros))
    for grad, wanted in zip(actual, expected, strict=True):
        assert_close(grad, wanted, tolerance(DOUBLE, 4))


def with_gaps(tensor: Tensor) -> Tensor:
    """The same values, every second element of a larger tensor, dimensions in reverse order."""
    larger = tensor.new_full((*reversed(tensor.shape), 2), float("nan"))
    view = larger[..., 0].permute(*reversed(range(tensor.dim())))
    return view.copy_(tensor)


@pytest.mark.parametrize(("cell", "variant"), CELL_VARIANTS)
def test_strides_do_not_matter(cell: str, variant: str, device: str) -> None:
    layer = make_layer(cell, torch.float32, **VARIANTS[variant], device=device)
    expected = OPS.layer_backward(*backward_args(layer))
    gaps = layer.map(with_gaps)
    if layer.batch_sizes is not None:
        gaps = gaps._replace(batch_sizes=layer.batch_sizes.repeat_interleave(2)[::2])
    if layer.lengths is not None:
        gaps = gaps._replace(lengths=layer.lengths.repeat_interleave(2)[::2])
    if layer.reset is not None:
        gaps = gaps._replace(reset=layer.reset.repeat_interleave(2, -1)[..., ::2])
    results = (changed.run(ops.layer_forward) for changed in (gaps, layer))
    for actual, wanted in zip(*results, strict=True):
        assert torch.equal(actual, wanted)
    torch.manual_seed(20)
    # Draws what fixed_seed's layer drew.
    make_layer(cell, torch.float32, **VARIANTS[variant], device=device)
    args = tree_map(
        lambda arg: with_gaps(arg) if isinstance(arg, Tensor) and arg.is_floating_point() else arg,
        backward_args(gaps),
    )
    for actual, wanted in zip(OPS.layer_backward(*args), expected, strict=True):
        assert torch.equal(actual, wanted)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("cell", "variant"), CELL_VARIANTS)
def test_recomputation_changes_no_bit(
    cell: str, variant: str, dtype: torch.dtype, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long enough that several chunks of steps lie between two kept states."""
    monkeypatch.setenv("FUSEDRNN_SCHEDULE", schedule)
    options = {**VARIANTS[variant], "recompute": 0}
    layer = make_layer(cell, dtype, sizes=(700, 3, 5, 33), **options)
    expected = operator(layer)
    for recompute in (1, 130, 699, 10_000, 2**62, 2**63 - 1):
        for name, result in operator(layer._replace(recompute=recompute)).items():
            assert torch.equal(result, expected[name]), (recompute, name)


@pytest.mark.parametrize("cell", CELLS)
def test_empty_batch(cell: str, device: str) -> None:
    layer = make_layer(cell, sizes=(4, 0, 5, 7), bidirectional=True, device=device)
    actual = operator(layer)
    assert actual["output"].shape == (4, 0, 14)
    assert actual["h_n"].shape == (2, 0, 7)
    for name, tensor in layer.present.items():
        assert torch.equal(actual[f"grad_{name}"], torch.zeros_like(tensor))


@pytest.mark.parametrize("cell", CELLS)
def test_no_input_features(cell: str, device: str) -> None:
    assert_matches_oracle(make_layer(cell, sizes=(4, 3, 0, 7), device=device))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("cell", CELLS)
def test_nan_and_infinity_propagate(cell: str, value: float, device: str) -> None:
    layer = make_layer(cell, torch.float32, sizes=(5, 3, 4, 9), device=device)
    layer.input[2, 1, 0] = value
    actual, expected = layer.run(ops.layer_forward), layer.run(reference.layer_forward)
    for result, wanted in zip(actual, expected, strict=True):
        assert_close(result, wanted, tolerance(torch.float32, 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("cell", CELLS)
def test_same_inputs_give_the_same_bits(
    cell: str, schedule: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSEDRNN_SCHEDULE", schedule)
    layer = make_layer(cell, dtype, sizes=(9, 33, 17, 65), bidirectional=True)
    first = operator(layer)
    for _ in range(3):
        again = operator(layer)
        assert all(torch.equal(first[name], again[name]) for name in first)


# Instruction sets and schedules


@pytest.mark.parametrize("isa", OPS.supported_cpu_isas())
@pytest.mark.parametrize("cell", CELLS)
def test_forced_instruction_set_is_the_one_that_runs(
    cell: str, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSEDRNN_CPU_ISA", isa)
    assert OPS.cpu_isa() == isa
    for dtype in DTYPES:
        assert_matches_oracle(make_layer(cell, dtype, sizes=(5, 9, 7, 33)))
        assert OPS.last_cpu_isa() == isa


def test_best_instruction_set_runs_unforced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUSEDRNN_CPU_ISA", raising=False)
    make_layer("gru").run(ops.layer_forward)
    assert OPS.last_cpu_isa() == OPS.cpu_isa() == OPS.supported_cpu_isas()[-1]


@pytest.mark.parametrize(
    "isa", ["sse9", *sorted({"avx2", "avx512"} - set(OPS.supported_cpu_isas()))]
)
def test_missing_instruction_set_is_an_error(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSEDRNN_CPU_ISA", isa)
    with pytest.raises(RuntimeError, match=isa):
        make_layer("gru").run(ops.layer_forward)
    with pytest.raises(RuntimeError, match=isa):
        OPS.cpu_isa()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_forced_schedule_is_explained(schedule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSEDRNN_SCHEDULE", schedule)
    passes = OPS.explain_layer("gru", torch.float32, 50, 16, 64, 128, 0, 1, True)
    assert [(name, chosen) for name, chosen, *_ in passes] == [
        ("forward", schedule),
        ("backward", schedule),
    ]
    for name, _, seconds, facts in passes:
        assert dict(facts)[name].startswith(f"{schedule}, modelled ") and seconds > 0


def test_unknown_schedule_is_an_error(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setenv("FUSEDRNN_SCHEDULE", "wavefront")
    with pytest.raises(RuntimeError, match="wavefront"):
        make_layer("gru", device=device).run(ops.layer_forward)


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("size", [2**31, 2**53, 2**60, 2**63 - 1])
@pytest.mark.parametrize("training", [False, True])
def test_explain_takes_sizes_that_fit_and_refuses_others(
    place: int, size: int, training: bool
) -> None:
    sizes = [3, 2, 5, 7, 0]
    sizes[place] = size
    fits = size == 2**31 and place < 3
    if not fits:
        with pytest.raises(ValueError, match=str(size)):
            OPS.explain_layer("lstm", torch.float32, *sizes, 1, training)
        return
    passes = OPS.explain_layer("lstm", torch.float32, *sizes, 1, training)
    assert [name for name, *_ in passes] == ["forward", "backward"][: 1 + training]
    # Of 2**31 rows in three steps either may be the faster.
    chosen = [schedule for _, schedule, *_ in passes]
    assert all(schedule in SCHEDULES for schedule in chosen)
    assert place == 1 or chosen == ["persistent"] * (1 + training)
    assert all(0 < seconds < math.inf for *_, seconds, _ in passes)


def test_explain_refuses_impossible_sizes() -> None:
    with pytest.raises(ValueError, match="hidden_size"):
        OPS.explain_layer("gru", torch.float32, 50, 16, 64, 0, 0, 1, True)
    with pytest.raises(ValueError, match="rnn_tanh, rnn_relu, lstm, gru"):
        OPS.explain_layer("mgu", torch.float32, 50, 16, 64, 8, 0, 1, True)
    with pytest.raises(RuntimeError, match="int64"):
        OPS.explain_layer("gru", torch.int64, 50, 16, 64, 8, 0, 1, True)
