"""Watches the mouths of a clip in one pass: how fast and how far each opens, without landmarks."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..errors import MediaError
from ..faces import align
from ..faces.templates import Template
from ..types import Progress

if TYPE_CHECKING:
    from ..faces.detect.base import Detector
    from ..faces.track import People
    from ..media.reader import Clip
    from ..types import Picture

_LEAST_RANGE = 0.03
"""Opening below which a mouth counts as still."""


@dataclass(frozen=True, kw_only=True)
class MouthMotion:
    """One mouth through a clip, one row a frame, NaN where it was not seen.

    Lengths are in eye-mouth distances, so that a face may come closer.
    """

    speed: np.ndarray
    """``(T,)`` float32: opening gained since the frame before, by flow between the two."""
    opening: np.ndarray
    """``(T,)`` float32 by flow against a few frames of the same person; 0 is arbitrary."""
    width: np.ndarray
    """``(T,)`` float32, as ``opening``."""
    gap: np.ndarray
    """``(T,)`` float32: height of what parts the lips by their colour; 0 where shut."""

    @property
    def seen(self) -> np.ndarray:
        """``(T,)`` bool."""
        return np.isfinite(self.opening)

    def where(self, frames: np.ndarray) -> MouthMotion:
        """The same seen in ``frames`` (``(T,)`` bool) only."""
        return MouthMotion(
            **{
                name: np.where(frames, getattr(self, name), np.float32(np.nan))
                for name in ("speed", "opening", "width", "gap")
            }
        )

    @property
    def openness(self) -> np.ndarray:
        """``(T,)`` float64: about 0 shut, 1 as wide as this mouth opens in the clip; NaN unseen.

        The mean of two measures that fail differently: flow loses its zero when the head turns,
        colour needs lips that are redder than skin.
        """
        seen = self.seen
        if not seen.any():
            return self.opening.astype(np.float64)
        low, high = np.percentile(self.opening[seen], [3, 97])
        # A mouth that hardly moves must not look as if it did.
        by_flow = (self.opening - low) / max(float(high - low), _LEAST_RANGE)
        widest = float(np.percentile(self.gap[seen], 97))
        if widest < _LEAST_RANGE:
            return by_flow.astype(np.float64)
        return 0.5 * (by_flow + self.gap / widest).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A clip after one look at it."""

    clip: Clip
    people: People
    motions: list[MouthMotion]
    """One for each of ``people.tracks``."""
    times: np.ndarray
    """``(T,)`` float64: when each frame begins, seconds from the first."""
    begins: Fraction
    """Time stamp of the first frame in the file, seconds."""
    start: Fraction
    """Seconds of the file's picture that were left out before the first frame."""

    @property
    def frame_count(self) -> int:
        return len(self.times)

    @property
    def duration(self) -> float:
        """Seconds of picture."""
        return float(self.times[-1]) + 1.0 / float(self.clip.frame_rate)


class MouthWatch:
    """One person's mouth, frame by frame. Memory: a handful of floats a frame, a few small views."""

    def __init__(self, sar: Fraction | float = 1) -> None:
        from ..engines.draft.measure import VIEW, VIEW_BOX, VIEW_UNIT, Gauge

        self._rows_of_view = VIEW[0]
        self._template = Template(
            size=VIEW[1],
            eyes=(0.5, (-VIEW_BOX[1] - 1.0) * VIEW_UNIT / VIEW[1]),
            mouth=(0.5, -VIEW_BOX[1] * VIEW_UNIT / VIEW[1]),
        )
        self._sar = float(sar)
        self._gauge = Gauge()
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._last: tuple[int, np.ndarray] | None = None
        self._frames = array("q")
        self._values = array("f")

    def see(self, picture: Picture, points: np.ndarray) -> None:
        """Looks at one frame. ``points``: ``(5, 2)`` as tracked so far."""
        from ..engines.draft.measure import mouth_change, pose_of

        points = np.asarray(points, np.float32)
        matrix = align.fit(points[None], self._template, self._sar)[0]
        crop = align.cut(picture, matrix, self._template.size)
        view = np.ascontiguousarray(crop[: self._rows_of_view])
        gray = cv2.cvtColor(view, cv2.COLOR_RGB2GRAY)
        reading = self._gauge.read(view, pose_of(points))
        speed = np.nan
        if self._last is not None and self._last[0] == picture.index - 1:
            speed = mouth_change(self._flow.calc(self._last[1], gray, None))[0]
        self._last = (picture.index, gray)
        self._frames.append(picture.index)
        self._values.extend((reading.reference, speed, reading.opening, reading.width, reading.gap))

    def leave(self) -> None:
        """A cut: the next frame has nothing to be compared with."""
        self._last = None

    def motion(self, frame_count: int) -> MouthMotion:
        """Everything seen so far, on the frames of the clip."""
        table = np.full((frame_count, 4), np.nan, np.float32)
        if len(self._frames):
            values = np.frombuffer(self._values, np.float32).reshape(-1, 5)
            rows = values[:, 1:].copy()
            rows[:, 1:3] += self._gauge.zeros()[values[:, 0].astype(int)]
            table[np.frombuffer(self._frames, np.int64)] = rows
        return MouthMotion(
            speed=table[:, 0], opening=table[:, 1], width=table[:, 2], gap=table[:, 3]
        )


def watch(
    video: str | Path,
    *,
    detector: Detector,
    start: Fraction | None = None,
    end: Fraction | None = None,
    progress: Progress | None = None,
) -> Watched:
    """Follows every face of ``video`` and measures its mouth, in one pass and flat memory."""
    from ..faces.track import Tracker
    from ..media.reader import Reader, prefetch

    reader = Reader(video, start=start, end=end)
    clip = reader.clip
    if clip.is_still:
        raise MediaError(f"{video} is a still picture; give a video, a still has no lip movement")
    tracker = Tracker(detector, (clip.width, clip.height), clip.frame_rate, clip.sar)
    watches: dict[int, MouthWatch] = {}
    times = array("d")
    begins = Fraction(0)
    for frame in prefetch(reader.frames()):
        if not times and frame.video.pts is not None and frame.video.time_base is not None:
            begins = frame.video.pts * Fraction(frame.video.time_base)
        for sighting in tracker.see(frame):
            if sighting.person not in watches:
                watches[sighting.person] = MouthWatch(clip.sar)
            watches[sighting.person].see(frame, sighting.points)
        times.append(float(frame.time))
        if progress is not None:
            progress(len(times), max(clip.frame_count, len(times)))
    people = tracker.finish()
    found = [watches.get(person) or MouthWatch() for person in people.persons]
    return _watched(clip, people, found, times, begins, start)


def watch_again(
    video: str | Path,
    people: People,
    *,
    start: Fraction | None = None,
    end: Fraction | None = None,
    progress: Progress | None = None,
) -> Watched:
    """As ``watch`` for a clip whose ``people`` are known, so that nothing is searched once more."""
    from ..media.reader import Reader, prefetch

    reader = Reader(video, start=start, end=end)
    watches = [MouthWatch(reader.clip.sar) for _ in people.tracks]
    times = array("d")
    begins = Fraction(0)
    for frame in prefetch(reader.frames()):
        if frame.index >= people.frame_count:
            break
        if not times and frame.video.pts is not None and frame.video.time_base is not None:
            begins = frame.video.pts * Fraction(frame.video.time_base)
        for track, mouth in zip(people.tracks, watches, strict=True):
            if track.present[frame.index]:
                mouth.see(frame, track.points[frame.index])
        times.append(float(frame.time))
        if progress is not None:
            progress(len(times), people.frame_count)
    return _watched(reader.clip, people, watches, times, begins, start)


def _watched(
    clip: Clip,
    people: People,
    watches: list[MouthWatch],
    times: array[float],
    begins: Fraction,
    start: Fraction | None,
) -> Watched:
    motions = []
    for track, mouth in zip(people.tracks, watches, strict=True):
        motion = mouth.motion(len(times))
        # flow across a cut says nothing about a mouth
        cut = np.flatnonzero(np.diff(track.shots)) + 1
        motion.speed[cut] = np.nan
        motions.append(motion)
    return Watched(
        clip=clip,
        people=people,
        motions=motions,
        times=np.frombuffer(times, np.float64).copy(),
        begins=begins,
        start=start or Fraction(0),
    )
