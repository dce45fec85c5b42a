"""torchrl: LSTMModule and GRUModule on trajectories that begin within a sequence."""

from __future__ import annotations

from functools import partial

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.modules import GRUModule, LSTMModule, set_recurrent_mode

from bench.libraries.subject import Subject, Trial, plain_trial, replace_if

BATCH, STEPS, FEATURES, UNITS = 16, 100, 32, 128


def _build(fused: bool, cls: type[LSTMModule | GRUModule]) -> Trial:
    module = cls(input_size=FEATURES, hidden_size=UNITS, in_key="observation", out_key="embedded")
    replace_if(fused, module)
    data = TensorDict(
        {
            "observation": torch.randn(BATCH, STEPS, FEATURES),
            "is_init": torch.rand(BATCH, STEPS, 1) < 0.05,
        },
        batch_size=(BATCH, STEPS),
    )

    def forward() -> Tensor:
        with set_recurrent_mode(True):
            return module(data.clone())["embedded"]

    return plain_trial(module, forward)


SUBJECTS = [
    Subject(
        "torchrl",
        f"{cls.__name__}, {UNITS} units, {BATCH} rows of {STEPS} steps, 5 % of them first steps",
        "replace",
        (name,),
        partial(_build, cls=cls),
    )
    for cls, name in ((LSTMModule, "lstm"), (GRUModule, "gru"))
]
