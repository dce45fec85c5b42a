"""Loads the compiled operators.

`available` says whether the compiled part is there, `path` where it lies, and `reason` why it
is missing. The operators' schemas and the shapes of all tensors are in
csrc/bindings/library.cpp.
"""

from __future__ import annotations

import os
import warnings
from importlib import metadata
from pathlib import Path

import torch


def _remedy() -> str:
    """The command that builds, for the installer that this package came by."""
    try:
        uv = metadata.distribution("fusedrnn").read_text("INSTALLER") == "uv"
    except metadata.PackageNotFoundError:
        uv = False
    if (Path(__file__).parent.parent / "setup.py").is_file():
        target = "--editable ."
    else:
        target = f"{'--reinstall' if uv else '--force-reinstall'} --no-deps ."
    pip = "uv pip" if uv else "pip"
    return f"from its source folder run: {pip} install --no-build-isolation {target}"


def _load() -> tuple[Path | None, str]:
    """The path of the loaded library, or None and the reason."""
    folder = Path(__file__).parent
    path = next((p for p in (folder / "_C.so", folder / "_C.pyd") if p.is_file()), None)
    if path is None:
        sources = (folder.parent / "setup.py").is_file()
        hidden = ", the source folder, which hides what is installed from programs that run in it"
        return None, f"there is no _C library in {folder}{hidden if sources else ''}"
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

    Examples:
        >>> torch.ops.load_library(library_path())
    """
    if path is None:
        raise RuntimeError(f"fusedrnn has no compiled part ({reason}); {_remedy()}")
    return path


def has_cuda_kernels() -> bool:
    """Whether the compiled part was built with CUDA."""
    return available and torch._C._dispatch_has_kernel_for_dispatch_key(
        "fusedrnn::layer_forward", "CUDA"
    )


def reload_environment() -> None:
    """Reads fusedrnn's environment variables again.

    They are read when fusedrnn is imported and not in a call, because another thread may be
    changing the environment then.

    Examples:
        >>> os.environ["FUSEDRNN_DEBUG"] = "1"
        >>> reload_environment()
    """
    if not available:
        return
    for name in torch.ops.fusedrnn.variable_names():
        torch.ops.fusedrnn.set_variable(name, os.environ.get(name, ""))


if not available:
    warnings.warn(
        f"fusedrnn runs on plain PyTorch operators, slowly, because its compiled part is missing "
        f"({reason}); {_remedy()}",
        RuntimeWarning,
        stacklevel=2,
    )
