"""torch's nn/test_packed_sequence.py through a layer, and what test_modules.py does with modules
beside test_conformance.py; test_torch_own.py says how, and lists the differences."""

from __future__ import annotations

import copy
import pickle
from types import ModuleType

import pytest
import torch
from cases import assert_close, tensors_of, tolerance
from test_conformance import build, call, samples
from test_torch_own import DOUBLE, each_layer, each_mode, each_name, each_space, equal, first_h
from torch import nn
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    unpack_sequence,
)

# nn/test_packed_sequence.py, through a layer


@pytest.mark.parametrize("enforce_sorted", [True, False])
@each_space
@each_layer
def test_pack_sequence_and_unpack_sequence(
    name: str, space: ModuleType, enforce_sorted: bool
) -> None:
    lengths = [5, 3, 1] if enforce_sorted else [1, 5, 3]
    sequences = [torch.randn(length, 3) for length in lengths]
    layer = getattr(space, name)(3, 4)
    output, state = layer(pack_sequence(sequences, enforce_sorted=enforce_sorted))
    for row, (sequence, own) in enumerate(zip(sequences, unpack_sequence(output), strict=True)):
        expected, last = layer(sequence)
        assert_close(own, expected, tolerance(torch.float32, 5))
        assert_close(first_h(state)[:, row], first_h(last), tolerance(torch.float32, 5))


@each_space
@each_layer
def test_wrong_order(name: str, space: ModuleType) -> None:
    padded = torch.ones(3, 2, 3)
    for make in (lambda: pack_padded_sequence(padded, [1, 3]),
                 lambda: pack_sequence([torch.ones(1, 3), torch.ones(3, 3)])):  # fmt: skip
        with pytest.raises(RuntimeError, match="must be sorted in decreasing order"):
            getattr(space, name)(3, 4)(make())


@each_space
@each_layer
def test_total_length(name: str, space: ModuleType) -> None:
    packed = pack_padded_sequence(torch.randn(3, 2, 3), [3, 2])
    output, _ = getattr(space, name)(3, 4)(packed)
    for error in (-1, 0, 2):
        with pytest.raises(ValueError, match="Expected total_length to be at least"):
            pad_packed_sequence(output, total_length=error)
    padded, _ = pad_packed_sequence(output, total_length=9)
    assert padded.shape == (9, 2, 4) and not padded[3:].any()
    batch_first, _ = pad_packed_sequence(output, batch_first=True, total_length=9)
    assert torch.equal(batch_first.transpose(0, 1), padded)


@pytest.mark.parametrize("enforce_sorted", [True, False])
@each_space
@each_layer
def test_type_casts_and_to(name: str, space: ModuleType, enforce_sorted: bool) -> None:
    layer = getattr(space, name)(3, 4)
    packed = pack_padded_sequence(torch.randn(3, 2, 3), [3, 2], enforce_sorted=enforce_sorted)
    for cast, dtype in (("double", DOUBLE), ("float", torch.float32), ("bfloat16", None)):
        target = dtype or torch.bfloat16
        moved = packed.to(target) if dtype is None else getattr(packed, cast)()
        output, _ = copy.deepcopy(layer).to(target)(moved)
        assert output.data.dtype == target and output.cpu() is output
        assert output.to(target) is output and output.batch_sizes is moved.batch_sizes
        with pytest.raises((ValueError, RuntimeError)):
            layer.to(torch.float32)(packed.to(torch.int64))


@each_space
def test_pack_sequence_batch_sizes_throw(space: ModuleType) -> None:
    with pytest.raises(ValueError, match="batch_sizes should always be on CPU"):
        data, sizes = torch.rand(5, 3), torch.tensor([1, 1, 1, 1, 1]).to("meta")
        space.LSTM(3, 4, bidirectional=True, num_layers=2)(PackedSequence(data, sizes))


# test_modules.py, on torch's module inputs


@each_mode
@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("swap", [True, False])
@each_space
@each_name
def test_to_and_to_empty(
    name: str, space: ModuleType, swap: bool, overwrite: bool, training: bool
) -> None:
    """As torch's, under both of the ways that torch.__future__ offers to place parameters."""
    before = (
        torch.__future__.get_swap_module_params_on_conversion(),
        torch.__future__.get_overwrite_module_params_on_conversion(),
    )
    torch.__future__.set_swap_module_params_on_conversion(swap)
    torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
    try:
        for sample in samples(name, torch.float32, training, "cpu"):
            module = build(getattr(space, name), sample, training, dtype=torch.float32)
            held = [id(parameter) for parameter in module.parameters()]
            with torch.no_grad():  # A graph holds the parameters, and those cannot be swapped.
                expected = call(module, sample)
            module.to(torch.float64)
            same = [id(parameter) for parameter in module.parameters()] == held
            assert same is (swap or not overwrite)
            module.to(torch.float32)
            with torch.no_grad():
                assert equal(call(module, sample), expected)
            module.to("meta")
            assert all(parameter.is_meta for parameter in module.parameters())
            module.to_empty(device="cpu")
            twin = build(getattr(nn, name), sample, training, dtype=torch.float32)
            for parameter in (*module.parameters(), *twin.parameters()):
                nn.init.constant_(parameter, 0.1)
            pairs = zip(tensors_of(call(module, sample), "").values(),
                        tensors_of(call(twin, sample), "").values(), strict=True)  # fmt: skip
            for one, other in pairs:
                assert_close(one, other, tolerance(torch.float32, 45))
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before[0])
        torch.__future__.set_overwrite_module_params_on_conversion(before[1])


@each_space
@each_name
def test_if_train_and_eval_modes_differ(name: str, space: ModuleType) -> None:
    """torch's layers do only by dropout, of which its inputs have none."""
    for sample in samples(name, torch.float64, True, "cpu"):
        module = build(getattr(space, name), sample, True, dtype=torch.float64)
        trained = call(module, sample)
        assert equal(call(module.eval(), sample), trained)


@each_mode
@each_space
@each_name
def test_memory_format_and_multiple_transfer(
    name: str, space: ModuleType, training: bool, device: str
) -> None:
    for sample in samples(name, torch.float64, training, device):
        module = build(getattr(space, name), sample, training, dtype=DOUBLE, device=device)
        expected = call(module, sample)
        for _ in range(2):
            module.to(memory_format=torch.channels_last)
            module.cpu().to(device).double()
            assert equal(call(module, sample), expected)
            assert all(parameter.device.type == device for parameter in module.parameters())


@each_mode
@each_space
@each_name
def test_pickle_in_an_unfinished_model(name: str, space: ModuleType, training: bool) -> None:
    for sample in samples(name, torch.float32, training, "cpu"):
        module = build(getattr(space, name), sample, training, dtype=torch.float32)
        model = nn.ModuleList([module, nn.Linear(2, 2)])
        again = pickle.loads(pickle.dumps(model))
        assert equal(call(again[0], sample), call(module, sample))
        assert repr(again) == repr(model)
