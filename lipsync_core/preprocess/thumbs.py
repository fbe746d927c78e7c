"""Small pictures for the report."""

from __future__ import annotations

import math

import cv2
import numpy as np

SIDE = 96
"""Pixels of the longer side."""


def jpeg(image: np.ndarray) -> bytes:
    """A small JPEG of ``(h, w, 3)`` RGB, longer side ``SIDE``."""
    scale = SIDE / max(image.shape[:2])
    if scale < 1:
        size = (
            max(math.ceil(image.shape[1] * scale), 1),
            max(math.ceil(image.shape[0] * scale), 1),
        )
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert done
    return data.tobytes()
