"""What results are compared with: fusedrnn's reference in float64, which has every cell."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.problem import Prepared, PreparedModule, PreparedStream, Problem, make_module


class Oracle:
    """Runs a case's layers, one time step of them for the forms that are one."""

    def prepare(self, problem: Problem) -> Prepared:
        module = make_module("fusedrnn", problem)  # holds the weights; it is not called
        if problem.case.form in ("step", "cell"):
            module.load_state_dict(problem.weights)
            return PreparedStream(lambda input, state: _run(module, input, state), problem.input)
        return PreparedModule(
            module, problem, lambda module, input: _run(module, input, None, problem.lengths)
        )


def _run(
    module: torch.nn.Module, input: Tensor, state: Any, lengths: Tensor | None = None
) -> tuple[Tensor, Any]:
    """What the module returns, by the reference; without dropout."""
    from fusedrnn import reference  # not before a process has chosen which tree's fusedrnn it runs

    directions = 2 if module.bidirectional else 1
    states = () if state is None else state if isinstance(state, tuple) else (state,)
    weights = module._layer_weights()
    finals = []
    for first in range(0, len(weights), directions):
        own = [each[first : first + directions] for each in states] or [None]
        h_0, c_0 = (*own, None)[:2]
        layer_weights = (*weights[first : first + directions], None)[:2]
        input, *last, _ = reference.layer_forward(
            module._cell, input, h_0, c_0, *layer_weights, lengths=lengths
        )
        finals.append(last[: reference.CELLS[module._cell].states])
    last = tuple(map(torch.cat, zip(*finals)))
    return input, last if len(last) > 1 else last[0]
