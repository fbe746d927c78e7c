"""Where a voice track speaks and where it is silent, by energy against its own noise and its own top."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from .mel import BANDS, LEVEL, RATE, ROWS_PER_SECOND, loudness, mel_rows

if TYPE_CHECKING:
    from ..types import Voice

QUIET = -60.0
"""dBFS; below it nothing is speech."""
LEAST_CONTRAST = 9.0
"""dB between the loud and the quiet moments of a stretch; less is noise or hum, speech has 20 and more."""
ABOVE_NOISE = 7.0
"""dB over the quiet moments that speech has at least."""
BELOW_TOP = 36.0
"""dB under the loud moments beyond which speech is not heard any more."""
LONGEST_GAP = 25
"""Rows: a shorter silence belongs to the speech around it (stops close for up to 150 ms)."""
SHORTEST = 6
"""Rows: a shorter sound is a click."""
_WINDOW, _STEP = 1500, 250
"""Rows over which noise and top are taken, and from one such window to the next."""
_MODULATION = 4.0
"""dB of change within a syllable (200 ms) that a stretch of speech shows; music held on and hum do not."""


def _course(total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``(N,)`` noise and top in dB, slowly changing."""
    count = len(total)
    half = _WINDOW // 2
    if count <= _WINDOW:
        centres = np.array([0])
    else:
        centres = np.minimum(np.arange(half, count - half + _STEP, _STEP), count - half)
    noise, top = np.array(
        [np.percentile(total[max(0, c - half) : max(c, half) + half], [8, 96]) for c in centres]
    ).T
    rows = np.arange(count)
    return np.interp(rows, centres, noise), np.interp(rows, centres, top)


def _runs(active: np.ndarray) -> np.ndarray:
    """``(R, 2)`` first row and row after the last of each run of True."""
    edges = np.diff(np.concatenate([[0], active.astype(np.int8), [0]]))
    return np.stack([np.nonzero(edges == 1)[0], np.nonzero(edges == -1)[0]], 1)


def moving_sum(values: np.ndarray, width: int) -> np.ndarray:
    """``(N,)`` sums over ``width`` values around each, zeros beyond the ends."""
    return np.convolve(values, np.ones(width))[width // 2 :][: len(values)]


def activity(rows: np.ndarray) -> np.ndarray:
    """``(N,)`` bool, one per row of ``mel_rows`` (``(N, 41)``): somebody speaks here.

    Pauses shorter than a quarter of a second count as speech. Steady noise, hum and held tones do
    not; music and babble may.
    """
    count = len(rows)
    if not count:
        return np.zeros(0, bool)
    # Speech lives between 200 Hz and 5 kHz: bands 3 to 33.
    total = loudness(rows[:, 3 : min(33, BANDS)])
    noise, top = _course(total)
    swing = np.abs(np.diff(total, prepend=total[:1]))
    swing = moving_sum(np.minimum(swing, 12.0), 20)  # dB travelled in 200 ms
    contrast = top - noise
    threshold = np.maximum(noise + np.clip(0.3 * contrast, ABOVE_NOISE, 15.0), top - BELOW_TOP)
    active = (total > threshold) & (contrast > LEAST_CONTRAST) & (rows[:, LEVEL] > QUIET)
    active &= swing > _MODULATION
    out = np.zeros(count, bool)
    last = -LONGEST_GAP
    for first, end in _runs(active):
        if end - first < SHORTEST and first - last >= LONGEST_GAP:
            continue
        out[last if 0 <= first - last < LONGEST_GAP else first : end] = True
        last = end
    return out


def speech(voice: Voice) -> list[tuple[Fraction, Fraction]]:
    """Stretches of speech, ``(start, end)`` in seconds to the hundredth."""
    rows = [block.astype(np.float16) for block in mel_rows(voice.blocks(RATE))]
    if not rows:
        return []
    spans = _runs(activity(np.concatenate(rows)))
    return [
        (Fraction(int(a), ROWS_PER_SECOND), Fraction(int(b), ROWS_PER_SECOND)) for a, b in spans
    ]
