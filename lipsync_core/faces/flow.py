"""How the rigid upper face moved from one frame to the next: corners followed by optical flow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from ..types import Picture

LUMA_SIDE = 960
"""Longer side of the brightness picture that everything per frame is computed from."""
UNIT = 32.0
"""Distance eyes to mouth in patch pixels; larger faces are reduced to it, smaller ones kept.

At 32, 40, 64 and 100 the measured movement is the same to 2 %; 32 costs least.
"""
FEW_PIXELS = 24.0
"""Below this distance in the brightness picture the patch is read at full resolution instead."""
CORNERS = 40
"""Followed per face; 60 and 120 measure the same."""
REACH = 1.9
"""Half side of a patch in units eyes to mouth: the face and a movement of about half of it."""
DRIFT = 0.002
"""What a perfect fit still misses per frame (skin moves, heads are not flat), in the same units."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """Movement of a face between two consecutive frames."""

    matrix: np.ndarray
    """``(2, 3)`` float64: source px of the earlier frame to source px of the later."""
    variance: float
    """Of a point carried by ``matrix``, in square source px."""
    agreement: float
    """Part of the corners that moved like this, 0..1."""


@dataclass(frozen=True, kw_only=True)
class View:
    """A square of the source at a resolution, so that two frames can be read alike."""

    box: tuple[int, int, int, int]
    """``x0 y0 x1 y1`` in px of the picture it is cut from."""
    native: bool
    """Cut from the source; else from the reduced brightness picture."""
    side: int
    """Longer side of the patch in px."""


def view_of(points: np.ndarray, picture: Picture, luma: np.ndarray) -> View:
    """Where to look for the face of ``points`` ``(5, 2)`` in this frame and the next."""
    reduction = luma.shape[1] / picture.size[0]
    unit = unit_of(points)
    native = unit * reduction < FEW_PIXELS and reduction < 1
    scale = 1.0 if native else reduction
    centre = (points[:2].mean(0) * 0.6 + points[3:].mean(0) * 0.4 + 0.5) * scale - 0.5
    half = max(REACH * unit * scale, 12.0)
    x0, y0 = np.floor(centre - half).astype(int)
    x1, y1 = np.ceil(centre + half).astype(int) + 1
    if not native:
        height, width = luma.shape
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        x0, y0 = min(x0, width - 8), min(y0, height - 8)
        x1, y1 = max(x1, x0 + 8), max(y1, y0 + 8)
    side = round(max(x1 - x0, y1 - y0) * min(1.0, UNIT / max(unit * scale, 1e-6)))
    return View(box=(int(x0), int(y0), int(x1), int(y1)), native=native, side=max(side, 8))


def patch_of(view: View, picture: Picture, luma: np.ndarray) -> np.ndarray:
    """The pixels of ``view``: ``(h, w)`` uint8."""
    x0, y0, x1, y1 = view.box
    if view.native:
        patch = cv2.cvtColor(picture.region(x0, y0, x1, y1), cv2.COLOR_RGB2GRAY)
    else:
        patch = luma[y0:y1, x0:x1]
    factor = view.side / max(patch.shape)
    if factor < 0.95:
        size = (max(round(patch.shape[1] * factor), 8), max(round(patch.shape[0] * factor), 8))
        return cv2.resize(patch, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(patch)


def placement(view: View, patch: np.ndarray, picture: Picture, luma: np.ndarray) -> np.ndarray:
    """``(3, 3)`` float64: source px to px of ``patch``."""
    x0, y0, x1, y1 = view.box
    scale = 1.0 if view.native else luma.shape[1] / picture.size[0]
    sx, sy = patch.shape[1] / (x1 - x0), patch.shape[0] / (y1 - y0)
    return np.array(
        [
            [scale * sx, 0, (0.5 * scale - x0) * sx - 0.5],
            [0, scale * sy, (0.5 * scale - y0) * sy - 0.5],
            [0, 0, 1],
        ]
    )


def link(
    before: np.ndarray, after: np.ndarray, place: np.ndarray, points: np.ndarray
) -> Link | None:
    """Movement of the face at ``points`` ``(5, 2)`` source px between two patches of one view.

    None when it cannot be told: too few corners agree, or the face would grow or turn faster than
    heads do.
    """
    scale = float(np.sqrt(place[0, 0] * place[1, 1]))
    local = points @ place[:2, :2].T + place[:2, 2]
    unit = unit_of(local)
    start = cv2.goodFeaturesToTrack(
        before, CORNERS, 0.01, max(0.05 * unit, 2.0), mask=_upper_face(local, before.shape)
    )
    if start is None or len(start) < MINIMUM:
        return None
    window = (11, 11) if unit > 20 else (9, 9)
    end, status, _ = cv2.calcOpticalFlowPyrLK(
        before,
        after,
        start,
        np.empty_like(start),
        winSize=window,
        maxLevel=3,
        criteria=(cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.01),
    )
    kept = status.ravel() == 1
    start, end = start[kept, 0].astype(np.float64), end[kept, 0].astype(np.float64)
    if len(start) < MINIMUM:
        return None
    rough, agree = cv2.estimateAffinePartial2D(
        start,
        end,
        method=cv2.RANSAC,
        ransacReprojThreshold=0.015 * unit + 0.5,
        maxIters=200,
        confidence=0.99,
    )
    if rough is None or agree.sum() < max(MINIMUM, AGREEING * len(start)):
        return None
    matrix, rest = _robust_similarity(start, end, agree.ravel() == 1)
    growth = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if not 0.8 < growth < 1.25 or abs(matrix[1, 0]) > 0.4 * growth:
        return None
    whole = np.linalg.inv(place) @ np.vstack([matrix, (0, 0, 1)]) @ place
    variance = (rest / scale) ** 2 + (DRIFT * unit / scale) ** 2
    return Link(matrix=whole[:2], variance=variance, agreement=float(agree.sum()) / len(agree))


MINIMUM = 8
AGREEING = 0.5


def unit_of(points: np.ndarray) -> float:
    """Distance from the middle of the eyes to the middle of the mouth: the ruler of a face."""
    left, right, _, corner, other = points.tolist()
    across = (corner[0] + other[0] - left[0] - right[0]) / 2
    down = (corner[1] + other[1] - left[1] - right[1]) / 2
    return math.hypot(across, down)


def _upper_face(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Where skin moves with the skull: brows to nose tip, not lips and not the background."""
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    unit = unit_of(points)
    centre = eyes + 0.1 * (mouth - eyes)
    angle = float(np.degrees(np.arctan2(*(mouth - eyes)[::-1]))) - 90
    mask = np.zeros(shape[:2], np.uint8)
    box = ((float(centre[0]), float(centre[1])), (1.5 * unit, 1.24 * unit), angle)
    cv2.ellipse(mask, box, 255, -1)
    return mask


def _robust_similarity(
    start: np.ndarray, end: np.ndarray, agree: np.ndarray
) -> tuple[np.ndarray, float]:
    """Least squares with Tukey weights: ``(2, 3)`` and the standard error of a carried point in px."""
    source = start[:, 0] + 1j * start[:, 1]
    goal = end[:, 0] + 1j * end[:, 1]
    weights = agree.astype(np.float64)
    turn, shift, limit = 1 + 0j, 0j, 1.0
    for _ in range(3):
        total = weights.sum()
        middle, centre = (weights @ source) / total, (weights @ goal) / total
        offset = source - middle
        turn = (
            (weights * offset.conj())
            @ (goal - centre)
            / max((weights * np.abs(offset) ** 2).sum(), 1e-9)
        )
        shift = centre - turn * middle
        error = np.abs(goal - turn * source - shift)
        limit = max(4.0 * float(np.median(error[agree])), 0.1)
        weights = np.where(error < limit, (1 - (error / limit) ** 2) ** 2, 0.0)
        if weights.sum() < 4:
            weights = agree.astype(np.float64)
    matrix = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
    total = max(weights.sum(), 1.0)
    rest = float(np.sqrt((weights * error**2).sum() / total / total))
    return matrix, rest
