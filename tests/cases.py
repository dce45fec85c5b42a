"""The one table of tests: cells, dtypes, tolerances, shapes, and how results are compared.

Every tolerance of the Python tests comes from here. A result is compared with an oracle in
float64, and its error is measured as a fraction of the oracle's largest element.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CELLS = ("rnn_tanh", "rnn_relu", "lstm", "gru")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# One, primes, and one over the widths of the kernels' tiles (8, 16, 32).
SIZES = (1, 2, 3, 5, 7, 9, 17, 33)


def tolerance(dtype: torch.dtype, length: int) -> float:
    """Largest error allowed in a result, as a fraction of the oracle's largest element.

    `length` is the number of roundings in the longest chain behind a result: the time steps,
    times the layers for a stack. A rounding is off by at most eps / 2, and independent ones add
    like a random walk, to sqrt(length) * eps / 2 or so; eight times that is allowed, for sums
    whose summands are larger than the sum.
    """
    return 4 * torch.finfo(dtype).eps * math.sqrt(max(length, 1))


def assert_close(actual: Tensor, expected: Tensor, allowed: float, name: str = "result") -> None:
    """Compares with the oracle; `allowed` is a fraction of the oracle's largest element.

    Reports misplaced NaN and infinity first, then the worst element with its index.
    """
    assert actual.shape == expected.shape, (
        f"{name}: expected shape {tuple(expected.shape)}, got {tuple(actual.shape)}"
    )
    actual, expected = actual.detach().double(), expected.detach().double()
    _assert_same_non_finite(actual, expected, name)
    if not expected.isfinite().any():
        return
    error = _error(actual, expected)
    scale = _scale(expected)
    worst = int(error.argmax())
    if error.flatten()[worst] > allowed * scale:
        idx = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), error.shape))
        raise AssertionError(
            f"{name}{list(idx)}: expected {expected[idx].item():.9g}, got "
            f"{actual[idx].item():.9g}; error {error[idx].item():.3g}, allowed {allowed * scale:.3g}"
        )


def assert_close_to_float64(
    actual: Tensor,
    oracle: Tensor,
    torch_result: Tensor,
    length: int,
    name: str = "result",
) -> None:
    """The error may be twice that of torch.nn on the same inputs, or a few roundings.

    The factor 2 is for the other order of summation; the floor of 8 roundings (4 eps), growing
    as `tolerance` does at a quarter of its rate, is for results which torch happens to hit.
    """
    error = _error(torch_result.detach().double(), oracle.double())
    torch_error = float(error.max()) if error.numel() else 0.0
    scale = _scale(oracle.double())
    floor = max(4 * torch.finfo(actual.dtype).eps, tolerance(actual.dtype, length) / 4)
    assert_close(actual, oracle, max(2 * torch_error / scale, floor), name)


def _error(actual: Tensor, expected: Tensor) -> Tensor:
    """Absolute error where the oracle is finite, else 0."""
    return torch.where(expected.isfinite(), (actual - expected).abs(), 0.0)


def _scale(expected: Tensor) -> float:
    """The largest finite magnitude; 1 for an oracle of zeros."""
    finite = expected[expected.isfinite()].abs()
    return float(finite.max()) if finite.numel() and finite.max() > 0 else 1.0


def _assert_same_non_finite(actual: Tensor, expected: Tensor, name: str) -> None:
    for kind, found, wanted in (
        ("NaN", actual.isnan(), expected.isnan()),
        ("+inf", actual.isposinf(), expected.isposinf()),
        ("-inf", actual.isneginf(), expected.isneginf()),
    ):
        wrong = (found != wanted).nonzero()
        if wrong.numel():
            idx = wrong[0].tolist()
            raise AssertionError(
                f"{name}{idx}: expected {expected[tuple(idx)].item()}, got "
                f"{actual[tuple(idx)].item()}; {kind} misplaced at {len(wrong)} positions"
            )
