"""The bundled network lip-syncs a person and a voice that it has never met, through the engine."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for library in ("diffusers", "transformers"):
    pytest.importorskip(library)

from lipsync_core.engines import pick  # noqa: E402
from lipsync_core.media.audio import MemoryVoice  # noqa: E402
from lipsync_core.types import Audio, FaceTrack, Settings  # noqa: E402
from trainer.presenters import measure  # noqa: E402
from trainer.presenters.people import numbers  # noqa: E402
from trainer.presenters.take import Take  # noqa: E402

FRAMES = 48


def test_the_mouth_follows_a_strangers_voice() -> None:
    first, second = numbers(101, 2, "held-out")
    take = Take(first, FRAMES, resolution=64, seed=3)
    other = Take(second, FRAMES, resolution=64, seed=4)
    truth = np.stack(
        [take.picture(i, other.shapes[i], take.matrices[i], (64, 64)) for i in range(FRAMES)]
    )
    engine = pick("latentsync-tiny")
    track = FaceTrack(
        points=take.points,
        boxes=take.boxes,
        present=np.ones(FRAMES, bool),
        strength=np.ones(FRAMES, np.float32),
        shots=np.zeros(FRAMES, np.int32),
        detector="truth",
    )
    voice = MemoryVoice(Audio(samples=other.sound[None].astype(np.float32), rate=16000))
    try:
        session = engine.start(
            speech=engine.listen(voice, [Fraction(i, 25) for i in range(FRAMES)]),
            track=track,
            study=None,
            settings=Settings(preset="fast", device="cpu"),
        )
        crops, drawn = take.crops(), []
        for start in range(0, FRAMES, session.window):
            rows = list(range(start, min(start + session.window, FRAMES)))
            made = session.render(crops[rows], rows, rows)
            mask = made.masks[..., None]
            drawn.append(made.crops * mask + crops[rows] * (1 - mask))
    finally:
        engine.close()
    pictures = np.clip(np.concatenate(drawn), 0, 255).round().astype(np.uint8)
    seen, right = (measure.opening(x, take.person) for x in (pictures, truth))
    own = measure.opening(crops, take.person)
    assert abs(measure.lag(seen, right)) <= 1
    likeness = np.corrcoef(seen, right)[0, 1]
    assert likeness > 0.7
    assert likeness > np.corrcoef(seen, own)[0, 1] + 0.3
