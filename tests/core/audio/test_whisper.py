"""Whisper's features: the original's numbers, seams, ends, and reading as a stream."""

from __future__ import annotations

import json
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file  # noqa: E402

from lipsync_core.audio.whisper import (  # noqa: E402
    Features,
    build_encoder,
    encode,
    mel_blocks,
    steps_of,
)
from lipsync_core.audio.windows import window_steps  # noqa: E402
from lipsync_core.weights.tensors import whisper_encoder  # noqa: E402

MEDIA = Path(__file__).resolve().parents[4] / "shared" / "media"


class Sound:
    """A voice in memory that counts how often it is read."""

    def __init__(self, samples, block=7001):
        self.samples = np.asarray(samples, np.float32)
        self.block = block
        self.readings = 0

    @property
    def duration(self):
        return Fraction(len(self.samples), 16_000)

    def blocks(self, rate):
        assert rate == 16_000
        self.readings += 1
        for i in range(0, len(self.samples), self.block):
            yield self.samples[i : i + self.block]


def noise(seconds, seed=0):
    make = np.random.default_rng(seed)
    count = int(seconds * 16_000)
    swell = 0.05 + 0.05 * np.sin(np.arange(count) / 4000)
    return (make.standard_normal(count) * swell).astype(np.float32)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        d_model=64, encoder_layers=2, encoder_attention_heads=1, encoder_ffn_dim=128
    )
    whole = transformers.models.whisper.modeling_whisper.WhisperEncoder(config)
    return build_encoder(whole.state_dict())


def whole_file(samples):
    """The log-mel of the whole file at once, as openai/whisper writes it down."""
    from lipsync_core.audio.whisper import _filters

    spectrum = torch.stft(
        torch.from_numpy(samples), 400, 160, window=torch.hann_window(400), return_complex=True
    )
    power = spectrum[:, :-1].abs() ** 2
    mel = (torch.from_numpy(_filters().T).float() @ power).clamp(min=1e-10).log10()
    return (mel.clamp(min=mel.max() - 8.0) + 4.0) / 4.0


@pytest.mark.parametrize(
    "count", [400, 401, 1600, 16_079, 16_080, 479_999, 480_000, 480_160, 500_000]
)
@pytest.mark.parametrize("block", [997, 100_000])
def test_the_stream_equals_the_whole_file(count, block):
    samples = noise(count / 16_000 + 1)[:count]
    parts = list(mel_blocks(Sound(samples, block)))
    assert all(part.shape[1] == 3000 for part in parts[:-1])
    streamed = torch.from_numpy(np.concatenate(parts, 1))
    streamed = (streamed.clamp(min=streamed.max() - 8.0) + 4.0) / 4.0
    torch.testing.assert_close(streamed, whole_file(samples), atol=1e-5, rtol=0)


def test_length_table(golden):
    table = json.loads(golden("latentsync/audio_config.json").read_text())["length_table"]
    for fact in table:
        if "feature_len" in fact:
            assert steps_of(fact["samples"]) == fact["feature_len"]


@pytest.mark.parametrize("count", [1, 160, 320, 500])
def test_the_shortest_sounds_still_have_features(small, count):
    heard = Features(Sound(noise(1)[:count]), small)
    assert heard.step_count >= 1
    assert heard.rows(np.zeros((1, 10), int)).isfinite().all()


def test_seams_tails_and_going_back(small):
    """62 s: three blocks, no context across seams, the tail padded with 0.0 after normalising."""
    samples = noise(62)
    voice = Sound(samples)
    heard = Features(voice, small)
    assert heard.step_count == 3100
    mel = whole_file(samples)
    expected = []
    for start in range(0, mel.shape[1], 3000):
        part = torch.zeros(80, 3000)
        part[:, : mel[:, start : start + 3000].shape[1]] = mel[:, start : start + 3000]
        expected.append(encode(small, part))
    expected = torch.cat(expected)[:3100]
    across = np.arange(1490, 1510)
    torch.testing.assert_close(heard.rows(across), expected[across], atol=5e-5, rtol=1e-4)
    tail = np.arange(3090, 3100)
    torch.testing.assert_close(heard.rows(tail), expected[tail], atol=5e-5, rtol=1e-4)
    readings = voice.readings
    heard.rows(np.arange(10))
    assert voice.readings == readings, "three blocks are kept"
    assert len(heard._kept) <= 3


def test_blocks_that_were_dropped_are_read_again(small):
    voice = Sound(noise(125))
    heard = Features(voice, small)
    first = heard.rows(np.arange(5)).clone()
    heard.rows(np.arange(6200, 6210))
    heard.rows(np.arange(1500, 4600, 1500))
    assert torch.equal(heard.rows(np.arange(5)), first)
    assert len(heard._kept) <= 3


def test_states_are_those_before_the_final_norm(small):
    mel = torch.randn(80, 3000, generator=torch.Generator().manual_seed(0))
    states = encode(small, mel)
    assert states.shape == (1500, 3, 64)
    with torch.no_grad():
        last = small(mel[None]).last_hidden_state[0]
        torch.testing.assert_close(small.layer_norm(states[:, -1]), last)


def test_both_layouts_give_one_network(small):
    ours = small.state_dict()
    huggingface = {f"model.encoder.{name}": value for name, value in ours.items()}
    huggingface["model.decoder.embed_tokens.weight"] = torch.zeros(3, 3)
    openai = {}
    for name, value in ours.items():
        for new, old in (
            ("layers.", "blocks."),
            ("self_attn.q_proj", "attn.query"),
            ("self_attn.k_proj", "attn.key"),
            ("self_attn.v_proj", "attn.value"),
            ("self_attn.out_proj", "attn.out"),
            ("self_attn_layer_norm", "attn_ln"),
            ("fc1", "mlp.0"),
            ("fc2", "mlp.2"),
            ("final_layer_norm", "mlp_ln"),
            ("embed_positions.weight", "positional_embedding"),
        ):
            name = name.replace(new, old)
        if name.startswith("layer_norm"):
            name = name.replace("layer_norm", "ln_post")
        openai[f"encoder.{name}"] = value
    openai["decoder.token_embedding.weight"] = torch.zeros(3, 3)
    for tensors in (huggingface, openai):
        back = whisper_encoder(tensors)
        assert back.keys() == ours.keys()
        assert all(torch.equal(back[name], ours[name]) for name in ours)


def test_silence_is_appended_on_request(small):
    voice = Sound(noise(1))
    longer = Features(voice, small, sample_count=32_000)
    assert longer.step_count == 100
    assert longer.levels[55:].max() < longer.peak - 6
    assert Features(voice, small).step_count == 50


@pytest.mark.parametrize("fps", ["25", "24", "30", "29.97", "50", "60"])
def test_windows_are_the_original_s_at_every_rate(golden, fps):
    facts = json.loads(golden("latentsync/audio_config.json").read_text())["index_table"][fps]
    times = [i / Fraction(fps) for i in range(facts["num_chunks"])]
    steps = window_steps(times, facts["feature_len"])
    assert steps[:8].tolist() == facts["first8"]
    assert steps[-3:].tolist() == facts["last3"]


def test_windows_do_not_drift_in_hours():
    fps = Fraction(30_000, 1001)
    frame = 30 * 60 * 60 * 10  # ten hours
    centre = window_steps([frame / fps], 10**9)[0, 4]
    assert centre == frame * 1001 * 50 // 30_000
    with pytest.raises(ValueError, match="no audio features"):
        window_steps([Fraction(0)], 0)


def test_features_are_the_original_s(golden):
    weights = load_file(golden("latentsync/audio_whisper_tiny_encoder_fp16.safetensors"))
    expected = load_file(golden("latentsync/audio_demo1.safetensors"))
    path = MEDIA / "speech_en_10s.wav"
    if not path.is_file():
        pytest.skip("the sound is only in shared/media beside the checkout")
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16) / np.float32(32768)
    encoder = build_encoder({n: t.float() for n, t in whisper_encoder(weights).items()})
    heard = Features(Sound(samples), encoder)
    assert heard.step_count == 480
    mel = torch.from_numpy(np.concatenate(list(mel_blocks(Sound(samples))), 1))
    mel = (mel.clamp(min=heard.peak - 8) + 4) / 4
    torch.testing.assert_close(mel, expected["log_mel"], atol=1e-5, rtol=0)
    rows = heard.rows(np.arange(480))
    torch.testing.assert_close(rows, expected["features"], atol=5e-5, rtol=1e-4)
    tokens = heard.tokens(window_steps([Fraction(i, 25) for i in range(242)], 480))
    torch.testing.assert_close(tokens[:40], expected["chunks_first40"], atol=5e-5, rtol=1e-4)
    torch.testing.assert_close(tokens[-5:], expected["chunks_last5"], atol=5e-5, rtol=1e-4)
