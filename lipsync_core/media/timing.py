"""Frames, samples and feature rows: the only index arithmetic of the project, exact throughout.

A *frame index* counts pictures, a *sample index* sound samples, a *row* feature rows of some
rational rate. Time is a ``Fraction`` of seconds. Every function computes from the origin and never
from the previous result, so nothing drifts however long the clip.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction

Rate = Fraction | int


def frame_count(duration: Fraction, frame_rate: Rate) -> int:
    """Frames that cover ``duration`` seconds: the last one may stick out, none is missing."""
    return max(math.ceil(duration * frame_rate), 0)


def frame_time(index: int, frame_rate: Rate) -> Fraction:
    """Seconds at which frame ``index`` appears at a constant rate."""
    return index / Fraction(frame_rate)


def frame_at(time: Fraction, frame_rate: Rate) -> int:
    """The frame that is on screen at ``time`` at a constant rate."""
    return math.floor(time * frame_rate)


def frame_showing(time: Fraction, times: Sequence[Fraction]) -> int:
    """The frame on screen at ``time``, given when each appears (rising); the first before that."""
    return max(bisect_right(times, time) - 1, 0)


def sample_at(time: Fraction, sample_rate: int) -> int:
    """The sample being played at ``time``."""
    return math.floor(time * sample_rate)


def sample_count(duration: Fraction, sample_rate: int) -> int:
    """Samples nearest to ``duration`` seconds."""
    return rounded(duration * sample_rate)


def sample_range(index: int, frame_rate: Rate, sample_rate: int) -> tuple[int, int]:
    """``(start, stop)`` samples heard while frame ``index`` is on screen at a constant rate.

    Consecutive frames share a border: no sample is left out or heard twice.
    """
    return span(frame_time(index, frame_rate), frame_time(index + 1, frame_rate), sample_rate)


def span(start: Fraction, stop: Fraction, rate: Rate) -> tuple[int, int]:
    """``(first, end)`` of the samples or rows at ``rate`` that begin in ``start <= t < stop``."""
    return math.ceil(start * rate), math.ceil(stop * rate)


def row_at(time: Fraction, row_rate: Rate, *, row_count: int | None = None) -> int:
    """The feature row nearest to ``time``; held inside ``0..row_count-1`` if that is given."""
    row = rounded(time * row_rate)
    if row_count is not None:
        row = min(max(row, 0), row_count - 1)
    return row


def ticks(time: Fraction, time_base: Fraction) -> int:
    """``time`` in units of ``time_base``, to the nearest. Always from the origin: no drift."""
    return rounded(time / time_base)


def rounded(value: Fraction | int) -> int:
    """The nearest whole number, halves upwards: ``round`` would send them to even numbers."""
    return math.floor(Fraction(value) + Fraction(1, 2))


def holds(time_base: Fraction, *intervals: Fraction) -> bool:
    """Whether every one of these durations is a whole number of ticks."""
    return all((interval / time_base).denominator == 1 for interval in intervals)
