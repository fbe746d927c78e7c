"""What training would compute again and again, computed once: stored beside each clip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..audio.sync_mel import mel
from .step import RATE, Clip


def tensors(clip: Clip, whisper: Any | None, device: str) -> dict[str, np.ndarray]:
    """Everything that is stored of a clip, by name.

    ``points (T, 5, 2)``, ``boxes (T, 4)``, ``matrices (T, 2, 3)``, ``times (T,)``: where the face
    was in the source. ``sound (S,)`` int16 at 16 kHz, in sync, without loss. ``mel (80, N)``: 80
    columns a second. ``whisper (W, L, D)`` float16: 50 steps a second, all layers; with an encoder.
    """
    sound = clip.heard()
    stored = {
        "points": clip.points.astype(np.float32),
        "boxes": clip.boxes.astype(np.float32),
        "matrices": clip.matrices.astype(np.float32),
        "times": clip.times.astype(np.float64),
        "sound": np.clip(np.rint(sound * 32768), -32768, 32767).astype(np.int16),
        "mel": mel(sound),
    }
    if whisper is not None:
        stored["whisper"] = states(sound, whisper, device)
    return {name: np.ascontiguousarray(values) for name, values in stored.items()}


def write(path: Path, stored: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
    """One safetensors file; ``facts`` go into its header as JSON under ``lipsync``."""
    from safetensors.numpy import save

    # Not `save_file`: that leaves files that only their owner can read.
    path.write_bytes(save(stored, metadata={"lipsync": json.dumps(facts)}))


def states(sound: np.ndarray, encoder: Any, device: str) -> np.ndarray:
    """``(W, L, D)`` float16: what Whisper's ``encoder`` makes of ``(S,)`` at 16 kHz, 50 steps a second."""
    from ..audio.whisper import Features
    from ..media.audio import MemoryVoice
    from ..types import Audio

    # An inaudible tick, because a voice in memory refuses silence and a kept clip may have it.
    audible = sound if np.abs(sound).max() > 1e-3 else sound + 1e-3 * (np.arange(len(sound)) == 0)
    voice = MemoryVoice(Audio(samples=audible[None].astype(np.float32), rate=RATE))
    features = Features(voice, encoder, device=device)
    rows = features.rows(np.arange(features.step_count))
    return rows.to("cpu").numpy().astype(np.float16)
