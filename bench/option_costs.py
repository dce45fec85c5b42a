"""What the options cost: lengths, resets and per-sample gradients beside the usual ways.

A case times every contestant of its kind in one process, interleaved, after their results were
compared with float64. `cost` is a contestant's time over the share of the reference's that it
should take, within a round: 1 is what the option is worth.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Container, Iterable
from typing import Any

from bench import environment, timing
from bench.cases import Case, Shape
from bench.contests import CONTESTS
from bench.measure import check, set_up
from bench.problem import Problem, grad_mode
from bench.report import align, others_text
from bench.store import Record
from bench.timing import Effort, Summary
from bench.workers import isolated

CELLS = ("LSTM", "GRU")
HIDDEN_SIZES = (128, 256)


@dataclasses.dataclass(frozen=True)
class OptionCase(Case):
    """One layer, one direction, with the option of `kind`."""

    kind: str = next(iter(CONTESTS))

    @property
    def name(self) -> str:
        return f"{self.kind}-{super().name}"


def select(
    kinds: Iterable[str],
    cells: Iterable[str],
    modes: Container[str],
    hidden_sizes: Iterable[int],
    threads: int,
) -> list[OptionCase]:
    cases = []
    for kind, cell, width in itertools.product(kinds, cells, hidden_sizes):
        contest = CONTESTS[kind]
        shape = Shape(contest.batch_size, contest.seq_len, width, width)
        cases += [
            OptionCase(cell, shape, mode, "float32", threads, kind=kind)
            for mode in contest.modes
            if mode in modes
        ]
    return cases


def measure(case: OptionCase, effort: Effort) -> list[dict[str, Any]]:
    """One record a contestant; of status "failed" with the reason if the case fails."""
    try:
        return isolated(_time_in_process, case, effort)
    except RuntimeError as error:
        return [
            {"provider": contestant.name, "status": "failed", "message": str(error)}
            for contestant in CONTESTS[case.kind].contestants
        ]


def time_case(case: OptionCase, effort: Effort) -> list[dict[str, Any]]:
    """Check, then time; every field that `store.complete` does not add."""
    contest = CONTESTS[case.kind]
    problem = Problem.draw(case)
    checked = [contestant for contestant in contest.contestants if contestant.has_option]
    errors = check(problem, checked, contest.oracle_provider())
    with grad_mode(case):
        samplers = {
            entry.name: timing.StepSampler(entry.prepare(problem).step)
            for entry in contest.contestants
        }
        busy = environment.BusyElsewhere()
        timings = timing.interleave(samplers, effort)
    other_cores = busy.cores()
    share = contest.share(case)
    expected = [share * seconds for seconds in timings.samples[contest.reference]]
    records = []
    for idx, contestant in enumerate(contest.contestants):
        samples = timings.samples[contestant.name]
        found = errors.get(contestant.name)
        records.append(
            {
                "provider": contestant.name,
                "version": contestant.version(),
                "status": "ok",
                "rounds": len(samples),
                "calls": samplers[contestant.name].calls,
                "seconds": vars(Summary.of(samples)),
                "reference": contest.reference,
                "share": share,
                "cost": vars(Summary.of(timing.ratios(samples, expected))),
                "limit": contest.limit if idx == 0 else None,
                "error": max(found.values()) if found else None,
                "other_cores": other_cores,
            }
        )
    return records


def render(records: Iterable[Record]) -> str:
    """One row a case and contestant, ``*`` where it was disturbed; what is over its limit; and
    failures."""
    head = ["kind", "cell", "mode", "B", "T", "I", "H", "provider", "ms", "q20", "q80"]
    head += ["cost", "q20", "q80", "limit", "err", "others"]
    rows, over, failures = [], [], []
    for record in records:
        case = record["case"]
        key = [case["kind"], case["cell"], case["mode"], *map(str, case["shape"].values())]
        key.append(record["provider"])
        if record["status"] != "ok":
            rows.append([*key, "FAILED", *[""] * (len(head) - len(key) - 1)])
            failures.append(f"  {' '.join(key)}: {record['message'].strip()}")
            continue
        cost, limit = record["cost"], record["limit"]
        if limit is not None and cost["median"] > limit:
            noise = "within noise" if cost["q20"] <= limit else "beyond noise"
            over.append(f"  {' '.join(key)}: {cost['median']:.3f} of {limit:.2f}, {noise}")
        rows.append(
            [
                *key,
                *(f"{1e3 * record['seconds'][name]:.2f}" for name in ("median", "q20", "q80")),
                *(f"{cost[name]:.3f}" for name in ("median", "q20", "q80")),
                "" if limit is None else f"{limit:.2f}",
                "" if record["error"] is None else f"{record['error']:.0e}",
                others_text(record),
            ]
        )
    parts = [align([head, *rows], left=(0, 1, 2, 7))]
    for title, lines in (("over the limit", over), ("failures", failures)):
        parts.append("\n".join([f"{title}: {len(lines) or 'none'}", *lines]))
    return "\n\n".join(parts)


def _time_in_process(case: OptionCase, effort: Effort) -> list[dict[str, Any]]:
    set_up(case)
    return time_case(case, effort)
