"""Who competes in `python -m bench options`: each option of fusedrnn, and the usual ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench import per_sample
from bench.cases import Case, draw_lengths
from bench.problem import Forward, Plan, Prepared, PreparedModule, Problem, make_module, valid_mask
from bench.providers import BASELINE, PROVIDERS, ModuleProvider

RESET_RATE = 0.01


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A provider: a layer of `namespace`, used in a way of its own.

    `has_option` is False for a layer that leaves the option out: its results differ, and are
    those that `python -m bench run` checks.
    """

    name: str
    namespace: str
    use: Callable[[nn.Module, Problem], Prepared]
    has_option: bool = True

    def version(self) -> str:
        return ModuleProvider(self.namespace).version()

    def plan(self, case: Case) -> Plan | None:
        return None

    def prepare(self, problem: Problem) -> Prepared:
        return self.use(make_module(self.namespace, problem), problem)


@dataclasses.dataclass(frozen=True)
class Contest:
    """How the cases of one kind are run; the first contestant is fusedrnn with the option."""

    batch_size: int
    seq_len: int
    modes: tuple[str, ...]
    contestants: tuple[Contestant, ...]
    reference: str  # the contestant whose time is the measure
    oracle: str  # the contestant that in float64 says what is correct
    share: Callable[[Case], float] = lambda case: 1.0  # of the reference's time that is needed
    limit: float | None = None  # the first contestant's largest time over share * reference

    def oracle_provider(self) -> Contestant:
        return next(entry for entry in self.contestants if entry.name == self.oracle)


def valid_fraction(case: Case) -> float:
    return draw_lengths(case).double().mean().item() / case.shape.seq_len


def draw_reset(case: Case) -> Tensor:
    """[seq_len, batch_size], each True with the probability `RESET_RATE`."""
    generator = torch.Generator().manual_seed(2)
    return torch.rand(case.shape.seq_len, case.shape.batch_size, generator=generator) < RESET_RATE


def _use_lengths(module: nn.Module, problem: Problem) -> Prepared:
    return _prepare_ragged(module, problem, _lengths_of("fusedrnn", problem))


def _use_padded(module: nn.Module, problem: Problem) -> Prepared:
    return _prepare_ragged(module, problem, lambda m, input: m(input))


def _use_packed(module: nn.Module, problem: Problem) -> Prepared:
    return _prepare_ragged(module, problem, _lengths_of(BASELINE, problem))


def _lengths_of(provider: str, problem: Problem) -> Forward:
    return PROVIDERS[provider].use_lengths(draw_lengths(problem.case))


def _prepare_ragged(module: nn.Module, problem: Problem, forward: Forward) -> Prepared:
    """No gradient enters at padded places: nobody's loss has them."""
    valid = valid_mask(draw_lengths(problem.case), problem.case.shape.seq_len)
    problem = dataclasses.replace(problem, grad_output=problem.grad_output * valid)
    return PreparedModule(module, problem, forward)


def _use_reset(module: nn.Module, problem: Problem) -> Prepared:
    reset = draw_reset(problem.case)
    return PreparedModule(module, problem, lambda m, input: m(input, reset=reset))


def _use_steps(module: nn.Module, problem: Problem) -> Prepared:
    """One call a step with the state multiplied by 1 - done before it, as CleanRL's agents do."""
    keep = (~draw_reset(problem.case)).to(problem.input.dtype)[:, None, :, None]
    rows = (1, problem.case.shape.batch_size, problem.case.shape.hidden_size)
    zeros = torch.zeros(rows, dtype=problem.input.dtype)
    is_lstm = problem.case.cell == "LSTM"

    def forward(module: nn.Module, input: Tensor) -> tuple[Tensor, Any]:
        outputs, state = [], (zeros, zeros) if is_lstm else zeros
        for row, kept in zip(input, keep):
            state = (kept * state[0], kept * state[1]) if is_lstm else kept * state
            output, state = module(row.unsqueeze(0), state)
            outputs.append(output)
        return torch.cat(outputs), state

    return PreparedModule(module, problem, forward)


def _use_plain(module: nn.Module, problem: Problem) -> Prepared:
    return PreparedModule(module, problem)


CONTESTS = {
    "lengths": Contest(
        batch_size=32,
        seq_len=400,
        modes=("infer", "train"),
        contestants=(
            Contestant("fusedrnn lengths=", "fusedrnn", _use_lengths),
            Contestant("fusedrnn padded", "fusedrnn", _use_padded, has_option=False),
            Contestant("torch.nn packed", BASELINE, _use_packed),
        ),
        reference="fusedrnn padded",
        oracle="torch.nn packed",
        share=valid_fraction,
        limit=1.10,
    ),
    "reset": Contest(
        batch_size=64,
        seq_len=128,
        modes=("infer", "train"),
        contestants=(
            Contestant("fusedrnn reset=", "fusedrnn", _use_reset),
            Contestant("fusedrnn without", "fusedrnn", _use_plain, has_option=False),
            Contestant("torch.nn loop over steps", BASELINE, _use_steps),
        ),
        reference="fusedrnn without",
        oracle="torch.nn loop over steps",
        limit=1.05,
    ),
    "per-sample": Contest(
        batch_size=32,
        seq_len=50,
        modes=("train",),
        contestants=(
            Contestant("fusedrnn vmap(grad)", "fusedrnn", per_sample.Vmapped),
            Contestant("fusedrnn loop over samples", "fusedrnn", per_sample.Looped),
            Contestant("torch.nn loop over samples", BASELINE, per_sample.Looped),
            Contestant("torch linear cells, hooks", BASELINE, per_sample.Hooked),
        ),
        reference="torch linear cells, hooks",
        oracle="torch.nn loop over samples",
    ),
}
