from fractions import Fraction
from importlib.util import find_spec

import numpy as np
import pytest

from lipsync_core.audio.mel import RATE
from lipsync_core.errors import EngineError
from lipsync_core.faces import align
from lipsync_core.faces.templates import Template
from lipsync_core.media.audio import MemoryVoice
from lipsync_core.media.reader import Reader
from lipsync_core.preprocess import features, quality
from lipsync_core.preprocess.av_sync import AvSync, by_lip_speed
from lipsync_core.preprocess.resample import shown
from lipsync_core.preprocess.segment import Segment
from lipsync_core.preprocess.setup import Setup
from lipsync_core.preprocess.shots import Shots
from lipsync_core.preprocess.step import Book, Clip, Moment, Source, Stream
from lipsync_core.preprocess.tape import Tape
from lipsync_core.preprocess.views import View, around
from lipsync_core.scoring import embedded
from lipsync_core.scoring.motion import MouthMotion
from lipsync_core.types import Audio


class Timed:
    """A picture that has a time and a duration, and no pixels."""

    def __init__(self, time, duration):
        self.time, self.duration = Fraction(time), Fraction(duration)


def at_rate(fps, count):
    return [Timed(Fraction(k) / fps, 1 / Fraction(fps)) for k in range(count)]


@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30000, 1001), Fraction(24), 50, 12])
def test_every_moment_shows_the_nearest_picture(fps):
    frames = at_rate(fps, round(8 * float(fps)))
    tally = {}
    moments = list(shown(frames, tally))
    assert abs(len(moments) - 8 * 25) <= 1
    times = np.array([float(frame.time) for frame in frames])
    for moment in moments:
        nearest = np.abs(times - float(moment.time)).min()
        assert abs(float(moment.shown) - float(moment.time)) <= nearest + 1e-9
    if fps == 25:
        assert [m.picture for m in moments] == frames
        assert tally["worst"] == tally["repeated"] == tally["left_out"] == 0
    assert tally["left_out"] == len(frames) - len({m.picture for m in moments})


def test_variable_rates_keep_their_times():
    times = [0, 40, 80, 500, 520, 540, 900]
    frames = [
        Timed(Fraction(a, 1000), Fraction(b - a, 1000))
        for a, b in zip(times, [*times[1:], 1000], strict=True)
    ]
    moments = list(shown(frames, {}))
    assert len(moments) == 25
    assert moments[5].shown == Fraction(80, 1000)
    assert moments[12].shown == Fraction(500, 1000)
    assert moments[-1].shown == Fraction(900, 1000)


def stream_of(count):
    pictures = iter([Moment(None, k, Fraction(k, 25)) for k in range(count)])
    source = Source(key="k", path=None)
    return Stream(
        key="k-h", parent="k", source=source, first=100, pictures=pictures, tape=None, facts=None
    )


@pytest.mark.parametrize(
    ("count", "lengths"), [(125, [125]), (250, [125, 125]), (180, [125, 55]), (60, [60]), (1, [])]
)
def test_segments_are_exact_and_keep_the_rest_from_two_seconds_on(
    settings, tmp_path, count, lengths
):
    config = settings()
    told = []
    stream = stream_of(count)
    book = Book(stream.source, told.extend)
    seen = []
    for part in Segment(config, Setup(config, tmp_path)).run(stream, book):
        numbers = [picture.index for picture in part.pictures]
        assert numbers[0] == part.first - 100
        seen.append(len(numbers))
    book.flush()
    assert [length for length in seen if length >= 50] == lengths
    assert sum(seen) == count
    lost = [row.frames for row in told if row.state == "rejected"]
    assert lost == [length for length in seen if length < 50]


def test_a_rest_below_two_seconds_is_told(settings, tmp_path):
    config = settings()
    told = []
    stream = stream_of(125 + 49)
    book = Book(stream.source, told.extend)
    for part in Segment(config, Setup(config, tmp_path)).run(stream, book):
        # Nobody looks at the pictures: the next segment begins where it should all the same.
        assert part.first in (100, 225)
    book.flush()
    rejected = [row for row in told if row.state == "rejected"]
    assert [(row.first, row.frames) for row in rejected] == [(225, 49)]


@pytest.mark.parametrize("detector", ["faces", "adaptive", "content"])
def test_shots_end_where_the_camera_cuts(maker, settings, tmp_path, detector):
    if detector != "faces":
        pytest.importorskip("scenedetect")
    path = maker.clip(tmp_path / "a.mp4", [0] * 40 + [2] * 30 + [1] * 37)
    config = settings(
        f"shots.detector={detector}", f"shots.threshold={27 if detector == 'content' else 2}"
    )
    frames = Reader(path).frames()
    pictures = (Moment(frame, frame.index, frame.time) for frame in frames)
    source = Source(key="k", path=path)
    stream = Stream(
        key="k-v", parent="k", source=source, first=0, pictures=pictures, tape=None, facts=None
    )
    book = Book(source, lambda rows: None)
    found = []
    for shot in Shots(config, Setup(config, tmp_path)).run(stream, book):
        found.append((shot.first, [picture.index for picture in shot.pictures]))
    assert [first for first, _ in found] == [0, 40, 70]
    assert [number for _, numbers in found for number in numbers] == list(range(107))


def test_the_tape_is_exact_wherever_it_is_cut():
    sound = np.random.default_rng(0).uniform(-1, 1, RATE * 40).astype(np.float32)
    voice = MemoryVoice(Audio(samples=sound[None], rate=RATE))
    tape = Tape(voice, Fraction(1, 10))
    for first in (-3000, 0, 16_000, 10_000, 400_000, 300_000, 630_000):
        piece = tape.cut(first, 20_000)
        place = np.arange(first, first + 20_000) + 1600
        inside = (place >= 0) & (place < len(sound))
        assert np.array_equal(piece[inside], sound[place[inside]])
        assert not piece[~inside].any()


class Photo:
    def __init__(self, image):
        self.image = image

    @property
    def size(self):
        return self.image.shape[1], self.image.shape[0]

    def region(self, x0, y0, x1, y1):
        columns = np.clip(np.arange(x0, x1), 0, self.size[0] - 1)
        rows = np.clip(np.arange(y0, y1), 0, self.size[1] - 1)
        return self.image[rows][:, columns]


@pytest.mark.parametrize("size", [256, 64, 24])
def test_a_kept_view_gives_the_crop_of_the_whole_picture(size):
    from skimage.data import astronaut

    picture = Photo(astronaut())
    points = np.array([[200, 104], [246, 104], [221, 125], [202, 143], [241, 143]], np.float32)
    template = Template(size=size, eyes=(0.5, 0.2755), mouth=(0.5, 0.607), stretch=4 / 3)
    view = around(picture, points, [template], 1.0)
    matrix = align.fit(np.add(points, (3, -2))[None], template)[0]
    assert view.covers(matrix, size)
    whole = align.cut(picture, matrix, size).astype(int)
    assert np.abs(view.cut(matrix, size).astype(int) - whole).mean() < (1 if size > 24 else 4)
    assert view.pixels.size < 0.3 * picture.image.size
    far = align.fit(np.add(points, (90, 0))[None], template)[0]
    assert not view.covers(far, size)


def test_a_view_may_reach_beyond_the_picture():
    picture = Photo(np.full((60, 80, 3), 90, np.uint8))
    view = View(picture, (-30, -30, 50, 50))
    matrix = np.array([[1.0, 0, 30], [0, 1, 30]])
    assert view.covers(matrix, 70)
    assert (view.cut(matrix, 70) == 90).all()


def talking(late, seconds=5.0):
    """A clip whose mouth does what the voice asks, the sound ``late`` seconds late."""
    random = np.random.default_rng(4)
    margin = round(0.64 * RATE)
    knots = random.uniform(0, 1, int((seconds + 3) * 5)) ** 2
    count = int(seconds * RATE) + 2 * margin
    swell = np.interp(np.arange(count) / RATE * 5, np.arange(len(knots)), knots)
    sound = (random.standard_normal(count) * swell * 0.3).astype(np.float32)
    heard = embedded.hear(MemoryVoice(Audio(samples=sound[None], rate=RATE)))
    frames = int(seconds * 25)
    asked = embedded.expected(heard, margin / RATE + np.arange(frames) / 25)
    speed = (asked[:, :2] / asked[:, :2].std(0)) @ [0.4, 0.6]
    motion = MouthMotion(
        speed=speed.astype(np.float32),
        opening=np.cumsum(speed).astype(np.float32),
        width=(asked[:, 2] / max(asked[:, 2].std(), 1e-6)).astype(np.float32),
        gap=np.zeros(frames, np.float32),
    )
    return Clip(
        key="k-c000000",
        parent="k-s",
        source=Source(key="k", path=None),
        first=0,
        crops=np.zeros((frames, 8, 8, 3), np.uint8),
        sound=np.roll(sound, round(late * RATE)),
        margin=margin,
        points=np.zeros((frames, 5, 2), np.float32),
        boxes=np.zeros((frames, 4), np.float32),
        matrices=np.zeros((frames, 2, 3)),
        times=np.arange(frames) / 25,
        facts=None,
        motion=motion,
        found={},
    ), sound[margin : margin + frames * 640]


@pytest.mark.parametrize("frames", [-5, 0, 3])
def test_the_offset_is_found_and_corrected(settings, tmp_path, frames):
    clip, true_sound = talking(frames / 25)
    config = settings("av_sync.min_certainty=0.8", "av_sync.max_offset=6")
    told = []
    book = Book(clip.source, told.extend)
    (moved,) = AvSync(config, Setup(config, tmp_path)).run(clip, book)
    book.flush()
    assert told[0].state == "kept", told[0].reason
    assert told[0].metrics["offset_frames"] == -frames
    assert np.array_equal(moved.heard(), true_sound)
    assert clip.shift == 0


def test_a_large_offset_is_rejected_and_a_clip_of_silence_too(settings, tmp_path):
    config = settings("av_sync.min_certainty=0.8", "av_sync.max_offset=6")
    clip, _ = talking(0.4)
    assert "frames apart" in AvSync.judge(by_lip_speed(clip), config)
    quiet = Clip(**{**clip.__dict__, "sound": np.zeros_like(clip.sound)})
    assert "silent" in AvSync.judge(by_lip_speed(quiet), config)


def test_syncnet_runs_on_the_crops(settings, tmp_path, seeded, monkeypatch):
    torch = pytest.importorskip("torch")
    from lipsync_core.models import syncnet_v2

    torch.manual_seed(0)
    network = syncnet_v2.SyncNetV2().eval()
    clip, _ = talking(0.0, seconds=2.0)
    clip = Clip(**{**clip.__dict__, "faces": np.full((50, 224, 224, 3), 100, np.uint8)})
    config = settings()
    setup = Setup(config, tmp_path)
    setup._syncnet = network
    metrics = AvSync(config, setup)._by_syncnet(clip)
    assert metrics["sync_engine"] == "syncnet_v2"
    assert np.isfinite(metrics["sync_confidence"])
    assert abs(metrics["offset_frames"]) <= 15
    strict = settings("av_sync.min_confidence=1000")
    assert "confidence" in AvSync.judge(metrics, strict)


def test_clips_do_not_depend_on_how_many_work_on_them(tmp_path, monkeypatch):
    from lipsync_core.media import writer
    from lipsync_core.preprocess.write import encode

    noise = np.random.default_rng(0).integers(0, 255, (340, 340, 3), np.uint8)
    crops = np.stack([noise[k : k + 256, 2 * k % 80 :][:, :256] for k in range(60)])
    sound = np.random.default_rng(1).normal(0, 0.1, 60 * 640).astype(np.float32)
    made = []
    for threads in (1, 4):
        monkeypatch.setattr(writer, "ENCODER_THREADS", threads)
        encode(tmp_path / f"{threads}.mp4", crops, sound, 16)
        made.append((tmp_path / f"{threads}.mp4").read_bytes())
    assert made[0] == made[1]


def test_blur_darkness_and_blocks_are_told_apart(settings):
    import cv2
    from skimage.data import astronaut

    face = cv2.resize(astronaut()[60:180, 160:280], (256, 256), interpolation=cv2.INTER_CUBIC)
    sharp = cv2.resize(astronaut()[0:400, 50:450], (256, 256), interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(face, (0, 0), 6)
    config = settings()
    fine = {"face_px": 200, "blockiness": 1.0}
    assert quality.Quality.judge({**quality.measure(sharp[None]), **fine}, config) == ""
    blur = quality.measure(blurred[None])
    assert blur["sharpness"] < 0.5 * quality.measure(sharp[None])["sharpness"]
    assert "blurred" in quality.Quality.judge({**blur, **fine}, config)
    dark = quality.measure((sharp[None] * 0.1).astype(np.uint8))
    assert "dark" in quality.Quality.judge({**dark, **fine}, config)
    good = quality.measure(sharp[None])
    assert "blocks" in quality.Quality.judge({**good, **fine, "blockiness": 3.0}, config)
    assert "px" in quality.Quality.judge({**good, **fine, "face_px": 20}, config)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Random weights of full size under the published names, found as a user's would be."""
    torch = pytest.importorskip("torch")
    from lipsync_core.models import hyperiqa, syncnet_v2

    models = tmp_path / "models" / "lipsync"
    models.mkdir(parents=True)
    monkeypatch.setenv("LIPSYNC_MODELS", str(models.parent))
    torch.manual_seed(0)
    torch.save(syncnet_v2.SyncNetV2().state_dict(), models / "syncnet_v2.model")
    state = hyperiqa.HyperIQA().state_dict()
    state = {name: value for name, value in state.items() if "num_batches" not in name}
    torch.save(state, models / "koniq_pretrained.pkl")
    return models


def test_networks_judge_the_clips_of_a_run(maker, settings, tmp_path, published, rows):
    from lipsync_core.preprocess.runner import run

    raw, output = tmp_path / "raw", tmp_path / "data"
    raw.mkdir()
    maker.clip(raw / "a.mp4", [0] * 60)
    names = ("av_sync.engine=syncnet_v2", "quality.hyperiqa=true", "quality.min_hyperiqa=1000")
    run(raw, output, settings(*names, "av_sync.min_confidence=-1000"), workers=1)
    found = {row["step"]: row for row in rows(output)}
    assert found["av_sync"]["metrics"]["sync_engine"] == "syncnet_v2"
    assert np.isfinite(found["av_sync"]["metrics"]["sync_confidence"])
    assert found["quality"]["state"] == "rejected"
    assert found["quality"]["reason"].startswith("HyperIQA ")
    done = run(
        raw,
        output,
        settings(*names[:2], "quality.min_hyperiqa=-1000", "av_sync.min_confidence=-1000"),
        workers=1,
    )
    assert done.clips == 1
    assert done.pace.clips == 0, "a threshold is compared with what was measured"


def test_hyperiqa_says_what_is_missing(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("LIPSYNC_MODELS", str(tmp_path))
    config = settings("quality.hyperiqa=true")
    says = "download hyperiqa" if find_spec("torch") else "torch not installed"
    with pytest.raises(EngineError, match=f"quality.hyperiqa is on, but .*{says}"):
        quality.Quality(config, Setup(config, tmp_path))


def test_blocks_are_measured_on_the_grid_of_the_source():
    from lipsync_core.preprocess.affine import blockiness

    random = np.random.default_rng(0)
    smooth = np.kron(random.uniform(60, 190, (8, 8)), np.ones((16, 16)))
    soft = np.repeat(np.cumsum(random.normal(0, 1, (128, 128)), 1)[..., None], 3, 2) + 120
    blocks = np.repeat(np.kron(random.uniform(60, 190, (16, 16)), np.ones((8, 8)))[..., None], 3, 2)
    del smooth
    for image, low, high in ((soft, 0.8, 1.2), (blocks, 10, 1e9)):
        picture = Photo(image.clip(0, 255).astype(np.uint8))
        value = blockiness([View(picture, (5, 3, 120, 120))])
        assert low < value < high


def test_the_mel_is_the_one_that_sync_networks_were_trained_on():
    librosa = pytest.importorskip("librosa")
    sound = np.random.default_rng(1).normal(0, 0.1, RATE * 2).astype(np.float32)
    emphasised = np.append(sound[0], sound[1:] - 0.97 * sound[:-1])
    spectrum = np.abs(
        librosa.stft(emphasised, n_fft=800, hop_length=200, win_length=800, pad_mode="constant")
    )
    filters = librosa.filters.mel(sr=RATE, n_fft=800, n_mels=80, fmin=55, fmax=7600)
    level = 20 * np.log10(np.maximum(1e-5, filters @ spectrum)) - 20
    expected = np.clip(8 * (level + 100) / 100 - 4, -4, 4)
    ours = features.mel(sound)
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() < 2e-3


def test_whisper_features_are_stored_where_its_weights_are(tmp_path):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from safetensors.numpy import load_file
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    from lipsync_core.audio.whisper import Features, build_encoder

    tiny = transformers.WhisperConfig(
        d_model=64, encoder_layers=2, encoder_attention_heads=1, encoder_ffn_dim=32
    )
    encoder = build_encoder(WhisperEncoder(tiny).state_dict())
    clip, true_sound = talking(0.0, seconds=2.0)
    stored = features.tensors(clip, encoder, "cpu")
    assert stored["whisper"].shape == (100, 3, 64)
    voice = MemoryVoice(Audio(samples=true_sound[None], rate=RATE))
    expected = Features(voice, encoder).rows(np.arange(100)).numpy()
    assert np.abs(stored["whisper"] - expected).max() < 0.01
    features.write(tmp_path / "a.safetensors", stored, {"clip": "a"})
    assert load_file(tmp_path / "a.safetensors").keys() == stored.keys()
    assert "whisper" not in features.tensors(clip, None, "cpu")
