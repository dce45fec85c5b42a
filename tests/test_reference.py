"""The oracle itself: against torch.nn in float64, and against what it promises."""

from __future__ import annotations

import pytest
import torch
from cases import CELLS, MODULES, assert_close, pack, tolerance
from torch import nn

from fusedrnn import _cells, reference
from fusedrnn.reference import LayerWeights

DOUBLE = torch.float64
ALLOWED = tolerance(DOUBLE, 16)


def torch_layer(cell: str, **kwargs: object) -> nn.RNNBase:
    name, extra = MODULES[cell]
    return getattr(nn, name)(5, 7, dtype=DOUBLE, **extra, **kwargs)


def weights_of(layer: nn.RNNBase) -> tuple[LayerWeights, LayerWeights | None]:
    count = len(layer._flat_weights_names) // (2 if layer.bidirectional else 1)
    directions = [layer._flat_weights[:count], layer._flat_weights[count:]]

    def named(flat: list[torch.Tensor]) -> LayerWeights:
        weight_hr = flat[-1] if layer.proj_size else None
        biases = flat[2:4] if layer.bias else (None, None)
        return LayerWeights(flat[0], flat[1], *biases, weight_hr)

    return named(directions[0]), named(directions[1]) if directions[1] else None


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("bias", [False, True], ids=["nobias", "bias"])
@pytest.mark.parametrize("state", [False, True], ids=["zeros", "state"])
@pytest.mark.parametrize("cell", [*CELLS, "projection"])
def test_layer_matches_torch(
    cell: str, state: bool, bias: bool, bidirectional: bool, packed: bool
) -> None:
    proj_size = 3 if cell == "projection" else 0
    cell = "lstm" if cell == "projection" else cell
    kwargs = {"proj_size": proj_size} if proj_size else {}
    layer = torch_layer(cell, bias=bias, bidirectional=bidirectional, **kwargs)
    directions = 2 if bidirectional else 1
    h_0 = torch.randn(directions, 4, proj_size or 7, dtype=DOUBLE) if state else None
    c_0 = torch.randn(directions, 4, 7, dtype=DOUBLE) if state and cell == "lstm" else None
    input = torch.randn(6, 4, 5, dtype=DOUBLE)
    if packed:
        input = pack(input, [6, 4, 4, 1])
    expected, last = layer(input, ((h_0, c_0) if cell == "lstm" else h_0) if state else None)

    output, h_n, c_n, _ = reference.layer_forward(
        cell,
        input.data if packed else input,
        h_0,
        c_0,
        *weights_of(layer),
        input.batch_sizes if packed else None,
    )

    assert_close(output, expected.data if packed else expected, ALLOWED, "output")
    assert_close(h_n, last[0] if cell == "lstm" else last, ALLOWED, "h_n")
    if cell == "lstm":
        assert_close(c_n, last[1], ALLOWED, "c_n")
    else:
        assert c_n.shape == (0,)


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_match_torch(cell: str) -> None:
    layer = torch_layer(cell, bidirectional=True)
    input = torch.randn(6, 4, 5, dtype=DOUBLE, requires_grad=True)
    inputs = [input, *layer.parameters()]
    output, h_n, *_ = reference.layer_forward(cell, input, None, None, *weights_of(layer))
    actual = torch.autograd.grad(output.square().sum() + h_n.sum(), inputs)
    output, last = layer(input)
    h_n = last[0] if cell == "lstm" else last
    expected = torch.autograd.grad(output.square().sum() + h_n.sum(), inputs)
    for grad, wanted in zip(actual, expected, strict=True):
        assert_close(grad, wanted, ALLOWED)


@pytest.mark.parametrize("cell", CELLS)
def test_constants_agree_with_torch(cell: str) -> None:
    spec = reference.CELLS[cell]
    layer = torch_layer(cell)
    assert layer.weight_hh_l0.size(0) == spec.gates * 7
    assert isinstance(layer(torch.randn(2, 1, 5, dtype=DOUBLE))[1], tuple) == (spec.states == 2)


@pytest.mark.parametrize("cell", reference.CELLS)
def test_constants_agree_with_the_registry(cell: str, compiled_part: None) -> None:
    spec, registered = reference.CELLS[cell], _cells.CELLS[cell]
    for name in ("gate_names", "param_names", "states", "has_projection", "gates"):
        assert getattr(registered, name) == getattr(spec, name), name
    weights = [torch.randn(spec.gates * 7, width, dtype=DOUBLE) for width in (5, 7)]
    weights += [torch.randn(7 * len(spec.param_names)).double()] if spec.param_names else []
    saved = torch.ops.fusedrnn.layer_forward(
        cell,
        torch.randn(2, 3, 5, dtype=DOUBLE),
        *(None, None),
        weights,
        *[None] * 4,
        *(True, False, 0),
    )[4]
    assert saved.shape == (1, 2, 3, registered.saved_width, 7)


def test_every_registered_cell_has_a_reference(compiled_part: None) -> None:
    assert tuple(_cells.CELLS) == tuple(reference.CELLS)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_no_step_raises_torchs_text(packed: bool) -> None:
    layer = torch_layer("gru")
    input = torch.randn(0, 5) if packed else torch.randn(0, 2, 5)
    sizes = torch.empty(0, dtype=torch.int64) if packed else None
    with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0 in RNN"):
        reference.layer_forward("gru", input, None, None, *weights_of(layer), sizes)
