"""The mouth task: labels that stay with their sounds, targets that close on p, b and m."""

import numpy as np
import pytest

pytest.importorskip("scipy")

from trainer.tasks.mouth.augment import Corpus, example, front, voice_level
from trainer.tasks.mouth.evaluate import percentile_ranks, visible_ranks
from trainer.tasks.mouth.labels import TABLES, labelled_segments
from trainer.tasks.mouth.phones import (
    CODES,
    READY,
    RELEASE,
    SILENCE,
    SYMBOLS,
    VISEMES,
    Segments,
    symbols_of,
    targets,
    with_breath,
)


def spoken(*sounds):
    """Segments from ``(symbol, seconds)``."""
    return Segments(
        ends=np.cumsum([s for _, s in sounds]), codes=np.array([CODES[c] for c, _ in sounds])
    )


def store(path, symbols, codes, ends):
    rows = np.random.default_rng(0).uniform(-60, 0, (int(ends[-1] * 100), 40))
    np.savez(
        path,
        symbols=np.array(symbols),
        rows=rows.astype(np.float16),
        row_counts=np.array([len(rows)]),
        ends=np.array(ends, np.float32),
        codes=np.array(codes, np.uint8),
        segment_counts=np.array([len(codes)]),
    )


def test_stored_sounds_keep_their_names_when_the_table_changes(tmp_path):
    order = SYMBOLS[::-1]
    wanted = ["_", "b", "a", "m", "r", "_"]
    store(tmp_path / "x.npz", order, [order.index(s) for s in wanted], [1, 2, 3, 4, 5, 6])
    _, parts = Corpus.read(tmp_path / "x.npz").item(0)
    assert [SYMBOLS[c] for c in parts.codes] == wanted


def test_unknown_stored_sounds_are_refused(tmp_path):
    store(tmp_path / "x.npz", ["_", "no sound"], [0, 1], [1, 2])
    with pytest.raises(SystemExit, match="make it anew"):
        Corpus.read(tmp_path / "x.npz")


def test_lips_meet_on_bilabials_and_nowhere_else():
    shapes = targets(spoken(("a", 0.2), ("b", 0.06), ("a", 0.2), ("t", 0.06), ("a", 0.2)), 70)
    assert shapes[23, 4] > 0.9
    assert shapes[23, 0] < 0.05
    assert shapes[49, 4] < 0.01
    assert shapes[10, 0] > 0.7


def test_long_silence_is_closed_and_speech_is_prepared():
    parts = with_breath(spoken(("_", 1.0), ("a", 0.3), ("_", 1.0)))
    assert CODES[READY] in parts.codes
    shapes = targets(parts, 230)
    assert (shapes[:70] < 0.01).all()
    assert (shapes[-60:] < 0.01).all()
    assert 0.1 < shapes[90, 0] < 0.4


def test_short_pauses_and_closures_after_pauses_stay():
    short = spoken(("a", 0.3), ("_", 0.2), ("a", 0.3))
    assert with_breath(short).codes.tolist() == short.codes.tolist()
    assert CODES[READY] not in with_breath(spoken(("_", 1.0), ("m", 0.1), ("a", 0.2))).codes


@pytest.mark.parametrize(
    ("ipa", "wanted"),
    [("ɑː", "ɑ"), ("aɪ", "aɪ"), ("ss", "s"), ("tʃ", "tʃ"), ("ˈb", "b"), ("(en)", ""), ("_:", "")],
)
def test_reading_ipa(ipa, wanted):
    assert symbols_of(ipa) == list(wanted)
    assert SILENCE not in symbols_of(ipa)


def test_an_example_is_whole_and_repeatable(tmp_path):
    store(tmp_path / "x.npz", SYMBOLS, [CODES[c] for c in "_bama_"], [1, 1.1, 2, 2.2, 4, 6])
    corpus = Corpus.read(tmp_path / "x.npz")
    first, again = (example(corpus, 0, np.random.default_rng(3)) for _ in range(2))
    x, shapes, classes = first
    assert x.shape == (400, 41)
    assert shapes.shape == (400, 7)
    assert classes.shape == (400,)
    assert np.isfinite(x).all()
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_the_closure_of_a_recorded_stop_ends_at_its_burst():
    rate = 16_000
    sound = 0.1 * np.random.default_rng(0).standard_normal(rate).astype("f4")
    sound[: int(0.2 * rate)] = 0  # a pause
    sound[int(0.5 * rate) : int(0.57 * rate)] *= 0.002  # lips meet; the burst is at .57
    phones = [(0.2, "pau"), (0.3, "m"), (0.5, "aa"), (0.62, "p"), (1.0, "ay")]
    parts = labelled_segments(sound, rate, phones, "english")
    assert parts is not None
    names = [SYMBOLS[code] for code in parts.codes]
    assert names == ["_", "m", "ɑ", "p", RELEASE, "a", "ɪ"]
    ends = dict(zip(names, parts.ends, strict=True))
    assert ends["p"] == pytest.approx(0.57, abs=0.008)
    assert ends[RELEASE] == pytest.approx(0.62)
    assert ends["_"] == pytest.approx(0.17, abs=0.011), "lips meet before m is heard"
    assert labelled_segments(sound, rate, [(1.0, "nonsense")], "english") is None


def test_every_table_of_phones_has_lips_and_a_pause():
    for language, table in TABLES.items():
        assert {"p", "b", "m"} <= set(table), language
        assert [CODES[SILENCE]] in table.values(), language


def test_sounds_taken_for_each_other_have_classes_of_their_own():
    classes = [VISEMES[CODES[symbol]] for symbol in "pbmnldvf"]
    assert len(set(classes)) == len(classes)
    assert VISEMES[CODES[SILENCE]] == 0


def test_the_level_of_the_voice_is_zero_where_nobody_speaks():
    parts = spoken(("_", 1.0), ("a", 1.0), ("_", 1.0))
    rows = np.full((300, 40), -70.0, np.float32)
    rows[100:200] = -30.0
    level = voice_level(rows, parts)
    assert (level[:90] == 0).all()
    assert (level[-90:] == 0).all()
    assert level[150] > 0.95


def test_u_is_said_further_to_the_front_and_other_sounds_stay():
    parts = spoken(("a", 0.3), ("u", 0.3), ("i", 0.3))
    rows = np.full((90, 40), -40.0, np.float32)
    rows[:, 4] = -10.0
    rows[30:60, 11] = -15.0  # the second formant of a u at the back
    fronted = [front(rows, parts, np.random.default_rng(seed)) for seed in range(20)]
    peaks = [8 + int(out[45, 8:30].argmax()) for out in fronted]
    assert min(peaks) >= 13
    assert max(peaks) <= 23
    assert len(set(peaks)) > 3
    for out in fronted:
        assert np.array_equal(out[:27], rows[:27])
        assert np.array_equal(out[63:], rows[63:])
        assert abs(out[45, 4] - rows[45, 4]) < 1, "the first formant stays"


def test_a_closure_made_up_on_n_costs_more_than_one_made_up_on_a():
    torch = pytest.importorskip("torch")
    train = pytest.importorskip("trainer.tasks.mouth.train")
    weights = train.contact_rows(torch.tensor([[VISEMES[CODES[s]] for s in "nalm"]]), 2.0)
    assert weights.tolist() == [[[2.0, 1.0, 2.0, 1.0]]]


def test_shut_lips_count_as_equal_however_they_are_measured():
    lips = np.array([0.001, 0.005, 0.003, 0.010, 0.2, 0.1])
    assert visible_ranks(lips) == pytest.approx([0, 0, 0, 0, 5 / 6, 4 / 6])
    assert percentile_ranks(lips)[3] > 0.5, "the plain rank orders what nobody sees"


def test_sentences_of_rivals_are_said_with_pauses():
    pytest.importorskip("faker")
    from trainer.tasks.mouth import synth

    rng, texts = np.random.default_rng(1), synth.Texts(1, 1.0)
    said = [texts.english(rng) for _ in range(60)]
    words = {w for line in said for w in line.rstrip(".").replace(",", "").split()}
    assert words <= set(synth._RIVALS)
    assert 20 < sum(line.count(",") for line in said) < 120
    assert all(line[-2] not in ",." for line in said)
    assert texts.english(np.random.default_rng(5)) == texts.english(np.random.default_rng(5))


def test_a_script_for_pico_says_one_sentence_a_line(tmp_path):
    pytest.importorskip("faker")
    from trainer.tasks.mouth import pico

    pico.script(tmp_path, language="en-GB", sentences=9, rivals=0.5, seed=3)
    commands = (tmp_path / "batch.sh").read_text().splitlines()
    words = [line.split("\t") for line in (tmp_path / "words.txt").read_text().splitlines()]
    assert len(commands) == len(words) == 9
    for command, (name, text) in zip(commands, words, strict=True):
        assert command.startswith(f"pico2wave -l en-GB -w {name} ")
        assert f">{text}<" in command
        assert not set(text) & set('"$`\\0123456789')


def test_a_widened_network_hears_what_the_small_one_heard():
    torch = pytest.importorskip("torch")
    from lipsync_core.models.mouth import Mouth
    from trainer.tasks.mouth.widen import widen

    torch.manual_seed(0)
    small = Mouth(width=24, dilations=(1, 2), closure_width=12).train(False)
    tensors = small.state_dict() | {"dilations": torch.tensor([1, 2])}
    large = Mouth(width=32, dilations=(1, 4, 2), closure_width=16).train(False)
    x = torch.randn(1, 41, 120)
    with torch.no_grad():
        wanted = small(x)[0]
        before = (large(x)[0] - wanted).abs().mean()
        large.load_state_dict(widen(tensors, large, [1, 4, 2]))
        after = (large(x)[0] - wanted).abs().mean()
    assert after < 0.35 * before
    with pytest.raises(SystemExit, match="dilations"):
        widen(tensors, large, [2, 1, 4])
