"""Loads the compiled operators and registers what is written in Python for them."""

from __future__ import annotations

import warnings

try:
    from fusedrnn import _C  # noqa: F401: its load registers the operators

    available = True
    reason = None  # why the compiled part is missing
except ImportError as error:
    available = False
    reason = str(error)
    warnings.warn(
        f"fusedrnn runs on plain PyTorch operators, slowly, because its compiled part is missing "
        f"({error}); build it with: pip install --no-build-isolation --force-reinstall fusedrnn",
        RuntimeWarning,
        stacklevel=2,
    )
