"""Every option of score, speakers and compare, and those of dub that look at its result, refused in one line."""

import json
from importlib.util import find_spec

import pytest

from lipsync_core import cli


@pytest.fixture(scope="module")
def clip(tmp_path_factory, drawn_clip):
    return drawn_clip(tmp_path_factory.mktemp("bad") / "clip.mkv", seconds=0.6)


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Runs the command line; returns its one line."""
    for name in ("LIPSYNC_MODELS", "LIPSYNC_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "none"))

    def call(*words):
        before = sorted(tmp_path.rglob("*"))
        monkeypatch.setattr("sys.argv", ["lipsync", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        assert stop.value.code == 2, said
        assert said.out == ""
        lines = [line for line in said.err.splitlines() if line.startswith("lipsync: ")]
        assert len(lines) == 1, said.err
        assert "Traceback" not in said.err
        left = [path for path in sorted(tmp_path.rglob("*")) if "none" not in path.parts]
        assert left == [path for path in before if "none" not in path.parts]
        return lines[0]

    return call


SCORE = [
    (["{no}.mp4"], "no such file"),
    (["{clip}", "--audio", "{no}.wav"], "no such file"),
    (["{clip}", "--audio", "{text}"], "notes.txt"),
    (["{text}"], "notes.txt"),
    (["{clip}", "--engine", "best"], "wav2lip_expert"),
    (["{clip}", "--engine", "syncnet_v2"], "lipsync models download syncnet-v2"),
    (["{clip}", "--face", "third"], "third"),
    (["{clip}", "--face", "all"], "one face"),
    (["{clip}", "--face", "index:7"], "face"),
    (["{clip}", "--detector", "eyes"], "eyes"),
    (["{clip}", "--protocol", "mine"], "mine"),
    (["{clip}", "--start", "noon"], "noon"),
    (["{clip}", "--end", "noon"], "noon"),
    (["{clip}", "--start", "9"], "9"),
    (["{clip}", "--start", "0.4", "--end", "0.2"], "0.2"),
    (["{clip}", "--fix", "{clip}"], "input itself"),
    (["{clip}", "--fix", "{dir}/none/o.mkv"], "not a folder"),
    (["{clip}", "--fix", "{dir}/o.mkv", "--end", "1"], "--fix"),
    (["{clip}", "--report", "{dir}/o.txt"], ".html"),
    (["{clip}", "--report", "{dir}/none/o.html"], "does not exist"),
    (["{clip}", "--before", "{clip}"], "--quality"),
    (["{clip}", "--before", "{no}.mp4", "--quality"], "no such file"),
    (["{clip}", "--loud"], "--loud"),
]
SPEAKERS = [
    (["{no}.mp4"], "no such file"),
    (["{clip}", "--voice", "{no}.wav"], "no such file"),
    (["{clip}", "--detector", "eyes"], "eyes"),
    (["{clip}", "-o", "{dir}/none/who.json"], "does not exist"),
    (["{clip}", "-o", "{clip}", "--overwrite"], "input itself"),
    (["{clip}", "-o", "{dir}"], "exists already"),
]
COMPARE = [
    (["{clip}", "{no}.mp4", "-o", "{dir}/t"], "no such file"),
    (["{clip}", "-o", "{text}"], "is a file"),
    (["{clip}", "-o", "{dir}/t", "--voice", "{no}.wav"], "no such file"),
    (["{clip}", "-o", "{dir}/t", "--engine", "best"], "best"),
    (["{clip}", "-o", "{dir}/t", "--scoring", "best"], "best"),
    (["{clip}", "-o", "{dir}/t", "--scoring", "wav2lip_expert"], "download wav2lip-expert"),
]
DUB = [
    (["{clip}", "{clip}", "-o", "{dir}/o.mp4", "--segments", "1-2"], "--earlier"),
    (["{clip}", "{clip}", "-o", "{dir}/o.mp4", "--earlier", "{clip}"], "--segments"),
    (
        ["{clip}", "{clip}", "-o", "{dir}/o.mp4", "--check", "--segments", "0-1", "--earlier", "{clip}"],
        "give one of them",
    ),
    (
        ["{clip}", "{clip}", "-o", "{dir}/o.mp4", "--segments", "two", "--earlier", "{clip}"],
        "not a segment",
    ),
    (
        ["{clip}", "{clip}", "-o", "{dir}/o.mp4", "--segments", "0-9", "--earlier", "{clip}"],
        "ends after",
    ),
    (
        ["{clip}", "{clip}", "-o", "{dir}/o.mp4", "--segments", "0-1", "--earlier", "{no}.mp4"],
        "no such file",
    ),
    (["{clip}", "{clip}", "{clip}", "-o", "{dir}/o.mp4", "--check"], "--speaker FILE"),
    (["{clip}", "{clip}", "-o", "{dir}/o.mp4", "--speaker", "{no}.json"], "not an assignment"),
    (["{clip}", "{clip}", "-o", "{dir}/o.mp4", "--speaker", "{who}"], "voice 1"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "words", "says"),
    [
        (command, words, says)
        for command, rows in (
            ("score", SCORE), ("speakers", SPEAKERS), ("compare", COMPARE), ("dub", DUB)
        )
        for words, says in rows
    ],
)  # fmt: skip
def test_one_line(refused, clip, tmp_path, command, words, says):
    (tmp_path / "notes.txt").write_text("these are notes\n" * 40)
    turns = [{"start": 0, "end": 1, "person": 0, "voice": 1}]
    (tmp_path / "who.json").write_text(json.dumps({"turns": turns}))
    names = {
        "clip": clip, "dir": tmp_path, "no": tmp_path / "absent",
        "text": tmp_path / "notes.txt", "who": tmp_path / "who.json",
    }  # fmt: skip
    line = refused(command, *(word.format(**names) for word in words))
    if "download" in says and find_spec("torch") is None:
        says = "torch is not installed"
    assert says in line


def test_a_device_that_is_not_there(refused, clip):
    pytest.importorskip("torch")
    from lipsync_core.errors import SettingsError
    from lipsync_core.scoring.sync import _device

    with pytest.raises(SettingsError, match="auto, cpu, cuda or mps") as caught:
        _device("toaster")
    assert "\n" not in str(caught.value)
    assert _device("cpu") == "cpu"
