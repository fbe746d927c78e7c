"""The index arithmetic, over hours and at every usual rate."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import pairwise

import pytest

from lipsync_core.media import timing

RATES = [
    Fraction(24000, 1001),
    Fraction(24),
    Fraction(25),
    Fraction(30000, 1001),
    Fraction(30),
    Fraction(50),
    Fraction(60000, 1001),
    Fraction(60),
]
HOURS = 5 * 3600


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("sample_rate", [8000, 16000, 44100, 48000])
def test_samples_of_frames_share_borders_for_hours(rate, sample_rate):
    for first in (0, 1, int(rate * 3600), int(rate * HOURS) - 500):
        _, border = timing.sample_range(first, rate, sample_rate)
        for index in range(first + 1, first + 500):
            start, stop = timing.sample_range(index, rate, sample_rate)
            assert start == border
            assert stop - start in (int(sample_rate / rate), int(sample_rate / rate) + 1)
            assert 0 <= start - index * sample_rate / rate < 1
            border = stop


@pytest.mark.parametrize("rate", RATES)
def test_frames_and_times_are_inverse_for_hours(rate):
    for index in (0, 1, 7, 12345, int(rate * HOURS)):
        time = timing.frame_time(index, rate)
        assert timing.frame_at(time, rate) == index
        assert timing.frame_at(time - Fraction(1, 10**9), rate) == index - 1
        assert timing.frame_count(time, rate) == index
        assert timing.frame_count(time + Fraction(1, 10**9), rate) == index + 1


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("base", [Fraction(1, 1000), Fraction(1, 90000), Fraction(1, 12800)])
def test_rounding_to_a_time_base_does_not_drift(rate, base):
    for index in range(int(rate * HOURS) - 200, int(rate * HOURS)):
        time = timing.frame_time(index, rate)
        assert abs(timing.ticks(time, base) * base - time) <= base / 2


@pytest.mark.parametrize("row_rate", [Fraction(50), Fraction(80), Fraction(62, 3), 100])
@pytest.mark.parametrize("rate", RATES)
def test_rows_are_the_nearest(rate, row_rate):
    for index in (0, 1, 99, 100_000, int(rate * HOURS)):
        time = timing.frame_time(index, rate)
        row = timing.row_at(time, row_rate)
        assert abs(row / Fraction(row_rate) - time) <= 1 / (2 * Fraction(row_rate))
    assert timing.row_at(Fraction(100), 50, row_count=10) == 9
    assert timing.row_at(Fraction(-1), 50, row_count=10) == 0


def test_variable_rate():
    rng = random.Random(2)
    times = [Fraction(0)]
    for _ in range(5000):
        times.append(times[-1] + Fraction(rng.randint(1, 9000), 90000))
    for index in (0, 1, 17, 4999):
        middle = (times[index] + times[index + 1]) / 2
        assert timing.frame_showing(times[index], times) == index
        assert timing.frame_showing(middle, times) == index
    assert timing.frame_showing(Fraction(-1), times) == 0
    border = 0
    for first, second in pairwise(times):
        start, stop = timing.span(first, second, 44100)
        assert start == border
        border = stop


def test_halves_go_up():
    assert [timing.rounded(Fraction(n, 2)) for n in (1, 3, 5, -1)] == [1, 2, 3, 0]
    assert timing.sample_count(Fraction(1, 3), 16000) == 5333
    assert timing.holds(Fraction(1, 90000), Fraction(1001, 30000), Fraction(1, 25))
    assert not timing.holds(Fraction(1, 1000), Fraction(1001, 30000))
