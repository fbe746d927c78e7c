"""What is measured beside sync, each on a case whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest

from lipsync_core.errors import EngineError, MediaError, SettingsError
from lipsync_core.media.audio import MemoryVoice, VoiceFile
from lipsync_core.scoring import embedded, likeness, quality
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


def test_identity_and_fid_need_a_clip_to_compare_with(found):
    with pytest.raises(SettingsError, match="give the one that was dubbed"):
        quality.assess(found, identity=True)


@pytest.mark.parametrize(
    ("absent", "asked", "extra"),
    [
        ("insightface", {"identity": True, "fid": False}, r"lipsync-core\[insightface\]"),
        ("torchmetrics.image.fid", {"identity": False, "fid": True}, r"lipsync-core\[quality\]"),
        ("torch_fidelity", {"identity": False, "fid": True}, r"lipsync-core\[quality\]"),
    ],
)
def test_a_missing_extra_is_named_before_anything_is_dubbed(
    clip, tmp_path, monkeypatch, absent, asked, extra
):
    import sys

    from lipsync_core.compare import compare

    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(EngineError, match=extra) as caught:
        compare([clip], tmp_path / "out", **asked)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_face_model_is_named_where_it_is_absent(monkeypatch, tmp_path):
    pytest.importorskip("insightface", reason="needs the insightface extra")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    with pytest.raises(EngineError, match="buffalo_l"):
        likeness.check(identity=True, fid=False)


def test_the_distance_of_frechet_is_that_of_two_gaussians():
    torch = pytest.importorskip("torch", reason="needs torch")
    pytest.importorskip("torchmetrics.image.fid", reason="needs the quality extra")
    linalg = pytest.importorskip("scipy.linalg", reason="needs scipy")

    class Means(torch.nn.Module):
        """Mean colours: three features that can be followed by hand."""

        num_features = 3

        def forward(self, pictures):
            return pictures.float().mean((2, 3))

    random = np.random.default_rng(4)
    ours, theirs = (random.integers(low, 200, (21, 8, 6, 3)).astype(np.uint8) for low in (0, 40))
    distance = likeness.Frechet(Means())
    for one, other in zip(ours, theirs, strict=True):
        distance.see(one, other)
    a, b = (crops.astype(np.float64).mean((1, 2)) for crops in (ours, theirs))
    one, other = np.cov(a.T), np.cov(b.T)
    root = linalg.sqrtm(one @ other).real
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(one + other - 2 * root)
    assert distance.count == 21
    assert distance.value() == pytest.approx(expected, rel=1e-4)
    same = likeness.Frechet(Means())
    for crop in ours:
        same.see(crop, crop)
    assert same.value() == pytest.approx(0, abs=1e-2)


def test_fid_of_a_clip_carries_its_caveats(found, clip, tmp_path, drawn_clip, monkeypatch):
    torch = pytest.importorskip("torch", reason="needs torch")
    pytest.importorskip("torchmetrics.image.fid", reason="needs the quality extra")

    class Small(torch.nn.Module):
        num_features = 12

        def forward(self, pictures):
            return torch.nn.functional.adaptive_avg_pool2d(pictures.float(), 2).flatten(1)

    whole = likeness.Frechet
    monkeypatch.setattr(likeness, "Frechet", lambda: whole(Small()))
    same = quality.assess(found, reference=clip, frames=4, fid=True)
    still = drawn_clip(tmp_path / "still.mkv", seconds=4.0, moving=False)
    other = quality.assess(found, source=still, fid=True)
    assert same.fid == pytest.approx(0, abs=0.05)
    assert other.fid > same.fid + 0.5
    assert "100 aligned face crops" in other.caveats[0]
    assert "this table only" in other.caveats[0]
    assert "FVD: not measured" in other.caveats[1]


def test_columns_nobody_asked_for_are_left_out():
    from pathlib import Path

    from lipsync_core.compare import Row, table
    from lipsync_core.types import SyncScore

    score = SyncScore(
        engine="embedded", offset_frames=0, audio_late_ms=0.0, confidence=0.9, accepted=True,
        summary="",
    )  # fmt: skip
    row = Row(
        clip=Path("a.mp4"), voice=None, engine="draft", output=None, score=score,
        quality=quality.Quality(), seconds_per_frame=None,
    )  # fmt: skip
    assert not {"identity", "FID"} & {title for title, _ in table([row])[0]}
    rated = replace(row, quality=quality.Quality(fid=3.25, caveats=("FID: rough",)))
    heads, cells, notes = table([row, rated, rated])
    place = [title for title, _ in heads].index("FID")
    assert [text[place] for text in cells] == ["-", "3.2", "3.2"]
    assert "identity" not in [title for title, _ in heads]
    assert notes == ["FID: rough"]
