"""Recurrent layers and cells as functions, for people with their own weights.

`rnn`, `lstm` and `gru` run a stack of layers over a whole sequence, `rnn_cell`, `lstm_cell`
and `gru_cell` one time step. The modules call these functions with their parameters. Sizes
come from the weights: input_size is `weight_ih.size(1)` of the first layer, hidden_size
`weight_hh.size(0)` over the number of gates, and P, the width of h, is `weight_hh.size(1)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.utils.rnn import PackedSequence

from fusedrnn import _library
from fusedrnn._cells import CELLS, Cell
from fusedrnn._checks import check_cell, check_layers, check_pair, check_ranks, check_types
from fusedrnn._gates import layer_gates
from fusedrnn._options import NO_OPTIONS, Options, Prepared, make_options, prepare, prepare_packed
from fusedrnn._quantized import QuantizedWeights
from fusedrnn._results import (
    GRUGates,
    LSTMGates,
    LSTMStates,
    RNNGates,
    RNNStates,
    gates_type,
    states_type,
)
from fusedrnn._steps import split_directions
from fusedrnn._typing import GRUFunction, LSTMFunction, RNNFunction, typed
from fusedrnn._weights import LayerWeights
from fusedrnn.ops import cell_forward, composed_cell_forward, layer_forward, plain_layer_forward

__all__ = [
    "GRUGates",
    "LSTMGates",
    "LSTMStates",
    "LayerWeights",
    "RNNGates",
    "RNNStates",
    "gru",
    "gru_cell",
    "lstm",
    "lstm_cell",
    "rnn",
    "rnn_cell",
]

_RNN_CELLS = {"tanh": "rnn_tanh", "relu": "rnn_relu"}
_Weights = LayerWeights | QuantizedWeights


@typed(RNNFunction)
def rnn(
    input: Tensor | PackedSequence,
    hx: Tensor | None,
    weights: Sequence[LayerWeights | QuantizedWeights],
    *,
    nonlinearity: str = "tanh",
    batch_first: bool = False,
    bidirectional: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    reset_state: Tensor | None = None,
    return_states: bool = False,
    return_gates: bool = False,
    recompute: str = "none",
) -> tuple[Any, ...]:
    """Runs a stack of Elman RNN layers over a sequence.

    h_t = act(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), with act = tanh or ReLU.

    With L layers, D directions, T = seq_len, B = batch_size and H = hidden_size:

    Args:
        input: `(T, B, input_size)`, `(B, T, input_size)` with `batch_first`, `(T, input_size)`
            for one sequence, or a `PackedSequence`; float32, float64, bfloat16 or float16, as
            every other tensor.
        hx: h_0 `(L * D, B, H)`, `(L * D, H)` for one sequence; None for zeros.
        weights: one `LayerWeights` a layer and direction, in the order of a module's
            `all_weights`: layer 0, layer 0 in reverse, layer 1, and so on; all of one H.
        nonlinearity: "tanh" or "relu".
        batch_first: the input's and the output's first two dimensions are B, T.
        bidirectional: every layer also runs in reverse, and D = 2.
        dropout: probability of zeroing an element of each layer's output but the last's.
        training: dropout acts.
        lengths: `(B,)`, for one sequence also `()`; any integer dtype and device, or a list of
            ints, each 0 to T: how many steps of each row of padded input are valid. The others
            count for nothing, even NaN: output and gradients there are 0, h_n has each row's last
            valid state, h_0 where there is none, and the reverse direction begins at each row's
            own end. Values on a GPU cannot be checked without waiting for it; there they are
            clamped.
        reset: `(T, B)`, `(B, T)` with `batch_first`, `(T,)` for one sequence; bool: where the
            state entering a step of padded input is replaced; see the picture.
        reset_state: what replaces it, in the form of hx; B may be 1, a state for every row;
            zeros if None. It gets the gradient that ends at the reset.
        return_states: also return the state after every step.
        return_gates: also return the activated gates of every step.
        recompute: what backward computes again instead of keeping it, with the same bits:
            "none", nothing; "gates", the gates; "chunk:N", all but the states of every Nth step.

    With a reset at step 2, `|` is where reset_state (R) enters in place of the state before:

        step            0        1        2        3
        forward   h_0 -> x_0 ---> x_1 -|R-> x_2 ---> x_3 -> h_n
        reverse   h_n <- x_0 <--- x_1 <---- x_2 <-R|- x_3 <- h_0

    Each direction resets before it processes the step: forward, step 2 begins anew and knows
    nothing of step 1; in reverse, it knows nothing of step 3, and step 1 still follows step 2.

    Returns:
        output `(T, B, D * H)`, laid out as the input, and h_n, as h_0. Then, where asked for,
        `RNNStates` and `RNNGates`, whose tensors are `(L * D, T, B, H)`, `(L * D, B, T, H)` with
        `batch_first`, `(L * D, T, H)` for one sequence: the states are those before dropout, 0
        past a row's length, and differentiable.

    Raises:
        TypeError: an argument is of another type.
        ValueError, RuntimeError: an argument does not fit; the message says how.

    Source: torch.nn.RNN; Elman 1990, "Finding Structure in Time".

    Examples:
        >>> weights = [LayerWeights(torch.randn(3, 5), torch.randn(3, 3))]
        >>> output, h_n = rnn(torch.randn(7, 2, 5), None, weights, nonlinearity="relu")
        >>> output.shape, h_n.shape
        (torch.Size([7, 2, 3]), torch.Size([1, 2, 3]))
    """
    try:
        cell = _RNN_CELLS[nonlinearity]
    except (KeyError, TypeError):
        raise ValueError(
            f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'."
        ) from None
    return run_layers(
        "RNN",
        cell,
        input,
        hx,
        weights,
        batch_first,
        bidirectional,
        dropout if training else 0.0,
        make_options(lengths, reset, reset_state, return_states, return_gates, recompute),
    )


@typed(LSTMFunction)
def lstm(
    input: Tensor | PackedSequence,
    hx: tuple[Tensor, Tensor] | None,
    weights: Sequence[LayerWeights | QuantizedWeights],
    *,
    batch_first: bool = False,
    bidirectional: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    reset_state: tuple[Tensor, Tensor] | None = None,
    return_states: bool = False,
    return_gates: bool = False,
    recompute: str = "none",
) -> tuple[Any, ...]:
    """Runs a stack of LSTM layers over a sequence, with a projection where weights have one.

    i, f, o = sigmoid(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), g = tanh(the same), each with its
    own rows; c_t = f * c_{t-1} + i * g; h_t = o * tanh(c_t), or W_hr (o * tanh(c_t)).

    Args:
        input: as for `rnn`.
        hx: h_0 `(L * D, B, P)` and c_0 `(L * D, B, H)`, without B for one sequence; None for
            zeros.
        weights: as for `rnn`; gates in the order i, f, g, o.
        batch_first, bidirectional, dropout, training: as for `rnn`.
        lengths, reset, return_states, return_gates, recompute: as for `rnn`.
        reset_state: as for `rnn`; a pair, as hx.

    Returns:
        output `(T, B, D * P)`, laid out as the input, and (h_n, c_n), as (h_0, c_0). Then, where
        asked for, `LSTMStates` and `LSTMGates`, laid out as for `rnn`.

    Raises:
        TypeError: an argument is of another type; hx or reset_state is no pair.
        ValueError, RuntimeError: an argument does not fit; the message says how.

    Source: torch.nn.LSTM; Hochreiter and Schmidhuber 1997; Gers et al. 2000 (forget gate);
    Sak et al. 2014 (projection).

    Examples:
        >>> weights = [LayerWeights(torch.randn(12, 5), torch.randn(12, 3))]
        >>> output, (h_n, c_n) = lstm(torch.randn(7, 2, 5), None, weights)
        >>> output.shape, c_n.shape
        (torch.Size([7, 2, 3]), torch.Size([1, 2, 3]))
        >>> lengths = torch.tensor([7, 4])
        >>> *_, states = lstm(
        ...     torch.randn(7, 2, 5), None, weights, lengths=lengths, return_states=True
        ... )
        >>> states.c.shape
        torch.Size([1, 7, 2, 3])
    """
    return run_layers(
        "LSTM",
        "lstm",
        input,
        hx,
        weights,
        batch_first,
        bidirectional,
        dropout if training else 0.0,
        make_options(lengths, reset, reset_state, return_states, return_gates, recompute),
    )


@typed(GRUFunction)
def gru(
    input: Tensor | PackedSequence,
    hx: Tensor | None,
    weights: Sequence[LayerWeights | QuantizedWeights],
    *,
    batch_first: bool = False,
    bidirectional: bool = False,
    dropout: float = 0.0,
    training: bool = False,
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    reset_state: Tensor | None = None,
    return_states: bool = False,
    return_gates: bool = False,
    recompute: str = "none",
) -> tuple[Any, ...]:
    """Runs a stack of GRU layers over a sequence.

    r, z = sigmoid(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), each with its own rows;
    n = tanh(W_in x_t + b_in + r * (W_hn h_{t-1} + b_hn)); h_t = (1 - z) * n + z * h_{t-1}.

    Args:
        input, hx: as for `rnn`.
        weights: as for `rnn`; gates in the order r, z, n.
        batch_first, bidirectional, dropout, training: as for `rnn`.
        lengths, reset, reset_state, return_states, return_gates, recompute: as for `rnn`.

    Returns:
        output `(T, B, D * H)`, laid out as the input, and h_n, as h_0. Then, where asked for,
        `RNNStates` and `GRUGates`, laid out as for `rnn`.

    Raises:
        TypeError: an argument is of another type.
        ValueError, RuntimeError: an argument does not fit; the message says how.

    Source: torch.nn.GRU (the reset gate acts after the product); Cho et al. 2014.

    Examples:
        >>> weights = [LayerWeights(torch.randn(9, 5), torch.randn(9, 3))]
        >>> output, h_n = gru(torch.randn(2, 7, 5), None, weights, batch_first=True)
        >>> output.shape, h_n.shape
        (torch.Size([2, 7, 3]), torch.Size([1, 2, 3]))
    """
    return run_layers(
        "GRU",
        "gru",
        input,
        hx,
        weights,
        batch_first,
        bidirectional,
        dropout if training else 0.0,
        make_options(lengths, reset, reset_state, return_states, return_gates, recompute),
    )


def rnn_cell(
    input: Tensor,
    hx: Tensor | None,
    weights: LayerWeights | QuantizedWeights,
    *,
    nonlinearity: str = "tanh",
) -> Tensor:
    """Runs one time step of an Elman RNN.

    h' = act(W_ih x + b_ih + W_hh h + b_hh), with act = tanh or ReLU.

    Args:
        input: `(B, input_size)`, or `(input_size,)` for one row.
        hx: h `(B, H)`, or `(H,)` for one row; None for zeros.
        weights: of the cell.
        nonlinearity: "tanh" or "relu".

    Returns:
        h', as h.

    Raises:
        ValueError, RuntimeError: an argument does not fit; the message says how.

    Source: torch.nn.RNNCell; Elman 1990, "Finding Structure in Time".

    Examples:
        >>> weights = LayerWeights(torch.randn(3, 5), torch.randn(3, 3))
        >>> rnn_cell(torch.randn(2, 5), None, weights).shape
        torch.Size([2, 3])
    """
    try:
        cell = _RNN_CELLS[nonlinearity]
    except (KeyError, TypeError):
        raise RuntimeError(f"Unknown nonlinearity: {nonlinearity}") from None
    return _run_cell("RNNCell", cell, input, hx, None, weights)[0]


def lstm_cell(
    input: Tensor, hx: tuple[Tensor, Tensor] | None, weights: LayerWeights | QuantizedWeights
) -> tuple[Tensor, Tensor]:
    """Runs one time step of an LSTM.

    The formula is that of `lstm`, for one step.

    Args:
        input: `(B, input_size)`, or `(input_size,)` for one row.
        hx: h `(B, P)` and c `(B, H)`, without B for one row; None for zeros.
        weights: of the cell; gates in the order i, f, g, o.

    Returns:
        h' and c', as h and c.

    Raises:
        TypeError: hx is no pair.
        ValueError, RuntimeError: an argument does not fit; the message says how.

    Source: torch.nn.LSTMCell; Hochreiter and Schmidhuber 1997; Gers et al. 2000.

    Examples:
        >>> weights = LayerWeights(torch.randn(12, 5), torch.randn(12, 3))
        >>> h, c = lstm_cell(torch.randn(2, 5), None, weights)
        >>> h.shape, c.shape
        (torch.Size([2, 3]), torch.Size([2, 3]))
    """
    if hx is None:
        return _run_cell("LSTMCell", "lstm", input, None, None, weights)
    check_pair("LSTMCell", hx)
    return _run_cell("LSTMCell", "lstm", input, *hx, weights)


def gru_cell(input: Tensor, hx: Tensor | None, weights: LayerWeights | QuantizedWeights) -> Tensor:
    """Runs one time step of a GRU.

    The formula is that of `gru`, for one step.

    Args:
        input, hx: as for `rnn_cell`.
        weights: of the cell; gates in the order r, z, n.

    Returns:
        h', as h.

    Raises:
        ValueError, RuntimeError: an argument does not fit; the message says how.

    Source: torch.nn.GRUCell; Cho et al. 2014.

    Examples:
        >>> weights = LayerWeights(torch.randn(9, 5), torch.randn(9, 3))
        >>> gru_cell(torch.randn(2, 5), None, weights).shape
        torch.Size([2, 3])
    """
    return _run_cell("GRUCell", "gru", input, hx, None, weights)[0]


def run_layers(
    name: str,
    cell: str,
    input: Tensor | PackedSequence,
    hx: Any,
    weights: Sequence[_Weights],
    batch_first: bool,
    bidirectional: bool,
    dropout: float,
    options: Options,
) -> tuple[Any, ...]:
    """What `rnn`, `lstm` and `gru` do, with their results; `name` is for messages.

    Brings the input to time-major form, runs the stack, and restores the input's form.
    """
    # One frame for all of it: another takes as long as a hundredth of a small call.
    kind = CELLS[cell]
    has_c = kind.states > 1
    try:
        if hx is None:
            states: tuple[Tensor, ...] = ()
        elif has_c:
            check_pair(name, hx)
            states = (hx[0], hx[1])
        else:
            states = (hx,)
        if bidirectional is True:
            directions = 2
        elif bidirectional is False:
            directions = 1
        else:
            raise TypeError(
                f"bidirectional: expected a bool, got {type(bidirectional).__name__}; pass "
                "True or False"
            )
        if not weights or len(weights) % directions:
            raise ValueError(
                f"weights: expected num_layers * {directions} LayerWeights, got {len(weights)}; "
                "pass one a layer and direction"
            )
        if isinstance(input, PackedSequence):
            data, batch_sizes, sorted_indices, unsorted_indices = input
            prepared = prepare_packed(options)
            check_layers(kind, data, states, weights, batch_sizes)
            if sorted_indices is not None:
                states = tuple(state.index_select(1, sorted_indices) for state in states)
            data, states, _, _ = _run_stack(
                kind, data, states, weights, directions, dropout, batch_sizes, prepared
            )
            if unsorted_indices is not None:
                states = tuple(state.index_select(1, unsorted_indices) for state in states)
            packed = PackedSequence(data, batch_sizes, sorted_indices, unsorted_indices)
            return packed, states if has_c else states[0]

        is_plain = len(weights) == directions and _operator_checks(input) and options is NO_OPTIONS
        batched = input.dim() == 3
        if not (is_plain and batched):
            check_ranks(name, input, states)
        if not batched:
            input = input.unsqueeze(1)
            states = tuple(state.unsqueeze(1) for state in states)
        elif batch_first:
            input = input.transpose(0, 1)
        if is_plain:
            output, states, every_state, gates = _run_plain(name, kind, input, states, weights)
        else:
            check_layers(kind, input, states, weights, None)
            prepared = prepare(options, name, kind, input, weights, batched, batch_first)
            output, states, every_state, gates = _run_stack(
                kind, input, states, weights, directions, dropout, None, prepared
            )
        # In place: a result that is a view of another could not be detached in place.
        if not batched:
            output, states = output.squeeze_(1), tuple(state.squeeze_(1) for state in states)
        elif batch_first:
            output = output.transpose_(0, 1)
        results: tuple[Any, ...] = (output, states if has_c else states[0])
        if every_state:
            results += (states_type(kind)(*_as_input(every_state, batched, batch_first)),)
        if gates:
            results += (gates_type(kind)(*_as_input(gates, batched, batch_first)),)
        return results
    except (AttributeError, TypeError, RuntimeError):
        check_types(name, kind, input, hx, weights)
        raise


def _as_input(values: tuple[Tensor, ...], batched: bool, batch_first: bool) -> list[Tensor]:
    """Every step's values, each [L * D, T, B, width], laid out as the input."""
    if not batched:
        return [steps.squeeze(2) for steps in values]
    return [steps.transpose(1, 2) if batch_first else steps for steps in values]


def _run_stack(
    cell: Cell,
    input: Tensor,
    states: tuple[Tensor, ...],
    weights: Sequence[_Weights],
    directions: int,
    dropout: float,
    batch_sizes: Tensor | None,
    prepared: Prepared,
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Runs every layer on time-major input; dropout is drawn between layers, as torch does.

    Returns the output, the final states, and every step's states and gates, () where they are
    not asked for.
    """
    lengths, reset, reset_state, return_states, return_gates, recompute = prepared
    num_layers = len(weights) // directions
    initial = _split_layers(states, num_layers, directions)
    replacement = _split_layers(reset_state, num_layers, directions)
    has_c = cell.states > 1
    gates_read_c = return_gates and has_c and bool(cell.param_names)
    return_c = return_states and has_c
    finals, every_state, gates = [], [], []
    for layer in range(num_layers):
        if layer > 0 and dropout > 0:
            input = F.dropout(input, dropout)
        h_0, c_0 = initial[layer]
        reset_h, reset_c = replacement[layer]
        layer_weights = weights[layer * directions : (layer + 1) * directions]
        output, h_n, c_n, c = layer_forward(
            cell.name,
            input,
            h_0,
            c_0,
            layer_weights[0],
            layer_weights[1] if directions == 2 else None,
            batch_sizes=batch_sizes,
            lengths=lengths,
            reset=reset,
            reset_h=reset_h,
            reset_c=reset_c,
            return_c=return_c or gates_read_c,
            recompute=recompute,
        )
        finals.append((h_n, c_n) if has_c else (h_n,))
        if return_states or return_gates:
            # A copy, as of several layers: output may be changed in place.
            h = split_directions(output, directions).clone()
        if return_states:
            every_state.append((h, c) if return_c else (h,))
        if return_gates:
            plain = [each.dequantize() for each in layer_weights]
            left = (h, c) if gates_read_c else (h,)
            first, replaced = initial[layer], replacement[layer]
            gates.append(layer_gates(cell, input, left, first, plain, lengths, reset, replaced))
        input = output
    return input, _join_layers(finals), _join_layers(every_state), _join_layers(gates)


def _run_plain(
    name: str, cell: Cell, input: Tensor, states: tuple[Tensor, ...], weights: Sequence[_Weights]
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
    """As `_run_stack`, for one layer without options; see `_operator_checks`."""
    h_0, c_0 = (*states, None, None)[:2]
    try:
        output, h_n, c_n = plain_layer_forward(cell.name, input, h_0, c_0, *weights)
        return output, (h_n, c_n) if cell.states > 1 else (h_n,), (), ()
    except (RuntimeError, ValueError) as error:
        refusal = error
    check_ranks(name, input, states)
    check_layers(cell, input, states, weights, None)
    raise refusal


def _join_layers(layers: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Each tensor of all layers, [num_layers * directions, ...]; () of no layers."""
    if len(layers) == 1:
        return layers[0]
    return tuple(torch.cat(tensors) for tensors in zip(*layers))


def _split_layers(
    states: tuple[Tensor, ...], num_layers: int, directions: int
) -> list[tuple[Tensor | None, Tensor | None]]:
    """h and c of each layer, (directions, B, width); None where there is no such state."""
    if not states:
        return [(None, None)] * num_layers
    h, c = states if len(states) == 2 else (states[0], None)
    if num_layers == 1:
        return [(h, c)]
    cs = [None] * num_layers if c is None else c.split(directions)
    return list(zip(h.split(directions), cs))


def _run_cell(
    name: str, cell: str, input: Tensor, h: Tensor | None, c: Tensor | None, weights: _Weights
) -> tuple[Tensor, Tensor]:
    """Runs one time step; see `_operator_checks`."""
    refusal = None
    if _operator_checks(input):
        try:
            return cell_forward(cell, input, h, c, weights)
        except (RuntimeError, ValueError, TypeError) as error:
            refusal = error
    kind = CELLS[cell]
    check_types(name, kind, input, (h, c) if kind.states > 1 and h is not None else h, weights)
    check_cell(name, kind, input, h, c, weights)
    if weights.weight_hh.shape[0] == 0:
        return composed_cell_forward(cell, input, h, c, weights)
    if refusal is not None:
        raise refusal
    return cell_forward(cell, input, h, c, weights)


def _operator_checks(input: Tensor) -> bool:
    """Whether the compiled operator refuses what `check_layers`, `check_ranks`, `check_cell` do.

    Then they are asked only after a refusal, for torch's words, and a call that is right does not
    pay for them. They come first where no kernel sees these tensors: in a trace, in torch.func's
    transforms, for tensors without data, and for gradients in forward mode.
    """
    return (
        _library.available
        and not torch.compiler.is_compiling()
        and torch._C._functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0
        and type(input) is Tensor
        and not input.is_meta
    )
