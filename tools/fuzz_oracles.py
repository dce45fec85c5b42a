"""What the fuzzer compares operators with: `fusedrnn.reference` and autograd, by argument names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from fusedrnn import reference
from fusedrnn._layer import split_weights, weight_names
from fusedrnn._quantized import QuantizedWeights
from fusedrnn._weights import LayerWeights


def _restore(weights: QuantizedWeights) -> LayerWeights:
    """In the dtype that they have, but int8 times its scales."""
    fields = weights._asdict()
    for side in ("ih", "hh", "hr"):
        scale = fields.pop(f"scale_{side}")
        if scale is not None:
            fields[f"weight_{side}"] = fields[f"weight_{side}"] * scale.unsqueeze(1)
    return LayerWeights(**fields)


def layer_oracle(**args: Any) -> tuple[Tensor, ...]:
    names = weight_names(args["cell"], args["weights"])
    directions = [_restore(each) for each in split_weights(names, args["weights"])]
    sizes, is_packed = args.get("sizes"), args["input"].dim() == 2
    return reference.layer_forward(
        args["cell"],
        args["input"],
        args["h_0"],
        args["c_0"],
        *(*directions, None)[:2],
        sizes if is_packed else None,
        lengths=None if is_packed else sizes,
        reset=args.get("reset"),
        reset_h=args.get("reset_h"),
        reset_c=args.get("reset_c"),
        return_c=args.get("return_c", False),
    )


def cell_oracle(**args: Any) -> tuple[Tensor, ...]:
    lead = (None,) if args["input"].dim() == 2 else (None, None)
    sequence = {name: args[key] for name, key in (("input", "input"), ("h_0", "h"), ("c_0", "c"))}
    sequence = {name: None if t is None else t[lead] for name, t in sequence.items()}
    _, h_n, c_n, _ = layer_oracle(**args | sequence)
    at = (0,) * len(lead)
    return h_n[at], c_n[at] if c_n.dim() > 1 else c_n


def backward_oracle(**args: Any) -> tuple[Tensor, ...]:
    """The gradients of the layer's tensors by autograd through the reference."""
    names = ("input", "h_0", "c_0", "weights", "reset_h", "reset_c")  # in the mask's order
    given = tree_map_only(
        Tensor, lambda t: t.detach().requires_grad_(), {name: args[name] for name in names}
    )
    leaves = [leaf for leaf in tree_leaves(given) if leaf is not None]
    results = layer_oracle(**args | given, return_c=True)
    pairs = [
        (result, grad)
        for result, grad in zip(results, args["grads"], strict=True)
        if grad is not None
    ]
    grads = (
        torch.autograd.grad(
            [result for result, _ in pairs],
            leaves,
            [grad for _, grad in pairs],
            materialize_grads=True,
        )
        if pairs
        else [torch.zeros_like(leaf) for leaf in leaves]
    )
    return tuple(grad for grad, is_wanted in zip(grads, args["mask"]) if is_wanted)
