"""gluonts: DeepAR with its default sizes, on random series."""

from __future__ import annotations

import torch
from gluonts.torch.model.deepar.lightning_module import DeepARLightningModule
from torch import Tensor

from bench.libraries.subject import SEED, Subject, Trial, inference, replace_if

SERIES, CONTEXT, HORIZON, SAMPLES = 32, 48, 24, 100


def _build(fused: bool) -> Trial:
    module = DeepARLightningModule(
        {
            "freq": "h",
            "context_length": CONTEXT,
            "prediction_length": HORIZON,
            "dropout_rate": 0.0,
            "num_parallel_samples": SAMPLES,
        }
    )
    replace_if(fused, module)
    inputs = {
        name: torch.zeros(shape, dtype=dtype)
        for name, shape, dtype in (
            (name, (SERIES, *input.shape[1:]), input.dtype)
            for name, input in module.model.describe_inputs().data.items()
        )
    }
    inputs["past_target"] = torch.rand_like(inputs["past_target"]) + 1
    inputs["past_observed_values"] = torch.ones_like(inputs["past_observed_values"])
    future = {
        "future_target": torch.rand(SERIES, HORIZON) + 1,
        "future_observed_values": torch.ones(SERIES, HORIZON),
    }
    optimizer = torch.optim.Adam(module.parameters(), lr=module.lr, weight_decay=1e-8)

    def sample() -> Tensor:
        """Paths; the draws are the same at each call."""
        torch.manual_seed(SEED)
        return module(**inputs)

    def train() -> Tensor:
        """What Lightning does with a batch."""
        module.train()
        optimizer.zero_grad()
        loss = module.model.loss(**inputs, **future).mean()
        loss.backward()
        optimizer.step()
        return loss

    return Trial(module, inference(module, sample), train)


SUBJECTS = [
    Subject(
        "gluonts",
        f"DeepAR, default sizes (two layers, 40 units), {SERIES} series, context {CONTEXT}, "
        f"horizon {HORIZON}, {SAMPLES} samples",
        "replace",
        ("model.rnn",),
        _build,
    )
]
