"""Some pictures of a small file, decoded on the caller's own thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from lipsync_core.media import pixels

if TYPE_CHECKING:
    import av
    from av.container import InputContainer


def pictures(file: BinaryIO, wanted: np.ndarray, size: int) -> np.ndarray:
    """``(T, size, size, 3)`` uint8 RGB of the frames ``wanted``, in their order.

    Only the stretches from one key picture to the next are decoded that hold any of them. ``OSError``
    or ``ValueError`` where the file cannot be read or has no such frame.
    """
    import av

    found: dict[int, np.ndarray] = {}
    missing = set(wanted.tolist())
    try:
        with av.open(file, mode="r") as container:
            for number, frame in _decoded(container, missing):
                found[number] = _shown(frame, size)
    except av.error.FFmpegError as error:
        raise ValueError(str(error)) from error
    if missing:
        raise ValueError(f"frame {min(missing)} is not there")
    return np.stack([found[int(number)] for number in wanted])


def _decoded(container: InputContainer, missing: set[int]) -> Iterator[tuple[int, av.VideoFrame]]:
    """Frames that are ``missing``, with their numbers, which are taken out of it."""
    if not container.streams.video:
        raise ValueError("no pictures in it")
    stream = container.streams.video[0]
    context: Any = stream.codec_context
    # Loading runs in many processes already.
    context.thread_count = 1
    rate, base = stream.average_rate, stream.time_base
    if not rate or not base:
        raise ValueError("its pictures have no times")
    begin = stream.start_time or 0

    def number(one: Any) -> int:
        return round((one.pts - begin) * base * rate)

    stretches = _stretches(container, stream)
    needed = [any(number(one) in missing for one in stretch) for stretch in stretches]
    for k in range(len(stretches) - 1, 0, -1):
        # Pictures shown before their own key picture lean on the stretch before as well.
        if needed[k] and min(one.pts for one in stretches[k]) < stretches[k][0].pts:
            needed[k - 1] = True
    for wanted, run in groupby(zip(needed, stretches, strict=True), key=lambda pair: pair[0]):
        if not wanted:
            continue
        packets = [one for _, stretch in run for one in stretch]
        here = {number(one) for one in packets} & missing
        for packet in [*packets, None]:
            for frame in context.decode(packet):
                if frame.pts is not None and (at := number(frame)) in missing:
                    missing.discard(at)
                    here.discard(at)
                    yield at, frame
            if not here:
                break
        context.flush_buffers()


def _stretches(container: InputContainer, stream: Any) -> list[list[Any]]:
    """Packets from each key picture to the next; of a file that is cut off, what is there."""
    import av

    stretches: list[list[Any]] = []
    with suppress(av.error.FFmpegError):
        for packet in container.demux(stream):
            if packet.pts is None or packet.is_corrupt:
                continue
            if packet.is_keyframe:
                stretches.append([])
            if stretches:
                stretches[-1].append(packet)
    return stretches


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
