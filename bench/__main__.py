"""Command line of the benchmark; bench/README.md says how to use it."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from bench import (
    comparison,
    compilation,
    environment,
    instructions,
    isa,
    model,
    option_costs,
    oversubscription,
    page,
    plots,
    quantized,
    recompute,
    report,
    revisions,
    side_by_side,
    store,
)
from bench.cases import DEVICES, DTYPES, FORMS, GATES, MODES, Case, Shape, default_shapes, select
from bench.contests import CONTESTS
from bench.environment import UsageError
from bench.measure import measure
from bench.problem import Provider
from bench.providers import BASELINE, PROVIDERS
from bench.timing import Effort
from bench.workers import isolated

QUICK = Effort(budget=0.2, min_rounds=3)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit status."""
    options = _parser().parse_args(arguments)
    if getattr(options, "isa", None):
        isa.force(options.isa)
    try:
        return options.command(options)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    """Time the selected cases; status 1 if one of them fails."""
    available = {name: PROVIDERS[name] for name in options.providers}
    return _time(options, _selected(options), available, isolated(environment.describe))


def compare(options: argparse.Namespace) -> int:
    """Time a revision beside the present tree; status 1 if a test is red or a case fails."""
    cases = _selected(options)
    commit = revisions.resolve(options.revision)
    facts = _build_present(options)
    print(f"testing the present tree: {' '.join(options.tests)}", flush=True)
    red = revisions.red_tests(options.tests)
    if red:
        print("the present tree's tests are red, so nothing is timed:", *red, sep="\n  ")
        return 1
    print(f"building {commit}", flush=True)
    with revisions.checked_out(commit) as tree:
        before = revisions.TreeProvider(f"fusedrnn@{commit}", tree)
        after = revisions.TreeProvider("fusedrnn", environment.REPOSITORY)
        available = {provider.name: provider for provider in (before, after)}
        return _time(options, cases, available, facts, prefix="compare-")


def run_instructions(options: argparse.Namespace) -> int:
    """Count instructions, of a revision as well if asked to; status 1 if one fails."""
    instructions.require_valgrind()
    commit = revisions.resolve(options.revision) if options.revision else ""
    facts = _build_present(options)
    providers = [revisions.TreeProvider("fusedrnn", environment.REPOSITORY)]
    with contextlib.ExitStack() as trees:
        if commit:
            print(f"building {commit}", flush=True)
            tree = trees.enter_context(revisions.checked_out(commit))
            providers.insert(0, revisions.TreeProvider(f"fusedrnn@{commit}", tree))
        path = options.out or store.default_path(facts, "instructions-")
        records = []
        for case, provider in itertools.product(instructions.CASES, providers):
            counted = instructions.measure(case, provider)
            records.append(store.complete(counted, case, facts))
            store.append(path, records[-1:])
            print(f"{case.name}: {provider.name} {counted['status']}", flush=True)
    print(f"\n{instructions.render(records)}\n\nwritten to {path}")
    return int(any(record["status"] != "ok" for record in records))


def run_compile(options: argparse.Namespace) -> int:
    """Compile the selected cases; status 1 if fusedrnn fails in one of them."""
    cases = compilation.select(options.cells, options.modes, options.lengths)
    facts = environment.describe()
    path = options.out or store.default_path(facts, prefix="compile-")
    _warn(facts)
    records = []
    for case, provider in itertools.product(cases, options.providers):
        measured = compilation.measure(case, provider, options.limit)
        records.append(store.complete(measured, case, facts))
        store.append(path, records[-1:])
        print(f"{case.name}: {provider} {measured['status']}", flush=True)
    print(f"\n{compilation.table(records)}\n\nwritten to {path}")
    return int(any(r["status"] != "ok" and r["provider"] == "fusedrnn" for r in records))


def run_options(options: argparse.Namespace) -> int:
    """Time what the options cost; status 1 if a case fails."""
    cases = option_costs.select(
        options.kinds, options.cells, options.modes, options.hidden_sizes, options.threads
    )
    return _run_contests(option_costs, cases, options, prefix="options-")


def run_quantized(options: argparse.Namespace) -> int:
    """Time streaming steps on weights in fewer bytes; status 1 if a case fails."""
    cases = quantized.select(options.cells, options.hidden_sizes, options.threads)
    return _run_contests(quantized, cases, options, prefix="quantized-")


def run_model(options: argparse.Namespace) -> int:
    """Time every schedule beside what the planner's model says; status 1 if one fails."""
    return _run_contests(model, _selected(options), options, prefix="model-")


def _run_contests(
    contest: ModuleType, cases: Iterable[Case], options: argparse.Namespace, prefix: str
) -> int:
    """Time and record each case by a module that has `measure` and `render`."""
    effort = QUICK if options.quick else Effort(options.budget, options.rounds)
    facts = isolated(environment.describe)
    path = options.out or store.default_path(facts, prefix)
    _check_isa(facts)
    _warn(facts)
    records = []
    for case in cases:
        measured = [store.complete(r, case, facts) for r in contest.measure(case, effort)]
        store.append(path, measured)
        records += measured
        print(f"{case.name}: {measured[0]['status']}", flush=True)
    print(f"\n{contest.render(records)}\n\nwritten to {path}")
    return int(any(record["status"] != "ok" for record in records))


def run_recompute(options: argparse.Namespace) -> int:
    """Measure memory and time of every `recompute`; status 1 if one fails."""
    facts = environment.describe()
    path = options.out or store.default_path(facts, prefix="recompute-")
    _warn(facts)
    records = []
    for cases in recompute.select(options.cells, options.shape, options.threads):
        found = recompute.measure(cases, options.rounds)
        measured = [
            store.complete(record, case, facts) for case, record in zip(cases, found, strict=True)
        ]
        store.append(path, measured)
        records += measured
    print(f"{recompute.render(records)}\n\nwritten to {path}")
    return int(any(record["status"] != "ok" for record in records))


def run_oversubscription(options: argparse.Namespace) -> int:
    """Measure how layers slow down where cores are missing; status 1 if one fails."""
    facts = environment.describe()
    path = options.out or store.default_path(facts, "oversubscription-")
    _warn(facts)
    records = []
    for cases in oversubscription.select(options.cells, options.modes, options.shapes):
        measured = [
            store.complete(record, case, facts)
            for case, record in oversubscription.measure(cases, options.rounds)
        ]
        store.append(path, measured)
        records += measured
        print(f"{cases[0].name}: {measured[0]['status']}", flush=True)
    print(f"\n{oversubscription.render(records)}\n\nwritten to {path}")
    return int(any(record["status"] != "ok" for record in records))


def diff(options: argparse.Namespace) -> int:
    """Print how the same cases differ between two sets of results."""
    before, after = store.load(options.before), store.load(options.after)
    print(comparison.compare_text(before, after, options.provider))
    return 0


def show(options: argparse.Namespace) -> int:
    """Print the report of results files, and draw it if asked to; of several machines, what
    compares them first."""
    machines = side_by_side.by_machine(store.load(*options.files))
    if len(machines) > 1:
        print(side_by_side.render(machines))
    for machine, own in machines.items():
        if len(machines) > 1:
            print(f"\n{'=' * 100}\n{machine.name}\n")
        print(side_by_side.machine_report(own))
    if options.png:
        plots.save(machines, options.png)
        print(f"\ndrawn to {options.png}")
    if options.html:
        page.write(machines, options.html)
        print(f"\nwritten to {options.html}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(
        required=True,
        metavar="run | compare | instructions | compile | options | quantized | model | recompute "
        "| oversubscription | diff | report",
    )

    add = commands.add_parser("run", help="time fusedrnn and its peers side by side")
    add.set_defaults(command=run)
    add.add_argument("--providers", nargs="+", choices=PROVIDERS, default=list(PROVIDERS))
    _add_cases(add)
    _add_run(add)

    add = commands.add_parser("compare", help="time a git revision beside the present tree")
    add.set_defaults(command=compare)
    add.add_argument("revision")
    tests = revisions.TESTS
    add.add_argument(
        "--tests", nargs="+", default=tests, help="must pass first; pytest's arguments"
    )
    add.add_argument("--dirty", action="store_true", help="allow uncommitted changes")
    _add_cases(add)
    _add_run(add)

    add = commands.add_parser("instructions", help="count instructions by valgrind's callgrind")
    add.set_defaults(command=run_instructions)
    add.add_argument("--revision", help="count those of this git revision as well")
    add.add_argument("--dirty", action="store_true", help="allow uncommitted changes")
    add.add_argument("--out", type=Path, metavar="FILE", help="append here, not to bench/results")

    add = commands.add_parser("compile", help="graphs, breaks and seconds under torch.compile")
    add.set_defaults(command=run_compile)
    for name in ("cells", "modes", "providers"):
        known = getattr(compilation, name.upper())
        add.add_argument(f"--{name}", nargs="+", choices=known, default=known)
    lengths = compilation.SEQ_LENS
    add.add_argument("--lengths", nargs="+", type=int, default=lengths, metavar="T")
    add.add_argument("--limit", type=float, default=300.0, help="seconds a case may take")
    add.add_argument("--out", type=Path, metavar="FILE", help="append here, not to bench/results")

    add = commands.add_parser("options", help="what lengths, resets and per-sample gradients cost")
    add.set_defaults(command=run_options)
    add.add_argument("--threads", type=int, default=os.cpu_count())
    add.add_argument("--kinds", nargs="+", choices=CONTESTS, default=list(CONTESTS))
    add.add_argument("--cells", nargs="+", choices=option_costs.CELLS, default=option_costs.CELLS)
    add.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    sizes = option_costs.HIDDEN_SIZES
    add.add_argument("--hidden-sizes", nargs="+", type=int, default=sizes, metavar="H")
    add.add_argument("--rounds", type=int, default=7, help="least number of rounds a case")
    add.add_argument("--budget", type=float, default=10.0, help="seconds of rounds a case")
    add.add_argument("--quick", action="store_true", help="few rounds: a smoke test")
    add.add_argument("--out", type=Path, metavar="FILE", help="append here, not to bench/results")

    add = commands.add_parser("quantized", help="a streaming step on weights in fewer bytes")
    add.set_defaults(command=run_quantized)
    add.add_argument("--threads", type=_counts, default=[os.cpu_count()], metavar="N[,N]")
    add.add_argument("--cells", nargs="+", choices=quantized.CELLS, default=quantized.CELLS)
    sizes = quantized.HIDDEN_SIZES
    add.add_argument("--hidden-sizes", nargs="+", type=int, default=sizes, metavar="H")
    add.add_argument("--rounds", type=int, default=7, help="least number of rounds a case")
    add.add_argument("--budget", type=float, default=5.0, help="seconds of rounds a case")
    add.add_argument("--quick", action="store_true", help="few rounds: a smoke test")
    add.add_argument("--out", type=Path, metavar="FILE", help="append here, not to bench/results")

    add = commands.add_parser("model", help="the planner's time model beside measured times")
    add.set_defaults(command=run_model, device="cpu")
    _add_cases(add)

    add = commands.add_parser("recompute", help="memory and time of a very long sequence")
    add.set_defaults(command=run_recompute)
    add.add_argument("--threads", type=int, default=os.cpu_count())
    add.add_argument(
        "--cells", nargs="+", choices=option_costs.CELLS, default=option_costs.CELLS[:1]
    )
    add.add_argument("--shape", type=Shape.parse, default=recompute.SHAPE, metavar="B,T,I,H")
    add.add_argument("--rounds", type=int, default=3, help="processes a setting")
    add.add_argument("--out", type=Path, metavar="FILE", help="append here, not to bench/results")

    add = commands.add_parser("oversubscription", help="slow-down where cores are missing; Linux")
    add.set_defaults(command=run_oversubscription)
    add.add_argument("--cells", nargs="+", choices=GATES, default=["LSTM", "GRU"], type=str.upper)
    add.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    shapes = oversubscription.SHAPES
    add.add_argument("--shapes", nargs="+", type=Shape.parse, default=shapes, metavar="B,T,I,H")
    add.add_argument("--rounds", type=int, default=3, help="processes a condition and provider")
    add.add_argument("--out", type=Path, metavar="FILE", help="append here, not to bench/results")

    add = commands.add_parser("diff", help="the same cases of two files, or revisions in them")
    add.set_defaults(command=diff)
    add.add_argument("before", metavar="FILE[@REVISION]")
    add.add_argument("after", metavar="FILE[@REVISION]")
    add.add_argument("--provider", choices=PROVIDERS, default="fusedrnn")

    add = commands.add_parser("report", help="print, and draw, results of one or more machines")
    add.set_defaults(command=show)
    add.add_argument("files", nargs="+", metavar="FILE[@REVISION]")
    add.add_argument("--png", type=Path, help="draw the ratios here; below one another by machine")
    add.add_argument("--html", type=Path, help="write a page of tables and pictures here")
    return parser


def _add_cases(add: argparse.ArgumentParser) -> None:
    """The options that choose cases of the table and say how they are timed."""
    add.add_argument("--threads", type=_counts, default=[os.cpu_count()], metavar="N[,N]")
    add.add_argument("--cells", nargs="+", choices=GATES, default=list(GATES), type=str.upper)
    add.add_argument("--shapes", nargs="+", type=Shape.parse, metavar="B,T,I,H")
    add.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    add.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS[:1])
    add.add_argument("--layers", nargs="+", type=int, default=[1], metavar="N")
    add.add_argument("--directions", nargs="+", type=int, choices=(1, 2), default=[1])
    add.add_argument("--dtype", nargs="+", choices=DTYPES, default=DTYPES[:1])
    add.add_argument("--isa", choices=isa.VARIABLES, help="hold all libraries that can be to it")
    add.add_argument("--filter", default="", metavar="REGEX", help="of the case's name")
    add.add_argument("--rounds", type=int, default=7, help="least number of rounds a case")
    add.add_argument("--budget", type=float, default=5.0, help="seconds of rounds a case")
    add.add_argument("--quick", action="store_true", help="three shapes, few rounds: a smoke test")
    add.add_argument("--out", type=Path, metavar="FILE", help="append here, not to bench/results")


def _add_run(add: argparse.ArgumentParser) -> None:
    """The options of what `_time` runs."""
    add.add_argument("--device", choices=DEVICES, default="cpu")
    add.add_argument("--untimed", action="store_true", help="only the errors against float64")


def _selected(options: argparse.Namespace) -> list[Case]:
    cases = [
        case
        for form in options.forms
        for case in select(
            options.cells,
            options.shapes or default_shapes(form, options.quick),
            options.modes,
            options.dtype,
            options.threads,
            options.filter,
            options.device,
            form,
            options.layers,
            options.directions,
        )
    ]
    if not cases:
        raise UsageError("no case is selected")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device is visible to torch")
    return cases


def _time(
    options: argparse.Namespace,
    cases: Sequence[Case],
    available: Mapping[str, Provider],
    facts: dict[str, Any],
    prefix: str = "",
) -> int:
    """Check and time every provider in every case, store and print; status 1 if one fails."""
    _check_isa(facts)
    effort = QUICK if options.quick else Effort(options.budget, options.rounds)
    if options.untimed:
        effort, prefix = None, "accuracy-"
    path = options.out or store.default_path(facts, prefix, options.device)
    _warn(facts)
    records = []
    for idx, case in enumerate(cases, 1):
        measured = [
            store.complete(record, case, facts)
            for record in measure(case, list(available), effort, available)
        ]
        store.append(path, measured)
        records += measured
        print(f"[{idx}/{len(cases)}] {case.name}: {_summary(measured)}", flush=True)
    print(f"\n{report.render(records)}\n\nwritten to {path}")
    return int(any(record["status"] == "failed" for record in records))


def _build_present(options: argparse.Namespace) -> dict[str, Any]:
    """Build the present tree; returns its facts."""
    if environment.revision().endswith("-dirty") and not options.dirty:
        raise UsageError(
            "uncommitted changes: expected a tree that a revision names; commit, or add --dirty"
        )
    print("building the present tree", flush=True)
    revisions.build(environment.REPOSITORY)
    return isolated(environment.describe)


def _counts(text: str) -> list[int]:
    counts = [int(part) for part in text.split(",")]
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"expected positive thread counts, got {text!r}")
    return counts


def _check_isa(facts: dict) -> None:
    if facts["forced_isa"] not in (None, facts["fusedrnn_isa"]):
        raise UsageError(
            f"--isa {facts['forced_isa']}: expected a processor and a build of fusedrnn that have "
            f"it, found {facts['fusedrnn_isa']}; `python -m fusedrnn.info` lists both"
        )


def _warn(facts: dict) -> None:
    """Say before the first case what will make the numbers worthless."""
    load = facts["load_average"]
    if load is not None and load > 0.5:
        print(f"warning: load average {load:.1f}: other processes disturb the timing", flush=True)
    if facts["fusedrnn_isa"].startswith("none"):
        print("warning: fusedrnn's compiled part is missing: its fallback is timed", flush=True)
    if facts["revision"].endswith("-dirty"):
        print("warning: uncommitted changes: the revision does not name what is timed", flush=True)


def _summary(records: list[store.Record]) -> str:
    parts = []
    for record in records:
        if record["status"] == "absent":
            continue
        if record["status"] != "ok":
            parts.append(f"{record['provider']} FAILED: {record['message'].strip()}")
            continue
        if "seconds" not in record:
            parts.append(f"{record['provider']} {max(report.errors_of(record).values()):.1e}")
            continue
        text = f"{record['provider']} {report.milliseconds(record['seconds']['median'])} ms"
        peer = report.best_peer(record)
        ratio = record["speedup"] or (peer and peer["speedup"])
        if ratio and record["provider"] != BASELINE:
            text += " ({median:.2f}x [{q20:.2f}, {q80:.2f}])".format(**ratio)
        parts.append(text)
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
