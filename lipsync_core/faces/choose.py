"""Which of the people in a clip are meant, and what to say when nobody is there."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from ..errors import FaceError, SettingsError
from ..types import FaceTrack
from . import smooth
from .track import People

log = logging.getLogger("lipsync.faces")

WORDS = "largest, left, right, index:N, point:x,y or point:x,y@seconds, all"
BRIEF = 0.1
"""People seen for less than this part of the one seen most are passers-by, not persons to count."""


def choose(
    people: People,
    spec: str,
    times: Sequence[Fraction | float],
    size: tuple[int, int],
) -> list[FaceTrack]:
    """The tracks that ``spec`` asks for, at least one.

    ``spec``: ``largest`` (most and nearest over the whole clip), ``left``, ``right``, ``index:N``
    (0 is the leftmost), ``point:x,y[@t]`` (pixels; the face there at ``t`` seconds, or the one
    that is there most) or ``all``. ``times``: seconds of each frame. ``size``: ``(W, H)``.
    SettingsError for a word that means nothing, FaceError when no such face was seen.
    """
    kind, number, place, moment = parse(spec)
    if not people.tracks:
        raise FaceError(nobody(people))
    if kind == "point":
        return [_at(people, place, moment, times, size)]
    if kind == "all":
        return sorted(people.tracks, key=_weight, reverse=True)
    if kind == "largest":
        return [max(people.tracks, key=_weight)]
    most = max(_weight(track) for track in people.tracks)
    counted = [track for track in people.tracks if _weight(track) >= BRIEF * most]
    across = sorted(counted, key=lambda track: float(np.median(_middle(track)[:, 0])))
    if kind == "left":
        return [across[0]]
    if kind == "right":
        return [across[-1]]
    if number >= len(across):
        raise FaceError(
            f"face {spec!r} does not exist: {len(across)} face{'s were' if len(across) > 1 else ' was'} "
            f"found, so N goes from 0 to {len(across) - 1} (left to right)"
        )
    return [across[number]]


def parse(spec: str) -> tuple[str, int, tuple[float, float], float | None]:
    """``(kind, index, point, seconds)`` of a choice in words; SettingsError names the valid ones."""
    text = spec.strip().lower()
    if text in ("largest", "left", "right", "all"):
        return text, 0, (0.0, 0.0), None
    if match := re.fullmatch(r"index:\s*(\d+)", text):
        return "index", int(match[1]), (0.0, 0.0), None
    figure = r"\s*(\d+(?:\.\d*)?|\.\d+)\s*"
    if match := re.fullmatch(rf"point:{figure},{figure}(?:@{figure}s?)?", text):
        moment = float(match[3]) if match[3] else None
        return "point", 0, (float(match[1]), float(match[2])), moment
    raise SettingsError(f"face {spec!r} means nothing; choose one of {WORDS}")


def nobody(people: People) -> str:
    """One line for a clip without a usable face: what was tried, what may help."""
    help_ = "choose a clip in which the face is larger and seen from the front"
    if people.detector == "cascade":
        help_ += ", or fetch the better detector: lipsync models download yunet"
    elif people.detector == "yunet":
        help_ += ", or give its box or landmarks"
    return (
        f"found no face in {people.frame_count} frame{'s' if people.frame_count != 1 else ''} "
        f"({people.searches} searched by {people.detector}); {help_}"
    )


def check_present(track: FaceTrack, *, start: int = 0, end: int | None = None) -> None:
    """FaceError naming the frames ``start <= t < end`` in which the face is absent, if there are any."""
    absent = smooth.spans(~track.present[start:end])
    if not absent:
        return
    shown = [_range(first + start, last + start) for first, last in absent[:5]]
    more = f" and {len(absent) - 5} more stretches" if len(absent) > 5 else ""
    raise FaceError(
        f"found no face in frames {', '.join(shown)}{more}; trim the clip, give the face's box, "
        "or let such frames pass through (--missing pass)"
    )


def _range(first: int, end: int) -> str:
    return str(first) if end - first == 1 else f"{first}-{end - 1}"


def _middle(track: FaceTrack) -> np.ndarray:
    return track.points[track.present].mean(axis=1)


def _weight(track: FaceTrack) -> float:
    """Frames times size: who is in the picture most, and nearest."""
    points = track.points[track.present]
    unit = np.linalg.norm(points[:, 3:].mean(1) - points[:, :2].mean(1), axis=1)
    return float(unit.sum())


def _at(
    people: People,
    place: tuple[float, float],
    moment: float | None,
    times: Sequence[Fraction | float],
    size: tuple[int, int],
) -> FaceTrack:
    x, y = place
    if x >= size[0] or y >= size[1]:
        raise SettingsError(
            f"face point {x:g},{y:g} lies outside the picture of {size[0]}x{size[1]} pixels"
        )
    seconds = np.array([float(time) for time in times])
    if moment is not None and len(seconds) and moment > seconds[-1] + 1:
        raise SettingsError(
            f"face point at {moment:g} s lies behind the end of the clip ({seconds[-1]:.2f} s)"
        )
    when = "" if moment is None else f" at {moment:g} s"
    best, least = None, 2.0
    for track in people.tracks:
        rows = np.flatnonzero(track.present)
        if moment is not None:
            frame = int(np.argmin(np.abs(seconds - moment)))
            # The face may be hidden in that very frame: a quarter of a second either way will do.
            near = rows[np.abs(seconds[rows] - seconds[frame]) <= 0.25]
            rows = near[np.argsort(np.abs(near - frame))[:1]]
        if not len(rows):
            continue
        boxes = track.boxes[rows]
        centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        # 1 on the edge of the box; half a box of grace all round.
        away = np.abs((np.array(place) - centre) / np.maximum(half, 1)).max(axis=1) / 1.5
        inside = float((away < 1).mean())
        if inside > 0:
            cost = float(np.median(away[away < 1])) + 1 - inside
            if cost < least:
                best, least = track, cost
    if best is None:
        seen = ", ".join(
            f"{m[0]:.0f},{m[1]:.0f}" for m in (np.median(_middle(t), axis=0) for t in people.tracks)
        )
        raise FaceError(f"no face at {x:g},{y:g}{when}; faces were seen around {seen}")
    return best
