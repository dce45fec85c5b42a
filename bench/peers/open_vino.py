"""OpenVINO's CPU plugin on the same graph as ONNX Runtime, in float32."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bench.peers.onnx_runtime import first_states, name_outputs
from bench.peers.peer import Peer
from bench.problem import Prepared, Problem


class OpenVino(Peer):
    name = "openvino"
    packages = ("openvino", "onnx")

    def prepare(self, problem: Problem) -> Prepared:
        import openvino

        from bench.peers.onnx_graph import make_graph

        core = openvino.Core()
        settings = {
            "INFERENCE_NUM_THREADS": problem.case.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",  # its default is bfloat16 where the CPU has it
        }
        model = core.read_model(make_graph(problem).SerializeToString())
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        return _Request(request, problem)


class _Request:
    def __init__(self, request: Any, problem: Problem) -> None:
        self._request = request
        self._feeds = {"input": problem.input.numpy()}
        self._states = first_states(problem)
        self._feeds |= self._states

    def step(self) -> None:
        self._request.infer(self._feeds, share_inputs=True, share_outputs=True)
        for idx, name in enumerate(self._states, 1):
            # A copy: the next call writes to this output while it reads the input.
            self._feeds[name] = self._request.get_output_tensor(idx).data.copy()

    def results(self) -> dict[str, Tensor]:
        return name_outputs([tensor.data.copy() for tensor in self._request.output_tensors])
