"""The same bits from the same inputs: run to run, process to process, and from a dropout's seed."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import CELLS, DTYPES, initial_state, layers, pack, run
from processes import run_process
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import fusedrnn


@pytest.fixture
def deterministic_algorithms() -> Iterator[None]:
    """Within the test, torch refuses every algorithm that may give other bits another time."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def _assert_same_bits(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, result in expected.items():
        differ = (actual[name] != result).sum().item()
        assert torch.equal(actual[name], result), f"{name}: {differ} of {result.numel()} differ"


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_few_rows_give_the_bits_of_many(
    cell: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights packed in 16 bits, for up to four rows, and in float, for more."""
    monkeypatch.setenv("FUSEDRNN_SCHEDULE", "persistent")
    module = layers(fusedrnn, cell, 19, 37, dtype=dtype)
    input = torch.randn(30, 8, 19, dtype=dtype)  # steps enough for packing to pay
    with torch.no_grad():
        many, _ = module(input)
        few = [module(rows)[0] for rows in input.split(4, dim=1)]
    assert torch.equal(torch.cat(few, dim=1), many)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_runs_give_the_same_bits(
    cell: str, dtype: torch.dtype, deterministic_algorithms: None, device: str
) -> None:
    """Results and every gradient, with other work in between; sizes for more than one thread."""
    module = layers(fusedrnn, cell, 33, 65, 2, bidirectional=True, device=device, dtype=dtype)
    input = torch.randn(20, 17, 33, device=device)
    hx = initial_state(module, 17, dtype)
    expected = run(module, input, hx)
    assert all(result.isfinite().all() for result in expected.values())
    for rows in (1, 40, 17):
        run(module, torch.randn(5, rows, 33, device=device))
        _assert_same_bits(run(module, input, hx), expected)


@pytest.mark.parametrize("steps", (1, 2, 3))
@pytest.mark.parametrize("cell", CELLS)
def test_calls_that_begin_at_either_end_of_the_weights_give_the_same_bits(
    cell: str, steps: int
) -> None:
    """As calls in turn do with weights that are read in place."""
    module = layers(fusedrnn, cell, 5, 170)
    input = torch.randn(steps, 1, 5)
    with torch.no_grad():
        expected, _ = module(input)
        for _ in range(3):
            assert torch.equal(module(input)[0], expected)


@pytest.mark.parametrize("cell", CELLS)
def test_packed_runs_give_the_same_bits(
    cell: str, deterministic_algorithms: None, device: str
) -> None:
    module = layers(fusedrnn, cell, 5, 33, 2, bidirectional=True, device=device)
    input = pack(torch.randn(9, 4, 5, device=device), [3, 9, 1, 7])
    expected = run(module, input)
    for _ in range(3):
        _assert_same_bits(run(module, input), expected)


@pytest.mark.parametrize("cell", CELLS)
def test_runs_with_every_option_give_the_same_bits(
    cell: str, deterministic_algorithms: None, device: str
) -> None:
    module = layers(fusedrnn, cell, 5, 33, 2, bidirectional=True, device=device)
    input = torch.randn(20, 17, 5, device=device)
    options = {
        "lengths": torch.randint(21, (17,), device=device),
        "reset": torch.rand(20, 17, device=device) < 0.2,
        "reset_state": initial_state(module, 1, torch.float32),
        "return_states": True,
        "return_gates": True,
        "recompute": "chunk:4",
    }
    expected = run(module, input, **options)
    for _ in range(3):
        _assert_same_bits(run(module, input, **options), expected)


@pytest.mark.parametrize("cell", CELLS)
def test_row_does_not_depend_on_where_it_lies_in_memory(cell: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 33, 2, bidirectional=True, device=device)
    input = torch.randn(9, 4, 5, device=device)
    larger = torch.zeros(11, 4, 8, device=device)
    larger[1:-1, :, 2:-1] = input
    _assert_same_bits(run(module, larger[1:-1, :, 2:-1]), run(module, input))


def digest(threads: int) -> str:
    """Of every result and gradient of every cell, from one seed."""
    torch.set_num_threads(threads)
    torch.manual_seed(9)
    whole = hashlib.sha256()
    for cell in CELLS:
        module = layers(fusedrnn, cell, 33, 65, 2, bidirectional=True, dropout=0.3)
        for result in run(module, torch.randn(20, 17, 33)).values():
            whole.update(result.detach().contiguous().numpy().tobytes())
    return whole.hexdigest()


@pytest.mark.parametrize("threads", [1, 2])
def test_processes_give_the_same_bits(threads: int) -> None:
    folder = Path(__file__).resolve().parent
    program = f"import test_determinism; print(test_determinism.digest({threads}))"
    path = [str(folder), str(folder.parent)]
    program = f"import sys; sys.path[:0] = {path!r}; {program}"
    command = [sys.executable, "-W", "ignore", "-c", program]
    found = {run_process(command, check=True).stdout for _ in range(2)}
    assert len(found) == 1
    assert len(found.pop().strip()) == 64


@pytest.mark.parametrize("cell", CELLS)
def test_dropout_follows_the_seed_through_every_way_to_run(cell: str, device: str) -> None:
    """Plainly, and checkpointed in both of torch's ways."""
    module = layers(fusedrnn, cell, 5, 7, 3, dropout=0.4, bidirectional=True, device=device)
    input = torch.randn(6, 4, 5, device=device)

    def step(call: Callable[[Tensor], Any]) -> dict[str, Tensor]:
        leaf = input.clone().requires_grad_()
        module.zero_grad()
        output = call(leaf)[0]
        output.square().sum().backward()
        grads = {name: parameter.grad.clone() for name, parameter in module.named_parameters()}
        return {"output": output, "grad input": leaf.grad, **grads}

    torch.manual_seed(11)
    first, second = step(module), step(module)
    assert not torch.equal(first["output"], second["output"])
    for call in (
        module,
        lambda x: checkpoint(module, x, use_reentrant=False),
        lambda x: checkpoint(module, x, use_reentrant=True),
    ):
        torch.manual_seed(11)
        _assert_same_bits(step(call), first)
        # The generator has moved on as if nothing had been computed twice.
        _assert_same_bits(step(module), second)
