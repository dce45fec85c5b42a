"""The weights of a layer, as the operators take them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LayerWeights"]


class LayerWeights(NamedTuple):
    """Weights of one layer in one direction, in torch's layout and gate order.

    Biases come both or neither; `weight_hr` is the projection of a cell that can be projected;
    `params` are the M learnable values a unit of a cell that has such, in the order of their names.
    """

    weight_ih: Tensor  # [G * H, input_size]
    weight_hh: Tensor  # [G * H, P]
    bias_ih: Tensor | None = None  # [G * H]
    bias_hh: Tensor | None = None  # [G * H]
    weight_hr: Tensor | None = None  # [P, H]
    params: Tensor | None = None  # [M * H]

    @property
    def dtype(self) -> torch.dtype:
        """What input, states and output have."""
        return self.weight_ih.dtype

    def dequantize(self) -> LayerWeights:
        """These; those that `QuantizedWeights` stand for."""
        return self
