"""Trains several models side by side on the same batches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from tqdm import tqdm


@dataclass
class Run:
    """What one model's training left behind."""

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def step_seconds(self) -> float:
        """Median time of a step, the first few left out."""
        return statistics.median(self.seconds[min(5, len(self.seconds) // 2) :])


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor
) -> float:
    """Forward, backward, clip, update; returns the loss before the update."""
    scores, _ = model(inputs)
    loss = nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten())
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def train_side_by_side(
    models: dict[str, nn.Module],
    batches: Iterable[tuple[Tensor, Tensor]],
    steps: int,
    learning_rate: float,
) -> dict[str, Run]:
    """Gives each batch to every model in turn, so that a slow moment slows all of them.

    The order turns round at every step: no model always finds the caches warm.
    """
    optimizers = {
        name: torch.optim.Adam(model.parameters(), lr=learning_rate)
        for name, model in models.items()
    }
    runs = {name: Run() for name in models}
    progress = tqdm(batches, total=steps, desc="train", unit="step", mininterval=0.5)
    for step, (inputs, targets) in enumerate(progress):
        for name in sorted(models, reverse=step % 2 == 1):
            start = time.perf_counter()
            loss = train_step(models[name], optimizers[name], inputs, targets)
            runs[name].seconds.append(time.perf_counter() - start)
            runs[name].losses.append(loss)
        progress.set_postfix(
            {name: f"{run.losses[-1]:.3f}" for name, run in runs.items()}, refresh=False
        )
    return runs


def largest_relative_difference(first: list[float], second: list[float]) -> float:
    """The largest |a - b| / |b| of two curves; infinite where either is not finite."""
    pairs = torch.tensor([first, second], dtype=torch.float64)
    difference = (pairs[0] - pairs[1]).abs() / pairs[1].abs()
    return difference.nan_to_num(nan=float("inf")).max().item()
