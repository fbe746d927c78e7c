"""A picture of two people made from the bundled photograph, to try the choice of a face on."""

from __future__ import annotations

from pathlib import Path

from . import photograph


def two(folder: Path) -> Path:
    """Writes the head beside its own mirror image into ``folder``; 640x320, returns the path."""
    import cv2
    import numpy as np

    picture = np.frombuffer(photograph(folder).read_bytes(), np.uint8)
    picture = cv2.imdecode(picture, cv2.IMREAD_COLOR)
    assert picture is not None
    picture = picture[:320, 64:384]
    # The other one a little darker and cooler, so that nobody takes them for one person.
    other = np.clip(picture[:, ::-1] * np.array([0.95, 0.85, 0.80]), 0, 255).astype(np.uint8)
    path = folder / "two_people.png"
    path.write_bytes(cv2.imencode(".png", np.hstack([picture, other]))[1].tobytes())
    return path
