"""Turns clean synthetic speech into the rough sounds of the world, in the log-mel domain."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from lipsync_core.audio.mel import BANDS, FLOOR, decibels, loudness
from lipsync_core.engines.draft.speech import features, level_and_colour

from .phones import (
    CODES,
    IS_BILABIAL,
    IS_VOWEL,
    SILENCE,
    SYMBOLS,
    Segments,
    targets,
    visemes,
    with_breath,
)

CROP = 490
"""Rows cut from an item before it is stretched."""
LENGTH = 400
"""Rows of a training example."""
LEVEL_SLOPE = 0.03
LEVEL_CHANGE = 3.5
_STOPS = np.array([s in "ptkqcʈbdɡgɟɖ" for s in SYMBOLS])


@dataclass(frozen=True)
class Corpus:
    """What ``synth.py`` made."""

    rows: np.ndarray
    row_starts: np.ndarray
    parts: list[Segments]
    recorded: np.ndarray
    """``(items,)`` bool: a voice built from recordings, whose closures and colours are those of people."""

    @classmethod
    def read(cls, *paths: Path) -> Corpus:
        """Reads files of ``synth.py``, one after the other."""
        whole = [cls._read_one(path) for path in paths]
        counts = np.concatenate([np.diff(corpus.row_starts) for corpus in whole])
        return cls(
            np.concatenate([corpus.rows for corpus in whole]),
            np.concatenate([[0], np.cumsum(counts)]),
            [parts for corpus in whole for parts in corpus.parts],
            np.concatenate([corpus.recorded for corpus in whole]),
        )

    @classmethod
    def _read_one(cls, path: Path) -> Corpus:
        with np.load(path) as stored:
            starts = np.concatenate([[0], np.cumsum(stored["row_counts"])])
            edges = np.concatenate([[0], np.cumsum(stored["segment_counts"])])
            # The table of sounds may have changed since: what is stored names its own.
            now = np.array([CODES.get(str(symbol), -1) for symbol in stored["symbols"]])
            ends, codes = stored["ends"].astype(np.float64), now[stored["codes"]]
            rows = stored["rows"]
            recorded = bool(stored["recorded"]) if "recorded" in stored else False
        if (codes < 0).any():
            raise SystemExit(
                f"{path} has sounds that phones.py does not know; make it anew with synth"
            )
        parts = [Segments(ends=ends[a:b], codes=codes[a:b]) for a, b in pairwise(edges)]
        return cls(rows, starts, parts, np.full(len(parts), recorded))

    def __len__(self) -> int:
        return len(self.parts)

    def item(self, index: int) -> tuple[np.ndarray, Segments]:
        """``(N, BANDS)`` dB and its sounds."""
        rows = self.rows[self.row_starts[index] : self.row_starts[index + 1]]
        return rows.astype(np.float32), self.parts[index]


def cut(rows: np.ndarray, parts: Segments, start: int, count: int) -> tuple[np.ndarray, Segments]:
    """Rows ``start .. start + count`` and the sounds in them, times from the new beginning."""
    begin, end = start / 100.0, (start + count) / 100.0
    kept = (parts.ends > begin) & (parts.starts < end)
    ends = np.minimum(parts.ends[kept], end) - begin
    if not len(ends):
        return rows[start : start + count], Segments(
            ends=np.array([count / 100.0]), codes=np.array([CODES[SILENCE]])
        )
    return rows[start : start + count], Segments(ends=ends, codes=parts.codes[kept])


def stretch(
    rows: np.ndarray, parts: Segments, rng: np.random.Generator, *, recorded: bool = False
) -> tuple[np.ndarray, Segments]:
    """Another tempo, and each sound a little longer or shorter by itself.

    espeak-ng closes for 40-50 ms where people take 50-120, hence the wider range of stops.
    """
    factor = rng.uniform(0.85, 1.2) * np.exp(rng.normal(0, 0.12, len(parts.codes)))
    closing = _STOPS[parts.codes] | IS_BILABIAL[parts.codes]
    longer = (0.85, 1.4) if recorded else (1.0, 2.0)
    factor[closing] *= rng.uniform(*longer, int(closing.sum()))
    old = np.concatenate([[0.0], parts.ends])
    new = np.concatenate([[0.0], np.cumsum(np.diff(old) * factor)])
    source = np.interp(np.arange(int(new[-1] * 100)) / 100.0, new, old) * 100.0
    source = np.clip(source, 0, len(rows) - 1)
    low = np.minimum(source.astype(int), len(rows) - 2)
    part = (source - low)[:, None].astype(np.float32)
    return rows[low] * (1 - part) + rows[low + 1] * part, Segments(ends=new[1:], codes=parts.codes)


def _knots(rng: np.random.Generator, count: int, length: int, spread: float) -> np.ndarray:
    """A random smooth curve of ``length`` values through ``count`` normal knots."""
    knots = rng.normal(0, spread, max(2, count))
    return np.interp(np.linspace(0, 1, length), np.linspace(0, 1, len(knots)), knots)


def vocal_tract(rows: np.ndarray, factor: float) -> np.ndarray:
    """The spectrum moved along the mel axis, as by a longer or shorter vocal tract."""
    place = np.clip(np.arange(BANDS) * factor, 0, BANDS - 1.001)
    low = place.astype(int)
    part = (place - low).astype(np.float32)
    return rows[:, low] * (1 - part) + rows[:, low + 1] * part


def pronounce(
    rows: np.ndarray, parts: Segments, rng: np.random.Generator, most: float = 4.5
) -> np.ndarray:
    """Every sound with a colour of its own, so that no template of the synthesiser is learnt by heart."""
    spread = rng.uniform(0, most)
    knots = rng.normal(0, spread, (len(parts.codes), 8))
    place = np.linspace(0, 7, BANDS)
    low = np.minimum(place.astype(int), 6)
    part = place - low
    curves = knots[:, low] * (1 - part) + knots[:, low + 1] * part
    segment = np.searchsorted(parts.ends, (np.arange(len(rows)) + 0.5) / 100.0)
    change = curves[np.minimum(segment, len(curves) - 1)]
    change = np.pad(change, ((2, 2), (0, 0)), mode="edge")
    soft = sum(change[i : i + len(rows)] for i in range(5)) / 5.0
    return (rows + soft).astype(np.float32)


FRONTING = 0.7
"""Share of examples in which *u* is said further to the front."""
SHORTEST, LONGEST = 0.83, 1.09
"""Of the vocal tracts of training, on the mel axis."""
_ROUND_VOWELS = np.array([s in "uʉʊ" for s in SYMBOLS])
_FRONTED = (14.0, 22.5)
"""Bands, 1.1 to 2.4 kHz: where the second formant of a fronted, still rounded u lies."""


def front(rows: np.ndarray, parts: Segments, rng: np.random.Generator) -> np.ndarray:
    """Says u further to the front, as most living accents of English do and few synthesisers.

    The second formant of each u moves to a place in ``_FRONTED`` and leaves a valley behind it; the first
    and what lies far above stay. The tongue moves, the lips stay round: so do the targets.
    """
    goal = rng.uniform(*_FRONTED)
    place = np.arange(BANDS, dtype=np.float32)
    # Round lips lower what lies above: an i has there most, a fronted u little.
    tilt = np.clip((place - goal - 2) / 4, 0, 1) * rng.uniform(0, 8)
    valley = np.exp(-(((place - (goal + 7) / 2) / (0.28 * (goal - 7))) ** 2)) * rng.uniform(0, 10)
    gain = np.clip(1 - np.abs(place - goal) / 3, 0, 1) * rng.uniform(0, 6) - tilt - valley
    edges = np.round(np.concatenate([[0.0], parts.ends]) * 100).astype(int)
    out = rows
    for number in np.nonzero(_ROUND_VOWELS[parts.codes])[0]:
        begin, end = int(edges[number]), min(int(edges[number + 1]), len(rows))
        if end - begin < 2:
            continue
        mean = rows[begin:end].mean(0) + 0.25 * place
        peaks = [k for k in range(9, 22) if mean[k - 1] <= mean[k] >= mean[k + 1]]
        peak = max(peaks, key=lambda k: mean[k], default=BANDS)
        if peak >= goal - 1:
            continue
        reach = 3
        first, last = max(0, begin - reach), min(len(rows), end + reach)
        end_of_shift = max(27.0, goal + 5)
        source = np.interp(
            place, [0, 6, goal, end_of_shift, BANDS - 1], [0, 6, peak, end_of_shift, BANDS - 1]
        )
        low = np.minimum(source.astype(int), BANDS - 2)
        part = (source - low).astype(np.float32)
        moved = rows[first:last, low] * (1 - part) + rows[first:last, low + 1] * part + gain
        row = np.arange(first, last)
        share = np.clip(
            np.minimum(row - begin + reach, end + reach - 1 - row) / (2.0 * reach), 0, 1
        )
        if out is rows:
            out = rows.copy()
        out[first:last] += (share[:, None] * (moved - rows[first:last])).astype(np.float32)
    return out


def strengths(rows: np.ndarray, parts: Segments) -> np.ndarray:
    """Factor on the opening of each sound: long loud vowels open fully, short soft ones do not.

    Length: .6 at nothing, 1 at 110 ms. Level: 3 % a dB against the louder vowels of the item.
    """
    energy = np.concatenate([[0.0], np.cumsum(10.0 ** (loudness(rows) / 10.0))])
    edges = np.clip(np.round(np.concatenate([[0.0], parts.ends]) * 100).astype(int), 0, len(rows))
    count = np.maximum(np.diff(edges), 1)
    level = decibels((energy[edges[1:]] - energy[edges[:-1]]) / count)
    vowels = IS_VOWEL[parts.codes]
    out = np.ones(len(parts.codes))
    if vowels.any():
        loud = np.percentile(level[vowels], 80)
        by_level = np.clip(1.0 + LEVEL_SLOPE * (level - loud), 0.45, 1.15)
        by_length = np.clip(
            0.6 + 0.4 * np.diff(np.concatenate([[0.0], parts.ends])) / 0.11, 0.6, 1.08
        )
        out[vowels] = (by_level * by_length)[vowels]
    return out


def voice_level(rows: np.ndarray, parts: Segments) -> np.ndarray:
    """``(N,)`` loudness of the voice, 0 at 40 dB under its loud moments and where nobody speaks."""
    total = loudness(rows)
    level = np.clip((total - level_and_colour(rows)[0]) / 40.0 + 1.0, 0.0, 1.0)
    sounds = np.searchsorted(parts.ends, (np.arange(len(rows)) + 0.5) / 100.0)
    silent = parts.codes[np.minimum(sounds, len(parts.codes) - 1)] == CODES[SILENCE]
    spoken = np.convolve(np.pad(~silent, 4, mode="edge"), np.hanning(11)[1:-1] / 5.0, "valid")
    return level * np.clip(spoken, 0.0, 1.0)


def _mix_noise(power: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    count = len(power)
    tilt = rng.uniform(-0.9, 0.35) * np.arange(BANDS)
    colour = tilt + _knots(rng, 6, BANDS, 4.0)
    colour -= decibels((10.0 ** (colour / 10)).sum())
    course = np.zeros(count)
    if rng.random() < 0.25:
        course = _knots(rng, int(count / 100 * rng.uniform(0.5, 8)), count, 6.0)
    noise = 10.0 ** ((level - rng.uniform(5, 48) + colour[None] + course[:, None]) / 10)
    grain = rng.uniform(1.5, 6)
    return power + noise * rng.gamma(grain, 1 / grain, power.shape)


def _room(power: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Late reverberation: an exponential tail in the power domain."""
    seconds = rng.uniform(0.1, 0.8)
    tail = np.exp(-13.8 * np.arange(1, 60) * 0.01 / seconds)
    tail *= 10.0 ** (rng.uniform(-16, 1) / 10) / tail.sum()
    size = len(power) + len(tail)
    late = np.fft.irfft(
        np.fft.rfft(power, size, axis=0) * np.fft.rfft(tail, size)[:, None], size, axis=0
    )
    late = np.concatenate([np.zeros((1, BANDS)), late])[: len(power)]
    return power + np.maximum(late, 0) * rng.gamma(2.5, 1 / 2.5, power.shape)


def roughen(
    rows: np.ndarray, rng: np.random.Generator, other: np.ndarray | None, other_below: float
) -> np.ndarray:
    """Room, microphone, noise and other sounds. ``other``: rows mixed in ``other_below`` dB lower."""
    if other is None and rng.random() < 0.25:
        return rows  # a clean recording
    power = 10.0 ** (rows.astype(np.float64) / 10)
    level = float(np.percentile(loudness(rows), 95))
    if rng.random() < 0.15:  # breath instead of a clear voice
        power *= rng.gamma(2.0, 0.5, power.shape)
    if rng.random() < 0.5:
        power = _room(power, rng)
    if other is not None:
        place = np.arange(len(rows)) % len(other)
        gain = level - other_below - float(np.percentile(loudness(other), 95))
        power += 10.0 ** ((other[place].astype(np.float64) + gain) / 10)
    if rng.random() < 0.85:
        power = _mix_noise(power, level, rng)
    curve = _knots(rng, 7, BANDS, 4.5) + rng.normal(0, 0.15) * np.arange(BANDS)
    if rng.random() < 0.3:
        cutoff = rng.uniform(18, 39)  # band; from 1.9 kHz up
        curve -= np.clip(np.arange(BANDS) - cutoff, 0, None) * rng.uniform(3, 12)
    if rng.random() < 0.3:
        cutoff = rng.uniform(1, 7)
        curve -= np.clip(cutoff - np.arange(BANDS), 0, None) * rng.uniform(2, 8)
    rows = decibels(power) + curve
    if rng.random() < 0.35:  # compressed, or expanded
        contrast = rng.uniform(0.7, 1.1)
        total = loudness(rows)
        rows = rows + ((contrast - 1) * np.maximum(total - total.max(), -40))[:, None]
    floor = level - rng.uniform(45, 90)  # the noise floor of the recording
    return np.maximum(rows, max(FLOOR, floor)).astype(np.float32)


def _touch_features(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    x = x.copy()
    x[:, :BANDS] += np.repeat(rng.normal(0, 0.12, 8), 5)[None]
    x[:, BANDS] += rng.normal(0, 0.08)
    if rng.random() < 0.35:
        first, count = rng.integers(0, BANDS - 6), rng.integers(2, 7)
        x[:, first : first + count] = 0
    return x


def example(
    corpus: Corpus, index: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One augmented example: ``(LENGTH, 41)`` features, ``(LENGTH, 7)`` outputs, ``(LENGTH,)`` visemes."""
    rows, parts = corpus.item(index)
    start = int(rng.integers(0, max(1, len(rows) - CROP)))
    rows, parts = cut(rows, parts, start, min(CROP, len(rows) - start))
    recorded = bool(corpus.recorded[index])
    rows, parts = stretch(rows, parts, rng, recorded=recorded)
    rows, parts = cut(rows, parts, 0, min(LENGTH, len(rows)))
    if rng.random() < FRONTING:
        rows = front(rows, parts, rng)
    rows = vocal_tract(rows, rng.uniform(SHORTEST, LONGEST))
    rows = pronounce(rows, parts, rng, 3.0 if recorded else 4.5)
    # The same words said louder and softer: what is louder is to open wider.
    rows = rows + _knots(rng, int(len(rows) / 30), len(rows), LEVEL_CHANGE)[:, None].astype(
        np.float32
    )
    voice = voice_level(rows, parts)
    parts = with_breath(parts)
    shapes = targets(parts, len(rows), strengths(rows, parts))
    shapes = np.concatenate([shapes, voice[:, None]], axis=1)
    classes = visemes(parts, len(rows))
    other, below = None, 0.0
    chance = rng.random()
    if chance < 0.25:
        other, other_parts = corpus.item(int(rng.integers(len(corpus))))
        speech = bool((other_parts.codes != CODES[SILENCE]).any())
        below = rng.uniform(14, 30) if speech else rng.uniform(5, 30)
    x = roughen(rows, rng, other, below)
    x = _touch_features(features(x, *level_and_colour(x)), rng)
    missing = LENGTH - len(x)
    if missing > 0:
        x = np.pad(x, ((0, missing), (0, 0)), mode="edge")
        shapes = np.pad(shapes, ((0, missing), (0, 0)), mode="edge")
        classes = np.pad(classes, (0, missing), mode="edge")
    return x.astype(np.float32), shapes.astype(np.float32), classes.astype(np.int64)
