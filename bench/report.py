"""Records as aligned text; losing cases come first and are never left out."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bench.cases import STREAMING, Case
from bench.providers import BASELINE
from bench.store import Record, case_of, machine_of

OURS = "fusedrnn"
NOISY_CORES = 0.15  # a case is disturbed if its threads and others want so many cores too many


def render(records: Sequence[Record]) -> str:
    """The whole report: environment; by thread count and dtype the ratios to the best peer, losing
    cells first, everyone's times and errors; means, losses, memory, disturbed, failed, absent; and
    where our errors are larger. Of records that were not timed, environment and errors."""
    is_timed = any("seconds" in record for record in records)
    parts = [_environment_lines(records)]
    groups = dict.fromkeys((case_of(r).where, case_of(r).dtype) for r in records)
    for where, dtype in groups:
        chosen = [r for r in records if (case_of(r).where, case_of(r).dtype) == (where, dtype)]
        case = case_of(chosen[0])
        threads = f"{case.threads} thread{'s' if case.threads > 1 else ''}"
        title = f"{dtype}, {threads if case.device == 'cpu' else where}"
        if is_timed:
            if any(record["provider"] == OURS for record in chosen):
                parts += [f"{title}: {OURS} beside its best peer\n{ratio_table(chosen)}"]
            parts += [f"{title}: median ms\n{provider_table(chosen, _median_ms)}"]
            streams = [r for r in chosen if case_of(r).form in STREAMING and r["status"] == "ok"]
            parts += [f"{title}: microseconds a step\n{step_table(streams)}"] if streams else []
        parts += [f"{title}: largest error against float64\n{provider_table(chosen, _error)}"]
        parts += [f"{title}: the same of all shapes, by result\n{error_table(chosen)}"]
    if is_timed:
        parts += [
            not_held_text(records),
            means_text(records),
            losses_text(records),
            memory_text(records),
        ]
        parts += [disturbed_text(records)]
    parts += [larger_errors_text(records), failures_text(records), absent_text(records)]
    return "\n\n".join(filter(None, parts))


def ratio_table(records: Sequence[Record]) -> str:
    """One row a case of ours, the smallest ratio first; ``*`` marks a disturbed case."""
    head = ["cell", "mode", "B", "T", "I", "H", "kind", "ms", "q20", "q80", "best peer"]
    head += [
        "ratio",
        "q20",
        "q80",
        "GFLOP/s",
        "sgemm%",
        "roof%",
        "fma%",
        "MiB",
        "torch.nn",
        "others",
    ]
    baselines = {case_of(r): r for r in records if r["provider"] == BASELINE}
    rows = []
    for record in sorted((r for r in records if r["provider"] == OURS), key=_ratio_key):
        case, key = case_of(record), _key(record)
        if record["status"] != "ok":
            rows.append([*key, record["status"].upper(), *[""] * (len(head) - len(key) - 1)])
            continue
        peer = best_peer(record)
        ratio = peer["speedup"] if peer else {}
        rows.append(
            [
                *key,
                *(milliseconds(record["seconds"][name]) for name in ("median", "q20", "q80")),
                peer["provider"] if peer else "",
                *(f"{ratio[name]:.2f}" if peer else "" for name in ("median", "q20", "q80")),
                f"{record['gflops']:.1f}",
                *(percent(record, f"{name}_fraction") for name in ("sgemm", "roof", "fma")),
                _mebibytes(record["peak_bytes"]),
                _mebibytes(baselines.get(case, {}).get("peak_bytes")),
                others_text(record),
            ]
        )
    return align([head, *rows], left=(0, 1, 6, 10))


def provider_table(records: Sequence[Record], value: Callable[[Record], str]) -> str:
    """One row a case and one column a provider; empty where it was absent."""
    names = list(dict.fromkeys(r["provider"] for r in records if r["status"] != "absent"))
    rows: dict[Case, dict[str, str]] = {}
    for record in records:
        text = {"ok": value, "failed": lambda r: "FAILED", "absent": lambda r: ""}
        rows.setdefault(case_of(record), {})[record["provider"]] = text[record["status"]](record)
    keys = {case_of(record): _key(record) for record in records}
    lines = [
        [*keys[case], *(found.get(name, "") for name in names)] for case, found in rows.items()
    ]
    head = ["cell", "mode", "B", "T", "I", "H", "kind", *names]
    return align([head, *lines], left=(0, 1, 6))


def step_table(records: Sequence[Record]) -> str:
    """Of calls of one step: one row a cell, width and provider, one column a batch size."""
    batch_sizes = sorted({case_of(record).shape.batch_size for record in records})
    rows: dict[tuple[str, ...], dict[int, str]] = {}
    for record in records:
        case = case_of(record)
        key = (case.cell, case.kind, str(case.shape.hidden_size), record["provider"])
        text = f"{1e6 * record['seconds']['median']:.1f}"
        rows.setdefault(key, {})[case.shape.batch_size] = text + "*" * is_disturbed(record)
    head = ["cell", "kind", "H", "provider", *(f"B {size}" for size in batch_sizes)]
    lines = [[*key, *(found.get(size, "") for size in batch_sizes)] for key, found in rows.items()]
    return align([head, *lines], left=(0, 1, 3))


def best_peer(record: Record) -> dict[str, Any] | None:
    """The fastest other provider and the ratio to it; of older records, torch.nn."""
    if "best_peer" in record:
        return record["best_peer"]
    if record["provider"] == BASELINE or not record["speedup"]:
        return None
    return {"provider": BASELINE, "speedup": record["speedup"]}


@dataclasses.dataclass(frozen=True)
class Means:
    """Of our ratios in the cases of a group."""

    cases: int
    mean: float  # geometric, to the best peer
    least: float
    to_baseline: float  # geometric; not a number where the baseline was not timed


def means(records: Iterable[Record]) -> dict[tuple[str, ...], Means]:
    """Of undisturbed cases, by cell, mode, kind, dtype and threads; of all modes and thread counts
    last."""
    groups: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for record, case, peer in compared(r for r in records if not is_disturbed(r)):
        kind = "streaming" if case.form in STREAMING else case.kind
        baseline = record["speedup"]["median"] if record["speedup"] else math.nan
        pair = (peer["speedup"]["median"], baseline)
        groups.setdefault((case.cell, case.mode, kind, case.dtype, case.where), []).append(pair)
        groups.setdefault((case.cell, "all", kind, case.dtype, "all"), []).append(pair)
    found = {}
    for key, pairs in sorted(groups.items(), key=lambda item: "all" in item[0]):
        to_peer, to_baseline = zip(*pairs)
        found[key] = Means(
            len(pairs), geometric_mean(to_peer), min(to_peer), geometric_mean(to_baseline)
        )
    return found


def means_text(records: Iterable[Record]) -> str:
    found = means(records)
    if not found:
        return "no ratios: nothing was timed undisturbed beside a peer"
    rows = [
        [
            *key,
            str(of.cases),
            f"{of.mean:.2f}",
            f"{of.least:.2f}",
            "" if math.isnan(of.to_baseline) else f"{of.to_baseline:.2f}",
        ]
        for key, of in found.items()
    ]
    head = ["cell", "mode", "kind", "dtype", "threads", "cases", "mean", "least", BASELINE]
    title = f"{OURS}'s ratio to the best peer, and to {BASELINE}: geometric means, undisturbed\n"
    return title + align([head, *rows], left=(0, 1, 2, 3))


def not_held_text(records: Sequence[Record]) -> str:
    """Of runs with a forced instruction set: who was not held to it, and everyone's fraction of
    the roof of the instruction set that it used; empty of other runs."""
    forced = {machine_of(r).forced_isa for r in records} - {None}
    names = dict.fromkeys(r["provider"] for r in records if r.get("held") is False)
    if not forced:
        return ""
    title = (
        f"FORCED to {', '.join(sorted(forced))}: {', '.join(names) or 'no provider'} cannot be "
        "held to it and is no peer.\nfma%, everyone's fraction of the roof by multiply-adds of the "
        "instruction set that it used"
    )
    rows = [r for r in records if r.get("fma_fraction") is not None]
    table = provider_table(rows, lambda record: percent(record, "fma_fraction")) if rows else ""
    return f"{title}\n{table}".rstrip()


def losing(records: Iterable[Record]) -> list[tuple[Record, bool]]:
    """Our records that are slower than the best peer, slowest first.

    Returns:
        Each with True if it is slower beyond noise: even the 80 % quantile of its ratio is
        below 1.
    """
    slower = [(r, p["speedup"]) for r, _, p in compared(records) if p["speedup"]["median"] < 1]
    slower.sort(key=lambda item: item[1]["median"])
    return [(record, ratio["q80"] < 1) for record, ratio in slower]


def losses_text(records: Iterable[Record]) -> str:
    """The line ``losses: none``, or one line a losing case."""
    lines = []
    for record, beyond_noise in losing(records):
        peer = best_peer(record)
        ratio = peer["speedup"]
        verdict = "slower" if beyond_noise else "within noise"
        plan = f"; {record['plan']}" if record["plan"] else ""
        lines.append(
            f"  {case_of(record).name}: {ratio['median']:.2f} [{ratio['q20']:.2f}, "
            f"{ratio['q80']:.2f}] of {peer['provider']}, {verdict}{plan}"
        )
    return "\n".join([f"losses: {len(lines)}", *lines]) if lines else "losses: none"


def memory_text(records: Iterable[Record]) -> str:
    """The line ``more memory: none``, or each case of ours that needs more than torch.nn."""
    peaks: dict[Case, dict[str, int]] = {}
    for record in records:
        if record["status"] == "ok" and record["peak_bytes"] is not None:
            peaks.setdefault(case_of(record), {})[record["provider"]] = record["peak_bytes"]
    lines = [
        f"  {case.name}: {_mebibytes(found[OURS])} MiB, {BASELINE} {_mebibytes(found[BASELINE])}"
        for case, found in peaks.items()
        if OURS in found and BASELINE in found and found[OURS] > found[BASELINE]
    ]
    return "\n".join([f"more memory than {BASELINE}: {len(lines) or 'none'}", *lines])


def error_table(records: Iterable[Record]) -> str:
    """One row a cell, mode and result, and the largest error of each provider; `cases` are those
    of ours, and `ratio` is our error over torch.nn's."""
    largest: dict[tuple[str, ...], dict[str, float]] = {}
    counts: Counter[tuple[str, ...]] = Counter()
    names: dict[str, None] = {}
    for record in records:
        case, provider = case_of(record), record["provider"]
        for result, error in errors_of(record).items():
            key = (case.cell, case.mode, case.kind, result)
            row = largest.setdefault(key, {})
            row[provider] = max(row.get(provider, 0.0), error)
            counts[key] += provider == OURS
            names[provider] = None
    rows = []
    for key, found in largest.items():
        is_known = OURS in found and found.get(BASELINE)
        ratio = f"{found[OURS] / found[BASELINE]:.2f}" if is_known else ""
        texts = [f"{found[name]:.1e}" if name in found else "" for name in names]
        rows.append([*key, str(counts[key]), *texts, ratio])
    head = ["cell", "mode", "kind", "result", "cases", *names, "ratio"]
    return align([head, *rows], left=(0, 1, 2, 3))


def larger_errors_text(records: Iterable[Record]) -> str:
    """The line ``larger errors: none``, or each result of a case whose error is larger than that
    of torch.nn, the largest ratio first."""
    found: dict[tuple[Case, str], dict[str, float]] = {}
    for record in records:
        for result, error in errors_of(record).items():
            found.setdefault((case_of(record), result), {})[record["provider"]] = error
    pairs = [
        (errors[OURS], errors[BASELINE], case, result)
        for (case, result), errors in found.items()
        if OURS in errors and BASELINE in errors
    ]
    larger = [pair for pair in pairs if pair[0] > pair[1]]
    larger.sort(key=lambda pair: pair[1] / pair[0])
    lines = [
        f"  {case.name}: {result} {ours:.1e}, {BASELINE} {theirs:.1e}"
        for ours, theirs, case, result in larger
    ]
    count = f"{len(lines)} of {len(pairs)} results" if lines else "none"
    return "\n".join([f"larger errors than {BASELINE}: {count}", *lines])


def errors_of(record: Record) -> dict[str, float]:
    """The errors of ``output``, ``state`` and ``grad`` that a record has."""
    found = {name: record.get(f"error_{name}") for name in ("output", "state", "grad")}
    return {name: error for name, error in found.items() if error is not None}


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


def absent_text(records: Iterable[Record]) -> str:
    """The line ``absent: none``, or each reason with its number of cases."""
    counts = Counter(f"{r['provider']}: {r['message']}" for r in records if r["status"] == "absent")
    lines = [f"  {reason} ({count} cases)" for reason, count in counts.items()]
    return "\n".join([f"absent: {len(lines) or 'none'}", *lines])


def compared(records: Iterable[Record]) -> list[tuple[Record, Case, dict[str, Any]]]:
    """Our successful records that were timed beside a peer, and their best peer."""
    return [
        (record, case_of(record), best_peer(record))
        for record in records
        if record["status"] == "ok" and record["provider"] == OURS and best_peer(record)
    ]


def percent(record: Record, fraction: str) -> str:
    """One of a record's fractions; empty where it is unknown."""
    value = record.get(fraction)
    return "" if value is None else f"{100 * value:.0f}"


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
        e, machine = record["environment"], machine_of(record)
        lines[
            f"{machine.name}, {machine.cache_text}; {e['os']}; Python {e['python']}\n"
            f"torch {e['torch']} ({e['torch_isa']}), fusedrnn {e['fusedrnn']} "
            f"({e['fusedrnn_isa']}) at {e['revision']}"
        ] = None
    for where, roof in roofs(records).items():
        lines[f"{where}: {roof}, measured beside every case"] = None
    return "\n".join(lines)


def roofs(records: Iterable[Record]) -> dict[str, str]:
    """By thread count, what the machine can do: torch's large product and multiply-adds in
    registers, the range over the cases."""
    found: dict[str, dict[str, list[float]]] = {}
    for record in records:
        for name in ("sgemm", "fma"):
            rate = record.get(f"{name}_gflops")
            if rate and record.get("held") is not False:
                of = found.setdefault(case_of(record).where, {})
                of.setdefault(name, []).append(rate["median"])
    return {
        where: ", ".join(
            f"{name} {min(rates):.0f} to {max(rates):.0f} GFLOP/s" for name, rates in of.items()
        )
        for where, of in found.items()
    }


def _key(record: Record) -> list[str]:
    case = case_of(record)
    return [case.cell, case.mode, *map(str, vars(case.shape).values()), case.kind]


def _ratio_key(record: Record) -> float:
    peer = best_peer(record) if record["status"] == "ok" else None
    return peer["speedup"]["median"] if peer else math.inf


def _median_ms(record: Record) -> str:
    return milliseconds(record["seconds"]["median"])


def _error(record: Record) -> str:
    return f"{max(errors_of(record).values()):.0e}"


def _mebibytes(value: int | None) -> str:
    return "" if value is None else f"{value / 2**20:.1f}"


def others_text(record: Record) -> str:
    if record["other_cores"] is None:
        return ""
    return f"{record['other_cores']:.2f}{'*' if is_disturbed(record) else ' '}"
