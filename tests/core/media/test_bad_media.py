"""Files that are no clip: one clear line, quickly, and never a crash."""

from __future__ import annotations

import struct
import time
import zlib

import numpy as np
import pytest

from lipsync_core.errors import MediaError
from lipsync_core.media.audio import open_voice
from lipsync_core.media.reader import Reader, probe


def refused(path, match: str, opener=probe) -> None:
    began = time.perf_counter()
    with pytest.raises(MediaError, match=match) as caught:
        opener(path)
    assert time.perf_counter() - began < 3
    assert "\n" not in str(caught.value)
    assert str(path.name) in str(caught.value)


@pytest.mark.parametrize("opener", [probe, Reader, open_voice])
def test_missing_folder_empty_garbage(tmp_path, opener):
    refused(tmp_path / "none.mp4", "no such file", opener)
    (tmp_path / "folder.mp4").mkdir()
    refused(tmp_path / "folder.mp4", "is a folder", opener)
    (tmp_path / "empty.mp4").touch()
    refused(tmp_path / "empty.mp4", "is empty", opener)
    noise = np.random.default_rng(1).bytes(200_000)
    for suffix in ("mp4", "mkv", "wav", "png", "avi", "xyz"):
        path = tmp_path / f"noise.{suffix}"
        path.write_bytes(noise)
        refused(path, "noise", opener)


def test_text_and_play_lists_are_not_media(tmp_path, media):
    media.make(tmp_path / "real.mp4")
    for name, text in {
        "notes.txt": "hello, this is text\n" * 50,
        "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nreal.mp4\n#EXT-X-ENDLIST\n",
        "list.ffconcat": "ffconcat version 1.0\nfile real.mp4\n",
        "movie.mp4": "ffconcat version 1.0\nfile real.mp4\n",
        "page.html": "<html><body>no such video</body></html>",
    }.items():
        (tmp_path / name).write_text(text)
        refused(tmp_path / name, name)


def test_truncated_header(tmp_path, media):
    path = media.make(tmp_path / "clip.mp4", frame_count=30)
    path.write_bytes(path.read_bytes()[:3000])
    refused(path, "damaged|incomplete")


def test_no_video_stream(tmp_path, media):
    refused(media.tone(tmp_path / "voice.wav"), "no video stream .only audio")


def png(width: int, height: int, body: bytes = b"") -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        check = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(40000, 10), (16000, 16000), (0, 10), (100_000, 100_000)])
def test_absurd_sizes(tmp_path, size):
    path = tmp_path / "huge.png"
    path.write_bytes(png(*size, zlib.compress(bytes(100))))
    refused(path, "too large|no size|not a media file")


def test_a_header_without_pictures(tmp_path, media):
    path = media.make(tmp_path / "none.mkv")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\x1f\x43\xb6\x75")])
    refused(path, "not one picture|no size|not a media file")


def test_a_png_without_its_data(tmp_path):
    path = tmp_path / "cut.png"
    path.write_bytes(png(64, 64)[:40])
    refused(path, "cut.png")


def test_an_unreadable_file(tmp_path, media):
    path = media.make(tmp_path / "clip.mp4")
    path.chmod(0)
    try:
        path.open("rb").close()
    except PermissionError:
        refused(path, "cannot be read")
    else:
        pytest.skip("this user may read everything")


def test_a_cover_picture_is_not_a_clip(tmp_path, media):
    data = media.tone(tmp_path / "song.mp3", codec="libmp3lame").read_bytes()
    body = b"\0image/png\0\x03\0" + png(8, 8, zlib.compress(bytes(8 * 25)))
    frame = b"APIC" + struct.pack(">I", len(body)) + b"\0\0" + body
    size = len(frame)
    safe = bytes([size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127])
    start = data.index(b"\xff\xfb") if b"\xff\xfb" in data else 0
    (tmp_path / "cover.mp3").write_bytes(b"ID3\x03\0\0" + safe + frame + data[start:])
    refused(tmp_path / "cover.mp3", "no video stream")
    assert open_voice(tmp_path / "cover.mp3").rate == 16000
