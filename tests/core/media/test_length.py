"""What gives way when voice and picture differ."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import accumulate, cycle, islice, pairwise
from typing import get_args

import pytest

from lipsync_core.errors import MediaError, SettingsError
from lipsync_core.media import length
from lipsync_core.types import LengthPolicy

TICK = Fraction(1, 90000)
POLICIES = get_args(LengthPolicy)


def variable(count: int, seed: int = 1) -> list[int]:
    rng = random.Random(seed)
    return [0, *accumulate(rng.choice([1500, 3003, 3600, 9000]) for _ in range(count))]


CLIPS = {
    "25": (length.constant_edges(100, 3600), TICK),
    "29.97": (length.constant_edges(90, 1001), Fraction(1, 30000)),
    "23.976": (length.constant_edges(61, 1001), Fraction(1, 24000)),
    "vfr": (variable(80), TICK),
    "two": ([0, 3600, 5100], TICK),
    "one": ([0, 3600], TICK),
}


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("factor", [Fraction(1, 7), Fraction(97, 100), 1, Fraction(101, 100), 5])
def test_picture_and_sound_agree_within_one_frame(clip, policy, factor):
    edges, base = CLIPS[clip]
    voice = edges[-1] * base * factor + Fraction(1, 16000)
    plan = length.plan(edges, base, voice, policy)
    rows = list(plan)
    assert len(rows) == len(plan) == plan.frame_count
    assert plan.policy != "auto"
    # Times follow each other without a gap, and any row alone gives the same.
    at = Fraction(0)
    for index, (source, time, duration) in enumerate(rows):
        assert time == at == plan.time(index) == plan.times()[index]
        assert duration == plan.frame_duration(index) > 0
        assert source == plan.source(index)
        assert 0 <= source < plan.source_count
        at += duration
    assert at == plan.duration
    assert [source for source, _, _ in rows] == list(plan.sources())
    # The last frame is the first to reach the end of the sound.
    assert plan.time(plan.frame_count - 1) < plan.audio_duration <= plan.duration
    picture = edges[-1] * base
    if policy in ("bounce", "loop", "hold", "stretch", "auto") or (
        policy == "silence" and voice > picture
    ):
        assert plan.audio_duration == voice
    elif policy == "silence":
        assert plan.audio_duration == picture == plan.duration
    else:
        assert plan.audio_duration == min(voice, picture)
    if plan.motion != "resample":
        for source, _, duration in rows:
            assert duration == (edges[source + 1] - edges[source]) * base


def shown(policy: str, count: int, total: int) -> list[int]:
    plan = length.plan(
        length.constant_edges(count, 1), Fraction(1, 25), Fraction(total, 25), policy
    )
    return list(plan.sources())


def test_orders():
    assert shown("bounce", 4, 14) == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]
    assert shown("loop", 3, 8) == [0, 1, 2, 0, 1, 2, 0, 1]
    assert shown("hold", 3, 6) == [0, 1, 2, 2, 2, 2]
    assert shown("auto", 3, 5) == [0, 1, 2, 1, 0]
    assert shown("auto", 5, 3) == [0, 1, 2]
    assert shown("cut", 3, 9) == [0, 1, 2]
    assert shown("silence", 5, 2) == [0, 1, 2, 3, 4]
    assert shown("silence", 3, 5) == [0, 1, 2, 1, 0]
    assert shown("stretch", 3, 6) == [0, 0, 1, 1, 2, 2]
    assert shown("stretch", 6, 3) == [0, 2, 4]
    assert shown("bounce", 1, 3) == [0, 0, 0]


def test_bounce_never_doubles_a_frame():
    edges, base = CLIPS["vfr"]
    plan = length.plan(edges, base, Fraction(60), "bounce")
    forth = [*range(80), *range(78, 0, -1)]
    assert list(plan.sources()) == list(islice(cycle(forth), plan.frame_count))
    assert all(a != b for a, b in pairwise(plan.sources()))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_still_lasts_as_long_as_the_voice(policy):
    plan = length.plan(range(2), Fraction(1, 25), Fraction(160001, 16000), policy, is_still=True)
    assert plan.frame_count == 251
    assert set(plan.sources()) == {0}
    assert plan.audio_duration == Fraction(160001, 16000)
    assert plan.time(250) == 10


@pytest.mark.parametrize("policy", ["bounce", "loop", "hold", "stretch"])
@pytest.mark.parametrize("clip", CLIPS)
def test_hours_cost_nothing_and_do_not_drift(policy, clip):
    edges, base = CLIPS[clip]
    voice = Fraction(4 * 3600) + Fraction(1, 48000)
    plan = length.plan(edges, base, voice, policy)
    last = plan.frame_count - 1
    assert plan.time(last) < voice <= plan.time(last + 1)
    if policy == "loop":
        rounds, place = divmod(last, plan.source_count)
        assert plan.time(last) == (rounds * edges[-1] + edges[place]) * base
    if policy == "stretch":
        assert plan.frame_rate == plan.source_count / (edges[-1] * base)
        assert plan.source(last) == plan.source_count - 1


def test_refusals():
    with pytest.raises(SettingsError, match="choose one of auto"):
        length.plan(range(3), TICK, Fraction(1), "rewind")  # type: ignore[arg-type]
    with pytest.raises(MediaError, match="no frames"):
        length.plan([0], TICK, Fraction(1))
    with pytest.raises(MediaError, match="no length"):
        length.plan(range(3), TICK, Fraction(0))
