"""Bad input to the keyword-only options: exception type, and name, expected, found, remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CELLS, layers, pack
from torch import Tensor, nn

import fusedrnn

INTEGERS = torch.zeros(3, dtype=torch.int64)
RESET = torch.zeros(6, 3, dtype=torch.bool)


def state(cell: str, *size: int, **kwargs: Any) -> Any:
    h = torch.zeros(*size, **kwargs)
    return (h, h) if cell == "lstm" else h


def label(cell: str) -> str:
    return "reset_state[0]" if cell == "lstm" else "reset_state"


# Of a layer in both directions with input (6, 3, 5) and hidden_size 7: options, type, message.
CASES: dict[str, Callable[[str], tuple[dict[str, Any], type[Exception], str]]] = {
    "lengths_of_floats": lambda cell: (
        {"lengths": [6.0, 4.0, 2.0]},
        RuntimeError,
        "lengths: expected an integer dtype, got torch.float32",
    ),
    "lengths_of_none": lambda cell: (
        {"lengths": [6, None, 2]},
        TypeError,
        "lengths: expected a tensor or a list of ints, got a list of NoneType, int; "
        "pass one int a row",
    ),
    "lengths_list_above_seq_len": lambda cell: (
        {"lengths": (6, 4, 7)},
        ValueError,
        "lengths: expected 0 to seq_len = 6, got 7 for row 2",
    ),
    "lengths_float": lambda cell: (
        {"lengths": torch.zeros(3)},
        RuntimeError,
        "lengths: expected an integer dtype, got torch.float32; convert it with "
        "lengths.to(torch.int64)",
    ),
    "lengths_bool": lambda cell: (
        {"lengths": torch.zeros(3, dtype=torch.bool)},
        RuntimeError,
        "lengths: expected an integer dtype, got torch.bool",
    ),
    "lengths_too_few": lambda cell: (
        {"lengths": INTEGERS[:2]},
        RuntimeError,
        "lengths: expected shape (batch_size,) = (3,), got (2,); pass one length a row",
    ),
    "lengths_2d": lambda cell: (
        {"lengths": INTEGERS.unsqueeze(0)},
        RuntimeError,
        "lengths: expected shape (batch_size,) = (3,), got (1, 3)",
    ),
    "lengths_0d": lambda cell: (
        {"lengths": torch.tensor(3)},
        RuntimeError,
        "lengths: expected shape (batch_size,) = (3,), got ()",
    ),
    "lengths_negative": lambda cell: (
        {"lengths": torch.tensor([6, -1, 2])},
        ValueError,
        "lengths: expected 0 to seq_len = 6, got -1 for row 1; pass how many steps of the row are "
        "valid",
    ),
    "lengths_above_seq_len": lambda cell: (
        {"lengths": torch.tensor([6, 4, 7], dtype=torch.int8)},
        ValueError,
        "lengths: expected 0 to seq_len = 6, got 7 for row 2",
    ),
    "reset_list": lambda cell: (
        {"reset": [True] * 6},
        TypeError,
        "reset: expected a tensor of bools, got list",
    ),
    "reset_float": lambda cell: (
        {"reset": RESET.float()},
        RuntimeError,
        "reset: expected dtype torch.bool, got torch.float32; convert it with reset.bool()",
    ),
    "reset_transposed": lambda cell: (
        {"reset": RESET.t()},
        RuntimeError,
        "reset: expected shape (seq_len, batch_size) = (6, 3), got (3, 6); pass one value a step "
        "and row",
    ),
    "reset_1d": lambda cell: (
        {"reset": RESET[:, 0]},
        RuntimeError,
        "reset: expected shape (seq_len, batch_size) = (6, 3), got (6,)",
    ),
    "reset_device": lambda cell: (
        {"reset": RESET.to("meta")},
        RuntimeError,
        "reset: expected device cpu, that of the input, got meta; move it with reset.to('cpu')",
    ),
    "reset_state_alone": lambda cell: (
        {"reset_state": state(cell, 2, 3, 7)},
        ValueError,
        "reset_state: expected None without reset, got a state; pass reset= to say where it enters",
    ),
    "reset_state_type": lambda cell: (
        {"reset": RESET, "reset_state": (0.0, 0.0) if cell == "lstm" else 0.0},
        TypeError,
        f"{label(cell)}: expected a tensor of states, got float",
    ),
    "reset_state_layers": lambda cell: (
        {"reset": RESET, "reset_state": state(cell, 1, 3, 7)},
        RuntimeError,
        f"{label(cell)}: expected shape (num_layers * num_directions, batch_size or 1, width) = "
        "(2, 3, 7), got (1, 3, 7)",
    ),
    "reset_state_batch": lambda cell: (
        {"reset": RESET, "reset_state": state(cell, 2, 2, 7)},
        RuntimeError,
        f"{label(cell)}: expected shape",
    ),
    "reset_state_width": lambda cell: (
        {"reset": RESET, "reset_state": state(cell, 2, 3, 8)},
        RuntimeError,
        f"{label(cell)}: expected shape",
    ),
    "reset_state_2d": lambda cell: (
        {"reset": RESET, "reset_state": state(cell, 2, 7)},
        RuntimeError,
        f"{label(cell)}: expected shape",
    ),
    "reset_state_dtype": lambda cell: (
        {"reset": RESET, "reset_state": state(cell, 2, 3, 7, dtype=torch.float64)},
        RuntimeError,
        f"{label(cell)}: expected dtype torch.float32, that of the input, got torch.float64; "
        f"convert it with {label(cell)}.to(torch.float32)",
    ),
    "reset_state_device": lambda cell: (
        {"reset": RESET, "reset_state": state(cell, 2, 3, 7, device="meta")},
        RuntimeError,
        f"{label(cell)}: expected device cpu, that of the input, got meta",
    ),
    "recompute_unknown": lambda cell: (
        {"recompute": "all"},
        ValueError,
        "recompute: got 'all'; pass 'none', 'gates', or 'chunk:N' with N >= 1 steps",
    ),
    "recompute_no_steps": lambda cell: (
        {"recompute": "chunk:0"},
        ValueError,
        "recompute: got 'chunk:0'; pass",
    ),
    "recompute_negative": lambda cell: (
        {"recompute": "chunk:-2"},
        ValueError,
        "recompute: got 'chunk:-2'; pass",
    ),
    "recompute_without_number": lambda cell: (
        {"recompute": "chunk"},
        ValueError,
        "recompute: got 'chunk'; pass",
    ),
    "recompute_bool": lambda cell: (
        {"recompute": True},
        TypeError,
        "recompute: expected a str, got bool; pass 'none'",
    ),
}


def assert_refused(
    module: nn.Module,
    input: Any,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match="^" + re.escape(message)) as raised:
        module(input, **options)
    assert raised.type is error


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cell", CELLS)
def test_option_is_named(cell: str, case: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, bidirectional=True)
    assert_refused(module, torch.zeros(6, 3, 5), *CASES[case](cell))


@pytest.mark.parametrize("cell", CELLS)
def test_batch_first_and_one_sequence_name_their_own_shapes(cell: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, batch_first=True)
    message = "reset: expected shape (batch_size, seq_len) = (3, 6), got (6, 3)"
    assert_refused(module, torch.zeros(3, 6, 5), {"reset": RESET}, RuntimeError, message)
    one = torch.zeros(6, 5)
    message = "reset: expected shape (seq_len,) = (6,), got (6, 3)"
    assert_refused(module, one, {"reset": RESET}, RuntimeError, message)
    message = "lengths: expected shape (batch_size,) = (1,), got (3,)"
    assert_refused(module, one, {"lengths": INTEGERS}, RuntimeError, message)
    options = {"reset": RESET[:, 0], "reset_state": state(cell, 1, 1, 7)}
    message = (
        f"{label(cell)}: expected shape (num_layers * num_directions, width) = (1, 7), got "
        "(1, 1, 7)"
    )
    assert_refused(module, one, options, RuntimeError, message)


PACKED: dict[str, tuple[dict[str, Any], str]] = {
    "lengths": (
        {"lengths": INTEGERS},
        "lengths: expected None with a PackedSequence, got lengths; the PackedSequence has its own "
        "lengths",
    ),
    **{
        name: (
            {name: value},
            f"{name}: expected padded input, got a PackedSequence; pass the padded tensor and "
            "lengths= in its place",
        )
        for name, value in (("reset", RESET), ("return_states", True), ("return_gates", True))
    },
    "reset_state": ({"reset_state": RESET}, "reset_state: expected None without reset"),
    "recompute": ({"recompute": "all"}, "recompute: got 'all'; pass 'none'"),
}


@pytest.mark.parametrize("case", PACKED)
@pytest.mark.parametrize("cell", CELLS)
def test_packed_sequence_refuses_what_padded_input_takes(cell: str, case: str) -> None:
    module = layers(fusedrnn, cell, 5, 7)
    options, message = PACKED[case]
    packed = pack(torch.zeros(6, 3, 5), [6, 4, 2])
    assert_refused(module, packed, options, ValueError, message)


def test_reset_state_of_an_lstm_that_is_no_pair_is_named() -> None:
    message = "LSTM: expected reset_state to be a tuple (h, c), got a Tensor; pass both"
    options = {"reset": RESET, "reset_state": torch.zeros(1, 3, 7)}
    assert_refused(fusedrnn.LSTM(5, 7), torch.zeros(6, 3, 5), options, TypeError, message)


def test_options_are_checked_before_any_layer_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_layer(*args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError("a layer ran")

    monkeypatch.setattr(fusedrnn.functional, "layer_forward", no_layer)
    module = fusedrnn.GRU(5, 7, bidirectional=True)
    for case in CASES.values():
        assert_refused(module, torch.zeros(6, 3, 5), *case("gru"))


def test_options_have_no_place_among_positional_arguments() -> None:
    with pytest.raises(TypeError, match="positional"):
        fusedrnn.GRU(5, 7)(torch.zeros(6, 3, 5), None, INTEGERS)
