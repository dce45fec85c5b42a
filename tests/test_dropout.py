"""Dropout between layers draws the same numbers from a seed as torch.nn does."""

from __future__ import annotations

import pytest
import torch
from cases import CELLS, assert_close, layers, pack, run, tolerance, trio
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

import fusedrnn


def _seeded(module: torch.nn.Module, input: Tensor | PackedSequence) -> dict[str, Tensor]:
    torch.manual_seed(11)
    return run(module, input)


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one_way", "two_ways"])
@pytest.mark.parametrize("form", ["time_first", "batch_first", "one_sequence", "packed"])
@pytest.mark.parametrize("cell", CELLS)
def test_same_seed_gives_the_results_of_torch(cell: str, form: str, bidirectional: bool) -> None:
    ours, theirs, _ = trio(
        layers, cell, 5, 7, 3, dropout=0.4, bidirectional=bidirectional,
        batch_first=form == "batch_first", dtype=torch.float32,
    )  # fmt: skip
    input = torch.randn(6, 5) if form == "one_sequence" else torch.randn(6, 4, 5)
    if form == "packed":
        input = pack(input, [3, 6, 1, 5])
    expected = _seeded(theirs, input)
    for name, result in _seeded(ours, input).items():
        assert_close(result, expected[name], tolerance(torch.float32, 36), name)


def test_dropout_depends_on_the_seed_and_on_training(device: str) -> None:
    module = layers(fusedrnn, "gru", 5, 7, 2, dropout=0.4, device=device)
    input = torch.randn(6, 4, 5, device=device)
    first, again = _seeded(module, input), _seeded(module, input)
    assert torch.equal(first["result[0]"], again["result[0]"])
    assert not torch.equal(module(input)[0], module(input)[0])
    module.eval()
    assert torch.equal(module(input)[0], module(input)[0])


def test_last_layer_is_not_dropped(device: str) -> None:
    module = layers(fusedrnn, "rnn_tanh", 5, 7, 2, dropout=0.9, device=device)
    assert (module(torch.randn(50, 4, 5, device=device))[0] != 0).all()


def test_probability_one_leaves_the_next_layer_without_input(device: str) -> None:
    module = layers(fusedrnn, "gru", 5, 7, 2, dropout=1.0, device=device)
    results = run(module, torch.randn(6, 4, 5, device=device))
    assert torch.equal(results["grad weight_ih_l1"], torch.zeros(21, 7, device=device))
