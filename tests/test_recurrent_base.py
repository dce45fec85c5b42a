"""Layers of any registered cell: parameters in torch's form, and results of the reference."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import pytest
import torch
from cases import MODULES, assert_close, tolerance
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import fusedrnn
from fusedrnn import reference
from fusedrnn._cells import CELLS
from fusedrnn._weights import LayerWeights

DOUBLE = torch.float64
ALLOWED = tolerance(DOUBLE, 40)


def class_of(name: str) -> type[fusedrnn.RecurrentBase]:
    return type("Own", (fusedrnn.RecurrentBase,), {"cell": name})


def weights_of(layer: nn.Module, depth: int, suffix: str) -> LayerWeights:
    names = [f"{field}_l{depth}{suffix}" for field in LayerWeights._fields]
    return LayerWeights(*(getattr(layer, name, None) for name in names))


def stack_by_reference(layer: Any, input: Tensor, **options: Any) -> tuple[Tensor, ...]:
    """Output, h_n, c_n and c of every step of all layers."""
    finals = []
    for depth in range(layer.num_layers):
        own = weights_of(layer, depth, "")
        reverse = weights_of(layer, depth, "_reverse") if layer.bidirectional else None
        input, *others = reference.layer_forward(
            layer.cell, input, None, None, own, reverse, return_c=True, **options
        )
        finals.append(others)
    return input, *(torch.cat(each) for each in zip(*finals))


OPTIONS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "plain": ({}, ()),
    "stack": ({"num_layers": 2, "bidirectional": True}, ()),
    "nobias": ({"bias": False}, ()),
    "lengths": ({"bidirectional": True}, ("lengths",)),
    "reset": ({"bidirectional": True}, ("reset",)),
    "everything": ({"num_layers": 2, "bidirectional": True}, ("lengths", "reset")),
}


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_results_and_gradients_are_those_of_the_reference(
    cell: str, option: str, projected: bool, device: str
) -> None:
    kind = CELLS[cell]
    if projected and not kind.has_projection:
        pytest.skip("it has no projection")
    kwargs, given = OPTIONS[option]
    layer = class_of(cell)(
        5, 7, proj_size=3 if projected else 0, dtype=DOUBLE, device=device, **kwargs
    )
    input = torch.randn(6, 4, 5, dtype=DOUBLE, device=device, requires_grad=True)
    options: dict[str, Any] = {}
    if "lengths" in given:
        options["lengths"] = torch.tensor([6, 0, 3, 1], device=device)
    if "reset" in given:
        options["reset"] = torch.rand(6, 4, device=device) < 0.3
    output, state, states = layer(input, return_states=True, **options)
    actual = [output, *(state if kind.states == 2 else (state,)), *states[1:]]
    expected = list(stack_by_reference(layer, input, **options))
    expected = [value for value in expected if value.numel()]
    leaves = [input, *layer.parameters()]
    for name, values in (("actual", actual), ("expected", expected)):
        loss = sum((value * torch.linspace(0.5, 1.5, value.numel()).to(value).view_as(value)).sum()
                   for value in values)  # fmt: skip
        values += torch.autograd.grad(loss, leaves, materialize_grads=name == "expected")
    for found, wanted in zip(actual, expected, strict=True):
        assert_close(found, wanted, ALLOWED)


@pytest.mark.parametrize("cell", CELLS)
def test_gates_are_those_of_the_reference(cell: str, device: str) -> None:
    layer = class_of(cell)(5, 7, dtype=DOUBLE, device=device)
    input = torch.randn(3, 4, 5, dtype=DOUBLE, device=device)
    reset = torch.rand(3, 4, device=device) < 0.5
    *_, states, gates = layer(input, reset=reset, return_states=True, return_gates=True)
    assert gates._fields == CELLS[cell].gate_names
    w, spec = weights_of(layer, 0, ""), reference.CELLS[cell]
    params = () if w.params is None else w.params.chunk(len(spec.param_names))
    zeros = torch.zeros(4, 7, dtype=DOUBLE, device=device)
    before = [zeros] * spec.states
    for step in range(3):
        entering = [torch.where(reset[step, :, None], 0.0, state) for state in before]
        h, c = (*entering, zeros)[:2]
        x = nn.functional.linear(input[step], w.weight_ih, w.bias_ih)
        r = nn.functional.linear(h, w.weight_hh, w.bias_hh)
        wanted = spec.step(x, r, h, c, *params)[2]
        for gate, value in zip(gates, wanted, strict=True):
            assert_close(gate[0, step], value, ALLOWED)
        before = [state[0, step] for state in states]


@pytest.mark.parametrize("proj_size", [0, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cell", MODULES)
def test_parameters_are_those_of_torch(cell: str, bias: bool, proj_size: int) -> None:
    if proj_size and not CELLS[cell].has_projection:
        with pytest.raises(ValueError, match=f"proj_size: expected 0, because {cell} has no proj"):
            class_of(cell)(5, 7, proj_size=proj_size)
        return
    name, extra = MODULES[cell]
    kwargs = {"num_layers": 2, "bias": bias, "bidirectional": True, "dtype": DOUBLE} | extra
    kwargs |= {"proj_size": proj_size} if proj_size else {}
    torch.manual_seed(3)
    theirs = getattr(nn, name)(5, 7, **kwargs)
    kwargs.pop("nonlinearity", None)
    torch.manual_seed(3)
    ours = class_of(cell)(5, 7, **kwargs)
    for (key, value), (other, wanted) in zip(
        ours.state_dict().items(), theirs.state_dict().items(), strict=True
    ):
        assert key == other and torch.equal(value, wanted)
    assert [[p.shape for p in each] for each in ours.all_weights] == [
        [p.shape for p in each] for each in theirs.all_weights
    ]
    assert ours.extra_repr() == theirs.extra_repr().replace(", nonlinearity=relu", "")
    input = torch.randn(4, 2, 5, dtype=DOUBLE)
    assert_close(ours(input)[0], theirs(input)[0], ALLOWED)
    packed = pack_padded_sequence(input, torch.tensor([4, 2]))
    assert_close(ours(packed)[0].data, theirs(packed)[0].data, ALLOWED)


def test_peepholes_of_zero_are_an_lstm() -> None:
    ours = fusedrnn.PeepholeLSTM(5, 7, num_layers=2, bidirectional=True, proj_size=3, dtype=DOUBLE)
    theirs = nn.LSTM(5, 7, num_layers=2, bidirectional=True, proj_size=3, dtype=DOUBLE)
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not unexpected and all(name.startswith("params_l") for name in missing)
    assert ours.params_l1_reverse.shape == (21,)
    input = torch.randn(4, 2, 5, dtype=DOUBLE)
    changed = ours(input)[0]
    with torch.no_grad():
        for name in missing:
            ours.get_parameter(name).zero_()
    assert_close(ours(input)[0], theirs(input)[0], ALLOWED)
    assert (ours(input)[0] - changed).abs().max() > 1e-3


def test_layers_are_copied_saved_and_loaded() -> None:
    layer = fusedrnn.PeepholeLSTM(5, 7, num_layers=2)
    input = torch.randn(4, 2, 5)
    expected = layer(input)[0]
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for other in (copy.deepcopy(layer), torch.load(file, weights_only=False)):
        assert torch.equal(other(input)[0], expected)
    other = fusedrnn.PeepholeLSTM(5, 7, num_layers=2)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(input)[0], expected)
    assert [name for name, _ in layer.named_parameters()][4:6] == ["params_l0", "weight_ih_l1"]
    assert str(layer) == "PeepholeLSTM(5, 7, num_layers=2)"
    assert "persistent" in str(fusedrnn.explain(layer, input)) or not fusedrnn._library.available


@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_compiles_whole_and_exports(cell: str) -> None:
    layer, input = class_of(cell)(5, 7), torch.randn(4, 2, 5)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_close(compiled(input)[0], layer(input)[0], tolerance(torch.float32, 4))
    exported = torch.export.export(layer, (input,)).module()
    assert_close(exported(input)[0], layer(input)[0], tolerance(torch.float32, 4))


def test_vmap_and_second_derivatives_reach_the_peepholes() -> None:
    layer = fusedrnn.PeepholeLSTM(2, 3, dtype=DOUBLE)
    parameters = dict(layer.named_parameters())
    inputs = torch.randn(5, 4, 1, 2, dtype=DOUBLE)

    def loss(parameters: dict[str, Tensor], input: Tensor) -> Tensor:
        return torch.func.functional_call(layer, parameters, (input,))[0].square().sum()

    grads = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, inputs)
    for idx, input in enumerate(inputs):
        single = torch.autograd.grad(loss(parameters, input), list(parameters.values()))
        for name, wanted in zip(parameters, single, strict=True):
            assert_close(grads[name][idx], wanted, ALLOWED, name)

    def of_peepholes(values: Tensor) -> Tensor:
        return loss(parameters | {"params_l0": values}, inputs[0])

    values = layer.params_l0.detach()
    exact = torch.func.hessian(of_peepholes)(values)
    assert_close(exact, torch.autograd.functional.hessian(of_peepholes, values), ALLOWED)
    step = 1e-5
    for unit in range(len(values)):
        shift = torch.zeros_like(values).index_fill_(0, torch.tensor(unit), step)
        gradients = [torch.func.grad(of_peepholes)(values + s * shift) for s in (1, -1)]
        assert (exact[unit] - (gradients[0] - gradients[1]) / (2 * step)).abs().max() < 1e-7


@pytest.mark.parametrize(
    ("attributes", "kwargs", "error", "match"),
    [
        ({}, {}, TypeError, "Own.cell: expected the name of a cell, got none"),
        ({"cell": "mgu"}, {}, ValueError, "Own.cell: expected one of rnn_tanh, .* got 'mgu'"),
        ({"cell": "gru"}, {"proj_size": 2}, ValueError, "gru has no projection"),
        ({"cell": "gru"}, {"hidden_size": 0}, ValueError, "hidden_size must be greater than zero"),
        ({"cell": "gru"}, {"bias": 1}, TypeError, "bias should be of type bool"),
        ({"cell": "gru"}, {"hidden_size": 2.0}, TypeError, "hidden_size should be of type int"),
    ],
)
def test_what_cannot_be_made_is_named(
    attributes: dict[str, str], kwargs: dict[str, Any], error: type[Exception], match: str
) -> None:
    own = type("Own", (fusedrnn.RecurrentBase,), attributes)
    with pytest.raises(error, match=match):
        own(**{"input_size": 5, "hidden_size": 3} | kwargs)


def test_bad_calls_have_the_texts_of_torch() -> None:
    layer = fusedrnn.PeepholeLSTM(5, 3)
    with pytest.raises(RuntimeError, match="Expected 5, got 4"):
        layer(torch.randn(2, 1, 4))
    with pytest.raises(RuntimeError, match=r"Expected hidden\[1\] size \(1, 1, 3\)"):
        layer(torch.randn(2, 1, 5), (torch.randn(1, 1, 3), torch.randn(1, 2, 3)))
    with pytest.raises(RuntimeError, match=r"params: expected shape \(3 \* hidden_size,\) = \(9,"):
        layer.params_l0 = nn.Parameter(torch.randn(8))
        layer(torch.randn(2, 1, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fusedrnn.PeepholeLSTM(5, 3, num_layers=2, dropout=0.5)
