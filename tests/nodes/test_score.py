"""SyncNet Score and Fix A/V Offset on a dub whose timing is known."""

import json
import os
from fractions import Fraction

import pytest

torch = pytest.importorskip("torch")
av = pytest.importorskip("av")

LATE = Fraction(6, 25)
"""Seconds by which the late clip's sound is late."""


@pytest.fixture(scope="module")
def dubbed(run):
    _, voice, picture = run(
        "LipSyncLoadSample", clip="bundled portrait", sound="bundled sentence"
    ).result
    return run(
        "LipSyncDubVideo",
        clip=picture,
        voice=voice,
        engine="draft",
        face="largest",
        length="auto",
        seed=0,
        detector="cascade",
    ).result[0]


@pytest.fixture(scope="module")
def late(bridge, dubbed, tmp_path_factory):
    from lipsync_pack.lipsync_core.scoring.repair import shift_sound

    path = tmp_path_factory.mktemp("late") / "late.mp4"
    shift_sound(dubbed.get_stream_source(), path, LATE)
    return bridge.video(path)


def score(run, clip, **inputs):
    options = {"engine": "embedded", "face": "largest", "detector": "cascade"}
    return run("LipSyncScoreSync", video=clip, **{**options, **inputs})


def fix(run, clip, **inputs):
    options = {"unsure": "error", "engine": "embedded", "face": "largest", "detector": "cascade"}
    return run("LipSyncFixOffset", video=clip, **{**options, **inputs})


def packets(video):
    with av.open(str(video.get_stream_source())) as container:
        return [bytes(p) for p in container.demux(container.streams.video[0]) if p.size]


def test_score_in_sync(run, dubbed):
    out = score(run, dubbed)
    picture, numbers, offset, audio_late, confidence = out.result
    assert picture.shape[0] == 1
    assert picture.shape[-1] == 3
    found = json.loads(numbers)
    wanted = {"lse_c", "lse_d", "accepted", "segments", "units"}
    assert wanted <= set(found)
    assert found["engine"] == "embedded"
    assert (found["offset_frames"], found["audio_late_ms"]) == (offset, audio_late)
    assert found["confidence"] == confidence
    assert found["accepted"]
    assert abs(audio_late) <= 60
    shown = out.ui.as_dict() if hasattr(out.ui, "as_dict") else out.ui
    assert "in sync" in shown["text"][0]


def test_score_finds_the_offset(run, late):
    _, _, offset, audio_late, _ = score(run, late).result
    assert audio_late == pytest.approx(float(LATE) * 1000, abs=60)
    assert offset == -6


def test_connected_voice_replaces_the_sound(run, late):
    voice = run("LipSyncLoadSample", clip="bundled portrait", sound="bundled sentence").result[1]
    assert abs(score(run, late, audio=voice).result[3]) <= 60


def test_fix_moves_the_sound_and_leaves_the_picture(run, late):
    out, moved, told = fix(run, late).result
    assert moved == pytest.approx(-float(LATE) * 1000, abs=60)
    assert "was moved by" in told
    assert packets(out) == packets(late)
    assert abs(score(run, out).result[3]) <= 60


def test_fix_refuses_or_passes_what_is_uncertain(run, bridge, late, comfy_folder, tmp_path):
    from lipsync_pack.lipsync_core.scoring.repair import shift_sound

    # Almost all of the voice is moved out of the clip.
    path = tmp_path / "empty.mp4"
    shift_sound(late.get_stream_source(), path, 3.5)
    clip = bridge.video(path)
    before = sorted((comfy_folder / "temp").iterdir())
    with pytest.raises(Exception, match="'unsure' to pass") as caught:
        fix(run, clip)
    assert "\n" not in str(caught.value)
    out, moved, told = fix(run, clip, unsure="pass").result
    assert out is clip
    assert moved == 0
    assert "nothing was changed" in told
    assert sorted((comfy_folder / "temp").iterdir()) == before


def test_cancel_leaves_nothing(run, late, comfy_folder):
    import comfy.model_management as memory

    before = sorted((comfy_folder / "temp").iterdir())
    for node in (score, fix):
        memory.interrupt_current_processing(True)
        with pytest.raises(memory.InterruptProcessingException):
            node(run, late)
    assert sorted((comfy_folder / "temp").iterdir()) == before


def test_a_still_is_refused(run):
    still = run("LipSyncLoadSample", clip="bundled portrait", sound="bundled sentence").result[0]
    with pytest.raises(Exception, match=r"still|no sound") as caught:
        score(run, still)
    assert "\n" not in str(caught.value)


comfyui = pytest.mark.skipif(
    not os.environ.get("COMFYUI_PATH"), reason="needs ComfyUI's own video types: set COMFYUI_PATH"
)


@comfyui
def test_pictures_in_memory(run, bridge, late):
    clip = bridge.InputImpl.VideoFromComponents(late.get_components())
    assert score(run, clip).result[3] == pytest.approx(float(LATE) * 1000, abs=60)
    out, moved, _ = fix(run, clip).result
    parts = out.get_components()
    assert torch.equal(parts.images, clip.get_components().images)
    heard, given = parts.audio["waveform"], clip.get_components().audio["waveform"]
    shift = round(-moved / 1000 * parts.audio["sample_rate"])
    assert heard.shape == given.shape
    assert torch.equal(heard[..., : heard.shape[-1] - shift], given[..., shift:])


@comfyui
def test_trim_window(run, bridge, late):
    if not hasattr(late, "get_active_trim_window"):
        pytest.skip("this ComfyUI does not trim videos")
    trimmed = bridge.InputImpl.VideoFromFile(late.get_stream_source(), start_time=0.4, duration=3.2)
    assert score(run, trimmed).result[3] == pytest.approx(float(LATE) * 1000, abs=60)
    own = trimmed.get_components().audio
    assert score(run, trimmed, audio=own).result[3] == pytest.approx(float(LATE) * 1000, abs=60)
    out, moved, _ = fix(run, trimmed).result
    assert moved == pytest.approx(-float(LATE) * 1000, abs=60)
    assert out.get_active_trim_window() == trimmed.get_active_trim_window()
    assert len(out.get_components().images) == len(trimmed.get_components().images)


@comfyui
def test_syncnet_in_the_hands_of_the_memory_manager(run, comfy_folder):
    from lipsync_pack.lipsync_core.models.syncnet_v2 import SyncNetV2

    _, voice, picture = run(
        "LipSyncLoadSample", clip="bundled portrait", sound="bundled sentence"
    ).result
    voice = {**voice, "waveform": voice["waveform"][..., : voice["sample_rate"] * 3 // 5]}
    clip = run(
        "LipSyncDubVideo",
        clip=picture,
        voice=voice,
        engine="draft",
        face="largest",
        length="auto",
        seed=0,
        detector="cascade",
    ).result[0]
    weights = comfy_folder / "models" / "lipsync" / "syncnet_v2.model"
    weights.parent.mkdir(exist_ok=True)
    torch.manual_seed(3)
    torch.save(SyncNetV2().state_dict(), weights)
    try:
        found = json.loads(score(run, clip, engine="syncnet_v2").result[1])
    finally:
        weights.unlink()
    assert found["engine"] == "syncnet_v2"
    assert found["lse_d"] > 0
    # These weights have learned nothing.
    assert not found["accepted"]
    with pytest.raises(Exception, match="syncnet-v2"):
        score(run, clip, engine="syncnet_v2")
