"""Results of several machines: told apart, forced ones marked, side by side as text and a page."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from bench_records import ENVIRONMENT, case, record
from processes import run_process

from bench import isa, rates, report, side_by_side, store
from bench.__main__ import main
from bench.machine import Machine, file_stem
from bench.measure import measure
from bench.providers import PROVIDERS
from bench.timing import Effort, Summary
from fusedrnn import _library

ROOT = Path(__file__).resolve().parent.parent
AMD = ENVIRONMENT | {"cpu": "AMD EPYC", "caches": {"L2": "512K", "L3": "32768K"}}
FORCED = ENVIRONMENT | {"fusedrnn_isa": "avx2", "forced_isa": "avx2"}
ONE_THREAD = dataclasses.replace(case(), threads=1)
needs_avx2 = pytest.mark.skipif(
    not _library.available or "avx2" not in torch.ops.fusedrnn.supported_cpu_isas(),
    reason="needs the compiled part and AVX2",
)
needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "c++").split()[0]) is None, reason="needs a C++ compiler"
)


def ratio(median: float) -> Summary:
    return Summary(median, median, median)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Of two machines, the second forced; each is slower in a case of its own."""
    ours, gru = "fusedrnn", dataclasses.replace(ONE_THREAD, cell="GRU")
    paths = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    first = [
        record(gru, ours, 1.0, ratio(2.0), environment=AMD),
        record(ONE_THREAD, ours, 1.0, ratio(0.5), environment=AMD),
    ]
    second = [
        record(ONE_THREAD, ours, 1.0, ratio(4.0), environment=FORCED),
        record(gru, ours, 1.0, ratio(0.8), environment=FORCED),
        record(gru, "onnxruntime", 1.0, ratio(1.0), environment=FORCED),
    ]
    for each in second:
        is_ours = each["provider"] == ours
        each |= {"held": is_ours, "fma_fraction": 0.7 if is_ours else 0.6}
        each["fma_gflops"] = vars(Summary(50.0, 50.0, 50.0))
    for path, records in zip(paths, (first, second)):
        store.append(path, records)
    return paths


def test_a_file_is_named_by_machine_and_says_that_its_isa_was_forced() -> None:
    assert file_stem(ENVIRONMENT) == "some-cpu-2-cores"
    assert file_stem(FORCED) == "some-cpu-2-cores-forced-avx2"
    path = store.default_path(FORCED, "model-")
    assert path.parent == store.RESULTS
    assert re.fullmatch(r"model-some-cpu-2-cores-forced-avx2-\d{4}-\d\d-\d\d\.jsonl", path.name)
    on_gpu = ENVIRONMENT | {"gpu": "NVIDIA H200"}
    assert store.default_path(on_gpu, "", "cuda").name.startswith("nvidia-h200-2-cores-")


def test_machines_differ_by_processor_isa_and_caches() -> None:
    machine = Machine.of(ENVIRONMENT)
    assert Machine.of(ENVIRONMENT | {"revision": "bbbb", "forced_isa": None}) == machine
    for other in ({"cpu": "x"}, {"fusedrnn_isa": "x"}, {"caches": {}}, {"forced_isa": "avx2"}):
        assert Machine.of(ENVIRONMENT | other) != machine
    assert Machine.of(AMD).cache_text == "L2 512K, L3 32M"
    assert Machine.of(FORCED).name == "Some CPU, 2 cores, FORCED to AVX2"


def test_the_same_case_of_two_machines_in_one_file_counts_twice(tmp_path: Path) -> None:
    path = tmp_path / "both.jsonl"
    both = [record(case(), "fusedrnn", 1.0, ratio(1.0), environment=e) for e in (AMD, FORCED)]
    store.append(path, both + both[:1])
    assert len(store.load(path)) == 2 and len(store.load(path, path)) == 2


def test_two_machines_are_shown_side_by_side_losing_cells_first(files: list[Path]) -> None:
    machines = side_by_side.by_machine(store.load(*files))
    assert [machine.cpu for machine in machines] == ["AMD EPYC", "Some CPU"]
    facts, means, cases = side_by_side.tables(machines)
    assert facts.rows[0][:5] == ["A", "AMD EPYC", "2", "avx2", "L2 512K, L3 32M"]
    assert facts.rows[1][:4] == ["B", "Some CPU", "2", "avx2, FORCED"]
    assert facts.rows[1][-1] == "1t: sgemm 100 to 100 GFLOP/s, fma 50 to 50 GFLOP/s"
    of_both = {(row[0], row[4]): row[5:] for row in means.rows}
    assert of_both["LSTM", "1t"] == ["1", "0.50", "0.50", "1", "4.00", "4.00"]
    assert of_both["GRU", "1t"] == ["1", "2.00", "2.00", "1", "0.80", "0.80"]
    assert [(row[0], row[6], row[10]) for row in cases.rows] == [
        ("LSTM", "0.50", "4.00"),
        ("GRU", "2.00", "0.80"),
    ]
    assert "2 of 2 below 1 on a machine" in cases.title


def test_a_machine_that_lacks_a_case_leaves_its_columns_empty(files: list[Path]) -> None:
    only_gru = [r for r in store.load(files[1]) if r["case"]["cell"] == "GRU"]
    machines = side_by_side.by_machine(store.load(files[0]) + only_gru)
    rows = {row[0]: row for row in side_by_side.case_table(machines).rows}
    assert rows["LSTM"][10:] == [""] * 4 and rows["GRU"][10] == "0.80"


def test_the_report_marks_a_forced_machine_and_who_was_not_held(
    files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *map(str, files)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Machines\n")
    assert side_by_side.NOTE in printed and "Some CPU, 2 cores, FORCED to AVX2" in printed
    assert "FORCED to avx2: onnxruntime cannot be held to it and is no peer" in printed
    text = report.not_held_text(store.load(files[1]))
    assert text.splitlines()[-1].split()[-2:] == ["70", "60"]
    assert report.not_held_text(store.load(files[0])) == ""
    assert main(["report", str(files[0])]) == 0
    assert "FORCED" not in capsys.readouterr().out


def test_the_page_holds_both_machines_and_their_pictures(
    files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    page, png = tmp_path / "page.html", tmp_path / "page.png"
    assert main(["report", *map(str, files), "--html", str(page), "--png", str(png)]) == 0
    text = page.read_text(encoding="utf-8")
    for name in ("A: AMD EPYC, 2 cores", "B: Some CPU, 2 cores, FORCED to AVX2"):
        assert f"<h2>{name}</h2>" in text
    assert '<td class="forced">avx2, FORCED</td>' in text
    assert text.count('src="data:image/svg+xml;base64,') == 3  # the means, and one a machine
    assert "http" not in re.sub(r'"data:[^"]*"', "", text)  # self-contained
    losing, winning = (
        re.search(rf"background:hsl\((\d+) [^>]*>{value}<", text) for value in ("0.50", "4.00")
    )
    assert losing and winning and losing[1] == "0" and winning[1] == "130"
    assert png.read_bytes().startswith(b"\x89PNG")


@needs_avx2
def test_a_forced_run_holds_its_processes_and_marks_its_records(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    options = "--isa avx2 --quick --shapes 2,5,8,8 --cells gru --modes infer --threads 1"
    options += " --providers torch.nn fusedrnn --out"
    command = [sys.executable, "-W", "ignore", "-m", "bench", "run", *options.split(), str(out)]
    done = run_process(command, cwd=ROOT, check=True)
    for line in map(json.loads, out.read_text().splitlines()):
        environment = line["environment"]
        assert environment["forced_isa"] == environment["fusedrnn_isa"] == "avx2"
        assert environment["torch_isa"] == "AVX2" and line["held"] is True
    assert "FORCED to avx2" in done.stdout


def test_an_isa_that_is_missing_here_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = FORCED | {"fusedrnn_isa": "generic"}
    monkeypatch.setattr(isa, "force", lambda isa: None)
    monkeypatch.setattr("bench.__main__.isolated", lambda function: found)
    for command in ("run", "model"):
        assert main([command, "--isa", "avx2", "--quick"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("--isa avx2: expected a processor") and "found generic" in error


class _NotHeld:
    """torch.nn as a library that no variable holds."""

    name, follows_isa = "free", False

    def __getattr__(self, name: str) -> object:
        return getattr(PROVIDERS["torch.nn"], name)

    def __reduce__(self) -> tuple:
        return (_NotHeld, ())


@needs_avx2
def test_who_cannot_be_held_is_timed_and_no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isa.forced() is None
    for name, value in isa.VARIABLES["avx2"].items():
        monkeypatch.setenv(name, value)
    providers = {"torch.nn": PROVIDERS["torch.nn"], "free": _NotHeld()}
    theirs, free = measure(ONE_THREAD, list(providers), Effort(0.0, 3), providers)
    assert (theirs["held"], free["held"]) == (True, False)
    assert theirs["best_peer"] is None and free["best_peer"]["provider"] == "torch.nn"
    assert free["roof_fraction"] is None and theirs["roof_fraction"] > 0
    for of in (theirs, free):
        assert of["fma_gflops"] is None or 0 < of["fma_fraction"] < 2


@needs_compiler
@pytest.mark.parametrize("isa", [None, pytest.param("avx2", marks=needs_avx2)])
def test_the_roofs_compile_and_count_every_thread(isa: str | None) -> None:
    for name in ("multiply_add", "read_bandwidth"):
        assert rates.build(name, isa).exists()
    assert rates.build("multiply_add", "avx2") != rates.build("multiply_add")
    for threads in (1, 2):
        found = rates.make_rates(threads, 1 << 16, isa)()
        assert found.fma_gflops > 0.1 and found.read_gbps > 0.1


def test_without_a_compiler_the_rates_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert rates.make_rates(1, 1 << 16)() == rates.Rates(None, None)
