"""The keyword-only options of a stack of layers: their checks, and the form that layers take.

RuntimeError for a shape, dtype or device that does not fit, ValueError for a value or a
combination, TypeError for what is no tensor; raised before any work.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fusedrnn._cells import Cell
from fusedrnn._checks import check_pair, check_tensor, state_widths
from fusedrnn._quantized import QuantizedWeights
from fusedrnn._weights import LayerWeights

# recompute="gates" keeps the states of every 16th step: beside an LSTM's five values a unit and
# step a sixteenth is little memory, and backward holds the gates of no more than 16 steps.
_GATES_INTERVAL = 16

_INTEGERS = frozenset(
    (
        torch.uint8, torch.uint16, torch.uint32, torch.uint64,
        torch.int8, torch.int16, torch.int32, torch.int64,
    )
)  # fmt: skip


class Options(NamedTuple):
    """As the caller gave them, laid out as the input; see `fusedrnn.functional.rnn`."""

    lengths: Tensor | Sequence[int] | None
    reset: Tensor | None
    reset_state: Any
    return_states: bool
    return_gates: bool
    recompute: str


NO_OPTIONS = Options(None, None, None, False, False, "none")


def make_options(
    lengths: Any, reset: Any, reset_state: Any, states: Any, gates: Any, recompute: Any
) -> Options:
    """Options, or NO_OPTIONS where each is its default: one comparison tells in a small call."""
    is_default = lengths is None and reset is None and reset_state is None and recompute == "none"
    if is_default and not states and not gates:
        return NO_OPTIONS
    return Options(lengths, reset, reset_state, states, gates, recompute)


class Prepared(NamedTuple):
    """Checked, and as `fusedrnn.ops.layer_forward` takes them for time-major input."""

    lengths: Tensor | None  # [B], int64, on the input's device
    reset: Tensor | None  # [T, B]
    reset_state: tuple[Tensor, ...]  # (), (h,) or (h, c), each [L * D, B, width]
    return_states: bool
    return_gates: bool
    recompute: int


def prepare(
    options: Options,
    name: str,
    cell: Cell,
    input: Tensor,
    weights: Sequence[LayerWeights | QuantizedWeights],
    batched: bool,
    batch_first: bool,
) -> Prepared:
    """`input` is padded and time-major; `batched` and `batch_first` say how it was given."""
    lengths, reset, given, return_states, return_gates, recompute = options
    reset_state: tuple[Tensor, ...] = ()
    if lengths is not None:
        lengths = _prepare_lengths(lengths, input, batched, batch_first)
    if reset is not None:
        reset = _prepare_reset(reset, input, batched, batch_first)
    if given is not None:
        if reset is None:
            _refuse_reset_state()
        reset_state = _prepare_reset_state(given, name, cell, input, weights, batched)
    interval = _recompute_interval(recompute)
    return Prepared(lengths, reset, reset_state, return_states, return_gates, interval)


def prepare_packed(options: Options) -> Prepared:
    """For a PackedSequence, which says itself where its rows end."""
    if options.lengths is not None:
        raise ValueError(
            "lengths: expected None with a PackedSequence, got lengths; the PackedSequence has its "
            "own lengths"
        )
    for name in ("reset", "return_states", "return_gates"):
        value = getattr(options, name)
        if value is not None and value is not False:
            raise ValueError(
                f"{name}: expected padded input, got a PackedSequence; pass the padded tensor "
                "and lengths= in its place"
            )
    if options.reset_state is not None:
        _refuse_reset_state()
    return Prepared(None, None, (), False, False, _recompute_interval(options.recompute))


def _recompute_interval(recompute: str) -> int:
    """How many steps lie between the states that are kept for backward; 0 keeps everything."""
    if recompute == "none":
        return 0
    if recompute == "gates":
        return _GATES_INTERVAL
    if not isinstance(recompute, str):
        raise TypeError(f"recompute: expected a str, got {type(recompute).__name__}; {_RECOMPUTE}")
    kind, _, steps = recompute.partition(":")
    if kind != "chunk" or not (steps.isascii() and steps.isdigit()) or int(steps) < 1:
        raise ValueError(f"recompute: got {recompute!r}; {_RECOMPUTE}")
    return min(int(steps), sys.maxsize)


_RECOMPUTE = "pass 'none', 'gates', or 'chunk:N' with N >= 1 steps"


def _refuse_reset_state() -> None:
    raise ValueError(
        "reset_state: expected None without reset, got a state; pass reset= to say where it enters"
    )


def _prepare_lengths(lengths: Any, input: Tensor, batched: bool, batch_first: bool) -> Tensor:
    if isinstance(lengths, (list, tuple)):
        try:
            lengths = torch.as_tensor(lengths, dtype=None if lengths else torch.int64)
        except (TypeError, ValueError, RuntimeError):
            found = sorted({type(length).__name__ for length in lengths})
            raise TypeError(
                f"lengths: expected a tensor or a list of ints, got a {type(lengths).__name__} of "
                f"{', '.join(found)}; pass one int a row"
            ) from None
    check_tensor("lengths", lengths, "a tensor or a list of ints")
    _refuse_mask(lengths, input, batched, batch_first)
    if lengths.dtype not in _INTEGERS:
        raise RuntimeError(
            f"lengths: expected an integer dtype, got {lengths.dtype}; convert it with "
            "lengths.to(torch.int64)"
        )
    seq_len, batch_size = input.shape[:2]
    if not batched and lengths.dim() == 0:
        lengths = lengths.unsqueeze(0)
    if lengths.dim() != 1 or lengths.size(0) != batch_size:
        raise RuntimeError(
            f"lengths: expected shape (batch_size,) = ({batch_size},), got "
            f"{tuple(lengths.shape)}; pass one length a row"
        )
    if _readable(lengths) and seq_len > 0:
        for row, length in enumerate(lengths.tolist()):
            if not 0 <= length <= seq_len:
                raise ValueError(
                    f"lengths: expected 0 to seq_len = {seq_len}, got {length} for row {row}; "
                    "pass how many steps of the row are valid"
                )
    # To a GPU without waiting for it; from one, the values must have arrived.
    return lengths.to(input.device, torch.int64, non_blocking=input.is_cuda)


def _refuse_mask(lengths: Tensor, input: Tensor, batched: bool, batch_first: bool) -> None:
    """Raises for a value a step and row, of whatever dtype, where a number a row is expected."""
    seq_len, batch_size = input.shape[:2]
    shape, by_step, by_row = tuple(lengths.shape), (seq_len, batch_size), (batch_size, seq_len)
    dim: str | int | None = None
    if not batched and lengths.dtype == torch.bool and shape == (seq_len,):
        dim = ""
    elif batched and len(shape) == 2 and shape in (by_step, by_row):
        dim = int(shape == by_row and (batch_first or shape != by_step))
    if dim is not None:
        raise RuntimeError(
            f"lengths: expected shape (batch_size,) = ({batch_size},), got a mask of shape "
            f"{shape}; pass mask.sum({dim}), the valid steps of each row"
        )


def _readable(tensor: Tensor) -> bool:
    """Whether the values are there and can be read without waiting for a device."""
    return (
        not torch.compiler.is_compiling()
        and type(tensor) is Tensor
        and tensor.device.type == "cpu"
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )


def _prepare_reset(reset: Tensor, input: Tensor, batched: bool, batch_first: bool) -> Tensor:
    check_tensor("reset", reset, "a tensor of bools")
    if reset.dtype != torch.bool:
        raise RuntimeError(
            f"reset: expected dtype torch.bool, got {reset.dtype}; convert it with reset.bool()"
        )
    seq_len, batch_size = input.shape[:2]
    expected: tuple[int, ...]
    names, expected = ("seq_len, batch_size", (seq_len, batch_size))
    if not batched:
        names, expected = ("seq_len,", (seq_len,))
    elif batch_first:
        names, expected = ("batch_size, seq_len", (batch_size, seq_len))
    if reset.shape != expected:
        raise RuntimeError(
            f"reset: expected shape ({names}) = {expected}, got {tuple(reset.shape)}; pass one "
            "value a step and row"
        )
    if reset.device != input.device:
        raise RuntimeError(
            f"reset: expected device {input.device}, that of the input, got {reset.device}; move "
            f"it with reset.to('{input.device}')"
        )
    if not batched:
        return reset.unsqueeze(1)
    return reset.t() if batch_first else reset


def _prepare_reset_state(
    reset_state: Any,
    name: str,
    cell: Cell,
    input: Tensor,
    weights: Sequence[LayerWeights | QuantizedWeights],
    batched: bool,
) -> tuple[Tensor, ...]:
    has_c = cell.states > 1
    if has_c:
        check_pair(name, reset_state, "reset_state", "(h, c)")
        states = tuple(reset_state)
    else:
        states = (reset_state,)
    batch_size = input.size(1)
    prepared = []
    expected: tuple[int, ...]
    for idx, (state, width) in enumerate(zip(states, state_widths(cell, weights[0]))):
        label = f"reset_state[{idx}]" if has_c else "reset_state"
        check_tensor(label, state, "a tensor of states")
        rows = len(weights)
        names = "num_layers * num_directions, batch_size or 1, width"
        expected = (rows, batch_size, width)
        if not batched:
            names, expected = "num_layers * num_directions, width", (rows, width)
        one_for_all = (rows, 1, width) if batched else expected
        if state.shape not in (expected, one_for_all):
            raise RuntimeError(
                f"{label}: expected shape ({names}) = {expected}, got {tuple(state.shape)}"
            )
        if state.device != input.device:
            raise RuntimeError(
                f"{label}: expected device {input.device}, that of the input, got {state.device}; "
                f"move it with {label}.to('{input.device}')"
            )
        if state.dtype != input.dtype and not torch._C._is_any_autocast_enabled():
            raise RuntimeError(
                f"{label}: expected dtype {input.dtype}, that of the input, got {state.dtype}; "
                f"convert it with {label}.to({input.dtype})"
            )
        prepared.append((state if batched else state.unsqueeze(1)).expand(rows, batch_size, width))
    return tuple(prepared)
