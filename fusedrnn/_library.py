"""Loads the compiled operators and tells torch what it cannot know: shapes, rules, formulas.

`available` says whether the compiled part is there, `path` where it lies, and `reason` why it
is missing. The operators' schemas and the shapes of all tensors are in
csrc/bindings/library.cpp.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fusedrnn import _flops, _per_sample, _vmap, reference
from fusedrnn._checks import refuse_onnx

_BUILD = "pip install --no-build-isolation --force-reinstall --no-deps"


def _load() -> tuple[Path | None, str]:
    """The path of the loaded library, or None and the reason."""
    folder = Path(__file__).parent
    path = next((p for p in (folder / "_C.so", folder / "_C.pyd") if p.is_file()), None)
    if path is None:
        return None, f"there is no _C library in {folder}"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return None, str(error)
    built, running = torch.ops.fusedrnn.built_torch(), torch.__version__
    if not running.startswith(f"{built}."):
        return None, f"it was compiled with torch {built}, and this is torch {running}"
    return path, ""


path, reason = _load()
available = path is not None


def library_path() -> Path:
    """Where the compiled operators lie, for programs that load them without `fusedrnn`.

    What was made by torch.export, AOTInductor or torch.jit.trace needs the operators when it is
    loaded, and nothing else of this package: `import fusedrnn` loads them, and so does
    `torch.ops.load_library(path)`, or in C++ without Python
    `dlopen(path, RTLD_NOW | RTLD_GLOBAL)`.

    Returns:
        The path of the shared library. It needs the torch that it was compiled with.

    Raises:
        RuntimeError: the compiled part is missing.

    Example:
        >>> torch.ops.load_library(library_path())
    """
    if path is None:
        raise RuntimeError(
            f"fusedrnn has no compiled part ({reason}); from its source folder run: {_BUILD} ."
        )
    return path


def has_cuda_kernels() -> bool:
    """Whether the compiled part was built with CUDA."""
    return available and torch._C._dispatch_has_kernel_for_dispatch_key(
        "fusedrnn::layer_forward", "CUDA"
    )


def _has_kernels(input: Tensor) -> bool:
    """Whether a layer on this input, which is no real one, will run in kernels."""
    device = input.device.type
    return not input.is_complex() and (
        device == "meta"
        or torch._C._dispatch_has_kernel_for_dispatch_key("fusedrnn::layer_forward", device.upper())
    )


def reload_environment() -> None:
    """Reads fusedrnn's environment variables again.

    They are read when fusedrnn is imported and not in a call, because another thread may be
    changing the environment then.

    Example:
        >>> os.environ["FUSEDRNN_DEBUG"] = "1"
        >>> reload_environment()
    """
    if not available:
        return
    for name in torch.ops.fusedrnn.variable_names():
        torch.ops.fusedrnn.set_variable(name, os.environ.get(name, ""))


def _sizes(cell: str, tensors: Sequence[Tensor | None]) -> tuple[int, tuple[int, ...], int]:
    """Directions, (T, B) or with batch_sizes (N,), and hidden_size."""
    input, weight_hh, weight_ih_reverse = tensors[0], tensors[6], tensors[10]
    directions = 1 if weight_ih_reverse is None else 2
    return directions, tuple(input.shape[:-1]), weight_hh.size(0) // reference.CELLS[cell].gates


def _check_layer(
    cell: str,
    tensors: Sequence[Tensor | None],
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
) -> None:
    """What a fake tensor can be refused for; csrc/bindings/checks.cpp checks real ones."""
    refuse_onnx(cell)
    input, weight_hr = tensors[0], tensors[9]
    # What the sizes are taken from must have them.
    ranks = ((input, 3 if batch_sizes is None else 2), (tensors[6], 2), (weight_hr, 2))
    for tensor, rank in ranks:
        torch._check(
            tensor is None or tensor.dim() == rank,
            lambda t=tensor, r=rank: f"expected {r} dimensions, got {tuple(t.shape)}",
        )
    directions, steps, hidden_size = _sizes(cell, tensors)
    rows = reference.CELLS[cell].gates * hidden_size
    width = hidden_size if weight_hr is None else weight_hr.size(0)
    batch = (steps[1],) if batch_sizes is None else (None,)  # traced sizes have no values
    h, c = (directions, *batch, width), (directions, *batch, hidden_size)
    biases = ((rows,), (rows,))
    weights = ((rows, input.size(-1)), (rows, width), *biases, (width, hidden_size))
    shapes = ((*steps, None), h, c, h, c, *weights, *weights, batch, steps)
    for tensor, shape in zip((*tensors, lengths, reset), shapes, strict=True):
        if tensor is None:
            continue
        torch._check(
            tensor.device == input.device,
            lambda t=tensor: f"expected device {input.device} as input's, got {t.device}",
        )
        torch._check(
            tensor.dim() == len(shape)
            and all(e is None or e == found for e, found in zip(shape, tensor.shape)),
            lambda t=tensor, s=shape: f"expected shape {s}, got {tuple(t.shape)}",
        )


def _layer_forward_fake(cell: str, *args: Tensor | bool | int | None) -> tuple[Tensor, ...]:
    *tensors, batch_sizes, lengths, reset, save, return_c, recompute = args
    _check_layer(cell, tensors, batch_sizes, lengths, reset)
    input, h_0, weight_hr = tensors[0], tensors[1], tensors[9]
    spec = reference.CELLS[cell]
    directions, steps, hidden_size = _sizes(cell, tensors)
    width = hidden_size if weight_hr is None else weight_hr.size(0)
    if batch_sizes is None:
        batch_size = input.size(1)
    elif h_0 is not None:
        batch_size = h_0.size(1)
    else:
        batch_size = torch.library.get_ctx().new_dynamic_size()
    has_c = spec.states == 2
    saved_shape, saved_dtype = (directions, *steps, spec.saved_width, hidden_size), input.dtype
    if recompute > 0:
        seq_len = steps[0] if batch_sizes is None else batch_sizes.size(0)
        kept = (seq_len + recompute - 1) // recompute
        saved_shape = (directions, kept, batch_size, hidden_size if has_c else 0)
        saved_dtype = torch.promote_types(input.dtype, torch.float32)
    if not save or not _has_kernels(input):
        saved_shape, saved_dtype = (0,), input.dtype
    output_shape = (*steps, directions * width)
    return (
        input.new_empty(output_shape),
        input.new_empty(directions, batch_size, width),
        input.new_empty((directions, batch_size, hidden_size) if has_c else (0,)),
        input.new_empty((directions, *steps, hidden_size) if has_c and return_c else (0,)),
        input.new_empty(saved_shape, dtype=saved_dtype),
        input.new_empty(output_shape if save else (0,)),
    )


def _layer_backward_fake(
    cell: str, *args: Tensor | int | Sequence[bool] | None
) -> tuple[Tensor, ...]:
    _, _, _, _, *tensors, batch_sizes, lengths, reset, _recompute, _, _, mask = args
    _check_layer(cell, tensors, batch_sizes, lengths, reset)
    directions, steps, hidden_size = _sizes(cell, tensors)
    gates = (directions, *steps, reference.CELLS[cell].gates * hidden_size)
    shapes = [None if tensor is None else tensor.shape for tensor in tensors] + [gates, gates]
    return tuple(
        tensors[0].new_empty(shape if wanted and shape is not None else (0,))
        for shape, wanted in zip(shapes, mask, strict=True)
    )


def _quantized_forward_fake(
    cell: str, *args: Tensor | bool | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tensors, scales, (batch_sizes, lengths, reset, return_c) = args[:15], args[15:21], args[21:]
    for place, scale in zip((5, 6, 9, 10, 11, 14), scales, strict=True):
        torch._check(
            scale is None or scale.shape == tensors[place].shape[:1],
            lambda s=scale: f"expected one scale a row of the weight, got {tuple(s.shape)}",
        )
    return _layer_forward_fake(cell, *tensors, batch_sizes, lengths, reset, False, return_c, 0)[:4]


if available:
    torch.library.register_fake("fusedrnn::layer_forward", _layer_forward_fake)
    torch.library.register_fake("fusedrnn::quantized_forward", _quantized_forward_fake)
    torch.library.register_fake("fusedrnn::layer_backward", _layer_backward_fake)
    _vmap.register()
    _flops.register()
    _per_sample.register()
else:
    warnings.warn(
        f"fusedrnn runs on plain PyTorch operators, slowly, because its compiled part is missing "
        f"({reason}); from its source folder run: {_BUILD} .",
        RuntimeWarning,
        stacklevel=2,
    )
