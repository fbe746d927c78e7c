"""A small task that is real: a network of two layers learns a curve. Also a program that trains it."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from trainer import config
from trainer.config import Recipe, StageConfig
from trainer.tasks.base import Task


class Points(Dataset):
    """Number ``i`` gives the same points of a curve at every call."""

    def __init__(self, seed: int, bad: int, slow: float) -> None:
        self.seed, self.bad, self.slow = seed, bad, slow

    def __getitem__(self, i: int) -> dict[str, Any]:
        time.sleep(self.slow)
        dice = torch.Generator().manual_seed(self.seed * 1_000_003 + i)
        x = torch.rand(4, generator=dice) * 2 - 1
        y = torch.sin(3 * x) + 0.1 * torch.randn(4, generator=dice)
        if i == self.bad:
            y = y * torch.nan
        return {"x": x, "y": y, "seed": i}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 16)
        # draws from torch's own generator, so that a resume must bring that back too
        self.dropout = nn.Dropout(0.2)
        self.last = nn.Linear(16, 4)
        self.more: nn.Linear | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.dropout(torch.tanh(self.first(x)))
        if self.more is not None:
            hidden = hidden + self.more(hidden)
        return self.last(hidden)


class Curve(Task):
    name = "curve"
    bad = -1
    slow = 0.0

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        super().__init__(recipe, device)
        self.network = Net()
        self.network.dropout.p = recipe.model.audio_dropout

    def begin(self, stage: StageConfig) -> None:
        if stage.motion != "none" and self.network.more is None:
            self.network.more = nn.Linear(16, 16)
            nn.init.zeros_(self.network.more.weight)
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(
                not stage.trainable or any(part in name for part in stage.trainable)
            )

    def samples(self, stage: StageConfig, *, validation: bool) -> Points:
        return Points(self.recipe.seed + validation, self.bad, 0.0 if validation else self.slow)

    def losses(
        self, network: nn.Module, batch: Mapping[str, Any], stage: StageConfig
    ) -> dict[str, torch.Tensor]:
        drawn = network(batch["x"])
        terms = {"noise": F.mse_loss(drawn, batch["y"])}
        if stage.loss.pixel:
            terms["pixel"] = F.l1_loss(drawn, batch["y"])
        return terms

    def validate(
        self, network: nn.Module, stage: StageConfig, folder: Path | None
    ) -> dict[str, float]:
        assert not network.training
        points = self.samples(stage, validation=True)
        with torch.no_grad():
            losses = [F.mse_loss(network(points[i]["x"]), points[i]["y"]).item() for i in range(16)]
        if folder is not None:
            (folder / "sheet.txt").write_text(f"{losses}\n")
        return {"reconstruction": sum(losses) / len(losses), "luck": float(torch.rand(()))}

    def export(self, network: nn.Module, path: Path) -> None:
        from safetensors.torch import save_file

        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)


def main() -> None:
    """``curve_task.py RECIPE [--slow SECONDS] [--bad SAMPLE] [key=value…]``"""
    from lipsync_core.errors import LipSyncError
    from trainer.loop import train

    path, *rest = sys.argv[1:]
    for name, kind in (("slow", float), ("bad", int)):
        if f"--{name}" in rest:
            at = rest.index(f"--{name}")
            setattr(Curve, name, kind(rest[at + 1]))
            del rest[at : at + 2]
    try:
        train(config.load(path, rest), kind=Curve)
    except LipSyncError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
