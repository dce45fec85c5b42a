"""Characters to integers and back, and the batches that both models are trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor


class Text:
    """A text file as one integer tensor; the last id, `mask`, stands for a hidden character."""

    def __init__(self, path: Path) -> None:
        content = path.read_text(encoding="utf-8")
        if not content:
            raise ValueError(f"{path}: expected a text to learn from, found an empty file")
        self.characters = sorted(set(content))
        self._ids = {character: idx for idx, character in enumerate(self.characters)}
        self.ids = self.encode(content)
        self.mask = len(self.characters)
        self.vocabulary = len(self.characters) + 1

    def encode(self, text: str) -> Tensor:
        """Ids of `text`; a character that the file does not have becomes a space (or id 0)."""
        unknown = self._ids.get(" ", 0)
        return torch.tensor([self._ids.get(character, unknown) for character in text])

    def decode(self, ids: Tensor) -> str:
        return "".join("_" if idx == self.mask else self.characters[idx] for idx in ids.tolist())

    def windows(self, count: int, length: int, generator: torch.Generator) -> Tensor:
        """`count` random windows of the text: ids [count, length]."""
        if len(self.ids) < length:
            raise ValueError(f"text: expected at least {length} characters, found {len(self.ids)}")
        starts = torch.randint(len(self.ids) - length + 1, (count, 1), generator=generator)
        return self.ids[starts + torch.arange(length)]


def next_character_batches(
    text: Text, steps: int, batch_size: int, seq_len: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (input, target) of shape [batch_size, seq_len]: the target is one character ahead."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        window = text.windows(batch_size, seq_len + 1, generator)
        yield window[:, :-1], window[:, 1:]


def masked_character_batches(
    text: Text, steps: int, batch_size: int, seq_len: int, seed: int, share: float = 0.15
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (input, target): `share` of the input is masked, the rest of the target is -100.

    A model that reads both ways has seen the next character already, so it learns to fill
    gaps instead. -100 is what cross_entropy ignores.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        window = text.windows(batch_size, seq_len, generator)
        hidden = torch.rand(window.shape, generator=generator) < share
        hidden[:, seq_len // 2] = True
        yield window.masked_fill(hidden, text.mask), window.masked_fill(~hidden, -100)
