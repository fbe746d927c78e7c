"""Small real media, made here: every picture carries its own number as black and white bars."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

BARS = 10


def picture(index: int, width: int = 160, height: int = 96) -> np.ndarray:
    """RGB with ``index`` as ten bars in the upper half, most significant first; colour below."""
    rgb = np.zeros((height, width, 3), np.uint8)
    edges = [width * bar // BARS for bar in range(BARS + 1)]
    for bar in range(BARS):
        if index >> (BARS - 1 - bar) & 1:
            rgb[: height // 2, edges[bar] : edges[bar + 1]] = 255
    rgb[height // 2 :, :, 0] = np.linspace(40, 210, width, dtype=np.uint8)
    rgb[height // 2 :, :, 1] = 120
    rgb[height // 2 :, :, 2] = np.linspace(200, 60, width, dtype=np.uint8)
    return rgb


def number(gray: np.ndarray) -> int:
    """The number that ``picture`` put in."""
    height, width = gray.shape[:2]
    value = 0
    for bar in range(BARS):
        middle = int((bar + 0.5) * width / BARS)
        patch = gray[height // 8 : height * 3 // 8, middle - 1 : middle + 2]
        value = value * 2 + int(patch.mean() > 127)
    return value


def make(
    path: Path,
    *,
    frame_count: int = 12,
    width: int = 160,
    height: int = 96,
    rate: Fraction = Fraction(25),
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    ticks: list[int] | None = None,
    time_base: Fraction | None = None,
    options: dict[str, str] | None = None,
    container: str | None = None,
    rotate: int = 0,
    tags: dict[str, int] | None = None,
    mutate=None,
    drop=None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Encodes numbered pictures. ``ticks``: time stamps in ``time_base``, one a frame."""
    base = time_base or 1 / rate
    if options is None:
        options = {"crf": "10", "preset": "ultrafast"} if codec.startswith("libx26") else {}
        if codec == "libx265":
            options["x265-params"] = "log-level=none"
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.time_base = base
        stream.time_base = base
        if rotate:
            stream.set_display_rotation(rotate)
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        output.metadata.update(metadata or {})
        sent = 0
        for index in range(frame_count):
            frame = av.VideoFrame.from_ndarray(picture(index, width, height), format="rgb24")
            full = 2 if (tags or {}).get("color_range") == 2 or "yuvj" in pixel_format else 1
            if pixel_format != "rgb24":
                frame = frame.reformat(format=pixel_format, dst_color_range=full)
            if mutate is not None:
                frame = mutate(frame, index)
            frame.pts = index if ticks is None else ticks[index]
            frame.time_base = base
            for packet in stream.encode(frame):
                sent = _send(output, packet, sent, drop)
        for packet in stream.encode(None):
            sent = _send(output, packet, sent, drop)
    return path


def _send(output, packet, sent: int, drop) -> int:
    kept = packet if drop is None else drop(packet, sent)
    if kept is not None:
        output.mux(kept)
    return sent + 1


def tone(
    path: Path,
    *,
    rate: int = 16000,
    channels: int = 1,
    seconds: float = 1.0,
    codec: str = "pcm_s16le",
    samples: np.ndarray | None = None,
    container: str | None = None,
) -> Path:
    """A sound file; without ``samples`` (K, S) float32, a chirp that has one place to match."""
    layouts = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
    if samples is None:
        samples = np.tile(chirp(rate, seconds), (channels, 1))
    channels = samples.shape[0]
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.codec_context.layout = layouts[channels]
        for at in range(0, samples.shape[1], 1000):
            piece = samples[:, at : at + 1000].T.reshape(1, -1).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(piece, format="flt", layout=layouts[channels])
            frame.sample_rate, frame.pts = rate, at
            frame.time_base = Fraction(1, rate)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def chirp(rate: int, seconds: float) -> np.ndarray:
    """``(S,)`` float32: a rising tone with noise bursts."""
    time = np.arange(round(rate * seconds)) / rate
    wave = 0.4 * np.sin(2 * np.pi * (200 + 300 * time) * time)
    burst = np.random.default_rng(3).normal(0, 0.2, len(time)) * (np.sin(9 * time) > 0)
    return np.clip(wave + burst, -1, 1).astype(np.float32)


class Tools:
    """What the tests of media share."""

    picture = staticmethod(picture)
    number = staticmethod(number)
    make = staticmethod(make)
    tone = staticmethod(tone)
    chirp = staticmethod(chirp)

    @staticmethod
    def numbers(frames) -> list[int]:
        return [number(frame.luma(4096)) for frame in frames]


@pytest.fixture
def media() -> type[Tools]:
    return Tools
