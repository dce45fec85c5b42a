"""Bad input: torch's exception type and text; where torch's is poor, name, expected, found, remedy.

Each case runs on torch.nn too: in the first tables its exception must be the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from cases import CELLS, layers, one_cell, pack
from torch import Tensor, nn
from torch.autograd import forward_ad

import fusedrnn
from fusedrnn import compat, functional
from fusedrnn.functional import LayerWeights

SPACES = pytest.mark.parametrize("space", [fusedrnn, compat], ids=["fusedrnn", "compat"])


def _zeros(cell: str, *size: int, **kwargs: Any) -> Tensor | tuple[Tensor, Tensor]:
    """A state of that size, for either kind of cell."""
    h = torch.zeros(*size, **kwargs)
    return (h, h) if cell == "lstm" else h


def _exception(call: Callable[[], object]) -> Exception:
    try:
        call()
    except Exception as error:
        return error
    return pytest.fail("no exception")


# Constructor arguments of a stack of layers, after input_size and hidden_size.
CONSTRUCTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "hidden_size_zero": ("gru", {"hidden_size": 0}),
    "hidden_size_negative": ("gru", {"hidden_size": -1}),
    "hidden_size_float": ("lstm", {"hidden_size": 7.0}),
    "input_size_zero": ("lstm", {"input_size": 0}),
    "input_size_str": ("gru", {"input_size": "5"}),
    "num_layers_zero": ("gru", {"num_layers": 0}),
    "num_layers_negative": ("lstm", {"num_layers": -1}),
    "num_layers_float": ("lstm", {"num_layers": 2.0}),
    "bias_int": ("rnn_tanh", {"bias": 1}),
    "bias_none": ("lstm", {"bias": None}),
    "batch_first_int": ("gru", {"batch_first": 1}),
    "dropout_above_one": ("gru", {"dropout": 1.5, "num_layers": 2}),
    "dropout_negative": ("lstm", {"dropout": -0.1, "num_layers": 2}),
    "dropout_bool": ("lstm", {"dropout": True, "num_layers": 2}),
    "dropout_str": ("lstm", {"dropout": "a"}),
    "proj_size_negative": ("lstm", {"proj_size": -1}),
    "proj_size_as_hidden_size": ("lstm", {"proj_size": 7}),
    "proj_size_above_hidden_size": ("lstm", {"proj_size": 8}),
    "proj_size_for_gru": ("gru", {"proj_size": 3}),
    "proj_size_for_rnn": ("rnn_tanh", {"proj_size": 3}),
}


@SPACES
@pytest.mark.parametrize("case", CONSTRUCTIONS)
def test_constructor_raises_what_torch_raises(case: str, space: ModuleType) -> None:
    cell, kwargs = CONSTRUCTIONS[case]
    kwargs = {"input_size": 5, "hidden_size": 7, **kwargs}
    expected = _exception(lambda: layers(nn, cell, **kwargs))
    raised = _exception(lambda: layers(space, cell, **kwargs))
    assert type(raised) is type(expected) and str(raised) == str(expected)


@SPACES
def test_constructor_refuses_unknown_arguments(space: ModuleType) -> None:
    with pytest.raises(
        ValueError, match="Unknown nonlinearity 'sin'. Select from 'tanh' or 'relu'."
    ):
        space.RNN(5, 7, nonlinearity="sin")
    for name in ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"):
        with pytest.raises(TypeError, match="unexpected keyword argument 'hidden'"):
            getattr(space, name)(5, 7, hidden=3)
        with pytest.raises(TypeError, match="missing 2 required positional arguments"):
            getattr(space, name)()


@SPACES
@pytest.mark.parametrize("cell", CELLS)
def test_dropout_on_one_layer_warns_as_torch(cell: str, space: ModuleType) -> None:
    with pytest.warns(UserWarning, match="non-zero dropout expects num_layers greater than 1"):
        layers(space, cell, 5, 7, dropout=0.5)


# Calls of a stack of one layer, input_size 5, hidden_size 7: (cell) -> arguments of forward.
CALLS: dict[str, Callable[[str], tuple]] = {
    "input_1d": lambda cell: (torch.zeros(5),),
    "input_4d": lambda cell: (torch.zeros(2, 2, 2, 5),),
    "input_feature_size": lambda cell: (torch.zeros(6, 3, 4),),
    "input_feature_size_of_one_sequence": lambda cell: (torch.zeros(6, 4),),
    "input_integer": lambda cell: (torch.zeros(6, 3, 5, dtype=torch.int64),),
    "input_float64": lambda cell: (torch.zeros(6, 3, 5, dtype=torch.float64),),
    "input_complex": lambda cell: (torch.zeros(6, 3, 5, dtype=torch.complex64),),
    "state_2d": lambda cell: (torch.zeros(6, 3, 5), _zeros(cell, 3, 7)),
    "state_3d_of_one_sequence": lambda cell: (torch.zeros(6, 5), _zeros(cell, 1, 1, 7)),
    "state_layers": lambda cell: (torch.zeros(6, 3, 5), _zeros(cell, 2, 3, 7)),
    "state_batch": lambda cell: (torch.zeros(6, 3, 5), _zeros(cell, 1, 2, 7)),
    "state_width": lambda cell: (torch.zeros(6, 3, 5), _zeros(cell, 1, 3, 8)),
    "state_width_of_one_sequence": lambda cell: (torch.zeros(6, 5), _zeros(cell, 1, 8)),
    "input_and_state": lambda cell: (torch.zeros(6, 3, 4), _zeros(cell, 1, 2, 8)),
    "no_steps": lambda cell: (torch.zeros(0, 3, 5),),
    "no_steps_in_one_sequence": lambda cell: (torch.zeros(0, 5),),
    "input_on_meta": lambda cell: (torch.zeros(6, 3, 5, device="meta"),),
    "state_on_meta": lambda cell: (torch.zeros(6, 3, 5), _zeros(cell, 1, 3, 7, device="meta")),
}


@SPACES
@pytest.mark.parametrize("case", CALLS)
@pytest.mark.parametrize("cell", CELLS)
def test_layers_raise_what_torch_raises(cell: str, case: str, space: ModuleType) -> None:
    args = CALLS[case](cell)
    expected = _exception(lambda: layers(nn, cell, 5, 7)(*args))
    raised = _exception(lambda: layers(space, cell, 5, 7)(*args))
    assert type(raised) is type(expected) and str(raised) == str(expected)


@SPACES
def test_lstm_names_the_wrong_part_of_the_state_as_torch(space: ModuleType) -> None:
    input, good, bad = torch.zeros(6, 3, 5), torch.zeros(1, 3, 7), torch.zeros(1, 3, 8)
    for hx in ((good, bad), (bad, good), (good, good[0]), (good, bad.double())):
        expected = _exception(lambda hx=hx: nn.LSTM(5, 7)(input, hx))
        raised = _exception(lambda hx=hx: space.LSTM(5, 7)(input, hx))
        assert type(raised) is type(expected) and str(raised) == str(expected)
    module = space.LSTM(5, 7, proj_size=3)
    with pytest.raises(RuntimeError, match=re.escape("Expected hidden[0] size (1, 3, 3)")):
        module(input, (good, good))
    module(input, (torch.zeros(1, 3, 3), good))


PACKED_STATES = {"batch": (1, 2, 7), "layers": (2, 3, 7), "width": (1, 3, 8), "rank": (3, 7)}


@SPACES
@pytest.mark.parametrize("case", PACKED_STATES)
@pytest.mark.parametrize("cell", CELLS)
def test_packed_input_refuses_a_wrong_state(cell: str, case: str, space: ModuleType) -> None:
    size = PACKED_STATES[case]
    label = "hidden[0]" if cell == "lstm" else "hidden"
    message = re.escape(f"Expected {label} size (1, 3, 7), got {list(size)}")
    for lengths in ([6, 4, 2], [2, 6, 4]):
        with pytest.raises(RuntimeError, match=message):
            layers(space, cell, 5, 7)(pack(torch.zeros(6, 3, 5), lengths), _zeros(cell, *size))


@SPACES
@pytest.mark.parametrize("cell", CELLS)
def test_packed_input_is_checked_as_padded_input(cell: str, space: ModuleType) -> None:
    module = layers(space, cell, 5, 7)
    with pytest.raises(RuntimeError, match=r"Expected 5, got 4"):
        module(pack(torch.zeros(6, 3, 4), [6, 4, 2]))
    with pytest.raises(ValueError, match=r"RNN input dtype \(torch.float64\) does not match"):
        module(pack(torch.zeros(6, 3, 5).double(), [6, 4, 2]))
    with pytest.raises(RuntimeError, match="input must have 2 dimensions, got 3"):
        packed = pack(torch.zeros(6, 3, 5), [6, 4, 2])
        module(packed._replace(data=packed.data.unsqueeze(0)))


# Calls of a cell, input_size 5, hidden_size 7.
CELL_CALLS: dict[str, Callable[[str], tuple]] = {
    "input_0d": lambda cell: (torch.zeros(()),),
    "input_3d": lambda cell: (torch.zeros(2, 3, 5),),
    "input_feature_size": lambda cell: (torch.zeros(3, 4),),
    "input_feature_size_of_one_row": lambda cell: (torch.zeros(4),),
    "input_and_state": lambda cell: (torch.zeros(3, 4), _zeros(cell, 2, 8)),
    "state_width": lambda cell: (torch.zeros(3, 5), _zeros(cell, 3, 8)),
    "state_width_of_one_row": lambda cell: (torch.zeros(5), _zeros(cell, 8)),
    "state_batch": lambda cell: (torch.zeros(3, 5), _zeros(cell, 2, 7)),
    "state_1d": lambda cell: (torch.zeros(3, 5), _zeros(cell, 7)),
    "state_2d_of_one_row": lambda cell: (torch.zeros(5), _zeros(cell, 1, 7)),
    "state_3d": lambda cell: (torch.zeros(3, 5), _zeros(cell, 3, 1, 7)),
}


@SPACES
@pytest.mark.parametrize("case", CELL_CALLS)
@pytest.mark.parametrize("cell", CELLS)
def test_cells_raise_what_torch_raises(cell: str, case: str, space: ModuleType) -> None:
    args = CELL_CALLS[case](cell)
    expected = _exception(lambda: one_cell(nn, cell, 5, 7)(*args))
    raised = _exception(lambda: one_cell(space, cell, 5, 7)(*args))
    assert type(raised) is type(expected) and str(raised) == str(expected)


def test_unknown_nonlinearity_of_a_cell_is_refused_when_called() -> None:
    module = fusedrnn.RNNCell(5, 7, nonlinearity="sin")
    with pytest.raises(RuntimeError, match="Unknown nonlinearity: sin"):
        module(torch.zeros(3, 5))


# Where torch's text does not help ("mat1 and mat2 must have the same dtype").


@SPACES
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_state_of_another_dtype_is_named(cell: str, dtype: torch.dtype, space: ModuleType) -> None:
    name = "hx[0]" if cell == "lstm" else "hx"
    message = re.escape(
        f"{name}: expected dtype torch.float32, that of the input, got {dtype}; "
        f"convert it with {name}.to(torch.float32)"
    )
    with pytest.raises(RuntimeError, match=message):
        layers(space, cell, 5, 7)(torch.zeros(6, 3, 5), _zeros(cell, 1, 3, 7, dtype=dtype))
    with pytest.raises(RuntimeError, match=message):
        one_cell(space, cell, 5, 7)(torch.zeros(3, 5), _zeros(cell, 3, 7, dtype=dtype))


@SPACES
@pytest.mark.parametrize("cell", CELLS)
def test_cell_names_mixed_dtypes_and_devices(cell: str, space: ModuleType) -> None:
    module = one_cell(space, cell, 5, 7)
    for dtype in (torch.float64, torch.int64):
        message = f"input: expected dtype torch.float32, that of the weights, got {dtype}"
        with pytest.raises(RuntimeError, match=message):
            module(torch.zeros(3, 5, dtype=dtype))
    with pytest.raises(RuntimeError, match="input tensor at meta and parameter tensor at cpu"):
        module(torch.zeros(3, 5, device="meta"))
    with pytest.raises(RuntimeError, match="input tensor at cpu and hidden tensor at meta"):
        module(torch.zeros(3, 5), _zeros(cell, 3, 7, device="meta"))


@SPACES
def test_lstm_state_that_is_no_pair_is_named(space: ModuleType) -> None:
    for hx, found in ((torch.zeros(2, 3, 7), "a Tensor"), ((torch.zeros(1, 3, 7),), "1 values")):
        message = rf"expected hx to be a tuple \(h_0, c_0\), got {found}; pass both"
        with pytest.raises(TypeError, match=f"LSTM: {message}"):
            space.LSTM(5, 7)(torch.zeros(6, 3, 5), hx)
        with pytest.raises(TypeError, match=f"LSTMCell: {message}"):
            space.LSTMCell(5, 7)(torch.zeros(3, 5), hx)


def test_weights_that_do_not_fit_raise(compiled_part: None) -> None:
    """Sizes come from the first weights; the operator compares the others with them."""
    module = fusedrnn.LSTM(5, 7)
    module.weight_hh_l0 = nn.Parameter(torch.zeros(12, 7))
    with pytest.raises(RuntimeError, match="weight_"):
        module(torch.zeros(6, 3, 5))
    good = LayerWeights(torch.zeros(21, 5), torch.zeros(21, 7))
    with pytest.raises(ValueError, match="both biases or neither"):
        functional.gru(torch.zeros(6, 3, 5), None, [good._replace(bias_ih=torch.zeros(21))])
    with pytest.raises(RuntimeError, match="dtype"):
        weights = good._replace(weight_hh=good.weight_hh.double())
        functional.gru(torch.zeros(6, 3, 5), None, [weights])


@pytest.mark.parametrize("cell", CELLS)
def test_arguments_are_checked_where_no_kernel_sees_them(cell: str) -> None:
    stack, step = layers(fusedrnn, cell, 5, 7), one_cell(fusedrnn, cell, 5, 7)
    input, rows = torch.zeros(6, 3, 5), torch.zeros(3, 5)
    of_stack, of_step = _zeros(cell, 1, 1, 7), _zeros(cell, 1, 7)  # would be right for every row
    size, batch = "Expected hidden.* size ", "Input batch size 3 doesn't match hidden0 batch size 1"
    with forward_ad.dual_level():
        with pytest.raises(RuntimeError, match=size):
            stack(forward_ad.make_dual(input, input), of_stack)
        with pytest.raises(RuntimeError, match=batch):
            step(forward_ad.make_dual(rows, rows), of_step)
    for samples in (0, 2):
        with pytest.raises(RuntimeError, match=size):
            torch.vmap(lambda x: stack(x, of_stack)[0])(input.expand(samples, 6, 3, 5))
        with pytest.raises(RuntimeError, match=batch):
            torch.vmap(lambda x: step(x, of_step))(rows.expand(samples, 3, 5))
    for device in ("cpu", "meta"):
        with pytest.raises(ValueError, match="does not match weight dtype"):
            stack.to(device)(input.to(device, torch.float64))
        with pytest.raises(RuntimeError, match="input: expected dtype torch.float32"):
            step.to(device)(rows.to(device, torch.float64))


def test_a_failed_call_leaves_the_module_usable() -> None:
    module = fusedrnn.GRU(5, 7)
    before = module(torch.ones(6, 3, 5))[0]
    with pytest.raises(RuntimeError):
        module(torch.zeros(6, 3, 4))
    assert torch.equal(module(torch.ones(6, 3, 5))[0], before)
