"""Results on disk: one JSON object a line, only ever appended; bench/README.md has the fields."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.cases import Case, Shape
from bench.machine import Machine, file_stem

SCHEMA = 1
RESULTS = Path(__file__).resolve().parent / "results"

Record = dict[str, Any]


def default_path(environment: dict[str, Any], prefix: str = "", device: str = "cpu") -> Path:
    """A file named by machine and date under bench/results."""
    name = f"{prefix}{file_stem(environment, device)}-{datetime.date.today().isoformat()}"
    return RESULTS / f"{name}.jsonl"


def complete(record: Record, case: Any, environment: dict[str, Any]) -> Record:
    """A measurement with all that it depends on; `case` is a dataclass."""
    now = datetime.datetime.now(datetime.timezone.utc)
    head = {"schema": SCHEMA, "time": now.isoformat(timespec="seconds")}
    return head | {"case": dataclasses.asdict(case)} | record | {"environment": environment}


def append(path: Path, records: Iterable[Record]) -> None:
    """Add records to the end of a file; creates it and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for record in records:
            file.write(json.dumps(record) + "\n")


def load(*sources: str | Path) -> list[Record]:
    """The records of each ``FILE``, or those of one git revision in it: ``FILE@REVISION``.

    Where a case and provider occur more than once on a machine, the last record counts.
    """
    latest: dict[tuple[Machine, Case, str], Record] = {}
    for source in sources:
        found = _read(source)
        for key in found:
            latest.pop(key, None)
        latest |= found
    return list(latest.values())


def _read(source: str | Path) -> dict[tuple[Machine, Case, str], Record]:
    path, _, revision = str(source).partition("@")
    latest: dict[tuple[Machine, Case, str], Record] = {}
    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        record = json.loads(line)
        if record["schema"] != SCHEMA:
            raise ValueError(
                f"{path}:{number}: expected schema {SCHEMA}, got {record['schema']}; "
                "read it with the revision that wrote it"
            )
        if record["environment"]["revision"].startswith(revision):
            key = (machine_of(record), case_of(record), record["provider"])
            latest.pop(key, None)
            latest[key] = record
    if not latest:
        raise ValueError(f"{source}: no records; check the file and the revision")
    return latest


def machine_of(record: Record) -> Machine:
    return Machine.of(record["environment"])


def case_of(record: Record) -> Case:
    fields = dict(record["case"])
    return Case(shape=Shape(**fields.pop("shape")), **fields)
