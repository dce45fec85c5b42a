"""What no kernel takes, complex numbers and other devices, runs as torch operators and is right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import assert_close, initial_state, layers, one_cell, pack, run, tolerance
from layer_cases import CELL_VARIANTS, VARIANTS, Layer, backward_args, make_layer
from torch import Tensor, nn

import fusedrnn
from fusedrnn import _library, ops, reference

OPS = torch.ops.fusedrnn
COMPLEX = (torch.complex64, torch.complex128)
# torch has no ReLU of complex numbers.
CELLS = ("rnn_tanh", "lstm", "gru")
LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stack": {"num_layers": 2, "bidirectional": True},
    "batch_first": {"batch_first": True},
    "nobias": {"bias": False},
    "packed": {"bidirectional": True},
}


# A product of complex numbers rounds like a sum of two.
ROUNDINGS = 2


def make(*size: int, dtype: torch.dtype) -> Tensor:
    """Small numbers, because sigmoid and tanh have poles."""
    return 0.2 * torch.randn(size, dtype=dtype)


def complex_layer(cell: str, options: dict[str, Any]) -> Layer:
    layer = make_layer(cell, torch.float64, **options)
    return layer.map(lambda t: 0.2 * torch.complex(t.nan_to_num(), torch.randn_like(t))).leaves()


@pytest.mark.parametrize("dtype", COMPLEX, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cell", CELLS)
def test_complex_layers_are_those_of_torch(cell: str, layout: str, dtype: torch.dtype) -> None:
    ours = layers(fusedrnn, cell, 3, 4, dtype=dtype, **LAYOUTS[layout])
    theirs = layers(nn, cell, 3, 4, dtype=dtype, **LAYOUTS[layout])
    ours.load_state_dict({name: 0.3 * value for name, value in ours.state_dict().items()})
    theirs.load_state_dict(ours.state_dict())
    input, hx = make(5, 2, 3, dtype=dtype), initial_state(ours, 2, dtype, make)
    if layout == "packed":
        input = pack(input, [5, 3])
    if layout == "batch_first":
        input = input.transpose(0, 1)
    actual, expected = run(ours, input, hx), run(theirs, input, hx)
    for name, result in expected.items():
        assert actual[name].dtype == dtype
        parts = (torch.view_as_real(actual[name].resolve_conj()), torch.view_as_real(result))
        assert_close(*parts, ROUNDINGS * tolerance(dtype, 20), name)


@pytest.mark.parametrize("dtype", COMPLEX, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_complex_cells_are_those_of_torch(cell: str, dtype: torch.dtype) -> None:
    ours, theirs = (one_cell(space, cell, 3, 4, dtype=dtype) for space in (fusedrnn, nn))
    theirs.load_state_dict(ours.state_dict())
    for input in (make(2, 3, dtype=dtype), make(3, dtype=dtype)):
        actual, expected = ours(input), theirs(input)
        if cell == "lstm":
            actual, expected = torch.stack(actual), torch.stack(expected)
        parts = (torch.view_as_real(actual), torch.view_as_real(expected))
        assert_close(*parts, ROUNDINGS * tolerance(dtype, 4))


def test_a_complex_relu_is_refused_as_by_torch() -> None:
    for space in (nn, fusedrnn):
        with pytest.raises(RuntimeError, match="omplex"):
            layers(space, "rnn_relu", 3, 4, dtype=torch.complex64)(
                make(5, 2, 3, dtype=torch.complex64)
            )


@pytest.mark.parametrize(("cell", "variant"), [case for case in CELL_VARIANTS if case[0] in CELLS])
def test_complex_options_match_the_reference(cell: str, variant: str, compiled_part: None) -> None:
    layer = complex_layer(cell, VARIANTS[variant])

    def results(forward: Any) -> list[Tensor]:
        values = [value for value in layer.run(forward) if value.numel()]
        total = sum((value * value.conj()).real.sum() for value in values)
        return values + list(torch.autograd.grad(total, list(layer.present.values())))

    for actual, expected in zip(
        results(ops.layer_forward), results(reference.layer_forward), strict=True
    ):
        parts = (torch.view_as_real(value.resolve_conj()) for value in (actual, expected))
        assert_close(*parts, ROUNDINGS * tolerance(torch.float64, 40))


@pytest.mark.parametrize("variant", ["plain", "everything", "packed"])
@pytest.mark.parametrize("cell", CELLS)
def test_complex_gradients_of_both_orders(cell: str, variant: str, compiled_part: None) -> None:
    layer = complex_layer(cell, VARIANTS[variant] | {"sizes": (2, 2, 1, 2)})

    def forward(*tensors: Tensor) -> tuple[Tensor, ...]:
        changed = layer.replace(**dict(zip(layer.present, tensors, strict=True)))
        return tuple(result for result in changed.run(ops.layer_forward) if result.numel())

    inputs = tuple(layer.present.values())
    assert torch.autograd.gradcheck(forward, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(forward, inputs)


@pytest.mark.parametrize(("cell", "variant"), CELL_VARIANTS)
def test_any_other_device_computes_what_the_kernels_do(
    cell: str, variant: str, compiled_part: None
) -> None:
    """By the operators that devices without kernels have, on tensors of the CPU."""
    layer = make_layer(cell, torch.float64, **VARIANTS[variant])
    key = torch._C.DispatchKey.CompositeExplicitAutograd
    args = layer.forward_args()
    results = OPS.layer_forward.default._op_dk(key, *args)
    for actual, expected in zip(results[:4], OPS.layer_forward(*args)[:4], strict=True):
        assert_close(actual, expected, tolerance(torch.float64, 4))
    args = backward_args(layer, saved=torch.empty(0, dtype=torch.float64))
    grads = OPS.layer_backward.default._op_dk(key, *args)
    torch.manual_seed(20)
    make_layer(cell, torch.float64, **VARIANTS[variant])  # draws what the first one drew
    expected_grads = OPS.layer_backward(*backward_args(layer))
    for actual, expected in zip(grads, expected_grads, strict=True):
        assert_close(actual, expected, tolerance(torch.float64, 40))


def test_explain_names_the_reason(compiled_part: None) -> None:
    module = fusedrnn.GRU(3, 4, dtype=torch.complex64)
    plan = fusedrnn.explain(module, make(5, 2, 3, dtype=torch.complex64))
    assert "composition of torch operators: no kernel takes torch.complex64" in str(plan)
    meta = fusedrnn.explain(module.float().to("meta"), torch.empty(5, 2, 3, device="meta"))
    assert "composition of torch operators" in str(meta) and "'meta'" in str(meta)
    assert _library.available
