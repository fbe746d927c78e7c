"""What an engine is: aligned crops and speech in, crops with the new mouth out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    from ..faces.templates import Template
    from ..types import FaceTrack, Picture, Settings, Voice


class Study(Protocol):
    """What an engine learns of one person while the clip is read for the first time.

    Its size is bounded, whatever the length of the clip.
    """

    def see(self, picture: Picture, points: np.ndarray) -> None:
        """Looks at one frame. ``points``: ``(5, 2)``, as tracked so far, not yet smoothed."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """All that was learnt, as named arrays, to be kept in the cache beside the track."""
        ...


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A window of new mouths."""

    crops: np.ndarray
    """``(T, h, w, 3)`` uint8 or float32 0..255."""
    masks: np.ndarray
    """``(T, h, w)`` float32 0..1: 1 where the crop replaces the source, 0 where it must not."""


def _go_on() -> None:
    return None


class Session(ABC):
    """One person speaking one voice track."""

    mode: str = "default"
    """How it draws, for reports."""
    keeps_detail: bool = False
    """Its crops lose fine detail: bring the source's back where they still show the same."""
    blind: float = 0.0
    """Share of a crop's rows, from above, that it neither looks at nor draws: they may hold anything."""
    window: int = 1
    """Frames per call of ``render``; the last window of a stretch may be shorter."""
    heed: Callable[[], object] = staticmethod(_go_on)
    """Called several times a second while ``render`` works, in its thread; it may raise to leave.

    Whoever drives the session sets it."""

    @abstractmethod
    def render(self, crops: np.ndarray, sources: Sequence[int], outputs: Sequence[int]) -> Rendered:
        """Gives ``crops`` the mouth of the voice.

        ``crops``: ``(T, h, w, 3)`` uint8, aligned to ``template``. ``sources``: the source frame that
        each was cut from. ``outputs``: the row of the voice's features (= output frame) it will show.
        Calls come in output order; a stretch without a face is left out.
        """


class Engine(ABC):
    """A row of ``ENGINES``."""

    name: str
    summary: str
    """One line for tables: what it is, what it costs."""
    quick: bool = False
    """It draws as fast as pictures are encoded: then time matters more than the size of the file."""

    @abstractmethod
    def missing(self) -> str | None:
        """None when the engine can run here; else one line saying what is absent and how to get it."""

    def is_practical(self) -> bool:
        """Whether this machine runs it in a time that nobody regrets; else only by name."""
        return True

    def check(self, settings: Settings) -> None:  # noqa: B027 - most have nothing to refuse
        """Raises ``SettingsError`` for what it cannot follow here, before a clip is looked at; loads no network."""

    def study(self) -> Study | None:
        """A fresh collector for one person, or None if the engine needs no look ahead."""
        return None

    @abstractmethod
    def template(self, track: FaceTrack) -> Template:
        """How this person's face must be aligned and at which size."""

    @abstractmethod
    def listen(self, voice: Voice, times: Sequence[Fraction]) -> Any:
        """What the engine hears: features with one row per time in ``times`` (seconds of the voice)."""

    @abstractmethod
    def start(
        self,
        *,
        speech: Any,
        track: FaceTrack,
        study: dict[str, np.ndarray] | None,
        settings: Settings,
    ) -> Session:
        """Ready to render one person with one voice; ``study`` is what ``Study.state`` gave."""
