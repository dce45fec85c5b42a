"""Memory and time of a training step over a very long sequence, by what `recompute` keeps.

Every step runs in a process of its own: its peak is no other's, and it finds no memory that
another has left. Rounds go through all settings in turn.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy

from bench import environment
from bench.cases import Case, Shape
from bench.measure import TOLERANCES, peak_bytes, reset_peak, set_up
from bench.problem import PreparedModule, Problem, make_module
from bench.providers import BASELINE, ModuleProvider
from bench.report import align, others_text
from bench.store import Record
from bench.timing import Summary
from bench.workers import isolated

SETTINGS = ("none", "gates", "chunk:100", "chunk:1000")
SHAPE = Shape(batch_size=4, seq_len=100_000, input_size=128, hidden_size=128)
WARM_SHAPE = Shape(batch_size=2, seq_len=2, input_size=8, hidden_size=8)


@dataclasses.dataclass(frozen=True)
class RecomputeCase(Case):
    """A training step of one layer; `recompute` is None for torch.nn, which has no such choice."""

    recompute: str | None = None

    @property
    def provider(self) -> str:
        return BASELINE if self.recompute is None else "fusedrnn"


@dataclasses.dataclass(frozen=True)
class Step:
    """What one process found."""

    seconds: float
    peak_bytes: int | None
    other_cores: float | None
    digest: str  # of the bits of the output and of every gradient
    weight_grads: dict[str, numpy.ndarray]  # a tensor would not outlive its process


def select(cells: Iterable[str], shape: Shape, threads: int) -> list[list[RecomputeCase]]:
    """For each cell its settings, and torch.nn."""
    return [
        [
            RecomputeCase(cell, shape, "train", "float32", threads, recompute=setting)
            for setting in (*SETTINGS, None)
        ]
        for cell in cells
    ]


def measure(cases: Sequence[RecomputeCase], rounds: int) -> list[dict[str, Any]]:
    """One record a case; all are compared with the first, which is fusedrnn's."""
    steps: list[list[Step]] = [[] for _ in cases]
    messages = [""] * len(cases)
    for _ in range(rounds):
        for idx, case in enumerate(cases):
            if messages[idx]:
                continue
            try:
                steps[idx].append(isolated(run_step, case))
                messages[idx] = difference(case, steps[idx][-1], steps[0][:1])
            except RuntimeError as error:
                messages[idx] = str(error)
    return [
        {"provider": case.provider, "status": "failed", "message": message}
        if message
        else _record(case, found)
        for case, found, message in zip(cases, steps, messages, strict=True)
    ]


def run_step(case: RecomputeCase) -> Step:
    """One training step, in this process."""
    set_up(case)
    _prepare(dataclasses.replace(case, shape=WARM_SHAPE)).step()
    prepared = _prepare(case)
    busy = environment.BusyElsewhere()
    memory = reset_peak()
    start = time.perf_counter()
    prepared.step()
    seconds = time.perf_counter() - start
    peak = peak_bytes()
    results = prepared.results()
    digest = hashlib.blake2b()
    for name in sorted(results):
        digest.update(results[name].contiguous().numpy())
    return Step(
        seconds,
        None if memory is None or peak is None else max(0, peak - memory),
        busy.cores(),
        digest.hexdigest(),
        {
            name: value.numpy()
            for name, value in results.items()
            if "weight" in name or "bias" in name
        },
    )


def difference(case: RecomputeCase, step: Step, first: Sequence[Step]) -> str:
    """What is wrong with a step's results, if anything, beside those of the first."""
    if not first:
        return "nothing to compare with: the first setting failed"
    if case.provider == "fusedrnn":
        is_equal = step.digest == first[0].digest
        return "" if is_equal else f"recompute={case.recompute}: other bits than the first step's"
    for name, expected in first[0].weight_grads.items():
        error = float(abs(step.weight_grads[name] - expected).max() / abs(expected).max())
        if not error <= TOLERANCES[case.dtype]:
            return f"{name} differs from fusedrnn's by {error:.1e} of its largest element"
    return ""


def render(records: Iterable[Record]) -> str:
    """One row a setting, ``*`` where it was disturbed; and failures."""
    head = ["cell", "B", "T", "I", "H", "provider", "recompute", "peak MiB", "s", "q20", "q80"]
    head.append("others")
    rows, failures = [], []
    for record in records:
        case = record["case"]
        key = [case["cell"], *map(str, case["shape"].values()), record["provider"]]
        key.append(case["recompute"] or "")
        if record["status"] != "ok":
            rows.append([*key, "FAILED", *[""] * (len(head) - len(key) - 1)])
            failures.append(f"  {' '.join(key)}: {record['message'].strip()}")
            continue
        peak = record["peak_bytes"]
        rows.append(
            [
                *key,
                "" if peak is None else f"{peak / 2**20:.0f}",
                *(f"{record['seconds'][name]:.2f}" for name in ("median", "q20", "q80")),
                others_text(record),
            ]
        )
    failed = "\n".join([f"failures: {len(failures) or 'none'}", *failures])
    return f"{align([head, *rows], left=(0, 5, 6))}\n\n{failed}"


def _prepare(case: RecomputeCase) -> PreparedModule:
    problem = Problem.draw(case)
    module = make_module(case.provider, problem)
    if case.recompute is None:
        return PreparedModule(module, problem)
    return PreparedModule(module, problem, lambda m, input: m(input, recompute=case.recompute))


def _record(case: RecomputeCase, steps: Sequence[Step]) -> dict[str, Any]:
    peaks = [step.peak_bytes for step in steps if step.peak_bytes is not None]
    others = [step.other_cores for step in steps if step.other_cores is not None]
    return {
        "provider": case.provider,
        "version": ModuleProvider(case.provider).version(),
        "status": "ok",
        "rounds": len(steps),
        "seconds": vars(Summary.of([step.seconds for step in steps])),
        "peak_bytes": max(peaks, default=None),
        "digest": steps[0].digest,
        "other_cores": max(others, default=None),
    }
