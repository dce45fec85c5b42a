"""Single layers of both libraries side by side: what there is to gain on this machine."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from tqdm import tqdm

import fusedrnn

CELLS = ("LSTM", "GRU", "RNN")
USES = ("training", "inference", "padded, training", "padded, inference", "one step")
SAMPLE_SECONDS = 0.01


@dataclass(frozen=True)
class Sizes:
    batch_size: int
    seq_len: int
    input_size: int
    hidden_size: int


@dataclass(frozen=True)
class Gain:
    """One cell in one use; seconds are medians of a call, `ratio` that of each round's ratio."""

    cell: str
    use: str
    seconds: float  # torch.nn
    our_seconds: float
    ratio: float
    difference: float  # of the outputs, the largest, relative to the largest output


def measure_gains(sizes: Sizes, rounds: int) -> list[Gain]:
    """Every cell in every use. Both libraries take their turn in each of the rounds."""
    pairs = [(cell, use) for cell in CELLS for use in USES]
    progress = tqdm(pairs, desc="layers", unit="use", mininterval=0.5)
    return [_measure(cell, use, sizes, rounds) for cell, use in progress]


def _measure(cell: str, use: str, sizes: Sizes, rounds: int) -> Gain:
    module = getattr(nn, cell)(sizes.input_size, sizes.hidden_size)
    ours = getattr(fusedrnn, cell)(sizes.input_size, sizes.hidden_size)
    ours.load_state_dict(module.state_dict())
    calls = [
        make_call(library, layer, use, sizes) for library, layer in ((nn, module), (fusedrnn, ours))
    ]
    expected, output = (call() for call in calls)
    difference = ((output - expected).abs().max() / expected.abs().max()).item()
    repeats = [max(1, math.ceil(SAMPLE_SECONDS / _seconds(call, 1))) for call in calls]
    samples: tuple[list[float], list[float]] = ([], [])
    for idx in range(rounds):
        for side in (0, 1) if idx % 2 == 0 else (1, 0):
            samples[side].append(_seconds(calls[side], repeats[side]))
    ratio = statistics.median(theirs / ours for theirs, ours in zip(*samples, strict=True))
    return Gain(cell, use, *map(statistics.median, samples), ratio, difference)


def make_call(
    library: ModuleType, layer: nn.Module, use: str, sizes: Sizes
) -> Callable[[], Tensor]:
    """A function that uses the layer once and returns its output."""
    generator = torch.Generator().manual_seed(0)
    if use == "one step":
        step, state = torch.randn(1, 1, sizes.input_size, generator=generator), None
        layer.eval()

        def stream() -> Tensor:
            nonlocal state
            with torch.no_grad():
                output, state = layer(step, state)
            return output

        return stream
    input = torch.randn(sizes.seq_len, sizes.batch_size, sizes.input_size, generator=generator)
    lengths = None
    if use.startswith("padded"):
        shortest = max(1, sizes.seq_len // 4)
        lengths = torch.randint(
            shortest, sizes.seq_len + 1, (sizes.batch_size,), generator=generator
        )
    forward = _forward(library, layer, input, lengths)
    if not use.endswith("training"):
        layer.eval()
        return torch.no_grad()(forward)

    def train() -> Tensor:
        layer.zero_grad(set_to_none=True)
        output = forward()
        output.backward(torch.ones_like(output))
        return output.detach()

    return train


def _forward(
    library: ModuleType, layer: nn.Module, input: Tensor, lengths: Tensor | None
) -> Callable[[], Tensor]:
    """Over the whole sequences; of padded ones in the way of each library."""

    def packed() -> Tensor:
        sequence = pack_padded_sequence(input, lengths, enforce_sorted=False)
        return pad_packed_sequence(layer(sequence)[0], total_length=len(input))[0]

    options: dict[str, Any] = {} if lengths is None else {"lengths": lengths}
    if options and library is nn:
        return packed
    return lambda: layer(input, **options)[0]


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    """Of one call, the mean of several."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats
