"""Pictures of the ratio to the best peer: a heat map of each machine, and the means of several."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.machine import Machine
from bench.report import OURS, compared, means
from bench.side_by_side import letters
from bench.store import Record

Machines = Mapping[Machine, Sequence[Record]]


def save(machines: Machines, path: Path) -> None:
    """The heat maps of all machines, one below the other."""
    figure = heat_maps(machines)
    figure.savefig(path, dpi=130)
    _close(figure)


def svg(figure: Any) -> str:
    """The picture as an SVG document; closes it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    _close(figure)
    return buffer.getvalue()


def heat_maps(machines: Machines) -> Any:
    """A row a shape, a column a cell and mode. Red where a peer is faster, green where we are; the
    peer's name and our fraction of the roof by torch's product are written in."""
    pyplot = _pyplot()
    grids = [_Grid(machine, records) for machine, records in machines.items()]
    heights = [1.4 + 0.36 * len(grid.rows) for grid in grids]
    width = 3.5 + 1.3 * max(len(grid.columns) for grid in grids)
    figure, axes = pyplot.subplots(
        len(grids),
        figsize=(width, sum(heights)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for grid, [axis] in zip(grids, axes):
        grid.draw(figure, axis)
    return figure


class _Grid:
    def __init__(self, machine: Machine, records: Sequence[Record]) -> None:
        self._found = compared(records)
        if not self._found:
            raise ValueError(f"nothing to draw: {OURS} was timed beside no peer on {machine.name}")
        self._title = (
            f"{machine.name}, torch {records[-1]['environment']['torch']}, {OURS} "
            f"{records[-1]['environment']['revision']} ({machine.isa})\n"
            "B,T,I,H; beside the ratio the best peer"
        )
        self.columns = list(
            dict.fromkeys(f"{case.cell}\n{case.mode}" for _, case, _ in self._found)
        )
        self._labels = [
            f"{','.join(map(str, vars(case.shape).values()))} {case.kind} {case.where} "
            f"{case.dtype.replace('float', 'f')}"
            for _, case, _ in self._found
        ]
        self.rows = list(dict.fromkeys(self._labels))

    def draw(self, figure: Any, axis: Any) -> None:
        from matplotlib.colors import LogNorm

        ratios = [[float("nan")] * len(self.columns) for _ in self.rows]
        for label, (record, case, peer) in zip(self._labels, self._found, strict=True):
            row = self.rows.index(label)
            column = self.columns.index(f"{case.cell}\n{case.mode}")
            ratio = peer["speedup"]["median"]
            ratios[row][column] = ratio
            roof = record.get("roof_fraction")
            text = f"{ratio:.2f} {peer['provider']}"
            text += "" if roof is None else f"\n{100 * roof:.0f} % of the roof"
            color = "white" if abs(math.log2(ratio)) > 0.7 else "black"
            place = {"ha": "center", "va": "center", "fontsize": 6}
            axis.annotate(text, (column, row), color=color, **place)
        image = axis.imshow(ratios, cmap="RdYlGn", norm=LogNorm(0.5, 2), aspect="auto")
        bar = figure.colorbar(image, ax=axis, ticks=[0.5, 1, 2], format="%g")
        bar.minorticks_off()
        bar.set_label("times as fast as the best peer", fontsize=7)
        axis.set_xticks(range(len(self.columns)), self.columns, fontsize=8)
        axis.set_yticks(range(len(self.rows)), self.rows, fontsize=7)
        axis.set_title(self._title, fontsize=8)


def mean_bars(machines: Machines) -> Any:
    """Of each cell, mode and thread count a bar a machine up to the geometric mean of the ratios,
    and a mark at the least."""
    pyplot = _pyplot()
    found = [
        {key: of for key, of in means(records).items() if "all" not in key}
        for records in machines.values()
    ]
    keys = list(dict.fromkeys(key for of in found for key in of))
    columns = max(1, len(keys))
    figure, axis = pyplot.subplots(figsize=(2 + 0.75 * columns, 3.6), layout="constrained")
    width = 0.8 / len(machines)
    colors = pyplot.get_cmap("tab10").colors
    for idx, (letter, machine) in enumerate(zip(letters(len(machines)), machines)):
        places = [keys.index(key) + (idx + 0.5) * width - 0.4 for key in found[idx]]
        values = list(found[idx].values())
        label = f"{letter}: {machine.name} ({machine.isa}; {machine.cache_text})"
        bars = axis.bar(
            places, [of.mean for of in values], 0.9 * width, color=colors[idx % 10], label=label
        )
        axis.bar_label(bars, fmt="%.2f", fontsize=8 - len(machines), padding=2)
        axis.scatter(places, [of.least for of in values], s=120, c="black", marker="_", zorder=3)
    axis.axhline(1, color="black", linewidth=0.8)
    names = [
        "\n".join(filter(None, (cell, mode, kind, where))) for cell, mode, kind, _, where in keys
    ]
    axis.set_xticks(range(len(keys)), names, fontsize=8)
    axis.set_ylabel("times as fast as the best peer")
    axis.set_title("geometric means; the black mark is the least of the cases", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(y=0.12)
    figure.legend(loc="outside lower left", frameon=False, fontsize=8)
    return figure


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _close(figure: Any) -> None:
    _pyplot().close(figure)
