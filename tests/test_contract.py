"""RNN, LSTM and GRU as torch.nn modules: state, copies, attributes, weights read at each call."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from types import ModuleType

import pytest
import torch
from cases import (
    CELLS,
    assert_close,
    layers,
    run,
    tolerance,
)
from torch import Tensor, nn

import fusedrnn
from fusedrnn import compat

SPACES = pytest.mark.parametrize("space", [fusedrnn, compat], ids=["fusedrnn", "compat"])


@SPACES
@pytest.mark.parametrize("cell", CELLS)
def test_seed_gives_the_initial_values_of_torch(cell: str, space: ModuleType) -> None:
    states = []
    for source in (nn, space):
        torch.manual_seed(3)
        states.append(layers(source, cell, 5, 7, 2, bidirectional=True).state_dict())
    assert list(states[0]) == list(states[1])
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


@SPACES
@pytest.mark.parametrize("cell", CELLS)
def test_state_dict_loads_both_ways(cell: str, space: ModuleType) -> None:
    kwargs = {"bias": False, "bidirectional": True}
    ours, theirs = (layers(s, cell, 5, 7, 2, **kwargs) for s in (space, nn))
    input = torch.randn(6, 3, 5)
    for source, target in ((ours, theirs), (theirs, ours)):
        source.reset_parameters()
        target.load_state_dict(source.state_dict())
        assert_close(target(input)[0], source(input)[0], tolerance(torch.float32, 12))


@SPACES
@pytest.mark.parametrize("cell", CELLS)
def test_repr_and_attributes_are_those_of_torch(cell: str, space: ModuleType) -> None:
    kwargs = {"bias": False, "batch_first": True, "dropout": 0.5, "bidirectional": True}
    if cell == "lstm":
        kwargs["proj_size"] = 3
    ours, theirs = (layers(s, cell, 5, 7, 2, **kwargs) for s in (space, nn))
    assert repr(ours) == repr(theirs)
    names = ("mode", "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout",
             "bidirectional", "proj_size", "_flat_weights_names", "_all_weights")  # fmt: skip
    for name in names:
        assert getattr(ours, name) == getattr(theirs, name), name
    if "rnn" in cell:
        assert ours.nonlinearity == theirs.nonlinearity
    assert [w.shape for w in ours._flat_weights] == [w.shape for w in theirs._flat_weights]
    assert all(a is b for a, b in zip(ours._flat_weights, itertools.chain(*ours.all_weights)))
    ours.flatten_parameters()
    assert all(a is getattr(ours, n) for a, n in zip(ours._flat_weights, ours._flat_weights_names))


def test_positional_arguments_have_the_order_of_torch() -> None:
    assert repr(fusedrnn.RNN(3, 4, 2, "relu", False, True, 0.5, True)) == repr(
        nn.RNN(3, 4, 2, "relu", False, True, 0.5, True)
    )
    assert repr(fusedrnn.LSTM(3, 4, 2, False, True, 0.5, True, 2)) == repr(
        nn.LSTM(3, 4, 2, False, True, 0.5, True, 2)
    )
    assert repr(fusedrnn.GRU(3, 4, 2, False, True, 0.5, True)) == repr(
        nn.GRU(3, 4, 2, False, True, 0.5, True)
    )


def test_only_compat_classes_are_instances_of_torch_classes() -> None:
    for name in ("RNN", "LSTM", "GRU"):
        theirs = getattr(nn, name)
        assert issubclass(getattr(compat, name), theirs)
        assert not issubclass(getattr(fusedrnn, name), theirs)
        assert issubclass(getattr(fusedrnn, name), nn.RNNBase)


@SPACES
@pytest.mark.parametrize("cell", CELLS)
def test_copies_compute_the_same_and_share_nothing(cell: str, space: ModuleType) -> None:
    module = layers(space, cell, 5, 7, 2, bidirectional=True)
    input = torch.randn(6, 3, 5)
    expected = module(input)[0]
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    copies = [
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(buffer, weights_only=False),
    ]
    with torch.no_grad():
        module.weight_hh_l0.zero_()
    for duplicate in copies:
        assert torch.equal(duplicate(input)[0], expected)
        assert not torch.equal(duplicate(input)[0], module(input)[0])


@SPACES
@pytest.mark.parametrize("cell", CELLS)
def test_module_moves_between_dtypes_devices_and_memory(cell: str, space: ModuleType) -> None:
    module = layers(space, cell, 5, 7, 2, device="meta")
    output, state = module(torch.empty(6, 3, 5, device="meta"))
    assert output.is_meta and output.shape == (6, 3, 7)
    module = module.to_empty(device="cpu").to(torch.float64)
    module.reset_parameters()
    module.share_memory()
    assert all(weight.is_shared() for weight in module._flat_weights)
    assert module(torch.randn(6, 3, 5).double())[0].dtype == torch.float64
    assert module.bfloat16()(torch.randn(6, 3, 5).bfloat16())[0].dtype == torch.bfloat16
    with torch.device("meta"):
        assert layers(space, cell, 5, 7).weight_hh_l0.is_meta


@pytest.mark.parametrize("cell", CELLS)
def test_checks_can_be_called_as_in_torch(cell: str) -> None:
    ours, theirs = (layers(s, cell, 5, 7) for s in (fusedrnn, nn))
    input, wrong = torch.randn(6, 3, 5), torch.zeros(1, 2, 7)
    hx = (wrong, wrong) if cell == "lstm" else wrong
    for call in (
        lambda m: m.check_forward_args(input, hx, None),
        lambda m: m.check_input(input[0], None),
        lambda m: m.check_hidden_size(wrong, (1, 3, 7)),
    ):
        with pytest.raises(RuntimeError) as expected:
            call(theirs)
        with pytest.raises(RuntimeError) as raised:
            call(ours)
        assert str(raised.value) == str(expected.value)
    order = torch.tensor([1, 0])
    first = ours.permute_hidden(hx, order)[0]
    assert torch.equal(first, theirs.permute_hidden(hx, order)[0])
    assert ours.get_expected_hidden_size(input, None) == (1, 3, 7)


# Note [Fresh weights] in fusedrnn/modules/base.py: whatever happens to a weight is seen.


def _replace_parameter(module: nn.Module) -> None:
    module.weight_hh_l0 = nn.Parameter(module.weight_hh_l0.detach() * 2)


def _swap_data(module: nn.Module) -> None:
    module.weight_hh_l0.data = module.weight_hh_l0.data * 2


def _copy_in_place(module: nn.Module) -> None:
    with torch.no_grad():
        module.weight_hh_l0.copy_(module.weight_hh_l0 * 2)


def _multiply_data(module: nn.Module) -> None:
    module.weight_hh_l0.data.mul_(2)


def _load_state_dict(module: nn.Module) -> None:
    state = module.state_dict()
    module.load_state_dict({**state, "weight_hh_l0": state["weight_hh_l0"] * 2})


def _assign_state_dict(module: nn.Module) -> None:
    state = module.state_dict()
    module.load_state_dict({**state, "weight_hh_l0": state["weight_hh_l0"] * 2}, assign=True)


def _replace_by_tensor(module: nn.Module) -> None:
    weight = module.weight_hh_l0
    del module.weight_hh_l0
    module.weight_hh_l0 = weight.detach() * 2


class _Double(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


def _parametrize(module: nn.Module) -> None:
    nn.utils.parametrize.register_parametrization(module, "weight_hh_l0", _Double())


def _step_of_optimizer(module: nn.Module) -> None:
    module.weight_hh_l0.grad = -module.weight_hh_l0.detach().clone()
    torch.optim.SGD([module.weight_hh_l0], lr=1.0).step()


CHANGES = [
    _replace_parameter, _swap_data, _copy_in_place, _multiply_data, _load_state_dict,
    _assign_state_dict, _replace_by_tensor, _parametrize, _step_of_optimizer,
]  # fmt: skip


@SPACES
@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__.strip("_"))
def test_every_way_to_change_a_weight_is_seen(change: object, space: ModuleType) -> None:
    module = space.LSTM(5, 7)
    input = torch.randn(6, 3, 5)
    doubled = nn.LSTM(5, 7)
    doubled.load_state_dict(module.state_dict())
    doubled.weight_hh_l0.data.mul_(2)
    for _ in range(2):  # so that whatever is kept between calls is there
        with torch.no_grad():
            before = module(input)[0]
    change(module)
    with torch.no_grad():
        after = module(input)[0]
    assert not torch.allclose(before, after)
    assert_close(after, doubled(input)[0], tolerance(torch.float32, 12))


@SPACES
def test_weight_norm_matches_torch(space: ModuleType) -> None:
    ours, theirs = space.GRU(5, 7), nn.GRU(5, 7)
    ours.load_state_dict(theirs.state_dict())
    for module in (ours, theirs):
        nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
    input = torch.randn(6, 3, 5)
    expected = run(theirs, input)
    for name, result in run(ours, input).items():
        assert_close(result, expected[name], tolerance(torch.float32, 12), name)


@SPACES
def test_parametrization_runs_once_a_call(space: ModuleType) -> None:
    class Count(nn.Module):
        calls = 0

        def forward(self, weight: Tensor) -> Tensor:
            Count.calls += 1
            return weight

    module = space.LSTM(5, 7)
    nn.utils.parametrize.register_parametrization(module, "weight_ih_l0", Count())
    Count.calls = 0
    module(torch.randn(6, 3, 5))
    assert Count.calls == 1


@SPACES
def test_weight_dropping_hook_is_seen(space: ModuleType) -> None:
    """The hook of torch.nn.utils.weight_norm and of WeightDrop: a tensor set before each call."""
    module = space.LSTM(5, 7)
    raw = nn.Parameter(module.weight_hh_l0.detach().clone())
    del module.weight_hh_l0
    module.register_parameter("weight_hh_raw", raw)

    def drop(layer: nn.Module, _: object) -> None:
        layer.weight_hh_l0 = layer.weight_hh_raw * 0.5

    module.register_forward_pre_hook(drop)
    output, _ = module(torch.randn(6, 3, 5))
    output.sum().backward()
    assert raw.grad.abs().sum() > 0


@SPACES
def test_functional_call_and_func_grad_use_the_given_weights(space: ModuleType) -> None:
    module = space.GRU(5, 7)
    input = torch.randn(6, 3, 5)
    weights = {name: 2 * value.detach() for name, value in module.named_parameters()}

    def loss(values: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(module, values, (input,))[0].square().sum()

    grads = torch.func.grad(loss)(weights)
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.copy_(weights[name])
    expected = torch.autograd.grad(module(input)[0].square().sum(), list(module.parameters()))
    for (name, grad), wanted in zip(grads.items(), expected, strict=True):
        assert_close(grad, wanted, tolerance(torch.float32, 12), name)


@SPACES
def test_tied_weights_add_their_gradients(space: ModuleType) -> None:
    tied = space.RNN(7, 7, 2)
    tied.weight_hh_l1 = tied.weight_hh_l0
    apart = nn.RNN(7, 7, 2)
    apart.load_state_dict(tied.state_dict())
    input = torch.randn(6, 3, 7)
    for module in (tied, apart):
        module(input)[0].square().sum().backward()
    assert_close(
        tied.weight_hh_l0.grad,
        apart.weight_hh_l0.grad + apart.weight_hh_l1.grad,
        tolerance(torch.float32, 24),
    )
