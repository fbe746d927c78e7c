"""Inputs that several nodes have: one place for their ranges, defaults and words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..lipsync_core.types import STRONGEST
from . import choices
from .bridge import io, option


def fps(tooltip: str, **more: Any) -> Any:
    """Frames per second; pictures in a graph do not carry theirs."""
    return option(
        io.Float,
        "fps",
        default=25.0,
        min=1.0,
        max=240.0,
        step=0.001,
        round=0.001,
        tooltip=tooltip,
        **more,
    )


def setting(name: str, words: Sequence[str], tooltip: str, **more: Any) -> Any:
    """One of ``words``, with the default that the core has for it."""
    return option(
        io.Combo,
        name,
        options=list(words),
        default=choices.default(name),
        tooltip=tooltip,
        **more,
    )


def detector(**more: Any) -> Any:
    return setting(
        "detector",
        ["auto", *choices.DETECTORS],
        "How faces are found. auto: the best one that is present.",
        advanced=True,
        **more,
    )


def missing(**more: Any) -> Any:
    return setting(
        "missing",
        choices.MISSING,
        "Frames without the face: pass leaves them untouched, error stops.",
        advanced=True,
        **more,
    )


def point() -> Any:
    """A face by its place; ``bridge.valid_point`` says what it may be."""
    return option(
        io.String,
        "point",
        default="",
        optional=True,
        advanced=True,
        tooltip="Choose the face by place instead: x,y in pixels, or x,y@seconds. Empty: use the choice above.",
    )


def strength(tooltip: str, **more: Any) -> Any:
    return option(
        io.Float,
        "strength",
        default=choices.default("strength"),
        min=0.0,
        max=STRONGEST,
        step=0.05,
        advanced=True,
        tooltip=tooltip,
        **more,
    )


def tag() -> Any:
    return option(
        io.Boolean,
        "tag",
        default=choices.default("tag"),
        optional=True,
        advanced=True,
        tooltip="Say in the file's metadata that the mouth movements were generated.",
    )
