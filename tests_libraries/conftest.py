"""Tests against other libraries: `make test-libraries`, in an environment of their own.

A library that is missing, or that cannot be imported, is skipped by a reason that names the version
that was tried. One of another version is tested, and the header says so.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import fusedrnn
from bench.libraries import MODULES, versions


def pytest_report_header() -> list[str]:
    head = f"fusedrnn {fusedrnn.__version__} from {fusedrnn.__file__}, torch {torch.__version__}"
    return [head, *map(versions.describe, versions.tried().keys() & MODULES.keys())]


@pytest.fixture
def need_library() -> object:
    """Skips where a package is not installed."""

    def need(package: str) -> None:
        if versions.installed(package) is None:
            pytest.skip(versions.describe(package))

    return need
