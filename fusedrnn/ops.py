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
    *,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    reset_h: Tensor | None = None,
    reset_c: Tensor | None = None,
    return_c: bool = False,
    recompute: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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
        lengths: `(B,)`, int64, 0 to T, on input's device: how many steps of each row of padded
            input are valid; the others count for nothing, and their output is 0.
        reset: `(T, B)`, or `(N,)` with `batch_sizes`, bool, on input's device: where the state
            entering a step is replaced, in the order of each direction.
        reset_h, reset_c: as h_0 and c_0: what replaces it.
        return_c: an LSTM's c of every step is wanted.
        recompute: 0 keeps the gates of every step for backward; N > 0 keeps the states of every
            Nth step, and backward computes the rest again, with the same bits.

    Returns:
        output `(T, B, D * P)` or `(N, D * P)`, h_n `(D, B, P)`, c_n `(D, B, H)` for an LSTM,
        `(0,)` for other cells, and with `return_c` every step's c, `(D, T, B, H)` or
        `(D, N, H)`, else `(0,)`.

    Raises:
        RuntimeError, ValueError: an argument does not fit; the message names it, what was
            expected and what was found.

    Example:
        >>> w = LayerWeights(torch.randn(12, 5), torch.randn(12, 3))
        >>> output, h_n, c_n, _ = layer_forward("lstm", torch.randn(7, 2, 5), None, None, w)
        >>> output.shape, h_n.shape
        (torch.Size([7, 2, 3]), torch.Size([1, 2, 3]))
    """
    # The compiled operator takes none of the options yet.
    plain = lengths is None and reset is None and not return_c and not recompute
    tensors = (*weights, *(weights_reverse or _NO_WEIGHTS))
    if not (_library.available and plain):
        return _fallback(
            cell, input, h_0, c_0, *tensors, batch_sizes,
            lengths=lengths, reset=reset, reset_h=reset_h, reset_c=reset_c, return_c=return_c,
        )  # fmt: skip
    output, h_n, c_n, _ = torch.ops.fusedrnn.layer_forward(
        cell, input, h_0, c_0, *tensors, batch_sizes, False
    )
    return output, h_n, c_n, input.new_empty(0)


def _fallback(
    cell: str, *tensors: Tensor | None, return_c: bool, **options: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """reference.layer_forward with the operator's behaviour under autocast."""
    device = tensors[0].device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return _reference(cell, *tensors, return_c=return_c, **options)
    dtype = torch.get_autocast_dtype(device)

    def cast(tensor: Tensor | None) -> Tensor | None:
        eligible = tensor is not None and tensor.is_floating_point()
        return tensor.to(dtype) if eligible and tensor.dtype != torch.float64 else tensor

    with torch.autocast(device, enabled=False):
        return _reference(
            cell,
            *map(cast, tensors),
            return_c=return_c,
            **{name: cast(tensor) for name, tensor in options.items()},
        )


def _reference(
    cell: str, *tensors: Tensor | None, **options: Tensor | bool | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Takes the tensors in the operator's order."""
    input, h_0, c_0, *weights, batch_sizes = tensors
    reverse = None if weights[5] is None else LayerWeights(*weights[5:])
    return reference.layer_forward(
        cell, input, h_0, c_0, LayerWeights(*weights[:5]), reverse, batch_sizes, **options
    )
