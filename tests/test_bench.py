"""The benchmark's arithmetic, its file format, and one small run from end to end."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path

import pytest
import torch
from bench_records import ENVIRONMENT, case, record
from processes import run_process

from bench import comparison, compilation, environment, report, store
from bench.__main__ import main
from bench.cases import FORMS, SHAPES, STREAMING, STREAMING_SHAPES, Case, Shape, select
from bench.measure import check, measure, peak_growth
from bench.problem import Problem
from bench.providers import BASELINE, PROVIDERS
from bench.timing import Effort, RoofSample, StepSampler, Summary, interleave, ratios
from bench.workers import Worker, WrongResultError

ROOT = Path(__file__).resolve().parent.parent
TINY = Case("GRU", Shape(2, 5, 3, 4), "train", "float32", 1)


@pytest.mark.parametrize(
    ("cell", "mode", "expected"),
    [
        # The products of all steps, written out: [B, I] x [I, G * H] and [B, H] x [H, G * H].
        ("RNN", "infer", 5 * (2 * 2 * 3 * 4 + 2 * 2 * 4 * 4)),
        ("GRU", "infer", 5 * (2 * 2 * 3 * 12 + 2 * 2 * 4 * 12)),
        ("LSTM", "infer", 5 * (2 * 2 * 3 * 16 + 2 * 2 * 4 * 16)),
        ("LSTM", "train", 3 * 5 * (2 * 2 * 3 * 16 + 2 * 2 * 4 * 16)),
    ],
)
def test_flops_count_both_products_of_every_step(cell: str, mode: str, expected: int) -> None:
    assert Case(cell, Shape(2, 5, 3, 4), mode, "float32", 1).flops == expected


def test_the_table_has_78_cases_with_names_of_their_own() -> None:
    cases = select(["LSTM", "GRU", "RNN"], SHAPES, ["infer", "train"], ["float32"], [2])
    assert len(cases) == len({case.name for case in cases}) == 78
    chosen = select(["LSTM", "GRU"], SHAPES, ["infer"], ["float32"], [1, 2], r"B32.*H512.*-1t")
    assert [case.name for case in chosen] == [
        "LSTM-infer-B32-T100-I512-H512-float32-1t",
        "GRU-infer-B32-T100-I512-H512-float32-1t",
    ]


def test_nets_and_forms_have_names_of_their_own_and_streams_are_one_step() -> None:
    arguments = (["GRU"], SHAPES, ["infer", "train"], ["float32"], [2])
    nets = select(*arguments, pattern="B16", num_layers=[1, 2], directions=[1, 2])
    assert [case.kind for case in nets] == ["", "", "bi", "bi", "L2", "L2", "L2 bi", "L2 bi"]
    assert nets[-1].name == "GRU-train-B16-T100-I256-H256-L2-bi-float32-2t"
    for form in STREAMING:
        steps = select(["GRU"], STREAMING_SHAPES, ["infer", "train"], ["float32"], [1], form=form)
        assert len(steps) == len(STREAMING_SHAPES) == 16
        assert {(case.mode, case.shape.seq_len) for case in steps} == {("infer", 1)}


def test_flops_count_every_layer_direction_and_valid_row() -> None:
    net = Case("GRU", Shape(2, 5, 3, 4), "infer", "float32", 1, num_layers=2, bidirectional=True)
    first, second = 2 * 12 * (3 + 4), 2 * 12 * (8 + 4)  # both directions' weights
    assert net.flops == 2 * (first + second) * 2 * 5
    ragged = Case("GRU", Shape(8, 40, 3, 4), "infer", "float32", 1, form="lengths")
    assert ragged.flops == 2 * 12 * 7 * ragged.rows
    assert 8 * 10 <= ragged.rows < 8 * 40


def test_weights_are_read_at_every_step_and_again_by_backward() -> None:
    one = Case("GRU", Shape(1, 5, 3, 4), "infer", "float32", 2)
    assert one.weight_bytes == 4 * (5 * 12 * 4 + 12 * 3)
    assert one.slice_bytes == 4 * 12 * 4 // 2
    assert Case("GRU", one.shape, "train", "float32", 2).weight_bytes == 2 * one.weight_bytes
    step = Case("GRU", Shape(1, 1, 3, 4), "infer", "float32", 1, form="step")
    assert step.slice_bytes == step.weight_bytes == 4 * 12 * 7


def test_fusedrnn_tells_the_schedule_it_would_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for schedule in ("per_step", "persistent"):
        monkeypatch.setenv("FUSEDRNN_SCHEDULE", schedule)
        for cell in ("LSTM", "GRU", "RNN"):
            plan = PROVIDERS["fusedrnn"].plan(case(cell))
            assert plan.text.startswith(f"forward: {schedule}, modelled ")
            assert plan.modelled_seconds > 0


@pytest.mark.parametrize("text", ["1,2,3", "1,2,3,4,5", "0,1,1,1", "a,b,c,d", "1,-2,3,4"])
def test_a_malformed_shape_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected B,T,I,H"):
        Shape.parse(text)


def test_summary_interpolates_quantiles_as_torch_does() -> None:
    samples = torch.rand(17, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.quantile(samples, torch.tensor([0.5, 0.2, 0.8], dtype=torch.float64)).tolist()
    summary = Summary.of(samples.tolist())
    assert [summary.median, summary.q20, summary.q80] == pytest.approx(expected, rel=1e-12)
    assert Summary.of([3.0]) == Summary(3.0, 3.0, 3.0)


def test_ratios_pair_the_samples_of_one_round() -> None:
    assert ratios([2.0, 30.0], [1.0, 10.0]) == [2.0, 3.0]
    with pytest.raises(ValueError):
        ratios([1.0], [1.0, 2.0])


def test_rounds_interleave_the_steps() -> None:
    order: list[str] = []

    def step(name: str) -> None:
        if not order or order[-1] != name:  # calls in a row count once
            order.append(name)

    class Roof:
        def sample(self) -> RoofSample:
            step("roof")
            return RoofSample(1.0, None, None)

    samplers = {name: StepSampler(lambda name=name: step(name)) for name in ("a", "b")}
    timings = interleave(samplers, Effort(budget=0.0, min_rounds=3), Roof())
    assert order == ["a", "b"] + ["a", "b", "roof"] * 3  # warm-up and three rounds
    assert {len(samples) for samples in timings.samples.values()} == {3}
    assert len(timings.roofs) == 3


def problems() -> list[Case]:
    """Every cell and mode of one layer; every form, and nets of layers and directions."""
    cases = []
    for form in FORMS:
        shape = Shape(3, 1 if form in STREAMING else 6, 5, 9)
        cases += select(
            ["LSTM", "GRU", "RNN"], [shape], ["infer", "train"], ["float32"], [1], form=form
        )
        nets = {"num_layers": [2], "directions": [2]} if form != "cell" else {}
        cases += select(["LSTM"], [shape], ["infer", "train"], ["float32"], [1], form=form, **nets)
    return list(dict.fromkeys(cases))


@pytest.mark.parametrize("case", problems(), ids=lambda case: case.name)
def test_every_provider_agrees_with_float64(case: Case) -> None:
    problem = Problem.draw(case)
    present = [provider for provider in PROVIDERS.values() if not provider.absent(case)]
    # Compiling is slow: three cells, and one net.
    if case.form == "lengths" or (case.num_layers > 1 and case.mode == "train"):
        present = [provider for provider in present if provider.name != "torch.compile"]
    errors = check(problem, present)
    assert {BASELINE, "fusedrnn"} <= errors.keys() == {provider.name for provider in present}
    expected = {"output", "h_n"} | ({"c_n"} if case.cell == "LSTM" else set())
    if case.mode == "train":
        expected |= {"grad_input", *(f"grad_{name}" for name in problem.weights)}
    for provider_errors in errors.values():
        assert provider_errors.keys() == expected


class _Wrong:
    """torch.nn with one result spoilt."""

    name = "wrong"
    follows_isa = True

    def __init__(self, result: str, factor: float) -> None:
        self._result, self._factor = result, factor

    def prepare(self, problem: Problem) -> _Wrong:
        self._prepared = PROVIDERS["torch.nn"].prepare(problem)
        return self

    def step(self) -> None:
        self._prepared.step()

    def results(self) -> dict[str, torch.Tensor]:
        results = self._prepared.results()
        results[self._result] = results[self._result] * self._factor
        return results


@pytest.mark.parametrize("result", ["output", "h_n", "grad_input", "grad_weight_hh_l0"])
@pytest.mark.parametrize("factor", [1.01, math.nan])
def test_a_wrong_result_is_named_and_not_timed(result: str, factor: float) -> None:
    with pytest.raises(WrongResultError, match=f"wrong: {result} differs"):
        check(Problem.draw(TINY), [_Wrong(result, factor)])


class _Peer:
    """torch.nn under another name, with a fault of its own in its process."""

    follows_isa = True

    def __init__(self, name: str, fault: str = "") -> None:
        self.name, self._fault = name, fault

    def version(self) -> str:
        return "1.2"

    def plan(self, case: Case) -> None:
        return None

    def absent(self, case: Case) -> str:
        return self._fault if self._fault == "not installed" else ""

    def set_up(self, case: Case) -> None:
        if self._fault == "dies":
            os._exit(7)

    def prepare(self, problem: Problem) -> object:
        if self._fault == "wrong":
            return _Wrong("output", 1.5).prepare(problem)
        return PROVIDERS["torch.nn"].prepare(problem)


def test_a_peer_that_fails_or_is_missing_does_not_keep_the_others_from_being_timed() -> None:
    faults = ("", "not installed", "dies", "wrong")
    peers = {f"peer {fault}": _Peer(f"peer {fault}", fault) for fault in faults}
    available = {"torch.nn": PROVIDERS["torch.nn"]} | peers
    records = measure(TINY, list(available), Effort(0.0, 3), available)
    ours, good, missing, dead, wrong = records
    assert [r["status"] for r in records] == ["ok", "ok", "absent", "failed", "failed"]
    assert ours["rounds"] == good["rounds"] == 3
    assert good["best_peer"]["provider"] == "torch.nn" and good["version"] == "1.2"
    assert good["sgemm_gflops"]["median"] > 0 and 0 < good["roof_fraction"] < 2
    assert missing["message"] == "not installed"
    assert dead["message"] == "the process died with exit code 7"
    assert "peer wrong: output differs from float64" in wrong["message"]


def test_a_worker_answers_in_its_own_process_and_reports_its_errors() -> None:
    worker = Worker(_Process)
    try:
        pid = worker.ready()
        assert pid not in (os.getpid(), os.getppid())
        assert worker.call("pid") == pid and worker.cpu_seconds > 0
        with pytest.raises(RuntimeError, match="ValueError: no such luck"):
            worker.call("fail")
        assert worker.call("pid") == pid
    finally:
        worker.close()
    with pytest.raises(RuntimeError, match="the process died"):
        worker.call("pid")


class _Process:
    def describe(self) -> int:
        return os.getpid()

    pid = describe

    def fail(self) -> None:
        raise ValueError("no such luck")


def test_a_case_that_fails_in_its_process_is_a_failed_record() -> None:
    broken = Case("GRU", Shape(2, 5, 3, 4), "infer", "int64", 1)
    records = measure(broken, ["torch.nn"], Effort(0.0, 1))
    assert [r["status"] for r in records] == ["failed"]
    assert "has no attribute" in records[0]["message"] or "floating" in records[0]["message"]
    text = report.failures_text(store.complete(r, broken, ENVIRONMENT) for r in records)
    assert text.startswith("failures: 1\n  torch.nn GRU-infer")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_peak_growth_sees_memory_that_was_freed_again() -> None:
    class Hungry(_Wrong):
        def step(self) -> None:
            self._prepared.step()
            torch.ones(32 << 20)  # 128 MiB of float32

    growth = peak_growth(TINY, Hungry("output", 1.0))
    assert 120 << 20 < growth < 160 << 20  # the kernel counts resident pages in batches


def test_busy_elsewhere_sees_another_process() -> None:
    if environment.BusyElsewhere().cores() is None and not Path("/proc/stat").exists():
        pytest.skip("needs Linux's /proc")
    busy = environment.BusyElsewhere()
    run_process([sys.executable, "-c", "for _ in range(20_000_000): pass"], check=True)
    assert busy.cores() > 0.3


def test_store_keeps_every_field_and_lets_the_last_record_count(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"
    first = record(case(), "fusedrnn", 2.0, Summary(1.0, 1.0, 1.0))
    other = record(case("GRU"), "fusedrnn", 3.0, Summary(1.0, 1.0, 1.0))
    again = record(case(), "fusedrnn", 1.0, Summary(2.0, 2.0, 2.0), revision="bbbb2222")
    store.append(path, [first, other])
    store.append(path, [again])
    assert store.load(path) == [other, again]
    assert store.load(f"{path}@aaaa") == [first, other]
    assert store.case_of(other) == case("GRU")
    with pytest.raises(ValueError, match="no records"):
        store.load(f"{path}@cccc")
    store.append(path, [first | {"schema": store.SCHEMA + 1}])
    with pytest.raises(ValueError, match=r"results\.jsonl:4: expected schema"):
        store.load(path)


def test_losing_cases_are_listed_slowest_first_with_their_verdict() -> None:
    records = [
        record(case("RNN"), "fusedrnn", 1.0, Summary(0.97, 0.90, 1.05)),
        record(case("LSTM"), "fusedrnn", 1.0, Summary(0.80, 0.75, 0.85)),
        record(case("GRU"), "fusedrnn", 1.0, Summary(1.50, 0.90, 1.60)),
        record(case("RNN"), "torch.nn", 1.0, Summary(1.0, 1.0, 1.0)),
    ]
    assert [(store.case_of(r).cell, beyond) for r, beyond in report.losing(records)] == [
        ("LSTM", True),
        ("RNN", False),
    ]
    lines = report.losses_text(records).splitlines()
    assert lines[0] == "losses: 2"
    assert lines[1].endswith("0.80 [0.75, 0.85] of torch.nn, slower; some_schedule")
    assert lines[2].endswith("0.97 [0.90, 1.05] of torch.nn, within noise; some_schedule")
    assert report.losses_text(records[2:]) == "losses: none"


def test_means_are_geometric_and_leave_disturbed_cases_out() -> None:
    records = [
        record(case(hidden_size=size), "fusedrnn", 1.0, Summary(s, s, s), other_cores=others)
        for size, s, others in ((64, 0.5, 0.0), (128, 8.0, 0.1), (256, 1000.0, 0.9))
    ]
    every_mode = report.means_text(records).splitlines()[-1]
    assert every_mode.split()[-5:] == ["all", "2", "2.00", "0.50", "2.00"]
    assert report.disturbed_text(records).splitlines()[1:] == [f"  {case(hidden_size=256).name}"]
    assert report.disturbed_text(records[:2]) == "disturbed: none"


def test_a_spare_core_is_no_disturbance() -> None:
    one_thread = Case("GRU", Shape(1, 100, 128, 128), "infer", "float32", 1)
    speedup = Summary(1.0, 1.0, 1.0)
    assert not report.is_disturbed(record(one_thread, "fusedrnn", 1.0, speedup, other_cores=0.9))
    assert report.is_disturbed(record(one_thread, "fusedrnn", 1.0, speedup, other_cores=1.9))


def test_losing_cells_come_first_and_disturbed_and_failed_ones_are_marked() -> None:
    winning = record(case(), "fusedrnn", 0.25, Summary(2.0, 1.5, 2.5), other_cores=0.5)
    losing = record(case("RNN"), "fusedrnn", 0.0005, Summary(3.0, 2.5, 3.5))
    losing["best_peer"] = {"provider": "jax", "speedup": vars(Summary(0.5, 0.4, 0.6))}
    losing["roof_fraction"] = 0.25
    failed = store.complete(
        {"provider": "fusedrnn", "status": "failed", "message": "no"}, case("GRU"), ENVIRONMENT
    )
    head, first, second, third = report.ratio_table([winning, failed, losing]).splitlines()
    assert "roof%" in head
    assert first.split()[6:9] == ["0.5000", "0.5000", "0.5000"]
    assert first.split()[9:16] == ["jax", "0.50", "0.40", "0.60", "10.0", "10", "25"]
    assert second.split()[9:13] == ["torch.nn", "2.00", "1.50", "2.50"]  # an older record
    assert second.endswith("0.50*")
    assert third.endswith("FAILED")


def test_errors_memory_and_absences_are_told_of_each_provider() -> None:
    one = Summary(1.0, 1.0, 1.0)
    ours, theirs = (record(case(), name, 1.0, one) for name in ("fusedrnn", "torch.nn"))
    theirs["error_grad"] = 2e-3
    absence = {"provider": "jax", "status": "absent", "message": "jax is not installed"}
    absent = store.complete(absence, case(), ENVIRONMENT)
    head, row = report.provider_table([theirs, ours, absent], report._error).splitlines()
    assert head.split()[-2:] == ["torch.nn", "fusedrnn"] and row.split()[-2:] == ["2e-03", "1e-06"]
    assert report.memory_text([theirs, ours]) == "more memory than torch.nn: none"
    ours["peak_bytes"] = 3 << 20
    assert report.memory_text([theirs, ours]).endswith("3.0 MiB, torch.nn 1.0")
    assert report.absent_text([ours, absent]).endswith("  jax: jax is not installed (1 cases)")
    assert report.failures_text([ours, absent]) == "failures: none"


def test_calls_of_one_step_are_told_in_microseconds_by_batch_and_width() -> None:
    one = Summary(1.0, 1.0, 1.0)
    shapes = [Shape(size, 1, 128, 128) for size in (8, 1)]
    cases = [Case("GRU", shape, "infer", "float32", 1, form="cell") for shape in shapes]
    records = [record(case, "fusedrnn", 1.23e-5, one) for case in cases]
    records.append(record(cases[1], "torch.nn", 0.5, one, other_cores=2.0))
    head, ours, theirs = report.step_table(records).splitlines()
    assert head.split() == ["cell", "kind", "H", "provider", "B", "1", "B", "8"]
    assert ours.split() == ["GRU", "cell", "128", "fusedrnn", "12.3", "12.3"]
    assert theirs.split() == ["GRU", "cell", "128", "torch.nn", "500000.0*"]


def test_errors_of_all_shapes_and_those_larger_than_torchs_are_told() -> None:
    one = Summary(1.0, 1.0, 1.0)
    sizes = {128: (2e-7, 1e-7), 256: (3e-7, 4e-7)}
    records = []
    for size, errors in sizes.items():
        for name, error in zip(("fusedrnn", "torch.nn"), errors):
            records.append(record(case(hidden_size=size), name, 1.0, one))
            records[-1] |= {"error_output": error, "error_state": error / 2, "error_grad": None}
    head, output, state = report.error_table(records).splitlines()
    assert head.split()[-3:] == ["fusedrnn", "torch.nn", "ratio"]
    assert output.split() == ["LSTM", "infer", "output", "2", "3.0e-07", "4.0e-07", "0.75"]
    assert state.split()[2:] == ["state", "2", "1.5e-07", "2.0e-07", "0.75"]
    assert report.larger_errors_text(records).splitlines() == [
        "larger errors than torch.nn: 2 of 4 results",
        f"  {case().name}: output 2.0e-07, torch.nn 1.0e-07",
        f"  {case().name}: state 1.0e-07, torch.nn 5.0e-08",
    ]
    assert report.larger_errors_text(records[2:]) == "larger errors than torch.nn: none"


def test_an_untimed_run_has_errors_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    options = "--untimed --shapes 2,5,8,8 --cells lstm --modes train --threads 1"
    options += " --providers torch.nn fusedrnn --out"
    assert main(["run", *options.split(), str(out)]) == 0
    for line in store.load(out):
        assert line["error_output"] and line["error_state"] and line["error_grad"]
        assert "seconds" not in line
    assert main(["report", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "larger errors than torch.nn" in printed and "median ms" not in printed


def test_compare_divides_out_a_slower_machine() -> None:
    one = Summary(1.0, 1.0, 1.0)
    before = [record(case(), "torch.nn", 1.0, one), record(case(), "fusedrnn", 0.8, one)]
    after = [record(case(), "torch.nn", 2.0, one), record(case(), "fusedrnn", 0.4, one)]
    extra = [record(case("GRU"), "fusedrnn", 0.1, one)]
    assert comparison.compare(before, after + extra, "fusedrnn") == [
        [case().name, "800.00", "400.00", "2.00", "4.00"]
    ]
    assert comparison.compare_text(before, extra, "fusedrnn") == "no case of fusedrnn is in both"


def test_a_quick_run_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, png = tmp_path / "out.jsonl", tmp_path / "out.png"
    options = "--quick --shapes 2,5,8,8 --cells gru --modes infer train --threads 1"
    options += " --providers torch.nn fusedrnn --out"
    command = [sys.executable, "-W", "ignore", "-m", "bench", "run", *options.split(), str(out)]
    done = run_process(command, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "losses:" in done.stdout and "failures: none" in done.stdout
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["case"]["mode"], r["provider"]) for r in lines] == [
        (mode, provider) for mode in ("infer", "train") for provider in ("torch.nn", "fusedrnn")
    ]
    for line in lines:
        assert line["status"] == "ok" and line["rounds"] >= 3 and line["sgemm_fraction"] > 0
        assert line["peak_bytes"] is None or line["peak_bytes"] >= 0
        assert (line["error_grad"] is None) == (line["case"]["mode"] == "infer")

    assert main(["report", str(out), "--png", str(png)]) == 0
    assert "losses:" in capsys.readouterr().out
    assert png.read_bytes().startswith(b"\x89PNG")
    assert main(["diff", str(out), str(out)]) == 0
    assert "relative: geometric mean 1.00" in capsys.readouterr().out


def test_no_selected_case_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--filter", "nothing"]) == 2
    assert capsys.readouterr().err == "no case is selected\n"


def test_a_compile_run_from_end_to_end(compiled_part: None, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    options = "--cells GRU --modes train --lengths 5 --providers torch.nn fusedrnn --out"
    command = [sys.executable, "-W", "ignore", "-m", "bench", "compile", *options.split(), str(out)]
    done = run_process(command, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    theirs, ours = (json.loads(line) for line in out.read_text().splitlines())
    assert (theirs["graphs"], theirs["breaks"]) == (0, 1)
    assert (ours["graphs"], ours["breaks"]) == (1, 0) and ours["recompilations"] <= 1
    assert len(ours["seconds"]) == 3 and min(ours["seconds"]) > 0
    assert "GRU   train  5  fusedrnn" in done.stdout


def test_compile_table_names_why_a_case_failed_and_what_was_not_run() -> None:
    case = compilation.CompileCase("GRU", "infer", 512)
    slow = {"status": "ok", "graphs": 1, "breaks": 0, "recompilations": None, "seconds": [30.0]}
    failed = {"status": "failed", "message": "first line\nno result in 60 s"}
    records = [
        store.complete({"provider": "torch.nn"} | found, case, ENVIRONMENT)
        for found in (slow, failed)
    ]
    _, first, second, reason = compilation.table(records).splitlines()
    assert first.split()[-7:] == ["1", "0", "30.000", "not", "run", "not", "run"]
    assert second.endswith("FAILED")
    assert reason == "GRU infer 512 torch.nn: no result in 60 s"
