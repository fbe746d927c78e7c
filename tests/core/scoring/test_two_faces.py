"""Two real faces beside each other and the voice of one of them."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from lipsync_core.media.reader import Reader
from lipsync_core.scoring import cli

SHARED = Path(__file__).parents[4] / "shared"
GRID = SHARED / "media" / "grid"
pytestmark = pytest.mark.skipif(not GRID.is_dir(), reason="needs shared/media/grid")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Left speaks, right moves its lips to something else."""
    path = tmp_path_factory.mktemp("pair") / "pair.mkv"
    with av.open(str(path), "w") as out, av.open(str(GRID / "swiz3n.mpg")) as voice:
        video = out.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 720, 288, "yuv420p"
        video.bit_rate = 4_000_000
        sound = out.add_stream("pcm_s16le", rate=voice.streams.audio[0].rate)
        sound.layout = voice.streams.audio[0].layout.name
        faces = (Reader(GRID / "swiz3n.mpg").frames(), Reader(GRID / "pwij3p.mpg").frames())
        for left, right in zip(*faces, strict=True):
            image = np.concatenate([left.rgb(), right.rgb()], axis=1)
            out.mux(video.encode(av.VideoFrame.from_ndarray(image)))
        out.mux(video.encode(None))
        for frame in voice.decode(audio=0):
            frame.pts, frame.time_base = None, Fraction(1, frame.sample_rate)
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    return path


@pytest.fixture
def run(tmp_path, monkeypatch):
    models = tmp_path / "models" / "detection"
    models.mkdir(parents=True)
    yunet = SHARED / "models" / "face_detection_yunet_2023mar.onnx"
    (models / yunet.name).write_bytes(yunet.read_bytes())
    monkeypatch.setenv("LIPSYNC_MODELS", str(tmp_path / "models"))
    app = Typer()
    app.command()(cli.score)
    app.command()(cli.speakers)

    def call(*words):
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exception is None, result.exception
        return result.stdout

    return call


def test_the_right_face_is_scored(pair, run):
    left = json.loads(run("score", pair, "--face", "left", "--engine", "embedded", "--json"))
    right = json.loads(run("score", pair, "--face", "right", "--engine", "embedded", "--json"))
    assert left["accepted"]
    assert abs(left["audio_late_ms"]) <= 45
    assert not right["accepted"]
    for key in ("engine", "lse_c", "lse_d", "offset_frames", "confidence", "segments", "units"):
        assert key in left
    assert left["face"]["people"] == 2


def test_who_speaks(pair, run, tmp_path):
    found = json.loads(run("speakers", pair, "-o", tmp_path / "who.json", "--json"))
    places = [person["place"][0] for person in found["people"]]
    speaker = int(np.argmin(places))
    spoken = [0.0, 0.0]
    for turn in found["turns"]:
        spoken[turn["person"]] += turn["end"] - turn["start"]
    assert spoken[speaker] > 1
    assert spoken[speaker] > 3 * spoken[1 - speaker]
    assert json.loads((tmp_path / "who.json").read_text())["turns"] == found["turns"]


def test_each_of_two_voices_finds_its_face(pair, run, tmp_path):
    """Both speak at once, each with a voice of its own: every pair is scored, and two belong together."""
    voices = ["--voice", GRID / "swiz3n.mpg", "--voice", GRID / "pwij3p.mpg"]
    found = json.loads(run("speakers", pair, *voices, "-o", tmp_path / "who.json", "--json"))
    left = int(np.argmin([person["place"][0] for person in found["people"]]))
    spoken = {turn["person"]: turn["voice"] for turn in found["turns"]}
    assert spoken == {left: 0, 1 - left: 1}
    sure = {(pair["person"], pair["voice"]): pair["confidence"] for pair in found["pairs"]}
    assert min(sure[left, 0], sure[1 - left, 1]) > 0.5
    assert max(sure[left, 1], sure[1 - left, 0]) < 0.5
