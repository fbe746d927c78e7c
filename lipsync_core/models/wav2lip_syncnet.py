"""Wav2Lip's expert (Prajwal et al., 2020): do these five lower faces and this sound belong together?

Layer sizes and key names follow the published ``lipsync_expert.pth``. MuseTalk's copy is the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EMBEDDING = 512
FRAMES = 5
COLUMNS = 16
"""Columns of the mel spectrogram under one embedding, at 80 a second."""
HEIGHT, WIDTH = 48, 96
"""The lower half of a face of 96 x 96 pixels."""


class _Block(nn.Module):
    """Convolution, batch norm, ReLU, with the input added before the ReLU where sizes allow."""

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int = 3,
        step: int | tuple[int, int] = 1,
        padding: int = 1,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.Conv2d(before, after, kernel, step, padding), nn.BatchNorm2d(after)
        )
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_block(x)
        return F.relu(y + x if self.residual else y)


def _same(width: int, count: int) -> list[_Block]:
    return [_Block(width, width, residual=True) for _ in range(count)]


class Wav2LipSyncNet(nn.Module):
    """Both embeddings are non-negative and of length 1, so that their product lies in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.face_encoder = nn.Sequential(
            _Block(3 * FRAMES, 32, 7, padding=3),
            # 5 x 5 with a margin of 1: not a slip of ours, the published weights are like that
            _Block(32, 64, 5, (1, 2)),
            *_same(64, 2),
            _Block(64, 128, step=2),
            *_same(128, 3),
            _Block(128, 256, step=2),
            *_same(256, 2),
            _Block(256, 512, step=2),
            *_same(512, 2),
            _Block(512, 512, step=2),
            _Block(512, 512, padding=0),
            _Block(512, 512, 1, padding=0),
        )
        self.audio_encoder = nn.Sequential(
            _Block(1, 32),
            *_same(32, 2),
            _Block(32, 64, step=(3, 1)),
            *_same(64, 2),
            _Block(64, 128, step=3),
            *_same(128, 2),
            _Block(128, 256, step=(3, 2)),
            *_same(256, 2),
            _Block(256, 512, padding=0),
            _Block(512, 512, 1, padding=0),
        )

    def hear(self, mel: Tensor) -> Tensor:
        """``(N, 1, 80, 16)`` windows of the mel spectrogram in -4..4 to unit rows ``(N, 512)``."""
        return F.normalize(self.audio_encoder(mel).flatten(1), dim=1)

    def look(self, faces: Tensor) -> Tensor:
        """``(N, 15, 48, 96)`` lower faces, five BGR frames 0..1 on the channels, to ``(N, 512)``."""
        return F.normalize(self.face_encoder(faces).flatten(1), dim=1)

    def forward(self, mel: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of sound and of face, in the original's order."""
        return self.hear(mel), self.look(faces)


def sync_loss(sound: Tensor, face: Tensor, label: Tensor) -> Tensor:
    """Binary cross-entropy of the cosine; ``label`` ``(N,)``: 1 belongs together, 0 does not."""
    return F.binary_cross_entropy(F.cosine_similarity(sound, face), label)


def load(state: dict[str, Tensor]) -> Wav2LipSyncNet:
    """The network with a published state, ready to score; a ``module.`` in a name is dropped."""
    with torch.device("meta"):
        network = Wav2LipSyncNet()
    network.load_state_dict(
        {key.replace("module.", ""): value for key, value in state.items()}, assign=True
    )
    return network.train(False).requires_grad_(False)
