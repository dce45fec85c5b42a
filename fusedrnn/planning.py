"""What would run for a module and an input: the planner's choices, printed."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from fusedrnn import _library
from fusedrnn._checks import check_tensor
from fusedrnn._machine import Machine

__all__ = ["Explanation", "PassPlan", "explain"]

_Recurrent = nn.RNNBase | nn.RNNCellBase


@dataclasses.dataclass(frozen=True)
class PassPlan:
    """What would run for one pass over a layer.

    Attributes:
        name: ``"forward"`` or ``"backward"``; empty where no kernel runs the layer.
        schedule: its name; empty where no kernel runs the layer.
        modelled_seconds: what the planner's model says it takes, of all directions.
        facts: what the planner says of it, by name, in the order of the table.
    """

    name: str
    schedule: str
    modelled_seconds: float | None
    facts: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Explanation:
    """The plans of a module's layers; ``str()`` of it is the table that `explain` printed.

    Attributes:
        title: one line with the module and the input it was asked about.
        input_sizes: of each layer, from the first to the last.
        plans: of each layer, its passes: forward and, in training, backward.
    """

    title: str
    input_sizes: tuple[int, ...]
    plans: tuple[tuple[PassPlan, ...], ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """A text of each layer, a line ``name: value`` for each fact."""
        return tuple(
            "\n".join(f"{name}: {value}" for name, value in _facts(passes)) for passes in self.plans
        )

    def __str__(self) -> str:
        # Layers of one plan, as those of a deep stack after the first, are one part of the table.
        names = (name for passes in self.plans for name, _ in _facts(passes))
        width = max(map(len, names), default=0)
        parts, first = [self.title], 0
        pairs = zip(self.input_sizes, self.plans)
        for (input_size, passes), same in itertools.groupby(pairs):
            count = len(list(same))
            which = f"layer {first}" if count == 1 else f"layers {first} to {first + count - 1}"
            lines = [f"{which}, input_size {input_size}"]
            lines += [f"  {name:<{width}}  {value}".rstrip() for name, value in _facts(passes)]
            parts.append("\n".join(lines))
            first += count
        return "\n\n".join(parts)

    def __repr__(self) -> str:
        return f"<Explanation of {len(self.plans)} layer(s): {self.title}>"


def _facts(passes: tuple[PassPlan, ...]) -> list[tuple[str, str]]:
    return [fact for one in passes for fact in one.facts]


def explain(
    module: nn.Module,
    input: Tensor | PackedSequence,
    hx: Any = None,
    *,
    machine: Machine | None = None,
) -> Explanation:
    """Prints which schedule would run each layer of `module` on `input`, and why not the others.

    Nothing is computed. The plan is the one for the grad mode and autocast state of the
    caller: schedules are chosen for training when a gradient could be asked for.

    Args:
        module: a recurrent layer or cell of `fusedrnn` (or of `fusedrnn.compat`).
        input: what the module would be called with; only its shape, dtype, device and
            ``requires_grad`` are read. For a packed sequence the plan is that of all its
            rows at full length.
        hx: the initial state the module would be called with, if any.
        machine: a CPU that need not be at hand; without it, the machine of the call.

    Returns:
        The same table as an `Explanation`, which also has each plan in parts.

    Raises:
        TypeError: `module` is not a recurrent module of fusedrnn, or `input` is not a tensor
            or a packed sequence.
        ValueError: `machine` cannot be.
        RuntimeError: `input` does not fit the module, or an environment variable forces what
            is impossible.

    Examples:
        >>> import torch, fusedrnn
        >>> plan = fusedrnn.explain(fusedrnn.GRU(8, 16), torch.randn(5, 3, 8))  # doctest: +ELLIPSIS
        GRU(8, 16): seq_len 5, batch_size 3, float32, training...
    """
    module = _check_module(module)
    data, seq_len, batch_size = _measure(module, input)
    dtype = data.dtype
    stored = getattr(module, "stored_dtype", None)  # of quantized weights
    if stored is not None:
        dtype = torch.float32
    elif data.device.type != "meta" and torch.is_autocast_enabled(data.device.type):
        dtype = torch.get_autocast_dtype(data.device.type)
    training = _wants_gradient(module, data, hx)
    title = (
        f"{type(module).__name__}({module.extra_repr()}): seq_len {seq_len}, batch_size "
        f"{batch_size}, {str(dtype).removeprefix('torch.')}, "
        f"{'training' if training else 'inference'}"
    )
    if machine is not None and _library.available:
        title += f"; on {machine}"
    input_sizes, plans = tuple(_layer_input_sizes(module)), []
    for input_size in input_sizes:
        question = _question(module, dtype, seq_len, batch_size, input_size, training)
        if not _library.available:
            passes = _without_kernels(f"PyTorch fallback: {_library.reason}")
        elif dtype.is_complex:
            passes = _without_kernels(f"composition of torch operators: no kernel takes {dtype}")
        elif machine is not None:
            answer = torch.ops.fusedrnn.explain_layer(
                *question, stored, machine=machine._numbers(), isa=machine._isa()
            )
            passes = _from_answer(answer)
        elif data.device.type == "cuda" and _library.has_cuda_kernels():
            answer = torch.ops.fusedrnn.explain_layer_cuda(
                *question, isinstance(input, PackedSequence), data.device.index
            )
            passes = _from_answer(answer)
        elif data.device.type != "cpu":
            passes = _without_kernels(
                "composition of torch operators: this build of fusedrnn has no kernels for "
                f"device {data.device.type!r}"
            )
        else:
            passes = _from_answer(torch.ops.fusedrnn.explain_layer(*question, stored))
        plans.append(passes)
    explanation = Explanation(title, input_sizes, tuple(plans))
    print(explanation)
    return explanation


def _from_answer(answer: list[Any]) -> tuple[PassPlan, ...]:
    """The passes of an operator's answer, without the problem, which the title has."""
    return tuple(
        PassPlan(name, schedule, seconds, tuple(fact for fact in facts if fact[0] != "problem"))
        for name, schedule, seconds, facts in answer
    )


def _without_kernels(text: str) -> tuple[PassPlan, ...]:
    return (PassPlan("", "", None, (("runs as", text),)),)


def _question(
    module: _Recurrent,
    dtype: torch.dtype,
    seq_len: int,
    batch_size: int,
    input_size: int,
    training: bool,
) -> tuple[Any, ...]:
    """What both operators that explain plans are asked."""
    return (
        module._cell,
        dtype,
        seq_len,
        batch_size,
        input_size,
        module.hidden_size,
        getattr(module, "proj_size", 0),
        2 if getattr(module, "bidirectional", False) else 1,
        training,
    )


def _check_module(module: nn.Module) -> _Recurrent:
    remedy = "pass one of the model's recurrent layers"
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        if any(base.__module__.split(".")[0] == "fusedrnn" for base in type(module).__mro__):
            return module
        remedy = "convert it with fusedrnn.replace(model)"
    raise TypeError(
        "module: expected a recurrent layer or cell of fusedrnn, got "
        f"{type(module).__module__}.{type(module).__qualname__}; {remedy}"
    )


def _measure(module: _Recurrent, input: Tensor | PackedSequence) -> tuple[Tensor, int, int]:
    """The tensor that holds the input's values, its time steps and its batch size."""
    if isinstance(input, PackedSequence):
        if isinstance(module, nn.RNNCellBase):
            raise TypeError(
                "input: expected a tensor for a cell, got PackedSequence; pass one step"
            )
        module.check_input(input.data, input.batch_sizes)
        return input.data, len(input.batch_sizes), int(input.batch_sizes[0])
    if not isinstance(input, Tensor):
        raise TypeError(
            f"input: expected a Tensor or PackedSequence, got {type(input).__name__}; "
            "pass what the module would be called with"
        )
    ranks = (1, 2) if isinstance(module, nn.RNNCellBase) else (2, 3)
    if input.dim() not in ranks or input.size(-1) != module.input_size:
        raise RuntimeError(
            f"input: expected {ranks[0]} or {ranks[1]} dimensions, the last of size input_size = "
            f"{module.input_size}, got shape {tuple(input.shape)}; pass what the module would be "
            "called with"
        )
    if isinstance(module, nn.RNNCellBase):
        return input, 1, input.size(0) if input.dim() == 2 else 1
    if input.dim() == 2:
        return input, input.size(0), 1
    time_dim, batch_dim = (1, 0) if module.batch_first else (0, 1)
    return input, input.size(time_dim), input.size(batch_dim)


def _wants_gradient(module: _Recurrent, data: Tensor, hx: Any) -> bool:
    states = tuple(hx) if isinstance(hx, (tuple, list)) else () if hx is None else (hx,)
    for state in states:
        check_tensor("hx", state)
    tensors = (data, *states, *module.parameters())
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _layer_input_sizes(module: _Recurrent) -> Iterator[int]:
    yield module.input_size
    if isinstance(module, nn.RNNBase):
        directions = 2 if module.bidirectional else 1
        output_size = directions * (module.proj_size or module.hidden_size)
        for _ in range(module.num_layers - 1):
            yield output_size
