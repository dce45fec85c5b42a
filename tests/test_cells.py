"""RNNCell, LSTMCell and GRUCell against torch.nn: results, gradients, and the module contract."""

from __future__ import annotations

import copy
import pickle
from types import ModuleType

import pytest
import torch
from cases import (
    CELLS,
    DTYPES,
    SIZES,
    assert_close,
    assert_close_to_float64,
    assert_same_as_torch,
    one_cell,
    run,
    strided,
    tensors_of,
    tolerance,
    trio,
)
from torch import Tensor, nn

import fusedrnn
from fusedrnn import compat

SPACES = pytest.mark.parametrize("space", [fusedrnn, compat], ids=["fusedrnn", "compat"])


def _state(cell: str, *size: int, dtype: torch.dtype = torch.float32) -> Tensor | tuple:
    h = strided(*size, dtype=dtype)
    return (h, strided(*size, dtype=dtype)) if cell == "lstm" else h


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("cell", CELLS)
def test_matches_torch(cell: str, bias: bool, dtype: torch.dtype, device: str) -> None:
    modules = trio(one_cell, cell, 5, 7, bias=bias, dtype=dtype, device=device)
    for batch in ((3,), (1,), ()):
        input = strided(*batch, 5, dtype=dtype).to(device)
        assert_same_as_torch(modules, input, length=2)
        assert_same_as_torch(modules, input, _state(cell, *batch, 7, dtype=dtype), length=2)


@pytest.mark.parametrize("cell", CELLS)
def test_matches_torch_at_every_size(cell: str) -> None:
    """Over several inputs at once: a bias of one unit has a gradient of few numbers, each a sum
    that may happen to be far smaller than its summands, or to be exact in torch.nn."""
    for idx, size in enumerate(SIZES):
        modules = trio(one_cell, cell, SIZES[-idx - 1], size, dtype=torch.float32)
        batch_size = SIZES[(idx + 3) % len(SIZES)]
        inputs = [
            (torch.randn(batch_size, SIZES[-idx - 1]), _state(cell, batch_size, size))
            for _ in range(4)
        ]

        def results(module: nn.Module, inputs: list = inputs) -> dict[str, Tensor]:
            runs = [run(module, *given) for given in inputs]
            return {name: torch.stack([each[name] for each in runs]) for name in runs[0]}

        actual, theirs, oracle = (results(module) for module in modules)
        for name, result in actual.items():
            assert_close_to_float64(result, oracle[name], theirs[name], 2, name)


@pytest.mark.parametrize("cell", CELLS)
def test_empty_batch_gives_empty_results_and_zero_gradients(cell: str) -> None:
    module = one_cell(fusedrnn, cell, 5, 7)
    results = run(module, torch.randn(0, 5))
    assert next(iter(results.values())).shape == (0, 7)
    assert torch.equal(results["grad weight_hh"], torch.zeros_like(module.weight_hh))


@pytest.mark.parametrize("cell", CELLS)
def test_steps_equal_one_layer(cell: str) -> None:
    name = {"rnn_tanh": "RNN", "rnn_relu": "RNN", "lstm": "LSTM", "gru": "GRU"}[cell]
    kwargs = {"nonlinearity": "relu"} if cell == "rnn_relu" else {}
    layer, module = getattr(fusedrnn, name)(5, 7, **kwargs), one_cell(fusedrnn, cell, 5, 7)
    module.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
    input = torch.randn(6, 3, 5)
    state, outputs = None, []
    for x in input:
        state = module(x, state)
        outputs.append(state[0] if cell == "lstm" else state)
    assert_close(torch.stack(outputs), layer(input)[0], tolerance(torch.float32, 12))


@pytest.mark.parametrize("cell", CELLS)
def test_non_finite_values_spread_as_in_torch(cell: str) -> None:
    ours, theirs, _ = trio(one_cell, cell, 5, 7, dtype=torch.float32)
    input, hx = torch.randn(4, 5), _state(cell, 4, 7)
    input[0, 1], input[1, 2] = float("nan"), float("inf")
    tensors_of(hx, "hx")["hx[1]" if cell == "lstm" else "hx"][2, 3] = float("nan")
    expected = tensors_of(theirs(input, hx), "result")
    for name, result in tensors_of(ours(input, hx), "result").items():
        assert_close(result, expected[name], tolerance(torch.float32, 2), name)


@SPACES
@pytest.mark.parametrize("cell", CELLS)
def test_contract_is_that_of_torch(cell: str, space: ModuleType) -> None:
    modules = []
    for source in (nn, space):
        torch.manual_seed(3)
        modules.append(one_cell(source, cell, 5, 7, bias=False))
    theirs, ours = modules
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    assert ours.bias_ih is None and ours.bias is False
    input = torch.randn(3, 5)
    expected = tensors_of(ours(input), "result")
    for duplicate in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(duplicate) is type(ours)
        for name, result in tensors_of(duplicate(input), "result").items():
            assert torch.equal(result, expected[name])


def test_positional_arguments_have_the_order_of_torch() -> None:
    assert repr(fusedrnn.RNNCell(3, 4, False, "relu")) == repr(nn.RNNCell(3, 4, False, "relu"))
    for name in ("LSTMCell", "GRUCell"):
        args = (3, 4, False, "cpu", torch.float64)
        assert repr(getattr(fusedrnn, name)(*args)) == repr(getattr(nn, name)(*args))
        assert getattr(fusedrnn, name)(*args).weight_ih.dtype == torch.float64


def test_only_compat_classes_are_instances_of_torch_classes() -> None:
    for name in ("RNNCell", "LSTMCell", "GRUCell"):
        assert issubclass(getattr(compat, name), getattr(nn, name))
        assert not issubclass(getattr(fusedrnn, name), getattr(nn, name))
        assert issubclass(getattr(fusedrnn, name), nn.RNNCellBase)


@pytest.mark.parametrize("cell", CELLS)
def test_weights_are_read_at_each_call(cell: str) -> None:
    module = one_cell(fusedrnn, cell, 5, 7)
    input, hx = torch.randn(3, 5), _state(cell, 3, 7)
    with torch.no_grad():
        before = tensors_of(module(input, hx), "result")
        module.weight_hh.mul_(2)
        after = tensors_of(module(input, hx), "result")
    assert all(not torch.equal(before[name], after[name]) for name in before)
    halved = {"weight_hh": module.weight_hh.detach() / 2}
    result = tensors_of(torch.func.functional_call(module, halved, (input, hx)), "result")
    for name, tensor in result.items():
        assert_close(tensor, before[name], tolerance(torch.float32, 2), name)


@pytest.mark.parametrize("cell", CELLS)
def test_weights_that_are_no_parameters_are_seen(cell: str) -> None:
    input = torch.randn(3, 5)
    doubled = one_cell(nn, cell, 5, 7)
    modules = [one_cell(fusedrnn, cell, 5, 7) for _ in range(3)]
    for module in modules:
        module.load_state_dict(doubled.state_dict())
    doubled.weight_ih.data.mul_(2)
    parametrized, plain, normed = modules
    nn.utils.parametrize.register_parametrization(parametrized, "weight_ih", _Double())
    weight = plain.weight_ih
    del plain.weight_ih
    plain.weight_ih = 2 * weight.detach()
    nn.utils.parametrizations.weight_norm(normed, "weight_ih")
    normed.parametrizations.weight_ih.original0.data.mul_(2)
    expected = tensors_of(doubled(input), "result")
    for module in modules:
        for name, result in tensors_of(module(input), "result").items():
            assert_close(result, expected[name], tolerance(torch.float32, 2), name)


class _Double(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


@pytest.mark.parametrize("space", [fusedrnn, compat], ids=["fusedrnn", "compat"])
@pytest.mark.parametrize("cell", CELLS)
def test_compiles_to_one_graph_with_dynamic_shapes(
    cell: str, space: ModuleType, compiled_part: None
) -> None:
    module = one_cell(space, cell, 5, 7)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch_size in (3, 4, 7):
        input, hx = torch.randn(batch_size, 5), _state(cell, batch_size, 7)
        expected = tensors_of(module(input, hx), "result")
        for name, result in tensors_of(compiled(input, hx), "result").items():
            assert_close(result, expected[name], tolerance(torch.float32, 2), name)


@pytest.mark.parametrize("rows", [3, 0, None], ids=["batch", "empty_batch", "one_row"])
@pytest.mark.parametrize("with_state", [False, True], ids=["no_state", "state"])
@SPACES
@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_without_units_is_that_of_torch(
    cell: str, space: ModuleType, with_state: bool, rows: int | None
) -> None:
    batch = () if rows is None else (rows,)
    ours, theirs = one_cell(space, cell, 10, 0), one_cell(nn, cell, 10, 0)
    ours.load_state_dict(theirs.state_dict())
    hx = torch.zeros(*batch, 0)
    hx = ((hx, hx) if cell == "lstm" else hx) if with_state else None
    found, expected = (run(module, torch.randn(*batch, 10), hx) for module in (ours, theirs))
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name
    with pytest.raises(RuntimeError, match="inconsistent input_size: got 9 expected 10"):
        ours(torch.randn(*batch, 9))
    meta = tensors_of(ours.to("meta")(torch.randn(*batch, 10, device="meta")), "result")
    assert {name: tensor.shape for name, tensor in meta.items()} == {
        name: expected[name].shape for name in meta
    }


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_without_units_compiles_maps_and_is_quantized(cell: str) -> None:
    module = one_cell(fusedrnn, cell, 10, 0)
    torch._dynamo.reset()
    ways = {
        "compile": torch.compile(module, fullgraph=True, backend="aot_eager"),
        "vmap": torch.vmap(module),
        "quantize": fusedrnn.quantize(nn.Sequential(module), dtype=torch.int8)[0],
    }
    for name, way in ways.items():
        results = tensors_of(way(torch.randn(3, 10)), "result")
        assert {tensor.shape for tensor in results.values()} == {(3, 0)}, name
