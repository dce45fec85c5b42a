"""Records of the benchmark with made-up numbers."""

from __future__ import annotations

from typing import Any

from bench import store
from bench.cases import Case, Shape
from bench.timing import Summary

ENVIRONMENT = {
    "cpu": "Some CPU",
    "cores": 2,
    "caches": {"L2": "1M"},
    "os": "Linux",
    "python": "3.11",
    "torch": "2.13.0",
    "torch_isa": "AVX2",
    "fusedrnn": "0.1.0",
    "fusedrnn_isa": "avx2",
    "revision": "aaaa1111",
}


def record(
    case: Case,
    provider: str,
    seconds: float,
    speedup: Summary,
    revision: str = "aaaa1111",
    other_cores: float = 0.1,
    environment: dict[str, Any] = ENVIRONMENT,
) -> store.Record:
    measured = {
        "provider": provider,
        "plan": "some_schedule",
        "status": "ok",
        "seconds": vars(Summary(seconds, seconds, seconds)),
        "speedup": vars(speedup),
        "gflops": 10.0,
        "sgemm_gflops": vars(Summary(100.0, 99.0, 101.0)),
        "sgemm_fraction": 0.1,
        "error_output": 1e-7,
        "error_grad": 1e-6,
        "other_cores": other_cores,
        "peak_bytes": 1 << 20,
    }
    return store.complete(measured, case, environment | {"revision": revision})


def case(cell: str = "LSTM", hidden_size: int = 128) -> Case:
    return Case(cell, Shape(1, 100, 128, hidden_size), "infer", "float32", 2)
