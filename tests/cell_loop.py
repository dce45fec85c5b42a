"""The oracle of lengths, resets and every step's values: a loop over torch.nn's cells.

One row, one layer and direction, one step at a time, with nothing of fusedrnn's own code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Step(NamedTuple):
    h: Tensor
    c: Tensor
    gates: tuple[Tensor, ...]  # i, f, g, o; r, z, n; or h


def cell_loop(
    module: nn.RNNBase,
    input: Tensor,
    hx: Any = None,
    *,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    reset_state: Any = None,
    return_states: bool = False,
    return_gates: bool = False,
    recompute: str = "none",
    dropout_masks: list[Tensor] | None = None,
) -> tuple[Any, ...]:
    """What fusedrnn's module with these weights gives; the output [T, B, width] of each layer but
    the last is multiplied by its mask, if there are any."""
    del recompute  # changes no result
    batched = input.dim() == 3
    if not batched:
        input, reset = input.unsqueeze(0), None if reset is None else reset.unsqueeze(0)
        hx, reset_state = (_map(state, lambda s: s.unsqueeze(1)) for state in (hx, reset_state))
    elif not module.batch_first:
        input, reset = input.transpose(0, 1), None if reset is None else reset.t()
    batch_size, seq_len, _ = input.shape
    ends = [seq_len] * batch_size if lengths is None else lengths.reshape(-1).tolist()
    resets = torch.zeros(batch_size, seq_len) if reset is None else reset
    initial, replacement = (_full(module, state, batch_size) for state in (hx, reset_state))
    rows = [
        _run_row(
            module,
            input[row, : ends[row]],
            resets[row].tolist(),
            [(h[row], c[row]) for h, c in zip(*initial)],
            [(h[row], c[row]) for h, c in zip(*replacement)],
            [mask[:, row] for mask in dropout_masks or ()],
        )
        for row in range(batch_size)
    ]

    def padded(values: list[Tensor], width: int) -> Tensor:
        return torch.stack([*values, *[input.new_zeros(width)] * (seq_len - len(values))])

    def as_input(of_rows: list[Tensor], dim: int) -> Tensor:
        """Joins [..., T, width] of the rows, where `dim` is T's, as the input is laid out."""
        if not batched:
            return of_rows[0]
        return torch.stack(of_rows, dim if module.batch_first else dim + 1)

    def every_step(width: int, pick: Callable[[_Step], Tensor]) -> Tensor:
        of_rows = [
            torch.stack([padded([pick(step) for step in way], width) for way in ways])
            for ways, _ in rows
        ]
        return as_input(of_rows, 1)

    hidden_size, h_width = module.hidden_size, module.proj_size or module.hidden_size
    directions = 2 if module.bidirectional else 1
    output = as_input(
        [padded(_join(ways[-directions:]), directions * h_width) for ways, _ in rows], 0
    )
    h_n, c_n = (
        torch.stack([torch.stack([final[idx] for final in finals]) for _, finals in rows], 1)
        for idx in (0, 1)
    )
    if not batched:
        h_n, c_n = h_n.squeeze(1), c_n.squeeze(1)
    is_lstm = module.mode == "LSTM"
    results: list[Any] = [output, (h_n, c_n) if is_lstm else h_n]
    if return_states:
        h = every_step(h_width, lambda step: step.h)
        results.append((h, every_step(hidden_size, lambda step: step.c)) if is_lstm else (h,))
    if return_gates:
        gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
        results.append(
            tuple(
                every_step(hidden_size, lambda step, idx=idx: step.gates[idx])
                for idx in range(gates)
            )
        )
    return tuple(results)


def _run_row(
    module: nn.RNNBase,
    input: Tensor,
    resets: list[bool],
    initial: list[tuple[Tensor, Tensor]],
    replacement: list[tuple[Tensor, Tensor]],
    dropout_masks: list[Tensor],
) -> tuple[list[list[_Step]], list[tuple[Tensor, Tensor]]]:
    """Every step in the order of time and the last h and c, of each layer and direction."""
    xs = list(input.unbind(0))
    directions = 2 if module.bidirectional else 1
    ways: list[list[_Step]] = []
    finals = []
    for layer in range(module.num_layers):
        for direction in range(directions):
            idx = layer * directions + direction
            h, c = initial[idx]
            steps = {}
            for t in reversed(range(len(xs))) if direction else range(len(xs)):
                if resets[t]:
                    h, c = replacement[idx]
                steps[t] = _step(module, layer, direction, xs[t], h, c)
                h, c, _ = steps[t]
            ways.append([steps[t] for t in range(len(xs))])
            finals.append((h, c))
        xs = _join(ways[-directions:])
        if layer < len(dropout_masks):
            xs = [x * mask for x, mask in zip(xs, dropout_masks[layer])]
    return ways, finals


def _join(ways: list[list[_Step]]) -> list[Tensor]:
    """A layer's output at each step."""
    return [torch.cat([step.h for step in steps]) for steps in zip(*ways)]


def _map(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if state is None:
        return None
    return change(state) if isinstance(state, Tensor) else tuple(map(change, state))


def _full(module: nn.RNNBase, state: Any, batch_size: int) -> tuple[Tensor, Tensor]:
    """h and c of every layer and row; zeros where there are none."""
    rows = module.num_layers * (2 if module.bidirectional else 1)
    zeros = module.weight_hh_l0.new_zeros
    h = zeros(rows, batch_size, module.proj_size or module.hidden_size)
    c = zeros(rows, batch_size, module.hidden_size)
    if isinstance(state, Tensor):
        return state.expand_as(h), c
    return (h, c) if state is None else (state[0].expand_as(h), state[1].expand_as(c))


def _step(module: nn.RNNBase, layer: int, direction: int, x: Tensor, h: Tensor, c: Tensor) -> _Step:
    """One step of torch's cell with the weights of that layer, and the gates by their formula."""
    suffix = f"_l{layer}{'_reverse' if direction else ''}"
    names = ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if module.bias else ()))
    weights = {name: getattr(module, name + suffix) for name in names}
    from_x = F.linear(x, weights["weight_ih"], weights.get("bias_ih"))
    from_h = F.linear(h, weights["weight_hh"], weights.get("bias_hh"))
    if module.mode == "LSTM":
        i, f, g, o = (from_x + from_h).chunk(4)
        gates = (i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid())
        if module.proj_size == 0:
            return _Step(*_call(nn.LSTMCell, module, x, (h, c), weights), gates)
        # torch's cell has no projection: h goes in as more input, beside a state of zeros.
        weights["weight_ih"] = torch.cat([weights["weight_ih"], weights["weight_hh"]], 1)
        weights["weight_hh"] = c.new_zeros(4 * len(c), len(c))
        state = (torch.zeros_like(c), c)
        h, c = _call(nn.LSTMCell, module, torch.cat([x, h]), state, weights)
        return _Step(F.linear(h, getattr(module, f"weight_hr{suffix}")), c, gates)
    if module.mode == "GRU":
        x_r, x_z, x_n = from_x.chunk(3)
        h_r, h_z, h_n = from_h.chunk(3)
        r = (x_r + h_r).sigmoid()
        gates = (r, (x_z + h_z).sigmoid(), (x_n + r * h_n).tanh())
        return _Step(_call(nn.GRUCell, module, x, h, weights), c, gates)
    h = _call(nn.RNNCell, module, x, h, weights, module.mode.removeprefix("RNN_").lower())
    return _Step(h, c, (h,))


def _call(
    cls: type[nn.RNNCellBase],
    module: nn.RNNBase,
    x: Tensor,
    state: Any,
    weights: dict[str, Tensor],
    *nonlinearity: str,
) -> Any:
    cell = _cell(cls, len(x), module.hidden_size, module.bias, *nonlinearity)
    return torch.func.functional_call(cell, weights, (x, state))


@functools.cache
def _cell(cls: type[nn.RNNCellBase], *args: Any) -> nn.RNNCellBase:
    return cls(*args, device="meta")
