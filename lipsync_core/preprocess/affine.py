"""Follows the faces of a segment and cuts one of them out, upright and steady, every frame valid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..faces import align
from .step import FPS, RATE, SAMPLES_PER_FRAME, Book, Clip, Moment, Step, Stream
from .thumbs import SIDE as THUMB
from .thumbs import jpeg
from .views import GAP_MARGIN, View, around

if TYPE_CHECKING:
    from ..faces.templates import Template
    from ..faces.track import People, Sighting
    from ..scoring.motion import MouthMotion, MouthWatch
    from ..types import FaceTrack

PEOPLE = 2
"""Faces of a picture that are kept until it is known who stays; the largest ones."""
MARGIN = round(0.64 * RATE)
"""Samples of sound kept before and after a clip: more than the sync estimate ever shifts."""


class Affine(Step):
    """The person who is there longest and largest, then whoever is there while that one is not.

    A gap of the face ends a clip.
    """

    name = "affine"
    takes = "stream"
    gives = "clip"

    def run(self, sample: Stream, book: Book) -> Iterator[Clip]:
        if sample.key in book.done:
            return
        look = _Look(self, sample)
        for number, picture in enumerate(sample.pictures):
            look.see(picture.numbered(number))
        least = round(self.config.segment.min_seconds * FPS)
        if look.frames < least:
            # Told by the step that cuts segments, which counts them.
            return
        clips, metrics, reason = look.clips(least)
        kept = 0
        for clip in clips:
            kept += clip.frame_count
            yield clip
        book.add(
            self.name,
            sample.key,
            parent=sample.parent,
            state="rejected" if reason else "kept",
            reason=reason,
            metrics={**metrics, "clips": len(clips), "kept_seconds": kept / FPS},
            first=sample.first,
            frames=look.frames,
            thumb=look.thumb() if reason else None,
        )
        book.flush()


@dataclass
class _Seen:
    """A person's face in the segment so far."""

    views: dict[int, View] = field(default_factory=dict)
    points: np.ndarray | None = None
    last: int = -(10**9)


class _Look:
    """One pass over a segment: small things are measured at once, pixels around faces are kept."""

    def __init__(self, step: Affine, sample: Stream) -> None:
        from ..faces.track import Tracker
        from ..scoring.crops import ALIGNED

        self._step = step
        self._sample = sample
        facts = sample.facts
        self._sar = float(facts.sar)
        self._tracker = Tracker(step.setup.detector, (facts.width, facts.height), FPS, facts.sar)
        self._engine = step.setup.sync_engine
        self._template = step.setup.template
        self._templates: list[Template] = [self._template]
        if self._engine == "syncnet_v2":
            self._templates.append(ALIGNED)
        self._people: dict[int, _Seen] = {}
        self._mouths: dict[int, MouthWatch] = {}
        self._times: list[float] = []
        self._damaged: list[bool] = []
        self._small: np.ndarray | None = None

    @property
    def frames(self) -> int:
        return len(self._times)

    def see(self, picture: Moment) -> None:
        number = picture.index
        self._times.append(float(picture.shown))
        self._damaged.append(picture.damaged)
        if number == 0:
            self._small = picture.reduced(2 * THUMB)
        sightings = sorted(self._tracker.see(picture), key=_width, reverse=True)[:PEOPLE]
        for sighting in sightings:
            person = self._people.setdefault(sighting.person, _Seen())
            person.views[number] = around(picture, sighting.points, self._templates, self._sar)
            person.points, person.last = sighting.points, number
            if self._engine == "embedded":
                self._watch(picture, sighting)
        seen = {sighting.person for sighting in sightings}
        for name, person in self._people.items():
            if name not in seen and number - person.last <= _gap() and person.points is not None:
                person.views[number] = around(
                    picture, person.points, self._templates, self._sar, margin=GAP_MARGIN
                )

    def clips(self, least: int) -> tuple[list[Clip], dict[str, Any], str]:
        """The valid stretches of whom the clip is of, what was measured, and why there is none."""
        people = self._tracker.finish()
        metrics: dict[str, Any] = {"people": len(people.tracks)}
        if not people.tracks:
            return [], metrics, "no face"
        clips: list[Clip] = []
        # no clip holds what stands in for pictures that could not be read
        free = ~np.array(self._damaged, bool)
        seen = np.zeros(self.frames, bool)
        longest = 0
        # Where the main person is not, somebody else may be; never two in one clip.
        for number in _by_weight(people):
            track, person = people.tracks[number], people.persons[number]
            matrices = align.fit(track.points, self._template, self._sar)
            views = [self._view(person, frame, matrices[frame]) for frame in range(self.frames)]
            valid = track.present & np.array([view is not None for view in views])
            motion = self._mouths[person].motion(self.frames) if person in self._mouths else None
            whole = _runs(valid & free, track.shots, 1)
            longest = max([longest, *(end - first for first, end in whole)])
            for first, end in _runs(valid & free, track.shots, least):
                clips.append(self._clip(track, views, motion, first, end))
                free[first:end] = False
            seen |= valid
        metrics["valid_share"] = round(float(seen.mean()), 4)
        clips.sort(key=lambda clip: clip.first)
        if clips:
            return clips, metrics, ""
        reason = (
            f"a face is seen {seen.sum() / FPS:.1f} of {self.frames / FPS:.1f} s, at most "
            f"{longest / FPS:.1f} s of it in one piece; {least / FPS:g} s are needed"
        )
        if damaged := sum(self._damaged):
            reason += f", and {damaged / FPS:.1f} s are damaged"
        return [], metrics, reason

    def thumb(self) -> bytes | None:
        return None if self._small is None else jpeg(self._small)

    def _watch(self, picture: Moment, sighting: Sighting) -> None:
        from ..scoring.motion import MouthWatch

        if sighting.person not in self._mouths:
            self._mouths[sighting.person] = MouthWatch(self._sar)
        self._mouths[sighting.person].see(picture, sighting.points)

    def _view(self, person: int, frame: int, matrix: np.ndarray) -> View | None:
        """The kept pixels that hold the crop of this frame, whoever they were kept for."""
        own = self._people.get(person)
        others = [seen for seen in self._people.values() if seen is not own]
        for seen in [own, *others]:
            view = seen.views.get(frame) if seen is not None else None
            if view is not None and view.covers(matrix, self._template.size):
                return view
        return None

    def _clip(
        self,
        track: FaceTrack,
        views: list[View | None],
        motion: MouthMotion | None,
        first: int,
        end: int,
    ) -> Clip:
        sample, template = self._sample, self._template
        points = track.points[first:end]
        # Fitted to the stretch alone: what the person looks like elsewhere must not tilt it.
        matrices = align.fit(points, template, self._sar)
        part = [view for view in views[first:end] if view is not None]
        assert len(part) == end - first
        crops = np.stack(
            [view.cut(matrix, template.size) for view, matrix in zip(part, matrices, strict=True)]
        )
        faces = None
        if self._engine == "syncnet_v2":
            from ..scoring.crops import ALIGNED

            wide = align.fit(points, ALIGNED, self._sar)
            faces = np.stack(
                [view.cut(matrix, ALIGNED.size) for view, matrix in zip(part, wide, strict=True)]
            )
        start = sample.first + first
        sound = sample.tape.cut(
            start * SAMPLES_PER_FRAME - MARGIN, (end - first) * SAMPLES_PER_FRAME + 2 * MARGIN
        )
        if motion is not None:
            motion = type(motion)(
                speed=motion.speed[first:end],
                opening=motion.opening[first:end],
                width=motion.width[first:end],
                gap=motion.gap[first:end],
            )
        return Clip(
            key=f"{sample.source.key}-c{start:06d}",
            parent=sample.key,
            source=sample.source,
            first=start,
            crops=crops,
            sound=sound,
            margin=MARGIN,
            points=points,
            boxes=track.boxes[first:end],
            matrices=matrices,
            times=np.array(self._times[first:end]),
            facts=sample.facts,
            motion=motion,
            faces=faces,
            found={
                **pose(points, self._sar),
                "face_px": round(template.size / _vertical_scale(matrices), 1),
                "blockiness": blockiness(part[:: max(len(part) // 8, 1)]),
            },
        )


def _width(sighting: Sighting) -> float:
    return float(sighting.box[2] - sighting.box[0])


def _gap() -> int:
    from ..faces.track import GAP

    return round(GAP * FPS)


def _by_weight(people: People) -> list[int]:
    """Numbers of the tracks; first the one whose face covers most over all frames where it can be used."""

    def weight(track: FaceTrack) -> float:
        sides = track.boxes[:, 2:] - track.boxes[:, :2]
        return float((sides[:, 0] * sides[:, 1] * track.present).sum())

    order = range(len(people.tracks))
    return sorted(order, key=lambda number: weight(people.tracks[number]), reverse=True)


def _runs(valid: np.ndarray, shots: np.ndarray, least: int) -> list[tuple[int, int]]:
    """``[first, end)`` of stretches that are valid throughout, in one shot, and long enough."""
    from ..faces.smooth import spans

    runs = []
    for first, end in spans(valid):
        cuts = (np.flatnonzero(np.diff(shots[first:end])) + 1 + first).tolist()
        runs += [pair for pair in pairwise([first, *cuts, end]) if pair[1] - pair[0] >= least]
    return runs


def _vertical_scale(matrices: np.ndarray) -> float:
    """Crop px per source px along the face, the median of the clip; ``stretch`` widens rows alone."""
    return float(np.median(np.hypot(matrices[:, 1, 0], matrices[:, 1, 1])))


def pose(points: np.ndarray, sar: float) -> dict[str, float]:
    """Rough ``yaw`` and ``roll`` in degrees from five points: median and the largest of the clip.

    Yaw from how far the nose leaves the middle between the eyes; a nose sticks out by about the
    half distance of the eyes.
    """
    square = np.asarray(points, np.float64) * (sar, 1.0)
    across = square[:, 1] - square[:, 0]
    roll = np.degrees(np.arctan2(across[:, 1], across[:, 0]))
    half = np.maximum(np.linalg.norm(across, axis=1) / 2, 1e-6)
    middle = square[:, :2].mean(1)
    aside = ((square[:, 2] - middle) * across).sum(1) / (2 * half) / half
    yaw = np.degrees(np.arcsin(np.clip(aside, -1, 1)))
    return {
        # plus nothing, for there is no minus nothing
        "yaw": round(float(np.median(yaw)), 1) + 0.0,
        "yaw_most": round(float(np.abs(yaw).max()), 1),
        "roll": round(float(np.median(roll)), 1) + 0.0,
    }


def blockiness(views: list[View]) -> float:
    """Steps across the borders of 8 px blocks, times those inside; 1 where no blocks are seen."""
    ratios = []
    for view in views:
        if view.factor > 1:
            continue
        gray = cv2.cvtColor(view.pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
        for axis, start in ((1, view.box[0]), (0, view.box[1])):
            steps = np.abs(np.diff(gray, axis=axis))
            steps = steps.mean(1 - axis)
            border = (np.arange(len(steps)) + start + 1) % 8 == 0
            if border.sum() < 3:
                continue
            ratios.append(float(steps[border].mean()) / max(float(steps[~border].mean()), 0.1))
    return round(float(np.median(ratios)), 3) if ratios else 1.0
