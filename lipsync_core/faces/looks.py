"""What a person looks like, well enough to tell the few people of one clip apart."""

from __future__ import annotations

import cv2
import numpy as np

FACE = (20, 24)
"""Width and height of the small upright face that is compared."""
CLOTHES = 6
"""Side of the coarse colour grid over head, hair and shoulders."""
GALLERY = 6
"""Pictures remembered of each person."""


def describe(window: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Face structure and colours around it: ``(480,)`` and ``(72,)`` float32.

    ``window``: ``(n, n, 3)`` uint8 RGB with the face in its middle, ``points``: ``(5, 2)`` in it.
    """
    width, height = FACE
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    # Eyes on row 7, mouth on row 18, upright: a similarity, so that the shape stays the person's.
    down = complex(*(mouth - eyes))
    turn = 11j / down if down else 1.0
    shift = complex(9.5, 7) - turn * complex(*eyes)
    matrix = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
    shrink = max(float(np.hypot(*(mouth - eyes))) / 11, 1.0)
    soft = cv2.blur(window, (max(round(shrink), 1), max(round(shrink), 1)))
    face = cv2.warpAffine(soft, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    luma = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY).astype(np.float32)
    luma = (luma - luma.mean()) / (luma.std() + 4)
    small = cv2.resize(window, (CLOTHES, CLOTHES), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float32)
    return luma.ravel(), lab[..., 1:].ravel()


class Looks:
    """A person's gallery: a handful of descriptions, the oldest kept and the rest renewed."""

    def __init__(self) -> None:
        self._kept: list[tuple[np.ndarray, np.ndarray]] = []
        self._seen = 0

    def remember(self, seen: tuple[np.ndarray, np.ndarray]) -> None:
        """Adds a description if it shows something new, and forgets one when there are too many."""
        self._seen += 1
        if self._kept and self.distance(seen) < 0.12 and self._seen % 8:
            return
        self._kept.append(seen)
        if len(self._kept) > GALLERY:
            del self._kept[1 + self._seen % (GALLERY - 1)]

    def distance(self, seen: tuple[np.ndarray, np.ndarray]) -> float:
        """0 (the same picture) upwards; the nearest of the gallery counts."""
        return min((_distance(kept, seen) for kept in self._kept), default=1.0)


def _distance(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> float:
    structure = 1 - float((one[0] * other[0]).mean())
    colour = float(np.sqrt(((one[1] - other[1]) ** 2).mean()))
    return structure + colour / 12
