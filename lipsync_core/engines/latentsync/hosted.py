"""LatentSync with networks that another program loads, keeps and moves between devices."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import RELEASES, TAESD, TINY, UNETS, VAE, LatentSync, Release, batch_for
from .presets import Preset, preset

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from ...models.unet3d import UNet3D
    from ...types import FaceTrack, Progress, Settings
    from ..base import Session
    from .session import Nets, Speech


class Hosted(LatentSync):
    """One release on networks that are on their device whenever ``start`` is called."""

    def __init__(self, release: Release, unet: UNet3D, vae: Any) -> None:
        super().__init__(release)
        self.unet = unet
        self.vae = vae
        self._changes: dict[str, Any] = {}
        self._batch = 0
        self._tiny: Any = None

    def missing(self) -> str | None:
        """Nothing: the networks are here."""
        return None

    def check(self, settings: Settings) -> None:
        """As ``LatentSync.check``; the device is where the networks are."""
        self.row(settings, next(self.unet.parameters()).device.type)

    def tuned(self, *, batch: int = 0, **changes: Any) -> Hosted:
        """The same networks with fields of the preset replaced; ``batch`` windows at once, 0 for what fits."""
        other = copy.copy(self)
        other._changes = {**self._changes, **changes}
        other._batch = batch or self._batch
        return other

    def row(self, settings: Settings, device: str) -> Preset:
        """The preset of ``settings`` with what ``tuned`` replaced."""
        return preset(settings.preset, device).changed(**self._changes)

    def start(
        self,
        *,
        speech: Speech,
        track: FaceTrack,
        study: dict[str, np.ndarray] | None,
        settings: Settings,
    ) -> Session:
        """As ``LatentSync.start``; nothing is moved."""
        from .pictures import LatentCache
        from .session import LatentSession

        device = next(self.unet.parameters()).device
        row = self.row(settings, device.type)
        if self._cache is None:
            self._cache = LatentCache()
        return LatentSession(
            self._nets_on(device, row),
            speech,
            track,
            row,
            size=self.release.size,
            seed=settings.seed,
            cache=self._cache,
            strength=settings.strength,
            silence=settings.silence,
            batch=self._batch or batch_for(device, self.release.size),
        )

    def _nets_on(self, device: torch.device, row: Preset) -> Nets:
        from .pictures import Pictures, load_coder
        from .session import Nets

        vae, tiny = self.vae, self.release.vae != VAE
        if row.tiny_vae and not tiny:
            if self._tiny is None:
                self._tiny, _ = load_coder(TAESD)
            vae, tiny = self._tiny.to(device, next(self.unet.parameters()).dtype), True
        many = 8 if device.type == "cuda" else 2
        return Nets(unet=self.unet, pictures=Pictures(vae, tiny=tiny, batch=many))


def open_checkpoint(
    path: Path,
    *,
    release: str = "auto",
    dtype: torch.dtype,
    progress: Progress | None = None,
) -> Hosted:
    """The network in ``path`` and its VAE on the CPU; ``release``: a row of ``RELEASES`` or ``auto``.

    ``progress`` counts tensors. ``WeightsError`` where the file is something else, or its release cannot be told.
    """
    import torch

    from ...models.unet3d import UNet3D, config_of
    from ...weights import tensors
    from .pictures import load_coder

    kind = tensors.require(path, *UNETS)
    row = _release(path, kind.name, release)
    state = tensors.read_tensors(path)
    with torch.device("meta"):
        unet = UNet3D(config_of({name: tuple(tensor.shape) for name, tensor in state.items()}))
    # the file is read here, tensor by tensor, so that nobody has to wait for all of it
    for count, name in enumerate(list(state), start=1):
        if state[name].is_floating_point():
            state[name] = state[name].to(dtype)
        if progress is not None:
            progress(count, len(state))
    unet.load_state_dict(state, assign=True)
    unet.train(False).requires_grad_(False)
    unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    vae, _ = load_coder(row.vae)
    # its eight bits of bfloat16 would show as bands; past diffusers' own ``to``, which warns about nothing
    torch.nn.Module.to(vae, torch.float32 if dtype == torch.bfloat16 else dtype)
    return Hosted(row, unet, vae)


def _release(path: Path, kind: str, named: str) -> Release:
    from ...errors import WeightsError
    from ...weights.catalog import CATALOG

    rows = {row.name: row for row in (TINY, *RELEASES)}
    if named != "auto":
        return rows[named]
    if kind == "latentsync-unet":
        return rows["latentsync-1.0"]
    size = path.stat().st_size
    for entry in CATALOG:
        if entry.name in rows and entry.exact and entry.size == size:
            return rows[entry.name]
    for row in RELEASES:
        version = row.name.rpartition("-")[2]
        if version in path.name or version in path.parent.name:
            return row
    raise WeightsError(
        f"{path.name} may be LatentSync 1.5 or 1.6, which hold the same tensors; choose the release"
    )


def motion_outputs(names: list[str]) -> list[str]:
    """Those of a network's tensors that let its motion modules have a say; all zeros switch them off."""
    return [name for name in names if ".motion_modules." in name and ".proj_out." in name]


def motion_tensors(path: Path) -> dict[str, Tensor]:
    """The motion modules in ``path``, by their names there."""
    from ...weights import tensors

    tensors.require(path, *UNETS[:2])
    return {
        name: tensor
        for name, tensor in tensors.read_tensors(path).items()
        if ".motion_modules." in name
    }
