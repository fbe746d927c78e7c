"""The part of a picture around a face, kept until the clip is known: no second decode."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..faces import align

if TYPE_CHECKING:
    from ..faces.templates import Template
    from ..types import Picture

MARGIN = 0.12
"""Part of the crop's side that is kept around it: the smoothed path differs from the first guess."""
GAP_MARGIN = 0.3
"""Where the face is hidden for a moment and may move meanwhile."""


class View:
    """A rectangle of a picture, reduced by a whole factor where the crop will be smaller anyway."""

    def __init__(self, picture: Picture, box: tuple[int, int, int, int], factor: int = 1) -> None:
        """``box``: ``x0 y0 x1 y1`` source px. Beyond the picture its edge is repeated when cut."""
        width, height = picture.size
        x0, y0, x1, y1 = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
        x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
        self.box = (x0, y0, x1, y1)
        self.factor = factor
        pixels = picture.region(x0, y0, x1, y1)
        if factor > 1:
            right, below = -pixels.shape[1] % factor, -pixels.shape[0] % factor
            if right or below:
                pixels = cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_REPLICATE)
            size = (pixels.shape[1] // factor, pixels.shape[0] // factor)
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        self.pixels = np.ascontiguousarray(pixels)
        self._whole = (width, height)

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[1], self.pixels.shape[0]

    def region(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        """As ``Picture.region``, in the view's own pixels."""
        width, height = self.size
        inner = self.pixels[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
        if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
            columns = np.clip(np.arange(x0, x1), 0, width - 1)
            rows = np.clip(np.arange(y0, y1), 0, height - 1)
            return self.pixels[rows][:, columns]
        return inner

    def covers(self, matrix: np.ndarray, size: int) -> bool:
        """Whether everything of the crop that lies inside the picture was kept, but for two pixels."""
        x0, y0, x1, y1 = align.region_of(matrix, size, self._whole)
        left, top, right, bottom = self.box
        slack = 2
        return (
            x0 >= left - slack
            and y0 >= top - slack
            and x1 <= right + slack
            and y1 <= bottom + slack
        )

    def cut(self, matrix: np.ndarray, size: int) -> np.ndarray:
        """``(size, size, 3)``: as ``align.cut`` of the whole picture; ``matrix`` in source px."""
        inner = np.array(matrix, np.float64)
        offset = np.array(self.box[:2]) + (self.factor - 1) / 2
        inner[:, 2] += inner[:, :2] @ offset
        inner[:, :2] *= self.factor
        return align.cut(self, inner, size)  # type: ignore[arg-type]


def around(
    picture: Picture,
    points: np.ndarray,
    templates: list[Template],
    sar: float,
    *,
    margin: float = MARGIN,
) -> View:
    """Keeps what the crops of ``templates`` will need of a face whose ``(5, 2)`` points are about here."""
    boxes, shrink = [], 8.0
    for template in templates:
        matrix = align.fit(np.asarray(points)[None], template, sar)[0]
        scale = align.scale_of(matrix)
        boxes.append(
            align.region_of(matrix, template.size, picture.size, margin * template.size / scale)
        )
        shrink = min(shrink, 1 / scale)
    low, high = np.min(boxes, axis=0), np.max(boxes, axis=0)
    box = (int(low[0]), int(low[1]), int(high[2]), int(high[3]))
    # As many whole pixels as `align.cut` would average first by itself.
    return View(picture, box, max(int(shrink / 1.2), 1))
