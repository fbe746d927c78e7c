"""What a recipe will need in memory, counted without allocating it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .config import Recipe, StageConfig

if TYPE_CHECKING:
    from .tasks.base import Task

WORD = 4
"""Bytes of a float32, in which weights, gradients and what the optimizer keeps are held whatever the
precision: fp16 and bf16 are of activations."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of one stage, in bytes on each device; FSDP divides all of it by their number."""

    stage: str
    parameters: int
    """Numbers in the network."""
    trained: int
    """Those of them that move."""
    weights: int
    gradients: int
    optimizer: int
    """Two running means of AdamW."""
    mean: int
    """Running mean of the weights."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.mean


def estimates(recipe: Recipe, kind: type[Task] | None = None) -> list[Estimate]:
    """One a stage. Not in it: activations, which grow with batch and resolution, and the frozen
    networks that a loss asks (VAE, SyncNet, VGG, VideoMAE)."""
    return [_estimate(recipe, name, stage, kind) for name, stage in recipe.stages.items()]


def _estimate(recipe: Recipe, name: str, stage: StageConfig, kind: type[Task] | None) -> Estimate:
    import torch

    from .tasks import named

    # A task builds its network for the first stage; no weights are read where none are named.
    alone = replace(recipe, stages={name: stage}, model=replace(recipe.model, init=""))
    with torch.device("meta"):
        network = (kind or named(recipe.task))(alone, torch.device("meta")).network
    sizes = {key: value.numel() for key, value in network.named_parameters()}
    # a table of positions, say, is never trained
    free = {key for key, value in network.named_parameters() if value.requires_grad}
    trained = sum(
        sizes[key]
        for key in free
        if not stage.trainable or any(part in key for part in stage.trainable)
    )
    buffers = sum(value.numel() * value.element_size() for value in network.buffers())
    return Estimate(
        stage=name,
        parameters=sum(sizes.values()),
        trained=trained,
        weights=sum(sizes.values()) * WORD + buffers,
        gradients=trained * WORD,
        optimizer=trained * WORD * 2,
        mean=trained * WORD if recipe.run.ema else 0,
    )


def table(recipe: Recipe) -> str:
    """For people."""
    rows = [("stage", "network", "trained", "weights", "gradients", "AdamW", "mean", "together")]
    for one in estimates(recipe):
        sizes = (one.weights, one.gradients, one.optimizer, one.mean, one.total)
        counts = (f"{one.parameters / 1e6:.2f} M", f"{one.trained / 1e6:.2f} M")
        rows.append((one.stage, *counts, *map(_bytes, sizes)))
    notes = (
        "On each device, in float32; FSDP divides it by the number of devices. Activations and the "
        "frozen networks of the losses come on top."
    )
    return f"{_aligned(rows)}\n{notes}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    )


def _bytes(count: int) -> str:
    if count == 0:
        return "-"
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
