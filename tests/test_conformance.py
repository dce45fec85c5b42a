"""torch's own module inputs (torch.testing._internal.common_modules), run on fusedrnn's modules.

What torch's test/test_modules.py does with each of them: forward, gradients, gradgrad,
pickling, saving, non-contiguous tensors, errors, repr, factory arguments, to and to_empty. The
number of cases is printed when the tests end.
"""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from cases import assert_close, largest, map_tensors, tensors_of, tolerance
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.testing._internal import common_modules
from torch.testing._internal.common_modules import ModuleErrorEnum, ModuleInfo, ModuleInput
from torch.testing._internal.common_utils import freeze_rng_state, gradcheck, gradgradcheck

import fusedrnn
from fusedrnn import compat

NAMES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
INFOS = {
    info.module_cls.__name__: info
    for info in common_modules.module_db
    if info.module_cls in {getattr(nn, name) for name in NAMES}
}
# The longest chain: sums over 25 rows, and 2 layers of 5 steps there and back.
LENGTH = 45

each_space = pytest.mark.parametrize("space", [fusedrnn, compat], ids=["fusedrnn", "compat"])
each_name = pytest.mark.parametrize("name", NAMES)
each_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def samples(
    name: str, dtype: torch.dtype, training: bool, device: str, requires_grad: bool = False
) -> list[ModuleInput]:
    """torch's inputs for the module, those with packed sequences included."""
    info: ModuleInfo = INFOS[name]
    options: dict[str, Any] = {}
    if name in ("RNN", "GRU"):
        options["with_packed_sequence"] = True
    with freeze_rng_state():
        torch.manual_seed(0)
        return list(
            info.module_inputs_func(
                info,
                device=device,
                dtype=dtype,
                requires_grad=requires_grad,
                training=training,
                **options,
            )
        )


def build(cls: type[nn.Module], sample: ModuleInput, training: bool, **kwargs: Any) -> nn.Module:
    args = sample.constructor_input
    return cls(*args.args, **{**args.kwargs, **kwargs}).train(training)


def call(module: nn.Module, sample: ModuleInput) -> Any:
    return module(*sample.forward_input.args, **sample.forward_input.kwargs)


def describe(sample: ModuleInput) -> str:
    args = sample.constructor_input
    return f"{args.args} {args.kwargs}"


def assert_same(actual: Any, expected: Any, what: str) -> None:
    """Close in the scale of the largest: torch's inputs saturate units, and small sums cancel."""
    ours, theirs = tensors_of(actual, "result"), tensors_of(expected, "result")
    assert ours.keys() == theirs.keys(), what
    scale = max(largest(tensor.detach()) for tensor in theirs.values())
    for name, tensor in ours.items():
        allowed = tolerance(tensor.dtype, LENGTH)
        assert_close(tensor, theirs[name], allowed, f"{what}: {name}", scale)


def every_tensor(module: nn.Module, sample: ModuleInput) -> list[Tensor]:
    """Inputs, states and parameters: what can be differentiated."""
    arguments = (*sample.forward_input.args, *sample.forward_input.kwargs.values())
    return [*tensors_of(arguments, "").values(), *module.parameters()]


def twins(
    name: str,
    space: ModuleType,
    dtype: torch.dtype,
    training: bool,
    device: str,
    grad: bool = False,
) -> Iterator[tuple[ModuleInput, nn.Module, nn.Module]]:
    """Each of torch's inputs with fusedrnn's module and torch's, of the same weights."""
    for sample in samples(name, dtype, training, device, requires_grad=grad):
        kwargs = {"dtype": dtype, "device": device}
        ours = build(getattr(space, name), sample, training, **kwargs)
        theirs = build(getattr(nn, name), sample, training, **kwargs)
        ours.load_state_dict(theirs.state_dict())
        yield sample, ours, theirs


@each_mode
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_space
@each_name
def test_forward_equals_torch(
    name: str,
    space: ModuleType,
    dtype: torch.dtype,
    training: bool,
    device: str,
    conformance: dict[str, int],
) -> None:
    for sample, ours, theirs in twins(name, space, dtype, training, device):
        result = call(ours, sample)
        assert_same(result, call(theirs, sample), describe(sample))
        packed = any(isinstance(arg, PackedSequence) for arg in sample.forward_input.args)
        if sample.reference_fn is not None and not packed:
            expected = sample.reference_fn(
                ours, *sample.forward_input.args, **sample.forward_input.kwargs
            )
            assert_same(result, expected, f"{describe(sample)}, reference")
        conformance["forward"] += 1


@each_mode
@each_space
@each_name
def test_gradients_equal_torch(
    name: str, space: ModuleType, training: bool, device: str, conformance: dict[str, int]
) -> None:
    for sample, ours, theirs in twins(name, space, torch.float64, training, device, grad=True):
        grads = []
        for module in (ours, theirs):
            results = tensors_of(call(module, sample), "result").values()
            loss = sum((result.cos()).sum() for result in results)
            grads.append(torch.autograd.grad(loss, every_tensor(module, sample)))
        assert_same(*grads, describe(sample))
        conformance["gradients"] += 1


def _check_derivatives(
    check: Callable[..., bool],
    name: str,
    space: ModuleType,
    training: bool,
    device: str,
) -> int:
    count = 0
    for sample in samples(name, torch.float64, training, device, requires_grad=True):
        module = build(getattr(space, name), sample, training, dtype=torch.float64, device=device)

        def results(*_: Tensor, module: nn.Module = module, sample: ModuleInput = sample) -> tuple:
            with freeze_rng_state():
                return tuple(tensors_of(call(module, sample), "result").values())

        assert check(results, tuple(every_tensor(module, sample))), describe(sample)
        count += 1
    return count


@each_mode
@each_space
@each_name
def test_gradcheck(
    name: str, space: ModuleType, training: bool, device: str, conformance: dict[str, int]
) -> None:
    conformance["gradcheck"] += _check_derivatives(gradcheck, name, space, training, device)


@each_mode
@each_name
def test_gradgradcheck(name: str, training: bool, device: str, conformance: dict[str, int]) -> None:
    assert getattr(compat, name).forward is getattr(fusedrnn, name).forward  # checked once
    count = _check_derivatives(gradgradcheck, name, fusedrnn, training, device)
    conformance["gradgradcheck"] += count


@each_mode
@each_space
@each_name
def test_pickling_and_saving_keep_the_results(
    name: str, space: ModuleType, training: bool, device: str, conformance: dict[str, int]
) -> None:
    for sample, ours, _ in twins(name, space, torch.float32, training, device):
        with freeze_rng_state():
            expected = call(ours, sample)
        buffer = io.BytesIO()
        torch.save(ours, buffer)
        buffer.seek(0)
        duplicates = (
            pickle.loads(pickle.dumps(ours)),
            torch.load(buffer, weights_only=False),
            copy.deepcopy(ours),
        )
        for duplicate in duplicates:
            assert type(duplicate) is type(ours) and duplicate.training == training
            with freeze_rng_state():
                result = tensors_of(call(duplicate, sample), "result")
            for key, tensor in tensors_of(expected, "result").items():
                assert torch.equal(result[key], tensor), f"{describe(sample)}: {key}"
        conformance["pickling"] += 1


def _with_gaps(tensor: Tensor) -> Tensor:
    """The same values as a non-contiguous leaf, as torch's test makes them."""
    if tensor.numel() <= 1:
        return tensor
    gaps = torch.repeat_interleave(tensor.detach(), 2, dim=-1)[..., ::2]
    return gaps.requires_grad_(tensor.requires_grad)


@each_mode
@each_space
@each_name
def test_non_contiguous_tensors_change_nothing(
    name: str, space: ModuleType, training: bool, device: str, conformance: dict[str, int]
) -> None:
    for sample, module, _ in twins(name, space, torch.float64, training, device, grad=True):
        args = sample.forward_input.args
        parameters = dict(module.named_parameters())

        def evaluate(
            args: tuple, parameters: dict[str, Tensor], change: Callable[[Tensor], Tensor],
            module: nn.Module = module,
        ) -> tuple[dict[str, Tensor], list[Tensor]]:  # fmt: skip
            results = tensors_of(torch.func.functional_call(module, parameters, args), "result")
            grads = [change(torch.full_like(result, 0.3)) for result in results.values()]
            inputs = [*tensors_of(args, "").values(), *parameters.values()]
            return results, torch.autograd.grad(list(results.values()), inputs, grads)

        expected, expected_grads = evaluate(args, parameters, lambda tensor: tensor)
        strided_args = map_tensors(args, _with_gaps)
        strided_parameters = {key: _with_gaps(value) for key, value in parameters.items()}
        for inputs, weights, change in (
            (strided_args, parameters, _with_gaps),
            (args, strided_parameters, _with_gaps),
            (strided_args, strided_parameters, lambda tensor: tensor),
        ):
            results, grads = evaluate(inputs, weights, change)
            assert_same(tuple(results.values()), tuple(expected.values()), describe(sample))
            assert_same(grads, expected_grads, f"{describe(sample)}, gradients")
        conformance["non-contiguous"] += 1


@each_space
@each_name
def test_error_inputs_raise_what_torch_raises(
    name: str, space: ModuleType, device: str, conformance: dict[str, int]
) -> None:
    info = INFOS[name]
    for dtype in (torch.float32, torch.float64):
        errors = info.module_error_inputs_func(
            info, device=device, dtype=dtype, requires_grad=False, training=False
        )
        for error in errors:
            args = error.module_error_input.constructor_input
            make = partial(getattr(space, name), *args.args, **args.kwargs)
            if error.error_on is ModuleErrorEnum.CONSTRUCTION_ERROR:
                with pytest.raises(error.error_type, match=error.error_regex):
                    make()
            else:
                module = make().to(device=device, dtype=args.kwargs.get("dtype", dtype))
                with pytest.raises(error.error_type, match=error.error_regex):
                    call(module, error.module_error_input)
            conformance["errors"] += 1


@each_space
@each_name
def test_repr_equals_torch(name: str, space: ModuleType, conformance: dict[str, int]) -> None:
    for sample, ours, theirs in twins(name, space, torch.float32, True, "cpu"):
        assert repr(ours) == repr(theirs) and str(ours), describe(sample)
        conformance["repr"] += 1


@each_space
@each_name
def test_factory_arguments_and_to_place_every_parameter(
    name: str, space: ModuleType, device: str, conformance: dict[str, int]
) -> None:
    cls = getattr(space, name)
    assert {"device", "dtype"} <= set(inspect.signature(getattr(fusedrnn, name)).parameters)
    for sample in samples(name, torch.float64, True, device):
        module = build(cls, sample, True, device="meta", dtype=torch.float64)
        assert all(p.is_meta and p.dtype == torch.float64 for p in module.parameters())
        with torch.device("meta"):
            assert all(p.is_meta for p in build(cls, sample, True).parameters())

        originals = list(module.parameters())
        module.to_empty(device=device)
        module.reset_parameters()
        assert all(p.device.type == device for p in module.parameters())
        assert [p.shape for p in module.parameters()] == [p.shape for p in originals]
        expected = call(module, sample)
        module.to(torch.float32).to(torch.float64)
        result = tensors_of(call(module, sample), "result")
        for key, tensor in tensors_of(expected, "result").items():
            allowed = 4 * tolerance(torch.float32, LENGTH)  # the weights were float32 once
            assert_close(result[key], tensor, allowed, f"{describe(sample)}: {key}")
        conformance["placement"] += 1
