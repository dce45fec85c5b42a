"""`python -m bench.libraries`, on a model of torch's own in place of a library's."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bench import store
from bench.libraries import __main__ as command
from bench.libraries import tables
from bench.libraries.subject import Subject, Trial, plain_trial, replace_if


def build(fused: bool) -> Trial:
    model = nn.ModuleDict({"rnn": nn.GRU(4, 8)})
    replace_if(fused, model)
    input = torch.randn(5, 3, 4)
    return plain_trial(model, lambda: model["rnn"](input)[0])


@pytest.fixture
def process_as_before() -> Iterator[None]:
    """What the command changes for the libraries' sake is as it was."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("out", [True, False])
def test_a_subject_is_timed_and_recorded(
    out: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process_as_before: None,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    subject = Subject("opacus", "a GRU", "replace", ("rnn",), build)
    monkeypatch.setattr(command, "subjects_of", lambda _: SimpleNamespace(SUBJECTS=[subject]))
    monkeypatch.setattr(store, "RESULTS", tmp_path)
    arguments = ["--here", "opacus", "--threads", "1", "--budget", "0.05"]
    arguments += ["--out", str(tmp_path / "libraries-out.jsonl")] if out else []
    monkeypatch.setattr(sys, "argv", ["bench.libraries", *arguments])
    assert command.main() == 0
    [path] = tmp_path.glob("libraries-*.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["case"]["mode"] for record in records] == ["infer", "train"]
    for record in records:
        assert record["status"] == "ok" and record["case"]["threads"] == 1
        assert max(record["difference"].values()) < 1e-5 and record["environment"]["cpu"]
    assert tables.table(tables.load(path), head=False) == capsys.readouterr().out.strip()
