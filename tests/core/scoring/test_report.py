"""The whole way on a drawn face: watched, scored, shown, and the sound moved back into place."""

import base64
import json
import re
from fractions import Fraction

import av
import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from lipsync_core.errors import LipSyncError, MediaError
from lipsync_core.media.audio import VoiceFile
from lipsync_core.scoring import embedded, repair, report
from lipsync_core.scoring.cli import score as command
from lipsync_core.scoring.sync import judge


@pytest.fixture(scope="module")
def late(tmp_path_factory, drawn_clip, examined):
    return examined(drawn_clip(tmp_path_factory.mktemp("late") / "late <b>.mkv", late=0.2))


def test_the_score_says_what_is_wrong(late):
    score = late.score
    assert score.accepted
    assert score.audio_late_ms == pytest.approx(200, abs=25)
    assert score.offset_frames == -5
    assert "late" in score.summary
    assert score.segments[0].start == 0
    assert score.segments[-1].end == pytest.approx(8, abs=0.05)
    assert {s.state for s in score.segments} <= {"good", "weak"}


def test_the_page_holds_everything(late, tmp_path):
    output = tmp_path / "report.html"
    report.write(late, output)
    text = output.read_text(encoding="utf-8")
    assert late.score.summary[1:] in text
    assert "late &lt;b&gt;.mkv" in text
    assert "<b>.mkv" not in text
    assert not re.search(r"(src|href)=\"(?!data:)", text), "the page must need nothing else"
    assert "$" not in re.sub(r"<script>.*</script>", "", text, flags=re.S)
    data = json.loads(re.search(r"const data = (\{.*?\});", text).group(1))
    assert data["duration"] == pytest.approx(8, abs=0.05)
    assert len(data["times"]) == len(data["course"]) == len(data["measured"])
    measured = np.array([np.nan if v is None else v for v in data["measured"]])
    predicted = np.array(data["predicted"])
    assert np.nanmax(measured) > 0.9
    assert predicted.max() <= 1
    preview = re.search(r'src="data:video/\w+;base64,([^"]+)"', text)
    if preview:
        film = tmp_path / "preview"
        film.write_bytes(base64.b64decode(preview.group(1)))
        with av.open(str(film)) as container:
            frames = sum(1 for _ in container.decode(video=0))
            assert frames == 200
            assert container.streams.audio
    assert list(tmp_path.glob(".lipsync-*")) == []


def test_the_picture(late):
    picture = report.picture(late)
    assert picture.shape == (720, 960, 3)
    assert picture.dtype == np.uint8
    assert picture.std() > 5


def test_refusals(late, tmp_path):
    with pytest.raises(MediaError, match=r"\.html"):
        report.write(late, tmp_path / "report.pdf")
    (tmp_path / "mine.html").write_text("mine")
    with pytest.raises(MediaError, match="exists"):
        report.write(late, tmp_path / "mine.html")
    assert (tmp_path / "mine.html").read_text() == "mine"


def test_the_fix_is_a_fix(late, tmp_path, examined):
    output = tmp_path / "fixed.mkv"
    moved = repair.fix_sound(late, output)
    assert moved == pytest.approx(-200, abs=25)
    again = examined(output)
    assert again.score.accepted
    assert abs(again.score.audio_late_ms) < 15
    assert again.score.summary.startswith("in sync")


def test_a_foreign_voice_is_neither_accepted_nor_fixed(late, tmp_path, drawn_clip):
    other = tmp_path / "other.mkv"
    drawn_clip(other)
    voice = VoiceFile(other)
    foreign = embedded.hear(voice)
    foreign = embedded.Heard(
        curves=foreign.curves[::-1].copy(),
        opening=foreign.opening[::-1].copy(),
        active=foreign.active[::-1].copy(),
    )
    found = judge(late.watched, late.track, foreign, Fraction(0))
    assert not found.score.accepted
    assert found.score.summary.startswith("cannot tell")
    page = report.page(found)
    assert 'class="best unsure"' in page
    assert "(not certain)" in page
    output = tmp_path / "never.mkv"
    with pytest.raises(LipSyncError, match="left as it is"):
        repair.fix_sound(found, output)
    assert not output.exists()


def test_the_command_refuses_in_one_line(tmp_path, drawn_clip):
    app = Typer()
    app.command()(command)
    clip = drawn_clip(tmp_path / "clip.mkv", seconds=0.4)
    run = CliRunner()
    for arguments, words in [
        ([str(tmp_path / "absent.mp4")], "no such file"),
        ([str(clip), "--engine", "best"], "best"),
        ([str(clip), "--face", "third"], "third"),
        ([str(clip), "--start", "noon"], "noon"),
        ([str(clip), "--fix", str(clip)], "input itself"),
        ([str(clip), "--fix", str(tmp_path / "o.mkv"), "--end", "1"], "--fix"),
        ([str(clip), "--report", str(tmp_path / "o.txt")], ".html"),
        ([str(clip), "--protocol", "mine"], "mine"),
    ]:
        result = run.invoke(app, arguments)
        assert isinstance(result.exception, LipSyncError), (arguments, result.output)
        assert words in str(result.exception)
        assert "\n" not in str(result.exception)


def test_shorter_than_any_window(tmp_path, drawn_clip, examined):
    found = examined(drawn_clip(tmp_path / "short.mkv", seconds=0.2))
    assert not found.score.accepted
    assert found.score.summary.startswith("cannot tell: only 0")
    report.write(found, tmp_path / "short.html")
    assert report.picture(found).shape == (720, 960, 3)


def stills(page):
    return re.findall(r"<figure.*?</figure>", page, flags=re.S)


def test_before_and_after_stand_side_by_side(late, tmp_path, drawn_clip):
    before = drawn_clip(tmp_path / "before.mkv", late=0.2, moving=False)
    report.write(late, tmp_path / "r.html", before=before)
    figures = stills((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert figures
    for figure in figures:
        one, other = re.findall(r'<img alt="(?:before|after)" src="([^"]+)"', figure)
        assert figure.index('alt="before"') < figure.index('alt="after"')
        assert one != other or "most closed" in figure


def test_a_clip_that_ended_earlier_says_so(late, tmp_path, drawn_clip):
    before = drawn_clip(tmp_path / "before.mkv", seconds=0.2)
    report.write(late, tmp_path / "r.html", before=before)
    figures = stills((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert any("the clip had ended" in figure for figure in figures)
    assert all('alt="after"' in figure for figure in figures)


def test_a_still_stands_for_the_whole_clip(late, tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "p.png"), np.full((128, 128, 3), 90, np.uint8))
    report.write(late, tmp_path / "r.html", before=tmp_path / "p.png")
    figures = stills((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert all('alt="before"' in figure for figure in figures)


def test_a_clip_before_of_another_size_is_refused(late, tmp_path, drawn_clip):
    wide = drawn_clip(tmp_path / "wide.mkv", seconds=0.4, faces=2)
    with pytest.raises(MediaError, match="256x128"):
        report.write(late, tmp_path / "r.html", before=wide)
    assert not (tmp_path / "r.html").exists()
