"""lengths=: rows of padded input that end early, against torch.nn on packed sequences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import (
    CELLS,
    DTYPES,
    assert_close,
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
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_packed_sequence

import fusedrnn

LENGTHS = [2, 6, 0, 1, 5]
each_cell = pytest.mark.parametrize("cell", CELLS)
each_direction = pytest.mark.parametrize(
    "bidirectional", [False, True], ids=["one_way", "two_ways"]
)


def padded(input: Tensor, lengths: list[int], value: float = float("nan")) -> Tensor:
    """Time-major input with `value` past each row's length."""
    input = input.clone()
    for row, length in enumerate(lengths):
        input[length:, row] = value
    return input


def packed_torch(module: nn.Module, input: Tensor, hx: Any, lengths: list[int]) -> tuple[Any, Any]:
    """torch.nn on a PackedSequence, padded again."""
    output, state = module(pack(input, lengths), hx)
    return pad_packed_sequence(output, total_length=input.size(0))[0], state


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_direction
@each_cell
def test_equals_torch_on_the_packed_sequence(
    cell: str, bidirectional: bool, dtype: torch.dtype, device: str
) -> None:
    ours, _, oracle = trio(layers, cell, 5, 7, bidirectional=bidirectional, dtype=dtype)
    ours.to(device)
    lengths = [length for length in LENGTHS if length]  # torch packs no empty row
    input = strided(6, len(lengths), 5, dtype=dtype)
    hx = initial_state(oracle, len(lengths), dtype)
    actual = run(
        ours,
        padded(input, lengths).to(device),
        map_tensors(hx, lambda state: state.to(device)),
        lengths=torch.tensor(lengths),
    )
    expected = run(
        oracle,
        input,
        hx,
        forward=lambda module, input, hx: packed_torch(module, input, hx, lengths),
    )
    for name, result in actual.items():
        scale = max(1.0, float(expected[name].detach().abs().max()))
        assert_close(result, expected[name], tolerance(dtype, 12), name, scale)


@each_direction
@each_cell
def test_padding_neither_counts_nor_gets_a_gradient(
    cell: str, bidirectional: bool, device: str
) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=bidirectional, device=device)
    data = torch.randn(6, 5, 5, device=device)
    hx = initial_state(module, 5, torch.float32)
    lengths = torch.tensor(LENGTHS, device=device)
    results = []
    for value in (0.0, float("nan"), float("inf")):
        input = padded(data, LENGTHS, value).requires_grad_()
        output, state = module(input, hx, lengths=lengths)
        # What is said about padded outputs counts for nothing either.
        grad = padded(torch.ones_like(output), LENGTHS, value)
        grads = torch.autograd.grad(
            [output, *tensors_of(state, "").values()],
            [input, *module.parameters()],
            [grad, *map(torch.ones_like, tensors_of(state, "").values())],
        )
        for row, length in enumerate(LENGTHS):
            assert torch.equal(output[length:, row], torch.zeros_like(output[length:, row]))
            assert torch.equal(grads[0][length:, row], torch.zeros_like(data[length:, row]))
        results.append((output, *tensors_of(state, "").values(), *grads))
    for other in results[1:]:
        for actual, expected in zip(other, results[0], strict=True):
            assert torch.equal(actual, expected)


@each_cell
def test_row_without_steps_keeps_its_state(cell: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True, device=device)
    input = torch.full((6, 3, 5), float("nan"), device=device)
    hx = initial_state(module, 3, torch.float32)
    results = run(module, input, hx, lengths=torch.zeros(3, dtype=torch.int64, device=device))
    assert not results["result[0]"].any()
    expected = tensors_of(hx, "result[1]")
    for name, state in expected.items():
        assert torch.equal(results[name], state)
    for name, grad in results.items():
        if name.startswith("grad") and "hx" not in name:
            assert not grad.any(), name
    for state in tensors_of(
        module(input, lengths=torch.zeros(3, dtype=torch.int8))[1], ""
    ).values():
        assert not state.any()


@each_direction
@each_cell
def test_each_row_equals_its_own_run(cell: str, bidirectional: bool, device: str) -> None:
    module = layers(
        fusedrnn, cell, 5, 7, 2, bidirectional=bidirectional, batch_first=True, device=device
    )
    input = torch.randn(5, 6, 5, device=device)
    hx = initial_state(module, 5, torch.float32)
    output, state = module(input, hx, lengths=torch.tensor(LENGTHS))
    for row, length in enumerate(LENGTHS):
        if length == 0:
            continue
        own, own_state = module(
            input[row, :length], map_tensors(hx, lambda tensor, row=row: tensor[:, row])
        )
        assert_close(output[row, :length], own, tolerance(torch.float32, 12), f"row {row}")
        expected = tensors_of(own_state, "state")
        for name, tensor in tensors_of(state, "state").items():
            assert_close(tensor[:, row], expected[name], tolerance(torch.float32, 12), name)


@each_cell
def test_lengths_of_every_step_equal_none(cell: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True, device=device)
    input = torch.randn(6, 3, 5, device=device)
    actual, expected = run(module, input, lengths=torch.tensor([6, 6, 6])), run(module, input)
    for name, result in actual.items():
        assert_close(result, expected[name], tolerance(torch.float32, 24), name)


def test_any_integer_dtype_device_and_stride(device: str) -> None:
    module = fusedrnn.GRU(5, 7, bidirectional=True, device=device)
    input = torch.randn(6, 5, 5, device=device)
    expected = module(input, lengths=torch.tensor(LENGTHS, device=device))[0]
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint32):
        assert torch.equal(module(input, lengths=torch.tensor(LENGTHS, dtype=dtype))[0], expected)
    gaps = torch.tensor(LENGTHS).repeat_interleave(2)[::2]
    assert torch.equal(module(input, lengths=gaps)[0], expected)


def test_lengths_on_a_gpu_for_input_on_the_cpu(cuda: str) -> None:
    module, input = fusedrnn.GRU(5, 7), torch.randn(6, 5, 5)
    expected = module(input, lengths=torch.tensor(LENGTHS))[0]
    assert torch.equal(module(input, lengths=torch.tensor(LENGTHS, device=cuda))[0], expected)


@each_cell
def test_one_sequence_takes_one_length(cell: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True, device=device)
    input = torch.randn(6, 5, device=device)
    expected = module(input[:4])[0]
    for lengths in (torch.tensor(4), torch.tensor([4])):
        output, _ = module(input, lengths=lengths)
        assert_close(output[:4], expected, tolerance(torch.float32, 12))
        assert not output[4:].any()


def test_empty_batch(device: str) -> None:
    module = fusedrnn.LSTM(5, 7, 2, bidirectional=True, device=device)
    input = torch.randn(6, 0, 5, device=device)
    results = run(module, input, lengths=torch.zeros(0, dtype=torch.int64))
    assert results["result[0]"].shape == (6, 0, 14)
    assert results["result[1][0]"].shape == (4, 0, 7)


def test_no_step_raises_torchs_text(device: str) -> None:
    module = fusedrnn.GRU(5, 7, device=device)
    with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0 in RNN"):
        module(torch.randn(0, 3, 5, device=device), lengths=torch.zeros(3, dtype=torch.int64))


def test_layers_below_a_dropout_take_lengths(device: str) -> None:
    module = fusedrnn.GRU(5, 7, 3, dropout=0.5, bidirectional=True, device=device)
    input = padded(torch.randn(6, 5, 5, device=device), LENGTHS)
    results = run(module, input, lengths=torch.tensor(LENGTHS))
    assert all(result.isfinite().all() for result in results.values())
    for row, length in enumerate(LENGTHS):
        assert not results["result[0]"][length:, row].any()


@each_cell
def test_a_list_or_tuple_of_ints_is_a_tensor_of_them(cell: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True)
    input = torch.randn(6, 5, 5)
    expected = run(module, input, lengths=torch.tensor(LENGTHS))
    for lengths in (LENGTHS, tuple(LENGTHS), [torch.tensor(length) for length in LENGTHS]):
        for name, result in run(module, input, lengths=lengths).items():
            assert torch.equal(result, expected[name]), name
    assert module(torch.randn(6, 0, 5), lengths=[])[0].shape == (6, 0, 14)
    assert module(input[:, 0], lengths=[4])[0].shape == (6, 14)


@pytest.mark.parametrize("dynamic", [None, True])
def test_a_list_of_ints_compiles(dynamic: bool | None, compiled_part: None) -> None:
    module = fusedrnn.GRU(5, 7)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    input = torch.randn(6, 3, 5)
    for lengths in ([6, 4, 2], [1, 5, 3], (6, 6, 0)):
        expected = module(input, lengths=lengths)[0]
        assert_close(compiled(input, lengths=lengths)[0], expected, tolerance(torch.float32, 6))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32], ids=str)
@pytest.mark.parametrize("batch_first", [False, True], ids=["time_first", "batch_first"])
@each_cell
def test_a_mask_is_refused_with_the_sum_to_take(
    cell: str, batch_first: bool, dtype: torch.dtype
) -> None:
    module = layers(fusedrnn, cell, 5, 7, batch_first=batch_first)
    for seq_len, batch_size in ((6, 3), (3, 3)):
        input = torch.zeros(batch_size, seq_len, 5) if batch_first else torch.zeros(seq_len, 3, 5)
        as_input = (batch_size, seq_len) if batch_first else (seq_len, batch_size)
        for shape in {as_input, as_input[::-1]}:
            dim = int(batch_first) if shape == as_input else 1 - int(batch_first)
            mask = torch.ones(shape, dtype=dtype)
            with pytest.raises(RuntimeError, match=r"^lengths: expected shape .* a mask") as raised:
                module(input, lengths=mask)
            assert f"pass mask.sum({dim})," in str(raised.value)
            with pytest.raises(RuntimeError, match=rf"pass mask.sum\({dim}\),"):
                module(input, lengths=mask.tolist())
            module(input, lengths=mask.sum(dim).long())
    with pytest.raises(RuntimeError, match=r"pass mask.sum\(\), the valid steps"):
        module(torch.zeros(6, 5), lengths=torch.ones(6, dtype=torch.bool))
