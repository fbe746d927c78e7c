"""SyncNet (Chung and Zisserman, 2016; the 2020 release): five frames and a fifth of a second of sound.

Layer sizes and key names follow the published ``syncnet_v2.model``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

EMBEDDING = 1024
FRAMES = 5
"""Video frames under one embedding, at 25 a second."""
ROWS = 20
"""Rows of coefficients under one embedding, at 100 a second."""
SIZE = 224
"""Side of the face crop in pixels."""


def _head() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, EMBEDDING)
    )


def _sound() -> nn.Sequential:
    def block(before: int, after: int, kernel: int | tuple[int, int], padding: int) -> list:
        return [
            nn.Conv2d(before, after, kernel, padding=padding),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]

    return nn.Sequential(
        *block(1, 64, 3, 1),
        nn.MaxPool2d(1, 1),
        *block(64, 192, 3, 1),
        nn.MaxPool2d(3, (1, 2)),
        *block(192, 384, 3, 1),
        *block(384, 256, 3, 1),
        *block(256, 256, 3, 1),
        nn.MaxPool2d(3, 2),
        *block(256, 512, (5, 4), 0),
    )


def _lips() -> nn.Sequential:
    def block(before: int, after: int, *, frames: int, side: int, step: int, padding: int) -> list:
        return [
            nn.Conv3d(
                before, after, (frames, side, side), (1, step, step), padding=(0, padding, padding)
            ),
            nn.BatchNorm3d(after),
            nn.ReLU(),
        ]

    def pool(padding: int) -> nn.MaxPool3d:
        return nn.MaxPool3d((1, 3, 3), (1, 2, 2), padding=(0, padding, padding))

    return nn.Sequential(
        *block(3, 96, frames=FRAMES, side=7, step=2, padding=0),
        pool(0),
        *block(96, 256, frames=1, side=5, step=2, padding=1),
        pool(1),
        *block(256, 256, frames=1, side=3, step=1, padding=1),
        *block(256, 256, frames=1, side=3, step=1, padding=1),
        *block(256, 256, frames=1, side=3, step=1, padding=1),
        pool(0),
        *block(256, 512, frames=1, side=6, step=1, padding=0),
    )


class SyncNetV2(nn.Module):
    """Embeds lips and sound so that what belongs together lies close (Euclidean distance)."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = _sound()
        self.netfcaud = _head()
        self.netcnnlip = _lips()
        self.netfclip = _head()

    def hear(self, rows: Tensor) -> Tensor:
        """``(N, 1, 13, 20)`` windows of coefficients, unscaled, to ``(N, 1024)``."""
        return self.netfcaud(self.netcnnaud(rows).flatten(1))

    def look(self, crops: Tensor) -> Tensor:
        """``(N, 3, T, 224, 224)`` BGR 0..255 crops to ``(N * (T - 4), 1024)``, one row a window of 5.

        Only the first layer spans frames, so a run of ``T`` frames costs ``T - 4`` windows and not
        five times as many frames.
        """
        lips = self.netcnnlip(crops)
        return self.netfclip(lips.movedim(1, 2).flatten(0, 1).flatten(1))

    def forward(self, crops: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of lips and of sound; shapes as in :meth:`look` and :meth:`hear`."""
        return self.look(crops), self.hear(rows)


def load(state: dict[str, Tensor]) -> SyncNetV2:
    """The network with a published state, ready to score; wrong tensors raise ``RuntimeError``."""
    with torch.device("meta"):
        network = SyncNetV2()
    network.load_state_dict(state, assign=True)
    return network.train(False).requires_grad_(False)
