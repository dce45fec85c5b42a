"""The operators under torch's subsystems: autocast, torch.func, compile, export, checkpointing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import assert_close, tolerance
from layer_cases import CELL_VARIANTS, VARIANTS, Layer, make_layer, operator, oracle
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fusedrnn import _library, ops, reference

if not _library.available:
    pytest.skip(f"needs the compiled part: {_library.reason}", allow_module_level=True)

CELLS = tuple(reference.CELLS)
OPS = torch.ops.fusedrnn
DOUBLE = torch.float64


@pytest.mark.parametrize("cell", CELLS)
def test_autocast_runs_in_its_dtype(cell: str, device: str) -> None:
    layer = make_layer(cell, torch.float32, bidirectional=True, device=device)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast(device, dtype=dtype):
            actual = operator(layer)
        expected = oracle(layer)
        for name, result in actual.items():
            wanted = torch.float32 if name.startswith("grad_") else dtype
            assert result.dtype == wanted, name
            assert_close(result, expected[name], tolerance(dtype, 2 * 13), name)


def test_autocast_leaves_float64_alone(device: str) -> None:
    layer = make_layer("lstm", device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        output, *_ = layer.run(ops.layer_forward)
    assert output.dtype == DOUBLE
    assert torch.equal(output, layer.run(ops.layer_forward)[0])


def loss_of(forward: Any, layer: Layer, *tensors: Tensor) -> Tensor:
    changed = layer.replace(**dict(zip(layer.present, tensors, strict=True)))
    output, h_n, *_ = changed.run(forward)
    return output.square().sum() + h_n.sin().sum()


@pytest.mark.parametrize("cell", CELLS)
def test_func_grad_and_its_grad(cell: str, device: str) -> None:
    layer = make_layer(cell, bidirectional=True, device=device)
    tensors = tuple(layer.present.values())
    places = tuple(range(len(tensors)))

    def first(forward: Any) -> Any:
        return torch.func.grad(lambda *args: loss_of(forward, layer, *args), argnums=places)

    weight = list(layer.present).index("weight_ih")

    def second(forward: Any) -> Any:
        return torch.func.grad(lambda *args: first(forward)(*args)[weight].square().sum())

    for derivative in (first, second):
        actual = derivative(ops.layer_forward)(*tensors)
        expected = derivative(reference.layer_forward)(*tensors)
        for grad, wanted in zip(actual, expected, strict=True):
            assert_close(grad, wanted, tolerance(DOUBLE, 99))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("cell", CELLS)
def test_func_vmap_of_grad_and_jacrev(cell: str, device: str) -> None:
    layer = make_layer(cell, device=device)
    inputs = torch.randn(3, *layer.input.shape, dtype=DOUBLE, device=device)

    def per_sample(forward: Any) -> Tensor:
        def loss(weight: Tensor, input: Tensor) -> Tensor:
            changed = layer.replace(weight_hh=weight, input=input)
            return loss_of(forward, changed, *changed.present.values())

        grad = torch.func.grad(loss)
        return torch.func.vmap(grad, in_dims=(None, 0))(layer.weights.weight_hh, inputs)

    def jacobian(forward: Any) -> Tensor:
        return torch.func.jacrev(lambda input: layer.replace(input=input).run(forward)[0])(
            layer.input
        )

    for derivative in (per_sample, jacobian):
        actual, expected = derivative(ops.layer_forward), derivative(reference.layer_forward)
        assert_close(actual, expected, tolerance(DOUBLE, 99))


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
@pytest.mark.parametrize(("cell", "variant"), CELL_VARIANTS)
def test_forward_mode_matches_the_reference(
    cell: str, variant: str, dtype: torch.dtype, device: str
) -> None:
    layer = make_layer(cell, dtype, **VARIANTS[variant], device=device)
    tensors = {name: tensor.nan_to_num() for name, tensor in layer.present.items()}
    tangents = {name: torch.randn_like(tensor) for name, tensor in tensors.items()}

    def jvp(forward: Any, dtype: torch.dtype) -> tuple[Tensor, ...]:
        def run(*values: Tensor) -> tuple[Tensor, ...]:
            return layer.replace(**dict(zip(tensors, values, strict=True))).run(forward)

        primals, directions = (
            tuple(value.to(dtype) for value in values.values()) for values in (tensors, tangents)
        )
        outputs, derivatives = torch.func.jvp(run, primals, directions)
        return (*outputs, *derivatives)

    actual, expected = jvp(ops.layer_forward, dtype), jvp(reference.layer_forward, DOUBLE)
    for result, wanted in zip(actual, expected, strict=True):
        assert_close(result, wanted, tolerance(dtype, 2 * 13))


@pytest.mark.parametrize("cell", CELLS)
def test_forward_over_forward_and_over_reverse(cell: str, device: str) -> None:
    layer = make_layer(cell, sizes=(3, 2, 2, 3), device=device)
    direction = torch.randn_like(layer.input)

    def value(forward: Any, input: Tensor) -> Tensor:
        return layer.replace(input=input).run(forward)[0].square().sum()

    def twice(forward: Any) -> Tensor:
        def once(input: Tensor) -> Tensor:
            return torch.func.jvp(lambda x: value(forward, x), (input,), (direction,))[1]

        return torch.func.jvp(once, (layer.input,), (direction,))[1]

    def over_reverse(forward: Any) -> Tensor:
        gradient = torch.func.grad(lambda x: value(forward, x))
        return torch.func.jvp(gradient, (layer.input,), (direction,))[1]

    for derivative in (twice, over_reverse):
        actual, expected = derivative(ops.layer_forward), derivative(reference.layer_forward)
        assert_close(actual, expected, tolerance(DOUBLE, 99))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_in_one_graph_for_every_length(cell: str, backend: str, device: str) -> None:
    if backend == "inductor" and cell != "lstm":
        pytest.skip("one cell is enough for the slow backend: the operator is opaque to it")
    torch._dynamo.reset()

    def forward(*layer: Any) -> Tensor:
        output, h_n, *_ = Layer(*layer).run(ops.layer_forward)
        return output.square().sum() + h_n.sum()

    compiled = torch.compile(forward, fullgraph=True, dynamic=True, backend=backend)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seq_len, batch_size in ((4, 3), (7, 2), (9, 5)):
            layer = make_layer(
                cell, sizes=(seq_len, batch_size, 5, 7), bidirectional=True, device=device
            )
            actual, expected = layer.leaves(), layer.leaves()
            compiled(*actual).backward()
            forward(*expected).backward()
            for name, tensor in actual.present.items():
                assert_close(tensor.grad, expected.present[name].grad, tolerance(DOUBLE, 9), name)


def test_export_with_a_dynamic_length(device: str) -> None:
    layer = make_layer("lstm", bidirectional=True, device=device)

    class Model(torch.nn.Module):
        def forward(self, input: Tensor) -> Tensor:
            return layer.replace(input=input).run(ops.layer_forward)[0]

    length = torch.export.Dim("length", min=2, max=1000)
    exported = torch.export.export(Model(), (layer.input,), dynamic_shapes=({0: length},))
    shorter = layer.input[:2]
    assert torch.equal(exported.module()(shorter), Model()(shorter))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant: bool, device: str) -> None:
    layer = make_layer("gru", bidirectional=True, device=device)

    def gradients(run: Any) -> dict[str, Tensor]:
        leaves = layer.leaves()
        run(lambda *tensors: loss_of(ops.layer_forward, leaves, *tensors), leaves).backward()
        return {name: tensor.grad for name, tensor in leaves.present.items()}

    expected = gradients(lambda loss, leaves: loss(*leaves.present.values()))
    actual = gradients(
        lambda loss, leaves: checkpoint(loss, *leaves.present.values(), use_reentrant=reentrant)
    )
    for name, wanted in expected.items():
        assert torch.equal(actual[name], wanted), name


def test_changed_input_is_noticed_in_backward(device: str) -> None:
    layer = make_layer("gru", device=device).leaves()
    output, *_ = layer.run(ops.layer_forward)
    with torch.no_grad():
        layer.weights.weight_hh.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_second_backward_needs_retain_graph(device: str) -> None:
    layer = make_layer("lstm", device=device).leaves()
    loss = layer.run(ops.layer_forward)[0].sum()
    loss.backward(retain_graph=True)
    once = layer.input.grad.clone()
    loss.backward()
    assert torch.equal(layer.input.grad, 2 * once)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_nothing_is_saved_without_a_gradient(device: str) -> None:
    layer = make_layer("lstm", device=device)
    assert OPS.layer_forward(*layer.forward_args())[4].shape == (0,)
    leaves = layer.leaves()
    with torch.no_grad():
        assert OPS.layer_forward(*leaves.forward_args())[4].shape == (0,)
    assert OPS.layer_forward(*leaves.forward_args())[4].shape == (1, 4, 3, 5, 7)
    kept = leaves._replace(recompute=3)
    assert OPS.layer_forward(*kept.forward_args())[4].shape == (1, 2, 3, 7)
    assert all(result.shape == (0,) for result in OPS.layer_forward(*leaves.forward_args())[3:4])
