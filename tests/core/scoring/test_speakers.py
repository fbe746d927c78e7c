"""Who speaks when: the right one of two faces, nobody in a pause, and a file that can be edited."""

import json
from fractions import Fraction

import numpy as np
import pytest

from lipsync_core.errors import SettingsError
from lipsync_core.media.audio import MemoryVoice
from lipsync_core.scoring import embedded, speakers
from lipsync_core.scoring.motion import MouthMotion
from lipsync_core.types import Audio, FaceTrack

RATE = 16_000


class Clip:
    class path:
        name = "clip"

    frame_rate = Fraction(25)


def murmur(seconds, seed=0):
    random = np.random.default_rng(seed)
    knots = random.uniform(0, 1, int(seconds * 5) + 2) ** 2
    knots[int(len(knots) * 0.48) : int(len(knots) * 0.54)] = 0
    swell = np.interp(np.arange(int(seconds * RATE)) / RATE * 5, np.arange(len(knots)), knots)
    sound = random.standard_normal(len(swell)) * swell * 0.3
    return MemoryVoice(Audio(samples=sound[None].astype(np.float32), rate=RATE))


def track(count):
    return FaceTrack(
        points=np.zeros((count, 5, 2), np.float32),
        boxes=np.zeros((count, 4), np.float32),
        present=np.ones(count, bool),
        strength=np.ones(count, np.float32),
        shots=np.zeros(count, np.int32),
        detector="given",
    )


@pytest.fixture(scope="module")
def scene():
    """Sixteen seconds: the first half is spoken by person 1, the second by person 0."""
    from types import SimpleNamespace

    voice = murmur(16)
    heard = embedded.hear(voice)
    times = np.arange(400) / 25
    curves = embedded.expected(heard, times)
    curves = curves / curves.std(0)
    random = np.random.default_rng(5)
    motions = []
    for mine in (times >= 8, times < 8):
        rows = curves @ np.array([[0.5, 0], [0.5, 0], [0, 1]]) * mine[:, None]
        rows = rows + 0.4 * random.standard_normal(rows.shape)
        motions.append(
            MouthMotion(
                speed=rows[:, 0].astype(np.float32),
                opening=np.zeros(400, np.float32),
                width=rows[:, 1].astype(np.float32),
                gap=np.zeros(400, np.float32),
            )
        )
    people = SimpleNamespace(tracks=[track(400), track(400)])
    watched = SimpleNamespace(clip=Clip, people=people, motions=motions, times=times)
    return speakers.assign(watched, [voice], [0.0]), watched


def test_each_has_a_turn(scene):
    found, _ = scene
    spoken = {0: 0.0, 1: 0.0}
    for turn in found.turns:
        right = 1 if turn.end <= 9 else 0
        overlap = turn.end - turn.start
        assert turn.person == right, turn
        spoken[turn.person] += overlap
    assert spoken[1] > 5
    assert spoken[0] > 5
    assert {(pair.person, pair.voice) for pair in found.pairs} == {(0, 0), (1, 0)}


def test_a_mouth_is_painted_in_its_turns_only(scene):
    found, watched = scene
    first = speakers.only_while_speaking(watched.people.tracks[0], 0, found, watched.times)
    second = speakers.only_while_speaking(watched.people.tracks[1], 1, found, watched.times)
    assert not first.present[:170].any()
    assert first.present[250:350].mean() > 0.6
    assert not second.present[230:].any()
    assert np.abs(np.diff(first.strength)).max() < 0.6
    assert not (first.strength > 0.5)[second.strength > 0.5].any()


def test_the_file_comes_back(scene, tmp_path):
    found, _ = scene
    path = tmp_path / "speakers.json"
    speakers.save(found, path)
    assert speakers.load(path, people=2).turns == found.turns


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        ({"start": 1, "end": 1, "person": 0}, "its end must come after"),
        ({"start": 0, "end": 1}, "person"),
        ({"start": 0, "end": 1, "person": 7}, "person 7"),
        ({"start": "noon", "end": 1, "person": 0}, "noon"),
        (3, "not complete"),
    ],
)
def test_a_wrong_turn_is_named(tmp_path, turn, words):
    path = tmp_path / "speakers.json"
    path.write_text(json.dumps({"turns": [{"start": 0, "end": 2, "person": 1}, turn]}))
    with pytest.raises(SettingsError, match=words) as caught:
        speakers.load(path, people=2)
    assert "turn 1" in str(caught.value)


def test_no_file_of_speakers(tmp_path):
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(SettingsError, match="not an assignment"):
        speakers.load(tmp_path / "x.json")
