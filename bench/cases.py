"""What is timed: the table of cases, their names and their operation counts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
MODES = ("infer", "train")
DTYPES = ("float32", "float64", "bfloat16", "float16")
DEVICES = ("cpu", "cuda")


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
    )
)
QUICK_SHAPES = (SHAPES[0], SHAPES[2], SHAPES[4])


@dataclasses.dataclass(frozen=True)
class Case:
    """One layer, one direction, with biases and without an initial state."""

    cell: str
    shape: Shape
    mode: str
    dtype: str
    threads: int
    device: str = "cpu"

    @property
    def name(self) -> str:
        s = self.shape
        return (
            f"{self.cell}-{self.mode}-B{s.batch_size}-T{s.seq_len}-I{s.input_size}-H{s.hidden_size}"
            f"-{self.dtype}-{self.where}"
        )

    @property
    def where(self) -> str:
        """What it runs on: so many threads, or the GPU."""
        return f"{self.threads}t" if self.device == "cpu" else self.device

    @property
    def flops(self) -> int:
        """Multiplications and additions of the matrix products; pointwise work is not counted.

        Forward multiplies every row by ``weight_ih`` and ``weight_hh``. Backward does twice
        that: once for the gradients of the inputs, once for those of the weights.
        """
        s = self.shape
        weights = GATES[self.cell] * s.hidden_size * (s.input_size + s.hidden_size)
        forward = 2 * weights * s.batch_size * s.seq_len
        return 3 * forward if self.mode == "train" else forward


def select(
    cells: Sequence[str],
    shapes: Iterable[Shape],
    modes: Sequence[str],
    dtypes: Sequence[str],
    threads: Sequence[int],
    pattern: str = "",
    device: str = "cpu",
) -> list[Case]:
    """Every combination whose name contains the regular expression `pattern`."""
    shapes = tuple(shapes)
    cases = [
        Case(cell, shape, mode, dtype, count, device)
        for count in (threads if device == "cpu" else [1])
        for dtype in dtypes
        for cell in cells
        for mode in modes
        for shape in shapes
    ]
    return [case for case in cases if re.search(pattern, case.name)]
