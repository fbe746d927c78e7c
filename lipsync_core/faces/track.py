"""People through time: who is where in every frame, kept apart, without jitter."""

from __future__ import annotations

import itertools
import logging
import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..types import FaceTrack
from . import flow, smooth
from .align import cut
from .detect.base import Detection, Detector
from .looks import Looks, describe
from .shots import Shots

if TYPE_CHECKING:
    from ..types import Picture

log = logging.getLogger("lipsync.faces")

GAP = 0.4
"""Seconds for which a face may be hidden and still counts as present."""
RAMP = 0.16
"""Seconds over which the new mouth fades in after, and out before, a stretch without the face."""
LOOK = 0.2
"""Seconds between two looks of the detector at a face that is followed well."""
SEARCH = 0.6
"""Seconds between two searches of the whole picture for newcomers."""
WIDE = 4.6
"""Side of the square that the detector looks at, in units eyes to mouth."""
SAME = 0.35
"""Two appearances closer than this are one person, wherever they are; see ``looks.distance``."""
NEARBY = 0.6
"""And closer than this, where the face was lost a moment ago."""
SURE = 0.75
"""Part of the corners of a face that must move as one; with fewer, something is in front of it."""
MISSES = 3
"""Looks in a row that find nothing before a face is given up."""
TINY = (14.0, 22.0)
"""Distance eyes to mouth in px below which a face is not painted, and above which it is in full."""
FRONTAL = (0.28, 0.45)
"""Distance between the eyes per distance eyes to mouth: profile below, usable above."""


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """One person in one frame, as known so far."""

    person: int
    points: np.ndarray
    """``(5, 2)`` float32 source px."""
    box: np.ndarray
    """``(4,)`` float32 ``x0 y0 x1 y1`` source px."""
    score: float
    """Of the latest detection, 0..1."""
    detected: bool
    """The detector looked at this frame; else the points were carried here by the movement."""


@dataclass(frozen=True, kw_only=True)
class People:
    """Everyone who was followed, in the order of first appearance."""

    tracks: list[FaceTrack]
    persons: list[int]
    """The ``Sighting.person`` of each track."""
    frame_count: int
    detector: str
    searches: int
    """Frames in which the whole picture was searched."""


class Tracker:
    """Follows every face of a clip, frame by frame; memory grows by some floats a frame.

    ``size``: ``(W, H)`` of the pictures. ``fps``: mean frame rate, for all that is meant in seconds.
    ``sar``: width of a source pixel divided by its height.
    """

    def __init__(
        self,
        detector: Detector,
        size: tuple[int, int],
        fps: Fraction | float,
        sar: Fraction | float = 1,
    ) -> None:
        self._detector = detector
        self._size = size
        self._fps = min(max(float(fps), 1.0), 240.0)
        self._sar = float(sar)
        self._shots = Shots()
        self._people: list[_Person] = []
        self._frame = -1
        self._searched = -(10**9)
        self._searches = 0

    def see(self, picture: Picture) -> list[Sighting]:
        """Looks at the next frame; everyone who is followed in it."""
        self._frame += 1
        luma = picture.luma(flow.LUMA_SIDE)
        cut = self._shots.see(luma)
        for person in self._followed():
            person.move(picture, luma)
        if cut and any(person.agreement > SURE for person in self._followed()):
            # Skin does not move as one from one scene into another: a flash, or something passing.
            self._shots.revoke()
        elif cut:
            for person in self._people:
                person.leave()
        known = self._detector.at(self._frame)
        if known is None:
            for person in self._followed():
                if self._due(person):
                    self._look(person, picture)
            if self._search_due():
                self._search(picture)
            self._part()
        else:
            self._take(known)
        for person in self._followed():
            person.keep(self._frame, picture, luma)
        return [person.sighting(self._frame) for person in self._followed()]

    def finish(self) -> People:
        """The tracks, smoothed with knowledge of the whole clip."""
        frame_count = self._frame + 1
        shots = self._shots.numbers(frame_count)
        tracks, persons = [], []
        for person in self._people:
            track = _track(person, shots, frame_count, self._fps, self._detector, self._sar)
            if track is not None:
                tracks.append(track)
                persons.append(person.number)
        log.info(
            "followed %d of %d faces through %d frames in %d shots with %s",
            len(tracks), len(self._people), frame_count, len(self._shots.cuts) + 1, self._detector.name,
        )  # fmt: skip
        return People(
            tracks=tracks,
            persons=persons,
            frame_count=frame_count,
            detector=self._detector.name,
            searches=self._searches,
        )

    def _followed(self) -> list[_Person]:
        return [person for person in self._people if person.followed]

    def _frames(self, seconds: float) -> int:
        return max(round(seconds * self._fps), 1)

    def _due(self, person: _Person) -> bool:
        wait = 1 if person.misses or person.agreement < SURE else self._frames(LOOK)
        return self._frame - person.looked >= wait

    def _look(self, person: _Person, picture: Picture) -> None:
        """Asks the detector where exactly the face is."""
        person.looked = self._frame
        wide = WIDE * (1.6 if person.agreement == 0 else 1.0)
        found = self._closest(picture, person.points, wide)
        if found is None:
            person.miss(self._frame)
            return
        detection, seen = found
        rival = self._rival(person, detection, seen)
        if rival is not None:
            log.debug("frame %d: this is %d, not %d", self._frame, rival.number, person.number)
            if not rival.followed:
                rival.measure(self._frame, detection, self._noise(detection))
                rival.inherit(person, since=self._frame - self._frames(1.0))
            person.leave()
            return
        person.measure(self._frame, detection, self._noise(detection))
        person.strangeness = person.looks.distance(seen)
        person.looks.remember(seen)

    def _rival(self, person: _Person, detection: Detection, seen: np.ndarray) -> _Person | None:
        """Someone else whom this face resembles clearly more than the one it was taken for."""
        own = person.looks.distance(seen)
        if own < 0.2:
            return None
        for other in self._people:
            if other is person or other.shot_of_last != self._shot():
                continue
            if other.followed and _apart(other.points, _points(detection)) > 1.0:
                continue
            if other.looks.distance(seen) < 0.5 * own:
                return other
        return None

    def _closest(
        self, picture: Picture, points: np.ndarray, wide: float
    ) -> tuple[Detection, np.ndarray] | None:
        """The detection in a square around ``points`` that fits them best, and what it looks like."""
        side = self._detector.window
        square = self._square(points, wide, side)
        window = cut(picture, square, side)
        back = cv2.invertAffineTransform(square)
        best, least = None, 1.0
        for detection in self._detector.detect(window, side=2.2 * side / wide):
            moved = _carried(detection, back)
            gap = _apart(points, _points(moved)) + abs(math.log(_ratio(points, _points(moved))))
            if gap < least:
                best, least = (moved, describe(window, _points(detection))), gap
        return best

    def _square(self, points: np.ndarray, wide: float, side: int) -> np.ndarray:
        """``(2, 3)`` source px to px of an upright window with the face in its middle."""
        tall = points * (self._sar, 1.0)
        down = tall[3:].mean(0) - tall[:2].mean(0)
        unit = max(float(np.hypot(*down)), 1.0)
        scale = side / (wide * unit)
        # Slight tilts are left alone: turning the window with its own noise would feed it back.
        angle = math.atan2(down[0], down[1])
        angle = 0.0 if abs(angle) < 0.15 else angle
        cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
        linear = np.array([[cosine, -sine], [sine, cosine]])
        centre = (tall[:2].mean(0) + tall[3:].mean(0)) / 2
        shift = (side - 1) / 2 - linear @ centre
        return np.column_stack([linear * (self._sar, 1.0), shift])

    def _search_due(self) -> bool:
        if any(person.followed for person in self._people):
            lost = any(p.shot_of_last == self._shot() and not p.followed for p in self._people)
            patience = self._detector.patience
            wait = self._frames(max(0.2, patience) if lost else max(SEARCH, 3 * patience))
        else:
            # Just after a cut look at once and again; a clip without faces must stay cheap.
            since = self._frame - (self._shots.cuts[-1] if self._shots.cuts else 0)
            wait = 1 if since < 3 else self._frames(self._detector.patience)
        return self._frame - self._searched >= wait

    def _search(self, picture: Picture) -> None:
        """Looks for faces that nobody follows yet."""
        self._searched = self._frame
        self._searches += 1
        side = self._detector.search
        if self._followed():
            # A newcomer beside someone whom we follow already may be found a little later.
            side = side * 3 // 4
        small = picture.reduced(side)
        scale = small.shape[1] / picture.size[0]
        if abs(self._sar - 1) > 0.02:
            small = cv2.resize(small, (max(round(small.shape[1] * self._sar), 1), small.shape[0]))
        back = np.array(
            [
                [1 / (scale * self._sar), 0, 0.5 / (scale * self._sar) - 0.5],
                [0, 1 / scale, 0.5 / scale - 0.5],
            ]
        )
        for detection in self._detector.detect(small):
            rough = _carried(detection, back)
            if any(_apart(p.points, _points(rough)) < 0.8 for p in self._followed()):
                continue
            found = self._closest(picture, _points(rough), WIDE)
            if found is None or flow.unit_of(_points(found[0])) < TINY[0]:
                continue
            self._welcome(*found)

    def _welcome(self, detection: Detection, seen: np.ndarray) -> None:
        """A face that nobody follows: somebody who was away, or somebody new."""
        if any(_apart(p.points, _points(detection)) < 0.8 for p in self._followed()):
            return
        best, least = None, 1.0
        for person in self._people:
            if person.followed:
                continue
            limit = SAME
            if person.shot_of_last == self._shot():
                away = (self._frame - person.looked) / self._fps
                if _apart(person.points, _points(detection)) < 0.7 + 2 * away and away < 1.0:
                    limit = NEARBY
            distance = person.looks.distance(seen) / limit
            if distance < least:
                best, least = person, distance
        if best is None:
            best = _Person(number=len(self._people))
            self._people.append(best)
        best.measure(self._frame, detection, self._noise(detection))
        best.looked = self._frame
        best.looks.remember(seen)
        best.shot_of_last = self._shot()

    def _part(self) -> None:
        """Two tracks on one face: the one that resembles it less lets go."""
        followed = self._followed()
        for k, one in enumerate(followed):
            for other in followed[k + 1 :]:
                if one.followed and other.followed and _apart(one.points, other.points) < 0.5:
                    later = max(one, other, key=lambda person: (person.misses, person.strangeness))
                    later.leave()

    def _take(self, known: list[Detection]) -> None:
        """Faces that the caller gave for this frame: matched by place alone."""
        free = self._followed()
        for detection in known:
            points = _points(detection)
            near = min(free, key=lambda person: _apart(person.points, points), default=None)
            if near is None or _apart(near.points, points) > 1.5:
                away = [p for p in self._people if not p.followed]
                near = min(away, key=lambda person: _apart(person.points, points), default=None)
                if near is None:
                    near = _Person(number=len(self._people))
                    self._people.append(near)
            else:
                free.remove(near)
            near.measure(self._frame, detection, self._noise(detection))
            near.shot_of_last = self._shot()
        for person in free:
            person.miss(self._frame)

    def _noise(self, detection: Detection) -> float:
        return (self._detector.noise * flow.unit_of(_points(detection))) ** 2

    def _shot(self) -> int:
        return len(self._shots.cuts)


@dataclass(kw_only=True)
class _Person:
    """Somebody who is or was followed, with one row of floats for every frame followed."""

    number: int
    points: np.ndarray = field(default_factory=lambda: np.zeros((5, 2)))
    variance: float = 1e9
    looks: Looks = field(default_factory=Looks)
    followed: bool = False
    agreement: float = 1.0
    """Part of the corners that agree on the movement into this frame; 0 where it cannot be told."""
    misses: int = 0
    looked: int = -(10**9)
    shot_of_last: int = 0
    strangeness: float = 0.0
    """How little the latest detection looks like what is remembered."""
    rows: _Rows = field(default_factory=lambda: _Rows(ROW))
    _link: flow.Link | None = None
    _measured: tuple[np.ndarray, float, float] | None = None
    _missed: bool = False
    _view: flow.View | None = None
    _patch: np.ndarray | None = None
    _score: float = 0.0
    _half: np.ndarray = field(default_factory=lambda: np.ones(2))
    """Half width and height of the box per unit eyes to mouth."""
    _off: np.ndarray = field(default_factory=lambda: np.zeros(2))
    """From the middle of the points to the middle of the box, likewise."""

    def move(self, picture: Picture, luma: np.ndarray) -> None:
        """Carries the points from the frame before into this one."""
        self._link = None
        if self._view is not None and self._patch is not None:
            after = flow.patch_of(self._view, picture, luma)
            place = flow.placement(self._view, after, picture, luma)
            self._link = flow.link(self._patch, after, place, self.points)
        if self._link is None:
            self.agreement = 0.0
            self.variance += (0.3 * flow.unit_of(self.points)) ** 2
            return
        self.agreement = self._link.agreement
        self.points = self.points @ self._link.matrix[:, :2].T + self._link.matrix[:, 2]
        self.variance += self._link.variance

    def measure(self, frame: int, detection: Detection, noise: float) -> None:
        """Takes what the detector says into account."""
        points = _points(detection).astype(np.float64)
        if not self.followed:
            self.points, self.variance, self.followed = points, noise, True
            self._link, self.agreement = None, 1.0
        else:
            gain = self.variance / (self.variance + noise)
            self.points = self.points + gain * (points - self.points)
            self.variance *= 1 - gain
        self.misses = 0
        self.looked = frame
        self._measured = (points, noise, detection.score)
        self._score = detection.score
        unit = max(flow.unit_of(points), 1e-3)
        box = detection.box.astype(np.float64)
        self._half = (box[2:] - box[:2]) / 2 / unit
        self._off = ((box[:2] + box[2:]) / 2 - points.mean(0)) / unit

    def miss(self, frame: int) -> None:
        """The detector looked and found nothing."""
        self.looked = frame
        self.misses += 1 if self.agreement >= SURE else 2
        self._missed = True
        if self.misses >= MISSES or self.agreement == 0:
            self.leave()

    def leave(self) -> None:
        """Is not followed any more; may come back."""
        self.followed = False
        self.misses = 0
        self._view = self._patch = self._link = self._measured = None

    def keep(self, frame: int, picture: Picture, luma: np.ndarray) -> None:
        """Writes this frame's row and remembers the pixels that the next one is compared with."""
        row = np.full(ROW, np.nan, np.float32)
        row[0] = frame
        if self._link is not None:
            row[1:7] = self._link.matrix.ravel()
            row[7] = self._link.variance
        if self._measured is not None:
            row[8:18] = self._measured[0].ravel()
            row[18] = self._measured[1]
        row[19:23] = self.box()
        row[23] = self._missed
        self.rows.append(row)
        self._measured, self._missed, self._link = None, False, None
        self._view = flow.view_of(self.points, picture, luma)
        self._patch = flow.patch_of(self._view, picture, luma)

    def inherit(self, other: _Person, *, since: int) -> None:
        """Takes over the rows of somebody who turned out to be this person, if seen only ``since``."""
        rows = other.rows.table()
        mine = self.rows.table()
        if len(rows) and rows[0, 0] >= since and (not len(mine) or mine[-1, 0] < rows[0, 0]):
            for row in rows:
                self.rows.append(row)
            other.rows = _Rows(ROW)

    def box(self) -> np.ndarray:
        unit = flow.unit_of(self.points)
        centre = self.points.mean(0) + self._off * unit
        return np.concatenate([centre - self._half * unit, centre + self._half * unit])

    def sighting(self, frame: int) -> Sighting:
        return Sighting(
            person=self.number,
            points=self.points.astype(np.float32),
            box=self.box().astype(np.float32),
            score=self._score,
            detected=self.looked == frame and self.misses == 0,
        )


ROW = 24
"""Frame, movement 2x3 and its variance, detected points 5x2 and their variance, box, missed."""


class _Rows:
    """A growing table of float32."""

    def __init__(self, width: int) -> None:
        self._data = np.empty((64, width), np.float32)
        self._count = 0

    def append(self, row: np.ndarray) -> None:
        if self._count == len(self._data):
            self._data = np.concatenate([self._data, np.empty_like(self._data)])
        self._data[self._count] = row
        self._count += 1

    def table(self) -> np.ndarray:
        return self._data[: self._count]


def _track(
    person: _Person, shots: np.ndarray, frame_count: int, fps: float, detector: Detector, sar: float
) -> FaceTrack | None:
    """One person's rows made into a track, or None when there is nothing to paint on."""
    table = person.rows.table().astype(np.float64)
    # One look may be mistaken; a second, some frames later, hardly ever is.
    if np.isfinite(table[:, 18]).sum() < min(2, 1 + frame_count // max(round(2 * LOOK * fps), 1)):
        return None
    frames = table[:, 0].astype(int)
    measured = np.full((frame_count, 5, 2), np.nan)
    measured[frames] = table[:, 8:18].reshape(-1, 5, 2)
    seen = np.isfinite(measured[:, 0, 0])
    missed = np.zeros(frame_count, bool)
    missed[frames] = table[:, 23] > 0
    followed = np.zeros(frame_count, bool)
    followed[frames] = True
    points = np.full((frame_count, 5, 2), np.nan)
    present = np.zeros(frame_count, bool)
    for start, end in _stretches(seen, followed, missed, shots, max(round(GAP * fps), 1)):
        rows = np.full((end - start, ROW), np.nan)
        inside = (frames >= start) & (frames < end)
        rows[frames[inside] - start] = table[inside]
        points[start:end] = _path(rows, measured[start:end])
        present[start:end] = True
    if not present.any():
        return None
    strength = _strength(points, present, shots, fps, sar)
    present &= strength > 0
    if not present.any():
        return None
    boxes = np.full((frame_count, 4), np.nan)
    boxes[frames] = table[:, 19:23]
    return FaceTrack(
        points=_held(points).astype(np.float32),
        boxes=_held(boxes).astype(np.float32),
        present=present,
        strength=np.where(present, strength, 0).astype(np.float32),
        shots=shots,
        detector=detector.name,
    )


def _stretches(
    seen: np.ndarray, followed: np.ndarray, missed: np.ndarray, shots: np.ndarray, gap: int
) -> list[tuple[int, int]]:
    """``[start, end)`` of frames in which the face is there: detected, carried, or hidden briefly."""
    stretches: list[tuple[int, int]] = []
    for frame in np.flatnonzero(seen).tolist():
        end = frame + 1
        # Carried beyond the last detection until a look misses, the track or the shot ends.
        while (
            end < len(seen)
            and followed[end]
            and not missed[end]
            and not seen[end]
            and shots[end] == shots[frame]
        ):
            end += 1
        if (
            stretches
            and frame - stretches[-1][1] <= gap
            and shots[stretches[-1][0]] == shots[frame]
        ):
            stretches[-1] = (stretches[-1][0], end)
        else:
            stretches.append((frame, end))
    return stretches


def _path(rows: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Smooth points of one stretch: ``(T, 5, 2)``."""
    unit = float(
        np.nanmedian(np.linalg.norm(measured[:, 3:].mean(1) - measured[:, :2].mean(1), axis=1))
    )
    linked = np.isfinite(rows[:, 1])
    turn = np.where(linked, rows[:, 1] + 1j * rows[:, 4], 1)
    shift = np.where(linked, rows[:, 3] + 1j * rows[:, 6], 0)
    drift = np.where(linked, rows[:, 7], (0.05 * unit) ** 2)
    noise = np.where(np.isfinite(rows[:, 18]), rows[:, 18], 1.0)
    path = smooth.fuse(measured[..., 0] + 1j * measured[..., 1], noise, turn, shift, drift)
    return np.stack([path.real, path.imag], axis=-1)


def _strength(
    points: np.ndarray, present: np.ndarray, shots: np.ndarray, fps: float, sar: float
) -> np.ndarray:
    """``(T,)`` 0..1: faded at the ends of a stretch, in profile, and where the face is tiny."""
    strength = present.astype(np.float64)
    length = max(round(RAMP * fps), 1)
    for start, end in smooth.spans(present):
        for first, last in _by_shot(start, end, shots):
            ramp = (np.arange(last - first) + 1) / (length + 1)
            if first > 0 and not present[first - 1] and shots[first - 1] == shots[first]:
                strength[first:last] = np.minimum(strength[first:last], ramp)
            if last < len(present) and not present[last] and shots[last] == shots[last - 1]:
                strength[first:last] = np.minimum(strength[first:last], ramp[::-1])
            tall = points[first:last] * (sar, 1.0)
            unit = np.linalg.norm(tall[:, 3:].mean(1) - tall[:, :2].mean(1), axis=1)
            span = np.linalg.norm(tall[:, 1] - tall[:, 0], axis=1) / np.maximum(unit, 1e-6)
            strength[first:last] *= _eased(unit, *TINY) * _eased(span, *FRONTAL)
    return strength


def _by_shot(start: int, end: int, shots: np.ndarray) -> list[tuple[int, int]]:
    edges = [start, *(np.flatnonzero(np.diff(shots[start:end])) + start + 1).tolist(), end]
    return list(itertools.pairwise(edges))


def _eased(value: np.ndarray, low: float, high: float) -> np.ndarray:
    value = np.clip((value - low) / (high - low), 0, 1)
    return value * value * (3 - 2 * value)


def _held(values: np.ndarray) -> np.ndarray:
    """``(T, ...)`` with rows that are not finite replaced by the last finite one (or the first)."""
    good = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    last = np.maximum.accumulate(np.where(good, np.arange(len(values)), -1))
    return values[np.where(last < 0, int(np.argmax(good)), last)]


def _points(detection: Detection) -> np.ndarray:
    assert detection.points is not None, "detectors of this tracker give points"
    return detection.points


def _carried(detection: Detection, matrix: np.ndarray) -> Detection:
    """The same face in another picture; ``matrix`` ``(2, 3)``."""
    points = _points(detection) @ matrix[:, :2].T + matrix[:, 2]
    centre = (detection.box[:2] + detection.box[2:]) / 2 @ matrix[:, :2].T + matrix[:, 2]
    # The side lengths alone: a turned box stays upright.
    half = (detection.box[2:] - detection.box[:2]) / 2 * np.hypot(matrix[0, :2], matrix[1, :2])
    return Detection(
        box=np.concatenate([centre - half, centre + half]).astype(np.float32),
        points=points.astype(np.float32),
        score=detection.score,
    )


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    """Distance of two faces in units of their mean distance eyes to mouth."""
    unit = (flow.unit_of(one) + flow.unit_of(other)) / 2
    return float(np.hypot(*(one.mean(0) - other.mean(0)))) / max(unit, 1.0)


def _ratio(one: np.ndarray, other: np.ndarray) -> float:
    return max(flow.unit_of(one), 1e-3) / max(flow.unit_of(other), 1e-3)
