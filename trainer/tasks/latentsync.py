"""LatentSync's denoiser, in one or two stages: first the picture, then motion and the judges."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lipsync_core.engines.latentsync import region
from lipsync_core.engines.latentsync.presets import NOISE, preset
from lipsync_core.engines.latentsync.sampler import denoise
from lipsync_core.errors import SettingsError
from lipsync_core.models.unet3d import UNet3D, UNetConfig

from .. import losses
from ..clips import BadClip
from ..config import DECODED
from .base import Task
from .look import contact_sheet, open_clips

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from lipsync_core.engines.latentsync.pictures import Pictures

    from ..config import Recipe, StageConfig
    from ..data import Clips

log = logging.getLogger("lipsync.trainer")

SHOWN = 48
"""Frames of a clip that a validation draws."""
SHIFTS = 8
"""Frames to either side at which sound is tried for the offset."""
VALIDATION = "fast,guidance=1.5"
"""Preset of a validation's drawing, four steps: enough to see whether the mouth follows."""


class LatentSync(Task):
    """Predicts the noise of the hidden part of sixteen crops, given their surroundings and the voice."""

    name: ClassVar[str] = "latentsync"

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        super().__init__(recipe, device)
        first = next(iter(recipe.stages.values()))
        self.network = self._built(first.motion)
        if recipe.model.init:
            self._start_from(recipe.model.init)
        self.pictures: Pictures | None = None
        self.judges: dict[str, Any] = {}
        self._alphas = _alphas_cumprod()
        self._bank: dict[str, Tensor] = {}
        self._sides: dict[bool, Clips] = {}

    def _config(self, motion: Any) -> UNetConfig:
        model = self.recipe.model
        return UNetConfig(
            channels=tuple(model.channels),
            layers=model.layers,
            heads=model.heads,
            groups=model.groups,
            audio_width=model.audio_width,
            motion=motion,
            motion_scales=tuple(model.motion_scales),
        )

    def _built(self, motion: str) -> UNet3D:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            network = UNet3D(self._config(motion))
            if not self.recipe.model.init:
                # it is zero for those who begin with an image model; alone it would learn nothing
                network.conv_in.reset_parameters()
        network.checkpointing = self.recipe.run.gradient_checkpointing
        return network

    def _start_from(self, name: str) -> None:
        """What has the same name and shape; the rest stays as it was made, as in the original."""
        from .. import frozen

        given = frozen.unet_tensors(name)
        own = self.network.state_dict()
        taken = {key: value for key, value in given.items() if own_shape(own, key) == value.shape}
        if len(taken) < len(own) // 2:
            raise SettingsError(
                f"model.init={name} has {len(taken)} of {len(own)} tensors of this network; "
                "model.channels and model.layers must be those of the file"
            )
        self.network.load_state_dict(taken, strict=False)

    # --- stages

    def begin(self, stage: StageConfig) -> None:
        network: Any = self.network
        if network.config.motion != stage.motion:
            grown = self._built(stage.motion)
            own = grown.state_dict()
            kept = {k: v for k, v in network.state_dict().items() if own_shape(own, k) == v.shape}
            grown.load_state_dict(kept, strict=False)
            self.network = grown
        for name, weight in self.network.named_parameters():
            weight.requires_grad_(
                not stage.trainable or any(part in name for part in stage.trainable)
            )
        self._load_frozen(stage)

    def _load_frozen(self, stage: StageConfig) -> None:
        from .. import frozen

        model, loss = self.recipe.model, stage.loss
        if self.pictures is None:
            self.pictures = frozen.pictures(
                model.vae,
                self.device,
                exact=self.device.type == "cpu" or self.recipe.run.precision == "no",
                batch=16 if self.device.type == "cpu" else 256,
            )
        wanted: dict[str, Any] = {}
        if model.syncnet:
            wanted["sync"] = lambda: frozen.syncnet(model.syncnet).to(self.device)
        if loss.lpips > 0:
            wanted["lpips"] = lambda: frozen.lpips(model.vgg).to(self.device)
        if loss.trepa > 0:
            # half precision, in which it is published, is slow on a processor
            slow = self.device.type == "cpu"
            wanted["trepa"] = lambda: frozen.videomae(
                model.videomae, dtype=torch.float32 if slow else None
            ).to(self.device)
        self.judges = {
            name: self.judges[name] if name in self.judges else make()
            for name, make in wanted.items()
        }
        if "trepa" in self.judges:
            self.judges["trepa"].checkpointing = self.recipe.run.gradient_checkpointing

    def _clips(self, validation: bool) -> Clips:
        """The clips of one side, found once."""
        if validation not in self._sides:
            clips = open_clips(self.recipe, validation=validation)
            self._check_hearing(clips)
            self._sides[validation] = clips
        return self._sides[validation]

    def _check_hearing(self, clips: Clips) -> None:
        """One look at the first clip: features of other ears would fail at each of them."""
        model = self.recipe.model
        try:
            shape = clips[0].shape("whisper")
        except BadClip:
            return
        if shape is not None and shape[-1] != model.audio_width:
            raise SettingsError(
                f"{clips[0].source} was heard by ears {shape[-1]} wide, model.audio_width is "
                f"{model.audio_width}; set it so, or run: python -m trainer.hear FOLDER --whisper ..."
            )

    def samples(self, stage: StageConfig, *, validation: bool) -> Dataset[dict[str, Any]]:
        from ..data import Windows

        return Windows(
            self._clips(validation),
            sampling=self.recipe.data.sampling,
            resolution=self.recipe.data.resolution,
            seed=self.recipe.seed + validation,
            gives=("audio", "mel") if stage.loss.sync > 0 else ("audio",),
            # codes that are kept stand for pictures, but not where decoded ones are compared
            pictures=not self.recipe.data.latents or stage.loss.decodes,
            max_bad=self.recipe.data.max_bad,
        )

    # --- losses

    def losses(
        self, network: nn.Module, batch: Mapping[str, Any], stage: StageConfig
    ) -> dict[str, Tensor]:
        loss = stage.loss
        clean, masked, reference = self._latents(batch)
        seeds, timestep = batch["seed"], losses.timesteps(batch["seed"]).to(self.device)
        noise = losses.mixed_noise(seeds, clean.shape, stage.mixed_noise).to(self.device)
        noisy = losses.add_noise(clean, noise, timestep, self._alphas)
        mask = self._mask(clean)
        audio = losses.drop_audio(batch["audio"], seeds, self.recipe.model.audio_dropout)
        around = torch.cat([mask, masked, reference], dim=1)
        start = losses.first_steps(seeds).to(self.device)
        blank = losses.chosen(seeds, stage.from_noise, "noise alone").to(self.device)
        if blank.any():
            timestep = torch.where(blank, start, timestep)
            noisy = torch.where(blank.view(-1, 1, 1, 1, 1), noise, noisy)
        if stage.from_own > 0:
            own = losses.chosen(seeds, stage.from_own, "its own drawing").to(self.device) & ~blank
            timestep = torch.where(own, losses.later_steps(timestep), timestep)
            drawn = self._drawn_to(network, noise, around, audio, start, timestep, own)
            noisy = torch.where(own.view(-1, 1, 1, 1, 1), drawn, noisy)
            blank = blank | own
        if blank.any():
            meant = losses.meant_noise(noisy, clean, timestep, self._alphas)
            noise = torch.where(blank.view(-1, 1, 1, 1, 1), meant, noise)
        predicted = network(torch.cat([noisy, around], dim=1), timestep, audio)
        terms = {
            "noise": losses.noise_error(
                predicted,
                noise,
                timestep=timestep,
                alphas_cumprod=self._alphas,
                snr_gamma=loss.snr_gamma,
                mask=mask,
                mask_weight=loss.mask_weight,
            )
        }
        if not (loss.clean > 0 or loss.decodes):
            return terms
        estimates = losses.clean_estimate(noisy, predicted, timestep, self._alphas)
        if loss.clean > 0:
            terms["clean"] = losses.clean_error(
                estimates,
                clean,
                timestep=timestep,
                alphas_cumprod=self._alphas,
                mask=mask,
                mask_weight=loss.mask_weight,
            )
        if loss.decodes:
            weights = losses.gate(timestep, loss.max_timestep)
            chosen = weights > 0
            if not chosen.any():
                zero = predicted.float().sum() * 0
                return terms | {name: zero for name in DECODED if getattr(loss, name) > 0}
            which = losses.some_frames(seeds, clean.shape[2], loss.decoded_frames).to(self.device)
            rows, which = chosen.nonzero().to(self.device), which[chosen.to(self.device)]
            estimate = estimates.transpose(1, 2)[rows, which].transpose(1, 2)
            shown = self._decoded(estimate)
            truth = batch["crops"][rows, which]
            errors: dict[str, Tensor] = {}
            if loss.pixel > 0:
                errors["pixel"] = losses.pixel_error(shown, truth)
            if loss.lpips > 0:
                errors["lpips"] = losses.perceptual(self.judges["lpips"], shown, truth, rows=8)
            if loss.sync > 0:
                judge = self.judges["sync"]
                seen = shown if _sees_pixels(judge) else _rows(estimate)
                errors["sync"] = losses.sync(judge, seen, batch["mel"][chosen])
            if loss.trepa > 0:
                errors["trepa"] = losses.trepa(self.judges["trepa"], shown, truth)
            terms |= {name: losses.gated(error, weights) for name, error in errors.items()}
        return terms

    @torch.no_grad()
    def _drawn_to(
        self,
        network: nn.Module,
        noise: Tensor,
        around: Tensor,
        audio: Tensor,
        start: Tensor,
        timestep: Tensor,
        wanted: Tensor,
    ) -> Tensor:
        """Noisy latents ``(B, 4, T, h, w)`` at ``timestep``, to which one step of drawing from ``noise``
        at ``start`` leads; those of the ``wanted`` samples, the others are ``noise``."""
        rows = wanted.nonzero()[:, 0]
        if not len(rows):
            # ranks that share a network call it equally often
            rows = torch.zeros(1, dtype=torch.int64, device=wanted.device)
        first = noise[rows]
        told = network(torch.cat([first, around[rows]], dim=1), start[rows], audio[rows]).float()
        estimate = losses.clean_estimate(first, told, start[rows], self._alphas)
        drawn = noise.clone()
        drawn[rows] = losses.add_noise(estimate, told, timestep[rows], self._alphas)
        return drawn

    def _mask(self, latents: Tensor) -> Tensor:
        """``(B, 1, T, h, w)``, 1 where the network draws."""
        size = self.recipe.data.resolution
        mask = torch.from_numpy(region.hidden_latent(size, size // latents.shape[-1]))
        batch, _, frames = latents.shape[:3]
        return mask.to(latents).expand(batch, 1, frames, -1, -1)

    def _latents(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Of the target, the target with the mouth hidden, and the reference: ``(B, 4, T, h, w)``.

        The mode of the posterior, as our inference takes it; the original samples.
        """
        if not self.recipe.data.latents:
            crops = batch["crops"]
            hidden = torch.from_numpy(region.hidden(crops.shape[-1]).copy()).to(crops.device)
            every = torch.stack([crops, crops * ~hidden, batch["reference"]])
            found = self._encoded(every.flatten(0, 2)).unflatten(0, every.shape[:3])
            clean, masked, reference = found.transpose(2, 3).unbind()
            return clean, masked, reference
        rows: list[list[Tensor]] = [[], [], []]
        for k, key in enumerate(batch["key"]):
            codes = self._codes(key, batch, k)
            frames, apart = batch["frames"][k].cpu(), batch["reference_frames"][k].cpu()
            for row, code in zip(
                rows, (codes[0][frames], codes[1][frames], codes[0][apart]), strict=True
            ):
                row.append(code.transpose(0, 1))
        clean, masked, reference = (torch.stack(row).to(self.device) for row in rows)
        return clean, masked, reference

    def _codes(self, key: str, batch: Mapping[str, Any], row: int) -> Tensor:
        """``(2, N, 4, h, w)`` of all frames of a clip, whole and masked; encoded once."""
        if key not in self._bank:
            from ..data import to_pictures

            clips = self._clips(bool(batch.get("validation", False)))
            clip = clips[int(batch["clip"][row])]
            assert clip.key == key, (clip.key, key)
            size = self.recipe.data.resolution
            crops = to_pictures(clip.crops(range(clip.frame_count), size)).to(self.device)
            hidden = torch.from_numpy(region.hidden(size).copy()).to(self.device)
            found = self._encoded(torch.cat([crops, crops * ~hidden]))
            self._bank[key] = torch.stack(found.cpu().chunk(2))
        return self._bank[key]

    def _encoded(self, pictures: Tensor) -> Tensor:
        assert self.pictures is not None, "begin comes first"
        return self.pictures.encode(pictures)

    def _decoded(self, latents: Tensor) -> Tensor:
        """Crops ``(B, T, 3, R, R)`` of ``(B, 4, T, h, w)``, with a gradient."""
        assert self.pictures is not None, "begin comes first"
        vae, dtype = self.pictures.vae, self.pictures.dtype
        scale = self.pictures.scale

        def decode(part: Tensor) -> Tensor:
            return vae.decode(part.to(dtype) / scale).sample.float()

        rows = _rows(latents).flatten(0, 1)
        keep = self.recipe.run.gradient_checkpointing and torch.is_grad_enabled()
        parts = [
            checkpoint(decode, part, use_reentrant=False) if keep else decode(part)
            for part in rows.split(self.pictures.batch)
        ]
        return torch.cat(parts).unflatten(0, (latents.shape[0], latents.shape[2]))

    # --- validation

    @torch.no_grad()
    def validate(
        self, network: nn.Module, stage: StageConfig, folder: Path | None
    ) -> dict[str, float]:
        figures = {"reconstruction": self._reconstruction(network, stage)}
        drawn: list[dict[str, float]] = []
        clips = self._clips(True)
        sheets: list[Tensor] = []
        for number in self._shown_clips(stage):
            try:
                crops, made, mel = self._draw(network, clips[number])
            except BadClip as error:
                log.warning("%s is not drawn: %s", clips[number], error)
                continue
            if "sync" in self.judges and mel is not None:
                drawn.append(self._heard(made, mel))
            pick = np.linspace(0, len(crops) - 1, 12).astype(int)
            sheets += [crops[pick], made[pick]]
        if folder is not None and sheets:
            contact_sheet(folder / "drawn.png", torch.cat(sheets).cpu(), columns=12)
        for name in drawn[0] if drawn else ():
            figures[name] = float(np.mean([one[name] for one in drawn]))
        return figures

    def _shown_clips(self, stage: StageConfig) -> list[int]:
        """Numbers of the clips that are drawn, the same each time, spread over those long enough."""
        from ..data import Windows

        samples = self.samples(stage, validation=True)
        assert isinstance(samples, Windows)
        usable = samples.usable.tolist()
        count = min(self.recipe.run.validation_clips, len(usable))
        return [usable[k * len(usable) // count] for k in range(count)]

    def _reconstruction(self, network: nn.Module, stage: StageConfig) -> float:
        """Error of the noise on held-out windows, each at the step that its number gives it."""
        from torch.utils.data import default_collate

        samples = self.samples(stage, validation=True)
        plain = replace(stage, loss=type(stage.loss)(), from_noise=0.0, from_own=0.0)
        total = 0.0
        for start in range(0, self.recipe.run.validation_batches * stage.batch, stage.batch):
            batch = default_collate([samples[k] for k in range(start, start + stage.batch)])
            moved = {k: v.to(self.device) if torch.is_tensor(v) else v for k, v in batch.items()}
            terms = self.losses(network, {**moved, "validation": True}, plain)
            total += float(terms["noise"])
        return total / self.recipe.run.validation_batches

    def _draw(self, network: nn.Module, clip: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        """Crops of a clip, the same with the mouth drawn anew, both ``(T, 3, R, R)``, and its mel."""
        from ..data import to_pictures, tokens

        size = self.recipe.data.resolution
        frames = np.arange(min(clip.frame_count, SHOWN))
        crops = to_pictures(clip.crops(frames.tolist(), size)).to(self.device)
        hidden = torch.from_numpy(region.hidden(size).copy()).to(self.device)
        codes = self._encoded(torch.cat([crops * ~hidden, crops])).chunk(2)
        mask = self._mask(codes[0][None].transpose(1, 2))[0].transpose(0, 1)
        conditions = torch.cat([mask, *codes], dim=1)
        inner: Any = getattr(network, "module", network)
        noise = torch.randn(
            codes[0].shape[1:], generator=torch.Generator().manual_seed(self.recipe.seed)
        )
        heard = torch.from_numpy(tokens(clip, frames))
        latents, _ = denoise(inner, conditions, heard, noise, preset(VALIDATION, "cpu"))
        assert self.pictures is not None
        made = self.pictures.decode(latents).clamp(-1, 1)
        paint = torch.from_numpy(region.paint(size).copy()).to(self.device)
        made = made * paint + crops * (1 - paint)
        mel = clip.stored("mel")
        return crops, made, None if mel is None else torch.from_numpy(mel)

    def _heard(self, made: Tensor, mel: Tensor) -> dict[str, float]:
        """Mean cosine at the right place, and the frames by which another place fits better."""
        judge = self.judges["sync"]
        if not _sees_pixels(judge):
            return {}
        length, columns = judge.config.frames, judge.config.columns
        starts = range(0, len(made) - length + 1, 4)
        seen = judge.visual_encoder(
            losses.sync_view(torch.stack([made[s : s + length] for s in starts]), judge)
        )
        fits = []
        for shift in range(-SHIFTS, SHIFTS + 1):
            cosines = []
            for row, start in enumerate(starts):
                first = int(80 * (start + shift) / 25)
                if start + shift < 0 or first + columns > mel.shape[1]:
                    continue
                sound = mel[None, None, :, first : first + columns].to(made)
                cosines.append(float((judge.audio_encoder(sound)[0] * seen[row]).sum()))
            fits.append(float(np.mean(cosines)) if cosines else 0.0)
        return {
            "sync": fits[SHIFTS],
            # of the sound behind the picture, so that 0 is right
            "offset": abs(int(np.argmax(fits)) - SHIFTS),
        }

    def export(self, network: nn.Module, path: Path) -> None:
        """Names and shapes of the published checkpoints; the position tables are among them."""
        from safetensors.torch import save_file

        inner: Any = getattr(network, "module", network)
        save_file(
            {
                name: value.detach().half().contiguous()
                for name, value in inner.state_dict().items()
            },
            path,
            metadata={"format": "pt"},
        )


def own_shape(own: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return own[name].shape if name in own else None


def _sees_pixels(judge: Any) -> bool:
    return judge.config.visual.in_channels == 3 * judge.config.frames


def _rows(latents: Tensor) -> Tensor:
    """``(B, 4, T, h, w)`` as ``(B, T, 4, h, w)``."""
    return latents.transpose(1, 2)


def _alphas_cumprod() -> Tensor:
    """The table of the noise that inference takes away."""
    from diffusers.schedulers import DDIMScheduler

    return DDIMScheduler(**NOISE).alphas_cumprod
