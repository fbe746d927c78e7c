"""StableSyncNet, Wav2Lip's expert and SyncNet v2 as a user runs them: files in the folder, one command."""

import json
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lipsync_core import cli  # noqa: E402
from lipsync_core.audio import sync_mel  # noqa: E402
from lipsync_core.faces.detect.given import Given  # noqa: E402
from lipsync_core.media.audio import VoiceFile  # noqa: E402
from lipsync_core.media.reader import Reader  # noqa: E402
from lipsync_core.models import syncnet, syncnet_v2, wav2lip_syncnet  # noqa: E402
from lipsync_core.scoring import engines, judges  # noqa: E402
from lipsync_core.scoring.distance import shift_curve  # noqa: E402
from lipsync_core.scoring.motion import watch  # noqa: E402
from lipsync_core.scoring.sync import UNITS, _certain  # noqa: E402

NARROW = syncnet.SyncNetConfig(
    audio=replace(syncnet.PIXEL_ATTENTION.audio, channels=(32,) * 6 + (64,)),
    visual=replace(syncnet.PIXEL_ATTENTION.visual, channels=(32,) * 7 + (64,)),
)
"""The published layout with fewer channels."""
POINTS = np.array([[44, 46], [84, 46], [64, 66], [50, 92], [78, 92]], np.float32)


def place(folder, name, config=syncnet.PIXEL_ATTENTION):
    """Writes full-size weights that have learned nothing, in the layout of the published file."""
    torch.manual_seed(3)
    folder = folder / "lipsync"
    folder.mkdir(parents=True, exist_ok=True)
    if name == "syncnet_v2":
        torch.save(syncnet_v2.SyncNetV2().state_dict(), folder / "syncnet_v2.model")
    elif name == "wav2lip_expert":
        network = wav2lip_syncnet.Wav2LipSyncNet()
        state = {f"module.{key}": value for key, value in network.state_dict().items()}
        rest = {"optimizer": {"state": {}, "param_groups": []}, "global_step": 1}
        torch.save({"state_dict": state, **rest}, folder / "lipsync_expert.pth")
    else:
        with torch.device("meta"):
            network = syncnet.StableSyncNet(config)
        state = {
            key: torch.randn(value.shape) / max(value[0].numel(), 1) ** 0.5
            for key, value in network.state_dict().items()
        }
        torch.save({"state_dict": state}, folder / "latentsync-1.6_syncnet.pt")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command line in this process with a models folder of its own."""
    models = tmp_path / "models"
    for name in ("LIPSYNC_MODELS", "HF_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, str(models))

    def call(*words):
        monkeypatch.setattr("sys.argv", ["lipsync", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, capsys.readouterr()

    call.models = models
    return call


@pytest.fixture(scope="module")
def portrait(tmp_path_factory):
    """A second of a real face with a voice, which the cascade detector finds."""
    from skimage import data

    path = tmp_path_factory.mktemp("clip") / "face.mkv"
    face = np.ascontiguousarray(data.astronaut()[:256, 96:352])
    random = np.random.default_rng(1)
    with av.open(str(path), "w") as out:
        video = out.add_stream("mpeg4", rate=25)
        video.width = video.height = 256
        video.pix_fmt, video.bit_rate = "yuv420p", 4_000_000
        voice = out.add_stream("pcm_s16le", rate=16_000)
        voice.layout = "mono"
        for index in range(27):
            picture = np.roll(face, index % 3, axis=1)
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(video.encode(None))
        sound = (random.standard_normal(17_280) * 3000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
        out.mux(voice.encode(frame))
        out.mux(voice.encode(None))
    return path


def scored(run, clip, engine):
    code, said = run("score", clip, "--engine", engine, "--detector", "cascade", "--json")
    assert code == 0, said.err
    found = json.loads(said.out)
    assert found["engine"] == engine
    assert not found["accepted"], "these weights have learned nothing"
    assert {"offset_frames", "audio_late_ms", "confidence", "segments", "units"} <= set(found)
    assert found["protocol"]["weights"] in engines.row(engine).weights
    assert "not fitted" in found["protocol"]["acceptance"]
    return found


def test_syncnet_v2_from_its_file(run, portrait):
    place(run.models, "syncnet_v2")
    found = scored(run, portrait, "syncnet_v2")
    assert found["lse_d"] > 0
    assert found["similarity"] is None
    assert found["protocol"]["windows"] == str(27 - 5)
    # It is what `auto` takes now.
    _, said = run("score", portrait, "--detector", "cascade", "--json")
    assert json.loads(said.out)["lse_c"] == found["lse_c"]


def test_the_expert_from_its_file(run, portrait, tmp_path):
    place(run.models, "wav2lip_expert")
    found = scored(run, portrait, "wav2lip_expert")
    assert found["lse_c"] is None
    assert 0 <= found["similarity"] <= 1
    assert {"similarity", "similarity_gain"} <= set(found["units"]) == set(UNITS)
    page = tmp_path / "r.html"
    code, said = run(
        "score", portrait, "--engine", "wav2lip_expert", "--detector", "cascade", "--report", page
    )
    assert code == 0
    assert "Wav2Lip's expert: cosine" in said.out
    assert "Distance at every shift (Wav2Lip&#x27;s expert" in page.read_text(encoding="utf-8") or (
        "Distance at every shift (Wav2Lip's expert" in page.read_text(encoding="utf-8")
    )


def test_stable_syncnet_from_a_narrow_file(run, portrait, monkeypatch):
    monkeypatch.setitem(syncnet.BY_KIND, "syncnet-16-pixel-attn", NARROW)
    place(run.models, "stable_syncnet", NARROW)
    found = scored(run, portrait, "stable_syncnet")
    assert 0 <= found["similarity"] <= 1
    # 27 frames: 11 places, one of four.
    assert found["protocol"]["windows"] == "3"


@pytest.mark.slow
def test_stable_syncnet_from_a_full_file(run, portrait):
    """1.6 GB of weights."""
    place(run.models, "stable_syncnet")
    assert 0 <= scored(run, portrait, "stable_syncnet")["similarity"] <= 1


def test_too_short_for_a_window(run, portrait, tmp_path, drawn_clip):
    place(run.models, "wav2lip_expert")
    code, said = run(
        "score", portrait, "--engine", "wav2lip_expert", "--detector", "cascade", "--end", "0.2"
    )
    assert code == 0
    assert "cannot tell: Wav2Lip's expert needs at least 6 frames (0.24 s)" in said.out


@pytest.mark.parametrize(
    ("engine", "row"),
    [
        ("syncnet_v2", "syncnet-v2"),
        ("stable_syncnet", "latentsync-1.6-syncnet"),
        ("wav2lip_expert", "wav2lip-expert"),
    ],
)
def test_absent_weights_are_one_line(run, portrait, engine, row):
    code, said = run("score", portrait, "--engine", engine)
    assert code == 2
    (line,) = said.err.strip().splitlines()
    assert f"lipsync models download {row}" in line


@pytest.mark.parametrize("engine", ["stable_syncnet", "wav2lip_expert"])
def test_the_file_of_another_network_is_named(run, portrait, engine):
    place(run.models, "syncnet_v2")
    folder = run.models / "lipsync"
    name = {"stable_syncnet": "latentsync-1.6_syncnet.pt", "wav2lip_expert": "lipsync_expert.pth"}
    (folder / "syncnet_v2.model").rename(folder / name[engine])
    code, said = run("score", portrait, "--engine", engine, "--detector", "cascade")
    assert code == 2
    (line,) = said.err.strip().splitlines()
    assert name[engine] in line
    assert engines.row(engine).title in line


@pytest.mark.parametrize("name", ["stable_syncnet", "wav2lip_expert"])
def test_stream_equals_batch(name, tmp_path, monkeypatch, drawn_clip, drawn_watch):
    """Windows, columns and halves are those of the originals, however the batches fall."""
    monkeypatch.setattr(judges._JUDGES[name], "row", replace(engines.row(name), batch=2))
    clip = drawn_clip(tmp_path / "clip.mkv", seconds=1.3)
    watched = drawn_watch(clip)
    track, voice = watched.people.tracks[0], VoiceFile(clip)
    torch.manual_seed(5)
    stable = name == "stable_syncnet"
    network = (syncnet.StableSyncNet(NARROW) if stable else wav2lip_syncnet.Wav2LipSyncNet()).train(
        False
    )
    judge = judges.judge_of(name, network)
    found = judges.measure(judge, watched, track, voice, voice_at_start=Fraction(0))
    length, columns, every = (16, 52, 4) if stable else (5, 16, 1)
    count = 32 - length
    assert found.counts == [count]
    assert found.frames.tolist() == list(range(0, count, every))
    crops = judge.crops(track, np.arange(count + length - 1), "original", 1.0)
    frames = list(Reader(clip).frames())[: count + length - 1]
    images = np.stack([crops.cut(frame, frame.index) for frame in frames])
    mel = torch.from_numpy(sync_mel.mel(np.concatenate(list(voice.blocks(16_000)))))
    with torch.no_grad():
        seen, heard = [], []
        for first in range(count):
            window = torch.from_numpy(images[first : first + length].astype(np.float32))
            if stable:
                window = (window / 127.5 - 1).permute(0, 3, 1, 2)
                seen.append(network.visual_encoder(syncnet.stack(window[None]))[0])
            else:
                lower = (window.flip(-1) / 255).permute(0, 3, 1, 2)[:, :, 48:]
                seen.append(network.look(lower.flatten(0, 1)[None])[0])
            start = int(80 * first / 25)
            part = mel[None, None, :, start : start + columns]
            heard.append((network.audio_encoder(part) if stable else network.hear(part))[0])
    for row, first in zip(found.table, found.frames, strict=True):
        for shift in range(-15, 16):
            other = first + shift
            wanted = 1 - float(seen[first] @ heard[other]) if 0 <= other < count else 1.0
            assert row[shift + 15] == pytest.approx(wanted, abs=2e-5)


class Brightness(judges.Judge):
    """A judge that needs no training: how bright the pictures are, and how loud the sound is."""

    def crops(self, track, frames, protocol, sar):
        return judges.BoxCrops(track, frames, size=8)

    def listen(self, blocks):
        return np.concatenate(list(sync_mel.mel_columns(blocks))).mean(1, keepdims=True)

    def look(self, crops):
        levels = crops.astype(np.float32).mean((1, 2, 3))
        first = np.arange(0, len(crops) - self.row.frames + 1, self.row.every)
        return self._unit(levels[first[:, None] + np.arange(self.row.frames)])

    def hear(self, rows, frames):
        moments = frames[:, None] + np.arange(self.row.frames) + 0.5
        place = np.minimum((moments * 3.2).astype(int), len(rows) - 1)
        return self._unit(rows[place, 0])

    @staticmethod
    def _unit(values):
        values = values - values.mean(1, keepdims=True)
        length = np.linalg.norm(values, axis=1, keepdims=True)
        return torch.from_numpy(values / np.maximum(length, 1e-6))


@pytest.fixture(scope="module")
def blinking(tmp_path_factory):
    """``blinking(shift)``: a clip whose brightness follows its sound, which is ``shift`` frames late."""
    folder = tmp_path_factory.mktemp("blink")
    levels = np.random.default_rng(8).uniform(0, 1, 100)

    def make(shift):
        path = folder / f"{shift}.mkv"
        swell = np.repeat(10 ** (np.roll(levels, shift) * 2 - 2), 640)
        sound = np.random.default_rng(1).standard_normal(len(swell)) * swell * 0.3
        with av.open(str(path), "w") as out:
            video = out.add_stream("mpeg4", rate=25)
            video.width = video.height = 128
            video.pix_fmt, video.bit_rate = "yuv420p", 4_000_000
            voice = out.add_stream("pcm_s16le", rate=16_000)
            voice.layout = "mono"
            for level in levels:
                image = np.full((128, 128, 3), 40 + 170 * level, np.uint8)
                out.mux(video.encode(av.VideoFrame.from_ndarray(image)))
            out.mux(video.encode(None))
            data = (np.clip(sound, -1, 1) * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(data, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
            out.mux(voice.encode(frame))
            out.mux(voice.encode(None))
        return path

    return make


@pytest.mark.parametrize("row", [engines.WAV2LIP_EXPERT, engines.STABLE_SYNCNET])
@pytest.mark.parametrize("shift", [-15, -14, -7, -1, 0, 2, 9, 15])
def test_a_known_shift_is_found(blinking, row, shift):
    clip = blinking(shift)
    watched = watch(clip, detector=Given(points=POINTS[None]))
    judge = Brightness(torch.nn.Identity())
    judge.row = row
    found = judges.measure(
        judge, watched, watched.people.tracks[0], VoiceFile(clip), voice_at_start=Fraction(0)
    )
    curve = shift_curve(found.table, "none", counts=found.counts, every=row.every)
    assert curve.offset_frames == -shift, "SyncNet's sign: positive when the sound comes early"
    assert _certain(row, curve) > 0.8


@pytest.mark.parametrize("row", [engines.WAV2LIP_EXPERT, engines.STABLE_SYNCNET])
def test_chance_is_not_accepted(row):
    """Judges that know nothing, and those that like everything alike."""
    random = np.random.default_rng(2)
    accepted = 0
    for _ in range(60):
        table = np.clip(random.normal(0.45, 0.25, (75 // row.every, 31)), 0, 1)
        accepted += _certain(row, shift_curve(table, "none", every=row.every)) >= 0.8
    assert accepted <= 1
    alike = np.full((40, 31), 0.1)
    assert _certain(row, shift_curve(alike, "none", every=row.every)) < 0.5
