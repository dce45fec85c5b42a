"""replace, to_torch and patch on small models as people write them."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
import torch
from cases import assert_close, run, tolerance
from torch import Tensor, nn
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


class Mine(nn.LSTM):
    def forward(self, input: Tensor, hx: object = None) -> object:
        return super().forward(2 * input, hx)


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
        report = fusedrnn.replace(module)
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
    assert isinstance(module, fusedrnn.LSTM) and parametrize.is_parametrized(module)
    assert all(value is originals[name] for name, value in module.named_parameters())
    for name, result in run(module, input).items():
        assert_close(result, expected[name], tolerance(torch.float32, 12), name)
    assert fusedrnn.to_torch(module).replaced
    assert isinstance(module, nn.LSTM)
    for name, result in run(module, input).items():
        assert torch.equal(result, expected[name]), name
    parametrize.remove_parametrizations(module, "weight_hh_l0")
    assert type(module) is nn.LSTM


def test_what_cannot_be_replaced_is_skipped_with_a_reason() -> None:
    model = nn.ModuleDict(
        {
            "mine": Mine(5, 7),
            "complex": nn.GRU(5, 7, dtype=torch.complex64),
            "named": nn.GRU(5, 7),
            "given": nn.GRU(5, 7),
            "normal": nn.GRU(5, 7),
            "linear": nn.Linear(5, 7),
        }
    )
    report = fusedrnn.replace(model, skip=["named", model["given"]])
    reasons = {name: reason for name, _, reason in report.skipped}
    assert "subclass of torch.nn.LSTM" in reasons["mine"]
    assert "torch.complex64" in reasons["complex"]
    assert reasons["named"] == reasons["given"] == "asked for"
    assert [name for name, *_ in report.replaced] == ["normal"]
    assert type(model["mine"]) is Mine and type(model["named"]) is nn.GRU
    lines = str(report).splitlines()
    assert lines[0] == "1 replaced, 4 skipped" and len(lines) == 6


def test_module_on_a_device_without_kernels_is_skipped(
    compiled_part: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert convert._has_kernels(torch.device("cpu"))
    assert convert._has_kernels(torch.device("meta"))
    assert not convert._has_kernels(torch.device("xpu"))
    monkeypatch.setattr(convert, "_has_kernels", lambda device: False)
    model = nn.Sequential(nn.GRU(5, 7))
    report = fusedrnn.replace(model)
    assert report.skipped == [("0", "torch.nn.GRU", "its weights are on cpu, which has no kernel")]
    assert type(model[0]) is nn.GRU


def test_replace_twice_changes_nothing_more() -> None:
    model = Tagger()
    fusedrnn.replace(model)
    again = fusedrnn.replace(model)
    assert not again.replaced and not again.skipped
    other = fusedrnn.replace(model, compat=True)
    assert not other.replaced
    assert {reason for *_, reason in other.skipped} == {"fusedrnn's already"}


def test_replaced_model_pickles() -> None:
    model, tokens = Tagger(), _tokens()
    fusedrnn.replace(model)
    duplicate = pickle.loads(pickle.dumps(model))
    assert type(duplicate.encoder) is fusedrnn.LSTM
    assert torch.equal(duplicate(tokens), model(tokens))


# patch


def _classes() -> list[type]:
    return [getattr(space, name) for space in (nn, nn.modules) for name in NAMES]


def test_patch_names_the_compat_classes_and_restores() -> None:
    before = _classes()
    with fusedrnn.patch():
        for name in NAMES:
            assert getattr(torch.nn, name) is getattr(compat, name)
        model = Tagger()
        assert isinstance(model.encoder, nn.LSTM)
    assert _classes() == before
    assert type(model.encoder) is compat.LSTM and isinstance(model.encoder, nn.LSTM)
    assert model(_tokens()).shape == (4, 3)


def test_patch_restores_after_an_exception_and_when_nested() -> None:
    before = _classes()
    with pytest.raises(KeyError), fusedrnn.patch():
        raise KeyError
    assert _classes() == before
    with fusedrnn.patch():
        with fusedrnn.patch():
            assert nn.GRU is compat.GRU
        assert nn.GRU is compat.GRU
    assert _classes() == before
    first, second = fusedrnn.patch(), fusedrnn.patch()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert nn.GRU is compat.GRU
    second.__exit__(None, None, None)
    assert _classes() == before


def test_patch_decorates_a_function() -> None:
    build: Callable[[], nn.Module] = fusedrnn.patch()(lambda: nn.GRU(5, 7))
    assert type(build()) is compat.GRU
    assert type(nn.GRU(5, 7)) is not compat.GRU


def test_replace_within_patch_still_converts_torch_modules() -> None:
    module = nn.GRU(5, 7)
    with fusedrnn.patch():
        fusedrnn.replace(module)
        assert type(module) is fusedrnn.GRU
        pickle.loads(pickle.dumps(nn.Sequential(nn.LSTM(5, 7))))
        fusedrnn.to_torch(module)
    assert type(module) is nn.GRU


def test_torch_modules_pickle_within_patch() -> None:
    module = nn.GRU(5, 7)
    with fusedrnn.patch():
        assert type(pickle.loads(pickle.dumps(module))) is type(module)
