"""Which frames are drawn: the rules of each row, and MuseTalk's candidate lists exactly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lipsync_core.errors import SettingsError
from trainer import sampling
from trainer.sampling import (
    CONTOUR,
    INNER_LIPS,
    NEAR,
    SAMPLINGS,
    Apart,
    PoseMouth,
    alike,
    around,
    in_boxes,
    named,
    normalised,
    unlike,
)

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "musetalk"
needs_golden = pytest.mark.skipif(
    not GOLDEN.exists(), reason="the large reference numbers are not here"
)


class Filmed:
    """A clip that has what it is given, and counts how often its pictures are asked for."""

    def __init__(self, frame_count, stored=None, pictures=None):
        self.frame_count = frame_count
        self.given = stored or {}
        self.pictures = pictures
        self.known = {}
        self.decoded = 0

    def stored(self, name):
        return self.given.get(name)

    def crops(self, frames, size):
        self.decoded += 1
        return self.pictures[list(frames)]

    def remember(self, name, make):
        if name not in self.known:
            self.known[name] = make()
        return self.known[name]


def five(count, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "points": rng.uniform(0, 100, (count, 5, 2)).astype(np.float32),
        "matrices": np.tile(np.float32([[1, 0, 3], [0, 1, 5]]), (count, 1, 1)),
        "shapes": rng.uniform(0, 1, (count, 6)).astype(np.float32),
    }


def draws(row, clip, count, seed=0):
    return [row.pick(clip, np.random.default_rng([seed, i])) for i in range(count)]


@pytest.mark.parametrize("row", SAMPLINGS, ids=lambda row: row.name)
@pytest.mark.parametrize("more", [0, 1, 7, 100])
def test_every_row_stays_in_the_clip_and_agrees_with_itself(row, more):
    count = row.min_frames + more
    clip = Filmed(count, five(count))
    for one, again in zip(draws(row, clip, 30), draws(row, clip, 30), strict=True):
        assert one.frames.shape == one.reference.shape == (row.frames,)
        assert one.frames.dtype == one.reference.dtype == np.int64
        np.testing.assert_array_equal(np.diff(one.frames), 1)
        both = np.concatenate([one.frames, one.reference])
        assert both.min() >= 0
        assert both.max() < count
        assert not (one.frames == one.reference).any()
        np.testing.assert_array_equal(one.frames, again.frames)
        np.testing.assert_array_equal(one.reference, again.reference)


def test_names():
    assert len({row.name for row in SAMPLINGS}) == len(SAMPLINGS)
    assert all(named(row.name) is row for row in SAMPLINGS)
    with pytest.raises(SettingsError, match="contiguous-16, contiguous-25, contiguous-5"):
        named("contiguous-17")


@pytest.mark.parametrize("count", [32, 40, 46, 47, 48, 60])
def test_contiguous_16_is_uniform_over_what_has_room(count):
    """The target's beginning among those with room for a reference, then the reference's."""
    last = count - 16
    chance = np.zeros((last + 1, last + 1))
    for start in range(last + 1):
        allowed = np.abs(np.arange(last + 1) - start) >= 16
        if allowed.any():
            chance[start] = allowed / allowed.sum()
    chance /= chance.sum()
    if count >= 47:
        assert (chance.sum(1) > 0).all(), "every frame can begin a target, as in the original"
    seen = np.zeros_like(chance)
    total = 4000
    for one in draws(named("contiguous-16"), Filmed(count), total):
        np.testing.assert_array_equal(np.diff(one.reference), 1)
        seen[one.frames[0], one.reference[0]] += 1
    assert not seen[chance == 0].any()
    expected = chance * total
    some = expected > 0
    # Chi square; five standard deviations above its mean.
    chi = ((seen - expected)[some] ** 2 / expected[some]).sum()
    assert chi < some.sum() + 5 * np.sqrt(2 * some.sum())


def test_how_far_references_are():
    assert named("contiguous-16").min_frames == 32
    for name, apart in [("contiguous-5", 5), ("single-frame", 6), ("single-frame-5", 6)]:
        away = [
            abs(one.reference[0] - one.frames[0]) for one in draws(named(name), Filmed(20), 600)
        ]
        assert min(away) == apart, "no frame is reference and target at once"
        assert max(away) == 20 - named(name).frames
    assert Apart("original", 5, 1).min_frames == 6


def test_a_row_gives_other_frames_for_other_seeds():
    row = named("contiguous-16")
    first = [one.frames[0] for one in draws(row, Filmed(200), 20, seed=1)]
    assert first != [one.frames[0] for one in draws(row, Filmed(200), 20, seed=2)]


def cases():
    if not GOLDEN.exists():
        return []
    return json.loads((GOLDEN / "sampling.json").read_text())["cases"]


def landmarks(count):
    golden = np.load(GOLDEN / f"sampling_landmarks_n{count}.npz")
    return normalised(golden["landmarks"], golden["shapes"])


@needs_golden
def test_candidates_are_the_originals():
    compared = 0
    for case in cases():
        if case["pose_list"] is None:
            continue
        points = landmarks(case["n"])
        drive, top = case["drive"], case["ratio"]
        assert alike(points[:, CONTOUR], drive, top).tolist() == case["pose_list"]
        assert unlike(points[:, INNER_LIPS], drive, top).tolist() == case["mouth_list"]
        compared += 1
    assert compared == 24


@needs_golden
def test_picks_come_from_where_the_originals_come_from():
    """With the original's candidates both choose among the same frames; where it redraws, and what it
    draws is in the clip, ours can draw that too."""
    rule = "pose_similarity_and_mouth_dissimilarity:68pt"
    rng = np.random.default_rng(0)
    redrawn = 0
    for case in cases():
        points = landmarks(case["n"])
        pose, mouth = points[:, CONTOUR], points[:, INNER_LIPS]
        drive, top = case["drive"], case["ratio"]
        row = PoseMouth("", case["T"], top)
        common = set(alike(pose, drive, top)) & set(unlike(mouth, drive, top))
        ours = {row._reference(pose, mouth, drive, rng) for _ in range(300)}
        if common and min(abs(one - drive) for one in common) >= NEAR:
            assert ours == common
            assert set(case["picks_seed0_5"][rule]) <= ours
        else:
            inside = {one for one in case["picks_seed0_5"][rule] if 0 <= one < case["n"]}
            reach = set(around(drive, case["n"], reach=5 * case["T"]))
            assert ours <= common | reach
            assert inside <= common | reach
            redrawn += 1
    assert redrawn, "the reference holds no case that is drawn again"


def test_near_references_are_drawn_again():
    assert around(0, 40, reach=80).tolist() == list(range(5, 40))
    assert around(20, 40, reach=10).tolist() == [*range(10, 16), *range(25, 31)]
    assert around(39, 40, reach=5).tolist() == [34]
    for count in range(10, 60):
        for drive in range(count):
            assert len(around(drive, count, reach=5)), (drive, count)
    # Two looks, of the clip's first and second half, and mouths all alike but for the neighbours'.
    pose = np.zeros((40, 1, 2))
    mouth = np.zeros((40, 1, 2))
    mouth[[8, 9, 11, 12]] = 9
    row = PoseMouth("", 4)
    drawn = {row._reference(pose, mouth, 10, np.random.default_rng(i)) for i in range(400)}
    assert all(abs(one - 10) >= NEAR for one in drawn)


@needs_golden
def test_boxes_are_the_originals():
    shift = json.loads((GOLDEN / "sampling.json").read_text())["shift"]
    for points, box, union, size, moved in zip(
        shift["landmarks"], shift["faces"], shift["bbox_union"], shift["face_shapes"],
        shift["shifted"], strict=True,
    ):  # fmt: skip
        points = np.array([points], np.float64)
        low, high = sampling.union(points, np.array([box], np.float64))
        assert [*low[0], *high[0]] == union
        np.testing.assert_allclose(points[0] - low[0], moved)
        np.testing.assert_allclose(
            in_boxes(points, np.array([box])), normalised(np.array([moved]), np.array([size]))
        )


def test_68_points_go_before_five():
    count = 40
    rng = np.random.default_rng(0)
    given = {
        **five(count),
        "landmarks": rng.uniform(10, 90, (count, 68, 2)),
        "boxes": np.tile([0.0, 0.0, 100.0, 100.0], (count, 1)),
    }
    pose, mouth = sampling.looks(Filmed(count, given))
    assert (pose.shape, mouth.shape) == ((count, 16, 2), (count, 7, 2))
    np.testing.assert_allclose(pose, given["landmarks"][:, :16] * 2.56)
    pose, mouth = sampling.looks(Filmed(count, five(count)))
    assert (pose.shape, mouth.shape) == ((count, 3, 2), (count, 1, 6))
    np.testing.assert_allclose(pose, five(count)["points"][:, :3] + [3, 5], rtol=1e-6)


def test_a_reference_has_the_pose_and_another_mouth():
    """Heads that turn one way in every other frame, mouths open in every third: the reference looks
    the same way, with the mouth the other way round."""
    count = 200
    frames = np.arange(count)
    turned = frames % 2
    given = five(count)
    given["points"] = np.zeros((count, 5, 2), np.float32)
    given["points"][:, 2, 0] = 10 * turned
    given["points"][:, 3:, 1] = np.random.default_rng(0).uniform(0, 50, (count, 2))
    pictures = np.zeros((count, 48, 48, 3), np.uint8)
    opened = (frames % 3 == 0).astype(np.uint8)
    pictures[:, 34:36, 20:28] = 200 * opened[:, None, None, None]
    del given["shapes"]
    clip = Filmed(count, given, pictures)
    same = other = 0
    for one in draws(named("pose-mouth"), clip, 40):
        same += (turned[one.frames] == turned[one.reference]).sum()
        other += (opened[one.frames] != opened[one.reference]).sum()
    assert clip.decoded == 1, "a clip is looked at once"
    # Chance would be a half. What is drawn again, because it is too near, may look anywhere.
    assert same / 640 > 0.85
    # Half of the closed frames' farthest are open ones, of which there are fewer than half.
    assert other / 640 > 0.7


def test_pose_needs_points():
    with pytest.raises(SettingsError, match="contiguous-16"):
        sampling.looks(Filmed(40))
