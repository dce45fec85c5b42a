"""The examples run as a user runs them, and their parts do what they say."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from processes import run_process
from torch import nn

import fusedrnn

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "examples" / "language_model"
PARTS = ("text", "model", "train", "generate", "gains")
TINY = ("--steps=12", "--hidden=32", "--batch=4", "--seq-len=17", "--threads=1", "--length=30")
TINY += ("--rounds=2",)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The example's modules, imported as its scripts import them and forgotten afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in PARTS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in PARTS})
    for name in PARTS:
        sys.modules.pop(name, None)


@pytest.fixture
def text(example: SimpleNamespace) -> object:
    return example.text.Text(FOLDER / "data" / "shakespeare.txt")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_process([sys.executable, *map(str, arguments)])


@pytest.mark.parametrize(
    "options",
    [("--cell", "lstm"), ("--cell", "gru", "--layers", "2"), ("--cell", "rnn", "--bidirectional")],
    ids=lambda options: "-".join(options).replace("--", ""),
)
def test_demo_trains_both_models_alike(options: tuple[str, ...], tmp_path: Path) -> None:
    result = run(FOLDER, *TINY, *options, "--prompt", "ROMEO:", "--out", tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "12/12" in result.stderr  # the progress bar
    rows = re.findall(r"^ +(\d+) +([\d.]+) +([\d.]+) +[\d.e+-]+$", result.stdout, re.MULTILINE)
    assert [int(step) for step, _, _ in rows] == list(range(1, 13))
    for _, loss, other in rows:
        assert float(loss) == pytest.approx(float(other), rel=1e-4)
    assert float(rows[-1][1]) < float(rows[0][1])
    largest = re.search(
        r"^largest relative difference of the loss: (\S+)$", result.stdout, re.MULTILINE
    )
    assert largest and float(largest[1]) < 1e-4
    gains = re.findall(
        r"^(LSTM|GRU|RNN) +(\w[\w, ]+?) +[\d.]+ (?:ms|us) +[\d.]+ (?:ms|us) +([\d.]+) +(\S+)$",
        result.stdout,
        re.MULTILINE,
    )
    assert len({(cell, use) for cell, use, _, _ in gains}) == len(gains) == 3 * 5
    assert all(float(ratio) > 0 and float(error) < 1e-5 for _, _, ratio, error in gains)
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    if "--bidirectional" in options:
        assert re.search(r"^ +hidden: .*_.*\n filled in: [^_]+$", result.stdout, re.MULTILINE)
    else:
        assert len(result.stdout.split("ROMEO:")[1]) == 30 + 1


def test_demo_names_a_bad_option() -> None:
    result = run(FOLDER, "--hidden", "7")
    assert result.returncode == 2
    assert "--hidden: expected an even number, got 7" in result.stderr


def test_classifiers_agree_when_only_the_import_changes() -> None:
    result = run(FOLDER / "drop_in.py")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == "equal"
    differences = re.findall(r"^  (\S+) +largest difference (\S+)$", result.stdout, re.MULTILINE)
    assert len(differences) == 11 + 7  # scores and parameters of BiRNN, of LSTMModel
    assert max(float(difference) for _, difference in differences) < 1e-5


@pytest.mark.parametrize("cell", ["RNN", "LSTM", "GRU"])
def test_streaming_continues_as_the_whole_sequence_says(
    cell: str, example: SimpleNamespace, text: object
) -> None:
    torch.manual_seed(3)
    model = example.model.CharacterModel(fusedrnn, cell, text.vocabulary, 48)
    prompt = "KING RICHARD:\n"
    generated = "".join(example.generate.stream(model, text, prompt, 40, 0.0, 0))
    ids = text.encode(prompt + generated)
    with torch.no_grad():
        scores, _ = model(ids.unsqueeze(0))
    expected = scores[0, len(prompt) - 1 : -1, : text.mask].argmax(-1)
    assert generated == text.decode(expected)


def test_masked_batches_ask_only_for_what_they_hide(example: SimpleNamespace, text: object) -> None:
    (inputs, targets), *rest = example.text.masked_character_batches(text, 2, 8, 33, seed=0)
    assert len(rest) == 1 and not rest[0][0].equal(inputs)
    hidden = inputs == text.mask
    assert hidden.equal(targets >= 0) and 8 < hidden.sum() < 8 * 33 // 2
    assert text.decode(torch.where(hidden, targets, inputs)[0]) in text.decode(text.ids)


def test_next_character_is_one_ahead_and_seeded(example: SimpleNamespace, text: object) -> None:
    batches = list(example.text.next_character_batches(text, 2, 4, 20, seed=5))
    again = list(example.text.next_character_batches(text, 2, 4, 20, seed=5))
    for (inputs, targets), (same_inputs, _) in zip(batches, again, strict=True):
        assert inputs[:, 1:].equal(targets[:, :-1]) and inputs.equal(same_inputs)


def test_a_model_that_differs_is_told_apart(example: SimpleNamespace, text: object) -> None:
    models = {}
    for seed, name in enumerate(("torch.nn", "fusedrnn")):
        torch.manual_seed(seed)
        models[name] = example.model.CharacterModel(nn, "GRU", text.vocabulary, 16)
    batches = example.text.next_character_batches(text, 3, 4, 9, seed=0)
    first, second = example.train.train_side_by_side(models, batches, 3, 1e-3).values()
    difference = example.train.largest_relative_difference
    assert difference(first.losses, second.losses) > 1e-3
    assert difference([1.0, 2.0], [1.0, 2.5]) == pytest.approx(0.2)
    assert difference([1.0, float("nan")], [1.0, 2.0]) == float("inf")


@pytest.mark.parametrize("use", ["training", "padded, inference", "one step"])
def test_layers_that_differ_are_told_apart(
    use: str, example: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = example.gains.Sizes(3, 9, 4, 8)
    assert example.gains._measure("GRU", use, sizes, 1).difference < 1e-5
    monkeypatch.setattr(fusedrnn.GRU, "load_state_dict", lambda self, state: None)
    assert example.gains._measure("GRU", use, sizes, 1).difference > 1e-2


def test_one_step_carries_its_state(example: SimpleNamespace) -> None:
    for library in (nn, fusedrnn):
        call = example.gains.make_call(
            library, library.LSTM(4, 8), "one step", example.gains.Sizes(3, 9, 4, 8)
        )
        assert not call().equal(call())


def test_padded_sequences_end_before_the_longest(example: SimpleNamespace) -> None:
    sizes = example.gains.Sizes(6, 20, 4, 8)
    for library in (nn, fusedrnn):
        output = example.gains.make_call(library, library.GRU(4, 8), "padded, inference", sizes)()
        padded = (output == 0).all(-1)  # [seq_len, batch_size]
        assert output.shape == (20, 6, 8) and not padded[:5].any() and padded.any()
