"""The columns are those of Wav2Lip and LatentSync, whatever the size of the blocks."""

from pathlib import Path

import numpy as np
import pytest

from lipsync_core.audio.sync_mel import BANDS, mel, mel_columns

SHARED = Path(__file__).parents[4] / "shared"
GOLDEN = SHARED / "golden" / "wav2lip"


def sound(seconds):
    random = np.random.default_rng(4)
    return (random.standard_normal(int(seconds * 16_000)) * 0.1).astype(np.float32)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs shared/golden")
def test_the_reference_columns():
    from lipsync_core.media.audio import VoiceFile

    golden = np.load(GOLDEN / "mel_demo1.npz")
    voice = VoiceFile(SHARED / "media" / "speech_en_10s.wav")
    ours = np.concatenate(list(mel_columns(voice.blocks(16_000))))
    assert np.abs(ours - golden["mel_constant"].T).max() < 1e-6
    # Today's librosa pads with silence; the one of Wav2Lip's days differs at the ends only.
    assert np.abs(ours - golden["mel_reflect"].T)[2:-2].max() < 1e-6


@pytest.mark.parametrize("sizes", [[1, 3, 5000, 2], [200], [16000], [799, 801]])
def test_blocks_do_not_matter(sizes):
    whole = sound(8)
    blocks, start, turn = [], 0, 0
    while start < len(whole):
        blocks.append(whole[start : start + sizes[turn % len(sizes)]])
        start += len(blocks[-1])
        turn += 1
    columns = np.concatenate(list(mel_columns(blocks)))
    assert columns.shape == (len(whole) // 200 + 1, BANDS)
    assert np.abs(columns.T - mel(whole)).max() < 1e-6


def test_silence_and_nothing():
    assert (mel(np.zeros(1600, np.float32)) == -4).all()
    assert mel(np.zeros(0, np.float32)).shape == (BANDS, 0)
