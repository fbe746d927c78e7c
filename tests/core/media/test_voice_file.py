"""Voices in files and in memory: exact length, no shift, clear refusals."""

from __future__ import annotations

import wave
from fractions import Fraction

import av
import numpy as np
import pytest

from lipsync_core.errors import MediaError
from lipsync_core.media import timing
from lipsync_core.media.audio import MemoryVoice, load, open_voice
from lipsync_core.types import Audio


def lag(heard: np.ndarray, wanted: np.ndarray, rate: int) -> float:
    """Seconds by which ``heard`` comes late, by correlation."""
    size = min(len(heard), len(wanted))
    spectrum = np.fft.rfft(heard[:size], 2 * size) * np.fft.rfft(wanted[:size], 2 * size).conj()
    peak = int(np.argmax(np.fft.irfft(spectrum)))
    return (peak - 2 * size if peak > size else peak) / rate


KINDS = {
    "a.wav": "pcm_s16le",
    "b.wav": "pcm_f32le",
    "c.wav": "pcm_s24le",
    "d.wav": "pcm_u8",
    "e.flac": "flac",
    "f.mp3": "libmp3lame",
    "g.m4a": "aac",
    "h.opus": "libopus",
    "i.ogg": "libopus",
    "j.mka": "aac",
    "k.aac": "aac",
    "l.mp4": "aac",
    "m.webm": "libopus",
    "n.aiff": "pcm_s16be",
}


@pytest.mark.parametrize("name", KINDS)
def test_every_file_is_heard_from_its_first_sample(tmp_path, media, name):
    rate = 48000
    path = media.tone(tmp_path / name, rate=rate, seconds=2.3, codec=KINDS[name])
    voice = open_voice(path)
    assert voice.rate == rate
    assert voice.channels == 1
    heard = np.concatenate(list(voice.chunks()), axis=1)[0]
    assert voice.duration == Fraction(len(heard), rate)
    # Lossy codecs end with their last packet, ADTS also begins with silence it cannot declare.
    slack = 0.08 if KINDS[name] in ("aac", "libmp3lame", "libopus") else 0
    assert abs(float(voice.duration) - 2.3) <= slack
    late = lag(heard, media.chirp(rate, 2.3), rate)
    untold = name == "k.aac" or (name == "j.mka" and int(av.__version__.split(".")[0]) < 14)
    assert abs(late) < (0.05 if untold else 0.001)


@pytest.mark.parametrize("source", [8000, 11025, 22050, 44100, 96000, 192000])
@pytest.mark.parametrize("target", [16000, 24000])
def test_blocks_are_resampled_without_a_shift(tmp_path, media, source, target):
    voice = open_voice(media.tone(tmp_path / "v.wav", rate=source, seconds=3.21))
    blocks = list(voice.blocks(target))
    assert {len(block) for block in blocks[:-1]} == {target}
    heard = np.concatenate(blocks)
    assert heard.dtype == np.float32
    assert len(heard) == timing.sample_count(voice.duration, target)
    time = np.arange(len(heard)) / target
    wanted = np.interp(time, np.arange(round(source * 3.21)) / source, media.chirp(source, 3.21))
    assert abs(lag(heard, wanted, target)) < 0.001
    assert 0.7 < np.sqrt((heard**2).mean() / (wanted**2).mean()) < 1.3


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 7, 8])
def test_channels_are_mixed_to_one(tmp_path, media, channels):
    samples = np.zeros((channels, 16000), np.float32)
    samples[-1] = media.chirp(16000, 1.0)
    voice = open_voice(media.tone(tmp_path / "v.wav", samples=samples))
    assert voice.channels == channels
    mono = np.concatenate(list(voice.blocks(16000)))
    # A channel with nothing on it does not make the voice quieter.
    assert np.abs(mono - samples[-1]).max() < 1e-3
    audio = load(tmp_path / "v.wav")
    assert audio.samples.shape == (channels, 16000)
    assert np.abs(audio.samples - samples).max() < 1e-3


def test_start_and_end_are_exact(tmp_path, media):
    path = media.tone(tmp_path / "v.wav", rate=16000, seconds=4)
    voice = open_voice(path, start=Fraction(1, 3), end=Fraction(5, 2))
    heard = np.concatenate(list(voice.chunks()), axis=1)[0]
    whole = load(path).samples[0]
    assert np.array_equal(heard, whole[5334:40000])
    assert voice.duration == Fraction(40000 - 5334, 16000)
    assert not voice.is_whole
    with pytest.raises(MediaError, match="without a single sample"):
        open_voice(path, start=Fraction(9))


def test_memory_voice_is_the_same_voice(tmp_path, media):
    path = media.tone(tmp_path / "v.wav", rate=22050, seconds=2.5, channels=2)
    file, memory = open_voice(path), MemoryVoice(load(path))
    assert file.duration == memory.duration
    for first, second in zip(file.blocks(16000), memory.blocks(16000), strict=True):
        assert np.abs(first - second).max() < 1e-4


def test_the_sound_of_a_video_is_its_first_track(tmp_path, media):
    shared = media.tone(tmp_path / "v.mkv", codec="aac", rate=44100, channels=2)
    assert open_voice(shared).rate == 44100


def test_silence_is_refused(tmp_path, media):
    quiet = media.tone(tmp_path / "zero.wav", samples=np.zeros((1, 8000), np.float32))
    with pytest.raises(MediaError, match="silent"):
        open_voice(quiet)
    hiss = np.full((2, 8000), 1e-4, np.float32)
    with pytest.raises(MediaError, match=r"silent \(peak -80 dB\)"):
        MemoryVoice(Audio(samples=hiss, rate=8000))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_numbers_are_refused(tmp_path, media, value):
    samples = media.chirp(16000, 1.0)[None].copy()
    samples[0, 4000] = value
    with pytest.raises(MediaError, match=r"not numbers.* 0\.250 s"):
        MemoryVoice(Audio(samples=samples, rate=16000))
    path = tmp_path / "bad.wav"
    data = samples[0].astype("<f4").tobytes()
    head = (
        b"RIFF" + (36 + len(data)).to_bytes(4, "little") + b"WAVEfmt " + b"\x10\0\0\0\x03\0\x01\0"
    )
    head += (16000).to_bytes(4, "little") + (64000).to_bytes(4, "little") + b"\x04\0\x20\0"
    path.write_bytes(head + b"data" + len(data).to_bytes(4, "little") + data)
    with pytest.raises(MediaError, match="not numbers"):
        open_voice(path)


def test_no_sound_and_no_samples(tmp_path, media):
    with pytest.raises(MediaError, match="no sound track"):
        open_voice(media.make(tmp_path / "mute.mp4"))
    with wave.open(str(tmp_path / "none.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
    with pytest.raises(MediaError):
        open_voice(tmp_path / "none.wav")


def test_absurd_rates_are_refused(tmp_path, media):
    path = media.tone(tmp_path / "v.wav", rate=16000)
    data = bytearray(path.read_bytes())
    at = data.index(b"fmt ") + 12
    data[at : at + 4] = (50).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(MediaError, match="50 samples a second"):
        open_voice(path)


def test_a_truncated_voice_gives_what_it_holds(tmp_path, media):
    path = media.tone(tmp_path / "v.flac", codec="flac", seconds=5)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    voice = open_voice(path)
    assert 2 < voice.duration < 4
    assert abs(lag(load(path).samples[0], media.chirp(16000, 5), 16000)) < 0.001


def test_small_holes_do_not_add_up(tmp_path):
    """Packets that each begin 20 ms late: after a minute the sound is still where its stamps say."""
    path = tmp_path / "holes.mka"
    block, count = 4800, 300  # 100 ms of sound every 120 ms
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=48000, layout="mono")
        rng = np.random.default_rng(0)
        for number in range(count):
            noise = (rng.uniform(-0.3, 0.3, block) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(noise[None], format="s16", layout="mono")
            frame.sample_rate, frame.time_base = 48000, Fraction(1, 48000)
            frame.pts = number * 5760
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert abs(float(open_voice(path).duration) - count * 0.12) < 0.08
