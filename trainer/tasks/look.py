"""What the tasks share: the recipe's data, and pictures of how a run is doing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from torch import Tensor

from lipsync_core.errors import SettingsError

if TYPE_CHECKING:
    from ..config import Recipe
    from ..data import Clips


def open_clips(recipe: Recipe, *, validation: bool) -> Clips:
    """The recipe's clips of one side; no recording is on both."""
    from ..data import split

    if not recipe.data.train:
        raise SettingsError(
            "the recipe names no data; give data.train=[FOLDER], made by python -m lipsync_core.preprocess "
            "or python -m trainer.presenters make"
        )
    return split(recipe.data, cache_mb=recipe.data.cache_mb)[validation]


def contact_sheet(path: Path, pictures: Tensor, *, columns: int, enlarge: int = 2) -> None:
    """A PNG of ``(N, 3, R, R)`` pictures in -1..1, row after row."""
    tiles = ((pictures.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    write_sheet(path, list(tiles), columns=columns, enlarge=enlarge)


def write_sheet(path: Path, tiles: Sequence[np.ndarray], *, columns: int, enlarge: int = 1) -> None:
    """A PNG of RGB tiles of one size; appears complete."""
    side = tiles[0].shape
    blank = np.zeros(side, np.uint8)
    rows = [
        np.concatenate(
            [tiles[k] if k < len(tiles) else blank for k in range(start, start + columns)], axis=1
        )
        for start in range(0, len(tiles), columns)
    ]
    sheet = np.concatenate(rows)
    if enlarge > 1:
        sheet = cv2.resize(sheet, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_NEAREST)
    done, data = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    assert done
    part = path.with_suffix(".part")
    part.write_bytes(data.tobytes())
    part.replace(path)
