"""What else of torch touches a module: each tool applied to fusedrnn and to torch.nn alike."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CELLS, Trio, assert_close, layers, run, strided, tolerance, trio
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint

import fusedrnn

ALLOWED = tolerance(torch.float32, 24)


def _modules(cell: str, device: str = "cpu", **options: Any) -> Trio:
    return trio(
        layers, cell, 5, 7, 2, bidirectional=True, dtype=torch.float32, device=device, **options
    )


def _input(device: str = "cpu") -> Tensor:
    return strided(6, 3, 5, dtype=torch.float32).to(device)


def _assert_same(
    actual: dict[str, Tensor], expected: dict[str, Tensor], allowed: float = ALLOWED
) -> None:
    assert actual.keys() == expected.keys()
    for name, result in expected.items():
        assert_close(actual[name], result, allowed, name)


class WeightDrop:
    """Drops recurrent weights afresh at each call, as AWD-LSTM does.

    The raw weight stays a parameter; what the layer reads is a plain tensor put in its place.
    """

    def __init__(self, module: nn.Module, probability: float = 0.4) -> None:
        self.probability = probability
        self.names = [name for name in module._parameters if name.startswith("weight_hh")]
        for name in self.names:
            raw = module._parameters.pop(name)
            module.register_parameter(f"{name}_raw", nn.Parameter(raw.detach().clone()))
        module.register_forward_pre_hook(self)

    def __call__(self, module: nn.Module, _: Any) -> None:
        for name in self.names:
            raw = getattr(module, f"{name}_raw")
            setattr(module, name, nn.functional.dropout(raw, self.probability, module.training))


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight + 0.5 * weight.flip(0)


def _each_hidden_weight(apply: Callable[..., Any]) -> Callable[[nn.Module], None]:
    def treat(module: nn.Module) -> None:
        for name in [n for n, _ in module.named_parameters() if n.startswith("weight_hh")]:
            apply(module, name)

    return treat


def _tie_layers(module: nn.Module) -> None:
    """Both directions share every weight of their layer."""
    for name, parameter in list(module.named_parameters()):
        if not name.endswith("_reverse"):
            setattr(module, f"{name}_reverse", parameter)


def _freeze(module: nn.Module) -> None:
    """A tensor that is no parameter takes a weight's place."""
    weight = module.weight_hh_l1
    del module.weight_hh_l1
    module.weight_hh_l1 = weight.detach() * 0.5


TREATMENTS: dict[str, Callable[[nn.Module], Any]] = {
    "weight_norm": _each_hidden_weight(parametrizations.weight_norm),
    "old_weight_norm": _each_hidden_weight(nn.utils.weight_norm),
    "spectral_norm": _each_hidden_weight(parametrizations.spectral_norm),
    "old_spectral_norm": _each_hidden_weight(nn.utils.spectral_norm),
    "orthogonal": lambda module: parametrizations.orthogonal(module, "weight_hh_l0"),
    "own_parametrization": _each_hidden_weight(
        lambda module, name: parametrize.register_parametrization(module, name, Symmetric())
    ),
    "pruning": _each_hidden_weight(lambda m, name: prune.l1_unstructured(m, name, amount=0.5)),
    "weight_drop": WeightDrop,
    "tied_weights": _tie_layers,
    "replaced_weight": _freeze,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("treatment", TREATMENTS)
@pytest.mark.parametrize("cell", CELLS)
def test_treated_weights_give_the_results_of_torch(cell: str, treatment: str, device: str) -> None:
    """Three training steps: what is computed from a weight follows the weight."""
    ours, theirs, _ = _modules(cell, device)
    inputs, found = [_input(device) for _ in range(3)], []
    for module in (ours, theirs):
        torch.manual_seed(5)
        TREATMENTS[treatment](module)
        optimizer = torch.optim.SGD(module.parameters(), 0.05)
        for step, input in enumerate(inputs):
            # Spectral norm changes its vectors whenever a weight is read: here, once a call.
            with parametrize.cached():
                results = run(module, input)
            found.append({f"step {step} {name}": value for name, value in results.items()})
            for name, parameter in module.named_parameters():
                parameter.grad = found[-1][f"step {step} grad {name}"]
            optimizer.step()
    for actual, expected in zip(found[:3], found[3:], strict=True):
        # A step's error is in the weights of the next.
        _assert_same(actual, expected, 10 * ALLOWED)


@pytest.mark.parametrize("cell", CELLS)
def test_functional_call_reads_the_weights_it_is_given(cell: str, device: str) -> None:
    ours, theirs, _ = _modules(cell, device)
    input = _input(device)
    weights = {n: (2 * p).detach().requires_grad_() for n, p in ours.named_parameters()}
    found = []
    for module in (ours, theirs):
        output = torch.func.functional_call(module, weights, (input,))[0]
        grads = torch.autograd.grad(output.square().sum(), list(weights.values()))
        found.append({"output": output} | dict(zip(weights, grads, strict=True)))
    _assert_same(*found)


def _pickled(module: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(module))


def _saved(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, _pickled, _saved], ids=lambda f: f.__name__)
@pytest.mark.parametrize("cell", CELLS)
def test_copy_computes_the_same_and_is_independent(
    cell: str, copied: Callable[[nn.Module], nn.Module], device: str
) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True, dropout=0.3, device=device).eval()
    input = _input(device)
    expected = run(module, input)
    again = copied(module)
    assert type(again) is type(module) and repr(again) == repr(module) and not again.training
    for parameter in module.parameters():
        parameter.data.zero_()
    for name, result in run(again, input).items():
        assert torch.equal(result, expected[name]), name


def test_deepcopy_of_tied_and_parametrized_modules_keeps_both(device: str) -> None:
    module = fusedrnn.GRU(5, 7, 2, bidirectional=True, device=device)
    _tie_layers(module)
    parametrizations.weight_norm(module, "weight_hh_l0")
    again = copy.deepcopy(module)
    assert again.weight_ih_l0 is again.weight_ih_l0_reverse
    assert parametrize.is_parametrized(again, "weight_hh_l0")
    input = _input(device)
    expected = run(module, input)
    for name, result in run(again, input).items():
        assert torch.equal(result, expected[name]), name


@pytest.mark.parametrize("reentrant", [False, True], ids=["not_reentrant", "reentrant"])
@pytest.mark.parametrize("cell", CELLS)
def test_checkpointing_gives_the_same_bits_and_the_results_of_torch(
    cell: str, reentrant: bool, device: str
) -> None:
    """With dropout: the second forward draws the same numbers."""
    ours, theirs, _ = _modules(cell, device, dropout=0.5)
    input = _input(device).requires_grad_()

    def grads(module: nn.Module, call: Callable[[Tensor], Any]) -> dict[str, Tensor]:
        module.zero_grad()
        input.grad = None
        torch.manual_seed(1)
        output = call(input)[0]
        output.square().sum().backward()
        named = {n: p.grad.clone() for n, p in module.named_parameters()}
        return named | {"input": input.grad.clone(), "output": output.detach()}

    def kept(module: nn.Module) -> dict[str, Tensor]:
        return grads(module, lambda x: checkpoint(module, x, use_reentrant=reentrant))

    actual = kept(ours)
    for name, expected in grads(ours, ours).items():
        assert torch.equal(actual[name], expected), name
    if device == "cpu":  # on CUDA, torch.nn draws its masks within cuDNN
        _assert_same(actual, kept(theirs))


@pytest.mark.parametrize("cell", CELLS)
def test_hooks_see_and_change_what_those_of_torch_do(cell: str, device: str) -> None:
    ours, theirs, _ = _modules(cell, device)
    input = _input(device)
    logs = []
    for module in (ours, theirs):
        log: dict[str, Tensor] = {}
        logs.append(log)

        def before(_: Any, args: tuple, log: dict = log) -> tuple:
            log["argument"] = args[0].detach()
            return (2 * args[0], *args[1:])

        def after(_: Any, args: tuple, result: tuple, log: dict = log) -> tuple:
            log["changed argument"], log["output"] = args[0].detach(), result[0].detach()
            return 3 * result[0], result[1]

        def backward_pre(_: Any, grads: tuple, log: dict = log) -> tuple:
            log["grad_output"] = grads[0]
            return (0.5 * grads[0], *grads[1:])

        def backward(_: Any, grad_input: tuple, grad_output: tuple, log: dict = log) -> tuple:
            log["grad_input"], log["changed grad_output"] = grad_input[0], grad_output[0]
            return (-grad_input[0], *grad_input[1:])

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)
        module.register_full_backward_pre_hook(backward_pre)
        module.register_full_backward_hook(backward)
        module.weight_hh_l0.register_hook(lambda grad: 10 * grad)
        module.bias_ih_l0.register_post_accumulate_grad_hook(
            lambda parameter, log=log: log.update({"bias_ih_l0.grad": parameter.grad.clone()})
        )
        leaf = input.clone().requires_grad_()
        output, _ = module(leaf)
        output.square().sum().backward()
        log |= {"input.grad": leaf.grad, "weight_hh_l0.grad": module.weight_hh_l0.grad}
    assert len(logs[0]) == 9
    assert torch.equal(logs[0]["changed argument"], 2 * logs[0]["argument"])
    assert torch.equal(logs[0]["input.grad"], -2 * logs[0]["grad_input"])
    _assert_same(*logs)
