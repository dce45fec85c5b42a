"""TorchScript and ONNX's exporters: tracing works, and what cannot names the way out."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CELLS, assert_close, initial_state, layers, one_cell, tensors_of, tolerance
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fusedrnn

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated

SPACES = pytest.mark.parametrize("space", [fusedrnn, fusedrnn.compat], ids=["fusedrnn", "compat"])


def _saved_trace(module: nn.Module, arguments: tuple[Any, ...]) -> Callable[..., Any]:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(module, arguments), file)
    file.seek(0)
    return torch.jit.load(file)


def _assert_same(traced: Callable[..., Any], module: nn.Module, arguments: tuple[Any, ...]) -> None:
    with torch.no_grad():
        actual = tensors_of(traced(*arguments), "result")
        expected = tensors_of(module(*arguments), "result")
    assert actual.keys() == expected.keys()
    for name, result in expected.items():
        assert torch.equal(actual[name], result), name


@SPACES
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("batch_first", [False, True], ids=["time_first", "batch_first"])
@pytest.mark.parametrize("with_state", [False, True], ids=["no_state", "state"])
@pytest.mark.parametrize("cell", CELLS)
def test_traced_layers_run_for_every_batch_and_length(
    cell: str,
    with_state: bool,
    batch_first: bool,
    num_layers: int,
    space: Any,
    compiled_part: None,
) -> None:
    module = layers(space, cell, 5, 7, num_layers, batch_first=batch_first, bidirectional=True)

    def arguments(*size: int) -> tuple[Any, ...]:
        batch_size = size[0] if batch_first else size[1]
        state = initial_state(module, batch_size, torch.float32, torch.randn)
        return (torch.randn(*size, 5), *((state,) if with_state else ()))

    traced = _saved_trace(module, arguments(4, 3))
    for size in ((4, 3), (9, 2), (1, 1), (2, 6)):
        _assert_same(traced, module, arguments(*size))


@SPACES
@pytest.mark.parametrize("with_state", [False, True], ids=["no_state", "state"])
@pytest.mark.parametrize("cell", CELLS)
def test_traced_cell_runs_for_every_batch(
    cell: str, with_state: bool, space: Any, compiled_part: None
) -> None:
    module = one_cell(space, cell, 5, 7)

    def arguments(rows: int) -> tuple[Any, ...]:
        h = torch.randn(rows, 7)
        state = (h, torch.randn(rows, 7)) if cell == "lstm" else h
        return (torch.randn(rows, 5), *((state,) if with_state else ()))

    traced = _saved_trace(module, arguments(3))
    for rows in (3, 1, 8):
        _assert_same(traced, module, arguments(rows))


class Lengths(nn.Module):
    """Both ways of saying that rows end early."""

    def __init__(self, cell: str) -> None:
        super().__init__()
        self.rnn = layers(fusedrnn, cell, 5, 7, 2, bidirectional=True)

    def forward(self, input: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        packed = pack_padded_sequence(input, lengths, enforce_sorted=False)
        return (
            self.rnn(input, lengths=lengths)[0],
            pad_packed_sequence(self.rnn(packed)[0])[0],
        )


@pytest.mark.parametrize("cell", CELLS)
def test_traced_model_takes_lengths_and_packs(cell: str, compiled_part: None) -> None:
    model = Lengths(cell)
    traced = _saved_trace(model, (torch.randn(4, 3, 5), torch.tensor([2, 4, 1])))
    for lengths in ([4, 4, 3], [9, 2, 7, 1], [1]):
        arguments = (torch.randn(max(lengths), len(lengths), 5), torch.tensor(lengths))
        _assert_same(traced, model, arguments)


@pytest.mark.parametrize("cell", CELLS)
def test_loaded_trace_trains_as_the_module(cell: str, compiled_part: None) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2)
    traced = _saved_trace(module, (torch.randn(4, 3, 5),))
    input = torch.randn(6, 2, 5)
    grads = [
        torch.autograd.grad(call(input)[0].square().sum(), list(call.parameters()))
        for call in (traced, module)
    ]
    for actual, expected in zip(*grads, strict=True):
        assert torch.equal(actual, expected)


FORMS: dict[str, Callable[[Any, str], nn.Module]] = {
    "layers": lambda space, cell: layers(space, cell, 5, 7),
    "cell": lambda space, cell: one_cell(space, cell, 5, 7),
    "model": lambda space, cell: nn.Sequential(nn.Linear(5, 5), layers(space, cell, 5, 7, 2)),
    "quantized": lambda space, cell: fusedrnn.quantize(layers(space, cell, 5, 7), torch.float16),
}


@SPACES
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cell", CELLS)
def test_script_is_refused_with_the_way_out(cell: str, form: str, space: Any) -> None:
    with pytest.raises(RuntimeError) as refusal:
        torch.jit.script(FORMS[form](space, cell))
    text = str(refusal.value)
    assert "torch.jit.trace" in text and "fusedrnn.to_torch(model)" in text and "\n" not in text


@SPACES
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cell", CELLS)
def test_onnx_by_tracing_is_refused_with_the_way_out(cell: str, form: str, space: Any) -> None:
    module, file = FORMS[form](space, cell).eval(), io.BytesIO()
    with pytest.raises(RuntimeError) as refusal:
        torch.onnx.export(module, (torch.randn(3, 5),), file, dynamo=False)
    text = str(refusal.value)
    assert "call fusedrnn.to_torch(model) before" in text and "\n" not in text


@SPACES
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm"])
def test_onnx_by_export_is_refused_with_the_way_out(
    cell: str, form: str, space: Any, compiled_part: None
) -> None:
    pytest.importorskip("onnxscript")
    module = FORMS[form](space, cell).eval()
    with torch.no_grad(), pytest.raises(torch.onnx.OnnxExporterError) as refusal:
        torch.onnx.export(module, (torch.randn(3, 5),), dynamo=True, verbose=False)
    assert "call fusedrnn.to_torch(model) before" in str(refusal.value)


@pytest.mark.parametrize("cell", CELLS)
def test_way_out_leads_out(cell: str) -> None:
    model = nn.Sequential(layers(fusedrnn, cell, 5, 7, 2))
    input = torch.randn(4, 3, 5)
    expected = model(input)[0]
    scripted = torch.jit.script(fusedrnn.to_torch(model).model)
    assert_close(scripted(input)[0], expected, tolerance(torch.float32, 8))
