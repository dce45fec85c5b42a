"""Instructions of the CPU kernels in one step of two small cases, counted by valgrind's callgrind.

A count does not depend on who else uses the machine, so that a small regression shows. Only what
`layer_forward_cpu` and `layer_backward_cpu` execute is counted, on one thread and without AVX-512,
which valgrind does not know.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.cases import Case, Shape
from bench.environment import REPOSITORY, UsageError
from bench.measure import set_up
from bench.problem import Problem, grad_mode
from bench.report import align
from bench.revisions import TreeProvider, tail
from bench.store import Record, case_of

CASES = (
    Case("LSTM", Shape(1, 16, 64, 64), "infer", "float32", 1),
    Case("GRU", Shape(4, 16, 32, 32), "train", "float32", 1),
)
FUNCTIONS = ("fusedrnn::layer_forward_cpu*", "fusedrnn::layer_backward_cpu*")
ISA = "avx2" if platform.machine().lower() in ("x86_64", "amd64") else "generic"
# Hashes and threads that are the same in every run.
SETTINGS = {"FUSEDRNN_CPU_ISA": ISA, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
STEP = "import sys; from bench import instructions; instructions.step(*sys.argv[1:])"


def require_valgrind() -> None:
    if shutil.which("valgrind") is None:
        raise UsageError("valgrind is not on PATH; install it, such as by apt-get install valgrind")


def measure(case: Case, provider: TreeProvider) -> dict[str, Any]:
    """The record of a provider's step, run under callgrind in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind.out"
        valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
        valgrind += [f"--toggle-collect={name}" for name in FUNCTIONS]
        step = [sys.executable, "-c", STEP, case.name, provider.name, str(provider.tree)]
        done = subprocess.run(
            [*valgrind, *step],
            cwd=REPOSITORY,
            env=os.environ | SETTINGS,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        try:
            if done.returncode:
                raise RuntimeError(f"exit code {done.returncode}: {tail(done.stdout)}")
            count = parse(out.read_text())
        except (OSError, RuntimeError) as error:
            return {"provider": provider.name, "status": "failed", "message": str(error)}
    return {"provider": provider.name, "status": "ok", "instructions": count, "isa": ISA}


def parse(text: str) -> int:
    """The number of instructions in a file of callgrind's."""
    found = re.search(r"^(?:totals|summary):\s*(\d+)", text, re.MULTILINE)
    if found is None:
        raise RuntimeError("callgrind's file has no line of totals")
    if int(found[1]) == 0:
        raise RuntimeError(f"no call of {' or '.join(FUNCTIONS)} was seen: they have no symbols")
    return int(found[1])


def step(case_name: str, name: str, tree: str) -> None:
    """What is counted: one step, the first of its process."""
    case = next(case for case in CASES if case.name == case_name)
    provider = TreeProvider(name, Path(tree))
    provider.set_up(case)
    set_up(case)
    with grad_mode(case):
        provider.prepare(Problem.draw(case)).step()


def render(records: Iterable[Record]) -> str:
    """One row a case and provider; the ratio is that of the first provider's count to its own."""
    head = ["cell", "mode", "B", "T", "I", "H", "provider", "instructions", "ratio"]
    rows, failures = [], []
    first: dict[Case, int] = {}
    for record in records:
        case = case_of(record)
        key = [case.cell, case.mode, *map(str, vars(case.shape).values()), record["provider"]]
        if record["status"] != "ok":
            rows.append([*key, "FAILED", ""])
            failures.append(f"  {' '.join(key)}: {record['message'].strip()}")
            continue
        count = record["instructions"]
        ratio = first.setdefault(case, count) / count
        rows.append([*key, f"{count:,}", f"{ratio:.3f}"])
    notes = [f"failures: {len(failures) or 'none'}", *failures]
    return "\n".join([align([head, *rows], left=(0, 1, 6)), "", *notes])
