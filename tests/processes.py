"""Processes that tests start: every one has a bound in time, so that none can hang a test."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# Three of them fit into the timeout of a test in pyproject.toml.
LIMIT_SECONDS = 240


def run_process(
    command: Sequence[str | Path],
    *,
    check: bool = False,
    limit: float = LIMIT_SECONDS,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` without input; killed at the limit. With `check` it must succeed."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=limit,
        **options,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def in_forked_child(body: Callable[[], object]) -> int:
    """Runs `body` in a forked process; its exit code, or the negative signal that ended it.

    torch's own operators may hang there: what `body` compares with is computed before the fork.
    """
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(LIMIT_SECONDS)
        try:
            body()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """While it lasts, so many processes keep a core busy."""
    spin = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(spin) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
