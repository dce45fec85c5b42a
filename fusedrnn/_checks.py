"""Argument checks of `fusedrnn.functional`: torch's exception types and texts, in torch's order.

An argument of another type is a TypeError that names it, where torch has what Python says ("'list'
object has no attribute 'dim'"). Sizes are compared with the weights of the call. Where torch's text
does not help ("mat1 and mat2 must have the same dtype"), the message names the argument, what was
expected, what was found and the remedy. The operators check the rest: weights against each other,
and what no kernel takes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fusedrnn._cells import Cell
from fusedrnn._quantized import QuantizedWeights
from fusedrnn._weights import LayerWeights


def check_collection(name: str, value: Any, kinds: tuple[type, ...], noun: str) -> None:
    """Raises where a single item, or none of these kinds, stands for a collection of them."""
    remedy = f"write {name}=[...]"
    if isinstance(value, kinds) or not isinstance(value, Collection):
        found = repr(value) if isinstance(value, str) else f"a {type(value).__name__}"
        raise TypeError(f"{name}: expected a collection of {noun}, got {found}; {remedy}")
    for item in value:
        if not isinstance(item, kinds):
            raise TypeError(
                f"{name}: expected a collection of {noun}, got one with a {type(item).__name__}; "
                f"{remedy} of these"
            )


def refuse_onnx(name: str) -> None:
    """Raises where torch.onnx.export is what runs the model."""
    if torch.onnx.is_in_onnx_export():
        raise RuntimeError(
            f"{name}: ONNX has no operator for fusedrnn's modules; call fusedrnn.to_torch(model) "
            "before torch.onnx.export (and before fusedrnn.quantize)"
        )


def check_pair(name: str, state: Any, argument: str = "hx", pair: str = "(h_0, c_0)") -> None:
    if isinstance(state, (tuple, list)) and len(state) == 2:
        if state[0] is None or state[1] is None:  # to an operator, a state of zeros
            check_tensor(f"{argument}[{0 if state[0] is None else 1}]", None)
        return
    found = f"a {type(state).__name__}"
    if isinstance(state, (tuple, list)):
        found = f"{len(state)} values"
    raise TypeError(f"{name}: expected {argument} to be a tuple {pair}, got {found}; pass both")


def check_tensor(name: str, value: Any, kind: str = "a tensor") -> None:
    if isinstance(value, Tensor):
        return
    parts = value if isinstance(value, (list, tuple)) else ()
    numbers = isinstance(value, (bool, int, float, list, tuple)) or hasattr(value, "__array__")
    convertible = numbers and not any(isinstance(part, Tensor) for part in parts)
    remedy = f"torch.as_tensor({name})" if convertible else "one torch.Tensor"
    raise TypeError(f"{name}: expected {kind}, got {type(value).__name__}; pass {remedy}") from None


def check_types(name: str, cell: Cell, input: Any, hx: Any, weights: Any) -> None:
    """Raises a TypeError that names what is of another type; asked when something has failed."""
    is_cell = name.endswith("Cell")
    if isinstance(input, PackedSequence) and not is_cell:
        for field, part in zip(input._fields, input):
            if part is not None or not field.endswith("indices"):
                check_tensor(f"input.{field}", part)
    else:
        check_tensor("input", input, "a tensor" if is_cell else "a tensor or a PackedSequence")
    if hx is not None and cell.states > 1:
        check_pair(name, hx)
        for idx, state in enumerate(hx):
            check_tensor(f"hx[{idx}]", state)
    elif hx is not None:
        check_tensor("hx", hx)
    if hasattr(weights, "weight_ih") != is_cell or not hasattr(weights, "__len__"):
        expected = "LayerWeights" if is_cell else "a list of LayerWeights"
        raise TypeError(f"weights: expected {expected}, got {type(weights).__name__}") from None
    for idx, direction in enumerate((weights,) if is_cell else weights):
        for field, tensor in zip(direction._fields, direction):
            if tensor is not None or field in ("weight_ih", "weight_hh"):
                check_tensor(field if is_cell else f"weights[{idx}].{field}", tensor)


def check_ranks(name: str, input: Tensor, states: tuple[Tensor, ...]) -> None:
    """Raises torch's errors for the number of dimensions of a stack's input and states."""
    rank = input.dim()
    if rank not in (2, 3):
        noun = " tensor" if name == "RNN" else ""
        raise ValueError(f"{name}: Expected input to be 2D or 3D, got {rank}D{noun} instead")
    for state in states:
        if state.dim() == rank:
            continue
        ranks = [f"{state.dim()}-D" for state in states]
        names, found = ("hx", f"{ranks[0]} tensor")
        if len(states) > 1:
            names, found = ("hx and cx", f"({ranks[0]}, {ranks[1]}) tensors")
        raise RuntimeError(
            f"For {'batched' if rank == 3 else 'unbatched'} {rank}-D input, {names} should also "
            f"be {rank}-D but got {found}"
        )


def check_layers(
    cell: Cell,
    input: Tensor,
    states: tuple[Tensor, ...],
    weights: Sequence[LayerWeights | QuantizedWeights],
    batch_sizes: Tensor | None,
) -> None:
    """Raises torch's errors, in torch's order, for a stack's time-major input and states."""
    _check_matrices(weights[0])
    weight = weights[0].weight_ih
    dtype = weights[0].dtype
    if input.dtype != dtype and not torch._C._is_any_autocast_enabled():
        raise ValueError(
            f"RNN input dtype ({input.dtype}) does not match weight dtype ({dtype}). "
            f"Convert input: input.to({dtype}), or convert model: model.to({input.dtype})"
        )
    if batch_sizes is not None and input.dim() != 2:
        raise RuntimeError(f"input must have 2 dimensions, got {input.dim()}")
    if input.size(-1) != weight.shape[1]:
        raise RuntimeError(
            "input.size(-1) must be equal to input_size. "
            f"Expected {weight.shape[1]}, got {input.size(-1)}"
        )
    if states:
        if batch_sizes is None:
            batch_size = input.size(1)
        elif torch.compiler.is_compiling():
            batch_size = states[0].size(1)  # traced sizes have no values; the operator checks them
        else:
            batch_size = int(batch_sizes[0])
        for idx, (state, width) in enumerate(zip(states, state_widths(cell, weights[0]))):
            expected = (len(weights), batch_size, width)
            if state.size() != expected:
                label = f"hidden[{idx}]" if len(states) > 1 else "hidden"
                raise RuntimeError(f"Expected {label} size {expected}, got {list(state.size())}")
    _check_placement(input, states, weight)


def check_cell(
    name: str,
    cell: Cell,
    input: Tensor,
    h: Tensor | None,
    c: Tensor | None,
    weights: LayerWeights | QuantizedWeights,
) -> None:
    """Raises torch's errors, in torch's order, for a cell's input and states."""
    _check_matrices(weights)
    states = tuple(state for state in (h, c) if state is not None)
    rank = input.dim()
    if rank not in (1, 2):
        raise ValueError(f"{name}: Expected input to be 1D or 2D, got {rank}D instead")
    for idx, state in enumerate(states):
        if state.dim() not in (1, 2):
            label = f"hx[{idx}]" if cell.states > 1 else "hidden"
            raise ValueError(f"{name}: Expected {label} to be 1D or 2D, got {state.dim()}D instead")
    batch: tuple[int, ...] = (1,) if rank == 1 else ()  # the batch dimension that one row lacks
    batch_size, input_size = (*batch, *input.shape)
    if input_size != weights.weight_ih.shape[1]:
        raise RuntimeError(
            f"input has inconsistent input_size: got {input_size} expected "
            f"{weights.weight_ih.shape[1]}"
        )
    for idx, (state, width) in enumerate(zip(states, state_widths(cell, weights))):
        rows, *found = (*batch, *state.shape)
        if rows != batch_size:
            raise RuntimeError(
                f"Input batch size {batch_size} doesn't match hidden{idx} batch size {rows}"
            )
        if found != [width]:
            shown = found[0] if found and found[0] != width else found
            raise RuntimeError(
                f"hidden{idx} has inconsistent hidden_size: got {shown}, expected {width}"
            )
    if input.dtype != weights.dtype and not torch._C._is_any_autocast_enabled():
        raise RuntimeError(
            f"input: expected dtype {weights.dtype}, that of the weights, got "
            f"{input.dtype}; convert it with input.to({weights.dtype})"
        )
    _check_placement(input, states, weights.weight_ih)


def _check_matrices(weights: LayerWeights | QuantizedWeights) -> None:
    """Raises unless sizes can be read off the weights."""
    for name in ("weight_ih", "weight_hh"):
        shape = tuple(getattr(weights, name).shape)
        if len(shape) != 2:
            raise RuntimeError(f"{name}: expected 2 dimensions, got shape {shape}")


def state_widths(cell: Cell, weights: LayerWeights | QuantizedWeights) -> tuple[int, ...]:
    """The width of h, and that of c where the cell has one."""
    return (weights.weight_hh.shape[1], weights.weight_hh.shape[0] // cell.gates)[: cell.states]


def _check_placement(input: Tensor, states: tuple[Tensor, ...], weight: Tensor) -> None:
    """Raises unless input, states and weight share a device, and input and states a dtype."""
    if input.device != weight.device:
        raise RuntimeError(
            "Input and parameter tensors are not at the same device, found input tensor at "
            f"{input.device} and parameter tensor at {weight.device}"
        )
    for idx, state in enumerate(states):
        if state.device != input.device:
            raise RuntimeError(
                "Input and hidden tensors are not at the same device, found input tensor at "
                f"{input.device} and hidden tensor at {state.device}"
            )
        if state.dtype != input.dtype and not torch._C._is_any_autocast_enabled():
            label = "hx" if len(states) == 1 else f"hx[{idx}]"
            raise RuntimeError(
                f"{label}: expected dtype {input.dtype}, that of the input, got {state.dtype}; "
                f"convert it with {label}.to({input.dtype})"
            )
