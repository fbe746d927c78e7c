"""The face detectors, one row each, and the choice among them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from ...errors import FaceError, SettingsError, WeightsError
from .base import Detection, Detector

__all__ = ["DETECTORS", "Detection", "Detector", "Row", "pick"]

log = logging.getLogger("lipsync.faces")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way of finding faces."""

    name: str
    summary: str
    """One line for tables: what it is, what it costs."""
    missing: Callable[[], str | None]
    """None when it can run now; else one line saying what is absent and how to get it."""
    make: Callable[[], Detector]
    """Ready to detect; may fetch its weights. FaceError or WeightsError when it cannot."""
    automatic: bool = True
    """``auto`` may take it; not so where the weights' licence needs a decision."""


def _make_yunet() -> Detector:
    from . import yunet

    return yunet.YuNet(yunet.fetch())


def _missing_yunet() -> str | None:
    from . import yunet

    return yunet.missing()


def _make_insightface() -> Detector:
    from . import insightface

    return insightface.InsightFace()


def _missing_insightface() -> str | None:
    from . import insightface

    return insightface.missing()


def _make_cascade() -> Detector:
    from . import cascade

    return cascade.Cascade()


DETECTORS: list[Row] = [
    Row(
        name="yunet",
        summary="YuNet in OpenCV: five points, fast, 0.2 MB fetched once (MIT)",
        missing=_missing_yunet,
        make=_make_yunet,
    ),
    Row(
        name="insightface",
        summary="InsightFace: strong on hard poses, an extra, weights for research only",
        missing=_missing_insightface,
        make=_make_insightface,
        automatic=False,
    ),
    Row(
        name="cascade",
        summary="LBP cascade in scikit-image: frontal faces, nothing to fetch, less exact",
        missing=lambda: None,
        make=_make_cascade,
    ),
]
"""In the order in which ``auto`` tries them."""


def pick(name: str | Detector = "auto") -> Detector:
    """The detector called ``name``, or for ``auto`` the first of ``DETECTORS`` that can be had.

    A detector object is handed back as it is.

    SettingsError for an unknown name; FaceError or WeightsError when a named one cannot run.
    """
    if isinstance(name, Detector):
        return name
    if name != "auto":
        for row in DETECTORS:
            if row.name == name:
                detector = row.make()
                log.info("faces are found by %s", name)
                return detector
        known = ", ".join(["auto", *(row.name for row in DETECTORS)])
        raise SettingsError(f"there is no face detector {name!r}; choose one of {known}")
    for row in DETECTORS:
        if not row.automatic:
            continue
        try:
            detector = row.make()
        except (FaceError, WeightsError) as error:
            log.warning("%s is not available (%s); trying the next detector", row.name, error)
            continue
        log.info("faces are found by %s (auto)", row.name)
        return detector
    raise FaceError("no face detector can run here; see `lipsync doctor`")
