"""IPA to mouth: which shape each sound asks for, and how neighbouring sounds blend."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

SHAPES = ("open", "jaw", "wide", "round", "press", "fv")

_TABLE = """
a ä ɑ ɶ          | .95 .90 .10 .05 0 0 | 1 1
æ                | .85 .80 .35 0   0 0 | 1 1
ɐ ʌ              | .68 .65 .10 .05 0 0 | 1 1
ɔ ɒ              | .56 .58 0   .55 0 0 | 1 1
o ɤ              | .38 .42 0   .75 0 0 | 1 1
ʊ                | .27 .30 0   .65 0 0 | 1 1
u ʉ              | .16 .20 0   .95 0 0 | 1 1
ə ɘ ᵻ ɚ          | .38 .35 .10 .10 0 0 | .5 .5
ɜ ɝ ɞ ɵ          | .42 .40 .05 .25 0 0 | 1 1
ɛ ε              | .62 .52 .40 0   0 0 | 1 1
e                | .50 .40 .65 0   0 0 | 1 1
ɪ                | .40 .30 .60 0   0 0 | .8 .8
i                | .36 .20 .90 0   0 0 | 1 1
y ʏ              | .16 .20 0   .85 0 0 | 1 1
ø œ              | .36 .42 0   .65 0 0 | 1 1
ɨ ɯ              | .30 .26 .40 0   0 0 | .8 .8
p b m ɓ β ɸ ʙ ɱ  | 0   .15 .10 0   1 0 | 3 .2
f v ʋ            | .06 .12 .15 0   0 1 | 2 .5
w ʍ ɥ            | .08 .18 0   1   0 0 | 1.2 1.5
ɹ ɻ              | .22 .25 0   .45 0 0 | .5 .7
r ɽ ɾ ɺ          | .28 .25 .05 .10 0 0 | .5 .3
ʁ ʀ              | .30 .30 .10 0   0 0 | .2 .2
l ɫ ɭ ʎ ɬ        | .36 .34 .15 0   0 0 | .5 .3
t d n ʈ ɖ ɳ ɗ    | .24 .18 .15 0   0 0 | .6 .3
s z              | .24 .05 .30 0   0 0 | 1 .6
ʃ ʒ ʂ ʐ ɕ ʑ      | .20 .08 0   .60 0 0 | 1 .9
θ ð              | .26 .20 .15 0   0 0 | .8 .3
k ɡ g ŋ x ɣ q χ c ɟ ɲ ç ħ ʕ | .30 .26 .10 0 0 0 | .3 .15
h ɦ ʔ            | .30 .30 .10 0   0 0 | .05 .02
j                | .28 .20 .70 0   0 0 | .7 .8
"""
"""Symbols | open jaw wide round press fv | weight of open and jaw, of wide and round.

Values from the articulatory description of each sound; the weight is how firmly the sound insists."""

SILENCE, RELEASE, READY, AFTER = "_", "=", "<", ">"
"""A pause; what follows a burst; the mouth getting ready to speak; the mouth coming to rest."""
_RELEASE_ROW = ((0.30, 0.28, 0.15, 0.0, 0.0, 0.0), (0.12, 0.06))
"""What follows a burst belongs to the vowel to come."""
_SILENCE_ROW = ((0.0,) * 6, (0.8, 0.4))
_READY_ROW = ((0.24, 0.20, 0.08, 0.0, 0.0, 0.0), (0.3, 0.15))
_AFTER_ROW = ((0.20, 0.18, 0.05, 0.0, 0.0, 0.0), (0.3, 0.15))
READY_SECONDS, AFTER_SECONDS, BREATH_PAUSE = 0.18, 0.14, 0.33
"""People breathe in and part their lips before they speak, and close them without haste;
not so in shorter pauses, which sound like the closure of a stop."""
_STOPS_WITH_BURST_EVENT = frozenset("ptkqcʈ")
"""espeak-ng marks these at the burst; the closure before it is in the previous phone."""
_VOICED_CLOSURES = frozenset("bmɓ")
_VOWELS = frozenset("aäɑɶæɐʌɔɒoɤʊuʉəɘᵻɚɜɝɞɵɛεeɪiyʏøœɨɯ")
_NOT_SOUNDS = re.compile(r"[ˈˌːˑʰʲʷˠˤ\u0300-\u036f0-9˥˦˧˨˩↓↑.\-'|:;!?]")


def _read_table() -> tuple[list[str], np.ndarray, np.ndarray]:
    symbols, shapes, weights = [SILENCE, RELEASE, READY, AFTER], [], []
    for shape, weight in (_SILENCE_ROW, _RELEASE_ROW, _READY_ROW, _AFTER_ROW):
        shapes.append(shape)
        weights.append(weight)
    for line in _TABLE.strip().splitlines():
        names, shape, weight = (part.split() for part in line.split("|"))
        for name in names:
            if len(name) == 1:
                symbols.append(name)
                shapes.append([float(v) for v in shape])
                weights.append([float(v) for v in weight])
    return symbols, np.array(shapes), np.array(weights)


SYMBOLS, SYMBOL_SHAPES, SYMBOL_WEIGHTS = _read_table()
CODES = {symbol: code for code, symbol in enumerate(SYMBOLS)}
IS_VOWEL = np.array([s in _VOWELS for s in SYMBOLS])
IS_BILABIAL = np.array([SYMBOL_SHAPES[c, 4] > 0 for c in range(len(SYMBOLS))])
_APART = ("m ɱ", "p ɸ", "b ɓ β ʙ", "n ɳ", "ŋ ɲ", "l ɫ ɭ ʎ ɬ", "v ʋ", "d ɖ ɗ", "ɡ g", RELEASE)
"""Sounds told apart in training although their shapes are alike: who hears m must not hear n."""


def _classes() -> np.ndarray:
    lines = [line.split("|")[0].split() for line in _TABLE.strip().splitlines()]
    out = np.zeros(len(SYMBOLS), np.int64)
    for number, names in enumerate([*lines, *(group.split() for group in _APART)], 1):
        out[[CODES[name] for name in names if name in CODES]] = number
    return np.unique(out, return_inverse=True)[1].reshape(-1)  # silence stays 0


VISEMES = _classes()
VISEME_COUNT = int(VISEMES.max()) + 1


def symbols_of(ipa: str) -> list[str]:
    """The known sounds of one espeak-ng phone, without length, stress and tone; a doubled sound once."""
    if "(" in ipa:
        return []  # a language switch
    kept: list[str] = []
    for symbol in _NOT_SOUNDS.sub("", ipa.replace("\u0303", "")):
        if (
            symbol in CODES
            and symbol not in (SILENCE, RELEASE, READY, AFTER)
            and symbol not in kept[-1:]
        ):
            kept.append(symbol)
    return kept


@dataclass(frozen=True, kw_only=True)
class Segments:
    """The sounds of an item, in order and without gaps."""

    ends: np.ndarray
    """``(N,)`` seconds; each begins where the one before ended, the first at 0."""
    codes: np.ndarray
    """``(N,)`` rows of ``SYMBOLS``."""

    @property
    def starts(self) -> np.ndarray:
        return np.concatenate([[0.0], self.ends[:-1]])


def _closure_start(samples: np.ndarray, rate: int, burst: int, earliest: int) -> int:
    """First sample of the silence before a burst: the last audible one, at most 120 ms back."""
    first = max(earliest, burst - int(0.12 * rate))
    loud = np.nonzero(np.abs(samples[first:burst]) > 60 / 32768)[0]
    return first + int(loud[-1]) + 1 if len(loud) else first


def _closure_end(samples: np.ndarray, rate: int, start: int, end: int) -> int:
    """Where a voiced closure opens: the level leaves that of its first half for good."""
    hop = max(1, rate // 200)
    count = (end - start) // hop
    if count < 6:
        return end
    level = np.sqrt(np.square(samples[start : start + count * hop].reshape(count, hop)).mean(1))
    level = np.maximum(level, np.roll(level, 1))  # a pitch period is longer than the hop
    closed = np.median(level[1 : max(3, count // 2)])
    still = np.nonzero(level < 1.6 * closed)[0]
    return start + min((int(still[-1]) + 1) * hop, end - start) if len(still) else end


def segments(samples: np.ndarray, rate: int, phones: list[tuple[int, str]]) -> Segments:
    """Sounds and closures of one spoken text, from espeak-ng's phone events and the sound itself.

    Before a closure that follows a pause the lips already meet in silence: the closure is drawn out
    to 80 ms there.
    """
    stream: list[tuple[int, int]] = []  # (end sample, code)

    def put(end: int, code: int) -> None:
        begin = stream[-1][0] if stream else 0
        if end > begin:
            stream.append((end, code))

    def cut_back(to: int) -> None:
        """Lets the stream end at ``to``."""
        while stream and (stream[-2][0] if len(stream) > 1 else 0) >= to:
            stream.pop()
        if stream and stream[-1][0] > to:
            stream[-1] = (to, stream[-1][1])

    silence, release = CODES[SILENCE], CODES[RELEASE]
    starts = [sample for sample, _ in phones]
    ends = [*starts[1:], len(samples)]
    if starts:
        put(starts[0], silence)
    for (start, ipa), end in zip(phones, ends, strict=True):
        if end <= start:
            continue
        names = symbols_of(ipa)
        if not names:
            put(end, silence)
            continue
        codes = [CODES[n] for n in names]
        first = names[0]
        after_pause = not stream or stream[-1][1] == silence
        if first in _STOPS_WITH_BURST_EVENT or (after_pause and IS_BILABIAL[codes[0]]):
            previous = stream[-2][0] if len(stream) > 1 else 0
            if after_pause:
                closed = max(previous, start - int(0.08 * rate))
            else:
                earliest = min(start, previous + int(0.02 * rate))
                closed = _closure_start(samples, rate, start, earliest)
            cut_back(closed)
        if first in _STOPS_WITH_BURST_EVENT:
            put(min(start + int(0.008 * rate), end), codes[0])
            if len(codes) == 1:
                put(end, release)
            else:
                put(end, codes[-1])
        elif first in _VOICED_CLOSURES:
            opened = _closure_end(samples, rate, start, end)
            put(opened, codes[0])
            put(end, release if len(codes) == 1 else codes[-1])
        elif len(codes) == 1:
            put(end, codes[0])
        else:
            both_vowels = IS_VOWEL[codes[0]] and IS_VOWEL[codes[-1]]
            share = 0.5 if both_vowels else 0.4
            put(start + int(share * (end - start)), codes[0])
            put(end, codes[-1])
    put(len(samples), silence)
    return Segments(
        ends=np.array([e for e, _ in stream]) / rate, codes=np.array([c for _, c in stream])
    )


def with_breath(parts: Segments) -> Segments:
    """The pauses, with the moments before and after speech told apart from rest."""
    ends: list[float] = []
    codes: list[int] = []
    begin, last = 0.0, len(parts.codes) - 1
    silence, ready, after = CODES[SILENCE], CODES[READY], CODES[AFTER]
    merged = [
        (end, code)
        for i, (end, code) in enumerate(zip(parts.ends, parts.codes, strict=True))
        if i == last or not (code == silence == parts.codes[i + 1])
    ]
    for i, (end, code) in enumerate(merged):
        if code == silence and end - begin > BREATH_PAUSE:
            spoken_before = i > 0 and not IS_BILABIAL[merged[i - 1][1]]
            spoken_after = i + 1 < len(merged) and not IS_BILABIAL[merged[i + 1][1]]
            half = (end - begin) / 2 if spoken_before and spoken_after else end - begin
            first = begin + (min(AFTER_SECONDS, half) if spoken_before else 0.0)
            second = end - (min(READY_SECONDS, half) if spoken_after else 0.0)
            for until, what in ((first, after), (second, silence), (end, ready)):
                if until > (ends[-1] if ends else 0.0) + 1e-6:
                    ends.append(until)
                    codes.append(what)
        else:
            ends.append(end)
            codes.append(int(code))
        begin = end
    return Segments(ends=np.array(ends), codes=np.array(codes))


GRID_RATE = 400
"""Targets are blended on this grid (per second) before one in four is kept."""
JAW_BLEND, LIPS_BLEND, CLOSURE_BLEND, TEETH_BLEND = 0.036, 0.065, 0.012, 0.016
"""Seconds, sigma of the blend of open and jaw, of wide and round, of press, of fv."""


def targets(parts: Segments, row_count: int, strength: np.ndarray | None = None) -> np.ndarray:
    """``(row_count, 6)`` mouth shapes at 100 rows a second.

    ``strength``: ``(N,)`` factor on opening and jaw of each segment (stress, length, loudness).
    """
    step = GRID_RATE // 100
    places = np.minimum(
        np.searchsorted(parts.ends, (np.arange(row_count * step) + 0.5) / GRID_RATE),
        len(parts.ends) - 1,
    )
    codes = parts.codes[places]
    shape = SYMBOL_SHAPES[codes].copy()
    if strength is not None:
        shape[:, :2] *= strength[places, None]
    weight = SYMBOL_WEIGHTS[codes]

    def blend(values: np.ndarray, seconds: float) -> np.ndarray:
        return gaussian_filter1d(values, seconds * GRID_RATE, axis=0, mode="nearest", truncate=3.5)

    out = np.empty((row_count * step, 6), np.float32)
    for columns, weights, seconds in (
        (slice(0, 2), weight[:, :1], JAW_BLEND),
        (slice(2, 4), weight[:, 1:], LIPS_BLEND),
    ):
        out[:, columns] = blend(shape[:, columns] * weights, seconds) / np.maximum(
            blend(weights, seconds), 1e-6
        )
    out[:, 4] = np.clip(1.25 * blend(shape[:, 4], CLOSURE_BLEND), 0, 1)
    out[:, 5] = np.clip(1.25 * blend(shape[:, 5], TEETH_BLEND), 0, 1)
    out[:, 0] *= (1 - out[:, 4]) * (1 - 0.85 * out[:, 5])
    return out[::step][:row_count]


def visemes(parts: Segments, row_count: int) -> np.ndarray:
    """``(row_count,)`` class of each row; 0 is silence."""
    places = np.searchsorted(parts.ends, np.arange(row_count) / 100.0, side="right")
    return VISEMES[parts.codes[np.minimum(places, len(parts.codes) - 1)]]
