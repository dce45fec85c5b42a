"""An argument of another type is named: in construction as torch.nn has it, in a call by us."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from cases import CELLS, layers, one_cell, pack, tensors_of
from torch import Tensor, nn

import fusedrnn
from fusedrnn import compat, functional
from fusedrnn.functional import LayerWeights

SPACES = pytest.mark.parametrize("space", [fusedrnn, compat], ids=["fusedrnn", "compat"])
NAMES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")

ODD_VALUES: list[Any] = [
    *(None, 0, 1, 2, -1, True, False, 1.0, 0.5, float("nan"), [], (), {}, "", "a", "3"),
    *(np.int64(3), np.float64(0.5), np.bool_(True), np.array(3)),
    *(torch.tensor(3), torch.tensor(True)),
]
ARGUMENTS = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout")
ARGUMENTS += ("bidirectional", "proj_size", "nonlinearity", "device", "dtype", "unknown")


def outcome(space: ModuleType, name: str, argument: str, value: Any) -> tuple[Any, ...]:
    """Where the exception came, of which type; or the shapes of parameters and results."""
    kwargs = {"input_size": 4, "hidden_size": 6, argument: value}
    if argument == "dropout" and not name.endswith("Cell"):
        kwargs["num_layers"] = 2
    try:
        module = getattr(space, name)(**kwargs)
    except Exception as error:
        text = "" if argument in ("device", "dtype") or "keyword" in str(error) else str(error)
        return "constructor", type(error), text
    state = {key: (tensor.shape, tensor.dtype) for key, tensor in module.state_dict().items()}
    input = torch.zeros(3, 2, 4) if not name.endswith("Cell") else torch.zeros(2, 4)
    input = input[..., : int(module.input_size)]
    try:
        results = tensors_of(module(input), "result")
    except Exception as error:
        return "call", type(error), state
    return repr(module), state, {key: tensor.shape for key, tensor in results.items()}


@SPACES
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("argument", ARGUMENTS)
def test_odd_constructor_arguments_do_what_they_do_in_torch(
    argument: str, name: str, space: ModuleType
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for value in ODD_VALUES:
            expected = outcome(nn, name, argument, value)
            if argument == "num_layers" and expected[:2] == ("call", TypeError):
                continue  # torch's kernels refuse a bool or an array in a call; ours need no number
            assert outcome(space, name, argument, value) == expected, repr(value)


# What is no tensor; a pair of them is in the place of an LSTM's state.
NO_TENSORS: list[Any] = [
    *([1.0], [[1.0]], (), np.zeros((6, 3, 5), np.float32), 5, 1.5, True, "ab", "", {}, {"a": 1}),
    *(object(), torch.float32, [torch.zeros(3, 5)], (torch.zeros(3, 5), torch.zeros(3, 5))),
]


def calls(cell: str, space: ModuleType, step: bool) -> Iterator[Callable[..., Any]]:
    """The module, and the function with the module's weights: of input and hx."""
    module = one_cell(space, cell, 5, 7) if step else layers(space, cell, 5, 7)
    weights = module._weights() if step else module._layer_weights()
    function = getattr(functional, cell.split("_")[0] + ("_cell" if step else ""))
    yield module
    yield lambda input, hx=None, **options: function(input, hx, weights, **options)


def assert_named(call: Callable[[], Any], name: str, value: Any) -> None:
    with pytest.raises(TypeError) as raised:
        call()
    text = str(raised.value)
    found = re.escape(type(value).__name__)
    assert re.match(rf"{re.escape(name)}: expected .*, got {found}; pass ", text), text


@SPACES
@pytest.mark.parametrize("step", [False, True], ids=["layers", "cell"])
@pytest.mark.parametrize("cell", CELLS)
def test_input_and_state_that_are_no_tensors_are_named(
    cell: str, step: bool, space: ModuleType
) -> None:
    input = torch.zeros(3, 5) if step else torch.zeros(6, 3, 5)
    good = torch.zeros(3, 7) if step else torch.zeros(1, 3, 7)
    for call in calls(cell, space, step):
        for value in [None, *NO_TENSORS]:
            assert_named(lambda call=call, value=value: call(value), "input", value)
            hx = (good, good) if cell == "lstm" else good
            assert_named(lambda call=call, value=value, hx=hx: call(value, hx), "input", value)
            inputs = [input] if step else [input, pack(input, [6, 4, 2])]
            for given in inputs:
                if cell == "lstm":
                    for place, hx in enumerate(((value, good), [good, value])):
                        assert_named(
                            lambda call=call, hx=hx, given=given: call(given, hx),
                            f"hx[{place}]",
                            value,
                        )
                elif value is not None:
                    assert_named(
                        lambda call=call, value=value, given=given: call(given, value), "hx", value
                    )
        if cell == "lstm":
            for value in (5, "ab", {}, {"a": 1, "b": 2}, np.zeros(2), good, (good,), (good,) * 3):
                with pytest.raises(TypeError, match="expected hx to be a tuple .h_0, c_0., got"):
                    call(input, value)
        if step:
            packed = pack(torch.zeros(6, 3, 5), [6, 4, 2])
            assert_named(lambda call=call, packed=packed: call(packed), "input", packed)


@pytest.mark.parametrize("cell", CELLS)
def test_options_that_are_no_tensors_are_named(cell: str) -> None:
    input, reset = torch.zeros(6, 3, 5), torch.zeros(6, 3, dtype=torch.bool)
    good = torch.zeros(1, 3, 7)
    for call in calls(cell, fusedrnn, step=False):
        for value in NO_TENSORS:
            if not isinstance(value, (list, tuple)):
                assert_named(
                    lambda call=call, value=value: call(input, lengths=value), "lengths", value
                )
            assert_named(lambda call=call, value=value: call(input, reset=value), "reset", value)
            label, state = "reset_state", value
            if cell == "lstm":
                label, state = "reset_state[1]", (good, value)
            assert_named(
                lambda call=call, state=state: call(input, reset=reset, reset_state=state),
                label,
                value,
            )
        for value in ([[6], [4], [2]], ["6", "4", "2"], [None] * 3, [{}] * 3, [good]):
            with pytest.raises((TypeError, RuntimeError), match="^lengths: expected .*; "):
                call(input, lengths=value)


@pytest.mark.parametrize("cell", CELLS)
def test_parts_of_a_packed_sequence_are_named(cell: str) -> None:
    packed = pack(torch.zeros(6, 3, 5), [2, 6, 4])
    for field, value in (("data", [1.0]), ("batch_sizes", [3, 3, 2]), ("sorted_indices", [1, 2])):
        broken = packed._replace(**{field: value})
        for call in calls(cell, fusedrnn, step=False):
            hx = torch.zeros(1, 3, 7)
            hx = (hx, hx) if cell == "lstm" else hx
            assert_named(
                lambda call=call, broken=broken, hx=hx: call(broken, hx), f"input.{field}", value
            )


@pytest.mark.parametrize("build", [layers, one_cell], ids=["layers", "cell"])
@pytest.mark.parametrize("name", ["weight_ih", "weight_hh"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_weight_that_is_no_matrix_is_named(cell: str, name: str, build: Any) -> None:
    module = build(fusedrnn, cell, 5, 7)
    field = name if build is one_cell else f"{name}_l0"
    for weight in (torch.zeros(7), torch.zeros(()), torch.zeros(7, 7, 7)):
        setattr(module, field, nn.Parameter(weight))
        with pytest.raises(RuntimeError, match=f"{name}: expected 2 dimensions"):
            module(torch.zeros(3, 2, 5) if build is layers else torch.zeros(2, 5))


@pytest.mark.parametrize("cell", CELLS)
def test_weights_of_another_form_are_named(cell: str) -> None:
    gates = {"lstm": 4, "gru": 3}.get(cell, 1)
    weights = LayerWeights(torch.zeros(gates * 7, 5), torch.zeros(gates * 7, 7))
    function = getattr(functional, cell.split("_")[0])
    step = getattr(functional, f"{cell.split('_')[0]}_cell")
    for wrong in (weights, None, 5):
        with pytest.raises(TypeError, match="weights: expected a list of LayerWeights, got"):
            function(torch.zeros(6, 3, 5), None, wrong)
    for wrong in ([weights], None, 5):
        with pytest.raises(TypeError, match="weights: expected LayerWeights, got"):
            step(torch.zeros(3, 5), None, wrong)


@SPACES
@pytest.mark.parametrize("name", NAMES)
def test_arguments_that_do_not_fit_are_refused_in_the_words_of_torch(
    name: str, space: ModuleType
) -> None:
    input: Tensor = torch.zeros(3, 5)
    for args, kwargs in (
        ((), {}),
        ((input, None, None), {}),
        ((input,), {"hidden": None}),
        ((input,), {"input": input}),
        ((), {"hx": None}),
    ):
        texts = []
        for owner in (nn, space):
            with pytest.raises(TypeError) as raised:
                getattr(owner, name)(5, 7)(*args, **kwargs)
            texts.append(str(raised.value))
        assert texts[0] == texts[1] and texts[0].startswith(f"{name}.forward()")
