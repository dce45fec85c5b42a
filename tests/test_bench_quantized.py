"""What `python -m bench quantized` compares, and what it prints."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from bench import quantized, store
from bench.timing import Effort
from bench.workers import WrongResultError


def test_every_contestant_stores_its_weights_as_it_says() -> None:
    [case] = quantized.select(["LSTM"], [8], [1])
    records = quantized.time_case(case, Effort(0.0, 1))
    floats = 4 * 8 * (8 + 8)
    bytes_of = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
    for record in records:
        assert record["weight_bytes"] == floats * bytes_of[record["provider"].split()[1]]
        assert record["status"] == "ok" and record["seconds"]["median"] > 0
    error = {record["provider"]: record["error"] for record in records}
    assert error["fusedrnn float32"] < error["fusedrnn float16"] < error["fusedrnn bfloat16"]
    assert error["fusedrnn int8"] < error["torch.ao int8"]
    for entry in quantized.CONTESTANTS:
        module = entry.make(nn.LSTM(8, 8))
        state = module.state_dict()
        if entry.name.startswith("fusedrnn"):
            assert state["weight_hh_l0"].dtype == getattr(torch, entry.dtype)


def test_a_wrong_result_is_an_error() -> None:
    module = nn.GRU(4, 4)
    inputs = torch.randn(3, 1, 4)
    entry = dataclasses.replace(quantized.CONTESTANTS[0], name="mine")
    with torch.no_grad():
        expected = module(inputs)[0].double()
        assert quantized._error(entry, module, inputs, expected) < 1e-6
        with pytest.raises(WrongResultError, match="mine: output differs from float64"):
            quantized._error(entry, module, inputs, expected + 0.1)


def test_a_row_has_time_rate_and_error() -> None:
    [case] = quantized.select(["GRU"], [512], [2])
    summary = {"median": 2e-4, "q20": 1e-4, "q80": 3e-4}
    record = {"provider": "fusedrnn int8", "status": "ok", "weight_bytes": 2**20}
    record |= {"seconds": summary, "speedup": {"median": 2.0, "q20": 1.9, "q80": 2.1}}
    record |= {"error": 0.004, "other_cores": 0.0}
    failed = {"provider": "torch.ao int8", "status": "failed", "message": "no"}
    lines = quantized.render(
        [store.complete(r, case, {"cores": 2}) for r in (record, failed)]
    ).splitlines()
    wanted = "2 GRU 512 fusedrnn int8 1024 200.0 100.0 300.0 5.2 2.00 1.90 2.10 4.0e-03 0.00"
    assert lines[1].split() == wanted.split()
    assert "FAILED" in lines[2] and "failures: 1" in lines
