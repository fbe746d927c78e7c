"""From five points to an upright square crop: the transform, its size, and the pixels."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from .templates import Template

if TYPE_CHECKING:
    from ..types import FaceTrack, Picture

WEIGHTS = np.array([1.0, 1.0, 1.0, 0.5, 0.5])
"""Eyes and nose steer; mouth corners move when the person talks and must not rock the crop."""

SOFTENED = 1.15
"""Pictures that shrink more than this are low-passed before they are sampled."""


def fit(points: np.ndarray, template: Template, sar: float = 1.0) -> np.ndarray:
    """Similarities that lay a person's points onto the template: ``(T, 2, 3)`` float64, source px to crop px.

    ``points``: ``(T, 5, 2)`` source px; rows that are not finite take the nearest finite one.
    ``sar``: width of a source pixel divided by its height. Each frame is fitted to the person's
    own median shape, so that a long nose or a wide mouth tilts nothing. Columns are
    widened afterwards by the template's ``stretch``.
    """
    points = _filled(np.asarray(points, np.float64)) * (sar, 1.0)
    upright = replace(
        template,
        eyes=(template.eyes[0] / template.stretch, template.eyes[1]),
        mouth=(template.mouth[0] / template.stretch, template.mouth[1]),
    )
    target = reference_shape(points, upright)
    weights = WEIGHTS / WEIGHTS.sum()
    source = points[..., 0] + 1j * points[..., 1]
    goal = target[:, 0] + 1j * target[:, 1]
    middle, centre = source @ weights, goal @ weights
    offset = source - middle[:, None]
    spread = np.maximum((np.abs(offset) ** 2) @ weights, 1e-9)
    turn = (offset.conj() * (goal - centre)) @ weights / spread
    shift = centre - turn * middle
    matrices = np.empty((len(points), 2, 3))
    matrices[:, 0] = np.stack([turn.real * sar, -turn.imag, shift.real], axis=1)
    matrices[:, 1] = np.stack([turn.imag * sar, turn.real, shift.imag], axis=1)
    matrices[:, 0] *= template.stretch
    return matrices


def reference_shape(points: np.ndarray, template: Template) -> np.ndarray:
    """The person's median shape laid on the template's eyes and mouth: ``(5, 2)`` float64 crop px.

    ``points``: ``(T, 5, 2)``, finite, square pixels.
    """
    eyes = points[:, :2].mean(1)
    down = points[:, 3:].mean(1) - eyes
    scale = np.maximum((down**2).sum(1), 1e-9)
    away = points - eyes[:, None]
    # Coordinates along and across the line from eyes to mouth, in units of its length.
    along = (away * down[:, None]).sum(2) / scale[:, None]
    across = (away[..., 0] * down[:, None, 1] - away[..., 1] * down[:, None, 0]) / scale[:, None]
    start = np.array(template.eyes) * template.size
    axis = (np.array(template.mouth) - template.eyes) * template.size
    shape_along, shape_across = np.median(along, axis=0), np.median(across, axis=0)
    return start + shape_along[:, None] * axis + shape_across[:, None] * (axis[1], -axis[0])


def size_for(track: FaceTrack, unit: float = 154 / 512, limit: int = 512) -> int:
    """Side of a crop in which one pixel is about one source pixel: a multiple of 32, 128..``limit``.

    ``unit``: distance eyes to mouth as a fraction of the crop's side.
    """
    points = track.points[track.present]
    if not len(points):
        return 128
    lengths = np.linalg.norm(points[:, 3:].mean(1) - points[:, :2].mean(1), axis=1)
    # The upper quarter: the person may come closer, and detail lost there is seen most.
    side = float(np.percentile(lengths, 75)) / unit
    return int(np.clip(math.ceil(side / 32) * 32, 128, limit))


def region_of(
    matrix: np.ndarray,
    size: int,
    picture_size: tuple[int, int] | None = None,
    margin: float = 0.0,
    first: int = 0,
) -> tuple[int, int, int, int]:
    """Smallest ``x0 y0 x1 y1`` in source px that holds the crop from row ``first`` on.

    Within ``picture_size`` if given.
    """
    return bounds_of(
        matrix,
        np.array([[0.0, first], [size - 1, first], [0, size - 1], [size - 1, size - 1]]),
        picture_size,
        margin,
    )


def cut(picture: Picture, matrix: np.ndarray, size: int, *, first: int = 0) -> np.ndarray:
    """The aligned crop, ``(size, size, 3)`` uint8 RGB; outside the picture the edge is repeated.

    ``matrix``: ``(2, 3)`` source px to crop px. Where the crop is smaller than its source, the
    source is low-passed first, so that nothing shimmers as the face moves. ``first``: the rows above
    it are not wanted and stay black.
    """
    shrink = 1.0 / scale_of(matrix)
    x0, y0, x1, y1 = region_of(matrix, size, margin=3 + 2 * max(shrink, 1), first=first)
    width, height = picture.size
    # A face far outside would ask for a region of repeated edge alone; a thin slice is the same.
    x0, x1 = _within(x0, x1, width)
    y0, y1 = _within(y0, y1, height)
    source = picture.region(x0, y0, x1, y1)
    matrix = translated(matrix, x0, y0)
    source, matrix = softened(source, matrix, shrink)
    below = matrix - np.array([[0, 0, 0], [0, 0, first]])
    crop = resampled(source, below, (size, size - first), resampling(shrink))
    return cv2.copyMakeBorder(crop, first, 0, 0, 0, cv2.BORDER_CONSTANT) if first else crop


def resampled(
    picture: np.ndarray, matrix: np.ndarray, size: tuple[int, int], flags: int
) -> np.ndarray:
    """``picture`` ``(h, w, 3)`` uint8 as ``matrix`` turns it, ``size`` ``(W, H)``; its edge is repeated.

    Cubic by way of float32, which OpenCV does in two thirds of the time, to the same values.
    """
    if flags == cv2.INTER_CUBIC:
        picture = picture.astype(np.float32)
    turned = cv2.warpAffine(picture, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return turned if turned.dtype == np.uint8 else whole_levels(turned)


def whole_levels(picture: np.ndarray) -> np.ndarray:
    """A float32 picture of 0..255 rounded and kept within that: uint8."""
    return cv2.addWeighted(picture, 1, picture, 0, 0, dtype=cv2.CV_8U)


def resampling(shrink: float) -> int:
    """How ``cv2.warpAffine`` shall interpolate where source pixels shrink so many times.

    Cubic keeps 83 % of fine detail through cut and paste, where linear keeps 60 %; a source that
    was low-passed for a smaller crop has none to lose.
    """
    return cv2.INTER_LINEAR if shrink > SOFTENED else cv2.INTER_CUBIC


def scale_of(matrix: np.ndarray) -> float:
    """Crop px per source px."""
    return math.sqrt(abs(float(np.linalg.det(matrix[:, :2]))))


def translated(matrix: np.ndarray, x0: float, y0: float) -> np.ndarray:
    """The same transform for coordinates counted from ``(x0, y0)``: ``(2, 3)`` float64."""
    moved = np.array(matrix, np.float64)
    moved[:, 2] += moved[:, :2] @ (x0, y0)
    return moved


def softened(
    source: np.ndarray, matrix: np.ndarray, shrink: float
) -> tuple[np.ndarray, np.ndarray]:
    """``source`` with what ``shrink`` times fewer pixels cannot show removed, and its matrix."""
    # Whole pixels are averaged first, but not so far that their own aliasing would be left.
    whole = int(shrink / 1.2)
    if whole >= 2:
        height, width = source.shape[:2]
        right, below = -width % whole, -height % whole
        source = cv2.copyMakeBorder(source, 0, below, 0, right, cv2.BORDER_REPLICATE)
        source = cv2.resize(
            source,
            (source.shape[1] // whole, source.shape[0] // whole),
            interpolation=cv2.INTER_AREA,
        )
        # Centre of the reduced pixel 0 lies at (whole - 1) / 2.
        matrix = matrix.copy()
        matrix[:, 2] += matrix[:, :2] @ np.full(2, (whole - 1) / 2)
        matrix[:, :2] *= whole
        shrink /= whole
    if shrink > SOFTENED:
        # Half a pixel of blur belongs to the source already; this adds up to that of the crop.
        sigma = 0.5 * math.sqrt(shrink**2 - 1)
        source = cv2.GaussianBlur(source, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    return source, matrix


def bounds_of(
    matrix: np.ndarray, corners: np.ndarray, picture_size: tuple[int, int] | None, margin: float
) -> tuple[int, int, int, int]:
    """``x0 y0 x1 y1`` around ``corners`` ``(N, 2)`` crop px in source px, ``margin`` wider all round."""
    linear = np.linalg.inv(np.asarray(matrix, np.float64)[:, :2])
    corners = (corners - matrix[:, 2]) @ linear.T
    x0, y0 = np.floor(corners.min(0) - margin).astype(int)
    x1, y1 = np.ceil(corners.max(0) + margin).astype(int) + 1
    if picture_size is not None:
        x0, y0 = max(x0, 0), max(y0, 0)
        x1, y1 = max(min(x1, picture_size[0]), x0), max(min(y1, picture_size[1]), y0)
    return int(x0), int(y0), int(x1), int(y1)


def _within(start: int, end: int, length: int) -> tuple[int, int]:
    start, end = min(max(start, -8), length - 1), max(min(end, length + 8), 1)
    return start, max(end, start + 1)


def _filled(points: np.ndarray) -> np.ndarray:
    good = np.flatnonzero(np.isfinite(points).all(axis=(1, 2)))
    if not len(good):
        raise ValueError("no frame has points; nothing can be aligned")
    after = good[np.minimum(np.searchsorted(good, np.arange(len(points))), len(good) - 1)]
    before = good[np.maximum(np.searchsorted(good, np.arange(len(points)), side="right") - 1, 0)]
    steps = np.arange(len(points))
    return points[np.where(np.abs(after - steps) < np.abs(steps - before), after, before)]
