"""The states that entered every step of a layer, from what left them."""

from __future__ import annotations

import torch
from torch import Tensor


def split_directions(output: Tensor, directions: int) -> Tensor:
    """A layer's output [T, B, D * P] as the states of each direction, [D, T, B, P]."""
    return output.unflatten(-1, (directions, -1)).permute(2, 0, 1, 3)


def valid_steps(lengths: Tensor, seq_len: int) -> tuple[Tensor, Tensor]:
    """Whether a step is one of the row's, and whether it is its last; each [T, B, 1]."""
    steps = torch.arange(seq_len, device=lengths.device).unsqueeze(1)
    # A GPU's lengths may exceed the steps; there the kernels stop at the last one.
    last = steps == lengths.clamp(max=seq_len) - 1
    return (steps < lengths).unsqueeze(-1), last.unsqueeze(-1)


def entering_states(
    h: Tensor,
    h_0: Tensor | None,
    reset: Tensor | None,
    reset_h: Tensor | None,
    last: Tensor | None,
    reverse: bool,
) -> Tensor:
    """The state that entered each step of a direction, [T, B, P], where h [T, B, P] left it.

    `last` marks each row's last step, where the reverse direction begins.
    """
    # Under autocast h is of its dtype, and states are as they were given.
    first = torch.zeros_like(h[0]) if h_0 is None else h_0.to(h.dtype)
    if reverse:
        entering = torch.cat([h[1:], first.unsqueeze(0)])
        if last is not None:
            entering = torch.where(last, first, entering)
    else:
        entering = torch.cat([first.unsqueeze(0), h[:-1]])
    if reset is None:
        return entering
    return torch.where(reset, 0.0 if reset_h is None else reset_h.to(h.dtype), entering)
