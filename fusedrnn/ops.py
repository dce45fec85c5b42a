"""One recurrent layer, whole sequence, one or both directions: the operators in Python.

`layer_forward` calls the compiled operator, or `fusedrnn.reference` when the compiled part
is missing. Modules and `fusedrnn.functional` are built on it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fusedrnn import _library, reference
from fusedrnn.reference import LayerWeights

__all__ = ["LayerWeights", "layer_forward"]

_NO_WEIGHTS = (None, None, None, None, None)


def layer_forward(
    cell: str,
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: LayerWeights,
    weights_reverse: LayerWeights | None = None,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs one layer over a whole sequence; differentiable to any order.

    With D directions (2 when `weights_reverse` is given), H hidden_size, G gates, N rows over
    all steps, and P the width of h (`weight_hr.size(0)` with a projection, else H):

    Args:
        cell: "rnn_tanh", "rnn_relu", "lstm" or "gru".
        input: `(T, B, input_size)`, or `(N, input_size)` with `batch_sizes`; float32, float64,
            bfloat16 or float16, as every other tensor but `batch_sizes`.
        h_0: `(D, B, P)`, or None for zeros.
        c_0: `(D, B, H)` for an LSTM, or None for zeros; None for other cells.
        weights: of the forward direction.
        weights_reverse: of the reverse direction, or None for a layer in one direction.
        batch_sizes: `(T,)`, int64 on the CPU, positive and non-increasing, as in a
            `PackedSequence`; or None.

    Returns:
        output `(T, B, D * P)` or `(N, D * P)`, h_n `(D, B, P)`, and c_n `(D, B, H)` for an
        LSTM, `(0,)` for other cells.

    Raises:
        RuntimeError, ValueError: an argument does not fit; the message names it, what was
            expected and what was found.

    Example:
        >>> w = LayerWeights(torch.randn(12, 5), torch.randn(12, 3))
        >>> output, h_n, c_n = layer_forward("lstm", torch.randn(7, 2, 5), None, None, w)
        >>> output.shape, h_n.shape
        (torch.Size([7, 2, 3]), torch.Size([1, 2, 3]))
    """
    if not _library.available:
        return _fallback(cell, input, h_0, c_0, weights, weights_reverse, batch_sizes)
    tensors = (*weights, *(weights_reverse or _NO_WEIGHTS))
    output, h_n, c_n, _ = torch.ops.fusedrnn.layer_forward(
        cell, input, h_0, c_0, *tensors, batch_sizes, False
    )
    return output, h_n, c_n


def _fallback(
    cell: str,
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: LayerWeights,
    weights_reverse: LayerWeights | None,
    batch_sizes: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """reference.layer_forward with the operator's behaviour under autocast."""
    device = input.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return reference.layer_forward(cell, input, h_0, c_0, weights, weights_reverse, batch_sizes)
    dtype = torch.get_autocast_dtype(device)

    def cast(tensor: Tensor | None) -> Tensor | None:
        eligible = tensor is not None and tensor.is_floating_point()
        return tensor.to(dtype) if eligible and tensor.dtype != torch.float64 else tensor

    def cast_weights(w: LayerWeights | None) -> LayerWeights | None:
        return None if w is None else LayerWeights(*map(cast, w))

    with torch.autocast(device, enabled=False):
        return reference.layer_forward(
            cell,
            cast(input),
            cast(h_0),
            cast(c_0),
            cast_weights(weights),
            cast_weights(weights_reverse),
            batch_sizes,
        )
