"""The main job on a real photograph with nothing downloaded: the demo and its sentence."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..types import Settings, Stages

if TYPE_CHECKING:
    from ..dub import Dubbed

SENTENCE = Path(__file__).parent / "sentence.flac"
"""Synthetic speech made for this repository by ``trainer.tasks.mouth.sentence``."""


def photograph(folder: Path) -> Path:
    """Writes the photograph into ``folder`` and returns its path.

    NASA's portrait of Eileen Collins, public domain, as scikit-image ships it (512x512).
    """
    import cv2
    from skimage import data

    path = folder / "astronaut.png"
    cv2.imwrite(str(path), cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR))
    return path


def make(output: Path, *, overwrite: bool = False, stages: Stages | None = None) -> list[Dubbed]:
    """Makes the bundled photograph speak the bundled sentence."""
    from ..dub import dub
    from ..faces.detect import yunet

    # Nothing is downloaded here: YuNet if it is on this machine already, else the cascade.
    detector = "cascade" if yunet.missing() else "yunet"
    with tempfile.TemporaryDirectory(prefix="lipsync-") as folder:
        return dub(
            photograph(Path(folder)),
            SENTENCE,
            output,
            settings=Settings(engine="draft", detector=detector, overwrite=overwrite),
            stages=stages,
        )
