"""Reading pictures: any file PyAV opens becomes upright frames with exact times."""

from __future__ import annotations

import array
import logging
import math
import os
import queue
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from ..errors import MediaError
from . import pixels
from .frame import Frame

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

log = logging.getLogger("lipsync.media")

STILL_RATE = Fraction(25)
"""Frames per second given to a still."""
LARGEST_SIDE = 16384
LARGEST_AREA = 134_217_728
"""Pictures beyond these are refused: a damaged header must not claim all memory."""
CACHE_BYTES = 200_000_000
"""Decoded pictures kept while a clip is read backwards."""
DECODER_THREADS = 8
"""More threads only add pictures in flight, that is memory."""
PREFETCH_DEPTH = 8

_IMAGE_FORMATS = {"image2", "gif", "apng", "webp", "webp_anim", "ico", "jpegxl_anim"}
_IMAGE_SUFFIXES = {".avif", ".heic", ".heif"}
_NOT_MEDIA = {"tty", "concat", "lavfi", "hls", "dash", "sdp", "rtsp", "ffmetadata"}
"""Demuxers that draw text files as pictures, or open other files that a play list names."""
# EXIF orientation to clockwise quarter turns after mirroring left to right.
_ORIENTATION = {
    1: (0, False),
    2: (0, True),
    3: (2, False),
    4: (2, True),
    5: (3, True),
    6: (1, False),
    7: (1, True),
    8: (3, False),
}

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What is known of a clip before it is read through."""

    path: Path
    width: int
    height: int
    """Stored pixels of the upright picture."""
    frame_rate: Fraction
    """Average frames per second."""
    frame_count: int
    """Estimate; exact for a still. Only reading tells."""
    duration: Fraction
    """Seconds, estimate."""
    time_base: Fraction
    """Seconds per tick of the file's time stamps."""
    sar: Fraction
    """Width of a pixel divided by its height, upright."""
    rotation: int
    """Degrees clockwise by which the stored picture was turned: 0, 90, 180 or 270."""
    mirrored: bool
    """The stored picture was mirrored before it was turned."""
    pixel_format: str
    """Format of the frames as read."""
    bits: int
    """Bits per sample."""
    colorspace: int
    color_range: int
    color_primaries: int
    color_trc: int
    """Numbers of ITU-T H.273 (range: 1 limited, 2 full, 0 unknown)."""
    field_order: Literal["progressive", "top", "bottom"]
    """Which field comes first in an interlaced clip. Fields are never mixed here."""
    has_alpha: bool
    has_audio: bool
    is_still: bool
    codec: str
    container: str
    metadata: dict[str, str] = field(default_factory=dict)
    mastering: bytes | None = field(default=None, repr=False)
    light: bytes | None = field(default=None, repr=False)
    """HDR side data as libav lays it out: mastering display, content light level."""

    @property
    def interlaced(self) -> bool:
        return self.field_order != "progressive"

    @property
    def is_hdr(self) -> bool:
        """PQ or HLG."""
        return self.color_trc in (16, 18)

    @property
    def look(self) -> pixels.Look:
        """Layout, colour matrix and range of the frames."""
        # A portrait clip of 608x1080 is HD as much as one of 1080x608.
        lines = min(self.width, self.height)
        return pixels.look(
            self.pixel_format, self.colorspace, self.color_range, lines, self.is_still
        )


def check_file(path: str | os.PathLike[str]) -> Path:
    """The path of a file that can be read and is not empty; else a ``MediaError``."""
    file = Path(path)
    if not file.exists():
        raise MediaError(f"{file}: no such file; check the path")
    if file.is_dir():
        raise MediaError(f"{file} is a folder; give a file")
    try:
        with file.open("rb") as stream:
            empty = not stream.read(1)
    except OSError as error:
        raise MediaError(f"{file} cannot be read: {error.strerror or error}") from error
    if empty:
        raise MediaError(f"{file} is empty; give a file with content")
    return file


def open_media(path: str | os.PathLike[str]) -> InputContainer:
    """Opens a local media file; every way in which that can fail is one line of ``MediaError``."""
    import av

    file = check_file(path)
    # A codec that allocates before we see the size is held to the same limit.
    options = {"max_pixels": str(LARGEST_AREA)}
    if "%" in file.name:
        options["pattern_type"] = "none"
    try:
        # Without the protocol a name with a colon or "http:" in it would be taken for an address.
        container = av.open(f"file:{file}", mode="r", options=options, metadata_errors="replace")
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise MediaError(
            f"{file} is not a media file that can be read ({_reason(error)}); "
            "it may be damaged, incomplete or of another kind than its name says"
        ) from error
    if set(container.format.name.split(",")) & _NOT_MEDIA:
        name = container.format.name
        container.close()
        raise MediaError(f"{file} is a text or play list file ({name}), not a media file")
    return container


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


def probe(path: str | os.PathLike[str]) -> Clip:
    """Looks at the header and the first pictures of a clip.

    Raises ``MediaError`` if there is no picture to be had.
    """
    session = _Session(Path(path))
    try:
        return session.clip
    finally:
        session.close()


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    for stream in container.streams.video:
        disposition = int(getattr(stream, "disposition", 0) or 0)
        attached = 0x0400
        if not disposition & attached:
            break
    else:
        kinds = sorted({stream.type for stream in container.streams})
        found = f"only {' and '.join(kinds)}" if kinds else "nothing"
        raise MediaError(f"{path} holds no video stream ({found}); give a video or a picture")
    context = stream.codec_context
    if context is None:
        raise MediaError(f"{path}: no decoder for its video stream in this build of PyAV")
    return stream


def _check_size(path: Path, width: int, height: int) -> None:
    if width <= 0 or height <= 0:
        raise MediaError(f"{path}: its pictures have no size that can be read; it may be damaged")
    if max(width, height) > LARGEST_SIDE or width * height > LARGEST_AREA:
        raise MediaError(
            f"{path}: pictures of {width}x{height} are too large; at most {LARGEST_SIDE} a side "
            f"and {LARGEST_AREA // 1_000_000} megapixels can be read"
        )


def _orientation(video: av.VideoFrame) -> tuple[int, bool]:
    """Clockwise quarter turns, and whether the picture is mirrored first."""
    matrix = _side_data(video, "DISPLAYMATRIX")
    if matrix is not None and len(matrix) >= 36:
        a, b, _, c, d = np.frombuffer(matrix[:36], dtype="<i4")[:5].astype(float)
        if a == b == c == d == 0:
            return 0, False
        mirrored = a * d - b * c < 0
        angle = math.degrees(math.atan2(-b, -a) if mirrored else math.atan2(b, a))
        quarters = round(angle / 90)
        if abs(angle - 90 * quarters) > 1:
            log.warning("the clip asks to be turned by %.0f degrees, which is left out", angle)
            return 0, False
        return quarters % 4, mirrored
    with suppress(AttributeError, ValueError):
        return _ORIENTATION.get(int(video.metadata.get("Orientation", "1")), (0, False))
    return 0, False


def _side_data(video: av.VideoFrame, name: str) -> bytes | None:
    for data in video.side_data:  # type: ignore[attr-defined]
        if getattr(data.type, "name", str(data.type)) == name:
            return bytes(data)
    return None


@dataclass
class _Decoded:
    """A picture as the decoder gave it."""

    video: av.VideoFrame
    tick: int
    ticks: int | None
    """Time stamp and duration in the stream's time base, the latter if the file tells."""


class _Session:
    """One open file: decodes forwards, and seeks to key pictures."""

    def __init__(self, path: Path, clip: Clip | None = None, stored: str = "") -> None:
        import av

        self.path = path
        self.regular = True
        """Every picture so far had a time stamp of its own that rose."""
        self.stored = stored
        """Pixel format that pictures are converted to before they are turned upright."""
        self._warned: set[str] = set()
        self._reformatter: Any = None
        self._open()
        try:
            self.clip = clip if clip is not None else self._look_at_first()
        except av.error.FFmpegError as error:
            self.close()
            raise MediaError(f"{path} cannot be decoded ({_reason(error)})") from error
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        import av

        self.container = open_media(self.path)
        try:
            self.stream = _video_stream(self.container, self.path)
            context = self.stream.codec_context
            _check_size(self.path, context.width, context.height)
            self._context: Any = context
            self._own = False
            if context.name == "vp9" and self.stream.metadata.get("alpha_mode") == "1":
                # libav's own decoder leaves alpha out.
                with suppress(av.error.FFmpegError, ValueError):
                    self._context = av.CodecContext.create("libvpx-vp9", "r")
                    self._own = True
            with suppress(av.error.FFmpegError, RuntimeError, AttributeError):
                self._context.thread_count = min(os.cpu_count() or 1, DECODER_THREADS)
                self._context.thread_type = "AUTO"
            if self.stream.time_base is None:
                raise MediaError(f"{self.path}: its video stream has no time base")
            self.time_base: Fraction = self.stream.time_base
            self.rate = _rate(self.stream)
        except BaseException:
            self.container.close()
            raise
        self._fresh = True
        self._last: int | None = None
        self._shift = 0

    def close(self) -> None:
        self.container.close()

    def rewind(self) -> None:
        """Back to the very beginning, whatever the container thinks of seeking."""
        if not self._fresh:
            self.close()
            self._open()

    def warn_once(self, message: str, *values: object) -> None:
        if message not in self._warned:
            self._warned.add(message)
            log.warning(message, *values)

    def decode(self) -> Iterator[_Decoded]:
        """Pictures from where the file stands to its end; damaged packets are left out."""
        import av

        self._fresh = False
        failures = 0
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.FFmpegError as error:
                self.warn_once(
                    "%s is damaged (%s); what can be read of it is used", self.path, _reason(error)
                )
                failures += 1
                if failures > 16:
                    return
                packets = self.container.demux(self.stream)
                continue
            flush = packet.size == 0 and packet.dts is None
            try:
                videos = self._context.decode(None if flush else packet)
            except EOFError:
                return
            except av.error.FFmpegError as error:
                self.warn_once(
                    "%s has damaged pictures (%s), which are left out", self.path, _reason(error)
                )
                continue
            for video in videos:
                if self._own:
                    video.time_base = self.time_base
                ticks = getattr(video, "duration", None) or None
                yield _Decoded(video, self._tick(video), ticks)
            if flush:
                return

    def _tick(self, video: av.VideoFrame) -> int:
        """The picture's time stamp, made up where it is missing and made to rise where it is not."""
        step = max(round(1 / (self.rate * self.time_base)), 1)
        tick = video.pts if video.pts is not None else video.dts
        last = self._last
        if tick is None:
            self.regular = False
            tick = 0 if last is None else last + step
        else:
            tick += self._shift
            if last is not None and tick <= last:
                self.regular = False
                self.warn_once("%s has time stamps that go back; they are mended", self.path)
                if last - tick > 1 / self.time_base:
                    self._shift += last + step - tick
                    tick = last + step
                else:
                    tick = last + 1
        self._last = tick
        return tick

    def seek(self, tick: int) -> Iterator[_Decoded] | None:
        """Pictures from a key picture at or before ``tick``; None if the file cannot seek there."""
        import av

        back = 0
        while True:
            self._last, self._shift = None, 0
            try:
                self.container.seek(tick - back, stream=self.stream, backward=True, any_frame=False)
                if self._own:
                    self._context.flush_buffers()
            except (av.error.FFmpegError, OSError, AttributeError):
                return None
            found = self._from_key(tick)
            if found is not None:
                return found
            # Landed too late: leading pictures of an open group were asked for. Further back.
            back = 4 * back if back else max(int(1 / self.time_base), 1)
            if back * self.time_base > 64:
                return None

    def _from_key(self, tick: int) -> Iterator[_Decoded] | None:
        decoded = self.decode()
        for first in decoded:
            # Pictures before the first key one may refer to what was not decoded.
            if not first.video.key_frame:
                if first.tick >= tick:
                    return None
                continue
            if first.tick > tick or not self.regular:
                return None
            return _chain(first, decoded)
        return None

    def upright(self, video: av.VideoFrame) -> av.VideoFrame:
        """The picture in the clip's format, size and orientation."""
        clip = self.clip
        quarters = clip.rotation // 90
        width, height = clip.width, clip.height
        if quarters % 2:
            width, height = height, width
        name = self.stored
        kind = pixels.layout(name)
        assert kind is not None
        if (video.width, video.height) != (width, height):
            self.warn_once("%s changes its picture size; all is scaled to the first", self.path)
        flipped = any(plane.line_size < 0 for plane in video.planes)
        if flipped and video.format.name == name:
            # Raw pictures stored bottom up: numpy cannot look at them, libav can turn them.
            video = self._reformat(video, width, height, "gbrp" if kind.is_rgb else "yuv444p")
        if (video.width, video.height, video.format.name) != (width, height, name):
            video = self._reformat(video, width, height, name)
        if quarters or clip.mirrored:
            video = pixels.turned(video, kind, quarters, clip.mirrored)
        return video

    def _reformat(self, video: av.VideoFrame, width: int, height: int, name: str) -> av.VideoFrame:
        from av.video.reformatter import VideoReformatter

        if self._reformatter is None:
            self._reformatter = VideoReformatter()
        fresh = self._reformatter.reformat(video, width, height, name)
        pixels.copy_tags(video, fresh)
        return fresh

    def _look_at_first(self) -> Clip:
        stream, container = self.stream, self.container
        decoded = self.decode()
        first = next(decoded, None)
        if first is None:
            raise MediaError(
                f"{self.path} has a video stream but not one picture in it can be decoded; "
                "it may be damaged or incomplete"
            )
        video = first.video
        _check_size(self.path, video.width, video.height)
        names = set(container.format.name.split(","))
        image = bool(
            names & _IMAGE_FORMATS
            or container.format.name.endswith("_pipe")
            or self.path.suffix.lower() in _IMAGE_SUFFIXES
        )
        is_still = image and next(decoded, None) is None
        quarters, mirrored = _orientation(video)
        stored = pixels.native_format(video.format)
        kind = pixels.layout(stored)
        assert kind is not None
        if quarters % 2 and kind.kind == "semi" and kind.log2_x != kind.log2_y:
            stored = "yuv422p" if kind.bits == 8 else "yuv422p10le"
            kind = pixels.layout(stored)
            assert kind is not None
        self.stored = stored
        width, height = video.width, video.height
        if quarters % 2:
            width, height = height, width
        rate = STILL_RATE if is_still else self.rate
        duration = 1 / rate if is_still else self._duration(rate)
        count = 1 if is_still else max(stream.frames or round(duration * rate), 1)
        context = stream.codec_context
        sar = stream.sample_aspect_ratio or getattr(context, "sample_aspect_ratio", None)
        sar = Fraction(sar) if sar else Fraction(1)
        if sar <= 0 or not Fraction(1, 50) < sar < 50:
            sar = Fraction(1)
        order: Literal["progressive", "top", "bottom"] = "progressive"
        if video.interlaced_frame and not is_still:
            # 3 and 5 in libav's numbering: the bottom field is shown first.
            order = "bottom" if int(getattr(context, "field_order", 0) or 0) in (3, 4) else "top"
        metadata = {**dict(container.metadata), **_language(stream)}
        return Clip(
            path=self.path,
            width=width,
            height=height,
            frame_rate=rate,
            frame_count=count,
            duration=duration,
            time_base=1 / STILL_RATE if is_still else self.time_base,
            sar=1 / sar if quarters % 2 else sar,
            rotation=90 * quarters,
            mirrored=mirrored,
            pixel_format=pixels.turned_format(stored) if quarters % 2 else stored,
            bits=kind.bits,
            colorspace=int(getattr(video, "colorspace", 2)),
            color_range=int(getattr(video, "color_range", 0)),
            color_primaries=_tag(video, context, "color_primaries"),
            color_trc=_tag(video, context, "color_trc"),
            field_order=order,
            has_alpha=kind.alpha,
            has_audio=bool(container.streams.audio),
            is_still=is_still,
            codec=context.name,
            container=container.format.name,
            metadata=metadata,
            mastering=_side_data(video, "MASTERING_DISPLAY_METADATA"),
            light=_side_data(video, "CONTENT_LIGHT_LEVEL"),
        )

    def _duration(self, rate: Fraction) -> Fraction:
        stream = self.stream
        if stream.duration and stream.duration > 0:
            return stream.duration * self.time_base
        if self.container.duration and self.container.duration > 0:
            return Fraction(self.container.duration, 1_000_000)
        return max(stream.frames, 1) / rate


def _tag(video: av.VideoFrame, context: Any, name: str) -> int:
    """A colour tag of the picture, else of the stream; 2 is "unspecified"."""
    value = getattr(video, name, None)
    if value is None or int(value) == 2:
        value = getattr(context, name, None)
    return int(value) if value is not None else 2


def _language(stream: VideoStream) -> dict[str, str]:
    language = stream.metadata.get("language")
    return {"language": language} if language and language != "und" else {}


def _rate(stream: VideoStream) -> Fraction:
    """Average frames per second; 25 where the file does not say anything sensible."""
    for rate in (stream.average_rate, getattr(stream, "guessed_rate", None), stream.base_rate):
        if rate and 0 < rate <= 1000:
            return Fraction(rate)
    return STILL_RATE


def _chain(first: T, rest: Iterator[T]) -> Iterator[T]:
    yield first
    yield from rest


class Reader:
    """The pictures of one clip, in order or by number, in memory that does not depend on length.

    ``start`` and ``end`` are seconds from the clip's first frame: frames whose time is at least
    ``start`` and below ``end`` make up the clip, and are counted and timed from there.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        start: Fraction | None = None,
        end: Fraction | None = None,
    ) -> None:
        self.path = Path(path)
        if start is not None and start < 0:
            raise MediaError(f"the clip cannot start at {float(start)} s; give 0 or more")
        if end is not None and end <= (start or 0):
            raise MediaError(
                f"the clip would end at {float(end):g} s, not after its start at "
                f"{float(start or 0):g} s; give a later end"
            )
        self._start, self._end = start or Fraction(0), end
        session = _Session(self.path)
        self._stored = session.stored
        clip = session.clip
        session.close()
        if not clip.is_still and (start is not None or end is not None):
            stop = min(end, clip.duration) if end is not None else clip.duration
            length = max(stop - self._start, 1 / clip.frame_rate)
            count = max(round(length * clip.frame_rate), 1)
            clip = replace(clip, duration=length, frame_count=count)
        self.clip = clip
        self._origin: int | None = None
        """Tick of the file's very first picture."""
        self._first: int | None = None
        """Tick of the clip's first picture, which has time 0."""
        self._ticks: array.array[int] = array.array("q")
        """Ticks of the clip's pictures as far as they are known, without a hole."""
        self._keys: array.array[int] = array.array("q")
        """Numbers of those that can be decoded from."""
        self._complete = False
        self._last_ticks = 0
        """Duration of the last picture, once known."""
        self._can_seek = True
        self._look = clip.look

    @property
    def frame_count(self) -> int | None:
        """Exact number of frames, once the clip has been read to its end."""
        return len(self._ticks) if self._complete else None

    def edges(self) -> Sequence[int]:
        """When each frame begins and the last one ends, in ``clip.time_base`` from the first.

        Known after a first pass; without one, the clip is decoded for it. A ``range`` if the rate
        is constant.
        """
        if self.clip.is_still:
            return range(0, 2)
        if not self._complete:
            for _ in self.frames():
                pass
        first = self._ticks[0]
        edges = [tick - first for tick in self._ticks]
        edges.append(edges[-1] + self._last_ticks)
        step = edges[1]
        if all(edge == number * step for number, edge in enumerate(edges)):
            return range(0, edges[-1] + 1, step)
        return array.array("q", edges)

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def frames(self) -> Iterator[Frame]:
        """Every frame in presentation order."""
        session = self._open()
        try:
            for decoded, index, ticks in self._run(session, 0):
                yield self._frame(session, decoded, index, ticks)
        finally:
            session.close()

    def windows(self, size: int) -> Iterator[list[Frame]]:
        """Every frame, as lists of ``size`` consecutive ones; the last may be shorter."""
        window: list[Frame] = []
        for frame in self.frames():
            window.append(frame)
            if len(window) == size:
                yield window
                window = []
        if window:
            yield window

    def follow(self, schedule: Iterable[int]) -> Iterator[Frame]:
        """The frames with these numbers, which may repeat, jump, and run backwards.

        Forwards nothing is decoded twice. Backwards goes by stretches from one key picture on, of
        which at most ``CACHE_BYTES`` are kept.
        """
        session = self._open()
        cursor = _Cursor(self, session)
        try:
            for index in schedule:
                yield cursor.get(int(index))
        finally:
            cursor.session.close()

    def _open(self) -> _Session:
        return _Session(self.path, self.clip, self._stored)

    def _frame(self, session: _Session, decoded: _Decoded, index: int, ticks: int) -> Frame:
        assert self._first is not None
        video = session.upright(decoded.video)
        time = (decoded.tick - self._first) * session.time_base
        duration = ticks * session.time_base
        if self.clip.is_still:
            time, duration = Fraction(0), 1 / STILL_RATE
        return Frame(video, self._look, index=index, time=time, duration=duration)

    def _run(self, session: _Session, index: int) -> Iterator[tuple[_Decoded, int, int]]:
        """Pictures from number ``index`` on, with their numbers and durations in ticks.

        ``index`` is 0, or one whose tick is known; then the file is sought there, and the run
        begins at a key picture at or before it.
        """
        decoded: Iterator[_Decoded] | None = None
        if index and self._can_seek:
            decoded = session.seek(self._ticks[index])
            if decoded is None:
                self._can_seek = False
                log.debug("%s cannot be sought; it is decoded from the beginning", self.path)
        elif not index and self._first is not None and self._start and self._can_seek:
            decoded = session.seek(self._first)
        if decoded is None:
            session.rewind()
            decoded = session.decode()
            if self._start and self._first is None:
                decoded = self._skip_to_start(session, decoded)
        number: int | None = None
        held: _Decoded | None = None
        for picture in decoded:
            if self._origin is None:
                self._origin = picture.tick
            if self._first is None:
                if (picture.tick - self._origin) * session.time_base < self._start:
                    continue
                self._first = picture.tick
            if picture.tick < self._first:
                continue
            if held is not None:
                assert number is not None
                yield held, number, picture.tick - held.tick
                number += 1
            if self._ended(session, picture.tick):
                self._finish(number, held, picture.tick)
                if held is not None:
                    return
                break
            if not session.regular:
                self._can_seek = False
            if number is None:
                number = bisect_left(self._ticks, picture.tick)
                known = number < len(self._ticks)
                if (known and self._ticks[number] != picture.tick) or (index and not known):
                    # After seeking this file counts time differently.
                    self._can_seek = False
                    yield from self._run(session, index)
                    return
            self._note(number, picture)
            held = picture
        if held is None:
            if not self._ticks:
                raise MediaError(
                    f"{self.path} has no picture between {float(self._start):g} s and "
                    f"{'its end' if self._end is None else f'{float(self._end):g} s'}"
                )
            return
        assert number is not None
        step = max(round(1 / (self.clip.frame_rate * session.time_base)), 1)
        ticks = held.ticks or step
        self._finish(number + 1, held, held.tick + ticks)
        yield held, number, ticks

    def _skip_to_start(self, session: _Session, decoded: Iterator[_Decoded]) -> Iterator[_Decoded]:
        """Seeks near a late start instead of decoding up to it."""
        first = next(decoded, None)
        if first is None:
            return iter(())
        self._origin = first.tick
        target = first.tick + math.floor(self._start / session.time_base)
        if self._start > 5 and session.regular:
            sought = session.seek(target)
            if sought is not None:
                return sought
            session.rewind()
            return session.decode()
        return _chain(first, decoded)

    def _ended(self, session: _Session, tick: int) -> bool:
        if self._end is None:
            return False
        assert self._origin is not None
        return (tick - self._origin) * session.time_base >= self._end

    def _finish(self, count: int | None, held: _Decoded | None, until: int) -> None:
        if count is not None and held is not None and count == len(self._ticks):
            self._complete = True
            self._last_ticks = until - held.tick

    def _note(self, number: int, picture: _Decoded) -> None:
        if number == len(self._ticks):
            self._ticks.append(picture.tick)
            if picture.video.key_frame:
                self._keys.append(number)


class _Cursor:
    """Where ``follow`` stands in the file, and the stretch it keeps for going backwards."""

    def __init__(self, reader: Reader, session: _Session) -> None:
        self._reader = reader
        self.session = session
        self._run: Iterator[tuple[_Decoded, int, int]] | None = None
        self._next = 0
        self._kept: dict[int, Frame] = {}
        self._latest: Frame | None = None

    def get(self, index: int) -> Frame:
        frame = self._latest
        if frame is None or frame.index != index:
            frame = self._kept.get(index)
            if frame is None:
                frame = self._fetch(index)
            self._latest = frame
        return frame

    def _fetch(self, index: int) -> Frame:
        reader = self._reader
        if index < 0 or (reader.frame_count is not None and index >= reader.frame_count):
            raise MediaError(
                f"frame {index} of {reader.path} was asked for, but the clip has "
                f"{reader.frame_count if reader.frame_count is not None else 'none below 0'}"
            )
        backwards = self._run is not None and index < self._next
        if not backwards:
            self._kept.clear()
        lowest = index
        if self._run is None or backwards or self._worth_seeking(index):
            key = self._key(index)
            self._begin(key)
            if backwards:
                room = max(CACHE_BYTES // self._bytes(), 8)
                lowest = max(key, index - room + 1)
                self._kept.clear()
        return self._read_to(index, lowest)

    def _read_to(self, index: int, lowest: int) -> Frame:
        reader = self._reader
        assert self._run is not None
        for decoded, number, ticks in self._run:
            self._next = number + 1
            if number < lowest:
                continue
            frame = reader._frame(self.session, decoded, number, ticks)
            if number < index:
                self._kept[number] = frame
                continue
            if number > index:
                break
            if lowest < index:
                self._kept[number] = frame
            return frame
        raise MediaError(
            f"frame {index} of {reader.path} cannot be decoded; "
            f"the clip ends after {len(reader._ticks)} frames"
        )

    def _key(self, index: int) -> int:
        """The nearest number at or before ``index`` from which can be decoded."""
        reader = self._reader
        if not reader._can_seek:
            return 0
        place = bisect_right(reader._keys, index)
        return reader._keys[place - 1] if place else 0

    def _worth_seeking(self, index: int) -> bool:
        return index > self._next + 8 and self._key(index) > self._next

    def _begin(self, key: int) -> None:
        self._run = self._reader._run(self.session, key)
        self._next = key

    def _bytes(self) -> int:
        clip = self._reader.clip
        kind = pixels.layout(clip.pixel_format)
        assert kind is not None
        area = clip.width * clip.height * np.dtype(kind.dtype).itemsize
        return max(area * (4 if kind.is_rgb or kind.alpha else 3 if not kind.log2_x else 2), 1)


def prefetch(iterable: Iterable[T], depth: int = PREFETCH_DEPTH) -> Iterator[T]:
    """The same items, made ahead of time in a thread, at most ``depth`` of them waiting.

    An exception in the thread is raised here; leaving early stops the thread and closes what it
    was reading.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    done = object()
    items: queue.Queue[Any] = queue.Queue(maxsize=depth)
    stop = threading.Event()
    failure: list[BaseException] = []

    def put(item: Any) -> bool:
        while not stop.is_set():
            with suppress(queue.Full):
                items.put(item, timeout=0.1)
                return True
        return False

    def work() -> None:
        source = iter(iterable)
        try:
            for item in source:
                if not put(item):
                    break
        except BaseException as error:  # noqa: BLE001 - handed to the reader of the items
            failure.append(error)
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()
            put(done)

    thread = threading.Thread(target=work, name="lipsync-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item = items.get()
            if item is done:
                break
            yield item
    finally:
        stop.set()
        thread.join()
    if failure:
        raise failure[0]
