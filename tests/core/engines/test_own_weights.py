"""Networks of one's own in place of a release's: files that the trainer exported."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lipsync_core import engines
from lipsync_core.engines.latentsync import OWN, TINY
from lipsync_core.errors import EngineError, WeightsError
from lipsync_core.media.audio import MemoryVoice
from lipsync_core.types import Audio, FaceTrack, Settings
from lipsync_core.weights import files

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

COUNT = 4


def drawn(name: str) -> np.ndarray:
    """Four frames of a pattern, speaking a tone."""
    engine = engines.pick(name)
    tone = np.sin(np.arange(16000) / 20)[None].astype(np.float32) / 4
    track = FaceTrack(
        points=np.zeros((COUNT, 5, 2), np.float32),
        boxes=np.zeros((COUNT, 4), np.float32),
        present=np.ones(COUNT, bool),
        strength=np.ones(COUNT, np.float32),
        shots=np.zeros(COUNT, np.int32),
        detector="yunet",
    )
    session = engine.start(
        speech=engine.listen(
            MemoryVoice(Audio(samples=tone, rate=16000)), [Fraction(i, 25) for i in range(COUNT)]
        ),
        track=track,
        study=None,
        settings=Settings(preset="fast,steps=1", device="cpu"),
    )
    shade = np.linspace(40, 200, TINY.size, dtype=np.float32)
    crops = np.broadcast_to(shade[:, None, None], (COUNT, TINY.size, TINY.size, 3)).copy()
    made = session.render(crops.astype(np.uint8), list(range(COUNT)), list(range(COUNT))).crops
    engine.close()
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Copies of what comes along, by the names of one's own."""
    made = tmp_path / "mine"
    made.mkdir()
    for file, row in zip(OWN, (TINY.weights, TINY.vae, TINY.ears[0]), strict=True):
        path = files.find(row)
        assert path is not None
        (made / file).write_bytes(path.read_bytes())
    return made


def changed(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(path)
    state["conv_out.bias"] = state["conv_out.bias"] + 0.5
    save_file(state, path)


def test_a_folder_s_networks_draw_as_the_bundled_ones_if_they_are_the_same(folder: Path) -> None:
    plain = drawn("latentsync-tiny")
    assert np.array_equal(drawn(f"latentsync-tiny={folder}"), plain)
    changed(folder / "unet.safetensors")
    other = drawn(f"latentsync-tiny={folder}")
    assert np.abs(other - plain).max() > 2
    # one file is a UNet, whatever it is called; the rest is the release's
    mine = (folder / "unet.safetensors").rename(folder / "step-000100.safetensors")
    assert np.array_equal(drawn(f"latentsync-tiny={mine}"), other)


def test_the_engine_stays_as_long_as_its_files(folder: Path) -> None:
    first = engines.pick(f"latentsync-tiny={folder}")
    assert engines.pick(f"latentsync-tiny={folder}") is first
    assert first.name == "latentsync-tiny=mine"
    assert first.missing() is None
    changed(folder / "unet.safetensors")
    assert engines.pick(f"latentsync-tiny={folder}") is not first


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("latentsync-tiny={}/absent.safetensors", "no such file or folder"),
        ("latentsync-tiny={}", "holds none of unet.safetensors, vae.safetensors"),
        ("draft={}", "the draft engine has no weights"),
        ("nobody={}", "there is no engine 'nobody'"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(name: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        engines.pick(name.format(tmp_path))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_kind_is_named(folder: Path) -> None:
    with pytest.raises(WeightsError, match="TAESD"):
        drawn(f"latentsync-tiny={folder / 'vae.safetensors'}")
