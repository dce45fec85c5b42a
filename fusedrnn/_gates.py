"""Every step's activated gates, for `return_gates`.

No kernel gives them as a result. They are composed here from the input and the states that entered
each step, with one product for all steps a side: differentiable to any order, and free when not
asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils._expanded_weights import ExpandedWeight

from fusedrnn import ops
from fusedrnn._cells import Cell
from fusedrnn._steps import entering_states, valid_steps
from fusedrnn._weights import LayerWeights


def layer_gates(
    cell: Cell,
    input: Tensor,
    h: Tensor,
    h_0: Tensor | None,
    weights: Sequence[LayerWeights],
    lengths: Tensor | None,
    reset: Tensor | None,
    reset_h: Tensor | None,
) -> tuple[Tensor, ...]:
    """The activated gates of one layer, each [D, T, B, H], from what `ops.layer_forward` takes.

    `h` has every step's state, [D, T, B, P], and `weights` one item a direction.
    """
    if cell.gate_names == ("h",):
        return (h.clone(),)
    valid = last = None
    if lengths is not None:
        valid, last = valid_steps(lengths, input.size(0))
        input = torch.where(valid, input, 0.0)
    directions = []
    for direction, w in enumerate(weights):
        entering = entering_states(
            h[direction],
            None if h_0 is None else h_0[direction],
            None if reset is None else reset.unsqueeze(-1),
            None if reset_h is None else reset_h[direction],
            last,
            reverse=direction == 1,
        )
        if valid is not None:
            entering = torch.where(valid, entering, 0.0)
        gates = ops.activate_gates(
            cell.name,
            _linear(input, w.weight_ih, w.bias_ih),
            _linear(entering, w.weight_hh, w.bias_hh),
        )
        if valid is not None:
            gates = tuple(torch.where(valid, gate, 0.0) for gate in gates)
        directions.append(gates)
    return tuple(torch.stack(gate) for gate in zip(*directions))


def _linear(steps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.linear of [T, B, W]; for gradients of each sample, of [B, T, W]."""
    if isinstance(weight, ExpandedWeight) or isinstance(bias, ExpandedWeight):
        return F.linear(steps.transpose(0, 1), weight, bias).transpose(0, 1)
    return F.linear(steps, weight, bias)
