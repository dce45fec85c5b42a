"""gradcheck, gradgradcheck and check_batched_grad of every cell with every option.

What passed is printed as a table when the tests end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CELLS, initial_state, layers, map_tensors, tensors_of
from torch import Tensor

import fusedrnn

DOUBLE = torch.float64
# Options of a call; "reset_state" says for how many rows there is a state.
OPTIONS: dict[str, dict[str, Any]] = {
    "lengths": {"lengths": True},
    "reset": {"reset": True},
    "reset_state": {"reset": True, "reset_state": 2},
    "reset_state_of_one_row": {"reset": True, "reset_state": 1},
    "states": {"return_states": True},
    "gates": {"return_gates": True},
    "recompute": {"recompute": "gates"},
    "chunks": {"recompute": "chunk:2"},
    "all": {
        "lengths": True,
        "reset": True,
        "reset_state": 2,
        "return_states": True,
        "return_gates": True,
        "recompute": "chunk:2",
    },
}


def label(cell: str, proj_size: int) -> str:
    return f"{cell}{'_projection' * bool(proj_size)}"


# ReLU's second derivative is none, and a difference across its kink is no derivative.
TABLE = [
    pytest.param(cell, proj_size, options, id=f"{label(cell, proj_size)}-{options}")
    for cell in CELLS
    for proj_size in ((0, 1) if cell == "lstm" else (0,))
    for options in OPTIONS
]


def function(cell: str, proj_size: int, name: str, device: str) -> tuple[Any, tuple[Tensor, ...]]:
    """A function of tensors alone, all results of two layers both ways, and its tensors."""
    options = dict(OPTIONS[name])
    module = layers(
        fusedrnn, cell, 2, 2, bidirectional=True, dtype=DOUBLE, device=device,
        **({"proj_size": proj_size} if proj_size else {}),
    )  # fmt: skip
    names = [key for key, _ in module.named_parameters()]
    hx = initial_state(module, 2, DOUBLE, make=torch.randn)
    state = None
    if "reset_state" in options:
        state = initial_state(module, options.pop("reset_state"), DOUBLE, make=torch.randn)
    if options.pop("lengths", False):
        options["lengths"] = torch.tensor([3, 1], device=device)
    if options.pop("reset", False):
        options["reset"] = torch.tensor([[True, False], [False, True], [True, False]]).to(device)
    input = torch.randn(3, 2, 2, dtype=DOUBLE, device=device)
    inputs = (input, *tensors_of((hx, state), "").values(), *module.parameters())

    def call(*tensors: Tensor) -> tuple[Tensor, ...]:
        left = iter(tensors)
        args = map_tensors((input, hx), lambda _: next(left))
        given = {} if state is None else {"reset_state": map_tensors(state, lambda _: next(left))}
        weights = dict(zip(names, left, strict=True))
        result = torch.func.functional_call(module, weights, args, {**options, **given})
        return tuple(tensors_of(result, "").values())

    return call, tuple(tensor.detach().clone().requires_grad_() for tensor in inputs)


@pytest.mark.parametrize(("cell", "proj_size", "options"), TABLE)
def test_gradcheck(
    cell: str,
    proj_size: int,
    options: str,
    device: str,
    record_property: Callable[[str, Any], None],
) -> None:
    call, inputs = function(cell, proj_size, options, device)
    assert torch.autograd.gradcheck(call, inputs, check_batched_grad=True, check_forward_ad=True)
    record_property("derivatives", (device, label(cell, proj_size), options, "gbf"))


@pytest.mark.parametrize(("cell", "proj_size", "options"), TABLE)
def test_gradgradcheck(
    cell: str,
    proj_size: int,
    options: str,
    device: str,
    record_property: Callable[[str, Any], None],
) -> None:
    call, inputs = function(cell, proj_size, options, device)
    assert torch.autograd.gradgradcheck(call, inputs, check_batched_grad=True)
    record_property("derivatives", (device, label(cell, proj_size), options, "GB"))
