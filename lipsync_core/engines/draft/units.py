"""Choose, for every frame, which of the person's own mouths says the sound: a path search."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .donors import Donors
from .measure import lip_gaps, measure_all, pose_distance

OWN = -1
"""Instead of a donor: no mouth in the clip fits this pose, keep the frame's own."""

_OPEN, _WIDTH, _CLOSED = 12.0, 1.5, 10.0
"""Weights of the squared differences of opening and width, and of opening where lips must meet."""
PARTED, _SHUT = 0.10, 6.0
"""Gap in units that is plainly not shut, and the weight of its square where lips must meet."""
_GAP_SEEN = 0.02
"""Range of the gap (p95 - p3, units) from which lips are known to part."""
_WIDTH_SEEN = 0.04
"""Range of the width (p95 - p5, units) below which it is noise."""
_JUMP, _JOIN, _HOLD, _HOLD_CALM = 0.50, 0.70, 0.30, 0.01
_POSE_FREE, _POSE_REFUSED = 0.05, 0.15
"""Pose distances that cost little, and that no donor may have (about 5 and 15 degrees)."""
_SHARP_REFUSED = 1.0
"""Largest absolute logarithm of the ratio of detail between donor and frame."""
_OWN = 1.2
"""Cost of the frame's own mouth: only where donors fail."""
_CANDIDATES = 48
_SUCCESSORS = 24
_CALM_FRAMES = 4
"""So many silent frames in a row are a pause, in which one closed mouth is held."""


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What the mouth should do, one row per output frame."""

    opening: np.ndarray
    """``(T,)`` float32, 0 closed .. 1 the widest that this person opens."""
    width: np.ndarray
    """``(T,)`` float32, -1 rounded .. 1 spread."""
    press: np.ndarray
    """``(T,)`` float32 0..1: lips are pressed together."""
    shut: np.ndarray
    """``(T,)`` float32 0..1: lips meet, pressed or at rest."""
    calm: np.ndarray
    """``(T,)`` bool: silence around."""


def aim_of(shapes: np.ndarray) -> Aim:
    """Reads the aim off ``(T, 6)`` mouth shapes: open, jaw, wide, round, press, fv."""
    opening = np.clip(shapes[:, 0] / 0.75, 0.0, 1.1)
    silent = (shapes[:, 0] < 0.06) & (shapes[:, 4] < 0.2) & (shapes[:, 5] < 0.2)
    calm = np.zeros(len(shapes), bool)
    start = None
    for row, quiet in enumerate([*silent.tolist(), False]):
        if quiet and start is None:
            start = row
        elif not quiet and start is not None:
            if row - start >= _CALM_FRAMES:
                calm[start:row] = True
            start = None
    return Aim(
        opening=opening.astype(np.float32),
        width=np.clip(shapes[:, 2] - shapes[:, 3], -1.0, 1.0).astype(np.float32),
        press=np.clip(shapes[:, 4], 0.0, 1.0).astype(np.float32),
        shut=np.maximum(
            np.clip(shapes[:, 4], 0.0, 1.0), np.clip(1.0 - opening / 0.12, 0.0, 1.0)
        ).astype(np.float32),
        calm=calm,
    )


class Cast:
    """The donors, scaled to what this person does, and how well any two of them join.

    ``views``: ``(N, 80, 96, 3)`` uint8 RGB, aligned; ``poses``: ``(N, 3)``.
    """

    def __init__(self, donors: Donors, views: np.ndarray, poses: np.ndarray) -> None:
        self.donors = donors
        self.poses = poses
        gray = np.stack([cv2.cvtColor(view, cv2.COLOR_RGB2GRAY) for view in views])
        jaw, measured_width = measure_all(gray, poses)
        self.gap = lip_gaps(views)
        low, high = np.percentile(self.gap, (3, 95))
        self.parted = np.clip((self.gap - low) / PARTED, 0.0, 1.5)
        # Jaw and lips count alike; without coloured lips the jaw must do.
        mixed = _ranged(jaw) + (_ranged(self.gap) if high - low > _GAP_SEEN else 0.0)
        self.opening = _ranged(mixed)
        self.span = max(float(np.subtract(*np.percentile(jaw, (95, 5)))), 1e-3)
        left, right = np.percentile(measured_width, (5, 95))
        self.width_zero, self.width_span = (
            float(left + right) / 2,
            float(max(right - left, _WIDTH_SEEN)) / 2,
        )
        self.width = np.clip((measured_width - self.width_zero) / self.width_span, -1.5, 1.5)
        self.sharp = np.log(np.maximum(donors.sharp, 1e-3))
        self.looks = _looks(gray)
        self.following = np.where(donors.follows, np.arange(len(donors)) + 1, -1)

    def join(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """``(len(first), len(second))``: how unlike the mouths are, 1 for the median of the clip."""
        one, two = self.looks[first], self.looks[second]
        square = (one**2).sum(1)[:, None] + (two**2).sum(1)[None] - 2.0 * one @ two.T
        # A mouth that must change a lot in one frame is no reason to stay.
        return np.clip(square, 0.0, 2.0)


def _ranged(values: np.ndarray) -> np.ndarray:
    """0 at the 5th and 1 at the 95th percentile."""
    low, high = np.percentile(values, (5, 95))
    return ((values - low) / max(float(high - low), 1e-3)).astype(np.float32)


def _looks(views: np.ndarray) -> np.ndarray:
    """``(N, 6)`` float32: mouths as a few numbers, scaled so that the median squared distance is 1."""
    mouths = views[:, 12:44, 16:80].astype(np.float32)
    data = mouths.reshape(len(views), 8, 4, 16, 4).mean((2, 4)).reshape(len(views), -1)
    data -= data.mean(1, keepdims=True)
    data -= data.mean(0)
    _, vectors = np.linalg.eigh(data.T @ data / len(data))
    looks = data @ vectors[:, ::-1][:, :6]
    count = len(looks)
    some = looks[:: max(count // 200, 1)]
    square = ((some[:, None] - some[None]) ** 2).sum(-1)
    scale = np.median(square[np.triu_indices(len(some), 1)]) if len(some) > 1 else 1.0
    return (looks / np.sqrt(max(float(scale), 1e-6))).astype(np.float32)


@dataclass
class _Beam:
    """The best ways to have arrived at some candidates."""

    candidates: np.ndarray
    cost: np.ndarray
    back: np.ndarray


class Search:
    """Follows the best path window by window; what was shown stays shown.

    Each call looks a few frames further than it decides. The memory it needs does not grow.
    """

    def __init__(self, cast: Cast) -> None:
        self._cast = cast
        self._beam: _Beam | None = None

    def restart(self) -> None:
        """Forgets the path: after a cut nothing needs to join."""
        self._beam = None

    def path(
        self, aim: Aim, rows: np.ndarray, poses: np.ndarray, sharp: np.ndarray, *, decide: int
    ) -> np.ndarray:
        """Donors for the first ``decide`` of ``rows`` of ``aim``; the others are the look-ahead.

        ``poses``: ``(len(rows), 3)`` of the frames to draw on; ``sharp``: their detail, grey levels.
        Returns ``(decide,)`` int64, ``OWN`` where no donor fits.
        """
        beams: list[_Beam] = []
        previous = self._beam
        for step, row in enumerate(rows):
            previous = self._step(previous, aim, int(row), poses[step], float(sharp[step]))
            beams.append(previous)
        chosen = np.empty(len(beams), np.int64)
        at = int(np.argmin(beams[-1].cost))
        for step in range(len(beams) - 1, -1, -1):
            chosen[step] = beams[step].candidates[at]
            if step == decide - 1:
                last = at
            at = int(beams[step].back[at])
        kept = beams[decide - 1]
        # Only the way that will be shown goes on: the next window starts from it alone.
        self._beam = _Beam(
            candidates=kept.candidates[last : last + 1],
            cost=np.zeros(1, np.float32),
            back=np.zeros(1, np.int64),
        )
        return chosen[:decide]

    def _step(
        self, previous: _Beam | None, aim: Aim, row: int, pose: np.ndarray, sharp: float
    ) -> _Beam:
        cast = self._cast
        local = self._local(aim, row, pose, sharp)
        count = min(_CANDIDATES, len(local))
        candidates = np.argpartition(local, count - 1)[:count]
        if previous is not None:
            best = previous.candidates[np.argsort(previous.cost)[:_SUCCESSORS]]
            best = best[best >= 0]
            candidates = np.unique(np.concatenate([candidates, best, cast.following[best]]))
            candidates = candidates[candidates >= 0]
        candidates = candidates[np.isfinite(local[candidates])]
        cost = local[candidates]
        candidates, cost = np.append(candidates, OWN), np.append(cost, np.float32(_OWN))
        if previous is None:
            return _Beam(candidates=candidates, cost=cost, back=np.zeros(len(candidates), np.int64))
        step = self._transition(previous.candidates, candidates, bool(aim.calm[row]))
        total = previous.cost[:, None] + step
        back = np.argmin(total, 0)
        return _Beam(
            candidates=candidates,
            cost=cost + total[back, np.arange(len(candidates))],
            back=back,
        )

    def _local(self, aim: Aim, row: int, pose: np.ndarray, sharp: float) -> np.ndarray:
        cast = self._cast
        closed = float(aim.press[row])
        cost = (_OPEN + _CLOSED * closed) * (cast.opening - aim.opening[row]) ** 2
        cost += _SHUT * float(aim.shut[row]) * cast.parted**2
        cost += _WIDTH * (1.0 - 0.7 * closed) * (cast.width - aim.width[row]) ** 2
        distance = pose_distance(pose, cast.poses)
        cost += 0.15 * (distance / _POSE_FREE) ** 2
        detail = np.abs(cast.sharp - np.log(max(sharp, 1e-3)))
        cost += 0.3 * detail**2
        cost[(distance > _POSE_REFUSED) | (detail > _SHARP_REFUSED)] = np.inf
        return cost.astype(np.float32)

    def _transition(self, first: np.ndarray, second: np.ndarray, calm: bool) -> np.ndarray:
        cast = self._cast
        following = np.where(first >= 0, cast.following[np.maximum(first, 0)], -1)
        expected = np.where(following >= 0, following, np.maximum(first, 0))
        cost = _JUMP + _JOIN * cast.join(expected, np.maximum(second, 0))
        cost = np.where((second[None] == OWN) | (first[:, None] == OWN), 1.0, cost)
        cost[(following[:, None] == second[None]) & (following[:, None] >= 0)] = 0.0
        cost[first[:, None] == second[None]] = _HOLD_CALM if calm else _HOLD
        cost[np.ix_(first == OWN, second == OWN)] = 0.0
        return cost.astype(np.float32)
