"""Stretches: read from words and from scores, blended without a jump, kept only where better."""

from fractions import Fraction

import numpy as np
import pytest

from lipsync_core.errors import SettingsError
from lipsync_core.scoring import segments
from lipsync_core.types import SyncScore, SyncSegment


def score(*states, agreements=None):
    agreements = agreements or [0.4] * len(states)
    return SyncScore(
        engine="embedded",
        offset_frames=0,
        audio_late_ms=0.0,
        confidence=1.0,
        accepted=True,
        summary="",
        segments=tuple(
            SyncSegment(
                start=4.0 * number,
                end=4.0 * number + 4,
                state=state,
                agreement=agreement,
                offset_frames=None,
            )
            for number, (state, agreement) in enumerate(zip(states, agreements, strict=True))
        ),
    )


def test_words():
    assert segments.parse("1.5-3") == [(Fraction(3, 2), Fraction(3))]
    assert segments.parse("7-9.25, 1:00-1:02.5 ,8-10") == [
        (Fraction(7), Fraction(10)),
        (Fraction(60), Fraction(125, 2)),
    ]


@pytest.mark.parametrize("text", ["", "3", "3-1", "2-2", "a-b", "1-2;3-4", "1-2,,3-4", "-1-2"])
def test_words_that_mean_nothing(text):
    with pytest.raises(SettingsError):
        segments.parse(text)


def test_weak_segments_are_widened_and_joined():
    found = segments.weak(score("good", "weak", "off", "silent", "weak"))
    assert found == [(Fraction("3.8"), Fraction("12.2")), (Fraction("15.8"), Fraction("20.2"))]
    assert segments.weak(score("weak"))[0][0] == 0
    assert segments.weak(score("good", "no face")) == []


def test_shares_are_whole_inside_and_smooth_outside():
    times = np.arange(250) / 25
    share = segments.shares(times, [(Fraction(2), Fraction(3)), (Fraction(5), Fraction(6))])
    inside = ((times >= 2) & (times <= 3)) | ((times >= 5) & (times <= 6))
    assert (share[inside] == 1).all()
    assert share[times < 1.8].max() == 0
    assert share[(times > 3.2) & (times < 4.8)].max() == 0
    assert np.abs(np.diff(share)).max() < 0.55
    assert ((share > 0) & (share < 1)).sum() >= 8


def test_blend():
    old, new = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 200, np.uint8)
    assert (segments.blend(old, new, 0.25) == 50).all()
    assert (segments.blend(new, old, 1.0) == 0).all()


def test_only_better_takes_are_kept():
    stretches = [
        (Fraction(0), Fraction(4)),
        (Fraction(4), Fraction(8)),
        (Fraction(8), Fraction(12)),
    ]
    old = score("weak", "weak", "weak", agreements=[0.05, 0.1, 0.1])
    new = score("good", "weak", "off", agreements=[0.4, 0.12, 0.5])
    assert [take.kept for take in segments.judge_takes(old, new, stretches)] == [True, False, False]
