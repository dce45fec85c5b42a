"""Models that exist: torch.nn's recurrent modules to fusedrnn's in place, and back.

A conversion changes the class of a module and nothing else. The module stays the same object
with the same parameters, so that optimizers, hooks, tied weights, parametrizations and other
references to it hold, wherever they are.

Note [Subclasses]: a user's `class Mine(nn.LSTM)` is converted by a class of both, with the bases
`(Mine, compat.LSTM)`. In its method resolution order fusedrnn's forward stands between Mine's and
torch's, so that Mine's code runs as before and its `super().forward` is ours.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules import rnn as torch_classes  # `patch` leaves this module as it is
from torch.nn.utils import parametrize

from fusedrnn import _library, modules
from fusedrnn import compat as compat_classes
from fusedrnn._checks import check_collection
from fusedrnn._fake import device_has_kernels
from fusedrnn.modules.base import CellMixin, LayersMixin

__all__ = ["Report", "replace", "to_torch"]

CLASS_NAMES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
TORCH_CLASSES = tuple(getattr(torch_classes, name) for name in CLASS_NAMES)
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_OUR_OPERATOR = re.compile(r"\bfusedrnn::|\bops\.fusedrnn\.")
_THEIR_OPERATOR = re.compile(
    r"(\baten::|\bquantized::|\bops\.(aten|quantized)\.|\b_VF\.)\w*(lstm|gru|rnn_)"
)

_OWN_FORWARD = "it has an attribute `forward` that would run, not the class's; delete that first"


@dataclasses.dataclass
class Report:
    """What a conversion did; ``str()`` of it is a table. Every recurrent module is in one list.

    Attributes:
        model: the converted model, the same object that was given; of `patch`, None.
        replaced: (name in the model, class before, class after) of each converted module; the
            model itself has the name "". Of `patch`, where it was built instead of a name.
        skipped: (name in the model, class, reason) of each recurrent module left as it is.
        already: (name in the model, class) of each that was of the wanted kind before.
    """

    model: nn.Module | None = dataclasses.field(repr=False)
    replaced: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    skipped: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    already: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        rows = Counter((name or "(model)", f"{old} -> {new}") for name, old, new in self.replaced)
        rows.update((name or "(model)", f"{old} skipped: {why}") for name, old, why in self.skipped)
        rows.update((name or "(model)", f"{cls} already") for name, cls in self.already)
        width = max((len(name) for name, _ in rows), default=0)
        summary = f"{len(self.replaced)} replaced, {len(self.skipped)} skipped"
        if self.already:
            summary += f", {len(self.already)} already"
        lines = [
            f"  {name.ljust(width)}  {text}" + (f" ({count} times)" if count > 1 else "")
            for (name, text), count in rows.items()
        ]
        return "\n".join([summary, *lines])


def replace(
    model: nn.Module,
    *,
    skip: Collection[str | nn.Module] = (),
    compat: bool = True,
    subclasses: bool = False,
) -> Report:
    """Turns the recurrent modules of a model into fusedrnn's, in place.

    `torch.nn.RNN`, `LSTM`, `GRU` and their cells change class; the module objects, their
    parameters, hooks and flags stay the same. What cannot be replaced is in the report with its
    reason: subclasses, unless asked for; modules that carry a `forward` of their own; dtypes and
    devices without a kernel; TorchScript, exported graphs and torch.ao's layers.

    The new classes are those of `fusedrnn.compat`, which pass `isinstance` tests for torch.nn's,
    since code about a model may rest on them: initialization, samplers, state handling. Under
    `torch.compile` they behave as torch.nn's do: Dynamo runs the frame that calls a layer in eager
    mode, and refuses `fullgraph=True`, unless `torch._dynamo.config.allow_rnn` is set. With
    `compat=False` the classes are `fusedrnn.LSTM` and so on, which compile into the model's one
    graph and are instances of `torch.nn.RNNBase` only.

    Args:
        model: any module; it may itself be recurrent.
        skip: modules to leave as they are, with what they contain, by name in the model or as
            objects.
        compat: use the classes of `fusedrnn.compat`.
        subclasses: also convert subclasses of torch.nn's classes whose `forward`, where they have
            one, calls `super().forward`. Their code runs as before, over fusedrnn's forward; the
            class, `FusedMine` for `Mine`, is a subclass of theirs and of `fusedrnn.compat`'s.
            Instances can be copied and pickled; the new class itself cannot.

    Returns:
        What was replaced, what was skipped and why, and what was fusedrnn's already.

    Raises:
        TypeError: skip is a single name or module, or holds something else.
        ValueError: an item of skip is not in the model, or nothing recurrent is in it.

    Examples:
        >>> model = nn.ModuleDict({"encoder": nn.LSTM(5, 3), "head": nn.Linear(3, 2)})
        >>> print(replace(model))
        1 replaced, 0 skipped
          encoder  torch.nn.LSTM -> fusedrnn.compat.LSTM
        >>> isinstance(model["encoder"], nn.LSTM)
        True
    """
    space = compat_classes if compat else modules
    return _convert(model, skip, lambda module: _fused_class(module, space, subclasses))


def to_torch(model: nn.Module, *, skip: Collection[str | nn.Module] = ()) -> Report:
    """Turns fusedrnn's modules in a model into torch.nn's, in place; undoes `replace`.

    For exporters and tools that know torch.nn's modules only.

    Args:
        model: any module; it may itself be recurrent.
        skip: modules to leave as they are, with what they contain, by name in the model or as
            objects.

    Returns:
        What was replaced, what was skipped and why, and what was torch's already.

    Raises:
        TypeError, ValueError: as `replace`.

    Examples:
        >>> report = to_torch(modules.GRU(5, 3))
        >>> type(report.model)
        <class 'torch.nn.modules.rnn.GRU'>
    """
    return _convert(model, skip, _plain_class)


def _convert(
    model: nn.Module,
    skip: Collection[str | nn.Module],
    choose: Callable[[nn.Module], type[nn.Module] | str | None],
) -> Report:
    """`choose` gives a module's new class, a reason for none, or None where it has it already."""
    report = Report(model)
    found = recurrent_modules(model)
    skipped = skipped_ids(model, skip, found)
    for name, module in found.items():
        old = class_label(module)
        new = "asked for" if id(module) in skipped else choose(module)
        if new is None:
            report.already.append((name, old))
        elif isinstance(new, str):
            report.skipped.append((name, old, new))
        else:
            _change_class(module, new)
            report.replaced.append((name, old, class_label(module)))
    return report


def recurrent_modules(model: nn.Module) -> dict[str, nn.Module]:
    """By name in the model, each module that is or runs a recurrent layer or cell, whosever."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}; pass one")
    return {name: module for name, module in model.named_modules() if _is_recurrent(module)}


def _is_recurrent(module: nn.Module) -> bool:
    return (
        isinstance(module, (nn.RNNBase, nn.RNNCellBase))
        or is_of_torch_ao(module)
        # A traced cell is plain products, and known by its name.
        or (isinstance(module, torch.jit.ScriptModule) and module.original_name in CLASS_NAMES)
        or bool(_OUR_OPERATOR.search(graph := _graph(module)) or _THEIR_OPERATOR.search(graph))
    )


def is_of_torch_ao(module: nn.Module) -> bool:
    return any(
        base.__module__.startswith("torch.ao.nn.") and base.__name__ in CLASS_NAMES
        for base in type(module).__mro__
    )


def _graph(module: nn.Module) -> str:
    """Of TorchScript and torch.fx, the operators that the module itself calls; else nothing."""
    if isinstance(module, torch.jit.ScriptModule):
        own = module._c
        return "\n".join(str(own._get_method(name).graph) for name in own._method_names())
    return str(module.graph) if isinstance(module, fx.GraphModule) else ""


def skipped_ids(
    model: nn.Module, skip: Collection[str | nn.Module], found: dict[str, nn.Module]
) -> set[int]:
    """The ids of those of the `found` modules that skip names, themselves or in what has them."""
    check_collection("skip", skip, (str, nn.Module), "names and modules")
    by_name = dict(model.named_modules(remove_duplicate=False))
    present = {id(module) for module in by_name.values()}
    recurrent = {id(module) for module in found.values()}
    skipped = set()
    for item in skip:
        module = by_name.get(item) if isinstance(item, str) else item
        inside = set()
        if module is not None and id(module) in present:
            inside = recurrent.intersection(map(id, module.modules()))
        if not inside:
            label = repr(item) if isinstance(item, str) else f"a {type(item).__name__}"
            raise ValueError(
                "skip: expected recurrent modules of the model, or what contains them, got "
                f"{label}; the model has {', '.join(map(repr, found)) or 'none'}"
            )
        skipped |= inside
    return skipped


def _fused_class(module: nn.Module, space: Any, subclasses: bool) -> type[nn.Module] | str | None:
    if not isinstance(module, (nn.RNNBase, nn.RNNCellBase)) or is_of_torch_ao(module):
        return _reason_of_another_kind(module)
    cls = exact_type(module)
    ours = isinstance(module, (LayersMixin, CellMixin))
    base = next((base for base in cls.__mro__ if base in TORCH_CLASSES), None)
    if base is None and not ours:
        return "no class to convert it to"
    stop = _where_super_ends(cls, "fusedrnn." if ours else "torch.nn.")
    if stop is not None:
        return f"{_label(stop)}.forward does not call super().forward"
    if ours:
        return None
    if "forward" in vars(module):
        return _OWN_FORWARD
    if cls is not base and not subclasses:
        return (
            f"a subclass of {_label(base)}, whose own code may rely on it; "
            "replace(..., subclasses=True) runs that code over fusedrnn's forward"
        )
    weight = next(module.parameters(), None)
    if weight is not None and weight.dtype not in _DTYPES:
        return f"its weights are {weight.dtype}, which has no kernel"
    if weight is not None and _library.available and not device_has_kernels(weight.device):
        return f"its weights are on {weight.device}, which has no kernel"
    if cls is base:
        return getattr(space, base.__name__)
    return fused_subclass(cls, getattr(compat_classes, base.__name__))


def _reason_of_another_kind(module: nn.Module) -> str | None:
    if _OUR_OPERATOR.search(_graph(module)):
        return None
    if isinstance(module, torch.jit.ScriptModule):
        return "TorchScript, whose operators are fixed; replace in the Python model"
    if isinstance(module, fx.GraphModule):
        return "a graph, whose operators are fixed; replace before it is traced or exported"
    return "torch.ao's layer, which has other weights; use fusedrnn.quantize on the float model"


def _where_super_ends(cls: type, package: str) -> type | None:
    """The class whose forward keeps `super().forward` from reaching one of package, if any."""
    for base in cls.__mro__:
        if base.__module__.startswith(package):
            return None
        if "forward" in vars(base):
            code = getattr(inspect.unwrap(vars(base)["forward"]), "__code__", None)
            if code is None or not {"super", "forward"} <= set(code.co_names):
                return base
    return None


def _plain_class(module: nn.Module) -> type[nn.Module] | str | None:
    if not isinstance(module, (LayersMixin, CellMixin)):
        if _OUR_OPERATOR.search(_graph(module)):
            return "a graph, whose operators are fixed; convert before it is traced or exported"
        return None
    if "forward" in vars(module):
        return _OWN_FORWARD
    cls = exact_type(module)
    if "_fused_from" in vars(cls):
        return vars(cls)["_fused_from"]
    ours = {
        getattr(space, name): getattr(torch_classes, name)
        for space in (modules, compat_classes)
        for name in CLASS_NAMES
    }
    return ours.get(cls, "a class derived from fusedrnn's, whose own code may rely on it")


# By the arguments of `fused_subclass`; functools.cache would lose their types, and could give two
# threads a class each.
_fused_subclasses: dict[tuple[type, type], type[nn.Module]] = {}


def fused_subclass(cls: type[nn.Module], base: type[nn.Module]) -> type[nn.Module]:
    """The class that runs cls over fusedrnn's forward; see Note [Subclasses]."""
    known = _fused_subclasses.get((cls, base))
    if known is not None:
        return known

    def reduce(self: nn.Module, protocol: int) -> tuple[Any, ...]:
        """Makes the class again where the pickle is read, since no module has it by name."""
        return (_new, (cls, base), *super(fused, self).__reduce_ex__(protocol)[2:])

    members: dict[str, Any] = {"__module__": cls.__module__, "__doc__": cls.__doc__}
    members |= {"__reduce_ex__": reduce, "_fused_from": cls}
    metaclass: Any = type(cls)
    fused = metaclass(f"Fused{cls.__name__}", (cls, base), members)
    return _fused_subclasses.setdefault((cls, base), fused)


def _new(cls: type[nn.Module], base: type[nn.Module]) -> nn.Module:
    fused = fused_subclass(cls, base)
    return fused.__new__(fused)


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


def class_label(module: nn.Module) -> str:
    """The class of a module as a report says it."""
    if isinstance(module, torch.jit.ScriptModule):
        return f"TorchScript {module.original_name}"
    if isinstance(module, fx.GraphModule):
        return "torch.fx.GraphModule"
    return _label(exact_type(module))


def _label(cls: type) -> str:
    package = cls.__module__
    if package.startswith("torch.nn."):
        package = "torch.nn"
    elif getattr(modules, cls.__name__, None) is cls:
        package = "fusedrnn"
    return f"{package}.{cls.__name__}"
