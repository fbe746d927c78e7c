"""Writing the result: pictures encoded once, the voice beside them, the file complete or absent."""

from __future__ import annotations

import io
import logging
import os
import secrets
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import MediaError, SettingsError
from . import pixels, timing
from .audio import Sound, open_voice
from .decoder import Clip
from .frame import Frame
from .soundtrack import Soundtrack

if TYPE_CHECKING:
    import av

log = logging.getLogger("lipsync.media")

FORMATS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
}
"""File name ending to libav's name of the container."""
CRF = {"libx264": 18, "libx265": 18, "libvpx-vp9": 20, "libsvtav1": 20, "libaom-av1": 20}
"""Visually the same as the source; x264's own default of 23 is not."""
_WORST_CRF = {"libx264": 51, "libx265": 51, "libvpx-vp9": 63, "libsvtav1": 63, "libaom-av1": 63}
X264_PRESET, X264_PARAMS = "veryfast", "partitions=i8x8:me=dia"
"""Without smaller blocks and with the plainer search x264 takes three quarters of the preset's time, for 2 % fewer
to 2 % more bytes and up to .25 dB of SSIM less (five clips, from 524x524 to 1080x1920)."""
X264_QUICK_PRESET, X264_QUICK_PARAMS = "superfast", "mbtree=1:rc-lookahead=10"
"""For pictures that are drawn as fast as they are encoded: three quarters of that time again, for 4 to 18 % more
bytes and up to .5 dB less; 44 dB of PSNR and more are left where the source is not noise. Without the looking ahead,
which the preset leaves out, the bytes would be one and a half times to twice as many."""
X265_PRESET = "veryfast"
ENCODER_THREADS = 8
"""More threads only add pictures in flight, that is memory."""
FINEST_TICK = Fraction(1, 10_000)
"""Times are kept at least this exactly, also where the source counts in whole frames."""
SOUND_AHEAD = Fraction(1, 2)
"""Seconds by which sound is written before the pictures it belongs to."""
KEPT_METADATA = (
    "title",
    "artist",
    "album",
    "date",
    "genre",
    "copyright",
    "description",
    "comment",
    "show",
    "track",
)
_TELLS_SHAPE = ("libx264", "libx265", "mpeg2video", "mpeg4")
"""Encoders whose own stream says the shape of a pixel. PyAV cannot tell Matroska's writer."""
_BT709, _BT601 = 1, 5
_FLAGS_INTERLACED = "+ildct+ilme"


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How the pictures are encoded."""

    codec: str
    pixel_format: str
    width: int
    height: int
    full: bool
    colorspace: int
    color_primaries: int
    color_trc: int
    options: dict[str, str] = field(default_factory=dict)
    tag: str = ""
    """Four letters by which the container calls the codec; its own choice if empty."""


class Writer:
    """Encodes frames beside a voice into a new file.

    Use it in a ``with`` statement: the file appears under its name when that ends well, and
    nothing is left behind when it does not. ``voice`` is a path or an opened voice, None for a
    silent film; ``audio_duration`` (seconds) is what it is cut or padded to, its own length if not
    given. ``codec``, ``crf`` and ``pixel_format`` override what the source suggests. ``quick``:
    time matters more than size. ``inputs`` are further files that must not be overwritten. Raises
    ``MediaError``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clip: Clip,
        voice: str | os.PathLike[str] | Sound | None = None,
        audio_duration: Fraction | None = None,
        codec: str | None = None,
        crf: int | None = None,
        pixel_format: str | None = None,
        quick: bool = False,
        metadata: Mapping[str, str] | None = None,
        overwrite: bool = False,
        inputs: Iterable[str | os.PathLike[str]] = (),
    ) -> None:
        self.path = Path(path)
        self.frame_count = 0
        """Frames written so far."""
        self._clip = clip
        self._overwrite = overwrite
        if isinstance(voice, (str, os.PathLike)):
            voice = open_voice(voice)
        voice_path = getattr(voice, "path", None)
        self._inputs = [clip.path, *map(Path, inputs), *([voice_path] if voice_path else [])]
        self._format = check_output(self.path, inputs=self._inputs, overwrite=overwrite)
        self.encoding = choose_encoding(
            clip, self._format, codec=codec, crf=crf, pixel_format=pixel_format, quick=quick
        )
        if (
            clip.sar != 1
            and self._format in ("matroska", "webm")
            and self.encoding.codec not in _TELLS_SHAPE
        ):
            log.warning(
                "%s cannot keep the shape of the pixels (%s:%s) with %s, players will show it squeezed; "
                "use .mp4 or .mov",
                self.path.suffix,
                *(clip.sar.numerator, clip.sar.denominator, self.encoding.codec),
            )
        base = clip.time_base
        while base > FINEST_TICK:
            base /= 2
        self._time_base = base
        self._voice = voice
        self._audio_duration = audio_duration
        self._metadata = dict(metadata or {})
        self._durations: dict[int, int] = {}
        self._last_tick = -1
        self._graph: Any = None
        self._output: Any = None
        self._track: Any = None
        self._sound: Soundtrack | None = None
        self._reformatter: Any = None
        self._alpha_checked = False
        self._temporary = self.path.with_name(
            f".{self.path.stem}.{secrets.token_hex(4)}.part{self.path.suffix}"
        )

    def __enter__(self) -> Writer:
        try:
            self._open()
        except BaseException:
            self._abandon()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._abandon()
            return
        try:
            self._finish()
        except BaseException:
            self._abandon()
            raise

    def write(self, frame: Frame, time: Fraction, duration: Fraction) -> None:
        """Encodes ``frame`` to be seen from ``time`` for ``duration`` seconds. Times must rise."""
        import av

        if self._track is None:
            raise RuntimeError("a Writer is used inside a with statement")
        tick = timing.ticks(time, self._time_base)
        if tick <= self._last_tick:
            raise ValueError(f"frame times must rise; {float(time):.6f} s came too late")
        self._last_tick = tick
        self._durations[tick] = max(timing.ticks(time + duration, self._time_base) - tick, 1)
        if self._sound is not None:
            self._sound.pump(time + SOUND_AHEAD)
        video = self._prepared(frame)
        video.pts = tick
        video.time_base = self._time_base
        video.pict_type = 0  # type: ignore[assignment]
        with suppress(AttributeError):
            video.duration = self._durations[tick]  # type: ignore[attr-defined]
        try:
            if self._graph is not None:
                self._graph.push(video)
                video = self._graph.pull()
            self._mux(self._track.encode(video))
        except av.error.FFmpegError as error:
            raise self._failed(error) from error
        self.frame_count += 1

    def _open(self) -> None:
        import av

        clip, encoding = self._clip, self.encoding
        options = {"movflags": "+faststart"} if self._format in ("mp4", "mov") else {}
        try:
            self._output = av.open(
                f"file:{self._temporary}", mode="w", format=self._format, options=options
            )
            track: Any = self._output.add_stream(
                encoding.codec, rate=clip.frame_rate, options=dict(encoding.options)
            )
        except ValueError as error:
            raise MediaError(
                f"this build of PyAV has no encoder {encoding.codec}; choose another codec"
            ) from error
        except (av.error.FFmpegError, OSError) as error:
            raise self._failed(error) from error
        context = track.codec_context
        context.width, context.height = encoding.width, encoding.height
        context.pix_fmt = encoding.pixel_format
        context.time_base = self._time_base
        track.time_base = self._time_base
        context.bit_rate = 0
        context.thread_count = min(os.cpu_count() or 1, ENCODER_THREADS)
        if encoding.tag:
            context.codec_tag = encoding.tag
        tags = {
            "color_range": 2 if encoding.full else 1,
            "colorspace": encoding.colorspace,
            "color_primaries": encoding.color_primaries,
            "color_trc": encoding.color_trc,
        }
        for name, value in tags.items():
            with suppress(AttributeError):
                setattr(context, name, value)
        self._track = track
        if "language" in clip.metadata:
            track.metadata["language"] = clip.metadata["language"]
        kept = {key: clip.metadata[key] for key in KEPT_METADATA if key in clip.metadata}
        self._output.metadata.update({**kept, **self._metadata})
        if self._voice is not None:
            duration = self._audio_duration
            self._sound = Soundtrack(
                self._output, self._voice, self._voice.duration if duration is None else duration
            )
        if clip.interlaced:
            self._graph = self._field_graph()
        try:
            with suppress(AttributeError):
                self._output.start_encoding()
        except (av.error.FFmpegError, ValueError) as error:
            raise self._failed(error) from error
        log.info(
            "pictures: %s %s %dx%d into %s",
            encoding.codec,
            encoding.pixel_format,
            encoding.width,
            encoding.height,
            self._format,
        )

    def _prepared(self, frame: Frame) -> av.VideoFrame:
        """The frame's pictures in the size and format that are encoded."""
        video, encoding = frame.video, self.encoding
        if frame.look.kind.alpha and not self._alpha_checked:
            self._alpha_checked = True
            kept = pixels.layout(encoding.pixel_format)
            if (kept is None or not kept.alpha) and pixels.is_translucent(video, frame.look.kind):
                log.warning(
                    "%s cannot keep the picture's transparency with %s; use .webm or .mov",
                    self.path.suffix,
                    encoding.codec,
                )
        if (video.width, video.height) != (encoding.width, encoding.height):
            video = pixels.padded(video, frame.look.kind, encoding.width, encoding.height)
        if video.format.name == encoding.pixel_format:
            return video
        from av.video.reformatter import VideoReformatter

        if self._reformatter is None:
            self._reformatter = VideoReformatter()
        return self._reformatter.reformat(
            video,
            format=encoding.pixel_format,
            # Between YUV formats the matrix stays; its number only has to be the same twice.
            src_colorspace=_BT601,
            dst_colorspace=encoding.colorspace if frame.look.kind.is_rgb else _BT601,
            src_color_range=2 if frame.look.full else 1,
            dst_color_range=2 if encoding.full else 1,
        )

    def _field_graph(self) -> Any:
        """Marks each picture's field order: a painted frame no longer knows it, x264 asks it."""
        import av.filter

        encoding = self.encoding
        graph = av.filter.Graph()
        source = graph.add_buffer(
            width=encoding.width,
            height=encoding.height,
            format=encoding.pixel_format,
            time_base=self._time_base,
        )
        fields = graph.add("setfield", "tff" if self._clip.field_order == "top" else "bff")
        sink = graph.add("buffersink")
        source.link_to(fields)
        fields.link_to(sink)
        graph.configure()
        return graph

    def _mux(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            # Encoders guess durations from the average rate, which variable rates do not keep.
            if packet.pts is not None and packet.time_base is not None:
                tick = timing.rounded(packet.pts * packet.time_base / self._time_base)
                duration = self._durations.pop(tick, None)
                if duration is not None:
                    packet.duration = timing.rounded(duration * self._time_base / packet.time_base)
            self._output.mux(packet)

    def _finish(self) -> None:
        import av

        if not self.frame_count:
            raise MediaError(f"{self.path}: there was not one frame to write")
        try:
            if self._sound is not None:
                self._sound.finish()
            self._mux(self._track.encode(None))
            self._output.close()
        except (av.error.FFmpegError, OSError) as error:
            raise self._failed(error) from error
        self._output = None
        check_output(self.path, inputs=self._inputs, overwrite=self._overwrite)
        self._temporary.replace(self.path)
        log.info("wrote %d frames to %s", self.frame_count, self.path)

    def _abandon(self) -> None:
        """Closes everything and removes the unfinished file."""
        import av

        if self._sound is not None:
            with suppress(ValueError, RuntimeError):
                self._sound.close()
        if self._output is not None:
            with suppress(av.error.FFmpegError, OSError, ValueError, RuntimeError):
                self._output.close()
            self._output = None
        self._track = None
        with suppress(OSError):
            self._temporary.unlink()

    def _failed(self, error: BaseException) -> MediaError:
        reason = getattr(error, "strerror", None) or str(error)
        encoding = self.encoding
        return MediaError(
            f"{self.path} could not be written with {encoding.codec}, {encoding.pixel_format} "
            f"({' '.join(str(reason).split())})"
        )


def check_output(
    path: str | os.PathLike[str],
    *,
    inputs: Iterable[str | os.PathLike[str]] = (),
    overwrite: bool = False,
) -> str:
    """Whether a file may be written there; gives libav's name of its container.

    Raises ``MediaError`` for an unknown ending, a missing or unwritable folder, an existing file
    unless ``overwrite``, and for a file that is one of ``inputs``.
    """
    file = Path(path)
    known = FORMATS.get(file.suffix.lower())
    if known is None:
        ending = f"ends in {file.suffix}" if file.suffix else "has no ending"
        raise MediaError(f"{file} {ending}; give a name that ends in {', '.join(FORMATS)}")
    folder = file.parent
    if not folder.exists():
        raise MediaError(f"the folder {folder} does not exist; make it or give another")
    if not folder.is_dir():
        raise MediaError(f"{folder} is not a folder; give another place for the output")
    if file.is_dir():
        raise MediaError(f"{file} is a folder; give a file name")
    for source in inputs:
        with suppress(OSError):
            if file.exists() and file.samefile(source):
                raise MediaError(f"{file} is also an input; give the output another name")
    if file.exists() and not overwrite:
        raise MediaError(f"{file} exists already; give another name or allow overwriting")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise MediaError(f"the folder {folder} cannot be written to; give another")
    return known


def choose_encoding(
    clip: Clip,
    container: str,
    *,
    codec: str | None = None,
    crf: int | None = None,
    pixel_format: str | None = None,
    quick: bool = False,
) -> Encoding:
    """Codec, pixel format, colour tags and quality for a clip in a container; ``quick``: as of ``Writer``."""
    kind = pixels.layout(clip.pixel_format)
    assert kind is not None
    view = clip.look
    name, formats = _encoder(codec or _codec(clip, container), container)
    wanted = pixel_format or _pixel_format(clip, formats)
    target = pixels.layout(wanted)
    if target is None:
        raise SettingsError(f"pixel format {wanted!r} is not known here; try yuv420p or yuv444p")
    if formats and wanted not in formats:
        drawn = sorted(form for form in formats if pixels.layout(form) is not None)
        raise SettingsError(
            f"{name} cannot encode pixel format {wanted}; it takes {', '.join(drawn)}"
        )
    width, height = clip.width, clip.height
    odd = bool(width % (1 << target.log2_x) or height % (1 << target.log2_y))
    if odd and name not in ("libvpx-vp9", "ffv1", "libsvtav1", "prores_ks"):
        if pixel_format is None and not clip.is_still:
            # H.264 has no odd sizes with halved chroma. A clip keeps its size, for those who lay
            # it over the original; its chroma is kept whole instead.
            wanted = wanted.replace("420", "444").replace("422", "444").replace("nv12", "yuv444p")
            target = pixels.layout(wanted)
            assert target is not None
        else:
            # A photo has to play everywhere, which 4:4:4 does not; its edge is repeated once.
            width += -width % (1 << target.log2_x)
            height += -height % (1 << target.log2_y)
    full = view.full if not view.kind.is_rgb and view.kind.kind != "gray" else target.is_rgb
    primaries, transfer = clip.color_primaries, clip.color_trc
    if view.kind.is_rgb and not target.is_rgb:
        colorspace = primaries = transfer = _BT709
    elif clip.is_still:
        colorspace = view.colorspace
    else:
        colorspace = clip.colorspace
    options = _options(clip, name, crf, quick)
    if clip.sar != 1:
        options["aspect"] = f"{clip.sar.numerator}:{clip.sar.denominator}"
    if clip.interlaced and name in ("libx264", "mpeg2video", "prores_ks"):
        options["flags"] = _FLAGS_INTERLACED
    tag = "hvc1" if name == "libx265" and container in ("mp4", "mov") else ""
    return Encoding(
        codec=name,
        pixel_format=wanted,
        width=width,
        height=height,
        full=full,
        colorspace=colorspace,
        color_primaries=primaries,
        color_trc=transfer,
        options=options,
        tag=tag,
    )


def _codec(clip: Clip, container: str) -> str:
    if container == "webm":
        return "libvpx-vp9"
    if clip.has_alpha and not clip.is_still:
        if container == "mov":
            return "prores_ks"
        if container == "matroska":
            return "libvpx-vp9"
    if (clip.bits > 8 and not clip.is_still) or clip.is_hdr:
        return "libx265"
    return "libx264"


def _encoder(codec: str, container: str) -> tuple[str, set[str]]:
    """The encoder's own name (``h264`` is ``libx264``) and the pixel formats that it takes."""
    import av

    usual = ", ".join(["libx264", "libx265", "libvpx-vp9", "prores_ks"])
    try:
        encoder = av.Codec(codec, "w")
    except ValueError as error:
        raise MediaError(
            f"this build of PyAV has no encoder {codec!r}; common ones are {usual} and ffv1"
        ) from error
    if encoder.type != "video":
        raise SettingsError(f"{codec} encodes {encoder.type}, not pictures; try {usual}")
    try:
        with av.open(io.BytesIO(), "w", format=container) as nowhere:
            nowhere.add_stream(encoder.name, rate=25)
    except ValueError as error:
        ending = next(end for end, form in FORMATS.items() if form == container)
        raise SettingsError(
            f"{ending} holds no pictures of {encoder.name}; choose another codec, or a name that ends in "
            ".mkv, which takes nearly all"
        ) from error
    return encoder.name, {form.name for form in encoder.video_formats or []}


def _pixel_format(clip: Clip, names: set[str]) -> str:
    """The source's own format where the encoder takes it, else the nearest that loses least."""
    kind = pixels.layout(clip.pixel_format)
    assert kind is not None
    chroma = "444" if not kind.log2_x else "422" if not kind.log2_y else "420"
    if kind.kind == "gray" or kind.is_rgb:
        # Chroma of RGB is halved so that the result plays everywhere.
        chroma = "420"
    elif clip.pixel_format in names and not (clip.is_still and chroma != "420"):
        return clip.pixel_format
    if clip.is_still:
        chroma = "420"
    depths = ["10le", "12le", ""] if kind.bits > 8 else ["", "10le"]
    alphas = ["a", ""] if kind.alpha else [""]
    chromas = list(dict.fromkeys([chroma, "444" if chroma != "420" else "422", "444", "420"]))
    for alpha in alphas:
        for sub in chromas:
            for depth in depths:
                if f"yuv{alpha}{sub}p{depth}" in names:
                    return f"yuv{alpha}{sub}p{depth}"
    return sorted(names)[0] if names else "yuv420p"


def _options(clip: Clip, codec: str, crf: int | None, quick: bool) -> dict[str, str]:
    options: dict[str, str] = {}
    if codec in CRF:
        if crf is not None and not 0 <= crf <= _WORST_CRF[codec]:
            raise SettingsError(
                f"crf {crf} means nothing to {codec}; give 0 (the best) to {_WORST_CRF[codec]}"
            )
        options["crf"] = str(CRF[codec] if crf is None else crf)
    elif crf is not None:
        log.warning("crf does not apply to %s and is left out", codec)
    if codec == "libx264":
        options["preset"] = X264_QUICK_PRESET if quick else X264_PRESET
        options["x264-params"] = X264_QUICK_PARAMS if quick else X264_PARAMS
    elif codec == "libx265":
        options["preset"] = X265_PRESET
        options["x265-params"] = ":".join(["log-level=error", *_hdr_params(clip)])
    elif codec == "libvpx-vp9":
        options.update({"b": "0", "deadline": "good", "cpu-used": "5", "row-mt": "1"})
        if clip.has_alpha:
            options["auto-alt-ref"] = "0"
    elif codec == "prores_ks":
        options["profile"] = "4444" if clip.has_alpha else "hq"
        if clip.has_alpha:
            options["alpha_bits"] = "16"
    return options


def _hdr_params(clip: Clip) -> list[str]:
    """Mastering display and light level in x265's words, from libav's structures."""
    parameters = []
    if clip.color_trc == 16:
        parameters.append("hdr10=1")
    if clip.mastering is not None and len(clip.mastering) >= 88:
        numbers = struct.unpack("=22i", clip.mastering[:88])
        values = [
            numbers[at] / numbers[at + 1] if numbers[at + 1] else 0.0 for at in range(0, 20, 2)
        ]
        if numbers[20] and numbers[21]:
            red, green, blue, white = (values[at : at + 2] for at in range(0, 8, 2))
            points = "".join(
                f"{letter}({round(x * 50000)},{round(y * 50000)})"
                for letter, (x, y) in (("G", green), ("B", blue), ("R", red), ("WP", white))
            )
            light = f"L({round(values[9] * 10000)},{round(values[8] * 10000)})"
            parameters.append(f"master-display={points}{light}")
    if clip.light is not None and len(clip.light) >= 8:
        most, average = struct.unpack("=2I", clip.light[:8])
        parameters.append(f"max-cll={most},{average}")
    return parameters
