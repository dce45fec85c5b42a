"""The character model: embedding, recurrent layer, linear layer."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import Tensor, nn


class CharacterModel(nn.Module):
    """Scores of a character for every position of `ids`.

    Args:
        library: where the recurrent class is looked up: torch.nn or fusedrnn. Nothing else
            differs between the two.
        cell: "RNN", "LSTM" or "GRU".
    """

    def __init__(
        self,
        library: ModuleType,
        cell: str,
        vocabulary: int,
        hidden_size: int,
        num_layers: int = 1,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, hidden_size // 2)
        self.recurrent = getattr(library, cell)(
            hidden_size // 2,
            hidden_size,
            num_layers=num_layers,
            batch_first=True,
            bidirectional=bidirectional,
        )
        self.output = nn.Linear(hidden_size * (2 if bidirectional else 1), vocabulary)

    def forward(self, ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """ids [batch_size, seq_len] → scores [batch_size, seq_len, vocabulary], next state."""
        hidden, state = self.recurrent(self.embedding(ids), state)
        return self.output(hidden), state
