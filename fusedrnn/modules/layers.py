"""RNN, LSTM and GRU: torch.nn's modules of these names, with fused kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fusedrnn.modules.base import GRUMixin, LSTMMixin, RNNMixin

__all__ = ["GRU", "LSTM", "RNN"]


class RNN(RNNMixin, nn.RNNBase):
    r"""Elman RNN layers over a sequence; takes the place of `torch.nn.RNN`.

    h_t = act(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), with act = tanh or ReLU.

    Args:
        input_size: features of the input.
        hidden_size: features of h.
        num_layers: layers in the stack; each takes the output of the one before.
        nonlinearity: "tanh" or "relu".
        bias: the layers have `bias_ih` and `bias_hh`.
        batch_first: input and output are `(B, T, ...)` instead of `(T, B, ...)`.
        dropout: probability of zeroing an element of each layer's output but the last's, in
            training.
        bidirectional: every layer also runs in reverse.
        device, dtype: of the parameters; float32, float64, bfloat16 or float16.

    Call with:
        - input: `(T, B, input_size)`, `(B, T, input_size)` with `batch_first`,
          `(T, input_size)` for one sequence, or a `PackedSequence`.
        - hx: h_0 `(num_layers * D, B, hidden_size)` for D directions, without B for one sequence;
          zeros if absent.
        - lengths, reset, reset_state, return_states, return_gates, recompute: keyword-only, and
          none of torch.nn's; see `forward`.

    Returns:
        output `(T, B, D * hidden_size)`, laid out as the input, and h_n, as h_0; then every
        step's states and gates, where asked for.

    Raises:
        TypeError, ValueError, RuntimeError: as torch.nn.RNN, with its texts.

    Differences from torch.nn.RNN: `flatten_parameters` does nothing; forward is differentiable
    in eval mode and twice everywhere; under autocast every result has autocast's dtype; it is
    no instance of `torch.nn.RNN` (`fusedrnn.compat.RNN` is), so torch.compile does not break
    the graph at it; torch.jit.trace takes it, torch.jit.script does not.

    Source: Elman 1990, "Finding Structure in Time".

    Examples:
        >>> layer = RNN(5, 3, num_layers=2)
        >>> output, h_n = layer(torch.randn(7, 2, 5))
        >>> output.shape, h_n.shape
        (torch.Size([7, 2, 3]), torch.Size([2, 2, 3]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        _refuse_proj_size(kwargs)
        if nonlinearity == "tanh":
            mode = "RNN_TANH"
        elif nonlinearity == "relu":
            mode = "RNN_RELU"
        else:
            raise ValueError(
                f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'."
            )
        super().__init__(
            mode,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
            **kwargs,
        )
        self.nonlinearity = nonlinearity


class LSTM(LSTMMixin, nn.RNNBase):
    r"""LSTM layers over a sequence; takes the place of `torch.nn.LSTM`.

    i, f, o = sigmoid(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), g = tanh(the same), each with its
    own rows; c_t = f * c_{t-1} + i * g; h_t = o * tanh(c_t), or with `proj_size`
    W_hr (o * tanh(c_t)).

    Args:
        input_size, hidden_size, num_layers, bias: as for `RNN`.
        batch_first, dropout, bidirectional: as for `RNN`.
        proj_size: features of h after the projection; 0 for none.
        device, dtype: as for `RNN`.

    Call with:
        - input: as for `RNN`.
        - hx: h_0 `(num_layers * D, B, P)` and c_0 `(num_layers * D, B, hidden_size)` for D
          directions and P = proj_size or hidden_size, without B for one sequence; zeros if absent.
        - lengths, reset, reset_state, return_states, return_gates, recompute: as for `RNN`.

    Returns:
        output `(T, B, D * P)`, laid out as the input, and (h_n, c_n), as (h_0, c_0); then every
        step's states and gates, where asked for.

    Raises:
        TypeError, ValueError, RuntimeError: as torch.nn.LSTM, with its texts.

    Differences from torch.nn.LSTM: those of `RNN`; and shapes and dtypes of packed input are
    checked as those of padded input.

    Source: Hochreiter and Schmidhuber 1997; Gers et al. 2000; Sak et al. 2014 (projection).

    Examples:
        >>> layer = LSTM(5, 3, batch_first=True, bidirectional=True)
        >>> output, (h_n, c_n) = layer(torch.randn(2, 7, 5))
        >>> output.shape, c_n.shape
        (torch.Size([2, 7, 6]), torch.Size([2, 2, 3]))
    """

    # torch's own, for a state of two tensors.
    get_expected_cell_size = nn.LSTM.get_expected_cell_size
    check_forward_args = nn.LSTM.check_forward_args  # type: ignore[assignment]
    permute_hidden = nn.LSTM.permute_hidden  # type: ignore[assignment]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            "LSTM",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device=device,
            dtype=dtype,
        )


class GRU(GRUMixin, nn.RNNBase):
    r"""GRU layers over a sequence; takes the place of `torch.nn.GRU`.

    r, z = sigmoid(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), each with its own rows;
    n = tanh(W_in x_t + b_in + r * (W_hn h_{t-1} + b_hn)); h_t = (1 - z) * n + z * h_{t-1}.

    Args:
        input_size, hidden_size, num_layers, bias: as for `RNN`.
        batch_first, dropout, bidirectional, device, dtype: as for `RNN`.

    Call with:
        The same as `RNN`.

    Returns:
        output `(T, B, D * hidden_size)`, laid out as the input, and h_n, as h_0; then every
        step's states and gates, where asked for.

    Raises:
        TypeError, ValueError, RuntimeError: as torch.nn.GRU, with its texts.

    Differences from torch.nn.GRU: those of `RNN`.

    Source: torch.nn.GRU (the reset gate acts after the product); Cho et al. 2014.

    Examples:
        >>> layer = GRU(5, 3)
        >>> output, h_n = layer(torch.randn(7, 5))  # one sequence
        >>> output.shape, h_n.shape
        (torch.Size([7, 3]), torch.Size([1, 3]))
        >>> output, h_n = layer(torch.randn(7, 2, 5), lengths=torch.tensor([7, 4]))
        >>> output[4:, 1].any()
        tensor(False)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        _refuse_proj_size(kwargs)
        super().__init__(
            "GRU",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
            **kwargs,
        )


def _refuse_proj_size(kwargs: dict[str, Any]) -> None:
    """Raises torch's error for proj_size; RNNBase refuses any other unknown keyword."""
    if "proj_size" in kwargs:
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
