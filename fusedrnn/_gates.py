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
    states: Sequence[Tensor],
    initial: Sequence[Tensor | None],
    weights: Sequence[LayerWeights],
    lengths: Tensor | None,
    reset: Tensor | None,
    replacement: Sequence[Tensor | None],
) -> tuple[Tensor, ...]:
    """The activated gates of one layer, each [D, T, B, H], from what `ops.layer_forward` takes.

    `states` has every step's h, [D, T, B, P], and for a cell whose gates look at c that; `initial`
    and `replacement` what they begin with and what resets make of them; `weights` one item a
    direction.
    """
    if cell.gate_names == ("h",):
        return (states[0].clone(),)
    valid = last = None
    if lengths is not None:
        valid, last = valid_steps(lengths, input.size(0))
        input = torch.where(valid, input, 0.0)
    directions = []
    for direction, w in enumerate(weights):
        entering = [
            entering_states(
                left[direction],
                None if first is None else first[direction],
                None if reset is None else reset.unsqueeze(-1),
                None if replaced is None else replaced[direction],
                last,
                reverse=direction == 1,
            )
            for left, first, replaced in zip(states, initial, replacement)
        ]
        if valid is not None:
            entering = [torch.where(valid, state, 0.0) for state in entering]
        gates = ops.activate_gates(
            cell.name,
            _linear(input, w.weight_ih, w.bias_ih),
            _linear(entering[0], w.weight_hh, w.bias_hh),
            entering[0] if w.weight_hr is None else None,  # projected, it has another width
            entering[1] if len(entering) > 1 else None,
            w.params,
        )
        if valid is not None:
            gates = [torch.where(valid, gate, 0.0) for gate in gates]
        directions.append(gates)
    return tuple(torch.stack(gate) for gate in zip(*directions))


def _linear(steps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.linear of [T, B, W]; for gradients of each sample, of [B, T, W]."""
    if isinstance(weight, ExpandedWeight) or isinstance(bias, ExpandedWeight):
        return F.linear(steps.transpose(0, 1), weight, bias).transpose(0, 1)
    return F.linear(steps, weight, bias)
