"""The voice as the output's sound track: its packets copied where possible, else encoded once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MediaError
from . import timing
from .audio import LAYOUTS, Sound, VoiceFile
from .decoder import open_media

if TYPE_CHECKING:
    from av.container import OutputContainer

log = logging.getLogger("lipsync.media")

_PCM = {"pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le"}
COPIED = {
    # What the players of each container play. FLAC and Opus may lie in mp4, but Apple's and many
    # television sets' players stay silent, so there they are encoded as AAC.
    "mp4": {"aac", "mp3", "ac3", "eac3", "alac"},
    "mov": {"aac", "mp3", "ac3", "eac3", "alac"} | _PCM,
    "matroska": {"aac", "mp3", "ac3", "eac3", "flac", "opus", "vorbis"} | _PCM,
    "webm": {"opus", "vorbis"},
}
_DECODERS = {"mp3float": "mp3", "libopus": "opus", "libvorbis": "vorbis", "libfdk_aac": "aac"}
"""Decoders that are not called like their codec."""
AAC_RATES = (
    7350,
    8000,
    11025,
    12000,
    16000,
    22050,
    24000,
    32000,
    44100,
    48000,
    64000,
    88200,
    96000,
)
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
AAC_BITS_PER_CHANNEL = 128_000
"""Bits per second; transparent for speech and music alike."""
OPUS_BITS_PER_CHANNEL = 96_000


class Soundtrack:
    """Adds a voice to an output and feeds it in step with the pictures.

    ``duration``: seconds; a longer voice is cut to it exactly, a shorter one followed by silence.
    """

    def __init__(self, output: OutputContainer, voice: Sound, duration: Fraction) -> None:
        self._output = output
        self._voice = voice
        self._duration = duration
        self._work: Iterator[Fraction] | None = None
        self._reached = Fraction(0)
        container = output.format.name
        if self._is_copied(container):
            assert isinstance(voice, VoiceFile)
            self._work = self._copy(voice)
        if self._work is None:
            self._work = self._encode(container)
        # The streams must be known before the first packet is written.
        next(self._work)

    def pump(self, until: Fraction) -> None:
        """Writes sound up to ``until`` seconds of the output, or a little more."""
        assert self._work is not None
        while self._reached < until:
            reached = next(self._work, None)
            if reached is None:
                self._reached = Fraction(1 << 62)
                return
            self._reached = reached

    def finish(self) -> None:
        """Writes what is left."""
        self.pump(Fraction(1 << 61))

    def close(self) -> None:
        """Lets go of the voice file."""
        if self._work is not None:
            self._work.close()  # type: ignore[attr-defined]

    def _is_copied(self, container: str) -> bool:
        voice = self._voice
        if not isinstance(voice, VoiceFile) or not voice.is_whole or voice.mended:
            return False
        if voice.duration != self._duration:
            return False
        codec = _DECODERS.get(voice.codec, voice.codec)
        if codec not in COPIED.get(container, ()):
            return False
        # Matroska cannot begin before 0, so sound that starts with samples to be left out moves.
        return container in ("mp4", "mov") or (voice.begins == 0 and codec not in ("aac", "mp3"))

    def _copy(self, voice: VoiceFile) -> Iterator[Fraction]:
        source = open_media(voice.path)
        try:
            stream = source.streams.audio[0]
            if hasattr(self._output, "add_stream_from_template"):
                track = self._output.add_stream_from_template(stream)
            else:
                track = self._output.add_stream(template=stream)  # type: ignore[call-overload]
            log.info("sound: %s is copied as it is", voice.codec)
            yield Fraction(0)
            assert stream.time_base is not None
            shift = timing.ticks(voice.begins, stream.time_base)
            for packet in source.demux(stream):
                if packet.dts is None:
                    continue
                packet.dts -= shift
                if packet.pts is not None:
                    packet.pts -= shift
                packet.stream = track
                at = packet.dts * stream.time_base
                self._output.mux(packet)
                yield at
        finally:
            source.close()

    def _encode(self, container: str) -> Iterator[Fraction]:
        import av

        voice = self._voice
        name, rate, options = self._encoder(container)
        channels = voice.channels
        if channels not in LAYOUTS:
            log.warning("the voice has %d channels; it is mixed to two", channels)
            channels = 2
        layout = LAYOUTS[channels]
        try:
            track: Any = self._output.add_stream(name, rate=rate, options=options)
        except (av.error.FFmpegError, ValueError) as error:
            raise MediaError(
                f"this build of PyAV has no {name} encoder for the sound; "
                "install PyAV from PyPI or choose another container"
            ) from error
        track.codec_context.layout = layout
        if name == "aac":
            # Frames of 1024 samples of at most 6144 bits a channel.
            track.codec_context.bit_rate = min(AAC_BITS_PER_CHANNEL, 5 * rate) * channels
        elif name == "libopus":
            track.codec_context.bit_rate = OPUS_BITS_PER_CHANNEL * channels
        if name == "flac":
            track.codec_context.format = "s16" if voice.bits <= 16 else "s32"
        track.codec_context.time_base = Fraction(1, rate)
        log.info("sound: encoded with %s at %d Hz, %s", name, rate, layout)
        yield Fraction(0)
        at = 0
        for chunk in self._exact(timing.sample_count(self._duration, voice.rate)):
            if chunk.shape[0] != channels:
                chunk = np.repeat(chunk.mean(axis=0, keepdims=True), channels, axis=0)
            # Interleaved, because PyAV miscounts the planes of eight channels.
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(chunk.T, dtype=np.float32).reshape(1, -1),
                format="flt",
                layout=layout,
            )
            frame.sample_rate = voice.rate
            frame.time_base = Fraction(1, voice.rate)
            frame.pts = at
            at += chunk.shape[1]
            self._output.mux(track.encode(frame))
            yield Fraction(at, voice.rate)
        self._output.mux(track.encode(None))

    def _exact(self, sample_count: int) -> Iterator[np.ndarray]:
        """The voice's samples in pieces of at most a second: cut, or padded with silence."""
        voice = self._voice
        left = sample_count
        for chunk in voice.chunks():
            for at in range(0, chunk.shape[1], voice.rate):
                piece = chunk[:, at : at + min(voice.rate, left)]
                left -= piece.shape[1]
                if piece.shape[1]:
                    yield piece
                if left <= 0:
                    return
        while left > 0:
            size = min(voice.rate, left)
            yield np.zeros((voice.channels, size), np.float32)
            left -= size

    def _encoder(self, container: str) -> tuple[str, int, dict[str, str]]:
        """Name, rate and options of the encoder for this voice in this container."""
        voice = self._voice
        lossless = voice.is_float or not isinstance(voice, VoiceFile)
        if isinstance(voice, VoiceFile):
            lossless = voice.codec.startswith("pcm_") or voice.codec in ("flac", "alac", "wavpack")
        if container == "webm":
            return "libopus", _nearest(voice.rate, OPUS_RATES), {}
        if container in ("matroska", "mov") and lossless:
            if voice.is_float:
                return "pcm_f32le", voice.rate, {}
            if container == "matroska":
                return "flac", voice.rate, {}
            return ("pcm_s16le" if voice.bits <= 16 else "pcm_s24le"), voice.rate, {}
        return "aac", _nearest(voice.rate, AAC_RATES), {}


def _nearest(rate: int, allowed: tuple[int, ...]) -> int:
    """The lowest allowed rate that loses nothing, else the highest there is."""
    return next((value for value in allowed if value >= rate), allowed[-1])
