"""The coefficients are those of python_speech_features, whatever the size of the blocks."""

from pathlib import Path

import numpy as np
import pytest

from lipsync_core.audio.mfcc import filters, mfcc, mfcc_rows, row_count, to_integers

GOLDEN = Path(__file__).parents[2] / "golden" / "wav2lip"


@pytest.fixture(scope="module")
def pcm():
    return np.load(GOLDEN / "syncnet_v2.npz")["pcm"]


def test_filters_and_rows_are_the_reference(pcm):
    golden = np.load(GOLDEN / "mfcc_parts.npz")
    assert np.abs(filters().T - golden["filterbank"]).max() < 1e-12
    rows = mfcc(pcm)
    assert rows.shape == golden["mfcc"].shape
    assert np.abs(rows - golden["mfcc"]).max() < 1e-9


@pytest.mark.parametrize("sizes", [[1, 3, 5000, 2], [160], [16000], [399, 401]])
def test_blocks_do_not_matter(pcm, sizes):
    blocks, start, turn = [], 0, 0
    while start < len(pcm):
        blocks.append(pcm[start : start + sizes[turn % len(sizes)]])
        start += len(blocks[-1])
        turn += 1
    assert np.abs(np.concatenate(list(mfcc_rows(blocks))) - mfcc(pcm)).max() < 1e-9


def test_long_sound_is_analysed_in_batches(pcm):
    sound = np.tile(pcm, 5)
    whole = mfcc(sound)
    assert len(whole) == row_count(len(sound)) > 1024
    tail = mfcc(sound[1100 * 160 :])
    # the first row of the tail knows nothing of the sample before it
    assert np.abs(whole[1101:] - tail[1:]).max() < 1e-9


@pytest.mark.parametrize(
    ("samples", "rows"), [(1, 1), (400, 1), (401, 2), (560, 2), (561, 3), (38400, 239)]
)
def test_row_count(samples, rows):
    assert row_count(samples) == rows == len(mfcc(np.ones(samples, np.int16)))


def test_silence_is_finite_and_nothing_gives_nothing():
    assert np.isfinite(mfcc(np.zeros(4000, np.int16))).all()
    assert mfcc(np.zeros(0, np.int16)).shape == (0, 13)


def test_to_integers_clips_and_forgives():
    assert to_integers(np.array([0.0, 0.5, -1.0, 1.0, 3.0, np.nan])).tolist() == [
        0,
        16384,
        -32768,
        32767,
        32767,
        0,
    ]
