"""Who is timed: torch.nn, fusedrnn and the peers.

To add one, write a class with the methods of `bench.problem.Provider` and enter it in
`PROVIDERS`; conversion of weights and input, and compilation, belong to `prepare`, which is not
timed. Each provider runs in a process of its own, so `set_up` may change what it likes.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from bench.cases import Case
from bench.peers.compiled_loop import CompiledLoop
from bench.peers.jax_scan import JaxScan
from bench.peers.onnx_runtime import OnnxRuntime
from bench.peers.open_vino import OpenVino
from bench.problem import (
    Forward,
    Plan,
    Prepared,
    PreparedCell,
    PreparedModule,
    PreparedStream,
    Problem,
    Provider,
    make_module,
)


class ModuleProvider:
    """A namespace with torch's ``LSTM``, ``GRU`` and ``RNN``, and their cells; also its name."""

    follows_isa = True

    def __init__(self, namespace: str) -> None:
        self.name = self.namespace = namespace

    def version(self) -> str:
        package = importlib.import_module(self.namespace.split(".")[0])
        return package.__version__

    def absent(self, case: Case) -> str:
        return ""

    def set_up(self, case: Case) -> None:
        """Nothing beyond `bench.measure.set_up`."""

    def plan(self, case: Case) -> Plan | None:
        return None

    def prepare(self, problem: Problem) -> Prepared:
        case = problem.case
        if case.form == "cell":
            cls = getattr(importlib.import_module(self.namespace), f"{case.cell}Cell")
            sizes = (case.shape.input_size, case.shape.hidden_size)
            cell = cls(*sizes, device=problem.input.device, dtype=problem.input.dtype)
            return PreparedCell(cell, problem)
        module = make_module(self.namespace, problem)
        if case.form == "step":
            module.load_state_dict(problem.weights)
            return PreparedStream(module.eval(), problem.input)
        if case.form == "lengths":
            return PreparedModule(module, problem, self.use_lengths(problem.lengths))
        return PreparedModule(module, problem)

    def use_lengths(self, lengths: Tensor) -> Forward:
        """Packs and pads again around the layers, both timed, as users who have padded tensors
        do."""

        def forward(module: torch.nn.Module, input: Tensor) -> tuple[Tensor, Any]:
            packed = pack_padded_sequence(input, lengths, enforce_sorted=False)
            output, state = module(packed)
            return pad_packed_sequence(output, total_length=input.size(0))[0], state

        return forward


class FusedProvider(ModuleProvider):
    """fusedrnn, which tells its schedule."""

    def __init__(self) -> None:
        super().__init__("fusedrnn")

    def plan(self, case: Case) -> Plan | None:
        """Of the first layer, each pass; the first fact of one is its schedule with its sizes."""
        from fusedrnn import _library

        if not _library.available:
            return Plan("PyTorch fallback", None)
        lines, seconds = [], 0.0
        for name, _, its_seconds, facts in self._passes(case):
            lines += [": ".join(fact) for fact in facts if fact[0].startswith(name)]
            seconds += its_seconds
        return Plan("; ".join(lines), seconds)

    def _passes(self, case: Case) -> list[tuple[str, str, float, list[tuple[str, str]]]]:
        """What the planner answers: of each pass its name, schedule, seconds and facts."""
        cell = "rnn_tanh" if case.cell == "RNN" else case.cell.lower()
        shape, dtype = case.shape, getattr(torch, case.dtype)
        sizes = (shape.seq_len, shape.batch_size, shape.input_size, shape.hidden_size)
        proj_size = 0
        question = (cell, dtype, *sizes, proj_size, case.directions, case.mode == "train")
        if case.device == "cuda":
            is_packed, device_index = case.form == "lengths", 0
            return torch.ops.fusedrnn.explain_layer_cuda(*question, is_packed, device_index)
        return torch.ops.fusedrnn.explain_layer(*question)

    def use_lengths(self, lengths: Tensor) -> Forward:
        return lambda module, input: module(input, lengths=lengths)


BASELINE = "torch.nn"
MODULES = (ModuleProvider(BASELINE), FusedProvider())
PEERS = (CompiledLoop(), OnnxRuntime(), OpenVino(), JaxScan())
PROVIDERS: dict[str, Provider] = {provider.name: provider for provider in (*MODULES, *PEERS)}
