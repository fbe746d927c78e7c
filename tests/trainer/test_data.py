"""Clips, samples by number, bad clips, shards: what training reads and in which order."""

from __future__ import annotations

import http.server
import json
import logging
import pickle
import re
import shutil
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from safetensors.numpy import load_file, save_file  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from lipsync_core.errors import LipSyncError, SettingsError  # noqa: E402
from lipsync_core.preprocess import dataset  # noqa: E402
from trainer.config import DataConfig, PairsConfig  # noqa: E402
from trainer.data import (  # noqa: E402
    TRIES,
    Clips,
    DataError,
    Draws,
    Pairs,
    Windows,
    columns,
    mel_start,
    split,
)
from trainer.store import Part, Store  # noqa: E402

SIDE = 32


def numbers(pictures, first=30):
    """Frame numbers that the gray of ``(T, R, R, 3)`` or ``(T, 3, R, R)`` pictures tells."""
    pictures = np.asarray(pictures, np.float32)
    if pictures.shape[1] == 3:
        pictures = (pictures.transpose(0, 2, 3, 1) + 1) * 127.5
    size = pictures.shape[1]
    return pictures[:, size // 2 :].mean((1, 2, 3)) - first


def same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if torch.is_tensor(value):
            assert torch.equal(value, other[name]), name
        else:
            assert value == other[name], name


def damage(clips, number, what):
    """Spoils the clip on disk in one of the ways that happen."""
    entry = clips[number].entry
    picture, beside = Path(entry.picture.path), Path(entry.features.path)
    if what == "no picture":
        picture.unlink()
    elif what == "no features":
        beside.unlink()
    elif what == "cut picture":
        picture.write_bytes(picture.read_bytes()[: picture.stat().st_size // 3])
    elif what == "cut features":
        beside.write_bytes(beside.read_bytes()[:3000])
    elif what == "empty features":
        beside.write_bytes(b"")
    elif what == "text":
        picture.write_text("not a film")
    else:
        stored = load_file(beside)
        if what == "nan mel":
            stored["mel"][:] = np.nan
        elif what == "nan whisper":
            stored["whisper"][:] = np.nan
        elif what == "short mel":
            stored["mel"] = np.ascontiguousarray(stored["mel"][:, :40])
        elif what == "short whisper":
            stored["whisper"] = stored["whisper"][:20].copy()
        elif what == "flat whisper":
            stored["whisper"] = stored["whisper"][:, 0].copy()
        elif what == "no whisper":
            del stored["whisper"]
        else:
            raise AssertionError(what)
        save_file(stored, beside)


DAMAGES = [
    "no picture", "no features", "cut picture", "cut features", "empty features", "text", "nan mel",
    "nan whisper", "short mel", "short whisper", "flat whisper", "no whisper",
]  # fmt: skip


# --- clips


def test_a_clip_shows_the_frames_that_are_asked_for(clip_folder):
    clips = Clips([clip_folder([60, 40])])
    assert [clip.frame_count for clip in clips] == [60, 40]
    for frames in ([0], [59], [58, 3, 3, 20], range(60)):
        shown = clips[0].crops(frames, SIDE)
        assert shown.shape == (len(frames), SIDE, SIDE, 3)
        assert shown.dtype == np.uint8
        np.testing.assert_allclose(numbers(shown), list(frames), atol=1.5)
    band = clips[1].crops([5], SIDE)[0, :6].mean()
    np.testing.assert_allclose(band, 40, atol=2)
    with pytest.raises(ValueError, match="60"):
        clips[0].crops([60], SIDE)


@pytest.mark.parametrize("size", [16, 24, 64])
def test_other_sizes_keep_the_picture(clip_folder, size):
    clip = Clips([clip_folder([34])])[0]
    shown = clip.crops([7, 30], size)
    assert shown.shape == (2, size, size, 3)
    np.testing.assert_allclose(numbers(shown), [7, 30], atol=1.5)
    # The band at the top is a quarter of the height.
    np.testing.assert_allclose(shown[0, : size // 4 - 1].mean(), 20, atol=2)


@pytest.mark.parametrize("options", [{}, {"g": "10"}, {"g": "10", "x264-params": "open-gop=1"}])
def test_frames_of_any_film_are_found(tmp_path, options, monkeypatch):
    """With one key picture or many, closed stretches or such that lean on the one before."""
    import av

    from trainer import decode

    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25)
        video.width = video.height = SIDE
        video.pix_fmt = "yuv420p"
        video.options = {"crf": "8", "bf": "2", **options}
        for number in range(100):
            image = np.full((SIDE, SIDE, 3), 30 + number, np.uint8)
            image[number % 8 * 4 :, :4] = 200
            out.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(video.encode(None))
    sizes = []
    stretches = decode._stretches
    monkeypatch.setattr(
        decode, "_stretches", lambda *given: sizes.append(stretches(*given)) or sizes[-1]
    )
    with path.open("rb") as file:
        whole = decode.pictures(file, np.arange(100), SIDE)
    np.testing.assert_allclose(whole[:, :, 6:].mean((1, 2, 3)) - 30, range(100), atol=1.5)
    for first, second in ((0, 20), (5, 50), (10, 84), (84, 9), (39, 60)):
        wanted = np.concatenate([np.arange(first, first + 16), np.arange(second, second + 16)])
        with path.open("rb") as file:
            np.testing.assert_array_equal(decode.pictures(file, wanted, SIDE), whole[wanted])
    assert {len(one) > 5 for one in sizes} == {bool(options)}, "the films are what they should be"


def test_parts_of_tensors_are_read_and_no_more(clip_folder):
    clip = Clips([clip_folder([60])])[0]
    whole = load_file(clip.entry.features.path)
    for name, values in whole.items():
        np.testing.assert_array_equal(clip.stored(name), values)
        assert clip.stored(name).dtype == values.dtype
        assert clip.shape(name) == values.shape
        assert clip.stored(name).flags.writeable
    np.testing.assert_array_equal(clip.rows("whisper", slice(7, 19)), whole["whisper"][7:19])
    assert clip.rows("points", slice(55, 80)).shape == (5, 5, 2)
    assert clip.stored("nothing") is None


def test_both_kinds_of_index_are_read(clip_folder):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    path = clip_folder([40, 34, 50], [0, 0, 1])
    plain = Clips([path])
    rows = [json.loads(line) for line in (Path(path) / "index.jsonl").read_text().splitlines()]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), Path(path) / "index.parquet")
    (Path(path) / "index.jsonl").unlink()
    assert Clips([path]).entries == plain.entries
    assert [clip.source for clip in plain] == ["0000", "0000", "0001"]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda path: [], "data.train, which is empty"),
        (lambda path: [path / "absent"], "not a folder"),
        (lambda path: [path], r"neither index.parquet nor index.jsonl"),
        (lambda path: [path / "other.json"], "not a list of shards"),
        (lambda path: [path / "absent.json"], "absent.json cannot be read"),
        (lambda path: [path / "bare"], "no column 'frames'"),
        (lambda path: [path / "cut"], "is damaged"),
        (lambda path: [path / "torn"], "index.parquet is damaged"),
        (lambda path: [path / "list"], "holds what is no clip"),
        (lambda path: [path / "list.json"], "not a list of shards"),
    ],
)
def test_what_is_no_data_set_is_said(tmp_path, make, match):
    pytest.importorskip("pyarrow")
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "index.parquet").write_bytes(b"PAR1")
    for name, text in (("bare", '{"key": "a"}'), ("cut", '{"key": "a'), ("list", "[1]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.jsonl").write_text(text)
    with pytest.raises(LipSyncError, match=match) as told:
        Clips(make(tmp_path))
    assert "\n" not in str(told.value)


# --- train and validation


def test_no_source_is_on_both_sides(clip_folder):
    sources = [number % 23 for number in range(46)]
    path = clip_folder([2] * 46, sources)
    train, validation = split(DataConfig(train=[path]))
    assert not set(train.sources()) & set(validation.sources())
    assert len(train) + len(validation) == 46
    assert len(validation.sources()) == 2, "every twentieth of 23"
    assert len(validation) == 4
    again = split(DataConfig(train=[path]))
    assert [clip.key for clip in again[1]] == [clip.key for clip in validation]


def test_given_folders_validate_and_are_not_trained_on(clip_folder, caplog):
    one = clip_folder([2, 2, 2], [0, 1, 2], name="one")
    two = clip_folder([2, 2], [2, 3], name="two")
    train, validation = split(DataConfig(train=[one], validation=[two]))
    assert (train.sources(), validation.sources()) == (["0000", "0001"], ["0002", "0003"])
    assert "1 of 3 sources" in caplog.text
    with pytest.raises(DataError, match="every source"):
        split(DataConfig(train=[one], validation=[one]))
    with pytest.raises(DataError, match="one source"):
        split(DataConfig(train=[clip_folder([2, 2], [7, 7], name="three")]))


def test_presenters_are_sources():
    from trainer.clips import _source

    assert _source({"key": "a", "source_key": "b", "presenter": 3}) == "presenter 3"
    assert _source({"key": "a", "source_key": "b", "source": "c.mp4"}) == "b"
    assert _source({"key": "a"}) == "a"


# --- samples


def test_a_sample_is_what_its_numbers_say(clip_folder):
    clips = Clips([clip_folder([60, 50, 47])])
    windows = Windows(clips, resolution=SIDE, seed=3)
    seen = set()
    for draw in range(6):
        sample = windows[draw]
        clip = clips[sample["clip"]]
        frames = sample["frames"].numpy()
        assert sample["key"] == clip.key
        assert sample["crops"].shape == sample["reference"].shape == (16, 3, SIDE, SIDE)
        assert sample["crops"].dtype == torch.float32
        assert sample["crops"].min() >= -1
        assert sample["crops"].max() <= 1
        np.testing.assert_allclose(numbers(sample["crops"]), frames, atol=1.5)
        reference = sample["reference_frames"].numpy()
        np.testing.assert_allclose(numbers(sample["reference"]), reference, atol=1.5)
        assert abs(reference[0] - frames[0]) >= 16
        audio = sample["audio"].unflatten(1, (10, 2))
        # The states tell their step: layer 0, width 0.
        steps = np.clip(2 * frames[:, None] + np.arange(-4, 6), 0, 2 * clip.frame_count - 1)
        np.testing.assert_array_equal(audio[:, :, 0, 0].numpy(), steps)
        np.testing.assert_array_equal(audio[:, :, 1, 0].numpy(), steps + 0.25)
        start = int(80 * frames[0] / 25)
        np.testing.assert_array_equal(sample["mel"][0], clip.stored("mel")[:, start : start + 52])
        assert sample["mel"].shape == (1, 80, 52)
        assert 0 <= sample["seed"] < 1 << 63
        seen.add(sample["seed"])
    assert len(seen) == 6


def test_gives_what_is_named(clip_folder):
    shapes = {"shapes": lambda count, rng: rng.uniform(size=(count, 6)).astype(np.float32)}
    clips = Clips([clip_folder([40, 40], **shapes)])
    sample = Windows(clips, gives=("shapes",), pictures=False)[1]
    assert "crops" not in sample
    assert "audio" not in sample
    clip = clips[sample["clip"]]
    np.testing.assert_array_equal(sample["shapes"], clip.stored("shapes")[sample["frames"]])


def test_every_clip_has_its_turn_in_each_round(clip_folder):
    clips = Clips([clip_folder([34] * 7)])
    windows = Windows(clips, gives=(), pictures=False, seed=5)
    assert len(windows) == 7
    rounds = [[windows[draw]["clip"] for draw in range(k, k + 7)] for k in (0, 7, 14)]
    assert all(sorted(one) == list(range(7)) for one in rounds)
    assert rounds[0] != rounds[1]
    other = Windows(clips, gives=(), pictures=False, seed=6)
    assert [other[draw]["clip"] for draw in range(7)] != rounds[0]


def test_short_clips_are_left_out_and_said_once(clip_folder, caplog):
    caplog.set_level(logging.INFO)
    clips = Clips([clip_folder([60, 20, 33, 31])])
    windows = Windows(clips, resolution=16)
    assert caplog.text.count("2 of 4 clips have less than 32 frames") == 1
    assert {windows[draw]["clip"] for draw in range(8)} == {0, 2}
    with pytest.raises(DataError, match="clips of 160 frames, the longest of 4 has 60"):
        Windows(clips, sampling="pose-mouth")


@pytest.mark.parametrize("sampling", ["contiguous-5", "single-frame", "pose-mouth-1"])
def test_other_samplings_through_the_same_door(clip_folder, sampling):
    clips = Clips([clip_folder([40, 33])])
    windows = Windows(clips, sampling=sampling, resolution=16)
    for draw in range(4):
        sample = windows[draw]
        count = windows.sampling.frames
        assert sample["crops"].shape == sample["reference"].shape == (count, 3, 16, 16)
        assert sample["mel"].shape == (1, 80, columns(count))
        np.testing.assert_allclose(numbers(sample["crops"]), sample["frames"], atol=1.5)
        np.testing.assert_allclose(
            numbers(sample["reference"]), sample["reference_frames"], atol=1.5
        )


# --- order


def test_draws_walk_through_all_numbers():
    world, batch = 3, 4
    ranks = [list(Draws(batch, rank, world, end=5)) for rank in range(world)]
    together = [draw for row in zip(*ranks, strict=True) for one in row for draw in one]
    assert together == list(range(world * batch * 5))
    assert list(Draws(batch, 1, world, start=2, end=5)) == ranks[1][2:]
    endless = iter(Draws(2, start=10**6))
    assert next(endless) == [2 * 10**6, 2 * 10**6 + 1]


@pytest.mark.parametrize(("workers", "context"), [(1, "fork"), (2, "fork"), (2, "spawn")])
def test_samples_do_not_depend_on_who_loads_them(clip_folder, workers, context):
    if context not in torch.multiprocessing.get_all_start_methods():
        pytest.skip(f"this system does not {context}")
    clips = Clips([clip_folder([60, 50, 40])], cache_mb=workers % 2 * 4)
    windows = Windows(clips, resolution=16, seed=1)
    damage(clips, 1, "nan mel")
    plain = Windows(
        Clips([str(Path(clips[0].entry.picture.path).parents[2])]), resolution=16, seed=1
    )
    loader = DataLoader(
        windows,
        batch_sampler=Draws(2, rank=1, world=2, start=1, end=4),
        num_workers=workers,
        multiprocessing_context=context,
    )
    for number, batch in zip((1, 2, 3), loader, strict=True):
        first = (number * 2 + 1) * 2
        for row, draw in enumerate((first, first + 1)):
            alone = plain[draw]
            for name, value in alone.items():
                if torch.is_tensor(value):
                    assert torch.equal(batch[name][row], value), (draw, name)
                else:
                    assert batch[name][row] == value, (draw, name)
    assert windows.bad == plain.bad > 0, "counted in the loading processes, seen here"


def test_samples_can_be_asked_in_any_order(clip_folder):
    clips = Clips([clip_folder([60, 50, 40])])
    forwards = Windows(clips, resolution=16, seed=1)
    backwards = pickle.loads(pickle.dumps(Windows(clips, resolution=16, seed=1)))
    kept = {draw: forwards[draw] for draw in range(9)}
    for draw in reversed(range(9)):
        same(backwards[draw], kept[draw])


def test_memory_changes_nothing_but_the_time(clip_folder, monkeypatch):
    path = clip_folder([60, 50, 40])
    plain = Windows(Clips([path]), resolution=16, seed=2)
    clips = Clips([path], cache_mb=1)
    kept = Windows(clips, resolution=16, seed=2)
    for draw in range(6):
        same(kept[draw], plain[draw])
    from trainer import decode

    def refuse(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(decode, "pictures", refuse)
    for draw in range(6, 12):
        assert kept[draw]["crops"].shape == (16, 3, 16, 16)
    assert clips._picture_bytes == 150 * 16 * 16 * 3
    with pytest.raises(AssertionError):
        plain[0]
    # Half of it fits in: what does not is decoded each time.
    monkeypatch.undo()
    small = Clips([path], cache_mb=1)
    half = Windows(small, resolution=64, seed=2)
    large = Windows(Clips([path]), resolution=64, seed=2)
    for draw in range(6):
        same(half[draw], large[draw])
    assert 0 < small._picture_bytes <= 1 << 20


# --- bad clips


@pytest.mark.parametrize("what", DAMAGES)
def test_a_bad_clip_is_counted_and_another_drawn(clip_folder, what, caplog):
    path = clip_folder([60, 60, 60])
    clips = Clips([path])
    untouched = Windows(clips, resolution=16, seed=4)
    before = [untouched[draw] for draw in range(12)]
    damage(clips, 1, what)
    windows = Windows(clips, resolution=16, seed=4)
    skipped = 0
    for draw in range(12):
        sample = windows[draw]
        if before[draw]["clip"] == 1 and sample["skipped"]:
            skipped += sample["skipped"]
            assert sample["seed"] == before[draw]["seed"]
            assert torch.isfinite(sample["mel"]).all()
        else:
            # A film that is cut off still has its beginning.
            same(sample, before[draw])
    assert windows.bad == skipped
    assert skipped >= (1 if what.startswith(("cut", "nan", "short")) else 4)
    assert caplog.text.count("is skipped") == 1
    assert re.search(rf"{clips[1].key} is skipped: its? ", caplog.text)
    again = Windows(clips, resolution=16, seed=4)
    for draw in (11, 3, 7):
        same(again[draw], windows[draw])


def test_too_many_bad_samples_end_the_run(clip_folder):
    clips = Clips([clip_folder([60, 60])])
    damage(clips, 0, "no features")
    windows = Windows(clips, resolution=16, max_bad=3)
    message = r"4 samples could not be read, more than data.max_bad=3"
    with pytest.raises(DataError, match=message):
        [windows[draw] for draw in range(100)]
    with pytest.raises(DataError, match="1 of 2 clips"):
        windows.check()


def test_the_error_of_a_loading_process_is_one_line(clip_folder):
    clips = Clips([clip_folder([60, 60])])
    damage(clips, 0, "no features")
    damage(clips, 1, "text")
    windows = Windows(clips, resolution=16, max_bad=5)
    loader = DataLoader(windows, batch_sampler=Draws(1), num_workers=2)
    with pytest.raises(DataError, match=r"more than data\.max_bad=5") as told:
        next(iter(loader))
    assert "\n" not in str(told.value)
    assert str(told.value)[0].isdigit()


def test_when_all_are_bad_it_ends(clip_folder):
    clips = Clips([clip_folder([60, 60])])
    damage(clips, 0, "no features")
    damage(clips, 1, "no picture")
    windows = Windows(clips, resolution=16, max_bad=10**6)
    with pytest.raises(DataError, match=f"{TRIES} clips in a row"):
        windows[0]
    assert windows.bad == TRIES


# --- pairs


def test_pairs_keep_their_share_and_shift(clip_folder):
    clips = Clips([clip_folder([60, 40, 33])], cache_mb=1)
    config = PairsConfig(positive=0.4, min_shift=6, other_clips=0.25)
    pairs = Pairs(clips, resolution=8, seed=1, pairs=config)
    count, together, other, shifts = 600, 0, 0, []
    for draw in range(count):
        sample = pairs._make(clips[pairs._chosen(draw, 0)], np.random.default_rng([1, draw, 0]))
        start, heard = int(sample["frames"][0]), sample["heard"]
        own = clips[pairs._chosen(draw, 0)]
        assert sample["mel"].shape == (1, 80, 52)
        assert 0 <= start <= own.frame_count - 16
        place = mel_start(heard)
        expected = clips[sample["other"]].stored("mel")[:, place : place + 52]
        np.testing.assert_array_equal(sample["mel"][0], expected)
        if sample["together"]:
            together += 1
            assert (start, own.number) == (heard, sample["other"])
        elif sample["other"] != own.number:
            other += 1
        else:
            shifts.append(abs(start - heard))
    assert abs(together / count - 0.4) < 0.06
    assert abs(other / (count - together) - 0.25) < 0.07
    assert min(shifts) == 6
    assert len(set(shifts)) > 20


def test_pairs_show_what_they_say(clip_folder):
    clips = Clips([clip_folder([60, 40])])
    pairs = Pairs(clips, frames=25, resolution=SIDE, pairs=PairsConfig(min_shift=3))
    seen = set()
    for draw in range(8):
        sample = pairs[draw]
        assert sample["crops"].shape == (25, 3, SIDE, SIDE)
        assert sample["mel"].shape == (1, 80, 80)
        np.testing.assert_allclose(numbers(sample["crops"]), sample["frames"], atol=1.5)
        same(pairs[draw], sample)
        seen.add(sample["together"])
    assert seen == {0.0, 1.0}


def test_a_bad_sound_of_another_clip_is_not_fatal(clip_folder):
    clips = Clips([clip_folder([60, 60, 60])])
    damage(clips, 2, "nan mel")
    pairs = Pairs(clips, resolution=8, pairs=PairsConfig(positive=0, other_clips=1))
    heard = {pairs[draw]["other"] for draw in range(12)}
    assert heard == {0, 1}
    assert pairs.bad > 0


def test_pairs_that_mean_nothing_are_refused(clip_folder):
    clips = Clips([clip_folder([60])])
    with pytest.raises(SettingsError, match="min_shift"):
        Pairs(clips, pairs=PairsConfig(min_shift=0))
    with pytest.raises(LipSyncError, match="needs two clips"):
        Pairs(clips, pairs=PairsConfig(other_clips=0.5))
    with pytest.raises(DataError, match="clips of 76 frames"):
        Pairs(clips, pairs=PairsConfig(min_shift=60))


# --- shards


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Files, and parts of files where ``parts`` is true; ``asked`` lists the requests."""

    asked: list
    parts = True
    fail = 0

    def log_message(self, *_):
        pass

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.asked.append((self.path, wanted))
        if type(self).fail:
            type(self).fail -= 1
            self.send_error(503)
            return
        data = Path(self.translate_path(self.path)).read_bytes()
        if wanted and self.parts:
            first, last = (int(one) for one in wanted.removeprefix("bytes=").split("-"))
            data = data[first : last + 1]
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def shards(clip_folder):
    path = Path(clip_folder([60, 50, 40, 34], [0, 0, 1, 2]))
    rows = [json.loads(line) for line in (path / "index.jsonl").read_text().splitlines()]
    assert dataset.pack(rows, path, 1) == 1
    # Each clip in a tar of its own.
    assert dataset.pack(rows, path, 0) == 4
    return path


@pytest.fixture
def server(shards):
    handler = type("Handler", (Ranges,), {"asked": []})
    serve = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(handler, directory=str(shards / "shards"))
    )
    thread = threading.Thread(target=serve.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{serve.server_address[1]}/shards.json", handler
    serve.shutdown()
    serve.server_close()
    thread.join()


def test_shards_give_the_same_samples(shards):
    plain = Windows(Clips([str(shards)]), resolution=16, seed=9)
    packed = Windows(Clips([str(shards / "shards" / "shards.json")]), resolution=16, seed=9)
    assert packed.clips.sources() == plain.clips.sources()
    for draw in range(6):
        same(packed[draw], plain[draw])
    rows = [json.loads(line) for line in (shards / "index.jsonl").read_text().splitlines()]
    before = (shards / "shards" / "shards.json").read_bytes()
    dataset.pack(rows, shards, 0)
    assert (shards / "shards" / "shards.json").read_bytes() == before


def test_distant_shards_are_read_by_ranges_and_kept(shards, server, tmp_path):
    address, handler = server
    plain = Windows(Clips([str(shards)]), resolution=16, seed=9)
    clips = Clips([address], cache=tmp_path / "kept")
    distant = Windows(clips, resolution=16, seed=9)
    for draw in range(8):
        same(distant[draw], plain[draw])
    ranged = [wanted for path, wanted in handler.asked if path.endswith(".tar")]
    assert all(ranged)
    assert len(ranged) == 8, "picture and features of four clips, each once"
    assert len(list((tmp_path / "kept").glob("*.part"))) == 0
    shutil.rmtree(shards / "shards")
    for draw in range(8):
        same(Windows(clips, resolution=16, seed=9)[draw], plain[draw])


def test_a_server_that_fails_is_asked_again(server, tmp_path, monkeypatch):
    address, handler = server
    monkeypatch.setattr("trainer.store.time.sleep", lambda _: None)
    handler.fail = 2
    clips = Clips([address], cache=tmp_path / "kept")
    handler.fail = 3
    windows = Windows(clips, resolution=16, seed=9, max_bad=1)
    assert windows[0]["skipped"] == 1
    assert len([path for path, _ in handler.asked if path == "/shards.json"]) == 3


def test_a_server_without_parts_is_refused(server, tmp_path):
    address, handler = server
    handler.parts = False
    clips = Clips([address], cache=tmp_path / "kept")
    with pytest.raises(LipSyncError, match="not given in parts"):
        Windows(clips, resolution=16)[0]


def test_kept_parts_have_a_limit(shards, server, tmp_path):
    address, handler = server
    del shards
    sizes = [
        one["members"]["mp4"] for one in json.loads(Store(tmp_path).read(Part(address)))["clips"]
    ]
    limit = sum(size for _, size in sizes) * 2 // 3
    store = Store(tmp_path / "kept", limit=limit)
    folder = address.rpartition("/")[0]
    for _ in range(2):
        for number, (offset, size) in enumerate(sizes):
            data = store.read(Part(f"{folder}/clips-{number:06d}.tar", offset, size))
            assert len(data) == size
            kept = sum(path.stat().st_size for path in (tmp_path / "kept").iterdir())
            assert kept <= limit
    assert len(handler.asked) > 1 + len(sizes), "what was dropped was fetched again"


def test_other_addresses_go_through_fsspec(shards, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for path in (shards / "shards").iterdir():
        memory.pipe_file(f"/set/{path.name}", path.read_bytes())
    plain = Windows(Clips([str(shards)]), resolution=16, seed=9)
    clips = Clips(["memory://set/shards.json"], cache=tmp_path / "kept")
    same(Windows(clips, resolution=16, seed=9)[2], plain[2])
    with pytest.raises(LipSyncError, match="nowhere://"):
        Clips(["nowhere://set/shards.json"], cache=tmp_path / "kept")
