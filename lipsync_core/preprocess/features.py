"""What training would compute again and again, computed once: stored beside each clip."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .step import RATE, Clip

MEL_FFT = 800
MEL_HOP = 200
MEL_BANDS = 80
MEL_LOWEST, MEL_HIGHEST = 55.0, 7600.0
MEL_EMPHASIS = 0.97
"""Wav2Lip's spectrogram, which its discriminator and LatentSync's StableSyncNet were trained on."""


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
        stored["whisper"] = _whisper(sound, whisper, device)
    return {name: np.ascontiguousarray(values) for name, values in stored.items()}


def write(path: Path, stored: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
    """One safetensors file; ``facts`` go into its header as JSON under ``lipsync``."""
    from safetensors.numpy import save

    # Not `save_file`: that leaves files that only their owner can read.
    path.write_bytes(save(stored, metadata={"lipsync": json.dumps(facts)}))


def mel(sound: np.ndarray) -> np.ndarray:
    """``(80, S // 200 + 1)`` float32 -4..4 of ``(S,)`` at 16 kHz."""
    emphasised = np.append(sound[:1], sound[1:] - MEL_EMPHASIS * sound[:-1])
    padded = np.pad(emphasised, MEL_FFT // 2)
    place = np.arange(len(sound) // MEL_HOP + 1)[:, None] * MEL_HOP + np.arange(MEL_FFT)
    # A periodic Hann window, as librosa takes one for spectra.
    window = np.hanning(MEL_FFT + 1)[:-1]
    spectrum = np.abs(np.fft.rfft(padded[place] * window))
    levels = 20 * np.log10(np.maximum(1e-5, spectrum @ _filters().T)) - 20
    return np.clip(8 * (levels + 100) / 100 - 4, -4, 4).T.astype(np.float32)


@lru_cache(maxsize=1)
def _filters() -> np.ndarray:
    """``(80, 401)`` triangles of equal area on Slaney's scale: linear to 1 kHz, then logarithmic."""
    step = np.log(6.4) / 27

    def to_mel(hertz: float) -> float:
        return hertz * 3 / 200 if hertz < 1000 else 15 + np.log(hertz / 1000) / step

    marks = np.linspace(to_mel(MEL_LOWEST), to_mel(MEL_HIGHEST), MEL_BANDS + 2)
    hertz = np.where(marks < 15, marks * 200 / 3, 1000 * np.exp(step * (marks - 15)))
    bins = np.arange(MEL_FFT // 2 + 1) * RATE / MEL_FFT
    rising = (bins - hertz[:-2, None]) / (hertz[1:-1] - hertz[:-2])[:, None]
    falling = (hertz[2:, None] - bins) / (hertz[2:] - hertz[1:-1])[:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return triangles * (2 / (hertz[2:] - hertz[:-2]))[:, None]


def _whisper(sound: np.ndarray, encoder: Any, device: str) -> np.ndarray:
    from ..audio.whisper import Features
    from ..media.audio import MemoryVoice
    from ..types import Audio

    # An inaudible tick, because a voice in memory refuses silence and a kept clip may have it.
    audible = sound if np.abs(sound).max() > 1e-3 else sound + 1e-3 * (np.arange(len(sound)) == 0)
    voice = MemoryVoice(Audio(samples=audible[None].astype(np.float32), rate=RATE))
    features = Features(voice, encoder, device=device)
    rows = features.rows(np.arange(features.step_count))
    return rows.to("cpu").numpy().astype(np.float16)
