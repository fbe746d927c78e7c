"""A voice from a number, and what it says: a formant synthesiser with exact phone times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..tasks.mouth.phones import Segments

RATE = 16_000
_HOP, _WINDOW, _FFT = 80, 320, 512
"""Samples: the vocal tract is set every 5 ms and acts on windows of 20."""
_GRID = RATE // _HOP

_VOWELS = {
    "i": (280, 2250, 2950), "ɪ": (400, 1950, 2600), "e": (430, 2100, 2700), "ɛ": (570, 1800, 2550),
    "æ": (690, 1680, 2450), "a": (760, 1300, 2500), "ʌ": (620, 1200, 2450), "ɔ": (560, 880, 2450),
    "o": (430, 820, 2400), "ʊ": (430, 1050, 2300), "u": (310, 850, 2280), "ə": (500, 1450, 2500),
    "ɜ": (490, 1380, 1750),
}  # fmt: skip
"""Hz of three formants of an adult's tract; others are scaled from it (Peterson and Barney 1952, rounded)."""
_PLACES = {"lips": (260, 850, 2250), "gum": (280, 1750, 2650), "back": (280, 2000, 2250)}
"""Where formants start from when a closure at that place opens."""
_CONSONANTS = {
    "p": ("stop", "lips", 0.0), "b": ("stop", "lips", 1.0), "t": ("stop", "gum", 0.0),
    "d": ("stop", "gum", 1.0), "k": ("stop", "back", 0.0), "ɡ": ("stop", "back", 1.0),
    "m": ("nasal", "lips", 1.0), "n": ("nasal", "gum", 1.0), "ŋ": ("nasal", "back", 1.0),
    "f": ("hiss", "lips", 0.0), "v": ("hiss", "lips", 1.0), "θ": ("hiss", "gum", 0.0),
    "ð": ("hiss", "gum", 1.0), "s": ("hiss", "gum", 0.0), "z": ("hiss", "gum", 1.0),
    "ʃ": ("hiss", "gum", 0.0), "ʒ": ("hiss", "gum", 1.0), "h": ("breath", "", 0.0),
    "l": ("glide", "", 1.0), "ɹ": ("glide", "", 1.0), "w": ("glide", "", 1.0), "j": ("glide", "", 1.0),
}  # fmt: skip
_GLIDES = {
    "l": (360, 1150, 2700),
    "ɹ": (380, 1200, 1600),
    "w": (300, 680, 2200),
    "j": (270, 2200, 3000),
}
_HISS = {
    "f": (6200.0, 3600.0, 0.10), "v": (6200.0, 3600.0, 0.08), "θ": (7000.0, 2200.0, 0.11),
    "ð": (6800.0, 2400.0, 0.07), "s": (6300.0, 1000.0, 0.62), "z": (6200.0, 1000.0, 0.40),
    "ʃ": (3400.0, 900.0, 0.60), "ʒ": (3300.0, 900.0, 0.40),
}  # fmt: skip
"""Hz of the middle, Hz of the width, and strength of the noise."""
_BURSTS = {
    "lips": (900.0, 900.0, 0.30),
    "gum": (4300.0, 1500.0, 0.60),
    "back": (2000.0, 600.0, 0.55),
}
_NASAL_ZERO = {"lips": 950.0, "gum": 1600.0, "back": 3100.0}
_DIPHTHONGS = (("a", "ɪ"), ("a", "ʊ"), ("e", "ɪ"), ("o", "ʊ"), ("ɔ", "ɪ"))
_ONSETS = (
    "p",
    "b",
    "m",
    "f",
    "v",
    "w",
    "t",
    "d",
    "k",
    "ɡ",
    "n",
    "s",
    "z",
    "ʃ",
    "ʒ",
    "θ",
    "ð",
    "h",
    "l",
    "ɹ",
    "j",
)
_ONSET_SHARES = np.array([8, 8, 9, 6, 5, 6, 6, 6, 5, 4, 6, 7, 3, 5, 1, 2, 3, 3, 5, 4, 3], float)
"""Sounds that are seen on the lips are said more often than in any language: there is more to learn from them."""
_CODAS = ("m", "p", "b", "n", "t", "d", "s", "z", "k", "l", "f", "v", "ŋ", "ʃ")
_CODA_SHARES = np.array([8, 5, 3, 8, 6, 4, 6, 4, 4, 6, 4, 2, 3, 2], float)
_CLUSTERS = (("p", "l"), ("b", "l"), ("p", "ɹ"), ("b", "ɹ"), ("s", "p"), ("s", "t"), ("s", "m"), ("f", "l"),
             ("f", "ɹ"), ("k", "w"), ("t", "ɹ"), ("ɡ", "ɹ"), ("s", "w"), ("k", "l"), ("d", "ɹ"))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Voice:
    """How somebody sounds."""

    number: int
    tract: float
    """Factor on all formants: above 1 for a short vocal tract."""
    pitch: float
    """Hz in the middle of a phrase."""
    melody: float
    """How far the pitch moves, as a share of it."""
    breath: float
    """0..1: noise of air in the voice."""
    tilt: float
    """0..1: how soft the upper harmonics are."""
    width: float
    """Factor on the bandwidths of formants."""
    pace: float
    """Factor on the length of sounds."""
    pauses: float
    """Seconds of a usual pause."""
    level: float
    """Root mean square while speaking, dBFS."""
    room: float
    """Seconds in which the room's sound falls by 60 dB; 0: none."""
    wet: float
    """Share of the room."""
    noise: float
    """dB of the noise under the voice."""
    rumble: float
    """0..1: from white to brown noise."""
    shaky: float


@dataclass(frozen=True, kw_only=True)
class Speech:
    """What was said, and when exactly."""

    sound: np.ndarray
    """``(S,)`` float32 -1..1 at 16 kHz."""
    parts: Segments
    strength: np.ndarray
    """``(N,)`` how firmly each sound is spoken, about 1; heard as loudness."""


def voice(number: int) -> Voice:
    """The same voice for the same number, always."""
    rng = np.random.default_rng([number, 2])
    high = rng.random() < 0.5
    tract = rng.uniform(1.06, 1.24) if high else rng.uniform(0.88, 1.06)
    pitch = rng.uniform(165, 260) if high else rng.uniform(85, 150)
    return Voice(
        number=number,
        tract=float(tract),
        pitch=float(pitch),
        melody=float(rng.uniform(0.06, 0.22)),
        breath=float(rng.uniform(0, 1) ** 2),
        tilt=float(rng.uniform(0, 1)),
        width=float(rng.uniform(0.8, 1.5)),
        pace=float(rng.uniform(0.82, 1.25)),
        pauses=float(rng.uniform(0.2, 0.8)),
        level=float(rng.uniform(-29, -18)),
        room=float(rng.choice([0.0, rng.uniform(0.1, 0.45)])),
        wet=float(rng.uniform(0.05, 0.3)),
        noise=float(rng.uniform(26, 60)),
        rumble=float(rng.uniform(0, 1)),
        shaky=float(rng.uniform(0.002, 0.012)),
    )


def speak(own: Voice, seconds: float, seed: int) -> Speech:
    """Invented words with pauses, for ``seconds`` (rounded to a sample)."""
    rng = np.random.default_rng([own.number, 3, seed])
    script = _script(own, seconds, rng)
    return _synthesised(own, script, round(seconds * RATE), rng)


@dataclass
class _Script:
    """Sounds in the order in which they are said."""

    symbols: list[str]
    sources: list[str]
    """The consonant that a burst belongs to; else the symbol itself."""
    lengths: list[float]
    strength: list[float]
    phrase: list[float]
    """0..1 within its phrase, -1 in a pause."""
    accent: list[float]


def _script(own: Voice, seconds: float, rng: np.random.Generator) -> _Script:
    out = _Script([], [], [], [], [], [])
    elapsed = 0.0

    def put(
        symbol: str, length: float, strength: float, phrase: float, accent: float, source: str = ""
    ) -> None:
        nonlocal elapsed
        out.symbols.append(symbol)
        out.sources.append(source or symbol)
        out.lengths.append(length)
        out.strength.append(strength)
        out.phrase.append(phrase)
        out.accent.append(accent)
        elapsed += length

    def consonant(symbol: str, strength: float, phrase: float, accent: float) -> None:
        kind, _, voiced = _CONSONANTS[symbol]
        pace = own.pace * rng.uniform(0.85, 1.2)
        if kind == "stop":
            # Never shorter than what one picture in 40 ms is sure to show.
            put(symbol, max(0.062, 0.078 * pace), strength, phrase, accent)
            length = rng.uniform(0.012, 0.02) if voiced else rng.uniform(0.03, 0.055)
            put("=", length, strength, phrase, accent, symbol)
        else:
            usual = {"nasal": 0.078, "hiss": 0.105 - 0.02 * voiced, "breath": 0.06, "glide": 0.068}
            put(symbol, max(0.05, usual[kind] * pace), strength, phrase, accent)

    onset_shares = _ONSET_SHARES / _ONSET_SHARES.sum()
    coda_shares = _CODA_SHARES / _CODA_SHARES.sum()
    vowels = list(_VOWELS)
    put("_", float(rng.uniform(0.02, 0.5)), 1, -1, 0)
    while elapsed < seconds:
        count = int(rng.integers(2, 12))
        loud = float(rng.uniform(0.85, 1.1))
        for syllable in range(count):
            at = (syllable + 0.5) / count
            stress = float(rng.random() < 0.4)
            strength = loud * (1.12 if stress else 0.92) * float(rng.uniform(0.92, 1.08))
            draw = rng.random()
            if draw < 0.12:
                first: tuple[str, ...] = ()
            elif draw < 0.26:
                first = _CLUSTERS[int(rng.integers(len(_CLUSTERS)))]
            else:
                first = (str(rng.choice(_ONSETS, p=onset_shares)),)
            for symbol in first:
                consonant(symbol, strength, at, stress)
            length = own.pace * rng.uniform(0.075, 0.13) * (1.35 if stress else 1.0)
            if syllable == count - 1:
                length *= 1.5
            if rng.random() < 0.25:
                pair = _DIPHTHONGS[int(rng.integers(len(_DIPHTHONGS)))]
                for symbol in pair:
                    put(symbol, 0.75 * length, strength, at, stress)
            else:
                put(str(rng.choice(vowels)), length, strength, at, stress)
            if rng.random() < 0.42:
                consonant(str(rng.choice(_CODAS, p=coda_shares)), strength, at, stress)
        pause = own.pauses * float(rng.choice([0.4, 0.8, 1.0, 1.8])) * float(rng.uniform(0.7, 1.3))
        put("_", pause, 1, -1, 0)
    return out


def _targets(own: Voice, script: _Script) -> dict[str, np.ndarray]:
    """What the vocal tract does in each sound: ``(N,)`` and ``(N, 3)`` arrays by name."""
    count = len(script.symbols)
    formants = np.full((count, 3), np.nan)
    tone, air, hiss = np.zeros(count), np.zeros(count), np.zeros(count)
    middle, width = np.full(count, 4000.0), np.full(count, 2000.0)
    nasal, zero = np.zeros(count), np.full(count, 1200.0)
    for i, (symbol, source) in enumerate(zip(script.symbols, script.sources, strict=True)):
        if symbol == "_":
            continue
        if symbol in _VOWELS:
            formants[i], tone[i] = _VOWELS[symbol], 1.0
            continue
        kind, place, voiced = _CONSONANTS[source]
        if place:
            formants[i] = _PLACES[place]
        if symbol == "=":
            middle[i], width[i], hiss[i] = _BURSTS[place]
            tone[i], air[i] = 0.45 * voiced, 0.05 if voiced else 0.32
        elif kind == "stop":
            tone[i] = 0.10 * voiced
        elif kind == "nasal":
            tone[i], nasal[i], zero[i] = 0.48, 1.0, _NASAL_ZERO[place]
        elif kind == "hiss":
            middle[i], width[i], hiss[i] = _HISS[symbol]
            tone[i] = 0.34 * voiced
        elif kind == "breath":
            air[i] = 0.34
        else:
            formants[i], tone[i] = _GLIDES[symbol], 0.72
    # A pause and an h have no place of their own: the tract is already where the next sound wants it.
    for i in range(count - 2, -1, -1):
        if np.isnan(formants[i, 0]):
            formants[i] = formants[i + 1]
    formants[np.isnan(formants[:, 0])] = _VOWELS["ə"]
    return {
        "formants": formants * own.tract, "tone": tone, "air": air, "hiss": hiss, "nasal": nasal,
        "middle": middle, "width": width, "zero": zero * own.tract,
    }  # fmt: skip


def _synthesised(own: Voice, script: _Script, count: int, rng: np.random.Generator) -> Speech:
    from ..tasks.mouth.phones import CODES, Segments

    ends = np.cumsum(script.lengths)
    kept = np.searchsorted(ends, count / RATE) + 1
    parts = Segments(
        ends=np.minimum(ends[:kept], count / RATE),
        codes=np.array([CODES[s] for s in script.symbols[:kept]]),
    )
    strength = np.array(script.strength)
    sets = _targets(own, script)

    frames = count // _HOP + 1
    at_frame = np.minimum(np.searchsorted(ends, np.arange(frames) / _GRID), len(ends) - 1)
    at_sample = np.minimum(np.searchsorted(ends, np.arange(count) / RATE), len(ends) - 1)
    loud = strength[at_sample] ** 2.2

    pitch = _pitch(own, script, at_frame, frames, rng)
    hertz = np.interp(np.arange(count), np.arange(frames) * _HOP, pitch)
    phase = np.cumsum(hertz / RATE)
    flow = _flow(phase % 1.0)
    source = np.diff(flow, prepend=flow[:1]) * (RATE / hertz) * 0.16
    # The softer the voice, the less of the sharp edge at each closure is left.
    source = (1 - 0.5 * own.tilt) * source + 0.5 * own.tilt * _smooth(source, 5)
    hush = rng.standard_normal(count).astype(np.float32)
    tone = _smooth(sets["tone"][at_sample] * loud, 96)
    air = _smooth(sets["air"][at_sample] * loud, 64)
    air = air + 0.16 * own.breath * tone * (0.4 + flow)
    voiced = tone * source + 0.30 * air * hush
    hiss = _smooth(sets["hiss"][at_sample] * loud, 48) * hush[::-1]
    hiss = hiss * np.where(tone > 0.05, 0.6 + 0.8 * flow, 1.0)

    tract, noise_shape = _responses(own, sets, at_frame)
    dry = _filtered(voiced, tract) + 0.8 * _filtered(hiss, noise_shape)
    speaking = np.array([s != "_" for s in script.symbols])[at_sample]
    power = float(np.sqrt(np.mean(dry[speaking] ** 2))) if speaking.any() else 1.0
    sound = dry * (10 ** (own.level / 20) / max(power, 1e-9))
    sound = in_room(own, sound, rng)
    sound = np.clip(sound, -0.98, 0.98).astype(np.float32)
    return Speech(sound=sound, parts=parts, strength=strength[:kept])


def _pitch(
    own: Voice, script: _Script, at: np.ndarray, frames: int, rng: np.random.Generator
) -> np.ndarray:
    """Hz by frame: falls through a phrase, rises on stressed syllables, never quite still."""
    phrase = np.array(script.phrase)[at]
    accent = np.array(script.accent)[at]
    course = np.where(phrase >= 0, 0.5 - phrase, 0.0) + 0.8 * accent
    drift = np.interp(
        np.arange(frames),
        np.arange(0, frames + 40, 40),
        rng.normal(0, 0.3, frames // 40 + 2)[: len(np.arange(0, frames + 40, 40))],
    )
    relative = own.melody * (_smooth(course, 15) + drift)
    shake = own.shaky * _smooth(rng.standard_normal(frames), 2)
    return own.pitch * np.exp(relative + shake)


def _flow(phase: np.ndarray) -> np.ndarray:
    """Air through the glottis over one period, 0..1 (Rosenberg 1971): opens slowly, closes fast."""
    opening, closing = 0.42, 0.18
    rising = 0.5 - 0.5 * np.cos(np.pi * phase / opening)
    falling = np.cos(0.5 * np.pi * (phase - opening) / closing)
    return np.where(phase < opening, rising, np.where(phase < opening + closing, falling, 0.0))


def _responses(
    own: Voice, sets: dict[str, np.ndarray], at: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``(frames, bins)`` of the vocal tract (complex) and of the noise at the narrow place."""
    hertz = np.arange(_FFT // 2 + 1) * RATE / _FFT
    turn = np.exp(-2j * np.pi * hertz / RATE)
    formants = np.stack([_smooth(sets["formants"][at, k], 7) for k in range(3)], axis=1)
    nasal = _smooth(sets["nasal"][at], 3)
    higher = np.array([3500.0, 4500.0, 5600.0]) * own.tract
    every = np.concatenate([formants, np.tile(higher, (len(at), 1))], axis=1)
    every = np.minimum(every, 7600.0)
    widths = np.array([60.0, 85.0, 130.0, 190.0, 260.0, 340.0]) * own.width
    response = np.ones((len(at), len(hertz)), np.complex64)
    for k in range(every.shape[1]):
        response /= _zero_pair(every[:, k], widths[k] * (1 + 0.9 * nasal), turn)
    anti = _zero_pair(sets["zero"][at], np.full(len(at), 160.0), turn)
    response *= (1 - nasal[:, None]) + nasal[:, None] * anti
    middle, width = _smooth(sets["middle"][at], 2), _smooth(sets["width"][at], 2)
    shape = np.exp(-0.5 * ((hertz - middle[:, None]) / width[:, None]) ** 2) + 0.02
    return response, shape.astype(np.float32)


def _zero_pair(hertz: np.ndarray, width: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """``(frames, bins)`` response of two zeros at ``hertz``, 1 at 0 Hz; its inverse is a resonance."""
    radius = np.exp(-np.pi * width / RATE)
    b = (2 * radius * np.cos(2 * np.pi * hertz / RATE)).astype(np.float32)[:, None]
    c = (-(radius**2)).astype(np.float32)[:, None]
    z = turn.astype(np.complex64)
    return (1 - b * z - c * z * z) / (1 - b - c)


def _filtered(sound: np.ndarray, responses: np.ndarray) -> np.ndarray:
    """The sound through a filter that changes every 5 ms, without delay."""
    frames = len(responses)
    padded = np.pad(sound.astype(np.float32), (_WINDOW // 2, _WINDOW))
    place = np.arange(frames)[:, None] * _HOP + np.arange(_WINDOW)
    window = np.hanning(_WINDOW + 1)[:-1].astype(np.float32) / 2
    spectrum = np.fft.rfft(padded[place] * window, _FFT) * responses
    pieces = np.fft.irfft(spectrum, _FFT).astype(np.float32)
    chunks = -(-_FFT // _HOP)
    pieces = np.pad(pieces, ((0, 0), (0, chunks * _HOP - _FFT)))
    out = np.zeros((frames + chunks, _HOP), np.float32)
    for k in range(chunks):
        out[k : k + frames] += pieces[:, k * _HOP : (k + 1) * _HOP]
    return out.reshape(-1)[_WINDOW // 2 : _WINDOW // 2 + len(sound)]


def in_room(own: Voice, sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With the room's echo, none of it before the sound, and the noise of the microphone."""
    count = len(sound)
    size = 1 << int(np.ceil(np.log2(count + RATE // 2)))
    if own.room > 0:
        length = min(int(own.room * RATE), RATE // 2)
        tail = rng.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
        tail *= own.wet / max(float(np.sqrt((tail**2).sum())), 1e-9)
        tail[0] = 1.0
        sound = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(tail, size), size)[:count]
    hertz = np.fft.rfftfreq(size, 1 / RATE)
    colour = 1 / (1 + hertz / 200.0) ** own.rumble
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(size)) * colour, size)[:count]
    noise *= 10 ** ((own.level - own.noise) / 20) / max(float(noise.std()), 1e-9)
    return sound + noise


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    """A moving mean, twice, over ``width`` values; the ends are held."""
    for _ in range(2):
        before = width // 2
        padded = np.pad(values, (before + 1, width - before - 1), mode="edge")
        sums = np.cumsum(padded, dtype=np.float64)
        values = (sums[width:] - sums[:-width]) / width
    return values
