"""Cepstral coefficients, one hundred rows a second, computed in a stream: what SyncNet hears.

Constants and order of operations are those of python_speech_features 0.6 with its defaults, which
SyncNet was trained with; the frequency scale is the one of :func:`.mel.hertz_to_mel`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np

from .mel import hertz_to_mel

RATE = 16_000
"""Samples per second of the sound that is analysed."""
HOP = 160
"""Samples from one row to the next: row ``i`` begins at ``i * 10`` ms."""
ROWS_PER_SECOND = RATE // HOP
WINDOW = 400
"""Samples under one row; all weigh the same, the original has no window function."""
FFT = 512
BANDS = 26
COEFFICIENTS = 13
PRE_EMPHASIS = 0.97
LIFTER = 22
_SMALLEST = np.finfo(np.float64).eps
_BATCH = 1024
"""Rows computed at once."""


def to_integers(samples: np.ndarray) -> np.ndarray:
    """Sound in -1..1 as the int16 values of a wave file, ``(S,)``; what is louder is clipped."""
    finite = np.nan_to_num(np.asarray(samples, np.float64), posinf=0.0, neginf=0.0)
    return np.clip(np.rint(finite * 32768.0), -32768, 32767).astype(np.int16)


def row_count(samples: int) -> int:
    """Rows that a sound of so many samples has; the last one is filled up with silence."""
    return 1 + max(0, -(-(samples - WINDOW) // HOP))


@lru_cache(maxsize=1)
def filters() -> np.ndarray:
    """``(FFT / 2 + 1, BANDS)`` float64 triangles between whole bins of the spectrum."""
    edges = np.linspace(0.0, float(hertz_to_mel(RATE / 2)), BANDS + 2)
    bins = np.floor((FFT + 1) * 700.0 * (10.0 ** (edges / 2595.0) - 1.0) / RATE).astype(int)
    table = np.zeros((FFT // 2 + 1, BANDS))
    for band, (low, peak, high) in enumerate(zip(bins, bins[1:], bins[2:], strict=False)):
        table[low:peak, band] = (np.arange(low, peak) - low) / max(peak - low, 1)
        table[peak:high, band] = (high - np.arange(peak, high)) / max(high - peak, 1)
    return table


@lru_cache(maxsize=1)
def _cosines() -> np.ndarray:
    """``(BANDS, COEFFICIENTS)``: orthonormal cosine transform, then the lifter."""
    order = np.arange(COEFFICIENTS)
    place = np.arange(BANDS)[:, None]
    table = np.cos(np.pi * order * (2 * place + 1) / (2 * BANDS)) * np.sqrt(2.0 / BANDS)
    table[:, 0] /= np.sqrt(2.0)
    return table * (1.0 + LIFTER / 2.0 * np.sin(np.pi * order / LIFTER))


def _analyse(emphasised: np.ndarray, count: int) -> np.ndarray:
    place = np.arange(count)[:, None] * HOP + np.arange(WINDOW)
    spectrum = np.fft.rfft(emphasised[place], FFT)
    power = (spectrum.real**2 + spectrum.imag**2) / FFT
    energy = power.sum(1)
    energy[energy == 0.0] = _SMALLEST
    bands = power @ filters()
    bands[bands == 0.0] = _SMALLEST
    rows = np.log(bands) @ _cosines()
    # The original replaces the first coefficient by the log of the whole energy.
    rows[:, 0] = np.log(energy)
    return rows


def mfcc_rows(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Coefficients of sound that comes in ``blocks`` of any size, ``(S,)`` int16 values at 16 kHz.

    Yields ``(N, 13)`` float64, ``row_count(S)`` rows in all. Samples are taken unscaled (-32768..32767),
    as the original does; floating-point sound goes through :func:`to_integers` first.
    """
    span = (_BATCH - 1) * HOP + WINDOW
    pending = np.zeros(0)
    previous = 0.0
    samples = rows = 0
    for block in blocks:
        block = np.asarray(block, np.float64)
        if not len(block):
            continue
        emphasised = block - PRE_EMPHASIS * np.concatenate([[previous], block[:-1]])
        previous = float(block[-1])
        samples += len(block)
        pending = np.concatenate([pending, emphasised])
        while len(pending) >= span:
            yield _analyse(pending, _BATCH)
            rows += _BATCH
            pending = pending[_BATCH * HOP :]
    if not samples:
        return
    remaining = row_count(samples) - rows
    if remaining > 0:
        padded = np.zeros(max((remaining - 1) * HOP + WINDOW, len(pending)))
        padded[: len(pending)] = pending
        yield _analyse(padded, remaining)


def mfcc(samples: np.ndarray) -> np.ndarray:
    """All rows of a sound that is in memory: ``(S,)`` int16 values at 16 kHz to ``(N, 13)`` float64."""
    parts = list(mfcc_rows([samples]))
    return np.concatenate(parts) if parts else np.zeros((0, COEFFICIENTS))
