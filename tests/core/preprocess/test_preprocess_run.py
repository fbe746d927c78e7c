import hashlib
import json
import os
import shutil
import sys
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest

from lipsync_core.errors import SettingsError
from lipsync_core.media.audio import VoiceFile
from lipsync_core.media.reader import Reader
from lipsync_core.preprocess import dataset, report
from lipsync_core.preprocess.manifest import NAME, Manifest
from lipsync_core.preprocess.runner import run
from lipsync_core.preprocess.worker import Post, Task, Worker

pytest.importorskip("omegaconf")


def digests(folder):
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def clips(output, folder="clips"):
    return sorted((output / folder).rglob("*.mp4"))


@pytest.fixture(scope="module")
def ran(maker, tmp_path_factory):
    """Two clips of one name, a copy, and what is no video at all: the folders and how it ended."""
    from lipsync_core.preprocess import config as configs

    base = tmp_path_factory.mktemp("run")
    raw, output = base / "raw", base / "data"
    for name in ("a", "b", "odd"):
        (raw / name).mkdir(parents=True)
    maker.clip(raw / "a" / "00001.mp4", [0] * 60, seed=1)
    maker.clip(raw / "b" / "00001.mp4", [0] * 64 + [2] * 20 + [1] * 40, seed=2, fps=30)
    shutil.copy(raw / "a" / "00001.mp4", raw / "odd" / "copy.mp4")
    (raw / "odd" / "empty.mp4").touch()
    (raw / "odd" / "note: \n über.txt").write_text("not a video")
    (raw / "odd" / "cut.mp4").write_bytes((raw / "a" / "00001.mp4").read_bytes()[:900])
    maker.clip(raw / "odd" / "silent film.mp4", [0] * 60, sound=False)
    maker.clip(raw / "odd" / "nobody.mp4", [2] * 60)
    (raw / "odd" / "gone.mp4").symlink_to(raw / "nothing")
    (raw / "odd" / "round").symlink_to(raw)
    before = digests(raw)
    config = configs.load(
        None,
        [
            "affine.detector=cascade",
            "shots.detector=faces",
            "av_sync.min_certainty=0",
            "av_sync.max_offset=15",
            "output.whisper=never",
        ],
    )
    done = run(raw, output, config, workers=1)
    assert digests(raw) == before
    return raw, output, config, done


def test_every_file_is_accounted_for(ran):
    _, output, _, done = ran
    assert done.files == 10
    assert sum(done.by_state.values()) == 10
    assert done.by_state == {"kept": 2, "duplicate": 1, "rejected": 5, "unreadable": 2}
    with Manifest(output / NAME) as manifest:
        summary = report.summarise(manifest)
    assert dict(summary.files) == done.by_state
    for row in summary.file_rows:
        assert row["state"] == "kept" or row["reason"], row


def test_files_of_one_name_do_not_collide(ran):
    _, output, _, done = ran
    names = {path.relative_to(output) for path in clips(output)}
    assert len(names) == done.clips == 2
    assert all(path.name.startswith("00001-") for path in names)


def test_a_clip_is_aligned_timed_and_sounds(ran):
    _, output, _, _ = ran
    from safetensors.numpy import load_file

    for path in clips(output):
        frames = list(Reader(path).frames())
        assert frames[0].size == (256, 256)
        own = load_file(path.with_suffix(".safetensors"))
        count = len(frames)
        assert own["points"].shape == (count, 5, 2)
        assert own["sound"].shape == (count * 640,)
        assert own["mel"].shape == (80, count * 640 // 200 + 1)
        assert float(VoiceFile(path).duration) == pytest.approx(count / 25, abs=0.07)
        steps = np.diff(own["times"])
        assert (steps >= 0).all()
        assert own["times"][-1] - own["times"][0] == pytest.approx((count - 1) / 25, abs=0.04)
        # The eyes lie where the template has them, in the middle of the crop.
        eyes = own["points"][:, :2].mean(1)
        at = np.einsum("tij,tj->ti", own["matrices"][:, :, :2], eyes) + own["matrices"][:, :, 2]
        assert np.abs(at / 256 - (0.5, 0.2755)).max() < 0.05


def test_the_picture_of_another_rate_keeps_its_times(ran, rows):
    _, output, _, _ = ran
    found = [one["metrics"] for one in rows(output) if one["step"] == "resample"]
    thirty = next(one for one in found if one["fps"] == 30)
    assert thirty["decoded"] == 124
    assert thirty["frames"] == 103
    assert thirty["worst_ms"] <= 1000 / 60 + 0.01


def test_a_second_run_does_nothing_again(ran, rows):
    raw, output, config, first = ran
    before = rows(output)
    stamps = {path: path.stat().st_mtime_ns for path in clips(output)}
    again = run(raw, output, config, workers=1)
    assert again.by_state == first.by_state
    assert again.pace.workers == 0
    assert rows(output) == before
    assert {path: path.stat().st_mtime_ns for path in clips(output)} == stamps


def test_other_thresholds_decide_again_without_a_worker(ran, settings, rows):
    raw, output, config, first = ran
    before = {(one["sample"], one["step"]): one["finished"] for one in rows(output)}
    strict = run(raw, output, settings("quality.min_face=5000"), workers=1)
    assert strict.pace.workers == 0
    assert strict.clips == 0
    assert not clips(output)
    assert len(clips(output, "held")) == 2
    refused = [one for one in rows(output) if one["step"] == "quality"]
    assert all("at least 5000" in one["reason"] for one in refused)
    short = run(raw, output, settings("broken.min_seconds=9"), workers=1)
    assert (short.pace.workers, short.clips) == (0, 0)
    back = run(raw, output, config, workers=1)
    assert (back.pace.workers, back.clips) == (0, first.clips)
    assert len(clips(output)) == 2
    assert not clips(output, "held")
    assert {(one["sample"], one["step"]): one["finished"] for one in rows(output)} == before


def test_index_shards_and_report(ran):
    _, output, _, done = ran
    index = dataset.write_index(output)
    if index.suffix == ".parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(index).to_pylist()
    else:
        table = [json.loads(line) for line in index.read_text().splitlines()]
    assert len(table) == done.clips
    for one in table:
        assert (output / one["clip"]).is_file()
        assert (output / one["features"]).is_file()
        assert one["seconds"] == one["frames"] / 25
    assert dataset.write_shards(output, 1) == 1
    first = (output / "shards" / "clips-000000.tar").read_bytes()
    with tarfile.open(output / "shards" / "clips-000000.tar") as archive:
        names = archive.getnames()
        one = json.load(archive.extractfile(names[2]))
    assert len(names) == 3 * done.clips
    assert {name.rsplit(".", 1)[0] for name in names} == {one["key"] for one in table}
    assert one["key"] == names[2].rsplit(".", 1)[0]
    listed = (output / "shards" / "shards.json").read_bytes()
    for row in json.loads(listed)["clips"]:
        for ending, (start, size) in row["members"].items():
            data = (output / "shards" / row["tar"]).read_bytes()[start : start + size]
            name = {"mp4": "clip", "safetensors": "features"}.get(ending)
            own = next(one for one in table if one["key"] == row["key"])
            assert data == (output / own[name]).read_bytes() if name else json.loads(data)
    dataset.write_shards(output, 1)
    assert (output / "shards" / "clips-000000.tar").read_bytes() == first
    assert (output / "shards" / "shards.json").read_bytes() == listed
    page = report.write_report(output, output / "report").read_text(encoding="utf-8")
    assert "no face" in page
    assert "<svg" in page
    assert "data:image/jpeg" in page
    listed = (output / "report" / "files.csv").read_text(encoding="utf-8")
    assert "the same bytes as" in listed


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are text")
def test_a_name_that_is_no_text_is_a_name(maker, settings, tmp_path):
    raw, output = tmp_path / "raw", tmp_path / "data"
    raw.mkdir()
    maker.clip(tmp_path / "a.mp4", [0] * 55)
    odd = os.fsencode(raw) + b"/caf\xe9 \xf0\x9f\x98\x80.mp4"
    shutil.copy(tmp_path / "a.mp4", odd)
    Path(os.fsdecode(os.fsencode(raw) + b"/\xff.mp4")).touch()
    done = run(raw, output, settings(), workers=1)
    assert done.by_state == {"kept": 1, "rejected": 1}
    again = run(raw, output, settings(), workers=1)
    assert again.by_state == done.by_state
    assert again.pace.workers == 0
    with Manifest(output / NAME) as manifest:
        assert {os.fsencode(file.path) for file in manifest.files()} == {
            odd, os.fsencode(raw) + b"/\xff.mp4"
        }  # fmt: skip
    assert "\\udcff.mp4" in report.write_report(output, output / "report").read_text("utf-8")
    dataset.write_index(output)
    assert dataset.write_shards(output, 1) == 1


def test_the_largest_files_come_first(maker, settings, tmp_path, rows):
    raw = tmp_path / "raw"
    raw.mkdir()
    maker.clip(raw / "a.mp4", [2] * 52)
    maker.clip(raw / "b.mp4", [2] * 104)
    maker.clip(raw / "c.mp4", [2] * 78)
    run(raw, tmp_path / "data", settings(), workers=1)
    done = {one["finished"]: one["frames"] for one in rows(tmp_path / "data")
            if one["step"] == "resample"}  # fmt: skip
    assert [done[time] for time in sorted(done)] == [104, 78, 52]


def test_a_dropped_clip_is_made_again_when_it_is_wanted(maker, settings, tmp_path):
    raw, output = tmp_path / "raw", tmp_path / "data"
    raw.mkdir()
    maker.clip(raw / "a.mp4", [0] * 55)
    dropped = run(raw, output, settings("output.rejected=drop", "quality.min_face=5000"), workers=1)
    assert dropped.clips == 0
    assert not clips(output, "held")
    again = run(raw, output, settings("output.rejected=drop"), workers=1)
    assert (again.clips, again.pace.workers) == (1, 1)


def test_other_lengths_replace_what_was_made(maker, settings, tmp_path):
    raw, output = tmp_path / "raw", tmp_path / "data"
    raw.mkdir()
    maker.clip(raw / "a.mp4", [0] * 110)
    assert run(raw, output, settings("segment.seconds=2"), workers=1).clips == 2
    done = run(raw, output, settings(), workers=1)
    assert done.clips == len(clips(output)) == 1
    assert any("made anew" in note for note in done.pace.notes)


def test_a_clip_ends_where_the_face_does(maker, settings, tmp_path, rows):
    raw, output = tmp_path / "raw", tmp_path / "data"
    raw.mkdir()
    maker.clip(raw / "a.mp4", [0] * 55 + [2] * 15 + [1] * 55)
    done = run(raw, output, settings("shots.enabled=false"), workers=1)
    assert done.clips == 2
    (segment,) = [one for one in rows(output) if one["step"] == "affine"]
    assert segment["metrics"]["clips"] == 2
    written = [one for one in rows(output) if one["step"] == "write"]
    for one, first, end in zip(written, (0, 70), (55, 125), strict=True):
        # Never a frame of the landscape; a few of the face may be lost at its ends.
        assert first <= one["first"] <= first + 5
        assert end - 5 <= one["first"] + one["frames"] <= end


def test_a_damaged_stretch_is_in_no_clip(maker, settings, tmp_path, rows):
    """From the packet that was hit up to the next key picture, 20 frames; the sound goes on."""
    raw, output = tmp_path / "raw", tmp_path / "data"
    raw.mkdir()
    path = maker.clip(raw / "a.mp4", [0] * 150, gop=30)
    with av.open(str(path)) as file:
        packets = [packet for packet in file.demux(video=0) if packet.size]
        hit = packets[70].pos, packets[70].size
    data = bytearray(path.read_bytes())
    data[hit[0] + 8 : sum(hit)] = np.random.default_rng(2).bytes(hit[1] - 8)
    path.write_bytes(data)
    done = run(raw, output, settings("segment.seconds=10"), workers=1)
    assert done.clips == 2
    written = [one for one in rows(output) if one["step"] == "write"]
    (decoded,) = [one for one in rows(output) if one["step"] == "resample"]
    assert decoded["metrics"]["damaged"] >= 1
    assert 0.6 <= decoded["metrics"]["damaged_seconds"] <= 1.2
    before, after = sorted(written, key=lambda one: one["first"])
    assert 60 <= before["frames"] <= 71
    assert 89 <= after["first"] <= 92
    assert after["first"] + after["frames"] == 150


def test_hundreds_of_odd_files_are_each_accounted_for(settings, tmp_path):
    raw = tmp_path / "raw"
    random = np.random.default_rng(0)
    for number in range(200):
        folder = raw / f"{number % 7}"
        folder.mkdir(parents=True, exist_ok=True)
        ending = random.choice(["mp4", "mov", "avi", "jpg", "wav", "txt", "mkv", ""])
        size = int(random.integers(0, 3000))
        head = random.choice([b"", b"RIFF", b"\x00\x00\x00\x20ftypisom", b"ID3", b"\x1aE\xdf\xa3"])
        (folder / f"{number}.{ending}").write_bytes(bytes(head) + random.bytes(size))
    done = run(raw, tmp_path / "data", settings(), workers=1)
    assert done.files == 200
    assert done.clips == 0
    assert done.by_state.keys() <= {"rejected", "duplicate"}
    assert sum(done.by_state.values()) == 200


def test_known_folders_hold_what_each_step_made(maker, settings, tmp_path):
    path = maker.clip(tmp_path / "talk.mp4", [0] * 55 + [1] * 60)
    post = Post(config=settings(), output=str(tmp_path / "data"), keep_intermediate=True)
    told = []
    Worker(post).work(Task(path=str(path), key="5" * 24), told.append)
    assert not told[-1].error
    counts = {
        "resampled": [115], "shot": [55, 60], "segmented": [55, 60],
        "affine_transformed": [55, 60], "av_synced": [55, 60], "high_visual_quality": [55, 60],
    }  # fmt: skip
    for folder, lengths in counts.items():
        found = [sum(1 for _ in Reader(one).frames()) for one in clips(tmp_path / "data", folder)]
        assert found == lengths, folder
    assert Reader(clips(tmp_path / "data", "shot")[0]).clip.width == 240
    assert Reader(clips(tmp_path / "data", "av_synced")[0]).clip.width == 256


def test_a_missing_detector_is_said_once(maker, settings, tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("LIPSYNC_MODELS", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    raw, output = tmp_path / "raw", tmp_path / "data"
    raw.mkdir()
    config = settings("affine.detector=auto")
    run(raw, output, config)
    first = [one.getMessage() for one in caplog.records]
    if not any("yunet is not available" in line for line in first):
        pytest.skip("YuNet is on this machine")
    caplog.clear()
    run(raw, output, config)
    assert not caplog.records
    with Manifest(output / NAME) as manifest:
        manifest.put_fact("detector", "yunet")
    run(raw, output, config)
    assert "by cascade now, by yunet before" in caplog.text


def test_what_cannot_be_done_is_refused_before_any_work(settings, tmp_path):
    with pytest.raises(SettingsError, match="not a folder"):
        run(tmp_path / "nothing", tmp_path / "out", settings())
    assert not (tmp_path / "out").exists()


def test_ray_does_the_same(ran, settings, tmp_path):
    pytest.importorskip("ray")
    raw, _, config, first = ran
    done = run(raw, tmp_path / "data", config, workers=2, ray="auto")
    assert done.by_state == first.by_state
    assert done.clips == first.clips
