"""Every choice of a run, with its default: one YAML file, checked word by word."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..errors import SettingsError

DECIDES = {"decides": True}
"""Marks a threshold: it is compared with what was measured, and a change of it needs no new look."""
PIPELINE = 1
"""Changes when what is measured or made changes its meaning; older results are then made anew."""
ORDER = ["broken", "resample", "shots", "segment", "affine", "av_sync", "quality"]


@dataclass(frozen=True, kw_only=True)
class BrokenConfig:
    """The filter of files that hold nothing to learn from."""

    enabled: bool = True
    min_seconds: float = field(default=2.0, metadata=DECIDES)
    min_side: int = field(default=96, metadata=DECIDES)
    """Pixels of the shorter side of the picture."""


@dataclass(frozen=True, kw_only=True)
class ResampleConfig:
    """25 frames a second and 16 kHz, without an encode."""

    enabled: bool = True


@dataclass(frozen=True, kw_only=True)
class ShotsConfig:
    """Where one camera shot ends and the next begins."""

    enabled: bool = True
    detector: str = "auto"
    """``adaptive`` or ``content`` of PySceneDetect; ``faces``: our own, which needs nothing; ``auto``:
    ``adaptive`` where PySceneDetect is installed. What is missed here is still no part of a clip: the
    face tracker watches for cuts as well. Of 62 hard cuts, most of them between people filmed alike,
    ``adaptive`` found 54, ``content`` 47 and ``faces`` 60; the first two also took a flash for a cut.
    """
    threshold: float = 2.0
    """``adaptive``: times what is usual around (LatentSync's choice); ``content``: use 27."""
    min_content: float = 15.0
    """``adaptive`` alone: least difference of two frames."""
    min_seconds: float = 0.6


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """Clips of one length."""

    enabled: bool = True
    seconds: float = 5.0
    min_seconds: float = 2.0
    """What is left at the end of a shot, or between two gaps of the face, is kept from here on."""


@dataclass(frozen=True, kw_only=True)
class AffineConfig:
    """One person, upright and steady."""

    enabled: bool = True
    resolution: int = 256
    template: str = "latentsync"
    """Where the face lies in the crop: ``latentsync`` or ``draft``."""
    detector: str = "auto"
    """A row of ``DETECTORS``."""


@dataclass(frozen=True, kw_only=True)
class SyncConfig:
    """Sound and lips."""

    enabled: bool = True
    engine: str = "auto"
    """``syncnet_v2``, ``embedded``, or ``auto``: SyncNet where its weights are."""
    max_offset: int = field(default=6, metadata=DECIDES)
    """Frames of 40 ms; what is found is corrected, what is beyond is rejected."""
    min_confidence: float = field(default=3.0, metadata=DECIDES)
    """Of SyncNet."""
    min_certainty: float = field(default=0.8, metadata=DECIDES)
    """Of the embedded estimate, 0..1."""


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """What the eye would reject."""

    enabled: bool = True
    min_sharpness: float = field(default=0.06, metadata=DECIDES)
    """Fine detail per contrast, 0..1; see ``quality.sharpness``."""
    min_brightness: float = field(default=40.0, metadata=DECIDES)
    max_brightness: float = field(default=215.0, metadata=DECIDES)
    """Mean of the face, 0..255."""
    max_clipped: float = field(default=0.25, metadata=DECIDES)
    """Share of pixels that are black or white."""
    min_face: float = field(default=96.0, metadata=DECIDES)
    """Height in the source, in pixels, of what the crop shows."""
    max_blockiness: float = field(default=1.6, metadata=DECIDES)
    """Steps at the borders of 8 px blocks against those inside."""
    hyperiqa: bool = False
    """Also HyperIQA, LatentSync's own measure: needs torch and its weights, 0.1 s of a core a clip."""
    min_hyperiqa: float = field(default=40.0, metadata=DECIDES)
    """Mean of the first, the middle and the last picture, about 0..100 (LatentSync's choice)."""


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """What is written."""

    crf: int = 16
    """Of x264, for the one encode."""
    rejected: str = "keep"
    """``keep`` encodes what thresholds reject into ``held``, so that other thresholds can take it
    back at once; ``drop`` saves that time and space, and such a clip is made again when wanted."""
    whisper: str = "auto"
    """``auto`` stores Whisper features where the weights are, ``never`` does not, ``always`` insists."""
    shard_megabytes: int = field(default=0, metadata=DECIDES)
    """Above 0, the clips are also packed into WebDataset tar files of about this size."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """All of it. Order of the steps: ``steps``; a step that is not named, or not enabled, is left out."""

    steps: list[str] = field(default_factory=lambda: list(ORDER))
    broken: BrokenConfig = field(default_factory=BrokenConfig)
    resample: ResampleConfig = field(default_factory=ResampleConfig)
    shots: ShotsConfig = field(default_factory=ShotsConfig)
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    affine: AffineConfig = field(default_factory=AffineConfig)
    av_sync: SyncConfig = field(default_factory=SyncConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    def signature(self) -> str:
        """Changes with everything but thresholds: what was made with another one is made anew."""
        made = {"pipeline": PIPELINE, "steps": self.steps}
        for part in fields(self):
            value = getattr(self, part.name)
            if is_dataclass(value) and not isinstance(value, type):
                made[part.name] = {
                    one.name: getattr(value, one.name)
                    for one in fields(value)
                    if not one.metadata.get("decides") and one.name not in ("rejected",)
                }
        text = json.dumps(made, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def text(self) -> str:
        """As JSON, to be kept beside the data."""
        return json.dumps(asdict(self), indent=2)


def load(path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """The defaults, then a YAML file, then ``section.name=value``; SettingsError in one line."""
    if path is None and not overrides:
        return checked(Config())
    try:
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException
    except ImportError as error:
        raise SettingsError(
            'settings need OmegaConf; run: pip install "lipsync-core[preprocess]"'
        ) from error
    where = str(path) if path is not None else "--set"
    layers: list[Any] = []
    try:
        if path is not None:
            layers.append(OmegaConf.to_container(OmegaConf.load(path), resolve=True) or {})
    except (OSError, ValueError, OmegaConfBaseException) as error:
        raise SettingsError(f"{path} cannot be read as YAML ({_line(error)})") from error
    except Exception as error:
        # PyYAML's errors have a base of their own, which is not ours to import.
        if type(error).__module__.split(".")[0] != "yaml":
            raise
        raise SettingsError(f"{path} is not YAML: {_line(error)}") from error
    try:
        layers.append(OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides))))
    except (ValueError, OmegaConfBaseException) as error:
        raise SettingsError(f"--set takes section.name=value ({_line(error)})") from error
    for layer in layers:
        if not isinstance(layer, dict):
            raise SettingsError(f"{where} must hold names and values, found {type(layer).__name__}")
        _check_names(Config, layer, "", where)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), *layers)
        result = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", "") or ""
        raise SettingsError(f"{where}: {key}: {_line(error)}") from error
    assert isinstance(result, Config)
    return checked(result)


def checked(config: Config) -> Config:
    """The same, when its words and numbers mean something; else a SettingsError in one line."""
    choices = [
        ("shots.detector", config.shots.detector, ("auto", "adaptive", "content", "faces")),
        ("affine.resolution", config.affine.resolution, (256, 512)),
        ("affine.template", config.affine.template, ("latentsync", "draft")),
        ("av_sync.engine", config.av_sync.engine, ("auto", "syncnet_v2", "embedded")),
        ("output.rejected", config.output.rejected, ("keep", "drop")),
        ("output.whisper", config.output.whisper, ("auto", "never", "always")),
    ]
    for name, value, valid in choices:
        if value not in valid:
            known = ", ".join(map(str, valid))
            raise SettingsError(f"{name} is {value!r}; choose one of {known}")
    lengths = config.segment
    if not 0 < lengths.min_seconds <= lengths.seconds <= 60:
        raise SettingsError(
            f"segment.min_seconds {lengths.min_seconds:g} and segment.seconds {lengths.seconds:g} do "
            "not fit; 0 < min_seconds <= seconds <= 60 is needed"
        )
    for name in config.steps:
        if name not in ORDER:
            raise SettingsError(f"steps: there is no step {name!r}; {_nearest(name, ORDER)}")
    if len(set(config.steps)) < len(config.steps):
        raise SettingsError("steps: a step is named twice")
    return config


def _check_names(kind: type, given: dict[Any, Any], prefix: str, where: str) -> None:
    known = {one.name: one for one in fields(kind)}
    for name, value in given.items():
        if name not in known:
            every = sorted(known)
            raise SettingsError(
                f"{where}: there is no setting {prefix}{name}; {_nearest(str(name), every)}"
            )
        default = getattr(kind(), name)
        if is_dataclass(default):
            if not isinstance(value, dict):
                raise SettingsError(f"{where}: {prefix}{name} is a section; give names and values")
            _check_names(type(default), value, f"{prefix}{name}.", where)


def _nearest(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
