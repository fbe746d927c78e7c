"""The embedded default: a draft made of the person's own pixels, with nothing to download."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from ..base import Engine, Session, Study

if TYPE_CHECKING:
    import numpy as np

    from ...faces.templates import Template
    from ...types import FaceTrack, Settings, Voice

log = logging.getLogger("lipsync.draft")

TALKS = 0.045
"""Range of opening (p95 - p5, eye-mouth distances) above which a clip shows a talking person.

Measured: talkers .07-.22, still mouths and drawn characters .01-.02.
"""
FEWEST_DONORS = 40
"""Fewer frames than this hold too few different mouths to speak with."""


class Draft(Engine):
    """Draws a mouth from what the clip itself shows of it."""

    name = "draft"
    summary = "draft: the person's own mouth re-used or warped; CPU, real time, no download"
    quick = True

    def missing(self) -> str | None:
        """Nothing: it runs wherever the core does."""
        return None

    def study(self) -> Study:
        """A collector of mouths."""
        from .donors import DraftStudy

        return DraftStudy()

    def template(self, track: FaceTrack) -> Template:
        """The draft's crop at about the size of the face in the source."""
        from ...faces import align
        from ...faces.templates import draft_template

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
        """Re-uses mouths where the person talks in the clip, else warps; ``draft_mode`` overrides."""
        from .donors import donors_of
        from .sessions import NeutralSession, UnitSession, WarpSession

        template = self.template(track)
        donors = donors_of(study) if study is not None else None
        if donors is None or len(donors) < 2:
            if settings.draft_mode == "units":
                log.warning("one frame holds no other mouths to re-use; warping it instead")
            return WarpSession(speech, track, template, seed=settings.seed)
        mode = settings.draft_mode
        talks = donors.opening_range
        if mode == "auto":
            mode = "units" if talks > TALKS and len(donors) >= FEWEST_DONORS else "warp"
        log.info(
            "%s: the mouth opens by %.3f of the eye-mouth distance, %d donors",
            mode,
            talks,
            len(donors),
        )
        if mode == "units":
            return UnitSession(speech, track, template, donors, seed=settings.seed)
        if talks > TALKS:
            return NeutralSession(speech, track, template, donors, seed=settings.seed)
        return WarpSession(speech, track, template, seed=settings.seed)
