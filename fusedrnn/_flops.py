"""What torch's FlopCounterMode counts for the operators: the products of torch.nn's composition.

Per direction, with N rows over all steps, two operations for each of

    forward     N * G * H * (I + P), and N * H * P with a projection
    backward    the same for each gradient that is asked for, of a weight or of what it multiplies;
                the state's lacks the rows of the first step if h_0 asks for no gradient

as it counts for nn.RNN, nn.GRU and the cells. (Of an nn.LSTM that oneDNN runs it counts nothing.)
Shapes say what is counted, not values: padding that `lengths` leaves out counts, as padding does in
torch.nn. Under `recompute`, backward also counts the forward products, which it computes again; an
RNN keeps all that it needs and computes none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fusedrnn._cells import CELLS

# Places among the tensors of an operator: input, states, then five weights a direction.
_INPUT, _H_0, _WEIGHTS, _END = 0, 1, 5, 15


def register() -> None:
    ops = torch.ops.fusedrnn
    register_flop_formula([ops.layer_forward, ops.quantized_forward], get_raw=True)(_forward)
    register_flop_formula(ops.layer_backward, get_raw=True)(_backward)


def _forward(cell: str, *layer: Any, out_val: Any = None) -> int:
    rows = _rows(layer[_INPUT])
    return sum(2 * rows * size for place in _directions(layer) for size in _sizes(layer, place))


def _backward(cell: str, *args: Any, out_val: Any = None) -> int:
    layer = args[4:]  # after the gradients of the results
    recompute, _, _, mask = layer[-4:]
    wanted = [tensor is not None and wants for tensor, wants in zip(layer[:_END], mask)]
    rows, total = _rows(layer[_INPUT]), 0
    for place in _directions(layer):
        weight_ih, weight_hh, *biases, weight_hr = wanted[place : place + 5]
        # What the projection multiplies depends on any of these; at later steps, on weight_hr too.
        before = any((*wanted[:_WEIGHTS], weight_ih, weight_hh, *biases))
        if not (before or weight_hr):
            continue
        ih, hh, hr = _sizes(layer, place)
        later_rows = rows - _first_rows(layer, place)
        total += 2 * rows * (ih * (weight_ih + wanted[_INPUT]) + hh * weight_hh + hr * weight_hr)
        total += 2 * hh * (rows if wanted[_H_0] else later_rows)
        total += 2 * hr * (rows if before else later_rows)
        if recompute > 0 and CELLS[cell].saved_width > 0:
            total += 2 * rows * (ih + hh + hr)
    return total


def _directions(layer: Sequence[Any]) -> Iterator[int]:
    """Where the weights of each direction begin."""
    return (place for place in (_WEIGHTS, _WEIGHTS + 5) if layer[place] is not None)


def _sizes(layer: Sequence[Any], place: int) -> tuple[int, int, int]:
    """Elements of weight_ih, weight_hh and weight_hr."""
    ih, hh, _, _, hr = layer[place : place + 5]
    return ih.numel(), hh.numel(), 0 if hr is None else hr.numel()


def _rows(input: Tensor) -> int:
    return math.prod(input.shape[:-1])


def _first_rows(layer: Sequence[Any], place: int) -> int:
    """The rows of the step that a direction begins with; 0 where a fake tensor keeps them."""
    batch_sizes = layer[_END]
    if batch_sizes is None:
        return layer[_INPUT].size(1)
    if type(batch_sizes) is not Tensor:
        return 0
    return int(batch_sizes[0 if place == _WEIGHTS else -1])
