"""Results are tensors of their own, and may be changed in place before backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import (
    CELLS,
    DTYPES,
    assert_close,
    largest,
    layers,
    one_cell,
    pack,
    tensors_of,
    tolerance,
)
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import fusedrnn
from fusedrnn import compat


def assign(output: Tensor) -> None:
    output[..., 0] = 2.0


def add_residual(output: Tensor) -> None:
    output += torch.ones_like(output)


def fill_masked(output: Tensor) -> None:
    output.masked_fill_(output > 0.1, 0.5)


def drop(output: Tensor) -> None:
    torch.manual_seed(5)
    F.dropout(output, 0.5, training=True, inplace=True)


CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "relu": F.relu_,
    "dropout": drop,
    "residual": add_residual,
    "masked_fill": fill_masked,
    "assignment": assign,
    "zero": Tensor.zero_,
    "scale_of_a_view": lambda output: output.flatten()[1:].mul_(3.0),
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch_first": {"batch_first": True},
    "bidirectional": {"bidirectional": True},
    "stack": {"num_layers": 2, "batch_first": True, "bidirectional": True},
    "projected": {"proj_size": 3},
    "one_sequence": {},
    "packed": {"bidirectional": True},
    "lengths": {},
    "recomputed": {},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "lengths": {"lengths": torch.tensor([4, 2])},
    "recomputed": {"recompute": "chunk:2"},
}
CASES = [(c, n) for c in CELLS for n in LAYOUTS if c == "lstm" or n != "projected"]


def make_input(layout: str, dtype: torch.dtype) -> Any:
    if layout == "one_sequence":
        return torch.randn(4, 5, dtype=dtype)
    input = torch.randn(4, 2, 5, dtype=dtype)
    if layout == "packed":
        return pack(input, [4, 2])
    return input.transpose(0, 1) if LAYOUTS[layout].get("batch_first") else input


def padded(output: Tensor | PackedSequence) -> Tensor:
    return output.data if isinstance(output, PackedSequence) else output


def gradients(
    module: nn.Module, input: Any, layout: str, change: Callable[[Tensor], Any], copies: bool
) -> list[Tensor]:
    output = padded(module(input, **OPTIONS.get(layout, {}))[0])
    if copies:
        output = output.clone()
    change(output)
    return list(torch.autograd.grad(output.square().sum(), list(module.parameters())))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("cell", "layout"), CASES)
def test_output_may_be_changed_in_place(cell: str, layout: str, dtype: torch.dtype) -> None:
    """The gradients have the same bits as those through a copy."""
    module = layers(fusedrnn, cell, 5, 6, dtype=dtype, **LAYOUTS[layout])
    input = make_input(layout, dtype)
    for name, change in CHANGES.items():
        actual, expected = (
            gradients(module, input, layout, change, copies) for copies in (False, True)
        )
        assert all(map(torch.equal, actual, expected)), name


@pytest.mark.parametrize("layout", ["plain", "batch_first", "stack", "packed"])
@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu", "gru"])
def test_output_changed_in_place_gives_torchs_gradients(cell: str, layout: str) -> None:
    ours, theirs = (
        layers(space, cell, 5, 6, dtype=torch.float64, **LAYOUTS[layout]) for space in (compat, nn)
    )
    ours.load_state_dict(theirs.state_dict())
    input = make_input(layout, torch.float64)
    for change in CHANGES.values():
        actual, expected = (
            gradients(module, input, layout, change, False) for module in (ours, theirs)
        )
        scale = max(map(largest, expected))  # their summands are alike
        for grad, wanted in zip(actual, expected, strict=True):
            assert_close(grad, wanted, tolerance(torch.float64, 16), scale=scale)


@pytest.mark.parametrize("change", [name for name in CHANGES if name != "dropout"])
@pytest.mark.parametrize("cell", CELLS)
def test_compiled_output_may_be_changed_in_place(
    cell: str, change: str, compiled_part: None
) -> None:
    module = layers(fusedrnn, cell, 5, 6, batch_first=True)
    input = make_input("batch_first", torch.float32)
    torch._dynamo.reset()

    def value(input: Tensor) -> Tensor:
        output, _ = module(input)
        CHANGES[change](output)
        return output.square().sum()

    compiled = torch.compile(value, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(
        torch.autograd.grad(compiled(input), list(module.parameters())),
        torch.autograd.grad(value(input), list(module.parameters())),
        strict=True,
    ):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("cell", CELLS)
def test_other_results_are_what_they_were_when_one_changes(cell: str) -> None:
    module = layers(fusedrnn, cell, 5, 6)
    input = make_input("plain", torch.float32)

    def results() -> dict[str, Tensor]:
        return tensors_of(module(input, return_states=True, return_gates=True), "result")

    expected = {name: result.detach().clone() for name, result in results().items()}
    for changed in expected:
        actual = results()
        actual[changed].zero_()
        for name, result in actual.items():
            assert torch.equal(result, expected[name]) or name == changed, (changed, name)
        total = sum(result.sum() for result in actual.values())
        torch.autograd.grad(total, list(module.parameters()))


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize(("cell", "layout"), CASES)
def test_no_result_of_a_layer_is_a_view(cell: str, layout: str, grad: bool) -> None:
    module = layers(fusedrnn, cell, 5, 6, **LAYOUTS[layout])
    options = dict(OPTIONS.get(layout, {}))
    if layout != "packed":
        options |= {"return_states": True, "return_gates": True}
    with torch.set_grad_enabled(grad):
        results = module(make_input(layout, torch.float32), **options)
    parameter = nn.Parameter(torch.ones(()))
    for name, result in tensors_of(results[:2], "result").items():
        assert not result._is_view(), name
        if not grad:
            result += parameter  # a view that was made without gradients would be refused
            assert result.requires_grad
        result.detach_()


@pytest.mark.parametrize("batch", [(2,), (), (0,)], ids=["rows", "row", "empty"])
@pytest.mark.parametrize("space", [fusedrnn, compat], ids=["fusedrnn", "compat"])
@pytest.mark.parametrize("cell", CELLS)
def test_no_result_of_a_cell_is_a_view(cell: str, space: Any, batch: tuple[int, ...]) -> None:
    module = one_cell(space, cell, 5, 6)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            result = module(torch.randn(*batch, 5))
        for name, tensor in tensors_of(result, "result").items():
            assert not tensor._is_view(), name
            assert tensor.shape == (*batch, 6)
            tensor.detach_()
            tensor += nn.Parameter(torch.ones(6))


@pytest.mark.parametrize("cell", CELLS)
def test_a_quantized_cell_gives_no_view(cell: str) -> None:
    module = fusedrnn.quantize(one_cell(fusedrnn, cell, 5, 6), torch.int8)
    with torch.no_grad():
        for input in (torch.randn(2, 5), torch.randn(5)):
            for name, tensor in tensors_of(module(input), "result").items():
                assert not tensor._is_view(), name
