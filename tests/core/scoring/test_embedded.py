"""The estimate without weights: shifts are found, foreign voices are not believed, nothing is made up."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lipsync_core.media.audio import MemoryVoice
from lipsync_core.scoring import embedded
from lipsync_core.scoring.motion import MouthMotion
from lipsync_core.types import Audio

RATE = 16_000


def murmur(seconds, seed=0):
    """Noise that swells and fades like syllables."""
    random = np.random.default_rng(seed)
    knots = random.uniform(0, 1, int(seconds * 5) + 2) ** 2
    swell = np.interp(np.arange(int(seconds * RATE)) / RATE * 5, np.arange(len(knots)), knots)
    sound = random.standard_normal(len(swell)) * swell * 0.3
    return MemoryVoice(Audio(samples=sound[None].astype(np.float32), rate=RATE))


def motion_of(heard, times, noise=0.3, seed=1):
    """A mouth that does what the voice says, with noise of ``noise`` of its movement."""
    random = np.random.default_rng(seed)
    curves = embedded.expected(heard, times)
    scale = np.maximum(curves.std(0), 1e-6)
    rows = curves / scale @ np.array([[0.6, 0], [0.4, 0], [0, 1]])
    rows = rows + noise * random.standard_normal(rows.shape)
    return MouthMotion(
        speed=rows[:, 0].astype(np.float32),
        opening=np.cumsum(rows[:, 0]).astype(np.float32),
        width=rows[:, 1].astype(np.float32),
        gap=np.zeros(len(rows), np.float32),
    )


@pytest.fixture(scope="module")
def heard():
    return embedded.hear(murmur(9.0))


@pytest.mark.parametrize("frames", range(-15, 16))
def test_every_shift_is_found(heard, frames):
    times = np.arange(200) / 25 + 0.5
    found = embedded.match(motion_of(heard, times), times - frames * 0.04, heard)
    assert found.late_ms == pytest.approx(frames * 40, abs=12)
    if abs(frames) < 15:
        assert found.confidence > embedded.ACCEPT


@pytest.mark.parametrize("fps", [12, Fraction(24000, 1001), 25, 50, 60])
def test_any_frame_rate(heard, fps):
    times = np.arange(int(8 * fps)) / float(fps)
    found = embedded.match(motion_of(heard, times + 0.2), times, heard)
    assert found.late_ms == pytest.approx(200, abs=10)


def test_a_foreign_voice_is_not_believed(heard):
    times = np.arange(200) / 25
    motion = motion_of(heard, times)
    others = [embedded.match(motion, times, embedded.hear(murmur(9.0, seed))) for seed in (5, 6, 7)]
    own = embedded.match(motion, times, heard)
    assert max(other.confidence for other in others) < 0.5 < own.confidence


def test_too_little_says_nothing(heard):
    for count in (1, 2, 12):
        times = np.arange(count) / 25
        assert embedded.match(motion_of(heard, times), times, heard).confidence == 0


def test_a_still_mouth_and_a_hidden_one(heard):
    times = np.arange(200) / 25
    still = MouthMotion(**{k: np.zeros(200, np.float32) for k in FIELDS})
    hidden = MouthMotion(**{k: np.full(200, np.nan, np.float32) for k in FIELDS})
    assert embedded.match(still, times, heard).confidence < 0.01
    assert embedded.match(hidden, times, heard).confidence == 0


FIELDS = ("speed", "opening", "width", "gap")


def test_gaps_and_outliers_do_not_matter(heard):
    times = np.arange(200) / 25
    motion = motion_of(heard, times + 0.12)
    motion.speed[60:75] = np.nan
    motion.opening[60:75] = np.nan
    motion.width[60:75] = np.nan
    motion.speed[[20, 120]] = 400.0
    assert embedded.match(motion, times, heard).late_ms == pytest.approx(120, abs=12)


def test_confidence_grows_with_height_and_length():
    assert embedded.confidence(0.4, 0.2, 3.0) < embedded.confidence(0.5, 0.2, 3.0)
    assert embedded.confidence(0.4, 0.2, 3.0) < embedded.confidence(0.4, 0.2, 8.0)
    assert embedded.confidence(0.05, 0.05, 10_000.0) < 0.01


SHARED = Path(__file__).parents[4] / "shared"


@pytest.mark.skipif(not (SHARED / "media" / "grid").is_dir(), reason="needs shared/media/grid")
def test_real_clips():
    """Six sentences: every true shift within a frame, and few foreign voices accepted."""
    from lipsync_core.faces.detect.yunet import YuNet
    from lipsync_core.media.audio import VoiceFile
    from lipsync_core.scoring.motion import watch

    model = SHARED / "models" / "face_detection_yunet_2023mar.onnx"
    clips = sorted((SHARED / "media" / "grid").glob("*.mpg"))[:3]
    watched = [watch(clip, detector=YuNet(model)) for clip in clips]
    voices = [embedded.hear(VoiceFile(clip)) for clip in clips]
    own, foreign = [], []
    for look in watched:
        assert look.people.tracks
        for voice in voices:
            found = embedded.match(look.motions[0], look.times, voice)
            (own if voice is voices[watched.index(look)] else foreign).append(found)
    assert all(abs(found.late_ms) <= 45 for found in own)
    assert sum(found.confidence >= embedded.ACCEPT for found in foreign) <= 1
    assert min(f.confidence for f in own) > np.median([f.confidence for f in foreign])
    # the sound really moved: the frames are asked for moments 280 ms earlier
    moved = embedded.match(watched[0].motions[0], watched[0].times - 0.28, voices[0])
    assert moved.late_ms == pytest.approx(own[0].late_ms + 280, abs=15)
