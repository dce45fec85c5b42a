"""What `python -m bench oversubscription` measures, on a tiny layer, and what it prints."""

from __future__ import annotations

import os
import sys

import pytest

from bench import oversubscription, store
from bench.cases import Shape

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sets the affinity, as on Linux")


def test_every_condition_is_measured_against_one_thread() -> None:
    [cases] = oversubscription.select(["GRU"], ["train"], [Shape(2, 3, 4, 5)])
    cores = len(os.sched_getaffinity(0))
    assert [case.threads for case in cases] == [1, cores, 4 * cores, cores, cores]
    measured = oversubscription.measure(cases, rounds=1)
    records = [record for _, record in measured]
    assert [record.get("message") for record in records] == [None] * 10
    assert {record["provider"] for record in records} == {"fusedrnn", "torch.nn"}
    for case, record in measured:
        assert record["seconds"]["median"] > 0
        assert record["slow_down"] == 1 or case.condition != "serial"
        is_limited = record["provider"] == "fusedrnn" and case.condition not in (
            "serial",
            "all cores",
        )
        assert (record["limit"] is not None) == is_limited


def test_what_is_over_its_limit_is_listed() -> None:
    [cases] = oversubscription.select(["GRU"], ["infer"], [Shape(2, 3, 4, 5)])
    record = {"provider": "fusedrnn", "status": "ok", "seconds": {"median": 0.5}}
    record |= {"slow_down": 1.3, "limit": 1.2}
    text = oversubscription.render([store.complete(record, cases[3], {})])
    assert "one core" in text
    assert "over the limit: 1\n" in text
    record |= {"slow_down": 1.1}
    failed = {"provider": "torch.nn", "status": "failed", "message": "no"}
    records = [store.complete(r, cases[3], {}) for r in (record, failed)]
    text = oversubscription.render(records)
    assert "over the limit: none" in text
    assert "failures: 1\n" in text
