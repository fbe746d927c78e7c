"""The embedded default: a draft made of the person's own pixels, with nothing to download."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from ...faces import align
from ...faces.templates import Template, draft_template
from ..base import Engine, Rendered, Session
from .adapt import Adapter, morph
from .donors import Donors, DraftStudy, donors_of, patch_matrix
from .measure import pose_of
from .units import OWN, Cast, Search, aim_of

if TYPE_CHECKING:
    from ...types import FaceTrack, Settings, Voice

log = logging.getLogger("lipsync.draft")

TALKS = 0.06
"""Range of opening (p95 - p5, eye-mouth distances) above which a clip shows a talking person.

Measured: talkers .07-.30, still mouths and drawn characters .01-.02.
"""
_FEWEST_DONORS = 40
_LOOK_AHEAD = 8


class Draft(Engine):
    """Draws a mouth from what the clip itself shows of it."""

    name = "draft"
    summary = "draft: the person's own mouth re-used or warped; CPU, real time, no download"

    def missing(self) -> str | None:
        """Nothing: it runs wherever the core does."""
        return None

    def study(self) -> DraftStudy:
        """A collector of mouths."""
        return DraftStudy()

    def template(self, track: FaceTrack) -> Template:
        """The draft's crop at about the size of the face in the source."""
        return draft_template(align.size_for(track))

    def listen(self, voice: Voice, times: Sequence[Fraction]) -> np.ndarray:
        """``(T, 6)`` float32 mouth shapes: open, jaw, wide, round, press, fv."""
        from .speech import hear

        return hear(voice, times)

    def start(
        self,
        *,
        speech: np.ndarray,
        track: FaceTrack,
        study: dict[str, np.ndarray] | None,
        settings: Settings,
    ) -> Session:
        """Re-uses mouths where the person talks in the clip, else warps."""
        template = self.template(track)
        return UnitSession(speech, track, template, donors_of(study))


class UnitSession(Session):
    """Speaks with mouths taken from other frames of the clip."""

    window = 16

    def __init__(
        self, shapes: np.ndarray, track: FaceTrack, template: Template, donors: Donors
    ) -> None:
        self._aim = aim_of(shapes)
        self._track = track
        self._poses = pose_of(track.points)
        self._donors = donors
        self._cast = Cast(donors)
        self._search = Search(self._cast)
        self._adapter = Adapter(template)
        self._matrices = align.fit(track.points, template)
        self._clip_sharp = _by_frame(donors, len(track.points))
        self._last: tuple[int, int, int] | None = None
        """Source, output row and donor of the frame shown last."""

    def render(self, crops: np.ndarray, sources: Sequence[int], outputs: Sequence[int]) -> Rendered:
        """See ``Session.render``."""
        drawn = crops.copy()
        masks = np.zeros(crops.shape[:3], np.float32)
        for start, end in self._stretches(sources, outputs):
            chosen = self._choose(sources[start:end], outputs[start:end])
            for step in range(start, end):
                donor = int(chosen[step - start])
                before = self._last[2] if self._last is not None else None
                after = int(chosen[step - start + 1]) if step + 1 < end else None
                region, mask = self._draw(crops[step], before, donor, after)
                rows, columns = self._adapter.region.slices
                drawn[step, rows, columns] = region
                masks[step, rows, columns] = mask
                self._last = (sources[step], outputs[step], donor)
        return Rendered(crops=drawn, masks=masks)

    def _stretches(self, sources: Sequence[int], outputs: Sequence[int]) -> list[tuple[int, int]]:
        """Pieces without a cut: the same shot, outputs one after the other."""
        shots = self._track.shots
        pieces, start = [], 0
        for step in range(len(sources)):
            last = (sources[step - 1], outputs[step - 1]) if step else (self._last or (None,))[:2]
            joined = last[0] is not None and (
                outputs[step] == last[1] + 1 and shots[sources[step]] == shots[last[0]]
            )
            if not joined and step > start:
                pieces.append((start, step))
                start = step
        pieces.append((start, len(sources)))
        return pieces

    def _choose(self, sources: Sequence[int], outputs: Sequence[int]) -> np.ndarray:
        last = self._last
        if last is None or not (
            outputs[0] == last[1] + 1
            and self._track.shots[sources[0]] == self._track.shots[last[0]]
        ):
            self._search.restart()
            self._last = None
        ahead = min(_LOOK_AHEAD, len(self._aim.opening) - 1 - outputs[-1])
        step = int(np.clip(sources[-1] - sources[-2], -1, 1)) if len(sources) > 1 else 1
        frames = np.array([*sources, *(sources[-1] + step * (i + 1) for i in range(ahead))])
        frames = np.clip(frames, 0, len(self._poses) - 1)
        rows = np.array([*outputs, *range(outputs[-1] + 1, outputs[-1] + 1 + ahead)])
        return self._search.path(
            self._aim, rows, self._poses[frames], self._clip_sharp[frames], decide=len(sources)
        )

    def _draw(
        self, crop: np.ndarray, before: int | None, donor: int, after: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        current = np.ascontiguousarray(crop[self._adapter.region.slices])
        picture, apart = self._fitted(donor, current)
        share, other = 0.0, None
        if before is not None and not self._joined(before, donor):
            other, share = self._next(before), 0.33
        elif after is not None and not self._joined(donor, after):
            other, share = self._previous(after), 0.33
        if other is not None:
            second, apart_second = self._fitted(other, current)
            picture = morph(picture, second, share, self._adapter.region.unit)
            apart = np.maximum(apart, apart_second)
        return picture, self._adapter.mask(apart)

    def _fitted(self, donor: int, current: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if donor == OWN:
            return current, self._adapter.small(current)[..., 0] * np.float32(0)
        donors = self._donors
        back = align.translated(self._matrices[donors.frame[donor]], 0, 0)
        x0, y0 = self._adapter.region.origin
        to_source = np.vstack([back, (0, 0, 1)])
        to_patch = np.vstack([patch_matrix(donors.points[donor], donors.unit), (0, 0, 1)])
        shift = np.array([[1, 0, x0], [0, 1, y0], [0, 0, 1.0]])
        matrix = (to_patch @ np.linalg.inv(to_source) @ shift)[:2]
        return self._adapter.fit(donors.picture(donor), matrix, current)

    def _joined(self, first: int, second: int) -> bool:
        if OWN in (first, second):
            return first == second
        return first == second or self._cast.following[first] == second

    def _next(self, donor: int) -> int:
        if donor == OWN:
            return OWN
        following = int(self._cast.following[donor])
        return following if following >= 0 else donor

    def _previous(self, donor: int) -> int:
        return donor - 1 if donor > 0 and self._donors.follows[donor - 1] else donor


def _by_frame(donors: Donors, count: int) -> np.ndarray:
    """Detail of every frame of the clip, that of the nearest donor where unknown: ``(count,)``."""
    return np.interp(np.arange(count), donors.frame, donors.sharp).astype(np.float32)
