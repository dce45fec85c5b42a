"""RNN, LSTM and GRU against torch.nn: results and every gradient."""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import (
    CELLS,
    DTYPES,
    assert_close,
    assert_same_as_torch,
    initial_state,
    layers,
    run,
    strided,
    tolerance,
    trio,
)

import fusedrnn

# (num_layers, bias, batch_first, with a given state): each pair of values occurs.
OPTIONS = [
    (1, True, False, False),
    (1, False, True, True),
    (2, True, True, True),
    (2, False, False, False),
    (3, True, False, True),
    (3, False, True, False),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one_way", "two_ways"])
@pytest.mark.parametrize("cell", CELLS)
def test_matches_torch_on_padded_input(
    cell: str, bidirectional: bool, dtype: torch.dtype, device: str
) -> None:
    for num_layers, bias, batch_first, with_state in OPTIONS:
        modules = trio(
            layers, cell, 5, 7, num_layers, bias=bias, batch_first=batch_first,
            bidirectional=bidirectional, dtype=dtype, device=device,
        )  # fmt: skip
        input = strided(*((3, 6) if batch_first else (6, 3)), 5, dtype=dtype).to(device)
        hx = initial_state(modules.ours, 3, dtype) if with_state else None
        assert_same_as_torch(modules, input, hx, length=12 * num_layers)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one_way", "two_ways"])
def test_lstm_matches_torch_with_projection(
    bidirectional: bool, dtype: torch.dtype, device: str
) -> None:
    for (num_layers, bias, batch_first, with_state), proj_size in itertools.product(
        OPTIONS[1:4], (1, 4)
    ):
        modules = trio(
            layers, "lstm", 5, 7, num_layers, bias=bias, batch_first=batch_first,
            bidirectional=bidirectional, proj_size=proj_size, dtype=dtype, device=device
        )  # fmt: skip
        input = strided(*((3, 6) if batch_first else (6, 3)), 5, dtype=dtype).to(device)
        hx = initial_state(modules.ours, 3, dtype) if with_state else None
        assert_same_as_torch(modules, input, hx, length=12 * num_layers)


@pytest.mark.parametrize("batch_first", [False, True], ids=["time_first", "batch_first"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one_way", "two_ways"])
@pytest.mark.parametrize("cell", CELLS)
def test_matches_torch_on_one_sequence(
    cell: str, bidirectional: bool, batch_first: bool, device: str
) -> None:
    modules = trio(
        layers, cell, 5, 7, 2, bidirectional=bidirectional, batch_first=batch_first,
        dtype=torch.float32, device=device
    )  # fmt: skip
    input = strided(6, 5, dtype=torch.float32).to(device)
    for hx in (None, initial_state(modules.ours, None, torch.float32)):
        assert_same_as_torch(modules, input, hx, length=24)


@pytest.mark.parametrize("cell", CELLS)
def test_matches_torch_at_sizes_around_the_tiles(cell: str, device: str) -> None:
    sizes = [
        (1, 1, 1, 1),
        (2, 17, 3, 33),
        (3, 9, 33, 17),
        (1, 33, 1, 16),
        (5, 8, 9, 9),
        (40, 2, 2, 8),
    ]
    for seq_len, batch_size, input_size, hidden_size in sizes:
        modules = trio(layers, cell, input_size, hidden_size, dtype=torch.float32, device=device)
        input = torch.randn(seq_len, batch_size, input_size, device=device)
        hx = initial_state(modules.ours, batch_size, torch.float32)
        assert_same_as_torch(modules, input, hx, length=2 * seq_len)


@pytest.mark.parametrize(
    ("cell", "seq_len", "batch_size"), [("rnn_tanh", 70_000, 1), ("gru", 2, 70_000)]
)
def test_takes_more_steps_and_more_rows_than_65535(
    cell: str, seq_len: int, batch_size: int, device: str
) -> None:
    module = layers(fusedrnn, cell, 2, 3, device=device)
    oracle = layers(torch.nn, cell, 2, 3, dtype=torch.float64)
    oracle.load_state_dict(module.state_dict())
    input = torch.randn(seq_len, batch_size, 2)
    actual, expected = run(module, input.to(device)), run(oracle, input)
    for name, result in actual.items():
        # The gradients of weights are sums over all rows and steps.
        allowed = tolerance(torch.float32, 2 * seq_len * batch_size)
        assert_close(result, expected[name], allowed, name)


@pytest.mark.parametrize("cell", CELLS)
def test_empty_batch_gives_empty_results_and_zero_gradients(cell: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True, device=device)
    results = run(
        module,
        torch.randn(6, 0, 5, device=device),
        initial_state(module, 0, torch.float32, torch.randn),
    )
    assert results["result[0]"].shape == (6, 0, 14)
    for name, _ in module.named_parameters():
        assert torch.equal(results[f"grad {name}"], torch.zeros_like(getattr(module, name)))


@pytest.mark.parametrize("cell", CELLS)
def test_non_finite_values_spread_as_in_torch(cell: str, device: str) -> None:
    modules = trio(layers, cell, 5, 7, 2, bidirectional=True, dtype=torch.float32, device=device)
    input = torch.randn(6, 4, 5, device=device)
    input[2, 0, 1], input[3, 1, 0], input[4, 2, 4] = float("nan"), float("inf"), float("-inf")
    with torch.no_grad():
        actual, expected = modules.ours(input)[0], modules.torch(input)[0]
    assert expected.isnan().any()
    assert_close(actual, expected, tolerance(torch.float32, 12), "output")


@pytest.mark.parametrize("cell", CELLS)
def test_denormal_values_change_nothing_that_can_be_seen(cell: str) -> None:
    modules = trio(layers, cell, 5, 7, dtype=torch.float32)
    assert_same_as_torch(modules, torch.full((6, 3, 5), 1e-40), length=12)
    assert torch.tensor(1e-40) * 1 != 0, "denormal numbers are flushed for the caller"


@pytest.mark.parametrize("cell", CELLS)
def test_steps_with_carried_state_equal_the_whole_sequence(cell: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, device=device)
    input = torch.randn(9, 3, 5, device=device)
    whole, final = module(input)
    state, outputs = None, []
    for step in input.split([1, 1, 3, 4]):
        output, state = module(step, state)
        outputs.append(output)
    allowed = tolerance(torch.float32, 18)
    assert_close(torch.cat(outputs), whole, allowed, "output")
    for part, expected in zip(
        state if cell == "lstm" else [state], final if cell == "lstm" else [final], strict=True
    ):
        assert_close(part, expected, allowed, "final state")


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_do_not_depend_on_training_mode(cell: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, device=device)
    input = torch.randn(6, 3, 5, device=device)
    for name, grad in run(module.train(), input).items():
        assert torch.equal(grad, run(module.eval(), input)[name]), name


@pytest.mark.parametrize("cell", CELLS)
def test_output_strides_are_those_of_torch(cell: str, device: str) -> None:
    for batch_first in (False, True):
        ours, theirs, _ = trio(
            layers, cell, 5, 7, batch_first=batch_first, dtype=torch.float32, device=device
        )
        input = torch.randn(6, 3, 5, device=device)
        assert ours(input)[0].stride() == theirs(input)[0].stride()


@pytest.mark.parametrize("cell", CELLS)
def test_no_grad_gives_the_same_bits_without_a_graph(cell: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 17, 2, bidirectional=True, device=device)
    input = torch.randn(6, 3, 5, device=device)
    with torch.no_grad():
        output, _ = module(input)
    assert not output.requires_grad
    assert torch.equal(output, module(input)[0].detach())
    with torch.inference_mode():
        assert torch.equal(output, module(input)[0])
