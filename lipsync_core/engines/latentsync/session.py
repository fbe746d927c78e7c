"""One person speaking one voice through LatentSync, window after window."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...audio.windows import window_steps
from ...errors import SettingsError
from ...types import STRONGEST
from ..base import Rendered, Session
from . import region
from .heed import heeding
from .presets import Preset
from .sampler import denoise

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ...audio.whisper import Features
    from ...models.unet3d import UNet3D
    from ...types import FaceTrack
    from .pictures import LatentCache, Pictures

log = logging.getLogger("lipsync.latentsync")

Silence = Literal["model", "close", "keep"]

QUIET = 4.0
"""Decades of power below the loudest moment of a voice: 40 dB down nobody is speaking."""
INAUDIBLE = -4.0
"""Log10 mel power of a tone at about -60 dBFS: below it is no speech, however quiet the rest."""
SHORTEST = Fraction(1, 5)
"""Seconds that a pause must last to count as silence."""
EASE = 3
"""Frames over which a mouth that is kept in silence comes and goes."""
LEAP = 3
"""Source frames; a larger step is a cut or a jump back, across which no window may look."""


@dataclass(frozen=True, kw_only=True)
class Speech:
    """What the engine heard: one row of ``steps`` for every output frame."""

    features: Features
    steps: np.ndarray
    """``(T, 10)`` int64."""
    times: np.ndarray
    """``(T,)`` float64 seconds."""

    def __len__(self) -> int:
        return len(self.steps)

    def tokens(self, rows: Sequence[int]) -> Tensor:
        """``(T, L, D)`` for these output frames."""
        return self.features.tokens(self.steps[list(rows)])

    def silent(self) -> np.ndarray:
        """``(T,)`` bool: nobody speaks at this frame, nor for a while around it."""
        quiet = self.features.levels < max(self.features.peak - QUIET, INAUDIBLE)
        centres = self.steps[:, self.steps.shape[1] // 2 - 1]
        edges = np.flatnonzero(np.diff(quiet.astype(np.int8), prepend=0, append=0))
        long = np.zeros_like(quiet)
        for start, end in edges.reshape(-1, 2):
            long[start:end] = end - start >= SHORTEST * 50
        return long[centres]


def hear(features: Features, times: Sequence[Fraction]) -> Speech:
    """Steps of ``features`` for the moments ``times``."""
    return Speech(
        features=features,
        steps=window_steps(times, features.step_count),
        times=np.array([float(time) for time in times]),
    )


@dataclass(frozen=True, kw_only=True)
class Nets:
    """Loaded networks on their device."""

    unet: UNet3D
    pictures: Pictures


@dataclass
class _Carried:
    """The last frames drawn, by which the next ones go on."""

    output: int
    source: int
    conditions: Tensor
    tokens: Tensor
    latents: Tensor


class LatentSession(Session):
    """Draws ``preset.call`` frames at a time in windows of ``preset.window``."""

    keeps_detail = True

    def __init__(
        self,
        nets: Nets,
        speech: Speech,
        track: FaceTrack,
        preset: Preset,
        *,
        size: int,
        seed: int,
        cache: LatentCache,
        strength: float = 1.0,
        silence: Silence = "model",
        batch: int = 1,
    ) -> None:
        import torch

        config = nets.unet.config
        if config.motion != "none" and preset.window > config.window:
            raise SettingsError(
                f"windows of {preset.window} frames were asked for, and this network knows {config.window} "
                "at most; it was trained on 16"
            )
        if not 0 <= strength <= STRONGEST:
            raise SettingsError(
                f"strength {strength:g} was asked for; it goes from 0 to {STRONGEST:g}"
            )
        self.mode = preset.name
        self.window = preset.call
        self.nets = nets
        self.speech = speech
        self.preset = preset
        self.size = size
        self.strength = strength
        self.batch = batch
        self._shots = track.shots
        self._cache = cache
        cache.begin()
        factor = nets.pictures.factor
        # drawn on the CPU, so that every device begins with the same noise
        draw = torch.Generator().manual_seed(seed)
        self.noise = torch.randn(4, size // factor, size // factor, generator=draw)
        self._mask = torch.from_numpy(region.hidden_latent(size, factor))[None]
        self._carried: _Carried | None = None
        self._kept = np.zeros(len(speech.steps), np.float32)
        self._closed = np.zeros(len(speech.steps), bool)
        if silence != "model":
            silent = speech.silent()
            if silence == "keep":
                self._kept = _eased(silent)
            else:
                self._closed = silent

    def render(self, crops: np.ndarray, sources: Sequence[int], outputs: Sequence[int]) -> Rendered:
        """As ``Session.render``; crops come back as float32 0..255."""
        count = len(crops)
        if crops.shape[1:3] != (self.size, self.size):
            raise ValueError(
                f"crops of {crops.shape[1:3]} were given where {self.size} is the side"
            )
        masks = region.paint(self.size) * (1 - self._kept[list(outputs)])[:, None, None]
        if not masks.any():
            self._carried = None
            return Rendered(crops=crops.astype(np.float32), masks=masks)
        # a compiled network would be compiled again with hooks in it; it heeds between its steps
        open_nets = [] if self.preset.compiled else [self.nets.unet]
        with heeding(self.heed, self.nets.pictures.vae, *open_nets):
            latents = self._draw(crops, sources, outputs)
            pictures = self.nets.pictures.decode(latents[-count:])
        drawn = ((pictures / 2 + 0.5).clamp(0, 1) * 255).permute(0, 2, 3, 1).cpu().numpy()
        return Rendered(crops=drawn, masks=masks)

    def _draw(self, crops: np.ndarray, sources: Sequence[int], outputs: Sequence[int]) -> Tensor:
        import torch

        window = self.preset.window
        conditions = self._conditions(crops)
        tokens = self._tokens(outputs)
        known = None
        before = self._carried if self._continues(sources[0], outputs[0]) else None
        if before is not None:
            # enough of what is drawn already to blend, and to make a short rest a whole window
            shared = max(self.preset.overlap, window - len(crops))
            shared = min(shared, len(before.latents))
            if shared:
                known = before.latents[-shared:]
                conditions = torch.cat([before.conditions[-shared:], conditions])
                tokens = torch.cat([before.tokens[-shared:], tokens])
        count = len(conditions)
        # a stretch of less than a window is played to and fro until it is one
        place = _to_and_fro(count, max(count, window))
        latents, self.batch = denoise(
            self.nets.unet,
            conditions[place],
            tokens[place],
            self.noise,
            self.preset,
            strength=self.strength,
            batch=self.batch,
            known=known,
            heed=self.heed,
        )
        latents = latents[:count].cpu()
        self._carried = _Carried(
            output=outputs[-1],
            source=sources[-1],
            conditions=conditions[-window:],
            tokens=tokens[-window:],
            latents=latents[-window:],
        )
        return latents

    def _continues(self, source: int, output: int) -> bool:
        before = self._carried
        return (
            before is not None
            and output == before.output + 1
            and abs(source - before.source) <= LEAP
            and self._shots[source] == self._shots[before.source]
        )

    def _tokens(self, outputs: Sequence[int]) -> Tensor:
        tokens = self.speech.tokens(outputs)
        closed = self._closed[list(outputs)]
        if closed.any():
            tokens = tokens.clone()
            tokens[closed] = self.speech.features.silence().to(tokens)
        return tokens

    def _conditions(self, crops: np.ndarray) -> Tensor:
        """``(T, 9, h, w)``: mask, latent of what is not hidden, latent of the whole crop."""
        import torch

        def make(rows: list[int]) -> torch.Tensor:
            # as bytes, and computed there: a GPU would wait for the processor
            given = torch.from_numpy(crops[rows]).to(self.nets.pictures.device)
            pictures = given.permute(0, 3, 1, 2).float() / 127.5 - 1
            seen = pictures * torch.from_numpy(~region.hidden(self.size)).to(given.device)
            latents = self.nets.pictures.encode(torch.cat([seen, pictures]))
            return torch.cat(latents.chunk(2), dim=1)

        salt = f"{self.nets.pictures.tiny} {self.nets.pictures.scale} {self.nets.pictures.dtype}"
        latents = self._cache.conditions(list(crops), salt, make)
        return torch.cat([self._mask.expand(len(crops), -1, -1, -1), latents], dim=1)


def _to_and_fro(count: int, length: int) -> list[int]:
    """``length`` indices into ``count`` frames: forward, back, forward, the ends once each."""
    if count == 1:
        return [0] * length
    turn = [*range(count), *range(count - 2, 0, -1)]
    return [turn[i % len(turn)] for i in range(length)]


def _eased(silent: np.ndarray) -> np.ndarray:
    """``(T,)`` float32: 1 inside of silence, rising and falling within it over ``EASE`` frames."""
    speaking = np.flatnonzero(~silent)
    if not len(speaking):
        return np.ones(len(silent), np.float32)
    frames = np.arange(len(silent))
    after = np.searchsorted(speaking, frames)
    to_next = speaking[np.minimum(after, len(speaking) - 1)] - frames
    to_last = frames - speaking[np.maximum(after - 1, 0)]
    # before the first word and after the last there is one side only
    away = np.minimum(
        np.where(after < len(speaking), to_next, len(silent)),
        np.where(after > 0, to_last, len(silent)),
    )
    return np.where(silent, np.clip(away / (EASE + 1), 0, 1), 0).astype(np.float32)
