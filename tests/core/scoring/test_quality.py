"""What is measured beside sync, each on a case whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest

from lipsync_core.errors import EngineError, MediaError
from lipsync_core.media.audio import MemoryVoice, VoiceFile
from lipsync_core.scoring import embedded, quality
from lipsync_core.types import Audio


@pytest.fixture(scope="module")
def clip(tmp_path_factory, drawn_clip):
    return drawn_clip(tmp_path_factory.mktemp("quality") / "clip.mkv", seconds=4.0)


@pytest.fixture(scope="module")
def found(clip, examined):
    return examined(clip)


def test_a_clip_against_itself(found, clip):
    result = quality.assess(found, reference=clip, frames=5)
    assert result.mouth_ssim == result.outside_ssim == 1.0
    assert result.mouth_psnr is None
    assert result.outside_changed == 0.0
    assert result.flicker_added == 0.0
    assert result.compared_frames == 5
    assert set(quality.UNITS) >= {
        key for key, value in vars(result).items() if isinstance(value, float)
    }


def test_another_mouth_shows_in_the_mouth_alone(found, tmp_path, drawn_clip):
    still = drawn_clip(tmp_path / "still.mkv", seconds=4.0, moving=False)
    result = quality.assess(found, reference=still, frames=6)
    assert result.mouth_ssim < 0.97
    assert result.outside_ssim > result.mouth_ssim + 0.02
    assert result.flicker_added > 0.2


def test_following_the_voice_and_the_old_one(found, clip):
    own = VoiceFile(clip)
    assert quality.assess(found).follows_voice > 0.3
    other = np.random.default_rng(9).standard_normal((1, 64_000)).astype(np.float32)
    other *= np.repeat(np.random.default_rng(8).uniform(0, 0.3, 20), 3200)
    moved = replace(found, heard=embedded.hear(MemoryVoice(Audio(samples=other, rate=16_000))))
    result = quality.assess(moved, old_voice=own)
    assert result.follows_voice < 0.2
    assert result.follows_old_voice > 0.3


def test_silence(found):
    active = np.zeros_like(found.heard.active)
    silent = replace(found, heard=replace(found.heard, active=active))
    opening = np.zeros(100, np.float32)
    opening[:25] = 0.2
    motion = replace(found.motion, opening=opening, gap=np.zeros(100, np.float32))
    result = quality.assess(replace(silent, motion=motion))
    assert result.silence_closed == 0.75
    assert result.silence_frames == 100
    assert quality.assess(found).silence_closed is None or found.heard.active.mean() < 1


def test_a_reference_of_another_size_is_refused(found, tmp_path, drawn_clip):
    wide = drawn_clip(tmp_path / "wide.mkv", seconds=0.4, faces=2)
    with pytest.raises(MediaError, match="same size"):
        quality.assess(found, reference=wide)


def test_ssim_and_psnr_are_the_fields():
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("torchmetrics.functional.image")
    random = np.random.default_rng(0)
    one = random.integers(0, 256, (64, 72, 3)).astype(np.uint8)
    one = np.kron(one[:16, :18], np.ones((4, 4, 1))).astype(np.uint8)
    other = np.clip(one + random.normal(0, 12, one.shape), 0, 255).astype(np.uint8)
    ssim, psnr = quality.compare(one, other, np.ones(one.shape[:2], np.float32))
    pair = [torch.from_numpy(p).permute(2, 0, 1)[None].float() for p in (one, other)]
    value, field = metrics.structural_similarity_index_measure(
        *pair, data_range=255.0, return_full_image=True
    )
    inner = np.zeros(one.shape[:2], np.float32)
    inner[8:-8, 8:-8] = 1
    ours, _ = quality.compare(one, other, inner)
    assert ours == pytest.approx(float(field[0, :, 8:-8, 8:-8].mean()), abs=1e-4)
    assert ssim == pytest.approx(float(value), abs=0.02)  # the margin is treated differently
    expected = float(metrics.peak_signal_noise_ratio(*pair, data_range=255.0))
    assert psnr == pytest.approx(expected, abs=1e-4)


def test_lpips_without_its_parts_names_the_extra(found, clip, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    with pytest.raises(EngineError, match="torchmetrics"):
        quality.assess(found, reference=clip, lpips=True)
