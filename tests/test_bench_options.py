"""What `python -m bench options` and `recompute` measure, on tiny cases, and what they print."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from processes import run_process

from bench import contests, option_costs, recompute, store
from bench.cases import Case, Shape, draw_lengths
from bench.measure import check
from bench.option_costs import OptionCase
from bench.problem import Problem
from bench.recompute import RecomputeCase, Step
from bench.workers import WrongResultError

ROOT = Path(__file__).resolve().parent.parent
SHAPE = Shape(batch_size=3, seq_len=12, input_size=5, hidden_size=4)


def cost_record(median: float, q20: float) -> store.Record:
    seconds = {"median": 0.5, "q20": 0.25, "q80": 1.0}
    measured = {
        "provider": "fusedrnn lengths=",
        "status": "ok",
        "seconds": seconds,
        "cost": {"median": median, "q20": q20, "q80": 3.0},
        "limit": 1.1,
        "error": 1e-7,
        "other_cores": 0.0,
    }
    case = OptionCase("GRU", SHAPE, "train", "float32", 1, kind="lengths")
    return store.complete(measured, case, {"cores": 2})


@pytest.mark.parametrize("kind", contests.CONTESTS)
@pytest.mark.parametrize("cell", option_costs.CELLS)
def test_every_contestant_agrees_with_float64(kind: str, cell: str) -> None:
    contest = contests.CONTESTS[kind]
    for mode in contest.modes:
        problem = Problem.draw(OptionCase(cell, SHAPE, mode, "float32", 1, kind=kind))
        entries = [entry for entry in contest.contestants if entry.has_option]
        errors = check(problem, entries, contest.oracle_provider())
        assert errors.keys() == {entry.name for entry in entries}
        assert all("grad_weight_hh_l0" in found for found in errors.values() if mode == "train")


@pytest.mark.parametrize("kind", ["lengths", "reset"])
def test_a_layer_without_the_option_is_seen_to_differ(kind: str) -> None:
    contest = contests.CONTESTS[kind]
    problem = Problem.draw(OptionCase("GRU", Shape(9, 40, 5, 4), "train", "float32", 1, kind=kind))
    without = [entry for entry in contest.contestants if not entry.has_option]
    with pytest.raises(WrongResultError, match="output differs from float64"):
        check(problem, without, contest.oracle_provider())


def test_lengths_are_uniform_and_their_mean_is_the_share() -> None:
    case = Case("GRU", Shape(32, 400, 8, 8), "infer", "float32", 1)
    lengths = draw_lengths(case)
    assert (
        lengths.shape == (32,) and 10 <= int(lengths.min()) < 50 < 350 < int(lengths.max()) <= 400
    )
    assert not torch.equal(lengths, lengths.sort().values)
    assert contests.valid_fraction(case) == pytest.approx(int(lengths.sum()) / (32 * 400))


def test_resets_are_one_step_in_a_hundred() -> None:
    reset = contests.draw_reset(Case("GRU", Shape(64, 128, 8, 8), "infer", "float32", 1))
    assert reset.shape == (128, 64) and 0.005 < reset.double().mean() < 0.015


def test_a_cost_over_its_limit_is_listed_with_its_verdict() -> None:
    lines = option_costs.render([cost_record(1.2, 1.15), cost_record(1.2, 1.0)]).splitlines()
    assert lines[1].split()[-5:] == ["1.150", "3.000", "1.10", "1e-07", "0.00"]
    over = lines.index("over the limit: 2")
    assert lines[over + 1].endswith("fusedrnn lengths=: 1.200 of 1.10, beyond noise")
    assert lines[over + 2].endswith("1.200 of 1.10, within noise")
    assert "over the limit: none" in option_costs.render([cost_record(1.05, 1.0)])


def test_a_case_that_fails_is_a_failed_record_of_every_contestant() -> None:
    broken = OptionCase("GRU", SHAPE, "infer", "int64", 1, kind="reset")
    records = option_costs.measure(broken, option_costs.Effort(0.0, 1))
    assert [record["status"] for record in records] == ["failed"] * 3
    assert "Only Tensors of floating point" in records[0]["message"]


def test_other_bits_and_wrong_gradients_are_differences() -> None:
    grad = torch.tensor([1.0, -2.0]).numpy()
    first = Step(1.0, 0, 0.0, "abc", {"grad_weight_hh_l0": grad})
    setting = RecomputeCase("LSTM", SHAPE, "train", "float32", 1, recompute="gates")
    baseline = dataclasses.replace(setting, recompute=None)
    assert recompute.difference(setting, first, [first]) == ""
    other = dataclasses.replace(
        first, digest="abd", weight_grads={"grad_weight_hh_l0": grad * 1.01}
    )
    assert "recompute=gates: other bits" in recompute.difference(setting, other, [first])
    assert recompute.difference(baseline, dataclasses.replace(first, digest=""), [first]) == ""
    assert "grad_weight_hh_l0 differs" in recompute.difference(baseline, other, [first])
    assert "the first setting failed" in recompute.difference(setting, first, [])


def test_recompute_keeps_the_bits_and_less_memory() -> None:
    shape = Shape(batch_size=4, seq_len=4000, input_size=32, hidden_size=32)
    cases = recompute.select(["LSTM"], shape, threads=1)[0]
    everything, gates, *_, baseline = recompute.measure(cases, rounds=1)
    assert everything["status"] == gates["status"] == baseline["status"] == "ok"
    assert everything["digest"] == gates["digest"] != baseline["digest"]
    if everything["peak_bytes"] is not None:
        assert gates["peak_bytes"] < everything["peak_bytes"]


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("options", "--quick --kinds reset --cells GRU --modes infer --hidden-sizes 8"),
        ("quantized", "--quick --cells GRU --hidden-sizes 8"),
        ("recompute", "--shape 2,50,8,8 --rounds 1"),
    ],
)
def test_a_small_run_from_end_to_end(command: str, options: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    arguments = [command, *options.split(), "--threads", "1", "--out", str(out)]
    done = run_process([sys.executable, "-W", "ignore", "-m", "bench", *arguments], cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failures: none" in done.stdout
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert {record["status"] for record in records} == {"ok"}
    contestants = {"options": 3, "quantized": 6, "recompute": len(recompute.SETTINGS) + 1}
    assert len(records) == contestants[command]
