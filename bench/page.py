"""One self-contained HTML page: several machines side by side, and each machine's report."""

from __future__ import annotations

import base64
import html
import math
import re
from pathlib import Path
from string import Template

from bench import plots, report, side_by_side
from bench.machine import Machine
from bench.plots import Machines
from bench.side_by_side import Table
from bench.store import Record

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fusedrnn: benchmark</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2937; max-width: 1300px; margin: 0 auto;
  padding: 1.5rem; }
h1, h2 { line-height: 1.2; }
h2 { margin-top: 2.5rem; }
img { display: block; max-width: 100%; height: auto; margin: 1rem auto; }
.scroll { overflow-x: auto; max-height: 34rem; overflow-y: auto; border: 1px solid #e5e7eb; }
table { border-collapse: collapse; font-size: 13px; width: 100%; }
th { position: sticky; top: 0; background: #f3f4f6; text-align: left; }
th, td { padding: .25rem .6rem; white-space: nowrap; border-bottom: 1px solid #e5e7eb; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
td.forced { background: #fde68a; font-weight: 600; }
pre { font-size: 11px; line-height: 1.35; overflow-x: auto; background: #f9fafb; padding: 1rem; }
summary { cursor: pointer; }
.note { color: #6b7280; }
</style>
</head>
<body>
<h1>fusedrnn: benchmark</h1>
<p class="note">Times as fast as the fastest other library of the same run: above 1 fusedrnn is
faster. Every provider is timed once a round, ratios are taken within a round, and medians are
shown.$note</p>
$tables
$machines
</body>
</html>
""")
RATIO = re.compile(r"(ratio|mean|least)$")


def write(machines: Machines, path: Path) -> None:
    """Write the page."""
    first, *others = side_by_side.tables(machines)
    parts = [_table(first)]
    if any(map(report.compared, machines.values())):
        parts += [_image(plots.svg(plots.mean_bars(machines)), "geometric means")]
        parts += map(_table, others)
    note = f" {side_by_side.NOTE}" if any(machine.forced_isa for machine in machines) else ""
    letters = side_by_side.letters(len(machines))
    text = PAGE.substitute(
        note=html.escape(note),
        tables="\n".join(parts),
        machines="\n".join(map(_machine, letters, machines, machines.values())),
    )
    path.write_text(text, encoding="utf-8")


def _machine(letter: str, machine: Machine, records: list[Record]) -> str:
    heading = f"<h2>{letter}: {html.escape(machine.name)}</h2>"
    picture = ""
    if report.compared(records):
        svg = plots.svg(plots.heat_maps({machine: records}))
        picture = _image(svg, f"ratios on {machine.name}")
    text = html.escape(side_by_side.machine_report(records))
    details = f"<details><summary>the whole report</summary><pre>{text}</pre></details>"
    return f"{heading}\n{picture}\n{details}"


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.head)
    rows = []
    for row in table.rows:
        cells = (
            _cell(name, text, idx not in table.left)
            for idx, (name, text) in enumerate(zip(table.head, row, strict=True))
        )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(rows)
    return (
        f'<h2>{html.escape(table.title)}</h2>\n<div class="scroll"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _cell(name: str, text: str, is_number: bool) -> str:
    kind = ' class="number"' if is_number else ' class="forced"' if "FORCED" in text else ""
    style = f' style="background:{_color(text)}"' if text and RATIO.search(name) else ""
    return f"<td{kind}{style}>{html.escape(text)}</td>"


def _color(ratio: str) -> str:
    """From red at half to green at twice the speed of the best peer, the paler the nearer to 1."""
    value = math.log2(float(ratio.rstrip("*")))
    hue = 0 if value < 0 else 130
    return f"hsl({hue} 70% {95 - 30 * min(1.0, abs(value)):.0f}%)"


def _image(svg: str, what: str) -> str:
    data = base64.b64encode(svg.encode()).decode()
    return f'<img alt="{html.escape(what)}" src="data:image/svg+xml;base64,{data}">'
