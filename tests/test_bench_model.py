"""What `python -m bench model` makes of predicted and measured times."""

from __future__ import annotations

import html
import json
import sys
from pathlib import Path

import pytest
from bench_records import case, record
from processes import run_process

from bench import model, store
from bench.__main__ import main
from bench.timing import Summary

ROOT = Path(__file__).resolve().parent.parent


def pair(cell: str, speedup: Summary, modelled: tuple[float, float]) -> list[store.Record]:
    """Of both schedules; `speedup` is that of the first over the second."""
    found = []
    sides = (speedup, Summary(1 / speedup.median, 1 / speedup.q80, 1 / speedup.q20))
    for name, of, seconds in zip(model.SCHEDULES, sides, modelled):
        found.append(record(case(cell), name, 0.010 / of.median, of))
        found[-1] |= {"modelled_seconds": seconds, "best_peer": {"speedup": vars(of)}}
    return found


def test_rankings_are_right_wrong_or_not_resolved() -> None:
    right = pair("LSTM", Summary(2.0, 1.9, 2.1), (1.0, 3.0))
    wrong = pair("GRU", Summary(0.8, 0.7, 0.9), (1.0, 2.0))
    unresolved = pair("RNN", Summary(0.97, 0.9, 1.1), (1.0, 2.0))
    assert [r.verdict for r in model.rankings(right + wrong + unresolved)] == [
        "right",
        "WRONG",
        "not resolved",
    ]
    # The model takes the second schedule, which is faster: right again.
    [turned] = model.rankings(pair("GRU", Summary(0.8, 0.7, 0.9), (2.0, 1.0)))
    assert turned.first["provider"] == "per_step" and turned.verdict == "right"
    assert turned.ratio == pytest.approx(1.25) and turned.modelled_ratio == 2


def test_wrong_rankings_come_first_with_what_they_cost() -> None:
    right = pair("LSTM", Summary(2.0, 1.9, 2.1), (0.020, 0.040))
    wrong = pair("GRU", Summary(0.8, 0.7, 0.9), (0.010, 0.020))
    text = model.render(right + wrong)
    _, head, first, second, *_ = text.splitlines()
    assert first.split()[0] == "GRU" and first.endswith("WRONG")
    assert second.split()[0] == "LSTM" and second.endswith("right")
    assert second.split()[7:13] == ["persistent", "20.00", "5.00", "per_step", "40.00", "20.00"]
    counts = [line.split() for line in text.splitlines() if line.startswith(("infer ", "all "))]
    assert counts == [
        ["infer", "2t", "2", "1", "0", "1", "1.118"],  # the root of 1 / 0.8
        ["all", "2", "1", "0", "1", "1.118"],
    ]
    assert text.endswith(f"  {case('GRU').name}: persistent costs 25.0 % over per_step")
    assert "GRU   infer       2t      1  1.25   1.25     1.25" in text
    assert model.render(right[:1]).startswith("no rankings")


def test_a_report_of_the_file_prints_the_same_rankings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = pair("GRU", Summary(0.8, 0.7, 0.9), (0.010, 0.020))
    plain = [record(case("LSTM"), "fusedrnn", 0.01, Summary(2.0, 1.9, 2.1))]
    for name, stored in (("model", records), ("plain", plain)):
        store.append(tmp_path / f"{name}.jsonl", stored)
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "model.jsonl"), "--html", str(page)]) == 0
    printed = capsys.readouterr().out
    assert model.render(records) in printed and "beside its best peer" not in printed
    assert html.escape(model.render(records)) in page.read_text(encoding="utf-8")
    assert main(["report", str(tmp_path / "plain.jsonl")]) == 0
    assert "rankings" not in capsys.readouterr().out


def test_a_model_run_from_end_to_end(compiled_part: None, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    options = "--quick --shapes 2,5,8,8 --cells gru --modes train --threads 1 --out"
    command = [sys.executable, "-W", "ignore", "-m", "bench", "model", *options.split(), str(out)]
    done = run_process(command, cwd=ROOT, check=True)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["provider"] for line in lines] == list(model.SCHEDULES)
    for line in lines:
        assert line["plan"].startswith(f"forward: {line['provider']}, modelled ")
        assert f"; backward: {line['provider']}, modelled " in line["plan"]
        assert line["modelled_seconds"] > 0 and line["seconds"]["median"] > 0
    assert "measured over modelled time" in done.stdout and "over the faster" in done.stdout
