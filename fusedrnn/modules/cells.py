"""RNNCell, LSTMCell and GRUCell: torch.nn's modules of these names, with fused kernels."""

from __future__ import annotations

import torch
from torch import nn

from fusedrnn.modules.base import GRUCellMixin, LSTMCellMixin, RNNCellMixin

__all__ = ["GRUCell", "LSTMCell", "RNNCell"]


class RNNCell(RNNCellMixin, nn.RNNCellBase):
    r"""One time step of an Elman RNN; takes the place of `torch.nn.RNNCell`.

    h' = act(W_ih x + b_ih + W_hh h + b_hh), with act = tanh or ReLU.

    Args:
        input_size: features of the input.
        hidden_size: features of h.
        bias: the cell has `bias_ih` and `bias_hh`.
        nonlinearity: "tanh" or "relu".
        device, dtype: of the parameters; float32, float64, bfloat16 or float16.

    Call with:
        - input: `(B, input_size)`, or `(input_size,)` for one row.
        - hx: h `(B, hidden_size)`, or `(hidden_size,)` for one row; zeros if absent.

    Returns:
        h', as h.

    Raises:
        ValueError, RuntimeError: as torch.nn.RNNCell, with its texts.

    Differences from torch.nn.RNNCell: a mixture of dtypes or devices is named; under autocast
    every result has autocast's dtype.

    Source: Elman 1990, "Finding Structure in Time".

    Examples:
        >>> cell = RNNCell(5, 3)
        >>> h = None
        >>> for x in torch.randn(7, 2, 5):
        ...     h = cell(x, h)
        >>> h.shape
        torch.Size([2, 3])
    """

    nonlinearity: str

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, num_chunks=1, device=device, dtype=dtype)
        self.nonlinearity = nonlinearity


class LSTMCell(LSTMCellMixin, nn.RNNCellBase):
    r"""One time step of an LSTM; takes the place of `torch.nn.LSTMCell`.

    i, f, o = sigmoid(W_ih x + b_ih + W_hh h + b_hh), g = tanh(the same), each with its own rows;
    c' = f * c + i * g; h' = o * tanh(c').

    Args:
        input_size, hidden_size, bias, device, dtype: as for `RNNCell`.

    Call with:
        - input: `(B, input_size)`, or `(input_size,)` for one row.
        - hx: h and c, both `(B, hidden_size)`, without B for one row; zeros if absent.

    Returns:
        h' and c', as h and c.

    Raises:
        TypeError, ValueError, RuntimeError: as torch.nn.LSTMCell, with its texts.

    Differences from torch.nn.LSTMCell: those of `RNNCell`.

    Source: Hochreiter and Schmidhuber 1997; Gers et al. 2000.

    Examples:
        >>> cell = LSTMCell(5, 3)
        >>> state = None
        >>> for x in torch.randn(7, 2, 5):
        ...     state = cell(x, state)
        >>> h, c = state
        >>> h.shape, c.shape
        (torch.Size([2, 3]), torch.Size([2, 3]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, num_chunks=4, device=device, dtype=dtype)


class GRUCell(GRUCellMixin, nn.RNNCellBase):
    r"""One time step of a GRU; takes the place of `torch.nn.GRUCell`.

    r, z = sigmoid(W_ih x + b_ih + W_hh h + b_hh), each with its own rows;
    n = tanh(W_in x + b_in + r * (W_hn h + b_hn)); h' = (1 - z) * n + z * h.

    Args:
        input_size, hidden_size, bias, device, dtype: as for `RNNCell`.

    Call with:
        The same as `RNNCell`.

    Returns:
        h', as h.

    Raises:
        ValueError, RuntimeError: as torch.nn.GRUCell, with its texts.

    Differences from torch.nn.GRUCell: those of `RNNCell`.

    Source: Cho et al. 2014.

    Examples:
        >>> cell = GRUCell(5, 3)
        >>> cell(torch.randn(5)).shape
        torch.Size([3])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, num_chunks=3, device=device, dtype=dtype)
