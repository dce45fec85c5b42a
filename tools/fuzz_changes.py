"""What the fuzzer does to valid arguments: other values, kinds of tensors, and ways to call."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.testing._internal.two_tensor import TwoTensor

HUGE = (-1, -(2**63), 2**16, 2**31 - 1, 2**31, 2**40, 2**60, 2**62, 2**63 - 1)
TEXTS = ("", "lstm\0", "LSTM", "rnn", "no such cell", "l" * 5000, "h\u00e9", "\ud800", "gru ",
         "lstm", "chunk:0", "chunk:9223372036854775807", "chunk:4611686018427387904", "chunk:-1",
         "chunk:99999999999999999999", "gates", "tanh")  # fmt: skip
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64,
          torch.complex128, torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool,
          torch.float8_e4m3fn)  # fmt: skip


class Marked(Tensor):
    """A subclass that changes nothing."""


def _junk(value: Any, rng: random.Random) -> Any:
    return rng.choice(
        (None, [], (), {}, 0, 1.5, "x", True, [1.0, 2.0], (None, None), np.ones((2, 3), np.float32),
         object(), torch.zeros(()), torch.zeros(0), [torch.ones(2, 3)])
    )  # fmt: skip


def _with_size(tensor: Tensor, rng: random.Random, size: int) -> Tensor:
    """One dimension changed, in a tensor of one element in memory, whose size costs nothing."""
    shape = list(tensor.shape)
    shape[rng.randrange(len(shape))] = size
    return tensor.flatten()[:1].reshape(()).expand(shape)


def _empty_and_huge(tensor: Tensor, rng: random.Random) -> Tensor:
    shape = list(tensor.shape)
    first, second = rng.sample(range(len(shape)), 2)
    shape[first], shape[second] = 0, rng.choice(HUGE[2:])
    return tensor.new_empty(shape)


def _one_more_or_less(tensor: Tensor, rng: random.Random) -> Tensor:
    dim = rng.randrange(tensor.dim())
    if rng.random() < 0.5:
        return tensor.narrow(dim, 0, tensor.size(dim) - 1)
    return torch.cat([tensor, tensor.narrow(dim, 0, 1)], dim)


def _none_of_a_dim(tensor: Tensor, rng: random.Random) -> Tensor:
    return tensor.narrow(rng.randrange(tensor.dim()), 0, 0)


def _element(tensor: Tensor, rng: random.Random) -> Tensor:
    """One element extreme."""
    changed = tensor.clone()
    if tensor.is_floating_point():
        value = rng.choice((float("nan"), float("inf"), -float("inf"), 1e30, 1e-42))
    else:
        value = rng.choice((-1, 0, 1, 2, 3, 100, *HUGE))
    changed.view(-1)[rng.randrange(tensor.numel())] = value
    return changed


def _rank(tensor: Tensor, rng: random.Random) -> Tensor:
    return rng.choice(
        (lambda: tensor.unsqueeze(0), lambda: tensor[0], lambda: tensor.flatten(),
         lambda: tensor.reshape(-1)[0], lambda: tensor[None, None, None], lambda: tensor.mT)
    )()  # fmt: skip


def _layout(tensor: Tensor, rng: random.Random) -> Tensor:
    return rng.choice(
        (lambda: tensor.to_sparse(), lambda: tensor.to_mkldnn(), lambda: tensor.to_sparse_csr(),
         lambda: torch.nested.nested_tensor(list(tensor)),
         lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.quint8))
    )()  # fmt: skip


def _misaligned(tensor: Tensor, rng: random.Random) -> Tensor:
    """Begins at an odd address."""
    memory = bytearray(tensor.numel() * tensor.element_size() + 1)
    moved = torch.frombuffer(memory, dtype=tensor.dtype, offset=1, count=tensor.numel())
    return moved.reshape(tensor.shape).copy_(tensor)


def _gaps(tensor: Tensor, rng: random.Random) -> Tensor:
    order = rng.sample(range(tensor.dim()), tensor.dim())
    back = [order.index(dim) for dim in range(tensor.dim())]
    wide = torch.stack([tensor.permute(order), torch.full_like(tensor.permute(order), 1)], -1)
    return wide[..., 0].permute(back)


def _negated(tensor: Tensor, rng: random.Random) -> Tensor:
    return torch._neg_view(-tensor)


def _inference(tensor: Tensor, rng: random.Random) -> Tensor:
    with torch.inference_mode():
        return tensor.clone()


def _overlapping(tensor: Tensor, rng: random.Random) -> Tensor:
    memory = tensor.new_full((sum(tensor.shape),), 0.125)
    return memory.as_strided(tensor.shape, [1] * tensor.dim())


def _repeated(tensor: Tensor, rng: random.Random) -> Tensor:
    dim = rng.randrange(tensor.dim())
    return tensor.narrow(dim, 0, 1).expand_as(tensor)


Change = Callable[[Tensor, random.Random], Any]

# Those that leave a call valid: it must still succeed, and be right for the values it got.
HARMLESS: dict[str, Change] = {
    "misaligned": _misaligned,
    "gaps": _gaps,
    "negated": _negated,
    "overlapping": _overlapping,
    "repeated": _repeated,
    "requires_grad": lambda tensor, rng: tensor.detach().clone().requires_grad_(),
    "parameter": lambda tensor, rng: torch.nn.Parameter(tensor.detach()),
    "subclass": lambda tensor, rng: tensor.as_subclass(Marked),
    "wrapper": lambda tensor, rng: TwoTensor(tensor, tensor.clone()),
}
HARMFUL: dict[str, Change] = {
    "junk": _junk,
    "none": lambda tensor, rng: None,
    "list": lambda tensor, rng: tensor.tolist(),
    "dtype": lambda tensor, rng: tensor.to(rng.choice(DTYPES)),
    "rank": _rank,
    "resized": _one_more_or_less,
    "empty": _none_of_a_dim,
    "huge": lambda tensor, rng: _with_size(tensor, rng, rng.choice(HUGE[2:])),
    "empty and huge": _empty_and_huge,
    "meta": lambda tensor, rng: tensor.to("meta"),
    "layout": _layout,
    "conjugate": lambda tensor, rng: tensor.to(torch.complex64).conj(),
    "element": _element,
    "fake": lambda tensor, rng: FakeTensorMode().from_tensor(tensor),
    "inference": _inference,
}
SAME_VALUES = HARMLESS.keys() - {"overlapping", "repeated"}


def change(value: Any, others: Sequence[Any], rng: random.Random) -> tuple[str, Any]:
    """A name for what was done, and the value changed. A harmless change's name ends in "~"."""
    if isinstance(value, Tensor):
        if rng.random() < 0.1:
            return "tied", rng.choice([t for t in others if isinstance(t, Tensor)])
        if rng.random() < 0.4 and value.is_floating_point():
            name = rng.choice(tuple(HARMLESS))
            return name + "~", HARMLESS[name](value, rng)
        name = rng.choice(tuple(HARMFUL))
        return name, HARMFUL[name](value, rng)
    if rng.random() < 0.15:
        return "junk", _junk(value, rng)
    if isinstance(value, bool):
        return "flipped", not value
    if isinstance(value, int):
        new = rng.choice((*HUGE, 0, 1, 2, value + 1, 2**64, 1.0))
    elif isinstance(value, str):
        new = rng.choice(TEXTS)
    elif isinstance(value, torch.dtype):
        new = rng.choice(DTYPES)
    elif isinstance(value, float):
        new = rng.choice((-1.0, 2.0, float("nan"), 0))
    else:
        new = rng.choice((None, torch.ones(2, 3), torch.zeros(3, 2, 4), 3, "lstm", torch.float32))
    return f"={new!r:.40}" if not isinstance(new, Tensor) else f"=ones{tuple(new.shape)}", new


Run = Callable[[list[Any]], tuple[Tensor, ...]]


def _tangent(tensor: Tensor) -> Tensor:
    return torch.linspace(-1, 1, tensor.numel()).reshape(tensor.shape).to(tensor.dtype)


def _sum(results: tuple[Tensor, ...]) -> Tensor:
    return sum((result.float() if result.element_size() < 4 else result).sin().sum()
               for result in results)  # fmt: skip


def _dual(run: Callable[[Tensor], tuple[Tensor, ...]], tensor: Tensor) -> tuple[Tensor, ...]:
    with forward_ad.dual_level():
        results = run(forward_ad.make_dual(tensor, _tangent(tensor)))
        pairs = [forward_ad.unpack_dual(result) for result in results]
        return tuple(
            torch.zeros_like(primal) if part is None else part
            for primal, tangent in pairs
            for part in (primal, tangent)
        )


def _jvp(run: Any, tensor: Tensor) -> tuple[Tensor, ...]:
    primals, tangents = torch.func.jvp(run, (tensor,), (_tangent(tensor),))
    return (*primals, *tangents)


def _two(tensor: Tensor) -> Tensor:
    return torch.stack([tensor, tensor * 0.5])


# Ways to call with one tensor transformed; each holds for the oracle as well.
WAYS: dict[str, Callable[[Any, Tensor], Any]] = {
    "dual": _dual,
    "jvp": _jvp,
    "grad": lambda run, t: torch.func.grad(lambda t: _sum(run(t)))(t),
    "vmap": lambda run, t: torch.vmap(run)(_two(t)),
    "vmap of grad": lambda run, t: torch.vmap(torch.func.grad(lambda t: _sum(run(t))))(_two(t)),
    "vmap of jvp": lambda run, t: torch.vmap(lambda t: _jvp(run, t))(_two(t)),
    "jvp of vmap": lambda run, t: _jvp(torch.vmap(run), _two(t)),
    "grad of vmap": lambda run, t: torch.func.grad(lambda t: _sum(torch.vmap(run)(t)))(_two(t)),
    "jvp of grad": lambda run, t: _jvp(
        lambda t: (torch.func.grad(lambda t: _sum(run(t)))(t),), t),
    "vjp of grad": lambda run, t: torch.func.vjp(
        torch.func.grad(lambda t: _sum(run(t))), t)[1](_tangent(t)),
    "functionalize": lambda run, t: torch.func.functionalize(run)(t),
}  # fmt: skip

# Ways to call with all tensors; those at the places in `stay` are of the CPU by their meaning.
MODES: dict[str, Callable[[Run, list[Any], set[int]], Any]] = {
    "meta": lambda run, leaves, stay: run(
        [
            leaf.to("meta") if isinstance(leaf, Tensor) and place not in stay else leaf
            for place, leaf in enumerate(leaves)
        ]
    ),
    "fake": lambda run, leaves, stay: _in_fake_mode(run, leaves),
    "autocast": lambda run, leaves, stay: _in(torch.autocast("cpu", torch.bfloat16), run, leaves),
    "no_grad": lambda run, leaves, stay: _in(torch.no_grad(), run, leaves),
    "inference_mode": lambda run, leaves, stay: _in(torch.inference_mode(), run, leaves),
}


def _in(context: Any, run: Run, leaves: list[Any]) -> Any:
    with context:
        return run(leaves)


def _in_fake_mode(run: Run, leaves: list[Any]) -> Any:
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        return run([mode.from_tensor(t) if isinstance(t, Tensor) else t for t in leaves])
