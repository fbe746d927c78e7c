"""Speech and silence."""

from fractions import Fraction

import numpy as np
import pytest

from lipsync_core.audio.mel import RATE, mel_rows
from lipsync_core.audio.voice import activity, speech


class Memory:
    def __init__(self, samples):
        self.samples = samples.astype(np.float32)
        self.duration = Fraction(len(samples), RATE)

    def blocks(self, rate):
        assert rate == RATE
        for i in range(0, len(self.samples), rate):
            yield self.samples[i : i + rate]


def syllables(seconds, rng):
    """Something with the rhythm of speech: a buzz of 120 Hz through two formants, five a second."""
    clock = np.arange(int(seconds * RATE)) / RATE
    buzz = sum(
        np.sin(2 * np.pi * 120 * k * clock)
        * (np.exp(-(((120 * k - 600) / 300) ** 2)) + 0.4 * np.exp(-(((120 * k - 1700) / 400) ** 2)))
        for k in range(1, 30)
    )
    beat = np.clip(np.sin(2 * np.pi * 5 * clock), 0.02, 1) * (1 + 0.2 * rng.standard_normal())
    return 0.1 * buzz * beat


@pytest.fixture
def rng():
    return np.random.default_rng(4)


def test_finds_the_speech_between_silences(rng):
    quiet = np.zeros(RATE)
    spans = speech(
        Memory(np.concatenate([quiet, syllables(2, rng), quiet, syllables(1, rng), quiet]))
    )
    assert len(spans) == 2
    (a, b), (c, d) = spans
    assert all(isinstance(t, Fraction) for t in (a, b, c, d))
    assert float(a) == pytest.approx(1, abs=0.1)
    assert float(b) == pytest.approx(3, abs=0.15)
    assert float(c) == pytest.approx(4, abs=0.1)
    assert float(d) == pytest.approx(5, abs=0.15)


def test_finds_it_in_noise(rng):
    sound = np.concatenate([np.zeros(2 * RATE), syllables(2, rng), np.zeros(2 * RATE)])
    sound += (
        0.02 * np.sqrt(np.mean(sound[2 * RATE : 4 * RATE] ** 2)) * rng.standard_normal(len(sound))
    )
    (span,) = speech(Memory(sound))
    assert float(span[0]) == pytest.approx(2, abs=0.15)
    assert float(span[1]) == pytest.approx(4, abs=0.2)


@pytest.mark.parametrize("kind", ["silence", "noise", "hum", "faint", "click"])
def test_what_is_not_speech(kind, rng):
    clock = np.arange(6 * RATE) / RATE
    click = np.zeros(len(clock))
    click[50_000:50_050] = 0.8
    sound = {
        "silence": np.zeros(len(clock)),
        "noise": 0.1 * rng.standard_normal(len(clock)),
        "hum": 0.3 * np.sin(2 * np.pi * 50 * clock) + 0.1 * np.sin(2 * np.pi * 250 * clock),
        "faint": 1e-4 * syllables(6, rng),
        "click": click,
    }[kind]
    assert speech(Memory(sound)) == []


def test_nothing():
    assert speech(Memory(np.zeros(0))) == []
    assert activity(np.zeros((0, 41), np.float32)).shape == (0,)


def test_one_answer_per_row(rng):
    rows = np.concatenate(list(mel_rows([syllables(0.5, rng).astype("f4")])))
    assert activity(rows).shape == (len(rows),)
    assert activity(rows).any()
