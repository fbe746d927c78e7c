"""What a run leaves on disk so that it can go on: states that appear whole or not at all."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lipsync_core.errors import LipSyncError

if TYPE_CHECKING:
    import torch
    from torch import nn

POSITION = "position.json"
STATES = "states"
TORN = ("iostream error", "unexpected pos", "file write failed")
"""By which torch tells of a full disk, in errors that are not the system's."""


class TrainingError(LipSyncError):
    """A run cannot begin or go on."""


class Stopped(TrainingError):
    """Asked to stop; a state was saved."""


@dataclass(kw_only=True)
class Position:
    """Where a run stands. With the weights, the optimizer and the random numbers it is a state."""

    step: int = 0
    """Steps of the run that are done."""
    stage: str = ""
    stage_step: int = 0
    """Those of the present stage."""
    batches: int = 0
    """Batches that each rank has drawn, in the numbering of the present stage."""
    ranks: int = 1
    batch: int = 1
    """Samples of each rank at a time, by which ``batches`` counts."""
    skipped: int = 0
    """Steps of the run whose loss or gradient was no number."""
    bad_samples: int = 0
    """Samples of the run that could not be read, and in whose place others were drawn."""
    seconds: float = 0.0
    """Of training, over all the times that the run was taken up."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Figures of the validations of the present stage, each with its ``stage_step``."""
    sums: dict[str, float] = field(default_factory=dict)
    """Of the loss and its terms since the last line of the log."""
    count: int = 0
    """Steps in ``sums``."""
    ended: str = ""
    """``steps`` or ``switch``: what the present stage was over by, if it is over."""

    @property
    def drawn(self) -> int:
        """Samples of the run that are used up."""
        return self.batches * self.ranks * self.batch

    def renumber(self, ranks: int, batch: int) -> None:
        """Counts in batches of another size; no sample is drawn twice, a few may be left out."""
        self.batches = -(-self.drawn // (ranks * batch))
        self.ranks, self.batch = ranks, batch

    def save(self, folder: Path) -> None:
        (folder / POSITION).write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Position:
        read = json.loads((folder / POSITION).read_text(encoding="utf-8"))
        known = {one.name for one in fields(cls)}
        if unknown := sorted(set(read) - known):
            raise TrainingError(
                f"{folder} is of another version ({', '.join(unknown)} is not known here); begin "
                "anew with --fresh"
            )
        return cls(**read)


def newest(run: Path) -> Path | None:
    """The last whole state of a run."""
    found = sorted((run / STATES).glob("step-*"))
    return next((one for one in reversed(found) if (one / POSITION).is_file()), None)


def unfinished(run: Path, step: int) -> Path:
    """A new empty folder in which a state may grow; ``publish`` gives it its name."""
    part = run / STATES / f".step-{step:09d}.part"
    if part.exists():
        shutil.rmtree(part)
    part.mkdir(parents=True)
    return part


def publish(part: Path, keep: int) -> Path:
    """Names a grown state and drops all but the newest ``keep``, and what was left unfinished."""
    whole = part.with_name(part.name.strip(".").removesuffix(".part"))
    # what only waits to be written would be empty after a power cut, behind a name that says whole
    for one in [*part.rglob("*"), part]:
        _settle(one)
    part.rename(whole)
    _settle(whole.parent)
    for rest in whole.parent.glob(".step-*"):
        shutil.rmtree(rest, ignore_errors=True)
    for old in sorted(whole.parent.glob("step-*"))[:-keep]:
        # out of sight first: a kill while files go leaves no half of a state
        gone = old.rename(old.with_name(f".{old.name}.old"))
        shutil.rmtree(gone, ignore_errors=True)
    return whole


def _settle(path: Path) -> None:
    """Waits until a file or the names in a folder are on the disk."""
    if path.is_dir() and os.name == "nt":
        # its folders cannot be opened, and keep their names by themselves
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def written(run: Path, part: Path | None = None) -> Iterator[None]:
    """What cannot be written inside is told in one line; ``part`` is then removed, to make room."""
    try:
        yield
    except Exception as error:
        torn = type(error).__name__ == "SafetensorError" or any(one in str(error) for one in TORN)
        if not isinstance(error, OSError) and not torn:
            raise
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
        said = getattr(error, "strerror", None) or " ".join(str(error).split())[:120]
        raise TrainingError(
            f"{getattr(error, 'filename', None) or run} cannot be written ({said}); make room, or "
            "name another folder with --output; the last state that was saved is whole"
        ) from error


def put_aside(run: Path) -> Path | None:
    """Moves a run out of the way, so that a fresh one can take its folder; where it went."""
    if not run.exists() or not any(run.iterdir()):
        return None
    number = 1
    while (aside := run.with_name(f"{run.name}.{number}")).exists():
        number += 1
    run.rename(aside)
    return aside


@contextmanager
def same_dice() -> Iterator[None]:
    """Leaves all random numbers as they were, whatever is drawn inside."""
    import numpy as np
    import torch

    python, numbers, own = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
        torch.set_rng_state(own)
        if devices:
            torch.cuda.set_rng_state_all(devices)


class Ema:
    """The running mean of what is trained, in float32, as large as that on the same device.

    Under FSDP each rank keeps the mean of its own shard.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.live = {n: p for n, p in network.named_parameters() if p.requires_grad}
        self.mean = {n: p.detach().float().clone() for n, p in self.live.items()}

    def update(self, step: int) -> None:
        """After step number ``step`` of the stage, from 1 on; the first steps weigh more."""
        import torch

        # so that the mean is of what was trained and not of where it began
        decay = min(self.decay, step / (step + 9))
        with torch.no_grad():
            for name, mean in self.mean.items():
                mean.lerp_(self.live[name].detach().float(), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network holds the mean inside."""
        kept = {name: live.detach().clone() for name, live in self.live.items()}
        self.hand_over()
        try:
            yield
        finally:
            self._fill(kept)

    def hand_over(self) -> None:
        """The network holds the mean from now on."""
        self._fill(self.mean)

    def _fill(self, values: dict[str, torch.Tensor]) -> None:
        import torch

        with torch.no_grad():
            for name, value in values.items():
                self.live[name].copy_(value)

    def save(self, path: Path) -> None:
        import torch

        torch.save({"mean": {n: _local(v) for n, v in self.mean.items()}}, path)

    def load(self, path: Path) -> None:
        import torch

        if not path.is_file():
            raise TrainingError(
                f"{path.parent} holds no running mean of the weights ({path.name}), but run.ema asks "
                "for one; set run.ema=0 or begin anew with --fresh"
            )
        read = torch.load(path, weights_only=True, map_location="cpu")["mean"]
        for name, mean in self.mean.items():
            _local(mean).copy_(read[name])


def _local(value: Any) -> torch.Tensor:
    """The part of a tensor that this rank holds."""
    return value.to_local() if hasattr(value, "to_local") else value
