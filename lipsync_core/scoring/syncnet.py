"""Runs SyncNet over a clip in a stream: crops and sound in, distances over all shifts out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ..audio.mfcc import RATE, mfcc_rows, to_integers
from ..errors import EngineError
from ..faces.smooth import spans
from ..types import Progress
from .crops import Crops, Protocol
from .distance import MAX_SHIFT, pair_distances

if TYPE_CHECKING:
    from ..models.syncnet_v2 import SyncNetV2
    from ..types import FaceTrack, Voice
    from .motion import Watched

FPS = 25
"""SyncNet knows nothing else; other frame rates are shown at 25 by taking the frame of the moment."""
WEIGHTS = "syncnet-v2"
"""The catalogue's row."""
_WINDOW_FRAMES = 5
_WINDOW_ROWS = 20
_ROWS_PER_FRAME = 4
_SAMPLES_PER_FRAME = RATE // FPS
_BATCH = 20
"""Windows that go through the network at once."""


@dataclass(frozen=True, kw_only=True)
class Distances:
    """Every window of a clip against all shifts."""

    table: np.ndarray
    """``(N, 31)`` float32; see :mod:`.distance`."""
    frames: np.ndarray
    """``(N,)``: first frame of each window, at 25 frames a second from the first picture."""
    lengths: list[int]
    """Windows of each stretch."""


def missing() -> str | None:
    """None when SyncNet can run here; else one line saying what is absent and how to get it."""
    from importlib.util import find_spec

    from ..weights.files import absent

    if find_spec("torch") is None:
        return 'torch is not installed; run: pip install "lipsync-core[diffusion]"'
    return absent(WEIGHTS)


def load(device: str = "cpu") -> SyncNetV2:
    """The network with its published weights on ``device``."""
    from ..models import syncnet_v2
    from ..weights import files, tensors

    if (reason := missing()) is not None:
        raise EngineError(f"scoring engine syncnet_v2 is not ready: {reason}")
    path = files.find(WEIGHTS)
    assert path is not None
    state = tensors.read_tensors(path)
    try:
        return syncnet_v2.load(state).to(device)
    except RuntimeError as error:
        raise EngineError(
            f"{path} is not SyncNet v2 ({str(error).splitlines()[0]}); "
            f"run: lipsync models download {WEIGHTS}"
        ) from error


def measure(
    network: SyncNetV2,
    watched: Watched,
    track: FaceTrack,
    voice: Voice,
    *,
    voice_at_start: Fraction,
    protocol: Protocol = "original",
    progress: Progress | None = None,
) -> Distances:
    """Looks at the clip a second time, with SyncNet.

    ``voice_at_start``: second of ``voice`` that is heard at the first picture, may be negative.
    A face that goes away and comes back, and a cut, begin a new stretch, as in the original.
    """
    from ..media.reader import Reader

    shown = np.arange(int(watched.duration * FPS + 1e-6))
    # The frame on show at each moment; half a tick of slack for times that were rounded.
    sources = np.searchsorted(watched.times, shown / FPS + 1e-4, side="right") - 1
    rows = np.concatenate(
        [np.zeros((0, 13), np.float32)]
        + [part.astype(np.float32) for part in mfcc_rows(_from(voice, voice_at_start))]
    )
    sounding = int((voice.duration - voice_at_start) * RATE)
    stretches = []
    present = track.present[sources]
    for first, end in spans(present):
        cuts = np.flatnonzero(np.diff(track.shots[sources[first:end]])) + 1 + first
        edges = [first, *cuts.tolist(), end]
        for start, stop in pairwise(edges):
            heard = (sounding - start * _SAMPLES_PER_FRAME) // _SAMPLES_PER_FRAME
            # One window fewer than fits, as the original counts.
            count = min(stop - start, heard) - _WINDOW_FRAMES
            if count >= 1:
                stretches.append((start, count))
    table, frames, lengths = [], [], []
    total = sum(count for _, count in stretches)
    done = 0
    sar = float(watched.clip.sar)
    reader = Reader(
        watched.clip.path, start=watched.start or None, end=watched.start + _after(watched)
    )
    for start, count in stretches:
        span = np.arange(start, start + count + _WINDOW_FRAMES - 1)
        crops = Crops(track, sources[span], protocol=protocol, sar=sar)
        pictures = reader.follow(sources[span].tolist())
        images = (crops.cut(picture, number) for number, picture in enumerate(pictures))
        for part in _judge(network, images, rows[start * _ROWS_PER_FRAME :], count):
            table.append(part)
            done += len(part)
            if progress is not None:
                progress(done, total)
        frames.append(start + np.arange(count))
        lengths.append(count)
    span = 2 * MAX_SHIFT + 1
    return Distances(
        table=np.concatenate(table) if table else np.zeros((0, span), np.float32),
        frames=np.concatenate(frames) if frames else np.zeros(0, int),
        lengths=lengths,
    )


def _after(watched: Watched) -> Fraction:
    """A moment shortly after the last frame, so that the same frames are read again."""
    return Fraction(watched.times[-1]).limit_denominator(10**6) + Fraction(1, 1000)


def _judge(
    network: SyncNetV2, images: Iterable[np.ndarray], rows: np.ndarray, count: int
) -> Iterator[np.ndarray]:
    """Distances of ``count`` windows of one stretch, a batch at a time."""
    import torch

    device = next(network.parameters()).device
    waiting: list[np.ndarray] = []
    sound = np.zeros((0, 0), np.float32)
    sound_first = sound_end = 0
    first = 0
    for image in images:
        waiting.append(image[..., ::-1])
        size = min(_BATCH, count - first)
        if len(waiting) < size + _WINDOW_FRAMES - 1:
            continue
        crops = np.stack(waiting).astype(np.float32)
        with torch.no_grad():
            tensor = torch.from_numpy(crops).permute(3, 0, 1, 2)[None].to(device)
            lips = network.look(tensor).cpu().numpy()
            wanted = min(first + size + MAX_SHIFT, count)
            if wanted > sound_end:
                fresh = _hear(network, rows, sound_end, wanted, device)
                keep = max(first - MAX_SHIFT - sound_first, 0)
                sound = np.concatenate([sound[keep:], fresh]) if sound_end else fresh
                sound_first, sound_end = sound_first + keep, wanted
        around = np.zeros((size + 2 * MAX_SHIFT, lips.shape[1]), np.float32)
        low, high = max(first - MAX_SHIFT, 0), min(first + size + MAX_SHIFT, count)
        offset = low - (first - MAX_SHIFT)
        around[offset : offset + high - low] = sound[low - sound_first : high - sound_first]
        yield pair_distances(lips, around, first=first, count=count)
        first += size
        waiting = waiting[size:]
        if first >= count:
            return


def _hear(network: SyncNetV2, rows: np.ndarray, first: int, end: int, device: Any) -> np.ndarray:
    import torch

    place = np.arange(first, end)[:, None] * _ROWS_PER_FRAME + np.arange(_WINDOW_ROWS)
    windows = rows[np.minimum(place, len(rows) - 1)].transpose(0, 2, 1)[:, None]
    tensor = torch.from_numpy(np.ascontiguousarray(windows)).to(device)
    return network.hear(tensor).cpu().numpy()


def _from(voice: Voice, start: Fraction) -> Iterator[np.ndarray]:
    """The voice as int16 values from second ``start`` on; silence before its beginning."""
    skip = round(start * RATE)
    if skip < 0:
        yield np.zeros(-skip, np.int16)
    for block in voice.blocks(RATE):
        drop = min(max(skip, 0), len(block))
        skip -= drop
        if drop < len(block):
            yield to_integers(block[drop:])
