"""Scratch memory is kept from one call to the next, within bounds that no shape moves."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from fusedrnn import functional
from fusedrnn.functional import LayerWeights

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="counts pages as Linux tells them"
)

MIB = 1 << 20
VALUES = torch.zeros(4 * 1600**2)
POOL_BYTES = 64 * MIB  # kMaxPoolBytes of csrc/bindings/scratch.h


def run(hidden_size: int) -> None:
    """A call whose scratch memory is mostly weight_hh, packed: 16 * hidden_size**2 bytes."""
    weights = LayerWeights(
        torch.ones(()).expand(4 * hidden_size, 1),
        VALUES[: 4 * hidden_size**2].view(-1, hidden_size),
    )
    with torch.no_grad():
        functional.lstm(torch.zeros(24, 4, 1), None, [weights])


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
    for hidden_size in (256, 512, 1024):
        for _ in range(3):
            run(hidden_size)
        before = faults()
        for _ in range(4):
            run(hidden_size)
        assert (faults() - before) / 4 < 32  # of 64 pages and more that are packed


def test_memory_does_not_grow_with_the_number_of_shapes() -> None:
    run(64)
    before = resident_bytes()
    for hidden_size in range(1000, 1600, 40):
        run(hidden_size)
    assert resident_bytes() - before < POOL_BYTES + 24 * MIB


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
    before = large_page_bytes()
    asked: list[int] = []
    thread = threading.Thread(target=lambda: (run(1500), asked.append(large_page_bytes())))
    thread.start()
    thread.join()
    assert asked[0] - before >= 32 * MIB  # of 34 MiB and what fits into no whole page
