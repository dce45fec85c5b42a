"""The named tuples in which layers give every step's states and gates.

Those of a registered cell without one here are made from the names of its gates.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor
from torch.utils import _pytree

from fusedrnn._cells import CELLS, Cell

__all__ = ["GRUGates", "LSTMGates", "LSTMStates", "RNNGates", "RNNStates"]


class RNNStates(NamedTuple):
    """The state after every step of every layer and direction, of a cell with one state.

    With L layers, D directions, T = seq_len, B = batch_size and H = hidden_size:
    `(L * D, T, B, H)`, `(L * D, B, T, H)` with `batch_first`, `(L * D, T, H)` for one sequence.
    """

    h: Tensor


class LSTMStates(NamedTuple):
    """As `RNNStates`, of a cell with two; with a projection, the last size of h is that of h."""

    h: Tensor
    c: Tensor


class RNNGates(NamedTuple):
    """An Elman RNN's one activation at every step, which is its state; as `RNNStates`."""

    h: Tensor


class GRUGates(NamedTuple):
    """The activated gates of a GRU at every step, each as `RNNStates.h`."""

    r: Tensor
    z: Tensor
    n: Tensor


class LSTMGates(NamedTuple):
    """The activated gates of an LSTM at every step, each as `LSTMStates.c`."""

    i: Tensor
    f: Tensor
    g: Tensor
    o: Tensor


_STATES = (RNNStates, LSTMStates)
_GATES: dict[tuple[str, ...], Any] = {
    kind._fields: kind for kind in (RNNGates, GRUGates, LSTMGates)
}


def states_type(cell: Cell) -> type[Any]:
    """The named tuple of the cell's states."""
    return _STATES[cell.states - 1]


def gates_type(cell: Cell) -> type[Any]:
    """The named tuple of the cell's gates."""
    return _GATES[cell.gate_names]


for _cell in CELLS.values():
    if _cell.gate_names not in _GATES:
        _name = f"{_cell.name.title().replace('_', '')}Gates"
        _GATES[_cell.gate_names] = NamedTuple(_name, [(gate, Tensor) for gate in _cell.gate_names])
        globals()[_name] = _GATES[_cell.gate_names]  # where pickle looks for it
        _GATES[_cell.gate_names].__module__ = __name__

# torch.export.save writes a module's results by the names of their types.
for _kind in (*_STATES, *_GATES.values()):
    _pytree._register_namedtuple(_kind, serialized_type_name=f"fusedrnn.{_kind.__name__}")
