"""What the draft engine hears: shapes in range, silence closed, closures seen at any frame rate."""

import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lipsync_core.audio.mel import RATE
from lipsync_core.engines.draft import speech
from lipsync_core.engines.draft.speech import FV, JAW, OPEN, PRESS, VOICE, closures, hear
from lipsync_core.errors import WeightsError

SENTENCE = Path(speech.__file__).parents[2] / "demo" / "sentence.flac"


class Memory:
    def __init__(self, samples, block=RATE):
        self.samples, self.block = np.asarray(samples, np.float32), block
        self.duration = Fraction(len(self.samples), RATE)

    def blocks(self, rate):
        assert rate == RATE
        for i in range(0, len(self.samples), self.block):
            yield self.samples[i : i + self.block]


@pytest.fixture(scope="module")
def sentence():
    """The bundled sentence at 16 kHz."""
    av = pytest.importorskip("av")
    resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
    with av.open(str(SENTENCE)) as container:
        frames = [f for d in container.decode(audio=0) for f in resampler.resample(d)]
        frames += resampler.resample(None)
    return np.concatenate([f.to_ndarray()[0] for f in frames])


def frames(samples, fps=25):
    return [Fraction(i) / fps for i in range(int(len(samples) / RATE * fps))]


def test_shape_range_and_life(sentence):
    out = hear(Memory(sentence), frames(sentence))
    assert out.shape == (len(frames(sentence)), 6)
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    assert out.min() >= 0
    assert out[:, OPEN].max() <= 1.1
    assert out[:, 1:].max() <= 1
    assert out[:, OPEN].max() > 0.4, "the mouth hardly opens"


def test_blocks_and_repetition_change_nothing(sentence):
    first = hear(Memory(sentence), frames(sentence))
    for block in (997, 16_000, 10**7):
        assert np.array_equal(first, hear(Memory(sentence, block), frames(sentence)))


def test_array_and_fractions_agree(sentence):
    times = frames(sentence, Fraction(24000, 1001))
    as_array = np.array([float(t) for t in times])
    assert np.array_equal(hear(Memory(sentence), times), hear(Memory(sentence), as_array))


def test_level_does_not_matter(sentence):
    loud = hear(Memory(sentence), frames(sentence))
    soft = hear(Memory(sentence * 0.1), frames(sentence))
    # A hundredth of a second, where it fades and where a closure lies between two frames.
    assert (np.abs(loud - soft).max(1) > 0.25).mean() < 0.02
    assert np.abs(loud - soft)[:, OPEN].max() < 0.25
    assert np.abs(loud - soft).mean() < 0.005


def test_pause_is_exactly_closed(sentence):
    quiet = np.zeros(2 * RATE, np.float32)
    whole = np.concatenate([quiet, sentence, quiet])
    out = hear(Memory(whole), frames(whole))
    assert (out[: int(1.4 * 25)] == 0).all()
    assert (out[-int(1.4 * 25) :] == 0).all()


@pytest.mark.parametrize("kind", ["silence", "faint", "white", "hum"])
def test_what_is_not_speech_leaves_the_mouth_closed(kind):
    rng = np.random.default_rng(1)
    clock = np.arange(5 * RATE) / RATE
    sound = {
        "silence": np.zeros(len(clock)),
        "faint": 10 ** (-60 / 20) * rng.standard_normal(len(clock)),
        "white": 0.1 * rng.standard_normal(len(clock)),
        "hum": 0.3 * np.sin(2 * np.pi * 50 * clock) + 1e-3 * rng.standard_normal(len(clock)),
    }[kind]
    out = hear(Memory(sound), frames(sound))
    if kind in ("silence", "faint"):
        assert (out == 0).all()
    assert out[:, OPEN].mean() < 0.02
    assert out[:, OPEN].max() < 0.2


def test_outside_the_voice_is_closed(sentence):
    end = len(sentence) / RATE
    out = hear(Memory(sentence), np.array([-1.0, -0.1, end + 0.1, end + 5]))
    assert (out == 0).all()


@pytest.mark.parametrize("count", [0, 1, 159, 800, 3000])
def test_very_short_voices(count):
    out = hear(Memory(0.1 * np.random.default_rng(0).standard_normal(count)), frames(range(RATE)))
    assert out.shape == (25, 6)
    assert np.isfinite(out).all()


def test_no_times(sentence):
    assert hear(Memory(sentence), []).shape == (0, 6)


@pytest.mark.parametrize("fps", [12, 15, Fraction(24000, 1001), 25, 30, 50, 60])
@pytest.mark.parametrize("phase", [0.0, 0.013, 0.029])
def test_a_closure_is_seen_at_any_frame_rate(fps, phase):
    raw = np.zeros((300, speech.OUTPUTS), np.float32)
    raw[:, [OPEN, JAW, VOICE]] = 0.7
    row = np.arange(300)
    raw[:, PRESS] = np.exp(-0.5 * ((row - 150 - 100 * phase) / 1.5) ** 2)
    moments = np.arange(int(3 * fps)) / float(fps)
    out = speech.draw(raw, moments)
    closed = out[:, OPEN] < 0.01
    assert closed.sum() >= (2 if float(fps) >= 25 else 1)
    near = np.abs(moments - 1.5 - phase)
    assert near[closed].max() < max(0.07, 1 / float(fps))
    assert (out[(near > 0.2) & (moments > 0.3) & (moments < 2.7), OPEN] > 0.5).all()


def test_a_closure_is_seen_between_uneven_frames():
    raw = np.zeros((300, speech.OUTPUTS), np.float32)
    raw[:, [OPEN, JAW, VOICE]] = 0.7
    raw[150, PRESS] = raw[149, PRESS] = raw[151, PRESS] = 1
    moments = np.array([0.5, 0.54, 0.9, 1.44, 1.6, 1.61, 2.2])
    out = speech.draw(raw, moments)
    assert out[3, OPEN] < 0.01
    assert out[1, OPEN] > 0.5
    assert out[6, OPEN] > 0.5


def test_two_peaks_of_one_closure_are_one():
    press = np.zeros(200, np.float32)
    press[100:104] = [0.9, 0.8, 0.95, 0.9]
    assert len(closures(press)[0]) == 1
    press[140:143] = 0.9
    moments, firm = closures(press)
    assert moments == pytest.approx([1.02, 1.41], abs=0.015)
    assert (firm == 1).all()


def test_lips_come_half_way_where_a_closure_is_in_doubt():
    raw = np.zeros((400, speech.OUTPUTS), np.float32)
    raw[:, [OPEN, JAW, VOICE]] = 0.7
    doubt = (speech.MAYBE + speech.DOUBT + speech.CLOSURE) / 2
    for middle, press in ((100, 0.55), (200, doubt), (300, 1.0)):
        raw[middle - 1 : middle + 2, PRESS] = press
    _, firm = closures(raw[:, PRESS])
    assert firm == pytest.approx([0.5, 1.0])
    none, half, whole = speech.draw(raw, np.array([1.0, 2.0, 3.0]))[:, OPEN]
    assert whole < 0.01
    assert 0.3 * none < half < 0.8 * none


def test_the_sentence_closes_on_its_lips(sentence):
    out = hear(Memory(sentence), frames(sentence))
    assert (out[:, PRESS] > 0.9).sum() >= 6, "photograph, my, mouth, moves, maybe, me"


def test_a_soft_stretch_still_speaks(sentence):
    whole = np.concatenate([sentence] * 6 + [0.2 * sentence] * 6)
    moments = np.arange(0, len(whole) / RATE, 0.04)
    out = hear(Memory(whole), moments)[:, OPEN]
    loud, soft = out[moments < len(whole) / RATE / 2], out[moments >= len(whole) / RATE / 2]
    assert soft.mean() > 0.6 * loud.mean()


def test_memory_is_small(sentence):
    whole = np.resize(sentence, 240 * RATE)
    moments = np.arange(0, 240, 0.04)
    hear(Memory(whole[:RATE]), moments[:25])
    tracemalloc.start()
    hear(Memory(whole), moments)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60e6, f"{peak / 1e6:.0f} MB for four minutes"


def test_missing_and_damaged_weights(tmp_path):
    with pytest.raises(WeightsError, match="reinstall"):
        speech.Network(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not weights")
    with pytest.raises(WeightsError, match="damaged"):
        speech.Network(tmp_path / "bad.safetensors")


def test_weights_are_small():
    assert speech.WEIGHTS.stat().st_size < 1_000_000


def test_numpy_agrees_with_the_network_that_is_trained():
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    from lipsync_core.models.mouth import Mouth

    tensors = load_file(speech.WEIGHTS)
    model = Mouth(dilations=tuple(tensors.pop("dilations").tolist())).eval()
    model.load_state_dict({k: v.float() for k, v in tensors.items()})
    x = np.random.default_rng(0).standard_normal((200, 41)).astype("f4")
    with torch.no_grad():
        logits, _ = model(torch.from_numpy(x).T[None])
    wanted = torch.sigmoid(logits)[0].T.numpy()
    assert np.abs(speech.network()(x) - wanted).max() < 1e-4


def test_noise_over_a_pause_is_not_heard_as_loudness(sentence):
    noise = 0.02 * np.random.default_rng(0).standard_normal(3 * RATE)
    whole = np.concatenate([np.zeros(3 * RATE), sentence, np.zeros(3 * RATE)])
    whole = whole + np.resize(noise, len(whole))
    out = hear(Memory(whole), frames(whole))
    assert out[: (2 * 25), OPEN].max() < 0.05
    assert out[:, OPEN].max() > 0.4


def test_gusts_hardly_move_the_mouth():
    clock = np.arange(8 * RATE) / RATE
    noise = np.random.default_rng(2).standard_normal(len(clock))
    out = hear(Memory(0.02 * noise * (1 + np.sin(2 * np.pi * 1.3 * clock)) ** 2), frames(clock))
    assert out[:, OPEN].mean() < 0.05


def test_a_lowered_voice_has_its_colours_further_down_and_its_loudness():
    x = np.zeros((3, 41), np.float32)
    x[:, 28] = 1.0
    x[:, 40] = 0.7
    low = speech.lowered(x, 1.12)
    assert (low[:, :40].argmax(1) == 25).all()
    assert (low[:, 40] == x[:, 40]).all()
    assert np.array_equal(speech.lowered(x, 1.0), x)


def test_lips_meet_a_little_before_the_closure_is_heard():
    raw = np.zeros((200, 7), np.float32)
    raw[20:180, OPEN] = raw[20:180, VOICE] = 0.5
    raw[97:104, PRESS] = [0.1, 0.4, 0.8, 1.0, 0.8, 0.4, 0.1]
    moments = np.arange(0.9, 1.1, 0.0025)
    closed = speech.draw(raw, moments)[:, PRESS]
    assert moments[closed > 0.99].mean() == pytest.approx(1.0 - speech.CLOSED_EARLY, abs=0.003)


def test_a_long_closure_is_met_in_its_middle_wherever_it_is_highest():
    press = np.zeros(200, np.float32)
    press[97:104] = [0.95, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
    assert closures(press)[0] == pytest.approx([1.0], abs=0.005)
    press[:] = 0
    press[0:3] = 0.9  # at the very edge of the voice
    assert closures(press)[0] == pytest.approx([0.01], abs=0.005)


def test_teeth_on_the_lip_narrow_the_mouth():
    raw = np.zeros((200, speech.OUTPUTS), np.float32)
    raw[:, [OPEN, JAW, VOICE]] = 0.5
    moments = np.array([0.96, 1.0])
    plain = speech.draw(raw, moments)[1]
    raw[95:106, FV] = 1.0
    with_teeth = speech.draw(raw, moments)[1]
    assert with_teeth[OPEN] < 0.5 * plain[OPEN]
    assert with_teeth[FV] > 0.9


def test_a_long_voice_can_be_left_while_it_is_understood():
    """A voice that carries a ``heed`` is asked again after its last sample was read."""

    class Long:
        duration = Fraction(70)
        read = asked = 0

        def blocks(self, rate):
            for second in range(70):
                self.read = second
                yield np.sin(np.arange(rate) * 0.1).astype(np.float32) * 0.3

        def heed(self):
            assert self.read == 69
            self.asked += 1
            if self.asked == 3:
                raise KeyboardInterrupt

    voice = Long()
    with pytest.raises(KeyboardInterrupt):
        speech.hear(voice, [Fraction(index) for index in range(70)])
    assert voice.asked == 3
