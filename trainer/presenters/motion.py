"""How a head moves while it speaks, blinks and looks around; nothing of it follows the words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .people import Person

FPS = 25
BODY_SHARE = 0.3
"""How much of the head's way the shoulders follow."""


@dataclass(frozen=True, kw_only=True)
class Motion:
    """One row per frame of 25 a second."""

    yaw: np.ndarray
    """``(T,)`` radians, positive to the right of the picture."""
    pitch: np.ndarray
    """``(T,)`` radians, positive down."""
    head: np.ndarray
    """``(T, 2, 3)`` from face coordinates, already turned, to source px."""
    body: np.ndarray
    """``(T, 2, 3)`` the same of neck and shoulders."""
    blink: np.ndarray
    """``(T,)`` 0 open .. 1 closed."""
    gaze: np.ndarray
    """``(T, 2)`` -1..1 right and down."""


def move(person: Person, frame_count: int, seed: int) -> Motion:
    """The same movement for the same person and seed."""
    rng = np.random.default_rng([person.number, 4, seed])
    time = np.arange(frame_count) / FPS
    lively = person.restless

    def sway(size: float) -> np.ndarray:
        """A slow and two quicker waves of random rate and phase."""
        rates = np.array([rng.uniform(0.05, 0.2), rng.uniform(0.2, 0.6), rng.uniform(0.6, 1.4)])
        phases = rng.uniform(0, 2 * np.pi, 3)
        waves = np.sin(2 * np.pi * rates * time[:, None] + phases)
        return size * lively * (waves @ np.array([0.6, 0.35, 0.12]))

    yaw = np.clip(person.yaw + sway(0.13), -0.36, 0.36)
    pitch = np.clip(person.pitch + sway(0.07), -0.2, 0.2)
    roll = person.roll + sway(0.05)
    unit = person.unit * (1 + sway(0.035))
    x = person.place[0] + person.unit * sway(0.16)
    y = person.place[1] + person.unit * sway(0.08)
    return Motion(
        yaw=yaw,
        pitch=pitch,
        head=_placed(unit, roll, x, y),
        body=_placed(
            np.full(frame_count, person.unit),
            BODY_SHARE * roll,
            person.place[0] + BODY_SHARE * (x - person.place[0]),
            person.place[1] + BODY_SHARE * (y - person.place[1]),
        ),
        blink=_blinks(frame_count, rng),
        gaze=_glances(frame_count, rng),
    )


def _placed(unit: np.ndarray, roll: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    cos, sin = unit * np.cos(roll), unit * np.sin(roll)
    return np.stack([np.stack([cos, -sin, x], 1), np.stack([sin, cos, y], 1)], 1)


def _blinks(frame_count: int, rng: np.random.Generator) -> np.ndarray:
    closed = np.zeros(frame_count)
    frames = np.arange(frame_count)
    at = rng.uniform(0, 4)
    while at < frame_count / FPS:
        closed = np.maximum(closed, np.clip(1.35 - np.abs(frames - at * FPS) / 2.3, 0, 1))
        at += rng.uniform(0.3, 0.5) if rng.random() < 0.12 else rng.uniform(1.5, 5.5)
    return closed


def _glances(frame_count: int, rng: np.random.Generator) -> np.ndarray:
    out = np.zeros((frame_count, 2))
    at = 0
    while at < frame_count:
        target = rng.normal(0, (0.32, 0.16)) if rng.random() < 0.6 else np.zeros(2)
        out[at:] = np.clip(target, -0.8, 0.8)
        at += int(rng.uniform(8, 60))
    return out
