"""Loads the compiled operators and tells torch.compile the shapes of their results.

`available` says whether the compiled part is there, `path` where it lies, and `reason` why it
is missing. The operators' schemas and the shapes of all tensors are in
csrc/bindings/library.cpp.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fusedrnn import reference

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


def has_cuda_kernels() -> bool:
    """Whether the compiled part was built with CUDA."""
    return available and torch._C._dispatch_has_kernel_for_dispatch_key(
        "fusedrnn::layer_forward", "CUDA"
    )


def _check_layer(tensors: Sequence[Tensor | None], batch_sizes: Tensor | None) -> None:
    """What a fake tensor can be refused for; csrc/bindings/checks.cpp checks real ones."""
    input = tensors[0]
    weight_ranks = (2, 2, 1, 1, 2)
    for tensor, rank in zip(
        tensors, (3 if batch_sizes is None else 2, 3, 3, *weight_ranks, *weight_ranks)
    ):
        if tensor is not None:
            torch._check(
                tensor.device == input.device,
                lambda t=tensor: f"expected device {input.device} as input's, got {t.device}",
            )
            torch._check(
                tensor.dim() == rank,
                lambda t=tensor, r=rank: f"expected {r} dimensions, got shape {tuple(t.shape)}",
            )


def _layer_forward_fake(
    cell: str,
    input: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    *weights_batch_sizes_save: Tensor | bool | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *weights, batch_sizes, save = weights_batch_sizes_save
    _check_layer((input, h_0, c_0, *weights), batch_sizes)
    weight_hh, weight_hr, weight_ih_reverse = weights[1], weights[4], weights[5]
    spec = reference.CELLS[cell]
    directions = 1 if weight_ih_reverse is None else 2
    hidden_size = weight_hh.size(0) // spec.gates
    width = hidden_size if weight_hr is None else weight_hr.size(0)
    if batch_sizes is None:
        batch_size = input.size(1)
    elif h_0 is not None:
        batch_size = h_0.size(1)
    else:
        batch_size = torch.library.get_ctx().new_dynamic_size()
    rows = math.prod(input.shape[:-1])  # torch.Size.numel would fix a symbolic size
    return (
        input.new_empty(*input.shape[:-1], directions * width),
        input.new_empty(directions, batch_size, width),
        input.new_empty((directions, batch_size, hidden_size) if spec.states == 2 else (0,)),
        input.new_empty((directions, rows, spec.saved_width, hidden_size) if save else (0,)),
    )


def _layer_backward_fake(
    cell: str,
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    *layer: Tensor | Sequence[bool] | None,
) -> tuple[Tensor, ...]:
    *tensors, batch_sizes, output, _saved, output_mask = layer
    _check_layer(tensors, batch_sizes)
    return tuple(
        output.new_empty(tensor.shape if wanted and tensor is not None else (0,))
        for tensor, wanted in zip(tensors, output_mask)
    )


if available:
    torch.library.register_fake("fusedrnn::layer_forward", _layer_forward_fake)
    torch.library.register_fake("fusedrnn::layer_backward", _layer_backward_fake)
else:
    warnings.warn(
        f"fusedrnn runs on plain PyTorch operators, slowly, because its compiled part is missing "
        f"({reason}); from its source folder run: {_BUILD} .",
        RuntimeWarning,
        stacklevel=2,
    )
