"""LSE-D, LSE-C and the offset, against the original evaluator and against known shifts."""

import json
from pathlib import Path

import numpy as np
import pytest

from lipsync_core.scoring.distance import MAX_SHIFT, median_filter, pair_distances, shift_curve

GOLDEN = Path(__file__).parents[2] / "golden" / "wav2lip"


def distances(lips, sound, max_shift=MAX_SHIFT):
    padded = np.pad(sound, ((max_shift, max_shift), (0, 0)))
    return pair_distances(lips, padded, count=len(lips), max_shift=max_shift)


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "syncnet_v2.npz")


def test_published_convention(golden):
    table = distances(golden["lip_features"], golden["audio_features"])
    assert np.abs(table / golden["dists"] - 1).max() < 1e-5
    curve = shift_curve(table)
    assert curve.offset_frames == golden["offset"]
    assert curve.lse_d == pytest.approx(float(golden["min_distance_lse_d"]), rel=1e-5)
    assert curve.lse_c == pytest.approx(float(golden["confidence_lse_c"]), abs=2e-4)
    assert np.abs(curve.confidence - golden["framewise_conf"]).max() < 2e-3


@pytest.mark.parametrize("name", ["vshift 10", "video shorter", "audio shorter"])
def test_other_lengths_and_shifts(golden, name):
    cases = json.loads((GOLDEN / "syncnet_v2_cases.json").read_text())["cases"]
    case = next(case for case in cases if case["name"].startswith(name))
    count = case["windows"]
    table = distances(
        golden["lip_features"][:count],
        golden["audio_features"][:count],
        case["args"].get("vshift", MAX_SHIFT),
    )
    curve = shift_curve(table)
    assert curve.offset_frames == case["offset"]
    assert np.abs(curve.distances / np.array(case["mean_dists"]) - 1).max() < 1e-5
    assert curve.lse_c == pytest.approx(case["confidence"], abs=2e-4)


def test_a_long_clip_may_come_in_pieces(golden):
    lips, sound = golden["lip_features"], golden["audio_features"]
    whole = distances(lips, sound)
    padded = np.pad(sound, ((MAX_SHIFT, MAX_SHIFT), (0, 0)), constant_values=9.0)
    parts = [
        pair_distances(
            lips[a : a + 20], padded[a : a + len(lips[a : a + 20]) + 30], first=a, count=len(lips)
        )
        for a in range(0, len(lips), 20)
    ]
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("shift", range(-MAX_SHIFT, MAX_SHIFT + 1))
@pytest.mark.parametrize("padding", ["zero", "none"])
def test_every_shift_is_found(shift, padding):
    random = np.random.default_rng(3)
    stream = random.standard_normal((140, 32)).astype(np.float32)
    sound = stream[20:120]
    lips = stream[20 + shift : 120 + shift] + 0.3 * random.standard_normal((100, 32))
    curve = shift_curve(distances(lips.astype(np.float32), sound), padding)
    # lips that show what is heard `shift` frames later: the sound is late, SyncNet says minus
    assert curve.offset_frames == -shift
    assert curve.lse_c > 1


def test_padding_pulls_short_clips_and_the_other_convention_does_not():
    random = np.random.default_rng(4)
    lips = random.standard_normal((25, 64)).astype(np.float32)
    # foreign sound far from the origin: only the zero vectors are near
    sound = random.standard_normal((25, 64)).astype(np.float32) * 3
    table = distances(lips, sound)
    assert abs(shift_curve(table, "zero").offset_frames) == MAX_SHIFT
    assert shift_curve(table, "zero").lse_c > 3 * shift_curve(table, "none").lse_c


def test_one_window_is_enough_for_numbers():
    table = distances(np.ones((1, 8), np.float32), np.ones((1, 8), np.float32))
    for padding in ("zero", "none"):
        curve = shift_curve(table, padding)
        assert curve.offset_frames == 0
        assert np.isfinite(curve.confidence).all()


def test_median_filter_has_zeros_beyond_the_ends():
    assert median_filter(np.array([5.0, 6.0, 7.0]), 3).tolist() == [5.0, 6.0, 6.0]
