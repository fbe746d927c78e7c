"""Bad input gets one clear line and exit code 2, within seconds, and leaves nothing behind."""

import os
import subprocess
import sys
import time
import wave
from fractions import Fraction

import av
import numpy as np
import pytest

from lipsync_core import cli


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs the command line in this process; returns its exit code and what it said."""
    monkeypatch.setenv("LIPSYNC_CACHE", str(tmp_path / "cache"))

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["lipsync", *map(str, arguments)])
        began = time.monotonic()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert time.monotonic() - began < 10
        said = capsys.readouterr()
        return stop.value.code, said.err.strip(), said.out

    return call


def write_wav(path, samples, rate=16000):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def write_video(path, frames=5, size=(64, 48), draw=None):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for index in range(frames):
            picture = np.full((size[1], size[0], 3), 40 + index, np.uint8)
            if draw:
                draw(picture, index)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


@pytest.fixture
def voice(tmp_path):
    t = np.arange(16000) / 16000
    return write_wav(tmp_path / "voice.wav", 0.3 * np.sin(2 * np.pi * 180 * t))


@pytest.fixture
def clip(tmp_path):
    return write_video(tmp_path / "clip.mp4")


def refused(run, tmp_path, *arguments, says=()):
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    code, line, out = run("dub", *arguments)
    assert code == 2, (code, line)
    assert line.startswith("lipsync: ")
    assert "\n" not in line
    assert "Traceback" not in line
    assert out == ""
    for word in says:
        assert word in line, line
    after = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    assert after == before, "something was left behind"
    return line


def test_a_missing_clip(run, tmp_path, voice):
    refused(run, tmp_path, tmp_path / "no.mp4", voice, "-o", tmp_path / "o.mp4", says=["no.mp4"])


def test_a_missing_voice(run, tmp_path, clip):
    refused(run, tmp_path, clip, tmp_path / "no.wav", "-o", tmp_path / "o.mp4", says=["no.wav"])


def test_an_empty_clip(run, tmp_path, voice):
    empty = tmp_path / "empty.mp4"
    empty.touch()
    refused(run, tmp_path, empty, voice, "-o", tmp_path / "o.mp4", says=["empty"])


def test_an_empty_voice(run, tmp_path, clip):
    empty = tmp_path / "empty.wav"
    empty.touch()
    refused(run, tmp_path, clip, empty, "-o", tmp_path / "o.mp4", says=["empty"])


def test_a_truncated_clip(run, tmp_path, clip, voice):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(clip.read_bytes()[:200])
    refused(run, tmp_path, cut, voice, "-o", tmp_path / "o.mp4", says=["cut.mp4"])


@pytest.mark.parametrize("kind", ["clip", "voice"])
def test_what_is_not_media(run, tmp_path, clip, voice, kind):
    text = tmp_path / "notes.mp4"
    text.write_text("these are notes, not a video\n" * 50)
    pair = (text, voice) if kind == "clip" else (clip, text)
    refused(run, tmp_path, *pair, "-o", tmp_path / "o.mp4", says=["notes.mp4"])


def test_a_clip_without_pictures(run, tmp_path, voice):
    refused(run, tmp_path, voice, voice, "-o", tmp_path / "o.mp4", says=["voice.wav"])


def test_a_voice_without_sound(run, tmp_path, clip):
    refused(run, tmp_path, clip, clip, "-o", tmp_path / "o.mp4", says=["clip.mp4"])


def test_a_folder_for_a_clip(run, tmp_path, voice):
    refused(run, tmp_path, tmp_path, voice, "-o", tmp_path / "o.mp4", says=["folder"])


@pytest.mark.skipif(
    os.name == "nt" or (hasattr(os, "geteuid") and os.geteuid() == 0),
    reason="permissions do not bind this user",
)
def test_an_unreadable_clip(run, tmp_path, clip, voice):
    clip.chmod(0)
    refused(run, tmp_path, clip, voice, "-o", tmp_path / "o.mp4", says=["clip.mp4"])


def test_an_output_folder_that_is_not_there(run, tmp_path, clip, voice):
    refused(run, tmp_path, clip, voice, "-o", tmp_path / "no" / "o.mp4", says=["no"])


def test_an_output_that_exists(run, tmp_path, clip, voice):
    existing = tmp_path / "o.mp4"
    existing.write_bytes(b"dear")
    refused(run, tmp_path, clip, voice, "-o", existing, says=["overwrit"])
    assert existing.read_bytes() == b"dear"


@pytest.mark.parametrize("which", ["clip", "voice"])
def test_an_output_that_is_an_input(run, tmp_path, clip, voice, which):
    if which == "voice":
        voice = tmp_path / "voice.mp4"
        with av.open(str(voice), "w") as container:
            stream = container.add_stream("aac", rate=16000)
            tone = 0.3 * np.sin(np.arange(16000) / 12).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    target = {"clip": clip, "voice": voice}[which]
    before = target.read_bytes()
    refused(run, tmp_path, clip, voice, "-o", target, "--overwrite", says=["input"])
    assert target.read_bytes() == before


def test_an_output_of_unknown_kind(run, tmp_path, clip, voice):
    refused(run, tmp_path, clip, voice, "-o", tmp_path / "o.xyz", says=[".mp4"])


def test_a_silent_voice(run, tmp_path, clip):
    silent = write_wav(tmp_path / "silent.wav", np.zeros(16000))
    refused(run, tmp_path, clip, silent, "-o", tmp_path / "o.mp4", says=["silent"])


def test_a_voice_with_samples_that_are_no_numbers(run, tmp_path, clip):
    path = tmp_path / "nan.wav"
    samples = np.sin(np.arange(16000) / 20).astype("<f4")
    samples[5000:5010] = np.nan
    raw = samples.tobytes()
    header = (
        b"RIFF" + (36 + len(raw)).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    )
    header += (3).to_bytes(2, "little") + (1).to_bytes(2, "little")
    header += (16000).to_bytes(4, "little") + (64000).to_bytes(4, "little")
    header += (4).to_bytes(2, "little") + (32).to_bytes(2, "little")
    path.write_bytes(header + b"data" + len(raw).to_bytes(4, "little") + raw)
    refused(run, tmp_path, clip, path, "-o", tmp_path / "o.mp4", says=["nan.wav"])


def test_a_voice_with_no_samples(run, tmp_path, clip):
    none = write_wav(tmp_path / "none.wav", np.zeros(0))
    refused(run, tmp_path, clip, none, "-o", tmp_path / "o.mp4", says=["none.wav"])


def test_a_video_with_no_frames(run, tmp_path, clip, voice):
    with av.open(str(clip)) as source:
        header = source.streams.video[0].codec_context.extradata
    path = tmp_path / "none.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    assert header
    refused(run, tmp_path, path, voice, "-o", tmp_path / "o.mp4", says=["none.mkv"])


def test_absurd_dimensions(run, tmp_path, voice):
    # A PNG that promises 200000 x 200000 pixels.
    import struct
    import zlib

    def chunk(kind, data):
        return (
            len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        )

    path = tmp_path / "vast.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 200000, 200000, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )
    refused(run, tmp_path, path, voice, "-o", tmp_path / "o.mp4", says=["vast.png"])


def test_a_clip_in_which_nobody_is(run, tmp_path, clip, voice):
    line = refused(
        run, tmp_path, clip, voice, "-o", tmp_path / "o.mp4", "--detector", "cascade", says=["face"]
    )
    assert "cascade" in line


@pytest.mark.parametrize(
    ("option", "value", "names"),
    [
        ("--face", "biggest", "largest"),
        ("--engine", "latentsinc", "draft"),
        ("--detector", "yonet", "yunet"),
        ("--length", "shrink", "bounce"),
        ("--missing", "perhaps", "pass"),
        ("--start", "soon", "time"),
        ("--codec", "libx999", "libx264"),
    ],
)
def test_settings_that_mean_nothing_name_those_that_do(
    run, tmp_path, clip, voice, option, value, names
):
    refused(run, tmp_path, clip, voice, "-o", tmp_path / "o.mp4", option, value, says=[names])


def test_a_start_behind_the_end(run, tmp_path, clip, voice):
    refused(run, tmp_path, clip, voice, "-o", tmp_path / "o.mp4", "--start", "100", says=["start"])


def test_several_voices_into_one_file(run, tmp_path, clip, voice):
    refused(run, tmp_path, clip, voice, voice, "-o", tmp_path / "o.mp4", says=["{voice}"])


def test_an_unknown_choice_in_python_names_the_nearest(tmp_path, clip, voice):
    from lipsync_core import LipSyncError, dub

    with pytest.raises(LipSyncError, match="length"):
        dub(clip, voice, tmp_path / "o.mp4", lenght="cut")


def test_the_time_option_reads_clock_times_exactly():
    assert cli.seconds("1:02.5") == Fraction(125, 2)
    assert cli.seconds("1:00:00.04") == 3600 + Fraction(1, 25)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--codec", "aac"), "libx264"),
        (("--codec", "prores_ks"), ".mkv"),
        (("--crf", "999"), "51"),
        (("--crf", "-5"), "51"),
        (("--pixel-format", "gray16le"), "yuv420p"),
        (("--seed", "-1"), "seed"),
        (("--strength", "nan"), "strength"),
        (("--strength", "3.1"), "0 to 3"),
        (("--engine", "draft", "--device", "banana"), "cuda"),
        (("--engine", "draft", "--device", "cuda:x"), "cuda"),
        (("--preset", "swift"), "fast"),
    ],
)
def test_settings_that_nothing_can_follow_are_refused_before_the_work(
    run, tmp_path, clip, voice, options, names, monkeypatch
):
    from lipsync_core.faces import detect

    monkeypatch.setattr(detect, "pick", lambda name: pytest.fail("the long work began"))
    refused(run, tmp_path, clip, voice, "-o", tmp_path / "o.mp4", *options, says=[names])


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--device", "cuda:99"), "cuda"),
        (("--device", "mlu"), "cpu"),
        (("--preset", "fast,window=4"), "overlap"),
    ],
)
def test_what_an_engine_cannot_follow_is_refused_before_the_clip_is_looked_at(
    run, tmp_path, clip, voice, options, names, monkeypatch
):
    from lipsync_core import engines

    if engines.LATENTSYNC[0].missing() is not None:
        pytest.skip("needs torch and diffusers")
    # the package's own ``dub`` is the function
    module = sys.modules["lipsync_core.dub"]
    monkeypatch.setattr(module, "_look", lambda *given: pytest.fail("the clip was looked at"))
    words = ("-o", tmp_path / "o.mp4", "--engine", "latentsync-tiny", *options)
    refused(run, tmp_path, clip, voice, *words, says=[names])


def test_a_device_is_refused_without_torch(tmp_path, clip, voice):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from lipsync_core import dub\n"
        "dub(*sys.argv[1:], engine='draft', device='banana')"
    )
    words = [sys.executable, "-c", code, clip, voice, tmp_path / "o.mp4"]
    said = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False).stderr
    assert "SettingsError" in said
    assert "'banana'" in said


def test_the_help_tells_the_range_of_strength_that_is_checked():
    import inspect
    from typing import get_args

    from lipsync_core.types import STRONGEST

    option = get_args(inspect.get_annotations(cli.dub, eval_str=True)["strength"])[1]
    assert option.help.endswith(f"0 to {STRONGEST:g}.")


def test_what_the_voice_lacks_is_said_before_an_engine_is_looked_for(
    run, tmp_path, clip, monkeypatch
):
    from lipsync_core import engines

    monkeypatch.setattr(engines, "pick", lambda *name: pytest.fail("an engine was looked for"))
    refused(run, tmp_path, clip, tmp_path / "no.wav", "-o", tmp_path / "o.mp4", says=["no.wav"])
