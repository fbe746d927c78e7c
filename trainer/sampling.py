"""Which frames of a clip are learned from, and which show the face for reference."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lipsync_core.errors import SettingsError

CONTOUR = slice(0, 16)
INNER_LIPS = slice(60, 67)
"""Of 68 landmarks, the points that MuseTalk compares for pose and for the mouth. Both leave out the
last of their kind (16 and 67), as the original's slices do."""
SIDE = 256.0
"""Boxes are brought to this square before landmarks are compared, each axis by its own factor."""
TOP = 0.51
"""Share of the clip's frames that count as similar, and as dissimilar."""
NEAR = 5
"""Frames: a reference closer than this shows the same moment."""
V1_NEAR = 5
"""Likewise in MuseTalk 1, where the distance itself is still too close."""
LIPS_SIDE = 12
"""Side of the gray picture by which mouths are compared where nothing is stored about them."""


class Filmed(Protocol):
    """What a sampling wants to know of a clip; ``clips.Clip`` is one."""

    @property
    def frame_count(self) -> int: ...

    def stored(self, name: str) -> np.ndarray | None: ...

    def crops(self, frames: Sequence[int], size: int) -> np.ndarray: ...

    def remember(
        self, name: str, make: Callable[[], tuple[np.ndarray, ...]]
    ) -> tuple[np.ndarray, ...]: ...


@dataclass(frozen=True)
class Pick:
    """Frames of one sample, numbers in the clip."""

    frames: np.ndarray
    """``(T,)`` int64, one after the other."""
    reference: np.ndarray
    """``(T,)`` int64: for each of ``frames`` the one that shows the face."""


class Sampling(ABC):
    """A row: draws frames of one clip. All randomness comes from the generator it is given."""

    name: str
    frames: int
    """``T``: pictures in a sample."""
    min_frames: int
    """Clips shorter than this are of no use."""

    @abstractmethod
    def pick(self, clip: Filmed, rng: np.random.Generator) -> Pick:
        """``clip`` has at least ``min_frames``."""


@dataclass(frozen=True)
class Apart(Sampling):
    """``frames`` in a row, and as many in a row that begin at least ``apart`` frames away.

    The pair is uniform among what the clip has room for: first the beginning of the target among
    those that leave room for a reference, then that of the reference. From ``2 * apart + frames -
    1`` frames on every beginning leaves room. Shorter clips can be used down to ``apart + frames``,
    where the target is at one of the ends; the originals leave them out.
    """

    name: str
    frames: int
    apart: int

    @property
    def min_frames(self) -> int:  # type: ignore[override]
        return self.frames + self.apart

    def pick(self, clip: Filmed, rng: np.random.Generator) -> Pick:
        last = clip.frame_count - self.frames
        assert last >= self.apart, (clip.frame_count, self.min_frames)
        starts = np.arange(last + 1)
        starts = starts[(starts >= self.apart) | (starts + self.apart <= last)]
        start = int(rng.choice(starts))
        before = max(start - self.apart + 1, 0)
        after = max(last - start - self.apart + 1, 0)
        place = int(rng.integers(before + after))
        reference = place if place < before else start + self.apart + place - before
        row = np.arange(self.frames)
        return Pick(start + row, reference + row)


@dataclass(frozen=True)
class PoseMouth(Sampling):
    """MuseTalk 1.5: for each frame a reference of a like pose whose mouth is another.

    Of the clip's ``N`` frames ``k = int(top * N)`` count as alike in pose and ``k`` as unlike in the
    mouth; the reference is one of those in both. Where there is none, or it is closer than ``NEAR``,
    it is any frame within ``5 * frames`` that is not closer. The original draws that one beyond the
    ends of the clip too and moves it to the end, which at an end gives the very frame to be drawn
    as its own reference; here only frames of the clip are drawn.
    """

    name: str
    frames: int
    top: float = TOP

    @property
    def min_frames(self) -> int:  # type: ignore[override]
        # The original's, so that a reference is to be found within reach.
        return max(10 * self.frames, 2 * NEAR)

    def pick(self, clip: Filmed, rng: np.random.Generator) -> Pick:
        start = int(rng.integers(clip.frame_count - self.frames + 1))
        frames = start + np.arange(self.frames)
        pose, mouth = clip.remember("looks", lambda: looks(clip))
        reference = [self._reference(pose, mouth, int(frame), rng) for frame in frames]
        return Pick(frames, np.array(reference, np.int64))

    def _reference(
        self, pose: np.ndarray, mouth: np.ndarray, drive: int, rng: np.random.Generator
    ) -> int:
        common = np.intersect1d(alike(pose, drive, self.top), unlike(mouth, drive, self.top))
        if len(common):
            chosen = int(rng.choice(common))
            if abs(chosen - drive) >= NEAR:
                return chosen
        return int(rng.choice(around(drive, len(pose), reach=5 * self.frames)))


def around(drive: int, frame_count: int, *, reach: int) -> np.ndarray:
    """Frames within ``reach`` of ``drive``, ``NEAR`` or more away; at least one in ten frames."""
    # A single frame reaches exactly as far as is too near, or at an end nowhere at all.
    reach = max(reach, NEAR)
    frames = np.arange(max(drive - reach, 0), min(drive + reach, frame_count - 1) + 1)
    return frames[np.abs(frames - drive) >= NEAR]


def distances(shapes: np.ndarray, drive: int) -> np.ndarray:
    """``(N,)`` mean distance of the points of ``(N, L, D)`` to those of frame ``drive``."""
    apart = shapes - shapes[drive]
    return np.sqrt(np.square(apart).sum(-1)).mean(-1)


def alike(pose: np.ndarray, drive: int, top: float) -> np.ndarray:
    """The ``int(top * N)`` frames nearest in ``(N, L, D)`` to ``drive``, itself left out, nearest first."""
    order = np.argsort(distances(pose, drive), kind="stable")
    return order[1 : int(top * len(pose)) + 1]


def unlike(mouth: np.ndarray, drive: int, top: float) -> np.ndarray:
    """The ``int(top * N)`` frames farthest in ``(N, L, D)`` from ``drive``, farthest first."""
    order = np.argsort(-distances(mouth, drive), kind="stable")
    return order[: int(top * len(mouth))]


def normalised(landmarks: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """``(N, L, 2)`` float64 landmarks in their boxes of ``(N, 2)`` width and height, scaled to ``SIDE``."""
    return np.asarray(landmarks, np.float64) / np.asarray(sizes, np.float64)[:, None] * SIDE


def looks(clip: Filmed) -> tuple[np.ndarray, np.ndarray]:
    """``(N, L, D)`` points of the pose and of the mouth in every frame, float64.

    With 68 points a frame (``landmarks``, with ``boxes``) these are MuseTalk's own. Else the pose
    is where eyes and nose are in the aligned crop, of the five stored points: the corners of the
    mouth are left to the mouth. The mouth is its known shape where the clip tells it (``shapes``),
    and else a small gray picture of it, which wants the whole clip decoded once.
    """
    landmarks = clip.stored("landmarks")
    boxes = clip.stored("boxes")
    if landmarks is not None and landmarks.shape[1:] == (68, 2) and boxes is not None:
        points = in_boxes(landmarks, boxes)
        return points[:, CONTOUR], points[:, INNER_LIPS]
    points, matrices = clip.stored("points"), clip.stored("matrices")
    if points is None or matrices is None:
        raise SettingsError(
            f"sampling by pose needs the points of the face, which {clip!r} does not have; "
            "prepare the data with the preprocessor, or choose sampling contiguous-16"
        )
    placed = np.einsum("nij,nlj->nli", matrices[..., :2], np.asarray(points, np.float64))
    placed += matrices[:, None, :, 2]
    shapes = clip.stored("shapes")
    if shapes is not None and len(shapes) == len(points):
        return placed[:, :3], np.asarray(shapes, np.float64)[:, None]
    return placed[:, :3], lips(clip)


def in_boxes(landmarks: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """``(N, L, 2)``: landmarks in source px relative to the box around face and landmarks, normalised.

    ``boxes``: ``(N, 4)`` of the detector. The box is widened to hold every landmark, begins nowhere
    left of or above the picture, and has whole pixels, as in the original.
    """
    landmarks = np.asarray(landmarks, np.float64)
    low, high = union(landmarks, np.asarray(boxes, np.float64))
    return normalised(landmarks - low[:, None], np.maximum(high - low, 1))


def union(landmarks: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``(N, 2)`` upper left and ``(N, 2)`` lower right corner of the box around both."""
    low = np.maximum(np.minimum(landmarks.min(1), boxes[:, :2]), 0)
    high = np.maximum(landmarks.max(1), boxes[:, 2:])
    return np.trunc(low), np.trunc(high)


def lips(clip: Filmed) -> np.ndarray:
    """``(N, 1, D)`` gray of the mouth's part of the crops: what opens and closes, whatever its name."""
    side = 4 * LIPS_SIDE
    crops = clip.crops(range(clip.frame_count), side).mean(-1, dtype=np.float32)
    # Every template of ours has the mouth in the middle, below 55 % of the height.
    part = crops[:, side * 11 // 20 : side * 17 // 20, side // 4 : side * 3 // 4]
    return part.reshape(len(part), 1, -1)


SAMPLINGS: tuple[Sampling, ...] = (
    Apart("contiguous-16", 16, 16),  # LatentSync: no frame of the reference is one of the target
    Apart("contiguous-25", 25, 25),  # and as much as its SyncNet of 25 frames looks at
    Apart("contiguous-5", 5, 5),  # Wav2Lip, whose reference may share four frames with the target
    Apart("single-frame", 1, V1_NEAR + 1),  # MuseTalk 1
    Apart("single-frame-5", 5, V1_NEAR + 1),  # the same with ``syncnet_T``: frames for a sync loss
    Apart("single-frame-16", 16, 16),
    PoseMouth("pose-mouth", 16),  # MuseTalk 1.5, second stage
    PoseMouth("pose-mouth-1", 1),  # and first
)


def named(name: str) -> Sampling:
    """The row of this name; else an error that names them all."""
    for row in SAMPLINGS:
        if row.name == name:
            return row
    names = ", ".join(row.name for row in SAMPLINGS)
    raise SettingsError(f"there is no sampling {name!r}; data.sampling can be {names}")
