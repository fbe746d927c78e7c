"""From what does a denoiser take the colours of a face: from its surroundings, or from the noisy latents?

One-step estimates of held-out presenters at late steps, with the picture in the noisy latents as in
training, and without it as drawing begins. Printed: by how many of 255 levels the mean colour of the
hidden part is wrong.

    python -m benchmarks.colours UNET.safetensors VAE.safetensors --side 128
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from lipsync_core.engines.latentsync import region
from lipsync_core.models.unet3d import UNet3D, config_of
from lipsync_core.weights import tensors
from trainer import frozen, losses
from trainer.presenters.people import numbers
from trainer.presenters.take import Take
from trainer.tasks.latentsync import _alphas_cumprod

STEPS = (999, 749, 499)
FRAMES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("unet", type=Path)
    parser.add_argument("vae")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--people", type=int, default=6)
    given = parser.parse_args()
    state = tensors.read_tensors(given.unet)
    unet = UNet3D(config_of({name: tuple(value.shape) for name, value in state.items()}))
    unet.load_state_dict({name: value.float() for name, value in state.items()})
    unet.train(False)
    pictures = frozen.pictures(given.vae, torch.device("cpu"))
    hidden = torch.from_numpy(region.hidden(given.side).copy())
    mask = torch.from_numpy(region.hidden_latent(given.side, 8)).float()
    table = _alphas_cumprod()
    wrong: dict[tuple[int, bool], list[float]] = {}
    for number in numbers(11, given.people, "held-out"):
        take = Take(number, FRAMES, resolution=given.side, seed=1)
        crops = torch.from_numpy(take.crops()).permute(0, 3, 1, 2).float() / 127.5 - 1
        whole, masked = pictures.encode(crops), pictures.encode(crops * ~hidden)
        dice = torch.Generator().manual_seed(3)
        noise = torch.randn(whole[:1].shape, generator=dice).expand_as(whole)
        silence = torch.zeros(1, FRAMES, 10, unet.config.audio_width)
        for step in STEPS:
            when = torch.tensor([step])
            for shown in (True, False):
                noisy = losses.add_noise(whole * shown, noise, when, table)
                place = mask.expand(FRAMES, 1, *whole.shape[2:])
                asked = torch.cat([noisy, place, masked, whole], dim=1).transpose(0, 1)[None]
                with torch.no_grad():
                    said = unet(asked, when, silence)[0].transpose(0, 1)
                meant = losses.clean_estimate(noisy, said, when, table)
                error = (pictures.decode(meant).clamp(-1, 1) - crops)[..., hidden].mean(-1)
                wrong.setdefault((step, shown), []).append(127.5 * float(error.abs().mean()))
    for step in STEPS:
        seen, unseen = (np.mean(wrong[step, shown]) for shown in (True, False))
        print(f"step {step}: {seen:.1f} with the picture in the latents, {unseen:.1f} without")


if __name__ == "__main__":
    main()
