"""What a step is: one sample in, any number out, a row in the manifest for each that was judged."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from .thumbs import jpeg

if TYPE_CHECKING:
    import numpy as np

    from ..media.audio import VoiceFile
    from ..media.decoder import Clip as Facts
    from ..scoring.motion import MouthMotion
    from ..types import Picture
    from .config import Config
    from .setup import Setup
    from .tape import Tape

T = TypeVar("T")

FPS = 25
"""Pictures a second of everything that is made here; what the networks were trained on."""
RATE = 16_000
"""Samples a second, likewise."""
SAMPLES_PER_FRAME = RATE // FPS

State = Literal["kept", "rejected", "failed", "skipped"]
"""``failed``: could not be judged; ``skipped``: measured, but an earlier step had rejected it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of one sample in one step."""

    sample: str
    step: str
    source: str
    """Key of the file that it comes from: a hash of its bytes."""
    parent: str | None
    state: State
    reason: str = ""
    """One line for people; empty where kept."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """JSON values. Thresholds are compared with these alone, so that they can be changed later."""
    seconds: float = 0.0
    """CPU time that the step took for this sample, all threads."""
    first: int = 0
    frames: int = 0
    """The stretch of the source, in frames of 1/25 s."""
    thumb: bytes | None = None
    """A small JPEG for the report."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file as it was found."""

    key: str
    path: Path
    voice: VoiceFile | None = None
    """Its sound, once somebody has listened through it; reading it again begins anew."""
    kind: ClassVar[str] = "file"


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Pictures at 25 a second, read once and in order, with the sound beside them."""

    key: str
    parent: str | None
    source: Source
    first: int
    """Number of the first picture in the source's own count at 25 a second."""
    pictures: Iterator[Moment]
    tape: Tape
    facts: Facts
    kind: ClassVar[str] = "stream"


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A few seconds of one face, aligned, in memory."""

    key: str
    parent: str
    source: Source
    first: int
    crops: np.ndarray
    """``(T, R, R, 3)`` uint8 RGB."""
    sound: np.ndarray
    """``(S,)`` float32 at 16 kHz: the clip's own stretch with ``margin`` more at either end."""
    margin: int
    """Samples."""
    shift: int = 0
    """Samples by which the sound is to be heard earlier."""
    points: np.ndarray
    """``(T, 5, 2)`` float32 source px; see ``FaceTrack``."""
    boxes: np.ndarray
    matrices: np.ndarray
    """``(T, 2, 3)`` float64 source px to crop px."""
    times: np.ndarray
    """``(T,)`` float64 seconds in the source of the picture that each frame shows."""
    facts: Facts
    motion: MouthMotion | None = None
    """Where the embedded estimate judges the sync."""
    faces: np.ndarray | None = None
    """``(T, 224, 224, 3)`` where SyncNet does."""
    found: Mapping[str, Any]
    """Metrics of alignment."""
    rejected: str = ""
    """Name of the step that rejected it; later ones measure it all the same."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Of all steps since."""
    kind: ClassVar[str] = "clip"

    @property
    def frame_count(self) -> int:
        return len(self.crops)

    def heard(self) -> np.ndarray:
        """``(T * 640,)`` float32: the sound that belongs to the pictures, shifted."""
        begin = self.margin + self.shift
        return self.sound[begin : begin + self.frame_count * SAMPLES_PER_FRAME]


Sample = Source | Stream | Clip


class Moment:
    """The picture on show at one moment of the 25 a second; a ``Picture`` with another number."""

    __slots__ = ("damaged", "index", "picture", "shown")

    def __init__(
        self, picture: Picture, index: int, shown: Fraction, *, damaged: bool = False
    ) -> None:
        self.picture = picture
        self.index = index
        self.shown = shown
        """Time of the picture in the source, seconds from its first."""
        self.damaged = damaged
        """Stands in for pictures that could not be read."""

    @property
    def time(self) -> Fraction:
        return Fraction(self.index, FPS)

    @property
    def size(self) -> tuple[int, int]:
        return self.picture.size

    def numbered(self, index: int) -> Moment:
        return Moment(self.picture, index, self.shown, damaged=self.damaged)

    def rgb(self) -> np.ndarray:
        return self.picture.rgb()

    def region(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        return self.picture.region(x0, y0, x1, y1)

    def luma(self, long_side: int) -> np.ndarray:
        return self.picture.luma(long_side)

    def reduced(self, long_side: int) -> np.ndarray:
        return self.picture.reduced(long_side)


class Clock:
    """CPU time by step where steps run inside each other, each pulling pictures from the one before."""

    def __init__(self) -> None:
        self._stack: list[str] = []
        self._since = time.process_time()
        self._totals: dict[str, float] = {}

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        self._charge()
        self._stack.append(name)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()

    def each(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """The same items; making them is charged to ``name``, using them is not."""
        source = iter(items)
        while True:
            with self.on(name):
                try:
                    item = next(source)
                except StopIteration:
                    return
            yield item

    def take(self, name: str) -> float:
        """Seconds charged to ``name`` since it was last asked."""
        self._charge()
        return self._totals.pop(name, 0.0)

    def _charge(self) -> None:
        now = time.process_time()
        if self._stack:
            name = self._stack[-1]
            self._totals[name] = self._totals.get(name, 0.0) + now - self._since
        self._since = now


class Book:
    """Collects the rows of one source and hands them on in whole bundles."""

    def __init__(
        self, source: Source, send: Callable[[list[Row]], None], done: frozenset[str] = frozenset()
    ) -> None:
        self.source = source
        self.clock = Clock()
        self.done = done
        """Segments that an earlier run has finished; they are not looked at again."""
        self._send = send
        self._rows: list[Row] = []

    def add(
        self,
        step: str,
        sample: str,
        *,
        parent: str | None = None,
        state: State = "kept",
        reason: str = "",
        metrics: Mapping[str, Any] | None = None,
        first: int = 0,
        frames: int = 0,
        thumb: bytes | None = None,
    ) -> None:
        """Notes what became of ``sample``; the step's time since its last note is charged to it."""
        self._rows.append(
            Row(
                sample=sample,
                step=step,
                source=self.source.key,
                parent=parent,
                state=state,
                reason=reason,
                metrics=dict(metrics or {}),
                seconds=round(self.clock.take(step), 4),
                first=first,
                frames=frames,
                thumb=thumb,
            )
        )

    def judge(self, step: Step, clip: Clip, metrics: Mapping[str, Any]) -> Clip | None:
        """Notes the step's verdict on a clip; None where nothing is to be done with it any more."""
        reason = step.judge(metrics, step.config)
        known = {**clip.metrics, **metrics}
        state: State = "kept"
        if clip.rejected:
            state, reason = "skipped", f"rejected earlier, by {clip.rejected}"
        elif reason:
            state = "rejected"
        self.add(
            step.name,
            clip.key,
            parent=clip.parent,
            state=state,
            reason=reason,
            metrics=metrics,
            first=clip.first,
            frames=clip.frame_count,
            thumb=jpeg(clip.crops[clip.frame_count // 2]) if state == "rejected" else None,
        )
        if state == "rejected" and step.config.output.rejected == "drop":
            return None
        return replace(
            clip, metrics=known, rejected=step.name if state == "rejected" else clip.rejected
        )

    def flush(self) -> None:
        """Hands on what was noted; all of it or nothing becomes part of the manifest."""
        if self._rows:
            self._send(self._rows)
            self._rows = []


class Step(ABC):
    """One stage of the preparation. Makes new samples and leaves the one it was given as it is."""

    name: ClassVar[str]
    takes: ClassVar[str]
    """Kind of sample that goes in: ``file``, ``stream`` or ``clip``."""
    gives: ClassVar[str]
    """Kind that comes out; empty at the end of the chain."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config = config
        self.setup = setup

    @abstractmethod
    def run(self, sample: Any, book: Book) -> Iterator[Any]:
        """The samples made from ``sample``. A stream must be used up before the next one is asked for."""

    @staticmethod
    def judge(metrics: Mapping[str, Any], config: Config) -> str:
        """Why a sample with these metrics is rejected, in one line; empty where it is kept."""
        del metrics, config
        return ""
