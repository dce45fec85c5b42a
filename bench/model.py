"""The planner's time model beside measurement: every schedule that can be forced, in turn.

A training step is both passes under one schedule, and so is its modelled time. Without a force, the
passes are planned apart, and of a longer call per_step is not chosen even where it is the faster
one, because its bits depend on the number of threads: the rankings are the model's, not the choice.
"""

from __future__ import annotations

import dataclasses
import os
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
    """One record a schedule, as those of `run`."""
    schedules = {name: Schedule(name) for name in SCHEDULES}
    return measure_providers(case, SCHEDULES, effort, schedules)


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Two schedules of a case: the one that the model ranks first, and the other."""

    first: Record
    other: Record

    @property
    def ratio(self) -> float:
        """How many times faster the first one was measured, within a round."""
        return self.first["best_peer"]["speedup"]["median"]

    @property
    def modelled_ratio(self) -> float:
        return self.other["modelled_seconds"] / self.first["modelled_seconds"]

    @property
    def verdict(self) -> str:
        """Whether the ranking is right; it is not resolved where the quantiles enclose 1."""
        speedup = self.first["best_peer"]["speedup"]
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
    """Every case, wrong rankings first; how far the times are apart; what the rankings cost."""
    found = sorted(
        rankings(records), key=lambda ranking: (ranking.verdict != "WRONG", ranking.ratio)
    )
    if not found:
        return "no rankings: no case has all schedules timed"
    return "\n\n".join([_ranking_table(found), _ratio_table(records), _summary(found)])


def _ranking_table(found: Sequence[Ranking]) -> str:
    head = [*KEY, "first", "modelled", "measured", "other", "modelled", "measured"]
    head += ["other/first: modelled", "measured", "ranking"]
    rows = []
    for ranking in found:
        case = case_of(ranking.first)
        row = [case.cell, case.mode, case.where, *map(str, vars(case.shape).values())]
        for record in (ranking.first, ranking.other):
            seconds = (record["modelled_seconds"], record["seconds"]["median"])
            row += [record["provider"], *map(milliseconds, seconds)]
        mark = "*" if is_disturbed(ranking.first) else ""
        row += [f"{ranking.modelled_ratio:.2f}", f"{ranking.ratio:.2f}{mark}", ranking.verdict]
        rows.append(row)
    title = "the schedule that the model ranks first and the other; ms (* disturbed)\n"
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
    title = "measured over modelled time: geometric mean, least, largest\n"
    return title + align([head, *rows], left=(0, 1, 2))


def _summary(found: Sequence[Ranking]) -> str:
    groups: dict[tuple[str, str], list[Ranking]] = {}
    for ranking in found:
        case = case_of(ranking.first)
        groups.setdefault((case.mode, case.where), []).append(ranking)
    rows = [[*key, *_counts(of)] for key, of in sorted(groups.items())]
    head = ["mode", "threads", "cases", *VERDICTS, "over the faster"]
    table = align([head, *rows, ["all", "", *_counts(found)]], left=(0,))
    wrong = [ranking for ranking in found if ranking.verdict == "WRONG"]
    lines = [
        "rankings, and the time of the schedule ranked first over the faster one's, geometric mean",
        table,
    ]
    lines += [
        f"  {case_of(ranking.first).name}: {ranking.first['provider']} costs "
        f"{100 * (1 / ranking.ratio - 1):.1f} % over {ranking.other['provider']}"
        for ranking in wrong
    ]
    return "\n".join(lines)


def _counts(found: Sequence[Ranking]) -> list[str]:
    verdicts = [ranking.verdict for ranking in found]
    cost = geometric_mean([max(1.0, 1 / ranking.ratio) for ranking in found])
    return [str(len(found)), *(str(verdicts.count(each)) for each in VERDICTS), f"{cost:.3f}"]
