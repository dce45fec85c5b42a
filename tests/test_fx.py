"""torch.fx, and torch.ao on top of it, keep layers and cells whole, as they do torch.nn's."""

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CELLS, layers, one_cell, tensors_of
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations

import fusedrnn

BUILDERS = {"layers": (layers, (7, 2)), "cell": (one_cell, (7,))}


def _replaced(module: nn.Module) -> nn.Module:
    assert len(fusedrnn.replace(module).replaced) == 1
    return module


def _patched(build: Callable[..., nn.Module], *args: Any) -> nn.Module:
    with fusedrnn.patch():
        return build(nn, *args)


def _normed(module: nn.Module) -> nn.Module:
    name = next(name for name, _ in module.named_parameters() if name.startswith("weight_hh"))
    return parametrizations.weight_norm(module, name)


# How a user comes by a module of ours.
ORIGINS: dict[str, Callable[..., nn.Module]] = {
    "fusedrnn": lambda build, *args: build(fusedrnn, *args),
    "compat": lambda build, *args: build(fusedrnn.compat, *args),
    "replaced": lambda build, *args: _replaced(build(nn, *args)),
    "patched": _patched,
    "quantized": lambda build, *args: fusedrnn.quantize(build(nn, *args), torch.float16),
    "parametrized": lambda build, *args: _normed(build(fusedrnn, *args)),
    "replaced_parametrized": lambda build, *args: _replaced(_normed(build(nn, *args))),
    "to_torch_parametrized": lambda build, *args: (
        fusedrnn.to_torch(_normed(build(fusedrnn, *args))).model
    ),
}


class Model(nn.Module):
    """The recurrent module between two of torch's, called with a state."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.before, self.rnn, self.after = nn.Linear(5, 5), rnn, nn.Linear(7, 3)
        self.has_tuple = isinstance(rnn, (nn.RNNBase, nn.LSTMCell, fusedrnn.LSTMCell))

    def forward(self, input: Tensor, state: Any) -> tuple[Tensor, Any]:
        results = self.rnn(self.before(input), state)
        return self.after(results[0] if self.has_tuple else results), results


def _arguments(cell: str, form: str, steps: int = 4) -> tuple[Tensor, Any]:
    shape, state_shape = ((steps, 3, 5), (2, 3, 7)) if form == "layers" else ((3, 5), (3, 7))
    h = torch.randn(state_shape)
    return torch.randn(shape), (h, torch.randn(state_shape)) if cell == "lstm" else h


def _assert_same(traced: Any, model: nn.Module, arguments: tuple[Any, ...]) -> None:
    with torch.no_grad():
        expected = tensors_of(model(*arguments), "result")
        actual = tensors_of(traced(*arguments), "result")
    assert actual.keys() == expected.keys()
    for name, result in expected.items():
        assert torch.equal(actual[name], result), name


def _called(traced: fx.GraphModule) -> list[str]:
    return [node.target for node in traced.graph.nodes if node.op == "call_module"]


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("form", BUILDERS)
@pytest.mark.parametrize("cell", CELLS)
def test_traced_model_keeps_the_module_and_its_results(cell: str, form: str, origin: str) -> None:
    build, sizes = BUILDERS[form]
    model = Model(ORIGINS[origin](build, cell, 5, *sizes))
    traced = fx.symbolic_trace(model)
    assert _called(traced) == ["before", "rnn", "after"]
    assert traced.rnn is model.rnn
    again = fx.symbolic_trace(traced)
    assert _called(again) == ["before", "rnn", "after"]
    copies = [traced, again]
    if origin != "to_torch_parametrized":  # torch.nn's layers refuse it
        copies.append(copy.deepcopy(traced))
    if "parametrized" not in origin:  # torch refuses to pickle those
        copies += [pickle.loads(pickle.dumps(traced, protocol)) for protocol in (2, 4, 5)]
    for steps in (4, 9):
        arguments = _arguments(cell, form, steps)
        for each in copies:
            _assert_same(each, model, arguments)


@pytest.mark.parametrize("origin", ["fusedrnn", "compat", "replaced", "patched"])
@pytest.mark.parametrize("form", BUILDERS)
@pytest.mark.parametrize("cell", CELLS)
def test_traced_model_trains_and_runs_hooks_once(cell: str, form: str, origin: str) -> None:
    build, sizes = BUILDERS[form]
    model = Model(ORIGINS[origin](build, cell, 5, *sizes))
    calls = []
    model.rnn.register_forward_pre_hook(lambda _, args: (2 * args[0], *args[1:]))
    model.rnn.register_forward_hook(lambda *_: calls.append(1))
    traced = fx.symbolic_trace(model)
    assert not calls
    arguments = _arguments(cell, form)
    found = []
    for call in (model, traced):
        loss = sum(t.square().sum() for t in tensors_of(call(*arguments), "result").values())
        found.append(torch.autograd.grad(loss, list(model.parameters())))
    assert len(calls) == 2
    for expected, actual in zip(*found, strict=True):
        assert torch.equal(actual, expected)


class WithOptions(nn.Module):
    def __init__(self, cell: str) -> None:
        super().__init__()
        self.rnn = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True)
        self.register_buffer("learned", torch.randn(4, 3, 5))

    def forward(self, input: Tensor, lengths: Tensor, reset: Tensor) -> tuple[Any, ...]:
        given = self.rnn(input, lengths=lengths, reset=reset, return_states=True, recompute="gates")
        # No argument of this call is traced.
        return given, self.rnn(self.learned)[0]


@pytest.mark.parametrize("cell", CELLS)
def test_traced_model_passes_the_options_on(cell: str) -> None:
    model = WithOptions(cell)
    traced = fx.symbolic_trace(model)
    assert _called(traced) == ["rnn", "rnn"]
    for steps in (4, 9):
        arguments = (
            torch.randn(steps, 3, 5),
            torch.randint(steps + 1, (3,)),
            torch.rand(steps, 3) < 0.3,
        )
        _assert_same(traced, model, arguments)


class Features(fx.Tracer):
    """Names nodes by the module they come from, as torchvision's feature extraction does."""

    def __init__(self) -> None:
        super().__init__()
        self.current, self.names = "", {}

    def call_module(self, module: nn.Module, *args: Any) -> Any:
        outer, self.current = self.current, self.path_of_module(module)
        try:
            return super().call_module(module, *args)
        finally:
            self.current = outer

    def create_proxy(self, *args: Any, **kwargs: Any) -> fx.Proxy:
        proxy = super().create_proxy(*args, **kwargs)
        self.names[self.current] = proxy.node
        return proxy


@pytest.mark.parametrize("form", BUILDERS)
@pytest.mark.parametrize("cell", CELLS)
def test_features_are_extracted_at_the_module(cell: str, form: str) -> None:
    build, sizes = BUILDERS[form]
    model = Model(build(fusedrnn, cell, 5, *sizes))
    tracer = Features()
    graph = tracer.trace(model)
    (output,) = (node for node in graph.nodes if node.op == "output")
    output.args = (tracer.names["rnn"],)
    extracted = fx.GraphModule(model, graph)
    extracted.graph.eliminate_dead_code()
    extracted.recompile()
    assert _called(extracted) == ["before", "rnn"]
    input, state = _arguments(cell, form)
    _assert_same(extracted, lambda x, h: model.rnn(model.before(x), h), (input, state))


@pytest.mark.parametrize("origin", ["fusedrnn", "compat", "replaced", "patched"])
@pytest.mark.parametrize("form", BUILDERS)
@pytest.mark.parametrize("cell", CELLS)
def test_torch_ao_prepares_a_model_for_quantization(cell: str, form: str, origin: str) -> None:
    """What is around the module is observed, and quantized by convert_fx."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is deprecated
        from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

        build, sizes = BUILDERS[form]
        model = Model(ORIGINS[origin](build, cell, 5, *sizes)).eval()
        arguments = _arguments(cell, form)
        mapping = get_default_qconfig_mapping("x86").set_module_name("rnn", None)
        prepared = quantize_fx.prepare_fx(copy.deepcopy(model), mapping, arguments)
        assert type(prepared.rnn) is type(model.rnn)
        _assert_same(prepared, model, arguments)
        converted = quantize_fx.convert_fx(prepared)
        assert "quantized" in type(converted.after).__module__
        assert converted(*arguments)[0].isfinite().all()


def test_subclass_is_traced_as_one_of_torch_is() -> None:
    """Its own code runs before and after; torch.nn's layers cannot be traced through either."""
    refusals = []
    for base in (nn.GRU, fusedrnn.GRU, fusedrnn.compat.GRU):
        model = Model(type("Own", (base,), {"__module__": __name__})(5, 7))
        with pytest.raises(fx.proxy.TraceError) as refusal:
            fx.symbolic_trace(model)
        refusals.append(str(refusal.value))
    assert len(set(refusals)) == 1


@pytest.mark.parametrize("space", [fusedrnn, fusedrnn.compat], ids=["fusedrnn", "compat"])
def test_class_says_where_it_is_and_pickles_by_it(space: Any) -> None:
    for name in ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"):
        cls = getattr(space, name)
        assert cls.__module__.startswith("fusedrnn.")
        module = cls(5, 7)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            for dump in (pickle.dumps, pickle._dumps):  # in C and in Python
                written = dump(module, protocol)
                assert b"_ModuleName" not in written
                assert type(pickle.loads(written)) is cls
