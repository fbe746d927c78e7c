"""Which steps of the audio features belong to a moment of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

STEPS_PER_SECOND = 50
"""Of Whisper's encoder: one step for 20 ms."""
BEFORE, AFTER = 4, 6
"""Steps before the centre, and from the centre on: two frames to either side and the frame's own, at
25 frames a second (LatentSync, ``audio_feat_length [2, 2]``)."""


def window_steps(times: Sequence[Fraction], step_count: int) -> np.ndarray:
    """``(T, 10)`` int64 steps for each of ``times`` (seconds), first and last repeated at the ends.

    The centre is the step that holds the moment; at 25 frames a second that is LatentSync's own
    ``int(i * 50 / 25)``, and at any other rate, constant or not, there is no drift.
    """
    if step_count < 1:
        raise ValueError("there are no audio features to choose from")
    centres = np.array([int(time * STEPS_PER_SECOND) for time in times], np.int64)
    steps = centres[:, None] + np.arange(-BEFORE, AFTER)
    return np.clip(steps, 0, step_count - 1)
