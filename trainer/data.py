"""Samples that are drawn from clips by number, and the numbers of each batch."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from lipsync_core.audio import sync_mel
from lipsync_core.audio.windows import window_steps
from lipsync_core.errors import SettingsError

from . import sampling as samplings
from .clips import BadClip, Clip, Clips, DataError, split
from .config import PairsConfig

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    Samples = Dataset[dict[str, Any]]
else:
    # torch takes anything that can be asked for a number, and is not loaded for that.
    Samples = object

log = logging.getLogger("lipsync.trainer")

FPS = 25
"""Pictures a second of every clip."""
TRIES = 100
"""Clips that may be bad one after the other for a single sample."""
WORKERS = 1024
"""Loading processes whose bad samples are counted apart."""


class _Drawn(Samples):
    """Samples by number: the same for the same seed and number, whoever asks, in any order.

    Every clip has its turn once in each round of ``len`` draws, in an order of that round. A clip
    that turns out bad gives its place to another that depends on the number alone.
    """

    def __init__(self, clips: Clips, *, least: int, what: str, seed: int, max_bad: int) -> None:
        import torch

        self.clips = clips
        self.seed = seed
        self.max_bad = max_bad
        counts = np.array([one.frame_count for one in clips.entries])
        self.usable = np.flatnonzero(counts >= least)
        short = len(clips) - len(self.usable)
        if not len(self.usable):
            raise DataError(
                f"{what} needs clips of {least} frames, the longest of {len(clips)} has "
                f"{counts.max(initial=0)}; prepare longer clips (segment.seconds of the preprocessor)"
            )
        if short:
            log.info("%d of %d clips have less than %d frames, left out", short, len(clips), least)
        # Shared with the loading processes: each counts in its own place, so that no count is lost.
        self._bad = torch.zeros(WORKERS + 1, dtype=torch.int64).share_memory_()
        self._told = torch.zeros(len(clips), dtype=torch.uint8).share_memory_()
        self._round: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        """Draws of one round; numbers beyond it are as good."""
        return len(self.usable)

    @property
    def bad(self) -> int:
        """Samples that were skipped so far, by this process and those that load for it."""
        return int(self._bad.sum())

    def check(self) -> None:
        """Raises when more than ``max_bad`` samples were skipped."""
        if self.bad > self.max_bad:
            raise DataError(
                f"{self.bad} samples could not be read, more than data.max_bad={self.max_bad} "
                f"({int(self._told.sum())} of {len(self.clips)} clips; the log names them); "
                "run the preprocessor again, or raise data.max_bad"
            )

    def __getitem__(self, draw: int) -> dict[str, Any]:
        if draw < 0:
            raise IndexError("draws count from 0")
        _one_thread_in_workers()
        skipped = 0
        while True:
            clip = self.clips[self._chosen(draw, skipped)]
            try:
                sample = self._make(clip, np.random.default_rng([self.seed, draw, skipped]))
            except BadClip as error:
                skipped += 1
                self._count(clip, str(error))
                self.check()
                if skipped >= TRIES:
                    raise DataError(
                        f"{TRIES} clips in a row could not be read, the last of them {clip.key}: "
                        f"{error}; run the preprocessor again"
                    ) from error
                continue
            entropy = np.random.SeedSequence([self.seed, draw, TRIES])
            return {
                **sample,
                "seed": int(entropy.generate_state(1, np.uint64)[0] >> 1),
                "clip": clip.number,
                "key": clip.key,
                "skipped": skipped,
            }

    def _make(self, clip: Clip, rng: np.random.Generator) -> dict[str, Any]:
        raise NotImplementedError

    def _chosen(self, draw: int, attempt: int) -> int:
        count = len(self.usable)
        if attempt:
            rng = np.random.default_rng([self.seed, draw, attempt, count])
            return int(self.usable[rng.integers(count)])
        number, place = divmod(draw, count)
        if self._round is None or self._round[0] != number:
            rng = np.random.default_rng([self.seed, number])
            self._round = number, rng.permutation(self.usable)
        return int(self._round[1][place])

    def _count(self, clip: Clip, reason: str) -> None:
        import torch

        worker = torch.utils.data.get_worker_info()
        self._bad[0 if worker is None else 1 + worker.id % WORKERS] += 1
        if not self._told[clip.number]:
            self._told[clip.number] = 1
            log.warning("%s is skipped: %s", clip, reason)


class Windows(_Drawn):
    """Pictures of a clip with reference pictures and what is heard meanwhile.

    Sample ``i`` (``R`` is ``resolution``):

    - ``crops (T, 3, R, R)``, ``reference (T, 3, R, R)`` float32 -1..1
    - ``audio (T, 10 * L, D)`` float32, with "audio" in ``gives``: Whisper's tokens around each frame,
      as inference cuts them
    - ``mel (1, 80, N)`` float32, with "mel": the sync spectrogram of the window, 52 columns of 16 frames
    - without ``pictures``: no ``crops``, no ``reference``, and nothing is decoded
    - any other word of ``gives``: the stored rows of these frames, float32
    - ``frames (T,)``, ``reference_frames (T,)`` int64; ``clip``, ``seed``, ``skipped`` int; ``key``
    """

    def __init__(
        self,
        clips: Clips,
        *,
        sampling: str = "contiguous-16",
        resolution: int = 256,
        seed: int = 0,
        gives: Sequence[str] = ("audio", "mel"),
        pictures: bool = True,
        max_bad: int = 1000,
    ) -> None:
        self.pictures = pictures
        self.sampling = samplings.named(sampling)
        self.resolution = resolution
        self.gives = tuple(gives)
        super().__init__(
            clips,
            least=self.sampling.min_frames,
            what=f"sampling {sampling}",
            seed=seed,
            max_bad=max_bad,
        )

    def _make(self, clip: Clip, rng: np.random.Generator) -> dict[str, Any]:
        import torch

        pick = self.sampling.pick(clip, rng)
        sample: dict[str, Any] = {
            "frames": torch.from_numpy(pick.frames),
            "reference_frames": torch.from_numpy(pick.reference),
        }
        # Pictures last: they cost most, and what else is missing is known by then.
        for name in self.gives:
            sample[name] = torch.from_numpy(self._given(name, clip, pick.frames))
        if self.pictures:
            both = clip.crops([*pick.frames, *pick.reference], self.resolution)
            sample["crops"], sample["reference"] = to_pictures(both).split(len(pick.frames))
        return sample

    def _given(self, name: str, clip: Clip, frames: np.ndarray) -> np.ndarray:
        if name == "audio":
            return tokens(clip, frames)
        if name == "mel":
            return mel_window(clip, int(frames[0]), columns(len(frames)))
        rows = clip.rows(name, slice(int(frames[0]), int(frames[-1]) + 1))
        if rows is None:
            raise BadClip(f"it has no {name}")
        return _checked(name, rows, len(frames)).astype(np.float32)


class Pairs(_Drawn):
    """Pictures and sound that belong together, or do not: what SyncNet learns from.

    Sample ``i``: ``crops (T, 3, R, R)`` float32 -1..1, ``mel (1, 80, N)`` float32 (52 columns of 16
    frames, 80 of 25), ``together`` 1.0 or 0.0; ``frames (T,)`` and ``heard``, the first frame of
    the sound; ``clip``, ``other`` (number of the clip that is heard), ``seed``, ``skipped``, ``key``.
    """

    def __init__(
        self,
        clips: Clips,
        *,
        frames: int = 16,
        resolution: int = 256,
        seed: int = 0,
        pairs: PairsConfig | None = None,
        max_bad: int = 1000,
    ) -> None:
        self.frames = frames
        self.resolution = resolution
        self.pairs = pairs or PairsConfig()
        if self.pairs.min_shift < 1:
            raise SettingsError(f"pairs.min_shift is {self.pairs.min_shift}; it is 1 or more")
        least = frames + self.pairs.min_shift
        super().__init__(clips, least=least, what="a pair", seed=seed, max_bad=max_bad)
        if self.pairs.other_clips > 0 and len(self.usable) < 2:
            raise DataError("pairs.other_clips needs two clips, there is one; set it to 0")

    def _make(self, clip: Clip, rng: np.random.Generator) -> dict[str, Any]:
        import torch

        last = clip.frame_count - self.frames
        shift = self.pairs.min_shift
        together = rng.random() < self.pairs.positive
        start = heard = int(rng.integers(last + 1))
        other = clip
        if not together:
            if rng.random() < self.pairs.other_clips:
                place = int(rng.integers(len(self.usable) - 1))
                own = int(np.searchsorted(self.usable, clip.number))
                other = self.clips[int(self.usable[place + (place >= own)])]
                heard = int(rng.integers(other.frame_count - self.frames + 1))
            else:
                # In a short clip not every window has another that is far enough away.
                first = np.arange(last + 1)
                first = first[(first >= shift) | (first + shift <= last)]
                start = int(rng.choice(first))
                away = np.arange(last + 1)
                heard = int(rng.choice(away[np.abs(away - start) >= shift]))
        frames = start + np.arange(self.frames)
        return {
            "crops": to_pictures(clip.crops(frames.tolist(), self.resolution)),
            "mel": torch.from_numpy(mel_window(other, heard, columns(self.frames))),
            "together": float(together),
            "frames": torch.from_numpy(frames),
            "heard": heard,
            "other": other.number,
        }


@dataclass
class Draws:
    """Numbers of the samples of each batch of one rank, without end; for ``batch_sampler``.

    The ``k``-th batch of rank ``r`` is the draws ``(k * world + r) * batch`` and on: all ranks
    together walk through 0, 1, 2, …, and to resume is to begin at another ``k``.
    """

    batch: int
    rank: int = 0
    world: int = 1
    start: int = 0
    """Number of the first batch."""
    end: int | None = None
    """Number of the batch before which to stop."""

    def __iter__(self) -> Iterator[list[int]]:
        number = self.start
        while self.end is None or number < self.end:
            first = (number * self.world + self.rank) * self.batch
            yield list(range(first, first + self.batch))
            number += 1


def columns(frame_count: int) -> int:
    """Columns of the sync spectrogram under so many frames: 52 for 16, 80 for 25, 16 for 5."""
    return -(-frame_count * sync_mel.COLUMNS_PER_SECOND // FPS)


def mel_start(frame: int) -> int:
    """Column at which the sound of this frame begins."""
    return frame * sync_mel.COLUMNS_PER_SECOND // FPS


def mel_window(clip: Clip, frame: int, width: int) -> np.ndarray:
    """``(1, 80, width)`` float32 -4..4 from the beginning of ``frame``."""
    mel = clip.stored("mel")
    if mel is None:
        raise BadClip("it has no mel")
    start = mel_start(frame)
    if mel.ndim != 2 or mel.shape[0] != sync_mel.BANDS or mel.shape[1] < start + width:
        raise BadClip(
            f"its mel is {mel.shape}, where frame {frame} needs columns up to {start + width}"
        )
    cut = mel[None, :, start : start + width].astype(np.float32)
    if not np.isfinite(cut).all():
        raise BadClip("its mel holds values that are no numbers")
    return np.ascontiguousarray(cut)


def tokens(clip: Clip, frames: np.ndarray, name: str = "whisper") -> np.ndarray:
    """``(T, 10 * L, D)`` float32 around each frame, cut by the rule of inference."""
    shape = clip.shape(name)
    if shape is None:
        raise BadClip(f"it has no {name}; run: python -m trainer.hear FOLDER")
    if len(shape) != 3 or shape[0] < 1:
        raise BadClip(f"its {name} is {shape}, expected (steps, layers, width)")
    wanted = 2 * clip.frame_count
    if abs(shape[0] - wanted) > 2:
        raise BadClip(f"its {name} has {shape[0]} steps, {clip.frame_count} frames have {wanted}")
    steps = window_steps([Fraction(int(frame), FPS) for frame in frames], shape[0])
    first = int(steps.min())
    rows = clip.rows(name, slice(first, int(steps.max()) + 1))
    assert rows is not None
    cut = rows[steps - first].reshape(len(frames), -1, shape[2]).astype(np.float32)
    if not np.isfinite(cut).all():
        raise BadClip(f"its {name} holds values that are no numbers")
    return cut


def to_pictures(crops: np.ndarray) -> Any:
    """``(T, 3, R, R)`` float32 -1..1, a torch tensor, of ``(T, R, R, 3)`` uint8."""
    import torch

    # Moved as bytes, which is a quarter of the work.
    return torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1)


def _checked(name: str, rows: np.ndarray, count: int) -> np.ndarray:
    """``rows`` if there is one for every frame and all are numbers."""
    if len(rows) != count:
        raise BadClip(f"its {name} ends before its pictures do")
    if not np.isfinite(rows).all():
        raise BadClip(f"its {name} holds values that are no numbers")
    return rows


_quiet: int | None = None


def _one_thread_in_workers() -> None:
    """OpenCV's threads do not outlive a fork, and loading processes are as many as there are cores."""
    global _quiet
    if _quiet == os.getpid():
        return
    import torch

    if torch.utils.data.get_worker_info() is not None:
        import cv2

        cv2.setNumThreads(0)
    _quiet = os.getpid()


__all__ = [
    "BadClip",
    "Clip",
    "Clips",
    "DataError",
    "Draws",
    "Pairs",
    "Windows",
    "columns",
    "mel_start",
    "mel_window",
    "split",
    "to_pictures",
    "tokens",
]
