"""Files that are copied as they are, and sound written from memory."""

from fractions import Fraction

import av
import numpy as np
import pytest

from lipsync_core.media import batch
from lipsync_core.media.audio import load
from lipsync_core.types import Audio

RATE = 16_000


def unwatched(done, total, preview=None):
    return None


@pytest.fixture
def sound():
    noise = np.random.default_rng(1).normal(0, 0.1, (2, 3 * RATE))
    return Audio(samples=noise.astype(np.float32), rate=RATE)


@pytest.fixture
def film(tmp_path, sound):
    pictures = [np.full((32, 48, 3), 8 * index, np.uint8) for index in range(30)]
    path = tmp_path / "film.mp4"
    return batch.encode(
        pictures, path, Fraction(10), sound=sound, metadata={"comment": "made"}, progress=unwatched
    )


def packets(path):
    with av.open(str(path)) as container:
        return {
            stream.type: [
                (packet.pts * packet.time_base, bytes(packet))
                for packet in container.demux(stream)
                if packet.size
            ]
            for stream in container.streams
            if container.seek(0) is None
        }


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_a_copy_has_the_same_pictures_and_sound(tmp_path, film, suffix):
    seen = []
    copied = batch.copy(
        film,
        tmp_path / f"copy{suffix}",
        metadata={"workflow": '{"nodes": []}'},
        progress=lambda done, total, preview=None: seen.append(done),
    )
    before, after = packets(film), packets(copied)
    assert [data for _, data in before["video"]] == [data for _, data in after["video"]]
    assert [data for _, data in before["audio"]] == [data for _, data in after["audio"]]
    # Matroska begins with what comes first; between picture and sound nothing moves.
    shift = after["audio"][0][0] - before["audio"][0][0]
    assert [float(time - shift) for time, _ in after["video"]] == pytest.approx(
        [float(time) for time, _ in before["video"]], abs=0.001
    )
    with av.open(str(copied)) as container:
        told = {key.lower(): value for key, value in container.metadata.items()}
    assert told["comment"] == "made"
    assert told["workflow"] == '{"nodes": []}'
    assert seen == sorted(seen)
    assert seen[-1] == 100


@pytest.mark.parametrize("stage", ["copy", "load", "save_sound"])
def test_whoever_waits_is_asked_often(tmp_path, film, sound, stage):
    asked = []

    def ask(*_):
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt

    run = {
        "copy": lambda: batch.copy(film, tmp_path / "c.mp4", progress=ask),
        "load": lambda: load(film, ask),
        "save_sound": lambda: batch.save_sound(sound, tmp_path / "s.wav", ask),
    }
    with pytest.raises(KeyboardInterrupt):
        run[stage]()
