"""What `fusedrnn.quantize` makes of layers and cells: their weights are buffers in fewer bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fusedrnn._cells import CELLS
from fusedrnn._checks import check_layers
from fusedrnn._quantized import QuantizedWeights, store
from fusedrnn.modules.cells import GRUCell, LSTMCell, RNNCell
from fusedrnn.modules.layers import GRU, LSTM, RNN
from fusedrnn.modules.tools import Module

__all__ = [
    "QuantizedGRU",
    "QuantizedGRUCell",
    "QuantizedLSTM",
    "QuantizedLSTMCell",
    "QuantizedRNN",
    "QuantizedRNNCell",
    "quantize_weights",
]


def quantize_weights(module: nn.Module, cls: type[nn.Module], dtype: torch.dtype) -> None:
    """Makes a float32 module one of a class below, in place: its parameters become buffers."""
    parameters, module._parameters = dict(module._parameters), {}
    module.__class__ = cls
    vars(module).pop("_flat_weights", None)  # torch.nn's list of the parameters
    for name, parameter in parameters.items():
        if parameter is None or parameter.dim() == 1:
            module.register_buffer(name, None if parameter is None else parameter.detach())
            continue
        stored, scale = store(parameter.detach(), dtype)
        module.register_buffer(name, stored)
        if scale is not None:
            module.register_buffer(_scale_name(name), scale)


def _scale_name(weight_name: str) -> str:
    return weight_name.replace("weight", "scale", 1)


class _QuantizedMixin(Module):
    """Reads weights from buffers, and keeps their dtype."""

    @property
    def stored_dtype(self) -> torch.dtype:
        """What the weights are stored in."""
        return next(self._stored()).dtype

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, stored in {str(self.stored_dtype).removeprefix('torch.')}"

    def _stored(self) -> Iterator[Tensor]:
        return (
            tensor
            for name, tensor in self._buffers.items()
            if name.startswith("weight") and tensor is not None
        )

    def _read_weights(self, names: list[str], bias: bool, projected: bool) -> QuantizedWeights:
        """Of one direction; `names` as in torch's `_all_weights`, which may have no biases."""
        own = self._buffers
        stored = (names[0], names[1], names[-1] if projected else None)
        return QuantizedWeights(
            own[names[0]],
            own[names[1]],
            own[names[2]] if bias else None,
            own[names[3]] if bias else None,
            own[names[-1]] if projected else None,
            None,
            *(None if name is None else own.get(_scale_name(name)) for name in stored),
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """Moves the module; `float()` and the like do not reach the stored weights."""
        kept = {id(tensor) for tensor in self._stored() if tensor.dtype.is_floating_point}

        def apply(tensor: Tensor) -> Tensor:
            if id(tensor) not in kept:
                return fn(tensor)
            return fn(tensor.view(torch.int16)).view(tensor.dtype)

        return super()._apply(apply, recurse)


class _QuantizedLayers(_QuantizedMixin):
    if TYPE_CHECKING:
        bias: bool
        proj_size: int
        _all_weights: list[list[str]]

        @property
        def _cell(self) -> str: ...

    def _layer_weights(self) -> list[QuantizedWeights]:
        projected = self.proj_size > 0
        return [self._read_weights(names, self.bias, projected) for names in self._all_weights]

    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        """As torch's, of float32 input, whatever the weights are stored in."""
        check_layers(CELLS[self._cell], input, (), self._layer_weights(), batch_sizes)


class _QuantizedCell(_QuantizedMixin):
    if TYPE_CHECKING:
        bias: bool

    def _weights(self) -> QuantizedWeights:
        names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
        return self._read_weights(names, self.bias, projected=False)


class QuantizedRNN(_QuantizedLayers, RNN):
    """`fusedrnn.RNN` for inference; see `fusedrnn.quantize`."""


class QuantizedLSTM(_QuantizedLayers, LSTM):
    """`fusedrnn.LSTM` for inference; see `fusedrnn.quantize`."""


class QuantizedGRU(_QuantizedLayers, GRU):
    """`fusedrnn.GRU` for inference; see `fusedrnn.quantize`."""


class QuantizedRNNCell(_QuantizedCell, RNNCell):
    """`fusedrnn.RNNCell` for inference; see `fusedrnn.quantize`."""


class QuantizedLSTMCell(_QuantizedCell, LSTMCell):
    """`fusedrnn.LSTMCell` for inference; see `fusedrnn.quantize`."""


class QuantizedGRUCell(_QuantizedCell, GRUCell):
    """`fusedrnn.GRUCell` for inference; see `fusedrnn.quantize`."""
