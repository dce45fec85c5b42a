"""Drop-in recurrent layers and cells."""

from fusedrnn.modules.cells import GRUCell, LSTMCell, RNNCell
from fusedrnn.modules.layers import GRU, LSTM, RNN
from fusedrnn.modules.peephole_lstm import PeepholeLSTM
from fusedrnn.modules.recurrent_base import RecurrentBase

__all__ = [
    "GRU",
    "GRUCell",
    "LSTM",
    "LSTMCell",
    "PeepholeLSTM",
    "RNN",
    "RNNCell",
    "RecurrentBase",
]
