"""Which version of each library is installed, and which was tried."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from types import ModuleType

from bench.environment import REPOSITORY
from bench.libraries import MODULES

REQUIREMENTS = REPOSITORY / "requirements-libraries.txt"


class NotUsableError(RuntimeError):
    """A library is missing or cannot be imported; says what is installed and what was tried."""


def tried() -> dict[str, str]:
    """The version of each package in requirements-libraries.txt."""
    lines = REQUIREMENTS.read_text().splitlines()
    found = [re.match(r"([\w-]+)(?:\[\w+\])?==(\S+)", line) for line in lines]
    return {match[1]: match[2] for match in found if match}


def installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe(package: str) -> str:
    """Such as "flair 0.16.0 is installed, 0.15.1 was tried"."""
    version, expected = installed(package), tried()[package]
    if version == expected:
        return f"{package} {version}, as tried"
    found = f"{version} is installed" if version else "is not installed"
    return f"{package} {found}, {expected} was tried: pip install {package}=={expected}"


def subjects_of(package: str) -> ModuleType:
    """The module with the package's subjects, in an environment that has the package."""
    try:
        return importlib.import_module(f"bench.libraries.{MODULES[package]}")
    except (ImportError, OSError) as error:
        raise NotUsableError(f"{describe(package)}: {error}") from error
