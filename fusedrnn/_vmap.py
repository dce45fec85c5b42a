"""Rules for `torch.vmap` over the operators.

Samples become rows of one larger batch wherever they share the weights: one call runs all of them.
Gradients of the weights, sample by sample, are products of the gradients of the gates, which such
a call returns. What cannot be one batch, weights that differ (an ensemble) and packed sequences,
runs sample after sample.

Shapes are those of csrc/bindings/library.cpp, with V samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fusedrnn._layer import RESULT_ROW_DIMS, LayerArgs
from fusedrnn._steps import entering_states, split_directions, valid_steps

_SAVED_ROW_DIM, _KEPT_OUTPUT_ROW_DIM = 2, 1

# Samples that share their input take a copy of it each: so many rows a call at most.
_MAX_COPIED_ROWS = 256

# A result, and which of its dimensions is that of the samples; None where it has no such.
_Result = tuple[Tensor, int | None]


class _Backward(NamedTuple):
    """The arguments of layer_backward, or their dimensions of samples."""

    cell: str
    grads: Sequence[Any]
    input: Any
    h_0: Any
    c_0: Any
    weights: Sequence[Any]
    sizes: Any
    reset: Any
    reset_h: Any
    reset_c: Any
    recompute: int
    kept: Sequence[Any]
    mask: Sequence[Any]

    @property
    def layer(self) -> LayerArgs:
        """The arguments with which layer_forward saved what `kept` holds."""
        return LayerArgs(self.cell, *self[2:10], True, False, self.recompute)

    def row_dims(self) -> _Backward:
        """As `LayerArgs.row_dims`."""
        kept = [_SAVED_ROW_DIM, _KEPT_OUTPUT_ROW_DIM]
        nothing = [None] * len(self.mask)
        return _Backward(
            None, list(RESULT_ROW_DIMS), *self.layer.row_dims()[1:9], None, kept, nothing
        )


def register() -> None:
    torch.library.register_vmap("fusedrnn::layer_forward", _layer_forward)
    torch.library.register_vmap("fusedrnn::layer_backward", _layer_backward)
    torch.library.register_vmap("fusedrnn::quantized_forward", _quantized_forward)


def _layer_forward(info: Any, in_dims: Sequence[Any], *args: Any) -> tuple[Any, Any]:
    op, layer, dims = torch.ops.fusedrnn.layer_forward, LayerArgs(*args), LayerArgs(*in_dims)
    if not _is_one_batch(layer, dims):
        results, places = _each(op, info.batch_size, layer, dims)
        return tuple(results), tuple(places)

    def run(layer: LayerArgs, count: int) -> list[_Result]:
        results = op(*_fold(layer, dims, count))
        rows = (*RESULT_ROW_DIMS, _SAVED_ROW_DIM, _KEPT_OUTPUT_ROW_DIM)
        return [_unfold(result, place, count) for result, place in zip(results, rows, strict=True)]

    results, places = _in_parts(run, layer, dims, info.batch_size)
    return tuple(results), tuple(places)


def _quantized_forward(info: Any, in_dims: Sequence[Any], *args: Any) -> tuple[Any, Any]:
    """A sample alone has other bits than in a batch, where the CPU reads weights in place."""
    op = torch.ops.fusedrnn.quantized_forward
    results, places = _each(op, info.batch_size, args, tuple(in_dims))
    return tuple(results), tuple(places)


def _layer_backward(info: Any, in_dims: Sequence[Any], *args: Any) -> tuple[Any, Any]:
    op, call, dims = torch.ops.fusedrnn.layer_backward, _Backward(*args), _Backward(*in_dims)
    layer = call.layer
    names = _sample(layer, dims.layer, 0).mask_names()
    if len(names) != len(call.mask):
        return _each(op, info.batch_size, call, dims)  # which refuses it
    asked = [name for name, wants in zip(names, call.mask, strict=True) if wants]
    weights = [name for name in asked if isinstance(name, tuple)]
    is_one_batch = _is_one_batch(layer, dims.layer)
    saved_together = layer.sizes is not None and _is_batched(dims.kept[0])
    if any(field in ("weight_hr", "params") for _, field in weights) or not is_one_batch:
        if is_one_batch and saved_together:
            # The call that ran all samples saved their rows in the order of all lengths.
            forward = torch.ops.fusedrnn.layer_forward
            results, _ = _each(forward, info.batch_size, layer, dims.layer)
            call = call._replace(kept=[results[4], call.kept[1]])
            dims = dims._replace(kept=[0, dims.kept[1]])
        return _each(op, info.batch_size, call, dims)

    # Those of all samples; a weight's own are made from those of the gates.
    shared = [name for name in asked if not isinstance(name, tuple)]
    if weights:
        shared += [name for name in ("gates_x", "gates_r") if name not in shared]
    mask = [name in shared for name in names]

    def run(call: _Backward, count: int) -> list[_Result]:
        folded = _fold(call, dims, count)
        if layer.sizes is not None and not saved_together:
            # With lengths, the rows of `saved` lie in the order of all lengths of a call.
            *_, saved, kept_output = torch.ops.fusedrnn.layer_forward(*folded.layer)
            folded = folded._replace(kept=[saved, kept_output])
        found = (name for name in names if name in shared)
        grads = dict(zip(found, op(*folded._replace(mask=mask)), strict=True))
        results: dict[Any, _Result] = {
            name: _unfold(grad, 2 if name in ("gates_x", "gates_r") else 1, count)
            for name, grad in grads.items()
        }
        if weights:
            gates = (grads["gates_x"], grads["gates_r"])
            own = _weight_grads(folded, weights, gates, count)
            results |= {name: (grad, 0) for name, grad in zip(weights, own, strict=True)}
        return [results[name] for name in asked]

    return _in_parts(run, call, dims, info.batch_size)


def _weight_grads(
    call: _Backward, wanted: Sequence[tuple[int, str]], gates: Sequence[Tensor], count: int
) -> Iterator[Tensor]:
    """Gradients [V, ...] of weights and biases of each sample, from those of the gates.

    `call` has the rows of all samples, `gates` are [D, T, V * B, G * H] of the input's side and of
    the state's.
    """
    output = call.kept[1]
    h = split_directions(output, gates[0].size(0))
    valid = last = None
    if call.sizes is not None:
        valid, last = valid_steps(call.sizes, output.size(0))

    def by_sample(rows: Tensor) -> Tensor:
        """[T, V * B, W] as [V, T * B, W]."""
        return rows.unflatten(1, (count, -1)).movedim(1, 0).flatten(1, 2)

    def entering(direction: int) -> Tensor:
        return entering_states(
            h[direction],
            None if call.h_0 is None else call.h_0[direction],
            None if call.reset is None else call.reset.unsqueeze(-1),
            None if call.reset_h is None else call.reset_h[direction],
            last,
            reverse=direction == 1,
        )

    for direction, field in wanted:
        is_input_side = field.endswith("_ih")
        grad = by_sample(gates[0 if is_input_side else 1][direction])
        if field.startswith("bias"):
            yield grad.sum(1)
            continue
        factor = call.input if is_input_side else entering(direction)
        if valid is not None:
            factor = torch.where(valid, factor, 0.0)
        yield grad.mT @ by_sample(factor).conj()


def _is_one_batch(layer: LayerArgs, dims: LayerArgs) -> bool:
    # An input that is missing is refused by the operator.
    if layer.input is None or any(dim is not None for dim in dims.weights):
        return False
    return layer.sizes is None or layer.input.dim() - _is_batched(dims.input) == 3


def _each(op: Callable[..., Sequence[Tensor]], count: int, args: Any, dims: Any) -> tuple[Any, Any]:
    """Sample after sample."""
    results = [op(*_sample(args, dims, idx)) for idx in range(count)]
    stacked = [torch.stack(values) for values in zip(*results)]
    return stacked, [0] * len(stacked)


def _sample(args: Any, dims: Any, idx: int) -> Any:
    """The arguments of one."""
    return tree_map(lambda arg, dim: arg.select(dim, idx) if _is_batched(dim) else arg, args, dims)


def _in_parts(
    run: Callable[[Any, int], list[_Result]], args: Any, dims: Any, count: int
) -> tuple[Any, Any]:
    """All samples at once, or where they share the input so many that its copies stay small."""
    part = count
    if dims.input is None:
        part = max(1, _MAX_COPIED_ROWS // max(args.input.size(1), 1))
    parts = []
    for first in range(0, count, part):
        size = min(part, count - first)

        def take(arg: Any, dim: Any, first: int = first, size: int = size) -> Any:
            return arg.narrow(dim, first, size) if _is_batched(dim) else arg

        parts.append(run(tree_map(take, args, dims), size))
    joined = [_join(results) for results in zip(*parts, strict=True)]
    return [result for result, _ in joined], [dim for _, dim in joined]


def _join(parts: Sequence[_Result]) -> _Result:
    tensor, dim = parts[0]
    return (tensor, dim) if dim is None else (torch.cat([t for t, _ in parts], dim), dim)


def _fold(args: Any, dims: Any, count: int) -> Any:
    """Samples side by side, as rows; those that share a tensor read the same memory."""

    def fold(arg: Any, dim: Any, row_dim: Any) -> Any:
        if arg is None or row_dim is None:
            return arg
        if dim is None:
            shape = (*arg.shape[:row_dim], count, *arg.shape[row_dim:])
            arg = arg.unsqueeze(row_dim).expand(shape)
        else:
            arg = arg.movedim(dim, row_dim)
        return arg.flatten(row_dim, row_dim + 1)

    return tree_map(fold, args, dims, args.row_dims())


def _unfold(tensor: Tensor, row_dim: int, count: int) -> _Result:
    """A result of all samples, apart again; what stands for an absent one has no rows."""
    if tensor.dim() == 1:
        return tensor, None
    return tensor.unflatten(row_dim, (count, -1)), row_dim


def _is_batched(dim: Any) -> bool:
    return type(dim) is int  # flags are none
