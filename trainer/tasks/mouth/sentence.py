"""Makes the sentence that ``lipsync demo`` speaks, with espeak-ng.

python -m trainer.tasks.mouth.sentence lipsync_core/demo/sentence.flac
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.signal import butter, sosfilt

from .espeak import Espeak, Style

PARTS = (
    "Hello! I am a photograph, but my mouth moves.",
    "Maybe you have a voice for me, and I will speak it.",
)
"""Rich in sounds that a mouth shows: m, p, b, f, v, w, open and round vowels."""
STYLE = Style(voice="en-us+f3", words_per_minute=168, pitch=52, pitch_range=58)
EDGE, PAUSE = 0.2, 0.6
"""Seconds of silence at both ends and between the parts."""


def sentence() -> tuple[np.ndarray, int]:
    """``(S,)`` float32 samples and their rate."""
    espeak = Espeak()

    def quiet(seconds: float) -> np.ndarray:
        return np.zeros(int(seconds * espeak.rate), np.float32)

    pieces = [quiet(EDGE)]
    for number, text in enumerate(PARTS):
        said = espeak.say(text, STYLE)
        assert said is not None, STYLE
        loud = np.nonzero(np.abs(said.samples) > 0.003)[0]
        pieces += [quiet(PAUSE)] * (number > 0) + [said.samples[loud[0] : loud[-1] + 1]]
    dry = np.concatenate([*pieces, quiet(EDGE)])
    # The synthesiser is bright and perfectly dry: a little less treble, a little of a small room.
    warm = sosfilt(butter(1, 4200, fs=espeak.rate, output="sos"), dry)
    rng = np.random.default_rng(1)
    tail = rng.standard_normal(int(0.18 * espeak.rate)) * np.exp(
        -np.linspace(0, 6.9, int(0.18 * espeak.rate))
    )
    room = np.convolve(warm, tail / np.sqrt(np.sum(tail**2)))[: len(dry)]
    late = np.concatenate([np.zeros(int(0.012 * espeak.rate)), room])[: len(dry)]
    wet = warm + 0.07 * late
    return (wet / np.abs(wet).max() * 10 ** (-3 / 20)).astype(np.float32), espeak.rate


def main() -> None:
    """Command line."""
    import av

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    samples, rate = sentence()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(options.out), "w") as container:
        stream = container.add_stream("flac", rate=rate, layout="mono", format="s16")
        whole = np.round(samples * 32767).astype(np.int16)
        for start in range(0, len(whole), 4096):
            frame = av.AudioFrame.from_ndarray(whole[None, start : start + 4096], "s16", "mono")
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    print(f"{len(samples) / rate:.2f} s at {rate} Hz, {options.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
