"""LSE-D, LSE-C and the offset from embeddings: the arithmetic of SyncNet's evaluation, no network.

Follows the evaluation of joonson/syncnet_python (also Wav2Lip's and LatentSync's). That code fills
the sound up with zero vectors where a shift leads past its ends, which pulls the result of short
clips (31 % of all comparisons at 25 windows, 3 % at 250); the other convention leaves those
comparisons out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

MAX_SHIFT = 15
"""Frames by which the sound is moved either way."""
_EPSILON = np.float32(1e-6)
"""Added to every difference, as torch's ``pairwise_distance`` does."""

Padding = Literal["zero", "none"]
"""``zero``: as published, zero vectors past the ends. ``none``: only pairs that exist."""


@dataclass(frozen=True, kw_only=True)
class ShiftCurve:
    """What the distances over all shifts say. Windows are 5 frames long and start at every frame."""

    padding: Padding
    distances: np.ndarray
    """``(2 * MAX_SHIFT + 1,)`` mean distance when window ``i`` meets sound ``i + k - MAX_SHIFT``."""
    offset_frames: int
    """SyncNet's sign: positive when the sound comes early."""
    lse_d: float
    """Smallest mean distance; lower is better."""
    lse_c: float
    """Median minus smallest mean distance; higher is better."""
    confidence: np.ndarray
    """``(N,)`` per window: median minus the window's own distance at the best shift, median-filtered."""
    chance: float = 0.0
    """How many standard errors ``lse_c`` lies above nothing, windows taken as independent."""


def pair_distances(
    lips: np.ndarray,
    sound: np.ndarray,
    *,
    first: int = 0,
    count: int,
    max_shift: int = MAX_SHIFT,
    every: int = 1,
    is_cosine: bool = False,
) -> np.ndarray:
    """Distances of lip windows to the sound windows around them.

    ``lips``: ``(M, D)``, windows that begin at frames ``first``, ``first + every`` ... ``sound``:
    ``((M - 1) * every + 1 + 2 * max_shift, D)``, one window a frame from ``first - max_shift`` on; what
    lies outside ``0..count`` counts as zero vectors. ``is_cosine``: 1 minus the product of what has
    length 1 already, instead of the Euclidean distance. Returns ``(M, 2 * max_shift + 1)`` float32.
    """
    span = 2 * max_shift + 1
    reach = (len(lips) - 1) * every + 1
    assert len(sound) == reach + span - 1
    place = np.arange(first - max_shift, first - max_shift + len(sound))
    sound = np.where(((place >= 0) & (place < count))[:, None], sound, np.float32(0.0))
    result = np.empty((len(lips), span), np.float32)
    for shift in range(span):
        other = sound[shift : shift + reach : every]
        if is_cosine:
            result[:, shift] = 1.0 - np.einsum("nd,nd->n", lips, other)
            continue
        difference = lips - other + _EPSILON
        result[:, shift] = np.sqrt(np.einsum("nd,nd->n", difference, difference))
    return result


def median_filter(values: np.ndarray, size: int = 9) -> np.ndarray:
    """Running median of odd ``size``; zeros beyond the ends, as scipy's ``medfilt`` has it."""
    padded = np.pad(values, size // 2)
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, size), axis=1)


def shift_curve(
    distances: np.ndarray,
    padding: Padding = "zero",
    *,
    counts: Sequence[int] | None = None,
    every: int = 1,
) -> ShiftCurve:
    """The measures of one clip from ``(N, 2 s + 1)`` distances of :func:`pair_distances`, ``N >= 1``.

    ``counts``: windows of sound of each stretch where the clip has several, one after the other.
    ``every``: frames from one window of pictures to the next.
    """
    count, span = distances.shape
    max_shift = span // 2
    counts = [(count - 1) * every + 1] if counts is None else list(counts)
    pairs = [_pairs(one, max_shift, every) for one in counts]
    lengths = [len(one) for one in pairs]
    assert sum(lengths) == count
    exists = np.concatenate(pairs)
    if padding == "zero":
        means = distances.mean(0, dtype=np.float64)
    else:
        means = unbiased_means(distances, exists)
    best = int(np.nanargmin(means))
    middle = float(np.nanmedian(means))
    gains = middle - distances[:, best].astype(np.float64)
    if padding == "none":
        gains = gains[exists[:, best]]
    error = float(gains.std(ddof=1)) / math.sqrt(len(gains)) if len(gains) >= 3 else math.inf
    confidence = np.empty(count)
    start = 0
    for length, exist in zip(lengths, pairs, strict=True):
        part = slice(start, start + length)
        own = middle - distances[part, best].astype(np.float64)
        if padding == "none":
            paired = exist[:, best]
            own = (
                np.interp(np.arange(length), np.flatnonzero(paired), own[paired])
                if (paired.any())
                else np.zeros(length)
            )
            mode = "reflect" if length > 4 else "edge"
            confidence[part] = median_filter(np.pad(own, 4, mode=mode))[4:-4]
        else:
            confidence[part] = median_filter(own)
        start += length
    return ShiftCurve(
        padding=padding,
        distances=means,
        offset_frames=max_shift - best,
        lse_d=float(means[best]),
        lse_c=middle - float(means[best]),
        confidence=confidence,
        chance=float(gains.mean()) / max(error, 1e-9),
    )


def unbiased_means(distances: np.ndarray, exists: np.ndarray) -> np.ndarray:
    """``(2 s + 1,)`` means over the pairs that exist, both ``(N, 2 s + 1)``; NaN for shifts with too few."""
    # One odd window must not decide: a shift needs at least a quarter of the windows.
    enough = exists.sum(0) >= max(1, -(-len(distances) // 4))
    total = np.where(exists, distances, 0.0).sum(0, dtype=np.float64)
    return np.where(enough, total / np.maximum(exists.sum(0), 1), np.nan)


def existing(counts: Sequence[int], every: int = 1, max_shift: int = MAX_SHIFT) -> np.ndarray:
    """``(N, 2 * max_shift + 1)`` bool: which pairs of the stretches exist; arguments as ``shift_curve``."""
    return np.concatenate([_pairs(count, max_shift, every) for count in counts])


def _pairs(count: int, max_shift: int, every: int = 1) -> np.ndarray:
    """``(windows of pictures, 2 * max_shift + 1)`` bool: both windows exist."""
    place = np.arange(0, count, every)[:, None] + np.arange(2 * max_shift + 1) - max_shift
    return (place >= 0) & (place < count)
