"""From phone times to the six numbers of a mouth, as they are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..tasks.mouth.phones import Segments

STEPS = 100
"""Rows a second of the curve that others are taken from."""
OPEN, JAW, WIDE, ROUND, PRESS, FV = range(6)
ROUND_NARROWS = 0.55
"""How much rounded lips narrow the opening; without it u and o would gape."""


def shapes(parts: Segments, frame_count: int, strength: np.ndarray) -> np.ndarray:
    """``(frame_count * 4, 6)`` float32, 100 rows a second: open 0..1.1, the others 0..1; rest is zero.

    The order is the draft engine's: open, jaw, wide, round, press, fv. Row ``i`` is the mouth at
    ``i`` / 100 s. ``strength``: ``(N,)`` how firmly each sound is spoken, about 1.
    """
    from ..tasks.mouth.phones import targets, with_breath

    breathing = with_breath(parts)
    places = np.searchsorted(parts.ends, breathing.ends - 1e-6).clip(0, len(strength) - 1)
    raw = targets(breathing, frame_count * STEPS // 25, strength[places])
    out = np.empty_like(raw)
    press = raw[:, PRESS]
    opening = 1.2 * raw[:, OPEN] * (1 - ROUND_NARROWS * raw[:, ROUND]) - 0.03
    out[:, OPEN] = np.clip(opening, 0, 1.1) * (1 - press)
    out[:, JAW] = np.clip(1.2 * raw[:, JAW] - 0.04, 0, 1)
    out[:, WIDE] = np.clip(1.15 * raw[:, WIDE] - 0.03, 0, 1)
    out[:, ROUND] = np.clip(1.15 * raw[:, ROUND] - 0.03, 0, 1)
    out[:, PRESS] = np.clip(press, 0, 1)
    out[:, FV] = np.clip(raw[:, FV], 0, 1) * (1 - press)
    return out.astype(np.float32)
