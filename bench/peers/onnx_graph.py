"""A case as an ONNX graph of the standard LSTM, GRU and RNN operators.

Inputs are `input` and, where a call is one step, `h` and `c`, [layers * directions, batch_size,
hidden_size]; outputs are `output` and then `h_n` and `c_n`. Lengths are a constant.
"""

from __future__ import annotations

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.cases import STREAMING
from bench.problem import Problem

OPSET = 17
IR_VERSION = 8
# ONNX stores the gates in the order i, o, f, c (torch's g) and z, r, h (torch's n).
GATE_ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}


def make_graph(problem: Problem) -> onnx.ModelProto:
    """The case with its weights; every size is fixed."""
    return _Builder(problem).model()


class _Builder:
    def __init__(self, problem: Problem) -> None:
        self._problem, self._case = problem, problem.case
        self._states = ("h", "c") if self._case.cell == "LSTM" else ("h",)
        self._given = self._states if self._case.form in STREAMING else ()
        self._constants: list[onnx.TensorProto] = []
        self._nodes: list[onnx.NodeProto] = []

    def model(self) -> onnx.ModelProto:
        case, shape = self._case, self._case.shape
        width = case.directions * shape.hidden_size
        last: dict[str, list[str]] = {name: [] for name in self._states}
        value = "input"
        for layer in range(case.num_layers):
            value = self._layer(layer, value, last)
        self._add("Identity", [value], "output")
        for name, parts in last.items():
            self._add("Concat", parts, f"{name}_n", axis=0)
        sizes = [case.num_layers * case.directions, shape.batch_size, shape.hidden_size]
        rows = [shape.seq_len, shape.batch_size]
        graph = helper.make_graph(
            self._nodes,
            case.name,
            [
                _info("input", [*rows, shape.input_size]),
                *(_info(name, sizes) for name in self._given),
            ],
            [
                _info("output", [*rows, width]),
                *(_info(f"{name}_n", sizes) for name in self._states),
            ],
            self._constants,
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        return model

    def _layer(self, layer: int, value: str, last: dict[str, list[str]]) -> str:
        case, shape = self._case, self._case.shape
        names = [f"l{layer}", f"l{layer}_reverse"][: case.directions]
        weights = [
            self._constant(f"{kind}_{layer}", numpy.stack([self._gates(kind, n) for n in names]))
            for kind in ("weight_ih", "weight_hh")
        ]
        biases = [
            numpy.concatenate([self._gates(kind, name) for kind in ("bias_ih", "bias_hh")])
            for name in names
        ]
        inputs = [value, *weights, self._constant(f"bias_{layer}", numpy.stack(biases))]
        lengths = self._problem.lengths
        has_lengths = lengths is not None
        inputs.append(
            self._constant(f"lengths_{layer}", lengths.numpy().astype("int32"))
            if has_lengths
            else ""
        )
        rows = (layer * case.directions, (layer + 1) * case.directions)
        inputs += [self._rows(name, rows) for name in self._given]
        outputs = [f"y_{layer}", *(f"last_{name}_{layer}" for name in last)]
        for name, parts in last.items():
            parts.append(f"last_{name}_{layer}")
        attributes = {"hidden_size": shape.hidden_size}
        if case.bidirectional:
            attributes["direction"] = "bidirectional"
        if case.cell == "GRU":
            attributes["linear_before_reset"] = 1  # torch's GRU: the reset gate after the product
        self._nodes.append(helper.make_node(case.cell, inputs, outputs, **attributes))
        # [seq_len, directions, batch_size, hidden_size] as torch's output
        if not case.bidirectional:
            axes = self._constant(f"axes_{layer}", numpy.array([1], dtype="int64"))
            return self._add("Squeeze", [outputs[0], axes], f"output_{layer}")
        turned = self._add("Transpose", outputs[:1], f"turned_{layer}", perm=[0, 2, 1, 3])
        sizes = [shape.seq_len, shape.batch_size, 2 * shape.hidden_size]
        sizes = self._constant(f"sizes_{layer}", numpy.array(sizes, dtype="int64"))
        return self._add("Reshape", [turned, sizes], f"output_{layer}")

    def _gates(self, kind: str, name: str) -> numpy.ndarray:
        """A weight or bias in ONNX' order of the gates."""
        value = self._problem.weights[f"{kind}_{name}"].numpy()
        order = GATE_ORDER[self._case.cell]
        parts = numpy.split(value, len(order))
        return numpy.concatenate([parts[idx] for idx in order])

    def _rows(self, name: str, rows: tuple[int, int]) -> str:
        """Those rows of a state; the state itself if it has no others."""
        if rows == (0, self._case.num_layers * self._case.directions):
            return name
        bounds = [
            self._constant(f"bound_{idx}_{name}_{rows[0]}", numpy.array([value], dtype="int64"))
            for idx, value in enumerate((*rows, 0))
        ]
        return self._add("Slice", [name, *bounds], f"first_{name}_{rows[0]}")

    def _constant(self, name: str, value: numpy.ndarray) -> str:
        value = numpy.ascontiguousarray(value)
        self._constants.append(numpy_helper.from_array(value, name))
        return name

    def _add(self, kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        self._nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output


def _info(name: str, sizes: list[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)
