"""Log-mel rows: the same whatever the blocks, in the right place, with bounded memory."""

import numpy as np
import pytest

from lipsync_core.audio.mel import BANDS, FLOOR, HOP, LEVEL, RATE, loudness, mel_rows


def rows_of(sound, size):
    blocks = [sound[i : i + size] for i in range(0, len(sound), size)]
    return np.concatenate(list(mel_rows(blocks)))


@pytest.mark.parametrize("size", [1, 37, 160, 4096, 16_000, 10**6])
def test_block_size_changes_nothing(size):
    sound = np.random.default_rng(0).standard_normal(9_001 if size == 1 else 100_003).astype("f4")
    assert np.array_equal(rows_of(sound, size), rows_of(sound, len(sound)))


@pytest.mark.parametrize("count", [1, 159, 160, 161, 399, 400, 16_000, 82_079, 82_080])
def test_row_count(count):
    rows = rows_of(np.zeros(count, np.float32), 777)
    assert rows.shape == (count // HOP + 1, BANDS + 1)
    assert rows == pytest.approx(FLOOR, abs=1e-3)


def test_nothing_gives_nothing():
    assert list(mel_rows([])) == []
    assert list(mel_rows([np.zeros(0, np.float32)])) == []


def test_a_click_is_centred_on_its_row():
    sound = np.zeros(RATE, np.float32)
    sound[37 * HOP] = 1.0
    total = loudness(rows_of(sound, 500)[:, :BANDS])
    assert abs(int(total.argmax()) - 37) <= 1
    loud = np.nonzero(total > FLOOR + 20)[0]
    assert loud.mean() == pytest.approx(37, abs=0.5)


def test_level_is_dbfs():
    clock = np.arange(RATE) / RATE
    rows = rows_of(np.sin(2 * np.pi * 440 * clock).astype("f4"), 1000)
    assert rows[20:80, LEVEL] == pytest.approx(-3.01, abs=0.2)


def test_a_tone_lands_in_its_band():
    clock = np.arange(RATE) / RATE
    low, high = (
        rows_of(np.sin(2 * np.pi * f * clock).astype("f4"), 999)[50, :BANDS].argmax()
        for f in (300, 3000)
    )
    assert low < 12 < 20 < high


def test_broken_samples_count_as_silence():
    sound = np.full(3200, np.nan, np.float32)
    sound[100], sound[200] = np.inf, -np.inf
    assert rows_of(sound, 1000) == pytest.approx(FLOOR, abs=1e-3)
