"""RNN, LSTM and GRU under autocast and torch.func."""

from __future__ import annotations

import pytest
import torch
from cases import CELLS, assert_close, layers, tolerance
from torch import Tensor

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
