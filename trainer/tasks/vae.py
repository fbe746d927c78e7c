"""A small autoencoder: crops to latents an eighth of their side, and back; what ``latentsync-tiny`` draws in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from lipsync_core.engines.latentsync import region
from lipsync_core.engines.latentsync.pictures import LATENT_SCALE
from lipsync_core.errors import SettingsError

from .base import Task
from .look import contact_sheet, open_clips

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from ..config import Recipe, StageConfig

LATENT_CHANNELS = 4
LEVELS = 4
FACTOR = 8
"""Of TAESD, whose names and layout the network has."""
NOISE = 0.05
"""Added to latents of variance 1, so that neighbouring codes mean like pictures."""


class Coder(nn.Module):
    """diffusers' ``AutoencoderTiny`` with a ``forward`` that trains both halves at once.

    Without norms it learns several times faster than Stable Diffusion's own at this size.
    """

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        from diffusers import AutoencoderTiny

        self.vae = AutoencoderTiny(
            encoder_block_out_channels=(width,) * LEVELS,
            decoder_block_out_channels=(width,) * LEVELS,
            num_encoder_blocks=(1,) + (blocks,) * (LEVELS - 1),
            num_decoder_blocks=(blocks,) * (LEVELS - 1) + (1,),
        )

    def forward(self, pictures: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures again, and their latents, of ``(N, 3, R, R)`` in -1..1."""
        latents = self.vae.encode(pictures).latents
        return self.vae.decode(latents + NOISE * noise).sample, latents


class VAE(Task):
    """Reconstruction and edges, most of all where mouths are drawn, of crops whole and with the mouth hidden."""

    name: ClassVar[str] = "vae"

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        super().__init__(recipe, device)
        channels = recipe.model.channels
        if len(channels) != LEVELS or len(set(channels)) > 1:
            raise SettingsError(
                f"model.channels is {channels}; the small autoencoder has {LEVELS} levels of one width"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.network = Coder(channels[0], recipe.model.layers)

    def begin(self, stage: StageConfig) -> None:
        self.network.requires_grad_(True)

    def samples(self, stage: StageConfig, *, validation: bool) -> Dataset[dict[str, Any]]:
        from ..data import Windows

        return Windows(
            open_clips(self.recipe, validation=validation),
            sampling=self.recipe.data.sampling,
            resolution=self.recipe.data.resolution,
            seed=self.recipe.seed + validation,
            gives=(),
            max_bad=self.recipe.data.max_bad,
        )

    def losses(
        self, network: nn.Module, batch: Mapping[str, Any], stage: StageConfig
    ) -> dict[str, Tensor]:
        pictures, noise = self._pictures(batch)
        found, latents = network(pictures, noise)
        weights = self._weights(pictures, stage.loss.mask_weight)
        second = latents.float().square().mean((0, 2, 3))
        return {
            "pixel": ((found - pictures).abs() * weights).mean(),
            "edges": _edges(found - pictures, weights),
            # each channel of the latents has variance 1, as diffusion wants it
            "variance": (second - 1).square().mean(),
        }

    def _weights(self, pictures: Tensor, mask_weight: float) -> Tensor:
        """``(1, 1, R, R)``, ``mask_weight`` times as much where mouths are drawn, 1 in the mean."""
        hidden = torch.from_numpy(region.coverage(pictures.shape[-1]).copy()).to(pictures)
        weights = 1 + (mask_weight - 1) * hidden
        return (weights / weights.mean())[None, None]

    def _pictures(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Crops of every other frame, every fourth with the mouth hidden, as the UNet's condition is."""
        crops = batch["crops"][:, ::2]
        size = crops.shape[-1]
        hidden = torch.from_numpy(region.hidden(size).copy()).to(crops.device)
        pictures = crops.clone()
        pictures[:, ::4] = pictures[:, ::4] * ~hidden
        pictures = pictures.flatten(0, 1)
        side = size // FACTOR
        draws = [
            torch.randn(
                crops.shape[1],
                LATENT_CHANNELS,
                side,
                side,
                generator=torch.Generator().manual_seed(int(seed)),
            )
            for seed in batch["seed"]
        ]
        return pictures, torch.cat(draws).to(pictures)

    @torch.no_grad()
    def validate(
        self, network: nn.Module, stage: StageConfig, folder: Path | None
    ) -> dict[str, float]:
        samples = self.samples(stage, validation=True)
        error: list[float] = []
        shown: list[Tensor] = []
        for number in range(self.recipe.run.validation_batches):
            one = samples[number]
            batch = {
                "crops": one["crops"][None].to(self.device),
                "seed": torch.as_tensor([int(one["seed"])]),
            }
            pictures, noise = self._pictures(batch)
            found, _ = network(pictures, torch.zeros_like(noise))
            error.append(float((found.float() - pictures).square().mean()))
            shown += [pictures[:2].cpu(), found[:2].float().cpu()]
        mean = sum(error) / len(error)
        if folder is not None:
            contact_sheet(folder / "reconstructions.png", torch.cat(shown), columns=8)
        # of pictures in -1..1, whose range is 2
        return {"reconstruction": mean, "psnr": 10 * math.log10(4 / max(mean, 1e-12))}

    def export(self, network: nn.Module, path: Path) -> None:
        """Names and layout of TAESD."""
        from safetensors.torch import save_file

        inner = getattr(network, "module", network).vae
        state = {
            name: value.detach().half().contiguous() for name, value in inner.state_dict().items()
        }
        save_file(
            state | {LATENT_SCALE: torch.tensor(self.recipe.model.latent_scale)},
            path,
            metadata={"format": "pt", "lipsync": "taesd"},
        )


def _edges(error: Tensor, weights: Tensor) -> Tensor:
    """Mean size of the error's differences between neighbouring pixels, down and across."""
    down = (error.diff(dim=-2).abs() * weights[..., 1:, :]).mean()
    return down + (error.diff(dim=-1).abs() * weights[..., 1:]).mean()
