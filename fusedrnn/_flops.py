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
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fusedrnn._cells import CELLS
from fusedrnn._layer import LayerArgs, split_weights, weight_names
from fusedrnn._quantized import QuantizedWeights


def register() -> None:
    ops = torch.ops.fusedrnn
    register_flop_formula([ops.layer_forward, ops.quantized_forward], get_raw=True)(_forward)
    register_flop_formula(ops.layer_backward, get_raw=True)(_backward)


def _forward(*args: Any, out_val: Any = None) -> int:
    layer = LayerArgs(*args)
    return sum(2 * _rows(layer.input) * size for each in _weights(layer) for size in _sizes(each))


def _backward(cell: str, grads: Any, *args: Any, out_val: Any = None) -> int:
    *layer_args, recompute, _, mask = args
    layer = LayerArgs(cell, *layer_args)
    wanted = {name for name, wants in zip(layer.mask_names(), mask, strict=True) if wants}
    states = wanted & {"input", *layer.states}
    rows, total = _rows(layer.input), 0
    for direction, each in enumerate(_weights(layer)):
        own = {name[1] for name in wanted if isinstance(name, tuple) and name[0] == direction}
        # What the projection multiplies depends on any of these; at later steps, on weight_hr too.
        before = bool(states or own - {"weight_hr"})
        if not (before or own):
            continue
        ih, hh, hr = _sizes(each)
        later_rows = rows - _first_rows(layer, direction)
        total += 2 * rows * ih * (("weight_ih" in own) + ("input" in wanted))
        total += 2 * rows * (hh * ("weight_hh" in own) + hr * ("weight_hr" in own))
        total += 2 * hh * (rows if "h_0" in wanted else later_rows)
        total += 2 * hr * (rows if before else later_rows)
        if recompute > 0 and CELLS[cell].saved_width > 0:
            total += 2 * rows * (ih + hh + hr)
    return total


def _weights(layer: LayerArgs) -> list[QuantizedWeights]:
    return split_weights(weight_names(layer.cell, layer.weights), layer.weights)


def _sizes(weights: QuantizedWeights) -> tuple[int, int, int]:
    """Elements of weight_ih, weight_hh and weight_hr."""
    hr = weights.weight_hr
    return weights.weight_ih.numel(), weights.weight_hh.numel(), 0 if hr is None else hr.numel()


def _rows(input: Tensor) -> int:
    return math.prod(input.shape[:-1])


def _first_rows(layer: LayerArgs, direction: int) -> int:
    """The rows of the step that a direction begins with; 0 where a fake tensor keeps them."""
    if not layer.is_packed:
        return layer.input.size(1)
    if type(layer.sizes) is not Tensor:
        return 0
    return int(layer.sizes[-direction])
