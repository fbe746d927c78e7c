"""The mouth network: log-mel rows in, mouth shapes out. For training; the draft engine runs it in numpy."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INPUTS = 41
OUTPUTS = 7


class Mouth(nn.Module):
    """Dilated convolutions over time with a head of its own for closures, under 500,000 weights.

    Sees 300 ms to either side; a mouth gets ready for a sound before it is heard.
    """

    def __init__(
        self,
        *,
        width: int = 128,
        dilations: tuple[int, ...] = (1, 2, 4, 4, 2),
        closure_width: int = 64,
        viseme_count: int = 0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.first = nn.Conv1d(INPUTS, width, 5, padding=2)
        self.blocks = nn.ModuleList(
            nn.Conv1d(width, width, 5, padding=2 * d, dilation=d) for d in dilations
        )
        self.shape = nn.Conv1d(width, 4, 1)
        self.voice = nn.Conv1d(width, 1, 1)
        self.closure = nn.Conv1d(width, closure_width, 5, padding=2)
        self.contact = nn.Conv1d(closure_width, 2, 1)
        self.viseme = nn.Conv1d(width, viseme_count, 1) if viseme_count else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """``(B, 41, N)`` features at 100 rows a second -> ``(B, 7, N)`` logits and viseme logits.

        A sigmoid of the first gives open, jaw, wide, round, press, fv and the loudness of the voice
        alone, in 0..1. The visemes only help training.
        """
        x = F.relu(self.first(features))
        for block in self.blocks:
            x = x + F.relu(block(self.dropout(x)))
        contact = self.contact(F.relu(self.closure(x)))
        logits = torch.cat([self.shape(x), contact, self.voice(x)], dim=1)
        return logits, None if self.viseme is None else self.viseme(x)
