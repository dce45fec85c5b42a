"""The demo's tables and picture."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gains import Gain
from train import Run, largest_relative_difference

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#b8c4d6", "#c2410c")
CELL_COLORS = ("#c2410c", "#0f766e", "#6d5acf")


def print_report(runs: dict[str, Run], rows: int = 12) -> None:
    """Prints both loss curves at `rows` steps, their largest difference and the times."""
    (name, run), (other_name, other) = runs.items()
    steps = len(run.losses)
    print(f"\n{'step':>6}  {name:>12}  {other_name:>12}  {'difference':>10}")
    for step in sorted({round(i * (steps - 1) / max(1, rows - 1)) for i in range(rows)}):
        difference = largest_relative_difference([other.losses[step]], [run.losses[step]])
        print(
            f"{step + 1:>6}  {run.losses[step]:>12.6f}  {other.losses[step]:>12.6f}"
            f"  {difference:>10.1e}"
        )
    largest = largest_relative_difference(other.losses, run.losses)
    ratio = statistics.median(a / b for a, b in zip(run.seconds, other.seconds, strict=True))
    print(f"\nlargest relative difference of the loss: {largest:.2e}")
    for label, each in runs.items():
        print(f"median time of a training step, {label}: {each.step_seconds * 1e3:.2f} ms")
    print(f"{other_name} is {ratio:.2f} times as fast as {name} (median over {steps} steps)")


def print_gains(gains: Sequence[Gain]) -> None:
    """Prints a row a cell and use: both times, how many times as fast, and the difference."""
    print("\none layer, forward and backward for training; padded: torch.nn with packing, fusedrnn")
    print("with lengths; one step: of one sequence, the state carried to the next call\n")
    print(f"{'':<24}{'torch.nn':>12}{'fusedrnn':>12}{'times as fast':>15}{'difference':>12}")
    for gain in gains:
        name = f"{gain.cell:<5} {gain.use}"
        times = "".join(f"{_time(seconds):>12}" for seconds in (gain.seconds, gain.our_seconds))
        print(f"{name:<24}{times}{gain.ratio:>15.2f}{gain.difference:>12.1e}")


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} us"


def draw(runs: dict[str, Run], gains: Sequence[Gain], title: str, path: Path) -> None:
    """Writes the picture: loss curves that coincide, bars of time, and of what layers gain."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplot_mosaic(
        [["curves", "time"], ["gains", "gains"]],
        figsize=(10, 7.6),
        width_ratios=(2.4, 1),
        layout="constrained",
    )
    _draw_training(axes["curves"], axes["time"], runs, title)
    _draw_gains(axes["gains"], gains)
    for each in axes.values():
        each.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw_training(curves: Axes, bars: Axes, runs: dict[str, Run], title: str) -> None:
    styles = ({"linewidth": 6.0}, {"linewidth": 1.4})
    for (name, run), color, style in zip(runs.items(), COLORS, styles, strict=True):
        curves.plot(range(1, len(run.losses) + 1), run.losses, color=color, label=name, **style)
    curves.set(xlabel="step", ylabel="loss, nats a character", title=title)
    curves.legend(frameon=False)
    times = [run.step_seconds * 1e3 for run in runs.values()]
    drawn = bars.bar(list(runs), times, color=COLORS, width=0.6)
    bars.bar_label(drawn, fmt="%.1f ms", padding=3)
    bars.set(title="time of a training step", ylabel="ms, median")
    bars.margins(y=0.12)


def _draw_gains(axes: Axes, gains: Sequence[Gain]) -> None:
    """A group of bars a use, in it a bar a cell."""
    uses = list(dict.fromkeys(gain.use for gain in gains))
    cells = list(dict.fromkeys(gain.cell for gain in gains))
    width = 0.8 / len(cells)
    for idx, (cell, color) in enumerate(zip(cells, CELL_COLORS, strict=True)):
        places = [group + (idx - (len(cells) - 1) / 2) * width for group in range(len(uses))]
        ratios = [gain.ratio for gain in gains if gain.cell == cell]
        drawn = axes.bar(places, ratios, 0.92 * width, color=color, label=cell)
        axes.bar_label(drawn, fmt="%.2f", padding=2, fontsize=9)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(uses)), uses)
    axes.set(title="one layer beside torch.nn's on this machine", ylabel="times as fast")
    axes.legend(frameon=False, ncols=len(cells), loc="upper left")
    axes.margins(y=0.15)
