"""A frame hears the same in training and in inference.

Training cuts windows out of what was stored of a whole clip; inference cuts them out of a stream.
Given the same sound both must give a frame the same rows, at the ends, across the 30 s seams of
Whisper, and at frame rates that training never sees.
"""

from __future__ import annotations

import json
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from lipsync_core.audio.whisper import build_encoder  # noqa: E402
from lipsync_core.audio.windows import window_steps  # noqa: E402
from lipsync_core.engines.latentsync import RELEASES, LatentSync  # noqa: E402
from lipsync_core.preprocess import features  # noqa: E402
from lipsync_core.preprocess.step import Clip as Prepared  # noqa: E402
from lipsync_core.scoring import judges  # noqa: E402
from trainer.clips import Clips, Entry  # noqa: E402
from trainer.data import columns, mel_start, mel_window, tokens  # noqa: E402
from trainer.store import Part  # noqa: E402

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "musetalk"
RATES = [
    Fraction(24000, 1001),
    Fraction(24),
    Fraction(25),
    Fraction(30000, 1001),
    Fraction(30),
    Fraction(50),
    Fraction(60),
]
LENGTHS = [12, 59, 749, 750, 751, 1525]
"""Frames at 25 a second: 0.48 s, 2.36 s, around the seam at 30 s, 61 s."""
CUT = 37
"""Frame of the recording at which clips begin; with another part of a second than the sync
spectrogram's columns."""


@lru_cache(maxsize=1)
def ears():
    """Whisper's encoder with one layer, 64 wide, and random weights."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = transformers.WhisperConfig(
        d_model=64, encoder_layers=1, encoder_attention_heads=1, encoder_ffn_dim=64
    )
    encoder = transformers.models.whisper.modeling_whisper.WhisperEncoder(config)
    return build_encoder(encoder.state_dict())


@lru_cache(maxsize=1)
def recording() -> np.ndarray:
    """``(S,)`` a minute and a half with loud and quiet parts."""
    make = np.random.default_rng(1)
    count = 95 * 16_000
    swell = 0.02 + 0.05 * (1 + np.sin(np.arange(count) / 5000))
    return (make.standard_normal(count) * swell).astype(np.float32)


class Stream:
    """A voice that comes in blocks, as from a file."""

    def __init__(self, samples):
        self.samples = samples

    @property
    def duration(self):
        return Fraction(len(self.samples), 16_000)

    def blocks(self, rate):
        assert rate == 16_000
        for begin in range(0, len(self.samples), 7001):
            yield self.samples[begin : begin + 7001]


@lru_cache(maxsize=16)
def prepared(frame_count: int, begin: int = CUT, shift: int = 0) -> Prepared:
    """The stretch of the recording as the preprocessor holds a clip of it."""
    margin = 640
    first = begin * 640 - margin
    return Prepared(
        key="clip", parent="", source=None, first=begin,
        crops=np.zeros((frame_count, 2, 2, 3), np.uint8),
        sound=recording()[first : first + frame_count * 640 + 2 * margin],
        margin=margin, shift=shift,
        points=np.zeros((frame_count, 5, 2)), boxes=np.zeros((frame_count, 4)),
        matrices=np.zeros((frame_count, 2, 3)), times=np.arange(frame_count) / 25,
        facts=None, found={},
    )  # fmt: skip


@lru_cache(maxsize=16)
def stored(frame_count: int, begin: int = CUT, shift: int = 0):
    return features.tensors(prepared(frame_count, begin, shift), ears(), "cpu")


@pytest.fixture
def loaded(tmp_path):
    """The clip as the trainer sees it, through the file."""

    def load(frame_count, begin=CUT, shift=0):
        path = tmp_path / "clip.safetensors"
        features.write(path, stored(frame_count, begin, shift), {})
        part = Part(str(path))
        entry = Entry(key="clip", source="", frame_count=frame_count, picture=part, features=part)
        return Clips(entries=[entry])[0]

    return load


@lru_cache(maxsize=32)
def heard(frame_count: int, rate: Fraction, begin: int = CUT, shift: int = 0):
    """Times and tokens of all frames as the engine hears the clip's sound at this rate."""
    engine = LatentSync(RELEASES[-1])
    engine._ears = ears()
    count = frame_count * rate // 25
    times = [i / rate for i in range(count)]
    speech = engine.listen(Stream(prepared(frame_count, begin, shift).heard()), times)
    return times, speech.tokens(range(count)).half().float().numpy()


@pytest.mark.parametrize("frame_count", LENGTHS)
@pytest.mark.parametrize("shift", [0, -123])
def test_every_frame_of_a_clip_hears_what_the_engine_hears(loaded, frame_count, shift):
    clip = loaded(frame_count, shift=shift)
    _, streamed = heard(frame_count, Fraction(25), shift=shift)
    cut = tokens(clip, np.arange(frame_count))
    assert cut.shape == (frame_count, 10 * 2, 64)
    np.testing.assert_array_equal(cut, streamed)
    # A window does not depend on what else is asked for.
    for first in {0, 3, frame_count // 2, frame_count - 5}:
        frames = np.arange(first, first + 5)
        np.testing.assert_array_equal(tokens(clip, frames), streamed[frames])


@pytest.mark.parametrize("rate", RATES, ids=lambda rate: f"{float(rate):.3f}")
@pytest.mark.parametrize("frame_count", LENGTHS)
def test_other_rates_hear_by_the_moment(loaded, frame_count, rate):
    """A frame shown at ``t`` hears the window of the training frame in whose first 20 ms ``t`` is;
    in its second 20 ms one step more. At no length does it drift away."""
    clip = loaded(frame_count)
    times, streamed = heard(frame_count, rate)
    cut = tokens(clip, np.arange(frame_count))
    exact = window_steps([Fraction(int(t * 50), 50) for t in times], 2 * frame_count)
    compared = 0
    for i, time in enumerate(times):
        frame, late = divmod(int(time * 50), 2)
        if not late:
            np.testing.assert_array_equal(streamed[i], cut[frame], err_msg=f"{time} s")
            compared += 1
        steps = np.clip(2 * frame + late + np.arange(-4, 6), 0, 2 * frame_count - 1)
        np.testing.assert_array_equal(exact[i], steps)
    assert compared >= len(times) * 2 // 5


def test_the_ends_repeat_the_first_and_the_last_step(loaded):
    clip = loaded(59)
    rows = clip.stored("whisper").astype(np.float32)
    assert len(rows) == 118
    first, last = tokens(clip, np.array([0, 58])).reshape(2, 10, 2, 64)
    np.testing.assert_array_equal(first, rows[[0, 0, 0, 0, 0, 1, 2, 3, 4, 5]])
    np.testing.assert_array_equal(last, rows[[112, 113, 114, 115, 116, 117, 117, 117, 117, 117]])


def test_nothing_is_seen_across_a_seam_and_no_step_is_lost_there(loaded):
    """Blocks of 30 s are encoded alone, also where a clip is longer than one."""
    clip = loaded(751)
    rows = clip.stored("whisper")
    assert len(rows) == 1502
    alone = stored(750)["whisper"]
    loud = np.abs(prepared(750).heard()).max() == np.abs(prepared(751).heard()).max()
    assert loud, "the test needs the loudest moment in the first 30 s"
    window = tokens(clip, np.array([750])).reshape(10, 2, 64)
    np.testing.assert_array_equal(window[:4], rows[1496:1500].astype(np.float32))
    np.testing.assert_array_equal(window[4:6], rows[1500:].astype(np.float32))
    assert not np.array_equal(window[4], alone[-1].astype(np.float32))


@pytest.mark.parametrize("begin", [0, 5, 37, 640])
def test_a_cut_of_a_recording_asks_for_the_recordings_own_steps(begin):
    """Row ``j`` of a clip that begins at frame ``c`` is step ``2c + j`` of the recording, for all
    frames two away from the beginning and three from the end. Only the numbers are equal: the encoder
    heard other sound around them, and at the ends the clip repeats a row where the recording goes on."""
    count, whole = 125, 2000
    own = window_steps([Fraction(f, 25) for f in range(count)], 2 * count) + 2 * begin
    there = window_steps([Fraction(begin + f, 25) for f in range(count)], 2 * whole)
    np.testing.assert_array_equal(own[2 : count - 2], there[2 : count - 2])
    different = np.flatnonzero((own != there).any(1))
    assert set(different) <= {0, 1, count - 2, count - 1}
    assert (count - 1) in different


@pytest.mark.parametrize("frame_count", LENGTHS)
@pytest.mark.parametrize("width", [16, 25])
def test_the_sync_spectrogram_is_the_judges(loaded, frame_count, width):
    """Columns of every window as scoring cuts them out of a stream of the same sound."""
    if frame_count < width:
        pytest.skip("the clip is shorter than the window")
    clip = loaded(frame_count)
    judge = judges._StableSyncNet(torch.nn.Linear(1, 1))
    judge.columns = columns(width)
    assert judge.columns == {16: 52, 25: 80}[width]
    blocks = Stream(prepared(frame_count).heard()).blocks(16_000)
    starts = np.unique([*np.arange(0, frame_count - width + 1, 11), frame_count - width])
    windows = judge.spectra(judge.listen(blocks), starts).numpy()
    for start, there in zip(starts, windows, strict=True):
        cut = mel_window(clip, int(start), columns(width))
        np.testing.assert_allclose(cut, there, atol=1e-6)


def test_sync_columns_of_a_cut_and_of_the_recording():
    """Every fifth frame lies on a column: a clip cut there has the recording's own columns, but for
    the two at either end whose windows reach out of it. Elsewhere the grid is less than a column off.
    """
    whole = features.mel(recording())
    for begin in (5, 40):
        cut = features.mel(prepared(125, begin).heard())
        there = whole[:, mel_start(begin) : mel_start(begin) + cut.shape[1]]
        np.testing.assert_allclose(cut[:, 2:-3], there[:, 2:-3], atol=1e-5)
    for begin in range(40):
        for frame in range(40):
            own = Fraction(begin, 25) + Fraction(mel_start(frame), 80)
            assert abs(own - Fraction(mel_start(begin + frame), 80)) < Fraction(1, 80)


@pytest.mark.skipif(not GOLDEN.exists(), reason="the large reference numbers are not here")
def test_the_originals_windows():
    """MuseTalk's training windows (zeros at the ends, where ours repeat) and its sync columns."""
    golden = np.load(GOLDEN / "train_audio_window_indices.npz")
    for index, offset in zip(golden["index"], golden["audio_offset"], strict=True):
        steps = window_steps([Fraction(int(offset) + f, 25) for f in range(16)], 1500)
        np.testing.assert_array_equal(np.where(index < 0, steps, index), steps)
        assert (steps[index < 0] == 0).all()
    helpers = json.loads((GOLDEN / "dataset_helpers.json").read_text())
    assert helpers["syncnet_mel_step_size"] == columns(16)
    for frame, start, length in helpers["mel_windows_frame_start_len"]:
        assert mel_start(frame) == start
        # Of a spectrogram of 2000 columns the original takes less at the end, and drops the sample.
        assert length == min(columns(16), 2000 - start)
