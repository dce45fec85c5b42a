"""pytorch-forecasting: DeepAR and the Temporal Fusion Transformer, with its own LSTM subclass."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_forecasting import DeepAR, TemporalFusionTransformer, TimeSeriesDataSet
from torch import Tensor

from bench.libraries.subject import SEED, Subject, Trial, plain_trial, replace_if

SERIES, LENGTH, ENCODER, HORIZON = 32, 120, 60, 20


def dataset() -> TimeSeriesDataSet:
    noise = np.random.default_rng(SEED).normal(size=(SERIES, LENGTH))
    data = pd.DataFrame(
        {
            "series": np.repeat(np.arange(SERIES).astype(str), LENGTH),
            "time": np.tile(np.arange(LENGTH), SERIES),
            "value": (10 + np.sin(np.arange(LENGTH) / 5) + 0.1 * noise).ravel(),
        }
    )
    return TimeSeriesDataSet(
        data,
        time_idx="time",
        target="value",
        group_ids=["series"],
        min_encoder_length=ENCODER // 2,  # windows of several lengths
        max_encoder_length=ENCODER,
        max_prediction_length=HORIZON,
        time_varying_known_reals=["time"],
        time_varying_unknown_reals=["value"],
    )


def _build(fused: bool, cls: type[DeepAR | TemporalFusionTransformer], sizes: Any) -> Trial:
    data = dataset()
    model = cls.from_dataset(data, dropout=0.0, log_interval=-1, **sizes)
    replace_if(fused, model, subclasses=True)
    x, y = next(iter(data.to_dataloader(train=True, batch_size=SERIES, num_workers=0)))

    def forward() -> Tensor:
        torch.manual_seed(SEED)  # DeepAR draws its forecast
        return model(x)["prediction"]

    def loss(prediction: Tensor) -> Tensor:
        return model.loss(prediction, y)

    return plain_trial(model, forward, loss)


SUBJECTS = [
    Subject(
        "pytorch-forecasting",
        f"{cls.__name__}, {words}, {SERIES} windows of {ENCODER // 2} to {ENCODER} steps, horizon "
        f"{HORIZON}",
        "replace",
        replaced,
        partial(_build, cls=cls, sizes=sizes),
    )
    for cls, words, sizes, replaced in (
        (DeepAR, "two layers, 64 units", {"hidden_size": 64, "rnn_layers": 2}, ("rnn",)),
        (
            TemporalFusionTransformer,
            "one layer, 64 units",
            {"hidden_size": 64},
            ("lstm_encoder", "lstm_decoder"),
        ),
    )
]
