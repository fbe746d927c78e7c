"""Where the figures of a run go: a table, TensorBoard, Weights & Biases."""

from __future__ import annotations

import csv
import json
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lipsync_core.errors import SettingsError

TABLE = "log.csv"
DIARY = "log.jsonl"


class Tracker(ABC):
    """One place. Only the first rank has any."""

    @abstractmethod
    def write(self, step: int, stage: str, figures: Mapping[str, float]) -> None: ...

    def close(self) -> None:
        return None


class Table(Tracker):
    """``log.csv``: a line a report, figures with all their digits; columns grow as names appear."""

    def __init__(self, folder: Path, after: int) -> None:
        self.path = folder / TABLE
        self.columns = ["step", "stage"]
        rows: list[dict[str, str]] = []
        if self.path.is_file():
            with self.path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self.columns = list(reader.fieldnames or self.columns)
                # what came after the state will come again; a kill may have left half a line
                rows = [row for row in reader if _whole(row) and int(row["step"]) <= after]
        self._rewrite(rows)

    def write(self, step: int, stage: str, figures: Mapping[str, float]) -> None:
        row = {"step": step, "stage": stage, **{name: repr(v) for name, v in figures.items()}}
        if new := [name for name in row if name not in self.columns]:
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            self.columns += new
            self._rewrite(rows)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    def _rewrite(self, rows: Sequence[Mapping[str, Any]]) -> None:
        part = self.path.with_suffix(".part")
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
        part.replace(self.path)


class TensorBoard(Tracker):
    """Files for ``tensorboard --logdir``."""

    def __init__(self, folder: Path, after: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise SettingsError(
                "run.trackers names tensorboard, which is not installed; run: pip install "
                '"lipsync-core[train]", or take it out of the list'
            ) from error
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=after + 1)

    def write(self, step: int, stage: str, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            group = name if "/" in name else f"train/{name}"
            self.writer.add_scalar(group, value, step)

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases(Tracker):
    """A run at wandb.ai, or offline where ``WANDB_MODE=offline`` says so."""

    def __init__(self, folder: Path, after: int) -> None:
        try:
            import wandb
        except ImportError as error:
            raise SettingsError(
                "run.trackers names wandb, which is not installed; run: pip install wandb, or take "
                "it out of the list"
            ) from error
        # kept with the run, so that a resume goes on in the same place and no other run does
        kept = folder / "wandb.id"
        if not kept.is_file():
            kept.write_text(uuid.uuid4().hex, encoding="utf-8")
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "lipsync"),
            name=folder.resolve().name,
            id=kept.read_text(encoding="utf-8"),
            resume="allow",
            dir=str(folder),
        )

    def write(self, step: int, stage: str, figures: Mapping[str, float]) -> None:
        self.run.log({**figures, "stage": stage}, step=step)

    def close(self) -> None:
        self.run.finish()


KINDS: Mapping[str, type[Tracker]] = {
    "csv": Table,
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}


class Diary:
    """``log.jsonl``: one JSON object a line for what happened: decisions, validations, skipped steps."""

    def __init__(self, folder: Path, after: int) -> None:
        self.path = folder / DIARY
        kept = []
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    said = json.loads(line)
                except ValueError:
                    continue
                if said.get("step", 0) <= after:
                    kept.append(line)
        part = self.path.with_suffix(".part")
        part.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        part.replace(self.path)

    def write(self, event: str, step: int, **said: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "step": step, **said}) + "\n")


def open_all(names: Sequence[str], folder: Path, *, after: int) -> list[Tracker]:
    """Trackers that go on behind step ``after``."""
    return [KINDS[name](folder, after) for name in names]


def _whole(row: Mapping[str | None, Any]) -> bool:
    step = row.get("step")
    return None not in row and None not in row.values() and str(step).isdigit()
