"""A small VAE: crops to latents an eighth of their side, and back; what ``latentsync-tiny`` draws in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipsync_core.engines.latentsync import region
from lipsync_core.engines.latentsync.pictures import SCALE

from .base import Task
from .look import contact_sheet, open_clips

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from ..config import Recipe, StageConfig

LATENT_CHANNELS = 4
"""Of Stable Diffusion, whose names and shapes the network has."""

START = -6.0
"""Log-variance of the posterior at the beginning."""


class Coder(nn.Module):
    """diffusers' ``AutoencoderKL`` with a ``forward`` that trains both halves at once."""

    def __init__(self, channels: list[int], layers: int) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        levels = len(channels)
        self.vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(channels),
            layers_per_block=layers,
            latent_channels=LATENT_CHANNELS,
            scaling_factor=SCALE,
        )
        # as made, the posterior is as wide as what it codes, and for long nothing gets through
        quant: nn.Conv2d = self.vae.quant_conv
        nn.init.constant_(quant.bias[LATENT_CHANNELS:], START)

    def forward(self, pictures: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures again, mean and log-variance of the posterior, of ``(N, 3, R, R)`` in -1..1."""
        posterior = self.vae.encode(pictures).latent_dist
        latent = posterior.mean + posterior.std * noise
        return self.vae.decode(latent).sample, posterior.mean, posterior.logvar


class VAE(Task):
    """Reconstruction, edges, and a touch of Kullback-Leibler, on crops and on crops with the mouth hidden."""

    name: ClassVar[str] = "vae"

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        super().__init__(recipe, device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.network = Coder(list(recipe.model.channels), recipe.model.layers)

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
        found, mean, spread = network(pictures, noise)
        return {
            "pixel": (found - pictures).abs().mean(),
            "edges": _edges(found, pictures),
            "kl": 0.5 * (mean.square() + spread.exp() - 1 - spread).mean(),
        }

    def _pictures(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Crops of every other frame, every fourth with the mouth hidden, as the UNet's condition is."""
        crops = batch["crops"][:, ::2]
        size = crops.shape[-1]
        hidden = torch.from_numpy(region.hidden(size).copy()).to(crops.device)
        pictures = crops.clone()
        pictures[:, ::4] = pictures[:, ::4] * ~hidden
        pictures = pictures.flatten(0, 1)
        side = size // 2 ** (len(self.recipe.model.channels) - 1)
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
            found, _, _ = network(pictures, torch.zeros_like(noise))
            error.append(float((found.float() - pictures).square().mean()))
            shown += [pictures[:2].cpu(), found[:2].float().cpu()]
        mean = sum(error) / len(error)
        if folder is not None:
            contact_sheet(folder / "reconstructions.png", torch.cat(shown), columns=8)
        # of pictures in -1..1, whose range is 2
        return {"reconstruction": mean, "psnr": 10 * math.log10(4 / max(mean, 1e-12))}

    def export(self, network: nn.Module, path: Path) -> None:
        """Names of diffusers, with latents of unit variance after Stable Diffusion's factor."""
        from safetensors.torch import save_file

        inner = getattr(network, "module", network).vae
        tensors = {name: value.detach().clone() for name, value in inner.state_dict().items()}
        factor = 1 / (SCALE * self._spread(network))
        channels = LATENT_CHANNELS
        # the scale goes into the layers around the latent: its mean times the factor, what reads it back
        for part in ("weight", "bias"):
            tensors[f"quant_conv.{part}"][:channels] *= factor
        tensors["quant_conv.bias"][channels:] += 2 * math.log(factor)
        tensors["post_quant_conv.weight"] /= factor
        save_file(
            {name: value.half().contiguous() for name, value in tensors.items()},
            path,
            metadata={"format": "pt", "lipsync": "sd-vae"},
        )

    @torch.no_grad()
    def _spread(self, network: nn.Module) -> float:
        """Standard deviation of the latents of held-out crops."""
        samples = self.samples(next(iter(self.recipe.stages.values())), validation=True)
        inner = getattr(network, "module", network).vae
        found = [
            inner.encode(samples[number]["crops"].to(self.device)).latent_dist.mean
            for number in range(self.recipe.run.validation_batches)
        ]
        return float(torch.cat(found).std())


def _edges(found: Tensor, given: Tensor) -> Tensor:
    """Mean absolute error of the differences between neighbouring pixels, down and across."""
    down = (found.diff(dim=-2) - given.diff(dim=-2)).abs().mean()
    return down + F.l1_loss(found.diff(dim=-1), given.diff(dim=-1))
