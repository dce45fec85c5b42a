"""Arguments of one layer for the tests of the operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fusedrnn import ops, reference
from fusedrnn._quantized import QuantizedWeights
from fusedrnn.ops import LayerWeights

OPS = torch.ops.fusedrnn
GRADS = ("grad_output", "grad_h_n", "grad_c_n", "grad_c")
_WEIGHTS = (*LayerWeights._fields, *(f"{name}_reverse" for name in LayerWeights._fields))


class Layer(NamedTuple):
    """The arguments of `ops.layer_forward`."""

    cell: str
    input: Tensor
    h_0: Tensor | None
    c_0: Tensor | None
    weights: LayerWeights
    weights_reverse: LayerWeights | None = None
    batch_sizes: Tensor | None = None
    lengths: Tensor | None = None
    reset: Tensor | None = None
    reset_h: Tensor | None = None
    reset_c: Tensor | None = None
    return_c: bool = False
    recompute: int = 0

    def run(self, forward: Any) -> tuple[Tensor, ...]:
        """What `ops.layer_forward`, or a function like it, makes of them."""
        return forward(*self[:7], **dict(zip(self._fields[7:], self[7:], strict=True)))

    @property
    def tensors(self) -> dict[str, Tensor | None]:
        """What can have a gradient, by its name in the schema and in its order."""
        reverse = self.weights_reverse or LayerWeights(None, None)
        return {
            "input": self.input,
            "h_0": self.h_0,
            "c_0": self.c_0,
            **dict(zip(_WEIGHTS, (*self.weights, *reverse), strict=True)),
            "reset_h": self.reset_h,
            "reset_c": self.reset_c,
        }

    @property
    def sequence(self) -> dict[str, Tensor | None]:
        """Which rows each step has, and where their states are reset."""
        return {"batch_sizes": self.batch_sizes, "lengths": self.lengths, "reset": self.reset}

    @property
    def present(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.tensors.items() if tensor is not None}

    def replace(self, **changes: Tensor | None) -> Layer:
        """The same layer with some of `tensors` replaced."""
        tensors = self.tensors | changes
        weights = [tensors.pop(name) for name in _WEIGHTS]
        own, reverse = weights[: len(weights) // 2], weights[len(weights) // 2 :]
        return self._replace(
            weights=LayerWeights(*own),
            weights_reverse=None if reverse[0] is None else LayerWeights(*reverse),
            **tensors,
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> Layer:
        return self.replace(**{name: change(tensor) for name, tensor in self.present.items()})

    def leaves(self, dtype: torch.dtype | None = None) -> Layer:
        """Copies that require a gradient."""
        return self.map(lambda tensor: tensor.detach().clone().to(dtype).requires_grad_())

    def named_args(self, save: bool = False) -> dict[str, Any]:
        """What torch.ops.fusedrnn.layer_forward is given, by name: see `op_args`."""
        keep = {"save": save, "return_c": self.return_c, "recompute": self.recompute}
        return {"cell": self.cell, **self.tensors, **self.sequence, **keep}

    def forward_args(self, save: bool = False) -> tuple[Any, ...]:
        """The arguments of torch.ops.fusedrnn.layer_forward."""
        return op_args(OPS.layer_forward, self.named_args(save))


def op_args(op: Any, named: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments of an operator's schema, whose lists hold those of the tensors that are there.

    Each by the name of a tensor of the layer, `sizes` as batch_sizes or lengths.
    """
    weights = []
    for suffix in ("", "_reverse"):
        names = (f"{field}{suffix}" for field in QuantizedWeights._fields)
        weights += [named[name] for name in names if named.get(name) is not None]
    lengths, batch_sizes = named["lengths"], named["batch_sizes"]
    states = [named.get(name) for name in ("h_0", "c_0", "reset_h", "reset_c")]
    values = named | {
        "weights": weights,
        "sizes": lengths if batch_sizes is None else batch_sizes,
        "grads": [named.get(name) for name in GRADS],
        "kept": [named.get("saved"), named.get("kept_output")],
    }
    if values.get("mask") is None:
        count = 1 + len(weights) + sum(state is not None for state in states)
        values["mask"] = [True] * (count + 2)
    schema = getattr(op, "default", op)._schema
    return tuple(values[arg.name] for arg in schema.arguments)


def make_layer(
    cell: str,
    dtype: torch.dtype = torch.float64,
    *,
    sizes: tuple[int, int, int, int] = (4, 3, 5, 7),
    bidirectional: bool = False,
    packed: bool = False,
    proj_size: int = 0,
    bias: bool = True,
    state: bool = True,
    lengths: bool = False,
    reset: bool = False,
    return_c: bool = False,
    recompute: int = 0,
    device: str = "cpu",
) -> Layer:
    """A random layer; `sizes` are seq_len, batch_size, input_size and hidden_size. The same seed
    gives the same values on every device."""
    seq_len, batch_size, input_size, hidden_size = sizes
    kind = reference.CELLS[cell]
    gates, params, has_c = kind.gates, len(kind.param_names), kind.states == 2
    width = proj_size or hidden_size
    directions = 2 if bidirectional else 1

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, dtype=torch.float64) * scale).to(device, dtype)

    def draw_weights() -> LayerWeights:
        scale = hidden_size**-0.5
        return LayerWeights(
            draw(gates * hidden_size, input_size, scale=scale),
            draw(gates * hidden_size, width, scale=scale),
            draw(gates * hidden_size, scale=scale) if bias else None,
            draw(gates * hidden_size, scale=scale) if bias else None,
            draw(proj_size, hidden_size, scale=scale) if proj_size else None,
            draw(params * hidden_size, scale=scale / 2) if params else None,
        )

    batch_sizes = None
    input = draw(seq_len, batch_size, input_size)
    if packed:
        batch_sizes = torch.tensor([max(batch_size - step, 1) for step in range(seq_len)])
        input = draw(int(batch_sizes.sum()), input_size)
    layer = Layer(
        cell,
        input,
        draw(directions, batch_size, width) if state else None,
        draw(directions, batch_size, hidden_size) if state and has_c else None,
        draw_weights(),
        draw_weights() if bidirectional else None,
        batch_sizes,
        return_c=return_c,
        recompute=recompute,
    )
    if lengths:
        # Some rows are whole, some are empty; what lies beyond a length is no number.
        values = torch.arange(batch_size) * 5 % (seq_len + 1)
        beyond = torch.arange(seq_len)[:, None] >= values
        layer.input[beyond.to(device)] = float("nan")
        layer = layer._replace(lengths=values.to(device))
    if reset:
        layer = layer._replace(
            reset=(torch.rand(input.shape[:-1], dtype=torch.float64) < 0.4).to(device),
            reset_h=draw(directions, batch_size, width) if state else None,
            reset_c=layer.c_0 if layer.c_0 is None else draw(*layer.c_0.shape),
        )
    return layer


# What make_layer can vary, by name; projection is for cells that can be projected.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "nobias": {"bias": False, "state": False},
    "both": {"bidirectional": True},
    "packed": {"packed": True, "bidirectional": True},
    "packed_zeros": {"packed": True, "state": False},
    "projection": {"proj_size": 3, "bidirectional": True},
    "packed_projection": {"proj_size": 3, "packed": True, "bidirectional": True},
    "lengths": {"lengths": True, "bidirectional": True},
    "lengths_zeros": {"lengths": True, "state": False, "return_c": True},
    "reset": {"reset": True, "bidirectional": True},
    "reset_zeros": {"reset": True, "state": False, "return_c": True},
    "packed_reset": {"reset": True, "packed": True, "bidirectional": True},
    "states": {"return_c": True, "bidirectional": True},
    "recompute": {"recompute": 2, "bidirectional": True},
    "everything": {
        **{"lengths": True, "reset": True, "return_c": True, "recompute": 1},
        "bidirectional": True,
    },
    "projection_everything": {
        **{"lengths": True, "reset": True, "return_c": True, "recompute": 3},
        **{"proj_size": 3, "bidirectional": True},
    },
}
CELL_VARIANTS = [
    (cell, variant)
    for cell in reference.CELLS
    for variant in VARIANTS
    if reference.CELLS[cell].has_projection or "projection" not in variant
]


def results(forward: Any, layer: Layer) -> dict[str, Tensor]:
    """Every result and every gradient, by name; the loss depends on all results."""
    layer = layer.leaves()
    named = dict(zip(("output", "h_n", "c_n", "c"), layer.run(forward), strict=True))
    noise = torch.Generator().manual_seed(7)
    loss = sum(
        (
            result
            * torch.randn(result.shape, generator=noise, dtype=torch.float64).to(result.device)
        ).sum()
        for result in named.values()
    )
    grads = torch.autograd.grad(loss, list(layer.present.values()))
    return named | {f"grad_{n}": g for n, g in zip(layer.present, grads, strict=True)}


def oracle(layer: Layer) -> dict[str, Tensor]:
    """`results` of the reference in float64."""
    return results(reference.layer_forward, layer.leaves(torch.float64))


def operator(layer: Layer) -> dict[str, Tensor]:
    """`results` of the operator."""
    return results(ops.layer_forward, layer)


def named_backward_args(layer: Layer) -> dict[str, Any]:
    """What layer_backward is given after a forward, by name: see `op_args`."""
    *outputs, saved, kept_output = OPS.layer_forward(*layer.forward_args(save=True))
    grads = [torch.randn_like(result) if result.numel() else None for result in outputs]
    return {
        "cell": layer.cell,
        **dict(zip(GRADS, grads, strict=True)),
        **layer.tensors,
        **layer.sequence,
        "recompute": layer.recompute,
        "saved": saved,
        "kept_output": kept_output,
        "mask": None,  # everything
    }


def backward_args(layer: Layer, **changes: Any) -> tuple[Any, ...]:
    """The arguments of layer_backward after a forward, with some changed by name."""
    args = named_backward_args(layer)
    assert not changes.keys() - args.keys()
    return op_args(OPS.layer_backward, args | changes)
