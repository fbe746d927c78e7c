"""Log-mel rows, one hundred a second, computed in a stream: what the draft engine hears."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np

RATE = 16_000
"""Samples per second of the sound that is analysed."""
HOP = 160
"""Samples from one row to the next: row ``i`` is centred on ``i * 10`` ms."""
ROWS_PER_SECOND = RATE // HOP
WINDOW = 400
FFT = 512
BANDS = 40
LOWEST, HIGHEST = 60.0, 7600.0
"""Hz, the outer edges of the first and the last band."""
PRE_EMPHASIS = 0.97
FLOOR = -100.0
"""dB; digital silence is here."""
LEVEL = BANDS
"""Column of the plain level in dBFS, after the bands."""
_BATCH = 512
"""Rows computed at once. Fixed, so that no result depends on the size of the incoming blocks."""


def hertz_to_mel(frequency: np.ndarray | float) -> np.ndarray:
    """The mel scale of HTK."""
    return 2595.0 * np.log10(1.0 + np.asarray(frequency) / 700.0)


@lru_cache(maxsize=1)
def filters() -> np.ndarray:
    """``(FFT / 2 + 1, BANDS)`` float32 triangles, evenly spaced in mel, peaks at 1."""
    edges = np.linspace(hertz_to_mel(LOWEST), hertz_to_mel(HIGHEST), BANDS + 2)
    bins = hertz_to_mel(np.arange(FFT // 2 + 1) * RATE / FFT)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.clip(np.minimum(rising, falling), 0.0, None).astype(np.float32)


def decibels(power: np.ndarray) -> np.ndarray:
    """``10 log10``, never below ``FLOOR``."""
    return 10.0 * np.log10(np.maximum(power, 10.0 ** (FLOOR / 10.0)))


def loudness(bands: np.ndarray) -> np.ndarray:
    """``(N,)`` float32 dB over all bands of ``(N, BANDS)`` rows in dB."""
    out = np.empty(len(bands), np.float32)
    for first in range(0, len(bands), 8192):  # an hour of rows is large in float32
        some = np.asarray(bands[first : first + 8192], np.float32)
        out[first : first + 8192] = decibels((10.0 ** (some / 10.0)).sum(-1))
    return out


def _analyse(samples: np.ndarray, count: int) -> np.ndarray:
    """``count`` rows from ``samples``, whose first sample is the one before the first row's window."""
    emphasised = samples[1:] - PRE_EMPHASIS * samples[:-1]
    starts = np.arange(count)[:, None] * HOP
    place = starts + np.arange(WINDOW)
    spectrum = np.fft.rfft(emphasised[place] * np.hanning(WINDOW).astype(np.float32), FFT)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32) / WINDOW
    rows = np.empty((count, BANDS + 1), np.float32)
    rows[:, :BANDS] = decibels(power @ filters())
    rows[:, LEVEL] = decibels(np.square(samples[1:][place]).mean(1))
    return rows


def mel_rows(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Log-mel rows of sound that comes in ``blocks`` of any size, ``(S,)`` at 16 kHz, nominally -1..1.

    Yields ``(N, BANDS + 1)`` float32: 40 bands in dB after pre-emphasis, then the plain level in
    dBFS, -100 at least. ``S // HOP + 1`` rows in all; silence is assumed before and after. Samples
    that are not finite count as silence. Memory is a few blocks.
    """
    batch_span = (_BATCH - 1) * HOP + WINDOW + 1
    pending = np.zeros(WINDOW // 2 + 1, np.float32)
    sample_count = row_count = 0
    for block in blocks:
        block = np.nan_to_num(np.asarray(block, np.float32), posinf=0.0, neginf=0.0)
        sample_count += len(block)
        pending = np.concatenate([pending, np.clip(block, -8.0, 8.0)])
        while len(pending) >= batch_span:
            yield _analyse(pending, _BATCH)
            row_count += _BATCH
            pending = pending[_BATCH * HOP :]
    remaining = (sample_count // HOP + 1 if sample_count else 0) - row_count
    pending = np.concatenate([pending, np.zeros(batch_span, np.float32)])
    while remaining > 0:
        # always a full batch: BLAS may round differently for another number of rows
        yield _analyse(pending, _BATCH)[:remaining]
        remaining -= _BATCH
        pending = np.concatenate([pending[_BATCH * HOP :], np.zeros(_BATCH * HOP, np.float32)])
