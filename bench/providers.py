"""Who is timed. A provider turns a problem into a step that can be called again and again.

To add one (ONNX Runtime, JAX, OpenVINO), write a class with the methods of `Provider` and
enter it in `PROVIDERS`; conversion of weights and input belongs to `prepare`, which is not
timed.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from bench.cases import Case


@dataclasses.dataclass(frozen=True)
class Problem:
    """The same numbers for every provider, in the case's dtype."""

    case: Case
    weights: dict[str, Tensor]  # torch's state_dict
    input: Tensor  # [seq_len, batch_size, input_size]
    grad_output: Tensor  # [seq_len, batch_size, hidden_size], the upstream gradient of output

    @classmethod
    def draw(cls, case: Case) -> Problem:
        generator = torch.Generator().manual_seed(0)
        shape, dtype = case.shape, getattr(torch, case.dtype)
        module = getattr(torch.nn, case.cell)(shape.input_size, shape.hidden_size, dtype=dtype)
        bound = shape.hidden_size**-0.5
        for parameter in module.parameters():
            torch.nn.init.uniform_(parameter, -bound, bound, generator=generator)
        rows = (shape.seq_len, shape.batch_size)
        input = torch.randn(*rows, shape.input_size, generator=generator)
        grad_output = torch.randn(*rows, shape.hidden_size, generator=generator)
        tensors = (tensor.to(case.device, dtype) for tensor in (input, grad_output))
        return cls(case, module.to(case.device).state_dict(), *tensors)

    def double(self) -> Problem:
        """The same values in float64, for the oracle."""
        weights = {name: weight.double() for name, weight in self.weights.items()}
        case = dataclasses.replace(self.case, dtype="float64")
        return Problem(case, weights, self.input.double(), self.grad_output.double())


class Prepared(Protocol):
    """One provider, ready to run one problem."""

    def step(self) -> None:
        """What is timed: a forward, or a whole training step without the optimizer."""

    def results(self) -> dict[str, Tensor]:
        """``output`` of the last step and, after training, ``grad_input`` and every
        parameter's gradient as ``grad_<parameter>``."""


class Provider(Protocol):
    """A library that runs recurrent layers."""

    name: str

    def version(self) -> str: ...

    def plan(self, case: Case) -> str | None:
        """What it chose to run, in a line, if it tells."""

    def prepare(self, problem: Problem) -> Prepared: ...


class PreparedModule:
    """A module with the problem's weights; `forward` calls it and returns its output."""

    def __init__(
        self,
        module: torch.nn.Module,
        problem: Problem,
        forward: Callable[[torch.nn.Module, Tensor], Tensor] = lambda module, input: module(input)[
            0
        ],
    ) -> None:
        self._train = problem.case.mode == "train"
        self._forward = forward
        self._module = module.train(self._train)
        self._module.load_state_dict(problem.weights)
        self._input = problem.input.clone().requires_grad_(self._train)
        self._grad_output = problem.grad_output
        self._output: Tensor | None = None

    def step(self) -> None:
        if not self._train:
            with torch.no_grad():
                self._output = self._forward(self._module, self._input)
            return
        self._input.grad = None
        self._module.zero_grad(set_to_none=True)
        self._output = self._forward(self._module, self._input)
        self._output.backward(self._grad_output)

    def results(self) -> dict[str, Tensor]:
        results = {"output": self._output.detach()}
        if self._train:
            results["grad_input"] = self._input.grad
            for name, parameter in self._module.named_parameters():
                results[f"grad_{name}"] = parameter.grad
        return results


def make_module(namespace: str, problem: Problem) -> torch.nn.Module:
    """The problem's layer of a namespace with torch's ``LSTM``, ``GRU`` and ``RNN``."""
    case, shape = problem.case, problem.case.shape
    cls = getattr(importlib.import_module(namespace), case.cell)
    device, dtype = problem.input.device, problem.input.dtype
    return cls(shape.input_size, shape.hidden_size, device=device, dtype=dtype)


class ModuleProvider:
    """A namespace with torch's ``LSTM``, ``GRU`` and ``RNN``."""

    def __init__(self, namespace: str) -> None:
        self.name = namespace

    def version(self) -> str:
        package = importlib.import_module(self.name.split(".")[0])
        return package.__version__

    def plan(self, case: Case) -> str | None:
        return None

    def prepare(self, problem: Problem) -> Prepared:
        return PreparedModule(make_module(self.name, problem), problem)


class FusedProvider(ModuleProvider):
    """fusedrnn, which tells its schedule."""

    def __init__(self) -> None:
        super().__init__("fusedrnn")

    def plan(self, case: Case) -> str | None:
        from fusedrnn import _library

        if not _library.available:
            return "PyTorch fallback"
        cell = "rnn_tanh" if case.cell == "RNN" else case.cell.lower()
        shape, dtype = case.shape, getattr(torch, case.dtype)
        sizes = (shape.seq_len, shape.batch_size, shape.input_size, shape.hidden_size)
        proj_size, directions = 0, 1
        question = (cell, dtype, *sizes, proj_size, directions, case.mode == "train")
        if case.device == "cuda":
            is_packed, device_index = False, 0
            text = torch.ops.fusedrnn.explain_layer_cuda(*question, is_packed, device_index)
        else:
            text = torch.ops.fusedrnn.explain_layer(*question)
        return text.splitlines()[1]


BASELINE = "torch.nn"
PROVIDERS: dict[str, Provider] = {
    provider.name: provider for provider in (ModuleProvider(BASELINE), FusedProvider())
}
