"""A model of another library, built twice from one seed: with torch.nn's layers and fusedrnn's.

The tests in `tests_libraries` and the measurement in `bench.libraries` use the same ones.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

import fusedrnn

SEED = 20
# Of a `Difference`. Rounding in float32 gives 1e-6 or so, which some steps of training enlarge.
TOLERANCE = 1e-4


@dataclasses.dataclass
class Trial:
    """One of the two models, with what is done to it.

    Attributes:
        model: what holds the recurrent layers.
        infer: the library's own forward, without gradients and in evaluation mode.
        train: one step of training by the library's own code, on the same data each time; returns
            the loss.
    """

    model: nn.Module
    infer: Callable[[], Tensor]
    train: Callable[[], Tensor]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model of a library.

    Attributes:
        package: the library's name on PyPI.
        model: what is built, and how large.
        change: what the user changes: "replace", "reset=", "lengths=", ...
        replaced: the names in the model of the layers that become fusedrnn's.
        build: makes a trial with torch.nn's layers (False) or fusedrnn's (True), both from the
            same random numbers.
    """

    package: str
    model: str
    change: str
    replaced: tuple[str, ...]
    build: Callable[[bool], Trial]

    def make(self, fused: bool) -> Trial:
        """A trial with the weights of `SEED`; only those of fusedrnn's layers in it are fused."""
        seed_all()
        trial = self.build(fused)
        found = tuple(sorted(fused_layers(trial.model)))
        expected = tuple(sorted(self.replaced)) if fused else ()
        if found != expected:
            raise RuntimeError(
                f"{self.package}, {self.model}: expected fusedrnn's layers {expected}, got {found}"
            )
        return trial


@dataclasses.dataclass(frozen=True)
class Difference:
    """Between the two trials, as a part of the largest element of torch.nn's."""

    output: float  # of inference, before training
    gradient: float  # of the first step, the worst of all parameters
    loss: float  # of all steps
    trained: float  # of inference, after training

    @property
    def largest(self) -> float:
        return max(vars(self).values())


def fused_layers(model: nn.Module) -> list[str]:
    """The names of the recurrent modules that are fusedrnn's."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase))
        and any(base.__module__.startswith("fusedrnn.") for base in type(module).__mro__)
    ]


def compare(theirs: Trial, ours: Trial, steps: int = 3) -> Difference:
    """Infer, train so many steps and infer again, with the same random numbers for both."""
    found: dict[str, list[Tensor]] = {"output": [], "loss": [], "trained": []}
    gradients: list[dict[str, Tensor]] = []
    for trial in (theirs, ours):
        seed_all()
        found["output"].append(trial.infer().clone())
        losses = [trial.train().detach().clone()]
        gradients.append(_gradients(trial.model))
        losses += [trial.train().detach().clone() for _ in range(steps - 1)]
        found["loss"].append(torch.stack(losses))
        found["trained"].append(trial.infer().clone())
    return Difference(
        gradient=_worst_gradient(*gradients),
        **{name: _difference(*results) for name, results in found.items()},
    )


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def _worst_gradient(expected: dict[str, Tensor], actual: dict[str, Tensor]) -> float:
    """As a part of the largest element of all: one that should be 0 is rounding alone."""
    if expected.keys() != actual.keys():
        odd = sorted(expected.keys() ^ actual.keys())
        raise RuntimeError(f"expected the same parameters to have gradients, differ: {odd}")
    if not expected:
        return 0.0  # the library's step does not leave them
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    errors = [float((actual[name] - expected[name]).abs().max()) for name in expected]
    return max(errors) / largest


def seed_all() -> None:
    """Libraries draw from each of these."""
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


def _difference(expected: Tensor, actual: Tensor) -> float:
    if expected.shape != actual.shape:
        raise RuntimeError(f"expected shape {tuple(expected.shape)}, got {tuple(actual.shape)}")
    if not (expected.isfinite().all() and actual.isfinite().all()):
        raise RuntimeError("expected finite results, got NaN or infinity")
    return float((actual.double() - expected.double()).abs().max() / expected.double().abs().max())


def replace_if(fused: bool, model: nn.Module, **options: object) -> None:
    """`fusedrnn.replace` of the model, where the trial is the fused one."""
    if fused:
        fusedrnn.replace(model, **options)  # type: ignore[arg-type]


def inference(model: nn.Module, forward: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A trial's `infer` of a module: its forward in evaluation mode, without gradients."""

    def infer() -> Tensor:
        model.eval()
        with torch.no_grad():
            return forward()

    return infer


def plain_trial(
    model: nn.Module, forward: Callable[[], Tensor], loss: Callable[[Tensor], Tensor] | None = None
) -> Trial:
    """A trial of a module whose library leaves the loop to the user: SGD on the output's squares,
    or on a loss. With Adam a gradient that is rounding alone would become a whole step."""
    optimizer = torch.optim.SGD(model.parameters(), 0.001)

    def train() -> Tensor:
        model.train()
        optimizer.zero_grad()
        output = forward()
        value = output.square().mean() if loss is None else loss(output)
        value.backward()
        optimizer.step()
        return value

    return Trial(model, inference(model, forward), train)
