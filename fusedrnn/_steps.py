"""Every step's states and gates, for `return_states` and `return_gates`.

No kernel gives the gates as a result. They are composed here from the input and the states that
entered each step, with one product for all steps a side: differentiable to any order, and free
when not asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils._expanded_weights import ExpandedWeight
from torch.utils import _pytree

from fusedrnn.reference import LayerWeights

__all__ = ["GRUGates", "LSTMGates", "LSTMStates", "RNNGates", "RNNStates"]


class RNNStates(NamedTuple):
    """The state after every step of every layer and direction of an RNN or GRU.

    With L layers, D directions, T = seq_len, B = batch_size and H = hidden_size:
    `(L * D, T, B, H)`, `(L * D, B, T, H)` with `batch_first`, `(L * D, T, H)` for one sequence.
    """

    h: Tensor


class LSTMStates(NamedTuple):
    """As `RNNStates`, for an LSTM; with a projection, the last size of h is that of h."""

    h: Tensor
    c: Tensor


class RNNGates(NamedTuple):
    """An Elman RNN's one activation at every step, which is its state; as `RNNStates`."""

    h: Tensor


class GRUGates(NamedTuple):
    """The activated gates of a GRU at every step, each as `RNNStates.h`."""

    r: Tensor
    z: Tensor
    n: Tensor


class LSTMGates(NamedTuple):
    """The activated gates of an LSTM at every step, each as `LSTMStates.c`."""

    i: Tensor
    f: Tensor
    g: Tensor
    o: Tensor


# torch.export.save writes a module's results by the names of their types.
for _cls in (RNNStates, LSTMStates, RNNGates, GRUGates, LSTMGates):
    _pytree._register_namedtuple(_cls, serialized_type_name=f"fusedrnn.{_cls.__name__}")


def gates_type(cell: str) -> type[RNNGates | GRUGates | LSTMGates]:
    return {"lstm": LSTMGates, "gru": GRUGates}.get(cell, RNNGates)


def split_directions(output: Tensor, directions: int) -> Tensor:
    """A layer's output [T, B, D * P] as the states of each direction, [D, T, B, P]."""
    return output.unflatten(-1, (directions, -1)).permute(2, 0, 1, 3)


def layer_gates(
    cell: str,
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
    if gates_type(cell) is RNNGates:
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
        gates = _activate(
            cell,
            _linear(input, w.weight_ih, w.bias_ih),
            _linear(entering, w.weight_hh, w.bias_hh),
        )
        if valid is not None:
            gates = tuple(torch.where(valid, gate, 0.0) for gate in gates)
        directions.append(gates)
    return tuple(torch.stack(gate) for gate in zip(*directions))


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


def _linear(steps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.linear of [T, B, W]; for gradients of each sample, of [B, T, W]."""
    if isinstance(weight, ExpandedWeight) or isinstance(bias, ExpandedWeight):
        return F.linear(steps.transpose(0, 1), weight, bias).transpose(0, 1)
    return F.linear(steps, weight, bias)


def _activate(cell: str, x: Tensor, r: Tensor) -> tuple[Tensor, ...]:
    """The gates of pre-activations x, the input's side, and r, the state's, [T, B, G * H]."""
    if cell == "lstm":
        i, f, g, o = (x + r).chunk(4, -1)
        return torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
    x_r, x_z, x_n = x.chunk(3, -1)
    r_r, r_z, r_n = r.chunk(3, -1)
    reset_gate = torch.sigmoid(x_r + r_r)
    return reset_gate, torch.sigmoid(x_z + r_z), torch.tanh(x_n + reset_gate * r_n)
