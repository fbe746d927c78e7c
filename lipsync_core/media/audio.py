"""Reading sound: voice tracks of any length as exact samples, checked before anything is drawn."""

from __future__ import annotations

import logging
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MediaError
from ..types import Audio
from . import timing
from .decoder import open_media

if TYPE_CHECKING:
    import av

log = logging.getLogger("lipsync.media")

SILENCE_PEAK = 10 ** (-70 / 20)
"""A peak below -70 dB of full scale is the noise of an empty track, not speech."""
LOWEST_RATE, HIGHEST_RATE = 4_000, 768_000
MOST_CHANNELS = 64
GAP = Fraction(1, 25)
"""A hole in the time stamps longer than this is filled with silence; less is rounding."""
LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
"""Names of the usual layouts by channel count, as libav calls them."""
_SAMPLE_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}
_DEAD_CHANNEL = 10 ** (-50 / 20)
"""A channel this much below the loudest one is left out of the mix to mono."""


class Sound(ABC):
    """A voice track that can be read again and again; implements ``types.Voice``."""

    rate: int
    """Samples per second, as recorded."""
    channels: int
    bits: int
    """Bits per sample of the recording; 32 also for floating point."""
    is_float: bool
    _sample_count: int
    _mix: np.ndarray
    """``(K,)`` weights of the mix to one channel."""

    @property
    def duration(self) -> Fraction:
        """Seconds, exact."""
        return Fraction(self._sample_count, self.rate)

    @property
    def sample_count(self) -> int:
        """Samples per channel."""
        return self._sample_count

    @abstractmethod
    def chunks(self) -> Iterator[np.ndarray]:
        """``(K, S)`` float32 at the recording's own rate, consecutive, of any length."""

    def blocks(self, rate: int) -> Iterator[np.ndarray]:
        """One channel at ``rate``: consecutive ``(S,)`` float32 blocks of one second.

        Only channels that carry sound are averaged. The whole has
        ``timing.sample_count(duration, rate)`` samples.
        """
        wanted = timing.sample_count(self.duration, rate)
        pending: list[np.ndarray] = []
        waiting = given = 0
        for piece in self._resampled(rate):
            piece = piece[: wanted - given - waiting]
            pending.append(piece)
            waiting += len(piece)
            if waiting >= rate:
                joined = np.concatenate(pending)
                whole = waiting // rate * rate
                for at in range(0, whole, rate):
                    yield joined[at : at + rate]
                given += whole
                pending, waiting = [joined[whole:]], waiting - whole
        rest = np.concatenate([*pending, np.zeros(wanted - given - waiting, np.float32)])
        for at in range(0, len(rest), rate):
            yield rest[at : at + rate]

    def _resampled(self, rate: int) -> Iterator[np.ndarray]:
        mono = ((self._mix @ chunk).astype(np.float32) for chunk in self.chunks())
        if rate == self.rate:
            yield from mono
            return
        import av

        resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
        at = 0
        for chunk in mono:
            if not len(chunk):
                continue
            frame = av.AudioFrame.from_ndarray(chunk[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = self.rate, at
            frame.time_base = Fraction(1, self.rate)
            at += len(chunk)
            for out in resampler.resample(frame):
                yield _samples(out)[0]
        for out in resampler.resample(None):
            yield _samples(out)[0]

    def _check(self, name: str, heed: Callable[[], object] | None = None) -> None:
        """Listens to all of it once: length, damage, silence. Sets ``_sample_count``, ``_mix``."""
        peaks = np.zeros(self.channels, np.float32)
        count = 0
        for chunk in self.chunks():
            if heed is not None:
                heed()
            if not chunk.size:
                continue
            if not np.isfinite(chunk).all():
                bad = int(np.flatnonzero(~np.isfinite(chunk).all(axis=0))[0]) + count
                raise MediaError(
                    f"{name} holds samples that are not numbers (NaN or infinite), the first at "
                    f"{bad / self.rate:.3f} s; export it again"
                )
            np.maximum(peaks, np.abs(chunk).max(axis=1), out=peaks)
            count += chunk.shape[1]
        if not count:
            raise MediaError(f"{name} has a sound track without a single sample; export it again")
        loudest = float(peaks.max())
        if loudest < SILENCE_PEAK:
            level = f"{20 * math.log10(loudest):.0f} dB" if loudest > 0 else "digital zero"
            raise MediaError(f"{name} is silent (peak {level}); give a track with speech in it")
        alive = peaks > loudest * _DEAD_CHANNEL
        self._sample_count = count
        self._mix = (alive / alive.sum()).astype(np.float32)


class VoiceFile(Sound):
    """A voice track in a file: of a sound file, or the first one of a video.

    ``start`` and ``end`` are seconds from its first sample. Opening listens to all of it once and
    calls ``heed`` meanwhile, which may raise to leave.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        start: Fraction | None = None,
        end: Fraction | None = None,
        heed: Callable[[], object] | None = None,
    ) -> None:
        self.path = Path(path)
        if start is not None and start < 0:
            raise MediaError(f"the voice cannot start at {float(start):g} s; give 0 or more")
        if end is not None and end <= (start or 0):
            raise MediaError(
                f"the voice would end at {float(end):g} s, not after its start at "
                f"{float(start or 0):g} s; give a later end"
            )
        self._start, self._end = start, end
        self.begins = Fraction(0)
        """Time stamp of the first sample that is heard, in seconds of the file."""
        self.codec = ""
        self.rate = 0
        self.channels = 0
        self.mended = False
        """Damaged parts or holes were filled: the packets alone would not sound the same."""
        self._look()
        self._check(str(self.path), heed)

    @property
    def is_whole(self) -> bool:
        """Nothing of the track is cut off."""
        return self._start is None and self._end is None

    def _look(self) -> None:
        """Rate, channels and kind of the track, from the first sound that can be decoded."""
        for frame in self._frames(quiet=True):
            self.rate = frame.sample_rate
            self.channels = len(frame.layout.channels)
            format_name = frame.format.name
            self.is_float = format_name.startswith(("flt", "dbl"))
            self.bits = 32 if self.is_float else frame.format.bits
            if not LOWEST_RATE <= self.rate <= HIGHEST_RATE:
                raise MediaError(
                    f"{self.path} says {self.rate} samples a second; "
                    f"{LOWEST_RATE} to {HIGHEST_RATE} can be used"
                )
            if not 1 <= self.channels <= MOST_CHANNELS:
                raise MediaError(
                    f"{self.path} has {self.channels} channels; 1 to {MOST_CHANNELS} can be used"
                )
            if frame.pts is not None and frame.time_base:
                self.begins = frame.pts * Fraction(frame.time_base)
            return
        raise MediaError(
            f"{self.path} has a sound track without a single sample that can be decoded; "
            "it may be damaged or incomplete"
        )

    def _frames(self, quiet: bool = False) -> Iterator[av.AudioFrame]:
        """Decoded sound; damaged packets are left out."""
        import av

        container = open_media(self.path)
        try:
            if not container.streams.audio:
                found = " and ".join(sorted({s.type for s in container.streams})) or "nothing"
                raise MediaError(f"{self.path} has no sound track ({found} only); give a voice")
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise MediaError(f"{self.path}: no decoder for its sound in this build of PyAV")
            self.codec = stream.codec_context.name
            for packet in container.demux(stream):
                try:
                    yield from packet.decode()
                except EOFError:
                    return
                except av.error.FFmpegError:
                    if not self.mended and not quiet:
                        self.mended = True
                        log.warning("%s has damaged sound, which is left silent", self.path)
        except av.error.FFmpegError as error:
            # A file cut off in the middle: what came before is good.
            if not quiet and not self.mended:
                self.mended = True
                log.warning("%s ends early (%s)", self.path, error)
        finally:
            container.close()

    def chunks(self) -> Iterator[np.ndarray]:
        """``(K, S)`` float32 at the recording's own rate; holes in it are filled with silence."""
        first = math.ceil((self._start or 0) * self.rate)
        last = None if self._end is None else math.ceil(self._end * self.rate)
        at = 0
        for chunk in self._filled():
            size = chunk.shape[1]
            lower, upper = max(first - at, 0), size if last is None else min(last - at, size)
            if lower < upper:
                yield chunk[:, lower:upper]
            at += size
            if last is not None and at >= last:
                return

    def _filled(self) -> Iterator[np.ndarray]:
        expected: Fraction | None = None
        converter: Any = None
        for frame in self._frames():
            if frame.sample_rate != self.rate or len(frame.layout.channels) != self.channels:
                if converter is None:
                    converter = self._converter()
                pieces = [_samples(out) for out in converter.resample(frame)]
            else:
                pieces = [_samples(frame)]
            length = Fraction(frame.samples, frame.sample_rate)
            if frame.pts is not None and frame.time_base:
                time = frame.pts * Fraction(frame.time_base)
                # Counted from the beginning, so that holes too small to fill one by one do not add up.
                if expected is None or not -1 < time - expected < 3600:
                    expected = time
                if time - expected > GAP:
                    self.mended = True
                    missing = timing.sample_count(time - expected, self.rate)
                    for at in range(0, missing, self.rate):
                        size = min(self.rate, missing - at)
                        yield np.zeros((self.channels, size), np.float32)
                    expected += Fraction(missing, self.rate)
            if expected is not None:
                expected += length
            yield from pieces

    def _converter(self) -> Any:
        import av

        log.warning("%s changes its sound format on the way; all is made like the first", self.path)
        self.mended = True
        layout = LAYOUTS.get(self.channels, "stereo")
        return av.AudioResampler(format="fltp", layout=layout, rate=self.rate)


class MemoryVoice(Sound):
    """A voice track that is already in memory."""

    def __init__(self, audio: Audio) -> None:
        samples = np.asarray(audio.samples)
        if samples.ndim != 2 or not samples.shape[0]:
            raise MediaError(f"sound in memory must be (K, S), got shape {samples.shape}")
        if not LOWEST_RATE <= audio.rate <= HIGHEST_RATE:
            raise MediaError(
                f"sound in memory says {audio.rate} samples a second; "
                f"{LOWEST_RATE} to {HIGHEST_RATE} can be used"
            )
        self.rate = int(audio.rate)
        self.channels = samples.shape[0]
        self.bits, self.is_float = 32, True
        self._samples = samples
        self._check("the sound in memory")

    def chunks(self) -> Iterator[np.ndarray]:
        """``(K, S)`` float32, a second at a time."""
        for at in range(0, self._samples.shape[1], self.rate):
            yield self._samples[:, at : at + self.rate].astype(np.float32, copy=False)


def open_voice(
    path: str | os.PathLike[str],
    *,
    start: Fraction | None = None,
    end: Fraction | None = None,
    heed: Callable[[], object] | None = None,
) -> VoiceFile:
    """The voice track of a sound or video file, checked: there is one, and something is heard.

    ``start``, ``end``: seconds. ``heed`` as in `VoiceFile`. Raises ``MediaError``.
    """
    return VoiceFile(path, start=start, end=end, heed=heed)


def load(path: str | os.PathLike[str], heed: Callable[[], object] | None = None) -> Audio:
    """The whole sound of a file in memory, ``(K, S)`` at its own rate; ``heed`` as in `VoiceFile`."""
    voice = VoiceFile(path, heed=heed)
    chunks = []
    for chunk in voice.chunks():
        chunks.append(chunk)
        if heed is not None:
            heed()
    return Audio(samples=joined(chunks, heed), rate=voice.rate)


def joined(chunks: Sequence[np.ndarray], heed: Callable[[], object] | None = None) -> np.ndarray:
    """``(K, S)`` float32 of pieces ``(K, s)``, a copy; ``heed`` is called between them.

    An hour of sound takes seconds to copy where memory is slow to come.
    """
    whole = np.empty((chunks[0].shape[0], sum(chunk.shape[1] for chunk in chunks)), np.float32)
    at = 0
    for chunk in chunks:
        whole[:, at : at + chunk.shape[1]] = chunk
        at += chunk.shape[1]
        if heed is not None:
            heed()
    return whole


def _samples(frame: av.AudioFrame) -> np.ndarray:
    """``(K, S)`` float32 -1..1 from any sample format."""
    array = stored(frame)
    if array.dtype.kind == "u":
        return (array.astype(np.float32) - 128.0) / 128.0
    if array.dtype.kind == "i":
        return (array / float(1 << (8 * array.dtype.itemsize - 1))).astype(np.float32)
    return array.astype(np.float32)


def stored(frame: av.AudioFrame) -> np.ndarray:
    """``(K, S)`` in the frame's own sample type."""
    from av.audio.plane import AudioPlane

    channels, count = len(frame.layout.channels), frame.samples
    dtype = np.dtype(_SAMPLE_TYPES[frame.format.name.rstrip("p")])
    # Plane by plane: where there are eight, PyAV's own ``planes`` counts a ninth, and fails.
    found: list[Any] = [
        AudioPlane(frame, index) for index in range(channels if frame.format.is_planar else 1)
    ]
    if frame.format.is_planar:
        return np.stack([np.frombuffer(plane, dtype)[:count] for plane in found])
    return np.frombuffer(found[0], dtype)[: count * channels].reshape(count, channels).T


def sound_frame(samples: np.ndarray, *, kind: str, layout: str) -> av.AudioFrame:
    """``samples`` ``(K, S)`` of the type that ``kind`` names, the other way round of ``stored``."""
    import av
    from av.audio.plane import AudioPlane

    frame = av.AudioFrame(format=kind, layout=layout, samples=samples.shape[1])
    rows = samples if frame.format.is_planar else samples.T.reshape(1, -1)
    for index, row in enumerate(rows):
        AudioPlane(frame, index).update(np.ascontiguousarray(row))
    return frame
