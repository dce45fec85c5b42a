"""resemblyzer: the voice encoder with the weights in its package."""

from __future__ import annotations

import torch
from resemblyzer import VoiceEncoder

from bench.libraries.subject import Subject, Trial, plain_trial, replace_if

ROWS, FRAMES, MELS = 16, 160, 40


def _build(fused: bool) -> Trial:
    model = VoiceEncoder("cpu", verbose=False)
    replace_if(fused, model)
    mels = torch.rand(ROWS, FRAMES, MELS)
    return plain_trial(model, lambda: model(mels), lambda embedded: embedded[:, ::2].sum())


SUBJECTS = [
    Subject(
        "resemblyzer",
        f"VoiceEncoder (three layers, 256 units), {ROWS} rows of {FRAMES} frames",
        "replace",
        ("lstm",),
        _build,
    )
]
