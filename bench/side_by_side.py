"""Several machines side by side: what they are, how we do on each, where we lose."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from bench import model, report
from bench.cases import Case
from bench.machine import Machine
from bench.report import OURS, align, best_peer, compared, is_disturbed, means, percent, roofs
from bench.store import Record, machine_of

NOTE = (
    "On a machine that is FORCED to an instruction set, a provider that cannot be held to it "
    "(ONNX Runtime, JAX) is no peer; times and fractions of the roof are in the machine's report."
)


class Table(NamedTuple):
    title: str
    head: list[str]
    rows: list[list[str]]
    left: tuple[int, ...]  # columns of text

    def __str__(self) -> str:
        return f"{self.title}\n{align([self.head, *self.rows], self.left)}"


def by_machine(records: Iterable[Record]) -> dict[Machine, list[Record]]:
    """In the order in which they come."""
    found: dict[Machine, list[Record]] = {}
    for record in records:
        found.setdefault(machine_of(record), []).append(record)
    return found


def letters(count: int) -> list[str]:
    """Short names of machines: A, B and so on."""
    return [chr(ord("A") + idx) for idx in range(count)]


def tables(machines: Mapping[Machine, Sequence[Record]]) -> list[Table]:
    """The machines; means by cell, mode and threads; every case, the least ratio first."""
    return [machine_table(machines), means_table(machines), case_table(machines)]


def render(machines: Mapping[Machine, Sequence[Record]]) -> str:
    forced = [NOTE] if any(machine.forced_isa for machine in machines) else []
    return "\n\n".join([*map(str, tables(machines)), *forced])


def machine_report(records: Sequence[Record]) -> str:
    """The report of one machine's records; of forced schedules, the planner's rankings as well."""
    forced = [record for record in records if record["provider"] in model.SCHEDULES]
    return "\n\n".join([report.render(records), *([model.render(forced)] if forced else [])])


def machine_table(machines: Mapping[Machine, Sequence[Record]]) -> Table:
    rows = []
    for letter, (machine, records) in zip(letters(len(machines)), machines.items()):
        revisions = dict.fromkeys(r["environment"]["revision"] for r in records)
        torch = dict.fromkeys(r["environment"]["torch"] for r in records)
        forced = f"{machine.forced_isa}, FORCED" if machine.forced_isa else machine.isa
        roof = "; ".join(f"{where}: {text}" for where, text in roofs(records).items())
        facts = [machine.cpu, str(machine.cores), forced, machine.cache_text]
        rows.append([letter, *facts, ", ".join(torch), ", ".join(revisions), roof])
    head = ["", "processor", "cores", "ISA", "caches", "torch", OURS, "roof"]
    return Table("Machines", head, rows, left=(0, 1, 3, 4, 5, 6, 7))


def means_table(machines: Mapping[Machine, Sequence[Record]]) -> Table:
    found = [means(records) for records in machines.values()]
    keys = dict.fromkeys(key for of in found for key in of)
    rows = []
    for key in sorted(keys, key=lambda key: "all" in key):
        row = list(key)
        for of in (of.get(key) for of in found):
            row += ["", "", ""] if of is None else [str(of.cases), f"{of.mean:.2f}"]
            row += [] if of is None else [f"{of.least:.2f}"]
        rows.append(row)
    head = ["cell", "mode", "kind", "dtype", "threads"]
    for letter in letters(len(machines)):
        head += [f"{letter} cases", f"{letter} mean", f"{letter} least"]
    title = f"Ratio of {OURS} to the best peer: geometric means and least, undisturbed cases"
    return Table(title, head, rows, left=(0, 1, 2, 3))


def case_table(machines: Mapping[Machine, Sequence[Record]]) -> Table:
    """One row a case: on each machine the ratio, the best peer and the fractions of both roofs."""
    found: dict[Case, list[Record | None]] = {}
    for idx, records in enumerate(machines.values()):
        for record, case, _ in compared(records):
            found.setdefault(case, [None] * len(machines))[idx] = record
    rows = []
    for case, each in sorted(found.items(), key=lambda item: min(map(_ratio, item[1]))):
        row = [case.cell, case.mode, ",".join(map(str, vars(case.shape).values())), case.kind]
        row += [case.dtype, case.where]
        for record in each:
            row += ["", "", "", ""] if record is None else _cells(record)
        rows.append(row)
    head = ["cell", "mode", "B,T,I,H", "kind", "dtype", "threads"]
    for letter in letters(len(machines)):
        head += [f"{letter} ratio", "of", "roof%", "fma%"]
    losing = sum(min(map(_ratio, each)) < 1 for each in found.values())
    title = (
        f"Every case, the least ratio to the best peer first; {losing or 'none'} of {len(found)} "
        "below 1 on a machine (* disturbed)"
    )
    peers = tuple(range(7, len(head), 4))
    return Table(title, head, rows, left=(0, 1, 2, 3, 4, *peers))


def _cells(record: Record) -> list[str]:
    mark = "*" if is_disturbed(record) else ""
    fractions = (percent(record, name) for name in ("roof_fraction", "fma_fraction"))
    return [f"{_ratio(record):.2f}{mark}", best_peer(record)["provider"], *fractions]


def _ratio(record: Record | None) -> float:
    return math.inf if record is None else best_peer(record)["speedup"]["median"]
