"""What the draft engine learns of one person: lower faces worth re-using, and how open each frame is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from ...faces.align import resampled
from ...faces.flow import unit_of
from ...types import Picture
from .adapt import PATCH_BOX
from .measure import VIEW, VIEW_BOX, Gauge, pose_of

BUDGET = 56 * 2**20
"""Bytes of donor pictures kept for one person, whatever the length of the clip."""
_LARGEST_UNIT = 150
"""Eye-mouth distance in pixels of the largest donor picture (256 x 226)."""
_GROWN = 1.6
"""A face so many times larger than the donors kept starts a new collection."""
_RUN = 8
"""Donors are kept and dropped in runs of this many frames, so that neighbours stay neighbours."""
_BINS = np.array((0.04, 0.05, 0.05, 0.06, 0.06), np.float32)
"""Steps of opening, width, gap, yaw and pitch within which two frames count as the same mouth."""

_FRAME, _REFERENCE, _VALUES, _POINTS = 0, 1, slice(2, 6), slice(6, 16)
"""Columns of what is noted of every frame: 64 bytes."""


class DraftStudy:
    """Looks at every frame once and keeps the runs that cover mouth shapes and poses best.

    ``budget``: bytes of pictures kept, whatever the length of the clip.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self._budget = budget
        self._gauge = Gauge()
        self._unit = 0
        self._patches = np.empty((0, _RUN, 0, 0, 3), np.uint8)
        self._seen = np.empty((256, 16), np.float32)
        self._count = 0
        self._slots: list[list[int]] = []
        self._open_slot = -1
        self._last = -2

    def see(self, picture: Picture, points: np.ndarray) -> None:
        """Measures one frame and keeps its lower face for now. ``points``: ``(5, 2)``."""
        points = np.asarray(points, np.float32)
        unit = int(np.clip(round(unit_of(points)), 16, _LARGEST_UNIT))
        if unit > _GROWN * self._unit:
            self._begin(unit)
        patch = _cut(picture, points, self._unit)
        pose = pose_of(points)
        reading = self._gauge.read(view_of(patch, self._unit), pose)
        if self._count == len(self._seen):
            self._seen = np.concatenate([self._seen, np.empty_like(self._seen)])
        self._seen[self._count, _FRAME] = picture.index
        self._seen[self._count, _REFERENCE] = reading.reference
        self._seen[self._count, _VALUES] = (
            reading.opening,
            reading.width,
            reading.gap,
            reading.sharp,
        )
        self._seen[self._count, _POINTS] = points.reshape(-1)
        self._count += 1
        self._keep(patch, self._count - 1)

    def _begin(self, unit: int) -> None:
        """Room for patches of this size; smaller ones kept so far would be blurred beside them."""
        w, h = patch_size(unit)
        count = max(self._budget // (w * h * 3 * _RUN), 4)
        self._unit, self._patches = unit, np.empty((count, _RUN, h, w, 3), np.uint8)
        self._slots, self._open_slot = [], -1

    def state(self) -> dict[str, np.ndarray]:
        """Scalars of every frame seen and the donors kept, as named arrays."""
        seen = self._seen[: self._count]
        w, h = patch_size(self._unit)
        patches = self._patches[: len(self._slots)].reshape(len(self._slots) * _RUN, h, w, 3)
        owners = np.full(len(self._slots) * _RUN, -1, np.int32)
        for slot, rows in enumerate(self._slots):
            owners[slot * _RUN : slot * _RUN + len(rows)] = rows
        return {
            "unit": np.array([self._unit], np.int32),
            "frames": seen[:, _FRAME].astype(np.int32),
            "points": seen[:, _POINTS].reshape(-1, 5, 2).copy(),
            "values": self._values(np.arange(self._count)),
            "owners": owners,
            "patches": patches,
        }

    def _keep(self, patch: np.ndarray, row: int) -> None:
        frame = int(self._seen[row, _FRAME])
        slot = self._open_slot
        if slot < 0 or len(self._slots[slot]) == _RUN or frame != self._last + 1:
            if len(self._slots) < len(self._patches):
                self._slots.append([])
                slot = len(self._slots) - 1
            else:
                slot = self._least()
                self._slots[slot] = []
            self._open_slot = slot
        self._patches[slot, len(self._slots[slot])] = patch
        self._slots[slot].append(row)
        self._last = frame

    def _least(self) -> int:
        """The run whose mouths are best covered by the others."""
        rows = np.concatenate([np.array(rows, np.int64) for rows in self._slots])
        slots = np.repeat(np.arange(len(self._slots)), [len(rows) for rows in self._slots])
        mouths = self._values(rows)[:, :3]
        poses = pose_of(self._seen[rows, _POINTS].reshape(-1, 5, 2))[:, :2]
        keys = np.floor(np.column_stack([mouths, poses]) / _BINS)
        _, kind, count = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
        worth = np.bincount(slots, 1.0 / count[kind.reshape(-1)], minlength=len(self._slots))
        return int(np.argmin(worth))

    def _values(self, rows: np.ndarray) -> np.ndarray:
        """Opening, width, gap and detail of some frames, opening and width on one common zero."""
        values = self._seen[rows, _VALUES].copy()
        values[:, :2] += self._gauge.zeros()[self._seen[rows, _REFERENCE].astype(np.int64)]
        return values


@dataclass(frozen=True, kw_only=True)
class Donors:
    """A person's own lower faces in order of time, one row per donor, and a summary of the clip."""

    unit: int
    """Eye-mouth distance in pixels of the patches."""
    pictures: np.ndarray
    """``(slots, h, w, 3)`` uint8; a donor's picture is ``pictures[slot]``."""
    slot: np.ndarray
    """``(N,)`` int64."""
    frame: np.ndarray
    """``(N,)`` int32: source frame."""
    points: np.ndarray
    """``(N, 5, 2)`` float32: the points by which the patch was cut."""
    sharp: np.ndarray
    """``(N,)`` float32: grey levels of detail."""
    follows: np.ndarray
    """``(N,)`` bool: the next row is the next source frame."""
    opening_range: float
    """How far the mouth opens in the clip: p95 - p5 of every frame seen, in eye-mouth distances."""

    def __len__(self) -> int:
        return len(self.frame)

    def picture(self, donor: int) -> np.ndarray:
        """``(h, w, 3)`` uint8."""
        return self.pictures[self.slot[donor]]


def donors_of(state: Mapping[str, np.ndarray]) -> Donors:
    """Reads back what ``DraftStudy.state`` gave."""
    owners = state["owners"]
    slot = np.flatnonzero(owners >= 0)
    frame = state["frames"][owners[slot]]
    order = np.argsort(frame, kind="stable")
    slot, frame = slot[order], frame[order]
    rows = owners[slot]
    values = state["values"]
    low, high = np.percentile(values[:, 0], (5, 95)) if len(values) else (0.0, 0.0)
    return Donors(
        unit=int(state["unit"][0]),
        pictures=state["patches"],
        slot=slot,
        frame=frame,
        points=state["points"][rows],
        sharp=values[rows, 3],
        follows=np.append(np.diff(frame) == 1, False),
        opening_range=float(high - low),
    )


def patch_size(unit: int) -> tuple[int, int]:
    """Width and height in pixels of a patch with this eye-mouth distance."""
    x0, y0, x1, y1 = PATCH_BOX
    return round((x1 - x0) * unit), round((y1 - y0) * unit)


def patch_matrix(points: np.ndarray, unit: int) -> np.ndarray:
    """``(2, 3)`` float64 from source pixels to pixels of a patch: an upright similarity."""
    points = np.asarray(points, np.float64)
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    down = mouth - eyes
    square = max(float(down @ down), 1e-6)
    cos, sin = down[1] / square * unit, down[0] / square * unit
    turn = np.array([[cos, -sin], [sin, cos]])
    # Patch pixel centres: unit coordinates times the unit, less half a pixel.
    anchor = np.array([-PATCH_BOX[0] * unit - 0.5, -PATCH_BOX[1] * unit - 0.5])
    return np.column_stack([turn, anchor - turn @ mouth])


def view_of(patch: np.ndarray, unit: int) -> np.ndarray:
    """The ``(80, 96, 3)`` view that is measured, cut from an RGB patch."""
    left, top = VIEW_BOX[0] - PATCH_BOX[0], VIEW_BOX[1] - PATCH_BOX[1]
    right, bottom = VIEW_BOX[2] - PATCH_BOX[0], VIEW_BOX[3] - PATCH_BOX[1]
    part = patch[round(top * unit) : round(bottom * unit), round(left * unit) : round(right * unit)]
    shrinks = part.shape[1] > VIEW[1]
    return cv2.resize(
        part,
        (VIEW[1], VIEW[0]),
        interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
    )


def _cut(picture: Picture, points: np.ndarray, unit: int) -> np.ndarray:
    matrix = patch_matrix(points, unit)
    w, h = patch_size(unit)
    back = cv2.invertAffineTransform(matrix)
    corners = np.array([[0, 0], [w, 0], [0, h], [w, h]]) @ back[:, :2].T + back[:, 2]
    x0, y0 = (int(v) - 1 for v in np.floor(corners.min(0)))
    x1, y1 = (int(v) + 2 for v in np.ceil(corners.max(0)))
    source = picture.region(x0, y0, x1, y1)
    matrix[:, 2] += matrix[:, :2] @ (x0, y0)
    scale = float(np.hypot(*matrix[:, 0]))
    if scale < 0.7:
        source = cv2.resize(source, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        fx, fy = source.shape[1] / (x1 - x0), source.shape[0] / (y1 - y0)
        matrix[:, 2] += matrix[:, :2] @ (0.5 / fx - 0.5, 0.5 / fy - 0.5)
        matrix[:, 0] /= fx
        matrix[:, 1] /= fy
    return resampled(source, matrix, (w, h), cv2.INTER_CUBIC)
