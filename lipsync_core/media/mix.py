"""Several voices as one sound: what is heard where several people speak, each with their own."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from .audio import LAYOUTS, Sound, _samples, sound_frame

log = logging.getLogger("lipsync.media")


class Mix(Sound):
    """The sum of ``voices``, all of which begin together; where it would clip, all are turned down alike."""

    def __init__(self, voices: Sequence[Sound]) -> None:
        self._voices = list(voices)
        self.rate = max(voice.rate for voice in voices)
        self.channels = max((v.channels for v in voices if v.channels in LAYOUTS), default=1)
        self.bits, self.is_float = 32, True
        self._gain = np.float32(1.0)
        self._check("the mix of the voices")
        peak = max(float(np.abs(chunk).max(initial=0.0)) for chunk in self.chunks())
        if peak > 1.0:
            self._gain = np.float32(1.0 / peak)
            log.warning(
                "together the voices clip; all are turned down by %.1f dB", 20 * np.log10(peak)
            )

    def chunks(self) -> Iterator[np.ndarray]:
        """``(K, S)`` float32, consecutive pieces of a second."""
        streams = [self._resampled_to_common(voice) for voice in self._voices]
        waiting = [np.zeros((self.channels, 0), np.float32) for _ in streams]
        open_ = [True] * len(streams)
        while True:
            for number, stream in enumerate(streams):
                while open_[number] and waiting[number].shape[1] < self.rate:
                    piece = next(stream, None)
                    if piece is None:
                        open_[number] = False
                    else:
                        waiting[number] = np.concatenate([waiting[number], piece], axis=1)
            size = min(max(part.shape[1] for part in waiting), self.rate)
            if not size:
                return
            total = np.zeros((self.channels, size), np.float32)
            for number, part in enumerate(waiting):
                total[:, : part[:, :size].shape[1]] += part[:, :size]
                waiting[number] = part[:, size:]
            yield total * self._gain

    def _resampled_to_common(self, voice: Sound) -> Iterator[np.ndarray]:
        if voice.rate == self.rate and voice.channels == self.channels:
            yield from voice.chunks()
            return
        import av

        resampler = av.AudioResampler(format="fltp", layout=LAYOUTS[self.channels], rate=self.rate)
        at = 0
        for chunk in voice.chunks():
            if not chunk.shape[1]:
                continue
            if voice.channels not in LAYOUTS:
                chunk = chunk.mean(axis=0, keepdims=True)
            frame = sound_frame(chunk, kind="fltp", layout=LAYOUTS[chunk.shape[0]])
            frame.sample_rate, frame.pts = voice.rate, at
            frame.time_base = Fraction(1, voice.rate)
            at += chunk.shape[1]
            for out in resampler.resample(frame):
                yield _samples(out)
        for out in resampler.resample(None):
            yield _samples(out)
