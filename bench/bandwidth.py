"""How fast the threads read from the cache level that their weights lie in.

`bench/native/read_bandwidth.cpp` reads; it is compiled once, with the C++ compiler of the
machine, and for this machine. Without a compiler the bandwidth is unknown.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

SOURCE = Path(__file__).resolve().parent / "native" / "read_bandwidth.cpp"
BUILD = SOURCE.parent.parent.parent / "build" / "bench"
FLAGS = ("-std=c++17", "-O3", "-march=native", "-shared", "-fPIC", "-pthread")
SECONDS = 0.02  # of a sample


def make_reader(threads: int, slice_bytes: int) -> Callable[[], float] | None:
    """A function that returns GB/s of all threads together, each of which reads a buffer of
    `slice_bytes` of its own; None without a compiler."""
    path = build()
    if path is None:
        return None
    read = ctypes.CDLL(str(path)).read_gbps
    read.argtypes = (ctypes.c_int, ctypes.c_size_t, ctypes.c_double)
    read.restype = ctypes.c_double
    return lambda: read(threads, slice_bytes, SECONDS)


def build() -> Path | None:
    """The compiled library; None where it cannot be compiled."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    if shutil.which(compiler[0]) is None:
        return None
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    path = BUILD / f"read_bandwidth-{digest}.so"
    if not path.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        command = [*compiler, *FLAGS, str(SOURCE), "-o", str(unfinished)]
        done = subprocess.run(command, check=False, capture_output=True)
        if done.returncode != 0:
            return None
        unfinished.replace(path)
    return path
