"""Loads the compiled operators and tells torch what it cannot know: shapes, and rules for vmap.

`available` says whether the compiled part is there, `path` where it lies, and `reason` why it
is missing. The operators' schemas and the shapes of all tensors are in
csrc/bindings/library.cpp.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from fusedrnn import _fake, _vmap

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


if available:
    _fake.register()
    _vmap.register()
else:
    warnings.warn(
        f"fusedrnn runs on plain PyTorch operators, slowly, because its compiled part is missing "
        f"({reason}); from its source folder run: {_BUILD} .",
        RuntimeWarning,
        stacklevel=2,
    )
