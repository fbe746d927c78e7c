"""StableSyncNet: whether 16 frames of a mouth and their sound belong together (LatentSync).

Facts: ByteDance LatentSync at commit a229c39 (Apache-2.0), names and shapes of its checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention, FeedForward

GROUPS = 32
EPSILON = 1e-6
HEADS = 8

Factor = tuple[int, int]
"""Reduction of height and width by one level."""


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """One encoder, level by level."""

    in_channels: int
    channels: tuple[int, ...]
    factors: tuple[Factor, ...]
    attention: tuple[int, ...] = ()
    """Levels that are followed by an attention block."""


@dataclass(frozen=True, kw_only=True)
class SyncNetConfig:
    audio: Ladder
    visual: Ladder
    frames: int = 16
    """Pictures under one embedding, 25 a second."""
    columns: int = 52
    """Columns of the spectrogram under one embedding, 80 a second."""


_AUDIO = ((2, 1), (2, 2), (2, 2), (1, 1), (2, 2), (2, 2), (2, 3))
_HALF_FACE = ((1, 2), *((2, 2),) * 7)

PIXEL = SyncNetConfig(
    audio=Ladder(in_channels=1, channels=(32, 64, 128, 256, 512, 1024, 2048), factors=_AUDIO),
    visual=Ladder(
        in_channels=48,
        channels=(64, 128, 256, 256, 512, 1024, 2048, 2048),
        factors=_HALF_FACE,
    ),
)
"""Of LatentSync 1.0. Looks at the lower halves of 256 px crops, ``(48, 128, 256)``."""

PIXEL_ATTENTION = SyncNetConfig(
    audio=Ladder(in_channels=1, channels=PIXEL.audio.channels, factors=_AUDIO, attention=(3, 4)),
    visual=Ladder(
        in_channels=48, channels=PIXEL.visual.channels, factors=_HALF_FACE, attention=(4, 5)
    ),
)
"""Of LatentSync 1.5 and 1.6, otherwise as ``PIXEL``."""

LATENT = SyncNetConfig(
    audio=Ladder(
        in_channels=1,
        channels=(32, 64, 128, 256, 512, 1024),
        factors=((2, 1), (2, 2), (2, 2), (2, 2), (2, 2), (2, 3)),
    ),
    visual=Ladder(
        in_channels=64,
        channels=(64, 128, 256, 256, 512, 1024),
        factors=((2, 2), (2, 2), (2, 2), (1, 1), (2, 2), (2, 2)),
    ),
)
"""Looks at whole 32 px latents, ``(64, 32, 32)``. Not published."""

PIXEL_25 = SyncNetConfig(
    audio=Ladder(in_channels=1, channels=(64, 128, 256, 256, 512, 1024), factors=((2, 2),) * 6),
    visual=Ladder(
        in_channels=75,
        channels=(128, 128, 256, 256, 512, 512, 1024, 1024),
        factors=_HALF_FACE,
    ),
    frames=25,
    columns=80,
)
"""A second at a time. Not published."""

TINY = SyncNetConfig(
    audio=Ladder(in_channels=1, channels=(32, 64, 96, 128, 128, 256), factors=LATENT.audio.factors),
    visual=Ladder(
        in_channels=48,
        channels=(32, 64, 96, 128, 128, 256),
        factors=((1, 2), *((2, 2),) * 5),
    ),
)
"""Ours, for trying things: looks at the lower halves of 64 px crops, ``(48, 32, 64)``."""

BY_KIND: Mapping[str, SyncNetConfig] = {
    "syncnet-16-pixel-attn": PIXEL_ATTENTION,
    "syncnet-16-pixel": PIXEL,
    "syncnet-16-latent": LATENT,
    "syncnet-25-pixel": PIXEL_25,
    "syncnet-16-tiny": TINY,
}
"""By what ``weights.tensors.identify`` calls a checkpoint."""


class Level(nn.Module):
    def __init__(self, into: int, out: int, factor: Factor, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, into, eps=EPSILON)
        self.conv1 = nn.Conv2d(into, out, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, out, eps=EPSILON)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(into, out, 1) if into != out else None
        down, across = factor
        self.downsample_conv = nn.Conv2d(out, out, 3, stride=factor) if down * across > 1 else None
        # left, right, top, bottom; a side that is not reduced keeps its length
        self.padding = (int(across == 1), 1, int(down == 1), 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(self.dropout(F.silu(self.norm2(y))))
        x = y + (x if self.conv_shortcut is None else self.conv_shortcut(x))
        if self.downsample_conv is not None:
            x = self.downsample_conv(F.pad(x, self.padding))
        return x


class AttentionLevel(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, width, eps=EPSILON)
        self.conv_in = nn.Conv2d(width, width, 1)
        self.norm2 = nn.LayerNorm(width)
        self.attn = Attention(width, HEADS, bias=True)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)
        self.conv_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.conv_in(self.norm1(x)).flatten(2).transpose(1, 2)
        tokens = self.attn(self.norm2(tokens)) + tokens
        tokens = self.ff(self.norm3(tokens)) + tokens
        return self.conv_out(tokens.transpose(1, 2).reshape(x.shape)) + x


class Encoder(nn.Module):
    """``(B, C, H, W)`` to ``(B, D)`` of length 1; no entry is negative."""

    def __init__(self, ladder: Ladder, dropout: float) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(ladder.in_channels, ladder.channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        into = ladder.channels[0]
        for i, (out, factor) in enumerate(zip(ladder.channels, ladder.factors, strict=True)):
            self.down_blocks.append(Level(into, out, factor, dropout))
            if i in ladder.attention:
                self.down_blocks.append(AttentionLevel(out))
            into = out
        self.norm_out = nn.GroupNorm(GROUPS, into, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return F.normalize(F.relu(self.norm_out(x)).flatten(1), dim=1)


class StableSyncNet(nn.Module):
    """Embeddings whose cosine says how well picture and sound fit, 0..1."""

    def __init__(self, config: SyncNetConfig = PIXEL_ATTENTION, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.audio_encoder = Encoder(config.audio, dropout)
        self.visual_encoder = Encoder(config.visual, dropout)

    def forward(self, pictures: Tensor, sound: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings ``(B, D)`` of pictures and of sound.

        ``pictures``: ``(B, T * C, H, W)``, frame after frame, -1..1. ``sound``: ``(B, 1, 80, 52)``
        log-mel of -4..4, 80 columns a second.
        """
        return self.visual_encoder(pictures), self.audio_encoder(sound)


def stack(crops: Tensor) -> Tensor:
    """``(B, T, 3, R, R)`` crops in -1..1 to the ``(B, T * 3, R / 2, R)`` lower halves the network sees."""
    return crops[..., crops.shape[-2] // 2 :, :].flatten(1, 2)


_CLEAR = 1e-5
"""How far the loss keeps from cosines of 0 and 1, where the logarithm ends and its slope has no limit."""


def sync_loss(
    pictures: Tensor,
    sound: Tensor,
    together: Tensor | Sequence[float] | float,
    *,
    reduction: Literal["mean", "none"] = "mean",
) -> Tensor:
    """Binary cross-entropy of the cosine of embeddings ``(B, D)``, 0..11.5, float32.

    ``together`` is 1 where they belong so, 0 where not. A scalar, or ``(B,)`` with "none".
    """
    label = torch.as_tensor(together, dtype=torch.float32, device=pictures.device)
    cosine = F.cosine_similarity(pictures.float(), sound.float())
    # the value is held clear of both ends, the slope is that at the end, so that nobody gets stuck;
    # written out because torch refuses its own function under autocast
    cosine = cosine + (cosine.clamp(_CLEAR, 1 - _CLEAR) - cosine).detach()
    loss = -(label * cosine.log() + (1 - label) * (1 - cosine).log())
    return loss.mean() if reduction == "mean" else loss
