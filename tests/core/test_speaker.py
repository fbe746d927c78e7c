"""`--speaker`: of two people side by side only the one who speaks gets the new mouth."""

import json
from fractions import Fraction

import av
import numpy as np
import pytest
from skimage import data

from lipsync_core import cli, demo, dub
from lipsync_core.errors import FaceError, SettingsError
from lipsync_core.media.reader import Reader

SIDE = 256
LOSSLESS = {"codec": "libx264", "crf": 0, "detector": "cascade", "engine": "draft"}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIPSYNC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def portrait():
    return np.ascontiguousarray(data.astronaut()[:SIDE, 96 : 96 + SIDE])


def film(path, pictures, sound=None):
    """Pictures without loss, and the sound of a file beside them."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25, options={"crf": "0"})
        video.height, video.width, video.pix_fmt = SIDE, 2 * SIDE, "yuv420p"
        source = av.open(str(sound)) if sound else None
        if source:
            rate = source.streams.audio[0].rate
            voice = out.add_stream("pcm_s16le", rate=rate)
            voice.layout = source.streams.audio[0].layout.name
        for picture in pictures:
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(video.encode(None))
        if source:
            resampler = av.AudioResampler(format="s16", layout=voice.layout, rate=rate)
            place = 0
            for frame in source.decode(audio=0):
                for part in resampler.resample(frame):
                    part.pts, part.time_base = place, Fraction(1, rate)
                    place += part.samples
                    out.mux(voice.encode(part))
            out.mux(voice.encode(None))
            source.close()
    return path


@pytest.fixture(scope="module")
def pair(tmp_path_factory, portrait):
    """On the left an astronaut who says the demo's sentence, on the right one who is silent."""
    folder = tmp_path_factory.mktemp("pair")
    import cv2

    cv2.imwrite(str(folder / "p.png"), portrait[..., ::-1])
    dub(folder / "p.png", demo.SENTENCE, folder / "speaks.mp4", **LOSSLESS)
    frames = (frame.rgb() for frame in Reader(folder / "speaks.mp4").frames())
    both = (np.hstack([frame, portrait[:, ::-1]]) for frame in frames)
    return film(folder / "pair.mkv", both, demo.SENTENCE)


@pytest.fixture
def silent(tmp_path, portrait):
    """Both stand still for a second, without sound."""
    return film(tmp_path / "silent.mp4", [np.hstack([portrait, portrait[:, ::-1]])] * 25)


def changed(before, after):
    """``(T, 2)`` bool: whether the left and the right half of each frame differ."""
    rows = []
    for one, other in zip(Reader(before).frames(), Reader(after).frames(), strict=False):
        apart = np.abs(one.rgb().astype(int) - other.rgb()) > 2
        rows.append((bool(apart[:, :SIDE].any()), bool(apart[:, SIDE:].any())))
    return np.array(rows)


def turns(path, *rows):
    keys = ("start", "end", "person")
    path.write_text(json.dumps({"turns": [dict(zip(keys, row, strict=True)) for row in rows]}))
    return str(path)


def people(clip, tmp_path):
    """Numbers of the person on the left and of the one on the right."""
    from lipsync_core.faces import detect
    from lipsync_core.scoring.motion import watch

    tracks = watch(clip, detector=detect.pick("cascade")).people.tracks
    assert len(tracks) == 2
    left = int(np.argmin([track.points[..., 0].mean() for track in tracks]))
    return left, 1 - left


def test_the_one_who_speaks_is_found_and_the_other_left_alone(pair, tmp_path):
    (result,) = dub(pair, demo.SENTENCE, tmp_path / "o.mp4", speaker="auto", **LOSSLESS)
    assert result.faces == 1
    touched = changed(pair, result.output)
    assert touched[:, 0].mean() > 0.4
    assert not touched[:, 1].any()


def test_turns_of_a_file_are_followed(silent, tmp_path):
    left, right = people(silent, tmp_path)
    who = turns(tmp_path / "who.json", (0, 0.4, left), (0.6, 1, right))
    (result,) = dub(
        silent, demo.SENTENCE, tmp_path / "o.mp4", speaker=who, length="cut", **LOSSLESS
    )
    assert result.faces == 2
    touched = changed(silent, result.output)[:25]
    assert touched[2:8, 0].any()
    assert touched[18:, 1].any()
    assert not touched[13:, 0].any()
    assert not touched[:12, 1].any()


def test_a_face_may_be_named_as_well(silent, tmp_path):
    left, right = people(silent, tmp_path)
    who = turns(tmp_path / "who.json", (0, 1, left), (0, 1, right))
    (result,) = dub(
        silent, demo.SENTENCE, tmp_path / "o.mp4", speaker=who, face="right", **LOSSLESS
    )
    touched = changed(silent, result.output)
    assert touched[:, 1].any()
    assert not touched[:, 0].any()
    only = turns(tmp_path / "left.json", (0, 1, left))
    with pytest.raises(SettingsError, match="nobody chosen with --face right"):
        dub(silent, demo.SENTENCE, tmp_path / "n.mp4", speaker=only, face="right", **LOSSLESS)


@pytest.mark.parametrize(
    ("speaker", "more", "words"),
    [
        ("auto", {}, "silent.mp4 has none"),
        ("nowhere.json", {}, "nowhere.json is not an assignment"),
        ("two", {"start": Fraction(1, 5)}, "whole clip"),
        ("five", {}, "person 5"),
        ("none", {}, "nobody"),
    ],
)
def test_one_line_says_what_is_wrong(silent, tmp_path, speaker, more, words):
    rows = {"two": [(0, 1, 1)], "five": [(0, 1, 5)], "none": []}
    if speaker in rows:
        speaker = turns(tmp_path / "who.json", *rows[speaker])
    with pytest.raises(SettingsError, match=words) as caught:
        dub(silent, demo.SENTENCE, tmp_path / "o.mp4", speaker=speaker, **more, **LOSSLESS)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o.mp4").exists()


def test_a_missing_face_counts_only_in_its_turns(tmp_path, portrait, silent):
    """The right face is hidden in the second half; that matters to who speaks there alone."""
    both = np.hstack([portrait, portrait[:, ::-1]])
    hidden = both.copy()
    hidden[:, SIDE:] = 128
    clip = film(tmp_path / "c.mp4", [both] * 15 + [hidden] * 25)
    left, right = people(clip, tmp_path)
    rest = {"missing": "error", **LOSSLESS}
    early = turns(tmp_path / "early.json", (0, 0.3, right), (0.8, 1.4, left))
    (result,) = dub(clip, demo.SENTENCE, tmp_path / "o.mp4", speaker=early, **rest)
    assert result.faces == 2
    late = turns(tmp_path / "late.json", (1.0, 1.4, right))
    with pytest.raises(FaceError, match="found no face in frames"):
        dub(clip, demo.SENTENCE, tmp_path / "n.mp4", speaker=late, **rest)


def test_the_command_line(silent, tmp_path, monkeypatch, capsys):
    words = ["dub", silent, demo.SENTENCE, "-o", tmp_path / "o.mp4", "--speaker", "auto"]
    monkeypatch.setattr("sys.argv", ["lipsync", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "--speaker FILE" in line


@pytest.fixture(scope="module")
def reversed_voice(tmp_path_factory):
    """Another voice: the sentence backwards."""
    import wave

    from lipsync_core.media.audio import load

    audio = load(demo.SENTENCE)
    path = tmp_path_factory.mktemp("voice") / "backwards.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(audio.rate)
        file.writeframes((audio.samples.mean(0)[::-1] * 32767).astype("<i2").tobytes())
    return path


def spoken(path, *rows):
    """Turns of 0 to 1 s: ``(person, voice)`` each."""
    turn = {"start": 0, "end": 1}
    text = {"turns": [{**turn, "person": person, "voice": voice} for person, voice in rows]}
    path.write_text(json.dumps(text))
    return str(path)


def test_each_speaks_with_a_voice_of_their_own(silent, tmp_path, reversed_voice):
    from lipsync_core.media.audio import load

    left, right = people(silent, tmp_path)
    voices = [demo.SENTENCE, reversed_voice]
    rest = {"length": "cut", **LOSSLESS}
    who = spoken(tmp_path / "who.json", (left, 0), (right, 1))
    (both,) = dub(silent, voices, tmp_path / "both.mkv", speaker=who, **rest)
    assert both.faces == 2
    touched = changed(silent, both.output)
    assert touched[3:, 0].any()
    assert touched[3:, 1].any()
    # Each half is what its voice alone makes of it.
    alone = []
    for number, (person, voice) in enumerate(zip((left, right), voices, strict=True)):
        own = spoken(tmp_path / f"{number}.json", (person, 0))
        alone += dub(silent, voice, tmp_path / f"{number}.mkv", speaker=own, **rest)
    assert not changed(both.output, alone[0].output)[:, 0].any()
    assert not changed(both.output, alone[1].output)[:, 1].any()
    assert changed(both.output, alone[0].output)[:, 1].any()
    heard = [load(one.output).samples.mean(0) for one in (both, *alone)]
    count = min(map(len, heard))
    total, one, other = (sound[:count] for sound in heard)
    assert np.abs(total - (one + other)).max() < 2e-3


def test_who_speaks_which_is_checked_before_the_work(silent, tmp_path, reversed_voice):
    two = [demo.SENTENCE, reversed_voice]
    three = spoken(tmp_path / "three.json", (0, 0), (1, 2))
    with pytest.raises(SettingsError, match="gives turns to voice 2"):
        dub(silent, two, tmp_path / "o.mp4", speaker=three, **LOSSLESS)
    good = spoken(tmp_path / "good.json", (0, 0), (1, 1))
    with pytest.raises(SettingsError, match="1 voice was given"):
        dub(silent, demo.SENTENCE, tmp_path / "o.mp4", speaker=good, **LOSSLESS)
    with pytest.raises(SettingsError, match="puts all voices into one"):
        dub(silent, two, tmp_path / "{voice}.mp4", speaker=good, **LOSSLESS)
    wrong = spoken(tmp_path / "wrong.json", (0, -1))
    with pytest.raises(SettingsError, match="voice -1"):
        dub(silent, two, tmp_path / "o.mp4", speaker=wrong, **LOSSLESS)
    assert [path.name for path in tmp_path.glob("*.mp4")] == ["silent.mp4"]


def test_the_check_looks_at_who_speaks(pair, tmp_path):
    """The silent one would drag the score down if it were looked at."""
    from lipsync_core.check import checked
    from lipsync_core.types import Settings

    settings = Settings(speaker="auto", face="largest", **LOSSLESS)
    found = checked(pair, demo.SENTENCE, tmp_path / "o.mp4", settings=settings, scoring="embedded")
    left, _ = people(pair, tmp_path)
    assert list(found.people) == [left]
    assert found.score.accepted
    assert abs(found.score.audio_late_ms) <= 45
