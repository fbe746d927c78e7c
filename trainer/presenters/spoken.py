"""The voices of espeak-ng for presenters: real words, with the same exact times."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from lipsync_core.errors import SettingsError

from .people import HELD_OUT
from .voices import RATE, Speech, in_room, voice

if TYPE_CHECKING:
    from ..tasks.mouth.espeak import Espeak

LANGUAGES = ("en-us", "en", "en-gb-scotland", "en-us", "en-gb-x-rp")
VARIANTS = {
    "train": ("", "f1", "f2", "f3", "m1", "m2", "m3", "m4", "m5", "m6", "klatt", "klatt3", "Andy", "anika",
              "belinda", "Gene", "Lee", "Michael", "steph2", "shelby"),
    "held-out": ("f4", "f5", "m7", "m8", "klatt2", "klatt4", "edward", "Alicia"),
}  # fmt: skip
"""Of espeak-ng; held-out people have others."""
_WORDS = [
    "my",
    "mother",
    "bought",
    "me",
    "apples",
    "but",
    "many",
    "people",
    "may",
    "prefer",
    "plums",
    "a",
    "bumpy",
    "problem",
    "for",
    "mum",
    "and",
    "Pam",
    "number",
    "summer",
    "remember",
    "simple",
    "temple",
    "robin",
    "cabbage",
    "about",
    "above",
    "member",
    "bubble",
    "puppy",
    "pepper",
    "paper",
    "pipe",
    "rope",
    "soup",
    "deep",
    "map",
    "lamp",
    "bomb",
    "time",
    "name",
    "home",
    "same",
    "dream",
    "swim",
    "from",
    "more",
    "woman",
    "never",
    "now",
    "new",
    "no",
    "any",
    "money",
    "nine",
    "line",
    "lemon",
    "land",
    "long",
    "love",
    "leave",
    "yellow",
    "value",
    "very",
    "five",
    "wife",
    "of",
    "fall",
    "phone",
    "coffee",
    "over",
    "seven",
    "with",
    "weather",
    "water",
    "we",
    "wish",
    "twelve",
    "quick",
    "would",
    "window",
    "always",
    "which",
    "two",
    "blue",
    "you",
    "do",
    "who",
    "moon",
    "shoe",
    "room",
    "group",
    "please",
    "see",
    "be",
    "three",
    "speak",
    "cheese",
    "the",
    "this",
    "think",
    "thanks",
    "both",
    "mouth",
    "put",
    "book",
    "good",
    "could",
    "look",
    "father",
    "watch",
    "yesterday",
    "orange",
    "river",
]


def check() -> None:
    """Raises SettingsError in one line where espeak-ng is not installed."""
    try:
        _library()
    except SystemExit as error:
        raise SettingsError(f"--voices espeak: {error}") from error


@lru_cache(maxsize=1)
def _library() -> Espeak:
    from ..tasks.mouth.espeak import Espeak

    return Espeak()


def say(number: int, seconds: float, seed: int) -> Speech:
    """Sentences of one voice with pauses, for ``seconds``.

    The same for the same seed as long as it is the first that a process says: espeak-ng has a memory.
    """
    from scipy.signal import resample_poly

    from ..tasks.mouth.espeak import Style
    from ..tasks.mouth.phones import CODES, SILENCE, Segments, segments

    own = voice(number)
    rng = np.random.default_rng([number, 5])
    variants = VARIANTS["held-out" if number >= HELD_OUT else "train"]
    name, variant = str(rng.choice(LANGUAGES)), str(rng.choice(variants))
    style = Style(
        voice=f"{name}+{variant}" if variant else name,
        words_per_minute=int(rng.integers(130, 215)),
        pitch=int(rng.integers(20, 80)),
        pitch_range=int(rng.integers(30, 80)),
    )
    body = rng.uniform(0.88, 1.15)
    rng = np.random.default_rng([number, 6, seed])
    library = _library()
    # The rate is called something else, which moves formants and pitch together: another body.
    rate = library.rate * body
    sound: list[np.ndarray] = []
    ends: list[np.ndarray] = []
    codes: list[np.ndarray] = []
    elapsed = 0.0

    def put(samples: np.ndarray, until: np.ndarray, what: np.ndarray) -> None:
        nonlocal elapsed
        sound.append(samples)
        ends.append(until + elapsed)
        codes.append(what)
        elapsed += len(samples) / rate

    def pause(length: float) -> None:
        count = max(1, int(length * rate))
        put(np.zeros(count, np.float32), np.array([count / rate]), np.array([CODES[SILENCE]]))

    pause(rng.uniform(0.05, 0.4))
    while elapsed < seconds + 0.1:
        text = " ".join(rng.choice(_WORDS, rng.integers(3, 10))) + "."
        said = library.say(text, style)
        if said is None:
            raise SettingsError(
                f"espeak-ng has no voice {style.voice!r}; install all of espeak-ng-data"
            )
        parts = segments(said.samples, library.rate, said.phones)
        put(said.samples, parts.ends / body, parts.codes)
        pause(own.pauses * rng.uniform(0.3, 1.5))
    down = round(160 * rate / RATE)
    whole = resample_poly(np.concatenate(sound).astype(np.float64), 160, down)
    # The ratio is rounded; the clock follows it.
    scale = (rate / RATE) / (down / 160)
    times = np.concatenate(ends) * scale
    count = round(seconds * RATE)
    kept = int(np.searchsorted(times, seconds)) + 1
    whole = whole[:count]
    loud = whole[np.abs(whole) > 0.01]
    power = float(np.sqrt(np.mean(loud**2))) if len(loud) else 1.0
    heard = in_room(own, whole * (10 ** (own.level / 20) / power), rng)
    return Speech(
        sound=np.clip(heard, -0.98, 0.98).astype(np.float32),
        parts=Segments(ends=np.minimum(times[:kept], seconds), codes=np.concatenate(codes)[:kept]),
        strength=np.ones(kept),
    )
