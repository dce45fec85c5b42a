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
from fusedrnn._layer import LayerArgs, weight_names

_MATRICES = ("weight_ih", "weight_hh", "weight_hr")
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


def _check_weights(args: LayerArgs) -> tuple[Cell, list[str]]:
    """The cell, and the names of the weights."""
    refuse_onnx(args.cell)
    cell = CELLS.get(args.cell)
    known = ", ".join(CELLS)
    text = f"cell: expected one of {known}, got {args.cell}"
    _refuse(cell is not None, text, torch._check_value)
    names = weight_names(args.cell, args.weights)
    text = "weights: expected for each direction weight_ih, weight_hh, both biases or neither, and "
    text += "weight_hr with a projection" + ", then params" * bool(cell.param_names)
    text += f", got shapes {[tuple(weight.shape) for weight in args.weights]}"
    _refuse(bool(names), text, torch._check_value)
    return cell, [field + "_reverse" * direction for direction, field in names]


def _check_layer(args: LayerArgs, weight_dtype: torch.dtype | None = None) -> _Layer:
    """`weight_dtype` is that of quantized matrices."""
    cell, names = _check_weights(args)
    input, sizes, reset = args.input, args.sizes, args.reset
    weights = dict(zip(names, args.weights, strict=True))
    scales = [name for name in names if name.startswith("scale")]
    stored = {name: weights.pop(name) for name in scales}
    _check_given("input", input)
    _refuse(input.dtype in _DTYPES, f"input: expected one of {_DTYPES}, got {input.dtype}")
    for name, tensor in (args.states | weights).items():
        is_matrix = name.removesuffix("_reverse") in _MATRICES
        _check_kind(name, tensor, input, (is_matrix and weight_dtype) or input.dtype)
    text = f"recompute: expected 0 or more, got {args.recompute}"
    _refuse(args.recompute >= 0, text, torch._check_value)
    text = f"weight_hr: expected none for cell {cell.name}, which has no projection"
    _refuse("weight_hr" not in weights or cell.has_projection, text, torch._check_value)

    is_packed = args.is_packed
    rank = 2 if is_packed else 3
    _refuse(input.dim() == rank, f"input: expected {rank} dimensions, got {tuple(input.shape)}")
    seq_len, batch_size = input.shape[0], input.shape[1]
    if is_packed:
        seq_len, batch_size = _check_batch_sizes(sizes, input)
    _refuse(seq_len > 0, "Expected sequence length to be larger than 0 in RNN")
    steps = tuple(input.shape[:-1])
    if sizes is not None and not is_packed:
        _check_kind("lengths", sizes, input, torch.int64)
        _check_shape("lengths", sizes, (batch_size,))
    if reset is not None:
        _check_kind("reset", reset, input, torch.bool)
        _check_shape("reset", reset, steps)
    text = "reset_h, reset_c: expected None, because reset is None"
    has_reset_state = args.reset_h is not None or args.reset_c is not None
    _refuse(reset is not None or not has_reset_state, text, torch._check_value)

    hidden_size, width = _check_width(weights["weight_hh"], weights.get("weight_hr"))
    directions = 2 if "weight_ih_reverse" in weights else 1
    layer = _Layer(cell, directions, steps, seq_len, batch_size, hidden_size, width)
    rows = cell.gates * hidden_size
    shapes = {
        "weight_ih": (rows, input.shape[-1]),
        "weight_hh": (rows, width),
        "bias_ih": (rows,),
        "bias_hh": (rows,),
        "weight_hr": (width, hidden_size),
        "params": (len(cell.param_names) * hidden_size,),
    }
    for name, weight in weights.items():
        _check_shape(name, weight, shapes[name.removesuffix("_reverse")])
    for name, state in args.states.items():
        is_h = name in ("h_0", "reset_h")
        text = f"{name}: expected None for cell {cell.name}, which has no c"
        _refuse(is_h or layer.has_c, text, torch._check_value)
        _check_shape(name, state, (directions, batch_size, width if is_h else hidden_size))
    for name, scale in stored.items():
        _check_kind(name, scale, input, torch.float32)
        _check_shape(name, scale, weights[name.replace("scale", "weight")].shape[:1])
    return layer


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


def _layer_forward(*args: Any) -> tuple[Tensor, ...]:
    layer = LayerArgs(*args)
    return _results(_check_layer(layer), layer)


def _results(layer: _Layer, args: LayerArgs) -> tuple[Tensor, ...]:
    input, batch_size = args.input, layer.batch_size
    if batch_size is None:
        h_0 = args.h_0
        batch_size = torch.library.get_ctx().new_dynamic_size() if h_0 is None else h_0.size(1)
    output, h_n, c_n, c = layer.output_shapes(batch_size)
    saved, saved_dtype = layer.saved(batch_size, input, args.recompute)
    return (
        input.new_empty(output),
        input.new_empty(h_n),
        input.new_empty(c_n),
        input.new_empty(c if args.return_c else (0,)),
        input.new_empty(saved if args.save else (0,), dtype=saved_dtype),
        input.new_empty(output if args.save else (0,)),
    )


def _layer_backward(cell: str, grads: Sequence[Tensor | None], *others: Any) -> list[Tensor]:
    *layer_args, recompute, kept, mask = others
    args = LayerArgs(cell, *layer_args)._replace(recompute=recompute)
    _check_weights(args)
    for name, found, number in (
        ("grads", grads, len(_OUTPUTS)),
        ("kept", kept, 2),
        ("mask", mask, len(args.mask_names())),
    ):
        text = f"{name}: expected {number} values, got {len(found)}"
        _refuse(len(found) == number, text, torch._check_value)
    layer = _check_layer(args)
    shapes = layer.output_shapes(layer.batch_size)
    input, (saved, kept_output) = args.input, kept
    saved_shape, saved_dtype = layer.saved(layer.batch_size, input, recompute)
    for name, tensor, shape, dtype in (
        ("kept_output", kept_output, shapes[0], input.dtype),
        ("saved", saved, saved_shape, saved_dtype),
        *((f"grad_{n}", grad, s, input.dtype) for n, grad, s in zip(_OUTPUTS, grads, shapes)),
    ):
        is_unused = name in ("grad_c_n", "grad_c") and not layer.has_c
        if tensor is not None and not is_unused:
            _check_kind(name, tensor, input, dtype)
            _check_shape(name, tensor, shape)
    gates = (layer.directions, *layer.steps, layer.spec.gates * layer.hidden_size)
    named: dict[Any, Tensor | None] = {"input": input, "gates_x": None, "gates_r": None}
    named |= args.states
    named |= dict(zip(weight_names(cell, args.weights), args.weights, strict=True))
    wanted = (named[name] for name, wants in zip(args.mask_names(), mask, strict=True) if wants)
    return [kept_output.new_empty(gates if each is None else each.shape) for each in wanted]


def _quantized_forward(*given: Any) -> tuple[Tensor, ...]:
    *layer_args, return_c = given
    args = LayerArgs(*layer_args)._replace(return_c=return_c)
    _check_weights(args)
    _check_given("input", args.input)
    stored = args.weights[0].dtype
    _refuse(args.input.dtype == torch.float32, f"input: expected float32, got {args.input.dtype}")
    _refuse(stored in _STORED, f"weight_ih: expected one of {_STORED}, got {stored}")
    return _results(_check_layer(args, stored), args)[:4]
