"""The socket types of our own, and what travels through them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from comfy_api.v0_0_2 import io

if TYPE_CHECKING:
    from ..lipsync_core.engines.base import Engine

Model = io.Custom("LIPSYNC_MODEL")
Features = io.Custom("LIPSYNC_FEATURES")
"""Carries ``staged.Heard``."""
Face = io.Custom("LIPSYNC_FACES")
"""Carries ``staged.Faces``."""
Report = io.Custom("LIPSYNC_REPORT")
"""A text box that shows what a node reports; the page draws it, the server never sees it."""
Wave = io.Custom("LIPSYNC_WAVE")
"""A picture of the voice with handles for its ends; the page draws it."""
Compare = io.Custom("LIPSYNC_COMPARE")
"""A player that shows two videos side by side; the page draws it."""


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """What a LIPSYNC_MODEL socket carries."""

    engine: Engine
    """A row of ``ENGINES``, ready to start sessions."""
    patchers: tuple[Any, ...] = ()
    """Its networks in the hands of ComfyUI's memory manager; none for engines without weights."""
    motion: MotionChoice | None = None


@dataclass(frozen=True, kw_only=True)
class MotionChoice:
    """How the temporal modules of a model are used; None leaves what the engine has."""

    enabled: bool = True
    strength: float = 1.0
    """0 leaves every frame alone, 1 is what was trained."""
    window: int | None = None
    """Frames that are made together."""
    overlap: int | None = None
    """Frames that two windows share."""
    extra: dict[str, Any] = field(default_factory=dict)
