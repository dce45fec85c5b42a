"""One call of the fuzzer: made from (seed, index), run, and judged."""

from __future__ import annotations

import contextlib
import copy
import random
import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import fuzz_changes as changes
import torch
from cases import tolerance
from fuzz_targets import Builder, Call
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.autograd import forward_ad
from torch.nn.utils.rnn import PackedSequence
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils import _pytree as pytree

from fusedrnn import _library

_REFUSALS = (RuntimeError, ValueError, TypeError, NotImplementedError, MemoryError)
# The longest chain of roundings behind a result: 5 steps of 2 layers, there and back, twice.
_LENGTH = 40
_MANY = 10_000  # elements; the oracle is a Python loop over time
# "right" was compared with the oracle, "ran" could not be.
_FINE = ("right", "ran", "refused", "not made", "skipped")
_NO_VALUES = ("meta", "fake", "autocast")


class Outcome(NamedTuple):
    kind: str  # one of `_FINE`, or that of a finding
    detail: str = ""

    @property
    def is_finding(self) -> bool:
        return self.kind not in _FINE


class Packed(NamedTuple):
    """A PackedSequence whose parts are leaves."""

    data: Any
    batch_sizes: Any
    sorted_indices: Any
    unsorted_indices: Any


class Play:
    """A call drawn from (seed, index): `description` names it, `run` makes and judges it."""

    def __init__(self, seed: int, index: int, table: dict[str, tuple[int, Builder]]) -> None:
        self.rng = rng = random.Random(f"{seed}:{index}")
        torch.manual_seed(rng.getrandbits(62))
        weights = [weight for weight, _ in table.values()]
        self.target = rng.choices(tuple(table), weights)[0]
        self.call: Call = table[self.target][1](rng)
        args = {
            name: Packed(*value) if isinstance(value, PackedSequence) else value
            for name, value in self.call.args.items()
        }
        with_paths, self.spec = pytree.tree_flatten_with_path(args)
        self.names = [pytree.keystr(path) for path, _ in with_paths]
        self.leaves = [leaf for _, leaf in with_paths]
        self.trains = self.call.differentiable and rng.random() < 0.5
        self.twice = self.trains and rng.random() < 0.2
        if self.trains:
            self.leaves = [_as_leaf(leaf) for leaf in self.leaves]
        self.is_valid, self.keeps_values, self.notes = True, True, []
        self.changed: set[int] = set()
        self.error = ""  # why it could not be made
        self._draw_way()
        for _ in range(rng.choices((0, 1, 2), (30, 55, 15))[0]):
            self._change()
        seen = ", ".join(self.notes) or "valid"
        if " fake" in seen and ("huge" in seen or self.place >= 0):
            # torch's own operators do not refuse it without leaving its state changed: they print
            # both for the refusal and run out of memory, or fail an assertion in forward mode.
            self.error = "torch cannot refuse it"
        if self.place >= 0 and f"{self.names[self.place]} overlapping" in seen:
            self.error = "torch gives its tangent the same strides, with elements that overlap"
        if self.way == "autocast" and any(
            (
                (name.endswith("]") and name[-2].isdigit())
                or ("weights" in name and leaf is not None)
            )
            and not isinstance(leaf, (Tensor, bool))
            for name, leaf in zip(self.names, self.leaves)
        ):
            self.error = "torch prints a list that it refuses, and leaves autocast on"
        self.description = f"{self.target}: {seen}{' | train' * self.trains}"

    def _draw_way(self) -> None:
        self.way, self.place = "", -1
        places = [
            place
            for place, leaf in enumerate(self.leaves)
            if isinstance(leaf, Tensor) and leaf.is_floating_point()
        ]
        draw = self.rng.random()
        if not places or draw > 0.35:
            return
        ways = tuple(changes.WAYS) if self.call.differentiable else ("vmap", "functionalize")
        self.way = self.rng.choice(ways if draw < 0.22 else tuple(changes.MODES))
        if self.way in changes.WAYS:
            if self.trains:  # The transform differentiates.
                self.leaves = [t.detach() if isinstance(t, Tensor) else t for t in self.leaves]
            self.place = self.rng.choice(places)
            self.notes.append(f"{self.way} of {self.names[self.place]}")
        else:
            self.notes.append(self.way)
        self.trains = self.twice = False

    def _change(self) -> None:
        present = [place for place, leaf in enumerate(self.leaves) if leaf is not None]
        pool = present if self.rng.random() < 0.9 else range(len(self.leaves))
        pool = [place for place in pool if place not in self.changed]
        if not pool:
            return
        place = self.rng.choice(pool)
        try:
            note, value = changes.change(self.leaves[place], self.leaves, self.rng)
            if self.trains and isinstance(value, Tensor) and value.is_floating_point():
                value = value.detach().requires_grad_()
        except (
            RuntimeError,
            ValueError,
            TypeError,
            IndexError,
            AssertionError,
            MemoryError,
        ) as error:
            self.error = str(error)
            return
        self.is_valid &= note.endswith("~")
        is_grad = self.names[place].startswith(("['grads']", "['mask']"))
        self.keeps_values &= is_grad or note.removesuffix("~") in changes.SAME_VALUES
        self.changed.add(place)
        self.leaves[place] = value
        self.notes.append(f"{self.names[place]} {note}")

    def run(self) -> Outcome:
        if self.error:
            return Outcome("not made", self.error)
        before = _state()
        outcome = self._run()
        if _state() != before:
            return Outcome("state left changed", f"{before} became {_state()}")
        return outcome

    def _run(self) -> Outcome:
        try:
            actual = self._evaluate(self.call.function, self.leaves)
        except Exception as error:
            return self._judge_refusal(error)
        try:
            expected = self._expected()
        except Exception as error:
            told = "".join(traceback.format_exception(error))
            return Outcome("ran") if self.notes else Outcome("oracle failed", told)
        return Outcome("ran") if expected is None else self._compare(actual, expected)

    def _judge_refusal(self, error: Exception) -> Outcome:
        text = f"{type(error).__name__}: {error}"
        if _is_fault(error):
            return Outcome("fault", f"{text}\n{''.join(traceback.format_exception(error))}")
        unknown = (DataDependentOutputException, DynamicOutputShapeException)
        is_of_torch = any(part in text for part in _OF_TORCH)
        if isinstance(error, unknown) or "for inference only" in text or is_of_torch:
            return Outcome("refused", text)  # fake tensors have no values, as torch.nn says too
        if self.is_valid and "wrapper" not in self.description:
            with contextlib.suppress(Exception):
                if self._expected() is not None:
                    return Outcome("refused though valid", text)
        return Outcome("refused", text)

    def _expected(self) -> list[Tensor] | None:
        if self.call.oracle is None or (self.call.keeps_state and not self.keeps_values):
            return None
        tensors = [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]
        if sum(tensor.numel() for tensor in tensors) > _MANY:
            return None
        copies: dict[int, Any] = {}
        for leaf in self.leaves:
            if id(leaf) not in copies:
                copies[id(leaf)] = _copy(leaf, self.call.in_float64)
        leaves = [copies[id(leaf)] for leaf in self.leaves]
        with _without_kernels():
            return self._evaluate(self.call.oracle, leaves, is_oracle=True)

    def _evaluate(
        self, function: Callable[..., Any], leaves: list[Any], is_oracle: bool = False
    ) -> list[Tensor]:
        """Every result, then every gradient."""

        def run(leaves: list[Any]) -> tuple[Tensor, ...]:
            args = pytree.tree_unflatten(leaves, self.spec)
            for name, value in args.items():
                if isinstance(value, Packed):
                    args[name] = PackedSequence(*value)
            results = pytree.tree_leaves(function(**args))
            tensors = (_parts(result) for result in results)
            return tuple(t for parts in tensors for t in parts)[: self.call.compared]

        if self.place >= 0:
            before, after = leaves[: self.place], leaves[self.place + 1 :]
            way = changes.WAYS[self.way]
            results = way(lambda tensor: run([*before, tensor, *after]), leaves[self.place])
            return list(pytree.tree_leaves(results))
        if self.way and not is_oracle:
            is_packed = getattr(self.call.args.get("input"), "ndim", 0) == 2
            stay = {
                place
                for place, name in enumerate(self.names)
                if "batch_sizes" in name or (is_packed and name == "['sizes']")
            }
            return list(changes.MODES[self.way](run, leaves, stay))
        results = run(leaves)
        return [*results, *self._gradients(results, leaves)]

    def _gradients(self, results: tuple[Tensor, ...], leaves: list[Any]) -> list[Tensor]:
        inputs = {
            id(leaf): leaf
            for leaf in leaves
            if isinstance(leaf, Tensor) and leaf.requires_grad and leaf.is_leaf
        }
        results = tuple(result for result in results if result.requires_grad)
        if not (self.trains and inputs and results):
            return []
        grads = torch.autograd.grad(
            _loss(results), list(inputs.values()), materialize_grads=True, create_graph=self.twice
        )
        connected = tuple(grad for grad in grads if grad.requires_grad)
        if not (self.twice and connected):
            return list(grads)
        second = torch.autograd.grad(
            _loss(connected), list(inputs.values()), materialize_grads=True
        )
        return [*grads, *second]

    def _compare(self, actual: list[Tensor], expected: list[Tensor]) -> Outcome:
        shapes = [[tuple(t.shape) for t in each] for each in (actual, expected)]
        if shapes[0] != shapes[1]:
            return Outcome("wrong shape", f"expected {shapes[1]}, got {shapes[0]}")
        if self.way in _NO_VALUES:
            return Outcome("right")
        floats = [
            leaf.dtype
            for leaf in (*self.leaves, *actual)
            if isinstance(leaf, Tensor) and leaf.is_floating_point()
        ]
        coarse = max(floats, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float64)
        is_extreme = any("element" in note or "huge" in note for note in self.notes)
        # What NaN and infinity become in a derivative is nowhere said.
        differentiates = self.trains or self.place >= 0
        is_extreme |= differentiates and not all(tensor.isfinite().all() for tensor in expected)
        scale = max([1.0, *(_largest(tensor) for tensor in expected)])
        if differentiates:  # A derivative is a product with arguments, of h that was rounded.
            floating = (x for x in self.leaves if isinstance(x, Tensor) and x.is_floating_point())
            scale = max([scale, *(_largest(_copy(tensor)) for tensor in floating)])
        if any("scale_" in note for note in self.notes):
            return Outcome("ran")  # weights of any size, whose sums round by more than results tell
        if coarse.itemsize < 4 and (self.twice or "grad" in self.way or scale > 100):
            return Outcome("ran")
        allowed = tolerance(coarse, _LENGTH) * scale
        for idx, (result, wanted) in enumerate(zip(actual, expected, strict=True)):
            result, wanted = _copy(result.detach()), wanted.detach().double()
            finite = result.isfinite() & wanted.isfinite()
            misplaced = int((result.isfinite() != wanted.isfinite()).sum())
            if misplaced and not is_extreme:
                return Outcome("wrong result", f"result {idx}: {misplaced} not finite elsewhere")
            error = float(torch.where(finite, (result - wanted).abs(), 0.0).max(
                ) if finite.numel() else 0.0)  # fmt: skip
            if error > allowed and not is_extreme:
                return Outcome("wrong result", f"result {idx}: off by {error:.3g} > {allowed:.3g}")
        return Outcome("right")


def _state() -> tuple[Any, ...]:
    """What a call must leave as it was."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_autocast_enabled("cpu"),
        torch._C._functorch.maybe_current_level(),
        forward_ad._current_level,
        torch._C._len_torch_dispatch_stack(),
        str(torch._C._dispatch_tls_local_exclude_set()),
        str(torch._C._dispatch_tls_local_include_set()),
    )


def _as_leaf(leaf: Any) -> Any:
    if isinstance(leaf, Tensor) and leaf.is_floating_point():
        return leaf.detach().clone().requires_grad_()
    return leaf


def _parts(result: Any) -> tuple[Tensor, ...]:
    if isinstance(result, PackedSequence):
        return (result.data,)
    return (result,) if isinstance(result, Tensor) else ()


def _loss(results: tuple[Tensor, ...]) -> Tensor:
    """Weighs each result, so that gradients depend on all of them."""
    return sum(
        (result * torch.linspace(0.5, 1.5, result.numel()).reshape(result.shape).to(result)).sum()
        for result in results
    )


def _largest(tensor: Tensor) -> float:
    finite = tensor.detach()[tensor.isfinite()].abs()
    return float(finite.max()) if finite.numel() else 0.0


def _copy(leaf: Any, in_float64: bool = True) -> Any:
    """The oracle's own copy of an argument; raises for tensors without values."""
    if isinstance(leaf, torch.nn.Module):
        return copy.deepcopy(leaf).double()
    if not isinstance(leaf, Tensor):
        return leaf
    tensor = leaf.detach()
    if isinstance(tensor, TwoTensor):
        tensor = tensor.a
    if isinstance(tensor, changes.Marked):
        tensor = tensor.as_subclass(Tensor)
    if tensor.is_meta or type(tensor) not in (Tensor, torch.nn.Parameter):
        raise TypeError("no values")
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    tensor = tensor.resolve_neg().resolve_conj()
    if in_float64 and tensor.is_floating_point():
        tensor = tensor.double()
    return tensor.clone().requires_grad_(leaf.requires_grad)


@contextlib.contextmanager
def _without_kernels() -> Iterator[None]:
    """The package runs `fusedrnn.reference`."""
    before, _library.available = _library.available, False
    try:
        yield
    finally:
        _library.available = before


# What torch's own linear raises as well: for a conjugated or negated view in forward mode, for an
# expanded tensor in forward mode over reverse, and for a transposed input where only the bias is
# made functional.
_OF_TORCH = (
    "has_fw_view",
    "more than one element of the written-to tensor",
    "mutating a non-functional tensor with a functional tensor",
)


def _is_fault(error: Exception) -> bool:
    """Whether an exception is none with which torch refuses arguments."""
    text = str(error)
    if re.search("internal assert|report a bug", text, re.IGNORECASE):
        return not any(part in text for part in _OF_TORCH)
    if isinstance(error, _REFUSALS) and not isinstance(error, RecursionError):
        return False
    if isinstance(error, AssertionError) and re.match("Please convert all Tens|Mixing fake", text):
        return False  # torch's, of fake tensors among others
    if isinstance(error, IndexError) and not re.match("(list|tuple|string) index", text):
        return False  # torch's, of a tensor
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    is_ours = any("/fusedrnn/" in name or name.endswith("torch/_ops.py") for name in files)
    return is_ours and not re.search("torch/nn/(modules|utils)/", files[-1])
