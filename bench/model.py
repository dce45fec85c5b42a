"""The planner's time model beside measurement: every schedule that can be forced, in turn.

Of training the model counts the forward pass alone, and its schedule runs both passes: there the
times cannot agree, the ranking can.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Sequence

from bench.cases import Case
from bench.measure import measure as measure_providers
from bench.providers import FusedProvider
from bench.report import (
    align,
    geometric_mean,
    is_disturbed,
    milliseconds,
)
from bench.store import Record, case_of
from bench.timing import Effort

SCHEDULES = ("persistent", "per_step")
UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
VERDICTS = ("right", "not resolved", "WRONG")
KEY = ["cell", "mode", "threads", "B", "T", "I", "H"]


class Schedule(FusedProvider):
    """fusedrnn with a schedule forced."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def set_up(self, case: Case) -> None:
        os.environ["FUSEDRNN_SCHEDULE"] = self.name


def measure(case: Case, effort: Effort) -> list[Record]:
    """One record a schedule, as those of `run`, with `modelled_seconds`."""
    records = measure_providers(
        case, SCHEDULES, effort, {name: Schedule(name) for name in SCHEDULES}
    )
    return [
        record | {"modelled_seconds": modelled_seconds(record["plan"])}
        if record["status"] == "ok"
        else record
        for record in records
    ]


def modelled_seconds(plan: str) -> float:
    """What a plan's line says that it takes."""
    match = re.search(r"modelled ([\d.]+) (s|ms|us)\b", plan)
    if match is None:
        raise ValueError(f"plan: expected 'modelled <number> s, ms or us', got {plan!r}")
    return float(match[1]) * UNITS[match[2]]


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Two schedules of a case: the one that the model takes, and the other."""

    chosen: Record
    other: Record

    @property
    def ratio(self) -> float:
        """How many times faster the chosen one was measured, within a round."""
        return self.chosen["best_peer"]["speedup"]["median"]

    @property
    def modelled_ratio(self) -> float:
        return self.other["modelled_seconds"] / self.chosen["modelled_seconds"]

    @property
    def verdict(self) -> str:
        """Whether the ranking is right; it is not resolved where the quantiles enclose 1."""
        speedup = self.chosen["best_peer"]["speedup"]
        right, not_resolved, wrong = VERDICTS
        if speedup["q20"] <= 1 <= speedup["q80"]:
            return not_resolved
        return right if self.ratio > 1 else wrong


def rankings(records: Iterable[Record]) -> Iterator[Ranking]:
    """Of each case whose schedules were all timed."""
    by_case: dict[Case, list[Record]] = {}
    for record in records:
        if record["status"] == "ok":
            by_case.setdefault(case_of(record), []).append(record)
    for found in by_case.values():
        if len(found) == len(SCHEDULES):
            yield Ranking(*sorted(found, key=lambda record: record["modelled_seconds"]))


def render(records: Sequence[Record]) -> str:
    """Every case, wrong rankings first; how far the times are apart; what the choices cost."""
    found = sorted(
        rankings(records), key=lambda ranking: (ranking.verdict != "WRONG", ranking.ratio)
    )
    if not found:
        return "no rankings: no case has all schedules timed"
    return "\n\n".join([_ranking_table(found), _ratio_table(records), _summary(found)])


def _ranking_table(found: Sequence[Ranking]) -> str:
    head = [*KEY, "chosen", "modelled", "measured", "other", "modelled", "measured"]
    head += ["other/chosen: modelled", "measured", "ranking"]
    rows = []
    for ranking in found:
        case = case_of(ranking.chosen)
        row = [case.cell, case.mode, case.where, *map(str, vars(case.shape).values())]
        for record in (ranking.chosen, ranking.other):
            seconds = (record["modelled_seconds"], record["seconds"]["median"])
            row += [record["provider"], *map(milliseconds, seconds)]
        mark = "*" if is_disturbed(ranking.chosen) else ""
        row += [f"{ranking.modelled_ratio:.2f}", f"{ranking.ratio:.2f}{mark}", ranking.verdict]
        rows.append(row)
    title = "the schedule that the model chooses and the other; ms (* disturbed)\n"
    return title + align([head, *rows], left=(0, 1, 7, 10, 15))


def _ratio_table(records: Iterable[Record]) -> str:
    """How far the clock is from the model, by what was timed."""
    groups: dict[tuple[str, ...], list[float]] = {}
    for record in records:
        if record["status"] == "ok":
            case = case_of(record)
            ratio = record["seconds"]["median"] / record["modelled_seconds"]
            groups.setdefault((record["provider"], case.cell, case.mode, case.where), []).append(
                ratio
            )
    rows = [
        [*key, str(len(of)), f"{geometric_mean(of):.2f}", f"{min(of):.2f}", f"{max(of):.2f}"]
        for key, of in groups.items()
    ]
    head = ["schedule", "cell", "mode", "threads", "cases", "mean", "least", "largest"]
    title = "measured over modelled time: geometric mean, least, largest; of train both passes\n"
    return title + align([head, *rows], left=(0, 1, 2))


def _summary(found: Sequence[Ranking]) -> str:
    groups: dict[tuple[str, str], list[Ranking]] = {}
    for ranking in found:
        case = case_of(ranking.chosen)
        groups.setdefault((case.mode, case.where), []).append(ranking)
    rows = [[*key, *_counts(of)] for key, of in sorted(groups.items())]
    head = ["mode", "threads", "cases", *VERDICTS, "over the faster"]
    table = align([head, *rows, ["all", "", *_counts(found)]], left=(0,))
    wrong = [ranking for ranking in found if ranking.verdict == "WRONG"]
    lines = [
        "rankings, and the chosen schedule's time over the faster one's, geometric mean",
        table,
    ]
    lines += [
        f"  {case_of(ranking.chosen).name}: {ranking.chosen['provider']} costs "
        f"{100 * (1 / ranking.ratio - 1):.1f} % over {ranking.other['provider']}"
        for ranking in wrong
    ]
    return "\n".join(lines)


def _counts(found: Sequence[Ranking]) -> list[str]:
    verdicts = [ranking.verdict for ranking in found]
    cost = geometric_mean([max(1.0, 1 / ranking.ratio) for ranking in found])
    return [str(len(found)), *(str(verdicts.count(each)) for each in VERDICTS), f"{cost:.3f}"]
