"""Drop-in recurrent layers and cells."""

from fusedrnn.modules.cells import GRUCell, LSTMCell, RNNCell
from fusedrnn.modules.layers import GRU, LSTM, RNN

__all__ = ["GRU", "GRUCell", "LSTM", "LSTMCell", "RNN", "RNNCell"]
