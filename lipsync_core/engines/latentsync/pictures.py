"""Crops to latents and back."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

log = logging.getLogger("lipsync.latentsync")

SCALE = 0.18215
"""By which Stable Diffusion's latents have unit variance."""

LATENT_SCALE = "latent_scale"
"""Tensor ``()`` beside the weights of a small autoencoder: what its latents are multiplied by for the denoiser."""


def build_vae(tensors: Mapping[str, Tensor]) -> Any:
    """diffusers' ``AutoencoderKL`` of the shape that ``tensors`` have, by their names there."""
    import torch
    from diffusers import AutoencoderKL

    levels = 1 + max(int(n.split(".")[2]) for n in tensors if n.startswith("encoder.down_blocks."))
    layers = 1 + max(
        int(n.split(".")[4]) for n in tensors if n.startswith("encoder.down_blocks.0.resnets.")
    )
    with torch.device("meta"):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(
                tensors[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"].shape[0]
                for i in range(levels)
            ),
            layers_per_block=layers,
            latent_channels=tensors["quant_conv.weight"].shape[0] // 2,
            scaling_factor=SCALE,
        )
    vae.load_state_dict(dict(tensors), assign=True)
    return vae.train(False).requires_grad_(False)


def build_taesd(tensors: Mapping[str, Tensor]) -> Any:
    """diffusers' ``AutoencoderTiny`` of the shape that ``tensors`` have.

    TAESD's latents are scaled already; one of our own may bring ``LATENT_SCALE``.
    """
    import torch
    from diffusers import AutoencoderTiny

    tensors = dict(tensors)
    scale = tensors.pop(LATENT_SCALE, None)
    levels = {part: _levels(tensors, f"{part}.layers.") for part in ("encoder", "decoder")}
    with torch.device("meta"):
        vae = AutoencoderTiny(
            encoder_block_out_channels=(tensors["encoder.layers.0.weight"].shape[0],) * 4,
            decoder_block_out_channels=(tensors["decoder.layers.0.weight"].shape[0],) * 4,
            num_encoder_blocks=levels["encoder"],
            num_decoder_blocks=levels["decoder"],
            scaling_factor=1.0 if scale is None else float(scale),
        )
    vae.load_state_dict(tensors, assign=True)
    return vae.train(False).requires_grad_(False)


def load_coder(name: str, path: Path | None = None) -> tuple[Any, bool]:
    """The autoencoder of catalogue row ``name``, or another at ``path``, on the CPU, and whether it is of
    TAESD's kind."""
    from ...weights import tensors
    from ...weights.catalog import entry

    if path is None:
        kind, loaded = entry(name).kind, tensors.load(name)
    else:
        kind, loaded = tensors.require(path, "taesd", "sd-vae").name, tensors.read_tensors(path)
    if kind == "taesd":
        return build_taesd(loaded), True
    return build_vae(tensors.vae_names(loaded)), False


def _levels(tensors: Mapping[str, Tensor], prefix: str) -> tuple[int, ...]:
    """Residual blocks of each level; plain convolutions stand between levels."""
    counts: list[int] = []
    running = 0
    for number in sorted(
        {int(n[len(prefix) :].split(".")[0]) for n in tensors if n.startswith(prefix)}
    ):
        if f"{prefix}{number}.conv.0.weight" in tensors:
            running += 1
        elif running:
            counts.append(running)
            running = 0
    return tuple(counts)


class Pictures:
    """A VAE of either kind behind one pair of functions; frames are worked off a few at a time."""

    def __init__(self, vae: Any, *, tiny: bool, batch: int) -> None:
        import torch

        from ...models import fused
        from ...models.norm import join_activations

        self.vae = vae
        self.tiny = tiny
        self.scale = float(vae.config.scaling_factor) if tiny else SCALE
        """Between the autoencoder's latents and those of the denoiser."""
        self.batch = batch
        weight = next(vae.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        if fused.works(self.device):
            vae.to(memory_format=torch.channels_last)
            join_activations(vae)
        self.factor = 8 if tiny else 2 ** (len(vae.config.block_out_channels) - 1)
        """Side of a crop in pixels by side of its latent."""

    def encode(self, pictures: Tensor, noise: Tensor | None = None) -> Tensor:
        """``(N, 3, R, R)`` in -1..1 to scaled latents ``(N, 4, h, w)`` float32.

        The mode of the posterior, or the sample that ``noise`` ``(N, 4, h, w)`` picks.
        """

        def run(part: slice) -> Tensor:
            given = pictures[part].to(self.device, self.dtype)
            if self.tiny:
                return self.vae.encode(given).latents.float() * self.scale
            posterior = self.vae.encode(given).latent_dist
            latent = posterior.mode()
            if noise is not None:
                latent = posterior.mean + posterior.std * noise[part].to(latent)
            return latent.float() * self.scale

        return self._all(len(pictures), run)

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents ``(N, 4, h, w)`` to pictures ``(N, 3, R, R)`` float32, about -1..1."""

        def run(part: slice) -> Tensor:
            given = latents[part].to(self.device, self.dtype)
            return self.vae.decode(given / self.scale).sample.float()

        return self._all(len(latents), run)

    def _all(self, count: int, run: Callable[[slice], Tensor]) -> Tensor:
        import torch

        parts, start = [], 0
        while start < count:
            part = slice(start, min(start + self.batch, count))
            try:
                with torch.no_grad():
                    parts.append(run(part))
            except RuntimeError as error:
                self.batch = halved(self.batch, error, "the VAE")
                continue
            start = part.stop
        return torch.cat(parts)


def halved(batch: int, error: RuntimeError, what: str) -> int:
    """Half of ``batch`` after running out of memory; any other error, or a batch of one, is raised."""
    import torch

    if not _out_of_memory(error):
        raise error
    if batch <= 1:
        raise EngineError(
            f"{what} does not fit into the memory of this device even alone; close other programs, "
            "use latentsync-1.5 (256 px), or --device cpu"
        ) from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    log.warning("out of memory; going on with %d at once in place of %d", batch // 2, batch)
    return batch // 2


def _out_of_memory(error: RuntimeError) -> bool:
    # CUDA has a class for it, Metal and the CPU allocator only say so
    text = str(error).lower()
    return "out of memory" in text or "not enough memory" in text or "can't allocate" in text


class LatentCache:
    """What was encoded of a clip, so that a second voice, or a frame shown twice, costs nothing.

    Bounded. What nobody asked for since ``begin`` goes first, the longest unused before the rest; what
    was asked for stays, and no more is kept then: of a clip that does not fit, the next voice finds as
    much as does, where it would find nothing if the newest pushed out the first. Keys are the pixels
    themselves, so nothing can be mistaken.
    """

    def __init__(self, limit: int = 512 << 20) -> None:
        self.limit = limit
        """Bytes."""
        self.size = 0
        self._rows: OrderedDict[bytes, Tensor] = OrderedDict()
        self._asked: set[bytes] = set()

    def begin(self) -> None:
        """Another voice, or another clip."""
        self._asked.clear()

    def conditions(
        self, crops: Sequence[np.ndarray], salt: str, make: Callable[[list[int]], Tensor]
    ) -> Tensor:
        """``(N, C, h, w)`` float32, one row a crop; ``make`` gives those that are not here yet.

        ``salt``: whatever else the rows depend on.
        """
        import torch

        keys = [
            hashlib.blake2b(crop.tobytes(), key=salt.encode()[:64], digest_size=16).digest()
            for crop in crops
        ]
        new = {key: i for i, key in enumerate(keys) if key not in self._rows}
        made: dict[bytes, torch.Tensor] = {}
        if new:
            made = dict(zip(new, make(list(new.values())), strict=True))
        rows = [made[key] if key in made else self._rows[key].float() for key in keys]
        for key in keys:
            if key in self._rows:
                self._rows.move_to_end(key)
                self._asked.add(key)
        for key, row in made.items():
            self._keep(key, row)
        return torch.stack([row.cpu() for row in rows])

    def _keep(self, key: bytes, row: Tensor) -> None:
        held = row.detach().cpu().clone()
        while self.size + held.nbytes > self.limit:
            first = next(iter(self._rows), None)
            if first is None or first in self._asked:
                return
            self.size -= self._rows.pop(first).nbytes
        self._rows[key] = held
        self._asked.add(key)
        self.size += held.nbytes
