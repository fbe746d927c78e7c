"""People through time: exact where the movement is known, and never taken for one another."""

from __future__ import annotations

import numpy as np
import pytest

from lipsync_core.faces.detect.given import Given
from lipsync_core.faces.track import Tracker


def follow(detector, pictures, fps=25, sar=1.0):
    tracker = Tracker(detector, pictures[0].size, fps, sar)
    sightings = [tracker.see(picture) for picture in pictures]
    return tracker.finish(), sightings


def carried(points, matrix):
    return points @ matrix[:, :2].T + matrix[:, 2]


def unit(points):
    return np.linalg.norm(points[:, 3:].mean(1) - points[:, :2].mean(1), axis=1)


def test_a_known_movement_is_followed_to_a_fraction_of_a_pixel(detector, moved, as_clip):
    steps = np.arange(40)
    made = [
        moved(
            1.2 + 0.003 * t,
            6 * np.sin(t / 9),
            12 * np.sin(t / 5) + 0.37 * t,
            7 * np.cos(t / 7),
        )
        for t in steps
    ]
    people, _ = follow(detector, as_clip([image for image, _ in made]))
    assert len(people.tracks) == 1
    track = people.tracks[0]
    assert track.present.all()
    assert (track.strength == 1).all()
    # Carried back into the photograph, the points of all frames must be one.
    back = np.stack(
        [
            carried(points - matrix[:, 2], np.column_stack([np.linalg.inv(matrix[:, :2]), (0, 0)]))
            for points, (_, matrix) in zip(track.points, made, strict=True)
        ]
    )
    wobble = back - back.mean(0)
    jitter = np.diff(back, 2, axis=0) / np.sqrt(6)
    assert np.sqrt((wobble**2).mean()) < 0.45
    assert np.sqrt((jitter**2).mean()) < 0.06


def test_points_come_left_of_the_picture_first_and_on_the_face(detector, moved, as_clip, face):
    image, matrix = moved(1.5)
    people, _ = follow(detector, as_clip([image] * 3))
    points = people.tracks[0].points[1]
    expected = carried(face, matrix)
    assert np.abs(points - expected).max() < 0.25 * np.hypot(
        *(expected[3:].mean(0) - expected[:2].mean(0))
    )
    assert points[0, 0] < points[1, 0]
    assert points[3, 0] < points[4, 0]


def test_a_quick_movement_does_not_lag(yunet, moved, as_clip):
    where = [0] * 10 + [4 * t for t in range(12)] + [48] * 10
    made = [moved(1.2, 0, x) for x in where]
    people, _ = follow(yunet, as_clip([image for image, _ in made]))
    across = people.tracks[0].points[:, 2, 0]
    assert np.abs(across - across[0] - where).max() < 0.6


def test_a_rolled_head_is_followed(yunet, moved, as_clip):
    made = [moved(1.3, 1.4 * t) for t in range(40)]
    people, _ = follow(yunet, as_clip([image for image, _ in made]))
    track = people.tracks[0]
    eyes = track.points[:, 1] - track.points[:, 0]
    angle = -np.degrees(np.arctan2(eyes[:, 1], eyes[:, 0]))
    assert track.present.all()
    assert np.abs(angle - angle[0] - 1.4 * np.arange(40)).max() < 2.5


def test_no_face_gives_no_track(detector, backdrop, as_clip):
    people, sightings = follow(detector, as_clip([backdrop()] * 12))
    assert people.tracks == []
    assert people.searches >= 3
    assert not any(sightings)


def test_a_tiny_face_is_not_painted(yunet, backdrop, placed, as_clip):
    people, _ = follow(yunet, as_clip([placed(backdrop(), 320, 180, 0.3)] * 8))
    assert people.tracks == []


def test_a_short_gap_is_bridged_and_a_long_one_is_not(yunet, backdrop, placed, as_clip):
    there = [True] * 20 + [False] * 5 + [True] * 20 + [False] * 25 + [True] * 20
    images = []
    for t, seen in enumerate(there):
        image = placed(backdrop(), 250 + 2 * t, 180)
        if not seen:
            # A card held before the face.
            image[120:240, 250 + 2 * t - 45 : 250 + 2 * t + 45] = backdrop()[100:220, 30:120]
        images.append(image)
    people, _ = follow(yunet, as_clip(images))
    assert len(people.tracks) == 1
    track = people.tracks[0]
    assert track.present[:45].all()
    assert not track.present[52:68].any()
    assert track.present[76:].all()
    # It fades out and in at the long gap, and starts at once where the clip does.
    last = np.flatnonzero(track.present[:60])[-1]
    first = 60 + np.flatnonzero(track.present[60:])[0]
    assert track.strength[last] < 0.3
    assert track.strength[first] < 0.3
    assert track.strength[0] == track.strength[-1] == 1
    assert (np.diff(track.strength[first : first + 5]) > 0).all()
    # Straight through the short gap.
    straight = track.points[:45, :, 0].mean(1) - 2 * np.arange(45)
    assert np.ptp(straight) < 3


def test_people_who_cross_stay_who_they_are(yunet, backdrop, placed, as_clip):
    images = []
    for t in range(70):
        image = backdrop()
        placed(image, 560 - 7 * t, 175, 1.1, other=True)
        placed(image, 80 + 7 * t, 185, 1.3)
        images.append(image)
    people, _ = follow(yunet, as_clip(images))
    tracks = [track for track in people.tracks if track.present.sum() > 10]
    assert len(tracks) == 2
    first = max(tracks, key=lambda track: unit(track.points[:5]).mean())
    second = min(tracks, key=lambda track: unit(track.points[:5]).mean())
    for track, places in ((first, 80 + 7 * np.arange(70)), (second, 560 - 7 * np.arange(70))):
        assert track.present[:20].all()
        assert track.present[-15:].all()
        error = np.abs(track.points[..., 0].mean(1) - places)[track.present]
        assert error.max() < 25, error


def test_a_face_does_not_hop_to_a_larger_one(yunet, backdrop, placed, as_clip):
    images = []
    for t in range(50):
        image = placed(backdrop(), 180, 180, 0.9)
        if t >= 15:
            placed(image, 450, 180, 1.8, other=True)
        images.append(image)
    people, sightings = follow(yunet, as_clip(images))
    track = people.tracks[0]
    assert track.present.all()
    assert np.ptp(track.points[..., 0].mean(1)) < 3
    assert len(people.tracks) == 2
    assert people.tracks[1].present[35:].all()
    assert not people.tracks[1].present[:15].any()
    assert {s.person for s in sightings[-1]} == set(people.persons)


def test_the_same_person_goes_on_after_a_cut_and_another_does_not(yunet, backdrop, placed, as_clip):
    first = [placed(backdrop(), 200, 180, 1.2) for _ in range(15)]
    second = [placed(backdrop()[::-1, ::-1].copy() // 2, 420, 190, 1.6) for _ in range(15)]
    third = [placed(255 - backdrop()[:, ::-1], 300, 170, 1.3, other=True) for _ in range(15)]
    people, _ = follow(yunet, as_clip(first + second + third))
    assert np.flatnonzero(np.diff(people.tracks[0].shots)).tolist() == [14, 29]
    assert len(people.tracks) == 2
    one, other = people.tracks
    assert one.present[:30].all()
    assert not one.present[30:].any()
    assert other.present[30:].all()
    # Nothing is smoothed or faded across the cut.
    assert (one.strength[:30] == 1).all()
    assert np.abs(one.points[14].mean(0) - one.points[0].mean(0)).max() < 1
    assert np.abs(one.points[15].mean(0) - one.points[29].mean(0)).max() < 1


def test_frames_may_be_of_any_rate_and_pixels_of_any_shape(yunet, moved, as_clip):
    import cv2

    images = [moved(1.4, 0, 0.5 * t)[0] for t in range(20)]
    squeezed = [
        cv2.resize(image, None, fx=0.5, fy=1, interpolation=cv2.INTER_AREA) for image in images
    ]
    people, _ = follow(yunet, as_clip(squeezed, 50), fps=50, sar=2.0)
    square, _ = follow(yunet, as_clip(images, 50), fps=50)
    assert people.tracks[0].present.all()
    restored = (people.tracks[0].points + np.array([0.5, 0])) * (2, 1) - np.array([0.5, 0])
    assert np.abs(restored - square.tracks[0].points).max() < 2.5


@pytest.mark.parametrize("kind", ["points", "boxes"])
def test_given_faces_are_followed_without_a_detector(kind, moved, as_clip, face):
    made = [moved(1.2, 0, 1.5 * t) for t in range(20)]
    points = np.stack([carried(face, matrix) for _, matrix in made])
    if kind == "points":
        noisy = points + np.random.default_rng(0).normal(0, 0.6, points.shape)
        noisy[7:10] = np.nan
        detector = Given(points=noisy)
    else:
        low, high = points.min(1) - 25, points.max(1) + 25
        detector = Given(boxes=np.concatenate([low, high], axis=1))
    people, _ = follow(detector, as_clip([image for image, _ in made]))
    track = people.tracks[0]
    assert track.detector == "given"
    assert track.present.all()
    wobble = track.points.mean(1) - points.mean(1)
    assert np.ptp(wobble, axis=0).max() < 0.8


def test_memory_does_not_grow_with_pixels(yunet, moved, as_clip):
    tracker = Tracker(yunet, (480, 360), 25)
    for picture in as_clip([moved(1.2)[0]] * 30):
        tracker.see(picture)
    rows = tracker._people[0].rows.table()
    assert rows.nbytes / 30 < 200


def test_a_profile_is_faded_out(moved, as_clip, face):
    """When the head turns away until the eyes lie on one another, nothing is painted."""
    image, matrix = moved(1.5)
    frontal = carried(face, matrix)
    wide = np.concatenate([np.ones(10), np.linspace(1, 0.15, 15), np.full(10, 0.15)])
    points = np.stack([(frontal - frontal.mean(0)) * (w, 1) + frontal.mean(0) for w in wide])
    people, _ = follow(Given(points=points), as_clip([image] * len(wide)))
    track = people.tracks[0]
    assert (track.strength[:10] == 1).all()
    assert not track.present[-5:].any()
    assert (np.diff(track.strength) < 0.5).all()


@pytest.mark.parametrize("size", [(1, 1), (9, 16), (40, 24)])
def test_pictures_too_small_for_a_face_do_no_harm(detector, size, as_clip):
    image = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    people, _ = follow(detector, as_clip([image] * 5))
    assert people.tracks == []
    points = np.array([[[2, 2], [6, 2], [4, 4], [2, 7], [6, 7]]], np.float32)
    given, _ = follow(Given(points=points), as_clip([image] * 5))
    assert given.tracks == []


def test_two_runs_agree_to_the_bit(detector, moved, as_clip):
    pictures = as_clip([moved(1.2, t, 2 * t)[0] for t in range(12)])
    one, other = follow(detector, pictures)[0], follow(detector, pictures)[0]
    assert np.array_equal(one.tracks[0].points, other.tracks[0].points)


def test_nothing_seen_is_nobody(detector):
    people = Tracker(detector, (640, 360), 25).finish()
    assert people.tracks == []
    assert people.frame_count == 0


def test_a_still_is_followed_at_once(detector, photo, as_clip):
    people, sightings = follow(detector, as_clip([photo]))
    assert len(sightings[0]) >= 1
    track = max(people.tracks, key=lambda track: unit(track.points)[0])
    assert track.present.tolist() == [True]
    assert track.strength.tolist() == [1.0]
