"""Data sets of presenters: the preprocessor's layout, resumable, the same twice; one line for bad input."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")

import av
from safetensors import safe_open

from lipsync_core.errors import LipSyncError, SettingsError
from lipsync_core.preprocess.dataset import INDEX, PLAIN, table, write_shards
from lipsync_core.preprocess.features import mel
from lipsync_core.preprocess.manifest import NAME, Manifest
from trainer.presenters import make as making
from trainer.presenters.make import Settings, make
from trainer.presenters.take import Take

ROOT = Path(__file__).parents[3]
SMALL = Settings(hours=3 / 3600, seconds=1.0, resolution=64)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presenters")
    return folder, make(folder, SMALL)


def rows_of(folder):
    with Manifest(folder / NAME) as manifest:
        return table(manifest)


def features_of(path):
    with safe_open(path, "np") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        return tensors, json.loads(stored.metadata()["lipsync"])


def decoded(path):
    with av.open(str(path)) as film:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)])


def digests(folder):
    return {
        path.relative_to(folder): hashlib.md5(path.read_bytes()).hexdigest()
        for path in sorted((folder / "clips").rglob("*"))
        if path.is_file()
    }


def test_the_layout_is_that_of_the_preprocessor(made):
    folder, done = made
    rows = rows_of(folder)
    assert done.clips == len(rows) == 3
    assert done.index.name in (INDEX, PLAIN)
    assert done.index.exists()
    for row in rows:
        assert row["frames"] == 25
        tensors, facts = features_of(folder / row["features"])
        assert tensors["points"].shape == (25, 5, 2)
        assert tensors["boxes"].shape == (25, 4)
        assert tensors["matrices"].shape == (25, 2, 3)
        assert tensors["times"].tolist() == [i / 25 for i in range(25)]
        assert tensors["sound"].shape == (16000,)
        assert tensors["sound"].dtype == np.int16
        assert tensors["mel"].shape == (80, 81)
        assert facts["fps"] == 25
        assert facts["resolution"] == 64
        assert facts["clip"] == row["clip"].removeprefix("clips/")
        assert row["presenter"] == facts["presenter"]
    assert write_shards(folder, 100) == 1


def test_the_truth_lies_beside(made):
    folder, _ = made
    row = rows_of(folder)[0]
    tensors, facts = features_of(folder / row["features"])
    take = Take(facts["presenter"], 25, resolution=64, seed=facts["seed"])
    assert np.array_equal(tensors["shapes"], take.shapes)
    assert np.array_equal(tensors["shapes50"], take.shapes50)
    assert tensors["shapes"].dtype == np.float32
    assert len(tensors["phones"]) == len(tensors["phone_ends"]) == len(facts["phones"].split())
    assert tensors["phone_ends"][-1] == 1.0
    assert np.abs(tensors["sound"] / 32768 - take.sound).max() < 1e-4
    assert np.array_equal(tensors["mel"], mel(take.sound))


def test_clips_show_the_crops_and_play_the_sound(made):
    folder, _ = made
    row = rows_of(folder)[0]
    _, facts = features_of(folder / row["features"])
    crops = Take(facts["presenter"], 25, resolution=64, seed=facts["seed"]).crops()
    pictures = decoded(folder / row["clip"])
    assert pictures.shape == crops.shape
    assert np.abs(pictures.astype(int) - crops).mean() < 6
    with av.open(str(folder / row["clip"])) as film:
        assert film.streams.audio[0].rate == 16000


def test_two_runs_give_the_same_bytes_and_one_goes_on_where_it_stopped(made, tmp_path, monkeypatch):
    folder, _ = made
    real, calls = making.make_clip, []

    def breaks(order):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(order.index)
        return real(order)

    monkeypatch.setattr(making, "make_clip", breaks)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, SMALL)
    assert len(digests(tmp_path)) == 2
    monkeypatch.setattr(making, "make_clip", real)
    again = make(tmp_path, SMALL)
    assert again.new == 2
    assert digests(tmp_path) == digests(folder)
    assert rows_of(tmp_path) == rows_of(folder)
    assert not (tmp_path / ".work").exists()


def test_a_clip_that_was_lost_is_made_again_and_more_hours_add_to_what_is_there(made, tmp_path):
    folder, _ = made
    one = Settings(hours=1 / 3600, seconds=1.0, resolution=64)
    make(tmp_path, one)
    (tmp_path / rows_of(tmp_path)[0]["clip"]).unlink()
    assert make(tmp_path, one).new == 1
    assert make(tmp_path, SMALL).new == 2
    assert digests(tmp_path) == digests(folder)


def test_few_people_speak_many_clips(tmp_path):
    make(tmp_path, Settings(hours=3 / 3600, seconds=1.0, resolution=32, people=1, split="held-out"))
    rows = rows_of(tmp_path)
    assert len({row["presenter"] for row in rows}) == 1
    assert {row["split"] for row in rows} == {"held-out"}
    sounds = [features_of(tmp_path / row["features"])[0]["sound"] for row in rows]
    assert not np.array_equal(sounds[0], sounds[1])


def test_another_data_set_is_not_mixed_in(made):
    folder, _ = made
    before = digests(folder)
    with pytest.raises(SettingsError, match="made with seed 0, not 1"):
        make(folder, Settings(hours=3 / 3600, seconds=1.0, resolution=64, seed=1))
    assert digests(folder) == before


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(SettingsError, match="other files"):
        make(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["make", "--output", "x", "--hours", "0"], "--hours is 0"),
        (["make", "--output", "x", "--hours", "nan"], "--hours is nan"),
        (["make", "--output", "x", "--resolution", "65"], "multiple of 8"),
        (["make", "--output", "x", "--seed", "-1"], "--seed is -1"),
        (["make", "--output", "x", "--split", "test"], "held-out"),
        (["make", "--output", "x", "--people", "-2"], "--people is -2"),
        (["make", "--output", "x", "--workers", "0"], "--workers is 0"),
        (["make", "--output", "x", "--seconds", "nan"], "--seconds is nan"),
        (["make"], "--output"),
        (["show", "--seed", "-4", "-o", "x.mp4"], "--seed is -4"),
        (["show", "--seed", "4", "-o", "x.mp4", "--voice", "nowhere.wav"], "nowhere.wav"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, said, monkeypatch, capsys, tmp_path):
    from trainer.presenters.__main__ import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["presenters", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    told = capsys.readouterr().err.strip()
    assert "\n" not in told
    assert said in told
    assert list(tmp_path.iterdir()) == []


def test_the_command_works_with_two_workers(made, tmp_path):
    folder, _ = made
    command = [sys.executable, "-m", "trainer.presenters", "make", "--output", str(tmp_path / "d")]
    command += ["--hours", str(SMALL.hours), "--seconds", "1", "--workers", "2"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stderr
    assert "3 clips" in told.stdout
    assert digests(tmp_path / "d") == digests(folder)


def test_a_film_is_shown(tmp_path):
    from trainer.presenters.show import show

    path = tmp_path / "film.mp4"
    shown = show(path, number=7, seconds=0.4, look=False)
    pictures = decoded(path)
    assert pictures.shape == (10, 480, 640, 3)
    assert shown.frames == 10
    with pytest.raises(LipSyncError, match="exists"):
        show(path, number=7, seconds=0.4, look=False)


def test_a_film_of_a_voice_file_moves_its_mouth(tmp_path):
    import wave

    from trainer.presenters import voices
    from trainer.presenters.show import heard

    sound = voices.speak(voices.voice(5), 3.0, 1).sound
    with wave.open(str(tmp_path / "voice.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((sound * 32767).astype("<i2").tobytes())
    speech, curve, frames = heard(tmp_path / "voice.wav")
    assert frames == 75
    assert curve.shape == (300, 6)
    assert len(speech.sound) == 75 * 640
    assert curve[:, 0].max() > 0.3


@pytest.fixture
def espeak():
    from trainer.presenters import spoken

    try:
        spoken.check()
    except SettingsError:
        pytest.skip("espeak-ng is not installed")
    return spoken


def test_espeak_speaks_where_it_is_installed(espeak):
    said = espeak.say(3, 2.0, 0)
    assert len(said.sound) == 32000
    assert said.parts.ends[-1] == 2.0
    assert len(set(said.parts.codes.tolist())) > 5
    speaking = said.parts.codes[np.searchsorted(said.parts.ends, np.arange(32000) / 16000)] != 0
    assert said.sound[speaking].std() > 3 * said.sound[~speaking].std()


@pytest.mark.slow
def test_clips_of_espeak_repeat(espeak, tmp_path):
    for folder in ("one", "two"):
        make(tmp_path / folder, Settings(hours=2 / 3600, seconds=1.0, voices="espeak"))
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
