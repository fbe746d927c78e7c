"""A clip whose sound comes too late by a known time, to try the measuring and the mending on."""

from __future__ import annotations

import tempfile
from fractions import Fraction
from pathlib import Path

from ..types import Stages
from . import make

LATE = Fraction(6, 25)
"""Seconds by which the sound comes after the mouth: six frames."""


def clip(folder: Path, *, stages: Stages | None = None) -> Path:
    """Writes the demo with late sound into ``folder`` unless it is there; returns its path."""
    from ..scoring import repair

    path = folder / "late_sound.mp4"
    if path.is_file():
        return path
    with tempfile.TemporaryDirectory(prefix="lipsync-") as place:
        dubbed = make(Path(place) / "demo.mp4", stages=stages)[0].output
        repair.shift_sound(dubbed, path, LATE)
    return path
