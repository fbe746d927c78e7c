"""Where one camera shot ends and the next begins."""

from __future__ import annotations

import cv2
import numpy as np

SIDE = 48
"""Longer side of the thumbnail that two frames are compared by."""
DIFFERENT = 0.12
"""A new scene differs at least this much (1 minus the best correlation of two thumbnails).

Talking clips, hand-held ones among them, stay below 0.06 from frame to frame; cuts between people
filmed alike in one studio measured 0.11 to 0.75.
"""
SPIKE = 10.0
"""And so many times more than is usual in this scene."""
ALIKE = 0.08
"""Two thumbnails show the same scene when they differ by less."""
FLASH = 4
"""Frames that a flash, a strobe or a dropped picture may last without ending the shot."""


class Shots:
    """Watches small brightness pictures in order; forgets all but a handful of thumbnails."""

    def __init__(self) -> None:
        self.cuts: list[int] = []
        """Frames that begin a new shot, ascending; frame 0 is not among them."""
        self._count = 0
        self._last: np.ndarray | None = None
        self._usual = 0.005
        self._before: list[tuple[int, np.ndarray]] = []

    def see(self, luma: np.ndarray) -> bool:
        """True when this frame seems to begin a new shot; a later frame may still revoke it."""
        thumb = _thumbnail(luma)
        index, self._count = self._count, self._count + 1
        last, self._last = self._last, thumb
        if last is None:
            return False
        self._before = [(cut, old) for cut, old in self._before if index - cut <= FLASH]
        for cut, old in self._before:
            if difference(old, thumb) < ALIKE:
                # Back to the picture before the cut: that was a flash, not a new shot.
                self.cuts = [other for other in self.cuts if other < cut]
                self._before = [(other, kept) for other, kept in self._before if other < cut]
                return False
        change = difference(last, thumb)
        cut = change > max(DIFFERENT, SPIKE * self._usual)
        # A moving camera raises what counts as usual; a cut itself does so but little.
        self._usual += 0.2 * (min(change, 2 * self._usual + 0.005) - self._usual)
        if cut:
            self.cuts.append(index)
            self._before.append((index, last))
        return cut

    def revoke(self) -> None:
        """The latest frame does not begin a shot after all: what was followed went on in it."""
        if self.cuts and self.cuts[-1] == self._count - 1:
            self.cuts.pop()
            self._before = [(cut, old) for cut, old in self._before if cut != self._count - 1]

    def numbers(self, frame_count: int) -> np.ndarray:
        """Number of the shot of each frame: ``(T,)`` int32 from 0."""
        return np.searchsorted(
            np.asarray(self.cuts, np.int64), np.arange(frame_count), side="right"
        ).astype(np.int32)


def difference(before: np.ndarray, after: np.ndarray) -> float:
    """0 (same scene, whatever its light) to about 1 (unrelated): thumbnails of one size.

    The middle of ``after`` is looked for all over ``before``, so that a pan is not a cut;
    correlation ignores gain and offset, so that neither a fade nor a lamp is one.
    """
    if before.shape != after.shape:
        return 1.0
    flat = before.std() < 2, after.std() < 2
    if all(flat):
        return 0.0
    if any(flat):
        return 1.0
    height, width = after.shape
    top, left = height // 6, width // 6
    middle = after[top : height - top, left : width - left]
    if middle.std() < 1:
        middle = after
    return float(1 - cv2.matchTemplate(before, middle, cv2.TM_CCOEFF_NORMED).max())


def _thumbnail(luma: np.ndarray) -> np.ndarray:
    # Every third pixel or so is plenty for a cell of twenty.
    step = max(max(luma.shape) // 320, 1)
    luma = luma[::step, ::step]
    height, width = luma.shape
    scale = SIDE / max(height, width)
    size = (max(round(width * scale), 8), max(round(height * scale), 8))
    return cv2.resize(luma, size, interpolation=cv2.INTER_AREA).astype(np.float32)
