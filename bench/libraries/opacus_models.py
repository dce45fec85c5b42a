"""opacus: its own DPLSTM beside fusedrnn.LSTM under `grad_sample_mode="ew"`."""

from __future__ import annotations

import torch
from opacus.grad_sample import wrap_model
from opacus.layers import DPLSTM
from torch import Tensor, nn

import fusedrnn
from bench.libraries.subject import Subject, Trial, inference

ROWS, STEPS, FEATURES, UNITS = 32, 50, 32, 128


class Classifier(nn.Module):
    def __init__(self, lstm: type[nn.Module]) -> None:
        super().__init__()
        self.lstm = lstm(FEATURES, UNITS, batch_first=True)
        self.head = nn.Linear(UNITS, 2)

    def forward(self, input: Tensor) -> Tensor:
        return self.head(self.lstm(input)[0][:, -1])


def _build(fused: bool) -> Trial:
    input, target = torch.randn(ROWS, STEPS, FEATURES), torch.randint(0, 2, (ROWS,))
    model = Classifier(DPLSTM)
    if fused:
        weights = model.state_dict()  # DPLSTM's are there under torch.nn.LSTM's names too
        model = Classifier(fusedrnn.LSTM)
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
    mode = "ew" if fused else "hooks"
    wrapped = wrap_model(model, grad_sample_mode=mode, batch_first=True)

    def train() -> Tensor:
        """Per-sample gradients of every weight, clipped, and a step; no noise is added."""
        model.train()
        loss = nn.functional.cross_entropy(wrapped(input), target)
        loss.backward()
        with torch.no_grad():
            samples = [parameter.grad_sample for parameter in model.parameters()]
            norm = torch.stack([sample.flatten(1).norm(dim=1) for sample in samples]).norm(dim=0)
            scale = (1 / norm).clamp(max=1)
            for parameter, sample in zip(model.parameters(), samples, strict=True):
                parameter -= 0.1 / ROWS * torch.einsum("b,b...->...", scale, sample)
                parameter.grad = parameter.grad_sample = None
        return loss

    return Trial(model, inference(model, lambda: model(input)), train)


SUBJECTS = [
    Subject(
        "opacus",
        f"LSTM classifier, {UNITS} units, {ROWS} rows of {STEPS} steps, per-sample gradients; "
        "DPLSTM in place of torch.nn",
        'fusedrnn.LSTM, "ew"',
        ("lstm",),
        _build,
    )
]
