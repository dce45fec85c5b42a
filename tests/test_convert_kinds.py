"""Every recurrent module of a model, whatever its kind, is replaced or named with the reason."""

from __future__ import annotations

import abc
import copy
import functools
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import assert_close, run, tolerance
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import fusedrnn
from fusedrnn import compat
from fusedrnn.convert import Report

NAMES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
ALLOWED = tolerance(torch.float32, 24)


def _input(name: str) -> Tensor:
    return torch.randn(3, 5) if name.endswith("Cell") else torch.randn(6, 3, 5)


def _names(rows: list[tuple[str, ...]]) -> list[str]:
    return [name for name, *_ in rows]


# subclasses


class Doubling:
    """Code of a user's own, before the forward pass that it inherits."""

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        return super().forward(2 * input, hx)


class Abstract(Doubling, abc.ABC):
    @abc.abstractmethod
    def scale(self) -> float: ...


class Stack(nn.LSTM):
    """Overrides nothing but the constructor."""

    def __init__(self, size: int, hidden_size: int) -> None:
        super().__init__(size, hidden_size, 2, bidirectional=True)


def _subclass(name: str, *bases: type, **members: Any) -> type:
    """A class that pickle finds by its name in this module."""
    cls = type(bases[0])(name, bases, {"__module__": __name__, **members})
    globals()[name] = cls
    return cls


PLAIN = {name: _subclass(f"My{name}", Doubling, getattr(nn, name)) for name in NAMES}
SUBCLASSES = [
    *PLAIN.values(),
    *(_subclass(f"Deep{name}", PLAIN[name]) for name in NAMES),
    *(
        _subclass(f"Abc{name}", Abstract, getattr(nn, name), scale=lambda self: 2.0)
        for name in NAMES
    ),
    Stack,
]


@pytest.mark.parametrize("cls", SUBCLASSES, ids=lambda cls: cls.__name__)
def test_a_subclass_keeps_its_code_over_our_forward(cls: type) -> None:
    base = next(name for name in NAMES if getattr(nn, name) in cls.__mro__)
    module, input = cls(5, 7), _input(base)
    model = nn.ModuleDict({"own": module})
    parameters, state = list(module.parameters()), list(module.state_dict())
    expected = run(module, input)
    skipped = fusedrnn.replace(model)
    assert _names(skipped.skipped) == ["own"] and type(module) is cls
    assert f"a subclass of torch.nn.{base}," in str(skipped) and "subclasses=True" in str(skipped)
    report = fusedrnn.replace(model, subclasses=True)
    label = f"{__name__}.{cls.__name__}"
    assert report.replaced == [("own", label, f"{__name__}.Fused{cls.__name__}")]
    assert isinstance(module, cls) and isinstance(module, getattr(compat, base))
    assert all(a is b for a, b in zip(module.parameters(), parameters, strict=True))
    assert list(module.state_dict()) == state
    for name, result in run(module, input).items():
        assert_close(result, expected[name], ALLOWED, name)
    assert _names(fusedrnn.replace(model).already) == ["own"]
    undone = fusedrnn.to_torch(model)
    assert undone.replaced == [("own", f"{__name__}.Fused{cls.__name__}", label)]
    assert type(module) is cls
    for name, result in run(module, input).items():
        assert torch.equal(result, expected[name]), name


def test_a_subclass_runs_our_operator(compiled_part: None) -> None:
    for cls in SUBCLASSES:
        module = fusedrnn.replace(cls(5, 7), subclasses=True).model
        with torch.profiler.profile() as profile:
            module(_input("Cell" if "Cell" in cls.__name__ else ""))
        called = {event.key for event in profile.key_averages()}
        assert any(key.startswith("fusedrnn::") for key in called), cls
        assert not called & {"aten::lstm", "aten::gru", "aten::rnn_tanh", "aten::lstm_cell"}


@pytest.mark.parametrize("cls", SUBCLASSES, ids=lambda cls: cls.__name__)
def test_a_converted_subclass_copies_and_pickles(cls: type) -> None:
    module = cls(5, 7)
    module.note = "kept"
    fusedrnn.replace(module, subclasses=True)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    copies = [copy.copy(module), copy.deepcopy(module), torch.load(buffer, weights_only=False)]
    copies += [pickle.loads(pickle.dumps(module, protocol)) for protocol in range(2, 6)]
    input = _input("Cell" if "Cell" in cls.__name__ else "")
    expected = run(module, input)
    for duplicate in copies:
        assert type(duplicate) is type(module) and duplicate.note == "kept"
        for name, result in run(duplicate, input).items():
            assert torch.equal(result, expected[name]), name
        assert fusedrnn.to_torch(duplicate).replaced and type(duplicate) is cls


def test_a_parametrized_subclass_stays_parametrized() -> None:
    module = parametrizations.weight_norm(Stack(5, 7), "weight_hh_l0")
    input = _input("LSTM")
    expected = run(module, input)
    assert fusedrnn.replace(module, subclasses=True).replaced
    assert isinstance(module, compat.LSTM)
    for name, result in run(module, input).items():
        assert_close(result, expected[name], ALLOWED, name)
    assert fusedrnn.to_torch(module).replaced
    assert not isinstance(module, compat.LSTM) and isinstance(module, Stack)
    for name, result in run(module, input).items():
        assert torch.equal(result, expected[name]), name


class Replacing(nn.LSTM):
    """Its forward never reaches the one it inherits."""

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        return input, hx


class Naming(nn.GRU):
    def forward(self, input: Tensor, hx: Any = None) -> Any:
        return nn.GRU.forward(self, input, hx)


class Stale(Naming, fusedrnn.GRU):
    """torch.nn's forward stands before fusedrnn's."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        nn.RNNBase.__init__(self, "GRU", input_size, hidden_size)


class Overriding(compat.LSTM):
    def forward(self, input: Tensor, hx: Any = None) -> Any:
        return input, hx


@pytest.mark.parametrize(
    ("cls", "by"),
    [
        (Replacing, "Replacing"),
        (Naming, "Naming"),
        (Stale, "Naming"),
        (Overriding, "Overriding"),
    ],
)
def test_a_forward_that_does_not_reach_ours_is_named(cls: type, by: str) -> None:
    module = cls(5, 7)
    for subclasses in (False, True):
        report = fusedrnn.replace(module, subclasses=subclasses)
        assert [reason for *_, reason in report.skipped] == [
            f"{__name__}.{by}.forward does not call super().forward"
        ]
    assert type(module) is cls


@pytest.mark.parametrize("name", NAMES)
def test_classes_made_from_both_are_ours_already(name: str) -> None:
    with fusedrnn.patch():
        imported = type("Imported", (Doubling, getattr(nn, name)), {})
    own = type("Own", (getattr(nn, name),), {})
    both = type("Both", (own, getattr(compat, name)), {})
    model = nn.ModuleList(
        [imported(5, 7), both(5, 7), getattr(fusedrnn, name)(5, 7), getattr(compat, name)(5, 7)]
    )
    for options in ({}, {"subclasses": True}, {"compat": False}):
        report = fusedrnn.replace(model, **options)
        assert not report.replaced and not report.skipped
        assert _names(report.already) == ["0", "1", "2", "3"]
    back = fusedrnn.to_torch(model)
    assert _names(back.skipped) == ["0", "1"] and _names(back.replaced) == ["2", "3"]
    assert all("derived from fusedrnn's" in reason for *_, reason in back.skipped)


# a forward of the module's own


@pytest.mark.parametrize("name", NAMES)
def test_a_module_with_a_forward_of_its_own_is_named(name: str) -> None:
    """As accelerate's hooks and monkey patches set it."""
    for space, convert in ((nn, fusedrnn.replace), (fusedrnn, fusedrnn.to_torch)):
        module = getattr(space, name)(5, 7)
        module.forward = functools.wraps(module.forward)(functools.partial(module.forward))
        cls, input = type(module), _input(name)
        expected = run(module, input)
        report = convert(nn.ModuleDict({"hooked": module}))
        assert not report.replaced and _names(report.skipped) == ["hooked"]
        assert "attribute `forward`" in report.skipped[0][2] and type(module) is cls
        assert all(torch.equal(v, expected[k]) for k, v in run(module, input).items())
        with pytest.raises(TypeError, match=r"0\.forward: expected that of the class"):
            fusedrnn.quantize(nn.Sequential(module), torch.int8)
        del module.forward
        assert convert(module).replaced


# what is no module of torch.nn any more


def _save_and_load(module: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module), buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


FIXED: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "scripted": lambda module, input: torch.jit.script(module),
    "traced": lambda module, input: torch.jit.trace(module, input),
    "frozen": lambda module, input: torch.jit.freeze(torch.jit.script(module.eval())),
    "loaded": lambda module, input: _save_and_load(module),
    "exported": lambda module, input: torch.export.export(module, (input,)).module(),
}


def _check_named(model: nn.Module, expected: list[str], match: str) -> None:
    """replace names what it leaves, to_torch counts it as torch's, quantize refuses it."""
    for options in ({}, {"subclasses": True}):
        report = fusedrnn.replace(model, **options)
        assert not report.replaced and not report.already
        assert _names(report.skipped) == expected
        assert all(match in reason for *_, reason in report.skipped)
    assert _names(fusedrnn.to_torch(model).already) == expected
    with pytest.raises(TypeError, match=r"expected one of RNN, .*, got .* skip="):
        fusedrnn.quantize(model, torch.int8)
    asked = fusedrnn.replace(model, skip=expected)
    assert {reason for *_, reason in asked.skipped} == {"asked for"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", FIXED)
@pytest.mark.parametrize("name", NAMES)
def test_graphs_that_run_torchs_kernels_are_named(name: str, kind: str) -> None:
    fixed = FIXED[kind](getattr(nn, name)(5, 7), _input(name))
    model = nn.ModuleDict({"graph": fixed, "linear": nn.Linear(5, 7)})
    _check_named(model, ["graph"], "graph" if kind == "exported" else "TorchScript")


class Detector(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(5, 5))
        self.rnn = layer

    def forward(self, input: Tensor) -> Tensor:
        return self.rnn(self.inner(input))[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("scripted", "vad.rnn"),
        ("traced", "vad.rnn"),
        ("loaded", "vad.rnn"),
        ("frozen", "vad"),
        ("exported", "vad"),
    ],
)
@pytest.mark.parametrize("name", NAMES[:3])
def test_layers_within_graphs_are_named_where_they_lie(name: str, kind: str, expected: str) -> None:
    fixed = FIXED[kind](Detector(getattr(nn, name)(5, 7)), _input(name))
    match = "graph" if kind == "exported" else "TorchScript"
    _check_named(nn.ModuleDict({"vad": fixed}), [expected], match)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["traced", "exported"])
@pytest.mark.parametrize("name", NAMES)
def test_graphs_that_run_our_operators_are_ours_already(
    name: str, kind: str, compiled_part: None
) -> None:
    module = FIXED[kind](getattr(fusedrnn, name)(5, 7), _input(name))
    report = fusedrnn.replace(nn.ModuleList([module]))
    assert _names(report.already) == ["0"] and not report.skipped
    back = fusedrnn.to_torch(nn.ModuleList([module]))
    assert _names(back.skipped) == ["0"] and "convert before it is traced" in str(back)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*quantize_per_tensor")
@pytest.mark.parametrize("name", [name for name in NAMES if name != "RNN"])
def test_layers_that_torch_ao_quantized_are_named(name: str) -> None:
    cls = getattr(torch.ao.nn.quantized.dynamic, name)
    _check_named(nn.ModuleDict({"small": cls(5, 7)}), ["small"], "torch.ao's layer")


def test_torch_aos_quantizable_layers_are_named() -> None:
    quantizable = torch.ao.nn.quantizable
    model = nn.ModuleDict({"layer": quantizable.LSTM(5, 7), "cell": quantizable.LSTMCell(5, 7)})
    expected = ["layer", "layer.layers.0.layer_fw.cell", "cell"]
    _check_named(model, expected, "torch.ao's layer")


def test_a_class_of_another_kind_is_named() -> None:
    class Peephole(nn.RNNBase):
        pass

    report = fusedrnn.replace(nn.ModuleList([Peephole("LSTM", 5, 7)]))
    assert report.skipped == [("0", f"{__name__}.Peephole", "no class to convert it to")]


def test_a_report_holds_every_row_once() -> None:
    report = Report(None, [("a", "x", "y")] * 2, [("b", "x", "why")], [("", "z")])
    assert str(report).splitlines() == [
        "2 replaced, 1 skipped, 1 already",
        "  a        x -> y (2 times)",
        "  b        x skipped: why",
        "  (model)  z already",
    ]
