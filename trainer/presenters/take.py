"""A presenter speaking for a few seconds: sound, truth and, on demand, any stretch of the pictures."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from lipsync_core.faces import align
from lipsync_core.preprocess.setup import template
from lipsync_core.preprocess.step import FPS, SAMPLES_PER_FRAME

from . import visemes
from .layers import depth_field
from .motion import move
from .people import person
from .render import SOURCE_SIZE, Moment, Painter, box_of, points_of, points_through
from .voices import Speech, speak, voice

if TYPE_CHECKING:
    from lipsync_core.faces.templates import Template

    from .motion import Motion


def crop_template(resolution: int) -> Template:
    """LatentSync's crop at any size."""
    return replace(template("latentsync", 256), size=resolution)


class Take:
    """Everything but the pictures is made at first use and kept; pictures are drawn when asked for."""

    def __init__(
        self,
        number: int,
        frame_count: int,
        *,
        resolution: int,
        seed: int = 0,
        speech: Speech | None = None,
        curve: np.ndarray | None = None,
    ) -> None:
        """``number``: of person and voice. ``seed``: of what is said and how the head moves.
        ``speech``: what is said, if not invented. ``curve``: its mouth where the phones are not known,
        ``(4 T, 6)``, 100 rows a second."""
        self.number, self.seed = number, seed
        self.frame_count, self.resolution = frame_count, resolution
        self.person = person(number)
        self.template = crop_template(resolution)
        self._given = speech
        self._given_curve = curve

    @cached_property
    def speech(self) -> Speech:
        if self._given is not None:
            return self._given
        return speak(voice(self.number), self.frame_count / FPS, self.seed)

    @property
    def sound(self) -> np.ndarray:
        """``(T * 640,)`` float32 at 16 kHz."""
        return self.speech.sound[: self.frame_count * SAMPLES_PER_FRAME]

    @cached_property
    def _curve(self) -> np.ndarray:
        if self._given_curve is not None:
            return self._given_curve
        return visemes.shapes(self.speech.parts, self.frame_count, self.speech.strength)

    @property
    def shapes(self) -> np.ndarray:
        """``(T, 6)`` float32: frame ``i`` shows the mouth at ``i`` / 25 s, at lag 0 with the sound."""
        return self._curve[:: visemes.STEPS // FPS]

    @property
    def shapes50(self) -> np.ndarray:
        """``(2 T, 6)`` float32, 50 rows a second."""
        return self._curve[:: visemes.STEPS // 50]

    @property
    def times(self) -> np.ndarray:
        """``(T,)`` seconds."""
        return np.arange(self.frame_count) / FPS

    @cached_property
    def motion(self) -> Motion:
        return move(self.person, self.frame_count, self.seed)

    def moment(self, frame: int) -> Moment:
        m = self.motion
        return Moment(
            yaw=float(m.yaw[frame]),
            pitch=float(m.pitch[frame]),
            head=m.head[frame],
            body=m.body[frame],
            blink=float(m.blink[frame]),
            gaze=m.gaze[frame],
            index=frame + 1009 * self.seed,
        )

    def _seen(self, points: np.ndarray) -> np.ndarray:
        """``(T, N, 2)`` where ``(N, 2)`` places of the head lie in the source picture."""
        depth = depth_field(self.person)
        m = self.motion
        out = np.empty((self.frame_count, len(points), 2))
        for frame in range(self.frame_count):
            tilt = np.sin([m.yaw[frame], m.pitch[frame]])
            turned = points_through(points, tilt, depth) * np.cos([m.yaw[frame], m.pitch[frame]])
            out[frame] = turned @ m.head[frame][:, :2].T + m.head[frame][:, 2]
        return out

    @cached_property
    def points(self) -> np.ndarray:
        """``(T, 5, 2)`` float32 source px; see ``points_of``."""
        return self._seen(points_of(self.person)).astype(np.float32)

    @cached_property
    def boxes(self) -> np.ndarray:
        """``(T, 4)`` float32 source px."""
        seen = self._seen(box_of(self.person))
        return np.concatenate([seen.min(1), seen.max(1)], axis=1).astype(np.float32)

    @cached_property
    def matrices(self) -> np.ndarray:
        """``(T, 2, 3)`` float64 source px to crop px, as the preprocessor aligns."""
        return align.fit(self.points, self.template)

    @cached_property
    def _painter(self) -> Painter:
        scale = self.template.unit * self.template.stretch
        room = float(np.median([align.scale_of(m) for m in self.matrices]))
        return Painter(self.person, density=scale, room_scale=room)

    def crops(self, first: int = 0, count: int | None = None) -> np.ndarray:
        """``(count, R, R, 3)`` uint8 RGB, straight in the crop."""
        count = self.frame_count - first if count is None else count
        size = (self.resolution, self.resolution)
        out = np.empty((count, self.resolution, self.resolution, 3), np.uint8)
        for i in range(count):
            frame = first + i
            out[i] = self.picture(frame, self.shapes[frame], self.matrices[frame], size)
        return out

    def picture(
        self, frame: int, shape: np.ndarray, matrix: np.ndarray, size: tuple[int, int]
    ) -> np.ndarray:
        """One crop with any mouth, ``(6,)``."""
        return self._painter.paint(self.moment(frame), shape, matrix, size)

    def frame(self, frame: int, painter: Painter) -> np.ndarray:
        """``(480, 640, 3)`` uint8 RGB: the whole source picture; ``painter`` of ``full_painter``."""
        still = np.eye(2, 3)
        return painter.paint(self.moment(frame), self.shapes[frame], still, SOURCE_SIZE)

    def full_painter(self) -> Painter:
        """Draws at the scale of the source picture."""
        return Painter(self.person, density=1.1 * self.person.unit, room_scale=1.0)
