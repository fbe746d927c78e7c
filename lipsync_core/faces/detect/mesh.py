"""Faces as other programs describe them: the 478-point face mesh, and boxes as x, y, width, height."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import FaceError

# Vertices of MediaPipe's face mesh: both corners of each eye, the nose's tip, the corners of the mouth.
_EYE, _OTHER_EYE = (33, 133), (362, 263)
_NOSE, _CORNER, _OTHER_CORNER = 4, 61, 291


def five_points(frames: Sequence[Sequence[Mapping[str, Any]]], count: int) -> np.ndarray:
    """``(T, 5, 2)`` float32 points of the largest face in each of ``count`` frames, NaN where none is.

    ``frames``: for each picture its faces, each with ``landmarks_xy`` ``(468.., 2)`` in pixels. The
    faces of a single picture stand for all.
    """
    _check("landmarks", len(frames), count)
    rows = np.full((len(frames), 5, 2), np.nan, np.float32)
    for row, faces in zip(rows, frames, strict=True):
        meshes = [np.asarray(face["landmarks_xy"], np.float32)[:, :2] for face in faces]
        if meshes:
            mesh = max(meshes, key=lambda points: float(np.prod(np.ptp(points, axis=0))))
            points = np.stack(
                [
                    mesh[list(_EYE)].mean(0),
                    mesh[list(_OTHER_EYE)].mean(0),
                    mesh[_NOSE],
                    mesh[_CORNER],
                    mesh[_OTHER_CORNER],
                ]
            )
            row[:] = points
    return rows


def box_rows(boxes: Any, count: int) -> np.ndarray:
    """``(T, 4)`` float32 ``x0 y0 x1 y1`` of the largest box in each of ``count`` frames, NaN where none is.

    ``boxes``: one mapping with ``x y width height`` in pixels, or one a frame, or several a frame.
    """
    listed = [boxes] if isinstance(boxes, Mapping) else list(boxes)
    frames = [[item] if isinstance(item, Mapping) else list(item) for item in listed]
    _check("boxes", len(frames), count)
    rows = np.full((len(frames), 4), np.nan, np.float32)
    for row, found in zip(rows, frames, strict=True):
        if found:
            box = max(found, key=lambda item: item["width"] * item["height"])
            x, y = box["x"], box["y"]
            row[:] = (x, y, x + box["width"], y + box["height"])
    return rows


def _check(what: str, found: int, count: int) -> None:
    if found not in (1, count):
        raise FaceError(f"{what}: {found} for {count} frames; give one, or one a frame")
