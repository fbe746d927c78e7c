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
RECIPES = {
    "curriculum": ("stage1", "stage2"),
    "small_latentsync": ("stage1", "stage2", "stage3"),
    "stage1": ("stage1",),
    "stage1_512": ("stage1",),
    "stage2": ("stage2",),
    "stage2_512": ("stage2",),
    "stage2_efficient": ("stage2",),
    "syncnet_16_latent": ("syncnet",),
    "syncnet_16_pixel": ("syncnet",),
    "syncnet_16_pixel_attn": ("syncnet",),
    "syncnet_25_pixel": ("syncnet",),
    "tiny_latentsync": ("stage1", "stage2", "stage3"),
    "tiny_listener": ("near", "hear"),
    "tiny_syncnet": ("near", "judge"),
    "tiny_vae": ("code",),
}
"""The trainer's, and their stages."""
RECIPES_WITHOUT_DATA = ("tiny_listener",)
"""They learn from what they invent."""
RECIPE_PARTS = ("task", "seed", "data", "model", "pairs", "stages", "run")
"""What the name of a setting begins with."""


def default(name: str) -> Any:
    """The core's default of a setting; the nodes have none of their own."""
    return next(field.default for field in fields(Settings) if field.name == name)
