"""Trains the mouth network from a recipe and writes it as fp16 safetensors.

python -m trainer.tasks.mouth.train RECIPE.yaml --data train.npz --held held.npz --out mouth.safetensors
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from lipsync_core.engines.draft.speech import VOICE
from lipsync_core.models.dense import multiplies_bfloat16
from lipsync_core.models.mouth import Mouth

from .augment import Corpus, example
from .phones import CODES, SHAPES, VISEME_COUNT, VISEMES


class Examples(Dataset):
    """Every item once an epoch, augmented anew each time; the draw depends on seed, epoch and index alone."""

    def __init__(self, paths: list[Path], seed: int) -> None:
        self.corpus, self.seed, self.epoch = Corpus.read(*paths), seed, 0

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng([self.seed, self.epoch, index])
        return example(self.corpus, index, rng)


def class_weights(lips: float) -> Tensor:
    """``(VISEME_COUNT,)``: sounds of the lips and those that are taken for them weigh ``lips``, others 1."""
    out = torch.ones(VISEME_COUNT)
    out[[VISEMES[CODES[symbol]] for symbol in "mbpnlvfw"]] = lips
    return out


def contact_rows(classes: Tensor, more: float) -> Tensor:
    """``(B, 1, N)``: rows of sounds that are taken for p, b or m weigh ``more``, others 1."""
    out = torch.ones(VISEME_COUNT)
    out[[VISEMES[CODES[symbol]] for symbol in "nŋldɡkð"]] = more
    return out[classes][:, None]


def losses(
    logits: Tensor, visemes: Tensor, shapes: Tensor, classes: Tensor, recipe: dict[str, Any]
) -> dict[str, Tensor]:
    """Terms by name. ``logits`` ``(B, 7, N)``, ``shapes`` ``(B, N, 7)``, ``classes`` ``(B, N)``."""
    edge, weights = recipe["edge"], recipe["loss"]
    inner = slice(edge, -edge)
    shapes = shapes.transpose(1, 2)[:, :, inner]
    logits = logits[:, :, inner]
    shape_weight = torch.tensor(weights["shape"], dtype=torch.float32)[:, None]
    error = torch.sigmoid(logits[:, :4]) - shapes[:, :4]
    motion = error.diff(dim=2)
    contact_weight = torch.tensor(weights["contact"], dtype=torch.float32)[:, None]
    contact = F.binary_cross_entropy_with_logits(
        logits[:, 4:6],
        shapes[:, 4:6],
        reduction="none",
        pos_weight=torch.tensor(float(weights["rare"])),
    )
    return {
        "shape": (shape_weight * error.square()).mean(),
        "motion": weights["motion"] * (shape_weight * motion.square()).mean(),
        "contact": (
            contact_weight * contact * contact_rows(classes[:, inner], weights["mistaken"])
        ).mean(),
        "voice": weights["voice"]
        * (torch.sigmoid(logits[:, VOICE]) - shapes[:, VOICE]).square().mean(),
        "viseme": weights["viseme"]
        * F.cross_entropy(
            visemes[:, :, inner], classes[:, inner], weight=class_weights(weights["lips"])
        ),
    }


@torch.no_grad()
def held_out(model: Mouth, data: Examples, edge: int) -> dict[str, float]:
    """Correlation of each shape over the augmented held-out items."""
    model.train(False)
    heard, wanted = [], []
    for index in range(len(data)):
        x, shapes, _ = data[index]
        logits, _ = model(torch.from_numpy(x).T[None])
        heard.append(torch.sigmoid(logits)[0].T.numpy()[edge:-edge])
        wanted.append(shapes[edge:-edge])
    model.train()
    a, b = np.concatenate(heard), np.concatenate(wanted)
    return {
        name: float(np.corrcoef(a[:, i], b[:, i])[0, 1])
        for i, name in enumerate((*SHAPES, "voice"))
    }


def write(model: Mouth, path: Path, dilations: list[int]) -> None:
    """The weights that inference needs, fp16; the viseme head stays behind."""
    tensors = {
        name: tensor.detach().to(torch.float16).contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith("viseme")
    }
    tensors["dilations"] = torch.tensor(dilations, dtype=torch.int32)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".part")
    save_file(tensors, fresh)
    fresh.replace(path)


def _batches(data: Examples, recipe: dict[str, Any], workers: int) -> Iterator[list[Tensor]]:
    for epoch in range(recipe["epochs"]):
        data.epoch = epoch
        order = torch.Generator().manual_seed(recipe["seed"] * 1000 + epoch)
        yield from DataLoader(
            data,
            recipe["batch"],
            shuffle=True,
            drop_last=True,
            generator=order,
            num_workers=workers,
        )


def train(
    recipe: dict[str, Any],
    data_paths: list[Path],
    held_paths: list[Path],
    out: Path,
    workers: int,
    start: Path | None,
) -> None:
    """One run: the same recipe, data and thread count give the same weights."""
    torch.manual_seed(recipe["seed"])
    data, held = Examples(data_paths, recipe["seed"]), Examples(held_paths, 12345)
    model = Mouth(viseme_count=VISEME_COUNT, **recipe["model"])
    if start is not None:
        state = {name: tensor.float() for name, tensor in load_file(start).items()}
        state.pop("dilations")
        model.load_state_dict(state, strict=False)  # the viseme head was left behind
    average = Mouth(viseme_count=VISEME_COUNT, **recipe["model"])
    average.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(
        model.parameters(), recipe["learning_rate"], weight_decay=recipe["weight_decay"]
    )
    steps_per_epoch = len(data) // recipe["batch"]
    total = steps_per_epoch * recipe["epochs"]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe["learning_rate"], total)
    half = recipe["bfloat16"] and multiplies_bfloat16()
    began, sums = time.monotonic(), {}
    for step, (x, shapes, classes) in enumerate(_batches(data, recipe, workers), 1):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits, visemes = model(x.transpose(1, 2))
        terms = losses(logits.float(), visemes.float(), shapes, classes, recipe)
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        keep = min(recipe["average"], step / (step + 10))
        with torch.no_grad():
            for mean, now in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(now, 1 - keep)
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach()) / steps_per_epoch
        if step % steps_per_epoch == 0:
            line = " ".join(f"{k} {v:.4f}" for k, v in sums.items())
            epoch, sums = step // steps_per_epoch, {}
            print(f"epoch {epoch}: {line} ({time.monotonic() - began:.0f} s)", flush=True)
            if epoch % 4 == 0 or step == total:
                scores = held_out(average, held, recipe["edge"])
                print(
                    "  held out r:", " ".join(f"{k} {v:.3f}" for k, v in scores.items()), flush=True
                )
                write(average, out, list(recipe["model"]["dilations"]))
    count = sum(p.numel() for n, p in average.named_parameters() if not n.startswith("viseme"))
    print(f"{count} weights, {out.stat().st_size} bytes in {out}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--held", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--start", type=Path, help="weights to go on from")
    parser.add_argument("--rate", type=float, help="learning rate, instead of the recipe's")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = yaml.safe_load(options.recipe.read_text(encoding="utf-8"))
    if options.rate:
        recipe["learning_rate"] = options.rate
    if options.epochs:
        recipe["epochs"] = options.epochs
    train(recipe, options.data, options.held, options.out, options.workers, options.start)


if __name__ == "__main__":
    main()
