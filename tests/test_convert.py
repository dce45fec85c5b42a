"""replace and to_torch on small models as people write them."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from cases import CELLS, assert_close, layers, run, tolerance
from torch import Tensor, nn
from torch._dynamo.exc import Unsupported
from torch._dynamo.testing import CompileCounter
from torch.nn.utils import parametrize

import fusedrnn
from fusedrnn import compat, convert

NAMES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")


class Tagger(nn.Module):
    """A model with nested, shared, tied and aliased recurrent layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 5)
        self.encoder = nn.LSTM(5, 7, 2, batch_first=True, bidirectional=True)
        self.middle = nn.ModuleList([nn.GRU(14, 7, batch_first=True), nn.Linear(7, 7)])
        self.shared = self.middle[0]
        self.last = nn.RNN(7, 7, nonlinearity="relu", batch_first=True)
        self.cell = nn.LSTMCell(7, 3)
        self.plain_list = [self.last]

    def forward(self, tokens: Tensor) -> Tensor:
        x, _ = self.encoder(self.embedding(tokens))
        x, _ = self.shared(x)
        x, _ = self.plain_list[0](self.middle[1](x))
        return self.cell(x[:, -1])[0]


def _tokens() -> Tensor:
    return torch.randint(0, 11, (4, 6))


@pytest.mark.parametrize("with_compat", [False, True], ids=["fusedrnn", "compat"])
def test_replace_keeps_results_parameters_and_objects(with_compat: bool) -> None:
    model, tokens = Tagger(), _tokens()
    expected = model(tokens)
    parameters = dict(model.named_parameters())
    objects = dict(model.named_modules())
    report = fusedrnn.replace(model, compat=with_compat)
    space = compat if with_compat else fusedrnn
    assert report.model is model
    assert [name for name, *_ in report.replaced] == ["encoder", "middle.0", "last", "cell"]
    assert report.skipped == []
    assert type(model.encoder) is space.LSTM and type(model.cell) is space.LSTMCell
    assert type(model.middle[0]) is space.GRU and type(model.plain_list[0]) is space.RNN
    assert all(objects[name] is module for name, module in model.named_modules())
    after = dict(model.named_parameters())
    assert list(after) == list(parameters)
    assert all(after[name] is parameter for name, parameter in parameters.items())
    assert_close(model(tokens), expected, tolerance(torch.float32, 30))


def test_to_torch_undoes_replace() -> None:
    model, tokens = Tagger(), _tokens()
    expected, text = model(tokens), str(model)
    parameters = list(model.parameters())
    for with_compat in (False, True):
        fusedrnn.replace(model, compat=with_compat)
        report = fusedrnn.to_torch(model)
        assert len(report.replaced) == 4 and not report.skipped
        assert type(model.encoder) is nn.LSTM and type(model.cell) is nn.LSTMCell
        assert str(model) == text
        assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
        assert torch.equal(model(tokens), expected)
    assert all(a is b for a, b in zip(model.last._flat_weights, model.last.parameters()))
    model.double()
    assert torch.jit.script(model.encoder) is not None


def test_training_goes_on_with_the_same_optimizer() -> None:
    plain, converted, tokens = Tagger(), Tagger(), _tokens()
    converted.load_state_dict(plain.state_dict())
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.1) for m in (plain, converted)]
    for step in range(4):
        if step == 2:
            fusedrnn.replace(converted)
        for model, optimizer in zip((plain, converted), optimizers, strict=True):
            optimizer.zero_grad()
            model(tokens).square().sum().backward()
            optimizer.step()
    state = converted.state_dict()
    for name, value in plain.state_dict().items():
        assert_close(state[name], value, 10 * tolerance(torch.float32, 60), name)


def test_model_that_is_itself_recurrent_is_replaced_in_place() -> None:
    for name in NAMES:
        module = getattr(nn, name)(5, 7)
        report = fusedrnn.replace(module, compat=False)
        assert report.model is module and type(module) is getattr(fusedrnn, name)
        assert report.replaced == [("", f"torch.nn.{name}", f"fusedrnn.{name}")]
        assert "(model)" in str(report)
        fusedrnn.to_torch(module)
        assert type(module) is getattr(nn, name)


def test_hooks_flags_and_attributes_stay() -> None:
    module = nn.GRU(5, 7, 2, dropout=0.3).eval()
    module.weight_hh_l0.requires_grad_(False)
    module.note = "kept"
    calls = []
    module.register_forward_hook(lambda *_: calls.append("forward"))
    module.register_forward_pre_hook(lambda *_: calls.append("pre"))
    fusedrnn.replace(module)
    module(torch.randn(6, 3, 5))
    assert calls == ["pre", "forward"]
    assert not module.training and module.note == "kept" and module.dropout == 0.3
    assert not module.weight_hh_l0.requires_grad and module.weight_ih_l0.requires_grad


def test_parametrized_module_stays_parametrized() -> None:
    module = nn.utils.parametrizations.weight_norm(nn.LSTM(5, 7), "weight_hh_l0")
    originals = dict(module.named_parameters())
    input = torch.randn(6, 3, 5)
    expected = run(module, input)
    assert fusedrnn.replace(module).replaced
    assert isinstance(module, compat.LSTM) and parametrize.is_parametrized(module)
    assert all(value is originals[name] for name, value in module.named_parameters())
    for name, result in run(module, input).items():
        assert_close(result, expected[name], tolerance(torch.float32, 12), name)
    assert fusedrnn.to_torch(module).replaced
    assert convert.exact_type(module) is nn.LSTM
    for name, result in run(module, input).items():
        assert torch.equal(result, expected[name]), name
    parametrize.remove_parametrizations(module, "weight_hh_l0")
    assert type(module) is nn.LSTM


def test_what_cannot_be_replaced_is_skipped_with_a_reason() -> None:
    model = nn.ModuleDict(
        {
            "complex": nn.GRU(5, 7, dtype=torch.complex64),
            "named": nn.GRU(5, 7),
            "given": nn.GRU(5, 7),
            "normal": nn.GRU(5, 7),
            "linear": nn.Linear(5, 7),
        }
    )
    report = fusedrnn.replace(model, skip=["named", model["given"]])
    reasons = {name: reason for name, _, reason in report.skipped}
    assert "torch.complex64" in reasons["complex"]
    assert reasons["named"] == reasons["given"] == "asked for"
    assert [name for name, *_ in report.replaced] == ["normal"]
    assert type(model["named"]) is nn.GRU
    lines = str(report).splitlines()
    assert lines[0] == "1 replaced, 3 skipped" and len(lines) == 5


def test_module_on_a_device_without_kernels_is_skipped(
    compiled_part: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert convert.device_has_kernels(torch.device("cpu"))
    assert convert.device_has_kernels(torch.device("meta"))
    assert not convert.device_has_kernels(torch.device("xpu"))
    monkeypatch.setattr(convert, "device_has_kernels", lambda device: False)
    model = nn.Sequential(nn.GRU(5, 7))
    report = fusedrnn.replace(model)
    assert report.skipped == [("0", "torch.nn.GRU", "its weights are on cpu, which has no kernel")]
    assert type(model[0]) is nn.GRU


def test_replace_twice_changes_nothing_more() -> None:
    model = Tagger()
    fusedrnn.replace(model)
    again = fusedrnn.replace(model)
    assert not again.replaced and not again.skipped
    assert again.already == [
        ("encoder", "fusedrnn.compat.LSTM"),
        ("middle.0", "fusedrnn.compat.GRU"),
        ("last", "fusedrnn.compat.RNN"),
        ("cell", "fusedrnn.compat.LSTMCell"),
    ]
    assert str(again).startswith("0 replaced, 0 skipped, 4 already\n")
    assert not fusedrnn.replace(model, compat=False).replaced
    fusedrnn.to_torch(model)
    assert [name for name, _ in fusedrnn.to_torch(model).already] == [n for n, _ in again.already]


@pytest.mark.parametrize("with_compat", [False, True], ids=["fusedrnn", "compat"])
def test_replaced_model_pickles(with_compat: bool) -> None:
    model, tokens = Tagger(), _tokens()
    fusedrnn.replace(model, compat=with_compat)
    duplicate = pickle.loads(pickle.dumps(model))
    assert type(duplicate.encoder) is (compat if with_compat else fusedrnn).LSTM
    assert torch.equal(duplicate(tokens), model(tokens))


# code about the model


@pytest.mark.parametrize("name", NAMES)
def test_replaced_layers_are_instances_of_torchs_classes(name: str) -> None:
    module = getattr(nn, name)(5, 7)
    fusedrnn.replace(module)
    assert type(module) is getattr(compat, name) and isinstance(module, getattr(nn, name))
    assert isinstance(pickle.loads(pickle.dumps(module)), getattr(nn, name))


class Policy(nn.Module):
    """Branches on its layer's type, as torchrl's LSTMModule and GRUModule do."""

    def __init__(self, layer: nn.Module, layer_type: type) -> None:
        super().__init__()
        self.layer, self.layer_type = layer, layer_type

    def forward(self, input: Tensor, lengths: Tensor) -> Tensor:
        if not isinstance(self.layer, self.layer_type):
            return self.layer(input, mask=lengths)[0]
        packed = nn.utils.rnn.pack_padded_sequence(input, lengths, True, enforce_sorted=False)
        return self.layer(packed)[0].data


@pytest.mark.parametrize("cell", CELLS)
def test_code_that_branches_on_the_type_runs_as_before(cell: str) -> None:
    layer = layers(nn, cell, 5, 7, batch_first=True)
    model = Policy(layer, type(layer))
    arguments = torch.randn(3, 6, 5), torch.tensor([4, 6, 1])
    expected = model(*arguments)
    assert fusedrnn.replace(model).replaced
    assert_close(model(*arguments), expected, tolerance(torch.float32, 6))


class Head(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, input: Tensor) -> Tensor:
        shift = 1 if isinstance(self.layer, (nn.RNN, nn.LSTM, nn.GRU)) else 0
        return self.layer(input.relu())[0].sigmoid() + shift


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_replaced_layers_compile_as_the_docstring_says(
    cell: str, options: Any, compiled_part: None
) -> None:
    """compat's as torch.nn's, in one graph with torch's switch; the others in one graph always."""
    input = torch.randn(4, 3, 5)

    def compiled(model: nn.Module, allow_rnn: bool, **arguments: Any) -> CompileCounter:
        torch._dynamo.reset()
        counter = CompileCounter()
        function = torch.compile(model, backend=counter, dynamic=True, **arguments)
        with torch._dynamo.config.patch(allow_rnn=allow_rnn):
            for length in (4, 7, 2):
                input = torch.randn(length, 3, 5)
                assert_close(function(input), model(input), tolerance(torch.float32, length))
        return counter

    def model() -> nn.Module:
        return Head(layers(nn, cell, 5, 7, **options))

    for refused in (model(), fusedrnn.replace(model()).model):
        with pytest.raises(Unsupported, match="allow_rnn"):
            compiled(refused, False, fullgraph=True)
        compiled(refused, False)
    default, plain = model(), model()
    fusedrnn.replace(default)
    fusedrnn.replace(plain, compat=False)
    assert compiled(default, True, fullgraph=True).frame_count == 1
    assert compiled(plain, False, fullgraph=True).frame_count == 1
    assert default(input).shape == plain(input).shape


# skip


@pytest.mark.parametrize("function", [fusedrnn.replace, fusedrnn.to_torch], ids=["to", "back"])
def test_what_contains_a_layer_and_what_is_an_alias_can_be_skipped(function: Any) -> None:
    for skip in (["middle"], ["shared"], ["middle.0"]):
        model = Tagger()
        if function is fusedrnn.to_torch:
            fusedrnn.replace(model)
        before = type(model.shared)
        report = function(model, skip=[*skip, model.cell])
        assert [name for name, *_ in report.skipped] == ["middle.0", "cell"]
        assert [name for name, *_ in report.replaced] == ["encoder", "last"]
        assert type(model.shared) is before
    assert [name for name, *_ in function(Tagger(), skip=[""]).skipped] == [
        "encoder",
        "middle.0",
        "last",
        "cell",
    ]


@pytest.mark.parametrize(
    "function",
    [
        fusedrnn.replace,
        fusedrnn.to_torch,
        lambda model, skip: fusedrnn.quantize(model, torch.int8, skip=skip),
    ],
    ids=["replace", "to_torch", "quantize"],
)
@pytest.mark.parametrize(
    ("skip", "error", "match"),
    [
        ("encoder", TypeError, r"got 'encoder'; write skip=\[...\]"),
        ("", TypeError, r"got ''; write skip=\[...\]"),
        (nn.ModuleList([nn.GRU(5, 7)]), TypeError, "names and modules, got a ModuleList"),
        (iter(["encoder"]), TypeError, "expected a collection"),
        (None, TypeError, "got a NoneType"),
        ([nn.LSTM], TypeError, "got one with a type"),
        ([0], TypeError, "got one with a int"),
        (["e"], ValueError, "got 'e'; the model has 'encoder', 'middle.0', 'last', 'cell'"),
        (["encoder", "decoder"], ValueError, "got 'decoder'"),
        (["embedding"], ValueError, "got 'embedding'"),
        ([nn.LSTM(5, 7)], ValueError, "got a LSTM; the model has"),
    ],
    ids=lambda value: repr(value).split(" at 0x")[0],
)
def test_a_skip_that_skips_nothing_is_an_error(
    function: Any, skip: Any, error: type[Exception], match: str
) -> None:
    model = Tagger()
    with pytest.raises(error, match=f"skip: .*{match}"):
        function(model, skip=skip)
    assert type(model.encoder) is nn.LSTM
