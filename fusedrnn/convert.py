"""Models that exist: torch.nn's recurrent modules to fusedrnn's in place, and back.

A conversion changes the class of a module and nothing else. The module stays the same object
with the same parameters, so that optimizers, hooks, tied weights, parametrizations and other
references to it hold, wherever they are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Collection, Iterator

import torch
from torch import nn
from torch.nn.modules import rnn as torch_classes  # `patch` leaves this module as it is
from torch.nn.utils import parametrize

from fusedrnn import _library, modules
from fusedrnn import compat as compat_classes
from fusedrnn.modules.base import CellMixin, LayersMixin

__all__ = ["Report", "patch", "replace", "to_torch"]

CLASS_NAMES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclasses.dataclass
class Report:
    """What a conversion did; ``str()`` of it is a table.

    Attributes:
        model: the converted model, the same object that was given.
        replaced: (name in the model, class before, class after) of each converted module; the
            model itself has the name "".
        skipped: (name in the model, class, reason) of each recurrent module left as it is.
    """

    model: nn.Module = dataclasses.field(repr=False)
    replaced: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    skipped: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        rows = [(name or "(model)", f"{old} -> {new}") for name, old, new in self.replaced]
        rows += [(name or "(model)", f"{old} skipped: {why}") for name, old, why in self.skipped]
        width = max((len(name) for name, _ in rows), default=0)
        lines = [f"  {name.ljust(width)}  {text}" for name, text in rows]
        return "\n".join([f"{len(self.replaced)} replaced, {len(self.skipped)} skipped", *lines])


def replace(
    model: nn.Module, *, skip: Collection[str | nn.Module] = (), compat: bool = False
) -> Report:
    """Turns the recurrent modules of a model into fusedrnn's, in place.

    `torch.nn.RNN`, `LSTM`, `GRU` and their cells change class; the module objects, their
    parameters, hooks and flags stay the same. Skipped, with a reason in the report: subclasses
    of these, whose own code may rely on torch's forward; and modules whose dtype or device
    has no kernel.

    Args:
        model: any module; it may itself be recurrent.
        skip: modules to leave as they are, by name in the model or as objects.
        compat: use the classes of `fusedrnn.compat`, which pass `isinstance` tests for those
            of torch.nn, at their cost under torch.compile.

    Returns:
        What was replaced, what was skipped and why.

    Example:
        >>> model = nn.ModuleDict({"encoder": nn.LSTM(5, 3), "head": nn.Linear(3, 2)})
        >>> print(replace(model))
        1 replaced, 0 skipped
          encoder  torch.nn.LSTM -> fusedrnn.LSTM
    """
    to = compat_classes if compat else modules
    return _convert(
        model, {getattr(torch_classes, name): getattr(to, name) for name in CLASS_NAMES}, skip
    )


def to_torch(model: nn.Module, *, skip: Collection[str | nn.Module] = ()) -> Report:
    """Turns fusedrnn's modules in a model into torch.nn's, in place; undoes `replace`.

    For exporters and tools that know torch.nn's modules only.

    Args:
        model: any module; it may itself be recurrent.
        skip: modules to leave as they are, by name in the model or as objects.

    Returns:
        What was replaced, what was skipped and why.

    Example:
        >>> report = to_torch(modules.GRU(5, 3))
        >>> type(report.model)
        <class 'torch.nn.modules.rnn.GRU'>
    """
    classes = {
        getattr(source, name): getattr(torch_classes, name)
        for source in (modules, compat_classes)
        for name in CLASS_NAMES
    }
    return _convert(model, classes, skip)


def _convert(
    model: nn.Module,
    classes: dict[type[nn.Module], type[nn.Module]],
    skip: Collection[str | nn.Module],
) -> Report:
    report = Report(model)
    for name, module in model.named_modules():
        old = exact_type(module)
        if not isinstance(module, (nn.RNNBase, nn.RNNCellBase)) or old in classes.values():
            continue
        reason = _reason_to_skip(name, module, classes, skip)
        if reason:
            report.skipped.append((name, _label(old), reason))
            continue
        new = classes[old]
        _change_class(module, new)
        report.replaced.append((name, _label(old), _label(new)))
    return report


def _reason_to_skip(
    name: str,
    module: nn.Module,
    classes: dict[type[nn.Module], type[nn.Module]],
    skip: Collection[str | nn.Module],
) -> str | None:
    if any(item is module or item == name for item in skip):
        return "asked for"
    exact = exact_type(module)
    if exact not in classes:
        base = next((base for base in exact.__mro__ if base in classes), None)
        if base is not None:
            return f"a subclass of {_label(base)}, whose own code may rely on it"
        ours = isinstance(module, (LayersMixin, CellMixin))
        return "fusedrnn's already" if ours else "no class to convert it to"
    weight = next(module.parameters(), None)
    if weight is None or classes[exact].__module__ == torch_classes.__name__:
        return None
    if weight.dtype not in _DTYPES:
        return f"its weights are {weight.dtype}, which has no kernel"
    if not _has_kernels(weight.device):
        return f"its weights are on {weight.device}, which has no kernel"
    return None


def _has_kernels(device: torch.device) -> bool:
    """The fallback runs on every device, and meta tensors have nothing to run."""
    return (
        not _library.available
        or device.type == "meta"
        or torch._C._dispatch_has_kernel_for_dispatch_key(
            "fusedrnn::layer_forward", device.type.upper()
        )
    )


def exact_type(module: nn.Module) -> type[nn.Module]:
    """The module's class; for a parametrized module, the one it had before."""
    cls = type(module)
    return cls.__bases__[0] if parametrize.is_parametrized(module) else cls


def _change_class(module: nn.Module, cls: type[nn.Module]) -> None:
    if parametrize.is_parametrized(module):
        # torch made a class of the old one with a property for each parametrized tensor.
        members = {
            key: value
            for key, value in vars(type(module)).items()
            if key not in ("__dict__", "__weakref__", "__doc__")
        }
        cls = type(f"Parametrized{cls.__name__}", (cls,), members)
    module.__class__ = cls
    if isinstance(module, nn.RNNBase):
        vars(module).pop("_flat_weights", None)
        module._init_flat_weights()


def _label(cls: type) -> str:
    package = "torch.nn" if cls.__module__.startswith("torch.nn.") else cls.__module__
    return (
        f"{package.removesuffix('.modules.layers').removesuffix('.modules.cells')}.{cls.__name__}"
    )


class _Patch:
    """How many `patch` blocks are open, in all threads, and what the first one found."""

    lock = threading.Lock()
    depth = 0
    originals: list[tuple[object, str, type]] = []


@contextlib.contextmanager
def patch() -> Iterator[None]:
    """Within the block, torch.nn's recurrent class names mean those of `fusedrnn.compat`.

    For code that looks the classes up in torch.nn and cannot be changed. `torch.nn` and
    `torch.nn.modules` are patched, for all threads; a name imported before the block keeps its
    meaning. What is built within the block is an instance of torch.nn's classes and stays
    fusedrnn's after it. Blocks may nest; the last to end restores the names, after an exception
    too. Works as a decorator.

    Example:
        >>> with patch():
        ...     layer = nn.LSTM(5, 3)
        >>> type(layer), isinstance(layer, nn.LSTM)
        (<class 'fusedrnn.compat.LSTM'>, True)
    """
    with _Patch.lock:
        if _Patch.depth == 0:
            _Patch.originals = [
                (space, name, getattr(space, name))
                for space in (nn, nn.modules)
                for name in CLASS_NAMES
            ]
            for space, name, _ in _Patch.originals:
                setattr(space, name, getattr(compat_classes, name))
        _Patch.depth += 1
    try:
        yield
    finally:
        with _Patch.lock:
            _Patch.depth -= 1
            if _Patch.depth == 0:
                for space, name, original in _Patch.originals:
                    setattr(space, name, original)
