"""What the fuzzer compares operators with: `fusedrnn.reference` and autograd, by argument names."""

from __future__ import annotations

import functools
from typing import Any

import torch
from layer_cases import GRADS
from torch import Tensor

from fusedrnn import ops, reference


def _weights(args: dict[str, Any], suffix: str = "") -> Any:
    values = {name: args.get(name + suffix) for name in ops.LayerWeights._fields}
    for name in ("ih", "hh", "hr"):
        scale = args.get(f"scale_{name}{suffix}")
        if scale is not None:
            values[f"weight_{name}"] = values[f"weight_{name}"] * scale.unsqueeze(1)
    return None if values["weight_ih"] is None else ops.LayerWeights(**values)


def layer_oracle(**args: Any) -> tuple[Tensor, ...]:
    results = reference.layer_forward(
        args["cell"],
        args["input"],
        args["h_0"],
        args["c_0"],
        _weights(args),
        _weights(args, "_reverse"),
        args.get("batch_sizes"),
        lengths=args.get("lengths"),
        reset=args.get("reset"),
        reset_h=args.get("reset_h"),
        reset_c=args.get("reset_c"),
        return_c=args.get("return_c", False),
    )
    return results if "return_c" in args else results[:3]


def cell_oracle(**args: Any) -> tuple[Tensor, ...]:
    lead = (None,) if args["input"].dim() == 2 else (None, None)
    sequence = {name: args[key] for name, key in (("input", "input"), ("h_0", "h"), ("c_0", "c"))}
    sequence = {name: None if t is None else t[lead] for name, t in sequence.items()}
    _, h_n, c_n = layer_oracle(cell=args["cell"], **sequence, **_only_weights(args))
    at = (0,) * len(lead)
    return h_n[at], c_n[at] if c_n.dim() > 1 else c_n


def _only_weights(args: dict[str, Any]) -> dict[str, Any]:
    return {name: args[name] for name in ops.LayerWeights._fields}


def backward_oracle(**args: Any) -> tuple[Tensor, ...]:
    """The gradients of the layer's tensors by autograd through the reference."""
    names = list(_tensor_names())
    leaves = {
        name: args[name].detach().requires_grad_() for name in names if args[name] is not None
    }
    results = layer_oracle(**args | leaves, return_c=True)
    pairs = [
        (result, args[grad])
        for result, grad in zip(results, GRADS, strict=True)
        if args[grad] is not None
    ]
    grads = iter(
        torch.autograd.grad(
            [result for result, _ in pairs],
            list(leaves.values()),
            [grad for _, grad in pairs],
            materialize_grads=True,
        )
        if pairs
        else [torch.zeros_like(leaf) for leaf in leaves.values()]
    )
    empty = args["input"].new_empty(0)
    return tuple(
        grad if wanted else empty
        for grad, wanted in (
            (next(grads) if name in leaves else empty, wanted)
            for name, wanted in zip(names, args["output_mask"])
        )
    )


@functools.cache
def _tensor_names() -> tuple[str, ...]:
    """The tensors of a layer that can have a gradient, in the schemas' order."""
    schema = torch.ops.fusedrnn.layer_backward.default._schema
    names = [arg.name for arg in schema.arguments]
    return tuple(names[names.index("input") : names.index("batch_sizes")])
