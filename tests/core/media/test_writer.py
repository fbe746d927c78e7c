"""Writing: pictures, times and sound arrive as they were given, or no file at all."""

from __future__ import annotations

import random
from fractions import Fraction

import av
import numpy as np
import pytest

from lipsync_core.errors import MediaError, SettingsError
from lipsync_core.media import length
from lipsync_core.media.audio import MemoryVoice, load, open_voice
from lipsync_core.media.mix import Mix
from lipsync_core.media.reader import Reader, probe
from lipsync_core.media.writer import FORMATS, Writer, check_output, choose_encoding
from lipsync_core.types import Audio


def lag(heard: np.ndarray, wanted: np.ndarray, rate: int) -> float:
    """Seconds by which ``heard`` comes late, by correlation."""
    size = min(len(heard), len(wanted))
    spectrum = np.fft.rfft(heard[:size], 2 * size) * np.fft.rfft(wanted[:size], 2 * size).conj()
    peak = int(np.argmax(np.fft.irfft(spectrum)))
    return (peak - 2 * size if peak > size else peak) / rate


def copy(reader: Reader, path, voice=None, policy="auto", **options) -> length.Plan:
    """The clip with another voice and no painting."""
    clip = reader.clip
    heard = open_voice(voice) if voice is not None and not hasattr(voice, "blocks") else voice
    seconds = heard.duration if heard is not None else reader.edges[-1] * clip.time_base
    plan = length.plan(reader.edges, clip.time_base, seconds, policy, is_still=clip.is_still)
    sound = plan.audio_duration if heard is not None else None
    with Writer(path, clip=clip, voice=heard, audio_duration=sound, **options) as writer:
        frames = reader.follow(plan.sources())
        for frame, (_, time, duration) in zip(frames, plan, strict=True):
            writer.write(frame, time, duration)
    return plan


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("policy", ["bounce", "loop", "hold", "stretch", "cut"])
def test_picture_and_sound_arrive(tmp_path, media, suffix, policy):
    source = media.make(tmp_path / "clip.mp4", frame_count=20, rate=Fraction(30000, 1001))
    voice = media.tone(tmp_path / "v.wav", rate=16000, seconds=1.7)
    out = tmp_path / f"out{suffix}"
    plan = copy(Reader(source), out, voice, policy)
    reader = Reader(out)
    frames = list(reader)
    assert media.numbers(frames) == list(plan.sources())
    slack = Fraction(1, 1000) if suffix in (".mkv", ".webm") else 0
    for frame, time in zip(frames, plan.times(), strict=True):
        assert abs(frame.time - time) <= slack
    assert abs(frames[-1].time + frames[-1].duration - plan.duration) <= slack
    heard = load(out)
    wanted = media.chirp(16000, 1.7)[: round(plan.audio_duration * 16000)]
    wanted = np.interp(
        np.arange(round(len(wanted) * heard.rate / 16000)) * 16000 / heard.rate,
        np.arange(len(wanted)),
        wanted,
    )
    assert abs(lag(heard.samples[0], wanted, heard.rate)) < 0.001
    assert abs(heard.duration - plan.duration) <= Fraction(1001, 30000) + Fraction(1024, 16000)
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_variable_times_are_kept_exactly(tmp_path, media, suffix):
    rng = random.Random(3)
    ticks = [0]
    for _ in range(24):
        ticks.append(ticks[-1] + rng.choice([1500, 3003, 3600, 7200]))
    source = media.make(
        tmp_path / "vfr.mp4", frame_count=25, ticks=ticks, time_base=Fraction(1, 90000)
    )
    voice = media.tone(tmp_path / "v.wav", seconds=2)
    plan = copy(Reader(source), tmp_path / f"out{suffix}", voice)
    frames = list(Reader(tmp_path / f"out{suffix}"))
    assert [frame.time for frame in frames] == list(plan.times())
    # How long the last one stays is told in decoding order only, which is another.
    assert [f.duration for f in frames][:-1] == [duration for _, _, duration in plan][:-1]


RATES = [8000, 11025, 22050, 44100, 48000, 96000, 192000]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_the_voice_keeps_its_rate_where_it_can(tmp_path, media, rate, suffix):
    source = media.make(tmp_path / "clip.mp4", frame_count=25)
    voice = media.tone(tmp_path / "v.wav", rate=rate, channels=2, seconds=1.0)
    out = tmp_path / f"out{suffix}"
    copy(Reader(source), out, voice)
    heard = load(out)
    assert heard.samples.shape[0] == 2
    if suffix == ".mkv" or (suffix == ".mp4" and rate <= 96000):
        assert heard.rate == rate
    wanted = np.interp(
        np.arange(heard.rate) / heard.rate, np.arange(rate) / rate, media.chirp(rate, 1.0)
    )
    assert abs(lag(heard.samples[0], wanted, heard.rate)) < 0.001
    if suffix == ".mkv":
        assert np.abs(heard.samples[0] - media.chirp(rate, 1.0)).max() < 1e-3


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 8])
def test_channels_survive(tmp_path, media, channels):
    source = media.make(tmp_path / "clip.mp4", frame_count=10)
    samples = np.stack([media.chirp(48000, 1.0) * (k + 1) / channels for k in range(channels)])
    voice = MemoryVoice(Audio(samples=samples, rate=48000))
    copy(Reader(source), tmp_path / "out.mp4", voice)
    assert load(tmp_path / "out.mp4").samples.shape[0] == channels


def test_a_title_of_odd_bytes_is_no_reason_to_refuse(tmp_path, media):
    source = media.make(tmp_path / "clip.mp4", frame_count=10, metadata={"title": "Caf\u00e9"})
    data = source.read_bytes()
    assert "Caf\u00e9".encode() in data
    source.write_bytes(data.replace("Caf\u00e9".encode(), b"Caf\xff\xfe"))
    before = Reader(source)
    assert before.clip.metadata["title"].startswith("Caf")
    copy(before, tmp_path / "out.mp4")
    assert probe(tmp_path / "out.mp4").metadata["title"].startswith("Caf")


def test_voices_of_eight_channels_are_mixed():
    samples = np.stack([np.full(4800, k / 32, np.float32) for k in range(8)])
    loud = MemoryVoice(Audio(samples=samples, rate=48000))
    slow = MemoryVoice(Audio(samples=samples[:, :800], rate=8000))
    mixed = np.concatenate([*Mix([loud, slow]).chunks()], axis=1)
    assert mixed.shape[0] == 8
    middle = mixed[:, 2000:2800].mean(axis=1)
    assert np.abs(middle - 2 * samples[:, 0]).max() < 1e-3


COPIED = {
    ("v.m4a", "aac"): ".mp4",
    ("v.mp3", "libmp3lame"): ".mp4",
    ("w.m4a", "aac"): ".mov",
    ("v.wav", "pcm_s16le"): ".mov",
    ("v.flac", "flac"): ".mkv",
    ("v.opus", "libopus"): ".webm",
    ("w.opus", "libopus"): ".mkv",
}


@pytest.mark.parametrize(("name", "codec"), COPIED)
def test_packets_are_copied_without_a_shift(tmp_path, media, caplog, name, codec):
    caplog.set_level("INFO", logger="lipsync.media")
    source = media.make(tmp_path / "clip.mp4", frame_count=10)
    voice = media.tone(tmp_path / name, rate=48000, seconds=2.0, codec=codec)
    out = tmp_path / f"out{COPIED[name, codec]}"
    copy(Reader(source), out, voice)
    assert "copied" in caplog.text
    first, second = load(voice), load(out)
    size = min(first.samples.shape[1], second.samples.shape[1]) - 4096
    assert abs(first.duration - second.duration) < Fraction(1, 20)
    assert abs(lag(second.samples[0], media.chirp(48000, 2.0), 48000)) < 0.001
    assert np.abs(first.samples[0, 4096:size] - second.samples[0, 4096:size]).max() < 1e-3
    frames = list(Reader(out))
    assert frames[0].time == 0


def test_sound_is_cut_or_padded_exactly(tmp_path, media):
    source = media.make(tmp_path / "clip.mp4", frame_count=25)
    voice = media.tone(tmp_path / "v.wav", rate=16000, seconds=3)
    copy(Reader(source), tmp_path / "cut.mkv", voice, "cut")
    assert load(tmp_path / "cut.mkv").samples.shape[1] == 16000
    short = media.tone(tmp_path / "s.wav", rate=16000, seconds=0.25)
    copy(Reader(source), tmp_path / "pad.mkv", short, "silence")
    padded = load(tmp_path / "pad.mkv").samples[0]
    assert len(padded) == 16000
    assert not padded[4000:].any()
    assert padded[:4000].any()


LOOKS = {
    "420": ("libx264", "yuv420p", {}, ".mp4", "h264", "yuv420p"),
    "full": ("libx264", "yuvj420p", {"color_range": 2}, ".mp4", "h264", "yuvj420p"),
    "422": ("libx264", "yuv422p", {}, ".mp4", "h264", "yuv422p"),
    "ten": ("libx265", "yuv420p10le", {}, ".mp4", "hevc", "yuv420p10le"),
    "hdr": (
        "libx265",
        "yuv420p10le",
        {"colorspace": 9, "color_trc": 16, "color_primaries": 9, "color_range": 1},
        ".mp4",
        "hevc",
        "yuv420p10le",
    ),
    "bt601": ("libx264", "yuv420p", {"colorspace": 6, "color_range": 1}, ".mkv", "h264", "yuv420p"),
    "vp9": ("libvpx-vp9", "yuv420p", {}, ".webm", "vp9", "yuv420p"),
    "gray": ("ffv1", "gray", {}, ".mp4", "h264", "yuv420p"),
    "rgb": ("ffv1", "bgr0", {}, ".mp4", "h264", "yuv420p"),
    "nv12": ("rawvideo", "nv12", {}, ".mp4", "h264", "nv12"),
    "twelve": ("ffv1", "yuv422p12le", {}, ".mkv", "hevc", "yuv422p12le"),
    "yuv411": ("ffv1", "yuv411p", {}, ".mp4", "h264", "yuv422p"),
}


@pytest.mark.parametrize("case", LOOKS)
def test_colours_and_tags_are_kept(tmp_path, media, case):
    codec, fmt, tags, suffix, want_codec, want_format = LOOKS[case]
    name = "clip.nut" if codec == "rawvideo" else "clip.mkv"
    source = media.make(tmp_path / name, codec=codec, pixel_format=fmt, tags=tags)
    before = Reader(source)
    out = tmp_path / f"out{suffix}"
    copy(before, out)
    after = Reader(out)
    assert after.clip.codec == want_codec
    assert after.clip.pixel_format in (want_format, want_format.replace("nv12", "yuv420p"))
    assert after.clip.bits == before.clip.bits or case in ("twelve",)
    for name, value in tags.items():
        assert getattr(after.clip, name) == value
    assert media.numbers(after) == list(range(12))
    first, second = next(iter(before)), next(iter(after))
    assert np.abs(first.rgb().astype(int) - second.rgb()).mean() < 3


def test_hdr_side_data_is_carried_on(tmp_path, media):
    master = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    options = {
        "preset": "ultrafast",
        "x265-params": f"log-level=none:master-display={master}:max-cll=1000,400",
    }
    tags = {"colorspace": 9, "color_trc": 16, "color_primaries": 9, "color_range": 1}
    source = media.make(
        tmp_path / "hdr.mp4",
        codec="libx265",
        pixel_format="yuv420p10le",
        options=options,
        tags=tags,
    )
    before = Reader(source)
    if before.clip.mastering is None:
        pytest.skip("this PyAV does not show the side data")
    copy(before, tmp_path / "out.mp4")
    after = probe(tmp_path / "out.mp4")
    assert after.mastering == before.clip.mastering
    assert after.light == before.clip.light
    assert after.is_hdr


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".webm", "vp9"), (".mov", "prores"), (".mkv", "vp9")]
)
def test_alpha_survives(tmp_path, media, suffix, codec):
    def half(frame, index):
        return av.VideoFrame.from_ndarray(
            np.dstack([media.picture(index), np.full((96, 160), 90, np.uint8)]), format="rgba"
        )

    source = media.make(tmp_path / "a.mov", codec="png", pixel_format="rgba", mutate=half)
    copy(Reader(source), tmp_path / f"out{suffix}")
    after = Reader(tmp_path / f"out{suffix}")
    assert after.clip.codec == codec
    assert after.clip.has_alpha
    alpha = next(iter(after)).planes()[3]
    top = (1 << after.clip.bits) - 1
    assert abs(alpha.mean() / top - 90 / 255) < 0.02


def test_mp4_says_that_it_drops_alpha(tmp_path, media, caplog):
    def half(frame, index):
        return av.VideoFrame.from_ndarray(
            np.dstack([media.picture(index), np.full((96, 160), 90, np.uint8)]), format="rgba"
        )

    source = media.make(tmp_path / "a.mov", codec="png", pixel_format="rgba", mutate=half)
    copy(Reader(source), tmp_path / "out.mp4")
    assert caplog.text.count("transparency") == 1
    assert media.numbers(Reader(tmp_path / "out.mp4")) == list(range(12))


def test_shape_of_pixels_and_fields_are_kept(tmp_path, media):
    options = {
        "preset": "ultrafast",
        "crf": "10",
        "aspect": "16:15",
        "flags": "+ildct+ilme",
        "x264-params": "tff=1",
    }
    reader = Reader(media.make(tmp_path / "tv.mp4", options=options))
    for suffix in (".mp4", ".mkv", ".mov"):
        out = tmp_path / f"out{suffix}"
        with Writer(out, clip=reader.clip) as writer:
            for frame in reader:
                mask = np.ones((20, 20), np.float32)
                fresh = frame.painted(10, 60, np.full((20, 20, 3), 99, np.uint8), mask)
                writer.write(fresh, frame.time, frame.duration)
        clip = probe(out)
        assert clip.sar == Fraction(16, 15)
        assert clip.field_order == reader.clip.field_order == "top"


def test_a_container_that_drops_the_shape_of_pixels_says_so(tmp_path, media, caplog):
    options = {"preset": "ultrafast", "aspect": "16:15"}
    reader = Reader(media.make(tmp_path / "tv.mp4", options=options))
    for name, codec, says in (
        ("a.webm", None, True),
        ("a.mkv", "libvpx-vp9", True),
        ("b.mkv", None, False),
        ("a.mp4", "libvpx-vp9", False),
    ):
        caplog.clear()
        with Writer(tmp_path / name, clip=reader.clip, codec=codec) as writer:
            for frame in reader:
                writer.write(frame, frame.time, frame.duration)
        assert (probe(tmp_path / name).sar != Fraction(16, 15)) == says
        assert caplog.text.count("shape of the pixels") == says


def test_the_usual_name_of_a_codec_gets_the_quality_of_its_encoder(tmp_path, media):
    clip = probe(media.make(tmp_path / "a.mp4"))
    encoding = choose_encoding(clip, "mp4", codec="h264")
    assert encoding.codec == "libx264"
    assert encoding.options["crf"] == "18"


def test_in_a_hurry_pictures_are_still_the_sources_own(tmp_path, media):
    reader = Reader(media.make(tmp_path / "a.mkv", codec="ffv1"))
    sizes = {}
    for quick in (False, True):
        target = tmp_path / f"{quick}.mp4"
        with Writer(target, clip=reader.clip, quick=quick) as writer:
            for frame in reader:
                writer.write(frame, frame.time, frame.duration)
        sizes[quick] = target.stat().st_size
        for before, after in zip(reader, Reader(target), strict=True):
            error = (before.luma(4096).astype(float) - after.luma(4096)) ** 2
            assert 10 * np.log10(255**2 / max(error.mean(), 1e-9)) > 38
    assert sizes[True] != sizes[False]


@pytest.mark.parametrize("size", [(161, 96), (160, 97), (161, 97)])
def test_odd_sizes(tmp_path, media, size):
    source = media.make(tmp_path / "odd.webm", width=size[0], height=size[1], codec="libvpx-vp9")
    reader = Reader(source)
    copy(reader, tmp_path / "out.mp4")
    after = Reader(tmp_path / "out.mp4")
    # A clip keeps its size; H.264 can do that with whole chroma only.
    assert (after.clip.width, after.clip.height) == size
    assert after.clip.pixel_format == "yuv444p"
    assert media.numbers(after) == list(range(12))
    copy(reader, tmp_path / "out.webm")
    assert probe(tmp_path / "out.webm").pixel_format == "yuv420p"
    assert probe(tmp_path / "out.webm").width == size[0]


def test_an_odd_photo_gets_an_edge_and_plays_everywhere(tmp_path, media):
    import cv2

    path = tmp_path / "face.png"
    rgb = media.picture(300, 161, 97)
    path.write_bytes(cv2.imencode(".png", rgb[..., ::-1])[1].tobytes())
    voice = media.tone(tmp_path / "v.wav", seconds=1.01)
    plan = copy(Reader(path), tmp_path / "out.mp4", voice)
    assert plan.frame_count == 26
    after = Reader(tmp_path / "out.mp4")
    assert (after.clip.width, after.clip.height) == (162, 98)
    assert after.clip.pixel_format == "yuv420p"
    assert after.clip.frame_rate == 25
    frames = list(after)
    assert len(frames) == 26
    assert np.abs(frames[0].rgb()[:97, :161].astype(int) - rgb).mean() < 4
    with_alpha = tmp_path / "face2.png"
    opaque = np.dstack([rgb[..., ::-1], np.full((97, 161), 255, np.uint8)])
    with_alpha.write_bytes(cv2.imencode(".png", opaque)[1].tobytes())
    copy(Reader(with_alpha), tmp_path / "out2.mp4", voice)
    assert probe(tmp_path / "out2.mp4").width == 162


def test_frames_that_are_not_painted_keep_their_values(tmp_path, media):
    source = media.make(tmp_path / "clip.mp4")
    reader = Reader(source)
    copy(reader, tmp_path / "out.mkv", codec="ffv1")
    for first, second in zip(reader, Reader(tmp_path / "out.mkv"), strict=True):
        for old, new in zip(first.planes(), second.planes(), strict=True):
            assert np.array_equal(old, new)


def test_overrides(tmp_path, media):
    reader = Reader(media.make(tmp_path / "clip.mp4"))
    copy(reader, tmp_path / "out.mp4", codec="libx265", pixel_format="yuv444p", crf=30)
    clip = probe(tmp_path / "out.mp4")
    assert (clip.codec, clip.pixel_format) == ("hevc", "yuv444p")
    with pytest.raises(MediaError, match="no encoder 'libx999'"):
        Writer(tmp_path / "b.mp4", clip=reader.clip, codec="libx999")
    with pytest.raises(SettingsError, match="pixel format"):
        Writer(tmp_path / "b.mp4", clip=reader.clip, pixel_format="nonsense")
    copy(reader, tmp_path / "small.mp4", crf=40)
    copy(reader, tmp_path / "large.mp4", crf=5)
    assert (tmp_path / "small.mp4").stat().st_size < (tmp_path / "large.mp4").stat().st_size


@pytest.mark.parametrize("suffix", FORMATS)
def test_metadata_and_fast_start(tmp_path, media, suffix):
    source = media.make(tmp_path / "clip.mp4", metadata={"title": "A day", "comment": "old"})
    note = "Mouth movements generated by LipSync"
    out = tmp_path / f"out{suffix}"
    copy(Reader(source), out, metadata={"comment": note})
    found = {key.lower(): value for key, value in probe(out).metadata.items()}
    assert found["comment"] == note
    assert found["title"] == "A day"
    data = out.read_bytes()
    if suffix in (".mp4", ".m4v", ".mov"):
        assert data.index(b"moov") < data.index(b"mdat")


def test_refusals(tmp_path, media):
    source = media.make(tmp_path / "clip.mp4")
    voice = media.tone(tmp_path / "voice.wav")
    clip = probe(source)
    for name, match in {
        "out.xyz": r"ends in \.xyz; give a name that ends in \.mp4",
        "out": "has no ending",
        "none/out.mp4": "does not exist",
        "clip.mp4/out.mp4": "not a folder",
        "clip.mp4": "also an input",
    }.items():
        with pytest.raises(MediaError, match=match):
            Writer(tmp_path / name, clip=clip, overwrite=True)
    (tmp_path / "there.mp4").write_bytes(b"precious")
    with pytest.raises(MediaError, match="exists already"):
        Writer(tmp_path / "there.mp4", clip=clip)
    (tmp_path / "voice.mp4").write_bytes(voice.read_bytes())
    with pytest.raises(MediaError, match="also an input"):
        Writer(tmp_path / "voice.mp4", clip=clip, voice=tmp_path / "voice.mp4", overwrite=True)
    (tmp_path / "linked.mp4").symlink_to(source)
    with pytest.raises(MediaError, match="also an input"):
        check_output(tmp_path / "linked.mp4", inputs=[source], overwrite=True)
    assert (tmp_path / "there.mp4").read_bytes() == b"precious"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("written", [0, 5])
def test_nothing_is_left_behind(tmp_path, media, error, written):
    reader = Reader(media.make(tmp_path / "clip.mp4"))
    voice = media.tone(tmp_path / "v.wav")
    (tmp_path / "out.mp4").write_bytes(b"precious")
    before = sorted(path.name for path in tmp_path.iterdir())

    def fail():
        options = {"clip": reader.clip, "voice": voice, "overwrite": True}
        with Writer(tmp_path / "out.mp4", **options) as writer:
            for frame in reader:
                if frame.index == written:
                    raise error
                writer.write(frame, frame.time, frame.duration)

    with pytest.raises(error):
        fail()
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "out.mp4").read_bytes() == b"precious"


def test_no_frame_is_no_file(tmp_path, media):
    clip = probe(media.make(tmp_path / "clip.mp4"))
    with pytest.raises(MediaError, match="not one frame"), Writer(tmp_path / "o.mp4", clip=clip):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_times_must_rise(tmp_path, media):
    reader = Reader(media.make(tmp_path / "clip.mp4"))
    frame = next(iter(reader))

    def twice():
        with Writer(tmp_path / "o.mp4", clip=reader.clip) as writer:
            writer.write(frame, Fraction(0), Fraction(1, 25))
            writer.write(frame, Fraction(0), Fraction(1, 25))

    with pytest.raises(ValueError, match="must rise"):
        twice()
