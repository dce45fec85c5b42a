"""The one table of tests: cells, dtypes, tolerances, shapes, and how results are compared.

Every tolerance of the Python tests comes from here. A result is compared with an oracle in
float64, and its error is measured as a fraction of the oracle's largest element.
"""

from __future__ import annotations

import functools
import math
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import fusedrnn

# The cells of torch.nn's modules; `fusedrnn.reference.CELLS` has every cell.
CELLS = ("rnn_tanh", "rnn_relu", "lstm", "gru")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# One, primes, and one over the widths of the kernels' tiles (8, 16, 32).
SIZES = (1, 2, 3, 5, 7, 9, 17, 33)


# The module of each cell: class name, and what its constructor needs.
MODULES: dict[str, tuple[str, dict[str, str]]] = {
    "rnn_tanh": ("RNN", {}),
    "rnn_relu": ("RNN", {"nonlinearity": "relu"}),
    "lstm": ("LSTM", {}),
    "gru": ("GRU", {}),
}


def tolerance(dtype: torch.dtype, length: int) -> float:
    """Largest error allowed in a result, as a fraction of the oracle's largest element.

    `length` is the number of roundings in the longest chain behind a result: the time steps,
    times the layers for a stack. A rounding is off by at most eps / 2, and independent ones add
    like a random walk, to sqrt(length) * eps / 2 or so; eight times that is allowed, for sums
    whose summands are larger than the sum.
    """
    return 4 * torch.finfo(dtype).eps * math.sqrt(max(length, 1))


def assert_close(
    actual: Tensor,
    expected: Tensor,
    allowed: float,
    name: str = "result",
    scale: float | None = None,
) -> None:
    """Compares with the oracle; `allowed` is a fraction of `scale`, its largest element if None.

    Reports misplaced NaN and infinity first, then the worst element with its index.
    """
    assert actual.shape == expected.shape, (
        f"{name}: expected shape {tuple(expected.shape)}, got {tuple(actual.shape)}"
    )
    actual, expected = (tensor.detach().cpu().double() for tensor in (actual, expected))
    _assert_same_non_finite(actual, expected, name)
    if not expected.isfinite().any():
        return
    error = _error(actual, expected)
    scale = scale or largest(expected)
    worst = int(error.argmax())
    if error.flatten()[worst] > allowed * scale:
        idx = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), error.shape))
        raise AssertionError(
            f"{name}{list(idx)}: expected {expected[idx].item():.9g}, got "
            f"{actual[idx].item():.9g}; error {error[idx].item():.3g}, "
            f"allowed {allowed * scale:.3g}"
        )


def assert_close_to_float64(
    actual: Tensor,
    oracle: Tensor,
    torch_result: Tensor,
    length: int,
    name: str = "result",
) -> None:
    """The error may be twice that of torch.nn on the same inputs, for another order of sums.

    For results that torch happens to hit, the error may always be 8 roundings (4 eps) or a quarter
    of `tolerance`. In float64 the oracle is no better than the result: there, `tolerance`.
    """
    error = _error(torch_result.detach().cpu().double(), oracle.detach().cpu().double())
    torch_error = float(error.max()) if error.numel() else 0.0
    floor = tolerance(actual.dtype, length)
    if actual.dtype != torch.float64:
        floor = max(4 * torch.finfo(actual.dtype).eps, floor / 4)
    assert_close(actual, oracle, max(2 * torch_error / largest(oracle.detach()), floor), name)


class Worst:
    """The number of examples, and the largest error by dtype as a fraction of the oracle."""

    def __init__(self) -> None:
        self.examples = 0
        self.errors: dict[torch.dtype, float] = {}

    def note(self, dtype: torch.dtype, actual: Tensor, expected: Tensor, scale: float) -> None:
        actual, expected = (tensor.detach().cpu().double() for tensor in (actual, expected))
        if actual.shape == expected.shape and actual.numel():
            error = float(_error(actual, expected).max()) / scale
            self.errors[dtype] = max(self.errors.get(dtype, 0.0), error)

    def __str__(self) -> str:
        errors = ", ".join(
            f"{str(dtype).removeprefix('torch.')} {error:.1e}"
            for dtype, error in sorted(self.errors.items(), key=lambda item: item[1])
        )
        return f"{self.examples} examples against a loop over cells; worst error: {errors}"


def _error(actual: Tensor, expected: Tensor) -> Tensor:
    """Absolute error where the oracle is finite, else 0."""
    return torch.where(expected.isfinite(), (actual - expected).abs(), 0.0)


def largest(expected: Tensor) -> float:
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


def layers(space: ModuleType, cell: str, *args: Any, **kwargs: Any) -> nn.Module:
    """The stack of layers of that cell in nn, fusedrnn or fusedrnn.compat."""
    name, extra = MODULES[cell]
    return getattr(space, name)(*args, **extra, **kwargs)


def one_cell(space: ModuleType, cell: str, *args: Any, **kwargs: Any) -> nn.Module:
    """The cell module in nn, fusedrnn or fusedrnn.compat."""
    name, extra = MODULES[cell]
    return getattr(space, name + "Cell")(*args, **extra, **kwargs)


class Trio(NamedTuple):
    """Modules with the same weights: the one under test, torch's, and torch's in float64."""

    ours: nn.Module
    torch: nn.Module
    oracle: nn.Module


def trio(
    build: Any,
    cell: str,
    *args: Any,
    dtype: torch.dtype,
    space: ModuleType = fusedrnn,
    **kwargs: Any,
) -> Trio:
    """`build` is `layers` or `one_cell`."""
    theirs = build(nn, cell, *args, dtype=dtype, **kwargs)
    ours = build(space, cell, *args, dtype=dtype, **kwargs)
    oracle = build(nn, cell, *args, dtype=torch.float64, **kwargs)
    ours.load_state_dict(theirs.state_dict())
    oracle.load_state_dict(theirs.state_dict())
    return Trio(ours, theirs, oracle)


def strided(*size: int, dtype: torch.dtype) -> Tensor:
    """A normal tensor with gaps: every second element of a larger one, dimensions reversed."""
    larger = torch.randn(*reversed(size[:-1]), 2 * size[-1]).to(dtype)
    return larger[..., ::2].permute(*reversed(range(len(size) - 1)), len(size) - 1)


def initial_state(
    module: nn.Module, batch_size: int | None, dtype: torch.dtype, make: Any = strided
) -> Tensor | tuple[Tensor, Tensor]:
    """A random state that fits a stack of layers; without batch dimension for None."""
    batch = () if batch_size is None else (batch_size,)
    rows = module.num_layers * (2 if module.bidirectional else 1)
    device = next(module.parameters()).device
    h_0 = make(rows, *batch, module.proj_size or module.hidden_size, dtype=dtype).to(device)
    if module.mode != "LSTM":
        return h_0
    return h_0, make(rows, *batch, module.hidden_size, dtype=dtype).to(device)


def pack(input: Tensor, lengths: list[int], batch_first: bool = False) -> PackedSequence:
    is_sorted = lengths == sorted(lengths, reverse=True)
    return pack_padded_sequence(input, torch.tensor(lengths), batch_first, enforce_sorted=is_sorted)


def tensors_of(value: Any, prefix: str) -> dict[str, Tensor]:
    """The tensors in an input, a state or a result, by name; None counts as no tensor."""
    if value is None:
        return {}
    if isinstance(value, PackedSequence):
        return {f"{prefix}.data": value.data}
    if isinstance(value, Tensor):
        return {prefix: value}
    return {
        name: tensor
        for idx, part in enumerate(value)
        for name, tensor in tensors_of(part, f"{prefix}[{idx}]").items()
    }


def map_tensors(value: Any, change: Any) -> Any:
    """The same input or state with `change` applied to each tensor of values."""
    if isinstance(value, PackedSequence):
        return value._replace(data=change(value.data))
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(part, change) for part in value)
    return change(value) if isinstance(value, Tensor) else value


def run(
    module: nn.Module, input: Any, hx: Any = None, forward: Any = None, **options: Any
) -> dict[str, Tensor]:
    """Calls the module on copies in its own dtype: every result and every gradient, by name.

    `forward(module, input, hx, **options)` may be called in its place. The loss weighs each result
    with fixed noise, so that each gradient depends on all of them.
    """
    dtype = next(module.parameters()).dtype

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.detach().to(dtype).requires_grad_()

    input, hx = map_tensors((input, hx), leaf)
    if "reset_state" in options:
        options["reset_state"] = map_tensors(options["reset_state"], leaf)
    call = module if forward is None else functools.partial(forward, module)
    results = tensors_of(call(input, hx, **options), "result")
    noise = torch.Generator().manual_seed(7)
    loss = sum(
        (result * torch.randn(result.shape, generator=noise, dtype=torch.float64).to(result))
        .sum()
        .real
        for result in results.values()
    )
    inputs = {
        **tensors_of(input, "input"),
        **tensors_of(hx, "hx"),
        **tensors_of(options.get("reset_state"), "reset_state"),
        **dict(module.named_parameters()),
    }
    # A result may depend on none of an input: a reset state where no step resets.
    grads = torch.autograd.grad(loss, list(inputs.values()), materialize_grads=True)
    return {**results, **{f"grad {name}": grad for name, grad in zip(inputs, grads, strict=True)}}


def assert_same_as_torch(modules: Trio, input: Any, hx: Any = None, *, length: int) -> None:
    """Results and gradients are as close to the oracle as those of torch's module.

    The derivative of ReLU jumps at 0, and in 16 bits rounding carries many a value across: there,
    weights, input and state become small integers, with exact sums.
    """
    dtype = next(modules.ours.parameters()).dtype
    if getattr(modules.ours, "nonlinearity", "") == "relu" and dtype.itemsize == 2:
        for weights in zip(*(module.parameters() for module in modules), strict=True):
            integers = small_integers(weights[0])
            for weight in weights:
                weight.data.copy_(integers)
        input, hx = map_tensors((input, hx), small_integers)
    actual, theirs, oracle = (run(module, input, hx) for module in modules)
    assert actual.keys() == oracle.keys()
    for name, result in actual.items():
        assert result.dtype == theirs[name].dtype, name
        assert_close_to_float64(result, oracle[name], theirs[name], length, name)


def small_integers(tensor: Tensor) -> Tensor:
    """One element in five is 1 or -1, the others 0."""
    values = torch.randint(-1, 2, tensor.shape) * (torch.rand(tensor.shape) < 0.3)
    return values.to(tensor)
