"""The frontal LBP cascade inside scikit-image: a face box with nothing to download."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from .base import Detection, Detector

if TYPE_CHECKING:
    from skimage.feature import Cascade as LBP

SEARCH = 320
"""Longer side in pixels of the picture that the cascade itself runs on."""
MEAN_SHAPE = np.array(
    [[0.308, 0.380], [0.680, 0.380], [0.494, 0.585], [0.352, 0.772], [0.632, 0.772]]
)
"""Eyes, nose and mouth corners as fractions of the box, left of the picture first.

Middles of eyes and mouth: means over 244 frames of talking clips against YuNet, whose points also
give the spans. Each varies by 3 to 5 % of the box.
"""


class Cascade(Detector):
    """``skimage.feature.Cascade`` with points by proportion, then moved to the pixels' own eyes and mouth."""

    name = "cascade"
    noise = 0.09
    window = 160
    search = 480

    def __init__(self) -> None:
        from skimage.data import lbp_frontal_face_cascade_filename
        from skimage.feature import Cascade as LBP

        self._cascade: LBP = LBP(lbp_frontal_face_cascade_filename())

    def detect(self, rgb: np.ndarray, *, side: float | None = None) -> list[Detection]:
        gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        scale = min(1.0, SEARCH / max(gray.shape))
        low, high = 28, min(gray.shape) * scale
        if side is not None:
            # A known face: 60 px are enough, and sizes far from it need no look.
            scale = min(1.0, 60 / side)
            low, high = round(side * scale * 0.65), round(side * scale * 1.6)
        small = (
            gray
            if scale == 1
            else cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        )
        if min(small.shape) <= 24:
            return []
        scale = small.shape[1] / gray.shape[1]
        found = self._cascade.detect_multi_scale(
            img=small,
            scale_factor=1.15,
            step_ratio=1,
            min_size=(low, low),
            max_size=(max(int(high), low + 1),) * 2,
            min_neighbor_number=3,
        )
        faces = [
            _face(gray, np.array([f["c"], f["r"], f["width"], f["height"]]) / scale) for f in found
        ]
        return sorted(faces, key=lambda face: float(face.box[0] - face.box[2]))


def _face(gray: np.ndarray, box: np.ndarray) -> Detection:
    x, y, w, h = box
    points = MEAN_SHAPE * (w, h) + (x, y)
    return Detection(
        box=np.array([x, y, x + w, y + h], np.float32),
        points=points.astype(np.float32),
        score=0.7,
    )
