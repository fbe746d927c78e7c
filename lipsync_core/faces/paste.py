"""The new mouth back into its frame: only the face's region, sub-pixel, light matched."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

from .align import SOFTENED, bounds_of, resampling, scale_of, softened, translated

if TYPE_CHECKING:
    from ..types import Picture

CELL = 8
"""Light is compared on a grid this many times coarser than the source."""
ALIKE = 5.0
"""Levels of mean difference at which two crops no longer show the same skin."""
LIGHT_LIMIT = 28.0
"""Levels by which light may be corrected; more is a different face, not different light."""


def paste(
    picture: Picture,
    crop: np.ndarray,
    mask: np.ndarray,
    matrix: np.ndarray,
    *,
    strength: float = 1.0,
    match_colour: bool = False,
    original: np.ndarray | None = None,
) -> tuple[int, int, np.ndarray, np.ndarray]:
    """What to blend into ``picture``: ``(x0, y0, rgb, mask)`` in source pixels.

    ``crop``: ``(h, w, 3)`` uint8 or float32 0..255, ``mask``: ``(h, w)`` float32, ``matrix``:
    ``(2, 3)`` source px to crop px. Returns ``rgb`` ``(H', W', 3)`` float32 0..255, the crop as
    the source would show it, not yet blended, and ``mask`` ``(H', W')`` float32, the crop's mask
    times ``strength``, exactly 0 where nothing changes; both are empty when nothing of the mask
    lies inside the picture. ``match_colour``: shift the crop's low frequencies so that they agree
    with the source along the rim of the mask. ``original``: the crop as it was cut, uint8: where
    ``crop`` still shows the same, the source's own finer detail comes back, so that an unchanged
    crop gives back the source itself.
    """
    box = _support(mask)
    if box is None or strength <= 0:
        return _nothing()
    left, top, right, bottom = box
    corners = np.array([[left, top], [right, top], [left, bottom], [right, bottom]], np.float64)
    x0, y0, x1, y1 = bounds_of(matrix, corners, picture.size, 1.0)
    if x1 <= x0 or y1 <= y0:
        return _nothing()
    # More than the mask needs, so that cubic interpolation and softening never meet the cut edge.
    spare = 3 + math.ceil(2 * scale_of(matrix))
    rows = slice(max(top - spare, 0), bottom + 1 + spare)
    columns = slice(max(left - spare, 0), right + 1 + spare)
    inner = translated(matrix, x0, y0)
    inner[:, 2] -= (columns.start, rows.start)
    size = (x1 - x0, y1 - y0)
    enlarged = scale_of(matrix)
    fresh = crop[rows, columns]
    if original is not None:
        same = _sameness(fresh, original[rows, columns])
        known = cv2.multiply(original[rows, columns], cv2.merge([same] * 3), dtype=cv2.CV_32F)
        fresh = cv2.subtract(fresh, known, dtype=cv2.CV_32F)
    painted = _warped(fresh, inner, size, enlarged, resampling(enlarged), cv2.BORDER_REPLICATE)
    # Linear: a cubic mask would overshoot beyond its own edge.
    alpha = _warped(
        mask[rows, columns], inner, size, enlarged, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT
    )
    if original is not None or match_colour:
        source = picture.region(x0, y0, x1, y1).astype(np.float32)
    if original is not None:
        # What is the same is the source itself, never resampled.
        same = _warped(same, inner, size, 1.0, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)
        cv2.accumulateProduct(source, cv2.merge([same] * 3), painted)
    if match_colour:
        painted += _light(source, painted, alpha)
    if strength < 1:
        alpha *= np.float32(strength)
    return x0, y0, np.clip(painted, 0, 255, out=painted), alpha


def blend(source: np.ndarray, rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``source`` ``(h, w, 3)`` uint8 with ``rgb`` where ``mask``: uint8, to the bit ``source`` where it is 0."""
    mixed = source + mask[..., None] * (rgb - source)
    return np.rint(np.clip(mixed, 0, 255)).astype(np.uint8)


def _sameness(crop: np.ndarray, original: np.ndarray) -> np.ndarray:
    """``(h, w)`` float32: 1 where the two crops show the same, 0 where they differ in earnest.

    Judged over a neighbourhood: single pixels of a new mouth agree with the old one by chance, and
    the old one's detail must not shine through there.
    """
    # In whole levels, which are a quarter of the work: half a level is far below ALIKE.
    apart = cv2.absdiff(cv2.convertScaleAbs(crop), original)
    red, green, blue = cv2.split(apart)
    apart = cv2.max(cv2.max(red, green), blue)
    height, width = apart.shape
    reach = max(height / 64, 1.0)
    # A wide blur of many pixels says no more than a narrow one of few.
    fewer = max(int(reach / 1.7), 1)
    apart = cv2.copyMakeBorder(
        apart, 0, -height % fewer, 0, -width % fewer, cv2.BORDER_REPLICATE
    ).astype(np.float32)
    whole = apart.shape[::-1]
    small = cv2.resize(apart, (whole[0] // fewer, whole[1] // fewer), interpolation=cv2.INTER_AREA)
    small = np.exp(-((cv2.GaussianBlur(small, (0, 0), reach / fewer) / ALIKE) ** 2))
    return cv2.resize(small, whole, interpolation=cv2.INTER_LINEAR)[:height, :width]


def _support(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """First and last column and row with a mask above 0: ``left top right bottom``, inclusive."""
    columns = np.flatnonzero(mask.max(axis=0) > 0)
    rows = np.flatnonzero(mask.max(axis=1) > 0)
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def _warped(
    plane: np.ndarray,
    matrix: np.ndarray,
    size: tuple[int, int],
    shrink: float,
    flags: int,
    border: int,
) -> np.ndarray:
    """``plane`` seen from the source: float32. ``matrix`` takes source px to plane px."""
    inverse = cv2.invertAffineTransform(matrix)
    if shrink > SOFTENED:
        plane, inverse = softened(plane, inverse, shrink)
    plane = np.ascontiguousarray(plane, np.float32)
    return cv2.warpAffine(plane, inverse, size, flags=flags, borderMode=border)


def _light(source: np.ndarray, painted: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Smooth ``(h, w, 3)`` float32 correction that makes the rim of the mask agree with the source."""
    height, width = alpha.shape
    small = (max(width // CELL, 2), max(height // CELL, 2))
    difference = cv2.resize(source - painted, small, interpolation=cv2.INTER_AREA)
    inside = cv2.resize(alpha, small, interpolation=cv2.INTER_AREA)
    # The rim: where the two are blended, most of all halfway.
    rim = 4 * inside * (1 - inside)
    sure = rim > 0.2
    if not sure.any():
        return np.zeros_like(painted)
    middle = np.median(difference[sure], axis=0)
    spread = np.abs(difference - middle).max(axis=2)
    # Hair, a hand or a collar in the rim differ for other reasons than light.
    rim = (rim / (1 + (spread / 16) ** 2)).astype(np.float32)
    sigma = 0.22 * max(small)
    border = cv2.BORDER_REPLICATE
    weight = cv2.GaussianBlur(rim, (0, 0), sigma, borderType=border)[..., None]
    low = cv2.GaussianBlur(difference * rim[..., None], (0, 0), sigma, borderType=border)
    # Where little of the rim can be trusted, its median over all speaks.
    prior = np.float32(0.15) * weight.max() + np.float32(1e-6)
    low = np.clip((low + prior * middle) / (weight + prior), -LIGHT_LIMIT, LIGHT_LIMIT)
    low = low.astype(np.float32)
    return cv2.resize(low, (width, height), interpolation=cv2.INTER_LINEAR)


def _nothing() -> tuple[int, int, np.ndarray, np.ndarray]:
    return 0, 0, np.zeros((0, 0, 3), np.float32), np.zeros((0, 0), np.float32)
