"""New mouths into frames: while one window is drawn, the next is cut out and the last pasted back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from .engines.base import Rendered, Session
    from .faces.templates import Template
    from .media.frame import Frame
    from .types import FaceTrack

PATIENCE = 0.05
"""Seconds after which a face that waits for another to be pasted asks whether to go on."""


class Left(BaseException):
    """Raised in a thread that draws when nobody waits for its pictures any more."""


def leaving(left: threading.Event) -> Callable[[], None]:
    """What a thread calls to learn whether ``left`` is set; then it raises ``Left``."""

    def heed() -> None:
        if left.is_set():
            raise Left

    return heed


@dataclass(frozen=True, kw_only=True, eq=False)
class Mouth:
    """One person speaking one voice: cut the face out, let the engine draw, paste it back."""

    track: FaceTrack
    template: Template
    matrices: np.ndarray
    """``(T, 2, 3)`` float64, source px to crop px."""
    session: Session
    asked: np.ndarray | None = None
    """Bool for each frame of the output; where False nothing is drawn."""

    def stretches(self, frames: Sequence[Frame], first: int) -> Iterator[list[int]]:
        """Runs of at most a window in which the person is there: an engine never sees a gap.

        Places in ``frames``, whose first is frame ``first`` of the output.
        """
        steps: list[int] = []
        for step, frame in enumerate(frames):
            here = self.track.strength[frame.index] > 0
            if self.asked is not None and not self.asked[first + step]:
                here = False
            cut = bool(steps) and (
                self.track.shots[frame.index] != self.track.shots[frames[steps[-1]].index]
            )
            if steps and (not here or cut or len(steps) == self.session.window):
                yield steps
                steps = []
            if here:
                steps.append(step)
        if steps:
            yield steps

    def cut(self, frames: Sequence[Frame]) -> np.ndarray:
        """What the session looks at of the face in each of ``frames``, upright: ``(T, h, w, 3)`` uint8."""
        import numpy as np

        from .faces import align

        size = self.template.size
        first = int(self.session.blind * size)
        return np.stack(
            [align.cut(frame, self.matrices[frame.index], size, first=first) for frame in frames]
        )

    def paste(self, frame: Frame, before: np.ndarray, crop: np.ndarray, mask: np.ndarray) -> Frame:
        """``frame`` with the new mouth ``crop`` in place of ``before``; itself where nothing changes."""
        from .faces.paste import paste

        x, y, rgb, alpha = paste(
            frame,
            crop,
            mask,
            self.matrices[frame.index],
            strength=float(self.track.strength[frame.index]),
            original=before if self.session.keeps_detail else None,
        )
        if not alpha.size:
            return frame
        source = frame.region(x, y, x + alpha.shape[1], y + alpha.shape[0])
        mixed = source + alpha[..., None] * (rgb - source)
        return frame.painted(x, y, mixed, alpha)


@dataclass(kw_only=True, eq=False)
class _Window:
    """Frames that follow each other in the output, on their way to new mouths."""

    first: int
    """Which frame of the output they begin with."""
    frames: list[Frame]
    """As painted so far."""
    painted: set[int] = field(default_factory=set)
    """Places of those in which a mouth was drawn."""


@dataclass(kw_only=True, eq=False)
class _Stretch:
    """Frames of a window in which a person is there: their places, what was cut, what was drawn."""

    steps: list[int]
    crops: np.ndarray
    rendered: Rendered | None = None


@dataclass(kw_only=True, eq=False)
class _Task:
    """One mouth in one window, handed from stage to stage."""

    window: _Window
    mouth: Mouth
    stretches: list[_Stretch]
    is_last: bool
    """No other mouth comes into this window."""
    pasted: threading.Event = field(default_factory=threading.Event)


def drawn(
    frames: Iterable[Frame],
    mouths: Sequence[Mouth],
    *,
    idle: Callable[[], object] | None = None,
    left: threading.Event | None = None,
) -> Generator[tuple[Frame, bool], None, None]:
    """Every frame of the output with its new mouths, and whether it has any.

    Cutting, drawing and pasting have a thread each and hand over one window at a time, so that no more
    than three are held. ``idle`` and ``left``: as ``idle`` and ``stop`` of ``prefetch``.
    """
    from .media.reader import prefetch

    left = left or threading.Event()
    heed = leaving(left)
    cut = prefetch(_cut(frames, mouths, heed), 1)
    rendered = prefetch(_rendered(cut), 1)
    pasted = prefetch(_pasted(rendered, heed), idle=idle, stop=left)
    # Closed from the last to the first: each when nobody reads from it any more.
    with closing(cut), closing(rendered), closing(pasted):
        yield from pasted


def _cut(
    frames: Iterable[Frame], mouths: Sequence[Mouth], heed: Callable[[], None]
) -> Iterator[_Task]:
    size = max(mouth.session.window for mouth in mouths)
    rest, first = iter(frames), 0
    while taken := list(islice(rest, size)):
        window, before = _Window(first=first, frames=taken), None
        for mouth in mouths:
            # Faces may overlap: each is cut from what the one before it left.
            while before is not None and not before.pasted.wait(PATIENCE):
                heed()
            stretches = [
                _Stretch(steps=steps, crops=mouth.cut([taken[step] for step in steps]))
                for steps in mouth.stretches(taken, first)
            ]
            before = _Task(
                window=window, mouth=mouth, stretches=stretches, is_last=mouth is mouths[-1]
            )
            yield before
        first += len(taken)


def _rendered(tasks: Iterable[_Task]) -> Iterator[_Task]:
    for task in tasks:
        window = task.window
        for stretch in task.stretches:
            sources = [window.frames[step].index for step in stretch.steps]
            outputs = [window.first + step for step in stretch.steps]
            stretch.rendered = task.mouth.session.render(stretch.crops, sources, outputs)
        yield task


def _pasted(tasks: Iterable[_Task], heed: Callable[[], None]) -> Iterator[tuple[Frame, bool]]:
    for task in tasks:
        window = task.window
        for stretch in task.stretches:
            assert stretch.rendered is not None
            made = zip(stretch.crops, stretch.rendered.crops, stretch.rendered.masks, strict=True)
            for step, (before, crop, mask) in zip(stretch.steps, made, strict=True):
                heed()
                old = window.frames[step]
                window.frames[step] = new = task.mouth.paste(old, before, crop, mask)
                if new is not old:
                    window.painted.add(step)
        task.pasted.set()
        if task.is_last:
            for step, frame in enumerate(window.frames):
                yield frame, step in window.painted
