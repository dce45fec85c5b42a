"""RNN, LSTM and GRU exported: torch.export, AOTInductor, and ONNX through torch.nn's modules."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import CELLS, assert_close, initial_state, layers, tensors_of, tolerance
from torch import Tensor, nn
from torch.export import Dim

import fusedrnn

# (seq_len, batch_size) that an exported module is run with; it is exported with others.
SIZES = [(11, 4), (1, 1), (6, 3), (64, 2)]
BATCH, TIME = Dim("batch_size", min=1, max=1024), Dim("seq_len", min=1, max=4096)
ALLOWED = tolerance(torch.float32, 64)


class Tagger(nn.Module):
    """A model around the layers, so that they are exported as a part of one."""

    def __init__(self, cell: str) -> None:
        super().__init__()
        self.rnn = layers(fusedrnn, cell, 5, 7, 2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(14, 3)

    def forward(
        self, input: Tensor, lengths: Tensor | None = None, reset: Tensor | None = None
    ) -> Tensor:
        # torch.nn's modules take no options.
        options = {} if lengths is None else {"lengths": lengths, "reset": reset}
        return self.out(self.rnn(input, **options)[0])


def _options(seq_len: int, batch_size: int, device: str) -> dict[str, Tensor]:
    return {
        "lengths": torch.randint(seq_len + 1, (batch_size,), device=device),
        "reset": torch.rand(batch_size, seq_len, device=device) < 0.3,
    }


def _exported(module: nn.Module, with_options: bool = False) -> torch.export.ExportedProgram:
    """Exported with a first dimension of 3 rows and a second of 6 steps, both dynamic."""
    device = next(module.parameters()).device
    options = _options(6, 3, device) if with_options else {}
    dims = {"input": {0: BATCH, 1: TIME}, "lengths": {0: BATCH}, "reset": {0: BATCH, 1: TIME}}
    return torch.export.export(
        module,
        (torch.randn(3, 6, 5, device=device),),
        options,
        dynamic_shapes={name: dims[name] for name in ("input", *options)},
    )


def _assert_same(exported: Callable[..., Tensor], model: Tagger, with_options: bool) -> None:
    device = model.out.weight.device
    for seq_len, batch_size in SIZES:
        input = torch.randn(batch_size, seq_len, 5, device=device)
        options = _options(seq_len, batch_size, device) if with_options else {}
        expected = model(input, **options)
        assert_close(exported(input, **options), expected, ALLOWED, f"T {seq_len}, B {batch_size}")


@pytest.mark.parametrize("with_options", [False, True], ids=["plain", "lengths_and_reset"])
@pytest.mark.parametrize("cell", CELLS)
def test_saved_program_runs_for_every_batch_and_length(
    cell: str, with_options: bool, compiled_part: None, device: str, tmp_path: Path
) -> None:
    model = Tagger(cell).to(device).eval()
    torch.export.save(_exported(model, with_options), tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    _assert_same(loaded, model, with_options)


@pytest.mark.parametrize("cell", CELLS)
def test_saved_program_takes_a_state(
    cell: str, compiled_part: None, device: str, tmp_path: Path
) -> None:
    module = layers(fusedrnn, cell, 5, 7, 2, batch_first=True, device=device).eval()
    state = initial_state(module, 3, torch.float32, torch.randn)
    state_dims: Any = ({1: BATCH}, {1: BATCH}) if cell == "lstm" else {1: BATCH}
    exported = torch.export.export(
        module,
        (torch.randn(3, 6, 5, device=device), state),
        dynamic_shapes={"input": {0: BATCH, 1: TIME}, "hx": state_dims},
    )
    torch.export.save(exported, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for seq_len, batch_size in SIZES:
        input = torch.randn(batch_size, seq_len, 5, device=device)
        state = initial_state(module, batch_size, torch.float32, torch.randn)
        expected = tensors_of(module(input, state), "result")
        for name, actual in tensors_of(loaded(input, state), "result").items():
            assert_close(actual, expected[name], ALLOWED, name)


def test_exported_program_trains_as_the_module(compiled_part: None, device: str) -> None:
    model = Tagger("lstm").to(device)
    exported = _exported(model).module()
    input = torch.randn(4, 11, 5, device=device)
    grads = [
        torch.autograd.grad(call(input).square().sum(), list(call.parameters()))
        for call in (exported, model)
    ]
    names = [name for name, _ in model.named_parameters()]
    assert [name for name, _ in exported.named_parameters()] == names
    for name, actual, expected in zip(names, *grads, strict=True):
        assert_close(actual, expected, ALLOWED, name)


def test_exported_graph_keeps_one_operator_a_layer(compiled_part: None) -> None:
    graph = _exported(Tagger("gru").eval()).run_decompositions().graph
    kept = [node for node in graph.nodes if "fusedrnn.layer_forward" in str(node.target)]
    assert len(kept) == 2


def test_aot_inductor_package_runs_for_every_batch_and_length(
    compiled_part: None, device: str, tmp_path: Path
) -> None:
    model = Tagger("lstm").to(device).eval()
    package = torch._inductor.aoti_compile_and_package(
        _exported(model, with_options=True), package_path=os.fspath(tmp_path / "model.pt2")
    )
    loaded = torch._inductor.aoti_load_package(package)
    _assert_same(loaded, model, with_options=True)


def _in_onnxruntime(path: Path, input: Tensor) -> Tensor:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (entry.name for entry in session.get_inputs())
    return torch.from_numpy(session.run(None, {name: input.numpy()})[0])


@pytest.mark.filterwarnings("ignore")  # those of torch's exporter
@pytest.mark.parametrize("cell", CELLS)
def test_onnx_file_through_to_torch_gives_the_same_results(cell: str, tmp_path: Path) -> None:
    """By tracing, which keeps every layer an ONNX operator for all sizes."""
    onnx = pytest.importorskip("onnx")
    model = Tagger(cell).eval()
    plain = fusedrnn.to_torch(copy.deepcopy(model)).model
    torch.onnx.export(
        plain,
        (torch.randn(3, 6, 5),),
        tmp_path / "model.onnx",
        dynamo=False,
        input_names=["input"],
        output_names=["output"],
        dynamic_axes={"input": {0: "batch_size", 1: "seq_len"}},
    )
    operators = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert operators.count(cell.partition("_")[0].upper()) == 2
    for seq_len, batch_size in SIZES:
        input = torch.randn(batch_size, seq_len, 5)
        actual = _in_onnxruntime(tmp_path / "model.onnx", input)
        assert_close(actual, model(input), ALLOWED, f"T {seq_len}, B {batch_size}")


@pytest.mark.filterwarnings("ignore")  # those of torch's exporter
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_onnx_file_through_torch_export_gives_the_same_results(cell: str, tmp_path: Path) -> None:
    """torch's newer exporter; it unrolls nn.RNN for one length, so that is left out."""
    pytest.importorskip("onnxscript")
    model = Tagger(cell).eval()
    plain = fusedrnn.to_torch(copy.deepcopy(model)).model
    torch.onnx.export(
        plain,
        (torch.randn(3, 6, 5),),
        tmp_path / "model.onnx",
        dynamo=True,
        dynamic_shapes={"input": {0: BATCH, 1: Dim("seq_len", min=2, max=4096)}},
        verbose=False,
    )
    for seq_len, batch_size in SIZES:
        input = torch.randn(batch_size, seq_len, 5)
        actual = _in_onnxruntime(tmp_path / "model.onnx", input)
        assert_close(actual, model(input), ALLOWED, f"T {seq_len}, B {batch_size}")
