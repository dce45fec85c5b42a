"""A layer as the operators are given it, by the names of their schemas.

The schemas and the shapes of all tensors are in csrc/bindings/library.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fusedrnn._cells import CELLS
from fusedrnn._quantized import QuantizedWeights
from fusedrnn._weights import LayerWeights

__all__ = ["RESULT_ROW_DIMS", "LayerArgs", "list_weights", "split_weights", "weight_names"]

_STATES = ("h_0", "c_0", "reset_h", "reset_c")


class LayerArgs(NamedTuple):
    """The arguments of layer_forward."""

    cell: str
    input: Tensor
    h_0: Tensor | None
    c_0: Tensor | None
    weights: Sequence[Tensor]
    sizes: Tensor | None = None
    reset: Tensor | None = None
    reset_h: Tensor | None = None
    reset_c: Tensor | None = None
    save: bool = False
    return_c: bool = False
    recompute: int = 0

    @property
    def is_packed(self) -> bool:
        return self.sizes is not None and self.input.dim() == 2

    @property
    def states(self) -> dict[str, Tensor]:
        """Those that there are, by name."""
        named = {name: getattr(self, name) for name in _STATES}
        return {name: state for name, state in named.items() if state is not None}

    def mask_names(self) -> list[str | tuple[int, str]]:
        """What each value of layer_backward's mask is for; weights as `weight_names` has them."""
        first = ("h_0", "c_0")
        return [
            "input",
            *(name for name in self.states if name in first),
            *weight_names(self.cell, self.weights),
            *(name for name in self.states if name not in first),
            *("gates_x", "gates_r"),
        ]

    def row_dims(self) -> LayerArgs:
        """Which dimension of each tensor the rows are, of a layer that is not packed; else None."""
        dims: dict[str, Any] = dict.fromkeys(self._fields)
        dims |= {"input": 1, "sizes": 0, "reset": 1} | dict.fromkeys(_STATES, 1)
        dims = {name: None if getattr(self, name) is None else dim for name, dim in dims.items()}
        return LayerArgs(**dims | {"weights": [None] * len(self.weights)})


RESULT_ROW_DIMS = (1, 1, 1, 2)  # of output, h_n, c_n and c


def weight_names(cell: str, weights: Sequence[Tensor]) -> list[tuple[int, str]]:
    """The direction of each weight, and its field in `QuantizedWeights`; [] for what cannot be."""
    matrices = sum(weight.dim() == 2 for weight in weights)
    directions = 2 if matrices > 3 else 1
    own = matrices // directions
    is_stored = bool(weights) and weights[0].dtype == torch.int8
    exists = {
        "weight_hr": own == 3,
        "params": cell in CELLS and bool(CELLS[cell].param_names),
        "scale_ih": is_stored,
        "scale_hh": is_stored,
        "scale_hr": is_stored and own == 3,
    }
    fields = [field for field in QuantizedWeights._fields if exists.get(field, True)]
    if len(weights) == directions * (len(fields) - 2):
        fields = [field for field in fields if not field.startswith("bias")]
    if (
        cell not in CELLS
        or matrices != directions * own
        or own not in (2, 3)
        or len(weights) != directions * len(fields)
    ):
        return []
    return [(direction, field) for direction in range(directions) for field in fields]


def split_weights(names: Sequence[tuple[int, str]], weights: Sequence[Any]) -> list[Any]:
    """What `weights` has for each of `names`, a `QuantizedWeights` a direction."""
    directions: list[dict[str, Any]] = [{}, {}]
    for (direction, field), weight in zip(names, weights, strict=True):
        directions[direction][field] = weight
    return [QuantizedWeights(**fields) for fields in directions if fields]


def list_weights(
    weights: LayerWeights | QuantizedWeights,
    weights_reverse: LayerWeights | QuantizedWeights | None = None,
) -> list[Tensor]:
    """Those that there are, in the schemas' order."""
    if weights_reverse is not None:
        return list_weights(weights) + list_weights(weights_reverse)
    return [weight for weight in weights if weight is not None]
