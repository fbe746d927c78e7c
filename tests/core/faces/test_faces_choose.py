"""Which face is meant, in words; and errors that say what to do."""

from __future__ import annotations

import numpy as np
import pytest

from lipsync_core.errors import FaceError, SettingsError
from lipsync_core.faces import store
from lipsync_core.faces.choose import check_present, choose
from lipsync_core.faces.track import People
from lipsync_core.types import FaceTrack

SIZE = (1000, 500)
TIMES = np.arange(20) / 25
SHAPE = np.array([[-0.5, 0], [0.5, 0], [0, 0.5], [-0.35, 1], [0.35, 1]], np.float32)


def person(x, y, unit, present=slice(None)):
    points = np.repeat((SHAPE * unit + (x, y))[None], 20, axis=0)
    shown = np.zeros(20, bool)
    shown[present] = True
    boxes = np.repeat(np.array([[x - unit, y - unit, x + unit, y + 2 * unit]]), 20, axis=0)
    return FaceTrack(
        points=points.astype(np.float32),
        boxes=boxes.astype(np.float32),
        present=shown,
        strength=shown.astype(np.float32),
        shots=np.zeros(20, np.int32),
        detector="yunet",
    )


@pytest.fixture
def people():
    """Left and small, middle and large but brief, right and in between."""
    tracks = [person(500, 200, 90, slice(0, 6)), person(150, 200, 40), person(820, 200, 60)]
    return People(tracks=tracks, persons=[0, 1, 4], frame_count=20, detector="yunet", searches=3)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("largest", [2]),
        ("left", [1]),
        ("right", [2]),
        ("index:0", [1]),
        ("INDEX: 1", [0]),
        ("index:2", [2]),
        ("point:500,230", [0]),
        ("point:500,230@0.1", [0]),
        ("point:160.5,210", [1]),
        ("point: 800, 250 @ 0.5s", [2]),
        ("all", [2, 1, 0]),
    ],
)
def test_each_way_of_choosing(people, spec, expected):
    chosen = choose(people, spec, TIMES, SIZE)
    assert [
        next(k for k, t in enumerate(people.tracks) if t is track) for track in chosen
    ] == expected


@pytest.mark.parametrize(
    "spec", ["", "biggest", "index:", "index:-1", "index:x", "point:3", "point:a,b", "point:1,2@"]
)
def test_words_that_mean_nothing_name_those_that_do(people, spec):
    with pytest.raises(SettingsError, match=r"largest, left, right, index:N, point"):
        choose(people, spec, TIMES, SIZE)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("index:3", r"3 faces were found.*0 to 2"),
        ("point:320,400", r"no face at 320,400; faces were seen around"),
        ("point:500,230@0.7", r"no face at 500,230 at 0.7 s"),
    ],
)
def test_a_face_that_is_not_there(people, spec, message):
    with pytest.raises(FaceError, match=message):
        choose(people, spec, TIMES, SIZE)


def test_places_and_times_outside_the_clip(people):
    with pytest.raises(SettingsError, match="1000x500"):
        choose(people, "point:1000,10", TIMES, SIZE)
    with pytest.raises(SettingsError, match="behind the end"):
        choose(people, "point:10,10@60", TIMES, SIZE)


def test_a_passer_by_is_not_counted():
    tracks = [person(500, 200, 60), person(100, 200, 60, slice(0, 1))]
    people = People(tracks=tracks, persons=[0, 1], frame_count=20, detector="yunet", searches=1)
    assert choose(people, "left", TIMES, SIZE)[0] is tracks[0]


def test_nobody_says_what_was_tried():
    people = People(tracks=[], persons=[], frame_count=240, detector="cascade", searches=33)
    with pytest.raises(
        FaceError, match=r"240 frames \(33 searched by cascade\).*lipsync models download yunet"
    ):
        choose(people, "largest", TIMES, SIZE)
    with pytest.raises(SettingsError):
        choose(people, "nonsense", TIMES, SIZE)


def test_missing_frames_are_named():
    track = person(500, 200, 60, [0, 1, 2, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15])
    with pytest.raises(FaceError, match=r"frames 3-4, 9, 16-19; trim"):
        check_present(track)
    check_present(track, start=10, end=16)
    check_present(person(500, 200, 60))


def test_tracks_survive_being_stored(people):
    arrays = store.to_arrays(people)
    assert all(isinstance(value, np.ndarray) and value.dtype != bool for value in arrays.values())
    back = store.from_arrays(arrays)
    assert back.persons == people.persons
    assert (back.frame_count, back.searches, back.detector) == (20, 3, "yunet")
    for one, other in zip(people.tracks, back.tracks, strict=True):
        for name in ("points", "boxes", "present", "strength", "shots"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
            assert getattr(one, name).dtype == getattr(other, name).dtype
    nobody = People(tracks=[], persons=[], frame_count=4, detector="cascade", searches=2)
    assert store.from_arrays(store.to_arrays(nobody)).tracks == []


def test_a_damaged_store_is_refused(people):
    arrays = store.to_arrays(people)
    arrays["track1/points"] = arrays["track1/points"][:-1]
    with pytest.raises(FaceError, match="damaged"):
        store.from_arrays(arrays)
    del arrays["track1/points"]
    with pytest.raises(FaceError, match="damaged"):
        store.from_arrays(arrays)
