"""The face crops that SyncNet looks at: by the original's protocol, or upright from our own points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from ..faces import align
from ..faces.templates import Template
from .distance import median_filter

if TYPE_CHECKING:
    from ..types import FaceTrack, Picture

Protocol = Literal["original", "aligned"]
"""``original``: box, running medians over 13 frames, margin .4, gray 110 outside; comparable with
published numbers. ``aligned``: upright and steady by our points, for the same view on average."""

SIZE = 224
_MARGIN = 0.4
_GRAY = 110
_MEDIAN = 13
ALIGNED = Template(size=SIZE, eyes=(0.5, 0.272), mouth=(0.5, 0.523))
"""Where eyes and mouth lie on average in the original's crops; measured over 9 clips, sd .01."""


class Crops:
    """Cuts ``(224, 224, 3)`` RGB crops of one person.

    The boxes of a stretch are filtered from its own frames only, with zeros beyond its ends as
    the original has them.
    """

    def __init__(
        self, track: FaceTrack, frames: np.ndarray, *, protocol: Protocol, sar: float = 1.0
    ) -> None:
        """``frames``: source frame of every crop of one stretch, in order."""
        self._sar = sar
        self._frames = frames
        self._protocol = protocol
        if protocol == "aligned":
            self._matrices = align.fit(track.points, ALIGNED, sar)[frames]
            return
        x0, y0, x1, y1 = track.boxes[frames].astype(np.float64).T
        half = np.maximum((x1 - x0) * sar, y1 - y0) / 2.0
        self._places = np.stack(
            [median_filter(row, _MEDIAN) for row in ((x0 + x1) / 2.0 * sar, (y0 + y1) / 2.0, half)],
            axis=1,
        )

    def cut(self, picture: Picture, number: int) -> np.ndarray:
        """Crop ``number`` of the stretch from the picture that shows it."""
        if self._protocol == "aligned":
            return align.cut(picture, self._matrices[number], SIZE)
        x, y, half = self._places[number]
        # At the ends the running median reads zeros; a crop of no size shows nothing, not an error.
        half = max(half, 4.0)
        top, bottom = int(y - half), int(y + half * (1 + 2 * _MARGIN))
        left, right = int(x - half * (1 + _MARGIN)), int(x + half * (1 + _MARGIN))
        region = _framed(picture, left, top, right, bottom, self._sar)
        return cv2.resize(region, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)


class BoxCrops:
    """The detector's box as it is, squeezed to a square: what Wav2Lip's networks look at."""

    _SMOOTH = 5
    """Boxes that are averaged, the frame's own and those after it, as Wav2Lip's inference does."""

    def __init__(self, track: FaceTrack, frames: np.ndarray, *, size: int) -> None:
        """``frames``: source frame of every crop of one stretch, in order."""
        self._size = size
        boxes = track.boxes[frames].astype(np.float64)
        first = np.minimum(np.arange(len(boxes)), max(len(boxes) - self._SMOOTH, 0))
        self._boxes = np.stack([boxes[at : at + self._SMOOTH].mean(0) for at in first])

    def cut(self, picture: Picture, number: int) -> np.ndarray:
        """Crop ``number`` of the stretch from the picture that shows it."""
        x0, y0, x1, y1 = (int(value) for value in self._boxes[number])
        width, height = picture.size
        # At least a few pixels of the picture, wherever the box went.
        x0, y0 = min(max(x0, 0), width - 4), min(max(y0, 0), height - 4)
        x1, y1 = max(min(x1, width), x0 + 4), max(min(y1, height), y0 + 4)
        region = picture.region(x0, y0, x1, y1)
        return cv2.resize(region, (self._size, self._size), interpolation=cv2.INTER_LINEAR)


def _framed(
    picture: Picture, left: int, top: int, right: int, bottom: int, sar: float
) -> np.ndarray:
    """A region in square pixels with gray where the picture ends."""
    width, height = picture.size
    wide = right - left
    left, right = round(left / sar), round(right / sar)
    right, bottom = max(right, left + 2), max(bottom, top + 2)
    x0, x1 = min(max(left, 0), width), max(min(right, width), 0)
    y0, y1 = min(max(top, 0), height), max(min(bottom, height), 0)
    result = np.full((bottom - top, right - left, 3), _GRAY, np.uint8)
    if x1 > x0 and y1 > y0:
        result[y0 - top : y1 - top, x0 - left : x1 - left] = picture.region(x0, y0, x1, y1)
    if sar != 1.0:
        result = cv2.resize(result, (max(wide, 2), bottom - top), interpolation=cv2.INTER_LINEAR)
    return result
