"""RNN, LSTM and GRU under torch.compile: one graph, whatever the length and the batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import CELLS, assert_close, initial_state, layers, pack, run, tolerance
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd

import fusedrnn
from fusedrnn import compat

# (seq_len, batch_size) of calls that follow each other.
SIZES = [(6, 3), (9, 4), (2, 5), (17, 8)]

# Of the constructor, and below of the call.
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two_ways": {"bidirectional": True},
    "batch_first": {"batch_first": True},
    "dropout": {"dropout": 0.4},
    "no_bias": {"bias": False},
}


CALL_OPTIONS = {
    "lengths": ["lengths"],
    "reset": ["reset"],
    "reset_state": ["reset", "reset_state"],
    "states_and_gates": ["return_states", "return_gates"],
    "recompute": ["recompute"],
    "everything": [
        "lengths", "reset", "reset_state", "return_states", "return_gates", "recompute",
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_compiled_before(compiled_part: None) -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compilations(most: int) -> contextlib.AbstractContextManager[None]:
    """Within the block, torch.compile raises an error when it compiles code more than so often."""
    return torch._dynamo.config.patch(recompile_limit=most, fail_on_recompile_limit_hit=True)


def test_compilations_are_counted() -> None:
    compiled = torch.compile(nn.Linear(5, 7), fullgraph=True, dynamic=False, backend="eager")
    with compilations(2), pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
        for rows in (3, 4, 5):
            compiled(torch.randn(rows, 5))


def _draw(module: nn.Module, seq_len: int, batch_size: int) -> Tensor:
    sizes = (batch_size, seq_len) if module.batch_first else (seq_len, batch_size)
    return torch.randn(*sizes, module.input_size, device=module.weight_hh_l0.device)


def _draw_options(module: nn.Module, names: list[str], input: Tensor) -> dict[str, Any]:
    """`input` is time-major."""
    seq_len, batch_size = input.shape[:2]
    every = {
        "lengths": torch.randint(seq_len + 1, (batch_size,), device=input.device),
        "reset": torch.rand(seq_len, batch_size, device=input.device) < 0.3,
        "reset_state": initial_state(module, batch_size, torch.float32, torch.randn),
        "return_states": True,
        "return_gates": True,
        "recompute": "chunk:4",
    }
    return {name: every[name] for name in names}


def _assert_same(
    compiled: nn.Module, module: nn.Module, input: Tensor, hx: Any = None, **options: Any
) -> None:
    """Results and every gradient are those of the module that is not compiled."""
    torch.manual_seed(3)
    expected = run(module, input, hx, **options)
    torch.manual_seed(3)
    actual = run(compiled, input, hx, **options)
    for name, result in expected.items():
        compiled_name = name.replace("grad weight", "grad _orig_mod.weight")
        compiled_name = compiled_name.replace("grad bias", "grad _orig_mod.bias")
        assert_close(actual[compiled_name], result, tolerance(torch.float32, 34), name)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_dynamic_shapes_make_one_graph_for_all_sizes(cell: str, option: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, device=device, **OPTIONS[option])
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    with compilations(1):
        for sizes in SIZES:
            _assert_same(compiled, module, _draw(module, *sizes))


@pytest.mark.parametrize("cell", CELLS)
def test_given_state_makes_one_graph_for_all_sizes(cell: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True, device=device)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    with compilations(1):
        for seq_len, batch_size in SIZES:
            hx = initial_state(module, batch_size, torch.float32, torch.randn)
            _assert_same(compiled, module, _draw(module, seq_len, batch_size), hx)


def test_projection_makes_one_graph_for_all_sizes(device: str) -> None:
    module = fusedrnn.LSTM(5, 7, 2, proj_size=3, bidirectional=True, device=device)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    with compilations(1):
        for sizes in SIZES:
            _assert_same(compiled, module, _draw(module, *sizes))


@pytest.mark.parametrize("option", CALL_OPTIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_options_of_the_call_make_one_graph_for_all_sizes(
    cell: str, option: str, device: str
) -> None:
    """torch takes a size of 1 for a constant: so are a sequence of one chunk and one of two steps,
    whose gates are of one step that another follows, and both are left out here."""
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True, device=device)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    with compilations(1):
        for sizes in ((6, 3), (9, 4), (5, 5), (17, 8)):
            input = _draw(module, *sizes)
            options = _draw_options(module, CALL_OPTIONS[option], input)
            _assert_same(compiled, module, input, **options)


@pytest.mark.parametrize("training", [False, True], ids=["forward", "training_step"])
@pytest.mark.parametrize("cell", CELLS)
def test_default_settings_compile_again_at_most_once(
    cell: str, training: bool, device: str
) -> None:
    """The first sizes are taken for constants; when they change, they become symbols."""
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True, device=device)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with compilations(2):
        for sizes in SIZES:
            input = _draw(module, *sizes)
            if training:
                _assert_same(compiled, module, input)
            else:
                with torch.no_grad():
                    assert torch.equal(compiled(input)[0], module(input)[0])


@pytest.mark.parametrize("cell", CELLS)
def test_explain_finds_one_graph_and_no_break(cell: str, device: str) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, dropout=0.4, bidirectional=True, device=device)
    found = torch._dynamo.explain(module)(torch.randn(6, 3, 5, device=device))
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


@pytest.mark.parametrize("cell", CELLS)
def test_graph_holds_one_operator_a_layer_whatever_the_length(cell: str, device: str) -> None:
    """What there is to compile does not grow with the sequence, forward or backward."""
    module = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True, device=device)
    sizes = []
    for seq_len in (8, 64, 512):
        graphs: list[list[str]] = []

        def keep(graph: torch.fx.GraphModule, _: Any, graphs: list = graphs) -> Any:
            graphs.append([str(node.target) for node in graph.graph.nodes])
            return make_boxed_func(graph.forward)

        torch._dynamo.reset()
        backend = aot_autograd(fw_compiler=keep, bw_compiler=keep)
        compiled = torch.compile(module, fullgraph=True, backend=backend)
        _assert_same(compiled, module, _draw(module, seq_len, 3))
        forward, backward = graphs
        assert sum("fusedrnn.layer_forward" in target for target in forward) == 2
        assert sum("fusedrnn.layer_backward" in target for target in backward) == 2
        sizes.append((len(forward), len(backward)))
    assert sizes[0] == sizes[1] == sizes[2]


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_inductor_gives_the_same_results_in_both_modes(mode: str, device: str) -> None:
    """On CUDA, reduce-overhead captures a graph on the second call and replays it from then on."""
    module = fusedrnn.LSTM(5, 7, 2, bidirectional=True, device=device)
    compiled = torch.compile(module, fullgraph=True, mode=mode)
    with compilations(2):
        for sizes in (*SIZES[:3], SIZES[0], SIZES[0]):
            input = _draw(module, *sizes)
            options = _draw_options(module, ["lengths", "reset"], input)
            _assert_same(compiled, module, input, **options)


def test_training_by_inductor_follows_the_uncompiled_losses(device: str) -> None:
    """A whole step with the loss, inside a model, for lengths and batches that change."""
    losses = []
    for compile in (False, True):
        torch.manual_seed(1)
        model = _Tagger().to(device)
        step = torch.compile(model, fullgraph=True, dynamic=True) if compile else model
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        found = []
        with compilations(1):
            for seq_len, batch_size in SIZES:
                tokens = torch.randint(11, (batch_size, seq_len), device=device)
                optimizer.zero_grad()
                loss = step(tokens, tokens.flip(1))
                loss.backward()
                optimizer.step()
                found.append(loss.detach())
        losses.append(torch.stack(found))
    # Adam divides by the gradient's size, so a step carries on the relative error of a gradient.
    assert_close(losses[1], losses[0], 10 * tolerance(torch.float32, 34), "losses")


@pytest.mark.parametrize("with_hx", [False, True])
def test_packed_input_compiles_to_one_graph(with_hx: bool, device: str) -> None:
    module = fusedrnn.GRU(5, 7, 2, bidirectional=True, device=device)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for lengths in ([6, 4, 1], [2, 7, 5]):
        input = pack(torch.randn(7, 3, 5, device=device), lengths)
        hx = torch.randn(4, 3, 7, device=device) if with_hx else None
        actual, expected = compiled(input, hx), module(input, hx)
        assert torch.equal(actual[0].data, expected[0].data)
        assert torch.equal(actual[1], expected[1])


def test_compat_computes_the_same_under_compile() -> None:
    """torch.compile runs its layers uncompiled; a graph break is no error."""
    module = nn.Sequential(compat.LSTM(5, 7))
    compiled = torch.compile(module, backend="aot_eager")
    input = torch.randn(6, 3, 5)
    assert torch.equal(compiled(input)[0], module(input)[0])


class _Tagger(nn.Module):
    """Predicts a symbol for each symbol; its forward is the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 5)
        self.rnn = fusedrnn.LSTM(5, 7, 2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(14, 11)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        scores = self.out(self.rnn(self.embedding(tokens))[0])
        return nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten())
