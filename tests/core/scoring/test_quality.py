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


def test_lpips_without_its_parts_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchmetrics.image.lpip", None)
    with pytest.raises(EngineError, match=r"lipsync-core\[quality\]") as caught:
        likeness.open_extras(lpips=True)
    assert "\n" not in str(caught.value)


def test_lpips_is_asked_inside_and_outside(found, clip, tmp_path, drawn_clip):
    """With a distance that can be followed by hand in place of AlexNet's."""
    extras = likeness.Extras(lpips=lambda one, other: float(np.abs(one.astype(int) - other).max()))
    same = quality.assess(found, reference=clip, frames=4, extras=extras)
    assert same.mouth_lpips == same.outside_lpips == 0
    still = drawn_clip(tmp_path / "still.mkv", seconds=4.0, moving=False)
    reference = quality.assess(found, reference=still, frames=12, extras=extras)
    source = quality.assess(found, source=still, frames=12, extras=extras)
    assert reference.mouth_lpips > 20
    assert reference.outside_lpips > 0
    assert source.mouth_lpips is None, "the mouth may say something else"
    assert source.mouth_ssim is None
    assert source.outside_lpips == reference.outside_lpips
    assert source.outside_ssim == reference.outside_ssim > 0.9
    assert source.flicker_added == reference.flicker_added
    assert "true mouth" in source.caveats[0]


def test_what_compares_with_a_clip_needs_one(found):
    with pytest.raises(SettingsError, match="give the one that was dubbed"):
        quality.assess(found, extras=likeness.Extras(identity=object()))


@pytest.mark.parametrize(
    ("absent", "asked", "extra"),
    [
        ("insightface", {"identity": True}, r"lipsync-core\[insightface\]"),
        ("torchmetrics.image.fid", {"fid": True}, r"lipsync-core\[quality\]"),
        ("torch_fidelity", {"fid": True}, r"lipsync-core\[quality\]"),
        ("torchmetrics.image.fid", {"fvd": True}, r"lipsync-core\[quality\]"),
        ("torchmetrics.image.lpip", {"lpips": True}, r"lipsync-core\[quality\]"),
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
        likeness.open_extras(identity=True)


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


def small(torch):
    class Small(torch.nn.Module):
        def forward(self, pictures):
            return torch.nn.functional.adaptive_avg_pool2d(pictures.float(), 2).flatten(1)

    return Small()


def test_fid_of_a_clip_carries_its_caveats(found, clip, tmp_path, drawn_clip):
    torch = pytest.importorskip("torch", reason="needs torch")
    pytest.importorskip("torchmetrics.image.fid", reason="needs the quality extra")
    extras = likeness.Extras(fid=small(torch))
    same = quality.assess(found, reference=clip, frames=4, extras=extras)
    still = drawn_clip(tmp_path / "still.mkv", seconds=4.0, moving=False)
    other = quality.assess(found, source=still, extras=extras)
    assert same.fid == pytest.approx(0, abs=0.05)
    assert other.fid > same.fid + 0.5
    assert "100 aligned face crops" in other.caveats[0]
    assert "this table only" in other.caveats[0]


def test_fvd_with_the_network_of_videomae(found, clip, tmp_path, drawn_clip):
    """The network itself, small: the same windows are at no distance, others are at one."""
    torch = pytest.importorskip("torch", reason="needs torch")
    pytest.importorskip("torchmetrics.image.fid", reason="needs the quality extra")
    from lipsync_core.models.videomae import VideoMAE, VideoMAEConfig

    torch.manual_seed(1)
    network = VideoMAE(VideoMAEConfig(width=32, depth=1, heads=2, inner=48, classes=0))
    # Untrained it hardly listens to its pictures.
    with torch.no_grad():
        network.patch_embed.proj.weight *= 100
    extras = likeness.Extras(fvd=likeness.windows(network.train(False)))
    pools = {}
    same = quality.assess(found, reference=clip, frames=4, extras=extras, pools=pools)
    again = quality.assess(found, source=clip, extras=extras, pools=pools)
    assert same.fvd == again.fvd == pytest.approx(0, abs=1e-3)
    assert "6 windows of 16 frames" in same.caveats[0]
    assert "not I3D" in same.caveats[0]
    assert pools["fvd"].count == 12
    random = np.random.default_rng(3)
    apart = likeness.Frechet(extras.fvd)
    for _ in range(4):
        window = random.integers(0, 120, (16, 28, 28, 3)).astype(np.uint8)
        apart.see(window, 255 - window)
    assert apart.value() > 0.1


def test_absent_weights_of_fvd_are_one_line(tmp_path, monkeypatch):
    pytest.importorskip("torchmetrics.image.fid", reason="needs the quality extra")
    for name in ("LIPSYNC_MODELS", "HF_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    with pytest.raises(EngineError, match="lipsync models download videomae-v2-g") as caught:
        likeness.open_extras(fvd=True)
    assert "\n" not in str(caught.value)


def test_identity_with_a_network_of_the_published_layout(found, clip, tmp_path, monkeypatch):
    """112 x 112 in, an embedding out, as InsightFace tells its recognisers by."""
    pytest.importorskip("insightface", reason="needs the insightface extra")
    onnx = pytest.importorskip("onnx", reason="needs the insightface extra")
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).normal(size=(16, 3, 16, 16)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Sub", ["data", "mean"], ["centred"]),
            helper.make_node("Conv", ["centred", "w"], ["maps"], strides=[16, 16]),
            helper.make_node("Flatten", ["maps"], ["out"]),
        ],
        "recogniser",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["n", 3, 112, 112])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 784])],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(np.float32(0.1).reshape(1), "mean"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    folder = tmp_path / ".insightface" / "models" / "buffalo_l"
    folder.mkdir(parents=True)
    onnx.save(model, folder / "w600k_r50.onnx")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    extras = likeness.open_extras(identity=True)
    same = quality.assess(found, source=clip, frames=4, extras=extras)
    assert same.identity == pytest.approx(1, abs=1e-3)
    assert "non-commercial" in same.caveats[0]
    (folder / "w600k_r50.onnx").write_bytes(b"not a network")
    with pytest.raises(EngineError, match="buffalo_l") as caught:
        likeness.open_extras(identity=True)
    assert "\n" not in str(caught.value)


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
    assert not {"identity", "FID", "FVD", "LSE-C", "cosine"} & {
        title for title, _ in table([row])[0]
    }
    rated = replace(row, quality=quality.Quality(fid=3.25, caveats=("FID: rough",)))
    heads, cells, notes = table([row, rated, rated])
    place = [title for title, _ in heads].index("FID")
    assert [text[place] for text in cells] == ["-", "3.2", "3.2"]
    assert "identity" not in [title for title, _ in heads]
    assert notes == ["FID: rough"]
