"""What runs when the compiled part is missing: the reference, with the operators' behaviour under
autocast and for gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fusedrnn import reference
from fusedrnn._quantized import QuantizedWeights
from fusedrnn._weights import LayerWeights


def layer_forward(
    cell: str,
    input: Tensor,
    states: tuple[Tensor | None, ...],
    weights: LayerWeights | QuantizedWeights,
    weights_reverse: LayerWeights | QuantizedWeights | None,
    batch_sizes: Tensor | None,
    options: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As the operator of this name; `states` are h_0, c_0, reset_h and reset_c."""
    is_quantized = isinstance(weights, QuantizedWeights)
    if is_quantized:
        tensors = (input, *states, *weights)
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
            raise RuntimeError(
                "quantized weights are for inference only, got a tensor that requires grad; call "
                "it under torch.no_grad(), or detach the tensor"
            )
    weights = weights.dequantize()
    weights_reverse = None if weights_reverse is None else weights_reverse.dequantize()

    def run(
        cast: Callable[[Tensor | None], Tensor | None],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        def cast_weights(w: LayerWeights | None) -> LayerWeights | None:
            return None if w is None else LayerWeights(*map(cast, w))

        h_0, c_0, reset_h, reset_c = map(cast, states)
        return reference.layer_forward(
            cell,
            cast(input),
            h_0,
            c_0,
            cast_weights(weights),
            cast_weights(weights_reverse),
            batch_sizes,
            reset_h=reset_h,
            reset_c=reset_c,
            **options,
        )

    device = input.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return run(lambda tensor: tensor)
    dtype = torch.float32 if is_quantized else torch.get_autocast_dtype(device)

    def cast(tensor: Tensor | None) -> Tensor | None:
        eligible = tensor is not None and tensor.is_floating_point()
        return tensor.to(dtype) if eligible and tensor.dtype != torch.float64 else tensor

    with torch.autocast(device, enabled=False):
        return run(cast)


def activate_gates(
    cell: str, x: Tensor, r: Tensor, h: Tensor | None, c: Tensor | None, params: Tensor | None
) -> tuple[Tensor, ...]:
    """As the operator of this name."""
    spec, zero = reference.CELLS[cell], x.new_zeros(())
    own = () if params is None else params.chunk(len(spec.param_names))
    return spec.step(x, r, zero if h is None else h, zero if c is None else c, *own)[2]
