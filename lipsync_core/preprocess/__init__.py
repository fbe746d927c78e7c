"""Raw video to training clips: `python -m lipsync_core.preprocess --input-dir raw --output-dir data`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import SettingsError

if TYPE_CHECKING:
    from .config import Config
    from .setup import Setup
    from .step import Step

__all__ = ["STEPS", "Row", "chain", "row"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One step of the preparation."""

    name: str
    title: str
    folder: str
    """Where ``--keep-intermediate`` leaves what came out of it; empty where nothing does."""
    load: Callable[[], type[Step]]
    needed: bool = False
    """Nothing that is a clip comes out without it."""


def _broken() -> type[Step]:
    from .broken import Broken

    return Broken


def _resample() -> type[Step]:
    from .resample import Resample

    return Resample


def _shots() -> type[Step]:
    from .shots import Shots

    return Shots


def _segment() -> type[Step]:
    from .segment import Segment

    return Segment


def _affine() -> type[Step]:
    from .affine import Affine

    return Affine


def _av_sync() -> type[Step]:
    from .av_sync import AvSync

    return AvSync


def _quality() -> type[Step]:
    from .quality import Quality

    return Quality


def _write() -> type[Step]:
    from .write import Write

    return Write


STEPS: list[Row] = [
    Row(name="broken", title="broken-file filter", folder="", load=_broken),
    Row(
        name="resample",
        title="25 fps, 16 kHz",
        folder="resampled",
        load=_resample,
        needed=True,
    ),
    Row(name="shots", title="shot detection", folder="shot", load=_shots),
    Row(
        name="segment",
        title="segmentation",
        folder="segmented",
        load=_segment,
        needed=True,
    ),
    Row(
        name="affine",
        title="face affine transform",
        folder="affine_transformed",
        load=_affine,
        needed=True,
    ),
    Row(name="av_sync", title="audio-visual sync", folder="av_synced", load=_av_sync),
    Row(
        name="quality",
        title="visual quality",
        folder="high_visual_quality",
        load=_quality,
    ),
    Row(name="write", title="clip and features", folder="", load=_write, needed=True),
]
"""In their usual order; the settings' ``steps`` may change it."""


def row(name: str) -> Row:
    """The row of step ``name``."""
    return next(one for one in STEPS if one.name == name)


def chain(config: Config, setup: Setup) -> list[Step]:
    """The steps of a run, ready to work; SettingsError where they do not follow from each other."""
    names = [name for name in config.steps if getattr(config, name).enabled] + ["write"]
    for one in STEPS:
        if one.needed and one.name not in names:
            raise SettingsError(f"step {one.name!r} cannot be left out; name it in steps")
    steps = [row(name).load()(config, setup) for name in names]
    kind = "file"
    for step in steps:
        if step.takes != kind:
            order = ", ".join(names[:-1])
            raise SettingsError(
                f"steps: {step.name!r} takes a {step.takes} and finds a {kind}; "
                f"the order given is {order}"
            )
        kind = step.gives
    return steps
