"""RNN, LSTM and GRU under autocast and torch.func."""

from __future__ import annotations

import pytest
import torch
from cases import CELLS, assert_close, layers, one_cell, tolerance
from torch import Tensor, nn
from torch.autograd import forward_ad

import fusedrnn


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_autocast_equals_the_module_in_that_dtype(
    cell: str, dtype: torch.dtype, device: str
) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True, device=device)
    input = torch.randn(6, 3, 5, device=device)
    with torch.autocast(device, dtype=dtype):
        output, _ = module(input)
    output.float().sum().backward()
    assert output.dtype == dtype and module.weight_hh_l0.grad.dtype == torch.float32
    assert torch.equal(output, module.to(dtype)(input.to(dtype))[0])


@pytest.mark.parametrize("kind", ["plain", "negated", "inference", "no_grad"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_differentiates_any_input_in_forward_mode(cell: str, kind: str) -> None:
    """torch cannot differentiate a view of a negated view, nor of a tensor of inference mode."""
    ours, theirs = (
        one_cell(space, cell, 5, 7, dtype=torch.float64).requires_grad_(False)
        for space in (fusedrnn, nn)
    )
    theirs.load_state_dict(ours.state_dict())
    with torch.inference_mode(kind == "inference"):
        input = torch.randn(3, 5, dtype=torch.float64)
    if kind == "negated":
        input = torch._neg_view(input)
    tangents = []
    with forward_ad.dual_level(), torch.set_grad_enabled(kind != "no_grad"):
        for module in (ours, theirs):
            result = module(forward_ad.make_dual(input, torch.ones(3, 5, dtype=torch.float64)))
            result = result[0] if cell == "lstm" else result
            tangents.append(forward_ad.unpack_dual(result).tangent)
    assert_close(*tangents, tolerance(torch.float64, 4))


@pytest.mark.parametrize("cell", CELLS)
def test_ensemble_of_modules_runs_under_vmap(cell: str, device: str) -> None:
    modules = [layers(fusedrnn, cell, 5, 7, 2, device=device) for _ in range(3)]
    weights, _ = torch.func.stack_module_state(modules)
    input = torch.randn(6, 3, 5, device=device)

    def output(weights: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(modules[0], weights, (input,))[0]

    actual = torch.func.vmap(output)(weights)
    for idx, module in enumerate(modules):
        assert_close(actual[idx], module(input)[0], tolerance(torch.float32, 12), f"model {idx}")
