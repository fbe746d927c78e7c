"""Faces that the caller already knows: boxes or landmarks per frame."""

from __future__ import annotations

import hashlib

import numpy as np

from ...errors import FaceError
from .base import Detection, Detector
from .cascade import MEAN_SHAPE


class Given(Detector):
    """Hands out what it was given, frame by frame; looks at no pixel.

    ``points``: ``(T, 5, 2)`` source px, left of the picture first, or ``boxes``: ``(T, 4)`` as
    ``x0 y0 x1 y1``; NaN rows where there is no face. One row stands for every frame.
    """

    name = "given"

    def __init__(
        self, *, points: np.ndarray | None = None, boxes: np.ndarray | None = None
    ) -> None:
        if (points is None) == (boxes is None):
            raise FaceError("give either points or boxes of the face, not both and not neither")
        if points is not None:
            points = np.asarray(points, np.float32)
            if points.ndim != 3 or points.shape[1:] != (5, 2):
                raise FaceError(f"points of a face must be (frames, 5, 2), not {points.shape}")
            self.noise = 0.01
        else:
            boxes = np.asarray(boxes, np.float32)
            if boxes.ndim != 2 or boxes.shape[1] != 4:
                raise FaceError(
                    f"boxes of a face must be (frames, 4) as x0 y0 x1 y1, not {boxes.shape}"
                )
            points = boxes[:, None, :2] + MEAN_SHAPE.astype(np.float32) * (
                boxes[:, None, 2:] - boxes[:, None, :2]
            )
            self.noise = 0.05
        self._points = points

    def fingerprint(self) -> str:
        """Of the points that were given."""
        return hashlib.blake2b(self._points.tobytes(), digest_size=16).hexdigest()

    def detect(self, rgb: np.ndarray, *, side: float | None = None) -> list[Detection]:
        return []

    def at(self, index: int) -> list[Detection]:
        if len(self._points) == 1:
            index = 0
        if index >= len(self._points) or not np.isfinite(self._points[index]).all():
            return []
        points = self._points[index]
        unit = float(np.hypot(*(points[3:].mean(0) - points[:2].mean(0))))
        centre = points.mean(0)
        half = np.array([1.05, 1.4], np.float32) * unit
        box = np.concatenate([centre - half, centre + half]).astype(np.float32)
        return [Detection(box=box, points=points, score=1.0)]
