"""A heat map of the ratio to the best peer: a panel a cell and mode, a row a shape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.report import OURS, compared
from bench.store import Record


def draw(records: Sequence[Record], path: Path) -> None:
    """Red where a peer is faster, green where we are; the peer's name and our fraction of the
    roof are written in."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.colors import LogNorm

    found = compared(records)
    if not found:
        raise ValueError(f"nothing to draw: {OURS} was timed beside no peer")
    columns = list(dict.fromkeys(f"{case.cell}\n{case.mode}" for _, case, _ in found))
    labels = [
        f"{','.join(map(str, vars(case.shape).values()))} {case.kind} {case.where} "
        f"{case.dtype.replace('float', 'f')}"
        for _, case, _ in found
    ]
    rows = list(dict.fromkeys(labels))
    ratios = [[float("nan")] * len(columns) for _ in rows]
    figure, axis = pyplot.subplots(figsize=(3.5 + 1.3 * len(columns), 1.6 + 0.36 * len(rows)))
    for label, (record, case, peer) in zip(labels, found, strict=True):
        row, column = rows.index(label), columns.index(f"{case.cell}\n{case.mode}")
        ratio = peer["speedup"]["median"]
        ratios[row][column] = ratio
        roof = record.get("roof_fraction")
        text = f"{ratio:.2f} {peer['provider']}"
        text += "" if roof is None else f"\n{100 * roof:.0f} % of the roof"
        axis.annotate(text, (column, row), ha="center", va="center", fontsize=6)
    image = axis.imshow(ratios, cmap="RdYlGn", norm=LogNorm(0.5, 2), aspect="auto")
    bar = figure.colorbar(image, ticks=[0.5, 1, 2], format="%g")
    bar.minorticks_off()
    bar.set_label("times as fast as the best peer", fontsize=7)
    axis.set_xticks(range(len(columns)), columns, fontsize=8)
    axis.set_yticks(range(len(rows)), rows, fontsize=7)
    environment = records[-1]["environment"]
    axis.set_title(
        f"{environment['cpu']}, torch {environment['torch']}, {OURS} {environment['revision']}\n"
        "B,T,I,H; beside the ratio the best peer",
        fontsize=8,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
