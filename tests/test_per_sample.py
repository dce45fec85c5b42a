"""call_for_per_sample_grads on layers and cells: the gradients of a loop over the samples."""

from typing import Any

import pytest
import torch
from cases import (
    CELLS,
    assert_close,
    initial_state,
    layers,
    map_tensors,
    one_cell,
    pack,
    tensors_of,
    tolerance,
)
from torch import Tensor, nn
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

import fusedrnn

BATCH, STEPS = 4, 4  # alike, so that one taken for the other shows as a wrong result
ALLOWED = tolerance(torch.float64, 2 * STEPS)


def _loss(results: Any, reduction: str = "sum") -> Tensor:
    """The sum over the samples, or their mean."""
    total = sum(t.square().sum() for t in tensors_of(results, "result").values())
    return total / BATCH if reduction == "mean" else total


def _per_sample(
    module: nn.Module, *args: Any, reduction: str = "sum", **options: Any
) -> dict[str, Tensor]:
    """grad_sample of every parameter, and the gradients of the arguments."""
    args, options["reset_state"] = map_tensors(
        (args, options.get("reset_state")), lambda t: t.detach().requires_grad_()
    )
    if options["reset_state"] is None:
        del options["reset_state"]
    call = call_for_per_sample_grads(
        module, batch_size=BATCH, loss_reduction=reduction, batch_first=False
    )
    _loss(call(*args, **options), reduction).backward()
    assert all(parameter.grad is None for parameter in module.parameters())
    inputs = tensors_of(args, "arg") | tensors_of(options.get("reset_state"), "reset_state")
    grads = {name: tensor.grad for name, tensor in inputs.items()}
    for name, parameter in module.named_parameters():
        grads[name] = parameter.grad_sample
        parameter.grad_sample = None
    return grads


def _in_a_loop(module: nn.Module, batch_dim: int, *args: Any, **options: Any) -> dict[str, Tensor]:
    """The same by the module's own gradients, one sample after the other."""
    stacked: dict[str, list[Tensor]] = {name: [] for name, _ in module.named_parameters()}
    for row in range(BATCH):
        given = map_tensors(args, lambda t, row=row: t.narrow(batch_dim, row, 1))
        kept = dict(options)
        for name, dim in (("lengths", 0), ("reset", 0 if batch_dim == 0 else 1)):
            if name in kept:
                kept[name] = kept[name].narrow(dim, row, 1)
        if "reset_state" in kept:
            kept["reset_state"] = map_tensors(
                kept["reset_state"], lambda t, row=row: t.narrow(1, row, 1)
            )
        grads = torch.autograd.grad(_loss(module(*given, **kept)), list(module.parameters()))
        for name, grad in zip(stacked, grads, strict=True):
            stacked[name].append(grad)
    return {name: torch.stack(grads) for name, grads in stacked.items()}


def _assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, grad in expected.items():
        assert_close(actual[name], grad, ALLOWED, name)


FORMS: dict[str, dict[str, Any]] = {
    "one": {},
    "bidirectional": {"bidirectional": True},
    "stack": {"num_layers": 3, "bidirectional": True},
    "no_bias": {"bias": False, "num_layers": 2},
    "projected": {"proj_size": 2, "num_layers": 2, "bidirectional": True},
}
EVERY_FORM = [(cell, form) for cell in CELLS for form in FORMS if form != "projected"]
SPACES = pytest.mark.parametrize("space", [fusedrnn, fusedrnn.compat], ids=["fusedrnn", "compat"])


def _pair(cell: str, form: str, space: Any = fusedrnn, **options: Any) -> list[nn.Module]:
    """Ours and torch's, with the same weights."""
    options |= FORMS[form]
    pair = [layers(each, cell, 3, 5, dtype=torch.float64, **options) for each in (space, nn)]
    pair[1].load_state_dict(pair[0].state_dict())
    return pair


@SPACES
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["time_first", "batch_first"])
@pytest.mark.parametrize("with_state", [False, True], ids=["no_state", "state"])
@pytest.mark.parametrize("cell, form", [*EVERY_FORM, ("lstm", "projected")])
def test_layers_give_the_gradients_of_torch(
    cell: str, form: str, with_state: bool, batch_first: bool, reduction: str, space: Any
) -> None:
    ours, theirs = _pair(cell, form, space, batch_first=batch_first)
    input = torch.randn(STEPS, BATCH, 3, dtype=torch.float64)
    state = initial_state(ours, BATCH, torch.float64, torch.randn)
    args = (input.transpose(0, 1) if batch_first else input, *([state] if with_state else []))
    actual = _per_sample(ours, *args, reduction=reduction)
    _assert_same(actual, _per_sample(theirs, *args, reduction=reduction))
    if not with_state and reduction == "sum":
        _assert_same(actual, _in_a_loop(ours, 0 if batch_first else 1, *args))


@pytest.mark.parametrize("cell, form", [*EVERY_FORM, ("lstm", "projected")])
@pytest.mark.parametrize("lengths", [[6, 3, 3, 1], [2, 6, 1, 3], [3, 3, 3, 3]], ids=str)
def test_packed_input_gives_the_gradients_of_torch(
    cell: str, form: str, lengths: list[int], compiled_part: None
) -> None:
    ours, theirs = _pair(cell, form)
    input = pack(torch.randn(6, BATCH, 3, dtype=torch.float64), lengths)
    state = initial_state(ours, BATCH, torch.float64, torch.randn)
    for args in ((input,), (input, state)):
        _assert_same(_per_sample(ours, *args), _per_sample(theirs, *args))


@pytest.mark.parametrize("batch_first", [False, True], ids=["time_first", "batch_first"])
@pytest.mark.parametrize("cell, form", [*EVERY_FORM, ("lstm", "projected")])
def test_options_give_the_gradients_of_a_loop(cell: str, form: str, batch_first: bool) -> None:
    module = _pair(cell, form, batch_first=batch_first)[0]
    size = (BATCH, STEPS) if batch_first else (STEPS, BATCH)
    options = {
        "lengths": torch.tensor([4, 0, 1, 3]),
        "reset": torch.rand(size) < 0.4,
        "reset_state": initial_state(module, BATCH, torch.float64, torch.randn),
        "return_states": True,
        "return_gates": True,
        "recompute": "chunk:2",
    }
    names = [*options]
    for count in range(1, len(names) + 1):
        chosen = names[:count] if count != 1 else ["return_gates"]
        given = {name: options[name] for name in chosen}
        input = torch.randn(*size, 3, dtype=torch.float64)
        expected = _in_a_loop(module, 0 if batch_first else 1, input, **given)
        _assert_same(_per_sample(module, input, **given), expected)


@SPACES
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("with_state", [False, True], ids=["no_state", "state"])
@pytest.mark.parametrize("cell", CELLS)
def test_cells_give_the_gradients_of_a_loop(
    cell: str, with_state: bool, bias: bool, space: Any, compiled_part: None
) -> None:
    """torch.nn's refuse it."""
    module = one_cell(space, cell, 3, 5, bias=bias, dtype=torch.float64)
    h, c = (torch.randn(BATCH, 5, dtype=torch.float64) for _ in range(2))
    args = (
        torch.randn(BATCH, 3, dtype=torch.float64),
        *([(h, c) if cell == "lstm" else h] if with_state else []),
    )
    _assert_same(_per_sample(module, *args), _in_a_loop(module, 0, *args))


@pytest.mark.parametrize("cell", CELLS)
def test_frozen_weights_get_none_and_a_model_adds_its_calls(cell: str) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = layers(fusedrnn, cell, 3, 3, 2, batch_first=True, dtype=torch.float64)
            self.out = nn.Linear(3, 2, dtype=torch.float64)

        def forward(self, input: Tensor) -> Tensor:
            return self.out(self.rnn(self.rnn(input)[0])[0][:, -1])

    model = Twice()
    model.rnn.weight_hh_l0.requires_grad_(False)
    model.rnn.bias_ih_l1.requires_grad_(False)
    input = torch.randn(BATCH, STEPS, 3, dtype=torch.float64)
    _loss(call_for_per_sample_grads(model)(input)).backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for row in range(BATCH):
        loss = _loss(model(input[row : row + 1]))
        grads = torch.autograd.grad(loss, list(trained.values()))
        for (name, parameter), grad in zip(trained.items(), grads, strict=True):
            assert_close(parameter.grad_sample[row], grad, ALLOWED, name)
    assert not hasattr(model.rnn.weight_hh_l0, "grad_sample")
    assert not hasattr(model.rnn.bias_ih_l1, "grad_sample")


@pytest.mark.parametrize("cell", CELLS)
def test_batch_size_of_another_dimension_is_refused(cell: str, compiled_part: None) -> None:
    for num_layers in (1, 2):
        module = layers(fusedrnn, cell, 3, 5, num_layers)
        with pytest.raises(RuntimeError, match="expected 4, that of the layer's input, got 6"):
            call_for_per_sample_grads(module)(torch.randn(6, 4, 3))


@pytest.mark.filterwarnings("ignore")  # those of opacus
@pytest.mark.parametrize("space", [fusedrnn, fusedrnn.compat], ids=["fusedrnn", "compat"])
@pytest.mark.parametrize("cell", CELLS)
def test_opacus_takes_gradients_by_expanded_weights(
    cell: str, space: Any, compiled_part: None
) -> None:
    """The mode of opacus that the documentation names; the others ask for one output a module."""
    opacus = pytest.importorskip("opacus")
    model = layers(space, cell, 3, 5, 2, bidirectional=True, batch_first=True, dtype=torch.float64)
    input = torch.randn(BATCH, STEPS, 3, dtype=torch.float64)
    expected = _in_a_loop(model, 0, input)
    wrapped = opacus.grad_sample.wrap_model(
        model, grad_sample_mode="ew", batch_first=True, loss_reduction="sum"
    )
    _loss(wrapped(input)).backward()
    for name, parameter in model.named_parameters():
        assert_close(parameter.grad_sample, expected[name], ALLOWED, name)
