"""transformers: Encodec with its default configuration and random weights."""

from __future__ import annotations

import torch
from transformers import EncodecConfig, EncodecModel

from bench.libraries.subject import Subject, Trial, plain_trial, replace_if

SECONDS, RATE = 1, 24_000


def _build(fused: bool) -> Trial:
    model = EncodecModel(EncodecConfig())
    replace_if(fused, model)
    audio = torch.randn(1, 1, SECONDS * RATE)
    # Without the quantizer between them, whose codes a rounding may change.
    return plain_trial(model, lambda: model.decoder(model.encoder(audio)))


SUBJECTS = [
    Subject(
        "transformers",
        f"Encodec, encoder and decoder, default configuration, {SECONDS} second",
        "replace",
        ("encoder.layers.13.lstm", "decoder.layers.1.lstm"),
        _build,
    )
]
