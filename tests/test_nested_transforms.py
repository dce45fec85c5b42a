"""Second derivatives by every nesting of torch.func's transforms, with and without vmap around.

The oracle is torch.autograd.functional on the reference, in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CELLS, assert_close, largest, layers, one_cell, tolerance
from layer_cases import VARIANTS, Layer, make_layer
from torch import Tensor, nn
from torch.func import grad, jacfwd, jacrev, jvp, vjp

import fusedrnn
from fusedrnn import _library, ops, reference

if not _library.available:
    pytest.skip(f"needs the compiled part: {_library.reason}", allow_module_level=True)

Function = Callable[[Tensor], Tensor]
ALLOWED = tolerance(torch.float64, 99)

# The gradient of a function of one number, and for jvp its product with a direction.
INNER: dict[str, Callable[[Function, Tensor], Function]] = {
    "grad": lambda f, v: grad(f),
    "vjp": lambda f, v: lambda x: vjp(f, x)[1](torch.ones((), dtype=x.dtype))[0],
    "jacrev": lambda f, v: jacrev(f),
    "jacfwd": lambda f, v: jacfwd(f),
    "jvp": lambda f, v: lambda x: jvp(f, (x,), (v,))[1],
}
# The derivative of that: the whole of it, or its product with a direction.
OUTER: dict[str, Callable[[Function, Tensor], Function]] = {
    "grad": lambda g, v: grad(lambda x: (g(x) * (v if g(x).dim() else 1)).sum()),
    "vjp": lambda g, v: (
        lambda x: (lambda y, pull: pull(v if y.dim() else torch.ones_like(y))[0])(*vjp(g, x))
    ),
    "jacrev": lambda g, v: jacrev(g),
    "jacfwd": lambda g, v: jacfwd(g),
    "jvp": lambda g, v: lambda x: jvp(g, (x,), (v,))[1],
}
NESTINGS = [(outer, inner) for outer in OUTER for inner in INNER]
# The arguments of an operator that derivatives are taken with respect to.
ARGUMENTS = (
    *("input", "h_0", "c_0", "reset_h", "weight_ih", "weight_hh", "bias_ih", "bias_hh"),
    *("weight_hr", "weight_hh_reverse"),
)
# ReLU's second derivative is tanh's by other numbers, most of them zeros.
OPERATOR_CELLS = tuple(cell for cell in CELLS if cell != "rnn_relu")
OPTIONS = ("plain", "packed", "lengths", "reset", "recompute", "everything", "projection")


def expected_second(hessian: Tensor, outer: str, inner: str, v: Tensor) -> Tensor:
    """What the nesting gives, from the Hessian [n, n]."""
    whole = outer in ("jacrev", "jacfwd")
    if inner == "jvp":
        row = hessian @ v.flatten()
        return (row * v.flatten()).sum() if outer == "jvp" else row.reshape(v.shape)
    return (
        hessian.reshape(*v.shape, *v.shape) if whole else (hessian @ v.flatten()).reshape(v.shape)
    )


def check_nestings(f: Function, oracle: Function, x: Tensor, name: str) -> int:
    """All nestings at two places, each alone and both under vmap; returns how many."""
    v = torch.randn_like(x)
    places = torch.stack([x, 0.5 * x])
    hessians = [torch.autograd.functional.hessian(oracle, place) for place in places]
    hessians = [hessian.reshape(x.numel(), x.numel()) for hessian in hessians]
    for outer, inner in NESTINGS:
        second = OUTER[outer](INNER[inner](f, v), v)
        expected = [expected_second(hessian, outer, inner, v) for hessian in hessians]
        label = f"{outer}({inner}) of {name}"
        # A product with a direction may be smaller than its summands.
        scale = max(largest(hessian) for hessian in hessians) * max(1.0, float(v.norm()) ** 2)
        assert_close(second(x), expected[0], ALLOWED, label, scale)
        both = torch.vmap(second)(places)
        assert_close(both, torch.stack(expected), ALLOWED, f"vmap {label}", scale)
    return 2 * len(NESTINGS)


def loss(layer: Layer, forward: Any) -> Tensor:
    return sum((result.sin() * result).sum() for result in layer.run(forward) if result.numel())


@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("cell", OPERATOR_CELLS)
def test_operator(cell: str, option: str, argument: str) -> None:
    if "projection" in option and cell != "lstm":
        pytest.skip("only lstm has a projection")
    options = dict(VARIANTS[option])
    if "proj_size" in options:
        options["proj_size"] = 1
    layer = make_layer(cell, sizes=(3, 2, 2, 2), **options)
    if layer.lengths is not None:
        layer = layer._replace(input=layer.input.nan_to_num(), lengths=torch.tensor([1, 3]))
    if layer.present.get(argument) is None:
        pytest.skip(f"{option} of {cell} has no {argument}")

    def function(forward: Any) -> Function:
        return lambda x: loss(layer.replace(**{argument: x}), forward)

    checked = check_nestings(
        function(ops.layer_forward),
        function(reference.layer_forward),
        layer.present[argument],
        argument,
    )
    assert checked == 50


@pytest.mark.parametrize("build", [layers, one_cell], ids=["layers", "cell"])
@pytest.mark.parametrize("cell", CELLS)
def test_module(cell: str, build: Any) -> None:
    ours = build(fusedrnn, cell, 2, 2, dtype=torch.float64)
    theirs = build(nn, cell, 2, 2, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    shape = (3, 2, 2) if build is layers else (3, 2)
    values = {
        "input": torch.randn(shape, dtype=torch.float64),
        **{name: value.detach() for name, value in ours.named_parameters()},
    }

    def function(module: nn.Module, name: str) -> Function:
        def value(x: Tensor) -> Tensor:
            given = values | {name: x}
            result = torch.func.functional_call(module, given, (given.pop("input"),))
            first = result[0] if isinstance(result, tuple) else result
            return (first.sin() * first).sum()

        return value

    for name, x in values.items():
        assert check_nestings(function(ours, name), function(theirs, name), x, name) == 50
