"""A presenter dubbed with another's voice, and what that should have looked like."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from lipsync_core.media.audio import MemoryVoice
from lipsync_core.preprocess.step import FPS, RATE
from lipsync_core.types import Audio, FaceTrack

from .take import Take

if TYPE_CHECKING:
    from lipsync_core.engines.base import Engine
    from lipsync_core.types import Settings


def track_of(take: Take) -> FaceTrack:
    """The face where the renderer put it."""
    count = take.frame_count
    return FaceTrack(
        points=take.points,
        boxes=take.boxes,
        present=np.ones(count, bool),
        strength=np.ones(count, np.float32),
        shots=np.zeros(count, np.int32),
        detector="truth",
    )


def dubbed(engine: Engine, take: Take, other: Take, settings: Settings) -> np.ndarray:
    """``(T, R, R, 3)`` uint8 crops of ``take`` in which ``engine`` lets it say what ``other`` says."""
    times = [Fraction(i, FPS) for i in range(take.frame_count)]
    voice = MemoryVoice(Audio(samples=other.sound[None].astype(np.float32), rate=RATE))
    session = engine.start(
        speech=engine.listen(voice, times), track=track_of(take), study=None, settings=settings
    )
    crops, drawn = take.crops(), []
    for start in range(0, len(crops), session.window):
        rows = list(range(start, min(start + session.window, len(crops))))
        made = session.render(crops[rows], rows, rows)
        mask = made.masks[..., None]
        drawn.append(made.crops * mask + crops[rows] * (1 - mask))
    return np.clip(np.concatenate(drawn), 0, 255).round().astype(np.uint8)


def truth(take: Take, other: Take) -> np.ndarray:
    """``(T, R, R, 3)`` uint8: the same pictures of ``take`` with the mouth of ``other``."""
    size = (take.resolution, take.resolution)
    return np.stack(
        [take.picture(i, other.shapes[i], take.matrices[i], size) for i in range(take.frame_count)]
    )
