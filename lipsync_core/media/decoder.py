"""Opening a file: what it is, and its pictures one after the other, mended and upright."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from ..errors import MediaError
from . import pixels

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
DECODER_THREADS = 8
"""More threads only add pictures in flight, that is memory."""

_IMAGE_FORMATS = {"image2", "gif", "apng", "webp", "webp_anim", "ico", "jpegxl_anim"}
_IMAGE_SUFFIXES = {".avif", ".heic", ".heif"}
_PHOTO_SUFFIXES = {
    ".bmp",
    ".exr",
    ".gif",
    ".jpeg",
    ".jpg",
    ".jxl",
    ".png",
    ".psd",
    ".tga",
    ".tif",
    ".tiff",
    ".webp",
}
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
    options = {}
    if file.suffix.lower() in _PHOTO_SUFFIXES:
        # libav decodes these to learn their size, so they are held to the limit even there. Not
        # for all files: PyAV before 14 crashes if MPEG programme streams are given options.
        options["max_pixels"] = str(LARGEST_AREA)
    if "%" in file.name:
        options["pattern_type"] = "none"
    # Titles that are not UTF-8: from 19 on PyAV keeps their bytes, before it refused the file.
    lenient: Any = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
    try:
        # Without the protocol a name with a colon or "http:" in it would be taken for an address.
        container = av.open(f"file:{file}", mode="r", options=options, **lenient)
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


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    for stream in container.streams.video:
        if not _is_cover(stream):
            break
    else:
        kinds = sorted({stream.type for stream in container.streams})
        found = f"only {' and '.join(kinds)}" if kinds else "nothing"
        raise MediaError(f"{path} holds no video stream ({found}); give a video or a picture")
    context = stream.codec_context
    if context is None:
        raise MediaError(f"{path}: no decoder for its video stream in this build of PyAV")
    return stream


def _is_cover(stream: VideoStream) -> bool:
    """Whether this is the picture on the cover of a piece of music."""
    attached_pic = 0x0400
    # A number in some versions, flags that are none in others.
    return bool(getattr(stream.disposition, "value", stream.disposition) & attached_pic)


def _check_size(path: Path, width: int, height: int) -> None:
    if width <= 0 or height <= 0:
        raise MediaError(f"{path}: its pictures have no size that can be read; it may be damaged")
    if max(width, height) > LARGEST_SIDE or width * height > LARGEST_AREA:
        raise MediaError(
            f"{path}: pictures of {width}x{height} are too large; at most {LARGEST_SIDE} a side "
            f"and {LARGEST_AREA // 1_000_000} megapixels can be read"
        )


def _orientation(video: av.VideoFrame) -> tuple[int, bool]:
    """Clockwise quarter turns, and whether the picture is mirrored first, of a moving clip."""
    matrix = _side_data(video, "DISPLAYMATRIX")
    if matrix is None or len(matrix) < 36:
        # Counterclockwise, if this PyAV knows it at all.
        return -round(getattr(video, "rotation", 0) / 90) % 4, False
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


def _exif_orientation(path: Path) -> tuple[int, bool]:
    """The same for a photo, from the EXIF block of a JPEG, PNG, WebP or TIFF file.

    Read here because libav hands it on differently from version to version.
    """
    with path.open("rb") as file:
        data = file.read(1 << 18)
    starts = [data.find(marker) for marker in (b"Exif\0\0", b"eXIf", b"EXIF")]
    begins = [at + (6 if data[at : at + 6] == b"Exif\0\0" else 4) for at in starts if at >= 0]
    # In WebP the length of the block stands between its name and its content.
    for at in [0, *begins, *(begin + 4 for begin in begins)]:
        order: Literal["little", "big"] = "little" if data[at : at + 2] == b"II" else "big"
        if data[at : at + 4] not in (b"II*\0", b"MM\0*"):
            continue
        table = at + int.from_bytes(data[at + 4 : at + 8], order)
        for entry in range(int.from_bytes(data[table : table + 2], order)):
            row = data[table + 2 + 12 * entry :][:12]
            if int.from_bytes(row[:2], order) == 0x0112:
                return _ORIENTATION.get(int.from_bytes(row[8:10], order), (0, False))
    return 0, False


def _side_data(video: av.VideoFrame, name: str) -> bytes | None:
    try:
        # By number: over what one iterates, the data or their kinds, depends on PyAV's version.
        held: Any = video.side_data  # type: ignore[attr-defined]
        found = [held[index] for index in range(len(held))]
    except ValueError:
        # PyAV stumbles over kinds that its libav knows and it does not.
        return None
    for data in found:
        if getattr(data.type, "name", str(data.type)) == name:
            return bytes(data)
    return None


_DAMAGED = "%s has damaged pictures (%s), which are left out"


@dataclass
class Decoded:
    """A picture as the decoder gave it."""

    video: av.VideoFrame
    tick: int
    ticks: int | None
    """Time stamp and duration in the stream's time base, the latter if the file tells."""


class Session:
    """One open file: decodes forwards, and seeks to key pictures."""

    def __init__(
        self, path: Path, clip: Clip | None = None, stored: str = "", *, whole: bool = False
    ) -> None:
        """``whole``: of what is damaged, nothing is given until the next key picture."""
        import av

        self.path = path
        self.whole = whole
        self.damaged = 0
        """Packets and pictures so far that the decoder found damaged."""
        self.regular = True
        """Every picture so far had a time stamp of its own that rose."""
        self.stored = stored
        """Pixel format that pictures are converted to before they are turned upright."""
        self._strict = whole
        """The decoder is the one that notices most; given up where it refuses the very first picture."""
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
            self.stream: Any = _video_stream(self.container, self.path)
            context = self.stream.codec_context
            _check_size(self.path, context.width, context.height)
            self._use(context, own=False)
            # libav's own decoder leaves alpha out, and shows damage as if it were a picture.
            if context.name == "vp9" and (
                self._strict or self.stream.metadata.get("alpha_mode") == "1"
            ):
                with suppress(av.error.FFmpegError, ValueError):
                    self._use(av.CodecContext.create("libvpx-vp9", "r"), own=True)
            elif context.name == "hevc" and self._strict:
                context.options = {"err_detect": "explode"}
            if not self.stream.time_base:
                raise MediaError(f"{self.path}: its video stream has no time base")
            # PyAV 19 has a rational number of its own, which rounds when two of them meet.
            self.time_base = Fraction(self.stream.time_base)
            self.rate = _rate(self.stream)
        except BaseException:
            self.container.close()
            raise
        self._fresh = True
        self._last: int | None = None
        self._shift = 0

    def _use(self, context: Any, *, own: bool) -> None:
        """Decodes with ``context`` from now on; ``own``: it is not the container's."""
        import av

        self._context: Any = context
        self._own = own
        with suppress(av.error.FFmpegError, RuntimeError, AttributeError):
            context.thread_count = min(os.cpu_count() or 1, DECODER_THREADS)
            context.thread_type = "AUTO"

    def _relaxed(self) -> bool:
        """Opens the file again for the usual decoder; whether that changes anything.

        A strict one may refuse every picture for an odd message beside them.
        """
        if not self._strict or self.stream.codec_context.name not in ("vp9", "hevc"):
            return False
        self._strict = False
        self.rewind()
        return True

    def close(self) -> None:
        self.container.close()
        # A decoder keeps its last pictures, 60 MB of 1080p, for as long as somebody names it.
        self.stream = self._context = self._reformatter = None

    def rewind(self) -> None:
        """Back to the very beginning, whatever the container thinks of seeking."""
        if not self._fresh:
            self.close()
            self._open()

    def warn_once(self, message: str, *values: object) -> None:
        if message not in self._warned:
            self._warned.add(message)
            log.warning(message, *values)

    def decode(self) -> Iterator[Decoded]:
        """Pictures from where the file stands to its end; damaged packets are left out."""
        import av

        refusing, self._fresh = self._fresh, False
        failures = 0
        waiting = False
        doubted = False
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
            # Something between this packet and the one before is lost: it is the one or the other.
            torn, doubted = packet.is_corrupt or doubted, packet.is_corrupt
            if self.whole and torn and not flush:
                self.damaged += packet.is_corrupt
                self.warn_once(_DAMAGED, self.path, "packets are missing")
                waiting = self._begin_anew()
                continue
            if waiting and not flush and not packet.is_keyframe:
                continue
            waiting = False
            try:
                videos = self._context.decode(None if flush else packet)
            except EOFError:
                return
            except av.error.FFmpegError as error:
                if refusing and self._relaxed():
                    packets = self.container.demux(self.stream)
                    continue
                self.warn_once(_DAMAGED, self.path, _reason(error))
                self.damaged += 1
                waiting = self._begin_anew()
                continue
            for video in videos:
                refusing = False
                if video.is_corrupt:
                    # a decoder fills what it cannot read from elsewhere, and later ones build on it
                    self.damaged += 1
                    if waiting := self._begin_anew():
                        break
                if self._own:
                    video.time_base = self.time_base
                ticks = getattr(video, "duration", None) or None
                yield Decoded(video, self._tick(video), ticks)
            if flush:
                return

    def _begin_anew(self) -> bool:
        """After damage: whether pictures are left out up to the next key picture."""
        if self.whole:
            self._context.flush_buffers()
        return self.whole

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

    def seek(self, tick: int) -> Iterator[Decoded] | None:
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

    def _from_key(self, tick: int) -> Iterator[Decoded] | None:
        decoded = self.decode()
        for first in decoded:
            # Pictures before the first key one may refer to what was not decoded.
            if not first.video.key_frame:
                if first.tick >= tick:
                    return None
                continue
            if first.tick > tick or not self.regular:
                return None
            return chain(first, decoded)
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
        quarters, mirrored = _exif_orientation(self.path) if is_still else _orientation(video)
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


def chain(first: T, rest: Iterator[T]) -> Iterator[T]:
    yield first
    yield from rest
