"""Speech of festival's voices: writes a script for the program, then reads the sounds and times it made.

    python -m trainer.tasks.mouth.festival script DIR [--sentences 1500] [--seed 1]
    cd DIR && festival -b batch.scm
    python -m trainer.tasks.mouth.festival read DIR OUT.npz [--seed 1]

Voices (Debian): festvox-kallpc16k, -kdlpc16k, -us-slt-hts, -ru, -czech-{dita,krb,machac,ph}, -italp16k, -itapc16k,
-suopuhe-{lj,mv}, -ca-ona-hts.
"""

from __future__ import annotations

import argparse
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .labels import labelled_segments
from .phones import Segments
from .synth import Texts, joined, pack, recorded

VOICES = {
    "kal_diphone": ("english", "en_US", "ascii"),
    "ked_diphone": ("english", "en_US", "ascii"),
    "cmu_us_slt_arctic_hts": ("english", "en_US", "ascii"),
    "msu_ru_nsh_clunits": ("russian", "ru_RU", "utf-8"),
    "czech_dita": ("czech", "cs_CZ", "iso8859-2"),
    "czech_krb": ("czech", "cs_CZ", "iso8859-2"),
    "czech_machac": ("czech", "cs_CZ", "iso8859-2"),
    "czech_ph": ("czech", "cs_CZ", "iso8859-2"),
    "lp_diphone": ("italian", "it_IT", "ascii"),
    "pc_diphone": ("italian", "it_IT", "ascii"),
    "suo_fi_lj_diphone": ("finnish", "fi_FI", "ascii"),
    "hy_fi_mv_diphone": ("finnish", "fi_FI", "ascii"),
    "upc_ca_ona_hts": ("catalan", "it_IT", "ascii"),
}
"""Voice -> set of phones, source of texts, encoding that it reads."""
_SHARES = {"ked_diphone": 2.0, "cmu_us_slt_arctic_hts": 1.0, "msu_ru_nsh_clunits": 4.0}


def script(folder: Path, *, sentences: int, seed: int) -> None:
    """Writes ``batch.scm``: every sentence to a wav and its phones to a file beside it."""
    rng, texts = np.random.default_rng(seed), Texts(seed)
    names = list(VOICES)
    shares = np.array([_SHARES.get(name, 1.0) for name in names])
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[bytes] = []
    for name, count in zip(names, rng.multinomial(sentences, shares / shares.sum()), strict=True):
        language, locale, encoding = VOICES[name]
        lines.append(f"(voice_{name})".encode())
        for number in range(count):
            text = texts.english(rng) if language == "english" else texts.sentence(locale, rng)
            if encoding == "ascii":
                text = unicodedata.normalize("NFD", text)
            text = text.replace('"', "").replace("\\", "")
            stem = f"{name}.{number}"
            lines.append(
                # one sentence that a voice cannot say must not end the batch
                f"(unwind-protect (begin (Parameter.set 'Duration_Stretch {rng.uniform(0.75, 1.3):.2f})"
                '(set! u (utt.synth (Utterance Text "'.encode()
                + text.encode(encoding, "ignore")
                + f'")))(utt.save.segs u "{stem}.seg")(utt.save.wave u "{stem}.wav" \'riff)) nil)'.encode()
            )
    (folder / "batch.scm").write_bytes(b"\n".join(lines) + b"\n")


def _phones(path: Path) -> list[tuple[float, str]]:
    lines = path.read_text(encoding="latin-1").split("#\n", 1)[1].splitlines()
    fields = [line.split() for line in lines]
    return [(float(f[0]), f[2]) for f in fields if len(f) > 2]


def read(folder: Path, out: Path, *, seed: int) -> None:
    """Joins sentences of one voice to items of 6-10 s."""
    rng = np.random.default_rng(seed)
    files: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.glob("*.wav")):
        files[path.name.split(".")[0]].append(path)
    refused = 0

    def sentences(voice: str) -> Iterator[tuple[np.ndarray, int, Segments]]:
        nonlocal refused
        for path in files[voice]:
            samples, rate = recorded(path)
            phones = _phones(path.with_suffix(".seg"))
            parts = labelled_segments(samples, rate, phones, VOICES[voice][0]) if phones else None
            if parts is None or len(samples) < rate // 2 or np.abs(samples).max() < 0.01:
                refused += 1
            else:
                yield samples, rate, parts

    items = [item for voice in sorted(files) for item in joined(sentences(voice), rng)]
    pack(out, items, recorded=True)
    print(f"{len(items)} items in {out}, {refused} sentences refused")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("action", choices=["script", "read"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--sentences", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.action == "script":
        script(options.folder, sentences=options.sentences, seed=options.seed)
    elif options.out is None:
        parser.error("read needs the file to write")
    else:
        read(options.folder, options.out, seed=options.seed)


if __name__ == "__main__":
    main()
