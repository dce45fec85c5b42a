"""What the machine's threads can do at most: multiply-adds in registers, and reading from the
cache level that their weights lie in.

The programs in `bench/native` measure it. They are compiled on first use, with the C++ compiler
of the machine and for this machine, or for an older instruction set. Without a compiler the rates
are unknown.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

NATIVE = Path(__file__).resolve().parent / "native"
BUILD = NATIVE.parent.parent / "build" / "bench"
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-shared", "-fPIC", "-pthread")
TARGETS = {None: "-march=native", "avx2": "-march=haswell"}  # by forced instruction set
SECONDS = 0.02  # of a sample


@dataclasses.dataclass(frozen=True)
class Rates:
    """Of all threads together; None where unknown."""

    fma_gflops: float | None
    read_gbps: float | None


def make_rates(threads: int, slice_bytes: int, isa: str | None = None) -> Callable[[], Rates]:
    """A function that measures on so many threads, each of which reads a buffer of `slice_bytes`
    of its own; compiled for `isa`, or for this machine."""
    multiply = _load("multiply_add", "multiply_add_gflops", isa, ctypes.c_int, ctypes.c_double)
    read = _load("read_bandwidth", "read_gbps", isa, ctypes.c_int, ctypes.c_size_t, ctypes.c_double)
    return lambda: Rates(
        multiply(threads, SECONDS) if multiply else None,
        read(threads, slice_bytes, SECONDS) if read and slice_bytes else None,
    )


def build(name: str, isa: str | None = None) -> Path | None:
    """The compiled `bench/native/<name>.cpp`; None where it cannot be compiled."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    if shutil.which(compiler[0]) is None:
        return None
    source, flags = NATIVE / f"{name}.cpp", (*FLAGS, TARGETS[isa])
    texts = [path.read_bytes() for path in (source, *sorted(NATIVE.glob("*.h")))]
    digest = hashlib.sha256(b"\0".join([*texts, " ".join(flags).encode()])).hexdigest()[:12]
    path = BUILD / f"{name}-{digest}.so"
    if not path.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        command = [*compiler, *flags, str(source), "-o", str(unfinished)]
        done = subprocess.run(command, check=False, capture_output=True)
        if done.returncode != 0:
            return None
        unfinished.replace(path)
    return path


def _load(source: str, name: str, isa: str | None, *argtypes: Any) -> Callable[..., float] | None:
    path = build(source, isa)
    if path is None:
        return None
    function = getattr(ctypes.CDLL(str(path)), name)
    function.argtypes, function.restype = argtypes, ctypes.c_double
    return function
