"""Speech of SVOX Pico's voices: writes a script for the program, then finds the sounds in what it said.

    python -m trainer.tasks.mouth.pico script DIR [--language en-US] [--sentences 500] [--rivals .7] [--seed 1]
    cd DIR && sh batch.sh
    python -m trainer.tasks.mouth.pico read DIR OUT.npz [--seed 1]

Pico (Debian: libttspico-utils) tells no times: the sounds are found by the forced alignment of ``align.py``, so
only its two English voices, en-US and en-GB, can be used, and sentences of words that pocketsphinx knows.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .align import UnknownWords, aligned
from .phones import Segments
from .synth import Texts, joined, pack, recorded


def script(folder: Path, *, language: str, sentences: int, rivals: float, seed: int) -> None:
    """Writes ``batch.sh`` and ``words.txt``: the name of each sound, a tab, and its words."""
    rng, texts = np.random.default_rng(seed), Texts(seed, rivals)
    folder.mkdir(parents=True, exist_ok=True)
    commands: list[str] = []
    words: list[str] = []
    while len(commands) < sentences:
        text = texts.english(rng)
        if not re.fullmatch(r"[A-Za-z' ,.;?!-]+", text):
            continue
        name = f"{len(commands):05}.wav"
        speed, pitch = rng.integers(75, 130, 2)
        spoken = f"<speed level='{speed}'><pitch level='{pitch}'>{text}</pitch></speed>"
        commands.append(f'pico2wave -l {language} -w {name} "{spoken}"')
        words.append(f"{name}\t{text}")
    (folder / "batch.sh").write_text("\n".join(commands) + "\n", encoding="utf-8", newline="\n")
    (folder / "words.txt").write_text("\n".join(words) + "\n", encoding="utf-8")


def read(folder: Path, out: Path, *, seed: int) -> None:
    """Joins sentences to items of 6-10 s, each item another body."""
    lines = (folder / "words.txt").read_text(encoding="utf-8").splitlines()
    refused = 0

    def sentences() -> Iterator[tuple[np.ndarray, int, Segments]]:
        nonlocal refused
        for line in lines:
            name, text = line.split("\t")
            samples, rate = recorded(folder / name)
            try:
                parts = aligned(samples, text)
            except UnknownWords:
                parts = None
            if parts is None:
                refused += 1
            else:
                yield samples, rate, parts

    items = list(joined(sentences(), np.random.default_rng(seed)))
    pack(out, items, recorded=True)
    print(f"{len(items)} items in {out}, {refused} sentences refused")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("action", choices=["script", "read"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--language", choices=["en-US", "en-GB"], default="en-US")
    parser.add_argument("--sentences", type=int, default=500)
    parser.add_argument(
        "--rivals", type=float, default=0.7, help="share of sentences of lips and tongue as rivals"
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.action == "script":
        script(
            options.folder,
            language=options.language,
            sentences=options.sentences,
            rivals=options.rivals,
            seed=options.seed,
        )
    elif options.out is None:
        parser.error("read needs the file to write")
    else:
        read(options.folder, options.out, seed=options.seed)


if __name__ == "__main__":
    main()
