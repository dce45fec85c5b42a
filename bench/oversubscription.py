"""How much slower a layer gets where its threads lack cores: more threads than cores, a process
on one core, or a machine that other processes keep busy.

Every measurement has a process of its own. Rounds go through all conditions and providers in turn.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy
import torch

from bench.cases import Case, Shape
from bench.measure import TOLERANCES, set_up
from bench.problem import Problem
from bench.providers import MODULES
from bench.report import align
from bench.store import Record
from bench.timing import Summary
from bench.workers import isolated

PROVIDERS = {provider.name: provider for provider in MODULES}  # what has torch's threads

# The largest slow-down against one thread on an idle machine that is expected of fusedrnn.
LIMITS = {"serial": None, "all cores": None, "more threads": 1.2, "one core": 1.2, "busy": 4.0}
THREADS_OF_CORE = 4  # with more threads
SHAPES = (Shape(1, 100, 128, 128), Shape(1, 100, 512, 512), Shape(32, 100, 512, 512))
SECONDS = 0.3  # of calls in one process
MIN_CALLS = 3


@dataclasses.dataclass(frozen=True)
class OversubscriptionCase(Case):
    """A case under one of the conditions of `LIMITS`."""

    condition: str = "serial"


def select(
    cells: Iterable[str], modes: Sequence[str], shapes: Sequence[Shape]
) -> list[list[OversubscriptionCase]]:
    """For each layer its conditions."""
    cores = len(os.sched_getaffinity(0))
    threads = {"serial": 1, "more threads": THREADS_OF_CORE * cores}
    return [
        [
            OversubscriptionCase(
                cell, shape, mode, "float32", threads.get(condition, cores), condition=condition
            )
            for condition in LIMITS
        ]
        for cell in cells
        for shape in shapes
        for mode in modes
    ]


def measure(
    cases: Sequence[OversubscriptionCase], rounds: int
) -> list[tuple[OversubscriptionCase, dict[str, Any]]]:
    """Case and record of each condition and provider; slow-downs are against the first case."""
    samples: dict[tuple[str, str], list[float]] = {}
    messages: dict[tuple[str, str], str] = {}
    expected = None
    for _ in range(rounds):
        for case in cases:
            for provider in PROVIDERS:
                key = case.condition, provider
                try:
                    with _busy_machine(case.condition):
                        seconds, output = isolated(_run, case, provider)
                except RuntimeError as error:
                    messages[key] = str(error)
                    continue
                expected = output if expected is None else expected
                error = float(abs(output - expected).max() / abs(expected).max())
                if not error <= TOLERANCES[case.dtype]:
                    messages[key] = f"output differs by {error:.1e} of its largest element"
                samples.setdefault(key, []).append(seconds)
    return [
        (case, _record(case, provider, samples, messages.get((case.condition, provider), "")))
        for case in cases
        for provider in PROVIDERS
    ]


def render(records: Iterable[Record]) -> str:
    """One row a condition and provider; then what is over its limit, and failures."""
    head = ["cell", "mode", "B", "H", "condition", "threads", "provider", "ms", "slow-down"]
    rows, over, failures = [], [], []
    for record in records:
        case, shape = record["case"], record["case"]["shape"]
        sizes = [str(shape["batch_size"]), str(shape["hidden_size"])]
        key = [case["cell"], case["mode"], *sizes, case["condition"], str(case["threads"])]
        key.append(record["provider"])
        if record["status"] != "ok":
            rows.append([*key, "FAILED", ""])
            failures.append(f"  {' '.join(key)}: {record['message'].strip()}")
            continue
        rows.append(
            [*key, f"{1e3 * record['seconds']['median']:.2f}", f"{record['slow_down']:.2f}"]
        )
        if record["limit"] is not None and record["slow_down"] > record["limit"]:
            over.append(f"  {' '.join(key)}: {record['slow_down']:.2f} > {record['limit']:g}")
    notes = [f"over the limit: {len(over) or 'none'}", *over]
    notes += [f"failures: {len(failures) or 'none'}", *failures]
    return "\n".join([align([head, *rows], left=(0, 1, 4, 6)), "", *notes])


def _run(case: OversubscriptionCase, provider: str) -> tuple[float, numpy.ndarray]:
    """Median seconds of a call in this process, and its output."""
    if case.condition == "one core":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    set_up(case)
    problem = Problem.draw(case)
    torch.set_grad_enabled(case.mode == "train")
    prepared = PROVIDERS[provider].prepare(problem)
    prepared.step()
    samples: list[float] = []
    start = time.perf_counter()
    while len(samples) < MIN_CALLS or time.perf_counter() - start < SECONDS:
        before = time.perf_counter()
        prepared.step()
        samples.append(time.perf_counter() - before)
    return Summary.of(samples).median, prepared.results()["output"].numpy()


@contextlib.contextmanager
def _busy_machine(condition: str) -> Iterator[None]:
    """While it lasts, as many processes as cores are busy, if that is the condition."""
    count = len(os.sched_getaffinity(0)) if condition == "busy" else 0
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _record(
    case: OversubscriptionCase,
    provider: str,
    samples: dict[tuple[str, str], list[float]],
    message: str,
) -> dict[str, Any]:
    serial = samples.get(("serial", provider), [])
    mine = samples.get((case.condition, provider), [])
    if message or not serial:
        message = message or "nothing to compare with: the first condition failed"
        return {"provider": provider, "status": "failed", "message": message}
    ratios = [seconds / base for seconds, base in zip(mine, serial, strict=False)]
    return {
        "provider": provider,
        "version": PROVIDERS[provider].version(),
        "status": "ok",
        "rounds": len(mine),
        "seconds": vars(Summary.of(mine)),
        "slow_down": Summary.of(ratios).median,
        "limit": LIMITS[case.condition] if provider == "fusedrnn" else None,
    }
