"""`RecurrentBase`: a stack of layers of any registered cell, torch.nn's or one's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from fusedrnn._cells import CELLS
from fusedrnn._typing import Gates, State, States
from fusedrnn._weights import LayerWeights
from fusedrnn.modules.base import LayersMixin, read_weights

__all__ = ["RecurrentBase"]


class RecurrentBase(LayersMixin[State, States, Gates], nn.RNNBase):
    r"""A stack of layers of a cell that csrc/cells registers; a subclass says which.

    It is called as `fusedrnn.RNN`, or as `fusedrnn.LSTM` where the cell has a state c, with every
    option that they have. Names, shapes, initial values and state_dict are those of torch.nn. A
    cell with M learnable values a unit besides has `params_l{k}{_reverse}` (M * hidden_size,) as
    well: the first value of every unit, then the second, and so on.

    Attributes:
        cell: of the class: the cell's name.

    Args:
        input_size, hidden_size, num_layers, bias: as for `fusedrnn.RNN`.
        batch_first, dropout, bidirectional, device, dtype: as for `fusedrnn.RNN`.
        proj_size: as for `fusedrnn.LSTM`, of a cell that can be projected; 0 for none.

    Raises:
        TypeError: the class has no `cell`, or an argument has another type.
        ValueError: there is no such cell, or an argument does not fit.

    Examples:
        >>> class Peepholes(RecurrentBase):
        ...     cell = "peephole_lstm"
        >>> layer = Peepholes(5, 3)
        >>> output, (h_n, c_n) = layer(torch.randn(7, 2, 5))
        >>> output.shape, layer.params_l0.shape
        (torch.Size([7, 2, 3]), torch.Size([9]))
    """

    cell: ClassVar[str]

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
        name = getattr(type(self), "cell", None)
        if name is None:
            raise TypeError(f"{self._name}.cell: expected the name of a cell, got none; set it")
        if name not in CELLS:
            known = ", ".join(CELLS)
            raise ValueError(f"{self._name}.cell: expected one of {known}, got {name!r}")
        kind = CELLS[name]
        if proj_size and not kind.has_projection:
            raise ValueError(f"proj_size: expected 0, because {name} has no projection")
        # torch's checks and names, of a cell with one gate, and no memory.
        super().__init__(
            "RNN_TANH",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device="meta",
            dtype=dtype,
        )
        self.mode = name.upper()
        small, self._parameters = self._parameters, {}
        self._flat_weights_names = []
        for names in self._all_weights:
            shapes = {
                each: small[each].shape
                if each.startswith("weight_hr")
                else (len(kind.gate_names) * hidden_size, *small[each].shape[1:])
                for each in names
            }
            if kind.param_names:
                each = names[0].replace("weight_ih", "params")
                names.append(each)
                shapes[each] = (len(kind.param_names) * hidden_size,)
            for each, shape in shapes.items():
                parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                self.register_parameter(each, parameter)
            self._flat_weights_names.extend(names)
        self._fields = tuple(each.rpartition("_l")[0] for each in self._all_weights[0])
        self._init_flat_weights()
        self.reset_parameters()

    @property
    def _name(self) -> str:  # type: ignore[override]
        return type(self).__name__

    def _layer_weights(self) -> Sequence[LayerWeights]:
        return [
            LayerWeights(**dict(zip(self._fields, read_weights(self, names), strict=True)))
            for names in self._all_weights
        ]
