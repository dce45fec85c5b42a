"""What a type checker makes of a user's code: `make lint` checks it, and nothing runs it."""

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from typing_extensions import assert_type

import fusedrnn
from fusedrnn import compat, functional
from fusedrnn.functional import (
    GRUGates,
    LayerWeights,
    LSTMGates,
    LSTMStates,
    RNNGates,
    RNNStates,
)

x = torch.randn(7, 2, 5)
packed = PackedSequence(torch.randn(7, 5), torch.tensor([2, 2, 2, 1]))
lengths = torch.tensor([7, 4])
state = torch.zeros(1, 2, 3)


def layers(rnn: fusedrnn.RNN, lstm: fusedrnn.LSTM, gru: fusedrnn.GRU, asked: bool) -> None:
    assert_type(rnn(x), tuple[Tensor, Tensor])
    assert_type(lstm(x), tuple[Tensor, tuple[Tensor, Tensor]])
    assert_type(gru(x, state, lengths=lengths), tuple[Tensor, Tensor])
    assert_type(lstm.forward(x, (state, state)), tuple[Tensor, tuple[Tensor, Tensor]])
    assert_type(lstm(packed), tuple[PackedSequence, tuple[Tensor, Tensor]])
    assert_type(gru(packed, recompute="gates"), tuple[PackedSequence, Tensor])
    assert_type(rnn(x, return_states=True), tuple[Tensor, Tensor, RNNStates])
    assert_type(gru(x, return_gates=True), tuple[Tensor, Tensor, GRUGates])
    assert_type(
        lstm(x, return_states=True, return_gates=True, lengths=[7, 4]),
        tuple[Tensor, tuple[Tensor, Tensor], LSTMStates, LSTMGates],
    )
    assert_type(rnn(x, return_gates=True)[2], RNNGates)
    lstm(x, return_states=asked)
    gru(x, (state, state))  # type: ignore[call-overload]
    lstm(x, state)  # type: ignore[call-overload]
    rnn(x, lenghts=lengths)  # type: ignore[call-overload]
    _, _, _ = gru(x)  # type: ignore[misc]


def torch_instances(lstm: compat.LSTM) -> None:
    torch_lstm: torch.nn.LSTM = lstm
    assert_type(lstm(x), tuple[Tensor, tuple[Tensor, Tensor]])
    assert_type(torch_lstm.hidden_size, int)


def cells(rnn: fusedrnn.RNNCell, lstm: fusedrnn.LSTMCell, gru: compat.GRUCell) -> None:
    assert_type(rnn(x[0]), Tensor)
    assert_type(lstm(x[0]), tuple[Tensor, Tensor])
    assert_type(gru(x[0], state[0]), Tensor)
    lstm(x[0], state[0])  # type: ignore[arg-type]


def functions(weights: list[LayerWeights]) -> None:
    assert_type(functional.lstm(x, None, weights), tuple[Tensor, tuple[Tensor, Tensor]])
    assert_type(functional.gru(packed, None, weights), tuple[PackedSequence, Tensor])
    assert_type(
        functional.rnn(x, state, weights, nonlinearity="relu", return_states=True),
        tuple[Tensor, Tensor, RNNStates],
    )
    assert_type(
        functional.gru(x, None, weights, batch_first=True, return_gates=True),
        tuple[Tensor, Tensor, GRUGates],
    )
    assert_type(functional.lstm_cell(x[0], None, weights[0]), tuple[Tensor, Tensor])


def conversion(model: torch.nn.Module) -> None:
    fusedrnn.replace(model, skip=["decoder"])
    assert_type(fusedrnn.quantize(model, torch.int8), torch.nn.Module)
