"""The motion module: attention over time at every place of the picture (AnimateDiff, "Vanilla")."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention, FeedForward
from .dense import Linear, is_frugal, portions
from .fused import attend_frames, attends_frames
from .norm import group_norm

NORM_GROUPS = 32
"""Fixed in the original, whatever the rest of the network uses."""


def position_table(length: int, width: int) -> Tensor:
    """``(1, length, width)``: sine on even, cosine on odd columns, base 10000 (Vaswani et al. 2017)."""
    place = torch.arange(length).unsqueeze(1)
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    table = torch.zeros(1, length, width)
    table[0, :, 0::2] = torch.sin(place * rate)
    table[0, :, 1::2] = torch.cos(place * rate)
    return table


class Positions(nn.Module):
    """Holds the table under the name that the checkpoints give it."""

    pe: Tensor

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.register_buffer("pe", position_table(length, width))


class TemporalAttention(Attention):
    """Every place of the picture attends to itself in the other frames of the window."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__(width, heads)
        self.pos_encoder = Positions(window, width)

    def forward(self, tokens: Tensor) -> Tensor:  # type: ignore[override]
        """``tokens``: ``(B, T, H*W, D)``, normed. The table reaches queries, keys and values alike."""
        frames = tokens.shape[1]
        tokens = tokens + self.pos_encoder.pe[:, :frames, None].to(tokens.dtype)
        if attends_frames(tokens):
            # PyTorch's kernels work in blocks of 64 and more frames, so that most of one would be empty
            seen = attend_frames(
                self.to_q(tokens), self.to_k(tokens), self.to_v(tokens), self.heads
            )
            return self.to_out[0](seen)
        # places and heads become one axis of heads, so that nothing is moved in memory:
        # (B, T, H*W * heads, d) -> (B, H*W * heads, T, d)
        size = tokens.shape[-1] // self.heads
        query, key, value = (
            layer(tokens).flatten(2).unflatten(2, (-1, size)).transpose(1, 2)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        seen = F.scaled_dot_product_attention(query, key, value)
        return self.to_out[0](seen.transpose(1, 2).reshape(tokens.shape))


class TemporalBlock(nn.Module):
    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.attention_blocks = nn.ModuleList(
            [TemporalAttention(width, heads, window) for _ in range(2)]
        )
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2)])
        self.ff = FeedForward(width)
        self.ff_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        for norm, attend in zip(self.norms, self.attention_blocks, strict=True):
            tokens = attend(norm(tokens)) + tokens
        return self.ff(self.ff_norm(tokens)) + tokens


class TemporalTransformer(nn.Module):
    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        # unlike the ResNets, statistics are those of each frame alone
        self.norm = nn.GroupNorm(NORM_GROUPS, width, eps=1e-6)
        self.proj_in = Linear(width, width)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(width, heads, window)])
        self.proj_out = Linear(width, width)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        count, width, height, breadth = x.shape
        tokens = (
            group_norm(x, self.norm)
            .permute(0, 2, 3, 1)
            .reshape(-1, frames, height * breadth, width)
        )
        tokens = self._in_portions(tokens) if is_frugal(x) else self._attend(tokens)
        return tokens.reshape(count, height, breadth, width).permute(0, 3, 1, 2) + x

    def _attend(self, tokens: Tensor) -> Tensor:
        tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens)
        return self.proj_out(tokens)

    def _in_portions(self, tokens: Tensor) -> Tensor:
        """Places do not meet here, so that a few at a time may pass through all layers."""
        batch, frames, places, width = tokens.shape
        out = torch.empty_like(tokens)
        for row in range(batch):
            for part in portions(places, frames * width * 4):
                one = tokens[row : row + 1, :, part].contiguous()
                out[row : row + 1, :, part] = self._attend(one)
        return out


class MotionModule(nn.Module):
    """``(B*T, C, H, W)`` in and out, the frames of one window next to each other."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.temporal_transformer = TemporalTransformer(width, heads, window)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        if frames > self.window:
            raise ValueError(
                f"a window of {frames} frames was given; this network knows {self.window} at most"
            )
        return self.temporal_transformer(x, frames)
