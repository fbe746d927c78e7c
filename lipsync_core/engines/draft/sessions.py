"""Three ways to show a mouth: frames re-used, a calm frame warped, or the frame itself warped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ...faces import align
from ...faces.templates import Template
from ...types import FaceTrack
from ..base import Rendered, Session
from .adapt import BLIND, Adapter, morph
from .donors import Donors, patch_matrix
from .lips import Lips, Tracker, find, unevenness
from .measure import VIEW, VIEW_BOX, VIEW_UNIT, pose_distance, pose_of
from .units import OWN, PARTED, Cast, Search, aim_of
from .warp import Bend, Warper, nudge

_LOOK_AHEAD = 10
_MORPH = 0.33
"""Share of the other side in the two frames at a join."""
_GAP = 1.6
"""Gap between the lips gained where the flow of the jaw says one (meshes of nine clips: 1.3-2.1)."""
_SEAM = 0.05
"""Gap in units that colour does not see: a dark line between two reds."""
_NEW_POSE = 0.10
"""Pose distance after which a mouth is measured anew."""
_FADE = 7
"""Frames over which one neutral mouth gives way to another."""


class Wardrobe:
    """The donors of one person, ready to be worn by the crops of one template."""

    def __init__(self, donors: Donors, track: FaceTrack, template: Template) -> None:
        self.donors = donors
        self.adapter = Adapter(template)
        self._template = template
        self._matrices = align.fit(track.points, template, track.sar)
        self._lips: dict[int, Lips] = {}
        self._bends: dict[int, Bend] = {}

    def views(self) -> np.ndarray:
        """``(N, 80, 96, 3)`` uint8: the donors as they are measured, aligned by the finished track."""
        unit, template = self._template.unit, self._template
        scale = unit / VIEW_UNIT
        left = template.mouth[0] * template.size + VIEW_BOX[0] * unit + 0.5 * scale
        top = template.mouth[1] * template.size + VIEW_BOX[1] * unit + 0.5 * scale
        to_crop = np.array([[scale, 0, left], [0, scale, top], [0, 0, 1]])
        views = np.empty((len(self.donors), *VIEW, 3), np.uint8)
        for donor in range(len(views)):
            picture = self.donors.picture(donor)
            blur = 0.4 * self.donors.unit / VIEW_UNIT
            if blur > 0.5:
                picture = cv2.GaussianBlur(picture, (0, 0), blur)
            views[donor] = cv2.warpAffine(
                picture,
                (self._to_patch(donor) @ to_crop)[:2],
                (VIEW[1], VIEW[0]),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
        return views

    def shaped(
        self, donor: int, *, opening: float = 0.0, width: float = 0.0, press: float = 0.0
    ) -> np.ndarray:
        """A donor's patch with the mouth a little more open, wide or shut; see ``warp.nudge``."""
        picture = self.donors.picture(donor)
        if not (opening or width or press):
            return picture
        canvas = self.canvas(donor)
        lips = self.lips(donor)
        bend = self._bends.get(donor)
        if bend is None:
            if len(self._bends) >= 24:
                del self._bends[next(iter(self._bends))]
            bend = self._bends[donor] = Bend(lips)
        bent, _ = nudge(canvas, lips, open_delta=opening, wide_delta=width, press=press, bend=bend)
        return bent[: picture.shape[0]]

    def canvas(self, donor: int) -> np.ndarray:
        """A donor's patch made square below, as the lip functions want their crops."""
        picture = self.donors.picture(donor)
        below = picture.shape[1] - picture.shape[0]
        return cv2.copyMakeBorder(picture, 0, below, 0, 0, cv2.BORDER_REPLICATE)

    def lips(self, donor: int) -> Lips:
        """The mouth of a donor in its canvas, measured once."""
        if donor not in self._lips:
            points, unit = self.donors.points[donor], self.donors.unit
            matrix = patch_matrix(points, unit)
            self._lips[donor] = find(
                self.canvas(donor), points.astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]
            )
        return self._lips[donor]

    def worn(
        self, picture: np.ndarray, donor: int, current: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """``picture`` (a donor's patch, bent or not) fitted into ``current``; see ``Adapter.fit``."""
        x0, y0 = self.adapter.region.origin
        shift = np.array([[1, 0, x0], [0, 1, y0], [0, 0, 1.0]])
        return self.adapter.fit(picture, (self._to_patch(donor) @ shift)[:2], current)

    def _to_patch(self, donor: int) -> np.ndarray:
        """``(3, 3)`` from crop pixels, where the track puts this frame, to pixels of the patch."""
        crop = np.vstack([self._matrices[self.donors.frame[donor]], (0, 0, 1)])
        patch = np.vstack([patch_matrix(self.donors.points[donor], self.donors.unit), (0, 0, 1)])
        return patch @ np.linalg.inv(crop)


@dataclass(frozen=True, kw_only=True)
class _Shown:
    source: int
    output: int
    donor: int


class UnitSession(Session):
    """Speaks with mouths taken from other frames of the clip."""

    mode = "units"
    window = 8
    blind = BLIND

    def __init__(
        self,
        shapes: np.ndarray,
        track: FaceTrack,
        template: Template,
        donors: Donors,
        *,
        seed: int = 0,
    ) -> None:
        self._shapes = shapes
        self._points = track.points
        self._matrices = align.fit(track.points, template, track.sar)
        self._seed = seed
        self._aim = aim_of(shapes)
        self._shots = track.shots
        self._poses = pose_of(track.points)
        self._donors = donors
        self._wardrobe = Wardrobe(donors, track, template)
        self._cast = Cast(donors, self._wardrobe.views(), self._poses[donors.frame])
        # What flow and colour take for shut may still show teeth, and pauses are looked at for long.
        shut, gaps = _shut_donors(self._cast, self._wardrobe)
        self._cast.parted[shut] += gaps / PARTED
        self._search = Search(self._cast)
        self._sharp = np.interp(np.arange(track.frame_count), donors.frame, donors.sharp).astype(
            np.float32
        )
        self._last: _Shown | None = None

    def render(self, crops: np.ndarray, sources: Sequence[int], outputs: Sequence[int]) -> Rendered:
        """See ``Session.render``."""
        drawn = crops.copy()
        masks = np.zeros(crops.shape[:3], np.float32)
        rows, columns = self._wardrobe.adapter.region.slices
        for start, end in self._stretches(sources, outputs):
            chosen = self._choose(sources[start:end], outputs[start:end])
            for step in range(start, end):
                donor = int(chosen[step - start])
                after = int(chosen[step - start + 1]) if step + 1 < end else None
                before = self._last.donor if self._last is not None else None
                if donor == OWN:
                    drawn[step], masks[step] = self._warped(
                        crops[step], sources[step], outputs[step]
                    )
                else:
                    drawn[step, rows, columns], masks[step, rows, columns] = self._draw(
                        crops[step, rows, columns], outputs[step], before, donor, after
                    )
                self._last = _Shown(source=sources[step], output=outputs[step], donor=donor)
        return Rendered(crops=drawn, masks=masks)

    def _goes_on(self, source: int, output: int, last_source: int, last_output: int) -> bool:
        return output == last_output + 1 and self._shots[source] == self._shots[last_source]

    def _stretches(self, sources: Sequence[int], outputs: Sequence[int]) -> list[tuple[int, int]]:
        """Pieces without a cut: the same shot, outputs one after the other."""
        cuts = [
            step
            for step in range(1, len(sources))
            if not self._goes_on(sources[step], outputs[step], sources[step - 1], outputs[step - 1])
        ]
        return list(zip([0, *cuts], [*cuts, len(sources)], strict=True))

    def _choose(self, sources: Sequence[int], outputs: Sequence[int]) -> np.ndarray:
        last = self._last
        if last is None or not self._goes_on(sources[0], outputs[0], last.source, last.output):
            self._search.restart()
            self._last = None
        ahead = min(_LOOK_AHEAD, len(self._aim.opening) - 1 - outputs[-1])
        step = int(np.clip(sources[-1] - sources[-2], -1, 1)) if len(sources) > 1 else 1
        frames = np.array([*sources, *(sources[-1] + step * (i + 1) for i in range(ahead))])
        frames = np.clip(frames, 0, len(self._poses) - 1)
        rows = np.array([*outputs, *range(outputs[-1] + 1, outputs[-1] + 1 + ahead)])
        return self._search.path(
            self._aim, rows, self._poses[frames], self._sharp[frames], decide=len(sources)
        )

    def _draw(
        self, current: np.ndarray, row: int, before: int | None, donor: int, after: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        current = np.ascontiguousarray(current)
        picture, apart = self._mouth(donor, row, current)
        other = None
        if before is not None and not self._joined(before, donor):
            other = self._next(before)
        elif after is not None and not self._joined(donor, after):
            other = self._previous(after)
        adapter = self._wardrobe.adapter
        if other is not None and other != OWN and not self._spoils(other, donor, row):
            second, apart_second = self._mouth(other, row, current)
            picture = morph(picture, second, _MORPH, adapter.region.unit)
            apart = np.maximum(apart, apart_second)
        return picture, adapter.mask(apart)

    def _spoils(self, other: int, donor: int, row: int) -> bool:
        """An open mouth mixed in would part lips that must meet: there a clean cut is better."""
        if self._aim.shut[row] < 0.5:
            return False
        return bool(self._cast.gap[other] > self._cast.gap[donor] + _SEAM)

    def _warped(self, crop: np.ndarray, source: int, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Where no other frame is like this one: its own mouth, bent to what it should be."""
        matrix = self._matrices[source]
        points = self._points[source].astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]
        look = _Look(crop, points, self._poses[source], self._seed)
        return look.render(self._shapes[row], crop)

    def _mouth(self, donor: int, row: int, current: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        opening, width, press = self._residue(donor, row)
        picture = self._wardrobe.shaped(donor, opening=opening, width=width, press=press)
        return self._wardrobe.worn(picture, donor, current)

    def _residue(self, donor: int, row: int) -> tuple[float, float, float]:
        """What the donor's mouth still lacks: gap in units, width -1..1, press 0..1; 0 for little."""
        aim, cast = self._aim, self._cast
        lack = float(aim.opening[row] - cast.opening[donor]) * cast.span * _GAP
        opening = float(np.sign(lack) * np.clip(abs(lack) - 0.015, 0.0, 0.10))
        # Teeth drawn out to more than half as tall again look like rubber.
        opening = min(opening, 0.02 + 0.5 * float(cast.gap[donor]))
        lack = 0.5 * float(aim.width[row] - cast.width[donor])
        width = float(np.sign(lack) * np.clip(abs(lack) - 0.10, 0.0, 0.35))
        # Closing more than what parts the lips would eat them: the measured gap and a seam, no more.
        shut = float(np.clip((aim.shut[row] - 0.35) / 0.4, 0.0, 1.0))
        seam = -min(float(cast.gap[donor]) + _SEAM, 0.12)
        press = max(float(aim.press[row]) - 0.5, 0.0)
        return (1.0 - shut) * opening + shut * seam, (1.0 - shut) * width, press

    def _joined(self, first: int, second: int) -> bool:
        if first == second:
            return True
        return OWN not in (first, second) and int(self._cast.following[first]) == second

    def _next(self, donor: int) -> int:
        if donor == OWN:
            return OWN
        following = int(self._cast.following[donor])
        return following if following >= 0 else donor

    def _previous(self, donor: int) -> int:
        return donor - 1 if donor > 0 and self._donors.follows[donor - 1] else donor


class WarpSession(Session):
    """Warps the frame that is shown: for stills, and for clips in which the mouth rests."""

    mode = "warp"
    window = 8
    blind = BLIND

    def __init__(
        self, shapes: np.ndarray, track: FaceTrack, template: Template, *, seed: int = 0
    ) -> None:
        self._shapes = shapes
        self._points = track.points
        self._poses = pose_of(track.points)
        self._shots = track.shots
        self._matrices = align.fit(track.points, template, track.sar)
        self._seed = seed
        self._looks: list[_Look] = []
        self._fade = 0
        self._source = -1

    def render(self, crops: np.ndarray, sources: Sequence[int], outputs: Sequence[int]) -> Rendered:
        """See ``Session.render``."""
        drawn, masks = np.empty_like(crops), np.empty(crops.shape[:3], np.float32)
        for step, (source, output) in enumerate(zip(sources, outputs, strict=True)):
            self._look_at(crops[step], source)
            shape = self._shapes[output]
            drawn[step], masks[step] = self._looks[-1].render(shape, crops[step])
            if len(self._looks) > 1:
                share = self._fade / (_FADE + 1)
                crop, mask = self._looks[0].render(shape, crops[step])
                drawn[step] = cv2.addWeighted(drawn[step], 1 - share, crop, share, 0)
                masks[step] = np.minimum(masks[step], mask)
        return Rendered(crops=drawn, masks=masks)

    def _look_at(self, crop: np.ndarray, source: int) -> None:
        """Keeps a mouth measured in this shot and pose; the one before it fades out."""
        cut = self._source < 0 or self._shots[source] != self._shots[self._source]
        if cut:
            self._looks, self._fade = [], 0
        if self._fade:
            self._fade -= 1
            if not self._fade:
                del self._looks[0]
        if source != self._source:
            for look in self._looks:
                look.follow(crop)
        self._source = source
        pose = self._poses[source]
        if not self._looks or (
            len(self._looks) == 1 and pose_distance(pose, self._looks[0].pose) > _NEW_POSE
        ):
            matrix = self._matrices[source]
            points = self._points[source].astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]
            self._looks.append(_Look(crop, points, pose, self._seed))
            self._fade = _FADE if len(self._looks) > 1 else 0


class _Look:
    """One mouth as measured in one frame, followed through the frames like it."""

    def __init__(self, crop: np.ndarray, points: np.ndarray, pose: np.ndarray, seed: int) -> None:
        crop = crop.copy()
        self.pose = pose
        self._now = find(crop, points)
        self._warper = Warper(crop, self._now, seed=seed)
        self._tracker = Tracker(crop, self._now)

    def follow(self, crop: np.ndarray) -> None:
        self._now = self._tracker.see(crop)

    def render(self, shape: np.ndarray, crop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._warper.render(shape, crop=crop, lips=self._now)


class NeutralSession(Session):
    """Warps calm frames of a clip in which the person talks: the drawn mouth has the say alone."""

    mode = "neutral"
    window = 8
    blind = BLIND

    def __init__(
        self,
        shapes: np.ndarray,
        track: FaceTrack,
        template: Template,
        donors: Donors,
        *,
        seed: int = 0,
    ) -> None:
        self._shapes = shapes
        self._shots = track.shots
        self._poses = pose_of(track.points)
        self._wardrobe = Wardrobe(donors, track, template)
        self._donors = donors
        poses = self._poses[donors.frame]
        cast = Cast(donors, self._wardrobe.views(), poses)
        self._calm = _calm_donors(cast, self._wardrobe)
        self._seed = seed
        self._warpers: dict[int, Warper] = {}
        self._now, self._before, self._fade, self._source = -1, -1, 0, -1

    def render(self, crops: np.ndarray, sources: Sequence[int], outputs: Sequence[int]) -> Rendered:
        """See ``Session.render``."""
        drawn, masks = crops.copy(), np.zeros(crops.shape[:3], np.float32)
        adapter = self._wardrobe.adapter
        rows, columns = adapter.region.slices
        for step, (source, output) in enumerate(zip(sources, outputs, strict=True)):
            self._turn_to(source)
            current = np.ascontiguousarray(crops[step, rows, columns])
            shape = self._shapes[output]
            picture, apart = self._drawn(self._now, shape, current)
            if self._fade:
                second, apart_second = self._drawn(self._before, shape, current)
                share = self._fade / (_FADE + 1)
                picture = morph(picture, second, share, adapter.region.unit)
                apart = np.maximum(apart, apart_second)
                self._fade -= 1
            drawn[step, rows, columns] = picture
            masks[step, rows, columns] = adapter.mask(apart)
        return Rendered(crops=drawn, masks=masks)

    def _turn_to(self, source: int) -> None:
        """Takes the calm frame nearest in pose, unless the one worn is nearly as near."""
        distances = pose_distance(self._poses[source], self._poses[self._donors.frame[self._calm]])
        best = int(np.argmin(distances))
        cut = self._source < 0 or self._shots[source] != self._shots[self._source]
        self._source = source
        if cut:
            self._now, self._fade = int(self._calm[best]), 0
            return
        worn = float(distances[np.flatnonzero(self._calm == self._now)[0]])
        if not self._fade and distances[best] < 0.7 * worn - 0.01:
            self._before, self._now, self._fade = self._now, int(self._calm[best]), _FADE

    def _drawn(
        self, donor: int, shape: np.ndarray, current: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        if donor not in self._warpers:
            self._warpers[donor] = Warper(
                self._wardrobe.canvas(donor), self._wardrobe.lips(donor), seed=self._seed
            )
        picture, _ = self._warpers[donor].render(shape)
        height = self._donors.picture(donor).shape[0]
        return self._wardrobe.worn(picture[:height], donor, current)


def _shut_donors(cast: Cast, wardrobe: Wardrobe) -> tuple[np.ndarray, np.ndarray]:
    """The donors most surely shut, and the gap in units that a closer look still finds in each.

    Where none is seen, a line less even than that of others counts as one: there a tooth peeps out.
    """
    order = np.argsort(cast.opening + cast.parted, kind="stable")
    shut = order[: max(min(32, len(order) // 6), 1)]
    seen = [(wardrobe.canvas(int(donor)), wardrobe.lips(int(donor))) for donor in shut]
    gaps = np.array([lips.gap / wardrobe.donors.unit for _, lips in seen], np.float32)
    uneven = np.array([unevenness(canvas, lips) for canvas, lips in seen], np.float32)
    return shut, gaps + np.clip(uneven - uneven.min(), 0.0, PARTED)


def _calm_donors(cast: Cast, wardrobe: Wardrobe, count: int = 5) -> np.ndarray:
    """Shut mouths spread over the poses, the most usual pose first: ``(<=count,)`` donors."""
    shut, gaps = _shut_donors(cast, wardrobe)
    shut = shut[gaps <= max(float(gaps.min()), 0.01)]
    places = cast.poses[shut] * np.array((1.0, 0.8, 0.35), np.float32)
    chosen = [int(np.argmin(((places - np.median(places, 0)) ** 2).sum(1)))]
    while len(chosen) < min(count, len(shut)):
        apart = ((places[:, None] - places[chosen][None]) ** 2).sum(-1).min(1)
        if apart.max() < 0.03**2:
            break
        chosen.append(int(np.argmax(apart)))
    return shut[chosen]
