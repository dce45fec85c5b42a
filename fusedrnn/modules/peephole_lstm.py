"""PeepholeLSTM: an LSTM whose gates look at the state c."""

from __future__ import annotations

from torch import Tensor

from fusedrnn._results import LSTMGates, LSTMStates
from fusedrnn.modules.recurrent_base import RecurrentBase

__all__ = ["PeepholeLSTM"]


class PeepholeLSTM(RecurrentBase[tuple[Tensor, Tensor], LSTMStates, LSTMGates]):
    r"""LSTM layers with peepholes over a sequence; torch.nn has none.

    With a = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh, of which each gate has rows of its own:
    i, f = sigmoid(a + p * c_{t-1}), g = tanh(a), c_t = f * c_{t-1} + i * g,
    o = sigmoid(a + p_o * c_t), h_t = o * tanh(c_t), or with `proj_size` W_hr (o * tanh(c_t)). i, f
    and o have a p for each unit: `params_l{k}{_reverse}` is p_i, p_f, p_o, (3 * hidden_size,).

    Args:
        input_size, hidden_size, num_layers, bias: as for `fusedrnn.LSTM`.
        batch_first, dropout, bidirectional, proj_size, device, dtype: as for `fusedrnn.LSTM`.

    Call with:
        The same as `fusedrnn.LSTM`, which also returns the same.

    Raises:
        TypeError, ValueError, RuntimeError: an argument does not fit; the message says how.

    Source: Gers and Schmidhuber 2000, "Recurrent nets that time and count"; Graves 2013,
    "Generating sequences with recurrent neural networks", equations 7 to 11.

    Examples:
        >>> layer = PeepholeLSTM(5, 3)
        >>> output, (h_n, c_n) = layer(torch.randn(7, 2, 5))
        >>> output.shape, c_n.shape, layer.params_l0.shape
        (torch.Size([7, 2, 3]), torch.Size([1, 2, 3]), torch.Size([9]))
    """

    cell = "peephole_lstm"
