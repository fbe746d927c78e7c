"""Presenters without end, made as they are asked for: no file, no limit, the same for the same seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lipsync_core.preprocess.step import SAMPLES_PER_FRAME

from .people import HELD_OUT, SPLITS, Split
from .take import Take


@dataclass(frozen=True, kw_only=True)
class Window:
    """Consecutive frames of one presenter."""

    crops: np.ndarray
    """``(T, R, R, 3)`` uint8 RGB."""
    sound: np.ndarray
    """``(T * 640,)`` float32 at 16 kHz: what is heard from the first frame's moment on."""
    shapes: np.ndarray
    """``(T, 6)`` float32, the truth."""
    take: Take
    """Whose it is; any more of the sound around the window is here."""
    first: int
    """Number of its first frame in the take."""


def stream(
    seed: int,
    *,
    resolution: int = 64,
    frames: int = 16,
    split: Split = "train",
    voices: int = 8,
    windows: int = 6,
    seconds: float = 6.0,
    skip: int = 0,
) -> Iterator[Window]:
    """Windows of ``frames`` from presenters who are ever new.

    ``voices``: presenters at hand at once, so that neighbours in a batch differ; each gives ``windows``
    of a talk of ``seconds`` and then leaves. ``skip``: windows to leave out, at no cost of drawing,
    for a worker that goes on in the middle.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; choose one of {', '.join(SPLITS)}")
    frame_count = round(seconds * 25)
    if not 0 < frames <= frame_count:
        raise ValueError(f"frames is {frames}; give 1 to {frame_count}")
    base = HELD_OUT if split == "held-out" else 0

    def arrival(index: int) -> Take:
        rng = np.random.default_rng([seed, 9, index])
        number = base + int(rng.integers(0, HELD_OUT))
        return Take(number, frame_count, resolution=resolution, seed=seed)

    cast: dict[int, Take] = {}
    position = 0
    while True:
        round_, slot = divmod(position, voices)
        visit, place = divmod(round_, windows)
        index = visit * voices + slot
        if position >= skip:
            if index not in cast:
                cast[index] = arrival(index)
            take = cast[index]
            rng = np.random.default_rng([seed, 10, position])
            first = int(rng.integers(0, frame_count - frames + 1))
            begin = first * SAMPLES_PER_FRAME
            yield Window(
                crops=take.crops(first, frames),
                sound=take.sound[begin : begin + frames * SAMPLES_PER_FRAME],
                shapes=take.shapes[first : first + frames],
                take=take,
                first=first,
            )
            if place == windows - 1:
                cast.pop(index, None)
        position += 1
