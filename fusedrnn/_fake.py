"""The operators for tensors without data: shapes of results, and refusals.

The checks are those of csrc/bindings/checks.cpp, in the same order and of the same exception types;
sizes may be symbols. What has no values is not asked for them: those of lengths, and of batch_sizes
unless they are a real tensor beside others on the meta device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fusedrnn._cells import CELLS, Cell
from fusedrnn._checks import refuse_onnx

_STATES = ("input", "h_0", "c_0", "reset_h", "reset_c")
_MATRICES = ("weight_ih", "weight_hh", "weight_hr")
_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
_NAMES = (*_STATES, *_WEIGHTS, *(f"{name}_reverse" for name in _WEIGHTS))
_SCALED = (5, 6, 9, 10, 11, 14)  # places of the matrices among them
_OUTPUTS = ("output", "h_n", "c_n", "c")

_DTYPES = (
    *(torch.float32, torch.float64, torch.bfloat16, torch.float16),
    *(torch.complex64, torch.complex128),  # without kernels
)
_STORED = (torch.bfloat16, torch.float16, torch.int8)

# A size that has no value here is None.
_Shape = tuple[Any, ...]


class _Layer(NamedTuple):
    """A checked layer, as in csrc/bindings/checks.h."""

    spec: Cell
    directions: int
    steps: _Shape  # (T, B), with batch_sizes (N,)
    seq_len: Any
    batch_size: Any
    hidden_size: Any
    width: Any  # of h

    @property
    def has_c(self) -> bool:
        return self.spec.states == 2

    def output_shapes(self, batch_size: Any) -> tuple[_Shape, _Shape, _Shape, _Shape]:
        """Of output, h_n, c_n and c; the last two are (0,) for a cell without c."""
        directions, hidden_size = self.directions, self.hidden_size
        return (
            (*self.steps, directions * self.width),
            (directions, batch_size, self.width),
            (directions, batch_size, hidden_size) if self.has_c else (0,),
            (directions, *self.steps, hidden_size) if self.has_c else (0,),
        )

    def saved(self, batch_size: Any, input: Tensor, recompute: int) -> tuple[_Shape, torch.dtype]:
        dtype = input.dtype
        if input.is_complex() or not device_has_kernels(input.device):  # it will be composed
            return (0,), dtype
        if recompute == 0:
            return (self.directions, *self.steps, self.spec.saved_width, self.hidden_size), dtype
        kept = (self.seq_len + recompute - 1) // recompute
        shape = (self.directions, kept, batch_size, self.hidden_size if self.has_c else 0)
        return shape, torch.promote_types(dtype, torch.float32)


def register() -> None:
    torch.library.register_fake("fusedrnn::layer_forward", _layer_forward)
    torch.library.register_fake("fusedrnn::quantized_forward", _quantized_forward)
    torch.library.register_fake("fusedrnn::layer_backward", _layer_backward)


def device_has_kernels(device: torch.device) -> bool:
    """Whether this build has kernels for the device; meta tensors have nothing to run."""
    return device.type == "meta" or torch._C._dispatch_has_kernel_for_dispatch_key(
        "fusedrnn::layer_forward", device.type.upper()
    )


def _refuse(condition: Any, text: str, error: Any = torch._check) -> None:
    error(condition, lambda: text)


def _check_given(name: str, tensor: Tensor | None) -> None:
    _refuse(tensor is not None, f"{name}: expected a tensor, got None")


def _check_kind(name: str, tensor: Tensor, input: Tensor, dtype: torch.dtype) -> None:
    device = input.device
    _refuse(tensor.device == device, f"{name}: expected device {device}, got {tensor.device}")
    _refuse(tensor.dtype == dtype, f"{name}: expected dtype {dtype}, got {tensor.dtype}")


def _check_shape(name: str, tensor: Tensor, shape: _Shape) -> None:
    fits = tensor.dim() == len(shape) and all(
        size is None or size == found for size, found in zip(shape, tensor.shape)
    )
    _refuse(fits, f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")


def _check_layer(
    cell: str,
    tensors: Sequence[Tensor | None],
    sequence: Sequence[Tensor | None],
    recompute: int,
    weight_dtype: torch.dtype | None = None,
) -> _Layer:
    """`weight_dtype` is that of quantized matrices."""
    refuse_onnx(cell)
    spec = CELLS.get(cell)
    known = ", ".join(CELLS)
    _refuse(spec is not None, f"cell: expected one of {known}, got {cell}", torch._check_value)
    given = dict(zip(_NAMES, tensors, strict=True))
    for name in ("input", "weight_ih", "weight_hh"):
        _check_given(name, given[name])
    input, (batch_sizes, lengths, reset) = given["input"], sequence
    _refuse(input.dtype in _DTYPES, f"input: expected one of {_DTYPES}, got {input.dtype}")
    for name, tensor in given.items():
        if tensor is not None:
            is_matrix = name.removesuffix("_reverse") in _MATRICES
            _check_kind(name, tensor, input, (is_matrix and weight_dtype) or input.dtype)
    _refuse(recompute >= 0, f"recompute: expected 0 or more, got {recompute}", torch._check_value)
    directions = 1 if given["weight_ih_reverse"] is None else 2
    _check_presence(spec, given, directions)

    rank = 3 if batch_sizes is None else 2
    _refuse(input.dim() == rank, f"input: expected {rank} dimensions, got {tuple(input.shape)}")
    seq_len, batch_size = input.shape[0], input.shape[1]
    if batch_sizes is not None:
        seq_len, batch_size = _check_batch_sizes(batch_sizes, input)
    _refuse(seq_len > 0, "Expected sequence length to be larger than 0 in RNN")
    steps = tuple(input.shape[:-1])
    if lengths is not None:
        text = "lengths: expected None, because batch_sizes is given"
        _refuse(batch_sizes is None, text, torch._check_value)
        _check_kind("lengths", lengths, input, torch.int64)
        _check_shape("lengths", lengths, (batch_size,))
    if reset is not None:
        _check_kind("reset", reset, input, torch.bool)
        _check_shape("reset", reset, steps)
    has_reset_state = given["reset_h"] is not None or given["reset_c"] is not None
    text = "reset_h, reset_c: expected None, because reset is None"
    _refuse(reset is not None or not has_reset_state, text, torch._check_value)

    hidden_size, width = _check_width(given["weight_hh"], given["weight_hr"])
    layer = _Layer(spec, directions, steps, seq_len, batch_size, hidden_size, width)
    rows = spec.gates * hidden_size
    weights = ((rows, input.shape[-1]), (rows, width), (rows,), (rows,), (width, hidden_size))
    _, h, _, _ = layer.output_shapes(batch_size)
    c = (directions, batch_size, hidden_size)
    states = dict(zip(_STATES[1:], (h, c, h, c)))
    for name, shape in (*zip(_NAMES[5:], weights * 2, strict=True), *states.items()):
        if given[name] is not None:
            text = f"{name}: expected None for cell {cell}, which has no c"
            _refuse(layer.has_c or name not in ("c_0", "reset_c"), text, torch._check_value)
            _check_shape(name, given[name], shape)
    return layer


def _check_presence(cell: Cell, given: dict[str, Tensor | None], directions: int) -> None:
    has_bias, has_proj = given["bias_ih"] is not None, given["weight_hr"] is not None
    text = f"weight_hr: expected None for cell {cell.name}, which has no projection"
    _refuse(not has_proj or cell.has_projection, text, torch._check_value)
    for suffix in ("", "_reverse"):
        exists = suffix == "" or directions == 2
        needed = (exists, exists, exists and has_bias, exists and has_bias, exists and has_proj)
        for name, need in zip(_WEIGHTS, needed, strict=True):
            found = given[name + suffix] is not None
            text = f"{name}{suffix}: expected {'a tensor' if need else 'None'}; biases come both "
            text += "or neither, and both directions have the same weights"
            _refuse(found == need, text, torch._check_value)


def _check_batch_sizes(batch_sizes: Tensor, input: Tensor) -> tuple[Any, Any]:
    """T, and B where the values are there."""
    _refuse(
        batch_sizes.device.type == "cpu"
        and batch_sizes.dtype == torch.int64
        and batch_sizes.dim() == 1,
        f"batch_sizes: expected an int64 CPU tensor of one dimension, got {batch_sizes.dtype} on "
        f"{batch_sizes.device} with {batch_sizes.dim()} dimensions",
    )
    seq_len = batch_sizes.shape[0]
    if type(batch_sizes) is not Tensor or seq_len == 0:
        return seq_len, None
    sizes = batch_sizes.tolist()
    decreasing = sizes == sorted(sizes, reverse=True) and sizes[-1] > 0
    text = "batch_sizes: expected positive values that never increase, whose sum is that of the "
    text += f"rows of input, {input.shape[0]}; got {sizes}"
    _refuse(decreasing and sum(sizes) == input.shape[0], text, torch._check_value)
    return seq_len, sizes[0]


def _check_width(weight_hh: Tensor, weight_hr: Tensor | None) -> tuple[Any, Any]:
    """Hidden size, and the width of h."""
    for name, tensor in (("weight_hh", weight_hh), ("weight_hr", weight_hr)):
        if tensor is not None:
            found = tuple(tensor.shape)
            _refuse(tensor.dim() == 2, f"{name}: expected 2 dimensions, got {found}")
    if weight_hr is None:
        hidden_size = width = weight_hh.shape[1]
        fits, text = hidden_size > 0, "weight_hh: expected hidden_size > 0"
    else:
        width, hidden_size = weight_hr.shape
        fits = 0 < width < hidden_size
        text = "weight_hr: expected 0 < proj_size < hidden_size"
    _refuse(fits, text, torch._check_value)
    return hidden_size, width


def _layer_forward(cell: str, *args: Any) -> tuple[Tensor, ...]:
    *tensors, batch_sizes, lengths, reset, save, return_c, recompute = args
    layer = _check_layer(cell, tensors, (batch_sizes, lengths, reset), recompute)
    return _results(layer, tensors, save, return_c, recompute)


def _results(
    layer: _Layer, tensors: Sequence[Tensor | None], save: bool, return_c: bool, recompute: int
) -> tuple[Tensor, ...]:
    input, h_0 = tensors[:2]
    batch_size = layer.batch_size
    if batch_size is None:
        dynamic = h_0 is None
        batch_size = torch.library.get_ctx().new_dynamic_size() if dynamic else h_0.size(1)
    output, h_n, c_n, c = layer.output_shapes(batch_size)
    saved, saved_dtype = layer.saved(batch_size, input, recompute)
    return (
        input.new_empty(output),
        input.new_empty(h_n),
        input.new_empty(c_n),
        input.new_empty(c if return_c else (0,)),
        input.new_empty(saved if save else (0,), dtype=saved_dtype),
        input.new_empty(output if save else (0,)),
    )


def _layer_backward(cell: str, *args: Any) -> tuple[Tensor, ...]:
    grads, tensors, (*sequence, recompute, kept, saved, mask) = args[:4], args[4:19], args[19:]
    layer = _check_layer(cell, tensors, sequence, recompute)
    input = tensors[0]
    shapes = layer.output_shapes(layer.batch_size)
    saved_shape, saved_dtype = layer.saved(layer.batch_size, input, recompute)
    for name, tensor, shape, dtype in (
        ("kept_output", kept, shapes[0], input.dtype),
        ("saved", saved, saved_shape, saved_dtype),
        *((f"grad_{n}", grad, s, input.dtype) for n, grad, s in zip(_OUTPUTS, grads, shapes)),
    ):
        is_unused = name in ("grad_c_n", "grad_c") and not layer.has_c
        if name in ("kept_output", "saved"):
            _check_given(name, tensor)
        if tensor is not None and not is_unused:
            _check_kind(name, tensor, input, dtype)
            _check_shape(name, tensor, shape)
    gates = (layer.directions, *layer.steps, layer.spec.gates * layer.hidden_size)
    wholes = [None if tensor is None else tensor.shape for tensor in tensors] + [gates, gates]
    return tuple(
        kept.new_empty(shape if wanted and shape is not None else (0,))
        for shape, wanted in zip(wholes, mask, strict=True)
    )


def _quantized_forward(cell: str, *args: Any) -> tuple[Tensor, ...]:
    tensors, scales, (*sequence, return_c) = args[:15], args[15:21], args[21:]
    for place in (0, 5):
        _check_given(_NAMES[place], tensors[place])
    input, stored = tensors[0], tensors[5].dtype
    known = cell not in CELLS
    _refuse(known or input.dtype == torch.float32, f"input: expected float32, got {input.dtype}")
    _refuse(known or stored in _STORED, f"weight_ih: expected one of {_STORED}, got {stored}")
    layer = _check_layer(cell, tensors, sequence, 0, stored)
    for place, scale in zip(_SCALED, scales, strict=True):
        name = _NAMES[place].replace("weight", "scale")
        needed = stored == torch.int8 and tensors[place] is not None
        text = f"{name}: expected {'a tensor' if needed else 'None'}; each weight in int8 has "
        text += "scales, and no other"
        _refuse((scale is not None) == needed, text, torch._check_value)
        if needed:
            _check_kind(name, scale, input, torch.float32)
            _check_shape(name, scale, tensors[place].shape[:1])
    return _results(layer, tensors, False, return_c, 0)[:4]
