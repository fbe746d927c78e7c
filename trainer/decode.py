"""Some pictures of a small file, decoded on the caller's own thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from lipsync_core.media import pixels

if TYPE_CHECKING:
    import av
    from av.container import InputContainer


def pictures(file: BinaryIO, wanted: np.ndarray, size: int) -> np.ndarray:
    """``(T, size, size, 3)`` uint8 RGB of the frames ``wanted``, in their order.

    ``ValueError`` or ``OSError`` where the file has no such frame or cannot be read. Begins at the
    key picture before the first of them and ends at the last.
    """
    import av

    found: dict[int, np.ndarray] = {}
    missing = set(wanted.tolist())
    try:
        with av.open(file, mode="r") as container:
            for number, frame in _numbered(container, first=int(wanted.min())):
                if number in missing:
                    found[number] = _shown(frame, size)
                    missing.discard(number)
                    if not missing:
                        break
    except av.error.FFmpegError as error:
        raise ValueError(str(error)) from error
    if missing:
        raise ValueError(f"frame {min(missing)} is not there")
    return np.stack([found[int(number)] for number in wanted])


def _numbered(container: InputContainer, *, first: int) -> Iterator[tuple[int, av.VideoFrame]]:
    """Frames with their numbers, from ``first`` or somewhere before it."""
    if not container.streams.video:
        raise ValueError("no pictures in it")
    stream = container.streams.video[0]
    # Loading runs in many processes already.
    stream.codec_context.thread_count = 1
    rate, base = stream.average_rate, stream.time_base
    if not rate or not base:
        raise ValueError("its pictures have no times")
    begin = stream.start_time or 0
    if first:
        container.seek(begin + int(first / rate / base), stream=stream, backward=True)
    for frame in container.decode(stream):
        if frame.pts is None:
            raise ValueError("a picture without a time")
        yield round((frame.pts - begin) * base * rate), frame


def _shown(frame: av.VideoFrame, size: int) -> np.ndarray:
    """``(size, size, 3)`` RGB: the mean of the pixels under each when smaller, Lanczos when larger."""
    import cv2

    name = pixels.native_format(frame.format)
    video: Any = frame if frame.format.name == name else frame.reformat(format=name)
    lines = min(frame.width, frame.height)
    # The same matrices by which inference reads a film.
    view = pixels.look(name, int(frame.colorspace), int(frame.color_range), lines, False)
    if (frame.width, frame.height) == (size, size):
        return pixels.region(video, view, 0, 0, size, size)
    if size < lines:
        return pixels.reduced(video, view, (size, size))
    whole = pixels.region(video, view, 0, 0, frame.width, frame.height)
    return cv2.resize(whole, (size, size), interpolation=cv2.INTER_LANCZOS4)
