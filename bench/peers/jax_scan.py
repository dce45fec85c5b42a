"""JAX: `lax.scan` over time, compiled by `jit`; training by `vjp`.

The input projection of all steps is one product before the scan, and the weights are stored as
[in, out], as Flax stores them.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.cases import STREAMING, Case
from bench.peers.peer import Peer
from bench.problem import Prepared, PreparedStream, Problem, named_states, valid_mask


class JaxScan(Peer):
    name = "jax"
    packages = ("jax", "jaxlib")
    dtypes = ("float32", "float64")
    trains = True
    follows_isa = False  # --xla_cpu_max_isa leaves products on AVX-512, beyond AVX2's roof

    def set_up(self, case: Case) -> None:
        """XLA makes as many threads as the process may use cores when it starts."""
        with _few_cores(case.threads):
            import jax

            jax.config.update("jax_platforms", "cpu")
            jax.config.update("jax_enable_x64", case.dtype == "float64")
            jax.devices()

    def prepare(self, problem: Problem) -> Prepared:
        if problem.case.form in STREAMING:
            return _make_stream(problem)
        return _Scan(problem)


class _Scan:
    def __init__(self, problem: Problem) -> None:
        import jax

        case = problem.case
        self._train = case.mode == "train"
        self._weights, self._input = _weights(problem), _array(problem.input)
        self._grad_output = _array(problem.grad_output)
        mask = None
        if problem.lengths is not None:
            mask = _array(valid_mask(problem.lengths, case.shape.seq_len))

        def forward(weights: Any, input: Any) -> Any:
            return _run_layers(case, weights, input, None, mask)

        def train(weights: Any, input: Any, grad_output: Any) -> Any:
            output, pull_back, last = jax.vjp(forward, weights, input, has_aux=True)
            return output, last, *pull_back(grad_output)

        self._forward, self._train_step = jax.jit(forward), jax.jit(train)
        self._results: Any = None

    def step(self) -> None:
        import jax

        if self._train:
            results = self._train_step(self._weights, self._input, self._grad_output)
        else:
            results = self._forward(self._weights, self._input)
        self._results = jax.block_until_ready(results)

    def results(self) -> dict[str, Tensor]:
        output, last, *grads = self._results
        results = _results(output, last)
        if not self._train:
            return results
        weights, grad_input = grads
        results["grad_input"] = _tensor(grad_input)
        for name, grad in weights.items():
            results[f"grad_{name}"] = _tensor(grad.T)  # .T leaves a bias as it is
        return results


def _make_stream(problem: Problem) -> PreparedStream:
    import jax

    case, weights = problem.case, _weights(problem)
    compiled = jax.jit(lambda weights, input, state: _run_layers(case, weights, input, state, None))

    def call(input: Any, state: Any) -> Any:
        return jax.block_until_ready(compiled(weights, input, state))

    class Stream(PreparedStream):
        def results(self) -> dict[str, Tensor]:
            return _results(self._output, self._state)

    return Stream(call, _array(problem.input))


def _results(output: Any, last: Any) -> dict[str, Tensor]:
    states = [tuple(map(_tensor, state)) for state in last]
    return {"output": _tensor(output)} | named_states(states)


def _run_layers(case: Case, weights: Any, input: Any, states: Any, mask: Any) -> tuple[Any, Any]:
    """The output, and the last state of every layer and direction."""
    import jax.numpy as jnp

    zeros = jnp.zeros((input.shape[1], case.shape.hidden_size), input.dtype)
    first = (zeros, zeros) if case.cell == "LSTM" else (zeros,)
    last: list[Any] = []
    for layer in range(case.num_layers):
        outputs = []
        for direction in range(case.directions):
            suffix = f"l{layer}{'_reverse' if direction else ''}"
            state = first if states is None else states[len(last)]
            output, state = _scan(case.cell, weights, suffix, input, state, mask)
            outputs.append(output)
            last.append(state)
        input = outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, 2)
    return input, last


def _scan(cell: str, weights: Any, suffix: str, input: Any, state: Any, mask: Any) -> Any:
    import jax
    import jax.numpy as jnp

    weight_hh, bias_hh = weights[f"weight_hh_{suffix}"], weights[f"bias_hh_{suffix}"]
    projected = input @ weights[f"weight_ih_{suffix}"] + weights[f"bias_ih_{suffix}"]

    def step(state: Any, inputs: Any) -> Any:
        x, valid = inputs
        new = _cell(cell, x, state[0] @ weight_hh + bias_hh, state)
        if valid is None:
            return new, new[0]
        kept = tuple(jnp.where(valid, a, b) for a, b in zip(new, state))
        return kept, jnp.where(valid, new[0], 0)

    if input.shape[0] == 1:  # one step: no loop
        state, output = step(state, (projected[0], None if mask is None else mask[0]))
        return output[None], state
    is_reverse = suffix.endswith("reverse")
    state, output = jax.lax.scan(step, state, (projected, mask), reverse=is_reverse)
    return output, state


def _cell(cell: str, x: Any, r: Any, state: Any) -> Any:
    import jax
    import jax.numpy as jnp

    if cell == "RNN":
        return (jnp.tanh(x + r),)
    if cell == "LSTM":
        i, f, g, o = jnp.split(x + r, 4, 1)
        c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c
    (x_r, x_z, x_n), (h_r, h_z, h_n) = jnp.split(x, 3, 1), jnp.split(r, 3, 1)
    z = jax.nn.sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + jax.nn.sigmoid(x_r + h_r) * h_n)
    return (n + z * (state[0] - n),)


def _weights(problem: Problem) -> dict[str, Any]:
    return {
        name: _array(value.T if value.dim() == 2 else value)
        for name, value in problem.weights.items()
    }


def _array(value: Tensor) -> Any:
    import jax.numpy as jnp

    return jnp.array(value.contiguous().numpy())


def _tensor(value: Any) -> Tensor:
    import numpy

    return torch.from_numpy(numpy.array(value))


@contextlib.contextmanager
def _few_cores(count: int) -> Any:
    """This process and the threads that it makes see so many cores; afterwards all again."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(cores)[:count]))
    try:
        yield
    finally:
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(task.name), cores)
