"""Finds by how much sound and lips are apart, and puts it right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import EngineError, MediaError
from .step import FPS, RATE, SAMPLES_PER_FRAME, Book, Clip, Step

if TYPE_CHECKING:
    from .config import Config
    from .setup import Setup


class AvSync(Step):
    """SyncNet v2 where its weights are, else the embedded estimate from lip speed."""

    name = "av_sync"
    takes = "clip"
    gives = "clip"

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        if setup.sync_engine == "syncnet_v2":
            from ..scoring.engines import SYNCNET_V2

            if (reason := SYNCNET_V2.missing()) is not None:
                raise EngineError(f"av_sync.engine is 'syncnet_v2', but {reason}")

    def run(self, sample: Clip, book: Book) -> Iterator[Clip]:
        if self.setup.sync_engine == "syncnet_v2":
            metrics = self._by_syncnet(sample)
        else:
            metrics = by_lip_speed(sample)
        result = book.judge(self, sample, metrics)
        if result is not None:
            # Moved by whole frames: finer steps are below what either engine can tell.
            offset = metrics.get("offset_frames") or 0
            shift = -offset * SAMPLES_PER_FRAME
            if abs(shift) > sample.margin or self.judge(metrics, self.config):
                shift = 0
            yield replace(result, shift=shift)

    @staticmethod
    def judge(metrics: Mapping[str, Any], config: Config) -> str:
        limits = config.av_sync
        confidence = metrics.get("sync_confidence")
        if confidence is None:
            return metrics.get("sync_note") or "no voice"
        syncnet = metrics["sync_engine"] == "syncnet_v2"
        least = limits.min_confidence if syncnet else limits.min_certainty
        if confidence < least:
            return f"lips and voice: confidence {confidence:.2f}, at least {least:g} is needed"
        offset = metrics["offset_frames"]
        if abs(offset) > limits.max_offset:
            return f"sound and lips are {abs(offset)} frames apart, at most {limits.max_offset}"
        return ""

    def _by_syncnet(self, clip: Clip) -> dict[str, Any]:
        import torch

        from ..audio.mfcc import mfcc_rows, to_integers
        from ..models.syncnet_v2 import FRAMES, ROWS
        from ..scoring.distance import MAX_SHIFT, pair_distances, shift_curve

        assert clip.faces is not None
        network, device = self.setup.syncnet, self.setup.device
        begin = clip.margin
        own = clip.sound[begin : begin + clip.frame_count * SAMPLES_PER_FRAME]
        rows = np.concatenate(list(mfcc_rows([to_integers(own)]))).astype(np.float32)
        # One window fewer than fits, as the original counts.
        count = clip.frame_count - FRAMES
        step = RATE // 160 // FPS
        place = np.arange(count)[:, None] * step + np.arange(ROWS)
        windows = rows[np.minimum(place, len(rows) - 1)].transpose(0, 2, 1)[:, None]
        lips, sound = [], []
        with torch.no_grad():
            for at in range(0, count, 20):
                size = min(20, count - at)
                crops = clip.faces[at : at + size + FRAMES - 1, ..., ::-1].astype(np.float32)
                tensor = torch.from_numpy(crops).permute(3, 0, 1, 2)[None].to(device)
                lips.append(network.look(tensor).cpu().numpy())
                heard = torch.from_numpy(np.ascontiguousarray(windows[at : at + size]))
                sound.append(network.hear(heard.to(device)).cpu().numpy())
        around = np.pad(np.concatenate(sound), ((MAX_SHIFT, MAX_SHIFT), (0, 0)))
        table = pair_distances(np.concatenate(lips), around, count=count)
        curve = shift_curve(table)
        return {
            "sync_engine": "syncnet_v2",
            "sync_confidence": round(curve.lse_c, 4),
            "sync_distance": round(curve.lse_d, 4),
            "offset_frames": curve.offset_frames,
        }


def by_lip_speed(clip: Clip) -> dict[str, Any]:
    """The embedded estimate: confidence 0..1, offset in frames with SyncNet's sign."""
    from ..media.audio import MemoryVoice
    from ..scoring import embedded
    from ..types import Audio

    metrics: dict[str, Any] = {
        "sync_engine": "embedded",
        "sync_confidence": None,
        "offset_frames": None,
    }
    if clip.motion is None or not clip.motion.seen.any():
        return {**metrics, "sync_note": "the mouth was never seen well enough"}
    try:
        voice = MemoryVoice(Audio(samples=clip.sound[None], rate=RATE))
    except MediaError:
        return {**metrics, "sync_note": "the sound is silent"}
    times = clip.margin / RATE + np.arange(clip.frame_count) / FPS
    match = embedded.match(clip.motion, times, embedded.hear(voice))
    metrics |= {"speech_seconds": round(match.seconds, 2), "late_ms": round(match.late_ms, 1)}
    if match.seconds < embedded.LEAST_SECONDS:
        return {**metrics, "sync_note": f"only {match.seconds:.1f} s of speech"}
    return {
        **metrics,
        "sync_confidence": round(match.confidence, 4),
        "offset_frames": -round(match.late_ms * FPS / 1000),
    }
