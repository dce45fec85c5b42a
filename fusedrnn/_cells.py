"""What is particular to each cell, as csrc/cells says it: `CELLS`, by the operators' names.

Code outside this package's public classes and functions asks here and names no cell.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from fusedrnn import _library, reference

__all__ = ["CELLS", "Cell"]


class Cell(NamedTuple):
    """A cell's constants."""

    name: str
    gate_names: tuple[str, ...]
    param_names: tuple[str, ...]  # of its learnable values a unit besides weights and biases
    states: int  # 1: h; 2: h and c
    saved_width: int  # values a unit keeps per row for backward
    has_projection: bool

    @property
    def gates(self) -> int:
        """Rows of weight_hh over hidden_size."""
        return len(self.gate_names)


def _read(name: str) -> Cell:
    gates, params, *others = torch.ops.fusedrnn.describe_cell(name)
    return Cell(name, tuple(gates), tuple(params), *others)


if _library.available:
    CELLS = {name: _read(name) for name in torch.ops.fusedrnn.cell_names()}
else:
    CELLS = {
        name: Cell(name, cell.gate_names, cell.param_names, cell.states, 0, cell.has_projection)
        for name, cell in reference.CELLS.items()
    }
