"""When a stage ends, on curves that are known."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest

from trainer.config import SwitchConfig
from trainer.curriculum import decide, falling

FLAT = SwitchConfig(when="converged", metric="loss", window=10, slope=0.002, min_steps=0)


def history(values, metric="loss"):
    return [{metric: value, "other": 1.0} for value in values]


def first_end(switch, values, *, every=100, steps=10**6):
    """Number of validations after which the stage ends."""
    for count in range(1, len(values) + 1):
        if decide(switch, history(values[:count]), stage_step=count * every, steps=steps).ends:
            return count
    return None


def learning(count, noise=0.0, seed=0):
    """Falls to half over about 20 validations, then hardly any more."""
    dice = random.Random(seed)
    return [(0.1 + 0.1 * math.exp(-i / 20)) * (1 + noise * dice.gauss(0, 1)) for i in range(count)]


def test_the_number_of_steps_ends_a_stage_in_any_case():
    for when in ("steps", "converged", "score"):
        switch = SwitchConfig(when=when, metric="loss", min_steps=10**9)
        decision = decide(switch, [], stage_step=100, steps=100)
        assert decision.ends
        assert decision.evidence == {"stage_step": 100, "steps": 100}
        assert not decide(switch, [], stage_step=99, steps=100).ends


def test_steps_look_at_nothing_else():
    switch = SwitchConfig(when="steps", metric="loss")
    assert first_end(switch, [1.0] * 50) is None


def test_the_slope_is_relative_and_by_least_squares():
    assert falling([1.0, 0.9, 0.8]) == pytest.approx(0.1 / 0.9)
    assert falling([100.0, 90.0, 80.0]) == pytest.approx(0.1 / 0.9)
    assert falling([1.0, 1.0, 1.0, 1.0]) == 0
    assert falling([1.0, 1.1]) < 0
    # by hand: the line through 3, 1, 2, 0 falls by 0.8 each, its middle is 1.5
    assert falling([3.0, 1.0, 2.0, 0.0]) == pytest.approx(0.8 / 1.5)
    assert falling([0.0, 0.0, 0.0]) == 0


def test_a_curve_that_still_falls_goes_on_and_one_that_is_flat_ends():
    end = first_end(FLAT, learning(200))
    assert end is not None
    # a clean exponential: the fall per validation at the middle of the window is the slope
    falls = [falling(learning(200)[end - 10 - k : end - k]) for k in (0, 1)]
    assert falls[0] < 0.002 <= falls[1]
    assert first_end(FLAT, [0.99**i for i in range(200)]) is None


@pytest.mark.parametrize("seed", range(20))
def test_noise_neither_ends_a_stage_early_nor_keeps_it_for_ever(seed):
    # one percent from validation to validation, which is five times the slope in question
    values = learning(300, noise=0.01, seed=seed)
    end = first_end(FLAT, values)
    assert end is not None
    # not while it still falls by more than half a percent a validation
    assert end > 20
    assert values[end - 1] < 0.13


def test_two_values_apart_would_have_been_fooled():
    """What a line over a window is for: single steps of the same noisy curve rise early on."""
    fooled = [
        next(i for i, (a, b) in enumerate(pairwise(v)) if b > a * (1 - 0.002))
        for v in (learning(300, noise=0.01, seed=seed) for seed in range(20))
    ]
    assert max(fooled) < 20


def test_a_curve_that_rises_has_converged_too():
    assert first_end(FLAT, [1 + 0.1 * i for i in range(20)]) == 10


def test_nothing_is_asked_before_min_steps_nor_before_the_window_is_full():
    late = SwitchConfig(when="converged", metric="loss", window=5, slope=0.01, min_steps=2000)
    assert first_end(late, [1.0] * 50) == 20
    assert first_end(SwitchConfig(when="converged", metric="loss", window=5), [1.0] * 50) == 5


def test_the_evidence_is_what_was_compared():
    values = [1.0, 0.999, 1.0, 1.001, 1.0]
    switch = SwitchConfig(when="converged", metric="loss", window=5, slope=0.01)
    decision = decide(switch, history(values), stage_step=500, steps=1000)
    assert decision.ends
    assert decision.evidence["window"] == values
    assert decision.evidence["fall"] == falling(values)
    assert "loss falls by" in decision.reason
    assert "\n" not in decision.reason


def test_a_target_is_reached_from_below_or_above():
    up = SwitchConfig(when="score", metric="loss", target=0.9)
    assert first_end(up, [0.5, 0.89, 0.9, 0.2]) == 3
    down = SwitchConfig(when="score", metric="loss", target=0.1, larger_is_better=False)
    assert first_end(down, [0.5, 0.11, 0.1]) == 3
    decision = decide(up, history([0.95]), stage_step=1, steps=9)
    assert decision.evidence == {"value": 0.95, "target": 0.9}


def test_a_figure_that_is_no_number_or_absent_decides_nothing():
    up = SwitchConfig(when="score", metric="loss", target=0.9)
    assert first_end(up, [math.nan, 0.95]) == 2
    assert first_end(up, [math.inf]) is None
    assert not decide(up, history([0.95], "else"), stage_step=1, steps=9).ends
    broken = [1.0] * 8 + [math.nan] + [1.0] * 12
    assert first_end(FLAT, broken) == 19
