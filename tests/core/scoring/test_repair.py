"""The sound moves by exactly the samples asked for, and the picture's packets stay as they are."""

from fractions import Fraction

import av
import numpy as np
import pytest

from lipsync_core.errors import MediaError
from lipsync_core.media.audio import stored
from lipsync_core.scoring.repair import correction, moved_sound, shift_sound
from lipsync_core.types import Audio

RATE = 16_000


def clip(path, *, picture="mpeg4", sound="pcm_s16le", seconds=1.0, channels=1):
    random = np.random.default_rng(1)
    samples = (random.standard_normal((channels, int(seconds * RATE))) * 6000).astype(np.int16)
    with av.open(str(path), "w") as out:
        video = out.add_stream(picture, rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        voice = out.add_stream(sound, rate=RATE)
        voice.layout = {1: "mono", 2: "stereo", 8: "7.1"}[channels]
        for index in range(int(seconds * 25)):
            image = np.full((48, 64, 3), index * 5, np.uint8)
            out.mux(video.encode(av.VideoFrame.from_ndarray(image)))
        out.mux(video.encode(None))
        packed = samples.T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(packed), format="s16", layout=voice.layout.name
        )
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        out.mux(voice.encode(frame))
        out.mux(voice.encode(None))
    return path


def packets(path):
    with av.open(str(path)) as source:
        stream = source.streams.video[0]
        return [
            (bytes(p), p.pts * p.time_base, p.dts * p.time_base)
            for p in source.demux(stream)
            if p.size
        ]


def sound(path):
    with av.open(str(path)) as source:
        parts = []
        for frame in source.decode(audio=0):
            parts.append(stored(frame))
        return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("samples", [0, 1, -1, 3200, -3200, 5001, -15_000, 40_000, -40_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_exact_to_the_sample(tmp_path, samples, channels):
    source = clip(tmp_path / "in.mkv", channels=channels)
    result = tmp_path / "out.mkv"
    assert shift_sound(source, result, Fraction(samples, RATE)) == samples
    before, after = sound(source), sound(result)
    assert after.shape == before.shape
    length = before.shape[1]
    expected = np.zeros_like(before)
    if samples >= 0:
        expected[:, samples:] = before[:, : max(length - samples, 0)]
    else:
        expected[:, : max(length + samples, 0)] = before[:, -samples:]
    assert np.array_equal(after, expected)
    assert packets(result) == packets(source)


def test_compressed_sound_in_mp4(tmp_path):
    source = clip(tmp_path / "in.mp4", sound="aac", seconds=2.0)
    result = tmp_path / "out.mp4"
    shift_sound(source, result, Fraction(-160, 1000))
    assert packets(result) == packets(source)
    before, after = sound(source)[0], sound(result)[0]
    spectrum = np.fft.rfft(before, 1 << 16) * np.conj(np.fft.rfft(after, 1 << 16))
    correlation = np.fft.irfft(spectrum)
    assert int(correlation.argmax()) == 2560


@pytest.mark.parametrize("sound_codec", ["pcm_s16le", "aac"])
def test_eight_channels(tmp_path, sound_codec):
    source = clip(tmp_path / "in.mkv", sound=sound_codec, channels=8)
    result = tmp_path / "out.mkv"
    shift_sound(source, result, Fraction(160, RATE))
    before, after = sound(source), sound(result)
    assert before.shape[0] == after.shape[0] == 8
    if sound_codec == "pcm_s16le":
        assert np.array_equal(after[:, 160:], before[:, :-160])


def test_sound_of_another_file(tmp_path):
    source = clip(tmp_path / "in.mkv", seconds=1.0)
    other = clip(tmp_path / "other.mkv", seconds=0.8, sound="flac")
    result = tmp_path / "out.mkv"
    shift_sound(source, result, Fraction(100, RATE), audio=other)
    assert np.array_equal(sound(result)[0, 100:], sound(other)[0, :-100])


@pytest.mark.parametrize("case", ["same", "exists", "absent", "silent", "not media"])
def test_what_cannot_be_done_leaves_nothing(tmp_path, case):
    source, result = tmp_path / "in.mkv", tmp_path / "out.mkv"
    if case == "silent":
        with av.open(str(source), "w") as out:
            video = out.add_stream("mpeg4", rate=25)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8))))
            out.mux(video.encode(None))
    elif case == "not media":
        source.write_text("a letter")
    elif case != "absent":
        clip(source)
    if case == "same":
        result = source
    if case == "exists":
        result.write_bytes(b"mine")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(MediaError):
        shift_sound(source, result, Fraction(1, 10))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("samples", [0, 1, -1, 300, -300, 1000, -5000])
def test_sound_in_memory_moves_as_in_files(samples):
    given = np.random.default_rng(3).random((2, 1000), np.float32) + 0.1
    moved = moved_sound(Audio(samples=given, rate=RATE), Fraction(samples, RATE)).samples
    assert moved.shape == given.shape
    late, early = max(samples, 0), max(-samples, 0)
    kept = max(1000 - late - early, 0)
    assert np.array_equal(moved[:, late : late + kept], given[:, early : early + kept])
    assert np.count_nonzero(moved) == 2 * kept


def test_a_clip_in_sync_needs_no_correction(tmp_path, drawn_clip, examined):
    found = examined(drawn_clip(tmp_path / "good.mkv"))
    assert found.score.accepted
    assert correction(found) == 0
    found = examined(drawn_clip(tmp_path / "late.mkv", late=0.2))
    assert correction(found) == pytest.approx(-0.2, abs=0.03)
