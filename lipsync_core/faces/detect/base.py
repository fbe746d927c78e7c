"""What a face detector is: a picture in, boxes and five points out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One face in one picture, in pixels of that picture."""

    box: np.ndarray
    """``(4,)`` float32 ``x0 y0 x1 y1``."""
    points: np.ndarray | None
    """``(5, 2)`` float32: eye, eye, nose, mouth corner, mouth corner, left of the picture first."""
    score: float
    """0..1, comparable within one detector only."""


class Detector(ABC):
    """Finds faces in single pictures; knows nothing of time."""

    name: str
    """The row of ``DETECTORS``."""
    noise: float
    """Standard deviation of a point, as a fraction of the distance eyes to mouth."""
    window: int = 160
    """Side in pixels of the square around a known face in which the points come out best."""
    search: int = 640
    """Longer side in pixels of the reduced picture in which unknown faces are looked for."""
    patience: float = 0.12
    """Seconds between two searches while nobody is in sight: what a clip without a face costs."""

    @abstractmethod
    def detect(self, rgb: np.ndarray, *, side: float | None = None) -> list[Detection]:
        """All faces of ``rgb`` ``(h, w, 3)`` uint8, best first.

        ``side``: the face box is expected to be about this many pixels wide; a detector that
        searches over sizes may use it to look at fewer.
        """

    def fingerprint(self) -> str:
        """What tells its findings from those of another detector of this name; part of cache keys."""
        return ""

    def at(self, index: int) -> list[Detection] | None:
        """Faces of frame ``index`` in source pixels, if known without looking; else None."""
        return None
