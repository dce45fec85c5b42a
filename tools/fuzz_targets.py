"""What the fuzzer calls: every operator, function and module, with valid random arguments.

Operators come from the dispatcher and everything else from the packages' `__all__`, so that a new
one is not forgotten: `targets` raises for a public function that nothing here can call, and an
operator's argument of a new name gets a value of its type.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from fuzz_oracles import backward_oracle, cell_oracle, layer_oracle
from layer_cases import Layer, make_layer, named_backward_args, op_args
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import fusedrnn
from fusedrnn import _quantized, compat, convert, functional, info, ops, reference
from fusedrnn.modules import quantized

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
NONLINEARITIES = {"rnn_tanh": "tanh", "rnn_relu": "relu"}
_NOT_CALLED = {
    *("__version__", "compat", "functional", "patch", "quantize_weights"),
    "RecurrentBase",  # has no cell
}


class Call(NamedTuple):
    """A call that must succeed, and what its results are compared with."""

    function: Callable[..., Any]  # of the arguments by name
    args: dict[str, Any]
    oracle: Callable[..., Any] | None = None  # of the same arguments in float64
    compared: int | None = None  # how many of the results the oracle has; None: all
    differentiable: bool = False  # gradients are compared as well
    in_float64: bool = True  # the oracle gets its arguments so, else as they are
    keeps_state: bool = False  # some arguments are what a call with the others returned


Builder = Callable[[random.Random], Call]


def targets() -> dict[str, tuple[int, Builder]]:
    """How often each is called, and what makes such a call, by name."""
    found: dict[str, tuple[int, Builder]] = {}
    for name in sorted(torch._C._dispatch_get_all_op_names()):
        if name.startswith("fusedrnn::"):
            op = getattr(torch.ops.fusedrnn, name.removeprefix("fusedrnn::")).default
            weight = 30 if len(op._schema.arguments) > 1 else 1
            found[name] = weight, functools.partial(_operator, op)
    seen: list[Any] = []
    for space in (fusedrnn, compat, functional, ops, convert, quantized):
        for name in space.__all__:
            value = getattr(space, name)
            if any(value is known for known in seen):
                continue
            seen.append(value)
            label = f"{space.__name__}.{name}"
            if name in _NOT_CALLED or (
                isinstance(value, type) and not issubclass(value, nn.Module)
            ):
                continue
            if isinstance(value, type):
                if space is not quantized:
                    found[f"{label}()"] = 4, functools.partial(_construction, value)
                found[label] = 12, functools.partial(_module, value)
            elif space is ops:
                found[label] = 12, functools.partial(_layer_function, value)
            elif space is functional:
                found[label] = 15, functools.partial(_functional, value)
            else:
                found[label] = 6, functools.partial(_FUNCTIONS[name], value)
    found["fusedrnn.patch"] = 4, _patched
    found["fusedrnn.info.collect"] = 1, lambda rng: Call(info.collect, {})
    return found


def random_layer(rng: random.Random, **fixed: Any) -> Layer:
    """Of one dtype; ReLU's weights are small integers, as its derivative jumps at 0."""
    dtype = fixed.pop("dtype", None) or rng.choice((torch.float32, *DTYPES))
    cell = fixed.pop("cell", None) or rng.choice(tuple(reference.CELLS))
    hidden_size = rng.choice((1, 2, 3, 5, 8, 9, 17, 33))
    sizes = (rng.choice((1, 2, 3, 5)), rng.choice((1, 2, 3, 5)), rng.choice((1, 2, 5, 9)))
    if rng.random() < 0.03:  # enough for several threads
        sizes, hidden_size = (17, rng.choice((4, 33)), 9), 96
    projects = reference.CELLS[cell].has_projection and rng.random() < 0.4
    options = {
        "sizes": (*sizes, hidden_size),
        "packed": rng.random() < 0.2,
        "bidirectional": rng.random() < 0.4,
        "proj_size": rng.randrange(hidden_size) if projects else 0,
        "bias": rng.random() < 0.8,
        "state": rng.random() < 0.7,
        "lengths": rng.random() < 0.25,
        "reset": rng.random() < 0.25,
        "return_c": rng.random() < 0.25,
        "recompute": rng.choice((0, 0, 0, 1, 2, 3, 7)),
    } | fixed
    options["lengths"] = options["lengths"] and not options["packed"]
    layer = make_layer(cell, torch.float64, **options)
    if cell == "rnn_relu":
        layer = layer.map(lambda tensor: tensor.mul(0.6).round())
    return layer.map(lambda tensor: tensor.to(dtype))


def _one_step(layer: Layer, batched: bool) -> dict[str, Any]:
    """The arguments of a cell: those of the layer's first step."""

    def first(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[0] if batched else tensor[0, 0]

    return {"input": first(layer.input), "h": first(layer.h_0), "c": first(layer.c_0)}


_PLAIN = {"packed": False, "bidirectional": False, "lengths": False, "reset": False,
          "return_c": False, "recompute": 0}  # fmt: skip


def _operator(op: Any, rng: random.Random) -> Call:
    """By the schema: the layer's arguments, else a value of its type."""
    name = op._schema.name.removeprefix("fusedrnn::")
    is_quantized = name == "quantized_forward"
    fixed: dict[str, Any] = {"dtype": torch.float32, "recompute": 0} if is_quantized else {}
    if name in ("plain_layer_forward", "cell_forward"):
        fixed = _PLAIN
    layer = random_layer(rng, **fixed)
    named = layer.named_args(save=rng.random() < 0.5)
    if is_quantized:
        named |= _stored(layer, rng)
    if name == "cell_forward":
        named |= _one_step(layer, rng.random() < 0.7)
    if name == "layer_backward":
        named = named_backward_args(layer)
    known = {"cell": layer.cell, **_sizes(layer, rng)}
    names = [arg.name for arg in op._schema.arguments]
    if "weights" in names:
        known |= dict(zip(names, op_args(op, named), strict=True))
    args = {
        arg.name: known[arg.name] if arg.name in known else _of_type(str(arg.type))
        for arg in op._schema.arguments
    }

    def function(**args: Any) -> Any:
        return op(*args.values())

    if name == "layer_backward":

        def backward(**args: Any) -> Any:
            grads = op(*args.values())
            return grads[: sum(args["mask"][:-2])]  # the oracle has none of the pre-activations

        return Call(backward, args, backward_oracle, keeps_state=True)
    if "input" not in args:
        return Call(function, args)
    oracle = cell_oracle if name == "cell_forward" else layer_oracle
    compared = {"layer_forward": 4, "plain_layer_forward": 3}.get(name)
    return Call(function, args, oracle, compared, differentiable=not is_quantized)


def _sizes(layer: Layer, rng: random.Random) -> dict[str, Any]:
    """The arguments of the operators that explain a plan, or set a variable."""
    return {
        "dtype": layer.input.dtype,
        "seq_len": rng.choice((1, 7, 1000)),
        "batch_size": rng.choice((1, 3, 64)),
        "input_size": rng.choice((1, 5, 512)),
        "hidden_size": rng.choice((1, 7, 512)),
        "proj_size": 0,
        "directions": rng.choice((1, 2)),
        "training": rng.random() < 0.5,
        "weight_dtype": None,
        **_described_cpu(rng),
        "packed": rng.random() < 0.5,
        "device_index": 0,
        "name": "FUSEDRNN_DEBUG",
        "value": "",
    }


def _described_cpu(rng: random.Random) -> dict[str, Any]:
    """A CPU to plan for, or that of the call."""
    if rng.random() < 0.5:
        return {"machine": None, "isa": ""}
    cores = rng.choice((1, 8, 64))
    caches = [rng.choice((1, 16, 48)) << 10, rng.choice((1, 512, 2048)) << 10, 1 << 25]
    return {
        "machine": [cores, rng.choice((0, (cores + 1) // 2)), *caches],
        "isa": rng.choice(("generic", "avx2", "avx512")),
    }


def _of_type(kind: str) -> Any:
    values = {"Tensor": torch.randn(2, 3), "int": 3, "bool": True, "str": "lstm", "float": 0.5}
    return values.get(kind)


def _stored(layer: Layer, rng: random.Random) -> dict[str, Any]:
    """The layer's weights quantized, by the names of the operator's arguments."""
    dtype = rng.choice(_quantized.DTYPES)
    stored: dict[str, Any] = {}
    for name, tensor in layer.present.items():
        if name.startswith("weight"):
            stored[name], stored[name.replace("weight", "scale")] = _quantized.store(tensor, dtype)
    return stored


def _layer_function(function: Any, rng: random.Random) -> Call:
    """Of `fusedrnn.ops`; under the fallback it is the reference."""
    fixed: dict[str, Any] = {} if function is ops.layer_forward else _PLAIN
    quantize = rng.random() < 0.2
    layer = random_layer(rng, **fixed | ({"dtype": torch.float32} if quantize else {}))
    args = dict(zip(layer._fields, layer, strict=True))
    if quantize:
        values = {**layer.tensors, **_stored(layer, rng)}
        for key, suffix in (("weights", ""), ("weights_reverse", "_reverse")):
            if args[key] is not None:
                fields = _quantized.QuantizedWeights._fields
                args[key] = _quantized.QuantizedWeights(*(values.get(n + suffix) for n in fields))
    if function is ops.cell_forward:
        args = {"cell": layer.cell, **_one_step(layer, rng.random() < 0.7),
                "weights": args["weights"]}  # fmt: skip
    elif function is ops.plain_layer_forward:
        args = dict(list(args.items())[:6])
    return Call(function, args, function, None, not quantize, not quantize)


def _stack(rng: random.Random, **fixed: Any) -> tuple[Layer, list[Any], dict[str, Any]]:
    """The first layer of a stack, all weights, and the arguments of its functions but weights."""
    layer = random_layer(rng, **{"return_c": False, "recompute": 0} | fixed)
    each = [layer.weights, layer.weights_reverse][: 2 if layer.weights_reverse else 1]
    weights, widths = list(each), layer.weights.weight_hh.size(1) * len(each)
    num_layers = rng.choice((1, 1, 2))
    for _ in range(1, num_layers):
        # Small, but integers for ReLU, whose derivative jumps at 0.
        scale = 1.0 if layer.cell == "rnn_relu" else 0.1
        deeper = layer.weights.weight_ih.new_full((layer.weights.weight_hh.size(0), widths), scale)
        weights += [w._replace(weight_ih=deeper.clone()) for w in each]

    def state(h: Tensor | None, c: Tensor | None) -> Any:
        if h is None:
            return None
        states = [t.repeat(num_layers, 1, 1) for t in (h, c) if t is not None]
        return tuple(states) if len(states) > 1 else states[0]

    args: dict[str, Any] = {"input": layer.input, "hx": state(layer.h_0, layer.c_0)}
    batch_first, batched = rng.random() < 0.3, rng.random() < 0.8 or layer.lengths is not None
    if layer.batch_sizes is not None:
        rows = [int((layer.batch_sizes > row).sum()) for row in range(int(layer.batch_sizes[0]))]
        padded = layer.input.new_ones(len(rows), max(rows), layer.input.size(1))
        args["input"] = pack_padded_sequence(padded, torch.tensor(rows), True)
        return layer, weights, args | {"batch_first": batch_first}
    args |= {
        "lengths": layer.lengths,
        "reset": layer.reset,
        "reset_state": None if layer.reset is None else state(layer.reset_h, layer.reset_c),
        "return_states": rng.random() < 0.2,
        "return_gates": rng.random() < 0.2,
        "recompute": rng.choice(("none", "none", "gates", "chunk:2")),
    }
    if not batched:

        def first(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(first, value))
            return None if value is None else value[:, 0]

        args |= {name: first(args[name]) for name in ("input", "hx", "reset", "reset_state")}
    elif batch_first:
        args |= {n: args[n].transpose(0, 1) for n in ("input", "reset") if args[n] is not None}
    return layer, weights, args | {"batch_first": batch_first}


def _kind(called: Any, rng: random.Random) -> str:
    """A cell of the class or function."""
    if isinstance(called, type) and issubclass(called, fusedrnn.RecurrentBase):
        return called.cell
    name = called.__name__
    kind = name.lower().removeprefix("quantized").removesuffix("cell").removesuffix("_")
    return rng.choice(tuple(NONLINEARITIES)) if kind == "rnn" else kind


def _functional(function: Any, rng: random.Random) -> Call:
    cell = _kind(function, rng)
    extra = {"nonlinearity": NONLINEARITIES[cell]} if cell in NONLINEARITIES else {}
    if function.__name__.endswith("_cell"):
        layer = random_layer(rng, cell=cell, **_PLAIN)
        args = _cell_args(layer, rng) | {"weights": layer.weights}
    else:
        layer, weights, args = _stack(rng, cell=cell)
        args |= {"weights": weights, "bidirectional": layer.weights_reverse is not None}
    return Call(function, args | extra, function, differentiable=True)


def _cell_args(layer: Layer, rng: random.Random) -> dict[str, Any]:
    args = _one_step(layer, rng.random() < 0.7)
    c = args.pop("c")
    h = args.pop("h")
    return args | {"hx": h if c is None else (h, c)}


def _module(cls: type[nn.Module], rng: random.Random) -> Call:
    """The module called with its parameters, which are arguments as well."""
    cell, is_quantized = _kind(cls, rng), cls.__module__ == quantized.__name__
    fixed: dict[str, Any] = {"cell": cell}
    if is_quantized:
        fixed["dtype"] = torch.float32
    kwargs: dict[str, Any] = {}
    if cell in NONLINEARITIES:
        kwargs["nonlinearity"] = NONLINEARITIES[cell]
    if cls.__name__.endswith("Cell"):
        layer = random_layer(rng, **fixed, **_PLAIN, proj_size=0)
        weights, args = [layer.weights], _cell_args(layer, rng)
    else:
        layer, weights, args = _stack(rng, **fixed)
        directions = 1 if layer.weights_reverse is None else 2
        kwargs |= {"num_layers": len(weights) // directions, "bidirectional": directions == 2}
        kwargs["batch_first"] = args.pop("batch_first")
        if layer.weights.weight_hr is not None:
            kwargs["proj_size"] = layer.weights.weight_hr.size(0)
    sizes = (layer.weights.weight_ih.size(1),
             layer.weights.weight_hh.size(0) // reference.CELLS[cell].gates)  # fmt: skip
    base = getattr(fusedrnn, cls.__name__.removeprefix("Quantized")) if is_quantized else cls
    kwargs |= {"bias": layer.weights.bias_ih is not None, "dtype": layer.input.dtype}
    module = base(*sizes, **kwargs)
    flat = [tensor for each in weights for tensor in each if tensor is not None]
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), flat, strict=True):
            parameter.copy_(value)
    if is_quantized:
        module = fusedrnn.quantize(module, rng.choice(_quantized.DTYPES))
        held = dict(module.named_buffers())
    else:
        held = {name: parameter.detach() for name, parameter in module.named_parameters()}

    def function(held: dict[str, Tensor], **args: Any) -> Any:
        return torch.func.functional_call(module, held, (), args)

    args["held"] = held
    return Call(function, args, function, None, not is_quantized, not is_quantized)


def _construction(cls: type[nn.Module], rng: random.Random) -> Call:
    args = {"input_size": rng.choice((1, 5)), "hidden_size": rng.choice((1, 6)), "bias": True}
    fixed: dict[str, Any] = {}
    if not cls.__name__.endswith("Cell"):
        fixed["num_layers"] = rng.choice((-1, 0, 1, 2))
        args |= {"batch_first": False, "dropout": 0.5, "bidirectional": True}
        if "LSTM" in cls.__name__:
            args["proj_size"] = rng.choice((0, 0, 1)) if args["hidden_size"] > 1 else 0
    if cls.__name__.startswith("RNN"):
        args["nonlinearity"] = "relu"
    return Call(lambda **args: str(cls(**args, **fixed)), args)


def _random_model(rng: random.Random, space: Any) -> nn.ModuleDict:
    name = rng.choice(convert.CLASS_NAMES)
    layer = getattr(space, name)(3, 4)
    model = nn.ModuleDict({"encoder": layer, "head": nn.Linear(4, 2)})
    if rng.random() < 0.3:
        model["tied"] = layer
    return model


def _conversion(function: Any, rng: random.Random) -> Call:
    """`replace`, `to_torch` and `quantize`; the converted model must compute what it did."""
    name = function.__name__
    space = fusedrnn if name == "to_torch" else nn
    args: dict[str, Any] = {"model": _random_model(rng, space), "skip": ()}
    if name == "replace":
        args["compat"] = rng.random() < 0.5
    if name == "quantize":
        args["model"] = nn.ModuleDict({"encoder": nn.LSTM(3, 4)})
        args["dtype"] = rng.choice(_quantized.DTYPES)

    def converted(model: nn.Module, **options: Any) -> Any:
        report = function(model, **options)
        str(report)
        return getattr(report, "model", report)["encoder"](torch.ones(2, 3, 3)[0])

    def unconverted(model: nn.Module, **options: Any) -> Any:
        return model["encoder"](torch.ones(2, 3, 3, dtype=torch.float64)[0])

    return Call(converted, args, None if name == "quantize" else unconverted)


def _explain(function: Any, rng: random.Random) -> Call:
    layer = getattr(fusedrnn, rng.choice(convert.CLASS_NAMES))(3, 4)
    return Call(function, {"module": layer, "input": torch.ones(2, 3), "hx": None})


def _patched(rng: random.Random) -> Call:
    name = rng.choice(convert.CLASS_NAMES)

    def function(**args: Any) -> Any:
        with fusedrnn.patch():
            layer = getattr(nn, name)(**args)
        if getattr(nn, name) is getattr(compat, name):
            raise AssertionError("patch left torch.nn changed")
        return str(layer)

    return Call(function, {"input_size": 3, "hidden_size": 4, "bias": True})


def _without_arguments(function: Any, rng: random.Random) -> Call:
    return Call(function, {})


_FUNCTIONS = {"replace": _conversion, "to_torch": _conversion, "quantize": _conversion,
              "explain": _explain, "library_path": _without_arguments,
              "reload_environment": _without_arguments}  # fmt: skip
