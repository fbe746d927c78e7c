"""From noise to latents: windows over time, their blending, guidance, and the loop."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .pictures import halved
from .presets import WINDOW, Preset, scheduler

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from ...models.unet3d import AudioKeys, UNet3D

log = logging.getLogger("lipsync.latentsync")


def window_starts(count: int, overlap: int, window: int = WINDOW) -> list[int]:
    """First frames of the windows over ``count`` frames; the last is shifted back to be whole."""
    if count <= window:
        return [0]
    starts = list(range(0, count - window, window - overlap))
    return [*starts, count - window]


def window_weights(starts: Sequence[int], count: int, window: int = WINDOW) -> np.ndarray:
    """``(windows, window)`` float32: how much each says about each of its frames; 1 in all.

    Where windows meet, one fades out as the next fades in.
    """
    length = min(window, count)
    rise = np.ones((len(starts), length))
    for k in range(1, len(starts)):
        shared = starts[k - 1] + length - starts[k]
        if shared > 0:
            ramp = (np.arange(shared) + 1) / (shared + 1)
            rise[k, :shared] *= ramp
            rise[k - 1, length - shared :] *= 1 - ramp
    total = np.zeros(count)
    for k, start in enumerate(starts):
        total[start : start + length] += rise[k]
    return np.stack(
        [rise[k] / total[start : start + length] for k, start in enumerate(starts)]
    ).astype(np.float32)


@dataclass
class _Group:
    """Windows that go through the network together, and what is kept of them between steps."""

    windows: list[int]
    keys: AudioKeys | None = None
    deep: Tensor | None = None
    deep_guided: bool = False


def denoise(
    unet: UNet3D,
    conditions: Tensor,
    tokens: Tensor,
    noise: Tensor,
    preset: Preset,
    *,
    strength: float = 1.0,
    batch: int = 1,
    known: Tensor | None = None,
    watch: Callable[[int, dict[str, Any]], None] | None = None,
    heed: Callable[[], object] | None = None,
) -> tuple[Tensor, int]:
    """Latents ``(T, 4, h, w)`` float32 of consecutive frames, and the batch that memory allowed.

    ``conditions``: ``(T, 9, h, w)`` mask, masked and reference latents. ``tokens``: ``(T, L, D)``.
    ``noise``: ``(4, h, w)``, the same for all frames, so that all windows start alike.
    ``strength`` scales how far the audio leads away from the prediction without it. ``known``:
    ``(K, 4, h, w)`` latents that the first ``K`` frames have already; they steer the others.
    ``watch`` is shown the tensors of each step. ``heed`` is called before each pass of the network
    and may raise to leave.
    """
    import torch

    weight = unet.conv_in.weight
    device, dtype = weight.device, weight.dtype
    count = len(conditions)
    starts = window_starts(count, preset.overlap, preset.window)
    length = min(preset.window, count)
    shares = torch.from_numpy(window_weights(starts, count, preset.window)).to(device)
    conditions, tokens = conditions.to(device, torch.float32), tokens.to(device, dtype)
    noise = noise.to(device, torch.float32)
    steps = scheduler(preset)
    # all at once: a number that goes to the device in every pass would wait for the one before
    moments = steps.timesteps.to(device)
    latents = noise.expand(count, -1, -1, -1) * float(steps.init_noise_sigma)
    fixed = 0 if known is None else len(known)
    known = None if known is None else known.to(device, torch.float32)
    run = unet.step
    if preset.compiled:
        run = _compiled(unet)

    def listen(group: _Group) -> AudioKeys:
        if group.keys is None:
            rows = torch.cat([tokens[starts[k] : starts[k] + length] for k in group.windows])
            group.keys = unet.listen(rows)
        return group.keys

    def predict(group: _Group, number: int, time: Tensor) -> Tensor:
        """``(windows, 4, 16, h, w)`` float32 noise."""
        amount = strength * (preset.guidance if preset.guides(number) else 1.0)
        guided = amount != 1.0
        if number % preset.refresh == 0 or group.deep_guided != guided:
            group.deep = None
        given = torch.cat([scaled, conditions], dim=1)
        given = torch.stack([given[starts[k] : starts[k] + length] for k in group.windows])
        given = given.transpose(1, 2).to(dtype)
        with torch.no_grad():
            found, deep = run(given, time, listen(group), guided=guided, deep=group.deep)
        if preset.refresh > 1:
            group.deep, group.deep_guided = deep, guided
        found = found.float()
        if guided:
            deaf, hearing = found.chunk(2)
            found = deaf + amount * (hearing - deaf)
        return found

    groups = _groups(range(len(starts)), batch)
    for number, time in enumerate(steps.timesteps):
        scaled = steps.scale_model_input(latents, time)
        total = torch.zeros_like(latents)
        waiting = list(groups)
        done: list[_Group] = []
        while waiting:
            group = waiting.pop(0)
            if heed is not None:
                heed()
            try:
                found = predict(group, number, moments[number])
            except RuntimeError as error:
                batch = halved(len(group.windows), error, "the denoiser")
                waiting = [*_groups(group.windows, batch), *waiting]
                continue
            done.append(group)
            for k, row in zip(group.windows, found, strict=True):
                share = shares[k][:, None, None, None]
                total[starts[k] : starts[k] + length] += row.transpose(0, 1) * share
        groups = done
        before = latents
        latents = steps.step(total, time, latents).prev_sample
        if known is not None:
            later = steps.timesteps[number + 1 : number + 2]
            held = known
            if len(later):
                held = steps.add_noise(known, noise.expand_as(known), later.expand(fixed))
            latents = torch.cat([held, latents[fixed:]])
        if watch is not None:
            watch(number, {"before": before, "noise": total, "after": latents})
    return latents, batch


def _groups(windows: Sequence[int], batch: int) -> list[_Group]:
    return [
        _Group(windows=list(windows[i : i + batch])) for i in range(0, len(windows), max(batch, 1))
    ]


def _compiled(unet: UNet3D) -> Any:
    """``unet.step`` compiled once; the network keeps it."""
    import torch

    from ...models import fused

    made = unet.__dict__.get("compiled_step")
    if made is None:
        fused.works(unet.conv_in.weight.device)
        made = torch.compile(unet.step)
        unet.__dict__["compiled_step"] = made
    return made
