"""What the report says of a manifest, and its charts where there is little to draw."""

import re

import numpy as np
import pytest

from lipsync_core.preprocess import report
from lipsync_core.preprocess.affine import pose
from lipsync_core.preprocess.manifest import NAME, File, Manifest
from lipsync_core.preprocess.step import Row


def bars(chart):
    """``(kind, x, width, height)`` of every bar."""
    found = re.findall(
        r"<rect class=(\w+) x='([\d.]+)' y='[\d.]+' width='([\d.]+)' height='([\d.]+)'", chart
    )
    return [(kind, *map(float, rest)) for kind, *rest in found]


@pytest.mark.parametrize("value", [3.0, 0.0, -7.0, 0.1234, 1e6])
def test_equal_values_are_one_bar_in_the_middle(value):
    chart = report._histogram([value] * 5, [], "title", "unit")
    ((kind, x, width, height),) = bars(chart)
    assert (kind, height) == ("kept", 90.0)
    assert 90 < x < 110
    assert 90 < width < 110
    assert chart.count("<text") == 1


def test_there_is_no_minus_nothing():
    assert report._number(-0.0) == report._number(0.0) == "0"
    assert report._number(-0.25) == "-0.25"
    level = np.array([[40, 50], [80, 50], [60, 70], [48, 90], [72, 90]], float)
    for shift in (0.001, -0.001, 0.0):
        turned = level.copy()
        turned[2, 0] += shift
        turned[1, 1] += shift
        found = pose(turned[None].repeat(3, axis=0), 1.0)
        assert all(str(value) == "0.0" for value in found.values()), found


def test_bars_begin_at_round_numbers_and_hold_every_value():
    values = np.random.default_rng(0).normal(140, 20, 400).tolist()
    edges = report._edges(min(values), max(values), False)
    assert len(edges) <= report.BARS + 2
    assert np.histogram(values, edges)[0].sum() == 400
    assert np.allclose(edges / 5, np.round(edges / 5))
    few = report._edges(-2, 3, True)
    assert few.tolist() == [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5]


def clip(number, *, brightness, kept):
    """The rows of one clip, measured by the quality step and written."""
    common = {"sample": f"k-c{number}", "source": "k", "parent": "k-s", "frames": 75}
    return [
        Row(
            **common,
            step="quality",
            state="kept" if kept else "rejected",
            reason="" if kept else f"too dark: {brightness:.0f} of 255, at least 40",
            metrics={"brightness": brightness, "yaw": -0.0},
        ),
        Row(
            **common,
            step="write",
            state="kept" if kept else "skipped",
            metrics={"file": f"k/{number}.mp4"},
        ),
    ]


def test_limits_and_what_they_leave_out_are_seen_and_so_is_damage(tmp_path):
    metrics = {"damaged": 2, "damaged_seconds": 1.6, "decoded": 300}
    rows = [
        Row(sample="k", source="k", parent=None, step="broken", state="kept",
            metrics={"seconds": 12.0, "sound_mended": True}),
        Row(sample="k", source="k", parent=None, step="resample", state="kept",
            metrics=metrics, frames=300),
        *clip(0, brightness=100.0, kept=True),
        *clip(1, brightness=30.0, kept=False),
        *clip(2, brightness=120.0, kept=True),
    ]  # fmt: skip
    with Manifest(tmp_path / NAME) as manifest:
        manifest.put_files([File(path="/raw/a.mp4", size=1, mtime_ns=1, key="k", state="read")])
        manifest.begin("k", "/raw/a.mp4", "s")
        manifest.add(rows)
        manifest.finish("k", "done")
        summary = report.summarise(manifest)
    assert summary.values["brightness"] == [100.0, 120.0]
    assert summary.refused["brightness"] == [30.0]
    assert summary.values["seconds"] == [3.0, 3.0]
    assert [str(value) for value in summary.values["yaw"]] == ["0.0", "0.0"]
    (file,) = summary.file_rows
    assert file["damaged_seconds"] == 1.6
    config = {"quality": {"min_brightness": 40.0, "max_brightness": 215.0}}
    page = report._page(summary, {}, tmp_path, config)
    assert "The pictures of 1 file are damaged: 1.6 s of video could not be read" in page
    assert "The sound of 1 file has holes" in page
    assert "6.0 s</b><span>kept of 12.0 s of video" in page
    chart = page[page.index("<b>brightness</b>") :].split("</figure>")[0]
    assert {kind for kind, *_ in bars(chart)} == {"kept", "out"}
    assert "<title>limit: 40</title>" in chart
    # The other limit is beyond what was measured.
    assert "limit: 215" not in chart
    assert "too dark: 30 of 255" in page
