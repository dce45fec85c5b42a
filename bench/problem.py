"""A problem, the same numbers for every provider, and the ways in which modules run it."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from bench.cases import Case, draw_lengths


@dataclasses.dataclass(frozen=True)
class Problem:
    """The same numbers for every provider, in the case's dtype."""

    case: Case
    weights: dict[str, Tensor]  # torch's state_dict of the layers, for a cell as well
    input: Tensor  # [seq_len, batch_size, input_size]
    grad_output: Tensor  # [seq_len, batch_size, directions * hidden_size], 0 where padded
    lengths: Tensor | None  # [batch_size], on the CPU

    @classmethod
    def draw(cls, case: Case) -> Problem:
        generator = torch.Generator().manual_seed(0)
        shape, dtype = case.shape, getattr(torch, case.dtype)
        module = make_layers("fusedrnn", case, dtype=dtype)
        bound = shape.hidden_size**-0.5
        for parameter in module.parameters():
            torch.nn.init.uniform_(parameter, -bound, bound, generator=generator)
        rows = (shape.seq_len, shape.batch_size)
        input = torch.randn(*rows, shape.input_size, generator=generator)
        width = case.directions * shape.hidden_size
        grad_output = torch.randn(*rows, width, generator=generator)
        lengths = draw_lengths(case) if case.form == "lengths" else None
        if lengths is not None:
            grad_output *= valid_mask(lengths, shape.seq_len)
        tensors = (tensor.to(case.device, dtype) for tensor in (input, grad_output))
        return cls(case, module.to(case.device).state_dict(), *tensors, lengths)

    def double(self) -> Problem:
        """The same values in float64, for the oracle."""
        weights = {name: weight.double() for name, weight in self.weights.items()}
        case = dataclasses.replace(self.case, dtype="float64")
        return Problem(case, weights, self.input.double(), self.grad_output.double(), self.lengths)


Forward = Callable[[torch.nn.Module, Tensor], tuple[Tensor, Any]]


def valid_mask(lengths: Tensor, seq_len: int) -> Tensor:
    """[seq_len, batch_size, 1], True where a row has not ended."""
    return (torch.arange(seq_len).unsqueeze(1) < lengths).unsqueeze(2)


class Prepared(Protocol):
    """One provider, ready to run one problem."""

    def step(self) -> None:
        """What is timed: a forward, or a whole training step without the optimizer. Called
        under `grad_mode`."""

    def results(self) -> dict[str, Tensor]:
        """``output`` of the last step, its last state as ``h_n`` and, of an LSTM, ``c_n``, both
        [layers * directions, batch_size, hidden_size], and, after training, ``grad_input`` and
        every parameter's gradient as ``grad_<parameter>``."""


class Solver(Protocol):
    """What can run a problem."""

    def prepare(self, problem: Problem) -> Prepared: ...


class Plan(NamedTuple):
    """What a provider chose to run."""

    text: str  # a line
    modelled_seconds: float | None  # what it expects that to take


class Provider(Solver, Protocol):
    """A library that runs recurrent layers."""

    name: str
    follows_isa: bool  # whether the variables of `bench.isa` hold it

    def version(self) -> str: ...

    def absent(self, case: Case) -> str:
        """Why it cannot run the case here, such as that it is not installed; empty if it can."""

    def set_up(self, case: Case) -> None:
        """Prepares this process, before anything of the library has run in it."""

    def plan(self, case: Case) -> Plan | None:
        """What it chose to run, if it tells."""


def grad_mode(case: Case) -> torch.set_grad_enabled:
    """The context in which a case's steps run."""
    return torch.set_grad_enabled(case.mode == "train")


class PreparedModule:
    """A module with the problem's weights; `forward` calls it and returns its output and state."""

    def __init__(
        self,
        module: torch.nn.Module,
        problem: Problem,
        forward: Forward = lambda module, input: module(input),
    ) -> None:
        self._train = problem.case.mode == "train"
        self._forward = forward
        self._module = module.train(self._train)
        self._module.load_state_dict(problem.weights)
        self._input = problem.input.clone().requires_grad_(self._train)
        self._grad_output = problem.grad_output
        self._output = self._state = None

    def step(self) -> None:
        if not self._train:
            self._output, self._state = self._forward(self._module, self._input)
            return
        self._input.grad = None
        self._module.zero_grad(set_to_none=True)
        self._output, self._state = self._forward(self._module, self._input)
        self._output.backward(self._grad_output)

    def results(self) -> dict[str, Tensor]:
        results = {"output": self._output.detach()} | named_states(self._state)
        if self._train:
            results["grad_input"] = self._input.grad
            for name, parameter in self._module.named_parameters():
                results[f"grad_{name}"] = parameter.grad
        return results


class PreparedStream:
    """One time step a call: `call` takes an input and the state, and returns the output and the
    next state. The first state is None."""

    def __init__(self, call: Callable[[Any, Any], tuple[Any, Any]], input: Any) -> None:
        self._call, self._input = call, input
        self._output = self._state = None

    def step(self) -> None:
        self._output, self._state = self._call(self._input, self._state)

    def results(self) -> dict[str, Tensor]:
        return {"output": self._output} | named_states(self._state)


class PreparedCell:
    """One time step a call of one of the cell classes."""

    def __init__(self, cell: torch.nn.Module, problem: Problem) -> None:
        weights = {name.removesuffix("_l0"): value for name, value in problem.weights.items()}
        cell.load_state_dict(weights)
        self._cell, self._input, self._state = cell.eval(), problem.input[0], None

    def step(self) -> None:
        self._state = self._cell(self._input, self._state)

    def results(self) -> dict[str, Tensor]:
        states = {name: value.unsqueeze(0) for name, value in named_states(self._state).items()}
        return {"output": states["h_n"]} | states


def named_states(state: Any) -> dict[str, Tensor]:
    """A module's state, or a list of the states of every layer and direction, as results."""
    if isinstance(state, list):
        state = tuple(map(torch.stack, zip(*state)))
    parts = state if isinstance(state, tuple) else (state,)
    return {name: part.detach() for name, part in zip(("h_n", "c_n"), parts)}


def make_layers(namespace: str, case: Case, **options: Any) -> torch.nn.Module:
    """The case's layers of a namespace with torch's ``LSTM``, ``GRU`` and ``RNN``."""
    cls = getattr(importlib.import_module(namespace), case.cell)
    sizes = (case.shape.input_size, case.shape.hidden_size, case.num_layers)
    return cls(*sizes, bidirectional=case.bidirectional, **options)


def make_module(namespace: str, problem: Problem) -> torch.nn.Module:
    """Layers for the problem's device and dtype, whose weights are not yet the problem's."""
    device, dtype = problem.input.device, problem.input.dtype
    return make_layers(namespace, problem.case, device=device, dtype=dtype)
