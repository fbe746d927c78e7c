"""An estimate of sync without weights to download: measured lip movement against predicted movement.

The speed at which the mouth opens follows how fast the sound swells and how fast the draft engine's
predicted jaw falls. On GRID (11 clips, 10 speakers at most) the speed finds the shift where the
opening itself fails in a quarter of the cases: it has no drift, and its peak is narrow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..audio.mel import LEVEL, RATE, ROWS_PER_SECOND, loudness, mel_rows

if TYPE_CHECKING:
    from ..types import Voice
    from .motion import MouthMotion

LAG_STEP = 10
"""Milliseconds from one tried shift to the next."""
LAGS = np.arange(-600, 601, LAG_STEP)
"""Milliseconds by which the sound may be later than the picture; SyncNet's 15 frames."""
WEIGHTS = np.array([0.4, 0.6, 0.3]) / 1.3
"""How much loudness, predicted jaw and predicted width count."""
APART = 120
"""Milliseconds beyond which another peak is another answer."""
ACTIVE_RANGE = 32.0
"""dB below the loud parts within which the voice counts as heard."""
QUIET = -65.0
"""dBFS below which nothing counts as a voice."""
_SMOOTH = 3.0
"""Rows (10 ms); a mouth at 25 frames a second cannot follow anything faster."""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What a voice should do to a mouth, 100 rows a second, row ``i`` at ``i * 10`` ms."""

    curves: np.ndarray
    """``(N, 3)`` float32: swelling of the sound, fall of the jaw, width; compared with the mouth."""
    opening: np.ndarray
    """``(N,)`` float32 0..1, as the draft engine would draw it."""
    active: np.ndarray
    """``(N,)`` bool: the voice is heard here."""

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.opening) / ROWS_PER_SECOND


@dataclass(frozen=True, kw_only=True)
class Match:
    """How well a mouth follows a voice at every shift."""

    agreement: np.ndarray
    """``(len(LAGS),)`` -1..1: weighted correlation if the sound is later by each of ``LAGS``."""
    late_ms: float
    """Where it peaks, between the steps: milliseconds that the sound is later than the picture."""
    peak: float
    margin: float
    """Peak minus the best value more than ``APART`` away."""
    seconds: float
    """Seconds in which the face is seen and the voice is heard."""
    confidence: float
    """0..1: that this voice belongs to this mouth and that ``late_ms`` is right within a frame."""


def hear(voice: Voice) -> Heard:
    """Listens to all of ``voice`` once."""
    from ..engines.draft.speech import SHAPES, raw_shapes

    parts = [block.astype(np.float16) for block in mel_rows(voice.blocks(RATE))]
    rows = np.concatenate(parts).astype(np.float32)
    shapes = raw_shapes(rows)
    lips = {name: shapes[:, column] for column, name in enumerate(SHAPES)}
    # Bands of 180 Hz to 4.5 kHz: rumble and hiss do not move lips.
    level = loudness(rows[:, 2:28])
    top = float(np.percentile(level, 97))
    swelling = np.clip((level - top + 35.0) / 35.0, 0.0, 1.2)
    closed = 1.0 - 0.9 * lips["press"]
    jaw = 0.5 * (lips["open"] + lips["jaw"]) * closed
    curves = np.stack([_rise(swelling), _rise(jaw), _smooth(lips["wide"] - lips["round"])], axis=1)
    return Heard(
        curves=curves.astype(np.float32),
        opening=(lips["open"] * closed).astype(np.float32),
        active=_grown(
            (level > top - ACTIVE_RANGE) & (rows[:, LEVEL] > QUIET), ROWS_PER_SECOND // 5
        ),
    )


def match(motion: MouthMotion, times: np.ndarray, heard: Heard) -> Match:
    """Tries every shift of ``LAGS``.

    ``times``: ``(T,)`` seconds of the voice at which each frame of ``motion`` is shown.
    """
    agreement = np.zeros(len(LAGS))
    mouth = signals(motion)
    known = np.isfinite(mouth[:, 0])
    for number, lag in enumerate(LAGS):
        moments = times + lag / 1000.0
        usable = known & (moments >= 0.0) & (moments <= heard.duration)
        if usable.sum() >= 10:
            # Fewer comparisons, more chance: what overlaps little counts less.
            share = math.sqrt(usable.sum() / max(known.sum(), 1))
            voice = expected(heard, moments)[usable]
            agreement[number] = share * float(WEIGHTS @ correlation(mouth[usable], voice))
    best = int(agreement.argmax())
    late = float(LAGS[best])
    if 0 < best < len(LAGS) - 1:
        left, middle, right = agreement[best - 1 : best + 2]
        bend = left - 2.0 * middle + right
        if bend < 0.0:
            late += LAG_STEP * 0.5 * float(left - right) / float(bend)
    far = np.abs(LAGS - LAGS[best]) > APART
    margin = float(agreement[best] - agreement[far].max())
    seconds = active_seconds(times + late / 1000.0, heard, known)
    return Match(
        agreement=agreement,
        late_ms=late,
        peak=float(agreement[best]),
        margin=margin,
        seconds=seconds,
        confidence=confidence(float(agreement[best]), margin, seconds),
    )


def agreement(motion: MouthMotion, moments: np.ndarray, heard: Heard) -> float:
    """-1..1: how the mouth follows the voice as it stands, no shift tried."""
    mouth = signals(motion)
    usable = np.isfinite(mouth[:, 0]) & (moments >= 0.0) & (moments < heard.duration)
    if usable.sum() < 10:
        return 0.0
    return float(WEIGHTS @ correlation(mouth[usable], expected(heard, moments)[usable]))


def signals(motion: MouthMotion) -> np.ndarray:
    """``(T, 3)``: what is compared with ``Heard.curves``; NaN rows where the mouth was not seen."""
    speed, width = _tamed(motion.speed), _tamed(motion.width)
    return np.stack([speed, speed, width], axis=1)


def expected(heard: Heard, moments: np.ndarray) -> np.ndarray:
    """``(T, 3)``: what ``signals`` of a mouth should be at ``moments`` (seconds of the voice)."""
    # A speed between two frames is that of the moment between them.
    half = 0.5 * float(np.median(np.diff(moments))) if len(moments) > 1 else 0.0
    rises = at(heard.curves[:, :2], moments - half)
    return np.concatenate([rises, at(heard.curves[:, 2:], moments)], axis=1)


def at(curves: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Rows of ``(N,)`` or ``(N, C)`` curves at ``moments`` (seconds), straight lines between rows."""
    place = np.clip(moments * ROWS_PER_SECOND, 0.0, max(len(curves) - 1.001, 0.0))
    low = place.astype(int)
    part = place - low
    high = np.minimum(low + 1, len(curves) - 1)
    if curves.ndim == 2:
        part = part[:, None]
    return curves[low] * (1.0 - part) + curves[high] * part


def active_seconds(moments: np.ndarray, heard: Heard, known: np.ndarray) -> float:
    """Seconds of frames that are ``known`` and whose ``moments`` of the voice are heard."""
    inside = known & (moments >= 0.0) & (moments < heard.duration)
    rows = np.clip((moments * ROWS_PER_SECOND).astype(int), 0, len(heard.active) - 1)
    step = float(np.median(np.diff(moments))) if len(moments) > 1 else 0.0
    return float((inside & heard.active[rows]).sum() * step)


def confidence(peak: float, margin: float, seconds: float) -> float:
    """0..1 from how high the peak stands for the length of speech it rests on.

    A chance peak falls with the square root of the length. The two constants of the curve are
    fitted, see ``CALIBRATION``.
    """
    if seconds < LEAST_SECONDS:
        return 0.0
    # However long the clip, a real mouth follows its voice more than this.
    height = min((peak + 0.5 * margin) * math.sqrt(seconds), (peak - 0.06) * 12.0)
    return 1.0 / (1.0 + math.exp(-(height - CALIBRATION[0]) / CALIBRATION[1]))


LEAST_SECONDS = 1.0
"""Seconds of speech below which nothing is said."""
CALIBRATION = (0.80, 0.085)
"""Height at which a claim is as likely right as wrong, and the width of the step.

Heights of foreign voices, 95th percentile: .85 (550 pairs of GRID clips of 3 s), .92 (100 of 8 s),
.70 (424 pairs of other clips of 3-8 s). Of true ones, median: 1.04, 1.81, .6-.8.
"""
ACCEPT = 0.8
"""Confidence from which the estimate is accepted."""


def correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pearson's, column by column; 0 where one does not move."""
    one = one - one.mean(0)
    other = other - other.mean(0)
    power = np.sqrt((one**2).sum(0) * (other**2).sum(0))
    return np.where(power > 1e-9, (one * other).sum(0) / np.maximum(power, 1e-9), 0.0)


def _tamed(values: np.ndarray) -> np.ndarray:
    """Float64 about the median, outliers (a blink of the tracker) held to four deviations."""
    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    if not known.any():
        return values
    middle = np.median(values[known])
    reach = 4.0 * 1.48 * np.median(np.abs(values[known] - middle)) + 1e-6
    return np.clip(values - middle, -reach, reach)


def _smooth(curve: np.ndarray) -> np.ndarray:
    reach = int(4 * _SMOOTH)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / _SMOOTH) ** 2)
    padded = np.pad(curve.astype(np.float64), reach, mode="edge")
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")


def _rise(curve: np.ndarray) -> np.ndarray:
    return np.gradient(_smooth(curve)) if len(curve) > 1 else np.zeros(len(curve))


def _grown(flags: np.ndarray, reach: int) -> np.ndarray:
    counts = np.concatenate([[0], np.cumsum(flags)])
    place = np.arange(len(flags))
    low, high = np.maximum(place - reach, 0), np.minimum(place + reach + 1, len(flags))
    return counts[high] > counts[low]
