"""Gradients of each sample by torch.nn.utils._per_sample_grad.call_for_per_sample_grads.

It passes weights as ExpandedWeights, whose rule for an operator is registered here: backward leaves
each sample's gradient of a weight in its `grad_sample`. As with torch.nn's layers, samples are the
rows of the batch; of a packed sequence, in its order.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils._expanded_weights import ExpandedWeight
from torch.nn.utils._expanded_weights.expanded_weights_impl import HANDLED_FUNCTIONS
from torch.nn.utils._expanded_weights.expanded_weights_utils import set_grad_sample_if_exists
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

# Which dimension the rows are of layer_forward's arguments (place 0 is `cell`) and results.
_INPUT, _LENGTHS, _RESET = 1, 17, 18
_ROWS = {**dict.fromkeys(range(_INPUT, 6), 1), _LENGTHS: 0, _RESET: 1}
_RESULT_ROWS = (1, 1, 1, 2)


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


def _layer_forward(cell: str, input: Tensor, *others: Any) -> tuple[Tensor, ...]:
    *tensors, batch_sizes, lengths, reset, save, return_c, recompute = others
    if batch_sizes is None:
        return _PerSample.apply(cell, input, *others)
    if reset is not None or return_c:
        raise RuntimeError(
            "per-sample gradients: expected lengths with reset or return_c, got batch_sizes"
        )
    padded, lengths = pad_packed_sequence(PackedSequence(input, batch_sizes))
    options = (None, lengths.to(input.device), None, save, False, recompute)
    output, *states = _layer_forward(cell, padded, *tensors, *options)
    return pack_padded_sequence(output, lengths).data, *states


def _plain_layer_forward(cell: str, *tensors: Tensor | None) -> tuple[Tensor, ...]:
    states, weights = tensors[:3], tensors[3:]
    layer = (*states, None, None, *weights, *[None] * 8)
    return _layer_forward(cell, *layer, False, False, 0)[:3]


def _cell_forward(cell: str, *tensors: Tensor | None) -> tuple[Tensor, Tensor]:
    states, weights = tensors[:3], tensors[3:]
    missing = (0,) if states[0].dim() > 1 else (0, 1)  # the step, and the batch of one row
    for dim in missing:
        states = tuple(None if state is None else state.unsqueeze(dim) for state in states)
    _, h, c = _plain_layer_forward(cell, *states, *weights)
    has_c = c.dim() > 1
    for _ in missing:
        h, c = h.squeeze(0), c.squeeze(0) if has_c else c
    return h, c


class _PerSample(torch.autograd.Function):
    """layer_forward without batch_sizes; its backward runs it once more, sample by sample."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, ...]:
        batch_size = args[_INPUT].size(1)
        for arg in args:
            if isinstance(arg, ExpandedWeight) and arg.batch_size != batch_size:
                raise RuntimeError(
                    f"batch_size: expected {batch_size}, that of the layer's input, got "
                    f"{arg.batch_size}; pass batch_size= or the module's own batch_first="
                )
        ctx.args = args
        return torch.ops.fusedrnn.layer_forward.default(*map(_original, args))[:4]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        plain = dict(enumerate(map(_original, ctx.args)))
        weights = {p: plain[p] for p, arg in enumerate(ctx.args) if isinstance(arg, ExpandedWeight)}
        rows = {place: dim for place, dim in _ROWS.items() if plain[place] is not None}
        asked = {place: dim for place, dim in rows.items() if ctx.needs_input_grad[place]}
        results = {place: dim for place, dim in enumerate(_RESULT_ROWS) if grads[place].dim() > 1}

        def pull_back(
            samples: dict[int, Tensor], sample_grads: dict[int, Tensor]
        ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
            def run(weights: dict[int, Tensor], inputs: dict[int, Tensor]) -> dict[int, Tensor]:
                given = {p: row.unsqueeze(rows[p]) for p, row in (samples | inputs).items()}
                args = (plain | given | weights).values()
                found = torch.ops.fusedrnn.layer_forward.default(*args)
                return {place: found[place].squeeze(dim) for place, dim in results.items()}

            pull = torch.func.vjp(run, weights, {place: samples[place] for place in asked})[1]
            return pull(sample_grads)

        weight_grads, input_grads = torch.vmap(
            pull_back,
            in_dims=(rows, results),
            out_dims=(dict.fromkeys(weights, 0), asked),  # type: ignore[arg-type]  # any pytree
        )({place: plain[place] for place in rows}, {place: grads[place] for place in results})
        for place, grad in weight_grads.items():
            set_grad_sample_if_exists(ctx.args[place], lambda _, grad=grad: grad)
        return tuple(input_grads.get(place) for place in range(len(ctx.args)))


def _original(arg: Any) -> Any:
    return arg.orig_weight if isinstance(arg, ExpandedWeight) else arg
