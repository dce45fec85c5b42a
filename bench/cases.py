"""What is timed: the table of cases, their names and what they must at least compute and read."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
MODES = ("infer", "train")
DTYPES = ("float32", "float64", "bfloat16", "float16")
DEVICES = ("cpu", "cuda")
FORMS = ("sequence", "lengths", "step", "cell")
STREAMING = ("step", "cell")  # one time step a call, the state carried to the next
SHORTEST = 10  # lengths are uniform from here to seq_len


@dataclasses.dataclass(frozen=True)
class Shape:
    batch_size: int
    seq_len: int
    input_size: int
    hidden_size: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read ``B,T,I,H``."""
        if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*){3}", text):
            raise ValueError(f"shape: expected B,T,I,H such as 32,100,512,512, got {text!r}")
        return cls(*map(int, text.split(",")))


SHAPES = tuple(
    Shape(*sizes)
    for sizes in (
        (1, 100, 128, 128),
        (1, 100, 512, 512),
        (16, 100, 256, 256),
        (32, 100, 512, 512),
        (64, 50, 256, 256),
        (64, 35, 650, 650),
        (128, 100, 128, 128),
        (32, 100, 1024, 1024),
        (1, 1000, 256, 256),
        (2, 200, 1024, 1024),
        (4, 50, 2048, 2048),
        (256, 20, 64, 64),
        (8, 400, 96, 320),
    )
)
QUICK_SHAPES = (SHAPES[0], SHAPES[2], SHAPES[4])
STREAMING_SHAPES = tuple(
    Shape(batch_size, 1, width, width)
    for width in (128, 256, 512, 1024)
    for batch_size in (1, 2, 4, 8)
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A net with biases and without an initial state.

    `form` is how it is used: a whole ``sequence`` a call; rows of several ``lengths``; one
    ``step`` a call, or one of a ``cell``, the class for that, with the state carried.
    """

    cell: str
    shape: Shape
    mode: str
    dtype: str
    threads: int
    device: str = "cpu"
    form: str = "sequence"
    num_layers: int = 1
    bidirectional: bool = False

    @property
    def name(self) -> str:
        s = self.shape
        kind = "".join(f"-{part}" for part in self.kind.split())
        return (
            f"{self.cell}-{self.mode}-B{s.batch_size}-T{s.seq_len}-I{s.input_size}-H{s.hidden_size}"
            f"{kind}-{self.dtype}-{self.where}"
        )

    @property
    def kind(self) -> str:
        """How it differs from one layer, one direction, a whole sequence; empty if it does not."""
        parts = [f"L{self.num_layers}"] if self.num_layers > 1 else []
        parts += ["bi"] if self.bidirectional else []
        parts += [self.form] if self.form != "sequence" else []
        return " ".join(parts)

    @property
    def where(self) -> str:
        """What it runs on: so many threads, or the GPU."""
        return f"{self.threads}t" if self.device == "cpu" else self.device

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def rows(self) -> int:
        """Pairs of a time step and a batch row that are computed."""
        if self.form == "lengths":
            return int(draw_lengths(self).sum())
        return self.shape.batch_size * self.shape.seq_len

    @property
    def flops(self) -> int:
        """Multiplications and additions of the matrix products; pointwise work is not counted.

        Forward multiplies every row by ``weight_ih`` and ``weight_hh``. Backward does twice
        that: once for the gradients of the inputs, once for those of the weights.
        """
        weights = sum(self._weight_ih_elements()) + self.num_layers * self._weight_hh_elements()
        return self._passes(backward=2) * 2 * weights * self.rows

    @property
    def weight_bytes(self) -> int:
        """What must be read of the weights: ``weight_hh`` at every step, ``weight_ih`` once; in
        training once more by backward."""
        recurrent = self.num_layers * self._weight_hh_elements() * self.shape.seq_len
        elements = recurrent + sum(self._weight_ih_elements())
        return self._passes(backward=1) * elements * self._itemsize()

    @property
    def slice_bytes(self) -> int:
        """What a thread reads again and again: its part of one direction's ``weight_hh``; of all
        weights where a call is one step."""
        elements = self._weight_hh_elements() // self.directions
        if self.shape.seq_len == 1:
            elements = sum(self._weight_ih_elements())
            elements += self.num_layers * self._weight_hh_elements()
        return elements * self._itemsize() // self.threads

    def _passes(self, backward: int) -> int:
        return 1 + backward if self.mode == "train" else 1

    def _itemsize(self) -> int:
        return getattr(torch, self.dtype).itemsize

    def _weight_hh_elements(self) -> int:
        """Of one layer."""
        return self.directions * GATES[self.cell] * self.shape.hidden_size**2

    def _weight_ih_elements(self) -> list[int]:
        """Of each layer."""
        width = self.directions * self.shape.hidden_size
        widths = [self.shape.input_size, *[width] * (self.num_layers - 1)]
        return [GATES[self.cell] * width * in_width for in_width in widths]


def draw_lengths(case: Case) -> Tensor:
    """[batch_size]; uniform, in no order."""
    shortest, seq_len = min(SHORTEST, case.shape.seq_len), case.shape.seq_len
    generator = torch.Generator().manual_seed(1)
    return torch.randint(shortest, seq_len + 1, (case.shape.batch_size,), generator=generator)


def default_shapes(form: str, quick: bool = False) -> tuple[Shape, ...]:
    """The table's shapes of a form."""
    if form in STREAMING:
        return STREAMING_SHAPES[:1] if quick else STREAMING_SHAPES
    return QUICK_SHAPES if quick else SHAPES


def select(
    cells: Sequence[str],
    shapes: Iterable[Shape],
    modes: Sequence[str],
    dtypes: Sequence[str],
    threads: Sequence[int],
    pattern: str = "",
    device: str = "cpu",
    form: str = "sequence",
    num_layers: Sequence[int] = (1,),
    directions: Sequence[int] = (1,),
) -> list[Case]:
    """Every combination whose name contains the regular expression `pattern`.

    Where a call is one step, there is no training, seq_len is 1, and a cell is one layer.
    """
    shapes = tuple(shapes)
    if form in STREAMING:
        shapes = tuple(dict.fromkeys(dataclasses.replace(shape, seq_len=1) for shape in shapes))
        modes, directions = [mode for mode in modes if mode == "infer"], (1,)
        num_layers = (1,) if form == "cell" else num_layers
    cases = [
        Case(cell, shape, mode, dtype, count, device, form, layers, direction_count == 2)
        for count in (threads if device == "cpu" else [1])
        for dtype in dtypes
        for layers in num_layers
        for direction_count in directions
        for cell in cells
        for mode in modes
        for shape in shapes
    ]
    return [case for case in cases if re.search(pattern, case.name)]
