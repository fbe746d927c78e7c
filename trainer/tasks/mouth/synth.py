"""Makes the training speech: espeak-ng in many languages, flite's recorded voices, and other sounds.

Only clean log-mel rows and phone times are kept; noise, rooms, equalisers and other vocal tracts are
put on while training (``augment.py``), so that no two epochs hear the same.

    python -m trainer.tasks.mouth.synth OUT.npz [--source espeak] [--items 3000] [--seed 1]

Needs libespeak-ng, libflite, scipy and the package ``faker`` (texts), at build time only.
"""

# ruff: noqa: SIM905 (long lists of words read better as text)

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
import wave
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import lfilter, resample_poly

from lipsync_core.audio.mel import BANDS, RATE, mel_rows

from .espeak import Espeak, Style
from .flite import VOICES, Flite
from .labels import labelled_segments
from .phones import CODES, SILENCE, SYMBOLS, Segments, segments

LANGUAGES: dict[str, tuple[str, float]] = {
    "en-us": ("en_US", 5), "en": ("en_GB", 3), "en-gb-x-rp": ("en_GB", 2), "en-gb-scotland": ("en_GB", 1),
    "en-029": ("en_US", 0.7), "de": ("de_DE", 2), "fr": ("fr_FR", 2), "es": ("es_ES", 2), "es-419": ("es_MX", 1),
    "it": ("it_IT", 1.5), "pt": ("pt_PT", 1), "pt-br": ("pt_BR", 1.5), "nl": ("nl_NL", 1), "pl": ("pl_PL", 1),
    "ru": ("ru_RU", 1.5), "uk": ("uk_UA", 0.7), "cs": ("cs_CZ", 0.7), "sk": ("sk_SK", 0.5), "hu": ("hu_HU", 0.5),
    "ro": ("ro_RO", 0.5), "bg": ("bg_BG", 0.5), "el": ("el_GR", 0.7), "tr": ("tr_TR", 1), "sv": ("sv_SE", 0.7),
    "da": ("da_DK", 0.5), "nb": ("no_NO", 0.7), "fi": ("fi_FI", 0.7), "id": ("id_ID", 0.7), "vi": ("vi_VN", 0.7),
    "hi": ("hi_IN", 1.2), "ar": ("ar_AA", 0.5), "fa": ("fa_IR", 0.5), "sw": ("pseudo", 0.5), "af": ("pseudo", 0.5),
    "cmn-latn-pinyin": ("pinyin", 3), "ko": ("hangul", 1.5),
}  # fmt: skip
"""espeak-ng voice -> source of its text, share."""

VARIANTS = (
    "f1 f2 f3 f4 f5 m1 m2 m3 m4 m5 m6 m7 m8 klatt klatt2 klatt3 klatt4 klatt5 klatt6 adam Alex Alicia Andrea "
    "Andy anika Annie antonio aunty belinda benjamin boris caleb croak david Denis Diogo ed edward edward2 "
    "Gene Gene2 grandma grandpa gustave Henrique Hugo iven iven2 iven3 iven4 Jacky john kaukovalta Lee linda "
    "marcelo Marco Mario max Michael michel miguel Mike norbert pablo paul pedro quincy rob robert sandro "
    "shelby steph steph2 steph3 travis victor whisper whisperf zac"
).split()

_INITIALS = "b p m w t d k g n l s z f v sh ch j h th r y br pl bl pr".split()
_VOWELS = "a e i o u ee oo ai ow er ar or".split()
_FINALS = ["", "", "", "m", "p", "b", "n", "t", "l", "s", "k", "mp"]
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_DIGITS = "zero one two three four five six seven eight nine ten".split()
_COMMAND = (
    "bin lay place set put move bring take".split(),
    "blue green red white brown pink black".split(),
    "at by in with from for".split(),
    list(_LETTERS),
    _DIGITS,
    "now again please soon maybe".split(),
)
"""Short commands, one word of each."""
_LIPS = (
    "my mother bought me apples but many people may prefer plums; a bumpy problem for Bob, mum and Pam. "
    "number summer remember simple temple hamper cabin robin cabbage about above number member bubble puppy "
    "pepper paper pipe rope soup deep map lamp lump bomb time name home same dream swim from more men woman "
    "number never now new no any many money nine none noon line lemon land long love leave yellow value "
    "very five wife of off fall phone coffee over seven with weather water we wish swim twelve quick would "
    "window always one which two blue you do who soon food moon shoe rule room group people please see me "
    "be three she week speak cheese the this that other think thanks both mouth put book good could look"
).split()
_RIVALS = (
    "spoke stoke spare stair scare spin skin disposed despite respect restrict expect extend space states spring "
    "string split special spend speed steel hospital inspect instead crisp wasp grasp clubs clouds cabs cards jobs "
    "jots lips lids maps mats rob rod robbed ribs tubes globe slope slot stops helped kept slept accept soap stopped "
    "him hint them then some sun seem seen from front room rule warm warn form farm arm film palm calm name came "
    "game home hone time same sane might night company country important intended simple single number under member "
    "lender problem somewhere something someone sometimes amiable admire family element government moment comment "
    "month amend woman human common commit amount announce command summit dramatic democrat economy america camera "
    "animal mental dental mister master mountain matter million mile military summary primary enemy any memory "
    "tomorrow about above able table cable label noble probable possible public product prudent proper property "
    "open opened happen happy copy compare computer support supply suppose oppose opposite opinion operate apart "
    "apparent appeal appear apply approach approve april people pupil couple purple sample temple example september "
    "december november october remember lumber amber chamber bomb combine ambition rubber ribbon robin cabin habit "
    "rabbit hobby baby maybe nobody somebody everybody probably bulb bubble double trouble debate debt subject object "
    "absent absorb observe absolute obtain obvious submarine submit substance bribe tribe describe job web bread dread "
    "brown drown brain drain bride dried pride price bring black blame claim blind climb plane play clay plan clan plot "
    "clot break crate broken prove grove print bridge breath obey over value voice vine fine mine nine line dine pine "
    "ban van fan man pan tan can ran bet vet met pet net let get bail veil male pale tale nail berry very merry ferry "
    "boat vote goat note coat file tile four more pour door core nor bus fuss bun fun none pun ton big dig pig fig beat "
    "feat meat neat heat bill fill mill pill till kill best vest rest nest guest test bow dough go no rub rum run rug "
    "cub come cup cut sip sit sick sin tap tab tack nap map mat mad lap lab lad lack lamb slip slit slim trip trim clap "
    "clam rip rib rim rid rig ring type tight tide ripe rhyme right ride hope hole rope robe roam road group groom "
    "broom bloom loom loop loot ability the in on an and of at it is was to for but with that had have"
).split()
"""Lips that meet next to every sound, early and late in the word, and words told from them by the tongue alone."""
_PINYIN_INITIALS = "b p m f d t n l g k h j q x zh ch sh r z c s".split()
_PINYIN_FINALS = (
    "a o e ai ei ao ou an en ang eng i ia ie iao iu ian in iang ing u ua uo ui uan un uang".split()
)


def _pseudo(rng: np.random.Generator) -> str:
    """A sentence of invented words, rich in b, p, m, f, v and w."""
    words = []
    for _ in range(rng.integers(4, 10)):
        word = ""
        for _ in range(rng.integers(1, 4)):
            lips = rng.random() < 0.5
            word += str(rng.choice([*_INITIALS[:4], "f", "v"] if lips else _INITIALS))
            word += str(rng.choice(_VOWELS)) + (
                str(rng.choice(_FINALS)) if rng.random() < 0.5 else ""
            )
        words.append(word)
    return " ".join(words) + "."


def _pinyin(rng: np.random.Generator) -> str:
    syllables = [
        f"{rng.choice(_PINYIN_INITIALS)}{rng.choice(_PINYIN_FINALS)}{rng.integers(1, 5)}"
        for _ in range(rng.integers(5, 13))
    ]
    return " ".join(syllables) + "."


def _hangul(rng: np.random.Generator) -> str:
    words = ["".join(chr(int(c)) for c in 0xAC00 + 28 * rng.integers(0, 399, rng.integers(2, 5))
                     + rng.choice([0, 0, 0, 4, 8, 16, 17, 21])) for _ in range(rng.integers(3, 7))]  # fmt: skip
    return " ".join(words) + "."


class Texts:
    """Sentences in many languages; the same seed gives the same texts."""

    def __init__(self, seed: int, rivals: float = 0.0) -> None:
        """``rivals``: share of English sentences made of ``_RIVALS``."""
        self._rivals = rivals
        try:
            from faker import Faker
        except ImportError as error:
            raise SystemExit(
                "making training speech needs the package faker: pip install faker"
            ) from error
        self._fakers: dict[str, Any] = {}
        for locale in sorted({source for source, _ in LANGUAGES.values() if "_" in source}):
            self._fakers[locale] = Faker(locale)
            self._fakers[locale].seed_instance(seed)

    def sentence(self, source: str, rng: np.random.Generator) -> str:
        """One sentence for a row of ``LANGUAGES``."""
        if source == "pinyin":
            return _pinyin(rng)
        if source == "hangul":
            return _hangul(rng)
        if source == "pseudo" or rng.random() < 0.15:
            return _pseudo(rng)
        faker = self._fakers[source]
        kind = rng.random()
        if kind < 0.12:
            return f"{faker.name()}, {faker.city()}, {faker.job()}."
        return faker.sentence(nb_words=int(rng.integers(5, 14)))

    def english(self, rng: np.random.Generator) -> str:
        """One English sentence: a command, letters and digits, names, a text or invented words."""
        if self._rivals and rng.random() < self._rivals:
            words = rng.choice(_RIVALS, rng.integers(5, 12))
            # a pause here and there: after it n and l sound most like m and b
            said = " ".join(w + ("," if rng.random() < 0.15 else "") for w in words)
            return said.rstrip(",") + "."
        kind = rng.random()
        if kind < 0.25:
            return " ".join(str(rng.choice(words)) for words in _COMMAND) + "."
        if kind < 0.35:
            items = [*rng.choice(list(_LETTERS), 4), *rng.choice(_DIGITS, 4)]
            return " ".join(str(i) for i in rng.permutation(items)) + "."
        if kind < 0.45:
            words = " ".join(rng.choice(_LIPS, rng.integers(5, 10)))
            return f"{words}."
        return self.sentence("en_US", rng)


def _rows(samples: np.ndarray) -> np.ndarray:
    return np.concatenate(list(mel_rows([samples])))[:, :BANDS]


class Sentences:
    """Sentences of one speaker, one after the other with pauses: sound and times."""

    def __init__(self, rate: float, rng: np.random.Generator) -> None:
        self.rate, self._rng = rate, rng
        self.elapsed = 0.0
        self._sound: list[np.ndarray] = []
        self._ends: list[np.ndarray] = []
        self._codes: list[np.ndarray] = []
        self._pause(rng.choice([0.05, 0.1, 0.3, 0.6]) * rng.uniform(0.5, 1.5))

    def _add(self, samples: np.ndarray, ends: np.ndarray, codes: np.ndarray) -> None:
        self._sound.append(samples)
        self._ends.append(ends + self.elapsed)
        self._codes.append(codes)
        self.elapsed += len(samples) / self.rate

    def _pause(self, seconds: float) -> None:
        count = max(1, int(seconds * self.rate))
        quiet = np.array([CODES[SILENCE]])
        self._add(np.zeros(count, np.float32), np.array([count / self.rate]), quiet)

    def add(self, samples: np.ndarray, rate: int, parts: Segments) -> None:
        """A sentence recorded at ``rate``, played at the speaker's own, and a pause."""
        self._add(samples, parts.ends * rate / self.rate, parts.codes)
        pause = self._rng.choice([0.05, 0.1, 0.3, 0.6, 1.2])
        self._pause(pause * self._rng.uniform(0.5, 1.5))

    def rows(self) -> tuple[np.ndarray, Segments]:
        """``(N, BANDS)`` rows of the first 12 s, and the sounds."""
        whole = np.concatenate(self._sound)[: int(12 * self.rate)]
        down = round(160 * self.rate / RATE)
        rows = _rows(resample_poly(whole, 160, down).astype(np.float32))
        scale = (self.rate / RATE) / (down / 160)  # the ratio is rounded; the clock follows it
        codes = np.concatenate(self._codes)
        return rows, Segments(ends=np.concatenate(self._ends) * scale, codes=codes)


def recorded(path: Path) -> tuple[np.ndarray, int]:
    """Mono float32 samples of a 16-bit wave file, and their rate."""
    with wave.open(str(path)) as sound:
        rate = sound.getframerate()
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2") / 32768.0
    return samples.astype(np.float32), rate


def joined(
    sentences: Iterable[tuple[np.ndarray, int, Segments]], rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, Segments]]:
    """Items of 6-10 s, each another body, of one voice's sentences: samples, rate, sounds.

    What is left over in the end is too short for one.
    """
    item, goal = None, 0.0
    for samples, rate, parts in sentences:
        if item is None:
            item, goal = Sentences(rate * rng.uniform(0.85, 1.2), rng), rng.uniform(6, 10)
        item.add(samples, rate, parts)
        if item.elapsed > goal:
            yield item.rows()
            item = None


def formant_speech(
    espeak: Espeak, texts: Texts, rng: np.random.Generator
) -> tuple[np.ndarray, Segments] | None:
    """One item of 6-10 s by espeak-ng; None if this draw is refused."""
    names = list(LANGUAGES)
    shares = np.array([LANGUAGES[n][1] for n in names])
    language = str(rng.choice(names, p=shares / shares.sum()))
    plain = rng.random() < 3 / (len(VARIANTS) + 3)
    style = Style(
        voice=language if plain else f"{language}+{rng.choice(VARIANTS)}",
        words_per_minute=int(rng.integers(115, 271)),
        pitch=int(rng.integers(15, 86)),
        pitch_range=int(rng.integers(20, 91)),
        word_gap=int(rng.choice([0, 0, 0, 2, 5])),
    )
    # Calling the sound's rate something else moves formants and pitch together: another body.
    item = Sentences(espeak.rate * rng.uniform(0.84, 1.22), rng)
    goal = rng.uniform(6, 10)
    while item.elapsed < goal:
        said = espeak.say(texts.sentence(LANGUAGES[language][0], rng), style)
        if said is None:
            return None
        item.add(said.samples, espeak.rate, segments(said.samples, espeak.rate, said.phones))
    return item.rows()


def recorded_speech(
    flite: Flite, texts: Texts, rng: np.random.Generator, *, only: str | None = None
) -> tuple[np.ndarray, Segments] | None:
    """One item of 6-10 s by a voice of flite: any, or the one named."""
    voice = only or str(rng.choice(VOICES, p=_VOICE_SHARES))
    duration, pitch = rng.uniform(0.75, 1.35), rng.uniform(0.75, 1.35)
    item, goal = None, rng.uniform(6, 10)
    factor = rng.uniform(0.85, 1.2)
    while item is None or item.elapsed < goal:
        said = flite.say(texts.english(rng), voice, duration=duration, pitch=pitch)
        parts = labelled_segments(said.samples, said.rate, said.phones, "english")
        if parts is None:
            return None
        item = item or Sentences(said.rate * factor, rng)
        item.add(said.samples, said.rate, parts)
    return item.rows()


def other_sound(rng: np.random.Generator) -> np.ndarray:
    """``(N, BANDS)`` rows of something that is no voice: noise, hum, chords, melodies, clicks, beats."""
    count = int(rng.uniform(5, 9) * RATE)
    clock = np.arange(count) / RATE
    kind = rng.choice(["noise", "wind", "hum", "chord", "melody", "clicks", "beat", "sweep"])
    white = rng.standard_normal(count)
    if kind in ("noise", "wind"):
        sound = lfilter([1.0], [1.0, -rng.uniform(0, 0.98)], white)
        if kind == "wind":
            knots = rng.uniform(-25, 0, max(3, int(count / RATE * rng.uniform(0.5, 6))))
            sound *= 10 ** (
                np.interp(np.linspace(0, 1, count), np.linspace(0, 1, len(knots)), knots) / 20
            )
    elif kind == "hum":
        base = rng.choice([50.0, 60.0, 100.0, 120.0]) * rng.uniform(0.98, 1.02)
        sound = sum(
            rng.uniform(0, 1) / k * np.sin(2 * np.pi * k * base * clock) for k in range(1, 20)
        )
    elif kind in ("chord", "melody"):
        sound = np.zeros(count)
        position = 0
        while position < count:
            length = (
                count
                if kind == "chord" and rng.random() < 0.5
                else int(rng.uniform(0.12, 0.9) * RATE)
            )
            part = clock[position : position + length] - clock[position]
            decay = np.exp(-part * rng.uniform(0, 6)) * np.minimum(1, part / 0.01)
            for _ in range(rng.integers(1, 5)):
                base = 55 * 2 ** (rng.integers(0, 48) / 12)
                vibrato = rng.uniform(0, 0.6) * np.sin(2 * np.pi * rng.uniform(4, 7) * part)
                slope = rng.uniform(0.5, 2.5)
                for harmonic in range(1, int(min(14, 7000 / base)) + 1):
                    phase = 2 * np.pi * harmonic * base * part + harmonic * vibrato
                    sound[position : position + length] += decay * harmonic**-slope * np.sin(phase)
            position += length
    elif kind == "clicks":
        sound = white * 10 ** (rng.uniform(-70, -40) / 20)
        for start in rng.integers(0, count - 400, rng.integers(3, 40)):
            length = int(rng.integers(10, 400))
            sound[start : start + length] += (
                rng.uniform(0.1, 1)
                * rng.standard_normal(length)
                * np.exp(-np.arange(length) / (length / 4))
            )
    elif kind == "beat":
        sound = white * 10 ** (rng.uniform(-70, -40) / 20)
        period = rng.uniform(0.2, 0.7)
        tone = np.sin(2 * np.pi * rng.uniform(45, 120) * clock)
        hiss = np.asarray(lfilter([1, -0.95], [1.0], rng.standard_normal(count)))
        sound += tone * np.exp(-(clock % period) * rng.uniform(5, 30))
        sound += (
            rng.uniform(0.1, 1)
            * hiss
            * np.exp(-((clock + period / 2) % period) * rng.uniform(10, 60))
        )
    else:
        low, high = np.sort(rng.uniform(80, 6000, 2))
        sound = np.sin(
            2 * np.pi * np.cumsum(low + (high - low) * (clock * rng.uniform(0.2, 3) % 1)) / RATE
        )
    level = 10 ** (rng.uniform(-50, -6) / 20)
    sound = np.asarray(sound, np.float32)
    sound = sound / (np.abs(sound).max() + 1e-9) * level
    return _rows(
        (sound + rng.standard_normal(count) * 10 ** (rng.uniform(-95, -60) / 20)).astype(np.float32)
    )


_VOICE_SHARES = (0.25, 0.25, 0.1, 0.05, 0.35)
"""Of flite's ``VOICES``; awb is Scottish and says u as the British do, in front."""

SHARD = 50
"""Items made by one process; espeak-ng 1.51 crashes on a few mixtures of voice and text."""


def pack(out: Path, items: list[tuple[np.ndarray, Segments]], *, recorded: bool) -> None:
    """Writes the rows of ``items`` one after the other (float16 dB), their sounds, their lengths.

    ``recorded``: spoken by a voice built from recordings.
    """
    np.savez(
        out,
        rows=np.concatenate([rows.astype(np.float16) for rows, _ in items]),
        row_counts=np.array([len(rows) for rows, _ in items]),
        ends=np.concatenate([parts.ends for _, parts in items]).astype(np.float32),
        codes=np.concatenate([parts.codes for _, parts in items]).astype(np.uint8),
        segment_counts=np.array([len(parts.codes) for _, parts in items]),
        symbols=np.array(SYMBOLS),
        recorded=np.array(recorded),
    )


def _shard(
    out: Path, seeds: list[int], item_count: int, other_share: float, source: str, rivals: float
) -> None:
    """Writes ``item_count`` items."""
    rng = np.random.default_rng(seeds)
    texts = Texts(int(rng.integers(2**31)), rivals)
    espeak = Espeak() if source == "espeak" else None
    flite = None if espeak else Flite()
    items: list[tuple[np.ndarray, Segments]] = []
    while len(items) < item_count:
        if rng.random() < other_share:
            rows = other_sound(rng)
            ends, codes = np.array([len(rows) / 100.0]), np.array([CODES[SILENCE]])
            items.append((rows, Segments(ends=ends, codes=codes)))
            continue
        item = (
            formant_speech(espeak, texts, rng)
            if espeak
            else recorded_speech(flite, texts, rng, only=source if source in VOICES else None)
            if flite
            else None
        )
        if item is not None:  # else a voice without this variant
            items.append(item)
    pack(out, items, recorded=source != "espeak")


def make(
    out: Path, *, item_count: int, other_share: float, seed: int, source: str, rivals: float = 0.0
) -> None:
    """Writes ``out`` from shards; one that crashed is drawn again from the next seed."""
    began = time.monotonic()
    out.parent.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, np.ndarray]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.npz"
        for shard in range(-(-item_count // SHARD)):
            count = min(SHARD, item_count - shard * SHARD)
            for attempt in range(20):
                arguments = (path, [seed, shard, attempt], count, other_share, source, rivals)
                process = multiprocessing.Process(target=_shard, args=arguments)
                process.start()
                process.join()
                if process.exitcode == 0:
                    break
            else:
                raise SystemExit(f"shard {shard} failed 20 times")
            with np.load(path) as stored:
                shards.append({name: stored[name] for name in stored.files})
            print(f"{shard * SHARD + count} items, {time.monotonic() - began:.0f} s, "
                  f"{attempt} crashes in this shard", flush=True)  # fmt: skip
    whole = ("symbols", "recorded")
    names = [name for name in shards[0] if name not in whole]
    joined = {name: np.concatenate([s[name] for s in shards]) for name in names}
    joined |= {name: shards[0][name] for name in whole}
    np.savez(out, **joined)  # type: ignore[arg-type]
    print(f"{len(joined['rows']) / 360000:.2f} h of sound in {out}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--items", type=int, default=3000)
    parser.add_argument(
        "--other-share", type=float, default=0.12, help="share of items without speech"
    )
    parser.add_argument(
        "--rivals",
        type=float,
        default=0.0,
        help="share of English sentences with lips and tongue as rivals",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--source",
        choices=["espeak", "flite", *VOICES],
        default="espeak",
        help="flite: all of its voices; or one of them by name",
    )
    options = parser.parse_args()
    make(
        options.out,
        item_count=options.items,
        other_share=options.other_share,
        seed=options.seed,
        source=options.source,
        rivals=options.rivals,
    )


if __name__ == "__main__":
    main()
