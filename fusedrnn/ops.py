"""One recurrent layer, whole sequence, one or both directions: the operators in Python.

`layer_forward`, `plain_layer_forward` without options, and `cell_forward` for one time step, call
the compiled operators, or a fallback when the compiled part is missing. Modules and
`fusedrnn.functional` are built on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fusedrnn import _fake, _fallback, _flops, _library, _per_sample, _vmap
from fusedrnn._cells import CELLS
from fusedrnn._checks import check_tensor
from fusedrnn._layer import list_weights
from fusedrnn._quantized import QuantizedWeights
from fusedrnn._weights import LayerWeights

__all__ = [
    "LayerWeights",
    "QuantizedWeights",
    "cell_forward",
    "layer_forward",
    "plain_layer_forward",
]

activate_gates: Callable[
    [str, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None], Sequence[Tensor]
]

if _library.available:
    # The overloads themselves: looking one up at a call takes as long as the smallest kernels.
    _layer_forward = torch.ops.fusedrnn.layer_forward.default
    _plain_layer_forward = torch.ops.fusedrnn.plain_layer_forward.default
    _cell_forward = torch.ops.fusedrnn.cell_forward.default
    _quantized_forward = torch.ops.fusedrnn.quantized_forward.default
    activate_gates = torch.ops.fusedrnn.activate_gates.default
    for _rules in (_fake, _vmap, _flops, _per_sample):
        _rules.register()  # what torch cannot know of them
else:
    activate_gates = _fallback.activate_gates


def layer_forward(
    cell: str,
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: LayerWeights | QuantizedWeights,
    weights_reverse: LayerWeights | QuantizedWeights | None = None,
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
        cell: a name in `fusedrnn._cells.CELLS`.
        input: `(T, B, input_size)`, or `(N, input_size)` with `batch_sizes`; float32, float64,
            bfloat16 or float16, as every other tensor but `batch_sizes`.
        h_0: `(D, B, P)`, or None for zeros.
        c_0: `(D, B, H)`, or None for zeros; None for a cell without c.
        weights: of the forward direction; `QuantizedWeights` for inference, with the other
            tensors in float32.
        weights_reverse: of the reverse direction, or None for a layer in one direction.
        batch_sizes: `(T,)`, int64 on the CPU, positive and non-increasing, as in a
            `PackedSequence`; or None.
        lengths: `(B,)`, int64 on input's device, 0 to T: the steps of each row; not with
            `batch_sizes`. Values are checked on the CPU; on CUDA, where that would wait for the
            device, they are clamped, and checked if the environment variable FUSEDRNN_DEBUG is 1.
        reset: bool `(T, B)`, or `(N,)` with `batch_sizes`, on input's device: where the state that
            enters a step is replaced, and its gradient ends.
        reset_h, reset_c: what replaces it, as h_0 and c_0; None for zeros.
        return_c: c of every step is wanted.
        recompute: 0, or the number of steps from one state that is kept for backward to the next,
            or more; what lies between is computed again in backward, with the same bits.

    Returns:
        output `(T, B, D * P)` or `(N, D * P)`, h_n `(D, B, P)`, c_n `(D, B, H)`, and with
        `return_c` c of every step, `(D, T, B, H)` or `(D, N, H)`; output and c are zeros past a
        row's length, h_n and c_n its last states. For cells without c, and where c is not asked
        for, `(0,)`.

    Raises:
        RuntimeError, ValueError: an argument does not fit; the message names it, what was
            expected and what was found.

    Examples:
        >>> w = LayerWeights(torch.randn(12, 5), torch.randn(12, 3))
        >>> output, h_n, c_n, _ = layer_forward("lstm", torch.randn(7, 2, 5), None, None, w)
        >>> output.shape, h_n.shape
        (torch.Size([7, 2, 3]), torch.Size([1, 2, 3]))
    """
    if not _library.available:
        states = (h_0, c_0, reset_h, reset_c)
        options = {"lengths": lengths, "reset": reset, "return_c": return_c}
        return _fallback.layer_forward(
            cell, input, states, weights, weights_reverse, batch_sizes, options
        )
    sizes = lengths
    if batch_sizes is not None:
        if lengths is not None:
            raise ValueError("lengths: expected None, because batch_sizes is given")
        check_tensor("input", input)
        if input.dim() != 2:
            raise RuntimeError(
                "input: expected 2 dimensions (total_rows, input_size), because batch_sizes is "
                f"given, got {input.dim()}"
            )
        sizes = batch_sizes
    flat = list_weights(weights, weights_reverse)
    if isinstance(weights, QuantizedWeights):
        return _quantized_forward(
            cell, input, h_0, c_0, flat, sizes, reset, reset_h, reset_c, return_c
        )
    output, h_n, c_n, c, _, _ = _layer_forward(
        cell, input, h_0, c_0, flat, sizes, reset, reset_h, reset_c, False, return_c, recompute
    )
    return output, h_n, c_n, c


def plain_layer_forward(
    cell: str,
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: LayerWeights | QuantizedWeights,
    weights_reverse: LayerWeights | QuantizedWeights | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs `layer_forward` without options: output, h_n and c_n, in less time for small layers.

    Examples:
        >>> w = LayerWeights(torch.randn(12, 5), torch.randn(12, 3))
        >>> output, h_n, c_n = plain_layer_forward("lstm", torch.randn(7, 2, 5), None, None, w)
        >>> output.shape, h_n.shape
        (torch.Size([7, 2, 3]), torch.Size([1, 2, 3]))
    """
    if not _library.available or isinstance(weights, QuantizedWeights):
        return layer_forward(cell, input, h_0, c_0, weights, weights_reverse)[:3]
    flat = list_weights(weights, weights_reverse)
    return _plain_layer_forward(cell, input, h_0, c_0, flat)


def cell_forward(
    cell: str,
    input: Tensor,
    h: Tensor | None,
    c: Tensor | None,
    weights: LayerWeights | QuantizedWeights,
) -> tuple[Tensor, Tensor]:
    """Runs one time step: `layer_forward` of a sequence of one step, without its dimension.

    Args:
        cell: as for `layer_forward`.
        input: `(B, input_size)`, or `(input_size,)` for one row.
        h: `(B, P)`, or None for zeros; `(P,)` for one row.
        c: `(B, H)`, or None for zeros; `(H,)` for one row; None for a cell without c.
        weights: of the cell; as for `layer_forward`.

    Returns:
        h and c of the step, as h and c; for cells without c, `(0,)` in its place.

    Raises:
        RuntimeError, ValueError: as `layer_forward`, in whose terms the message is.

    Examples:
        >>> w = LayerWeights(torch.randn(12, 5), torch.randn(12, 3))
        >>> h, c = cell_forward("lstm", torch.randn(2, 5), None, None, w)
        >>> h.shape, c.shape
        (torch.Size([2, 3]), torch.Size([2, 3]))
    """
    if _library.available and not isinstance(weights, QuantizedWeights):
        return _cell_forward(cell, input, h, c, list_weights(weights))
    return _one_step(layer_forward, cell, input, h, c, weights)


def composed_cell_forward(
    cell: str,
    input: Tensor,
    h: Tensor | None,
    c: Tensor | None,
    weights: LayerWeights | QuantizedWeights,
) -> tuple[Tensor, Tensor]:
    """`cell_forward` by torch's own operators, for a cell without units, which has no kernel."""

    def forward(cell: str, input: Tensor, h: Tensor | None, c: Tensor | None, w: Any) -> Any:
        return _fallback.layer_forward(cell, input, (h, c, None, None), w, None, None, {})

    return _one_step(forward, cell, input, h, c, weights)


def _one_step(
    forward: Callable[..., tuple[Tensor, ...]],
    cell: str,
    input: Tensor,
    h: Tensor | None,
    c: Tensor | None,
    weights: LayerWeights | QuantizedWeights,
) -> tuple[Tensor, Tensor]:
    for name, rows in (("input", input), ("h", h), ("c", c)):
        if rows is not None or name == "input":
            check_tensor(name, rows)
    batched = input.dim() != 1

    def add_step(rows: Tensor | None) -> Tensor | None:
        return None if rows is None else rows[None] if batched else rows[None, None]

    _, h_n, c_n, _ = forward(cell, add_step(input), add_step(h), add_step(c), weights)
    for state in (h_n, c_n)[: CELLS[cell].states]:
        state.squeeze_(0)
        if not batched:
            state.squeeze_(0)
    return h_n, c_n
