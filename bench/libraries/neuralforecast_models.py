"""neuralforecast: its LSTM and GRU models, fitted and used through NeuralForecast."""

from __future__ import annotations

import logging
from functools import partial

import numpy as np
import pandas as pd
import torch
from neuralforecast import NeuralForecast
from neuralforecast.models import GRU, LSTM
from torch import Tensor

from bench.libraries.subject import SEED, Subject, Trial, replace_if

HORIZON, STEPS = 12, 20


def frame() -> pd.DataFrame:
    """32 monthly series."""
    dates = pd.date_range("2000-01-01", periods=144, freq="MS")
    noise = np.random.default_rng(SEED).normal(size=(32, len(dates)))
    values = 10 + np.sin(np.arange(len(dates)) / 2) + 0.1 * noise
    return pd.concat(
        pd.DataFrame({"unique_id": str(row), "ds": dates, "y": values[row]}) for row in range(32)
    )


def make_model(cls: type[LSTM | GRU]) -> LSTM | GRU:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return cls(
        h=HORIZON,
        input_size=48,
        encoder_hidden_size=128,
        encoder_n_layers=2,
        max_steps=STEPS,
        batch_size=32,
        random_seed=SEED,
        optimizer=torch.optim.SGD,
        learning_rate=0.05,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
    )


def _build(fused: bool, cls: type[LSTM | GRU]) -> Trial:
    model, data = make_model(cls), frame()
    replace_if(fused, model)
    forecast = NeuralForecast(models=[model], freq="MS")
    forecast.fit(data)

    def infer() -> Tensor:
        return torch.tensor(forecast.predict()[cls.__name__].to_numpy())

    def train() -> Tensor:
        forecast.fit(data)
        return torch.tensor(forecast.models[0].train_trajectories[-1][1])

    return Trial(forecast.models[0], infer, train)


SUBJECTS = [
    Subject(
        "neuralforecast",
        f"{cls.__name__}, two layers, 128 units, 32 series, fit of {STEPS} steps, horizon "
        f"{HORIZON}",
        "replace",
        ("hist_encoder",),
        partial(_build, cls=cls),
    )
    for cls in (LSTM, GRU)
]
