"""A machine as its records tell it, apart from others and from itself with an ISA forced."""

from __future__ import annotations

import dataclasses
import re
from typing import Any


@dataclasses.dataclass(frozen=True)
class Machine:
    cpu: str
    cores: int
    isa: str  # of fusedrnn's kernels
    caches: tuple[tuple[str, str], ...]  # a core's, level and size
    forced_isa: str | None  # that all libraries were held to, where they can be

    @classmethod
    def of(cls, environment: dict[str, Any]) -> Machine:
        caches = tuple(environment["caches"].items())
        names = ("cpu", "cores", "fusedrnn_isa")
        return cls(*(environment[name] for name in names), caches, environment.get("forced_isa"))

    @property
    def name(self) -> str:
        """For people; a forced one says so."""
        forced = f", FORCED to {self.forced_isa.upper()}" if self.forced_isa else ""
        return f"{self.cpu}, {self.cores} cores{forced}"

    @property
    def cache_text(self) -> str:
        return ", ".join(f"{level} {_in_mebibytes(size)}" for level, size in self.caches)


def _in_mebibytes(size: str) -> str:
    """A size as the system writes it, such as 2048K, in M where it is whole."""
    kibibytes = int(size[:-1]) if re.fullmatch(r"\d+K", size) else 0
    return f"{kibibytes // 1024}M" if kibibytes and kibibytes % 1024 == 0 else size


def file_stem(environment: dict[str, Any], device: str = "cpu") -> str:
    """For names of files: processor or GPU, cores, and the ISA if it is forced."""
    name = environment["gpu" if device == "cuda" else "cpu"]
    forced = environment.get("forced_isa")
    text = f"{name} {environment['cores']} cores{f' forced {forced}' if forced else ''}"
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
