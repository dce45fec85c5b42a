"""One case: every provider checked against float64, then timed, each in a process of its own; and
the peak memory of torch.nn and fusedrnn, in one more process each."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import environment, isa, timing
from bench.cases import STREAMING, Case, Shape
from bench.oracle import Oracle
from bench.problem import Problem, Provider, Solver, grad_mode
from bench.providers import BASELINE, MODULES, PROVIDERS
from bench.timing import Effort, Roof, RoofSample, StepSampler, Summary
from bench.workers import RemoteSampler, Worker, WrongResultError, isolated

# Largest error of a tensor against float64, relative to the tensor's largest element, beyond
# which a result is wrong. Rounding gives about 1e-6 in float32 over the table's shapes.
TOLERANCES = {"float64": 1e-10, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
MEMORY_STEPS = 3
STREAMED_STEPS = 3  # that are checked, so that a state that is not carried shows

ORACLE = Oracle()

Results = Mapping[str, torch.Tensor]


def measure(
    case: Case,
    providers: Sequence[str],
    effort: Effort | None,
    available: Mapping[str, Provider] = PROVIDERS,
) -> list[dict[str, Any]]:
    """One record a provider, as bench/README.md describes them; only checked if `effort` is None.

    A provider that fails, or whose process dies, has a record with ``status: "failed"`` and the
    reason in ``message``; one that cannot run the case has ``status: "absent"``. The others are
    timed all the same.
    """
    records: dict[str, dict[str, Any]] = {}
    chosen = []
    for name in providers:
        reason = available[name].absent(case)
        if reason:
            records[name] = {"provider": name, "status": "absent", "message": reason}
        else:
            chosen.append(available[name])
    workers: dict[str, Worker] = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            expected = Path(folder) / "expected.pt"
            isolated(_write_expected, case, expected)
            for provider in chosen:
                workers[provider.name] = Worker(Contestant, provider, case, expected)
            facts = {}
            for name, worker in workers.items():
                try:
                    facts[name] = worker.ready()
                except RuntimeError as error:
                    records[name] = _failure(name, error)
        working = [provider for provider in chosen if provider.name in facts]
        if effort is None:
            records |= {p.name: _checked(p.name, facts[p.name]) for p in working}
        elif working:
            records |= _time(case, working, workers, facts, effort)
        for provider in MODULES if effort else ():
            record = records.get(provider.name)
            if record and record["status"] == "ok":
                record["peak_bytes"] = isolated(_memory_in_process, case, provider)
    except RuntimeError as error:
        records |= {
            provider.name: _failure(provider.name, error)
            for provider in chosen
            if records.get(provider.name, {}).get("status") != "failed"
        }
    finally:
        for worker in workers.values():
            worker.close()
    return [records[name] for name in providers]


class Contestant:
    """A provider in its process: set up, checked, and ready to take samples."""

    def __init__(self, provider: Provider, case: Case, expected: Path) -> None:
        provider.set_up(case)
        set_up(case)
        torch.set_grad_enabled(case.mode == "train")
        self._prepared = provider.prepare(Problem.draw(case))
        results = _run(self._prepared, case)
        wanted = torch.load(expected, mmap=True)
        self._facts = {
            "version": provider.version(),
            "plan": provider.plan(case),
            "errors": compare_results(provider.name, case, results, wanted),
        }

    def describe(self) -> dict[str, Any]:
        return self._facts

    def warm_up(self) -> int:
        self._sampler = StepSampler(self._prepared.step)
        return self._sampler.calls

    def sample(self) -> float:
        return self._sampler.sample()


class RoofInProcess:
    """The roof of a case in its process."""

    def __init__(self, case: Case) -> None:
        set_up(case)
        self._roof = Roof(case.device, case.threads, case.slice_bytes, isa.forced())

    def describe(self) -> None:
        return None

    def warm_up(self) -> int:
        return 1

    def sample(self) -> RoofSample:
        return self._roof.sample()


def check(
    problem: Problem, providers: Sequence[Provider], oracle: Solver = ORACLE
) -> dict[str, dict[str, float]]:
    """Run every provider once, here, and compare each result with the oracle's in float64.

    Returns:
        For each provider the error of each result.

    Raises:
        WrongResultError: an error is beyond the tolerance, or not a number.
    """
    case = problem.case
    with grad_mode(case):
        expected = _run(oracle.prepare(problem.double()), case)
        return {
            provider.name: compare_results(
                provider.name, case, _run(provider.prepare(problem), case), expected
            )
            for provider in providers
        }


def compare_results(
    provider: str, case: Case, results: Results, expected: Results
) -> dict[str, float]:
    """The error of each result, relative to the largest element of what is expected."""
    tolerance = TOLERANCES[case.dtype]
    if results.keys() != expected.keys():
        raise WrongResultError(
            f"{provider}: expected results {sorted(expected)}, got {sorted(results)}"
        )
    errors = {}
    for name, wanted in expected.items():
        actual = results[name]
        if actual.shape != wanted.shape:
            raise WrongResultError(
                f"{provider}: {name} has shape {tuple(actual.shape)}, "
                f"expected {tuple(wanted.shape)}"
            )
        error = float((actual.double() - wanted).abs().max() / wanted.abs().max())
        if not error <= tolerance:
            raise WrongResultError(
                f"{provider}: {name} differs from float64 by {error:.1e} of its largest "
                f"element, allowed {tolerance:.0e}"
            )
        errors[name] = error
    return errors


def _time(
    case: Case,
    providers: Sequence[Provider],
    workers: Mapping[str, Worker],
    facts: Mapping[str, dict[str, Any]],
    effort: Effort,
) -> dict[str, dict[str, Any]]:
    """Everything that the records hold but the peak memory."""
    roof_worker = Worker(RoofInProcess, case)
    try:
        roof_worker.ready()
        involved = [roof_worker, *(workers[provider.name] for provider in providers)]
        samplers = {p.name: RemoteSampler(workers[p.name]) for p in providers}
        roof = RemoteSampler(roof_worker)
        own_seconds = sum(worker.cpu_seconds for worker in involved)
        busy = environment.BusyElsewhere()
        timings = timing.interleave(samplers, effort, roof)
        own_seconds = sum(worker.cpu_seconds for worker in involved) - own_seconds
        other_cores = busy.cores(own_seconds)
    finally:
        roof_worker.close()
    sgemm = Summary.of([sample.gflops for sample in timings.roofs])
    is_forced = isa.forced() is not None
    held = {p.name: p.follows_isa or not is_forced for p in providers}
    baseline = timings.samples.get(BASELINE)
    records = {}
    for name, samples in timings.samples.items():
        seconds = Summary.of(samples)
        gflops = case.flops / seconds.median / 1e9
        # torch's product is held, and no roof for who is not.
        product = sgemm.median if held[name] else None
        fma, read = _rates(timings.roofs, native=not held[name])
        speedup = Summary.of(timing.ratios(baseline, samples)) if baseline else None
        records[name] = _checked(name, facts[name]) | {
            "rounds": len(samples),
            "calls": samplers[name].calls,
            "seconds": vars(seconds),
            "speedup": vars(speedup) if speedup else None,
            "best_peer": _best_peer(name, timings.samples, held),
            "held": held[name] if is_forced else None,
            "gflops": gflops,
            "sgemm_gflops": vars(sgemm),
            "sgemm_fraction": gflops / product if product else None,
            "fma_gflops": vars(fma) if fma else None,
            "read_gbps": vars(read) if read else None,
            "roof_fraction": _floor_seconds(case, product, read) / seconds.median
            if product
            else None,
            "fma_fraction": _floor_seconds(case, fma.median, read) / seconds.median
            if fma
            else None,
            "other_cores": other_cores,
            "peak_bytes": None,
        }
    return records


def _checked(name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record that need no timing."""
    errors = facts["errors"]
    grads = [error for result, error in errors.items() if result.startswith("grad_")]
    return {
        "provider": name,
        "version": facts["version"],
        "plan": facts["plan"].text if facts["plan"] else None,
        "modelled_seconds": facts["plan"].modelled_seconds if facts["plan"] else None,
        "status": "ok",
        "error_output": errors["output"],
        "error_state": max(errors[result] for result in ("h_n", "c_n") if result in errors),
        "error_grad": max(grads, default=None),
    }


def _rates(
    roofs: Sequence[RoofSample], native: bool = False
) -> tuple[Summary | None, Summary | None]:
    """Of multiply-adds and of reading; None where they are unknown."""
    found = [sample.native if native else sample.rates for sample in roofs]
    series = (
        [value for rates in found if rates and (value := getattr(rates, name)) is not None]
        for name in ("fma_gflops", "read_gbps")
    )
    fma, read = (Summary.of(values) if values else None for values in series)
    return fma, read


def _floor_seconds(case: Case, gflops: float, read: Summary | None) -> float:
    """The longer of the times that the products and the reading of the weights take at least."""
    reading = case.weight_bytes / read.median / 1e9 if read else 0.0
    return max(case.flops / gflops / 1e9, reading)


def _best_peer(
    name: str, samples: Mapping[str, Sequence[float]], held: Mapping[str, bool]
) -> dict[str, Any] | None:
    """The fastest of the others, and how many times faster than it this one is. Who is not held
    to a forced instruction set is no peer."""
    others = [other for other in samples if other != name and held[other]]
    if not others:
        return None
    best = min(others, key=lambda other: Summary.of(samples[other]).median)
    ratio = Summary.of(timing.ratios(samples[best], samples[name]))
    return {"provider": best, "speedup": vars(ratio)}


def _failure(provider: str, error: RuntimeError) -> dict[str, Any]:
    return {"provider": provider, "status": "failed", "message": str(error)}


def _write_expected(case: Case, path: Path) -> None:
    """The float64 results of a case, for every provider's process to read."""
    set_up(case)
    with grad_mode(case):
        prepared = ORACLE.prepare(Problem.draw(case).double())
        torch.save(_run(prepared, case), path)


def _run(prepared: Any, case: Case) -> dict[str, torch.Tensor]:
    """The results of one call, or of several where the state is carried."""
    for _ in range(STREAMED_STEPS if case.form in STREAMING else 1):
        prepared.step()
    return prepared.results()


def peak_growth(case: Case, provider: Provider) -> int | None:
    """Bytes by which steps of a case raise the peak memory above its start: resident memory, or
    on a GPU that of torch's allocator.

    The start is taken after the weights and the input exist and after a step of a tiny case
    has made the libraries set themselves up. None where the system does not tell.
    """
    tiny = dataclasses.replace(case, shape=Shape(2, min(2, case.shape.seq_len), 8, 8))
    warm = provider.prepare(Problem.draw(tiny))
    warm.step()
    prepared = provider.prepare(Problem.draw(case))
    start = reset_peak(case.device)
    for _ in range(MEMORY_STEPS):
        prepared.step()
    peak = peak_bytes(case.device)
    return None if start is None or peak is None else max(0, peak - start)


def _memory_in_process(case: Case, provider: Provider) -> int | None:
    set_up(case)
    with grad_mode(case):
        return peak_growth(case, provider)


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
