"""Reading: which pictures come, when, and in which orientation."""

from __future__ import annotations

import logging
import random
import threading
from fractions import Fraction
from itertools import pairwise

import av
import cv2
import numpy as np
import pytest

from lipsync_core.errors import MediaError
from lipsync_core.media import reader as reading
from lipsync_core.media.reader import Reader, prefetch, probe

KINDS = {
    "h264.mp4": ("libx264", "yuv420p"),
    "h264.mkv": ("libx264", "yuv444p"),
    "h264.ts": ("libx264", "yuv420p"),
    "h264.avi": ("libx264", "yuv420p"),
    "raw.h264": ("libx264", "yuv420p"),
    "hevc.mp4": ("libx265", "yuv420p10le"),
    "vp9.webm": ("libvpx-vp9", "yuv420p"),
    "mpeg2.mpg": ("mpeg2video", "yuv420p"),
    "mpeg4.avi": ("mpeg4", "yuv420p"),
    "prores.mov": ("prores_ks", "yuv422p10le"),
    "ffv1.mkv": ("ffv1", "yuv420p12le"),
    "huff.avi": ("huffyuv", "yuv422p"),
    "pal.gif": ("gif", "rgb8"),
    "anim.apng": ("apng", "rgb24"),
    "mjpeg.avi": ("mjpeg", "yuvj420p"),
    "raw.avi": ("rawvideo", "bgr24"),
    "yuyv.nut": ("rawvideo", "yuyv422"),
    "png.mov": ("png", "rgba"),
    "gray.mkv": ("ffv1", "gray"),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_picture_comes_once_and_in_order(tmp_path, media, name):
    codec, fmt = KINDS[name]
    path = media.make(tmp_path / name, frame_count=14, codec=codec, pixel_format=fmt)
    reader = Reader(path)
    frames = list(reader)
    assert media.numbers(frames) == list(range(14))
    assert [frame.index for frame in frames] == list(range(14))
    assert reader.frame_count == 14
    assert frames[0].time == 0
    for frame in frames:
        # Only the container's own rounding: 1/1000 s in Matroska, 1/100 s in GIF.
        assert abs(frame.time - Fraction(frame.index, 25)) <= Fraction(1, 1000)
        assert frame.size == (160, 96)
    assert [f.index for window in reader.windows(5) for f in window] == list(range(14))
    assert [len(window) for window in reader.windows(5)] == [5, 5, 4]


@pytest.mark.parametrize("name", KINDS)
def test_follow_finds_the_same_pictures_in_any_order(tmp_path, media, name):
    codec, fmt = KINDS[name]
    path = media.make(tmp_path / name, frame_count=14, codec=codec, pixel_format=fmt)
    straight = {f.index: f.planes()[0].tobytes() for f in Reader(path)}
    schedule = [0, 1, 2, 2, 9, 8, 7, 6, 13, 12, 0, 1, 5, 4, 13, 13, 3]
    got = list(Reader(path).follow(schedule))
    assert media.numbers(got) == schedule
    assert all(frame.planes()[0].tobytes() == straight[frame.index] for frame in got)


@pytest.mark.parametrize(
    "options",
    [
        {"preset": "ultrafast", "crf": "10", "g": "12"},
        {"preset": "medium", "crf": "10", "g": "24", "bf": "3"},
        {"preset": "medium", "crf": "10", "g": "24", "x264-params": "open-gop=1"},
        {"preset": "medium", "crf": "10", "x264-params": "intra-refresh=1:keyint=30"},
    ],
    ids=["short", "b-frames", "open", "intra-refresh"],
)
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_bounce_keeps_identity_with_little_memory(tmp_path, media, monkeypatch, options, suffix):
    path = media.make(tmp_path / f"clip.{suffix}", frame_count=90, options=options)
    # Ten pictures at most are kept, so that stretches have to be decoded in parts.
    monkeypatch.setattr(reading, "CACHE_BYTES", 10 * 160 * 96 * 2)
    schedule = [*range(90), *range(88, 0, -1), *range(90), 40, 39, 38, 70, 10, 11]
    reader = Reader(path)
    straight = {f.index: f.planes()[0].tobytes() for f in reader}
    for frame, wanted in zip(reader.follow(schedule), schedule, strict=True):
        assert frame.index == wanted
        assert media.number(frame.luma(160)) == wanted
        assert frame.planes()[0].tobytes() == straight[wanted]
    assert [f.index for f in Reader(path).follow(iter(schedule))] == schedule


@pytest.mark.parametrize(
    ("schedule", "decoded"),
    [
        # A little more of voice than of picture: the last pictures once more, from memory.
        ([*range(60), *range(58, 50, -1)], 60),
        # Slowed down to half, every picture twice.
        ([n // 2 for n in [*range(120), *range(117, 103, -1)]], 60),
        # More than is kept: a stretch from memory, then one from the key picture on.
        ([*range(60), *range(58, 45, -1)], 60 + 50),
        # To and fro over a few pictures.
        ([*range(8), *range(6, 0, -1)] * 3, 8),
        # A loop is no turn: nothing need be kept for it, all has to be decoded once more.
        ([*range(60), *range(60)], 120),
        ([], 0),
    ],
    ids=["a little", "slow", "far", "short", "loop", "nothing"],
)
def test_a_turn_decodes_nothing_twice_that_can_be_kept(
    tmp_path, media, monkeypatch, schedule, decoded
):
    path = media.make(tmp_path / "clip.mp4", frame_count=60, options={"g": "60", "crf": "10"})
    monkeypatch.setattr(reading, "CACHE_BYTES", 10 * 160 * 96 * 2)
    reader = Reader(path)
    count, most = 0, 0
    run = Reader._run

    def counted(*words):
        nonlocal count
        for one in run(*words):
            count += 1
            yield one

    monkeypatch.setattr(Reader, "_run", counted)
    get = reading._Cursor.get

    def watched(cursor, *words):
        nonlocal most
        frame = get(cursor, *words)
        most = max(most, len(cursor._kept))
        return frame

    monkeypatch.setattr(reading._Cursor, "get", watched)
    assert media.numbers(reader.follow(schedule)) == schedule
    assert count == decoded
    assert most <= 20


def test_follow_past_the_end_says_so(tmp_path, media):
    path = media.make(tmp_path / "clip.mp4", frame_count=5)
    with pytest.raises(MediaError, match="frame 9 "):
        list(Reader(path).follow([0, 9]))


def test_variable_rate_and_start_are_exact(tmp_path, media):
    rng = random.Random(5)
    ticks = [90000]
    for _ in range(29):
        ticks.append(ticks[-1] + rng.choice([1500, 3003, 3600, 7200, 1]))
    path = media.make(
        tmp_path / "vfr.mp4", frame_count=30, ticks=ticks, time_base=Fraction(1, 90000)
    )
    reader = Reader(path)
    frames = list(reader)
    exact = [Fraction(tick - ticks[0], 90000) for tick in ticks]
    assert [frame.time for frame in frames] == exact
    assert [f.duration for f in frames[:-1]] == [b - a for a, b in pairwise(exact)]
    assert media.numbers(frames) == list(range(30))
    edges = reader.edges
    assert [edge * reader.clip.time_base for edge in edges[:-1]] == exact
    back = list(reader.follow([29, 3, 2, 20]))
    assert [frame.time for frame in back] == [exact[29], exact[3], exact[2], exact[20]]


def test_constant_rate_edges_take_no_memory(tmp_path, media):
    path = media.make(tmp_path / "clip.mp4", rate=Fraction(30000, 1001))
    reader = Reader(path)
    assert isinstance(reader.edges, range)
    assert reader.edges[-1] * reader.clip.time_base == 12 * Fraction(1001, 30000)
    assert reader.clip.frame_rate == Fraction(30000, 1001)


def test_pictures_before_the_edit_do_not_appear(tmp_path, media):
    # Negative time stamps make the mp4 muxer write an edit list that begins inside the group.
    ticks = [index * 512 - 5 * 512 for index in range(20)]
    path = media.make(
        tmp_path / "edit.mp4",
        frame_count=20,
        ticks=ticks,
        time_base=Fraction(1, 12800),
        options={"preset": "ultrafast", "crf": "10", "g": "30"},
    )
    frames = list(Reader(path))
    assert media.numbers(frames) == list(range(5, 20))
    assert frames[0].time == 0
    assert media.numbers(Reader(path).follow([3, 2, 14, 0])) == [8, 7, 19, 5]


@pytest.mark.parametrize("start", [Fraction(0), Fraction(3, 10), Fraction(161, 25)])
def test_start_and_end_cut_the_clip(tmp_path, media, start):
    path = media.make(
        tmp_path / "clip.mp4",
        frame_count=200,
        options={"preset": "ultrafast", "crf": "10", "g": "48"},
    )
    reader = Reader(path, start=start, end=start + 1)
    first = -(-start * 25 // 1)
    frames = list(reader)
    assert media.numbers(frames) == list(range(first, first + 25))
    assert frames[0].index == 0
    assert frames[0].time == 0
    assert reader.frame_count == 25
    assert reader.edges[-1] * reader.clip.time_base == 1
    assert media.numbers(reader.follow([0, 24, 3, 2, 0])) == [first + i for i in (0, 24, 3, 2, 0)]
    fresh = Reader(path, start=start, end=start + 1)
    assert media.numbers(fresh.follow([0, 1, 0, 1])) == [first, first + 1, first, first + 1]


def test_a_start_behind_the_end_is_refused(tmp_path, media):
    path = media.make(tmp_path / "clip.mp4")
    with pytest.raises(MediaError, match="no picture between 9 s"):
        list(Reader(path, start=Fraction(9)))
    with pytest.raises(MediaError, match="later end"):
        Reader(path, start=Fraction(2), end=Fraction(1))


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("fmt", ["yuv420p", "yuv422p", "yuv444p"])
def test_rotation_is_applied(tmp_path, media, degrees, fmt):
    def turn(frame, index):
        code = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180}.get(
            degrees, cv2.ROTATE_90_COUNTERCLOCKWISE
        )
        rgb = cv2.rotate(media.picture(index, 160, 96), code)
        turned = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        return turned.reformat(format=fmt)

    width, height = (160, 96) if degrees == 180 else (96, 160)
    if not hasattr(av.video.stream.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV cannot write a rotation")
    path = media.make(
        tmp_path / "phone.mp4",
        width=width,
        height=height,
        rotate=degrees,
        pixel_format=fmt,
        mutate=turn,
    )
    reader = Reader(path)
    assert (reader.clip.width, reader.clip.height) == (160, 96)
    assert reader.clip.rotation
    frames = list(reader)
    assert media.numbers(frames) == list(range(12))
    assert np.abs(frames[5].rgb().astype(int) - media.picture(5)).mean() < 6
    assert frames[0].video.format.name == reader.clip.pixel_format
    if fmt == "yuv422p" and degrees != 180:
        assert reader.clip.pixel_format == "yuv444p"


def test_pixels_that_are_not_square(tmp_path, media):
    options = {"preset": "ultrafast", "crf": "10", "aspect": "16:15"}
    clip = probe(media.make(tmp_path / "dv.mp4", options=options))
    assert clip.sar == Fraction(16, 15)
    assert (clip.width, clip.height) == (160, 96)


def test_interlaced_is_flagged_and_left_alone(tmp_path, media):
    options = {"preset": "ultrafast", "flags": "+ildct+ilme", "x264-params": "tff=1"}
    clip = probe(media.make(tmp_path / "tv.mp4", options=options))
    assert clip.interlaced
    assert not probe(media.make(tmp_path / "film.mp4")).interlaced


def test_odd_sizes_full_range_and_tags(tmp_path, media):
    path = media.make(
        tmp_path / "odd.mkv",
        width=161,
        height=97,
        codec="ffv1",
        tags={"color_range": 2, "colorspace": 9, "color_trc": 16, "color_primaries": 9},
    )
    reader = Reader(path)
    clip = reader.clip
    assert (clip.width, clip.height) == (161, 97)
    assert clip.color_range == 2
    assert clip.colorspace == 9
    assert clip.color_trc == 16
    assert clip.is_hdr
    assert media.numbers(reader) == list(range(12))


def test_alpha_of_vp9_is_read(tmp_path, media):
    def half(frame, index):
        out = av.VideoFrame.from_ndarray(
            np.dstack([media.picture(index), np.full((96, 160), 90, np.uint8)]), format="rgba"
        )
        return out.reformat(format="yuva420p")

    path = media.make(
        tmp_path / "alpha.webm",
        codec="libvpx-vp9",
        pixel_format="yuva420p",
        mutate=half,
        options={"auto-alt-ref": "0", "crf": "10", "b": "0"},
    )
    reader = Reader(path)
    assert reader.clip.has_alpha
    frames = list(reader)
    assert media.numbers(frames) == list(range(12))
    assert abs(float(frames[3].planes()[3].mean()) - 90) < 3
    assert media.numbers(reader.follow([11, 4, 3, 0])) == [11, 4, 3, 0]


def test_damaged_packets_are_left_out_with_one_warning(tmp_path, media, caplog):
    path = media.make(
        tmp_path / "whole.avi", codec="mjpeg", pixel_format="yuvj420p", frame_count=20
    )
    data = bytearray(path.read_bytes())
    at = len(data) // 2
    data[at : at + 2000] = bytes(2000)
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING, logger="lipsync.media"):
        frames = list(Reader(path))
    assert 10 <= len(frames) <= 20
    times = [frame.time for frame in frames]
    assert times == sorted(set(times))


def test_dropped_packets_do_not_stop_the_clip(tmp_path, media):
    def lose(packet, sent):
        return None if sent in (31, 32) else packet

    path = media.make(tmp_path / "lossy.mkv", frame_count=60, drop=lose)
    frames = list(Reader(path))
    # libav itself leaves out some more behind the gap.
    assert len(frames) >= 40
    assert frames[-1].time == Fraction(59, 25)


@pytest.mark.parametrize("part", [0.5, 0.9])
def test_a_truncated_file_gives_what_it_holds(tmp_path, media, part):
    path = media.make(tmp_path / "clip.mkv", frame_count=60)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    numbers = media.numbers(Reader(path))
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 10


def test_a_size_that_changes_is_scaled_to_the_first(tmp_path, media):
    first = media.make(tmp_path / "a.ts", frame_count=6)
    second = media.make(tmp_path / "b.ts", frame_count=6, width=320, height=192)
    both = tmp_path / "both.ts"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    frames = list(Reader(both))
    assert {frame.size for frame in frames} == {(160, 96)}
    assert media.numbers(frames) == [*range(6), *range(6)]
    times = [frame.time for frame in frames]
    assert times == sorted(set(times))
    assert media.numbers(Reader(both).follow([11, 10, 2, 1])) == [5, 4, 2, 1]


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tif"])
def test_stills_are_a_clip_of_one_frame(tmp_path, media, suffix):
    path = tmp_path / f"100% of a:face %03d.{suffix}"
    done, data = cv2.imencode(f".{suffix}", media.picture(300)[..., ::-1])
    assert done
    path.write_bytes(data.tobytes())
    reader = Reader(path)
    assert reader.clip.is_still
    assert reader.clip.frame_count == 1
    assert len(reader.edges) == 2
    frames = list(reader.follow([0, 0, 0]))
    assert media.numbers(frames) == [300] * 3
    assert np.abs(frames[0].rgb().astype(int) - media.picture(300)).mean() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_respected(tmp_path, media, orientation):
    upright = media.picture(300)
    undo = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: np.rot90(p, -1),
    }
    stored = np.ascontiguousarray(undo[orientation](upright)[..., ::-1])
    data = cv2.imencode(".jpg", stored, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([orientation, 0, 0, 0])
    exif = b"Exif\0\0" + tiff + b"\0\0\0\0"
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    path = tmp_path / "phone.jpg"
    path.write_bytes(data[:2] + segment + data[2:])
    frame = next(iter(Reader(path)))
    assert frame.size == (160, 96)
    assert media.number(frame.luma(160)) == 300


def test_prefetch_keeps_order_and_stays_bounded():
    made = []

    def source():
        for item in range(50):
            made.append(item)
            yield item

    taken = prefetch(source(), 3)
    assert next(taken) == 0
    threading.Event().wait(0.2)
    assert len(made) <= 4
    assert list(taken) == list(range(1, 50))


def test_prefetch_passes_errors_on_and_closes_early():
    closed = threading.Event()

    def source():
        try:
            yield from range(1000)
        finally:
            closed.set()

    for item in prefetch(source(), 2):
        if item == 3:
            break
    assert closed.wait(2)
    threads = [t for t in threading.enumerate() if t.name == "lipsync-prefetch"]
    for thread in threads:
        thread.join(2)
        assert not thread.is_alive()

    def broken():
        yield 1
        raise MediaError("damaged")

    with pytest.raises(MediaError, match="damaged"):
        list(prefetch(broken(), 2))


def test_a_reader_that_waits_can_be_told_to_stop():
    """While nothing comes, ``idle`` is asked, and what it raises ends the wait and the thread."""
    import threading
    import time

    from lipsync_core.media.reader import prefetch

    closed = threading.Event()

    def slow():
        try:
            yield 1
            time.sleep(1.0)
            yield 2
        finally:
            closed.set()

    def idle():
        raise KeyboardInterrupt

    items = prefetch(slow(), idle=idle)
    assert next(items) == 1
    with pytest.raises(KeyboardInterrupt):
        next(items)
    assert closed.is_set()
