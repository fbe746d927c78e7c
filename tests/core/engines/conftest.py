"""A drawn person whose mouth opens by a known amount, for the tests of engines."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import cv2
import numpy as np
import pytest

POINTS = np.float32([[70, 60], [110, 60], [90, 85], [76, 110], [104, 110]])
"""Where eyes, nose and mouth corners are drawn: 50 pixels from eyes to mouth."""


def _face(opening: float, light: float = 1.0, shift: float = 0.0) -> np.ndarray:
    skin = cv2.GaussianBlur(np.random.default_rng(5).normal(0, 30, (180, 180)), (0, 0), 3)
    picture = np.float32([200, 160, 140]) + 2.5 * skin[..., None].astype(np.float32)
    drop = opening * 50
    rows, columns = np.mgrid[:180, :180].astype(np.float32)
    # Under the mouth the skin rides on the jaw; the cheeks stay.
    fall = drop * np.clip((rows - 108) / 10, 0, 1) * np.clip((170 - rows) / 30, 0, 1)
    fall = fall * np.clip((38 - np.abs(columns - 90)) / 16, 0, 1)
    picture = cv2.remap(
        picture, columns - shift, rows - fall, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    for x in (70, 110):
        cv2.circle(picture, (round(x + shift), 60), 5, (60, 50, 50), -1, cv2.LINE_AA)
    x, low = round(90 + shift), round(110 + drop)
    cv2.circle(picture, (x, 85), 4, (150, 110, 100), -1, cv2.LINE_AA)
    cv2.ellipse(picture, (x, 110), (16, 5), 0, 180, 360, (180, 70, 80), -1, cv2.LINE_AA)
    cv2.ellipse(picture, (x, low), (16, 6), 0, 0, 180, (180, 70, 80), -1, cv2.LINE_AA)
    if drop > 1:
        cv2.rectangle(picture, (x - 13, 111), (x + 13, low), (50, 30, 30), -1)
    return np.clip(picture * light, 0, 255).astype(np.uint8)


class _Drawn:
    """One frame of a drawn clip; implements ``types.Picture``."""

    size = (180, 180)

    def __init__(self, index: int, picture: np.ndarray) -> None:
        self.index, self.time, self._picture = index, Fraction(index, 25), picture

    def rgb(self) -> np.ndarray:
        return self._picture

    def region(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        rows, columns = np.clip(np.arange(y0, y1), 0, 179), np.clip(np.arange(x0, x1), 0, 179)
        return np.ascontiguousarray(self._picture[rows][:, columns])

    def luma(self, long_side: int) -> np.ndarray:
        return cv2.cvtColor(self.reduced(long_side), cv2.COLOR_RGB2GRAY)

    def reduced(self, long_side: int) -> np.ndarray:
        side = min(long_side, 180)
        return cv2.resize(self._picture, (side, side), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="session")
def points() -> np.ndarray:
    """``(5, 2)`` eyes, nose and mouth corners of every drawn frame."""
    return POINTS


@pytest.fixture(scope="session")
def face() -> Callable[..., np.ndarray]:
    """``face(opening, light=1, shift=0)``: ``(180, 180, 3)``; opening in eye-mouth distances."""
    return _face


@pytest.fixture(scope="session")
def clip() -> Callable[[np.ndarray], list[_Drawn]]:
    """``clip(openings)``: one drawn frame for each opening."""

    def make(openings: np.ndarray) -> list[_Drawn]:
        return [_Drawn(index, _face(float(opening))) for index, opening in enumerate(openings)]

    return make
