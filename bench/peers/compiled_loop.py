"""torch.compile of a hand-written loop over time.

A graph holds up to `STEPS` time steps, and the loop calls it: one graph of a whole sequence
takes minutes to compile. The input projection of all steps is one product before the loop.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import isa
from bench.cases import Case
from bench.peers.peer import Peer
from bench.problem import Prepared, PreparedModule, PreparedStream, Problem, make_module, valid_mask
from bench.rates import BUILD

STEPS = 10  # of one graph, at most

State = tuple[Tensor, ...]  # h, and c of the LSTM, each [batch_size, hidden_size]
Steps = Callable[[Tensor, State, Tensor, Tensor, "Tensor | None"], tuple[Tensor, State]]


class CompiledLoop(Peer):
    name = "torch.compile"
    packages = ("torch",)
    dtypes = ("float32", "float64", "bfloat16", "float16")
    trains = True

    def set_up(self, case: Case) -> None:
        torch._inductor.config.compile_threads = 1  # no processes that outlive the compilation
        if isa.forced():  # the keys of the cache leave it out
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(BUILD / f"inductor-{isa.forced()}")
        # Layers and directions of several widths are graphs of their own.
        torch._dynamo.config.recompile_limit = 64
        torch._dynamo.config.fail_on_recompile_limit_hit = True

    def prepare(self, problem: Problem) -> Prepared:
        case = problem.case
        steps = torch.compile(make_steps(case.cell), dynamic=False)
        module = make_module("torch.nn", problem)
        if case.form in ("step", "cell"):
            module.load_state_dict(problem.weights)
            module.requires_grad_(False)
            return PreparedStream(
                lambda input, state: run_layers(module, case, input, steps, state), problem.input
            )
        mask = None
        if problem.lengths is not None:
            mask = valid_mask(problem.lengths, case.shape.seq_len)
        return PreparedModule(
            module, problem, lambda m, input: run_layers(m, case, input, steps, mask=mask)
        )


def run_layers(
    module: nn.Module,
    case: Case,
    input: Tensor,
    steps: Steps,
    states: list[State] | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, list[State]]:
    """The output, and the last state of every layer and direction."""
    zeros = input.new_zeros(input.size(1), case.shape.hidden_size)
    first = (zeros, zeros) if case.cell == "LSTM" else (zeros,)
    last: list[State] = []
    for layer in range(case.num_layers):
        outputs = []
        for direction in range(case.directions):
            suffix = f"l{layer}{'_reverse' if direction else ''}"
            state = first if states is None else states[len(last)]
            output, state = _run_direction(module, suffix, input, steps, state, mask)
            outputs.append(output)
            last.append(state)
        input = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2)
    return input, last


def _run_direction(
    module: nn.Module, suffix: str, input: Tensor, steps: Steps, state: State, mask: Tensor | None
) -> tuple[Tensor, State]:
    weight_ih, weight_hh, bias_ih, bias_hh = (
        getattr(module, f"{name}_{suffix}")
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    is_reverse = suffix.endswith("reverse")
    if is_reverse:
        input, mask = input.flip(0), None if mask is None else mask.flip(0)
    projected = F.linear(input, weight_ih, bias_ih)
    length = block_length(input.size(0))
    masks = itertools.repeat(None) if mask is None else mask.split(length)
    outputs = []
    for block, valid in zip(projected.split(length), masks):
        output, state = steps(block, state, weight_hh, bias_hh, valid)
        outputs.append(output)
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return output.flip(0) if is_reverse else output, state


def block_length(seq_len: int) -> int:
    """The largest divisor up to `STEPS`: every block is the same graph."""
    return max(steps for steps in range(1, STEPS + 1) if seq_len % steps == 0)


def make_steps(cell: str) -> Steps:
    """What is compiled: the steps of a block, one after the other."""

    def steps(
        projected: Tensor, state: State, weight_hh: Tensor, bias_hh: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, State]:
        outputs = []
        for step, x in enumerate(projected.unbind(0)):
            new = CELLS[cell](x, F.linear(state[0], weight_hh, bias_hh), state)
            if mask is None:
                state = new
                outputs.append(state[0])
            else:
                state = tuple(torch.where(mask[step], a, b) for a, b in zip(new, state))
                outputs.append(new[0] * mask[step])
        return torch.stack(outputs), state

    return steps


def _lstm(x: Tensor, r: Tensor, state: State) -> State:
    i, f, g, o = (x + r).chunk(4, 1)
    c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _gru(x: Tensor, r: Tensor, state: State) -> State:
    (x_r, x_z, x_n), (h_r, h_z, h_n) = x.chunk(3, 1), r.chunk(3, 1)
    z = (x_z + h_z).sigmoid()
    n = (x_n + (x_r + h_r).sigmoid() * h_n).tanh()
    return (n + z * (state[0] - n),)


def _rnn(x: Tensor, r: Tensor, state: State) -> State:
    return ((x + r).tanh(),)


CELLS = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}
