"""The main job end to end, on a real photograph and with nothing downloaded."""

import json
import os
import signal
import subprocess
import sys
import time
import wave
from fractions import Fraction

import av
import numpy as np
import pytest
from skimage import data

from lipsync_core import LipSyncError, cli, dub
from lipsync_core.dub import PROVENANCE

RATE = 16000
LOSSLESS = {"codec": "libx264", "crf": 0}


@pytest.fixture(scope="session")
def portrait():
    """The astronaut's head and shoulders, 256 x 256."""
    return np.ascontiguousarray(data.astronaut()[:256, 96:352])


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("LIPSYNC_CACHE", str(tmp_path / "cache"))


def speech(path, seconds, rate=RATE, channels=1):
    """Syllables of a buzzing voice with a pause in the middle."""
    t = np.arange(round(seconds * rate)) / rate
    buzz = sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 20))
    loud = np.clip(np.sin(2 * np.pi * 3 * t), 0, 1) * (np.abs(t - seconds / 2) > 0.15)
    samples = np.repeat((0.2 * buzz * loud)[:, None], channels, axis=1)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def film(path, pictures, rate=25):
    """Pictures encoded without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "0"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def watch(path):
    """``(luma planes, seconds of each frame)`` of a file, bit by bit."""
    with av.open(str(path)) as container:
        planes, times = [], []
        for frame in container.decode(video=0):
            plane = frame.planes[0]
            rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
            planes.append(rows[:, : plane.width].copy())
            times.append(frame.pts * frame.time_base)
    return planes, times


def sound_seconds(path):
    """As the container declares it: a player drops what an encoder's last block holds beyond."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        return stream.duration * stream.time_base


def still(tmp_path, portrait):
    import cv2

    path = tmp_path / "portrait.png"
    cv2.imwrite(str(path), portrait[..., ::-1])
    return path


def moving(portrait, count, hidden=()):
    """The portrait swaying by some pixels; in ``hidden`` frames nobody is there."""
    pictures = []
    for index in range(count):
        picture = np.roll(portrait, round(4 * np.sin(index / 5)), axis=1)
        if index in hidden:
            picture = np.full_like(portrait, 90)
            picture[::16] = 110
        pictures.append(picture)
    return pictures


def run(clip, voice, output, **choices):
    return dub(clip, voice, output, detector="cascade", engine="draft", **choices)


def test_a_portrait_speaks(tmp_path, portrait):
    picture, voice = still(tmp_path, portrait), speech(tmp_path / "v.wav", 1.5)
    (result,) = run(picture, voice, tmp_path / "o.mp4", **LOSSLESS)
    planes, times = watch(result.output)
    assert len(planes) == result.frames == 38  # ceil(1.5 s x 25)
    assert times == [Fraction(index, 25) for index in range(38)]
    assert result.painted == 38
    assert abs(sound_seconds(result.output) - Fraction(3, 2)) <= Fraction(1, 25)
    # The mouth moves, and nothing else does.
    changed = np.std(np.stack(planes).astype(np.float32), axis=0)
    rows, columns = np.nonzero(changed)
    assert changed.max() > 5
    assert rows.min() > 90
    assert rows.max() < 210
    assert columns.min() > 60
    assert columns.max() < 200


def test_what_lies_outside_the_face_stays_to_the_bit(tmp_path, portrait):
    clip = film(tmp_path / "c.mp4", moving(portrait, 20))
    (result,) = run(clip, speech(tmp_path / "v.wav", 0.8), tmp_path / "o.mp4", **LOSSLESS)
    before, after = watch(clip)[0], watch(result.output)[0]
    assert result.painted == 20
    for old, new in zip(before, after, strict=True):
        assert np.array_equal(old[:80], new[:80])
        assert np.array_equal(old[:, :50], new[:, :50])
        assert np.array_equal(old[225:], new[225:])
    assert any(not np.array_equal(old, new) for old, new in zip(before, after, strict=True))


def test_frames_without_the_face_pass_through_untouched(tmp_path, portrait):
    hidden = range(20, 40)
    clip = film(tmp_path / "c.mp4", moving(portrait, 60, hidden))
    voice = speech(tmp_path / "v.wav", 2.4)
    (result,) = run(clip, voice, tmp_path / "o.mp4", **LOSSLESS)
    before, after = watch(clip)[0], watch(result.output)[0]
    for index in hidden:
        assert np.array_equal(before[index], after[index])
    assert 20 <= result.frames - result.painted <= 26
    assert not np.array_equal(before[10], after[10])
    assert not np.array_equal(before[50], after[50])
    with pytest.raises(LipSyncError, match=r"frames? \d+"):
        run(clip, voice, tmp_path / "p.mp4", missing="error")
    assert not (tmp_path / "p.mp4").exists()


def test_a_second_voice_needs_no_second_look(tmp_path, portrait):
    clip = film(tmp_path / "c.mp4", moving(portrait, 12))
    first = speech(tmp_path / "one.wav", 0.6)
    (looked,) = run(clip, first, tmp_path / "a.mp4", **LOSSLESS)
    (again,) = run(clip, first, tmp_path / "b.mp4", **LOSSLESS)
    assert (looked.track_reused, again.track_reused) == (False, True)
    for one, other in zip(watch(looked.output)[0], watch(again.output)[0], strict=True):
        assert np.array_equal(one, other)
    # The key is what is in the file, not what it is called.
    moved = clip.rename(tmp_path / "renamed.mp4")
    assert run(moved, first, tmp_path / "c2.mp4")[0].track_reused


def test_a_damaged_cache_only_costs_the_look(tmp_path, portrait):
    clip = film(tmp_path / "c.mp4", moving(portrait, 8))
    voice = speech(tmp_path / "v.wav", 0.4)
    run(clip, voice, tmp_path / "a.mp4")
    (kept,) = (tmp_path / "cache").glob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:100])
    assert not run(clip, voice, tmp_path / "b.mp4")[0].track_reused


def test_a_track_kept_by_another_version_only_costs_the_look(tmp_path, portrait):
    from safetensors.numpy import load_file, save_file

    clip = film(tmp_path / "c.mp4", moving(portrait, 8))
    voice = speech(tmp_path / "v.wav", 0.4)
    run(clip, voice, tmp_path / "a.mp4")
    (kept,) = (tmp_path / "cache").glob("*.safetensors")
    arrays = {name: values.copy() for name, values in load_file(kept).items()}
    del arrays["track0/points"]
    save_file(arrays, kept)
    assert not run(clip, voice, tmp_path / "b.mp4")[0].track_reused
    assert run(clip, voice, tmp_path / "c2.mp4")[0].track_reused


def test_no_output_may_be_the_voice_of_another(tmp_path, portrait):
    clip = film(tmp_path / "c.mp4", moving(portrait, 8))
    with av.open(str(tmp_path / "b.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=RATE)
        tone = 0.3 * np.sin(np.arange(RATE) / 12).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    other = (tmp_path / "b.mp4").read_bytes()
    (tmp_path / "v").mkdir()
    voices = [speech(tmp_path / "v" / "b.wav", 0.4), tmp_path / "b.mp4"]
    voices[1].rename(tmp_path / "v.b.mp4")
    voices[1] = tmp_path / "v.b.mp4"
    with pytest.raises(LipSyncError, match="input"):
        run(clip, voices, tmp_path / "v.{voice}.mp4", overwrite=True)
    assert voices[1].read_bytes() == other


def test_several_voices_in_one_run(tmp_path, portrait):
    clip = film(tmp_path / "c.mp4", moving(portrait, 10))
    voices = [speech(tmp_path / "en.wav", 0.4), speech(tmp_path / "fr.wav", 0.6, 44100, 2)]
    results = run(clip, voices, tmp_path / "out.{voice}.mp4")
    assert [result.output.name for result in results] == ["out.en.mp4", "out.fr.mp4"]
    assert [result.frames for result in results] == [10, 15]
    with av.open(str(results[1].output)) as container:
        assert container.streams.audio[0].rate == 44100
        assert container.streams.audio[0].channels == 2


@pytest.mark.parametrize(
    ("policy", "frames"),
    [("auto", 25), ("cut", 10), ("bounce", 25), ("loop", 25), ("hold", 25), ("silence", 25)],
)
def test_length_policies_when_the_voice_is_longer(tmp_path, portrait, policy, frames):
    clip = film(tmp_path / "c.mp4", moving(portrait, 10))
    (result,) = run(clip, speech(tmp_path / "v.wav", 1), tmp_path / "o.mp4", length=policy)
    assert result.frames == frames
    assert len(watch(result.output)[0]) == frames
    assert abs(sound_seconds(result.output) - Fraction(frames, 25)) <= Fraction(1, 25)


@pytest.mark.parametrize(("policy", "frames"), [("auto", 10), ("silence", 25), ("stretch", 10)])
def test_length_policies_when_the_voice_is_shorter(tmp_path, portrait, policy, frames):
    clip = film(tmp_path / "c.mp4", moving(portrait, 25))
    (result,) = run(clip, speech(tmp_path / "v.wav", 0.4), tmp_path / "o.mp4", length=policy)
    assert result.frames == frames
    assert abs(sound_seconds(result.output) - Fraction(frames, 25)) <= Fraction(1, 25)


def test_an_interrupted_dub_leaves_nothing(tmp_path, portrait):
    clip = film(tmp_path / "c.mp4", moving(portrait, 40))
    voice = speech(tmp_path / "v.wav", 1.6)
    before = set(tmp_path.iterdir())

    def stages(name):
        def progress(done, total, preview=None):
            if name == "dub" and done >= 16:
                raise KeyboardInterrupt

        return progress

    with pytest.raises(KeyboardInterrupt):
        run(clip, voice, tmp_path / "o.mp4", stages=stages)
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "cache"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_stopped_leaves_nothing_and_says_so(tmp_path, portrait, number, code):
    clip = film(tmp_path / "c.mp4", moving(portrait, 10))
    voice = speech(tmp_path / "v.wav", 60)
    before = set(tmp_path.iterdir()) | {tmp_path / "cache"}
    command = [sys.executable, "-m", "lipsync_core", "dub", str(clip), str(voice)]
    command += ["-o", str(tmp_path / "o.mp4"), "--engine", "draft", "--detector", "cascade"]
    running = subprocess.Popen(
        command,
        env={**os.environ, "LIPSYNC_CACHE": str(tmp_path / "cache")},
        stderr=subprocess.PIPE,
        text=True,
        # what a shell starts in the background ignores Ctrl-C, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while running.poll() is None and not set(tmp_path.iterdir()) - before:
            time.sleep(0.05)
        running.send_signal(number)
        said = running.communicate(timeout=60)[1]
    finally:
        running.kill()
    assert running.returncode == code, said
    assert set(tmp_path.iterdir()) - before == set()
    assert ("stopped" in said) == (number == signal.SIGINT)
    assert "Traceback" not in said


def test_progress_reaches_the_end_of_each_stage(tmp_path, portrait):
    clip = film(tmp_path / "c.mp4", moving(portrait, 10))
    seen = {}

    def stages(name):
        return lambda done, total, preview=None: seen.__setitem__(name, (done, total))

    run(clip, speech(tmp_path / "v.wav", 0.4), tmp_path / "o.mp4", stages=stages)
    assert seen == {"voices": (1, 1), "faces (cascade)": (10, 10), "dub": (10, 10)}


def test_cancel_is_heard_while_a_long_voice_is_opened(tmp_path, portrait):
    clip, voice = still(tmp_path, portrait), speech(tmp_path / "v.wav", 5)
    asked = []

    def stages(name):
        def progress(done, total, preview=None):
            asked.append(name)
            if len(asked) == 3:
                raise KeyboardInterrupt

        return progress

    with pytest.raises(KeyboardInterrupt):
        run(clip, voice, tmp_path / "o.mp4", stages=stages)
    assert asked == ["voices"] * 3


def test_a_draft_is_encoded_in_a_hurry(tmp_path, portrait):
    voice = speech(tmp_path / "v.wav", 0.4)
    (result,) = run(still(tmp_path, portrait), voice, tmp_path / "o.mp4")
    # x264 writes its settings into what it makes; 2 is its preset's for everything else.
    assert b"subme=1 " in result.output.read_bytes()


@pytest.mark.parametrize("tagged", [True, False])
def test_the_output_says_that_its_mouth_is_generated(tmp_path, portrait, tagged):
    picture = still(tmp_path, portrait)
    (result,) = run(picture, speech(tmp_path / "v.wav", 0.6), tmp_path / "o.mp4", tag=tagged)
    with av.open(str(result.output)) as container:
        assert (container.metadata.get("comment") == PROVENANCE) is tagged


def test_two_people_and_the_choice_between_them(tmp_path, portrait):
    pair = np.hstack([portrait, portrait[:, ::-1]])
    clip = film(tmp_path / "c.mp4", [pair] * 8)
    voice = speech(tmp_path / "v.wav", 0.32)
    before = watch(clip)[0]

    def moved(face):
        (result,) = run(clip, voice, tmp_path / f"{face[:5]}.mp4", face=face, **LOSSLESS)
        after = watch(result.output)[0]
        changed = np.any([a != b for a, b in zip(before, after, strict=True)], axis=0)
        return bool(changed[:, :256].any()), bool(changed[:, 256:].any())

    assert moved("left") == (True, False)
    assert moved("right") == (False, True)
    assert moved("point:380,110") == (False, True)
    assert moved("all") == (True, True)


def test_a_face_that_the_caller_points_at(tmp_path, portrait):
    from lipsync_core.faces.detect.given import Given

    pair = np.hstack([portrait, portrait[:, ::-1]])
    clip = film(tmp_path / "c.mp4", [pair] * 15)
    voice = speech(tmp_path / "v.wav", 0.6)
    before = watch(clip)[0]
    boxes = np.array([[82.0, 62.0, 172.0, 176.0]])
    changed = []
    for name, shift in (("a", 0), ("b", 512 - 172 - 82)):
        given = Given(boxes=boxes + np.array([shift, 0, shift, 0]))
        (result,) = dub(clip, voice, tmp_path / f"{name}.mp4", detector=given, **LOSSLESS)
        assert (result.detector, result.track_reused) == ("given", False)
        after = watch(result.output)[0]
        changed.append(np.any([x != y for x, y in zip(before, after, strict=True)], axis=0))
    assert changed[0][:, :256].any()
    assert not changed[0][:, 256:].any()
    assert changed[1][:, 256:].any()
    assert not changed[1][:, :256].any()


def test_a_part_of_the_clip(tmp_path, portrait):
    clip = film(tmp_path / "c.mp4", moving(portrait, 40))
    voice = speech(tmp_path / "v.wav", 0.4)
    (result,) = run(clip, voice, tmp_path / "o.mp4", start=Fraction(4, 5), **LOSSLESS)
    assert result.frames == 10
    assert np.array_equal(watch(clip)[0][20][:80], watch(result.output)[0][0][:80])


def test_the_command_line_prints_one_object(tmp_path, portrait, monkeypatch, capsys):
    picture, voice = still(tmp_path, portrait), speech(tmp_path / "v.wav", 0.4)
    words = ["dub", picture, voice, "-o", tmp_path / "o.mp4", "--detector", "cascade", "--json"]
    monkeypatch.setattr("sys.argv", ["lipsync", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    (told,) = json.loads(capsys.readouterr().out)["outputs"]
    assert told["frames"] == 10
    assert told["output"] == str(tmp_path / "o.mp4")
    assert told["duration"] == pytest.approx(0.4)


def test_the_demo_makes_the_photograph_speak(tmp_path):
    from lipsync_core import demo

    (result,) = demo.make(tmp_path / "demo.mp4")
    with av.open(str(demo.SENTENCE)) as sentence:
        seconds = sentence.duration / av.time_base
    assert result.frames == pytest.approx(seconds * 25, abs=1)
    assert result.painted == result.frames


def test_cancel_is_heard_inside_of_a_window(tmp_path, portrait):
    """An engine that takes long over one window is left in the middle of it, not waited for."""
    import time

    from lipsync_core.engines.draft import Draft

    class Slow(Draft):
        name = "slow"

        def start(self, **given):
            session = super().start(**given)

            def render(crops, sources, outputs):
                began.append(time.monotonic())
                end = time.monotonic() + 20
                while time.monotonic() < end:
                    time.sleep(0.01)
                    session.heed()
                raise AssertionError("nobody stopped it")

            session.render = render
            return session

    class Cancelled(BaseException):
        pass

    began, left = [], []

    def stages(name):
        def progress(done, total, preview=None):
            if began and time.monotonic() - began[0] > 0.3:
                left.append(time.monotonic())
                raise Cancelled

        return progress

    picture, voice = still(tmp_path, portrait), speech(tmp_path / "v.wav", 1.0)
    with pytest.raises(Cancelled):
        dub(
            picture,
            voice,
            tmp_path / "o.mp4",
            engine=Slow(),
            detector="cascade",
            stages=stages,
        )
    assert time.monotonic() - left[0] < 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "portrait.png", "v.wav"]


def in_turn(frames, people, *, idle=None, left=None):
    """What ``drawn`` does, one step after the other."""
    frames, size = list(frames), max(person.session.window for person in people)
    for first in range(0, len(frames), size):
        window = frames[first : first + size]
        before = list(window)
        for person in people:
            for steps in person.stretches(window, first):
                crops = person.cut([window[step] for step in steps])
                sources = [window[step].index for step in steps]
                made = person.session.render(crops, sources, [first + step for step in steps])
                for at, step in enumerate(steps):
                    given = crops[at], made.crops[at], made.masks[at]
                    window[step] = person.paste(window[step], *given)
        for old, new in zip(before, window, strict=True):
            yield new, new is not old


@pytest.mark.parametrize("engine", ["draft", "latentsync-tiny"])
def test_a_dub_is_the_same_to_the_bit_as_one_step_after_the_other(
    engine, tmp_path, portrait, monkeypatch
):
    from lipsync_core import engines, mouths

    if (absent := next(row for row in engines.ENGINES if row.name == engine).missing()) is not None:
        pytest.skip(absent)
    # so near that the crops of the two reach into each other
    near = np.hstack([portrait[:, 50:190], portrait[:, 70:210][:, ::-1]])
    clip = film(tmp_path / "c.mp4", moving(near, 24, hidden=range(20, 22)))
    voice = speech(tmp_path / "v.wav", 1.2)
    seen = []
    for name, way in (("together", mouths.drawn), ("in turn", in_turn)):
        monkeypatch.setattr(mouths, "drawn", way)
        (result,) = dub(
            clip,
            voice,
            tmp_path / f"{name}.mkv",
            engine=engine,
            detector="cascade",
            face="all",
            device="cpu",
            preset="preview,steps=1,window=6,overlap=2,call=8",
            **LOSSLESS,
        )
        assert result.faces == 2
        assert result.painted > 15
        seen.append((result.painted, watch(result.output)))
    (painted, (planes, times)), (expected, (before, moments)) = seen
    assert (painted, times) == (expected, moments)
    assert all(np.array_equal(*pair) for pair in zip(planes, before, strict=True))
