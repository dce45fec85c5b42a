"""What the numbers depend on: machine, versions, revision, and who else is using the cores."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from bench import isa

REPOSITORY = Path(__file__).resolve().parent.parent
# What a measurement depends on; changes elsewhere do not make a revision dirty.
_MEASURED_PATHS = ("csrc", "fusedrnn", "setup.py", "bench/*.py")


class UsageError(RuntimeError):
    """What was asked for cannot be done here; printed without a traceback."""


def describe() -> dict[str, Any]:
    """The machine and the software, as every record holds them."""
    from fusedrnn import info

    facts = info.collect()
    return {
        "cpu": facts["cpu"],
        "cores": os.cpu_count(),
        "caches": _caches(),
        "memory_bytes": _memory_bytes(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "os": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
        "fusedrnn": facts["fusedrnn"],
        "fusedrnn_isa": facts["cpu_isa"] or "none: PyTorch fallback",
        "forced_isa": isa.forced(),
        "variables": facts["environment"],
        "revision": revision(),
        "load_average": load_average(),
    }


def revision() -> str:
    """The short git revision, with ``-dirty`` if what is measured differs from it."""
    try:
        head = git("rev-parse", "--short=10", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *_MEASURED_PATHS)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}-dirty" if changed else head


def load_average() -> float | None:
    """Of the last minute; None where the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


class BusyElsewhere:
    """Cores kept busy by other processes and other guests since this object was made."""

    def __init__(self) -> None:
        self._start = self._sample()

    def cores(self, own_seconds: float = 0.0) -> float | None:
        """The mean number, or None where the system does not tell; `own_seconds` were used by
        processes that belong to this one."""
        wall, busy, own = (
            now - then for now, then in zip(self._sample(), self._start, strict=True)
        )
        if not busy:
            return None
        return max(0.0, (busy - own - own_seconds) / wall)

    @staticmethod
    def _sample() -> tuple[float, float, float]:
        fields = _read("/proc/stat").partition("\n")[0].split()[1:]
        busy = 0.0
        if fields:
            user, nice, system, _, _, irq, softirq, steal, *_ = map(int, fields)
            ticks = os.sysconf("SC_CLK_TCK")
            busy = (user + nice + system + irq + softirq + steal) / ticks
        return time.perf_counter(), busy, time.process_time()


def git(*arguments: str) -> str:
    """What git prints, run in this repository."""
    return subprocess.run(
        ("git", *arguments), cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.strip()


def _caches() -> dict[str, str]:
    """Size of each level of the first core's caches, such as ``{"L1 data": "32K"}``."""
    caches = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (_read(index / name).strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            caches[f"L{level}"] = size
    return caches


def _memory_bytes() -> int | None:
    match = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return 1024 * int(match[1]) if match else None


def _read(path: str | Path) -> str:
    """The text of a file of the system, empty if it does not exist."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""
