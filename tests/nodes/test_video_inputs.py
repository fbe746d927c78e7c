"""VIDEO in all the forms that ComfyUI's own nodes give it; needs ComfyUI itself."""

import io
import os
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
av = pytest.importorskip("av")
pytestmark = pytest.mark.skipif(
    not os.environ.get("COMFYUI_PATH"), reason="needs ComfyUI's own video types: set COMFYUI_PATH"
)


@pytest.fixture(scope="module")
def frames(run):
    _, _, picture = run(
        "LipSyncLoadSample", clip="bundled portrait", sound="bundled sentence"
    ).result
    return picture[:, 20:260, 100:360].expand(30, -1, -1, -1).clone()


@pytest.fixture(scope="module")
def voice(run):
    return run("LipSyncLoadAudio", file="bundled sentence", start=0.2, duration=0.6).result[0]


@pytest.fixture(scope="module")
def file(bridge, frames, voice, tmp_path_factory):
    from lipsync_pack.lipsync_core.media import batch

    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    long = run_sound(voice, 1.2)
    return batch.encode(
        bridge.frames(frames), path, Fraction(25), sound=long, progress=lambda *_: None
    )


def run_sound(voice, seconds):
    from lipsync_pack.lipsync_core.types import Audio

    samples = voice["waveform"][0].numpy()
    count = int(seconds * voice["sample_rate"])
    tiled = np.tile(samples, (1, -(-count // samples.shape[1])))[:, :count]
    return Audio(samples=tiled, rate=voice["sample_rate"])


def dub(run, clip, voice):
    return run(
        "LipSyncDubVideo",
        clip=clip,
        voice=voice,
        engine="draft",
        face="largest",
        length="auto",
        seed=0,
        detector="cascade",
    ).result[0]


def facts(video):
    with av.open(str(video.get_stream_source())) as container:
        stream = container.streams.video[0]
        count = sum(1 for _ in container.decode(video=0))
        return count, stream.width, stream.height


def test_file(run, bridge, file, voice):
    assert facts(dub(run, bridge.video(file), voice)) == (15, 260, 240)


def test_bytes(run, bridge, file, voice):
    clip = bridge.InputImpl.VideoFromFile(io.BytesIO(file.read_bytes()))
    assert facts(dub(run, clip, voice)) == (15, 260, 240)


@pytest.mark.parametrize("size", [(240, 260), (239, 257)])
def test_components(run, bridge, frames, voice, size):
    from comfy_api.v0_0_2 import Types

    parts = Types.VideoComponents(
        images=frames[:, : size[0], : size[1]], frame_rate=Fraction(25), audio=None
    )
    out = dub(run, bridge.InputImpl.VideoFromComponents(parts), voice)
    assert facts(out) == (15, size[1], size[0])
    run("LipSyncSaveDub", video=out, filename_prefix="t/components")


def test_components_with_six_channels_are_saved(run, bridge, frames):
    from comfy_api.v0_0_2 import Types

    sound = {"waveform": torch.rand(1, 6, 24000) - 0.5, "sample_rate": 48000}
    parts = Types.VideoComponents(images=frames[:12], frame_rate=Fraction(24), audio=sound)
    out = run(
        "LipSyncSaveDub",
        video=bridge.InputImpl.VideoFromComponents(parts),
        filename_prefix="t/six",
    ).result[0]
    with av.open(str(out.get_stream_source())) as container:
        assert len(container.streams.audio[0].layout.channels) == 6


def test_own_sound_when_no_voice_is_connected(run, bridge, file):
    assert facts(dub(run, bridge.video(file), None))[0] == 30


def test_trim_window_is_respected(run, bridge, file):
    clip = bridge.video(file)
    if not hasattr(clip, "get_active_trim_window"):
        pytest.skip("this ComfyUI does not trim videos")
    trimmed = bridge.InputImpl.VideoFromFile(str(file), start_time=0.4, duration=0.48)
    assert facts(dub(run, trimmed, None))[0] == 12


def test_workflow_goes_into_the_file(nodes, bridge, file):
    node = nodes["LipSyncSaveDub"].PREPARE_CLASS_CLONE({})
    node.hidden = SimpleNamespace(prompt={"1": {}}, extra_pnginfo={"workflow": {"a": 1}})
    out = node.EXECUTE_NORMALIZED(video=bridge.video(file), filename_prefix="t/tags").result[0]
    with av.open(str(out.get_stream_source())) as container:
        assert container.metadata["workflow"] == '{"a": 1}'
        assert "generated" in container.metadata["comment"]


def test_what_is_not_a_video_of_ours_leaves_nothing(run, bridge, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"not a video at all")
    voice = {"waveform": torch.rand(1, 1, 16000) - 0.5, "sample_rate": 16000}
    with pytest.raises(Exception, match=r"bad\.mp4") as caught:
        dub(run, bridge.video(bad), voice)
    assert "\n" not in str(caught.value)
