"""Results on disk: one JSON object a line, only ever appended; bench/README.md has the fields."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.cases import Case, Shape

SCHEMA = 1
RESULTS = Path(__file__).resolve().parent / "results"

Record = dict[str, Any]


def default_path(cpu: str, cores: int, prefix: str = "") -> Path:
    """A file named by machine and date under bench/results."""
    machine = re.sub(r"[^a-z0-9]+", "-", f"{cpu} {cores} cores".lower()).strip("-")
    return RESULTS / f"{prefix}{machine}-{datetime.date.today().isoformat()}.jsonl"


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


def load(source: str | Path) -> list[Record]:
    """The records of ``FILE``, or those of one git revision in it: ``FILE@REVISION``.

    Where a case and provider occur more than once, the last record counts.
    """
    path, _, revision = str(source).partition("@")
    latest: dict[tuple[Case, str], Record] = {}
    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        record = json.loads(line)
        if record["schema"] != SCHEMA:
            raise ValueError(
                f"{path}:{number}: expected schema {SCHEMA}, got {record['schema']}; "
                "read it with the revision that wrote it"
            )
        if record["environment"]["revision"].startswith(revision):
            key = (case_of(record), record["provider"])
            latest.pop(key, None)
            latest[key] = record
    if not latest:
        raise ValueError(f"{source}: no records; check the file and the revision")
    return list(latest.values())


def case_of(record: Record) -> Case:
    fields = dict(record["case"])
    return Case(shape=Shape(**fields.pop("shape")), **fields)
