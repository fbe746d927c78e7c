"""Runs a published judge over a clip in a stream: crops and sound in, distances over all shifts out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ..audio import mfcc, sync_mel
from ..errors import EngineError
from ..faces import align
from ..faces.smooth import spans
from ..faces.templates import Template
from ..types import Progress
from .crops import BoxCrops, Crops, Protocol
from .distance import MAX_SHIFT, pair_distances
from .engines import STABLE_SYNCNET, SYNCNET_V2, WAV2LIP_EXPERT, Scorer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..types import FaceTrack, Picture, Voice
    from .motion import Watched

FPS = 25
"""The judges know nothing else; other frame rates are shown at 25 by taking the frame of the moment."""
RATE = mfcc.RATE
_SAMPLES_PER_FRAME = RATE // FPS


@dataclass(frozen=True, kw_only=True)
class Distances:
    """Every window of a clip against all shifts."""

    table: np.ndarray
    """``(N, 31)`` float32; see :mod:`.distance`."""
    frames: np.ndarray
    """``(N,)``: first frame of each window, at 25 frames a second from the first picture."""
    counts: list[int]
    """Windows of sound, one a frame, in each stretch."""


class Judge(ABC):
    """One network with its own view of face and sound."""

    row: Scorer

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    @abstractmethod
    def crops(self, track: FaceTrack, frames: np.ndarray, protocol: Protocol, sar: float) -> Any:
        """What cuts the crops of ``frames``, a stretch of one person: an object with ``cut``."""

    @abstractmethod
    def listen(self, blocks: Iterable[np.ndarray]) -> np.ndarray:
        """``(N, C)`` float32 feature rows of sound at 16 kHz, in -1..1."""

    @abstractmethod
    def look(self, crops: np.ndarray) -> Tensor:
        """``(T, h, w, 3)`` uint8 RGB crops to one embedding for each window of ``row.frames``."""

    @abstractmethod
    def hear(self, rows: np.ndarray, frames: np.ndarray) -> Tensor:
        """Embeddings of the sound that begins with each of ``frames``; silence past its end."""

    def _tensor(self, values: np.ndarray) -> Tensor:
        import torch

        device = next(self.network.parameters()).device
        return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(device)


class _SyncNetV2(Judge):
    row = SYNCNET_V2

    def crops(self, track: FaceTrack, frames: np.ndarray, protocol: Protocol, sar: float) -> Crops:
        return Crops(track, frames, protocol=protocol, sar=sar)

    def listen(self, blocks: Iterable[np.ndarray]) -> np.ndarray:
        parts = mfcc.mfcc_rows(mfcc.to_integers(block) for block in blocks)
        return _joined(parts, mfcc.COEFFICIENTS)

    def look(self, crops: np.ndarray) -> Tensor:
        # A run of frames goes through at once, see the network.
        return self.network.look(self._tensor(crops[..., ::-1]).permute(3, 0, 1, 2)[None])  # pyright: ignore[reportCallIssue]

    def hear(self, rows: np.ndarray, frames: np.ndarray) -> Tensor:
        from ..models.syncnet_v2 import ROWS

        place = frames[:, None] * (mfcc.ROWS_PER_SECOND // FPS) + np.arange(ROWS)
        windows = rows[np.minimum(place, len(rows) - 1)].transpose(0, 2, 1)[:, None]
        return self.network.hear(self._tensor(windows))  # pyright: ignore[reportCallIssue]


class _Columns(Judge):
    """What judges by spectrogram columns have in common."""

    columns: int

    def listen(self, blocks: Iterable[np.ndarray]) -> np.ndarray:
        return _joined(sync_mel.mel_columns(blocks), sync_mel.BANDS)

    def spectra(self, rows: np.ndarray, frames: np.ndarray) -> Tensor:
        """``(N, 1, 80, columns)``."""
        # The originals cut the beginning of a window down to a whole column.
        place = (frames * sync_mel.COLUMNS_PER_SECOND // FPS)[:, None] + np.arange(self.columns)
        windows = rows[np.minimum(place, len(rows) - 1)]
        windows = np.where((place < len(rows))[..., None], windows, sync_mel.SILENCE)
        return self._tensor(windows.transpose(0, 2, 1)[:, None])

    def windows(self, crops: np.ndarray) -> np.ndarray:
        """``(N, T, h, w, 3)``."""
        first = np.arange(0, len(crops) - self.row.frames + 1, self.row.every)
        return crops[first[:, None] + np.arange(self.row.frames)]


class _StableSyncNet(_Columns):
    row = STABLE_SYNCNET
    columns = 52

    def crops(
        self, track: FaceTrack, frames: np.ndarray, protocol: Protocol, sar: float
    ) -> _Upright:
        from ..engines.latentsync import RELEASES

        release = RELEASES[-1]
        template = Template(
            size=256,
            eyes=(0.5, release.eyes),
            mouth=(0.5, release.mouth),
            stretch=release.stretch,
        )
        return _Upright(align.fit(track.points, template, sar)[frames], template.size)

    def look(self, crops: np.ndarray) -> Tensor:
        # The lower halves, sixteen RGB frames one after the other on the channels.
        lower = self.windows(crops[:, crops.shape[1] // 2 :]).transpose(0, 1, 4, 2, 3)
        pictures = (self._tensor(lower) / 127.5 - 1.0).flatten(1, 2)
        return self.network.visual_encoder(pictures)  # pyright: ignore[reportCallIssue]

    def hear(self, rows: np.ndarray, frames: np.ndarray) -> Tensor:
        return self.network.audio_encoder(self.spectra(rows, frames))  # pyright: ignore[reportCallIssue]


class _Wav2LipExpert(_Columns):
    row = WAV2LIP_EXPERT
    columns = 16

    def crops(
        self, track: FaceTrack, frames: np.ndarray, protocol: Protocol, sar: float
    ) -> BoxCrops:
        return BoxCrops(track, frames, size=96)

    def look(self, crops: np.ndarray) -> Tensor:
        half = crops.shape[1] // 2
        # Five BGR frames, one after the other on the channels.
        lower = self.windows(crops[:, half:, :, ::-1]).transpose(0, 1, 4, 2, 3)
        return self.network.look(self._tensor(lower / 255.0).flatten(1, 2))  # pyright: ignore[reportCallIssue]

    def hear(self, rows: np.ndarray, frames: np.ndarray) -> Tensor:
        return self.network.hear(self.spectra(rows, frames))  # pyright: ignore[reportCallIssue]


class _Upright:
    """Aligned crops by matrices that were fitted before."""

    def __init__(self, matrices: np.ndarray, size: int) -> None:
        self._matrices = matrices
        self._size = size

    def cut(self, picture: Picture, number: int) -> np.ndarray:
        return align.cut(picture, self._matrices[number], self._size)


_JUDGES: dict[str, type[Judge]] = {
    kind.row.name: kind for kind in (_SyncNetV2, _StableSyncNet, _Wav2LipExpert)
}


def judge_of(name: str, network: nn.Module) -> Judge:
    """The judge called ``name`` around a network that is on its device."""
    return _JUDGES[name](network)


def build(name: str, state: dict[str, Tensor]) -> nn.Module:
    """The network of row ``name`` with ``state``; RuntimeError or KeyError for other tensors."""
    from ..models import syncnet, syncnet_v2, wav2lip_syncnet
    from ..weights.tensors import identify

    # Converted files are in half precision, which processors do not compute in.
    if name == SYNCNET_V2.name:
        return syncnet_v2.load(state).float()
    if name == WAV2LIP_EXPERT.name:
        return wav2lip_syncnet.load(state).float()
    kind = identify({key: tuple(value.shape) for key, value in state.items()})
    if kind is None or kind.name not in ("syncnet-16-pixel-attn", "syncnet-16-pixel"):
        raise KeyError(f"it holds {kind.title if kind else 'tensors that no known network has'}")
    import torch

    with torch.device("meta"):
        network = syncnet.StableSyncNet(syncnet.BY_KIND[kind.name])
    network.load_state_dict(state, assign=True)
    return network.float().train(False).requires_grad_(False)


def measure(
    judge: Judge,
    watched: Watched,
    track: FaceTrack,
    voice: Voice,
    *,
    voice_at_start: Fraction,
    protocol: Protocol = "original",
    progress: Progress | None = None,
) -> Distances:
    """Looks at the clip a second time, with a judge.

    ``voice_at_start``: second of ``voice`` that is heard at the first picture, may be negative.
    A face that goes away and comes back, and a cut, begin a new stretch, as in the original.
    """
    from ..media.reader import Reader

    row = judge.row
    shown = np.arange(int(watched.duration * FPS + 1e-6))
    # The frame on show at each moment; half a tick of slack for times that were rounded.
    sources = np.searchsorted(watched.times, shown / FPS + 1e-4, side="right") - 1
    rows = judge.listen(_from(voice, voice_at_start))
    sounding = int((voice.duration - voice_at_start) * RATE)
    stretches = []
    present = track.present[sources]
    for first, end in spans(present):
        cuts = np.flatnonzero(np.diff(track.shots[sources[first:end]])) + 1 + first
        edges = [first, *cuts.tolist(), end]
        for start, stop in pairwise(edges):
            heard = (sounding - start * _SAMPLES_PER_FRAME) // _SAMPLES_PER_FRAME
            # One window fewer than fits, as the original counts.
            count = min(stop - start, heard) - row.frames
            if count >= 1:
                stretches.append((start, count))
    table, frames, counts = [], [], []
    total = sum(_windows(count, row.every) for _, count in stretches)
    done = 0
    sar = float(watched.clip.sar)
    reader = Reader(
        watched.clip.path, start=watched.start or None, end=watched.start + _after(watched)
    )
    for start, count in stretches:
        span = np.arange(start, start + count + row.frames - 1)
        crops = judge.crops(track, sources[span], protocol, sar)
        pictures = reader.follow(sources[span].tolist())
        images = (crops.cut(picture, number) for number, picture in enumerate(pictures))
        for part in _judged(judge, images, rows, start, count):
            table.append(part)
            done += len(part)
            if progress is not None:
                progress(done, total)
        frames.append(start + np.arange(0, count, row.every))
        counts.append(count)
    span = 2 * MAX_SHIFT + 1
    return Distances(
        table=np.concatenate(table) if table else np.zeros((0, span), np.float32),
        frames=np.concatenate(frames) if frames else np.zeros(0, int),
        counts=counts,
    )


def _windows(count: int, every: int) -> int:
    return (count - 1) // every + 1


def _after(watched: Watched) -> Fraction:
    """A moment shortly after the last frame, so that the same frames are read again."""
    return Fraction(watched.times[-1]).limit_denominator(10**6) + Fraction(1, 1000)


def _judged(
    judge: Judge, images: Iterable[np.ndarray], rows: np.ndarray, start: int, count: int
) -> Iterator[np.ndarray]:
    """Distances of the windows of one stretch, which begins at frame ``start``, a batch at a time."""
    import torch

    row = judge.row
    waiting: list[np.ndarray] = []
    sound = np.zeros((0, 0), np.float32)
    sound_first = sound_end = 0
    window, total = 0, _windows(count, row.every)
    for image in images:
        waiting.append(image)
        size = min(row.batch, total - window)
        last = (size - 1) * row.every
        if len(waiting) < last + row.frames:
            continue
        first = window * row.every
        with torch.no_grad():
            crops = np.stack(waiting[: last + row.frames])
            lips = judge.look(crops).float().cpu().numpy()
            wanted = min(first + last + 1 + MAX_SHIFT, count)
            if wanted > sound_end:
                fresh = np.concatenate(
                    [
                        judge.hear(rows, start + np.arange(at, min(at + 64, wanted)))
                        .float()
                        .cpu()
                        .numpy()
                        for at in range(sound_end, wanted, 64)
                    ]
                )
                keep = max(first - MAX_SHIFT - sound_first, 0)
                sound = np.concatenate([sound[keep:], fresh]) if sound_end else fresh
                sound_first, sound_end = sound_first + keep, wanted
        around = np.zeros((last + 1 + 2 * MAX_SHIFT, lips.shape[1]), np.float32)
        low, high = max(first - MAX_SHIFT, 0), min(first + last + 1 + MAX_SHIFT, count)
        offset = low - (first - MAX_SHIFT)
        around[offset : offset + high - low] = sound[low - sound_first : high - sound_first]
        yield pair_distances(
            lips, around, first=first, count=count, every=row.every, is_cosine=row.is_cosine
        )
        window += size
        waiting = waiting[size * row.every :]
        if window >= total:
            return


def _joined(parts: Iterable[np.ndarray], width: int) -> np.ndarray:
    """At least one row, so that a place past the end of the sound is a row as well."""
    rows = np.concatenate(
        [np.zeros((0, width), np.float32), *(part.astype(np.float32) for part in parts)]
    )
    return rows if len(rows) else np.zeros((1, width), np.float32)


def _from(voice: Voice, start: Fraction) -> Iterator[np.ndarray]:
    """The voice at 16 kHz from second ``start`` on; silence before its beginning."""
    skip = round(start * RATE)
    if skip < 0:
        yield np.zeros(-skip, np.float32)
    for block in voice.blocks(RATE):
        drop = min(max(skip, 0), len(block))
        skip -= drop
        if drop < len(block):
            yield block[drop:]


def require(name: str, network: object) -> None:
    """Refuses a network that is not that of row ``name``."""
    from ..models import syncnet, syncnet_v2, wav2lip_syncnet

    kinds = {
        SYNCNET_V2.name: syncnet_v2.SyncNetV2,
        STABLE_SYNCNET.name: syncnet.StableSyncNet,
        WAV2LIP_EXPERT.name: wav2lip_syncnet.Wav2LipSyncNet,
    }
    if not isinstance(network, kinds[name]):
        raise EngineError(f"scoring engine {name} was given a {type(network).__name__}")
