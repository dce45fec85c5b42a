"""Inference on weights in fewer bytes: `quantize`."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import fx, nn

from fusedrnn import compat, modules
from fusedrnn._quantized import DTYPES, store
from fusedrnn.convert import (
    CLASS_NAMES,
    class_label,
    exact_type,
    is_of_torch_ao,
    recurrent_modules,
    skipped_ids,
    torch_classes,
)
from fusedrnn.modules import quantized

__all__ = ["quantize"]

_CLASSES = {
    getattr(space, name): getattr(quantized, f"Quantized{name}")
    for space in (torch_classes, modules, compat)
    for name in CLASS_NAMES
}


def quantize(
    model: nn.Module, dtype: torch.dtype, *, skip: Collection[str | nn.Module] = ()
) -> nn.Module:
    """Copies a model, with the weights of its recurrent layers stored in fewer bytes.

    For inference, where a step of few rows takes as long as its weights take to read: bfloat16 and
    float16 halve that, int8 quarters it. Everything else stays float32: input, states, output,
    biases and sums. int8 has one float32 scale a row: w = scale * round(w / scale), with
    scale = max |row| / 127. Calls of few steps on the CPU read the stored weights where they lie;
    others, and CUDA, make them float32 again once a call, and gain memory, not time.

    A weight is off by at most 2^-8 of itself in bfloat16, 2^-11 in float16 (below 6e-5 by at most
    3e-8), and by 1/254 of its row's largest in int8. The documentation has errors of results.

    Args:
        model: any module; it may itself be recurrent. Each `RNN`, `LSTM`, `GRU` and cell of
            torch.nn or fusedrnn in it becomes one of fusedrnn's, and is called as before.
        dtype: torch.bfloat16, torch.float16 or torch.int8.
        skip: modules to leave as they are, with what they contain, by name in the model or as
            objects.

    Returns:
        The copy. Its weights are buffers: `state_dict` has them, and scales as `scale_hh_l0` beside
        `weight_hh_l0`. They move with the module and keep their dtype under `float()` and the like.
        No gradient can be asked for: input and states must not require one where gradients are
        enabled. Under autocast, input becomes float32, and so is the result.

    Raises:
        TypeError: dtype is none of these, a recurrent module is of another class (`PeepholeLSTM`, a
            subclass, a graph) or has a `forward` of its own, or skip is no collection of names and
            modules.
        ValueError: nothing in the model is recurrent, nothing that an item of skip names is, or a
            weight is not finite in dtype.
        RuntimeError: a weight is not float32, or is computed, as by a parametrization.

    Examples:
        >>> model = nn.ModuleDict({"encoder": nn.LSTM(5, 3), "head": nn.Linear(3, 2)})
        >>> small = quantize(model, torch.int8)
        >>> small["encoder"]
        QuantizedLSTM(5, 3, stored in int8)
        >>> with torch.no_grad():
        ...     output, (h_n, c_n) = small["encoder"](torch.randn(1, 1, 5))
        >>> output.shape
        torch.Size([1, 1, 3])
    """
    if dtype not in DTYPES:
        names = ", ".join(map(str, DTYPES))
        raise TypeError(f"dtype: expected one of {names}, got {dtype}")
    found = recurrent_modules(model)
    skipped = skipped_ids(model, skip, found)
    found = {name: module for name, module in found.items() if id(module) not in skipped}
    for name, module in found.items():
        _check(name or type(module).__name__, module, dtype)
    if not found:
        raise ValueError(
            f"model: expected a recurrent layer or cell in it, got {type(model).__name__} without; "
            "pass a model that has one that is not in skip"
        )
    result = copy.deepcopy(model)
    for name, module in found.items():
        quantized.quantize_weights(result.get_submodule(name), _CLASSES[type(module)], dtype)
    return result


def _check(name: str, module: nn.Module, dtype: torch.dtype) -> None:
    if exact_type(module) not in _CLASSES:
        raise TypeError(
            f"{name}: expected one of {', '.join(CLASS_NAMES)} of torch.nn or fusedrnn, got "
            f"{class_label(module)}, {_why_not(module)}"
        )
    if "forward" in vars(module):
        raise TypeError(
            f"{name}.forward: expected that of the class, got one set on the module, which may "
            "rely on its weights; delete it, or name the module in skip="
        )
    computed = next((key for key in _weight_names(module) if key not in module._parameters), None)
    if computed is not None:
        raise RuntimeError(
            f"{name}.{computed}: expected a parameter, got what is computed from others; remove "
            "the parametrization or the hook first, and keep its result"
        )
    for key, parameter in module.named_parameters():
        if parameter.dtype != torch.float32:
            raise RuntimeError(
                f"{name}.{key}: expected dtype torch.float32, got {parameter.dtype}; call "
                "model.float() first"
            )
        if parameter.dim() == 2:
            stored, scale = store(parameter.detach(), dtype)
            if not (stored if scale is None else scale).isfinite().all():
                raise ValueError(
                    f"{name}.{key}: expected elements that are finite in {dtype}, got others"
                )


def _why_not(module: nn.Module) -> str:
    """Why a module of another class stays as it is, and what to do."""
    if hasattr(module, "stored_dtype"):
        return "which is quantized already; quantize the float32 model, or name it in skip="
    if isinstance(module, modules.RecurrentBase):
        return (
            f"a RecurrentBase of the cell {module.cell}, which has no kernels for weights in fewer "
            "bytes; name it in skip=, where it stays float32"
        )
    if isinstance(module, (torch.jit.ScriptModule, fx.GraphModule)):
        return (
            "whose operators are fixed; quantize the Python model before it is scripted, traced or "
            "exported, or name it in skip="
        )
    if is_of_torch_ao(module):
        return "whose weights are torch.ao's; quantize the float32 model, or name it in skip="
    return "whose own code may rely on its weights; name it in skip="


def _weight_names(module: nn.Module) -> list[str]:
    if isinstance(module, nn.RNNBase):
        return module._flat_weights_names
    return ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if module.bias else [])]
