"""Processes that wait, blocked, until they are told to take one sample.

Each provider has one, and so has the roof: thread pools do not disturb one another, no cache or
heap of one library is another's, and a crash costs one provider of one case. They are forked
from a server that has imported torch and never run it, where possible.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

TIMEOUT_SECONDS = 900
QUIET_SECONDS = 0.005
QUIET_SHARE = 0.1  # of a core


class WrongResultError(RuntimeError):
    """A provider's result is not the float64 result to within `bench.measure.TOLERANCES`."""


class Worker:
    """An object of a class in a process of its own; `call` runs its methods there.

    What goes wrong there is a RuntimeError here. It has the present environment variables, before
    anything but torch's import ran.
    """

    def __init__(self, make: Callable[..., Any], *args: Any) -> None:
        """Starts to make the object; `ready` waits for it."""
        context = _context()
        self._connection, other = context.Pipe()
        served = (other, dict(os.environ), make, args)
        self._process = context.Process(target=_serve, args=served, daemon=True)
        self._process.start()
        other.close()
        self.cpu_seconds = 0.0  # of the process so far

    def ready(self) -> Any:
        """What `make` says of the object, as the method `describe` has it."""
        return self._receive(TIMEOUT_SECONDS)

    def call(self, method: str, *args: Any) -> Any:
        try:
            self._connection.send((method, args))
        except OSError:
            raise RuntimeError(self._death()) from None
        return self._receive(TIMEOUT_SECONDS)

    def close(self) -> None:
        self._connection.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _receive(self, timeout_seconds: float) -> Any:
        if not self._connection.poll(timeout_seconds):
            self._process.kill()
            raise RuntimeError(f"the process gave no result in {timeout_seconds:g} s")
        try:
            result, error, self.cpu_seconds = self._connection.recv()
        except (EOFError, OSError):
            raise RuntimeError(self._death()) from None
        if error:
            raise RuntimeError(error)
        return result

    def _death(self) -> str:
        self._process.join(5)
        return f"the process died with exit code {self._process.exitcode}"


class RemoteSampler:
    """A `bench.timing.Sampler`, or a roof, that lives in a worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.calls = worker.call("warm_up")

    def sample(self) -> Any:
        return self._worker.call("sample")


def isolated(
    function: Callable[..., Any], *args: Any, timeout_seconds: float = TIMEOUT_SECONDS
) -> Any:
    """`function` of `args` in a fresh process; what goes wrong there is a RuntimeError here."""
    worker = Worker(_Result, function, args)
    try:
        return worker._receive(timeout_seconds)
    finally:
        worker.close()


class _Result:
    def __init__(self, function: Callable[..., Any], args: tuple) -> None:
        self._result = function(*args)

    def describe(self) -> Any:
        return self._result


def _context() -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    return context


def _serve(
    connection: Connection, variables: dict[str, str], make: Callable[..., Any], args: tuple
) -> None:
    """Makes the object, then answers calls until the other end is closed."""
    os.environ.update(variables)  # the server may have been forked under others
    served = _answer(connection, lambda: make(*args), lambda made: made.describe())
    while served is not None:
        try:
            method, args = connection.recv()
        except EOFError:
            return
        _answer(connection, functools.partial(getattr(served, method), *args))


def _answer(
    connection: Connection,
    function: Callable[[], Any],
    describe: Callable[[Any], Any] = lambda result: result,
) -> Any:
    """Sends what the function returns, or its error, once this process is quiet."""
    result, answer, error = None, None, ""
    try:
        result = function()
        answer = describe(result)
    except WrongResultError as wrong:
        error = f"wrong result: {wrong}"
    except Exception:
        error = traceback.format_exc()
    _wait_until_quiet()
    connection.send((answer, error, time.process_time()))
    return result


def _wait_until_quiet() -> None:
    """Until the threads of this process have ended their spinning and sleep."""
    while True:
        before = time.process_time()
        time.sleep(QUIET_SECONDS)
        if time.process_time() - before < QUIET_SHARE * QUIET_SECONDS:
            return
