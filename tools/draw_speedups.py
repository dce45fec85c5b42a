"""The table of README and its picture, from the stored results of two machines.

    python tools/draw_speedups.py            # prints the table's rows
    python tools/draw_speedups.py --draw     # also writes docs/assets/speedups.svg

Speed-ups are over torch.nn, and over the fastest of everyone else who was timed, with 2 threads.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.report import compared, geometric_mean, is_disturbed  # noqa: E402
from bench.store import load  # noqa: E402

RESULTS = ROOT / "bench" / "results"
PICTURE = ROOT / "docs" / "assets" / "speedups.svg"
CELLS, MODES = ("LSTM", "GRU", "RNN"), {"infer": "inference", "train": "training"}


class Speedup(NamedTuple):
    cell: str
    mode: str
    over_torch: float
    over_fastest: float


def intel() -> Iterator[Speedup]:
    records = load(RESULTS / "intel-r-xeon-r-processor-2-cores-2026-11-26.jsonl")
    for record, case, peer in compared(r for r in records if not is_disturbed(r)):
        if case.threads == 2:
            over_torch = record["speedup"]["median"]
            yield Speedup(case.cell, case.mode, over_torch, peer["speedup"]["median"])


def amd() -> Iterator[Speedup]:
    lines = (RESULTS / "amd-epyc-zen-3-2-cores-2026-11-30.csv").read_text().splitlines()
    for row in csv.DictReader(line for line in lines if not line.startswith("#")):
        names = ("torch.nn", "onnxruntime", "openvino", "jax")
        ours, peers = float(row["fusedrnn"]), [float(row[name]) for name in names if row[name]]
        yield Speedup(row["cell"], row["mode"], peers[0] / ours, min(peers) / ours)


MACHINES = {"Intel Xeon, AVX-512": intel, "AMD EPYC, AVX2": amd}


def table() -> list[str]:
    """A row a cell and mode: of each machine, the mean over its shapes and the least of them."""
    found = {name: list(read()) for name, read in MACHINES.items()}
    rows = []
    for cell in CELLS:
        for mode, called in MODES.items():
            texts = []
            for speedups in found.values():
                chosen = [each for each in speedups if (each.cell, each.mode) == (cell, mode)]
                for field in ("over_torch", "over_fastest"):
                    values = [getattr(each, field) for each in chosen]
                    texts.append(f"{geometric_mean(values):.2f} ({min(values):.2f})")
            rows.append(f"| {cell}, {called} | {' | '.join(texts)} |")
    return rows


def draw(path: Path) -> None:
    """A panel a machine, a row a cell and mode, a dot a shape, a bar at their geometric mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import NullLocator

    matplotlib.rcParams |= {"svg.hashsalt": "fusedrnn", "font.size": 9, "svg.fonttype": "path"}
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 2.8), sharex=True, sharey=True)
    labels = [f"{cell} {MODES[mode]}" for cell in CELLS for mode in MODES]
    kinds = (
        ("over_torch", "#3f51b5", "as torch.nn"),
        ("over_fastest", "#9e9e9e", "as the fastest other"),
    )
    for axis, (name, read) in zip(axes, MACHINES.items()):
        speedups = list(read())
        for row, (cell, mode) in enumerate((cell, mode) for cell in CELLS for mode in MODES):
            chosen = [each for each in speedups if (each.cell, each.mode) == (cell, mode)]
            for (field, color, label), shift in zip(kinds, (-0.16, 0.2)):
                values = [getattr(each, field) for each in chosen]
                axis.plot(
                    values, [row + shift] * len(values), "o", color=color, alpha=0.55, ms=4,
                    mew=0, label=label if row == 0 else None,
                )  # fmt: skip
                mean = geometric_mean(values)
                axis.plot([mean, mean], [row + shift - 0.2, row + shift + 0.2], color=color, lw=2)
        axis.axvline(1, color="#b71c1c", lw=1)
        axis.set_title(f"{name}, 2 threads", fontsize=9)
        axis.set_xscale("log")
        axis.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
        axis.set_xlabel("times as fast", labelpad=1)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_yticks(range(len(labels)), labels)
        axis.tick_params(length=0)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
    axes[0].invert_yaxis()
    axes[1].legend(frameon=False, loc="upper right", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draw", action="store_true", help=f"write {PICTURE.relative_to(ROOT)}")
    if parser.parse_args().draw:
        draw(PICTURE)
    print("\n".join(table()))


if __name__ == "__main__":
    main()
