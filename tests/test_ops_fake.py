"""Operators refuse tensors without data where, and as, they refuse those with data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cases import CELLS, layers, pack, tensors_of
from layer_cases import VARIANTS, make_layer, named_backward_args, op_args
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn.utils.rnn import PackedSequence

import fusedrnn
from fusedrnn import _library, reference
from fusedrnn._quantized import store

if not _library.available:
    pytest.skip(f"needs the compiled part: {_library.reason}", allow_module_level=True)

OPS = torch.ops.fusedrnn
Args = dict[str, Any]
DIFFERENT = ("nobias", "projection", "packed", "packed_reset", "everything")
ELSEWHERE = "on another device"


def forward(cell: str, variant: str) -> Args:
    layer = make_layer(cell, torch.float32, **VARIANTS[variant])
    return layer.named_args(save=True)


def backward(cell: str, variant: str) -> Args:
    layer = make_layer(cell, torch.float32, **VARIANTS[variant])
    return named_backward_args(layer)


def quantized(dtype: torch.dtype) -> Callable[[str, str], Args]:
    def build(cell: str, variant: str) -> Args:
        args = forward(cell, variant)
        del args["save"], args["recompute"]
        for name, weight in list(args.items()):
            if name.startswith("weight_") and weight is not None:
                args[name], args[name.replace("weight", "scale")] = store(weight, dtype)
        return args

    return build


BUILDS: dict[str, tuple[Any, Callable[[str, str], Args]]] = {
    "forward": (OPS.layer_forward, forward),
    "backward": (OPS.layer_backward, backward),
    "int8": (OPS.quantized_forward, quantized(torch.int8)),
    "bfloat16": (OPS.quantized_forward, quantized(torch.bfloat16)),
}


def faults(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What may be wrong with an argument, by name."""
    if name == "cell":
        yield from ((repr(cell), cell) for cell in ("", "mgu", "LSTM", "lstm ", *CELLS))
    elif name == "recompute":
        yield from ((str(number), number) for number in (-1, -(2**62)))
    elif value is None and name not in ("save", "return_c", "mask"):
        yield "present", torch.zeros(3)
    elif isinstance(value, Tensor):
        other = torch.float64 if value.dtype != torch.float64 else torch.float32
        yield "dtype", value.to(other)
        yield "integers", value.to(torch.int32)
        yield "device", ELSEWHERE
        yield "more dimensions", value.unsqueeze(0)
        yield "fewer dimensions", value.reshape(-1)[:1].squeeze(0)
        for dim in range(value.dim()):
            yield f"larger {dim}", torch.cat([value, value], dim)
            yield f"smaller {dim}", value.narrow(dim, 0, max(value.size(dim) - 1, 0))
            yield f"empty {dim}", value.narrow(dim, 0, 0)
        if name not in ("input", "weight_ih", "weight_hh", "kept_output", "saved"):
            yield "absent", None


def outcome(call: Callable[[], Any]) -> Any:
    """The exception's type, or the results' shapes and dtypes."""
    try:
        results = call()
    except Exception as error:
        assert str(error)
        return type(error)
    return [(tuple(result.shape), result.dtype) for result in results]


def on_meta(args: Args, bad: str, fault: Any) -> Args:
    """The same arguments without data; sizes of a packed batch stay where a user has them."""
    moved = {
        name: value.to("meta") if isinstance(value, Tensor) and name != "batch_sizes" else value
        for name, value in (args if fault is ELSEWHERE else args | {bad: fault}).items()
    }
    return moved | {bad: args[bad]} if fault is ELSEWHERE else moved


def on_cpu(args: Args, bad: str, fault: Any) -> Args:
    return args | {bad: args[bad].to("meta") if fault is ELSEWHERE else fault}


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("variant", DIFFERENT)
@pytest.mark.parametrize("cell", reference.CELLS)
def test_meta_and_fake_tensors_are_refused_as_on_the_cpu(
    cell: str, variant: str, build: str
) -> None:
    op, make = BUILDS[build]
    if "projection" in variant and not reference.CELLS[cell].has_projection:
        pytest.skip("it has no projection")
    if op is OPS.quantized_forward and variant in ("everything", "packed_reset"):
        pytest.skip("the checks are those of layer_forward")
    args = make(cell, variant)
    packed = args["batch_sizes"] is not None
    mode = FakeTensorMode(shape_env=ShapeEnv())

    def to_fake(value: Any) -> Any:
        return mode.from_tensor(value, static_shapes=True) if isinstance(value, Tensor) else value

    fakes = {name: to_fake(value) for name, value in args.items()}
    wrong = []
    for name, value in args.items():
        for kind, fault in [("right", value), *faults(name, value)]:
            if name == "batch_sizes" and kind == "device":
                continue  # on the meta device it has no values there either
            real = on_cpu(args, name, fault)
            expected = outcome(lambda real=real: op(*op_args(op, real)))
            meta = on_meta(args, name, fault)
            found = {"meta": outcome(lambda meta=meta: op(*op_args(op, meta)))}
            with mode:
                fake = fakes | {name: to_fake(real[name])}
                found["fake"] = outcome(lambda fake=fake: op(*op_args(op, fake)))
            if packed and kind.split()[0] in ("larger", "smaller", "empty"):
                del found["fake"]  # how many rows a packed batch has is a matter of values
            wrong += [
                f"{name}, {kind}: {where} {result}, CPU {expected}"
                for where, result in found.items()
                if not same(result, expected)
            ]
    assert not wrong, "\n".join(wrong)


def same(found: Any, expected: Any) -> bool:
    """Sizes of a fake packed batch have no values."""
    if isinstance(found, type) or isinstance(expected, type):
        return found is expected
    return len(found) == len(expected) and all(
        dtype == other
        and len(shape) == len(sizes)
        and all(not isinstance(a, int) or a == b for a, b in zip(shape, sizes))
        for (shape, dtype), (sizes, other) in zip(found, expected)
    )


@pytest.mark.parametrize("cell", ["lstm\0", "lstm\0x", "", "mgu"])
def test_an_unknown_cell_without_data_is_a_value_error(cell: str) -> None:
    args = on_meta(forward("lstm", "plain"), "cell", cell)
    with pytest.raises(ValueError, match="^cell: expected one of rnn_tanh, rnn_relu, lstm, gru"):
        OPS.layer_forward(*op_args(OPS.layer_forward, args))


@pytest.mark.parametrize("lengths", [[6, 4, 2], [2, 6, 4]], ids=["sorted", "unsorted"])
@pytest.mark.parametrize("with_state", [False, True], ids=["no_state", "state"])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_a_packed_sequence_on_meta_has_the_shapes_of_torch(
    cell: str, options: dict[str, Any], with_state: bool, lengths: list[int]
) -> None:
    packed = pack(torch.zeros(6, 3, 5), lengths)
    hx = torch.zeros(options.get("num_layers", 1) * (2 if options else 1), 3, 7, device="meta")
    hx = ((hx, hx) if cell == "lstm" else hx) if with_state else None
    kinds = [{}, {"proj_size": 3}] if cell == "lstm" and not with_state else [{}]
    for extra in kinds:
        for dtype in (torch.float32, torch.bfloat16):
            found = []
            for space in (nn, fusedrnn, fusedrnn.compat):
                module = layers(space, cell, 5, 7, device="meta", dtype=dtype, **options, **extra)
                state = hx if hx is None else as_dtype(hx, dtype)
                output, final = module(packed.to(device="meta", dtype=dtype), state)
                assert isinstance(output, PackedSequence)
                results = tensors_of((output, final), "result")
                found.append({name: (t.shape, t.dtype, t.device) for name, t in results.items()})
                if space is not nn:
                    sum(t.sum() for t in results.values()).backward()
                    assert all(p.grad.shape == p.shape for p in module.parameters())
            assert found[0] == found[1] == found[2]


def as_dtype(hx: Any, dtype: torch.dtype) -> Any:
    return tuple(t.to(dtype) for t in hx) if isinstance(hx, tuple) else hx.to(dtype)
