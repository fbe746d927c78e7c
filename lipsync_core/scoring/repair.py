"""Moves the sound of a file by an exact number of samples and leaves its picture as it is."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import LipSyncError, MediaError
from ..media.audio import LAYOUTS, sound_frame, stored
from ..media.decoder import open_media
from ..types import Audio, Progress

if TYPE_CHECKING:
    import av
    from av.container import InputContainer, OutputContainer

    from .sync import Examination

log = logging.getLogger("lipsync.scoring")

_ENCODERS = {"mp3": "libmp3lame", "opus": "libopus", "vorbis": "libvorbis"}
"""Encoders that are not called like the codec they write."""
LEAST_MS = 10.0
"""Offsets below this are none: measuring is no finer, and lossy sound would suffer for nothing."""
_PART = 4096
"""Samples per frame that is given to the encoder."""
_LOSSLESS = ("pcm_", "flac", "alac", "wavpack", "tta")


class UncertainError(LipSyncError):
    """The offset is not certain enough to act on."""


def shift_sound(
    video: str | Path,
    output: str | Path,
    seconds: Fraction | float,
    *,
    audio: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> int:
    """Writes ``video`` to ``output`` with its sound moved; positive ``seconds``: the sound comes later.

    Compressed pictures are copied packet by packet, so every frame and time stamp stays. The sound
    is decoded, moved by a whole number of samples (silence comes in at one end, the other end is
    cut, the length stays) and encoded again with its own codec where this FFmpeg can, lossless
    where it was lossless. ``audio``: another file whose sound is used instead of the video's.
    Subtitles and further tracks are left out with a warning. Returns the samples moved.
    """
    import av

    video, output = Path(video), Path(output)
    check(video, Path(audio) if audio else None, output, overwrite=overwrite)
    # A folder of our own beside the output: a temporary file would keep its private permissions.
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".lipsync-") as folder:
        unfinished = Path(folder) / f"fixed{output.suffix}"
        try:
            with open_media(video) as picture:
                if audio is None:
                    moved = _copy(picture, picture, unfinished, Fraction(seconds), progress)
                else:
                    with open_media(audio) as sound:
                        moved = _copy(picture, sound, unfinished, Fraction(seconds), progress)
        except (av.FFmpegError, ValueError) as error:
            raise MediaError(
                f"{video}: the sound could not be moved into {output.name} ({error}); "
                "try another file type such as .mkv"
            ) from error
        unfinished.replace(output)
    return moved


def fix_sound(
    found: Examination,
    output: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> float:
    """Writes the video that was examined with its sound in sync; returns milliseconds moved.

    Positive: the sound comes later than before. Raises :class:`UncertainError`, and writes nothing,
    where the score was not accepted.
    """
    moved = correction(found)
    shift_sound(
        found.video, output, moved, audio=found.audio, overwrite=overwrite, progress=progress
    )
    return float(moved * 1000)


def correction(found: Examination) -> Fraction:
    """Seconds by which the sound has to come later, negative for earlier, to be in sync.

    0 where it is in sync already, within ``LEAST_MS``.
    Raises :class:`UncertainError` where the score was not accepted.
    """
    result = found.score
    if not result.accepted:
        raise UncertainError(
            f"{found.video.name} is left as it is: {result.summary.removeprefix('cannot tell: ')}"
        )
    if abs(result.audio_late_ms) < LEAST_MS:
        return Fraction(0)
    return Fraction(-result.audio_late_ms).limit_denominator(1000) / 1000


def moved_sound(audio: Audio, seconds: Fraction) -> Audio:
    """As :func:`shift_sound` for sound in memory: silence at one end, as much cut at the other."""
    total = audio.samples.shape[1]
    shift = min(max(round(seconds * audio.rate), -total), total)
    samples = np.zeros_like(audio.samples)
    samples[:, max(shift, 0) : total + min(shift, 0)] = audio.samples[
        :, max(-shift, 0) : total - max(shift, 0)
    ]
    return Audio(samples=samples, rate=audio.rate)


def check(video: Path, audio: Path | None, output: Path, *, overwrite: bool) -> None:
    """Refuses inputs that are no files and outputs that would replace something, before any work."""
    for path in filter(None, (video, audio)):
        if not path.is_file():
            raise MediaError(f"{path} is not a file; give a video that exists")
        if output.exists() and output.samefile(path):
            raise MediaError(f"{output} is the input itself; choose another name for the output")
    if output.exists() and not overwrite:
        raise MediaError(f"{output} exists already; choose another name or pass --overwrite")
    if not output.parent.is_dir():
        raise MediaError(f"{output.parent} is not a folder; make it first")


def _copy(
    picture: InputContainer,
    sound: InputContainer,
    output: Path,
    seconds: Fraction,
    progress: Progress | None,
) -> int:
    import av

    # As the user wrote it, without FFmpeg's word for a file.
    name, voice = picture.name.removeprefix("file:"), sound.name.removeprefix("file:")
    if not picture.streams.video:
        raise MediaError(f"{name} has no picture; give a video")
    if not sound.streams.audio:
        raise MediaError(f"{voice} has no sound; give the voice with --audio")
    frames_in, samples_in = picture.streams.video[0], sound.streams.audio[0]
    unused = len(picture.streams) - 1 - (sound is picture)
    if unused > 0:
        log.warning("%s: %d further tracks are not copied", name, unused)
    rate = int(samples_in.rate or 0)
    shift = round(seconds * rate)
    with av.open(str(output), "w") as target:
        for key, value in picture.metadata.items():
            target.metadata[key] = value
        frames_out = _like(target, frames_in)
        samples_out = _encoder(target, samples_in, rate)
        mover = _Mover(shift, rate)
        duration = float(frames_in.duration * frames_in.time_base) if frames_in.duration else 0.0
        total = round(duration * float(frames_in.average_rate or 25))
        done = 0
        started = False

        def write_sound(frames: Iterator[av.AudioFrame]) -> None:
            for frame in frames:
                for packet in samples_out.encode(frame):
                    target.mux(packet)

        # Sound from another file is encoded alongside, never far ahead of the picture.
        other = None if sound is picture else sound.decode(samples_in)
        wanted = (frames_in, samples_in) if sound is picture else (frames_in,)
        for packet in picture.demux(*wanted):
            if packet.stream is samples_in:
                for frame in packet.decode():
                    write_sound(mover.take(frame))
                continue
            if packet.dts is None and packet.pts is None and packet.size == 0:
                continue
            # A leading packet that cannot be decoded on its own belongs to what was cut before.
            packet.stream = frames_out
            time = packet.pts * packet.time_base if packet.pts is not None else None
            target.mux(packet)
            started = True
            done += 1
            if other is not None:
                while time is None or mover.time < time + 1:
                    frame = next(other, None)
                    if frame is None:
                        other = None
                        break
                    write_sound(mover.take(frame))
            if progress is not None:
                progress(done, max(total, done))
        if not started:
            raise MediaError(f"{name} holds no picture data; the file is damaged")
        if other is not None:
            for frame in other:
                write_sound(mover.take(frame))
        write_sound(mover.rest())
        for packet in samples_out.encode(None):
            target.mux(packet)
    return shift


def _like(target: OutputContainer, stream: av.VideoStream) -> Any:
    if hasattr(target, "add_stream_from_template"):
        return target.add_stream_from_template(stream)
    return target.add_stream(template=stream)  # PyAV before 14


def _encoder(target: OutputContainer, source: av.AudioStream, rate: int) -> Any:
    import av

    codec = _canonical(source.codec_context.codec)
    name: str = _ENCODERS.get(codec, codec)
    # PyAV 12 does not say what a container holds; then the attempt shows it.
    supported = getattr(target, "supported_codecs", None) or av.codecs_available
    if name.startswith(_LOSSLESS) and (codec not in supported or name not in av.codecs_available):
        name = next((one for one in ("pcm_s16le", "flac", "alac") if one in supported), "aac")
    if not _writes(name) or _canonical(av.Codec(name, "w")) not in supported:
        name = next(
            one
            for one in ("aac", "libopus", "libmp3lame", "mp2", "pcm_s16le")
            if _writes(one) and _canonical(av.Codec(one, "w")) in supported
        )
        log.warning("the sound is encoded as %s: %s cannot hold %s", name, target.name, codec)
    out: Any = target.add_stream(name, rate=rate)
    out.layout = _layout(source.layout)
    formats = [one.name for one in out.codec_context.codec.audio_formats or ()]
    if formats and source.format.name in formats:
        out.format = source.format.name
    elif formats:
        out.format = formats[0]
    if not name.startswith(_LOSSLESS):
        given = source.bit_rate or 0
        out.bit_rate = (
            given if name == "mp2" and given else max(given, 96_000 * len(source.layout.channels))
        )
    return out


def _canonical(codec: Any) -> str:
    """The codec's name without that of its program, which PyAV 12 does not tell."""
    plain = codec.name.removesuffix("float").removesuffix("_fixed").removeprefix("lib")
    return str(getattr(codec, "canonical_name", None) or {"mp3lame": "mp3"}.get(plain, plain))


def _layout(layout: Any) -> str:
    """A name that can be made a layout again; files may say only how many channels there are."""
    import av

    try:
        return av.AudioLayout(layout.name).name
    except ValueError:
        return LAYOUTS[len(layout.channels)]


def _writes(name: str) -> bool:
    import av

    try:
        av.Codec(name, "w")
    except (ValueError, av.FFmpegError):
        return False
    return True


class _Mover:
    """Frames in, the same sound moved by ``shift`` samples out, of the same total length."""

    def __init__(self, shift: int, rate: int) -> None:
        self._rate = rate
        self._shift = shift
        self._first: int | None = None
        """Time stamp of the beginning, in samples."""
        self._taken = 0
        self._given = 0
        self._skip = max(-shift, 0)
        self._waiting: np.ndarray | None = None
        """``(K, N)``: moved sound that has no place yet; at most ``shift`` samples and a frame."""
        self._like: Any = None

    @property
    def time(self) -> Fraction:
        """Seconds of sound that came in, from the time stamp of its beginning."""
        return Fraction((self._first or 0) + self._taken, self._rate)

    def take(self, frame: Any) -> Iterator[Any]:
        array = stored(frame)
        if self._first is None:
            start = (frame.pts or 0) * (frame.time_base or Fraction(1, self._rate))
            self._first = round(start * self._rate)
            self._like = frame
            self._waiting = self._silence(array, max(self._shift, 0))
        elif frame.pts is not None and frame.time_base is not None:
            hole = round(frame.pts * frame.time_base * self._rate) - self._first - self._taken
            # A lost stretch stays a stretch of silence, so that what follows is on time.
            if hole > self._rate // 50:
                yield from self._add(self._silence(array, hole))
        yield from self._add(array)

    def rest(self) -> Iterator[Any]:
        if self._waiting is not None:
            missing = self._taken - self._given - self._waiting.shape[1]
            yield from self._give(self._silence(self._waiting, max(missing, 0)))

    def _add(self, array: np.ndarray) -> Iterator[Any]:
        self._taken += array.shape[1]
        drop = min(self._skip, array.shape[1])
        self._skip -= drop
        yield from self._give(array[:, drop:])

    def _give(self, array: np.ndarray) -> Iterator[Any]:
        assert self._waiting is not None
        self._waiting = np.concatenate([self._waiting, array], axis=1)
        count = min(self._taken - self._given, self._waiting.shape[1])
        for start in range(0, count, _PART):
            yield self._frame(self._waiting[:, start : min(start + _PART, count)])
        self._waiting = self._waiting[:, count:]

    @staticmethod
    def _silence(like: np.ndarray, count: int) -> np.ndarray:
        # 8-bit sound is unsigned: its silence lies in the middle
        middle = 128 if like.dtype == np.uint8 else 0
        return np.full((like.shape[0], count), middle, like.dtype)

    def _frame(self, array: np.ndarray) -> Any:
        like = self._like
        frame = sound_frame(array, kind=like.format.name, layout=_layout(like.layout))
        frame.sample_rate = self._rate
        frame.time_base = Fraction(1, self._rate)
        frame.pts = (self._first or 0) + self._given
        self._given += array.shape[1]
        return frame
