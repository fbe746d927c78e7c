"""Stretches of a clip: as people write them, as a score marks them, and how they are blended in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from ..errors import SettingsError

if TYPE_CHECKING:
    from ..types import SyncScore

Stretch = tuple[Fraction, Fraction]
"""``(start, end)`` in seconds of the clip."""

FADE = 0.12
"""Seconds over which a redone stretch is blended with what was there; three frames at 25."""
MARGIN = 0.2
"""Seconds by which a weak stretch is widened before it is redone: its edges are not sharp."""
GAIN = 0.05
"""Agreement by which a new take must beat the old one to be kept."""


def parse(text: str) -> list[Stretch]:
    """Reads ``a-b,c-d``, each a time as elsewhere (``12.5``, ``1:02.5``); sorted, overlaps joined."""
    stretches = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([\d.:/]+)\s*-\s*([\d.:/]+)\s*", part)
        if match is None:
            raise SettingsError(
                f"{part.strip()!r} is not a segment; write start-end in seconds, "
                "several with commas: 1.5-3,7-9.25"
            )
        start, end = (_seconds(word) for word in match.groups())
        if end <= start:
            raise SettingsError(
                f"segment {part.strip()!r} ends before it begins; write the earlier time first"
            )
        stretches.append((start, end))
    return joined(stretches)


def _seconds(word: str) -> Fraction:
    try:
        parts = [Fraction(part) for part in word.split(":")]
        if len(parts) > 3:
            raise ValueError
    except (ValueError, ZeroDivisionError) as error:
        raise SettingsError(
            f"{word!r} is not a time; write seconds (12.5) or minutes (1:02.5)"
        ) from error
    return sum((part * 60**power for power, part in enumerate(reversed(parts))), start=Fraction(0))


def joined(stretches: Sequence[Stretch]) -> list[Stretch]:
    """In order, with what touches or overlaps made one."""
    result: list[Stretch] = []
    for start, end in sorted(stretches):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def weak(score: SyncScore) -> list[Stretch]:
    """What of a result is worth another take: its weak and displaced segments, a little wider."""
    marked = [
        (
            max(Fraction(segment.start) - Fraction(MARGIN), Fraction(0)).limit_denominator(1000),
            (Fraction(segment.end) + Fraction(MARGIN)).limit_denominator(1000),
        )
        for segment in score.segments
        if segment.state in ("weak", "off")
    ]
    return joined(marked)


def shares(times: Sequence[float] | np.ndarray, stretches: Sequence[Stretch]) -> np.ndarray:
    """``(T,)`` float32: how much of a frame at each of ``times`` is new: 1 inside, 0 outside.

    The blend lies outside the stretches, so that what was asked for is new in full. Frames whose
    share is 0 need not be drawn.
    """
    moments = np.asarray([float(time) for time in times])
    share = np.zeros(len(moments))
    for start, end in stretches:
        away = np.maximum(float(start) - moments, moments - float(end))
        share = np.maximum(share, np.clip(1.0 - np.maximum(away, 0.0) / FADE, 0.0, 1.0))
    return (share * share * (3.0 - 2.0 * share)).astype(np.float32)


def blend(old: np.ndarray, new: np.ndarray, share: float) -> np.ndarray:
    """``(h, w, 3)`` uint8: the old picture going over into the new one."""
    mixed = old.astype(np.float32) + np.float32(share) * (new.astype(np.float32) - old)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Take:
    """What became of one stretch that was redone."""

    start: float
    end: float
    before: float
    """Agreement of the old take, or SyncNet's confidence where both scores have it."""
    after: float
    kept: bool
    """The new take is better and stays."""


def judge_takes(old: SyncScore, new: SyncScore, stretches: Sequence[Stretch]) -> list[Take]:
    """Compares two results of one clip stretch by stretch; keep the new take where ``kept``."""
    by_syncnet = all(
        segment.confidence is not None or segment.state in ("silent", "no face")
        for score in (old, new)
        for segment in score.segments
    )
    takes = []
    for start, end in stretches:
        before = _value(old, start, end, by_syncnet)
        after = _value(new, start, end, by_syncnet)
        takes.append(
            Take(
                start=float(start),
                end=float(end),
                before=before,
                after=after,
                kept=after > before + GAIN,
            )
        )
    return takes


def _value(score: SyncScore, start: Fraction, end: Fraction, by_syncnet: bool) -> float:
    """Mean over the stretch, each segment weighing what it covers of it."""
    total = weight = 0.0
    for segment in score.segments:
        value = segment.confidence if by_syncnet else segment.agreement
        cover = min(segment.end, float(end)) - max(segment.start, float(start))
        if value is None or cover <= 0:
            continue
        # What fits elsewhere does not fit here.
        total += cover * (min(value, 0.0) if segment.state == "off" else value)
        weight += cover
    return total / weight if weight else 0.0
