"""What people may choose: the words of the core's registries, without importing what runs behind them.

Listing engines must cost nothing when ComfyUI starts; a test keeps these equal to the core's rows.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args

from ..lipsync_core.scoring.engines import NAMES
from ..lipsync_core.types import DraftMode, LengthPolicy, MissingPolicy, Settings, SilencePolicy

ENGINES = ("draft", "latentsync-tiny", "latentsync-1.0", "latentsync-1.5", "latentsync-1.6")
DETECTORS = ("yunet", "insightface", "cascade")
FACES = ("largest", "left", "right", "all", "index:0", "index:1", "index:2", "index:3")
ONE_FACE = tuple(face for face in FACES if face != "all")
SCORES = NAMES
PROTOCOLS = ("original", "aligned")
UNSURE = ("error", "pass")
LENGTHS: tuple[str, ...] = get_args(LengthPolicy)
MISSING: tuple[str, ...] = get_args(MissingPolicy)
DRAFT_MODES: tuple[str, ...] = get_args(DraftMode)
SILENCES: tuple[str, ...] = get_args(SilencePolicy)
PRESETS = ("auto", "exact", "best", "balanced", "cached", "fast", "preview")
SAMPLERS = ("ddim", "dpm", "unipc")
CONTAINERS = ("mp4", "mov", "mkv", "webm")
EVERYBODY = "off"
"""The word for turns of nobody: whoever `face` chooses speaks all the time."""
SPEAKERS = (EVERYBODY, "auto")


def default(name: str) -> Any:
    """The core's default of a setting; the nodes have none of their own."""
    return next(field.default for field in fields(Settings) if field.name == name)
