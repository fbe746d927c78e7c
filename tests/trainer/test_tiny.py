"""The bundled network lip-syncs a person and a voice that it has never met, through the engine."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for library in ("diffusers", "transformers"):
    pytest.importorskip(library)

from lipsync_core.engines import pick  # noqa: E402
from lipsync_core.types import Settings  # noqa: E402
from trainer.presenters import measure  # noqa: E402
from trainer.presenters.dubbing import dubbed, truth  # noqa: E402
from trainer.presenters.people import numbers  # noqa: E402
from trainer.presenters.take import Take  # noqa: E402

FRAMES = 48


def test_the_mouth_follows_a_strangers_voice() -> None:
    first, second = numbers(101, 2, "held-out")
    take = Take(first, FRAMES, resolution=64, seed=3)
    other = Take(second, FRAMES, resolution=64, seed=4)
    engine = pick("latentsync-tiny")
    try:
        drawn = dubbed(engine, take, other, Settings(preset="fast", device="cpu"))
    finally:
        engine.close()
    seen, right, own = (
        measure.opening(pictures, take.person)
        for pictures in (drawn, truth(take, other), take.crops())
    )
    assert abs(measure.lag(seen, right)) <= 1
    likeness = np.corrcoef(seen, right)[0, 1]
    assert likeness > 0.7
    assert likeness > np.corrcoef(seen, own)[0, 1] + 0.3
