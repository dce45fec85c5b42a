"""Rules for `torch.vmap` over the operators.

Samples become rows of one larger batch wherever they share the weights: one call runs all of them.
Gradients of the weights, sample by sample, are products of the gradients of the gates, which such
a call returns. What cannot be one batch, weights that differ (an ensemble) and packed sequences,
runs sample after sample.

Shapes are those of csrc/bindings/library.cpp, with V samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fusedrnn._steps import entering_states, split_directions, valid_steps

# Places among the arguments of layer_forward after `cell`; in layer_backward the gradients of
# the outputs come before them.
_INPUT, _H_0, _RESET_H, _WEIGHTS, _BATCH_SIZES, _LENGTHS, _RESET = 0, 1, 3, 5, 15, 16, 17
_WEIGHT_IH, _WEIGHT_HH, _BIAS_IH, _BIAS_HH, _WEIGHT_HR = range(5)  # of a direction
_GATES = 15  # place of the gates' gradients among the results of layer_backward

# Which dimension the rows are: of the arguments after `cell`, of the outputs, and of `saved`.
_ROWS = {**dict.fromkeys(range(_WEIGHTS), 1), _LENGTHS: 0, _RESET: 1}
_OUTPUT_ROWS = (1, 1, 1, 2)
_SAVED_ROWS = 2

# Samples that share their input take a copy of it each: so many rows a call at most.
_MAX_COPIED_ROWS = 256

# A result, and which of its dimensions is that of the samples; None where it has no such.
_Result = tuple[Tensor, int | None]


def register() -> None:
    torch.library.register_vmap("fusedrnn::layer_forward", _layer_forward)
    torch.library.register_vmap("fusedrnn::layer_backward", _layer_backward)


def _layer_forward(info: Any, in_dims: Sequence[Any], cell: str, *args: Any) -> tuple[Any, Any]:
    op, dims = torch.ops.fusedrnn.layer_forward, in_dims[1:]
    if not _is_one_batch(args, dims):
        return _each(op, info.batch_size, (cell, *args), in_dims)

    def run(args: Sequence[Any], count: int) -> list[_Result]:
        folded = _fold(args, dims, _ROWS, count)
        results = op(cell, *folded)
        rows = (*_OUTPUT_ROWS, _SAVED_ROWS, _OUTPUT_ROWS[0])
        return [_unfold(result, place, count) for result, place in zip(results, rows, strict=True)]

    return _in_parts(run, args, dims, _INPUT, info.batch_size)


def _layer_backward(info: Any, in_dims: Sequence[Any], cell: str, *args: Any) -> tuple[Any, Any]:
    op, dims = torch.ops.fusedrnn.layer_backward, in_dims[1:]
    first = len(_OUTPUT_ROWS)  # place of the layer's own arguments
    *_, mask = args
    layer = args[first:]
    wanted = [
        place for place in range(_WEIGHTS, _GATES) if mask[place] and layer[place] is not None
    ]
    projected = any((place - _WEIGHTS) % 5 == _WEIGHT_HR for place in wanted)
    is_one_batch = _is_one_batch(layer, dims[first:])
    if projected or not is_one_batch:
        if is_one_batch and layer[_LENGTHS] is not None and _is_batched(dims[-2]):
            # The call that ran all samples saved their rows in the order of all lengths.
            forward = (cell, *layer[: _RESET + 1], True, False, layer[_RESET + 1])
            forward_dims = (None, *dims[first : first + _RESET + 1], None, None, None)
            results, _ = _each(
                torch.ops.fusedrnn.layer_forward, info.batch_size, forward, forward_dims
            )
            args, in_dims = (*args[:-2], results[4], mask), (*in_dims[:-2], 0, None)
        return _each(op, info.batch_size, (cell, *args), in_dims)

    rows = {
        **dict(enumerate(_OUTPUT_ROWS)),
        **{first + place: dim for place, dim in _ROWS.items()},
        len(args) - 3: _OUTPUT_ROWS[0],  # kept_output
        len(args) - 2: _SAVED_ROWS,
    }
    shared_mask = [wants and not _WEIGHTS <= place < _GATES for place, wants in enumerate(mask)]
    if wanted:
        shared_mask[_GATES:] = [True, True]

    # With lengths, the rows of `saved` lie in the order of all lengths of a call.
    runs_forward = layer[_LENGTHS] is not None and not _is_batched(dims[-2])

    def run(args: Sequence[Any], count: int) -> list[_Result]:
        folded = _fold(args, dims, rows, count)
        if runs_forward:
            *own, recompute = folded[first : first + _RESET + 2]
            forward = torch.ops.fusedrnn.layer_forward
            *_, folded[-2], folded[-3] = forward(cell, *own, True, False, recompute)
        grads = list(op(cell, *folded[:-1], shared_mask))
        results = [
            _unfold(grad, 2 if place >= _GATES else 1, count) for place, grad in enumerate(grads)
        ]
        output = folded[-3]
        samples = _WeightGrads(folded[first:], output, grads[_GATES:], count) if wanted else None
        for place in wanted:
            results[place] = (samples.grad(place - _WEIGHTS), 0)
        for place in (_GATES, _GATES + 1):
            if not mask[place]:
                results[place] = (output.new_empty(0), None)
        return results

    return _in_parts(run, args, dims, first + _INPUT, info.batch_size)


class _WeightGrads:
    """Gradients of the weights of each sample, from those of the gates; no projection.

    `layer` are the arguments from `input` on, `output` and `gates` ([D, T, V * B, G * H] of the
    input's side and of the state's) the rows of all samples.
    """

    def __init__(
        self, layer: Sequence[Any], output: Tensor, gates: Sequence[Tensor], count: int
    ) -> None:
        self._layer, self._gates, self._count = layer, gates, count
        self._h = split_directions(output, gates[0].size(0))
        self._valid = self._last = None
        if layer[_LENGTHS] is not None:
            self._valid, self._last = valid_steps(layer[_LENGTHS], output.size(0))

    def grad(self, place: int) -> Tensor:
        """`place`: among the weights of both directions. [V, ...]."""
        direction, weight = divmod(place, 5)
        side = 0 if weight in (_WEIGHT_IH, _BIAS_IH) else 1
        gates = self._samples(self._gates[side][direction])
        if weight in (_BIAS_IH, _BIAS_HH):
            return gates.sum(1)
        factor = self._layer[_INPUT] if side == 0 else self._entering(direction)
        if self._valid is not None:
            factor = torch.where(self._valid, factor, 0.0)
        return gates.mT @ self._samples(factor).conj()

    def _entering(self, direction: int) -> Tensor:
        h_0, reset_h = (
            None if state is None else state[direction]
            for state in (self._layer[_H_0], self._layer[_RESET_H])
        )
        reset = self._layer[_RESET]
        return entering_states(
            self._h[direction],
            h_0,
            None if reset is None else reset.unsqueeze(-1),
            reset_h,
            self._last,
            reverse=direction == 1,
        )

    def _samples(self, rows: Tensor) -> Tensor:
        """[T, V * B, W] as [V, T * B, W]."""
        return rows.unflatten(1, (self._count, -1)).movedim(1, 0).flatten(1, 2)


def _is_one_batch(layer: Sequence[Any], dims: Sequence[Any]) -> bool:
    shares_weights = all(dim is None for dim in dims[_WEIGHTS:_BATCH_SIZES])
    # An input that is missing is refused by the operator.
    return shares_weights and layer[_BATCH_SIZES] is None and layer[_INPUT] is not None


def _each(
    op: Callable[..., Sequence[Tensor]], count: int, args: Sequence[Any], in_dims: Sequence[Any]
) -> tuple[Any, Any]:
    """Sample after sample."""
    results = [
        op(*(arg.select(dim, idx) if _is_batched(dim) else arg for arg, dim in zip(args, in_dims)))
        for idx in range(count)
    ]
    stacked = tuple(torch.stack(values) for values in zip(*results))
    return stacked, (0,) * len(stacked)


def _in_parts(
    run: Callable[[Sequence[Any], int], list[_Result]],
    args: Sequence[Any],
    dims: Sequence[Any],
    input: int,
    count: int,
) -> tuple[Any, Any]:
    """All samples at once, or where they share the input so many that its copies stay small."""
    part = count
    if dims[input] is None:
        part = max(1, _MAX_COPIED_ROWS // max(args[input].size(1), 1))
    parts = []
    for first in range(0, count, part):
        size = min(part, count - first)
        taken = [
            arg.narrow(dim, first, size) if _is_batched(dim) else arg
            for arg, dim in zip(args, dims)
        ]
        parts.append(run(taken, size))
    joined = [_join(results) for results in zip(*parts, strict=True)]
    return tuple(result for result, _ in joined), tuple(dim for _, dim in joined)


def _join(parts: Sequence[_Result]) -> _Result:
    tensor, dim = parts[0]
    return (tensor, dim) if dim is None else (torch.cat([t for t, _ in parts], dim), dim)


def _fold(args: Sequence[Any], dims: Sequence[Any], rows: dict[int, int], count: int) -> list[Any]:
    """Samples side by side, as rows; those that share a tensor read the same memory."""
    folded = list(args)
    for place, row_dim in rows.items():
        tensor, dim = args[place], dims[place]
        if tensor is None:
            continue
        if dim is None:
            shape = (*tensor.shape[:row_dim], count, *tensor.shape[row_dim:])
            tensor = tensor.unsqueeze(row_dim).expand(shape)
        else:
            tensor = tensor.movedim(dim, row_dim)
        folded[place] = tensor.flatten(row_dim, row_dim + 1)
    return folded


def _unfold(tensor: Tensor, row_dim: int, count: int) -> _Result:
    """A result of all samples, apart again; what stands for an absent one has no rows."""
    if tensor.dim() == 1:
        return tensor, None
    return tensor.unflatten(row_dim, (count, -1)), row_dim


def _is_batched(dim: Any) -> bool:
    return isinstance(dim, int)
