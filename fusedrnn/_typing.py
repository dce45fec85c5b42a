"""The types of calls: what returns depends on what is asked for. Type checkers alone read this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, TypeVar, overload

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fusedrnn._quantized import QuantizedWeights
from fusedrnn._results import GRUGates, LSTMGates, LSTMStates, RNNGates, RNNStates
from fusedrnn._weights import LayerWeights

if TYPE_CHECKING:
    from typing_extensions import Unpack

# Of a layer: its state, and the named tuples of every step's states and gates.
State = TypeVar("State")
States = TypeVar("States", covariant=True)
Gates = TypeVar("Gates", covariant=True)
Function = TypeVar("Function")


class CallOptions(TypedDict, total=False):
    """The options of a module's call that do not change what it returns."""

    lengths: Tensor | Sequence[int] | None
    reset: Tensor | None
    reset_state: Any
    recompute: str


class FunctionOptions(CallOptions, total=False):
    """Those of a function's call."""

    batch_first: bool
    bidirectional: bool
    dropout: float
    training: bool


class RNNOptions(FunctionOptions, total=False):
    """Those of `rnn`."""

    nonlinearity: str


class LayersFunction(Protocol[State, States, Gates]):
    """A stack of layers as a function."""

    @overload
    def __call__(
        self,
        input: PackedSequence,
        hx: State | None,
        weights: Sequence[LayerWeights | QuantizedWeights],
        **options: Unpack[FunctionOptions],
    ) -> tuple[PackedSequence, State]: ...
    @overload
    def __call__(
        self,
        input: Tensor,
        hx: State | None,
        weights: Sequence[LayerWeights | QuantizedWeights],
        *,
        return_states: Literal[False] = ...,
        return_gates: Literal[False] = ...,
        **options: Unpack[FunctionOptions],
    ) -> tuple[Tensor, State]: ...
    @overload
    def __call__(
        self,
        input: Tensor,
        hx: State | None,
        weights: Sequence[LayerWeights | QuantizedWeights],
        *,
        return_states: Literal[True],
        return_gates: Literal[False] = ...,
        **options: Unpack[FunctionOptions],
    ) -> tuple[Tensor, State, States]: ...
    @overload
    def __call__(
        self,
        input: Tensor,
        hx: State | None,
        weights: Sequence[LayerWeights | QuantizedWeights],
        *,
        return_states: Literal[False] = ...,
        return_gates: Literal[True],
        **options: Unpack[FunctionOptions],
    ) -> tuple[Tensor, State, Gates]: ...
    @overload
    def __call__(
        self,
        input: Tensor,
        hx: State | None,
        weights: Sequence[LayerWeights | QuantizedWeights],
        *,
        return_states: Literal[True],
        return_gates: Literal[True],
        **options: Unpack[FunctionOptions],
    ) -> tuple[Tensor, State, States, Gates]: ...
    @overload
    def __call__(
        self,
        input: Tensor,
        hx: State | None,
        weights: Sequence[LayerWeights | QuantizedWeights],
        *,
        return_states: bool = ...,
        return_gates: bool = ...,
        **options: Unpack[FunctionOptions],
    ) -> tuple[Any, ...]: ...


class RNNFunction(Protocol):
    """The same of `rnn`."""

    @overload
    def __call__(
        self,
        input: PackedSequence,
        hx: Tensor | None,
        weights: Sequence[LayerWeights | QuantizedWeights],
        **options: Unpack[RNNOptions],
    ) -> tuple[PackedSequence, Tensor]: ...
    @overload
    def __call__(
        self,
        input: Tensor,
        hx: Tensor | None,
        weights: Sequence[LayerWeights | QuantizedWeights],
        *,
        return_states: Literal[False] = ...,
        return_gates: Literal[False] = ...,
        **options: Unpack[RNNOptions],
    ) -> tuple[Tensor, Tensor]: ...
    @overload
    def __call__(
        self,
        input: Tensor,
        hx: Tensor | None,
        weights: Sequence[LayerWeights | QuantizedWeights],
        *,
        return_states: Literal[True],
        return_gates: Literal[False] = ...,
        **options: Unpack[RNNOptions],
    ) -> tuple[Tensor, Tensor, RNNStates]: ...
    @overload
    def __call__(
        self,
        input: Tensor,
        hx: Tensor | None,
        weights: Sequence[LayerWeights | QuantizedWeights],
        *,
        return_states: Literal[False] = ...,
        return_gates: Literal[True],
        **options: Unpack[RNNOptions],
    ) -> tuple[Tensor, Tensor, RNNGates]: ...
    @overload
    def __call__(
        self,
        input: Tensor,
        hx: Tensor | None,
        weights: Sequence[LayerWeights | QuantizedWeights],
        *,
        return_states: Literal[True],
        return_gates: Literal[True],
        **options: Unpack[RNNOptions],
    ) -> tuple[Tensor, Tensor, RNNStates, RNNGates]: ...
    @overload
    def __call__(
        self,
        input: Tensor,
        hx: Tensor | None,
        weights: Sequence[LayerWeights | QuantizedWeights],
        *,
        return_states: bool = ...,
        return_gates: bool = ...,
        **options: Unpack[RNNOptions],
    ) -> tuple[Any, ...]: ...


# The functions of fusedrnn.functional.
LSTMFunction = LayersFunction[tuple[Tensor, Tensor], LSTMStates, LSTMGates]
GRUFunction = LayersFunction[Tensor, RNNStates, GRUGates]


def typed(kind: type[Function]) -> Callable[[Any], Function]:
    """Declares a function to be of a type above; changes nothing."""
    return lambda function: function
