"""speechbrain: the CRDNN encoder of its recipes, and its LSTM on rows of different lengths."""

from __future__ import annotations

from typing import Any

import torch
from speechbrain.lobes.models.CRDNN import CRDNN
from speechbrain.nnet.RNN import GRU, LSTM
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fusedrnn
from bench.libraries.subject import Subject, Trial, plain_trial, replace_if

ROWS, FRAMES, MELS, UNITS = 8, 200, 40, 256


class LengthsLSTM(LSTM):
    """speechbrain's LSTM, whose relative lengths go to fusedrnn's layer unpacked."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        fusedrnn.replace(self)

    def forward(
        self, x: Tensor, hx: Any = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        if self.reshape and x.ndim == 4:
            x = x.flatten(2)
        if lengths is not None:
            lengths = (lengths * x.size(1)).long()
        return self.rnn(x, hx, lengths=lengths)


class Encoder(nn.Module):
    """A speech model that packs: mel features with relative lengths to classes a frame."""

    def __init__(self, lstm: type[LSTM]) -> None:
        super().__init__()
        self.lstm = lstm(UNITS, input_size=MELS, num_layers=2, bidirectional=True)
        self.head = nn.Linear(2 * UNITS, 40)

    def forward(self, mels: Tensor, lengths: Tensor) -> Tensor:
        return self.head(self.lstm(mels, lengths=lengths)[0])


def _build_crdnn(fused: bool) -> Trial:
    model = CRDNN(
        input_size=MELS,
        activation=nn.GELU,  # at a LeakyReLU's kink one rounding changes gradients by 1e-3
        cnn_channels=[32, 64],
        rnn_class=GRU,
        rnn_layers=2,
        rnn_neurons=UNITS,
        dnn_neurons=UNITS,
        dropout=0.0,
    )
    replace_if(fused, model)
    mels = torch.randn(ROWS, FRAMES, MELS)
    target = torch.randint(0, UNITS, (ROWS * FRAMES,))
    # A mean square would be all but constant: a batch norm comes last.
    return plain_trial(
        model, lambda: model(mels), lambda found: cross_entropy(found.flatten(0, 1), target)
    )


def _build_packed(fused: bool, change: str) -> Trial:
    model = Encoder(LengthsLSTM if fused and change == "lengths=" else LSTM)
    replace_if(fused and change == "replace", model)
    # The longest row fills the batch, as speechbrain's padding has it; whole frames.
    lengths = torch.linspace(0.25, 1, ROWS).mul(FRAMES).round() / FRAMES
    mels = torch.randn(ROWS, FRAMES, MELS)
    return plain_trial(model, lambda: model(mels, lengths))


def _packed(change: str) -> Subject:
    return Subject(
        "speechbrain",
        f"nnet.RNN.LSTM, two layers in both directions, {UNITS} units, {ROWS} rows of 50 to "
        f"{FRAMES} frames",
        change,
        ("lstm.rnn",),
        lambda fused: _build_packed(fused, change),
    )


SUBJECTS = [
    Subject(
        "speechbrain",
        f"CRDNN with GRU and GELU, two layers in both directions, {UNITS} units, {ROWS} rows of "
        f"{FRAMES} frames",
        "replace",
        ("RNN.rnn",),
        _build_crdnn,
    ),
    _packed("replace"),
    _packed("lengths="),
]
