"""Records as aligned text and as a picture; losing cases are listed, never left out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.cases import Case
from bench.providers import BASELINE
from bench.store import Record, case_of

NOISY_CORES = 0.15  # a case is disturbed if its threads and others want so many cores too many


def render(records: Sequence[Record]) -> str:
    """The whole report: environment, a table a thread count and dtype, means, losses and so on."""
    parts = [_environment_lines(records)]
    groups = dict.fromkeys((case_of(r).where, case_of(r).dtype) for r in records)
    for where, dtype in groups:
        chosen = [r for r in records if (case_of(r).where, case_of(r).dtype) == (where, dtype)]
        case = case_of(chosen[0])
        threads = f"{case.threads} thread{'s' if case.threads > 1 else ''}"
        parts.append(f"{dtype}, {threads if case.device == 'cpu' else where}\n{table(chosen)}")
    parts += [means_text(records), losses_text(records)]
    parts += [disturbed_text(records), failures_text(records)]
    return "\n\n".join(parts)


def table(records: Sequence[Record]) -> str:
    """One row a case and provider; ``*`` marks a disturbed case."""
    head = ["cell", "mode", "B", "T", "I", "H", "provider", "ms", "q20", "q80"]
    head += ["speedup", "q20", "q80", "GFLOP/s", "sgemm%", "MiB", "err", "others"]
    rows = []
    for record in records:
        case, shape = case_of(record), case_of(record).shape
        key = [case.cell, case.mode, *map(str, vars(shape).values()), record["provider"]]
        if record["status"] == "absent":
            continue
        if record["status"] != "ok":
            rows.append([*key, "FAILED", *[""] * (len(head) - len(key) - 1)])
            continue
        seconds, speedup = record["seconds"], record["speedup"]
        is_compared = speedup is not None and record["provider"] != BASELINE
        rows.append(
            [
                *key,
                *(f"{1e3 * seconds[name]:.2f}" for name in ("median", "q20", "q80")),
                *(
                    f"{speedup[name]:.2f}" if is_compared else ""
                    for name in ("median", "q20", "q80")
                ),
                f"{record['gflops']:.1f}",
                f"{100 * record['sgemm_fraction']:.0f}",
                _mebibytes(record["peak_bytes"]),
                f"{max(record['error_output'], record['error_grad'] or 0.0):.0e}",
                others_text(record),
            ]
        )
    return align([head, *rows], left=(0, 1, 6))


def means_text(records: Iterable[Record]) -> str:
    """Geometric means of the speed-ups of undisturbed cases, by provider, cell and mode."""
    groups: dict[tuple[str, ...], list[float]] = {}
    for record, case, speedup in compared(r for r in records if not is_disturbed(r)):
        key = (record["provider"], case.cell, case.mode, case.dtype, case.where)
        groups.setdefault(key, []).append(speedup["median"])
    if not groups:
        return f"no speed-ups: nothing was timed undisturbed beside {BASELINE}"
    rows = [
        [*key, str(len(values)), f"{geometric_mean(values):.2f}", f"{min(values):.2f}"]
        for key, values in groups.items()
    ]
    head = ["provider", "cell", "mode", "dtype", "threads", "cases", "mean", "least"]
    title = f"speed-up over {BASELINE}, geometric mean of undisturbed cases\n"
    return title + align([head, *rows], left=(0, 1, 2, 3))


def losing(records: Iterable[Record]) -> list[tuple[Record, bool]]:
    """Records slower than the baseline, slowest first.

    Returns:
        Each with True if it is slower beyond noise: even the 80 % quantile of its speed-up is
        below 1.
    """
    slower = [(r, s) for r, _, s in compared(records) if s["median"] < 1]
    slower.sort(key=lambda item: item[1]["median"])
    return [(record, speedup["q80"] < 1) for record, speedup in slower]


def losses_text(records: Iterable[Record]) -> str:
    """The line ``losses: none``, or one line a losing case."""
    lines = []
    for record, beyond_noise in losing(records):
        speedup = record["speedup"]
        verdict = "slower" if beyond_noise else "within noise"
        plan = f"; {record['plan']}" if record["plan"] else ""
        lines.append(
            f"  {record['provider']} {case_of(record).name}: {speedup['median']:.2f} "
            f"[{speedup['q20']:.2f}, {speedup['q80']:.2f}] {verdict}{plan}"
        )
    return "\n".join([f"losses: {len(lines)}", *lines]) if lines else "losses: none"


def is_disturbed(record: Record) -> bool:
    """Whether other processes needed cores that the case's threads were running on."""
    others = record.get("other_cores") or 0.0
    return record["case"]["threads"] + others > record["environment"]["cores"] + NOISY_CORES


def disturbed_text(records: Iterable[Record]) -> str:
    """The line ``disturbed: none``, or each disturbed case."""
    names = dict.fromkeys(case_of(record).name for record in records if is_disturbed(record))
    if not names:
        return "disturbed: none"
    title = f"disturbed: {len(names)}; their numbers mean little, run them again"
    return "\n".join([title, *(f"  {name}" for name in names)])


def failures_text(records: Iterable[Record]) -> str:
    """The line ``failures: none``, or each failed case with its message."""
    lines = [
        f"  {record['provider']} {case_of(record).name}: {record['message'].strip()}"
        for record in records
        if record["status"] == "failed"
    ]
    return "\n".join([f"failures: {len(lines)}", *lines]) if lines else "failures: none"


def compare(before: Iterable[Record], after: Iterable[Record], provider: str) -> list[list[str]]:
    """Rows of the cases that both sides have: how much faster `after` is than `before`.

    ``time`` is the plain ratio of medians; ``relative`` divides it by the same ratio of the
    baseline, which cancels a difference between the two runs' machines.
    """
    old, new = _by_case(before), _by_case(after)
    rows = []
    for case in old.keys() & new.keys():
        if provider not in old[case] or provider not in new[case]:
            continue
        time = old[case][provider] / new[case][provider]
        relative = None
        if BASELINE in old[case] and BASELINE in new[case]:
            relative = time * new[case][BASELINE] / old[case][BASELINE]
        rows.append((time, relative, case))
    rows.sort(key=lambda row: row[0] if row[1] is None else row[1])
    return [
        [
            case.name,
            f"{1e3 * old[case][provider]:.2f}",
            f"{1e3 * new[case][provider]:.2f}",
            f"{time:.2f}",
            "" if relative is None else f"{relative:.2f}",
        ]
        for time, relative, case in rows
    ]


def compare_text(before: Iterable[Record], after: Iterable[Record], provider: str) -> str:
    rows = compare(before, after, provider)
    if not rows:
        return f"no case of {provider} is in both"
    head = ["case", "before_ms", "after_ms", "time", "relative"]
    text = align([head, *rows], left=(0,))
    for column in (3, 4):
        values = [float(row[column]) for row in rows if row[column]]
        if values:
            text += f"\n{head[column]}: geometric mean {geometric_mean(values):.2f}"
    return text


def draw(records: Sequence[Record], path: Path) -> None:
    """Bars of the speed-ups with their quantiles, a panel a provider, cell and mode."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels: dict[tuple[str, str, str], list[tuple[Record, Case, dict[str, float]]]] = {}
    for record, case, speedup in compared(records):
        panels.setdefault((record["provider"], case.cell, case.mode), []).append(
            (record, case, speedup)
        )
    if not panels:
        raise ValueError(f"nothing to draw: no provider was timed beside {BASELINE}")
    columns = min(2, len(panels))
    lines = math.ceil(len(panels) / columns)
    tallest = max(map(len, panels.values()))
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(6.5 * columns, lines * (1.2 + 0.3 * tallest)), squeeze=False
    )
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, ((provider, cell, mode), rows) in zip(axes.flat, panels.items(), strict=False):
        names, medians, colours = [], [], []
        for _, case, speedup in rows:
            shape = ",".join(str(size) for size in vars(case.shape).values())
            names.append(f"{shape} {case.where} {case.dtype.replace('float', 'f')}")
            medians.append(speedup["median"])
            colours.append("tab:red" if speedup["median"] < 1 else "tab:blue")
        spread = [
            [max(0.0, s["median"] - s["q20"]) for _, _, s in rows],
            [max(0.0, s["q80"] - s["median"]) for _, _, s in rows],
        ]
        axis.barh(names, medians, xerr=spread, color=colours, ecolor="0.4", capsize=2)
        for idx, (record, _, speedup) in enumerate(rows):
            label = f" {speedup['median']:.2f}x, {100 * record['sgemm_fraction']:.0f}% of sgemm"
            axis.annotate(label, (speedup["q80"], idx), va="center", fontsize=7)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_xlim(0, 1.6 * max(s["q80"] for _, _, s in rows))
        axis.invert_yaxis()
        axis.tick_params(labelsize=7)
        axis.set_title(f"{provider} {cell}, {mode}", fontsize=9)
        axis.set_xlabel(f"times as fast as {BASELINE} (B,T,I,H)", fontsize=7)
    environment = records[-1]["environment"]
    figure.suptitle(
        f"{environment['cpu']}, torch {environment['torch']}, fusedrnn {environment['revision']}",
        fontsize=9,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def compared(records: Iterable[Record]) -> list[tuple[Record, Case, dict[str, float]]]:
    """Successful records of other providers than the baseline that were timed beside it."""
    return [
        (record, case_of(record), record["speedup"])
        for record in records
        if record["status"] == "ok" and record["provider"] != BASELINE and record["speedup"]
    ]


def milliseconds(seconds: float) -> str:
    """With so many digits that a microsecond shows where it matters."""
    return f"{1e3 * seconds:.4f}" if seconds < 1e-3 else f"{1e3 * seconds:.2f}"


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def align(rows: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    """Rows as text, columns padded; those in `left` to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if idx in left else cell.rjust(width)
            for idx, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _environment_lines(records: Sequence[Record]) -> str:
    """The environments of the records, each once."""
    lines: dict[str, None] = {}
    for record in records:
        e: dict[str, Any] = record["environment"]
        caches = ", ".join(f"{name} {size}" for name, size in e["caches"].items())
        lines[
            f"{e['cpu']}, {e['cores']} cores, {caches}; {e['os']}; Python {e['python']}\n"
            f"torch {e['torch']} ({e['torch_isa']}), fusedrnn {e['fusedrnn']} "
            f"({e['fusedrnn_isa']}) at {e['revision']}"
        ] = None
    rates = [r["sgemm_gflops"]["median"] for r in records if r["status"] == "ok"]
    if rates:
        lines[f"sgemm {min(rates):.0f} to {max(rates):.0f} GFLOP/s, measured beside every case"] = (
            None
        )
    return "\n".join(lines)


def _by_case(records: Iterable[Record]) -> dict[Case, dict[str, float]]:
    """Median seconds by case and provider."""
    medians: dict[Case, dict[str, float]] = {}
    for record in records:
        if record["status"] == "ok":
            by_provider = medians.setdefault(case_of(record), {})
            by_provider[record["provider"]] = record["seconds"]["median"]
    return medians


def _mebibytes(value: int | None) -> str:
    return "" if value is None else f"{value / 2**20:.1f}"


def others_text(record: Record) -> str:
    if record["other_cores"] is None:
        return ""
    return f"{record['other_cores']:.2f}{'*' if is_disturbed(record) else ' '}"
