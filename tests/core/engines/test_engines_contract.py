"""What every row of ``ENGINES`` promises, asked with a small drawn clip and a real voice track."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lipsync_core.engines import ENGINES, pick
from lipsync_core.engines.base import Engine, Session
from lipsync_core.errors import EngineError
from lipsync_core.faces import align
from lipsync_core.types import FaceTrack, Settings

COUNT = 48


class Hum:
    """A voice: two syllables a second of buzzing with formants, silence in the second half."""

    duration = Fraction(COUNT, 25)

    def blocks(self, rate: int):
        time = np.arange(int(self.duration * rate)) / rate
        buzz = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 20))
        beat = np.clip(np.sin(2 * np.pi * 2 * time), 0, 1) * (time < float(self.duration) / 2)
        sound = (0.1 * buzz * beat).astype(np.float32)
        yield from np.array_split(sound, 2)


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.name)
def engine(request) -> Engine:
    absent = request.param.missing()
    if absent is not None:
        pytest.skip(absent)
    return request.param


class Subject:
    """A drawn person, looked at by an engine."""

    def __init__(self, engine: Engine, clip, points: np.ndarray, count: int = COUNT) -> None:
        self.engine = engine
        self.frames = clip(0.12 * (1 - np.cos(np.arange(count) * np.pi / 6)))
        self.track = FaceTrack(
            points=points[None].repeat(count, 0),
            boxes=np.float32([[45, 30, 135, 150]]).repeat(count, 0),
            present=np.ones(count, bool),
            strength=np.ones(count, np.float32),
            shots=np.zeros(count, np.int32),
            detector="drawn",
        )

    def state(self) -> dict[str, np.ndarray] | None:
        study = self.engine.study()
        if study is None:
            return None
        for frame in self.frames:
            study.see(frame, self.track.points[frame.index])
        return study.state()

    def begin(self, **choices: str) -> Session:
        times = [Fraction(i, 25) for i in range(COUNT)]
        return self.engine.start(
            speech=self.engine.listen(Hum(), times),
            track=self.track,
            study=self.state(),
            settings=Settings(**choices),
        )

    def render(self, session: Session, *, spoil: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Crops and masks; ``spoil``: noise where the session says that it does not look."""
        template = self.engine.template(self.track)
        matrices = align.fit(self.track.points, template)
        crops, masks = [], []
        for start in range(0, COUNT, session.window):
            rows = list(range(start, min(start + session.window, COUNT)))
            sources = [row % len(self.frames) for row in rows]
            before = np.stack(
                [align.cut(self.frames[i], matrices[i], template.size) for i in sources]
            )
            if spoil:
                hidden = before[:, : int(session.blind * template.size)]
                hidden[:] = np.random.default_rng(start).integers(0, 256, hidden.shape)
            given = before.copy()
            result = session.render(given, sources, rows)
            np.testing.assert_array_equal(given, before)
            assert result.crops.shape == before.shape
            assert result.masks.shape == before.shape[:3]
            assert result.masks.dtype == np.float32
            assert result.crops.dtype in (np.uint8, np.float32)
            crops.append(result.crops)
            masks.append(result.masks)
        return np.concatenate(crops), np.concatenate(masks)


def test_a_row_says_what_it_is(engine):
    assert engine.name == engine.name.lower()
    assert engine.summary
    assert "\n" not in engine.summary
    assert pick(engine.name) is engine


def test_the_defaults_can_be_followed(engine):
    engine.check(Settings())


def test_names_are_unique_and_unknown_ones_are_refused():
    names = [engine.name for engine in ENGINES]
    assert len(set(names)) == len(names)
    with pytest.raises(EngineError, match=r"nonsense.*auto"):
        pick("nonsense")
    assert pick("auto") in ENGINES


def test_features_have_one_row_a_time(engine):
    times = [Fraction(i, 25) for i in range(17)]
    heard = engine.listen(Hum(), times)
    assert len(heard) == 17
    # a diffusion engine makes its rows when they are asked for
    rows = heard if isinstance(heard, np.ndarray) else heard.tokens(range(17)).numpy()
    assert len(rows) == 17
    assert np.isfinite(rows).all()


@pytest.mark.parametrize("count", [COUNT, 1], ids=["clip", "still"])
def test_crops_and_masks_fit_the_input(engine, clip, points, count):
    subject = Subject(engine, clip, points, count)
    crops, masks = subject.render(subject.begin())
    assert masks.min() >= 0
    assert masks.max() <= 1
    assert masks.max() > 0.9
    assert np.isfinite(crops.astype(np.float64)).all()
    border = np.concatenate([masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]], axis=1)
    assert border.max() == 0


@pytest.mark.parametrize(("count", "mode"), [(COUNT, "units"), (COUNT, "warp"), (1, "auto")])
def test_what_a_session_is_blind_to_may_hold_anything(engine, clip, points, count, mode):
    subject = Subject(engine, clip, points, count)
    session = subject.begin(draft_mode=mode)
    if not session.blind:
        pytest.skip("it looks at whole crops")
    first = int(session.blind * engine.template(subject.track).size)
    crops, masks = subject.render(session)
    others, other_masks = subject.render(subject.begin(draft_mode=mode), spoil=True)
    np.testing.assert_array_equal(crops[:, first:], others[:, first:])
    np.testing.assert_array_equal(masks, other_masks)
    assert masks[:, :first].max() == 0
    assert masks.max() > 0.9


def test_two_runs_agree(engine, clip, points):
    subject = Subject(engine, clip, points)
    first, second = (subject.render(subject.begin()) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_what_was_learnt_is_plain_arrays_of_bounded_size(engine, clip, points):
    state = Subject(engine, clip, points).state()
    if state is None:
        pytest.skip("this engine needs no look ahead")
    assert all(isinstance(value, np.ndarray) for value in state.values())
    assert sum(value.nbytes for value in state.values()) < 80 * 2**20


def test_the_list_is_read_without_torch():
    code = "import sys, lipsync_core.engines; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_auto_loads_torch_for_no_engine_that_it_cannot_take(tmp_path):
    code = "import sys, lipsync_core.engines as e; e.pick(); sys.exit('torch' in sys.modules)"
    # nothing but what comes along is ready
    bare = {**os.environ, "LIPSYNC_MODELS": str(tmp_path), "HOME": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", code], env=bare, check=False).returncode == 0
