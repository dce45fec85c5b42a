"""Gradients of each sample by torch.nn.utils._per_sample_grad.call_for_per_sample_grads.

It passes weights as ExpandedWeights, whose rule for an operator is registered here: backward leaves
each sample's gradient of a weight in its `grad_sample`. As with torch.nn's layers, samples are the
rows of the batch; of a packed sequence, in its order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils._expanded_weights import ExpandedWeight
from torch.nn.utils._expanded_weights.expanded_weights_impl import HANDLED_FUNCTIONS
from torch.nn.utils._expanded_weights.expanded_weights_utils import set_grad_sample_if_exists
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map, tree_unflatten

from fusedrnn._layer import RESULT_ROW_DIMS, LayerArgs


def register() -> None:
    ops = torch.ops.fusedrnn
    rules = (
        (ops.layer_forward, _layer_forward),
        (ops.plain_layer_forward, _plain_layer_forward),
        (ops.cell_forward, _cell_forward),
    )
    for op, rule in rules:
        handler = SimpleNamespace(apply=_without_names(rule))  # torch calls `apply`, and no more
        HANDLED_FUNCTIONS[op.default] = handler  # type: ignore[assignment]


def _without_names(rule: Callable[..., Any]) -> Callable[..., Any]:
    """ExpandedWeight passes the names of keywords, of which there are none, and the operator."""
    return lambda _names, _op, *args: rule(*args)


def _layer_forward(*args: Any) -> tuple[Tensor, ...]:
    layer = LayerArgs(*args)
    if not layer.is_packed:
        leaves, spec = tree_flatten(layer)
        return _PerSample.apply(spec, *leaves)
    if layer.reset is not None or layer.return_c:
        raise RuntimeError(
            "per-sample gradients: expected lengths with reset or return_c, got batch_sizes"
        )
    padded, lengths = pad_packed_sequence(PackedSequence(layer.input, layer.sizes))
    output, *states = _layer_forward(*layer._replace(input=padded, sizes=lengths.to(padded.device)))
    return pack_padded_sequence(output, lengths).data, *states


def _plain_layer_forward(*args: Any) -> tuple[Tensor, ...]:
    return _layer_forward(*args)[:3]


def _cell_forward(
    cell: str, input: Tensor, h: Tensor | None, c: Tensor | None, weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    missing = (0,) if input.dim() > 1 else (0, 1)  # the step, and the batch of one row
    for dim in missing:
        input, h, c = (None if t is None else t.unsqueeze(dim) for t in (input, h, c))
    _, h, c = _plain_layer_forward(cell, input, h, c, weights)
    has_c = c.dim() > 1
    for _ in missing:
        h, c = h.squeeze(0), c.squeeze(0) if has_c else c
    return h, c


class _PerSample(torch.autograd.Function):
    """layer_forward without batch_sizes; its backward runs it once more, sample by sample.

    Its arguments are the leaves of `LayerArgs` after their tree.
    """

    @staticmethod
    def forward(ctx: Any, spec: TreeSpec, *leaves: Any) -> tuple[Tensor, ...]:
        layer = LayerArgs(*tree_unflatten(list(leaves), spec))
        batch_size = layer.input.size(1)
        for leaf in leaves:
            if isinstance(leaf, ExpandedWeight) and leaf.batch_size != batch_size:
                raise RuntimeError(
                    f"batch_size: expected {batch_size}, that of the layer's input, got "
                    f"{leaf.batch_size}; pass batch_size= or the module's own batch_first="
                )
        ctx.spec, ctx.leaves = spec, leaves
        ctx.row_dims = tree_leaves(layer.row_dims())
        return torch.ops.fusedrnn.layer_forward.default(*tree_map(_original, layer))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        plain = dict(enumerate(map(_original, ctx.leaves)))
        weights = {
            place: plain[place]
            for place, leaf in enumerate(ctx.leaves)
            if isinstance(leaf, ExpandedWeight)
        }
        rows = {place: dim for place, dim in enumerate(ctx.row_dims) if dim is not None}
        asked = {place: dim for place, dim in rows.items() if ctx.needs_input_grad[1 + place]}
        results = {p: dim for p, dim in enumerate(RESULT_ROW_DIMS) if grads[p].dim() > 1}

        def pull_back(
            samples: dict[int, Tensor], sample_grads: dict[int, Tensor]
        ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
            def run(weights: dict[int, Tensor], inputs: dict[int, Tensor]) -> dict[int, Tensor]:
                given = {p: row.unsqueeze(rows[p]) for p, row in (samples | inputs).items()}
                leaves = list((plain | given | weights).values())
                found = torch.ops.fusedrnn.layer_forward.default(*tree_unflatten(leaves, ctx.spec))
                return {place: found[place].squeeze(dim) for place, dim in results.items()}

            pull = torch.func.vjp(run, weights, {place: samples[place] for place in asked})[1]
            return pull(sample_grads)

        weight_grads, input_grads = torch.vmap(
            pull_back,
            in_dims=(rows, results),
            out_dims=(dict.fromkeys(weights, 0), asked),  # type: ignore[arg-type]  # any pytree
        )({place: plain[place] for place in rows}, {place: grads[place] for place in results})
        for place, grad in weight_grads.items():
            set_grad_sample_if_exists(ctx.leaves[place], lambda _, grad=grad: grad)
        return None, *(input_grads.get(place) for place in range(len(ctx.leaves)))


def _original(arg: Any) -> Any:
    return arg.orig_weight if isinstance(arg, ExpandedWeight) else arg
