"""Finds the sounds of real recordings whose words are known: what evaluation compares with, never trained on.

    python -m trainer.tasks.mouth.align LIST.txt OUT.npz

Each line of LIST.txt is a sound file (beside the list, or with its whole path), a tab, and the words.
OUT.npz has the form that ``synth.py`` writes; ``robustness.py --held`` and ``train.py --held`` read it.

The package pocketsphinx (BSD, with a model of American English) is not a dependency of the product or
of training; install it apart: ``pip install pocketsphinx``.
"""

from __future__ import annotations

import argparse
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lipsync_core.audio.mel import BANDS, RATE, mel_rows

from .labels import labelled_segments
from .phones import Segments

_LETTERS = {
    "a": "EY", "b": "B IY", "c": "S IY", "d": "D IY", "e": "IY", "f": "EH F", "g": "JH IY", "h": "EY CH",
    "i": "AY", "j": "JH EY", "k": "K EY", "l": "EH L", "m": "EH M", "n": "EH N", "o": "OW", "p": "P IY",
    "q": "K Y UW", "r": "AA R", "s": "EH S", "t": "T IY", "u": "Y UW", "v": "V IY", "x": "EH K S",
    "w": "D AH B AH L Y UW", "y": "W AY", "z": "Z EH D",
}  # fmt: skip
"""How letters are called; a word of one letter is a letter."""
_TRIES = (
    (0.9, 0.0, True),
    (0.9, 0.0, False),
    (0.3, 0.0, True),
    (0.9, 3.0, True),
    (0.3, 2.0, False),
)
"""Peak, noise (in steps of 16 bits) and best path: the aligner loses its way in one clip in four, at random."""


class UnknownWords(SystemExit):
    """Words that the dictionary of pocketsphinx lacks."""


@lru_cache(maxsize=2)
def _decoder(best_path: bool) -> Any:
    try:
        from pocketsphinx import Config, Decoder
    except ImportError as error:
        raise SystemExit(
            "finding the sounds of recordings needs pocketsphinx: pip install pocketsphinx"
        ) from error
    decoder = Decoder(
        Config(
            samprate=RATE,
            loglevel="FATAL",
            dither=False,
            bestpath=best_path,
            beam=1e-80,
            wbeam=1e-60,
            pbeam=1e-80,
        )
    )
    for letter, phones in _LETTERS.items():
        decoder.add_word(f"letter_{letter}", phones, True)
    return decoder


def phones_of(samples: np.ndarray, text: str) -> list[tuple[float, str]] | None:
    """Seconds at which each phone of ``text`` ends, and its name as in ``labels.py``; None if that fails.

    ``samples``: ``(S,)`` at 16 kHz. A word that the dictionary lacks is an error.
    """
    words = [f"letter_{w}" if len(w) == 1 else w for w in re.findall(r"[a-z']+", text.lower())]
    rng = np.random.default_rng(0)
    for peak, noise, best_path in _TRIES:
        decoder = _decoder(best_path)
        unknown = [w for w in words if decoder.lookup_word(w) is None]
        if unknown:
            raise UnknownWords(f"not in the dictionary of pocketsphinx: {', '.join(unknown)}")
        loud = samples / np.abs(samples).max() * peak * 32767
        pcm = np.round(loud + noise * rng.standard_normal(len(loud))).astype("<i2").tobytes()
        try:
            decoder.set_align_text(" ".join(words))
            for stage in ("words", "phones"):
                if stage == "phones":
                    decoder.set_alignment()
                decoder.start_utt()
                decoder.process_raw(pcm, full_utt=True)
                decoder.end_utt()
            phones = [phone for word in decoder.get_alignment() for phone in word]
        except RuntimeError:
            continue
        return [
            ((p.start + p.duration) / 100, p.name.lower() if p.name.isalpha() and p.name != "SIL" else "pau")
            for p in phones
        ]  # fmt: skip
    return None


def aligned(samples: np.ndarray, text: str) -> Segments | None:
    """The sounds of ``text`` in ``samples``, closures told from bursts; None if that fails."""
    phones = phones_of(samples, text)
    return None if phones is None else labelled_segments(samples, RATE, phones, "english")


def main() -> None:
    """Command line."""
    from .evaluate import SoundFile
    from .synth import pack

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("list", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    items: list[tuple[np.ndarray, Segments]] = []
    for line in options.list.read_text(encoding="utf-8").splitlines():
        name, text = line.split("\t")
        samples = SoundFile.read(options.list.parent / name).samples
        parts = aligned(samples, text)
        if parts is None:
            print(f"{name}: no alignment found, left out")
            continue
        items.append((np.concatenate(list(mel_rows([samples])))[:, :BANDS], parts))
    pack(options.out, items, recorded=True)
    seconds = sum(len(rows) for rows, _ in items) / 100
    print(f"{len(items)} recordings, {seconds:.0f} s in {options.out}")


if __name__ == "__main__":
    main()
