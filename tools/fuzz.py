"""Calls everything public with valid, malformed and extreme arguments, and judges what happens.

    python tools/fuzz.py --calls 100000 --seed 1
    python tools/fuzz.py --replay 1:4711        one call again, or --replay 1:4700-4711 a range

Each call follows from (seed, index) alone. Calls run in forked workers with little memory; one
that dies or does not return in time is a finding, and the next worker goes on behind it. Other
findings: a wrong result, an exception that torch does not raise for its arguments, and a refusal
of a valid call. The exit status is 1 where there are any.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import faulthandler
import json
import os
import re
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from fuzz_calls import Outcome, Play  # noqa: E402
from fuzz_targets import targets  # noqa: E402

_BLOCK = 2000  # calls a worker
_MEMORY_BYTES = 3 << 30  # beyond what a worker begins with


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="index of the first call")
    parser.add_argument("--replay", help="SEED:INDEX or SEED:FIRST-LAST; prints each call")
    parser.add_argument("--skip", default="", help="pass over calls whose description matches")
    parser.add_argument("--hang", type=float, default=60, help="seconds a call may take")
    options = parser.parse_args()
    first, calls, seed = options.first, options.calls, options.seed
    if options.replay:
        seed, first, last = map(
            int, re.fullmatch(r"(-?\d+):(\d+)(?:-(\d+))?", options.replay).groups("-1")
        )
        calls = max(last, first) - first + 1
    run = Run(seed, options.skip, options.hang, verbose=bool(options.replay))
    begin = time.monotonic()
    run.play(first, first + calls)
    run.report(time.monotonic() - begin)
    return 1 if run.findings else 0


class Run:
    """Plays a range of calls in one worker after another, and counts what happened."""

    def __init__(self, seed: int, skip: str, hang_seconds: float, verbose: bool) -> None:
        self.seed, self.skip, self.hang_seconds, self.verbose = seed, skip, hang_seconds, verbose
        self.table = targets()
        self.counts: dict[str, collections.Counter[str]] = {}
        self.findings: dict[str, list[tuple[int, str, str]]] = {}

    def play(self, first: int, last: int) -> None:
        while first < last:
            first = self._play_block(first, min(first + _BLOCK, last))

    def _play_block(self, first: int, last: int) -> int:
        """Returns the index to go on with."""
        reader, writer = os.pipe()
        with tempfile.TemporaryFile() as stderr:
            worker = os.fork()
            if worker == 0:
                os.close(reader)
                self._work(first, last, writer, stderr)
            os.close(writer)
            with os.fdopen(reader, "rb", buffering=0) as pipe:
                at, description, ended = self._listen(pipe, first)
            if ended == "hang":
                os.kill(worker, signal.SIGABRT)  # faulthandler writes where it is
                time.sleep(0.5)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
            _, status = os.waitpid(worker, 0)
            if ended == "done":
                return at + 1
            stderr.seek(0)
            told = stderr.read().decode(errors="replace")[-3000:]
        if ended == "died":
            code = os.waitstatus_to_exitcode(status)
            ended = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        told = told.strip().rpartition("\n")[2] + "\n" + told if ended.startswith("exit") else told
        self._note(at, description, Outcome(ended, told))
        return at + 1

    def _listen(self, pipe: IO[bytes], first: int) -> tuple[int, str, str]:
        """Until the worker has ended: the last index, its description, and how it ended."""
        at, description, rest = first, "(being made)", b""
        while True:
            if not select.select([pipe], [], [], self.hang_seconds)[0]:
                return at, description, "hang"
            data = pipe.read(1 << 16)
            if not data:
                return at, description, "died"
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if message == "done":
                    return at, description, "done"
                if len(message) == 1:
                    at, description = message[0], "(being made)"
                elif len(message) == 2:
                    at, description = message
                else:
                    self._note(message[0], description, Outcome(*message[1:]))

    def _note(self, index: int, description: str, outcome: Outcome) -> None:
        target = description.split(": ")[0]
        self.counts.setdefault(target, collections.Counter())[outcome.kind] += 1
        if self.verbose:
            print(f"{self.seed}:{index} {description}\n  {outcome.kind} {outcome.detail}")
        if outcome.is_finding:
            told = re.sub(r"\d+|'[^']*'", "N", outcome.detail.split("\n")[0])[:90]
            key = f"{target} | {outcome.kind} | {told}"
            known = self.findings.setdefault(key, [])
            known.append((index, description, outcome.detail))
            if len(known) == 1 and not self.verbose:
                print(f"{self.seed}:{index} {description}\n  {outcome.kind} {outcome.detail[:300]}")
                sys.stdout.flush()

    def _work(self, first: int, last: int, writer: int, stderr: IO[bytes]) -> None:
        """The worker: says what it is about to do before it does it."""
        os.dup2(stderr.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        faulthandler.enable(stderr)
        warnings.simplefilter("ignore")
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + _MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        def say(message: Any) -> None:
            os.write(writer, json.dumps(message).encode() + b"\n")

        status = 1
        try:
            for index in range(first, last):
                say([index])
                play = Play(self.seed, index, self.table)
                say([index, play.description])
                if self.skip and re.search(self.skip, play.description):
                    say([index, "skipped", ""])
                    continue
                outcome = play.run()
                say([index, outcome.kind, outcome.detail[:4000]])
                if outcome.kind == "state left changed":
                    break
            say("done")
            status = 0
        except BaseException:
            faulthandler.dump_traceback(stderr)
            stderr.write(traceback.format_exc().encode())
            stderr.flush()
        finally:
            os._exit(status)

    def report(self, seconds: float) -> None:
        total: collections.Counter[str] = sum(self.counts.values(), collections.Counter())
        kinds = sorted(total, key=total.get, reverse=True)
        for target, counts in sorted(self.counts.items()):
            shown = ", ".join(f"{kind} {counts[kind]}" for kind in kinds if counts[kind])
            print(f"  {target:45} {shown}")
        for key, known in sorted(self.findings.items(), key=lambda item: -len(item[1])):
            replays = " ".join(f"{self.seed}:{index}" for index, _, _ in known[:4])
            print(f"FINDING {len(known)} x {key}\n    --replay {replays}\n    {known[0][1]}")
        shown = ", ".join(f"{kind} {total[kind]}" for kind in kinds)
        print(f"{total.total()} calls in {seconds:.0f} s: {shown}; {len(self.findings)} findings")


if __name__ == "__main__":
    torch.set_num_threads(2)
    sys.exit(main())
