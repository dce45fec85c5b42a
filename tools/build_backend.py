"""The build backend: setuptools', with one sentence where an installer would print a traceback.

Without build isolation, setuptools is the environment's own, which may lack it or have an older
one. Without torch, pip would first download torch and fail then.
"""

from __future__ import annotations

from typing import Any

from build_environment import (
    OLDEST_SETUPTOOLS,
    after_installing,
    find_torch,
    stop,
    stop_without_torch,
    tool,
)

NEEDED = f"setuptools>={OLDEST_SETUPTOOLS}"
try:
    import setuptools
    from setuptools import build_meta
except ModuleNotFoundError:
    stop("setuptools is missing", after_installing(NEEDED, "torch", "ninja"))
if int(setuptools.__version__.split(".")[0]) < OLDEST_SETUPTOOLS:
    stop(
        f"setuptools {setuptools.__version__} is too old, expected {OLDEST_SETUPTOOLS} or newer",
        after_installing(NEEDED, "torch", "ninja"),
    )

build_sdist = build_meta.build_sdist
build_wheel = build_meta.build_wheel
build_editable = build_meta.build_editable
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable


def prepare_metadata_for_build_wheel(*args: Any, **kwargs: Any) -> str:
    """The wheel's metadata, which resolvers of other tools may want where there is no torch."""
    if tool() == "pip" and find_torch() is None:
        stop_without_torch()
    return build_meta.prepare_metadata_for_build_wheel(*args, **kwargs)
