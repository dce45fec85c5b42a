"""Ways to the gradient of each sample of a batch, as differentially private training needs it.

Every class runs one layer; its results are ``grad_<parameter>``, [batch_size, ...].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from bench.problem import Problem


class _PerSample:
    def __init__(self, module: nn.Module, problem: Problem) -> None:
        module.load_state_dict(problem.weights)
        self._module, self._problem = module, problem
        self._grads: dict[str, Tensor] = {}

    def results(self) -> dict[str, Tensor]:
        return {f"grad_{name}": value for name, value in self._grads.items()}


class Vmapped(_PerSample):
    """torch.func: `vmap` of `grad` of the loss of one sample."""

    def __init__(self, module: nn.Module, problem: Problem) -> None:
        super().__init__(module, problem)

        def loss(weights: dict[str, Tensor], input: Tensor, grad_output: Tensor) -> Tensor:
            return (functional_call(module, weights, (input,))[0] * grad_output).sum()

        self._weights = {name: value.detach() for name, value in module.named_parameters()}
        self._function = vmap(grad(loss), in_dims=(None, 1, 1))

    def step(self) -> None:
        self._grads = self._function(self._weights, self._problem.input, self._problem.grad_output)


class Looped(_PerSample):
    """One forward and backward a sample."""

    def step(self) -> None:
        names, weights = zip(*self._module.named_parameters())
        samples = []
        for row in range(self._problem.case.shape.batch_size):
            output = self._module(self._problem.input[:, row : row + 1])[0]
            grad_output = self._problem.grad_output[:, row : row + 1]
            samples.append(torch.autograd.grad(output, weights, grad_output))
        self._grads = dict(zip(names, map(torch.stack, zip(*samples))))


class Hooked(_PerSample):
    """What Opacus' DPLSTM and DPGRU do: a loop of linear layers over the steps, and at each
    layer's output a hook that adds the outer products of every row to its samples' gradients.
    """

    def __init__(self, module: nn.Module, problem: Problem) -> None:
        super().__init__(module, problem)
        self._input_side, self._recurrent_side = (
            nn.Linear(width, module.weight_hh_l0.size(0), dtype=problem.input.dtype)
            for width in (module.input_size, module.hidden_size)
        )
        for side, linear in (("ih", self._input_side), ("hh", self._recurrent_side)):
            linear.weight = getattr(module, f"weight_{side}_l0")
            linear.bias = getattr(module, f"bias_{side}_l0")

    def step(self) -> None:
        self._grads = {}
        self._module.zero_grad(set_to_none=True)
        case = self._problem.case
        cell = _lstm_cell if case.cell == "LSTM" else _gru_cell
        h = c = self._problem.input.new_zeros(case.shape.batch_size, case.shape.hidden_size)
        outputs = []
        for row in self._problem.input:
            x = self._linear("ih", self._input_side, row)
            r = self._linear("hh", self._recurrent_side, h)
            h, c = cell(x, r, h, c)
            outputs.append(h)
        torch.stack(outputs).backward(self._problem.grad_output)

    def _linear(self, side: str, linear: nn.Linear, activations: Tensor) -> Tensor:
        output, activations = linear(activations), activations.detach()

        def add(grad_output: Tensor) -> None:
            products = torch.einsum("ni,nj->nij", grad_output, activations)
            self._add(f"weight_{side}_l0", products)
            self._add(f"bias_{side}_l0", grad_output)

        output.register_hook(add)
        return output

    def _add(self, name: str, value: Tensor) -> None:
        if name in self._grads:
            self._grads[name] += value
        else:
            self._grads[name] = value.clone()


def _lstm_cell(x: Tensor, r: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = (x + r).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _gru_cell(x: Tensor, r: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    (x_r, x_z, x_n), (h_r, h_z, h_n) = x.chunk(3, 1), r.chunk(3, 1)
    z = (x_z + h_z).sigmoid()
    n = (x_n + (x_r + h_r).sigmoid() * h_n).tanh()
    return (1 - z) * n + z * h, c
