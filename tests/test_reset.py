"""reset= and reset_state=: where the state entering a step is replaced, in both directions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import (
    CELLS,
    assert_close,
    initial_state,
    layers,
    map_tensors,
    run,
    tensors_of,
    tolerance,
)
from torch import Tensor, nn

import fusedrnn

ALLOWED = tolerance(torch.float32, 24)
each_cell = pytest.mark.parametrize("cell", CELLS)


def at(*steps: int, rows: int = 3, device: str = "cpu") -> Tensor:
    """Resets of every row at these of six steps, (T, B)."""
    reset = torch.zeros(6, rows, dtype=torch.bool, device=device)
    reset[list(steps)] = True
    return reset


def part(state: Any, row: int) -> Any:
    return map_tensors(state, lambda tensor: tensor[row : row + 1])


@each_cell
def test_equals_a_run_of_each_part(cell: str, device: str) -> None:
    """Forward, a reset at step t ends a run after step t - 1; in reverse, after step t + 1."""
    module = layers(fusedrnn, cell, 5, 7, bidirectional=True, device=device)
    weights = module._layer_weights()
    ways = []
    for way in weights:
        one = layers(fusedrnn, cell, 5, 7, device=device)
        for name, weight in way._asdict().items():
            if weight is not None:
                setattr(one, f"{name}_l0", nn.Parameter(weight.detach()))
        ways.append(one)
    input = torch.randn(6, 3, 5, device=device)
    hx, state = (initial_state(module, 3, torch.float32) for _ in range(2))
    output, final = module(input, hx, reset=at(2, 5, device=device), reset_state=state)

    forward = [
        ways[0](input[begin:end], part(hx if begin == 0 else state, 0))
        for begin, end in ((0, 2), (2, 5), (5, 6))
    ]
    reverse = [ways[1](input[begin:end].flip(0), part(state, 1)) for begin, end in ((0, 3), (3, 6))]
    assert_close(output[..., :7], torch.cat([run[0] for run in forward]), ALLOWED, "forward")
    expected = torch.cat([run[0].flip(0) for run in reverse])
    assert_close(output[..., 7:], expected, ALLOWED, "reverse")
    for result, there, back in zip(
        *(tensors_of(s, "").values() for s in (final, forward[-1][1], reverse[0][1])), strict=True
    ):
        assert_close(result, torch.cat([there, back]), ALLOWED, "final state")


@each_cell
def test_no_gradient_passes_a_reset(cell: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, bidirectional=True, device=device)
    input = torch.randn(6, 3, 5, device=device, requires_grad=True)
    hx = map_tensors(initial_state(module, 3, torch.float32), Tensor.requires_grad_)
    states = list(tensors_of(hx, "hx").values())
    output, _ = module(input, hx, reset=at(3, device=device))
    forward, *of_states = torch.autograd.grad(
        output[3:, :, :7].sum(), [input, *states], retain_graph=True, materialize_grads=True
    )
    assert not forward[:3].any() and forward[3:].any()
    assert not any(grad.any() for grad in of_states)
    reverse, *of_states = torch.autograd.grad(
        output[:4, :, 7:].sum(), [input, *states], materialize_grads=True
    )
    assert not reverse[4:].any() and reverse[:4].any()
    assert not any(grad.any() for grad in of_states)


@each_cell
def test_reset_at_the_first_step_replaces_the_initial_state(cell: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, device=device)
    input = torch.randn(6, 3, 5, device=device)
    hx, state = (initial_state(module, 3, torch.float32) for _ in range(2))
    replaced = run(module, input, hx, reset=at(0, device=device), reset_state=state)
    expected = run(module, input, state)
    for name, result in expected.items():
        assert_close(replaced[name.replace("grad hx", "grad reset_state")], result, ALLOWED, name)
    for name in tensors_of(hx, "grad hx"):
        assert not replaced[name].any()


@each_cell
def test_one_state_serves_every_row(cell: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True, device=device)
    input = torch.randn(6, 3, 5, device=device)
    reset = torch.rand(6, 3, device=device) < 0.4
    one = initial_state(module, 1, torch.float32)
    rows = map_tensors(one, lambda tensor: tensor.repeat(1, 3, 1))
    shared = run(module, input, reset=reset, reset_state=one)
    for name, expected in run(module, input, reset=reset, reset_state=rows).items():
        if name.startswith("grad reset_state"):
            expected = expected.sum(1, keepdim=True)
        assert_close(shared[name], expected, ALLOWED, name)


@each_cell
def test_without_a_state_zeros_enter(cell: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True, device=device)
    input = torch.randn(6, 3, 5, device=device)
    reset = torch.rand(6, 3, device=device) < 0.4
    zeros = map_tensors(initial_state(module, 1, torch.float32), torch.zeros_like)
    actual = run(module, input, reset=reset)
    expected = run(module, input, reset=reset, reset_state=zeros)
    for name, result in actual.items():
        assert torch.equal(result, expected[name]), name


@each_cell
def test_no_reset_changes_nothing(cell: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True, device=device)
    input, hx = torch.randn(6, 3, 5, device=device), initial_state(module, 3, torch.float32)
    actual = run(module, input, hx, reset=at(device=device))
    for name, expected in run(module, input, hx).items():
        assert_close(actual[name], expected, ALLOWED, name)


@each_cell
def test_layouts_agree(cell: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True, device=device)
    input = torch.randn(6, 3, 5, device=device)
    reset = torch.rand(6, 3, device=device) < 0.4
    hx, state = (initial_state(module, 3, torch.float32) for _ in range(2))
    output, _ = module(input, hx, reset=reset, reset_state=state)
    for row in range(3):
        own = [map_tensors(s, lambda tensor, row=row: tensor[:, row]) for s in (hx, state)]
        one, _ = module(input[:, row], own[0], reset=reset[:, row], reset_state=own[1])
        assert_close(output[:, row], one, ALLOWED, f"row {row}")
    module.batch_first = True
    swapped, _ = module(input.transpose(0, 1), hx, reset=reset.t(), reset_state=state)
    assert torch.equal(swapped.transpose(0, 1), output)


@each_cell
def test_reset_past_the_end_of_a_row_changes_nothing(cell: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True, device=device)
    input, hx = torch.randn(6, 3, 5, device=device), initial_state(module, 3, torch.float32)
    lengths = torch.tensor([4, 0, 2])
    past = torch.arange(6).unsqueeze(1) >= lengths
    state = initial_state(module, 3, torch.float32)
    options: dict[str, Any] = {"lengths": lengths, "reset_state": state}
    actual = run(module, input, hx, reset=past.to(device), **options)
    expected = run(module, input, hx, reset=torch.zeros_like(past, device=device), **options)
    for name, result in actual.items():
        assert torch.equal(result, expected[name]), name


def test_learnable_reset_state_of_a_module(device: str) -> None:
    """A parameter of one row; the initial state is the same parameter."""
    module = fusedrnn.GRU(5, 7, device=device)
    start = nn.Parameter(torch.randn(1, 1, 7, device=device))
    reset = at(0, 3, device=device)
    output, _ = module(torch.randn(6, 3, 5, device=device), reset=reset, reset_state=start)
    output.sum().backward()
    assert start.grad.shape == (1, 1, 7) and start.grad.all()
