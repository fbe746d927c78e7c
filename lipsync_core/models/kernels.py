"""Triton kernels of ``fused.py``; importing this file needs Triton, so that only ``fused.py`` does."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _sums(
    x, part, rows, channels,
    STEPS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sums and squares of each channel over a stretch of rows, both as distances from the first row.

    Distances, because squares of large values with a small spread would cancel each other out.
    """
    stretch, column, window = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    c = column * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = c < channels
    x += window.to(tl.int64) * rows * channels
    first = tl.load(x + c, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK_C], dtype=tl.float32)
    squares = tl.zeros([BLOCK_C], dtype=tl.float32)
    for step in range(STEPS):
        r = (stretch * STEPS + step) * BLOCK_R + tl.arange(0, BLOCK_R)
        known = (r < rows)[:, None] & inside[None, :]
        place = r.to(tl.int64)[:, None] * channels + c[None, :]
        value = tl.load(x + place, mask=known, other=0.0).to(tl.float32)
        away = tl.where(known, value - first[None, :], 0.0)
        total += tl.sum(away, axis=0)
        squares += tl.sum(away * away, axis=0)
    out = part + (window * tl.num_programs(0) + stretch) * 2 * channels + c
    tl.store(out, total, mask=inside)
    tl.store(out + channels, squares, mask=inside)


@triton.jit
def _scales(
    x, part, add, weight, bias, scale, shift, rows, channels, stretches, eps,
    ROUNDS: tl.constexpr, SIZE: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
    ADDS: tl.constexpr,
):  # fmt: skip
    """What each channel of a window is multiplied by, and what is then added."""
    group, window = tl.program_id(0), tl.program_id(1)
    k = tl.arange(0, BLOCK_C)
    inside = k < SIZE
    c = group * SIZE + k
    total = tl.zeros([BLOCK_C], dtype=tl.float32)
    squares = tl.zeros([BLOCK_C], dtype=tl.float32)
    part += window * stretches * 2 * channels
    for turn in range(ROUNDS):
        s = turn * BLOCK_S + tl.arange(0, BLOCK_S)
        known = (s < stretches)[:, None] & inside[None, :]
        place = s[:, None] * 2 * channels + c[None, :]
        total += tl.sum(tl.load(part + place, mask=known, other=0.0), axis=0)
        squares += tl.sum(tl.load(part + place + channels, mask=known, other=0.0), axis=0)
    first = tl.load(x + window.to(tl.int64) * rows * channels + c, mask=inside, other=0.0)
    away = total / rows
    spread = squares / rows - away * away
    middle = first.to(tl.float32) + away
    added = tl.zeros([BLOCK_C], dtype=tl.float32)
    if ADDS:
        added = tl.load(add + window * channels + c, mask=inside, other=0.0).to(tl.float32)
        middle += added
    middle = tl.where(inside, middle, 0.0)
    mean = tl.sum(middle, axis=0) / SIZE
    apart = tl.where(inside, spread + (middle - mean) * (middle - mean), 0.0)
    times = 1.0 / tl.sqrt(tl.sum(apart, axis=0) / SIZE + eps)
    w = tl.load(weight + c, mask=inside, other=0.0).to(tl.float32) * times
    b = tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)
    tl.store(scale + window * channels + c, w, mask=inside)
    tl.store(shift + window * channels + c, b + (added - mean) * w, mask=inside)


@triton.jit
def _apply(
    x, out, scale, shift, rows, channels,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    step, column, window = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    c = column * BLOCK_C + tl.arange(0, BLOCK_C)
    r = step * BLOCK_R + tl.arange(0, BLOCK_R)
    inside = c < channels
    known = (r < rows)[:, None] & inside[None, :]
    base = window.to(tl.int64) * rows * channels
    place = base + r.to(tl.int64)[:, None] * channels + c[None, :]
    w = tl.load(scale + window * channels + c, mask=inside, other=0.0)
    b = tl.load(shift + window * channels + c, mask=inside, other=0.0)
    value = tl.load(x + place, mask=known, other=0.0).to(tl.float32)
    value = value * w[None, :] + b[None, :]
    if SILU:
        value = value * tl.sigmoid(value)
    tl.store(out + place, value.to(out.dtype.element_ty), mask=known)


def group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, add: Tensor | None, silu: bool
) -> Tensor:
    """``x``: ``(W, rows, C)`` contiguous; statistics over the rows of each of the ``W`` windows.

    ``add``: ``(W, C)``, added to every row before. ``silu``: SiLU of the result.
    """
    windows, rows, channels = x.shape
    block_c = min(64, triton.next_power_of_2(channels))
    columns = triton.cdiv(channels, block_c)
    # about as many programs as the largest GPUs run at once; few numbers of steps, for each is compiled
    most = triton.cdiv(rows * windows * columns, 64 * 1024)
    steps = min(triton.next_power_of_2(most), 64)
    stretches = triton.cdiv(rows, 64 * steps)
    rounds = triton.next_power_of_2(triton.cdiv(stretches, 16))
    part = x.new_empty((windows, stretches, 2, channels), dtype=torch.float32)
    scale, shift = x.new_empty((2, windows, channels), dtype=torch.float32)
    out = x.new_empty(x.shape)
    size = channels // groups
    _sums[(stretches, columns, windows)](
        x, part, rows, channels, STEPS=steps, BLOCK_R=64, BLOCK_C=block_c
    )
    _scales[(groups, windows)](
        x, part, x if add is None else add, weight, bias, scale, shift,
        rows, channels, stretches, eps,
        ROUNDS=rounds, SIZE=size, BLOCK_C=triton.next_power_of_2(size), BLOCK_S=16,
        ADDS=add is not None, num_warps=1,
    )  # fmt: skip
    _apply[(triton.cdiv(rows, 64), columns, windows)](
        x, out, scale, shift, rows, channels, BLOCK_R=64, BLOCK_C=block_c, SILU=silu
    )
    return out


@triton.jit
def _frames(
    query, key, value, out, frames, places, width, size, scale,
    FRAMES: tl.constexpr, PLACES: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """One head at a few places: a square of all their frames, of which only like places count."""
    few, head, window = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    r = tl.arange(0, FRAMES * PLACES)
    t, p = r % FRAMES, few * PLACES + r // FRAMES
    d = tl.arange(0, SIZE)
    known = ((t < frames) & (p < places))[:, None] & (d < size)[None, :]
    row = (window.to(tl.int64) * frames + t) * places + p
    at = row[:, None] * width + head * size + d[None, :]
    q = tl.load(query + at, mask=known, other=0.0)
    k = tl.load(key + at, mask=known, other=0.0)
    v = tl.load(value + at, mask=known, other=0.0)
    likeness = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    seen = (p[:, None] == p[None, :]) & (t < frames)[None, :]
    likeness = tl.where(seen, likeness, float("-inf"))
    share = tl.exp(likeness - tl.max(likeness, axis=1)[:, None])
    share = share / tl.sum(share, axis=1)[:, None]
    got = tl.dot(share.to(v.dtype), v, input_precision="ieee")
    tl.store(out + at, got.to(out.dtype.element_ty), mask=known)


def attend_frames(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """All ``(B, T, P, D)`` contiguous: at each of the ``P`` places, frames look at frames; T at most 32."""
    windows, frames, places, width = query.shape
    size = width // heads
    out = query.new_empty(query.shape)
    long = 16 if frames <= 16 else 32
    few = 64 // long
    _frames[(triton.cdiv(places, few), heads, windows)](
        query, key, value, out, frames, places, width, size, size**-0.5,
        FRAMES=long, PLACES=few, SIZE=max(16, triton.next_power_of_2(size)),
    )  # fmt: skip
    return out


@triton.jit
def _gate(both, out, rows, inner, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    known = (r < rows)[:, None] & (c < inner)[None, :]
    r = r.to(tl.int64)[:, None]
    hidden = tl.load(both + r * 2 * inner + c[None, :], mask=known, other=0.0).to(tl.float32)
    gate = tl.load(both + r * 2 * inner + inner + c[None, :], mask=known, other=0.0).to(tl.float32)
    gate = 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    tl.store(out + r * inner + c[None, :], (hidden * gate).to(out.dtype.element_ty), mask=known)


def gate(both: Tensor) -> Tensor:
    """``(rows, 2 I)`` contiguous to ``(rows, I)``: the first half scaled by GELU of the second."""
    rows, inner = both.shape[0], both.shape[1] // 2
    out = both.new_empty((rows, inner))
    block_c = min(128, triton.next_power_of_2(inner))
    _gate[(triton.cdiv(rows, 32), triton.cdiv(inner, block_c))](
        both, out, rows, inner, BLOCK_R=32, BLOCK_C=block_c
    )
    return out
