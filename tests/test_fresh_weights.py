"""A call computes with the weights of that moment, however they came to be what they are."""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from cases import CELLS, assert_close, tolerance
from processes import in_forked_child
from torch import Tensor, nn
from torch.nn.utils import parametrize

import fusedrnn
from fusedrnn import reference

INPUT_SIZE, HIDDEN_SIZE = 12, 20
NAMES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
LAYERS = {"rnn_tanh": fusedrnn.RNN, "lstm": fusedrnn.LSTM, "gru": fusedrnn.GRU}

# Steps and rows of a call for each way that weights take to the kernels.
SHAPES = pytest.mark.parametrize(
    "shape", [(1, 1), (1, 5), (9, 1), (9, 20)], ids=lambda shape: "T{}_B{}".format(*shape)
)


def make(cell: str) -> nn.Module:
    if cell == "rnn_relu":
        return fusedrnn.RNN(INPUT_SIZE, HIDDEN_SIZE, nonlinearity="relu")
    return LAYERS[cell](INPUT_SIZE, HIDDEN_SIZE)


def assert_fresh(cell: str, module: nn.Module, input: Tensor) -> None:
    """In inference, twice, against plain operators on copies of what the module has now."""
    assert_output(module, input, expected_output(cell, module, input))


def expected_output(cell: str, module: nn.Module, input: Tensor) -> Tensor:
    weights = reference.LayerWeights(*(getattr(module, name).detach().clone() for name in NAMES))
    return reference.layer_forward(cell, input, None, None, weights)[0]


def assert_output(module: nn.Module, input: Tensor, expected: Tensor) -> None:
    for _ in range(2):
        with torch.no_grad():
            assert_close(module(input)[0], expected, tolerance(torch.float32, input.size(0)))


def other_values(weight: Tensor) -> Tensor:
    """Of the size of initial weights, so that rounding does not grow from step to step."""
    return torch.empty_like(weight).uniform_(-0.2, 0.2)


def add_in_place(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1)


def add_to_an_alias_with_gradients_on(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.detach().add_(0.1)


def step_an_optimizer(module: nn.Module) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(torch.ones(3, 2, INPUT_SIZE))[0].sum().backward()
    optimizer.step()


def swap_data(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data = parameter.data + 0.1


def write_data(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data.add_(0.1)


def write_one_element(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data.view(-1)[-1] += 1.0


def write_through_numpy(module: nn.Module) -> None:
    for parameter in module.parameters():
        array = parameter.detach().numpy()
        array += np.float32(0.1)


def write_through_dlpack(module: nn.Module) -> None:
    for parameter in module.parameters():
        torch.from_dlpack(parameter.detach()).add_(0.1)


def exchange_values(module: nn.Module) -> None:
    """The same values in other places, which a sum over them would not show."""
    for parameter in module.parameters():
        parameter.data.copy_(parameter.data.flip(0).clone())


def load_state(module: nn.Module) -> None:
    module.load_state_dict({name: value + 0.1 for name, value in module.state_dict().items()})


def copy_without_gradients(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(other_values(parameter))


def set_other_storage(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.set_(other_values(parameter))


def resize_and_back(module: nn.Module) -> None:
    for parameter in module.parameters():
        shape = parameter.shape
        parameter.data.resize_(0).resize_(shape).uniform_(-0.2, 0.2)


def free_and_allocate_again(module: nn.Module) -> None:
    """Nearly always at the same addresses."""
    for name in NAMES:
        values = other_values(getattr(module, name)).tolist()
        delattr(module, name)
        module.register_parameter(name, nn.Parameter(torch.tensor(values)))


def tie_to_another(module: nn.Module) -> None:
    module.weight_hh_l0 = nn.Parameter(other_values(module.weight_hh_l0))


CHANGES = [
    add_in_place,
    add_to_an_alias_with_gradients_on,
    step_an_optimizer,
    swap_data,
    write_data,
    write_one_element,
    write_through_numpy,
    write_through_dlpack,
    exchange_values,
    load_state,
    copy_without_gradients,
    set_other_storage,
    resize_and_back,
    free_and_allocate_again,
    tie_to_another,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("cell", CELLS)
@SHAPES
def test_changed_weights_are_seen(
    cell: str, shape: tuple[int, int], change: Callable[[nn.Module], None]
) -> None:
    module, input = make(cell), torch.randn(*shape, INPUT_SIZE)
    assert_fresh(cell, module, input)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    change(module)
    assert not all(map(torch.equal, before, module.parameters()))
    assert_fresh(cell, module, input)


class Scaled(nn.Module):
    """A parametrization that makes a fresh tensor at each call, and not twice the same."""

    scale = 1.0

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.scale


@SHAPES
def test_a_parametrization_is_asked_at_each_call(shape: tuple[int, int]) -> None:
    module, input = fusedrnn.GRU(INPUT_SIZE, HIDDEN_SIZE), torch.randn(*shape, INPUT_SIZE)
    scaled = Scaled()
    parametrize.register_parametrization(module, "weight_hh_l0", scaled)
    for scaled.scale in (1.0, 0.5, -2.0):
        assert_fresh("gru", module, input)


@SHAPES
def test_functional_call_uses_what_it_is_given(shape: tuple[int, int]) -> None:
    module, input = fusedrnn.LSTM(INPUT_SIZE, HIDDEN_SIZE), torch.randn(*shape, INPUT_SIZE)
    assert_fresh("lstm", module, input)
    other = fusedrnn.LSTM(INPUT_SIZE, HIDDEN_SIZE)
    with torch.no_grad():
        given = torch.func.functional_call(module, dict(other.named_parameters()), (input,))
        assert torch.equal(given[0], other(input)[0])
    assert_fresh("lstm", module, input)


def test_a_cell_sees_changed_weights() -> None:
    cell, input = fusedrnn.GRUCell(INPUT_SIZE, HIDDEN_SIZE), torch.randn(3, INPUT_SIZE)
    plain = nn.GRUCell(INPUT_SIZE, HIDDEN_SIZE)
    for _ in range(3):
        cell.weight_hh.data.mul_(1.5)
        plain.load_state_dict(cell.state_dict())
        with torch.no_grad():
            assert_close(cell(input), plain(input), tolerance(torch.float32, 1))


def test_threads_that_change_their_weights_between_calls() -> None:
    errors = []

    def work(seed: int) -> None:
        try:
            generator = torch.Generator().manual_seed(seed)
            module, input = (
                fusedrnn.LSTM(INPUT_SIZE, HIDDEN_SIZE),
                torch.randn(6, 4, INPUT_SIZE, generator=generator),
            )
            for _ in range(20):
                for parameter in module.parameters():
                    parameter.data.uniform_(-0.2, 0.2, generator=generator)
                assert_fresh("lstm", module, input)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_forked_child_sees_its_own_weights() -> None:
    module, input = fusedrnn.GRU(INPUT_SIZE, HIDDEN_SIZE), torch.randn(6, 4, INPUT_SIZE)
    assert_fresh("gru", module, input)
    changed = copy.deepcopy(module)
    write_data(changed)
    expected = expected_output("gru", changed, input)

    def body() -> None:
        write_data(module)
        assert_output(module, input, expected)

    assert in_forked_child(body) == 0
    assert_fresh("gru", module, input)
