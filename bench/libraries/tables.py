"""Tables of `bench.libraries`' results, in Markdown, and their places in docs/libraries."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from bench.environment import REPOSITORY
from bench.store import Record

PAGES = REPOSITORY / "docs" / "libraries"
_PLACE = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)
_HEAD = ("package", "model", "change", "replaced", "differs by", "inference", "training")


def load(path: Path) -> list[Record]:
    """The last record of each package, model, change and mode."""
    latest: dict[tuple[str, ...], Record] = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        key = (record["package"], *map(str, record["case"].values()))
        latest.pop(key, None)
        latest[key] = record
    return list(latest.values())


def table(records: Iterable[Record], head: bool = True) -> str:
    """A row for each package, model and change."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for record in records:
        case = record["case"]
        names = ", ".join(f"`{name}`" for name in record["replaced"])
        key = (f"{record['package']} {record['version']}", case["model"], case["change"])
        difference = max(record["difference"].values())
        row = rows.setdefault(
            key, [*key, names, f"{difference:.0e}" if difference else "0", "", ""]
        )
        row[5 if case["mode"] == "infer" else 6] = _gain(record)
    lines = [_HEAD, ("---",) * len(_HEAD)] if head else []
    return "\n".join(f"| {' | '.join(line)} |" for line in [*lines, *rows.values()])


def write_pages(records: list[Record], packages: Iterable[str]) -> None:
    """Puts each package's table into its page, and all of them into the index."""
    for name in ("index", *packages):
        path = PAGES / f"{name}.md"

        def place(match: re.Match[str]) -> str:
            chosen = [r for r in records if match[2] in ("all", r["package"])]
            return f"{match[1]}\n{table(chosen)}\n\n{match[3]}"

        path.write_text(_PLACE.sub(place, path.read_text()))


def _gain(record: Record) -> str:
    if record["status"] != "ok":
        return record["message"]
    before, after = (_milliseconds(record["seconds"][name]) for name in ("torch.nn", "fusedrnn"))
    return f"{record['speedup']['median']:.2f} ({before} → {after} ms)"


def _milliseconds(seconds: dict[str, float]) -> str:
    value = 1e3 * seconds["median"]
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
