"""Times models of other libraries with torch.nn's layers and with fusedrnn's, interleaved.

    python -m bench.libraries                       # every library that is installed
    python -m bench.libraries sb3-contrib stanza    # these
    python -m bench.libraries --table FILE          # the table of a file's results
    python -m bench.libraries --pages FILE          # the same, put into docs/libraries

The two models of a subject are in one process, a process a library. They are compared first; two
that differ by more than rounding are not timed, and the status is then 1. Results are appended to
`bench/results/libraries-<machine>-<date>.jsonl`: two lines a subject, inference and training.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import torch

from bench import environment, store, timing
from bench.libraries import MODULES, tables
from bench.libraries.subject import TOLERANCE, Subject, Trial, compare
from bench.libraries.versions import NotUsableError, installed, subjects_of
from bench.store import Record
from bench.timing import Effort, Summary


@dataclasses.dataclass(frozen=True)
class LibraryCase:
    model: str
    change: str
    mode: str
    threads: int


def main() -> int:
    options = _parser().parse_args()
    if options.table:
        print(tables.table(tables.load(options.table)))
        return 0
    if options.pages:
        tables.write_pages(tables.load(options.pages), MODULES)
        return 0
    if options.here:
        return _time_here(options)
    status = 0
    for package in options.packages:
        # Libraries change a process: threads, warnings, random numbers.
        command = [sys.executable, "-m", "bench.libraries", "--here", package]
        command += ["--threads", str(options.threads), "--budget", str(options.budget)]
        command += ["--out", str(options.out)] if options.out else []
        status |= subprocess.run(command, check=False).returncode
    return status


def _parser() -> argparse.ArgumentParser:
    description, _, epilog = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        "python -m bench.libraries",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "packages", nargs="*", type=_package, default=list(MODULES), metavar="PACKAGE"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", type=float, default=10.0, help="seconds of a subject's mode")
    parser.add_argument("--out", type=Path, help="the file to append to")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print a file's results")
    parser.add_argument("--pages", type=Path, metavar="FILE", help="put them into docs/libraries")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    return parser


def _package(name: str) -> str:
    if name not in MODULES:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(MODULES)}, got {name}")
    return name


def _time_here(options: argparse.Namespace) -> int:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    facts = environment.describe()
    path = options.out or store.default_path(facts, "libraries-")
    status = 0
    for package in options.packages:
        try:
            subjects = subjects_of(package).SUBJECTS
        except NotUsableError as error:
            print(f"not timed: {error}", flush=True)
            continue
        torch.set_num_threads(options.threads)  # after what a library sets as it is imported
        for subject in subjects:
            effort = Effort(options.budget, min_rounds=5)
            records = [
                store.complete(record, case, facts) for case, record in measure(subject, effort)
            ]
            status |= any(record["status"] != "ok" for record in records)
            store.append(path, records)
            print(tables.table(records, head=False), flush=True)
    return status


def measure(subject: Subject, effort: Effort) -> list[tuple[LibraryCase, Record]]:
    """Inference and training: the median and quantiles of both times, and of their ratio within a
    round."""
    theirs, ours = subject.make(False), subject.make(True)
    difference = compare(theirs, ours)
    head = {
        "package": subject.package,
        "version": installed(subject.package),
        "replaced": subject.replaced,
        "difference": vars(difference),
    }
    records = []
    for mode in ("infer", "train"):
        case = LibraryCase(subject.model, subject.change, mode, torch.get_num_threads())
        record: Record = {**head, "status": "ok"}
        if difference.largest > TOLERANCE:
            record |= {"status": "failed", "message": f"differs by more than {TOLERANCE:.0e}"}
        else:
            record |= _time(theirs, ours, mode, effort)
        records.append((case, record))
    return records


def _time(theirs: Trial, ours: Trial, mode: str, effort: Effort) -> Record:
    samplers = {
        name: timing.StepSampler(getattr(trial, mode))
        for name, trial in (("torch.nn", theirs), ("fusedrnn", ours))
    }
    busy = environment.BusyElsewhere()
    samples = timing.interleave(samplers, effort).samples
    return {
        "rounds": len(samples["fusedrnn"]),
        "seconds": {name: vars(Summary.of(values)) for name, values in samples.items()},
        "speedup": vars(Summary.of(timing.ratios(samples["torch.nn"], samples["fusedrnn"]))),
        "other_cores": busy.cores(),
    }


if __name__ == "__main__":
    sys.exit(main())
