"""The part of the face that LatentSync fills, and how its crops were aligned."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

SIDE = 256
"""The scale of the numbers below."""
TOP = 95
NOTCH_BOTTOM = 128
NOTCH = (78, 178)
"""Columns between which the bridge of the nose is kept, from ``TOP`` to ``NOTCH_BOTTOM``."""
LEFT = (
    (95, 9), (128, 9), (157, 11), (170, 12), (179, 17), (189, 23), (196, 29), (207, 39), (215, 49),
    (223, 62), (233, 82), (236, 90), (238, 95), (241, 108), (242, 131),
)  # fmt: skip
RIGHT = (
    (95, 247), (127, 247), (128, 248), (169, 245), (178, 240), (196, 228), (206, 219), (214, 211),
    (215, 209), (220, 203), (228, 190), (231, 184), (234, 176), (239, 165), (242, 153),
)  # fmt: skip
"""``(row, column)`` where the region's edges bend; measured on the mask that the networks saw."""
BOTTOM = 243
_FINE = 8
FEATHER = 0.045
"""Part of the crop's side over which the new mouth fades into the source, inside the region."""


@lru_cache(maxsize=8)
def coverage(size: int) -> np.ndarray:
    """``(size, size)`` float32: how much of each pixel belongs to the region. Read-only."""
    rows = (np.arange(size * _FINE) + 0.5) / _FINE * SIDE / size - 0.5
    left, right = (
        np.interp(rows, [row for row, _ in edge], [column for _, column in edge]) * size / SIDE
        for edge in (LEFT, RIGHT)
    )
    inside = (rows > TOP - 0.5) & (rows < BOTTOM - 0.5)
    cells = _span(left, right, size) * inside[:, None]
    notch = rows < NOTCH_BOTTOM - 0.5
    first, last = (np.full(len(rows), edge * size / SIDE) for edge in NOTCH)
    kept = _span(first, last, size)
    cells -= cells * kept * notch[:, None]
    area = cells.reshape(size, _FINE, size).mean(1).astype(np.float32)
    area.setflags(write=False)
    return area


def _span(left: np.ndarray, right: np.ndarray, size: int) -> np.ndarray:
    """``(rows, size)``: how much of each column lies between the two edges."""
    columns = np.arange(size)
    return np.clip(
        np.minimum(right[:, None], columns + 1) - np.maximum(left[:, None], columns), 0, 1
    )


@lru_cache(maxsize=8)
def hidden(size: int) -> np.ndarray:
    """``(size, size)`` bool: the pixels that the network does not see and draws anew. Read-only."""
    mask = coverage(size) >= 0.5
    mask.setflags(write=False)
    return mask


def hidden_latent(size: int, factor: int) -> np.ndarray:
    """``(size / factor, size / factor)`` float32, 1 where hidden: the top-left pixel of each cell."""
    return hidden(size)[::factor, ::factor].astype(np.float32)


@lru_cache(maxsize=8)
def paint(size: int) -> np.ndarray:
    """``(size, size)`` float32 mask for pasting: 0 outside of what was hidden, 1 well inside."""
    depth = cv2.distanceTransform(
        np.pad(hidden(size).astype(np.uint8), 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    )[1:-1, 1:-1]
    t = np.clip((depth - 1) / max(FEATHER * size, 1.0), 0, 1)
    mask = (t * t * (3 - 2 * t)).astype(np.float32)
    mask.setflags(write=False)
    return mask


NATIVE = (75, 100)
"""Width and height of the original's crop before it is squeezed to a square."""
_CORNERS = np.array([[17.0, 20.0], [58.0, 20.0], [37.5, 40.0]])
"""Where it puts the middles of the brows (left of the picture first) and of the nose."""


def original_matrix(points: np.ndarray, size: int) -> np.ndarray:
    """The original's transform to its unsqueezed crop: ``(2, 3)`` float64, source px to crop px.

    ``points``: ``(3, 2)`` middles of brow, brow and nose. ``size``: of the square crop, 256 or 512,
    which is squeezed from ``2.8 * size / 256 * NATIVE`` px.
    """
    goal = _CORNERS * (2.8 * size / SIDE)
    points = np.asarray(points, np.float64)
    start, end = points.mean(0), goal.mean(0)
    # one spread for all six numbers: not the least-squares scale, but what the crops were made with
    spread, wanted = (points - start).std(ddof=1), (goal - end).std(ddof=1)
    u, _, v = np.linalg.svd(((points - start) / spread).T @ ((goal - end) / wanted))
    flip = np.diag([1.0, np.sign(np.linalg.det(u @ v))])
    linear = (u @ flip @ v).T * (wanted / spread)
    return np.column_stack([linear, end - linear @ start])
