"""Measuring, keeping and choosing a person's own mouths."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lipsync_core.engines.draft.adapt import Adapter, morph
from lipsync_core.engines.draft.donors import DraftStudy, donors_of, patch_size, view_of
from lipsync_core.engines.draft.measure import (
    Gauge,
    lip_gaps,
    measure_all,
    pose_distance,
    pose_of,
)
from lipsync_core.engines.draft.units import OWN, Cast, Search, aim_of
from lipsync_core.faces.templates import draft_template


def swing(count: int) -> np.ndarray:
    return 0.12 * (1 - np.cos(np.arange(count) * 2 * np.pi / 16))


@pytest.fixture
def studied(clip, points):
    def study_of(openings: np.ndarray, **options: int) -> DraftStudy:
        study = DraftStudy(**options)
        for frame in clip(openings):
            study.see(frame, points)
        return study

    return study_of


@pytest.fixture
def cast_of(studied):
    def make(openings: np.ndarray) -> Cast:
        donors = donors_of(studied(openings).state())
        views = np.stack([view_of(donors.picture(i), donors.unit) for i in range(len(donors))])
        return Cast(donors, views, pose_of(donors.points))

    return make


def test_pose_ignores_place_size_and_roll_and_sees_a_turn(points):
    turned = cv2.transform(points[None], cv2.getRotationMatrix2D((0, 0), 25, 1.7))[0] + (30, -8)
    np.testing.assert_allclose(pose_of(turned), pose_of(points), atol=1e-5)
    yawed = points.copy()
    yawed[2, 0] += 10
    assert pose_of(yawed)[0] - pose_of(points)[0] == pytest.approx(0.2, abs=1e-5)
    assert pose_distance(pose_of(points), pose_of(np.stack([points, yawed])))[1] > 0.19


def test_gauge_follows_an_opening_mouth(studied):
    openings = swing(24)
    state = studied(openings).state()
    assert np.corrcoef(state["values"][:, 0], openings)[0, 1] > 0.9
    assert np.corrcoef(state["values"][:, 2], openings)[0, 1] > 0.9


def test_gauge_keeps_few_references_and_joins_their_zeros():
    gauge, poses = Gauge(), np.linspace(-0.6, 0.6, 60)
    w, h = patch_size(50)
    view = view_of(np.full((h, w, 3), 120, np.uint8), 50)
    for yaw in poses:
        gauge.read(view, np.float32([yaw, 0.5, 0.8]))
    zeros = gauge.zeros()
    assert len(zeros) == 6
    np.testing.assert_allclose(zeros, 0, atol=1e-3)


def test_lip_gap_is_zero_when_shut_and_grows(cast_of):
    cast = cast_of(np.array([0.0, 0.0, 0.06, 0.12, 0.2, 0.2]))
    gap = cast.gap
    assert gap[0] < 0.01
    assert gap[0] < gap[2] < gap[3] < gap[4]
    assert lip_gaps(np.full((2, 80, 96, 3), 90, np.uint8)).tolist() == [0, 0]


def test_measuring_all_is_steady_and_linear(studied, points):
    openings = swing(20)
    donors = donors_of(studied(openings).state())
    gray = np.stack(
        [
            cv2.cvtColor(view_of(donors.picture(i), donors.unit), cv2.COLOR_RGB2GRAY)
            for i in range(len(donors))
        ]
    )
    opening, _ = measure_all(gray, pose_of(donors.points))
    assert np.corrcoef(opening, openings)[0, 1] > 0.93


def test_study_stays_within_its_budget_and_keeps_rare_mouths(studied):
    w, h = patch_size(50)
    budget = 6 * 8 * w * h * 3
    openings = np.zeros(200)
    openings[100:108] = np.linspace(0.1, 0.24, 8)
    state = studied(openings, budget=budget).state()
    assert state["patches"].nbytes <= budget
    donors = donors_of(state)
    assert len(donors) <= 48
    assert np.isin(np.arange(100, 108), donors.frame).all()
    assert len(state["values"]) == 200


def test_state_survives_being_written_and_read(tmp_path, studied):
    from safetensors.numpy import load_file, save_file

    state = studied(swing(20)).state()
    save_file(
        {name: np.ascontiguousarray(value) for name, value in state.items()}, tmp_path / "s.st"
    )
    first, second = donors_of(state), donors_of(load_file(tmp_path / "s.st"))
    np.testing.assert_array_equal(first.frame, np.arange(20))
    np.testing.assert_array_equal(first.picture(7), second.picture(7))
    assert first.follows[:-1].all()
    assert not first.follows[-1]


def shapes_of(openings: np.ndarray) -> np.ndarray:
    shapes = np.zeros((len(openings), 6), np.float32)
    shapes[:, 0] = 0.75 * openings
    shapes[:, 1] = shapes[:, 0]
    return shapes


def test_path_follows_the_aim_and_runs_on(cast_of, points):
    openings = swing(64)
    cast = cast_of(openings)
    aim = aim_of(shapes_of(openings / 0.24))
    search = Search(cast)
    pose = np.repeat(pose_of(points)[None], 64, 0)
    sharp = np.full(64, np.median(cast.donors.sharp), np.float32)
    chosen = np.concatenate(
        [
            search.path(
                aim, np.arange(a, min(a + 24, 64)), pose[a : a + 24], sharp[a : a + 24], decide=16
            )
            for a in (0, 16, 32, 48)
        ]
    )
    assert len(chosen) == 64
    assert np.corrcoef(cast.opening[chosen], aim.opening)[0, 1] > 0.95
    assert (np.diff(chosen) == 1).mean() > 0.6


def test_far_poses_are_refused(cast_of, points):
    openings = swing(32)
    cast = cast_of(openings)
    far = np.repeat(pose_of(points)[None], 8, 0) + np.float32([0.5, 0, 0])
    chosen = Search(cast).path(
        aim_of(shapes_of(openings)), np.arange(8), far, np.full(8, 5, np.float32), decide=8
    )
    assert (chosen == OWN).all()


def test_silence_holds_one_shut_mouth(cast_of, points):
    cast = cast_of(swing(48))
    aim = aim_of(np.zeros((32, 6), np.float32))
    assert aim.calm.all()
    pose = np.repeat(pose_of(points)[None], 32, 0)
    sharp = np.full(32, np.median(cast.donors.sharp), np.float32)
    chosen = Search(cast).path(aim, np.arange(32), pose, sharp, decide=32)
    assert np.ptp(cast.opening[chosen]) < 0.1
    assert cast.gap[chosen].max() < 0.03


@pytest.fixture
def adapter() -> Adapter:
    return Adapter(draft_template(160))


def lower(adapter: Adapter, picture: np.ndarray) -> np.ndarray:
    rows, columns = adapter.region.slices
    resized = cv2.resize(picture, (160, 160), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(resized[rows, columns])


def test_a_frame_fits_itself(adapter, face):
    current = lower(adapter, face(0.1))
    drawn, apart = adapter.fit(current, np.eye(2, 3), current)
    # Only what sharpening adds.
    assert np.abs(drawn.astype(int) - current).mean() < 1
    assert apart.max() < 3
    mask = adapter.mask(apart)
    assert mask.shape == current.shape[:2]
    assert mask.max() > 0.99
    assert mask[0].max() == mask[:, 0].max() == mask[:, -1].max() == 0


def test_light_and_a_small_shift_are_followed(adapter, face):
    donor, current = lower(adapter, face(0.1, light=0.8)), lower(adapter, face(0.1, shift=3.0))
    drawn, _ = adapter.fit(donor, np.eye(2, 3), current)
    inside = adapter.mask(np.zeros(adapter.small_shape, np.float32)) > 0.5
    before = np.abs(donor.astype(int) - current)[inside].mean()
    assert np.abs(drawn.astype(int) - current)[inside].mean() < 0.35 * before


def test_the_mask_withdraws_where_the_faces_disagree(adapter, face):
    current = lower(adapter, face(0.0))
    donor = current.copy()
    donor[:, : donor.shape[1] // 4] = (20, 40, 20)
    _, apart = adapter.fit(donor, np.eye(2, 3), current)
    mask = adapter.mask(apart)
    plain = adapter.mask(np.zeros_like(apart))
    side = adapter.region.x[0] < -0.56
    assert plain[:, side].max() > 0.3
    assert mask[:, side].max() < 0.4 * plain[:, side].max()
    assert mask[mask.shape[0] // 3, mask.shape[1] // 2] > 0.9


def test_morph_moves_lips_instead_of_fading_them(face):
    one, two = face(0.0), face(0.12)
    np.testing.assert_allclose(morph(one, two, 0.0, 50), one, atol=3)
    half = morph(one, two, 0.5, 50)
    fade = cv2.addWeighted(one, 0.5, two, 0.5, 0)
    real = face(0.06)
    box = (slice(100, 130), slice(72, 108))
    wrong, faded = (np.abs(p[box].astype(int) - real[box]).mean() for p in (half, fade))
    assert wrong < faded
