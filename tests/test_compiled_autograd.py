"""Compiled autograd takes layers and cells, with an eager forward and a compiled one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cases import CELLS, assert_close, layers, one_cell, pack, tolerance
from torch import Tensor, nn

import fusedrnn
from fusedrnn import compat

LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stack": {"num_layers": 2, "bidirectional": True, "batch_first": True},
    "projected": {"proj_size": 3},
    "packed": {"bidirectional": True},
    "options": {"bidirectional": True},
}
CASES = [(c, n) for c in CELLS for n in LAYOUTS if c == "lstm" or n != "projected"]
ALLOWED = tolerance(torch.float64, 40)


@pytest.fixture(autouse=True)
def nothing_compiled_before(compiled_part: None) -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled_backward(backend: str) -> Any:
    return torch._dynamo.compiled_autograd._enable(torch.compile(backend=backend, fullgraph=True))


def make(cell: str, layout: str) -> tuple[nn.Module, Callable[[], Tensor]]:
    """A module and a loss of it."""
    module = layers(fusedrnn, cell, 5, 6, dtype=torch.float64, **LAYOUTS[layout])
    input = torch.randn(4, 4, 5, dtype=torch.float64)
    options: dict[str, Any] = {}
    given = pack(input, [4, 3, 3, 1]) if layout == "packed" else input
    if layout == "options":
        options = {"lengths": torch.tensor([4, 0, 3, 1]), "recompute": "chunk:2"}
        options |= {"reset": torch.rand(4, 4) < 0.3, "return_states": True}

    def loss() -> Tensor:
        output = module(given, **options)[0]
        return (output.data if layout == "packed" else output).square().sum()

    return module, loss


def assert_grads(module: nn.Module, expected: tuple[Tensor, ...]) -> None:
    for (name, parameter), grad in zip(module.named_parameters(), expected, strict=True):
        assert_close(parameter.grad, grad, ALLOWED, name)
        parameter.grad = None


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize(("cell", "layout"), CASES)
def test_backward_of_an_eager_forward(cell: str, layout: str, backend: str) -> None:
    module, loss = make(cell, layout)
    expected = torch.autograd.grad(loss(), list(module.parameters()))
    for _ in range(2):
        with compiled_backward(backend):
            loss().backward()
        assert_grads(module, expected)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_backward_of_a_backward(cell: str) -> None:
    module, loss = make(cell, "stack")

    def second() -> Tensor:
        grads = torch.autograd.grad(loss(), list(module.parameters()), create_graph=True)
        return sum(grad.square().sum() for grad in grads)

    expected = torch.autograd.grad(second(), list(module.parameters()))
    value = second()
    with compiled_backward("aot_eager"):
        value.backward()
    assert_grads(module, expected)


@pytest.mark.parametrize("cell", CELLS)
def test_backward_within_a_compiled_function(cell: str) -> None:
    module, loss = make(cell, "stack")
    expected = torch.autograd.grad(loss(), list(module.parameters()))

    def train() -> None:
        loss().backward()

    with torch._dynamo.config.patch(compiled_autograd=True):
        torch.compile(train, backend="aot_eager")()
    assert_grads(module, expected)


@pytest.mark.parametrize("space", [fusedrnn, compat], ids=["fusedrnn", "compat"])
@pytest.mark.parametrize("cell", CELLS)
def test_cells(cell: str, space: Any) -> None:
    module = one_cell(space, cell, 5, 6, dtype=torch.float64)
    input = torch.randn(4, 5, dtype=torch.float64)

    def loss() -> Tensor:
        result = module(input)
        return (result[0] if cell == "lstm" else result).square().sum()

    expected = torch.autograd.grad(loss(), list(module.parameters()))
    with compiled_backward("aot_eager"):
        loss().backward()
    assert_grads(module, expected)
