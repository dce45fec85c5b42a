"""Weights in fewer bytes than float32: how they are stored, and what they stand for.

bfloat16 and float16 hold each element rounded. int8 holds multiples of one float32 scale a row, as
each row makes one sum: scale = max |row| / 127, element = round(row / scale).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fusedrnn._weights import LayerWeights

DTYPES = (torch.bfloat16, torch.float16, torch.int8)

_LARGEST = 127


class QuantizedWeights(NamedTuple):
    """`LayerWeights` of a float32 layer for inference, its matrices in one of `DTYPES`.

    Scales are float32, one a row of the matrix, with int8; else None. The others are float32.
    """

    weight_ih: Tensor  # [G * H, input_size]
    weight_hh: Tensor  # [G * H, P]
    bias_ih: Tensor | None = None  # [G * H]
    bias_hh: Tensor | None = None  # [G * H]
    weight_hr: Tensor | None = None  # [P, H]
    params: Tensor | None = None  # [M * H]
    scale_ih: Tensor | None = None  # [G * H]
    scale_hh: Tensor | None = None  # [G * H]
    scale_hr: Tensor | None = None  # [P]

    @property
    def dtype(self) -> torch.dtype:
        """What input, states and output have."""
        return torch.float32

    def dequantize(self) -> LayerWeights:
        """The float32 weights that these stand for."""
        weight_ih, weight_hh, bias_ih, bias_hh, weight_hr, params, *scales = self
        stored = (weight_ih, weight_hh, weight_hr)
        ih, hh, hr = (_restore(weight, scale) for weight, scale in zip(stored, scales, strict=True))
        return LayerWeights(ih, hh, bias_ih, bias_hh, hr, params)


def store(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """A float32 matrix in `dtype`, and its scales where it has such."""
    if dtype != torch.int8:
        return weight.to(dtype), None
    largest = weight.abs().amax(1) if weight.size(1) > 0 else weight.new_zeros(weight.size(0))
    # A row of zeros, or of so small numbers that the division would overflow, becomes zeros.
    scale = (largest / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    stored = (weight / scale.unsqueeze(1)).round().clamp(-_LARGEST, _LARGEST)
    return stored.to(torch.int8), scale


def _restore(weight: Tensor | None, scale: Tensor | None) -> Tensor | None:
    if weight is None or scale is None:
        return None if weight is None else weight.float()
    return weight.float() * scale.unsqueeze(1)
