"""darts: RNNModel on a sine with noise; it makes its layers when it first fits."""

from __future__ import annotations

import contextlib
from functools import partial

import numpy as np
import torch
from darts import TimeSeries
from darts.models import RNNModel
from torch import Tensor

import fusedrnn
from bench.libraries.subject import SEED, Subject, Trial

HORIZON = 48


def series() -> TimeSeries:
    time = np.arange(1000, dtype=np.float32)
    noise = np.random.default_rng(SEED).normal(size=time.size).astype(np.float32)
    return TimeSeries.from_values(np.sin(time / 12) + 0.1 * noise)


def make_model(kind: str) -> RNNModel:
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    return RNNModel(
        input_chunk_length=48,
        training_length=96,
        model=kind,
        hidden_dim=64,
        n_rnn_layers=2,
        batch_size=32,
        n_epochs=1,
        random_state=SEED,
        optimizer_cls=torch.optim.SGD,
        optimizer_kwargs={"lr": 0.01},
        pl_trainer_kwargs=quiet | {"logger": False, "enable_checkpointing": False},
    )


def _build(fused: bool, kind: str) -> Trial:
    model, data = make_model(kind), series()
    with fusedrnn.patch() if fused else contextlib.nullcontext():
        model.fit(data, epochs=1)

    def infer() -> Tensor:
        return torch.from_numpy(model.predict(HORIZON, data).values())

    def train() -> Tensor:
        """An epoch; darts goes on with the layers that it has."""
        model.fit(data, epochs=1)
        return model.model.trainer.callback_metrics["train_loss"]

    return Trial(model.model, infer, train)


SUBJECTS = [
    Subject(
        "darts",
        f"RNNModel, {kind}, two layers, 64 units, fit over 900 windows of 96 steps, horizon "
        f"{HORIZON}",
        "patch",
        ("rnn",),
        partial(_build, kind=kind),
    )
    for kind in ("LSTM", "GRU")
]
