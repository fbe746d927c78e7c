"""Encodes a clip, the one time, and gives it its name when it is complete."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import SettingsError
from . import features
from .setup import whisper_missing
from .step import FPS, RATE, Book, Clip, Source, Step

if TYPE_CHECKING:
    from ..media.decoder import Clip as Facts
    from .config import Config
    from .setup import Setup

CLIPS = "clips"
HELD = "held"
KEY_EVERY = 25
"""Frames from one key picture to the next: training reads a few frames from anywhere, and decodes from
the key picture before them. A tenth more bytes, a quarter of the time."""
SMALL = 128
"""Pixels; below, x264 looks for B-frames in what it did not write: at 64 the same pictures gave other
streams in 4 of 24 runs, at 128 and 256 and without B-frames in none (x264 of PyAV 18)."""


class Write(Step):
    """Picture and sound as mp4, features as safetensors; both appear by renaming."""

    name = "write"
    takes = "clip"
    gives = ""

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        if config.output.whisper == "always" and (reason := whisper_missing()) is not None:
            raise SettingsError(f"output.whisper is 'always', but {reason}")

    def run(self, sample: Clip, book: Book) -> Iterator[Any]:
        name = file_name(sample.source, sample.key)
        folder = HELD if sample.rejected else CLIPS
        video = self.setup.output / folder / name
        facts = {
            "clip": name,
            "source": str(sample.source.path),
            "first_frame": sample.first,
            "frames": sample.frame_count,
            "fps": FPS,
            "resolution": sample.crops.shape[1],
            "template": self.config.affine.template,
            "sound_shift": sample.shift,
            **sample.metrics,
        }
        work = self.setup.work
        work.mkdir(parents=True, exist_ok=True)
        video.parent.mkdir(parents=True, exist_ok=True)
        beside = video.with_suffix(".safetensors")
        part = work / beside.name
        try:
            stored = features.tensors(sample, self.setup.whisper, self.setup.device)
            features.write(part, stored, facts)
            encode(work / video.name, sample.crops, sample.heard(), self.config.output.crf)
            # The features first: where there is a clip, its features are there too.
            part.replace(beside)
            (work / video.name).replace(video)
        finally:
            for left in (part, work / video.name):
                left.unlink(missing_ok=True)
        # A clip that once had another verdict must not stay in the other folder.
        other = self.setup.output / (CLIPS if sample.rejected else HELD) / name
        for old in (other, other.with_suffix(".safetensors")):
            old.unlink(missing_ok=True)
        book.add(
            self.name,
            sample.key,
            parent=sample.parent,
            state="skipped" if sample.rejected else "kept",
            reason=f"rejected earlier, by {sample.rejected}" if sample.rejected else "",
            metrics={"file": name, "bytes": video.stat().st_size + beside.stat().st_size},
            first=sample.first,
            frames=sample.frame_count,
        )
        yield from ()


def file_name(source: Source, key: str) -> str:
    """Of a clip, below its folder: readable, and different for files that only share their name."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", source.path.stem).strip("_")[:48] or "clip"
    return f"{source.key[:2]}/{stem}-{source.key}{key.removeprefix(source.key)}.mp4"


def encode(path: Path, crops: np.ndarray, sound: np.ndarray, crf: int) -> None:
    """Writes ``(T, R, R, 3)`` pictures at 25 a second and ``(S,)`` sound at 16 kHz."""
    import av

    from ..media.audio import SILENCE_PEAK, MemoryVoice
    from ..media.frame import Frame
    from ..media.writer import Writer
    from ..types import Audio

    size = crops.shape[1]
    facts = described(path, size, size, len(crops))
    peak = float(np.abs(sound).max()) if len(sound) else 0.0
    voice = None
    if peak > SILENCE_PEAK:
        voice = MemoryVoice(Audio(samples=np.ascontiguousarray(sound[None]), rate=RATE))
    writer = Writer(
        path,
        clip=facts,
        voice=voice,
        audio_duration=Fraction(len(crops), FPS),
        codec="libx264",
        crf=crf,
        overwrite=True,
    )
    # With more threads x264 writes other streams: the data must not depend on who makes them.
    inner = ["threads=1", *(["bframes=0"] if size < SMALL else [])]
    options = {**writer.encoding.options, "g": str(KEY_EVERY), "x264-params": ":".join(inner)}
    writer.encoding = replace(writer.encoding, options=options)
    with writer:
        for index, crop in enumerate(crops):
            video = av.VideoFrame.from_ndarray(crop, format="rgb24")
            time = Fraction(index, FPS)
            frame = Frame(video, facts.look, index=index, time=time, duration=Fraction(1, FPS))
            writer.write(frame, time, Fraction(1, FPS))


def described(path: Path, width: int, height: int, frame_count: int) -> Facts:
    """What the writer wants to know of pictures that come from no file."""
    from ..media.decoder import Clip as Facts

    return Facts(
        path=path,
        width=width,
        height=height,
        frame_rate=Fraction(FPS),
        frame_count=frame_count,
        duration=Fraction(frame_count, FPS),
        time_base=Fraction(1, FPS),
        sar=Fraction(1),
        rotation=0,
        mirrored=False,
        pixel_format="rgb24",
        bits=8,
        colorspace=0,
        color_range=2,
        color_primaries=2,
        color_trc=2,
        field_order="progressive",
        has_alpha=False,
        has_audio=False,
        is_still=False,
        codec="rawvideo",
        container="",
    )
