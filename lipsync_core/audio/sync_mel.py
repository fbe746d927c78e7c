"""Log-mel columns, eighty a second, computed in a stream: what Wav2Lip and StableSyncNet hear.

Constants are those of Wav2Lip's ``hparams``, which LatentSync and MuseTalk share: amplitudes, not powers,
on Slaney's scale, -100..0 dB on -4..4. Silence is assumed before and after, as librosa has it today;
the librosa of Wav2Lip's days mirrored the sound there, which changes the first and last two columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np

RATE = 16_000
"""Samples per second of the sound that is analysed."""
HOP = 200
COLUMNS_PER_SECOND = RATE // HOP
FFT = 800
BANDS = 80
LOWEST, HIGHEST = 55.0, 7600.0
PRE_EMPHASIS = 0.97
SILENCE = -4.0
"""Value of digital silence in every band."""
_BATCH = 512
"""Columns computed at once."""


@lru_cache(maxsize=1)
def filters() -> np.ndarray:
    """``(80, 401)`` triangles of equal area on Slaney's scale: linear to 1 kHz, then logarithmic."""
    step = np.log(6.4) / 27

    def to_mel(hertz: float) -> float:
        return hertz * 3 / 200 if hertz < 1000 else 15 + np.log(hertz / 1000) / step

    marks = np.linspace(to_mel(LOWEST), to_mel(HIGHEST), BANDS + 2)
    hertz = np.where(marks < 15, marks * 200 / 3, 1000 * np.exp(step * (marks - 15)))
    bins = np.arange(FFT // 2 + 1) * RATE / FFT
    rising = (bins - hertz[:-2, None]) / (hertz[1:-1] - hertz[:-2])[:, None]
    falling = (hertz[2:, None] - bins) / (hertz[2:] - hertz[1:-1])[:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return triangles * (2 / (hertz[2:] - hertz[:-2]))[:, None]


def _analyse(emphasised: np.ndarray, count: int) -> np.ndarray:
    place = np.arange(count)[:, None] * HOP + np.arange(FFT)
    # A periodic Hann window, as librosa takes one for spectra.
    window = np.hanning(FFT + 1)[:-1]
    spectrum = np.abs(np.fft.rfft(emphasised[place] * window))
    levels = 20 * np.log10(np.maximum(1e-5, spectrum @ filters().T)) - 20
    return np.clip(8 * (levels + 100) / 100 - 4, -4, 4)


def mel_columns(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Columns of sound that comes in ``blocks`` of any size, ``(S,)`` at 16 kHz, nominally -1..1.

    Yields ``(N, 80)`` float64 in -4..4, column ``i`` centred on ``i * 12.5`` ms; ``S // 200 + 1`` in all.
    """
    span = (_BATCH - 1) * HOP + FFT
    pending = np.zeros(FFT // 2)
    previous = 0.0
    samples = columns = 0
    for block in blocks:
        block = np.asarray(block, np.float64)
        if not len(block):
            continue
        pending = np.concatenate(
            [pending, block - PRE_EMPHASIS * np.concatenate([[previous], block[:-1]])]
        )
        previous = float(block[-1])
        samples += len(block)
        while len(pending) >= span:
            yield _analyse(pending, _BATCH)
            columns += _BATCH
            pending = pending[_BATCH * HOP :]
    remaining = (samples // HOP + 1 if samples else 0) - columns
    pending = np.concatenate([pending, np.zeros(FFT + max(remaining, 0) * HOP)])
    while remaining > 0:
        count = min(remaining, _BATCH)
        yield _analyse(pending, count)
        remaining -= count
        pending = pending[count * HOP :]


def mel(samples: np.ndarray) -> np.ndarray:
    """All columns of a sound that is in memory: ``(S,)`` at 16 kHz to ``(80, S // 200 + 1)`` float32."""
    parts = list(mel_columns([samples]))
    whole = np.concatenate(parts) if parts else np.zeros((0, BANDS))
    return np.ascontiguousarray(whole.T, np.float32)
