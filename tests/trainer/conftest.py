"""A small folder as the preprocessor leaves it, of pictures that tell their own number."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lipsync_core.preprocess import features, write

SIDE = 32
LAYERS, WIDTH = 2, 4


def picture(number: int, clip: int) -> np.ndarray:
    """Gray level: number of the frame; a band at the top: number of the clip."""
    image = np.full((SIDE, SIDE, 3), 30 + number, np.uint8)
    image[:8] = 20 + 20 * (clip % 10)
    return image


class Folder:
    """Writes clips of given lengths; ``sources`` names the recording of each."""

    def __init__(self, path):
        self.path = path

    def make(self, lengths, sources=None, **extra):
        rows = []
        for clip, count in enumerate(lengths):
            rng = np.random.default_rng(clip)
            key = f"{clip:016x}-c000000"
            stem = self.path / "clips" / f"{clip:02x}" / key
            stem.parent.mkdir(parents=True, exist_ok=True)
            sound = rng.standard_normal(count * 640).astype(np.float32) * 0.1
            crops = np.stack([picture(number, clip) for number in range(count)])
            write.encode(stem.with_suffix(".mp4"), crops, sound, 10)
            eyes = np.float32([[10, 10], [22, 10], [16, 16], [12, 22], [20, 22]])
            stored = {
                "points": eyes + rng.standard_normal((count, 5, 2)).astype(np.float32),
                "boxes": np.tile(np.float32([4, 4, 28, 28]), (count, 1)),
                "matrices": np.tile(np.float32([[1, 0, 0], [0, 1, 0]]), (count, 1, 1)),
                "times": np.arange(count) / 25,
                "sound": np.rint(sound * 32767).astype(np.int16),
                "mel": features.mel(sound),
                # Every number tells where it is: step, layer and place in the width.
                "whisper": whisper(count),
                **{name: values(count, rng) for name, values in extra.items()},
            }
            features.write(stem.with_suffix(".safetensors"), stored, {})
            source = (sources or list(range(len(lengths))))[clip]
            rows.append(
                {
                    "key": key,
                    "clip": stem.with_suffix(".mp4").relative_to(self.path).as_posix(),
                    "features": stem.with_suffix(".safetensors").relative_to(self.path).as_posix(),
                    "frames": count,
                    "seconds": count / 25,
                    "source": f"{source}.mp4",
                    "source_key": f"{source:04d}",
                }
            )
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (self.path / "index.jsonl").write_text(lines, encoding="utf-8")
        return str(self.path)


def whisper(count: int) -> np.ndarray:
    steps = np.arange(2 * count)[:, None, None]
    layers = np.arange(LAYERS)[None, :, None]
    return (steps + layers / 4 + np.arange(WIDTH) / 32).astype(np.float16)


@pytest.fixture
def clip_folder(tmp_path):
    def make(lengths, sources=None, *, name="data", **extra):
        path = tmp_path / name
        path.mkdir(exist_ok=True)
        return Folder(path).make(lengths, sources, **extra)

    return make
