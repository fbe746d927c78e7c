"""Read whole, nothing that a decoder made up is shown."""

from __future__ import annotations

import random

import av
import numpy as np
import pytest

from lipsync_core.errors import MediaError
from lipsync_core.media import decoder
from lipsync_core.media.reader import Reader

STREAMS = {
    "vp9.mp4": ("libvpx-vp9", {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "6"}),
    "hevc.mp4": ("libx265", {"crf": "20", "preset": "veryfast", "x265-params": "log-level=none"}),
    "h264.ts": ("libx264", {"crf": "18", "preset": "veryfast"}),
    "hevc.ts": ("libx265", {"crf": "18", "preset": "veryfast", "x265-params": "log-level=none"}),
}


def mixed(frame, index):
    """Coarse noise that moves, so that there are bytes to damage and pictures to spoil."""
    rows, columns = frame.height // 4, frame.width // 4
    noise = np.random.default_rng(0).integers(40, 220, (rows + 32, columns + 32), dtype=np.uint8)
    window = noise[index % 30 :][:rows, index % 17 :][:, :columns]
    image = np.kron(window, np.ones((4, 4), np.uint8))
    return av.VideoFrame.from_ndarray(image, format="gray").reformat(format="yuv420p")


@pytest.fixture
def clip(media, tmp_path):
    """``clip("vp9.mp4")``: 75 pictures, a key picture every second."""

    def make(name):
        codec, options = STREAMS[name]
        return media.make(
            tmp_path / name,
            codec=codec,
            frame_count=75,
            options={**options, "g": "25"},
            mutate=mixed,
        )

    return make


def shown(path, *, whole):
    """Pictures by time, and what was found damaged."""
    reader = Reader(path, whole=whole)
    return {frame.time: frame.luma(160).astype(int) for frame in reader.frames()}, reader.damaged


def spoilt(found, true):
    # A time stamp that was lost is mended, and may be off by a tick.
    return sum(
        np.abs(picture - true[time]).mean() > 1 for time, picture in found.items() if time in true
    )


def overwritten(path, seed):
    """The file with some bytes of one packet made up."""
    with av.open(str(path)) as source:
        places = [(one.pos, one.size) for one in source.demux(video=0) if one.size > 40]
    dice = random.Random(seed)
    start, size = dice.choice(places)
    data = bytearray(path.read_bytes())
    at = start + dice.randrange(size // 2, size - 20)
    data[at : at + 12] = dice.randbytes(12)
    return bytes(data)


def test_vp9_notices_what_its_usual_decoder_shows(clip, tmp_path):
    source = clip("vp9.mp4")
    path, usual, strict, noticed = tmp_path / "b.mp4", 0, 0, 0
    true, none = shown(source, whole=True)
    assert (len(true), none) == (75, 0)
    for seed in range(12):
        path.write_bytes(overwritten(source, seed))
        usual += spoilt(shown(path, whole=False)[0], true)
        found, damaged = shown(path, whole=True)
        strict += spoilt(found, true)
        noticed += damaged > 0
    assert usual > 40, "nothing to notice"
    assert strict <= 0.2 * usual
    assert noticed >= 9


@pytest.mark.parametrize("name", ["h264.ts", "hevc.ts"])
def test_lost_packets_of_a_transport_stream_are_no_pictures(clip, tmp_path, name):
    source = clip(name)
    data, path = source.read_bytes(), tmp_path / "b.ts"
    true, none = shown(source, whole=True)
    assert (len(true), none) == (75, 0)
    usual = noticed = 0
    dice = random.Random(1)
    for _ in range(10):
        # Times count from the first picture, which is to be there.
        at = 188 * dice.randrange(len(data) // 564, len(data) // 188 - 30)
        path.write_bytes(data[:at] + data[at + 3 * 188 :])
        found, damaged = shown(path, whole=True)
        usual += spoilt(shown(path, whole=False)[0], true)
        noticed += damaged > 0
        assert len(found) >= 20
        assert not spoilt(found, true)
    # What is lost may also be a table that comes again.
    assert noticed >= 7
    # H.264 notices such losses by itself.
    assert usual or name == "h264.ts", "nothing to notice"


def test_an_odd_file_is_not_refused_by_the_strict_decoder(media, tmp_path, monkeypatch):
    """A message that cannot be read is a reason to stop for a strict decoder, but no damage."""
    path = media.make(tmp_path / "a.hevc", codec="libx265", frame_count=20)
    data = path.read_bytes()
    # A picture's parameters are followed by a message of x265; it gets another kind and a false size.
    at = data.index(b"\x00\x00\x01\x4e\x01") + 5
    path.write_bytes(data[:at] + bytes([0x01, 0xFE]) + data[at + 2 :])
    found, damaged = shown(path, whole=True)
    assert (len(found), damaged) == (20, 0)
    monkeypatch.setattr(decoder.Session, "_relaxed", lambda self: False)
    with pytest.raises(MediaError):
        shown(path, whole=True)
