"""Attention and feed-forward layers with the parameter names of the published checkpoints."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dense import Linear, is_frugal, linear
from .fused import gate as gated
from .fused import is_fused

KeyValue = tuple[Tensor, Tensor]
"""Keys and values split into heads, each ``(N, heads, L, D / heads)``."""


class Attention(nn.Module):
    """Multi-head attention; ``to_out`` is a list because the checkpoints name it ``to_out.0``."""

    def __init__(
        self, width: int, heads: int, *, source_width: int | None = None, bias: bool = False
    ) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = Linear(width, width, bias=bias)
        self.to_k = Linear(source_width or width, width, bias=bias)
        self.to_v = Linear(source_width or width, width, bias=bias)
        self.to_out = nn.ModuleList([Linear(width, width)])

    def split(self, tokens: Tensor) -> Tensor:
        """``(N, L, D)`` to ``(N, heads, L, D / heads)``, a view."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def listen(self, source: Tensor) -> KeyValue:
        """Keys and values of ``source`` ``(N, L, D)``: to be made once where the source stays."""
        return self.split(self.to_k(source)), self.split(self.to_v(source))

    def forward(self, tokens: Tensor, source: KeyValue | None = None) -> Tensor:
        """``tokens`` ``(N, L, D)`` look at ``source``, or at themselves."""
        key, value = self.listen(tokens) if source is None else source
        query = self.split(self.to_q(tokens))
        seen = F.scaled_dot_product_attention(query, key, value)
        return self.to_out[0](seen.transpose(1, 2).flatten(2))


class Gate(nn.Module):
    """GEGLU (Shazeer 2020): half of the projection, scaled by GELU of the other half."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = Linear(width, inner * 2)

    def forward(self, tokens: Tensor) -> Tensor:
        if is_frugal(tokens):
            # two tensors that lie whole in memory are sooner made and read than halves of one
            (hidden, gate), bias = self.proj.weight.chunk(2), self.proj.bias.chunk(2)
            return linear(tokens, hidden, bias[0]).mul_(F.gelu(linear(tokens, gate, bias[1])))
        both = self.proj(tokens)
        if is_fused(both):
            return gated(both)
        hidden, gate = both.chunk(2, dim=-1)
        if torch.is_grad_enabled():
            return hidden * F.gelu(gate)
        # a tensor of its own: behind half of another, the next layer would add its bias separately
        return F.gelu(gate).mul_(hidden)


class FeedForward(nn.Module):
    """Named as in the checkpoints: ``net.0.proj`` and ``net.2``; ``net.1`` was a dropout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([Gate(width, width * 4), nn.Identity(), Linear(width * 4, width)])

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net[2](self.net[0](tokens))
