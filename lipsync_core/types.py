"""The nouns that travel between stages, and the axis letters used everywhere.

Axis letters in shapes: ``T`` video frames, ``S`` sound samples, ``K`` sound channels, ``H W`` a
source picture, ``h w`` a crop, ``C`` colour or latent channels, ``L`` tokens or landmarks,
``D`` feature width.

Pictures are RGB ``uint8`` unless a docstring says otherwise. Coordinates are ``(x, y)`` in source
pixels with the centre of the top-left pixel at ``(0, 0)``. A mask is 1 where we may paint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np

    from .engines.base import Engine
    from .faces.detect.base import Detector

LengthPolicy = Literal["auto", "cut", "bounce", "loop", "hold", "silence", "stretch"]
MissingPolicy = Literal["pass", "error"]
DraftMode = Literal["auto", "units", "warp"]
SilencePolicy = Literal["model", "close", "keep"]


class Progress(Protocol):
    """What a stage calls while it works. It may raise to cancel; let that through."""

    def __call__(self, done: int, total: int, preview: np.ndarray | None = None) -> None: ...


Stages = Callable[[str], Progress]
"""Given the name of a stage that begins, returns the callable that follows its progress."""


class Picture(Protocol):
    """One upright source frame, read lazily so that nobody converts pixels that nobody looks at."""

    @property
    def index(self) -> int:
        """Number of the frame in the clip, from 0."""
        ...

    @property
    def time(self) -> Fraction:
        """Seconds since the first frame of the clip."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """``(width, height)`` in pixels, after rotation."""
        ...

    def rgb(self) -> np.ndarray:
        """The whole picture, ``(H, W, 3)`` uint8."""
        ...

    def region(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        """``(y1-y0, x1-x0, 3)`` uint8 RGB; outside the picture the edge is repeated."""
        ...

    def luma(self, long_side: int) -> np.ndarray:
        """``(h, w)`` uint8 full-range brightness, longer side at most ``long_side``.

        Both axes are reduced by the same factor ``w / W`` (area average), never enlarged.
        """
        ...

    def reduced(self, long_side: int) -> np.ndarray:
        """``(h, w, 3)`` uint8 RGB of the same size as ``luma(long_side)``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Audio:
    """Sound in memory."""

    samples: np.ndarray
    """``(K, S)`` float32, nominally -1..1."""
    rate: int
    """Samples per second."""

    @property
    def duration(self) -> Fraction:
        """Seconds, exact."""
        return Fraction(self.samples.shape[1], self.rate)


class Voice(Protocol):
    """A voice track of any length, read in blocks so that memory does not grow with it."""

    @property
    def duration(self) -> Fraction:
        """Seconds, exact."""
        ...

    def blocks(self, rate: int) -> Iterator[np.ndarray]:
        """The sound mixed to one channel at ``rate`` samples per second, from the beginning.

        Consecutive ``(S,)`` float32 blocks of about a second, nominally -1..1.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class FaceTrack:
    """One person through the clip, one row per source frame."""

    points: np.ndarray
    """``(T, 5, 2)`` float32: eye, eye, nose, mouth corner, mouth corner, left of the picture first.

    Finite on every row where ``present``; elsewhere the last known shape, not to be trusted.
    """
    boxes: np.ndarray
    """``(T, 4)`` float32 ``x0 y0 x1 y1``."""
    present: np.ndarray
    """``(T,)`` bool: the face can be painted here. Short gaps are filled and count as present."""
    strength: np.ndarray
    """``(T,)`` float32 0..1: how far the new mouth is faded in; ramps at the ends of a stretch."""
    shots: np.ndarray
    """``(T,)`` int32: number of the shot each frame belongs to; nothing is smoothed across two."""
    detector: str
    """The row of ``DETECTORS`` that found the face."""
    sar: float = 1.0
    """Width of a source pixel divided by its height: the points are in stored pixels."""

    @property
    def frame_count(self) -> int:
        return len(self.present)


STRONGEST = 3.0
"""As far as ``Settings.strength`` goes."""
DEVICES = ("cpu", "cuda", "mps", "xpu", "npu", "mlu", "privateuseone")
"""Kinds of devices that torch or ComfyUI name; a number may follow, as in ``cuda:1``."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every choice of a dub, with its default. Command line, Python and nodes all read it here."""

    engine: str | Engine = "auto"
    """A row of ``ENGINES``, or ``auto``: the best one that is ready on this machine. Or an engine
    object, whose networks another program keeps."""
    detector: str | Detector = "auto"
    """A row of ``DETECTORS``, or ``auto``: the best one that is present. Or a detector object, such
    as ``faces.detect.given.Given`` for boxes or landmarks that the caller knows."""
    face: str = "largest"
    """``largest``, ``left``, ``right``, ``index:N``, ``point:x,y[@t]`` or ``all``."""
    speaker: str | None = None
    """Draw a mouth only while its person speaks: ``auto`` finds the turns by the clip's own sound, or
    name a file that ``lipsync speakers`` wrote. ``face="largest"`` then stands for everybody who speaks."""
    length: LengthPolicy = "auto"
    """What gives way when voice and picture differ; ``auto``: bounce if the voice is longer, else cut."""
    missing: MissingPolicy = "pass"
    """A frame without the face: pass it through untouched, or stop with an error."""
    start: Fraction | None = None
    """Seconds of the clip to begin at."""
    end: Fraction | None = None
    """Seconds of the clip to stop at."""
    seed: int = 0
    """Two runs with one seed agree."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    draft_mode: DraftMode = "auto"
    """Draft engine: re-use the person's own mouth (``units``), warp one picture, or measure and choose."""
    preset: str = "auto"
    """How a diffusion engine samples: ``exact``, ``best``, ``balanced``, ``cached``, ``fast``, ``preview``."""
    strength: float = 1.0
    """How far the voice leads a diffusion engine: 0 not at all, 1 as its authors chose, 2 twice as far."""
    silence: SilencePolicy = "model"
    """Diffusion engines in pauses of the voice: what they make of it, a mouth told to close, or the
    source's own mouth."""
    codec: str | None = None
    """Video encoder, such as ``libx264``; chosen from the source where not given."""
    crf: int | None = None
    """Constant rate factor of the encoder; 18 for H.264 where not given."""
    pixel_format: str | None = None
    """Pixel format of the output, such as ``yuv420p``; the source's where not given."""
    overwrite: bool = False
    """Replace an existing output file."""
    tag: bool = True
    """Write into the output's metadata that the mouth was generated."""
    cache: Path | None = field(default=None)
    """Folder for face tracks; ``LIPSYNC_CACHE`` or the user's cache folder where not given."""


@dataclass(frozen=True, kw_only=True)
class SyncSegment:
    """A few seconds of a clip and how well mouth and voice agree there."""

    start: float
    """Seconds from the beginning of the clip."""
    end: float
    state: Literal["good", "weak", "off", "silent", "no face"]
    """``weak``: the mouth does not follow the voice; ``off``: it does, but at another offset."""
    agreement: float | None
    """-1..1: how the measured mouth follows the predicted one, at the offset of the whole clip."""
    offset_frames: int | None
    """Of this segment alone, where it is certain; SyncNet's sign."""
    lse_d: float | None = None
    confidence: float | None = None
    """The network's confidence in this segment (median of all shifts minus distance)."""


@dataclass(frozen=True, kw_only=True)
class SyncScore:
    """How well mouth and voice of a clip agree."""

    engine: str
    """What measured it: a row of ``scoring.engines.SCORERS``."""
    offset_frames: int
    """At 25 frames a second, SyncNet's sign: positive when the sound comes early."""
    audio_late_ms: float
    """Milliseconds; positive when the sound is later than the picture."""
    confidence: float
    """0..1: that voice and mouth belong together and that the offset is right within a frame."""
    accepted: bool
    """The confidence is high enough to act on the offset."""
    summary: str
    """One sentence for people."""
    lse_c: float | None = None
    """SyncNet's confidence, zero-padded as published; higher is better."""
    lse_d: float | None = None
    """SyncNet's distance, zero-padded as published; lower is better."""
    unbiased: dict[str, float] | None = None
    """``lse_c``, ``lse_d`` and ``offset_frames`` without the padded comparisons."""
    similarity: float | None = None
    """StableSyncNet and Wav2Lip's expert: cosine of picture and sound at the best shift, 0..1."""
    similarity_gain: float | None = None
    """``similarity`` minus the median over all shifts: what timing alone is worth; higher is better."""
    segments: tuple[SyncSegment, ...] = ()
    speech_seconds: float = 0.0
    """Seconds in which the voice is heard and the face is seen."""
    frames: int = 0
    face: dict[str, Any] = field(default_factory=dict)
    """Who was scored: ``index`` of the track, ``seen`` share of the frames, ``detector``."""
    protocol: dict[str, str] = field(default_factory=dict)
    """What published numbers need to be compared: crop, padding, frame rate, weights."""
    units: dict[str, str] = field(default_factory=dict)
