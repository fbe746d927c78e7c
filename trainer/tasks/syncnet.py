"""StableSyncNet: whether a window of mouths and their sound belong together (LatentSync)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from lipsync_core.errors import SettingsError
from lipsync_core.models.syncnet import BY_KIND, StableSyncNet

from .. import losses
from .base import Task
from .look import contact_sheet, open_clips

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from lipsync_core.engines.latentsync.pictures import Pictures

    from ..config import Recipe, StageConfig


class SyncNet(Task):
    """Pairs that belong together against pairs that do not: cross-entropy of the cosine."""

    name: ClassVar[str] = "syncnet"

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        super().__init__(recipe, device)
        kind = recipe.model.syncnet_kind
        if kind not in BY_KIND:
            raise SettingsError(
                f"there is no SyncNet {kind!r}; model.syncnet_kind is one of {', '.join(BY_KIND)}"
            )
        self.config = BY_KIND[kind]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.network = StableSyncNet(self.config)
        if recipe.model.init:
            from .. import frozen

            given = frozen.syncnet(recipe.model.init)
            if given.config != self.config:
                raise SettingsError(f"{recipe.model.init} is another SyncNet than {kind}")
            self.network.load_state_dict(given.state_dict())
        self._pictures: Pictures | None = None

    @property
    def on_latents(self) -> bool:
        return self.config.visual.in_channels != 3 * self.config.frames

    def begin(self, stage: StageConfig) -> None:
        self.network.requires_grad_(True)
        if self.on_latents and self._pictures is None:
            from .. import frozen

            self._pictures = frozen.pictures(
                self.recipe.model.vae, self.device, exact=self.device.type == "cpu"
            )

    def samples(self, stage: StageConfig, *, validation: bool) -> Dataset[dict[str, Any]]:
        from ..data import Pairs

        pairs = self.recipe.pairs
        if validation:
            # an even share, or accuracies of two recipes would not be the same thing
            pairs = replace(pairs, positive=0.5)
        return Pairs(
            open_clips(self.recipe, validation=validation),
            frames=self.config.frames,
            resolution=self.recipe.data.resolution,
            seed=self.recipe.seed + validation,
            pairs=pairs,
            max_bad=self.recipe.data.max_bad,
        )

    def _shown(self, crops: Tensor) -> Tensor:
        if self._pictures is not None:
            crops = self._pictures.encode(crops.flatten(0, 1)).unflatten(0, crops.shape[:2])
        network: Any = self.network
        return losses.sync_view(crops, network)

    def losses(
        self, network: nn.Module, batch: Mapping[str, Any], stage: StageConfig
    ) -> dict[str, Tensor]:
        return self.compared(network(*self.shown(batch)), [batch], stage)

    def compares(self, stage: StageConfig) -> bool:
        return stage.loss.contrastive > 0

    def shown(self, batch: Mapping[str, Any]) -> tuple[Tensor, ...]:
        return self._shown(batch["crops"]), batch["mel"]

    def compared(
        self,
        embeddings: Sequence[Tensor],
        batches: Sequence[Mapping[str, Any]],
        stage: StageConfig,
    ) -> dict[str, Tensor]:
        seen, heard = embeddings
        together = torch.cat([batch["together"] for batch in batches])
        terms = {}
        if stage.loss.sync > 0:
            terms["sync"] = losses.pair_loss(seen, heard, together)
        if stage.loss.contrastive > 0:
            terms["contrastive"] = losses.contrastive(seen, heard, together=together)
        return terms

    @torch.no_grad()
    def validate(
        self, network: nn.Module, stage: StageConfig, folder: Path | None
    ) -> dict[str, float]:
        samples = self.samples(stage, validation=True)
        loss, right = [], []
        shown: list[Tensor] = []
        for start in range(0, self.recipe.run.validation_batches * stage.batch, stage.batch):
            rows = [samples[number] for number in range(start, start + stage.batch)]
            crops = torch.stack([one["crops"] for one in rows]).to(self.device)
            mel = torch.stack([one["mel"] for one in rows]).to(self.device)
            together = torch.tensor([one["together"] for one in rows], device=self.device)
            seen, heard = network(self._shown(crops), mel)
            loss.append(float(losses.pair_loss(seen, heard, together)))
            right.append(float(losses.accuracy(seen, heard, together)))
            if len(shown) < 8:
                shown += [one["crops"][:8] for one in rows[:2]]
        if folder is not None:
            contact_sheet(folder / "pictures.png", torch.cat(shown), columns=8)
        return {"reconstruction": sum(loss) / len(loss), "accuracy": sum(right) / len(right)}

    def export(self, network: nn.Module, path: Path) -> None:
        """Names and shapes of the published files."""
        from safetensors.torch import save_file

        inner = getattr(network, "module", network)
        save_file(
            {
                name: value.detach().half().contiguous()
                for name, value in inner.state_dict().items()
            },
            path,
            metadata={"format": "pt", "lipsync": self.recipe.model.syncnet_kind},
        )
