"""Scratch memory is kept from one call to the next, within bounds that no shape moves."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench import measure
from bench.cases import Case, Shape
from bench.providers import BASELINE, PROVIDERS
from bench.workers import isolated
from fusedrnn import functional
from fusedrnn.functional import LayerWeights

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="counts pages as Linux tells them"
)

MIB = 1 << 20
VALUES = torch.zeros(4 * 2400**2)
POOL_BYTES = 80 * MIB  # kPoolBytes of csrc/bindings/scratch.h


def run(hidden_size: int) -> None:
    """A call whose scratch memory is mostly weight_hh, packed: 16 * hidden_size**2 bytes."""
    weights = LayerWeights(
        torch.ones(()).expand(4 * hidden_size, 1),
        VALUES[: 4 * hidden_size**2].view(-1, hidden_size),
    )
    with torch.no_grad():
        functional.lstm(torch.zeros(24, 8, 1), None, [weights])


def faults() -> int:
    resource = pytest.importorskip("resource")
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def large_page_bytes() -> int:
    """Of the regions for which large pages were asked."""
    asked, size = 0, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.startswith("Size:"):
            size = 1024 * int(line.split()[1])
        elif line.startswith("VmFlags:") and " hg" in line:
            asked += size
    return asked


def test_later_calls_touch_no_fresh_memory() -> None:
    # What malloc gives back after each call, of the results, it keeps once it has seen more.
    torch.empty(16 * MIB, dtype=torch.uint8)
    for hidden_size in (256, 512, 1024):
        for _ in range(3):
            run(hidden_size)
        before = faults()
        for _ in range(4):
            run(hidden_size)
        assert (faults() - before) / 4 < 32  # of 64 pages and more that are packed


def in_new_thread(measured: Callable[[], int]) -> int:
    """What a thread measures whose pool is still empty."""
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(measured()))
    thread.start()
    thread.join()
    return results[0]


def test_a_pool_keeps_what_the_largest_call_used() -> None:
    def kept_bytes() -> int:
        before = resident_bytes()
        for hidden_size in (400, 580, 840, 1200):
            run(hidden_size)
        return resident_bytes() - before

    run(64)
    largest = 16 * 1200**2
    assert largest < in_new_thread(kept_bytes) < largest + 8 * MIB  # all four: 21 MiB more


def test_a_pool_keeps_no_more_than_its_limit() -> None:
    def kept_bytes() -> int:
        before = resident_bytes()
        run(1600)
        for _ in range(3):
            run(2400)  # 88 MiB
        return resident_bytes() - before

    run(64)
    assert in_new_thread(kept_bytes) < POOL_BYTES


def test_a_pool_ends_with_its_thread() -> None:
    run(64)
    before = resident_bytes()
    for _ in range(6):
        thread = threading.Thread(target=run, args=(1500,))
        thread.start()
        thread.join()
    # Python's thread is joined before the system's has ended and freed what was its own.
    deadline = time.monotonic() + 10
    while resident_bytes() - before >= 24 * MIB and time.monotonic() < deadline:
        time.sleep(0.01)
    assert resident_bytes() - before < 24 * MIB


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="a kernel without large pages"
)
def test_packed_weights_lie_in_large_pages() -> None:
    def asked_bytes() -> int:
        before = large_page_bytes()
        run(1500)
        return large_page_bytes() - before

    assert in_new_thread(asked_bytes) >= 32 * MIB  # of 34 MiB and what fits into no whole page


def peak_bytes(case: Case, provider: str) -> int | None:
    """By how much training steps raise the peak memory, in a process whose C library gives every
    larger block back as it is freed."""
    m_mmap_threshold = -3
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or libc.mallopt(m_mmap_threshold, 1 << 16) != 1:
        return None
    measure.set_up(case)
    with torch.enable_grad():
        return measure.peak_growth(case, PROVIDERS[provider])


@pytest.mark.parametrize(
    ("cell", "shape"),
    [
        ("GRU", Shape(4, 50, 1024, 1024)),
        ("GRU", Shape(64, 35, 650, 650)),
        ("RNN", Shape(16, 100, 256, 256)),
        ("RNN", Shape(64, 50, 256, 256)),
        ("RNN", Shape(256, 20, 64, 64)),
    ],
    ids=str,
)
def test_training_takes_no_more_memory_than_torch(cell: str, shape: Shape) -> None:
    case = Case(cell, shape, "train", "float32", threads=1)
    ours, theirs = (isolated(peak_bytes, case, name) for name in ("fusedrnn", BASELINE))
    if ours is None or theirs is None:
        pytest.skip("not the GNU C library")
    assert ours <= theirs
