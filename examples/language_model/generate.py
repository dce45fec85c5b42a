"""Text from a trained model."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from text import Text


@torch.no_grad()
def stream(
    model: nn.Module, text: Text, prompt: str, length: int, temperature: float, seed: int
) -> Iterator[str]:
    """Yields `length` characters after `prompt`, one step of the model each.

    The model sees one character a call; all it knows of the past is the state it is given back.
    """
    generator = torch.Generator().manual_seed(seed)
    state = None
    for idx in text.encode(prompt):
        scores, state = model(idx.view(1, 1), state)
    for _ in range(length):
        scores = scores[0, -1, : text.mask]
        if temperature == 0.0:
            idx = scores.argmax()
        else:
            idx = torch.multinomial(torch.softmax(scores / temperature, 0), 1, generator=generator)
        yield text.decode(idx.view(1))
        scores, state = model(idx.view(1, 1), state)


@torch.no_grad()
def fill_gaps(model: nn.Module, text: Text, length: int, seed: int) -> tuple[str, str, str]:
    """A piece of the text, the piece with every sixth character hidden, and the model's guess."""
    original = text.windows(1, length, torch.Generator().manual_seed(seed))
    hidden = torch.arange(length) % 6 == 3
    masked = original.masked_fill(hidden, text.mask)
    guess = model(masked)[0][..., : text.mask].argmax(-1)
    filled = torch.where(hidden, guess, original)
    return text.decode(original[0]), text.decode(masked[0]), text.decode(filled[0])
