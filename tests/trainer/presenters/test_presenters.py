"""Presenters: the same for the same seed, mouths that do what their numbers say, sound that fits."""

import subprocess
import sys
from itertools import islice

import numpy as np
import pytest

pytest.importorskip("scipy")

from lipsync_core.faces import align
from trainer.presenters import measure, people, stream, visemes, voices
from trainer.presenters.render import OPENING, mouth_of, points_of
from trainer.presenters.take import Take, crop_template
from trainer.tasks.mouth.phones import CODES, SYMBOLS, Segments

REST = np.zeros(6, np.float32)
WIDE_OPEN = np.array([1.0, 0.9, 0.1, 0.0, 0, 0], np.float32)
PRESSED = np.array([0.0, 0.15, 0.1, 0.0, 1, 0], np.float32)
ROUNDED = np.array([0.15, 0.2, 0.0, 1.0, 0, 0], np.float32)
SPREAD = np.array([0.35, 0.2, 0.9, 0.0, 0, 0], np.float32)


@pytest.fixture(scope="module")
def take():
    return Take(7, 50, resolution=64)


def drawn(take, shape, frame=10):
    crop = take.picture(frame, shape, take.matrices[frame], (64, 64))
    return crop.astype(np.int16)


def test_one_number_is_one_person_and_another_is_somebody_else():
    assert people.person(3) == people.person(3)
    assert voices.voice(3) == voices.voice(3)
    one, two = people.person(3), people.person(4)
    assert one.skin != two.skin
    assert one.width != two.width
    assert one.light != two.light


def test_splits_share_no_person():
    train = people.numbers(1, 300, "train")
    held = people.numbers(1, 300, "held-out")
    assert len(set(train)) == len(set(held)) == 300
    assert max(train) < people.HELD_OUT <= min(held)


def test_more_people_of_a_seed_begin_with_the_same():
    assert people.numbers(4, 50, "train")[:20] == people.numbers(4, 20, "train")


def test_people_look_different():
    crops = [Take(n, 5, resolution=32).crops(0, 1)[0] for n in people.numbers(0, 8, "train")]
    for i, one in enumerate(crops):
        for other in crops[:i]:
            assert np.abs(one.astype(int) - other).mean() > 8


def test_pictures_and_sound_repeat_bit_by_bit(take):
    again = Take(7, 50, resolution=64)
    assert np.array_equal(take.crops(20, 3), again.crops(20, 3))
    assert np.array_equal(take.sound, again.sound)
    assert not np.array_equal(take.sound, Take(7, 50, resolution=64, seed=1).sound)


def test_any_window_is_part_of_the_whole(take):
    assert np.array_equal(take.crops(10, 8)[5], take.crops(15, 1)[0])


def test_crops_are_cut_where_the_template_says(take):
    points = take.points.astype(np.float64)
    placed = (
        np.einsum("tij,tnj->tni", take.matrices[:, :, :2], points) + take.matrices[:, None, :, 2]
    )
    template = crop_template(64)
    eyes, mouth = placed[:, :2].mean((0, 1)), placed[:, 3:].mean((0, 1))
    assert np.abs(eyes / 64 - template.eyes).max() < 0.02
    assert np.abs(mouth / 64 - template.mouth).max() < 0.02
    assert np.allclose(take.matrices, align.fit(take.points, template))


def test_what_is_said_does_not_move_the_crop(take):
    spoken = Take(7, 50, resolution=64, curve=np.ones((200, 6), np.float32))
    assert np.array_equal(spoken.points, take.points)


def test_boxes_hold_the_points(take):
    low, high = take.boxes[:, None, :2], take.boxes[:, None, 2:]
    assert ((take.points > low) & (take.points < high)).all()


def test_a_dark_mouth_opens_and_lips_close_it(take):
    template = crop_template(64)
    x = int(template.mouth[0] * 64)
    y = int((template.mouth[1] + 0.5 * OPENING * template.unit / 64) * 64)
    opened, closed = (drawn(take, shape)[y, x - 2 : x + 3].mean() for shape in (WIDE_OPEN, REST))
    assert opened < 0.75 * closed


def test_every_number_moves_the_picture(take):
    base = np.array([0.4, 0.3, 0.2, 0.2, 0, 0], np.float32)
    for column in range(6):
        other = base.copy()
        other[column] = 1.0
        assert np.abs(drawn(take, other) - drawn(take, base)).max() > 20, column


def test_the_upper_face_does_not_tell_the_mouth(take):
    """Eyes are drawn alike for every mouth; else a network need not listen."""
    rows = int(0.36 * 64)
    for shape in (WIDE_OPEN, PRESSED, ROUNDED):
        person = take.person
        if person.quality == 0:
            assert np.array_equal(drawn(take, shape)[:rows], drawn(take, REST)[:rows])


def test_outlines_follow_their_numbers():
    person = people.person(7)

    def width(shape):
        return np.ptp(mouth_of(person, shape).lower[:, 0])

    assert width(ROUNDED) < 0.75 * width(REST) < width(REST) < width(SPREAD)
    assert mouth_of(person, WIDE_OPEN).gap == pytest.approx(OPENING)
    assert mouth_of(person, REST).gap == 0
    thick = [np.ptp(mouth_of(person, s).lower[:, 1]) for s in (REST, PRESSED)]
    assert thick[1] < 0.7 * thick[0]


def test_landmarks_come_in_the_order_of_detectors():
    left, right, nose, corner, other = points_of(people.person(1))
    assert left[0] < 0 < right[0]
    assert corner[0] < 0 < other[0]
    assert left[1] < nose[1] < corner[1] == other[1]


def speech_of(*sounds):
    ends = np.cumsum([seconds for _, seconds in sounds])
    parts = Segments(ends=ends, codes=np.array([CODES[symbol] for symbol, _ in sounds]))
    return visemes.shapes(parts, round(ends[-1] * 25), np.ones(len(sounds)))


def test_mouths_are_at_lag_zero_with_their_phones():
    curve = speech_of(("_", 0.4), ("a", 0.2), ("b", 0.1), ("a", 0.2), ("_", 0.5))
    press = curve[:, visemes.PRESS]
    assert press.max() > 0.95
    # Row i is the mouth at i / 100 s; the lips meet from 0.6 to 0.7 s.
    assert abs((np.arange(len(press)) * press).sum() / press.sum() - 65) < 0.5
    assert curve[62:69, visemes.OPEN].max() < 0.1
    assert curve[50, visemes.OPEN] > 0.6
    assert not curve[0].any()


def test_round_wide_and_teeth_are_told():
    at = 50
    u, i, f = (speech_of(("_", 0.4), (s, 0.2), ("_", 0.4))[at] for s in "uif")
    assert u[visemes.ROUND] > 0.6 > u[visemes.WIDE]
    assert i[visemes.WIDE] > 0.6 > i[visemes.ROUND]
    assert f[visemes.FV] > 0.8


def test_shapes_at_both_rates_agree(take):
    assert take.shapes.shape == (50, 6)
    assert np.array_equal(take.shapes50[::2], take.shapes)
    assert take.shapes.min() >= 0
    assert take.shapes.max() <= 1.1


@pytest.fixture(scope="module")
def talk():
    own = voices.voice(11)
    return voices.speak(own, 12.0, 0)


def levels(speech):
    """dB of each sound in the middle of it, by symbol."""
    found = {}
    for start, end, code in zip(
        speech.parts.starts, speech.parts.ends, speech.parts.codes, strict=True
    ):
        middle = speech.sound[
            int((0.7 * start + 0.3 * end) * 16000) : int((0.3 * start + 0.7 * end) * 16000)
        ]
        if len(middle) > 100:
            found.setdefault(SYMBOLS[code], []).append(10 * np.log10(np.mean(middle**2) + 1e-12))
    return {symbol: np.median(values) for symbol, values in found.items()}


def brightness(speech, symbols, low=0, high=8000):
    """Hz of the middle of the spectrum of some sounds, within a band."""
    total = 0
    for start, end, code in zip(
        speech.parts.starts, speech.parts.ends, speech.parts.codes, strict=True
    ):
        if SYMBOLS[code] in symbols:
            part = speech.sound[int(start * 16000) : int(end * 16000)]
            total = total + np.abs(np.fft.rfft(part, 8192)) ** 2
    hertz = np.fft.rfftfreq(8192, 1 / 16000)
    total = total * ((hertz >= low) & (hertz <= high))
    return float((total * hertz).sum() / total.sum())


def test_phones_are_where_they_are_heard(talk):
    loud = levels(talk)
    vowels = np.median([level for symbol, level in loud.items() if symbol in "aɛɪoəʌæiuʊɔeɜ"])
    assert loud["_"] < vowels - 18
    assert loud["p"] < vowels - 10
    assert loud["m"] < vowels - 2


def test_sounds_differ_as_sounds_do(talk):
    assert brightness(talk, "s") > 4000
    assert brightness(talk, "ʃ") < brightness(talk, "s")
    assert brightness(talk, "iɪe", 700, 3500) > brightness(talk, "uoɔ", 700, 3500) + 400


def test_parts_cover_the_whole_sound(talk):
    assert talk.parts.ends[-1] == 12.0
    assert (np.diff(talk.parts.ends) > 0).all()
    assert len(talk.parts.codes) == len(talk.parts.ends) == len(talk.strength)
    assert len(talk.sound) == 12 * 16000
    assert np.abs(talk.sound).max() < 1


def test_vowels_have_the_formants_of_their_tract():
    from dataclasses import replace

    own = replace(voices.voice(2), pitch=100, breath=0, room=0, noise=60, tract=1.0, width=1.0)
    script = voices._Script(["a"], ["a"], [1.0], [1.0], [0.5], [0.0])
    sound = voices._synthesised(own, script, 16000, np.random.default_rng(0)).sound
    power = np.abs(np.fft.rfft(sound[4000:12192] * np.hanning(8192)))
    hertz = np.fft.rfftfreq(8192, 1 / 16000)
    smooth = np.convolve(power, np.hanning(91), "same")
    low = (hertz > 400) & (hertz < 1000)
    assert abs(hertz[low][smooth[low].argmax()] - 760) < 120
    high = (hertz > 1100) & (hertz < 1900)
    assert abs(hertz[high][smooth[high].argmax()] - 1300) < 150


def test_opening_is_measured_from_pixels_sharp_and_blurred():
    import cv2

    number = people.numbers(9, 1, "held-out")[0]
    spoken = Take(number, 75, resolution=64, seed=3)
    crops, truth = spoken.crops(), spoken.shapes[:, 0]
    soft = np.stack([cv2.GaussianBlur(crop, (0, 0), 1.0) for crop in crops])
    for seen in (crops, soft):
        measured = measure.opening(seen, spoken.person)
        assert np.corrcoef(measured, truth)[0, 1] > 0.97
        assert np.abs(measured - truth).mean() < 0.06
        assert abs(measure.lag(measured, truth)) < 0.1
    assert abs(measure.lag(measured[:-3], truth[3:]) - 3) < 0.15


def test_lag_is_positive_for_a_late_mouth_and_finds_fractions():
    time = np.arange(120)

    def curve(shift):
        return np.sin((time - shift) / 5.0) + 0.5 * np.sin((time - shift) / 2.3)

    assert measure.lag(curve(2.4), curve(0)) == pytest.approx(2.4, abs=0.1)
    assert measure.lag(curve(0), curve(4)) == pytest.approx(-4, abs=0.1)
    assert np.isnan(measure.lag(np.zeros(50), curve(0)[:50]))


def test_measuring_wants_square_crops():
    with pytest.raises(ValueError, match="expected"):
        measure.opening(np.zeros((2, 64, 32, 3), np.uint8), people.person(1))


def test_streams_repeat_and_can_be_entered_in_the_middle():
    options = {"resolution": 32, "frames": 4, "voices": 2, "windows": 2, "seconds": 2.0}
    first = list(islice(stream(5, **options), 5))
    assert len({window.take.number for window in first}) == 3
    for window in first:
        assert window.crops.shape == (4, 32, 32, 3)
        assert window.sound.shape == (2560,)
        assert window.shapes.shape == (4, 6)
    late = next(stream(5, skip=3, **options))
    assert np.array_equal(late.crops, first[3].crops)
    assert np.array_equal(late.sound, first[3].sound)


def test_held_out_streams_hold_held_out_people():
    window = next(stream(5, resolution=32, frames=1, split="held-out", seconds=1.0))
    assert window.take.number >= people.HELD_OUT


def test_streams_refuse_what_they_cannot_make():
    with pytest.raises(ValueError, match="choose one of train, held-out"):
        next(stream(0, split="test"))
    with pytest.raises(ValueError, match="give 1 to 25"):
        next(stream(0, frames=26, seconds=1.0))


def test_importing_is_free():
    code = "import sys, trainer.presenters.__main__; print([m for m in ('cv2', 'torch', 'av', 'scipy') if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
