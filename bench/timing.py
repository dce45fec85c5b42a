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
from collections.abc import Callable, Sequence

import torch

MIN_SAMPLE_SECONDS = 0.02
WARM_UP_SECONDS = 0.1
SGEMM_SIZES = {"cpu": 1024, "cuda": 8192}
SGEMM_SHARE = 0.15  # of a case's time, at most, after the least number of samples


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


@dataclasses.dataclass(frozen=True)
class Timings:
    samples: dict[str, list[float]]  # seconds a call; one entry a round
    calls: dict[str, int]  # consecutive calls that make a sample
    sgemm_gflops: list[float]  # measured between the rounds


def ratios(baseline: Sequence[float], samples: Sequence[float]) -> list[float]:
    """How many times faster than the baseline, round by round."""
    return [base / sample for base, sample in zip(baseline, samples, strict=True)]


def interleave(
    steps: dict[str, Callable[[], None]], effort: Effort, device: str = "cpu"
) -> Timings:
    """Time every step once a round, and the device's sgemm rate between rounds."""
    calls = {name: _warm_up(step) for name, step in steps.items()}
    sgemm = Sgemm(device)
    samples: dict[str, list[float]] = {name: [] for name in steps}
    rates: list[float] = []
    sgemm_seconds = 0.0
    collecting = gc.isenabled()
    gc.disable()
    start = time.perf_counter()
    try:
        rounds = 0
        while rounds < effort.min_rounds or time.perf_counter() - start < effort.budget:
            for name, step in steps.items():
                samples[name].append(_sample(step, calls[name]))
            rounds += 1
            elapsed = time.perf_counter() - start
            if len(rates) < effort.min_rounds or sgemm_seconds < SGEMM_SHARE * elapsed:
                seconds = _sample(sgemm.step, sgemm.calls)
                sgemm_seconds += seconds * sgemm.calls
                rates.append(sgemm.flops / seconds / 1e9)
    finally:
        if collecting:
            gc.enable()
    return Timings(samples, calls, rates)


class Sgemm:
    """The roof: torch's float32 matrix product, at the thread count of the caller."""

    def __init__(self, device: str = "cpu") -> None:
        size = SGEMM_SIZES[device]
        self.flops = 2 * size**3
        self._a = torch.rand(size, size, device=device)
        self._b = torch.rand(size, size, device=device)
        self._c = torch.empty(size, size, device=device)
        self.calls = _warm_up(self.step)

    def step(self) -> None:
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
