"""Lightning: a training loop around a module of the user's with an LSTM."""

from __future__ import annotations

import logging
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from bench.libraries.subject import Subject, Trial, inference, replace_if

BATCHES, ROWS, STEPS, FEATURES, UNITS = 10, 32, 100, 16, 128


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, UNITS, batch_first=True)
        self.head = nn.Linear(UNITS, 2)
        self.losses: list[Tensor] = []

    def forward(self, input: Tensor) -> Tensor:
        return self.head(self.lstm(input)[0][:, -1])

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.losses.append(loss.detach())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.05)


def trainer(**options: Any) -> lightning.Trainer:
    """On the CPU, silent, without files."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(
        accelerator="cpu", max_epochs=1, **(quiet | {"enable_checkpointing": False} | options)
    )


def loader() -> torch.utils.data.DataLoader:
    input = torch.randn(BATCHES * ROWS, STEPS, FEATURES)
    target = (input.mean(dim=(1, 2)) > 0).long()
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(input, target), ROWS)


def _build(fused: bool) -> Trial:
    model = Classifier()
    replace_if(fused, model)
    batches = loader()
    input = next(iter(batches))[0]

    def train() -> Tensor:
        """An epoch by a trainer of its own."""
        model.train()
        model.losses.clear()
        trainer().fit(model, batches)
        return torch.stack(model.losses).mean()

    return Trial(model, inference(model, lambda: model(input)), train)


SUBJECTS = [
    Subject(
        "lightning",
        f"LSTM classifier, {UNITS} units, Trainer.fit over {BATCHES} batches of {ROWS} rows, "
        f"{STEPS} steps",
        "replace",
        ("lstm",),
        _build,
    )
]
