"""What fusedrnn adds to torch's recurrent modules, as mixins.

A mixin stands before `nn.RNNBase` (in `fusedrnn.modules`) or before `nn.LSTM` and so on (in
`fusedrnn.compat`), and replaces the forward pass only: parameters, initial values, `check_*`,
`extra_repr` and serialization stay torch's. `fusedrnn.functional` checks what it is given, with
torch's texts, from the weights of the call.

Note [Fresh weights]: weights are read by attribute at each call, so that a parametrization,
a weight-dropping hook, `functional_call` or a tied weight is always seen. torch keeps the
weights once more in the list `_flat_weights`, which can go stale; here it is a property.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any, Generic, Literal, overload

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fusedrnn import functional
from fusedrnn._options import make_options
from fusedrnn._quantized import QuantizedWeights
from fusedrnn._results import GRUGates, LSTMGates, LSTMStates, RNNGates, RNNStates
from fusedrnn._typing import CallOptions, Gates, State, States
from fusedrnn._weights import LayerWeights
from fusedrnn.functional import run_layers
from fusedrnn.modules.tools import ToolsMixin

if TYPE_CHECKING:
    from typing_extensions import Unpack


def read_weights(module: Any, names: Sequence[str]) -> list[Tensor | None]:
    """Attributes; a plain parameter where nn.Module keeps it, in a fifth of the time of getattr."""
    own = module._parameters
    return [own[name] if name in own else getattr(module, name) for name in names]


class LayersMixin(ToolsMixin, Generic[State, States, Gates]):
    """Forward pass of a stack of layers; a subclass says which, and torch's `mode` the cell."""

    _name: str

    if TYPE_CHECKING:  # torch's
        mode: str
        bias: bool
        batch_first: bool
        dropout: float
        bidirectional: bool
        proj_size: int
        _all_weights: list[list[str]]
        _flat_weights_names: list[str]

    @property
    def _cell(self) -> str:
        """Its name in the operators."""
        return self.mode.lower()

    # In torch's order, Tensor first: fusedrnn.compat's classes have torch's overloads too.
    @overload
    def forward(
        self,
        input: Tensor,
        hx: State | None = None,
        *,
        return_states: Literal[False] = ...,
        return_gates: Literal[False] = ...,
        **options: Unpack[CallOptions],
    ) -> tuple[Tensor, State]: ...
    @overload
    def forward(
        self, input: PackedSequence, hx: State | None = None, *, recompute: str = ...
    ) -> tuple[PackedSequence, State]: ...
    @overload
    def forward(
        self,
        input: Tensor,
        hx: State | None = None,
        *,
        return_states: Literal[True],
        return_gates: Literal[False] = ...,
        **options: Unpack[CallOptions],
    ) -> tuple[Tensor, State, States]: ...
    @overload
    def forward(
        self,
        input: Tensor,
        hx: State | None = None,
        *,
        return_states: Literal[False] = ...,
        return_gates: Literal[True],
        **options: Unpack[CallOptions],
    ) -> tuple[Tensor, State, Gates]: ...
    @overload
    def forward(
        self,
        input: Tensor,
        hx: State | None = None,
        *,
        return_states: Literal[True],
        return_gates: Literal[True],
        **options: Unpack[CallOptions],
    ) -> tuple[Tensor, State, States, Gates]: ...
    @overload
    def forward(
        self,
        input: Tensor,
        hx: State | None = None,
        *,
        return_states: bool = ...,
        return_gates: bool = ...,
        **options: Unpack[CallOptions],
    ) -> tuple[Any, ...]: ...
    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        reset_state: Any = None,
        return_states: bool = False,
        return_gates: bool = False,
        recompute: str = "none",
    ) -> tuple[Any, ...]:
        """Runs the layers over a sequence; see the class for the shapes of input and hx.

        With L layers, D directions, T = seq_len, B = batch_size and H = hidden_size; with
        `batch_first`, B comes before T; for one sequence, there is no B:

        Args:
            input, hx: as the class says.
            lengths: `(B,)`, any integer dtype and device, or a list of ints, each 0 to T: how many
                steps of each row of padded input are valid. The others count for nothing, even
                NaN: output and gradients there are 0, h_n and c_n are those of the last valid
                step, or hx where there is none, and the reverse direction begins at each row's
                own end. Values on a GPU cannot be checked without waiting for it; there they are
                clamped.
            reset: `(T, B)`, bool: the state entering these steps of padded input is replaced, and
                no gradient passes. Each direction resets before it processes the step;
                `fusedrnn.functional.rnn` has a picture.
            reset_state: what replaces it, in the form of hx, where B may be 1; zeros if absent.
            return_states: also return the state after every step of every layer, before dropout.
            return_gates: also return the activated gates of every step of every layer.
            recompute: what backward computes again to save memory, with the same bits: "none";
                "gates"; "chunk:N", all but the states of every Nth step.

        Returns:
            output and the final state, as the class says; with `return_states` a named tuple of h
            `(L * D, T, B, H or proj_size)` and for an LSTM c `(L * D, T, B, H)`; with
            `return_gates` a named tuple of i, f, g, o of an LSTM, r, z, n of a GRU, h of an RNN,
            each `(L * D, T, B, H)`. Both are differentiable, and 0 past a row's length.

        Raises:
            RuntimeError: a shape, dtype or device does not fit.
            ValueError: a value or a combination of arguments does not fit.
            TypeError: an argument is of another type.
        """
        return run_layers(
            self._name,
            self._cell,
            input,
            hx,
            self._layer_weights(),
            self.batch_first,
            self.bidirectional,
            self.dropout if self.training else 0.0,
            make_options(lengths, reset, reset_state, return_states, return_gates, recompute),
        )

    if TYPE_CHECKING:
        __call__ = forward

    def flatten_parameters(self) -> None:
        """Does nothing: kernels read each parameter where it is, so there is nothing to flatten."""

    @property
    def _flat_weights(self) -> list[Tensor | None]:
        return [getattr(self, name, None) for name in self._flat_weights_names]

    @_flat_weights.setter
    def _flat_weights(self, value: list[Tensor | None]) -> None:
        """torch's bookkeeping assigns the list; see Note [Fresh weights]."""

    def _update_flat_weights(self) -> None:
        """Nothing to update; see Note [Fresh weights]."""

    def _layer_weights(self) -> Sequence[LayerWeights | QuantizedWeights]:
        layers = []
        for names in self._all_weights:
            weights = read_weights(self, names)
            if not self.bias:
                weights[2:2] = (None, None)
            layers.append(LayerWeights(*weights))
        return layers


class RNNMixin(LayersMixin[Tensor, RNNStates, RNNGates]):
    _name = "RNN"


class LSTMMixin(LayersMixin[tuple[Tensor, Tensor], LSTMStates, LSTMGates]):
    _name = "LSTM"


class GRUMixin(LayersMixin[Tensor, RNNStates, GRUGates]):
    _name = "GRU"


class CellMixin(ToolsMixin):
    """What the cells share; a subclass says which it is in the operators."""

    if TYPE_CHECKING:

        @property
        def _cell(self) -> str: ...

    def _weights(self) -> LayerWeights | QuantizedWeights:
        return LayerWeights(*read_weights(self, ("weight_ih", "weight_hh", "bias_ih", "bias_hh")))


class RNNCellMixin(CellMixin):
    @property
    def _cell(self) -> str:
        return f"rnn_{self.nonlinearity}"

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Runs one time step; see the class for shapes."""
        return functional.rnn_cell(input, hx, self._weights(), nonlinearity=self.nonlinearity)

    if TYPE_CHECKING:
        nonlinearity: str
        __call__ = forward


class LSTMCellMixin(CellMixin):
    _cell = "lstm"

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Runs one time step; see the class for shapes."""
        return functional.lstm_cell(input, hx, self._weights())

    if TYPE_CHECKING:
        __call__ = forward


class GRUCellMixin(CellMixin):
    _cell = "gru"

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Runs one time step; see the class for shapes."""
        return functional.gru_cell(input, hx, self._weights())

    if TYPE_CHECKING:
        __call__ = forward


def _name_forward(mixin: Any, name: str) -> None:
    """Python's own TypeErrors, as for an unknown argument, call a function by its qualname."""
    own = mixin.forward
    forward = FunctionType(own.__code__, own.__globals__, own.__name__, own.__defaults__)
    forward.__kwdefaults__, forward.__doc__ = own.__kwdefaults__, own.__doc__
    forward.__annotations__, forward.__module__ = own.__annotations__, own.__module__
    forward.__qualname__ = f"{name}.forward"
    mixin.forward = forward


for _mixin in (RNNMixin, LSTMMixin, GRUMixin, RNNCellMixin, LSTMCellMixin, GRUCellMixin):
    _name_forward(_mixin, _mixin.__name__.removesuffix("Mixin"))
