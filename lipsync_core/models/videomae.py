"""VideoMAE v2's encoder: what moves in 16 frames, as one vector (the judge of LatentSync's TREPA).

Facts: Wang et al. 2023, names and shapes of the published ``vit_g_hybrid_pt_1200e_ssv2_ft.pth``,
ByteDance LatentSync at commit a229c39 (Apache-2.0) for how it is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

EPSILON = 1e-6
"""Of the layer norms."""


@dataclass(frozen=True, kw_only=True)
class VideoMAEConfig:
    """The default is ViT-g/14, fine-tuned on Something-Something v2."""

    width: int = 1408
    depth: int = 40
    heads: int = 16
    inner: int = 6144
    """Width inside of the MLP: 48 / 11 of ``width``."""
    patch: int = 14
    """Side of a token in pixels."""
    tubelet: int = 2
    """Frames of a token."""
    channels: int = 3
    classes: int = 174
    """Rows of the classifier, which is loaded and not used; 0: the file has none."""


def config_of(shapes: Mapping[str, Sequence[int]]) -> VideoMAEConfig:
    """Reads the configuration off the tensors of a checkpoint.

    The number of heads leaves no trace in shapes; it is 16 in ViT-g.
    """
    width, channels, tubelet, patch, _ = shapes["patch_embed.proj.weight"]
    return VideoMAEConfig(
        width=width,
        depth=1 + max(int(key.split(".")[1]) for key in shapes if key.startswith("blocks.")),
        inner=shapes["blocks.0.mlp.fc1.weight"][0],
        patch=patch,
        tubelet=tubelet,
        channels=channels,
        classes=shapes["head.weight"][0] if "head.weight" in shapes else 0,
    )


def positions(count: int, width: int) -> Tensor:
    """Position table ``(count, width)``: sines in even columns, cosines in odd ones.

    The table of "Attention is all you need", over all tokens of the clip in one row; computed in
    float64 and rounded once, as the original does.
    """
    place = torch.arange(count, dtype=torch.float64)[:, None]
    column = torch.arange(width, dtype=torch.float64)
    angle = place / 10000 ** (2 * (column // 2) / width)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


class Attention(nn.Module):
    """Self attention whose keys have no bias; the checkpoint keeps the other two apart."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        both = F.linear(tokens, self.qkv.weight, bias)
        query, key, value = both.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value)
        return self.proj(seen.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=EPSILON)
        self.attn = Attention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width, eps=EPSILON)
        self.mlp = MLP(config.width, config.inner)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class Patches(nn.Module):
    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__()
        size = (config.tubelet, config.patch, config.patch)
        self.proj = nn.Conv3d(config.channels, config.width, size, stride=size)

    def forward(self, frames: Tensor) -> Tensor:
        return self.proj(frames.transpose(1, 2)).flatten(2).transpose(1, 2)


class VideoMAE(nn.Module):
    """The encoder with mean-pooled tokens. It has no stochastic depth: it judges, it is not trained."""

    def __init__(self, config: VideoMAEConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or VideoMAEConfig()
        self.checkpointing = False
        """Trades time for memory where a gradient goes back to the frames."""
        self._positions = torch.empty(0)
        self.patch_embed = Patches(config)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.depth)])
        self.fc_norm = nn.LayerNorm(config.width, eps=EPSILON)
        self.head = nn.Linear(config.width, config.classes) if config.classes else nn.Identity()

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights; frames must have it too."""
        return self.fc_norm.weight.dtype

    def forward(self, frames: Tensor) -> Tensor:
        """``(B, T, 3, H, W)`` in 0..1 to features ``(B, D)``.

        The published weights saw 16 frames of 224 x 224. ``T`` must be a multiple of 2; columns and
        rows that do not fill a patch of 14 are not seen.
        """
        if frames.shape[1] % self.config.tubelet:
            raise ValueError(
                f"VideoMAE looks at {self.config.tubelet} frames at a time, which "
                f"{frames.shape[1]} frames are no multiple of; take a longer or shorter window"
            )
        tokens = self.patch_embed(frames)
        tokens = tokens + self._place(tokens)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return self.fc_norm(tokens.mean(1))

    def _place(self, tokens: Tensor) -> Tensor:
        """The position table beside ``tokens``, kept for the next call."""
        kept = self._positions
        if (kept.shape, kept.dtype, kept.device) != (tokens.shape[1:], tokens.dtype, tokens.device):
            self._positions = positions(*tokens.shape[1:]).to(tokens)
        return self._positions
