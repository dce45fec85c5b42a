"""The naive oracle: one recurrent layer as plain differentiable torch operators.

Any dtype, any device, a Python loop over time. The tests compare every kernel with it in
float64, and it runs when the compiled part is missing.
Shapes, with D directions, H hidden_size, P the width of h, G gates and N rows over all
steps, are those of `fusedrnn.ops.layer_forward`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fusedrnn._weights import LayerWeights

__all__ = ["CELLS", "Cell", "layer_forward"]


# What a time step gives: next h, next c, and the activated gates.
StepResult = tuple[Tensor, Tensor, tuple[Tensor, ...]]

# One time step, of x [B, G * H], r [B, G * H], h [B, H], c [B, H] and each of the cell's params
# [H]. x is the input side of the pre-activation with its bias, r the recurrent side with its bias.
Step = Callable[..., StepResult]


def rnn_tanh_step(x: Tensor, r: Tensor, h: Tensor, c: Tensor) -> StepResult:
    """h' = tanh(x + r)."""
    h = torch.tanh(x + r)
    return h, c, (h,)


def rnn_relu_step(x: Tensor, r: Tensor, h: Tensor, c: Tensor) -> StepResult:
    """h' = max(x + r, 0)."""
    h = torch.relu(x + r)
    return h, c, (h,)


def lstm_step(x: Tensor, r: Tensor, h: Tensor, c: Tensor) -> StepResult:
    """i, f, o = sigmoid(x + r), g = tanh(x + r), c' = f * c + i * g, h' = o * tanh(c')."""
    i, f, g, o = (x + r).chunk(4, -1)
    i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
    c = f * c + i * g
    return o * torch.tanh(c), c, (i, f, g, o)


def peephole_lstm_step(
    x: Tensor, r: Tensor, h: Tensor, c: Tensor, p_i: Tensor, p_f: Tensor, p_o: Tensor
) -> StepResult:
    """As `lstm_step`, with p_i * c, p_f * c and p_o * c' added before the sigmoids."""
    i, f, g, o = (x + r).chunk(4, -1)
    i, f, g = torch.sigmoid(i + p_i * c), torch.sigmoid(f + p_f * c), torch.tanh(g)
    c = f * c + i * g
    o = torch.sigmoid(o + p_o * c)
    return o * torch.tanh(c), c, (i, f, g, o)


def gru_step(x: Tensor, r: Tensor, h: Tensor, c: Tensor) -> StepResult:
    """r, z = sigmoid(x + r), n = tanh(x_n + r * r_n), h' = n + z * (h - n)."""
    x_r, x_z, x_n = x.chunk(3, -1)
    r_r, r_z, r_n = r.chunk(3, -1)
    reset, z = torch.sigmoid(x_r + r_r), torch.sigmoid(x_z + r_z)
    n = torch.tanh(x_n + reset * r_n)
    return n + z * (h - n), c, (reset, z, n)


class Cell(NamedTuple):
    """A cell's constants, as csrc/cells has them, and its step."""

    gate_names: tuple[str, ...]
    states: int  # 1: h; 2: h and c
    has_projection: bool
    step: Step
    param_names: tuple[str, ...] = ()

    @property
    def gates(self) -> int:
        """Rows of weight_hh over hidden_size."""
        return len(self.gate_names)


CELLS: dict[str, Cell] = {
    "rnn_tanh": Cell(("h",), 1, False, rnn_tanh_step),
    "rnn_relu": Cell(("h",), 1, False, rnn_relu_step),
    "lstm": Cell(("i", "f", "g", "o"), 2, True, lstm_step),
    "gru": Cell(("r", "z", "n"), 1, False, gru_step),
    "peephole_lstm": Cell(("i", "f", "g", "o"), 2, True, peephole_lstm_step, ("p_i", "p_f", "p_o")),
}


def layer_forward(
    cell: str,
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: LayerWeights,
    weights_reverse: LayerWeights | None = None,
    batch_sizes: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    reset_h: Tensor | None = None,
    reset_c: Tensor | None = None,
    return_c: bool = False,
    recompute: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Runs one layer over a whole sequence, as `fusedrnn.ops.layer_forward` does.

    `recompute` changes nothing: here autograd keeps what it needs.
    """
    join = torch.stack if batch_sizes is None else torch.cat
    valid = None
    if batch_sizes is None:
        if lengths is not None:
            steps = torch.arange(input.size(0), device=input.device).unsqueeze(1)
            valid = (steps < lengths).unsqueeze(-1)
            input = torch.where(valid, input, 0.0)
        xs, batch_size = list(input.unbind(0)), input.size(1)
    else:
        sizes = batch_sizes.tolist()
        xs, batch_size = list(input.split(sizes)), sizes[0] if sizes else 0
    if not xs:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    valids = [None] * len(xs) if valid is None else list(valid.unbind(0))
    resets: list[Tensor | None] = [None] * len(xs)
    if reset is not None:
        rows = reset.unsqueeze(-1)
        resets = list(rows.unbind(0) if batch_sizes is None else rows.split(sizes))

    outputs, last_h, last_c, every_c = [], [], [], []
    for direction, w in enumerate((weights, weights_reverse)):
        if w is None:
            continue
        zeros_h = input.new_zeros(batch_size, w.weight_hh.shape[1])
        zeros_c = input.new_zeros(batch_size, w.weight_hh.shape[0] // CELLS[cell].gates)
        output, cs, h, c = _run_direction(
            CELLS[cell],
            list(zip(xs, valids, resets)),
            zeros_h if h_0 is None else h_0[direction],
            zeros_c if c_0 is None else c_0[direction],
            zeros_h if reset_h is None else reset_h[direction],
            zeros_c if reset_c is None else reset_c[direction],
            w,
            reverse=direction == 1,
        )
        outputs.append(join(output))
        every_c.append(join(cs) if return_c else None)
        last_h.append(h)
        last_c.append(c)
    has_c = CELLS[cell].states == 2
    return (
        torch.cat(outputs, -1),
        torch.stack(last_h),
        torch.stack(last_c) if has_c else input.new_empty(0),
        torch.stack(every_c) if has_c and return_c else input.new_empty(0),
    )


def _run_direction(
    cell: Cell,
    steps: list[tuple[Tensor, Tensor | None, Tensor | None]],
    h: Tensor,
    c: Tensor,
    reset_h: Tensor,
    reset_c: Tensor,
    w: LayerWeights,
    reverse: bool,
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """Returns the output and c of every step, in the order of `steps`, and the last h and c.

    A step is its input and, where there are such, which rows it is valid for and which it resets.
    A packed sequence has fewer rows at later steps. Rows beyond a step's own, and rows that it is
    not valid for, keep their state: forward they have ended, in reverse they have not begun.
    """
    outputs, cs = [], []
    params = () if w.params is None else w.params.chunk(len(cell.param_names))
    for x, valid, reset in reversed(steps) if reverse else steps:
        rows = x.size(0)
        h_prev, c_prev = h[:rows], c[:rows]
        if reset is not None:
            h_prev = torch.where(reset, reset_h[:rows], h_prev)
            c_prev = torch.where(reset, reset_c[:rows], c_prev)
        if valid is not None:
            # Other rows compute on zeros, or the NaN of a state would reach the gradients.
            h_prev = torch.where(valid, h_prev, 0.0)
            c_prev = torch.where(valid, c_prev, 0.0)
        h_next, c_next, _ = cell.step(
            F.linear(x, w.weight_ih, w.bias_ih),
            F.linear(h_prev, w.weight_hh, w.bias_hh),
            h_prev,
            c_prev,
            *params,
        )
        if w.weight_hr is not None:
            h_next = F.linear(h_next, w.weight_hr)
        if valid is None:
            h = torch.cat([h_next, h[rows:]])
            c = torch.cat([c_next, c[rows:]])
        else:
            h = torch.where(valid, h_next, h)
            c = torch.where(valid, c_next, c)
            h_next = torch.where(valid, h_next, 0.0)
            c_next = torch.where(valid, c_next, 0.0)
        outputs.append(h_next)
        cs.append(c_next)
    if reverse:
        outputs.reverse()
        cs.reverse()
    return outputs, cs, h, c
