"""SyncNet over a clip in a stream gives what one large batch gives, with weights from a file."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lipsync_core.audio.mfcc import mfcc, to_integers  # noqa: E402
from lipsync_core.errors import LipSyncError  # noqa: E402
from lipsync_core.media.audio import VoiceFile  # noqa: E402
from lipsync_core.media.reader import Reader  # noqa: E402
from lipsync_core.models.syncnet_v2 import SyncNetV2  # noqa: E402
from lipsync_core.scoring import engines, judges  # noqa: E402
from lipsync_core.scoring.crops import Crops  # noqa: E402
from lipsync_core.scoring.distance import MAX_SHIFT, pair_distances  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("models")
    (folder / "lipsync").mkdir()
    torch.save(SyncNetV2().state_dict(), folder / "lipsync" / "syncnet_v2.model")
    return folder


@pytest.mark.parametrize("protocol", ["original", "aligned"])
def test_stream_equals_batch(folder, tmp_path, monkeypatch, drawn_clip, drawn_watch, protocol):
    monkeypatch.setenv("LIPSYNC_MODELS", str(folder))
    row = replace(engines.SYNCNET_V2, batch=4)
    monkeypatch.setattr(judges._SyncNetV2, "row", row)
    clip = drawn_clip(tmp_path / "clip.mkv", seconds=0.6)
    watched = drawn_watch(clip)
    track, voice = watched.people.tracks[0], VoiceFile(clip)
    network = row.load()
    found = judges.measure(
        judges.judge_of("syncnet_v2", network), watched, track, voice,
        voice_at_start=Fraction(0), protocol=protocol,
    )  # fmt: skip
    count = 15 - 5
    assert found.counts == [count]
    assert found.frames.tolist() == list(range(count))
    # Medians run over the frames that are looked at, not over the last one.
    crops = Crops(track, np.arange(count + 4), protocol=protocol)
    frames = list(Reader(clip))[: count + 4]
    images = [crops.cut(frame, frame.index)[..., ::-1] for frame in frames]
    tensor = torch.from_numpy(np.stack(images).astype(np.float32))
    rows = mfcc(to_integers(np.concatenate(list(voice.blocks(16_000))))).astype(np.float32)
    windows = torch.stack([torch.from_numpy(rows[4 * i : 4 * i + 20].T) for i in range(count)])
    with torch.no_grad():
        lips = network.look(tensor.permute(3, 0, 1, 2)[None]).numpy()
        sound = network.hear(windows[:, None]).numpy()
    padded = np.pad(sound, ((MAX_SHIFT, MAX_SHIFT), (0, 0)))
    expected = pair_distances(lips, padded, count=count)
    assert np.abs(found.table / expected - 1).max() < 1e-5


def test_a_cut_begins_a_new_stretch(folder, tmp_path, monkeypatch, drawn_clip, drawn_watch):
    monkeypatch.setenv("LIPSYNC_MODELS", str(folder))
    clip = drawn_clip(tmp_path / "clip.mkv", seconds=0.8)
    watched = drawn_watch(clip)
    track = watched.people.tracks[0]
    shots = np.repeat([0, 1], [8, 12]).astype(np.int32)
    present = np.ones(20, bool)
    present[-2:] = False
    track = replace(track, shots=shots, present=present)
    judge = judges.judge_of("syncnet_v2", engines.SYNCNET_V2.load())
    found = judges.measure(judge, watched, track, VoiceFile(clip), voice_at_start=Fraction(0))
    assert found.counts == [3, 5]
    assert found.frames.tolist() == [*range(3), *range(8, 13)]


def test_foreign_weights_are_named(tmp_path, monkeypatch):
    (tmp_path / "lipsync").mkdir()
    state = {"fc.weight": torch.zeros(3)}
    torch.save(state, tmp_path / "lipsync" / "syncnet_v2.model")
    monkeypatch.setenv("LIPSYNC_MODELS", str(tmp_path))
    with pytest.raises(LipSyncError, match=r"syncnet_v2\.model is not SyncNet v2"):
        engines.SYNCNET_V2.load()


def test_absent_weights_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("LIPSYNC_MODELS", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(LipSyncError, match="lipsync models download syncnet-v2"):
        engines.SYNCNET_V2.load()
