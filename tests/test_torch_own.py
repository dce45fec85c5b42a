"""torch's own tests of recurrent layers and cells, by name and meaning, on fusedrnn's classes.

Those of test_nn.py, nn/test_packed_sequence.py, nn/test_pruning.py and nn/test_parametrization.py
are here in words of our own, and what test_modules.py does beside test_conformance.py. Each runs on
torch.nn's classes as well, so that it asks no more than they give. Differences, with the reasons:

- test_RNN_dropout_state, test_cudnn_weight_format, test_cudnn_forward_exception and others of
  cuDNN's flat weights and dropout state: there is no such state here; those with a meaning beyond
  it (dropout changes, tied weights, pickling) are kept.
- test_rnn_check_device wants two devices: "meta" is the second.
- test_check_inplace and test_memory_format of test_modules have no recurrent module to run on
  (`inplace` and 4-D input); the conversion to channels_last is here.
- test_module_apply_inplace_op and others of nn.Module alone never call a layer.
"""

from __future__ import annotations

import io
import warnings
from types import ModuleType
from typing import Any

import pytest
import torch
from cases import assert_close, map_tensors, tensors_of, tolerance
from test_conformance import NAMES
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pad_packed_sequence,
    pad_sequence,
)

import fusedrnn
from fusedrnn import compat

LAYERS = ("RNN", "LSTM", "GRU")
CELLS = ("RNNCell", "LSTMCell", "GRUCell")
DOUBLE = torch.float64

each_space = pytest.mark.parametrize("space", [fusedrnn, compat, nn], ids=["ours", "compat", "nn"])
each_layer = pytest.mark.parametrize("name", LAYERS)
each_cell = pytest.mark.parametrize("name", CELLS)
each_name = pytest.mark.parametrize("name", NAMES)
each_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def states(name: str, *shape: int, width: int = 0, **kwargs: Any) -> Any:
    """A state of that shape; for an LSTM a pair, of which h may have another width."""
    if not name.startswith("LSTM"):
        return torch.randn(shape, **kwargs)
    h_shape = (*shape[:-1], width or shape[-1])
    return torch.randn(h_shape, **kwargs), torch.randn(shape, **kwargs)


def first_h(state: Any) -> Tensor:
    return state[0] if isinstance(state, tuple) else state


def equal(actual: Any, expected: Any) -> bool:
    pairs = zip(tensors_of(actual, "").values(), tensors_of(expected, "").values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


# Cells


@pytest.mark.parametrize("bias", [True, False])
@each_space
@each_cell
def test_cell_of_six_steps_goes_backward(name: str, space: ModuleType, bias: bool) -> None:
    cell, input = getattr(space, name)(10, 20, bias=bias), torch.randn(3, 10)
    hx = states(name, 3, 20)
    for _ in range(6):
        hx = cell(input, hx)
    first_h(hx).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in cell.parameters())


@each_space
@each_cell
def test_cell_forward_input_size(name: str, space: ModuleType) -> None:
    with pytest.raises(RuntimeError):
        getattr(space, name)(10, 20)(torch.randn(3, 11), states(name, 3, 20))


@each_space
@each_cell
def test_cell_forward_hidden_size(name: str, space: ModuleType) -> None:
    good = states(name, 3, 20)
    bad = states(name, 3, 21)
    wrong = [bad] if name != "LSTMCell" else [(good[0], bad[1]), (bad[0], good[1]), bad]
    for hx in wrong:
        with pytest.raises(RuntimeError):
            getattr(space, name)(10, 20)(torch.randn(3, 10), hx)


@each_space
@each_cell
def test_cell_no_broadcasting(name: str, space: ModuleType) -> None:
    for batch_size, rows, input_size, width in ((3, 1, 10, 20), (3, 2, 10, 20), (1, 3, 10, 20),
                                                (3, 3, 1, 20), (3, 3, 10, 1)):  # fmt: skip
        with pytest.raises(RuntimeError):
            getattr(space, name)(10, 20)(torch.randn(batch_size, input_size),
                                         states(name, rows, width))  # fmt: skip


@each_space
@each_cell
def test_cell_forward_zero_hidden_size(name: str, space: ModuleType) -> None:
    kinds = [{"nonlinearity": kind} for kind in ("tanh", "relu")] if name == "RNNCell" else [{}]
    for kwargs in kinds:
        cell = getattr(space, name)(10, 0, **kwargs)
        for hx in (states(name, 3, 0), None):
            assert first_h(cell(torch.randn(3, 10), hx)).shape == (3, 0)


@pytest.mark.parametrize("place", [0, 1])
@each_space
def test_lstmcell_backward_only_one_output_grad(space: ModuleType, place: int) -> None:
    cell = space.LSTMCell(2, 3).to(DOUBLE)
    cell(torch.randn(1, 2, dtype=DOUBLE))[place].sum().backward()
    assert cell.weight_ih.grad.abs().sum() > 0


# Layers: arguments


def wrong_states(name: str, correct: list[int], dim: int, size: int, width: int = 0) -> list[Any]:
    shape = list(correct)
    shape[dim] = size
    if name != "LSTM":
        return [torch.randn(shape)]
    good_h, good_c = states(name, *correct, width=width)
    bad_h = torch.randn(*(shape if dim < 2 or not width else (*shape[:-1], size)))
    if width and dim < 2:
        bad_h = torch.randn(*shape[:-1], width)
    return [(good_h, torch.randn(shape)), (bad_h, good_c), (bad_h, torch.randn(shape))]


@pytest.mark.parametrize("proj_size", [0, 2])
@each_space
@each_layer
def test_rnn_args_check(name: str, space: ModuleType, proj_size: int) -> None:
    if proj_size and name != "LSTM":
        pytest.skip("test_projections_lstm_args_check is of LSTM")
    input_size, hidden_size, num_layers, batch_size, seq_len, bad = 3, 5, 2, 4, 6, 7
    kwargs = {"proj_size": proj_size} if proj_size else {}
    layer = getattr(space, name)(input_size, hidden_size, num_layers, **kwargs)
    input = torch.randn(seq_len, batch_size, input_size)
    shape = [num_layers, batch_size, hidden_size]
    with pytest.raises(RuntimeError, match="input.size"):
        layer(torch.randn(seq_len, batch_size, bad), states(name, *shape, width=proj_size))
    with pytest.raises(RuntimeError, match="Expected hidden"):
        layer(torch.randn(seq_len, bad, input_size), states(name, *shape, width=proj_size))
    for dim in range(3):
        for hx in wrong_states(name, shape, dim, bad, proj_size):
            with pytest.raises(RuntimeError, match="Expected hidden"):
                layer(input, hx)


@pytest.mark.parametrize("proj_size", [0, 2])
@each_space
@each_layer
def test_rnn_check_device(name: str, space: ModuleType, proj_size: int) -> None:
    if proj_size and name != "LSTM":
        pytest.skip("test_projections_lstm_check_device is of LSTM")
    kwargs = {"proj_size": proj_size} if proj_size else {}
    layer, input = getattr(space, name)(3, 5, 2, **kwargs), torch.randn(6, 4, 3)
    hx = states(name, 2, 4, 5, width=proj_size)
    with pytest.raises(
        RuntimeError, match="Input and parameter tensors are not at the same device"
    ):
        layer(input.to("meta"))
    with pytest.raises(RuntimeError, match="Input and hidden tensors are not at the same device"):
        layer(input, map_tensors(hx, lambda tensor: tensor.to("meta")))
    if name == "LSTM":
        for mixed in ((hx[0], hx[1].to("meta")), (hx[0].to("meta"), hx[1])):
            with pytest.raises(RuntimeError, match="hidden tensors are not at the same device"):
                layer(input, mixed)


@each_space
@each_layer
def test_rnn_initial_hidden_state(name: str, space: ModuleType) -> None:
    for kwargs in ({}, {"bidirectional": True}):
        layer, input = getattr(space, name)(30, 20, 2, **kwargs), torch.randn(10, 5, 30)
        rows = 4 if kwargs else 2
        zeros = map_tensors(states(name, rows, 5, 20), torch.zeros_like)
        assert equal(layer(input, zeros), layer(input))


@pytest.mark.parametrize("bidirectional", [True, False])
@each_space
def test_projections_lstm_initial_hidden_state(space: ModuleType, bidirectional: bool) -> None:
    layer = space.LSTM(30, 20, 2, bidirectional=bidirectional, proj_size=10)
    rows = 4 if bidirectional else 2
    input, zeros = torch.randn(10, 5, 30), (torch.zeros(rows, 5, 10), torch.zeros(rows, 5, 20))
    assert equal(layer(input, zeros), layer(input))


@each_space
def test_projections_errors_on_gru_and_rnn(space: ModuleType) -> None:
    for name in ("RNN", "GRU"):
        with pytest.raises(ValueError, match="proj_size argument is only supported for LSTM"):
            getattr(space, name)(30, 20, 2, proj_size=10)


@each_space
def test_rnn_nonlinearity(space: ModuleType) -> None:
    assert space.RNN(1, 10).nonlinearity == "tanh"
    assert space.RNN(1, 10, nonlinearity="relu").nonlinearity == "relu"
    assert space.RNN(2, 3, 1, "relu").nonlinearity == "relu"
    with pytest.raises(ValueError, match="Unknown nonlinearity"):
        space.RNN(1, 10, nonlinearity="garbage")


@each_space
@each_layer
def test_rnn_input_size_zero(name: str, space: ModuleType, device: str) -> None:
    """A batch of none."""
    output, hx = getattr(space, name)(3, 4).to(device)(torch.zeros(5, 0, 3, device=device))
    assert output.shape == (5, 0, 4) and first_h(hx).shape == (1, 0, 4)
    output.sum().backward()


# Layers: dropout


@each_mode
@pytest.mark.parametrize("p", [0, 0.1234, 0.99, 1])
@each_space
def test_rnn_dropout(space: ModuleType, p: float, training: bool, device: str) -> None:
    layer = space.RNN(10, 1000, 2, bias=False, dropout=p, nonlinearity="relu").to(device)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(1)
        layer.weight_hh_l1.fill_(0)
    layer.train(training)
    input, hx = torch.ones(1, 1, 10, device=device), torch.zeros(2, 1, 1000, device=device)
    output, hy = layer(input, hx)
    assert output.min() == output.max()
    value = output[0, 0, 0].item()
    if p == 0 or not training:
        assert value == 10000
    elif p == 1:
        assert value == 0
    else:
        assert 0 < value < 30000 and (p > 0.5 or 8000 < value < 12000)
        kept = value * (1 - p) / 10
        assert kept == pytest.approx(round(kept), abs=0.01)
    assert hy[0].min() == hy[0].max() == 10 and hy[1].min() == hy[1].max() == value


@each_mode
@pytest.mark.parametrize("p", [0, 0.1234])
@each_space
def test_rnn_dropout_state(space: ModuleType, p: float, training: bool, device: str) -> None:
    layer = space.RNN(100, 100, 2, bias=False, dropout=p, nonlinearity="relu").to(device)
    layer.train(training)
    input, hx = torch.rand(1, 1, 100, device=device), torch.rand(2, 1, 100, device=device)
    results = [layer(input, hx), layer(input, hx)]
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    loaded.flatten_parameters()
    results.append(loaded(input, hx))
    is_random = p > 0 and training
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert equal(results[one], results[other]) is not is_random
    torch.manual_seed(5)
    again = layer(input, hx)
    torch.manual_seed(5)
    assert equal(layer(input, hx), again)


@each_mode
@each_space
def test_rnn_change_dropout(space: ModuleType, training: bool, device: str) -> None:
    layer = space.RNN(100, 100, 2, dropout=0, nonlinearity="relu").to(device).train(training)
    input, hx = torch.rand(3, 2, 100, device=device), torch.rand(2, 2, 100, device=device)
    plain = layer(input, hx)[0]
    for p in (0, 0.5, 0, 0.7, 0.2, 1, 0.2, 0):
        layer.dropout = p
        one, other = layer(input, hx)[0], layer(input, hx)[0]
        assert equal(one, other) is (p in (0, 1) or not training), p
        assert equal(one, plain) is (p == 0 or not training), p


@each_space
@each_layer
def test_rnn_refuses_a_dropout_that_is_no_probability(name: str, space: ModuleType) -> None:
    for p in (-0.1, 1.5, True, "0.5"):
        with pytest.raises((ValueError, TypeError)):
            getattr(space, name)(3, 4, 2, dropout=p)
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
        getattr(space, name)(3, 4, 1, dropout=0.5)


# Layers: backward


@each_space
@each_layer
def test_rnn_retain_variables(name: str, space: ModuleType, device: str) -> None:
    layer = getattr(space, name)(10, 20, num_layers=2).to(device)
    input = torch.randn(5, 6, 10, device=device, requires_grad=True)
    output = layer(input)[0]
    expected = None
    for _ in range(5):
        layer.zero_grad()
        input.grad = None
        output.sum().backward(retain_graph=True)
        grads = [input.grad, *(parameter.grad for parameter in layer.parameters())]
        assert expected is None or equal(grads, expected)
        expected = [grad.clone() for grad in grads]


@pytest.mark.parametrize("bias", [True, False])
@each_space
@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_grad_and_gradgrad(name: str, space: ModuleType, bias: bool, device: str) -> None:
    layer = getattr(space, name)(4, 4, bias=bias).to(device, DOUBLE)
    input = torch.rand(1, 3, 4, dtype=DOUBLE, device=device, requires_grad=True)

    def results(input: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensors_of(layer(input), "").values())

    arguments = (input, *layer.parameters())
    assert torch.autograd.gradcheck(results, arguments, check_batched_grad=space is not nn)
    assert torch.autograd.gradgradcheck(results, arguments)


@pytest.mark.parametrize("is_sorted", [True, False])
@pytest.mark.parametrize("with_hx", [True, False])
@each_space
@each_layer
def test_variable_sequence(
    name: str, space: ModuleType, with_hx: bool, is_sorted: bool, device: str
) -> None:
    """A packed batch, and its sequences one by one: results and gradients."""
    lengths = [10, 10, 6, 2, 2, 1, 1] if is_sorted else [2, 10, 1, 6, 10, 1, 2]
    layer = getattr(space, name)(3, 4, bidirectional=True, num_layers=2).to(device, DOUBLE)
    input = torch.randn(10, 7, 3, dtype=DOUBLE, device=device, requires_grad=True)
    hx = states(name, 4, 7, 4, dtype=DOUBLE, device=device) if with_hx else None

    alone, last = [], []
    for row, length in enumerate(lengths):
        own = None if hx is None else map_tensors(hx, lambda h, row=row: h[:, row : row + 1])
        output, state = layer(input[:length, row : row + 1], own)
        alone.append(output.squeeze(1))
        last.append(first_h(state))
    expected, expected_h = pad_sequence(alone), torch.cat(last, 1)

    packed = pack_padded_sequence(input, torch.tensor(lengths), enforce_sorted=is_sorted)
    output, state = layer(packed, hx)
    assert isinstance(output, PackedSequence)
    padded, found = pad_packed_sequence(output)
    assert found.tolist() == lengths
    arguments = [input, *layer.parameters()]
    grads = torch.autograd.grad((padded.sin().sum() + first_h(state).sum()), arguments)
    wanted = torch.autograd.grad((expected.sin().sum() + expected_h.sum()), arguments)
    for one, other in ((padded, expected), (first_h(state), expected_h), *zip(grads, wanted)):
        assert_close(one, other, tolerance(DOUBLE, 40))


# Layers: weights


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize(("weight", "count"), [("weight_ih_l0", 4), ("weight_hr_l0", 5)])
@each_space
def test_rnn_weight_norm(space: ModuleType, weight: str, count: int) -> None:
    layer = space.LSTM(32, 32, proj_size=16 if count == 5 else 0)

    def held() -> int:
        return sum(isinstance(tensor, nn.Parameter) for tensor in layer._flat_weights)

    input = torch.randn(3, 2, 32)
    expected = layer(input)
    nn.utils.weight_norm(layer, name=weight)
    assert held() == count - 1
    for one, other in zip(*(tensors_of(r, "").values() for r in (layer(input), expected))):
        assert_close(one, other, tolerance(torch.float32, 3))
    nn.utils.remove_weight_norm(layer, name=weight)
    assert held() == count


@each_space
def test_rnn_pruning(space: ModuleType) -> None:
    layer = space.LSTM(32, 32)
    prune.l1_unstructured(layer, "weight_ih_l0", 0.5)
    assert sum(isinstance(tensor, nn.Parameter) for tensor in layer._flat_weights) == 3
    layer(torch.randn(3, 2, 32))[0].sum().backward()
    assert layer.weight_ih_l0_orig.grad is not None
    prune.remove(layer, "weight_ih_l0")
    assert sum(isinstance(tensor, nn.Parameter) for tensor in layer._flat_weights) == 4
    assert "weight_ih_l0" in layer._parameters and (layer.weight_ih_l0 == 0).sum() >= 2048


@each_space
@each_layer
def test_weight_tying(name: str, space: ModuleType, device: str) -> None:
    layer = getattr(space, name)(3, 5, 1, bidirectional=True).to(device)
    layer.weight_ih_l0_reverse = layer.weight_ih_l0
    input = torch.randn(7, 2, 3, device=device)
    twin = getattr(nn, name)(3, 5, 1, bidirectional=True).to(device)
    twin.weight_ih_l0_reverse = twin.weight_ih_l0
    twin.load_state_dict(layer.state_dict())
    assert len(list(layer.parameters())) == 7
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3):
            for module in (layer, twin):
                optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
                optimizer.zero_grad()
                module(input)[0].sum().backward()
                optimizer.step()
        output, expected = layer(input)[0], twin(input)[0]
    assert_close(output, expected, tolerance(torch.float32, 7 * 4))
