"""The socket types of our own, and what travels through them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from comfy_api.v0_0_2 import io

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

    engine: Any
    """An ``Engine``, ready to start sessions once its networks are on their device."""
    patchers: tuple[Any, ...] = ()
    """Its networks in the hands of ComfyUI's memory manager; none for engines without weights."""
