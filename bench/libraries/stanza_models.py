"""stanza: the tokenizer with its default sizes, on characters drawn at random."""

from __future__ import annotations

from typing import Any

import torch
from stanza.models import tokenizer
from stanza.models.tokenization.trainer import Trainer
from torch import Tensor

from bench.libraries.subject import Subject, Trial, replace_if

CHARACTERS, FEATURES, ROWS, LENGTH = 100, 5, 32, 100


def arguments(**others: Any) -> dict[str, Any]:
    """stanza's defaults, and what it adds to them once it has seen the data."""
    found = tokenizer.parse_args(["--shorthand", "en_test", "--lang", "en"])
    return dict(found) | {
        "vocab_size": CHARACTERS,
        "feat_dim": FEATURES,
        "feat_funcs": ["space_before"],
        "use_mwt": False,
        **others,
    }


def batch() -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """Units, labels, features and text of rows of descending lengths, as stanza's loader gives."""
    lengths = [max(5, LENGTH - 3 * row) for row in range(ROWS)]
    units = torch.randint(2, CHARACTERS, (ROWS, LENGTH))
    labels = torch.randint(0, 3, (ROWS, LENGTH))
    for row, length in enumerate(lengths):
        units[row, length:], labels[row, length:] = 0, -1
    features = torch.rand(ROWS, LENGTH, FEATURES).round()
    return units, labels, features, ["x" * length for length in lengths]


def _build(fused: bool) -> Trial:
    trainer = Trainer(args=arguments(dropout=0.0, feat_dropout=0.0, tok_noise=0.0), device="cpu")
    replace_if(fused, trainer.model)
    inputs = batch()

    def infer() -> Tensor:
        with torch.no_grad():
            return torch.from_numpy(trainer.predict(inputs))

    return Trial(trainer.model, infer, lambda: torch.tensor(trainer.update(inputs)))


SUBJECTS = [
    Subject(
        "stanza",
        f"tokenizer, default sizes (64 units, two layers), {ROWS} rows of 7 to {LENGTH} characters",
        "replace",
        ("rnn", "rnn2"),
        _build,
    )
]
