"""Tiny talking clips: a photograph whose mouth opens as the sound asks, with a face given by place."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import pytest

from lipsync_core.preprocess import config as configs

ROOT = Path(__file__).resolve().parents[3]
RATE = 16_000


@lru_cache(maxsize=1)
def _portrait() -> np.ndarray:
    from skimage.data import astronaut

    return np.ascontiguousarray(astronaut()[10:250, 100:340])


def _talk(count: int, fps: Fraction, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """``(count,)`` chin drops in px and ``(S,)`` sound that asks for them."""
    random = np.random.default_rng(seed)
    seconds = float(count / fps)
    knots = random.uniform(0, 1, int(seconds * 5) + 3) ** 2
    swell = np.interp(np.arange(int(seconds * RATE)) / RATE * 5, np.arange(len(knots)), knots)
    sound = (random.standard_normal(len(swell)) * swell * 0.3).astype(np.float32)
    times = np.arange(count) / float(fps)
    drops = 5 * np.interp(times * 5, np.arange(len(knots)), knots)
    return drops, sound


def _scene(drop: float, scene: int) -> np.ndarray:
    """The person (0, 1 mirrored) or a landscape without one (2)."""
    if scene == 2:
        rows, columns = np.mgrid[0:240, 0:240]
        texture = 90 + 70 * np.sin(rows / 9.0) * np.cos(columns / 13.0)
        return (
            np.stack([texture, 0.5 * texture, 200 - texture], axis=2).clip(0, 255).astype(np.uint8)
        )
    image = _portrait().copy()
    # Below the lips everything falls, as far as the chin.
    rows = np.arange(240, dtype=float)
    fall = np.interp(rows, [131, 133, 160, 190], [0, drop, drop, 0])
    image = image[np.clip(np.rint(rows - fall).astype(int), 0, 239)]
    return np.ascontiguousarray(image[:, ::-1]) if scene == 1 else image


class Maker:
    """Writes clips. ``scenes``: number of the scene of every frame."""

    @staticmethod
    def clip(
        path, scenes, *, fps=Fraction(25), late=0.0, seed=1, sound=True, quality=None, gop=250
    ):
        count = len(scenes)
        drops, samples = _talk(count, Fraction(fps), seed)
        samples = np.roll(samples, round(late * RATE))
        with av.open(str(path), "w") as out:
            video = out.add_stream("libx264", rate=Fraction(fps))
            video.width = video.height = 240
            video.pix_fmt = "yuv420p"
            video.gop_size = gop
            video.options = {"crf": str(quality or 14), "preset": "ultrafast"}
            voice = None
            if sound:
                voice = out.add_stream("aac", rate=RATE)
                voice.layout = "mono"
            for drop, scene in zip(drops, scenes, strict=True):
                image = _scene(float(drop), scene)
                out.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            out.mux(video.encode(None))
            if voice is not None:
                for at in range(0, len(samples), 1024):
                    piece = np.ascontiguousarray(samples[None, at : at + 1024])
                    frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
                    frame.sample_rate, frame.pts, frame.time_base = RATE, at, Fraction(1, RATE)
                    out.mux(voice.encode(frame))
                out.mux(voice.encode(None))
        return path


@pytest.fixture(scope="session")
def maker() -> type[Maker]:
    return Maker


@pytest.fixture
def settings():
    """Small, quick and without anything to fetch; ``settings("quality.min_face=10")`` changes some."""
    pytest.importorskip("omegaconf")

    def make(*overrides):
        return configs.load(
            None,
            [
                "affine.detector=cascade",
                "shots.detector=faces",
                "av_sync.min_certainty=0",
                "av_sync.max_offset=15",
                "output.whisper=never",
                *overrides,
            ],
        )

    return make


FLAGS = [
    "--set", "affine.detector=cascade", "--set", "shots.detector=faces",
    "--set", "av_sync.min_certainty=0", "--set", "av_sync.max_offset=15",
    "--set", "output.whisper=never", "--workers", "1",
]  # fmt: skip


@pytest.fixture
def command():
    """Starts the command line as people do; ``command(in, out, *flags)`` gives the process."""
    pytest.importorskip("omegaconf")

    def start(inputs, output, *flags, before=""):
        code = f"{before}\nfrom lipsync_core.preprocess.cli import main\nmain()"
        return subprocess.Popen(
            [sys.executable, "-c", code, "--input_dir", str(inputs), "--output-dir", str(output),
             *FLAGS, *flags],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )  # fmt: skip

    return start


@pytest.fixture
def rows():
    """The manifest of an output: ``rows(output)`` gives dicts, one a sample and step."""
    from lipsync_core.preprocess.manifest import NAME, Manifest

    def read(output):
        with Manifest(output / NAME) as manifest:
            return list(manifest.rows())

    return read
