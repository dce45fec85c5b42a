"""A short run of the fuzzer, and proof that it names a call that crashes, hangs or is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import run_process

from fusedrnn import _library

ROOT = Path(__file__).resolve().parent.parent

if not _library.available:
    pytest.skip(f"needs the compiled part: {_library.reason}", allow_module_level=True)


def fuzz(*arguments: str, break_with: str = "") -> subprocess.CompletedProcess[str]:
    """tools/fuzz.py in a process of its own; `break_with` runs in it first."""
    start = f"import sys, runpy; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
    run = f"runpy.run_path({str(ROOT / 'tools' / 'fuzz.py')!r}, run_name='__main__')"
    tools = f"sys.path.insert(0, {str(ROOT / 'tools')!r})\n"
    return run_process([sys.executable, "-c", start + tools + break_with + run, *arguments])


def test_a_short_run_finds_nothing() -> None:
    done = fuzz("--calls", "2000", "--seed", "20")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    counts = {
        kind: int(count)
        for kind, count in re.findall(r"(right|refused) (\d+)[,;]", done.stdout.splitlines()[-1])
    }
    assert counts["right"] > 600 and counts["refused"] > 300, counts


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("import os; os.abort()", "SIGABRT"),
        ("import time; time.sleep(60)", "hang"),
        ("raise KeyError('odd')", "fault"),
        ("raise RuntimeError('no')", "refused though valid"),
        ("return _real(*args)[:1] + tuple(t + 1 for t in _real(*args)[1:])", "wrong result"),
        ("return tuple(t[:0] for t in _real(*args))", "wrong shape"),
        ("import torch; torch.set_num_threads(1); return _real(*args)", "state left changed"),
    ],
)
def test_a_fault_of_each_kind_is_found_and_replayed(body: str, kind: str) -> None:
    broken = (
        "from fusedrnn import ops\n_real = ops._plain_layer_forward\n"
        f"def _broken(*args):\n    {body}\nops._plain_layer_forward = _broken\n"
    )
    done = fuzz("--calls", "120", "--seed", "6", "--hang", "5", break_with=broken)
    assert done.returncode == 1, done.stderr
    finding = re.search(rf"FINDING \d+ x [^|]*\| {kind} .*\n    --replay (\d+:\d+)", done.stdout)
    assert finding, done.stdout
    again = fuzz("--replay", finding[1], "--hang", "5", break_with=broken)
    assert again.returncode == 1 and kind in again.stdout
    assert fuzz("--replay", finding[1]).returncode == 0
