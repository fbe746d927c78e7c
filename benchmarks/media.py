"""Decoding, the mouth network and encoding, each alone: `python benchmarks/media.py CLIP VOICE [frames]`.

CPU seconds of the whole process (all threads) for so many frames of the clip (100 by default, held in memory) and for the
voice, medians of three rounds in turns. For both ways of encoding also bytes and PSNR of luma, as means over the frames.
"""

import sys
import tempfile
import time
from fractions import Fraction
from itertools import islice
from pathlib import Path
from statistics import median

import cv2
import numpy as np

from lipsync_core.engines import pick
from lipsync_core.media.audio import open_voice
from lipsync_core.media.reader import Reader
from lipsync_core.media.writer import Writer

ROUNDS = 3


def cost(work):
    """CPU and wall-clock seconds."""
    cpu, began = time.process_time(), time.monotonic()
    work()
    return time.process_time() - cpu, time.monotonic() - began


def psnr(one, other):
    error = np.square(one.planes()[0].astype(np.float32) - other.planes()[0]).mean()
    return 10 * np.log10(255**2 / max(float(error), 1e-9))


def main():
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    cv2.setNumThreads(1)
    clip, voice = map(Path, sys.argv[1:3])
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 100
    reader, engine, sound = Reader(clip), pick("draft"), open_voice(voice)
    frames = list(islice(reader.frames(), count))
    times = [Fraction(row, 25) for row in range(int(sound.duration * 25))]
    engine.listen(sound, times)  # loads the network

    def write(target, quick):
        with Writer(target, clip=reader.clip, overwrite=True, quick=quick) as writer:
            for frame in frames:
                writer.write(frame, frame.time, frame.duration)

    with tempfile.TemporaryDirectory() as folder:
        targets = {quick: Path(folder) / f"{quick}.mp4" for quick in (False, True)}
        work = {
            "decode": lambda: list(islice(reader.frames(), len(frames))),
            "encode": lambda: write(targets[False], False),
            "encode a draft": lambda: write(targets[True], True),
            "hear": lambda: engine.listen(sound, times),
        }
        spent = {name: [] for name in work}
        for _ in range(ROUNDS):
            for name, one in work.items():
                spent[name].append(cost(one))
        for name, rounds in spent.items():
            cpu, wall = (median(values) for values in zip(*rounds, strict=True))
            if name == "hear":
                print(
                    f"{name:15} {cpu / float(sound.duration) * 1e3:8.2f} CPU ms a second of voice"
                )
                continue
            print(
                f"{name:15} {cpu / len(frames) * 1e3:8.2f} CPU ms a frame, {len(frames) / wall:6.1f} fps"
            )
        for quick, target in targets.items():
            near = np.mean([psnr(*pair) for pair in zip(frames, Reader(target), strict=True)])
            print(
                f"{'draft' if quick else 'else':15} {target.stat().st_size:8d} bytes, {near:.2f} dB"
            )


if __name__ == "__main__":
    main()
