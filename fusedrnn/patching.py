"""Code that looks the classes up in torch.nn and cannot be changed: `patch`."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import threading
import warnings
from collections.abc import Collection, Iterator
from types import ModuleType
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from fusedrnn import compat
from fusedrnn._checks import check_collection
from fusedrnn.convert import CLASS_NAMES, TORCH_CLASSES, Report, class_label, torch_classes
from fusedrnn.modules.base import CellMixin, LayersMixin

__all__ = ["patch"]

_NEW = {cls: getattr(compat, name) for name, cls in zip(CLASS_NAMES, TORCH_CLASSES)}
_lock = threading.Lock()
# Of each patched name, by its namespace's id and itself: how many open blocks patch it, and what
# it meant before.
_patched: dict[tuple[int, Any], tuple[int, type]] = {}


@contextlib.contextmanager
def patch(*, modules: Collection[str | ModuleType] = ()) -> Iterator[Report]:
    """Within the block, torch.nn's recurrent class names mean those of `fusedrnn.compat`.

    For code that looks the classes up in torch.nn and cannot be changed. `torch.nn` and
    `torch.nn.modules` are patched, for all threads. What is built within the block is an instance
    of torch.nn's classes and stays fusedrnn's after it. Blocks may nest; the last to end restores
    the names, after an exception too. Works as a decorator. `python -m fusedrnn.run` runs a script
    in such a block, from its first import.

    A name imported before the block (`from torch.nn import LSTM`) keeps its meaning, unless its
    module is in `modules`. Where a layer of torch.nn's own was built in the block, a warning says
    where, and why.

    Args:
        modules: Python modules that hold names of torch.nn's recurrent classes, as variables or in
            dicts that are variables; by name (they are imported where they are not yet) or as
            objects. These are patched too.

    Yields:
        A `Report` of what is built within the block, that grows: `replaced` has fusedrnn's layers
        and cells that took the place of torch.nn's, `skipped` torch.nn's, `already` those built as
        fusedrnn's own; each with where it was built, "module:line", in place of a name.

    Raises:
        TypeError: modules is a single one, or holds something else.
        ValueError: one of them has no such name, or defines them, as torch.nn.modules.rnn.

    Examples:
        >>> with patch() as report:
        ...     layer = nn.LSTM(5, 3)
        >>> type(layer), isinstance(layer, nn.LSTM)
        (<class 'fusedrnn.compat.LSTM'>, True)
        >>> print(str(report).splitlines()[0])
        1 replaced, 0 skipped
    """
    with record(modules) as report:
        yield report
    if report.skipped:
        message = f"patch: torch.nn's own layers were built in the block.\n{report}"
        warnings.warn(message, stacklevel=3)


@contextlib.contextmanager
def record(modules: Collection[str | ModuleType] = ()) -> Iterator[Report]:
    """`patch` without its warning."""
    names = _names_of(modules)
    report = Report(None)
    hook = register_module_parameter_registration_hook(functools.partial(_record, report))
    _set(names)
    try:
        yield report
    finally:
        _restore(names)
        hook.remove()


def _names_of(modules: Collection[str | ModuleType]) -> dict[tuple[int, Any], dict[Any, Any]]:
    """The namespace of each name to patch, in torch.nn and these, by its id and the name."""
    check_collection("modules", modules, (str, ModuleType), "Python modules and their names")
    names = {
        (id(vars(space)), name): vars(space) for space in (nn, nn.modules) for name in CLASS_NAMES
    }
    for module in modules:
        module = importlib.import_module(module) if isinstance(module, str) else module
        spaces = [vars(module), *(value for value in vars(module).values() if type(value) is dict)]
        found = {
            (id(space), name): space
            for space in spaces
            for name, value in list(space.items())
            if isinstance(value, type) and (value in _NEW or value in _NEW.values())
        }
        if not found or module is torch_classes:
            raise ValueError(
                "modules: expected modules with names of torch.nn's recurrent classes, got "
                f"{module.__name__}, which {'defines them' if found else 'has none'}; leave it out"
            )
        names |= found
    return names


def _set(names: dict[tuple[int, Any], dict[Any, Any]]) -> None:
    with _lock:
        for key, space in names.items():
            depth, original = _patched.get(key, (0, space[key[1]]))
            _patched[key] = (depth + 1, original)
            space[key[1]] = _NEW.get(original, original)


def _restore(names: dict[tuple[int, Any], dict[Any, Any]]) -> None:
    with _lock:
        for key, space in names.items():
            depth, original = _patched.pop(key)
            if depth > 1:
                _patched[key] = (depth - 1, original)
            else:
                space[key[1]] = original


def _record(report: Report, module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Called before each parameter that any module gets; a new module has none yet."""
    if module._parameters or not isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return
    space, line = _where_built(module)
    where, new = f"{space}:{line}", class_label(module)
    base = next((base for base in type(module).__mro__ if base in _NEW), None)
    old = new if base is None else f"torch.nn.{base.__name__}"
    if not isinstance(module, (LayersMixin, CellMixin)):
        reason = (
            "its class was taken from torch.nn before the block: "
            f"patch(modules=[{space!r}]) if it was taken there, else replace(model)"
            if type(module) is base
            else "a class derived from torch.nn's before the block; replace(model, subclasses=True)"
        )
        report.skipped.append((where, new, reason))
    elif base is None:
        report.already.append((where, new))
    else:
        report.replaced.append((where, old, new))


def _where_built(module: nn.Module) -> tuple[str, int]:
    """The Python module and line that called the class: the first frame not of the object's own."""
    frame = sys._getframe(2)
    while frame.f_back is not None:
        first = frame.f_code.co_varnames[:1]
        if not first or frame.f_locals.get(first[0]) is not module:
            break
        frame = frame.f_back
    return frame.f_globals.get("__name__", "?"), frame.f_lineno
