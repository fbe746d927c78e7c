"""How far a presenter's mouth is open, from the pixels of a crop alone, and how late it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

from .people import Person

REGION = (0.24, 0.52, 0.76, 0.84)
"""``x0 y0 x1 y1`` of the mouth, open or closed, as a share of the crop's side."""
GRID = (26, 16)
"""Cells, across and down, that it is reduced to: at 64 pixels about one a pixel and a quarter."""
STUDIED = 220
"""Crops of the person with known mouths that are studied first."""
APART = 4
"""Frames from one of them to the next: poses that a few seconds would not show."""
FIRMNESS = 0.02
"""Of the fit; the more, the less a strange pixel counts."""
LINEAR = 0.5
"""Share of the part that is linear in the pixels."""
SHIFTS = 12
"""Frames that a mouth is looked for before and after its time."""
_SEED = 0x0FE2


def opening(crops: np.ndarray, person: Person) -> np.ndarray:
    """``(T,)`` float64, about 0..1.1: the truth's ``open``, as far as it is seen in ``(T, R, R, 3)`` uint8.

    Fitted once to other pictures of this person: other poses, any mouth, sharp and blurred.
    """
    if crops.ndim != 4 or crops.shape[1] != crops.shape[2] or crops.shape[3] != 3:
        raise ValueError(f"crops are {crops.shape}; (T, R, R, 3) is expected")
    gauge = _gauge(person, crops.shape[1])
    return gauge.likeness(_cells(crops)) @ gauge.weights + gauge.offset


def lag(measured: np.ndarray, truth: np.ndarray, shifts: int = SHIFTS) -> float:
    """Frames, with a fraction, by which ``measured`` is later than ``truth``; nan where nothing moves.

    The peak of the correlation of both ``(T,)`` curves over their common stretch.
    """
    count = min(len(measured), len(truth))
    shifts = min(shifts, count // 2 - 1)
    if shifts < 1:
        raise ValueError(f"{count} frames are too few to look for a shift")
    values = [_agreement(measured, truth, shift, count) for shift in range(-shifts, shifts + 1)]
    if not np.isfinite(values).any():
        return float("nan")
    best = int(np.nanargmax(values))
    if 0 < best < len(values) - 1:
        before, at, after = values[best - 1 : best + 2]
        bend = before - 2 * at + after
        if np.isfinite(bend) and bend < 0:
            return best - shifts + 0.5 * (before - after) / bend
    return float(best - shifts)


def _agreement(measured: np.ndarray, truth: np.ndarray, shift: int, count: int) -> float:
    late = np.asarray(measured[max(shift, 0) : count + min(shift, 0)], np.float64)
    own = np.asarray(truth[max(-shift, 0) : count - max(shift, 0)], np.float64)
    late, own = late - late.mean(), own - own.mean()
    size = float(np.sqrt((late**2).sum() * (own**2).sum()))
    return float((late * own).sum()) / size if size > 1e-9 else float("nan")


def _cells(crops: np.ndarray) -> np.ndarray:
    """``(T, cells * 3)`` float32 of the mouth's region, 0..1."""
    side = crops.shape[1]
    x0, y0, x1, y1 = (round(share * side) for share in REGION)
    out = np.empty((len(crops), GRID[1], GRID[0], 3), np.float32)
    for i, crop in enumerate(crops):
        out[i] = cv2.resize(
            crop[y0:y1, x0:x1].astype(np.float32), GRID, interpolation=cv2.INTER_AREA
        )
    return out.reshape(len(crops), -1) / 255


@dataclass(frozen=True, kw_only=True)
class _Gauge:
    """Crops of one person with known mouths, and what each says about another crop."""

    known: np.ndarray
    """``(N, cells * 3)``, their mean taken away."""
    middle: np.ndarray
    near: float
    """How fast likeness falls with the square of the distance."""
    weights: np.ndarray
    offset: float

    def likeness(self, cells: np.ndarray) -> np.ndarray:
        """``(T, N)``: near ones count most; a linear share carries on where nothing is near."""
        away = cells - self.middle
        products = away @ self.known.T
        squares = (away**2).sum(1)[:, None] + (self.known**2).sum(1) - 2 * products
        return LINEAR * self.near * products + np.exp(-self.near * squares)


@lru_cache(maxsize=256)
def _gauge(person: Person, side: int) -> _Gauge:
    from .take import Take

    speech = Take(person.number, STUDIED, resolution=side, seed=_SEED)
    poses = Take(person.number, STUDIED * APART, resolution=side, seed=_SEED)
    rng = np.random.default_rng([person.number, 8])
    size = (side, side)
    crops, truth = [], []
    for number in range(STUDIED):
        frame = number * APART
        shape = speech.shapes[number].copy()
        if number % 2:
            # Any mix of numbers: the chin and the corners must not stand for the opening.
            shape = rng.uniform(0, 1, 6) ** (1.0, 1.0, 1.5, 1.5, 3.0, 3.0)
            shape[0] *= 1.1 * (1 - shape[4])
        crop = poses.picture(frame, shape, poses.matrices[frame], size)
        blur = rng.uniform(0, 1.3) * side / 64
        crops.append(cv2.GaussianBlur(crop, (0, 0), blur) if blur > 0.3 else crop)
        truth.append(shape[0])
    cells, wanted = _cells(np.stack(crops)).astype(np.float64), np.array(truth, np.float64)
    known = cells - cells.mean(0)
    squares = (known**2).sum(1)
    distances = squares[:, None] + squares - 2 * known @ known.T
    gauge = _Gauge(
        known=known,
        middle=cells.mean(0),
        near=0.5 / float(np.median(distances)),
        weights=np.zeros(len(known)),
        offset=float(wanted.mean()),
    )
    likeness = gauge.likeness(cells) + FIRMNESS * np.eye(len(known))
    return replace(gauge, weights=np.linalg.solve(likeness, wanted - gauge.offset))
