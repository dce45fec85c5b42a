"""The same cases of two sets of records, side by side."""

from __future__ import annotations

from collections.abc import Iterable

from bench.cases import Case
from bench.providers import BASELINE
from bench.report import align, geometric_mean
from bench.store import Record, case_of


def compare(before: Iterable[Record], after: Iterable[Record], provider: str) -> list[list[str]]:
    """Rows of the cases that both sides have: how much faster `after` is than `before`.

    ``time`` is the plain ratio of medians; ``relative`` divides it by the same ratio of the
    baseline, which cancels a difference between the two runs' machines.
    """
    old, new = _by_case(before), _by_case(after)
    rows = []
    for case in old.keys() & new.keys():
        if provider not in old[case] or provider not in new[case]:
            continue
        time = old[case][provider] / new[case][provider]
        relative = None
        if BASELINE in old[case] and BASELINE in new[case]:
            relative = time * new[case][BASELINE] / old[case][BASELINE]
        rows.append((time, relative, case))
    rows.sort(key=lambda row: row[0] if row[1] is None else row[1])
    return [
        [
            case.name,
            f"{1e3 * old[case][provider]:.2f}",
            f"{1e3 * new[case][provider]:.2f}",
            f"{time:.2f}",
            "" if relative is None else f"{relative:.2f}",
        ]
        for time, relative, case in rows
    ]


def compare_text(before: Iterable[Record], after: Iterable[Record], provider: str) -> str:
    rows = compare(before, after, provider)
    if not rows:
        return f"no case of {provider} is in both"
    head = ["case", "before_ms", "after_ms", "time", "relative"]
    text = align([head, *rows], left=(0,))
    for column in (3, 4):
        values = [float(row[column]) for row in rows if row[column]]
        if values:
            text += f"\n{head[column]}: geometric mean {geometric_mean(values):.2f}"
    return text


def _by_case(records: Iterable[Record]) -> dict[Case, dict[str, float]]:
    """Median seconds by case and provider."""
    medians: dict[Case, dict[str, float]] = {}
    for record in records:
        if record["status"] == "ok":
            by_provider = medians.setdefault(case_of(record), {})
            by_provider[record["provider"]] = record["seconds"]["median"]
    return medians
