"""The demo's table and picture."""

from __future__ import annotations

import statistics
from pathlib import Path

from train import Run, largest_relative_difference


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


def draw(runs: dict[str, Run], title: str, path: Path) -> None:
    """Writes the picture: loss curves that coincide, bars of time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    colors = ("#b8c4d6", "#c2410c")
    styles = ({"linewidth": 6.0}, {"linewidth": 1.4})
    figure, (curves, bars) = plt.subplots(
        1, 2, figsize=(10, 4.2), width_ratios=(2.4, 1), layout="constrained"
    )
    for (name, run), color, style in zip(runs.items(), colors, styles, strict=True):
        curves.plot(range(1, len(run.losses) + 1), run.losses, color=color, label=name, **style)
    curves.set(xlabel="step", ylabel="loss, nats a character", title=title)
    curves.legend(frameon=False)
    times = [run.step_seconds * 1e3 for run in runs.values()]
    drawn = bars.bar(list(runs), times, color=colors, width=0.6)
    bars.bar_label(drawn, fmt="%.1f ms", padding=3)
    bars.set(title="time of a training step", ylabel="ms, median")
    bars.margins(y=0.12)
    for axes in (curves, bars):
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
