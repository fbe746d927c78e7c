"""Graphs run node after node: the one-node dub, every stage, cancelling, saving."""

import json
import os

import numpy as np
import pytest

torch = pytest.importorskip("torch")
av = pytest.importorskip("av")


@pytest.fixture(scope="module")
def sample(run):
    video, voice, picture = run(
        "LipSyncLoadSample", clip="bundled portrait", sound="bundled sentence"
    ).result
    short = {
        "waveform": voice["waveform"][..., : voice["sample_rate"] // 2],
        "sample_rate": voice["sample_rate"],
    }
    return video, short, picture


def count(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def dub(run, clip, voice, **inputs):
    options = {"engine": "draft", "face": "largest", "length": "auto", "seed": 0}
    return run(
        "LipSyncDubVideo", clip=clip, voice=voice, detector="cascade", **{**options, **inputs}
    ).result


@pytest.mark.parametrize("as_image", [False, True])
def test_dub_and_save(run, sample, comfy_folder, as_image):
    video, voice, picture = sample
    out, report = dub(run, picture if as_image else video, voice)
    assert "draft" in report
    saved = run("LipSyncSaveDub", video=out, filename_prefix="t/dub")
    entry = saved.ui["images"][0]
    path = comfy_folder / "output" / entry["subfolder"] / entry["filename"]
    assert count(path) == 13
    with av.open(str(path)) as container:
        assert container.streams.audio


def test_dub_frames_at_their_rate(run, sample):
    _, voice, picture = sample
    out, _ = dub(run, picture.expand(8, -1, -1, -1), voice, fps=16.0)
    with av.open(str(out.get_stream_source())) as container:
        assert container.streams.video[0].average_rate == 16
    assert count(out.get_stream_source()) == 8


def test_dub_without_sound_says_so(run, sample):
    with pytest.raises(Exception, match=r"sound|audio"):
        dub(run, sample[0], None)


def test_cancel_leaves_nothing(run, sample, comfy_folder):
    import comfy.model_management as memory

    before = sorted((comfy_folder / "temp").iterdir())
    memory.interrupt_current_processing(True)
    with pytest.raises(memory.InterruptProcessingException):
        dub(run, sample[2], sample[1])
    assert sorted((comfy_folder / "temp").iterdir()) == before
    dub(run, sample[2], sample[1])


def test_every_stage(run, sample):
    _, voice, picture = sample
    images, voice, frame_count = run(
        "LipSyncMatchLength", images=picture, audio=voice, fps=25.0, length="auto"
    ).result
    assert images.shape[0] == frame_count == 13
    features, needed = run("LipSyncHearVoice", audio=voice, fps=25.0, engine="draft").result
    assert needed == 13
    faces, crops, valid, overlay = run(
        "LipSyncAlignFaces",
        images=images,
        engine="draft",
        fps=25.0,
        face="largest",
        detector="cascade",
        missing="pass",
        smoothing=0.0,
    ).result
    assert crops.shape[0] == valid.shape[0] == overlay.shape[0] == 13
    assert valid.min() == 1
    (model,) = run("LipSyncLoadModel", model="draft (no weights needed)").result
    (model,) = run(
        "LipSyncSetMotion", model=model, motion="off", strength=1.0, window=0, overlap=-1
    ).result
    sampling = {
        "seed": 0,
        "preset": "auto",
        "steps": 0,
        "scheduler": "from the preset",
        "guidance": -1.0,
        "strength": 1.0,
        "silence": "model",
        "window_batch": 0,
    }
    drawn, mask = run(
        "LipSyncSampleMouths", model=model, features=features, faces=faces, **sampling
    ).result
    assert drawn.shape == crops.shape
    again, _ = run(
        "LipSyncSampleMouths", model=model, features=features, faces=faces, **sampling
    ).result
    assert torch.equal(drawn, again)
    pasting = {"images": images, "faces": faces, "feather": 0.0, "match_colour": False}
    out, changed = run("LipSyncPasteFaces", crops=drawn, mask=mask, **pasting).result
    same = changed == 0
    assert changed.max() > 0.5
    assert torch.equal(out[same], images[same])
    # A crop that is twice as large goes back to the same place.
    large = torch.nn.functional.interpolate(
        drawn.movedim(-1, 1), scale_factor=2, mode="bilinear"
    ).movedim(1, -1)
    big, _ = run("LipSyncPasteFaces", crops=large, mask=mask, **pasting).result
    assert (big - out).abs().mean() < 0.002
    # Where something stands in front, nothing changes.
    front = torch.ones(1, 64, 64)
    kept, _ = run("LipSyncPasteFaces", crops=drawn, mask=mask, occlusion=front, **pasting).result
    assert torch.equal(kept, images)


def test_stages_that_do_not_fit_say_which(run, sample):
    _, voice, picture = sample
    images = picture.expand(5, -1, -1, -1)
    features, _ = run("LipSyncHearVoice", audio=voice, fps=25.0, engine="draft").result
    faces = run(
        "LipSyncAlignFaces",
        images=images,
        engine="draft",
        fps=25.0,
        face="largest",
        detector="cascade",
        missing="pass",
        smoothing=0.0,
    ).result[0]
    (model,) = run("LipSyncLoadModel", model="draft (no weights needed)").result
    with pytest.raises(Exception, match="Match Length"):
        run(
            "LipSyncSampleMouths",
            model=model,
            features=features,
            faces=faces,
            seed=0,
            preset="auto",
            steps=0,
            scheduler="from the preset",
            guidance=-1.0,
            strength=1.0,
            silence="model",
            window_batch=0,
        )


def test_no_face_is_one_line(run):
    empty = torch.full((3, 120, 160, 3), 0.5)
    with pytest.raises(Exception, match="no face") as caught:
        run(
            "LipSyncAlignFaces",
            images=empty,
            engine="draft",
            fps=25.0,
            face="largest",
            detector="cascade",
            missing="pass",
            smoothing=0.0,
        )
    assert "\n" not in str(caught.value)


def test_given_box_replaces_the_detector(run, sample):
    faces = run(
        "LipSyncAlignFaces",
        images=sample[2].expand(3, -1, -1, -1),
        engine="draft",
        fps=25.0,
        face="largest",
        detector="auto",
        missing="pass",
        smoothing=0.0,
        boxes={"x": 165, "y": 70, "width": 110, "height": 140},
    ).result[0]
    assert faces.track.detector == "given"
    middle = faces.track.points.mean(axis=(0, 1))
    assert 165 < middle[0] < 275


def test_load_audio_trims(run):
    out, seconds, report = run(
        "LipSyncLoadAudio", file="bundled sentence", start=0.5, duration=1.25
    ).result
    assert seconds == pytest.approx(1.25, abs=1e-3)
    assert out["waveform"].shape[-1] == pytest.approx(1.25 * out["sample_rate"], abs=1)
    assert "speech" in report
    with pytest.raises(Exception, match="earlier start"):
        run("LipSyncLoadAudio", file="bundled sentence", start=500.0, duration=1.0)


def test_save_frames_with_sound(run, sample, comfy_folder):
    _, voice, picture = sample
    saved = run(
        "LipSyncSaveDub",
        video=picture.expand(10, -1, -1, -1),
        filename_prefix="t/frames",
        audio=voice,
        fps=23.976,
    )
    entry = saved.ui["images"][0]
    path = comfy_folder / "output" / entry["subfolder"] / entry["filename"]
    with av.open(str(path)) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(24000 / 1001)
        assert "generated" in container.metadata["comment"]
        picture_seconds = 10 * 1001 / 24000
        sound = container.streams.audio[0]
        assert float(sound.duration * sound.time_base) == pytest.approx(picture_seconds, abs=0.03)


def test_self_check_reports(run):
    out = run("LipSyncCheckSystem")
    assert "[ready] engine draft" in out.result[0]


def test_two_people_are_two(run):
    _, _, picture = run(
        "LipSyncLoadSample", clip="bundled picture of two people", sound="bundled sentence"
    ).result
    middles = {}
    for face in ("left", "right"):
        faces = run(
            "LipSyncAlignFaces",
            images=picture.expand(2, -1, -1, -1),
            engine="draft",
            fps=25.0,
            face=face,
            detector="cascade",
            missing="pass",
            smoothing=0.0,
        ).result[0]
        middles[face] = float(np.mean(faces.track.points[..., 0]))
    assert middles["left"] < 320 < middles["right"]


def test_motion_is_patched_and_taken_back(pack):
    """The manager changes the motion modules of the copy, and the model that came in keeps its own."""
    if not os.environ.get("COMFYUI_PATH"):
        pytest.skip("needs ComfyUI's own model patcher: set COMFYUI_PATH")
    import comfy.model_management as memory
    from lipsync_pack.lipsync_core.engines.latentsync import RELEASES, hosted
    from lipsync_pack.lipsync_core.models.unet3d import UNet3D, UNetConfig

    unet = UNet3D(UNetConfig(channels=(32, 32), layers=1, motion_scales=(1, 2)))
    ends = hosted.motion_outputs(list(unet.state_dict()))
    for name in ends:
        torch.nn.init.ones_(unet.get_parameter(name))
    engine = hosted.Hosted(RELEASES[1], unet, None)
    bridge = pack.nodes.bridge
    model = pack.nodes.sockets.LoadedModel(engine=engine, patchers=(bridge.managed(unet),))
    weaker = bridge.with_motion(model, "from the model", 0.25, 8, 2)
    off = bridge.with_motion(model, bridge.MOTION_OFF, 1.0, 0, -1)
    for given, value in ((weaker, 0.25), (off, 0.0), (model, 1.0)):
        memory.load_models_gpu(list(given.patchers))
        for name in ends:
            assert torch.all(unet.get_parameter(name) == value), (name, value)
    row = weaker.engine.row(bridge.settings(), "cpu")
    assert (row.window, row.overlap) == (8, 2)
    assert off.engine.row(bridge.settings(), "cpu").window == 16


def test_the_late_clip_is_late_and_can_be_mended(run):
    """What the template of Fix A/V Offset shows is true of the bundled clip."""
    video, _, picture = run(
        "LipSyncLoadSample", clip="bundled clip with late sound", sound="bundled sentence"
    ).result
    assert picture.shape == (1, 512, 512, 3)
    measuring = {"engine": "embedded", "face": "largest", "detector": "cascade"}
    late = run("LipSyncScoreSync", video=video, **measuring).result[3]
    assert late == pytest.approx(240, abs=20)
    _, moved, _ = run("LipSyncFixOffset", video=video, unsure="error", **measuring).result
    assert moved == pytest.approx(-240, abs=20)


def test_a_file_of_turns_says_who_speaks(run, nodes, comfy_folder):
    turns = [{"start": 0.4, "end": 1.2, "person": 0, "voice": 0}]
    (comfy_folder / "input" / "turns.json").write_text(json.dumps({"turns": turns}))
    still, voice, picture = run(
        "LipSyncLoadSample", clip="bundled picture of two people", sound="bundled sentence"
    ).result
    with pytest.raises(Exception, match="still picture"):
        dub(run, still, voice, speaker="turns.json")
    clip = picture.expand(50, -1, -1, -1)
    out, _ = dub(run, clip, voice, speaker="turns.json", length="cut", draft_mode="warp")
    with av.open(str(out.get_stream_source())) as container:
        frames = [f.to_ndarray(format="gray").astype(int) for f in container.decode(video=0)]
    moved = np.array(
        [np.abs(frame - frames[-1]).reshape(320, 2, 320).max((0, 2)) for frame in frames]
    )
    left, right = moved.T
    # One of the two speaks, and only while it is their turn.
    assert right[10:30].max() > 40
    assert max(right[:8].max(), right[34:].max(), left.max()) < 20
    refused = nodes["LipSyncDubVideo"].validate_inputs(speaker="gone.json")
    assert "gone.json" in refused


def test_the_bundled_network_is_offered_and_loads_as_any_checkpoint(bridge, run):
    """So that every stage of diffusion can be tried without a download."""
    pytest.importorskip("diffusers")
    assert bridge.bundled_checkpoints() == [bridge.BUNDLED]
    if not os.environ.get("COMFYUI_PATH"):
        pytest.skip("needs ComfyUI's own model patcher: set COMFYUI_PATH")
    (model,) = run("LipSyncLoadModel", model=bridge.BUNDLED, dtype="float32").result
    assert model.engine.release.name == "latentsync-tiny"
    assert model.engine.unet.config.audio_width == 64
