"""The draft engine as a whole: which way it takes, and whether the mouth obeys."""

from __future__ import annotations

import numpy as np
import pytest

from lipsync_core.engines.draft import Draft
from lipsync_core.engines.draft.donors import view_of
from lipsync_core.engines.draft.measure import lip_gaps
from lipsync_core.faces import align
from lipsync_core.types import FaceTrack, Settings

COUNT = 64


def track_of(points: np.ndarray, count: int, shots: np.ndarray | None = None) -> FaceTrack:
    return FaceTrack(
        points=points[None].repeat(count, 0),
        boxes=np.float32([[45, 30, 135, 150]]).repeat(count, 0),
        present=np.ones(count, bool),
        strength=np.ones(count, np.float32),
        shots=np.zeros(count, np.int32) if shots is None else shots,
        detector="drawn",
    )


def swing(count: int, period: int = 16) -> np.ndarray:
    return 0.12 * (1 - np.cos(np.arange(count) * 2 * np.pi / period))


@pytest.fixture
def speak(clip, points):
    """Mode taken, rendered crops laid over the source, and the gap between their lips."""

    def run(openings: np.ndarray, shapes: np.ndarray, mode: str = "auto"):
        engine, track = Draft(), track_of(points, len(openings))
        study = engine.study()
        frames = clip(openings)
        for frame in frames:
            study.see(frame, points)
        session = engine.start(
            speech=shapes, track=track, study=study.state(), settings=Settings(draft_mode=mode)
        )
        template = engine.template(track)
        matrix = align.fit(track.points, template)[0]
        crops = np.stack([align.cut(frame, matrix, template.size) for frame in frames])
        shown, step = [], session.window
        for start in range(0, len(shapes), step):
            rows = list(range(start, min(start + step, len(shapes))))
            sources = [row % len(openings) for row in rows]
            result = session.render(crops[sources], sources, rows)
            mask = result.masks[..., None]
            shown.append(result.crops * mask + crops[sources] * (1 - mask))
        shown = np.concatenate(shown).round().astype(np.uint8)
        unit = round(template.unit)
        left, top = (
            round(template.size / 2 - 0.85 * unit),
            round(template.mouth[1] * template.size - 0.55 * unit),
        )
        views = np.stack([view_of(np.ascontiguousarray(s[top:, left:]), unit) for s in shown])
        return session.mode, shown, lip_gaps(views)

    return run


def shapes_of(openings: np.ndarray) -> np.ndarray:
    shapes = np.zeros((len(openings), 6), np.float32)
    shapes[:, 0] = shapes[:, 1] = openings
    return shapes


def test_a_talking_clip_lends_its_mouths_and_they_obey(speak):
    aim = np.roll(swing(COUNT, 22), 5) / 0.24 * 0.75
    mode, _, gap = speak(swing(COUNT), shapes_of(aim))
    assert mode == "units"
    assert np.corrcoef(gap, aim)[0, 1] > 0.9


def test_lips_meet_where_they_must(speak):
    shapes = shapes_of(np.full(COUNT, 0.6))
    shapes[20:23, :2], shapes[20:23, 4] = 0, 1
    _, _, gap = speak(swing(COUNT), shapes)
    assert gap[20:23].max() < 0.3 * np.median(gap)


def test_silence_keeps_one_shut_mouth(speak):
    _, shown, gap = speak(swing(COUNT), np.zeros((COUNT, 6), np.float32))
    assert gap.max() < 0.03
    size = shown.shape[1]
    mouth = shown[:, int(0.62 * size) : int(0.75 * size), int(0.4 * size) : int(0.6 * size)]
    flutter = np.abs(np.diff(mouth.astype(int), axis=0)).mean()
    assert flutter < 1.5


def test_silence_shows_no_tooth_where_another_shut_mouth_has_none(clip, points):
    from lipsync_core.engines.draft.donors import donors_of
    from lipsync_core.engines.draft.sessions import UnitSession

    engine, track, openings = Draft(), track_of(points, COUNT), swing(COUNT)
    study, peeps = engine.study(), []
    for frame, opening in zip(clip(openings), openings, strict=True):
        if opening < 0.01 and frame.index > 4:
            # A tooth too small to count as a gap.
            frame._picture[109:111, 93:96] = (40, 30, 30)
            peeps.append(frame.index)
        study.see(frame, points)
    donors = donors_of(study.state())
    session = UnitSession(shapes_of(np.zeros(16)), track, engine.template(track), donors)
    chosen = session._choose(list(range(16)), list(range(16)))
    assert peeps
    assert not set(donors.frame[chosen].tolist()) & set(peeps)


@pytest.mark.parametrize("count", [1, COUNT], ids=["still", "resting clip"])
def test_a_still_mouth_is_warped(count, speak):
    aim = np.concatenate([np.zeros(8), np.full(8, 0.7)])
    mode, shown, _ = speak(np.zeros(count), shapes_of(aim))
    assert mode == "warp"
    size = shown.shape[1]
    inside = shown[:, int(0.66 * size) : int(0.72 * size), int(0.46 * size) : int(0.54 * size)]
    assert inside[12].mean() < inside[2].mean() - 15


def test_the_mode_can_be_chosen(caplog, speak):
    shapes = shapes_of(swing(16))
    assert speak(swing(COUNT), shapes, "warp")[0] == "neutral"
    assert speak(np.zeros(COUNT), shapes, "units")[0] == "units"
    assert speak(np.zeros(1), shapes, "units")[0] == "warp"
    assert "one frame" in caplog.text


def test_a_cut_between_shots_is_not_bridged(clip, points):
    engine = Draft()
    shots = (np.arange(COUNT) >= 32).astype(np.int32)
    track = track_of(points, COUNT, shots)
    study = engine.study()
    frames = clip(swing(COUNT))
    for frame in frames:
        study.see(frame, points)
    state = study.state()
    template = engine.template(track)
    matrix = align.fit(track.points, template)[0]
    crops = np.stack([align.cut(frame, matrix, template.size) for frame in frames])
    shapes = shapes_of(swing(COUNT, 10))

    def shown(*pieces: range) -> np.ndarray:
        session = engine.start(speech=shapes, track=track, study=state, settings=Settings())
        out = [session.render(crops[list(p)], list(p), list(p)).crops for p in pieces]
        return np.concatenate(out)

    whole = shown(range(24, 40))
    alone = shown(range(32, 40))
    np.testing.assert_array_equal(whole[8:], alone)


def test_an_unseen_person_is_still_drawn(points):
    engine, track = Draft(), track_of(points, 4)
    session = engine.start(
        speech=np.zeros((4, 6), np.float32),
        track=track,
        study=engine.study().state(),
        settings=Settings(),
    )
    assert session.mode == "warp"
