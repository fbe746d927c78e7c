"""OpenCV's threads while a clip is dubbed and after, and memory that goes back."""

import wave
from pathlib import Path

import cv2
import numpy as np
import pytest

from lipsync_core import dub
from lipsync_core.errors import FaceError
from lipsync_core.process import _trim, give_back, opencv_in_one


@pytest.fixture
def three():
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    yield
    cv2.setNumThreads(before)


def test_opencv_gets_its_threads_back_from_the_last_who_held_them(three):
    first, second = opencv_in_one(), opencv_in_one()
    with first:
        assert cv2.getNumThreads() == 1
        second.__enter__()
    assert cv2.getNumThreads() == 1
    second.__exit__(None, None, None)
    assert cv2.getNumThreads() == 3


def test_a_dub_without_a_face_gives_them_back(three, tmp_path, monkeypatch):
    monkeypatch.setenv("LIPSYNC_CACHE", str(tmp_path))
    clip, seen = tmp_path / "grey.png", []
    cv2.imwrite(str(clip), np.full((96, 96, 3), 128, np.uint8))
    voice = tmp_path / "voice.wav"
    with wave.open(str(voice), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((3000 * np.sin(np.arange(8000))).astype("<i2").tobytes())

    def stages(name):
        return lambda *_: seen.append((name.split()[0], cv2.getNumThreads()))

    with pytest.raises(FaceError):
        dub(clip, voice, tmp_path / "o.mp4", detector="cascade", engine="draft", stages=stages)
    assert ("faces", 1) in seen
    assert cv2.getNumThreads() == 3


@pytest.mark.skipif(_trim() is None, reason="this C library cannot give memory back")
def test_holes_between_blocks_in_use_go_back():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    # one small block in use between each two large ones, all too small to be mapped on their own
    blocks = [bytearray(size) for _ in range(1500) for size in (100_000, 500)]
    full = resident()
    del blocks[::2]
    give_back()
    assert resident() < full - 100
    assert len(blocks) == 1500
