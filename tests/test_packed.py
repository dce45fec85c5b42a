"""PackedSequence in, PackedSequence out: results, order and gradients as in torch.nn."""

from __future__ import annotations

import pytest
import torch
from cases import (
    CELLS,
    DTYPES,
    assert_close,
    assert_same_as_torch,
    initial_state,
    layers,
    map_tensors,
    pack,
    run,
    strided,
    tensors_of,
    tolerance,
    trio,
)
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

import fusedrnn
from fusedrnn import compat

LENGTHS = {
    "sorted": [6, 4, 4, 1],
    "unsorted": [2, 6, 1, 5],
    "equal": [5, 5, 5],
    "one": [3],
    "steps_of_one_row": [9, 1],
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one_way", "two_ways"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("cell", CELLS)
def test_matches_torch_on_packed_input(
    cell: str, lengths: list[int], bidirectional: bool, dtype: torch.dtype, device: str
) -> None:
    modules = trio(layers, cell, 5, 7, 2, bidirectional=bidirectional, dtype=dtype, device=device)
    input = pack(strided(max(lengths), len(lengths), 5, dtype=dtype).to(device), lengths)
    for hx in (None, initial_state(modules.ours, len(lengths), dtype)):
        assert_same_as_torch(modules, input, hx, length=4 * max(lengths))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one_way", "two_ways"])
def test_lstm_matches_torch_with_projection_on_packed_input(
    bidirectional: bool, bias: bool, device: str
) -> None:
    modules = trio(
        layers, "lstm", 5, 7, 2, bidirectional=bidirectional, bias=bias, proj_size=3,
        dtype=torch.float32, device=device
    )  # fmt: skip
    input = pack(torch.randn(6, 4, 5, device=device), LENGTHS["unsorted"])
    hx = initial_state(modules.ours, 4, torch.float32)
    assert_same_as_torch(modules, input, hx, length=24)


@pytest.mark.parametrize("space", [fusedrnn, compat], ids=["fusedrnn", "compat"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_result_carries_the_packing_of_the_input(
    lengths: list[int], space: object, device: str
) -> None:
    module = layers(space, "gru", 5, 7, device=device)
    input = pack(torch.randn(max(lengths), len(lengths), 5, device=device), lengths)
    output, _ = module(input)
    assert isinstance(output, PackedSequence)
    for name in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        assert getattr(output, name) is getattr(input, name)


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one_way", "two_ways"])
@pytest.mark.parametrize("cell", CELLS)
def test_each_packed_row_equals_its_own_run(cell: str, bidirectional: bool, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=bidirectional, device=device)
    rows = [torch.randn(length, 5, device=device) for length in LENGTHS["unsorted"]]
    hx = initial_state(module, len(rows), torch.float32)
    packed, state = module(pack_sequence(rows, enforce_sorted=False), hx)
    padded, lengths = pad_packed_sequence(packed)
    allowed = tolerance(torch.float32, 12)
    for idx, row in enumerate(rows):
        output, row_state = module(row, map_tensors(hx, lambda tensor, idx=idx: tensor[:, idx]))
        assert int(lengths[idx]) == len(row)
        assert_close(padded[: len(row), idx], output, allowed, f"output of row {idx}")
        expected = tensors_of(row_state, "state")
        for name, tensor in tensors_of(state, "state").items():
            assert_close(tensor[:, idx], expected[name], allowed, f"{name} of row {idx}")


@pytest.mark.parametrize("cell", CELLS)
def test_equal_lengths_equal_padded_input(cell: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True, device=device)
    input = torch.randn(6, 3, 5, device=device)
    packed, padded = run(module, pack(input, [6, 6, 6])), run(module, input)
    for name, result in padded.items():
        actual = packed.get(name, packed.get(f"{name}.data"))
        assert_close(actual.view_as(result), result, tolerance(torch.float32, 24), name)


@pytest.mark.parametrize("cell", CELLS)
def test_non_finite_values_stay_in_their_row(cell: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, bidirectional=True, device=device)
    input = torch.randn(6, 3, 5, device=device)
    input[1, 1] = float("nan")
    output, _ = pad_packed_sequence(module(pack(input, [6, 4, 2]))[0])
    assert output[:, 1, :7][1:4].isnan().all() and output[:, 1, 7:][:2].isnan().all()
    assert output[:, [0, 2]].isfinite().all() and output[0, 1, :7].isfinite().all()


def test_packed_input_compiles_with_a_graph_break(compiled_part: None, device: str) -> None:
    module = fusedrnn.LSTM(5, 7, device=device)
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="aot_eager")
    input = pack(torch.randn(6, 4, 5, device=device), LENGTHS["unsorted"])
    assert_close(compiled(input)[0].data, module(input)[0].data, tolerance(torch.float32, 6))
