"""The operator quantized_forward: numbers, schedules, fake tensors and errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import assert_close, tolerance
from layer_cases import CELL_VARIANTS, VARIANTS, Layer, make_layer, op_args
from torch import Tensor
from torch.utils._pytree import tree_map

from fusedrnn import _library, ops, reference
from fusedrnn._quantized import DTYPES, QuantizedWeights, store
from fusedrnn.ops import LayerWeights

if not _library.available:
    pytest.skip(f"needs the compiled part: {_library.reason}", allow_module_level=True)

CELLS = tuple(reference.CELLS)
OP = torch.ops.fusedrnn.quantized_forward.default


def quantized(weights: LayerWeights | None, dtype: torch.dtype) -> QuantizedWeights | None:
    if weights is None:
        return None
    fields = weights._asdict()
    for name, weight in weights._asdict().items():
        if name.startswith("weight") and weight is not None:
            fields[name], fields[name.replace("weight", "scale")] = store(weight, dtype)
    return QuantizedWeights(**fields)


def make_quantized(cell: str, dtype: torch.dtype, **options: Any) -> Layer:
    layer = make_layer(cell, torch.float32, **options)
    return layer._replace(
        weights=quantized(layer.weights, dtype),
        weights_reverse=quantized(layer.weights_reverse, dtype),
    )


def restored(layer: Layer, dtype: torch.dtype) -> Layer:
    """The same layer in `dtype`, with the weights that the quantized ones stand for."""

    def restore(weights: QuantizedWeights | None) -> LayerWeights | None:
        if weights is None:
            return None
        in_dtype = (None if t is None else t.to(dtype) for t in weights)
        ih, hh, bias_ih, bias_hh, hr, params, *scales = in_dtype
        ih, hh, hr = (
            weight if scale is None else weight * scale.unsqueeze(1)
            for weight, scale in zip((ih, hh, hr), scales, strict=True)
        )
        return LayerWeights(ih, hh, bias_ih, bias_hh, hr, params)

    weights = (restore(layer.weights), restore(layer.weights_reverse))
    plain = layer._replace(weights=weights[0], weights_reverse=weights[1])
    return plain.map(lambda tensor: tensor.to(dtype))


def quantized_args(layer: Layer, **changes: Any) -> tuple[Any, ...]:
    """The arguments of the operator, with some changed by name."""
    fields = layer.weights._fields
    reverse = layer.weights_reverse or (None,) * len(fields)
    args = {
        **{name: getattr(layer, name) for name in ("cell", "input", "h_0", "c_0")},
        **{name: getattr(layer, name) for name in ("reset_h", "reset_c", "return_c")},
        **dict(zip(fields, layer.weights, strict=True)),
        **{f"{name}_reverse": tensor for name, tensor in zip(fields, reverse, strict=True)},
        **layer.sequence,
    }
    assert not changes.keys() - args.keys()
    return op_args(torch.ops.fusedrnn.quantized_forward, args | changes)


def assert_matches_oracle(layer: Layer) -> None:
    expected = restored(layer, torch.float64).run(reference.layer_forward)
    for name, result, value in zip(
        ("output", "h_n", "c_n", "c"), layer.run(ops.layer_forward), expected, strict=True
    ):
        assert result.dtype == torch.float32
        assert_close(result, value, tolerance(torch.float32, 2 * 13), name)


def plan_of(layer: Layer) -> str:
    seq_len, batch_size, input_size = layer.input.shape
    weights = layer.weights
    proj_size = 0 if weights.weight_hr is None else weights.weight_hr.size(0)
    hidden_size = weights.weight_hh.size(0) // reference.CELLS[layer.cell].gates
    sizes = (seq_len, batch_size, input_size, hidden_size, proj_size)
    directions = 1 if layer.weights_reverse is None else 2
    [(*_, facts)] = torch.ops.fusedrnn.explain_layer(
        layer.cell, torch.float32, *sizes, directions, False, weights.weight_ih.dtype
    )
    return "\n".join(map(": ".join, facts))


@pytest.mark.parametrize("schedule", ["per_step", "persistent"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("cell", "variant"), CELL_VARIANTS)
def test_results_match_the_reference_on_restored_weights(
    cell: str, variant: str, dtype: torch.dtype, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSEDRNN_SCHEDULE", schedule)
    for seq_len in (1, 2, 13):
        sizes = (seq_len, 3, 5, 19)
        assert_matches_oracle(make_quantized(cell, dtype, sizes=sizes, **VARIANTS[variant]))


@pytest.mark.parametrize("isa", torch.ops.fusedrnn.supported_cpu_isas())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_weights_are_read_in_place_for_sizes_around_vectors(
    cell: str, dtype: torch.dtype, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSEDRNN_CPU_ISA", isa)
    monkeypatch.setenv("FUSEDRNN_SCHEDULE", "persistent")
    for batch_size, input_size, hidden_size in (
        (1, 1, 1), (1, 16, 64), (2, 15, 17), (3, 33, 31), (5, 65, 9), (4, 131, 40),
    ):  # fmt: skip
        projected = hidden_size // 2 if reference.CELLS[cell].has_projection else 0
        for proj_size in {0, projected}:
            sizes = (1, batch_size, input_size, hidden_size)
            layer = make_quantized(cell, dtype, sizes=sizes, proj_size=proj_size)
            assert "weights: read in place" in plan_of(layer)
            assert_matches_oracle(layer)
            assert torch.ops.fusedrnn.last_cpu_isa() == isa


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_a_step_in_16_bits_has_the_bits_of_restored_weights(cell: str, dtype: torch.dtype) -> None:
    layer = make_quantized(cell, dtype, sizes=(1, 3, 37, 50), bidirectional=True)
    plain = restored(layer, torch.float32)
    for actual, expected in zip(layer.run(ops.layer_forward), plain.run(ops.layer_forward)):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype) -> None:
    layer = make_quantized("lstm", dtype, sizes=(1, 1, 300, 300))
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(layer.run(ops.layer_forward))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seq_len", [1, 200])
def test_any_strides_are_taken(seq_len: int, dtype: torch.dtype) -> None:
    layer = make_quantized("gru", dtype, sizes=(seq_len, 2, 9, 17), bidirectional=True)
    expected = layer.run(ops.layer_forward)

    def with_gaps(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        larger = torch.stack([value, value], -1)
        return larger[..., 0]

    args = tree_map(with_gaps, quantized_args(layer))
    for actual, result in zip(OP(*args), expected, strict=True):
        assert torch.equal(actual, result)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("cell", "variant"), CELL_VARIANTS)
def test_opcheck(cell: str, variant: str, dtype: torch.dtype) -> None:
    torch.library.opcheck(OP, quantized_args(make_quantized(cell, dtype, **VARIANTS[variant])))


def test_vmap_runs_sample_after_sample() -> None:
    layer = make_quantized("lstm", torch.int8, sizes=(1, 2, 5, 7))
    inputs = torch.randn(3, 1, 2, 5)

    def run(input: Tensor) -> Tensor:
        return layer._replace(input=input).run(ops.layer_forward)[0]

    expected = torch.stack([run(input) for input in inputs])
    assert torch.equal(torch.vmap(run)(inputs), expected)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"weight_ih": "float"}, ValueError, "weights: expected for each direction"),
        ({"weight_hh": "half"}, RuntimeError, "weight_hh: expected dtype int8, got float16"),
        ({"input": "double"}, RuntimeError, "input: expected dtype float32, as quantized"),
        ({"bias_hh": "half"}, RuntimeError, "bias_hh: expected dtype float32"),
        ({"scale_hh": None}, ValueError, "then the scales of each weight in int8, got"),
        ({"scale_hr": "new"}, ValueError, "then the scales of each weight in int8, got"),
        ({"scale_ih": "half"}, RuntimeError, "scale_ih: expected dtype float32"),
        (
            {"scale_ih": "short"},
            RuntimeError,
            r"scale_ih: expected shape .* = \(28,\), got \(27,\)",
        ),
        ({"weight_hh": "short"}, RuntimeError, "weight_hh: expected shape"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(
    changes: dict[str, str | None], error: type[Exception], match: str
) -> None:
    layer = make_quantized("lstm", torch.int8)
    names = {"weight_ih", "weight_hh", "bias_hh", "scale_hh", "scale_ih"}
    tensors = {name: getattr(layer.weights, name) for name in names} | {"input": layer.input}
    make = {
        "short": lambda tensor: tensor[:-1],
        "new": lambda tensor: torch.ones(3),
        **{kind: lambda t, kind=kind: getattr(t, kind)() for kind in ("float", "half", "double")},
    }
    changed = {
        name: None if how is None else make[how](tensors.get(name)) for name, how in changes.items()
    }
    with pytest.raises(error, match=match):
        OP(*quantized_args(layer, **changed))


def test_scales_come_with_int8_alone() -> None:
    layer = make_quantized("gru", torch.float16)
    with pytest.raises(ValueError, match="weights: expected for each direction"):
        OP(*quantized_args(layer, scale_ih=torch.ones(21)))
