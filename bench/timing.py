"""Interleaved timing: every provider is timed once a round, so that noise meets them alike.

A sample is the mean of enough consecutive calls to last `MIN_SAMPLE_SECONDS`: caches are as
warm as in a loop of that provider alone. Ratios are taken within a round, then summarised.
"""

from __future__ import annotations

import dataclasses
import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch

from bench.rates import Rates, make_rates

MIN_SAMPLE_SECONDS = 0.02
WARM_UP_SECONDS = 0.1
SGEMM_SIZES = {"cpu": 1024, "cuda": 8192}
ROOF_SHARE = 0.15  # of a case's time, at most, after the least number of samples


@dataclasses.dataclass(frozen=True)
class Summary:
    """Median and the 20 % and 80 % quantiles."""

    median: float
    q20: float
    q80: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Summary:
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0])
        fifths = statistics.quantiles(samples, n=5, method="inclusive")
        return cls(statistics.median(samples), fifths[0], fifths[3])


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long one case is measured: at least `min_rounds`, then until `budget` is spent."""

    budget: float  # seconds for the rounds of one case
    min_rounds: int


class Sampler(Protocol):
    """Takes samples of one provider's step, in this process or in another."""

    calls: int  # consecutive calls that make a sample

    def sample(self) -> float:
        """Seconds a call."""


@dataclasses.dataclass(frozen=True)
class RoofSample:
    gflops: float  # of torch's large float32 product
    rates: Rates | None  # of the instruction set that everyone is held to; None on a GPU
    native: Rates | None  # of the machine's own, where `rates` are of an older one


class RoofSampler(Protocol):
    """Takes samples of what the machine can do."""

    def sample(self) -> RoofSample: ...


@dataclasses.dataclass(frozen=True)
class Timings:
    samples: dict[str, list[float]]  # seconds a call; one entry a round
    roofs: list[RoofSample]  # measured between the rounds


def ratios(baseline: Sequence[float], samples: Sequence[float]) -> list[float]:
    """How many times faster than the baseline, round by round."""
    return [base / sample for base, sample in zip(baseline, samples, strict=True)]


def interleave(
    samplers: Mapping[str, Sampler], effort: Effort, roof: RoofSampler | None = None
) -> Timings:
    """Time every step once a round, and the machine's roof, if it is asked for, between rounds."""
    samples: dict[str, list[float]] = {name: [] for name in samplers}
    roofs: list[RoofSample] = []
    roof_seconds = 0.0
    start = time.perf_counter()
    rounds = 0
    while rounds < effort.min_rounds or time.perf_counter() - start < effort.budget:
        for name, sampler in samplers.items():
            samples[name].append(sampler.sample())
        rounds += 1
        before = time.perf_counter()
        if roof is None:
            continue
        if len(roofs) < effort.min_rounds or roof_seconds < ROOF_SHARE * (before - start):
            roofs.append(roof.sample())
            roof_seconds += time.perf_counter() - before
    return Timings(samples, roofs)


class StepSampler:
    """Times a step in this process; the garbage collector runs between samples only."""

    def __init__(self, step: Callable[[], None]) -> None:
        self._step = step
        self.calls = _warm_up(step)

    def sample(self) -> float:
        if self.calls > 1:
            self._step()  # wakes its threads and warms the caches after the others
        collecting = gc.isenabled()
        gc.disable()
        try:
            return _sample(self._step, self.calls)
        finally:
            if collecting:
                gc.enable()


class Roof:
    """torch's float32 matrix product at the thread count of the caller; on each of `threads`
    threads, multiply-adds in registers and reading `slice_bytes` of weights again and again."""

    def __init__(
        self,
        device: str = "cpu",
        threads: int = 1,
        slice_bytes: int = 0,
        isa: str | None = None,
    ) -> None:
        size = SGEMM_SIZES[device]
        self._flops = 2 * size**3
        self._a = torch.rand(size, size, device=device)
        self._b = torch.rand(size, size, device=device)
        self._c = torch.empty(size, size, device=device)
        self._product = StepSampler(self._multiply)
        self._rates = self._native = None
        if device == "cpu":
            self._rates = make_rates(threads, slice_bytes, isa)
            self._native = make_rates(threads, slice_bytes) if isa else None

    def sample(self) -> RoofSample:
        gflops = self._flops / self._product.sample() / 1e9
        measured = (each() if each else None for each in (self._rates, self._native))
        return RoofSample(gflops, *measured)

    def _multiply(self) -> None:
        torch.mm(self._a, self._b, out=self._c)


def _warm_up(step: Callable[[], None]) -> int:
    """Call `step` until it is warm; returns the number of calls that make a sample."""
    fastest, start = math.inf, time.perf_counter()
    while True:
        fastest = min(fastest, _sample(step, 1))
        if time.perf_counter() - start >= WARM_UP_SECONDS:
            return max(1, math.ceil(MIN_SAMPLE_SECONDS / fastest))


def _sample(step: Callable[[], None], calls: int) -> float:
    """Seconds a call, until its work on a GPU is done."""
    _synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        step()
    _synchronize()
    return (time.perf_counter() - start) / calls


def _synchronize() -> None:
    """Wait for the GPU, if this process uses one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
