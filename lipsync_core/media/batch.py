"""Pictures and sound in memory, and the way from there into files that the rest of the suite reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MediaError
from ..types import Audio
from . import length, pixels, timing
from .audio import LAYOUTS
from .decoder import open_media
from .frame import Frame
from .reader import Clip, Reader

if TYPE_CHECKING:
    from ..types import LengthPolicy, Progress

BT709 = 1
LIMITED = 1


def frame(rgb: np.ndarray, index: int, rate: Fraction) -> Frame:
    """``rgb`` ``(H, W, 3)`` uint8 as the ``index``-th frame of a clip of ``rate`` frames per second."""
    import av

    video = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    look = pixels.look("rgb24", 0, 0, rgb.shape[0], True)
    return Frame(video, look, index=index, time=index / rate, duration=1 / rate)


def first_picture(path: Path) -> np.ndarray:
    """The first picture of a clip or still, ``(H, W, 3)`` uint8."""
    frames = Reader(path).frames()
    try:
        return next(frames).rgb()
    except StopIteration as error:
        raise MediaError(f"{path} holds no picture that can be read") from error


def save(
    pictures: Sequence[np.ndarray], stem: Path, rate: Fraction, progress: Progress | None = None
) -> Path:
    """Writes ``(H, W, 3)`` uint8 pictures beside ``stem`` and returns the file.

    One picture becomes a PNG; more become a video that loses nothing but what 4:2:0 chroma costs
    (4:4:4 where a side is odd), so that a dub of it plays wherever H.264 plays.
    """
    if not len(pictures):
        raise MediaError("there is no picture to write; check where they come from")
    if len(pictures) == 1:
        return _still(pictures[0], stem.with_suffix(".png"))
    import av

    path = stem.with_suffix(".mp4")
    height, width = pictures[0].shape[:2]
    name = "yuv420p" if width % 2 == 0 and height % 2 == 0 else "yuv444p"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, name
        stream.options = {"qp": "0", "preset": "ultrafast"}
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED
        for index in range(len(pictures)):
            video = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(pictures[index]), format="rgb24"
            )
            video = video.reformat(format=name, dst_colorspace=BT709, dst_color_range=LIMITED)
            video.pts = None
            container.mux(stream.encode(video))
            if progress:
                progress(index + 1, len(pictures), None)
        container.mux(stream.encode(None))
    return path


def encode(
    pictures: Sequence[np.ndarray],
    path: Path,
    rate: Fraction,
    *,
    sound: Audio | None = None,
    metadata: Mapping[str, str] | None = None,
    progress: Progress,
) -> Path:
    """Writes pictures, each ``(H, W, 3)`` uint8, and the sound as a finished video; returns ``path``.

    The sound is cut or padded to the length of the picture.
    """
    from .audio import MemoryVoice
    from .writer import Writer

    height, width = pictures[0].shape[:2]
    count = len(pictures)
    clip = _clip(path.with_name("frames"), width, height, count, rate)
    with Writer(
        path,
        clip=clip,
        voice=None if sound is None else MemoryVoice(sound),
        audio_duration=None if sound is None else count / rate,
        metadata=metadata,
    ) as writer:
        for index in range(count):
            picture = frame(pictures[index], index, rate)
            writer.write(picture, picture.time, picture.duration)
            progress(index + 1, count, None)
    return path


def copy(
    source: Path, path: Path, *, metadata: Mapping[str, str] | None = None, progress: Progress
) -> Path:
    """Writes the pictures, sounds and subtitles of ``source`` into ``path`` as they are.

    ``metadata`` is added to that of the source.
    """
    import av

    # mp4 keeps names of its own choosing otherwise, and drops the rest.
    options = {"movflags": "use_metadata_tags"} if path.suffix in (".mp4", ".mov") else {}
    with open_media(source) as given, av.open(str(path), "w", options=options) as out:
        out.metadata.update({**given.metadata, **(metadata or {})})
        streams: dict[int, Any] = {
            stream.index: _like(out, stream)
            for stream in given.streams
            if stream.type in ("video", "audio", "subtitle")
        }
        total = float(given.duration or 0) / av.time_base
        for packet in given.demux(*(given.streams[index] for index in streams)):
            if packet.dts is None:
                continue
            seconds = float(packet.dts * packet.time_base)
            progress(round(100 * min(max(seconds / total, 0), 1)) if total else 0, 100, None)
            packet.stream = streams[packet.stream.index]
            out.mux(packet)
    progress(100, 100, None)
    return path


def _like(container: Any, stream: Any) -> Any:
    add = getattr(container, "add_stream_from_template", None)
    if add is None:
        return container.add_stream(template=stream)  # PyAV before 14
    try:
        # What is not decoded needs no encoder of its kind here.
        return add(stream, opaque=True)
    except TypeError:
        return add(stream)


def _clip(path: Path, width: int, height: int, count: int, rate: Fraction) -> Clip:
    """What a reader would say of pictures that lie in memory."""
    return Clip(
        path=path,
        width=width,
        height=height,
        frame_rate=rate,
        frame_count=count,
        duration=count / rate,
        time_base=1 / rate,
        sar=Fraction(1),
        rotation=0,
        mirrored=False,
        pixel_format="yuv420p",
        bits=8,
        colorspace=BT709,
        color_range=LIMITED,
        color_primaries=BT709,
        color_trc=BT709,
        field_order="progressive",
        has_alpha=False,
        has_audio=False,
        is_still=False,
        codec="h264",
        container="mp4",
    )


def _still(picture: np.ndarray, path: Path) -> Path:
    import cv2

    done, data = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    if not done:
        raise MediaError(
            f"a picture of {picture.shape[1]}x{picture.shape[0]} cannot be written as PNG"
        )
    # Not cv2.imwrite: it cannot open names outside the code page on Windows.
    path.write_bytes(data.tobytes())
    return path


def save_sound(audio: Audio, path: Path, heed: Callable[[], object] | None = None) -> Path:
    """Writes ``audio`` as a WAV of 32-bit floats, every channel and the rate kept; returns ``path``.

    ``heed`` is called for every second of it and may raise to leave; the file is then not complete.
    """
    import av

    samples = np.ascontiguousarray(audio.samples, np.float32)
    if not samples.size:
        raise MediaError("the sound is empty; check where it comes from")
    if len(samples) not in LAYOUTS:
        raise MediaError(f"sound with {len(samples)} channels cannot be written; mix it to stereo")
    layout = LAYOUTS[len(samples)]
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_f32le", rate=audio.rate, layout=layout)
        for start in range(0, samples.shape[1], audio.rate):
            block = np.ascontiguousarray(samples[:, start : start + audio.rate])
            part = av.AudioFrame.from_ndarray(block.T.reshape(1, -1), format="flt", layout=layout)
            part.sample_rate, part.pts = audio.rate, start
            container.mux(stream.encode(part))
            if heed is not None:
                heed()
        container.mux(stream.encode(None))
    return path


def cut_sound(audio: Audio, start: Fraction, duration: Fraction | None = None) -> Audio:
    """The sound from second ``start`` for ``duration`` seconds, or to its end."""
    end = audio.duration if duration is None else start + duration
    first, last = timing.span(start, min(end, audio.duration), audio.rate)
    if first >= last:
        raise MediaError(
            f"the sound is {float(audio.duration):.2f} s long and none of it lies between "
            f"{float(start):g} s and {float(end):g} s; choose an earlier start"
        )
    return Audio(samples=audio.samples[:, first:last], rate=audio.rate)


def match(
    frame_count: int, audio: Audio, rate: Fraction, policy: LengthPolicy = "auto"
) -> tuple[list[int], Audio]:
    """Frames and voice made equally long: which frame is shown when, and the voice cut or padded.

    ``rate``: frames per second. A single frame is held for as long as the voice lasts.
    """
    ticks = length.constant_edges(frame_count, rate.denominator)
    base = Fraction(1, rate.numerator)
    plan = length.plan(ticks, base, audio.duration, policy, is_still=frame_count == 1)
    wanted = timing.sample_count(plan.audio_duration, audio.rate)
    have = audio.samples.shape[1]
    samples = audio.samples[:, :wanted]
    if wanted > have:
        samples = np.pad(samples, ((0, 0), (0, wanted - have)))
    return list(plan.sources()), Audio(samples=samples, rate=audio.rate)
