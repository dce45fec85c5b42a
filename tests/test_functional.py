"""fusedrnn.functional: people's own weights, against the float64 reference; docstring examples."""

from __future__ import annotations

import doctest
import importlib
import inspect

import pytest
import torch
from cases import CELLS, assert_close, initial_state, layers, tensors_of, tolerance
from torch import Tensor

import fusedrnn
from fusedrnn import functional, reference
from fusedrnn.functional import LayerWeights

FUNCTIONS = {
    "rnn_tanh": (functional.rnn, functional.rnn_cell, {}),
    "rnn_relu": (functional.rnn, functional.rnn_cell, {"nonlinearity": "relu"}),
    "lstm": (functional.lstm, functional.lstm_cell, {}),
    "gru": (functional.gru, functional.gru_cell, {}),
}


def random_weights(
    cell: str, input_size: int, hidden_size: int, proj_size: int = 0, bias: bool = True
) -> LayerWeights:
    rows = reference.CELLS[cell].gates * hidden_size
    return LayerWeights(
        torch.randn(rows, input_size) / input_size**0.5,
        torch.randn(rows, proj_size or hidden_size) / hidden_size**0.5,
        torch.randn(rows) if bias else None,
        torch.randn(rows) if bias else None,
        torch.randn(proj_size, hidden_size) if proj_size else None,
    )


def in_float64(weights: LayerWeights) -> LayerWeights:
    return LayerWeights(*(None if w is None else w.double() for w in weights))


@pytest.mark.parametrize("cell", CELLS)
def test_two_layers_match_the_reference(cell: str) -> None:
    function, _, kwargs = FUNCTIONS[cell]
    weights = [random_weights(cell, 5, 7), random_weights(cell, 7, 7)]
    input = torch.randn(6, 3, 5)
    output, _ = function(input, None, weights, **kwargs)
    expected = input.double()
    for layer in weights:
        expected, *_ = reference.layer_forward(cell, expected, None, None, in_float64(layer))
    assert_close(output, expected, tolerance(torch.float32, 12))


@pytest.mark.parametrize("proj_size", [0, 3])
def test_lstm_matches_the_reference_in_both_directions(proj_size: int) -> None:
    weights = [random_weights("lstm", 5, 7, proj_size) for _ in range(2)]
    h_0, c_0 = torch.randn(2, 3, proj_size or 7), torch.randn(2, 3, 7)
    input = torch.randn(6, 3, 5)
    output, (h_n, c_n) = functional.lstm(input, (h_0, c_0), weights, bidirectional=True)
    expected = reference.layer_forward(
        "lstm", input.double(), h_0.double(), c_0.double(), *map(in_float64, weights)
    )
    for actual, wanted in zip((output, h_n, c_n), expected[:3], strict=True):
        assert_close(actual, wanted, tolerance(torch.float32, 6))


@pytest.mark.parametrize("cell", CELLS)
def test_module_equals_the_function_on_its_weights(cell: str, device: str) -> None:
    function, _, kwargs = FUNCTIONS[cell]
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True, batch_first=True, device=device)
    input, hx = torch.randn(3, 6, 5, device=device), initial_state(module, 3, torch.float32)
    weights = [LayerWeights(*tensors) for tensors in module.all_weights]
    actual = function(input, hx, weights, bidirectional=True, batch_first=True, **kwargs)
    expected = tensors_of(module(input, hx), "result")
    for name, result in tensors_of(actual, "result").items():
        assert torch.equal(result, expected[name]), name


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("cell", CELLS)
def test_cell_matches_the_reference(cell: str, bias: bool) -> None:
    _, function, kwargs = FUNCTIONS[cell]
    weights = random_weights(cell, 5, 7, bias=bias)
    input, h, c = torch.randn(3, 5), torch.randn(3, 7), torch.randn(3, 7)
    actual = function(input, (h, c) if cell == "lstm" else h, weights, **kwargs)
    expected = reference.layer_forward(
        cell, input[None].double(), h[None].double(), c[None].double(), in_float64(weights)
    )
    finals = actual if cell == "lstm" else (actual,)
    for result, wanted in zip(finals, expected[1:], strict=False):
        assert_close(result, wanted[0], tolerance(torch.float32, 1))


def test_lstm_cell_takes_a_projection() -> None:
    weights = random_weights("lstm", 5, 7, proj_size=3)
    input, h, c = torch.randn(3, 5), torch.randn(3, 3), torch.randn(3, 7)
    h_1, c_1 = functional.lstm_cell(input, (h, c), weights)
    _, (h_n, c_n) = functional.lstm(input[None], (h[None], c[None]), [weights])
    assert torch.equal(h_1, h_n[0]) and torch.equal(c_1, c_n[0])


def test_gradients_reach_weights_that_are_results_themselves() -> None:
    """A hypernetwork: the weights are computed, not parameters."""
    make = torch.randn(9 * 5, 4, dtype=torch.float64)
    weight_hh = torch.randn(9, 3, dtype=torch.float64)
    input = torch.randn(6, 2, 5, dtype=torch.float64)

    def output(code: Tensor) -> Tensor:
        weights = LayerWeights((make @ code).view(9, 5), weight_hh)
        return functional.gru(input, None, [weights])[0]

    code = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(output, code)


def test_wrong_number_of_weights_is_named() -> None:
    weights = random_weights("gru", 5, 7)
    with pytest.raises(ValueError, match=r"weights: expected num_layers \* 2 LayerWeights, got 1"):
        functional.gru(torch.randn(6, 3, 5), None, [weights], bidirectional=True)
    with pytest.raises(ValueError, match=r"weights: .* got 0"):
        functional.gru(torch.randn(6, 3, 5), None, [])


MODULES = [
    "",
    "._library",
    ".compat",
    ".convert",
    ".functional",
    ".modules.cells",
    ".modules.layers",
    ".patching",
    ".quantization",
]


@pytest.mark.parametrize("suffix", MODULES)
def test_docstring_examples_run(suffix: str) -> None:
    module = importlib.import_module("fusedrnn" + suffix)
    result = doctest.testmod(module, extraglobs={"torch": torch, "fusedrnn": fusedrnn})
    assert result.failed == 0
    assert result.attempted > 0 or suffix == ""


def test_every_public_name_is_documented_with_an_example() -> None:
    for name in fusedrnn.__all__:
        value = getattr(fusedrnn, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert ">>>" in (value.__doc__ or ""), name
            assert "Args:" in value.__doc__ or not inspect.signature(value).parameters, name
    for name in functional.__all__:
        value = getattr(functional, name)
        if inspect.isfunction(value):
            for section in ("Args:", "Returns:", "Raises:", "Source:", ">>>"):
                assert section in value.__doc__, f"{name}: {section}"
