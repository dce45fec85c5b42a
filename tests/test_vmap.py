"""torch.vmap over the operators, with the reference under vmap as the oracle.

A rule that is missing would show as torch's warning of a slow fallback, which is an error here.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import CELLS, assert_close, tolerance
from layer_cases import CELL_VARIANTS, VARIANTS, Layer, make_layer
from torch import Tensor, nn

import fusedrnn
from fusedrnn import _library, _vmap, ops, reference

if not _library.available:
    pytest.skip(f"needs the compiled part: {_library.reason}", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("error:There is a performance drop")
DOUBLE = torch.float64
ALLOWED = tolerance(DOUBLE, 99)
STATES = ("h_0", "c_0", "reset_h", "reset_c")


def loss(forward: Any, layer: Layer, values: dict[str, Tensor]) -> Tensor:
    results = layer.replace(**values).run(forward)
    return sum(result.square().sum() + result.sin().sum() for result in results if result.numel())


def per_sample(
    forward: Any, layer: Layer, values: dict[str, Tensor], dims: dict[str, int | None]
) -> dict[str, Tensor]:
    grad = torch.func.grad(lambda values: loss(forward, layer, values))
    return torch.func.vmap(grad, in_dims=(dims,))(values)


@pytest.mark.parametrize(
    ("cell", "variant", "batched"),
    [
        (cell, variant, batched)
        for cell, variant in CELL_VARIANTS
        for batched in ("input", "states", "weights")
        if batched != "states" or VARIANTS[variant].get("state", True)
    ],
)
def test_gradients_of_each_sample(cell: str, variant: str, batched: str, device: str) -> None:
    layer = make_layer(cell, **VARIANTS[variant], device=device)
    values, dims = {}, {}
    for name, tensor in layer.present.items():
        kind = "states" if name in STATES else "input" if name == "input" else "weights"
        dims[name] = 1 if kind == batched else None
        values[name] = tensor
        if kind == batched:
            noise = [0.1 * torch.randn_like(tensor) for _ in range(3)]
            values[name] = torch.stack([tensor + change for change in noise], 1)
    actual = per_sample(ops.layer_forward, layer, values, dims)
    expected = per_sample(reference.layer_forward, layer, values, dims)
    for name, grad in expected.items():
        assert_close(actual[name], grad, ALLOWED, name)


@pytest.mark.parametrize("cell", CELLS)
def test_lengths_and_resets_of_each_sample(cell: str, device: str) -> None:
    layer = make_layer(cell, lengths=True, reset=True, bidirectional=True, device=device)
    lengths = torch.tensor([[4, 0, 2], [1, 3, 4]], device=device)
    resets = torch.stack([layer.reset, ~layer.reset])
    inputs = torch.randn(2, *layer.input.shape, dtype=DOUBLE, device=device)

    def run(forward: Any) -> Tensor:
        def one(input: Tensor, lengths: Tensor, reset: Tensor) -> Tensor:
            changed = layer.replace(input=input)._replace(lengths=lengths, reset=reset)
            return changed.run(forward)[0]

        return torch.func.vmap(one)(inputs, lengths, resets)

    assert_close(run(ops.layer_forward), run(reference.layer_forward), ALLOWED)


@pytest.mark.parametrize("recompute", [0, 2])
@pytest.mark.parametrize("projected", [False, True], ids=["plain", "projected"])
def test_per_sample_gradients_with_lengths_of_each_sample(
    projected: bool, recompute: int, device: str
) -> None:
    """The rows of a call are saved in the order of its lengths, which a sample knows not."""
    module = fusedrnn.LSTM(
        5, 7, bidirectional=True, proj_size=2 * projected, device=device, dtype=DOUBLE
    )
    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
    inputs = torch.randn(3, 4, 2, 5, dtype=DOUBLE, device=device)
    lengths = torch.tensor([[1, 4], [3, 0], [4, 2]], device=device)
    options = {"recompute": f"chunk:{recompute}"} if recompute else {}

    def value(parameters: dict[str, Tensor], input: Tensor, lengths: Tensor) -> Tensor:
        given = {"lengths": lengths, **options}
        output, _ = torch.func.functional_call(module, parameters, (input,), given)
        return output.square().sum()

    gradients = torch.func.grad(value, argnums=(0, 1))
    of_weights, of_inputs = torch.func.vmap(gradients, (None, 0, 0))(parameters, inputs, lengths)
    for idx in range(3):
        expected, of_input = gradients(parameters, inputs[idx], lengths[idx])
        assert_close(of_inputs[idx], of_input, ALLOWED, "input")
        for name, grad in expected.items():
            assert_close(of_weights[name][idx], grad, ALLOWED, name)


@pytest.mark.parametrize("rows", [1, 7, 256])
@pytest.mark.parametrize("cell", CELLS)
def test_jacobian_in_parts(
    cell: str, rows: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples that share their input run so many rows at a time."""
    monkeypatch.setattr(_vmap, "_MAX_COPIED_ROWS", rows)
    layer = make_layer(cell, sizes=(3, 2, 2, 5), bidirectional=True, device=device)

    def jacobian(forward: Any) -> dict[str, Tensor]:
        def output(values: dict[str, Tensor]) -> Tensor:
            return layer.replace(**values).run(forward)[0]

        return torch.func.jacrev(output)(layer.present)

    actual, expected = jacobian(ops.layer_forward), jacobian(reference.layer_forward)
    for name, wanted in expected.items():
        assert_close(actual[name], wanted, ALLOWED, name)


@pytest.mark.parametrize("cell", CELLS)
def test_vmap_of_vmap_and_backward_through_it(cell: str, device: str) -> None:
    layer = make_layer(cell, bidirectional=True, device=device)
    inputs = torch.randn(2, 3, *layer.input.shape, dtype=DOUBLE, device=device)

    def gradients(forward: Any) -> tuple[Tensor, ...]:
        weight = layer.weights.weight_hh.clone().requires_grad_()
        samples = inputs.clone().requires_grad_()

        def one(input: Tensor) -> Tensor:
            return loss(forward, layer, {"input": input, "weight_hh": weight})

        grad = torch.func.vmap(torch.func.vmap(torch.func.grad(one)))(samples)
        value = torch.func.vmap(torch.func.vmap(one))(samples).square().sum()
        return torch.autograd.grad(value + grad.square().sum(), (weight, samples))

    for actual, wanted in zip(
        gradients(ops.layer_forward), gradients(reference.layer_forward), strict=True
    ):
        assert_close(actual, wanted, ALLOWED)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_per_sample_gradients_of_a_module(name: str, device: str) -> None:
    module = getattr(fusedrnn, name)(5, 7, 2, batch_first=True, device=device, dtype=DOUBLE)
    peer = getattr(nn, name)(5, 7, 2, batch_first=True, device=device, dtype=DOUBLE)
    peer.load_state_dict(module.state_dict())
    samples = torch.randn(4, 6, 5, device=device, dtype=DOUBLE)

    def value(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        output, _ = torch.func.functional_call(module, parameters, (sample.unsqueeze(0),))
        return output.square().sum()

    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
    grads = torch.func.vmap(torch.func.grad(value), in_dims=(None, 0))(parameters, samples)
    for idx, sample in enumerate(samples):
        peer.zero_grad()
        peer(sample.unsqueeze(0))[0].square().sum().backward()
        for name, parameter in peer.named_parameters():
            assert_close(grads[name][idx], parameter.grad, ALLOWED, name)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_ensemble_of_modules(name: str, device: str) -> None:
    modules = [getattr(fusedrnn, name)(5, 7, device=device, dtype=DOUBLE) for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(modules)
    input = torch.randn(6, 2, 5, device=device, dtype=DOUBLE)

    def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(modules[0], (parameters, buffers), (input,))[0]

    outputs = torch.func.vmap(one)(parameters, buffers)
    for output, module in zip(outputs, modules, strict=True):
        assert torch.equal(output, module(input)[0])
