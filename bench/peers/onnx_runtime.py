"""ONNX Runtime on a graph of the standard operators, with its default options but the threads."""

from __future__ import annotations

from typing import Any

import numpy
import torch
from torch import Tensor

from bench.cases import STREAMING
from bench.peers.peer import Peer
from bench.problem import Prepared, Problem


class OnnxRuntime(Peer):
    name = "onnxruntime"
    packages = ("onnxruntime", "onnx")
    follows_isa = False  # it has no setting

    def prepare(self, problem: Problem) -> Prepared:
        import onnxruntime

        from bench.peers.onnx_graph import make_graph

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = problem.case.threads
        model = make_graph(problem).SerializeToString()
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return _Session(session, problem)


class _Session:
    def __init__(self, session: Any, problem: Problem) -> None:
        self._session = session
        self._feeds = {"input": problem.input.numpy()}
        self._states = first_states(problem)
        self._feeds |= self._states
        self._outputs: list[numpy.ndarray] = []

    def step(self) -> None:
        self._outputs = self._session.run(None, self._feeds)
        for name, value in zip(self._states, self._outputs[1:]):
            self._feeds[name] = value

    def results(self) -> dict[str, Tensor]:
        return name_outputs(self._outputs)


def name_outputs(values: list[numpy.ndarray]) -> dict[str, Tensor]:
    """The graph's outputs as results."""
    return {name: torch.from_numpy(value) for name, value in zip(("output", "h_n", "c_n"), values)}


def first_states(problem: Problem) -> dict[str, numpy.ndarray]:
    """The graph's inputs `h` and `c`, where it has them."""
    case, shape = problem.case, problem.case.shape
    if case.form not in STREAMING:
        return {}
    sizes = (case.num_layers * case.directions, shape.batch_size, shape.hidden_size)
    names = ("h", "c") if case.cell == "LSTM" else ("h",)
    return {name: numpy.zeros(sizes, dtype="float32") for name in names}
