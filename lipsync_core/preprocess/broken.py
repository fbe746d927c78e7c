"""Leaves out what cannot be read, has no sound or no picture, or is too short."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import LipSyncError
from .step import Book, Source, Step

if TYPE_CHECKING:
    from ..media.audio import VoiceFile
    from .config import Config


class Broken(Step):
    """Opens the file as every later step will; never removes or changes it."""

    name = "broken"
    takes = "file"
    gives = "file"

    def run(self, sample: Source, book: Book) -> Iterator[Source]:
        try:
            metrics, voice = look(sample)
        except LipSyncError as error:
            reason = str(error).replace(str(sample.path), sample.path.name)
            book.add(self.name, sample.key, state="rejected", reason=reason)
            return
        reason = self.judge(metrics, self.config)
        book.add(
            self.name,
            sample.key,
            state="rejected" if reason else "kept",
            reason=reason,
            metrics=metrics,
        )
        if not reason:
            yield replace(sample, voice=voice)

    @staticmethod
    def judge(metrics: Mapping[str, Any], config: Config) -> str:
        limits = config.broken
        if not metrics:
            return "cannot be read"
        if metrics["still"]:
            return "a still picture; a video is needed"
        if metrics["seconds"] < limits.min_seconds:
            return f"{metrics['seconds']:.1f} s long; at least {limits.min_seconds:g} s are needed"
        if min(metrics["width"], metrics["height"]) < limits.min_side:
            size = f"{metrics['width']}x{metrics['height']}"
            return f"pictures of {size}; the shorter side must have {limits.min_side} px"
        return ""


def look(sample: Source) -> tuple[dict[str, Any], VoiceFile | None]:
    """What the file says of itself, and its sound; LipSyncError where it lacks picture or sound."""
    from ..media.audio import VoiceFile
    from ..media.reader import probe

    facts = probe(sample.path)
    metrics: dict[str, Any] = {
        "still": facts.is_still,
        "seconds": round(float(facts.duration), 3),
        "width": facts.width,
        "height": facts.height,
        "fps": round(float(facts.frame_rate), 3),
        "codec": facts.codec,
    }
    if facts.is_still:
        return metrics, None
    voice = VoiceFile(sample.path)
    metrics |= {
        "sound_seconds": round(float(voice.duration), 3),
        "sound_rate": voice.rate,
        "sound_codec": voice.codec,
        "sound_mended": voice.mended,
    }
    return metrics, voice
