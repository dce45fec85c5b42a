"""RNN, LSTM and GRU under torch.compile, torch.export, checkpointing, autocast and vmap."""

from __future__ import annotations

import pytest
import torch
from cases import (
    CELLS,
    assert_close,
    layers,
    run,
    tolerance,
)
from torch import Tensor, nn

import fusedrnn
from fusedrnn import compat


@pytest.mark.parametrize("cell", CELLS)
def test_compiles_to_one_graph_with_dynamic_shapes(
    cell: str, compiled_part: None, device: str
) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True, batch_first=True, device=device)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    for seq_len, batch_size in ((6, 3), (9, 4), (2, 5)):
        input = torch.randn(batch_size, seq_len, 5, device=device)
        expected = run(module, input)
        compiled_results = run(compiled, input)
        for name, result in expected.items():
            actual = compiled_results.get(
                name, compiled_results.get(name.replace("grad ", "grad _orig_mod."))
            )
            assert_close(actual, result, tolerance(torch.float32, 12), name)


def test_compat_computes_the_same_under_compile() -> None:
    """torch.compile runs its layers uncompiled; a graph break is no error."""
    module = nn.Sequential(compat.LSTM(5, 7))
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="aot_eager")
    input = torch.randn(6, 3, 5)
    assert torch.equal(compiled(input)[0], module(input)[0])


def test_compiles_with_inductor(compiled_part: None, device: str) -> None:
    module = nn.Sequential(fusedrnn.LSTM(5, 7, device=device))
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, dynamic=True)
    input = torch.randn(6, 3, 5, device=device)
    assert_close(compiled(input)[0], module(input)[0], tolerance(torch.float32, 12))


def test_exports_with_dynamic_length(compiled_part: None, device: str) -> None:
    module = fusedrnn.GRU(5, 7, 2, batch_first=True, device=device).eval()
    seq_len = torch.export.Dim("seq_len", min=1, max=1000)
    exported = torch.export.export(
        module, (torch.randn(3, 6, 5, device=device),), dynamic_shapes={"input": {1: seq_len}}
    )
    input = torch.randn(3, 11, 5, device=device)
    assert_close(exported.module()(input)[0], module(input)[0], tolerance(torch.float32, 12))


def test_checkpointing_gives_the_same_gradients(device: str) -> None:
    module = fusedrnn.LSTM(5, 7, 2, dropout=0.5, device=device)
    input = torch.randn(6, 3, 5, requires_grad=True, device=device)
    grads = []
    for call in (
        module,
        lambda x: torch.utils.checkpoint.checkpoint(module, x, use_reentrant=False),
    ):
        torch.manual_seed(1)
        grads.append(torch.autograd.grad(call(input)[0].sum(), input)[0])
    assert torch.equal(*grads)


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
