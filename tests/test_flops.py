"""FlopCounterMode counts for a layer what it counts for torch.nn's composition of products."""

import itertools
from typing import Any

import pytest
import torch
from cases import CELLS, initial_state, layers, one_cell, pack
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import fusedrnn

pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")

Counts = dict[str, int]


def _counted(call: Any, *args: Any, **options: Any) -> tuple[Any, Counts]:
    """The result of a call, and the operations it takes by module."""
    # nn.LSTM in oneDNN is one operator, of which nothing is counted.
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
        result = call(*args, **options)
    counts = counter.get_flop_counts()
    return result, {name: sum(by_operator.values()) for name, by_operator in counts.items()}


def _step(module: nn.Module, *args: Any, **options: Any) -> tuple[Counts, Counts]:
    """The operations of forward and of backward."""
    result, forward = _counted(module, *args, **options)
    output = result[0] if isinstance(result, tuple) else result
    output = output.data if isinstance(output, PackedSequence) else output
    if not output.requires_grad:
        return forward, {}
    _, backward = _counted(output.sum().backward)
    return forward, backward


def _assert_same_counts(
    ours: nn.Module, theirs: nn.Module, *args: Any, counts_nothing: bool = False
) -> None:
    expected = _step(theirs, *args)
    assert _step(ours, *args) == expected
    assert (sum(sum(counts.values()) for counts in expected) == 0) == counts_nothing


SIZES = [(6, 4), (1, 4), (6, 1), (6, 0)]
FORMS: dict[str, dict[str, Any]] = {
    "one": {},
    "bidirectional": {"bidirectional": True},
    "stack": {"num_layers": 3, "bidirectional": True, "batch_first": True},
    "no_bias": {"bias": False},
    "dropout": {"num_layers": 2, "dropout": 0.5},
}
PROJECTED = {
    "projected": {"proj_size": 2, "num_layers": 2},
    "projected_bidirectional": {"proj_size": 2, "bidirectional": True},
}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "cell, form",
    [*itertools.product(CELLS, FORMS), *itertools.product(["lstm"], PROJECTED)],
)
def test_layers_count_as_those_of_torch(cell: str, form: str, size: tuple[int, int]) -> None:
    options = (FORMS | PROJECTED)[form]
    for requires_grad in itertools.product((False, True), repeat=2):
        ours, theirs = (layers(space, cell, 3, 5, **options) for space in (fusedrnn, nn))
        batch_first = options.get("batch_first", False)
        input = torch.randn(*(reversed(size) if batch_first else size), 3)
        state = initial_state(ours, size[1], torch.float32, torch.randn)
        input.requires_grad_(requires_grad[0])
        h_0 = state if isinstance(state, Tensor) else state[0]
        h_0.requires_grad_(requires_grad[1])
        nothing = 0 in size
        _assert_same_counts(ours, theirs, input, state, counts_nothing=nothing)
        if not requires_grad[1]:
            _assert_same_counts(ours, theirs, input, counts_nothing=nothing)
            _assert_same_counts(ours.eval(), theirs.eval(), input, counts_nothing=nothing)


@pytest.mark.parametrize("rows", [(4,), (1,), ()], ids=str)
@pytest.mark.parametrize("with_state", [False, True], ids=["no_state", "state"])
@pytest.mark.parametrize("cell", CELLS)
def test_cells_count_as_those_of_torch(cell: str, with_state: bool, rows: tuple[int, ...]) -> None:
    ours, theirs = (one_cell(space, cell, 3, 5) for space in (fusedrnn, nn))
    h = torch.randn(*rows, 5, requires_grad=True)
    state = ((h, torch.randn(*rows, 5)) if cell == "lstm" else h,) if with_state else ()
    _assert_same_counts(ours, theirs, torch.randn(*rows, 3), *state)


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one_direction", "bidirectional"])
@pytest.mark.parametrize("with_state", [False, True], ids=["no_state", "state"])
@pytest.mark.parametrize("cell", CELLS)
def test_packed_input_counts_as_in_torch(cell: str, with_state: bool, bidirectional: bool) -> None:
    options = {"num_layers": 2, "bidirectional": bidirectional}
    ours, theirs = (layers(space, cell, 3, 5, **options) for space in (fusedrnn, nn))
    input = pack(torch.randn(6, 4, 3), [2, 6, 3, 2])
    state = initial_state(ours, 4, torch.float32, torch.randn)
    for tensor in [state] if isinstance(state, Tensor) else state:
        tensor.requires_grad_()
    _assert_same_counts(ours, theirs, input, *([state] if with_state else []))


@pytest.mark.parametrize("cell, projected", [*((cell, False) for cell in CELLS), ("lstm", True)])
def test_frozen_weights_count_as_in_torch(cell: str, projected: bool) -> None:
    """Each weight is trained alone, and each is frozen alone."""
    options = {"bidirectional": True, **({"proj_size": 2} if projected else {})}
    names = [name for name, _ in layers(nn, cell, 3, 5, **options).named_parameters()]
    input = torch.randn(6, 4, 3)
    for name, alone in itertools.product(names, (False, True)):
        pair = [layers(space, cell, 3, 5, **options) for space in (fusedrnn, nn)]
        for module in pair:
            for key, parameter in module.named_parameters():
                parameter.requires_grad_((key == name) == alone)
        _assert_same_counts(*pair, input)


class Model(nn.Module):
    def __init__(self, space: Any, cell: str) -> None:
        super().__init__()
        self.encoder = layers(space, cell, 3, 5, 2, bidirectional=True)
        self.decoder = nn.ModuleList([layers(space, cell, 10, 5), one_cell(space, cell, 5, 5)])

    def forward(self, input: Tensor) -> Tensor:
        output = self.decoder[0](self.encoder(input)[0])[0]
        result = self.decoder[1](output[-1])
        return result[0] if isinstance(result, tuple) else result


@pytest.mark.parametrize("cell", CELLS)
def test_counts_of_a_model_are_those_of_its_parts(cell: str) -> None:
    ours, theirs = Model(fusedrnn, cell), Model(nn, cell)
    forward, _ = _step(ours, torch.randn(6, 4, 3))
    assert {"Model.encoder", "Model.decoder.0", "Model.decoder.1"} <= forward.keys()
    _assert_same_counts(ours, theirs, torch.randn(6, 4, 3, requires_grad=True))


@pytest.mark.parametrize("cell", CELLS)
def test_quantized_layers_count_as_those_of_float32(cell: str) -> None:
    for build, input in ((layers, torch.randn(6, 4, 3)), (one_cell, torch.randn(4, 3))):
        plain = build(nn, cell, 3, 5).requires_grad_(False)
        quantized = fusedrnn.quantize(plain, torch.int8)
        _, expected = _counted(plain, input)
        _, counts = _counted(quantized, input)
        assert counts["Global"] == expected["Global"] > 0


@pytest.mark.parametrize("cell", CELLS)
def test_options_count_the_padded_steps(cell: str) -> None:
    """As torch.nn on padded input."""
    ours, theirs = (layers(space, cell, 3, 5, bidirectional=True) for space in (fusedrnn, nn))
    input = torch.randn(6, 4, 3)
    reset = torch.rand(6, 4) < 0.5
    options = {"lengths": torch.tensor([6, 0, 3, 1]), "reset": reset, "return_states": True}
    assert _step(ours, input, **options) == _step(theirs, input)


@pytest.mark.parametrize("recompute", ["gates", "chunk:3"])
@pytest.mark.parametrize("cell", CELLS)
def test_recomputed_products_count_as_under_checkpointing(
    cell: str, recompute: str, compiled_part: None
) -> None:
    ours, theirs = (layers(space, cell, 3, 5) for space in (fusedrnn, nn))
    input = torch.randn(6, 4, 3)
    forward, backward = _step(ours, input, recompute=recompute)
    result, expected_forward = _counted(checkpoint, theirs, input, use_reentrant=False)
    assert forward["Global"] == expected_forward["Global"]
    _, expected = _counted(result[0].sum().backward)
    computes_again = cell in ("lstm", "gru")
    assert backward["Global"] == expected["Global"] - (0 if computes_again else forward["Global"])
