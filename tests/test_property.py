"""Random combinations of everything a stack of layers takes, against a loop over torch's cells.

The oracle is float64; outputs and every gradient are compared. The number of examples and the
worst error of each dtype are printed when the tests end.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import hypothesis
import pytest
import torch
import torch.nn.functional as F
from cases import (
    CELLS,
    DTYPES,
    Worst,
    assert_close,
    initial_state,
    largest,
    layers,
    map_tensors,
    run,
    small_integers,
    strided,
    tolerance,
)
from cell_loop import cell_loop
from hypothesis import strategies as st
from torch import Tensor

import fusedrnn

# CI runs the long form.
EXAMPLES = 1200 if os.environ.get("CI") else 300


class Case(NamedTuple):
    cell: str
    dtype: torch.dtype
    seq_len: int
    batch_size: int | None  # None: one sequence, without batch dimension
    sizes: tuple[int, int, int]  # input_size, hidden_size, num_layers
    proj_size: int
    dropout: float
    bias: bool
    bidirectional: bool
    batch_first: bool
    gaps: bool  # the input is not contiguous
    hx: bool
    lengths: list[int] | None
    nan: bool  # padding holds NaN
    reset: float  # the share of steps; 0 for no reset
    reset_state: str | None
    return_states: bool
    return_gates: bool
    recompute: str
    schedule: str | None  # None leaves it to the planner
    seed: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    cell = draw(st.sampled_from(CELLS))
    dtype = draw(st.sampled_from(DTYPES))
    seq_len = draw(st.one_of(st.integers(1, 9), st.integers(16, 20)))
    dropout = draw(st.sampled_from((0.0, 0.0, 0.5)))
    if cell == "rnn_relu" and dtype.itemsize == 2:
        # Small integers grow out of what is exact, and in float16 out of what is finite.
        seq_len, dropout = min(seq_len, 4), 0.0
    batch_size = draw(st.one_of(st.none(), st.integers(1, 5), st.just(9)))
    hidden_size = draw(st.sampled_from((1, 2, 5, 8, 9, 17, 33)))
    with_projection = cell == "lstm" and hidden_size > 1 and draw(st.booleans())
    rows = 1 if batch_size is None else batch_size
    lengths = st.lists(st.integers(0, seq_len), min_size=rows, max_size=rows).filter(any)
    reset = draw(st.sampled_from((0.0, 0.2, 0.6)))
    return Case(
        cell,
        dtype,
        seq_len,
        batch_size,
        (draw(st.integers(1, 6)), hidden_size, draw(st.integers(1, 3))),
        draw(st.integers(1, hidden_size - 1)) if with_projection else 0,
        dropout,
        *(draw(st.booleans()) for _ in range(5)),
        draw(st.one_of(st.none(), lengths)),
        draw(st.booleans()),
        reset,
        draw(st.sampled_from((None, "row", "one"))) if reset else None,
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.sampled_from(("none", "gates", "chunk:1", "chunk:3"))),
        draw(st.sampled_from((None, "per_step", "persistent"))),
        draw(st.integers(0, 2**20)),
    )


def arguments(case: Case, device: str) -> tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]:
    """The module, and what it is called with."""
    torch.manual_seed(case.seed)
    options = {"proj_size": case.proj_size} if case.proj_size else {}
    if case.sizes[2] > 1:  # torch warns of a dropout that has no layer to follow
        options["dropout"] = case.dropout
    module = layers(
        fusedrnn, case.cell, *case.sizes, bias=case.bias, bidirectional=case.bidirectional,
        batch_first=case.batch_first, dtype=case.dtype, device=device, **options,
    )  # fmt: skip
    rows = 1 if case.batch_size is None else case.batch_size
    steps = (rows, case.seq_len) if case.batch_first else (case.seq_len, rows)
    make = strided if case.gaps else torch.randn
    input = make(*steps, case.sizes[0], dtype=case.dtype).to(device)
    hx = initial_state(module, case.batch_size, case.dtype) if case.hx else None
    reset_state = None
    if case.reset_state is not None:
        shared = case.reset_state == "one" and case.batch_size is not None
        reset_state = initial_state(module, 1 if shared else case.batch_size, case.dtype)
    if case.cell == "rnn_relu" and case.dtype.itemsize == 2:
        # ReLU's derivative jumps at 0, and rounding would carry values across: exact sums instead.
        for weight in module.parameters():
            weight.data.copy_(small_integers(weight))
        input, hx, reset_state = map_tensors((input, hx, reset_state), small_integers)
    lengths = None
    if case.lengths is not None:
        lengths = torch.tensor(case.lengths)
        time_major = input.transpose(0, 1) if case.batch_first else input
        for row, length in enumerate(case.lengths):
            time_major[length:, row] = float("nan") if case.nan else 1.0
    reset = torch.rand(steps, device=device) < case.reset if case.reset else None
    if case.batch_size is None:
        squeezed = 0 if case.batch_first else 1
        input, reset = (None if x is None else x.squeeze(squeezed) for x in (input, reset))
    keywords = {
        "lengths": lengths,
        "reset": reset,
        "reset_state": reset_state,
        "return_states": case.return_states,
        "return_gates": case.return_gates,
        "recompute": case.recompute,
    }
    return module, (input, hx), keywords


def in_float64(module: torch.nn.Module, case: Case) -> torch.nn.Module:
    """The same weights in float64 on the CPU."""
    options = {"proj_size": case.proj_size} if case.proj_size else {}
    oracle = layers(
        torch.nn, case.cell, *case.sizes, bias=case.bias, bidirectional=case.bidirectional,
        batch_first=case.batch_first, dtype=torch.float64, **options,
    )  # fmt: skip
    oracle.load_state_dict(module.state_dict())
    return oracle


def dropout_masks(case: Case, width: int, device: str) -> list[Tensor]:
    """What the layers' outputs [T, B, width] but the last's are multiplied by, for that seed."""
    torch.manual_seed(case.seed)
    shape = (case.seq_len, case.batch_size or 1, width)
    ones = torch.ones(shape, dtype=case.dtype, device=device)
    return [F.dropout(ones, case.dropout).double().cpu() for _ in range(case.sizes[2] - 1)]


def test_every_combination_equals_a_loop_over_cells(
    device: str, record_property: Callable[[str, Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    worst = Worst()

    @hypothesis.settings(
        max_examples=EXAMPLES, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(hypothesis.HealthCheck), print_blob=False,
    )  # fmt: skip
    @hypothesis.given(cases())
    def check(case: Case) -> None:
        module, args, options = arguments(case, device)
        if device == "cpu":
            monkeypatch.setenv("FUSEDRNN_SCHEDULE", case.schedule or "")
        torch.manual_seed(case.seed)
        actual = run(module, *args, **options)
        on_cpu: dict[str, Any] = {
            name: map_tensors(option, Tensor.cpu) for name, option in options.items()
        }
        oracle = in_float64(module, case)
        if case.dropout:
            width = (case.proj_size or case.sizes[1]) * (2 if case.bidirectional else 1)
            on_cpu["dropout_masks"] = dropout_masks(case, width, device)
        expected = run(oracle, *map_tensors(args, Tensor.cpu), forward=cell_loop, **on_cpu)
        assert actual.keys() == expected.keys()
        # There and back through every layer and step.
        allowed = tolerance(case.dtype, 2 * case.seq_len * case.sizes[2])
        # Small states and gradients are sums of larger ones, or differences of numbers near 1.
        grads = [grad for name, grad in expected.items() if name.startswith("grad")]
        largest_grad = max(1.0, *map(largest, grads))
        for name, result in actual.items():
            is_grad = name.startswith("grad")
            scale = largest_grad if is_grad else max(1.0, largest(expected[name].detach()))
            worst.note(case.dtype, result, expected[name], scale)
            assert_close(result, expected[name], allowed, name, scale)
        worst.examples += 1

    check()
    record_property("property", (device, str(worst)))
