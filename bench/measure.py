"""One case, measured in processes of its own: checked against float64, then timed; and the peak
memory of each provider, in a process for each."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import sys
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from bench import environment, timing
from bench.cases import Case, Shape
from bench.providers import BASELINE, PROVIDERS, Problem, Provider
from bench.timing import Effort, Summary

# Largest error of a tensor against float64, relative to the tensor's largest element, beyond
# which a result is wrong. Rounding gives about 1e-6 in float32 over the table's shapes.
TOLERANCES = {"float64": 1e-10, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
MEMORY_STEPS = 3
TIMEOUT_SECONDS = 900


class WrongResultError(RuntimeError):
    """A provider's result is not the float64 result to within `TOLERANCES`."""


def measure(case: Case, providers: Sequence[str], effort: Effort) -> list[dict[str, Any]]:
    """One record a provider, as bench/README.md describes them.

    A case that fails, or whose process dies, gives records with ``status: "failed"`` and the
    reason in ``message``.
    """
    try:
        records = isolated(_time_in_process, case, providers, effort)
        for record in records:
            record["peak_bytes"] = isolated(_memory_in_process, case, record["provider"])
    except RuntimeError as error:
        records = [
            {"provider": name, "status": "failed", "message": str(error)} for name in providers
        ]
    return records


def check(
    problem: Problem, providers: Sequence[Provider], oracle: Provider = PROVIDERS[BASELINE]
) -> dict[str, dict[str, float]]:
    """Run every provider once and compare each result with the oracle's in float64.

    Returns:
        For each provider the error of each result.

    Raises:
        WrongResultError: an error is beyond the tolerance, or not a number.
    """
    expectations = _run_once(oracle, problem.double())
    tolerance = TOLERANCES[problem.case.dtype]
    errors: dict[str, dict[str, float]] = {}
    for provider in providers:
        results = _run_once(provider, problem)
        if results.keys() != expectations.keys():
            raise WrongResultError(
                f"{provider.name}: expected results {sorted(expectations)}, got {sorted(results)}"
            )
        errors[provider.name] = {}
        for name, expected in expectations.items():
            actual = results[name]
            if actual.shape != expected.shape:
                raise WrongResultError(
                    f"{provider.name}: {name} has shape {tuple(actual.shape)}, "
                    f"expected {tuple(expected.shape)}"
                )
            error = float((actual.double() - expected).abs().max() / expected.abs().max())
            if not error <= tolerance:
                raise WrongResultError(
                    f"{provider.name}: {name} differs from float64 by {error:.1e} of its largest "
                    f"element, allowed {tolerance:.0e}"
                )
            errors[provider.name][name] = error
    return errors


def time_case(case: Case, providers: Sequence[Provider], effort: Effort) -> list[dict[str, Any]]:
    """Check, then time; everything a record holds but the peak memory."""
    problem = Problem.draw(case)
    errors = check(problem, providers)
    prepared = {provider.name: provider.prepare(problem) for provider in providers}
    busy = environment.BusyElsewhere()
    steps = {name: run.step for name, run in prepared.items()}
    timings = timing.interleave(steps, effort, case.device)
    other_cores = busy.cores()
    sgemm = Summary.of(timings.sgemm_gflops)
    records = []
    for provider in providers:
        samples = timings.samples[provider.name]
        seconds = Summary.of(samples)
        gflops = case.flops / seconds.median / 1e9
        baseline = timings.samples.get(BASELINE)
        speedup = Summary.of(timing.ratios(baseline, samples)) if baseline else None
        provider_errors = errors[provider.name]
        records.append(
            {
                "provider": provider.name,
                "version": provider.version(),
                "plan": provider.plan(case),
                "status": "ok",
                "rounds": len(samples),
                "calls": timings.calls[provider.name],
                "seconds": vars(seconds),
                "speedup": vars(speedup) if speedup else None,
                "gflops": gflops,
                "sgemm_gflops": vars(sgemm),
                "sgemm_fraction": gflops / sgemm.median,
                "error_output": provider_errors["output"],
                "error_grad": max(
                    (error for name, error in provider_errors.items() if name != "output"),
                    default=None,
                ),
                "other_cores": other_cores,
            }
        )
    return records


def peak_growth(case: Case, provider: Provider) -> int | None:
    """Bytes by which steps of a case raise the peak memory above its start: resident memory, or
    on a GPU that of torch's allocator.

    The start is taken after the weights and the input exist and after a step of a tiny case
    has made the libraries set themselves up. None where the system does not tell.
    """
    tiny = dataclasses.replace(case, shape=Shape(2, 2, 8, 8))
    warm = provider.prepare(Problem.draw(tiny))
    warm.step()
    prepared = provider.prepare(Problem.draw(case))
    start = reset_peak(case.device)
    for _ in range(MEMORY_STEPS):
        prepared.step()
    peak = peak_bytes(case.device)
    return None if start is None or peak is None else max(0, peak - start)


def _run_once(provider: Provider, problem: Problem) -> dict[str, torch.Tensor]:
    prepared = provider.prepare(problem)
    prepared.step()
    return prepared.results()


def _time_in_process(case: Case, providers: Sequence[str], effort: Effort) -> list[dict[str, Any]]:
    set_up(case)
    return time_case(case, [PROVIDERS[name] for name in providers], effort)


def _memory_in_process(case: Case, provider: str) -> int | None:
    set_up(case)
    return peak_growth(case, PROVIDERS[provider])


def set_up(case: Case) -> None:
    torch.set_num_threads(case.threads)
    # torch.nn's layers on CUDA round float32 to TF32 unless told not to; ours do not.
    torch.backends.cudnn.allow_tf32 = False


def peak_bytes(device: str = "cpu") -> int | None:
    """Peak bytes of this process, since `reset_peak` where the system has that."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        pass
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def reset_peak(device: str = "cpu") -> int | None:
    """Lower the peak to the memory that is in use now, where possible; returns the peak."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def isolated(
    function: Callable[..., Any], *args: Any, timeout_seconds: float = TIMEOUT_SECONDS
) -> Any:
    """`function` of `args` in a fresh process; what goes wrong there is a RuntimeError here."""
    context = _context()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(sender, function, args))
    process.start()
    sender.close()
    if not receiver.poll(timeout_seconds):
        process.kill()
        raise RuntimeError(f"the process gave no result in {timeout_seconds:g} s")
    try:
        result, error = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"the process died with exit code {process.exitcode}") from None
    process.join()
    if error:
        raise RuntimeError(error)
    return result


def _context() -> Any:
    """Processes forked from a server that has imported torch but never run it, where possible:
    they start at once, and no thread pool is carried across the fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "fusedrnn"])
    return context


def _send_result(sender: Connection, function: Callable[..., Any], args: tuple) -> None:
    try:
        sender.send((function(*args), ""))
    except WrongResultError as error:
        sender.send((None, f"wrong result: {error}"))
    except Exception:
        sender.send((None, traceback.format_exc()))
