"""What can be trained, one file or folder a task. One row each in ``TASKS``."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING

from lipsync_core.errors import SettingsError

if TYPE_CHECKING:
    from .base import Task


@dataclass(frozen=True, kw_only=True)
class Row:
    """A task before its networks are imported."""

    name: str
    """What a recipe calls it."""
    module: str
    kind: str
    """Class in the module."""
    figures: tuple[str, ...]
    """What its validation measures, and a stage's switch may go by."""
    continues: bool = True
    """Whether it can begin with weights that are there (``model.init``)."""

    def load(self) -> type[Task]:
        return getattr(import_module(f".{self.module}", __name__), self.kind)


TASKS: tuple[Row, ...] = (
    Row(
        name="latentsync",
        module="latentsync",
        kind="LatentSync",
        figures=("reconstruction", "sync", "offset"),
    ),
    Row(name="syncnet", module="syncnet", kind="SyncNet", figures=("reconstruction", "accuracy")),
    Row(
        name="vae",
        module="vae",
        kind="VAE",
        figures=("reconstruction", "psnr"),
        continues=False,
    ),
    Row(
        name="listener",
        module="listener",
        kind="Listener",
        figures=("reconstruction", "opening_r"),
        continues=False,
    ),
)


def named(name: str) -> type[Task]:
    """The task that a recipe calls so; ``SettingsError`` names the nearest."""
    for row in TASKS:
        if row.name == name:
            return row.load()
    known = [row.name for row in TASKS]
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    raise SettingsError(f"there is no task {name!r}; {hint}")
