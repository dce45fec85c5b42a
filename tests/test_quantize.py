"""fusedrnn.quantize: models with weights in fewer bytes, and how far their results are off."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from typing import Any

import pytest
import torch
from cases import (
    CELLS,
    MODULES,
    assert_close,
    initial_state,
    largest,
    layers,
    one_cell,
    pack,
    tensors_of,
    tolerance,
)
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import fusedrnn
from fusedrnn import compat
from fusedrnn._cells import CELLS as REGISTERED
from fusedrnn.modules import quantized

STORED = (torch.bfloat16, torch.float16, torch.int8)
NAMES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
# Of the constructor; projection is for lstm alone.
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_bias": {"bias": False, "batch_first": True},
    "stack": {"num_layers": 2, "bidirectional": True},
    "projection": {"proj_size": 3, "num_layers": 2, "bidirectional": True},
}
CELL_OPTIONS = [
    (cell, option)
    for cell in CELLS
    for option in OPTIONS
    if cell == "lstm" or option != "projection"
]


@pytest.fixture(autouse=True)
def no_grad() -> Any:
    with torch.no_grad():
        yield


def restored(module: nn.Module, like: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A module like the unquantized one, with the weights that the quantized one stands for."""
    state = {name: tensor.double() for name, tensor in module.state_dict().items()}
    scales = {name.replace("scale", "weight"): t for name, t in state.items() if "scale" in name}
    for name, scale in scales.items():
        state[name] *= scale.unsqueeze(1)
    oracle = copy.deepcopy(like).to(dtype)
    oracle.load_state_dict({name: t for name, t in state.items() if "scale" not in name})
    return oracle


def in_float64(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(in_float64, value))
    return None if value is None else value.double()


def assert_same(actual: Any, expected: Any, length: int) -> None:
    actual, expected = tensors_of(actual, "result"), tensors_of(expected, "result")
    assert actual.keys() == expected.keys()
    for name, result in actual.items():
        assert result.dtype == torch.float32, name
        assert_close(result, expected[name], tolerance(torch.float32, length), name)


@pytest.mark.parametrize("seq_len", [1, 9], ids=["step", "sequence"])
@pytest.mark.parametrize("dtype", STORED, ids=str)
@pytest.mark.parametrize(("cell", "option"), CELL_OPTIONS)
def test_layers_match_torch_in_float64_on_the_weights_they_stand_for(
    cell: str, option: str, dtype: torch.dtype, seq_len: int, device: str
) -> None:
    module = layers(nn, cell, 6, 19, **OPTIONS[option]).to(device)
    small = fusedrnn.quantize(module, dtype)
    sizes = (2, seq_len) if module.batch_first else (seq_len, 2)
    input = torch.randn(*sizes, 6, device=device)
    hx = initial_state(module, 2, torch.float32)
    oracle = restored(small, module)
    length = 2 * seq_len * module.num_layers
    assert_same(small(input, hx), oracle(in_float64(input), in_float64(hx)), length)
    assert_same(small(input), oracle(in_float64(input)), length)
    one = input[0] if module.batch_first else input[:, 0]
    assert_same(small(one), oracle(in_float64(one)), length)
    lengths = sorted([seq_len, (seq_len + 1) // 2])
    packed = pack(input, lengths, module.batch_first)
    oracle_packed = pack(in_float64(input), lengths, module.batch_first)
    assert_same(small(packed), oracle(oracle_packed), length)


@pytest.mark.parametrize("seq_len", [1, 7], ids=["step", "sequence"])
@pytest.mark.parametrize("dtype", STORED, ids=str)
@pytest.mark.parametrize(("cell", "option"), CELL_OPTIONS)
def test_options_of_a_call_match_those_of_the_float64_module(
    cell: str, option: str, dtype: torch.dtype, seq_len: int
) -> None:
    module = layers(fusedrnn, cell, 6, 19, **OPTIONS[option])
    small = fusedrnn.quantize(module, dtype)
    sizes = (3, seq_len) if module.batch_first else (seq_len, 3)
    input = torch.randn(*sizes, 6)
    state = initial_state(module, 3, torch.float32)
    flags = {"return_states": True, "return_gates": True, "recompute": "chunk:2"}
    options = {"lengths": torch.tensor([seq_len, 0, 1]), "reset": torch.rand(sizes) < 0.4, **flags}
    actual = small(input, state, reset_state=state, **options)
    expected = restored(small, module)(
        in_float64(input), in_float64(state), reset_state=in_float64(state), **options
    )
    assert_same(actual, expected, 2 * seq_len * module.num_layers)


@pytest.mark.parametrize("rows", [(), (1,), (5,), (0,)], ids=str)
@pytest.mark.parametrize("dtype", STORED, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_cells_match_torch_in_float64_on_the_weights_they_stand_for(
    cell: str, dtype: torch.dtype, rows: tuple[int, ...]
) -> None:
    for bias in (True, False):
        module = one_cell(nn, cell, 6, 35, bias=bias)
        small = fusedrnn.quantize(module, dtype)
        oracle = restored(small, module)
        input, h = torch.randn(*rows, 6), torch.randn(*rows, 35)
        hx = (h, torch.randn(*rows, 35)) if cell == "lstm" else h
        assert_same(small(input, hx), oracle(in_float64(input), in_float64(hx)), 2)
        assert_same(small(input), oracle(in_float64(input)), 2)


@pytest.mark.parametrize("dtype", STORED, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_a_sequence_has_the_bits_of_the_layer_with_restored_weights(
    cell: str, dtype: torch.dtype
) -> None:
    module = layers(fusedrnn, cell, 8, 24, bidirectional=True)
    small = fusedrnn.quantize(module, dtype)
    input = torch.randn(100, 4, 8)
    expected = restored(small, module, torch.float32)(input)
    actual = small(input)
    for name, result in tensors_of(actual, "result").items():
        assert torch.equal(result, tensors_of(expected, "result")[name]), name


@pytest.mark.parametrize("dtype", STORED, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_copies_pickles_and_state_dicts_are_the_same_module(name: str, dtype: torch.dtype) -> None:
    small = fusedrnn.quantize(getattr(nn, name)(5, 7), dtype)
    input = torch.randn(1, 2, 5) if "Cell" not in name else torch.randn(2, 5)
    expected = tensors_of(small(input), "result")
    file = io.BytesIO()
    torch.save(small, file)
    file.seek(0)
    other = fusedrnn.quantize(getattr(nn, name)(5, 7), dtype)
    other.load_state_dict(small.state_dict())
    copies = {
        "deepcopy": copy.deepcopy(small),
        "pickle": pickle.loads(pickle.dumps(small)),
        "torch.save": torch.load(file, weights_only=False),
        "state_dict": other,
        "float": copy.deepcopy(small).float(),
        "to": copy.deepcopy(small).to("cpu", torch.float32),
        "eval": copy.deepcopy(small).eval(),
    }
    for how, module in copies.items():
        assert type(module) is type(small) and module.stored_dtype == dtype, how
        for part, result in tensors_of(module(input), "result").items():
            assert torch.equal(result, expected[part]), how


def test_weights_are_buffers_of_so_many_bytes() -> None:
    module = nn.LSTM(16, 32, 2, bidirectional=True, proj_size=8)
    floats = sum(p.numel() for n, p in module.named_parameters() if "weight" in n)
    for dtype in STORED:
        small = fusedrnn.quantize(module, dtype)
        assert not list(small.parameters())
        state = small.state_dict()
        stored = [tensor for name, tensor in state.items() if "weight" in name]
        assert {tensor.dtype for tensor in stored} == {dtype}
        assert sum(tensor.nbytes for tensor in stored) == floats * dtype.itemsize
        others = {tensor.dtype for name, tensor in state.items() if "weight" not in name}
        assert others == {torch.float32}
        assert any("scale" in name for name in state) == (dtype == torch.int8)


@pytest.mark.parametrize("dtype", STORED, ids=str)
def test_no_weight_is_off_by_more_than_the_docstring_says(dtype: torch.dtype) -> None:
    module = nn.GRU(64, 64)
    module.weight_hh_l0[3] = 0
    module.weight_hh_l0[4] *= 1e-40
    small = fusedrnn.quantize(module, dtype)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        weight = getattr(module, name).double()
        error = (getattr(restored(small, module), name) - weight).abs()
        allowed = {
            torch.bfloat16: weight.abs() * 2**-8 + 1e-38,
            torch.float16: (weight.abs() * 2**-11).clamp(min=2**-25),
            torch.int8: weight.abs().amax(1, keepdim=True) / 254 * (1 + 1e-6) + 1e-37,
        }[dtype]
        assert (error <= allowed).all()


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(5, 7, batch_first=True)
        self.middle = nn.ModuleList([fusedrnn.GRU(7, 7, batch_first=True), nn.Linear(7, 7)])
        self.shared = self.middle[0]
        self.cell = compat.GRUCell(7, 3)

    def forward(self, input: Tensor) -> Tensor:
        x, _ = self.encoder(input)
        x, _ = self.shared(self.middle[0](x)[0])
        return self.cell(self.middle[1](x[:, -1]))


def test_nested_layers_are_quantized_in_a_copy() -> None:
    model = Tagger()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    calls = []
    model.encoder.register_forward_hook(lambda *_: calls.append("hook"))
    small = fusedrnn.quantize(model, torch.float16)
    assert type(model.encoder) is nn.LSTM and type(model.cell) is compat.GRUCell
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert type(small.encoder) is quantized.QuantizedLSTM
    assert type(small.cell) is quantized.QuantizedGRUCell
    assert small.shared is small.middle[0] and type(small.shared) is quantized.QuantizedGRU
    assert type(small.middle[1]) is nn.Linear
    input = torch.randn(2, 6, 5)
    expected = model(input)
    calls.clear()
    error = (small(input) - expected).abs().max() / largest(expected)
    assert calls == ["hook"]
    assert 0 < error < tolerance(torch.float16, 30)


def test_skipped_modules_stay() -> None:
    model = Tagger()
    small = fusedrnn.quantize(model, torch.int8, skip=["encoder", model.cell])
    assert type(small.encoder) is nn.LSTM and type(small.cell) is compat.GRUCell
    assert type(small.shared) is quantized.QuantizedGRU


@pytest.mark.parametrize("seq_len", [1, 50])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_results_are_off_by_little_and_in_int8_by_less_than_torchs(
    cell: str, seq_len: int, record_property: Any
) -> None:
    """Prints the error of each dtype, as a fraction of the largest element of the output."""
    module = layers(nn, cell, 256, 256)
    input = torch.randn(seq_len, 1, 256)
    expected = copy.deepcopy(module).double()(input.double())[0]

    def error(other: nn.Module) -> float:
        return float((other(input)[0] - expected).abs().max()) / largest(expected)

    errors = {str(dtype): error(fusedrnn.quantize(module, dtype)) for dtype in STORED}
    line = ", ".join(f"{name.removeprefix('torch.')} {value:.1e}" for name, value in errors.items())
    assert errors["torch.float16"] < errors["torch.bfloat16"]
    assert errors["torch.float16"] < tolerance(torch.float16, seq_len)
    assert errors["torch.bfloat16"] < tolerance(torch.bfloat16, seq_len)
    if torch.backends.quantized.engine != "none":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            theirs = torch.ao.quantization.quantize_dynamic(
                nn.Sequential(module), {type(module)}, dtype=torch.qint8
            )
        errors["torch"] = error(theirs[0])
        line += f", quantize_dynamic {errors['torch']:.1e}"
        assert errors["torch.int8"] <= errors["torch"]
    record_property("quantized", (cell, seq_len, line))


@pytest.mark.parametrize("dtype", STORED, ids=str)
def test_a_changed_weight_is_seen_by_the_next_call(dtype: torch.dtype) -> None:
    small = fusedrnn.quantize(nn.GRU(5, 7), dtype)
    input = torch.randn(1, 1, 5)
    before = small(input)[0]
    small.weight_ih_l0.zero_()
    changed = small(input)[0]
    assert not torch.equal(before, changed)
    buffers = {"weight_ih_l0": torch.ones_like(small.weight_ih_l0)}
    assert not torch.equal(torch.func.functional_call(small, buffers, input)[0], changed)
    assert torch.equal(small(input)[0], changed)


@pytest.mark.parametrize("dtype", STORED, ids=str)
@pytest.mark.parametrize("seq_len", [1, 30])
def test_under_autocast_results_stay_float32(dtype: torch.dtype, seq_len: int) -> None:
    small = fusedrnn.quantize(nn.LSTM(5, 7), dtype)
    input = torch.randn(seq_len, 2, 5)
    expected = tensors_of(small(input), "result")
    rounded = tensors_of(small(input.bfloat16().float()), "result")
    with torch.autocast("cpu", torch.bfloat16):
        actual = tensors_of(small(input), "result")
        of_bfloat16 = tensors_of(small(input.bfloat16()), "result")
    for name, result in actual.items():
        assert result.dtype == torch.float32
        assert torch.equal(result, expected[name])
        assert torch.equal(of_bfloat16[name], rounded[name])


@pytest.mark.parametrize("dtype", STORED, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_compiles_to_one_graph_for_every_length(
    cell: str, dtype: torch.dtype, compiled_part: None
) -> None:
    torch._dynamo.reset()
    small = fusedrnn.quantize(layers(nn, cell, 5, 7, 2), dtype)
    compiled = torch.compile(small, fullgraph=True, dynamic=True)
    for seq_len, batch_size in ((6, 3), (1, 4), (9, 2)):
        input = torch.randn(seq_len, batch_size, 5)
        expected = tensors_of(small(input), "result")
        for name, result in tensors_of(compiled(input), "result").items():
            assert torch.equal(result, expected[name])
    torch._dynamo.reset()


def test_exports_for_every_length(compiled_part: None) -> None:
    small = fusedrnn.quantize(nn.LSTM(5, 7), torch.int8)
    input = torch.randn(6, 3, 5)
    seq_len = torch.export.Dim("seq_len", min=1, max=100)
    program = torch.export.export(small, (input,), dynamic_shapes={"input": {0: seq_len}})
    other = torch.randn(9, 3, 5)
    assert torch.equal(program.module()(other)[0], small(other)[0])


def test_explain_says_how_weights_are_stored_and_read(compiled_part: None) -> None:
    for dtype in STORED:
        small = fusedrnn.quantize(nn.LSTM(64, 64), dtype)
        [step] = fusedrnn.explain(small, torch.randn(1, 1, 64)).layers
        assert "weights: read in place" in step
        assert f"weight dtype: {str(dtype).removeprefix('torch.')}" in step
        with torch.autocast("cpu", torch.bfloat16):
            assert fusedrnn.explain(small, torch.randn(1, 1, 64)).layers == (step,)
        packed = pack(torch.randn(1, 1, 64), [1])
        assert "weights: read in place" in fusedrnn.explain(small, packed).layers[0]
        [sequence] = fusedrnn.explain(small, torch.randn(500, 8, 64)).layers
        assert "weights: packed once a call" in sequence


@pytest.mark.parametrize("dtype", STORED, ids=str)
def test_a_gradient_is_refused(dtype: torch.dtype) -> None:
    layer = fusedrnn.quantize(nn.LSTM(5, 7), dtype)
    cell = fusedrnn.quantize(nn.GRUCell(5, 7), dtype)
    input = torch.randn(2, 1, 5, requires_grad=True)
    state = torch.randn(1, 1, 7, requires_grad=True)
    assert layer(input)[0].grad_fn is None
    with torch.enable_grad():
        for call in (
            lambda: layer(input),
            lambda: layer(input.detach(), (state, state.detach())),
            lambda: cell(input[0]),
        ):
            with pytest.raises(RuntimeError, match=r"quantized weights are for inference only"):
                call()
        assert not layer(input.detach())[0].requires_grad


def test_what_cannot_be_quantized_is_an_error_that_says_why() -> None:
    class Mine(nn.LSTM):
        pass

    computed = parametrizations.weight_norm(nn.GRU(5, 7), "weight_hh_l0")
    unbounded, huge = nn.LSTM(5, 7), nn.LSTM(5, 7)
    unbounded.weight_ih_l0[0, 0] = float("inf")
    huge.weight_hh_l0[0, 0] = 1e5
    quantize = fusedrnn.quantize
    for error, match, model, dtype in (
        (TypeError, "dtype: expected one of torch.bfloat16", nn.LSTM(5, 7), torch.float32),
        (TypeError, "dtype: expected one of", nn.LSTM(5, 7), torch.qint8),
        (ValueError, "expected a recurrent layer or cell in it, got Linear", nn.Linear(5, 7), None),
        (
            TypeError,
            "0: expected one of RNN, .* of torch.nn .* got .*Mine",
            nn.Sequential(Mine(5, 7)),
            None,
        ),
        (TypeError, "QuantizedGRU", quantize(nn.GRU(5, 7), torch.int8), None),
        (
            RuntimeError,
            "expected dtype torch.float32, got torch.float64",
            nn.GRU(5, 7).double(),
            None,
        ),
        (RuntimeError, "GRU.weight_hh_l0: expected a parameter", computed, None),
        (ValueError, "weight_ih_l0: expected elements that are finite", unbounded, None),
        (ValueError, "weight_hh_l0: .* finite in torch.float16", huge, torch.float16),
    ):
        with pytest.raises(error, match=match):
            quantize(model, dtype or torch.int8)
    assert quantize(huge, torch.bfloat16).weight_hh_l0.dtype == torch.bfloat16


class Subclass(nn.LSTM):
    pass


def scripted() -> nn.Module:
    return torch.jit.script(nn.LSTM(5, 7))


def exported() -> nn.Module:
    return torch.export.export(nn.LSTM(5, 7), (torch.randn(2, 1, 5),)).module()


def quantized_by_torch() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.LSTM(5, 7)), {nn.LSTM})[0]


# Every recurrent class that is public here, with layers of every cell that is registered, made as
# `class Mine(RecurrentBase)`; then what is whosever.
PUBLIC = [getattr(fusedrnn.modules, name) for name in fusedrnn.modules.__all__]
OF_CELLS = [type(f"Of_{cell}", (fusedrnn.RecurrentBase,), {"cell": cell}) for cell in REGISTERED]
REFUSED: dict[str, tuple[Any, str]] = {
    **{
        cls.__name__: (lambda cls=cls: cls(5, 7), f"a RecurrentBase of the cell {cls.cell}, ")
        for cls in [*PUBLIC, *OF_CELLS]
        if issubclass(cls, fusedrnn.RecurrentBase) and cls is not fusedrnn.RecurrentBase
    },
    **{
        f"Quantized{name}": (
            lambda name=name: fusedrnn.quantize(getattr(nn, name)(5, 7), torch.int8),
            "quantized already; quantize the float32 model",
        )
        for name in NAMES
    },
    "Subclass": (lambda: Subclass(5, 7), "own code may rely on its weights"),
    "TorchScript LSTM": (scripted, "fixed; quantize the Python model before it is scripted"),
    "torch.fx.GraphModule": (exported, "fixed; quantize the Python model before it is scripted"),
    "torch.ao.nn.quantized.dynamic": (quantized_by_torch, "torch.ao's; quantize the float32 model"),
}


def test_every_public_class_is_quantized_or_named_as_refused() -> None:
    named = {cls.__name__ for cls in PUBLIC} - {"RecurrentBase"}
    assert named == set(NAMES) | (named & set(REFUSED))
    assert {f"Of_{cell}" for cell in REGISTERED} | {"PeepholeLSTM"} <= set(REFUSED)


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_what_is_expected_what_was_found_and_the_remedy(name: str) -> None:
    """And the remedy works: what skip= names is left, and what lies beside it is quantized."""
    if name == "torch.ao.nn.quantized.dynamic" and torch.backends.quantized.engine == "none":
        pytest.skip("this torch has no engine for torch.ao's layers")
    make, why = REFUSED[name]
    model = nn.Sequential(make(), nn.GRU(5, 7))
    expected = "0: expected one of RNN, LSTM, GRU, RNNCell, LSTMCell, GRUCell of torch.nn or "
    with pytest.raises(TypeError) as caught:
        fusedrnn.quantize(model, torch.int8)
    text = str(caught.value)
    assert text.startswith(expected) and name in text and why in text and "skip=" in text
    small = fusedrnn.quantize(model, torch.int8, skip=["0"])
    assert type(small[0]).__name__ == type(model[0]).__name__
    assert type(small[1]) is quantized.QuantizedGRU


def test_calls_of_another_dtype_or_size_raise_torchs_types() -> None:
    layer = fusedrnn.quantize(nn.LSTM(5, 7), torch.int8)
    cell = fusedrnn.quantize(nn.GRUCell(5, 7), torch.bfloat16)
    for error, call in (
        (ValueError, lambda: layer(torch.randn(2, 1, 5).double())),
        (ValueError, lambda: layer(torch.randn(2, 1, 5).bfloat16())),
        (RuntimeError, lambda: layer(torch.randn(2, 1, 6))),
        (RuntimeError, lambda: cell(torch.randn(2, 5).bfloat16())),
        (RuntimeError, lambda: cell(torch.randn(2, 6))),
        (TypeError, lambda: layer(torch.randn(2, 1, 5), torch.zeros(1, 1, 7))),
        (ValueError, lambda: copy.deepcopy(layer).double()(torch.randn(2, 1, 5).double())),
        (RuntimeError, lambda: copy.deepcopy(layer).double()(torch.randn(2, 1, 5))),
    ):
        with pytest.raises(error):
            call()


def test_every_class_has_its_quantized_one() -> None:
    for space in (nn, fusedrnn, compat):
        for name in NAMES:
            small = fusedrnn.quantize(getattr(space, name)(5, 7), torch.int8)
            assert type(small) is getattr(quantized, f"Quantized{name}")
            assert isinstance(small, getattr(fusedrnn, name))
            assert repr(small).endswith("stored in int8)")
    assert set(MODULES) == set(CELLS)
