"""Takes put together: new inside the stretches, old outside, the right sound, nothing left behind."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lipsync_core.check import checked, redo, splice
from lipsync_core.errors import LipSyncError, MediaError
from lipsync_core.types import Settings

SHARED = Path(__file__).parents[3] / "shared"
GRID = SHARED / "media" / "grid"


def take(path, level, seconds=2.0, side=64):
    """A gray clip with a square of ``level`` where a mouth would be."""
    random = np.random.default_rng(0)
    sound = (random.standard_normal(int(seconds * 16_000)) * 3000).astype(np.int16)
    with av.open(str(path), "w") as out:
        video = out.add_stream("mpeg4", rate=25)
        video.width = video.height = side
        video.pix_fmt, video.bit_rate = "yuv420p", 8_000_000
        voice = out.add_stream("pcm_s16le", rate=16_000)
        voice.layout = "mono"
        image = np.full((side, side, 3), 100, np.uint8)
        image[32:48, 16:48] = level
        for _ in range(int(seconds * 25)):
            out.mux(video.encode(av.VideoFrame.from_ndarray(image)))
        out.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
        out.mux(voice.encode(frame))
        out.mux(voice.encode(None))
    return path


def mouths(path):
    with av.open(str(path)) as source:
        return np.array(
            [f.to_ndarray(format="rgb24")[36:44, 24:40].mean() for f in source.decode(video=0)]
        )


def test_splice(tmp_path):
    old, new = take(tmp_path / "old.mkv", 20), take(tmp_path / "new.mkv", 220)
    output = tmp_path / "out.mkv"
    taken = splice(old, new, output, [(Fraction(4, 5), Fraction(6, 5))])
    level = mouths(output)
    assert len(level) == 50
    assert np.abs(level[20:31] - 220).max() < 6
    assert np.abs(level[:16] - 20).max() < 6
    assert np.abs(level[35:] - 20).max() < 6
    assert 11 < taken < 20
    assert (np.diff(level[15:21]) >= -1).all()
    assert ((level > 40) & (level < 200)).sum() >= 2
    with av.open(str(output)) as source:
        samples = sum(frame.samples for frame in source.decode(audio=0))
    assert samples == 32_000


def test_takes_of_another_clip_are_refused(tmp_path):
    old = take(tmp_path / "old.mkv", 20)
    new = take(tmp_path / "new.mkv", 220, side=96)
    with pytest.raises(MediaError, match="not takes of one clip"):
        splice(old, new, tmp_path / "out.mkv", [(Fraction(0), Fraction(1))])
    assert not (tmp_path / "out.mkv").exists()


def test_a_stretch_past_the_end_is_refused(tmp_path):
    old = take(tmp_path / "old.mkv", 20)
    for text in ("1-9", "3-1"):
        with pytest.raises(LipSyncError):
            redo(old, old, old, tmp_path / "out.mkv", text)
    assert [path.name for path in tmp_path.iterdir()] == ["old.mkv"]


@pytest.mark.skipif(not GRID.is_dir(), reason="needs shared/media/grid")
def test_a_checked_dub(tmp_path, monkeypatch):
    """A real sentence is dubbed, scored and found to follow its voice."""
    models = tmp_path / "models" / "detection"
    models.mkdir(parents=True)
    yunet = SHARED / "models" / "face_detection_yunet_2023mar.onnx"
    (models / yunet.name).write_bytes(yunet.read_bytes())
    monkeypatch.setenv("LIPSYNC_MODELS", str(tmp_path / "models"))
    settings = Settings(cache=tmp_path / "cache")
    result = checked(
        GRID / "swiz3n.mpg", GRID / "pwij3p.mpg", tmp_path / "out.mp4",
        settings=settings, scoring="embedded",
    )  # fmt: skip
    assert result.score.accepted
    assert abs(result.score.audio_late_ms) <= 45
    assert str(tmp_path / "out.mp4") in result.sentence()
    again = redo(
        GRID / "swiz3n.mpg", GRID / "pwij3p.mpg", tmp_path / "out.mp4",
        tmp_path / "redone.mp4", "0.5-1", settings=settings,
    )  # fmt: skip
    assert again.track_reused
    assert again.painted <= 20
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cache", "models", "out.mp4", "redone.mp4",
    ]  # fmt: skip


@pytest.mark.skipif(not GRID.is_dir(), reason="needs shared/media/grid")
def test_a_weak_stretch_is_tried_again_and_the_better_take_stays(tmp_path, monkeypatch):
    """Where nothing is good enough everything is drawn once more, in the draft engine's other mode."""
    from lipsync_core.scoring import segments, sync

    models = tmp_path / "models" / "detection"
    models.mkdir(parents=True)
    yunet = SHARED / "models" / "face_detection_yunet_2023mar.onnx"
    (models / yunet.name).write_bytes(yunet.read_bytes())
    monkeypatch.setenv("LIPSYNC_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(sync, "WEAK", 2.0)
    for mode in ("warp", "units"):
        output = tmp_path / f"{mode}.mp4"
        result = checked(
            GRID / "swiz3n.mpg", GRID / "pwij3p.mpg", output, scoring="embedded",
            settings=Settings(cache=tmp_path / "cache", draft_mode=mode),
        )  # fmt: skip
        (take,) = result.takes
        assert take.kept == (take.after > take.before + segments.GAIN)
        said = result.sentence().splitlines()
        assert len(said) == 2
        assert ("the new take is kept" in said[1]) == take.kept
        with av.open(str(output)) as source:
            assert sum(1 for _ in source.decode(video=0)) == 75
        kept = result.score.segments[0].agreement
        assert kept == pytest.approx(take.after if take.kept else take.before, abs=0.03)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["cache", "models", "units.mp4", "warp.mp4"]
