"""How torch's tracers and exporters take fusedrnn's modules: as a whole, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from fusedrnn._checks import refuse_onnx

__all__ = ["Module", "ToolsMixin"]

if TYPE_CHECKING:
    from torch.nn import Module
else:
    Module = object  # a mixin's super() is one of torch's classes, which it stands before


class _ModuleName(str):
    """A class's `__module__` that reads as one of torch.nn's on instances.

    torch.fx and torch.ao keep a module whole, as a leaf, where `module.__module__` begins with
    "torch.nn", and ask nothing else. It does not begin with "torch.nn.": Dynamo asks for that, and
    traces ours.
    """

    __slots__ = ()

    def __get__(self, instance: Any, owner: type | None = None) -> str:
        return self if instance is None else f"torch.nn ({self})"

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)  # pickle writes a class by its `__module__`


class ToolsMixin(Module):
    """What layers and cells share."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A user's subclass is traced through, as one of torch.nn's classes is.
        if cls.__module__.partition(".")[0] == "fusedrnn":
            cls.__module__ = _ModuleName(cls.__module__)

    def __prepare_scriptable__(self) -> NoReturn:
        """torch.jit.script calls it on every module."""
        raise RuntimeError(
            f"{type(self).__name__}: torch.jit.script cannot compile fusedrnn's modules; use "
            "torch.jit.trace, or call fusedrnn.to_torch(model) first"
        )

    def _slow_forward(self, *args: Any, **kwargs: Any) -> Any:
        """What nn.Module calls in place of forward under torch.jit.trace."""
        refuse_onnx(type(self).__name__)
        return super()._slow_forward(*args, **kwargs)
