"""Bending and painting one picture: identity, obedience, silence outside the mask, no surprises."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from skimage import data

from lipsync_core.engines.draft import lips, warp
from lipsync_core.faces.templates import draft_template

CLOSED = np.zeros(6, np.float32)
AH = np.array([0.8, 0.75, 0.2, 0, 0, 0], np.float32)


def smiling(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The astronaut, aligned: an open smile with teeth."""
    points = np.array(
        [[201.5, 105.0], [245.2, 104.9], [220.7, 127.1], [203.9, 145.2], [242.4, 145]]
    )
    template = draft_template(size)
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    scale = template.unit / np.hypot(*(mouth - eyes))
    shift = np.array(template.mouth) * size - scale * mouth
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    return cv2.warpAffine(data.astronaut(), matrix, (size, size), flags=2), points * scale + shift


def drawn(size: int) -> tuple[np.ndarray, np.ndarray]:
    """A drawn face with shut lips on a blue ground."""
    big = 1024
    unit = draft_template(big).unit
    cx, eye, mouth = big / 2, 189 / 512 * big, 343 / 512 * big
    face = np.full((big, big, 3), (60, 110, 190), np.uint8)

    def oval(x: float, y: float, a: float, b: float, colour: tuple[int, int, int]) -> None:
        centre, axes = (round(x), round(y)), (round(a * unit), round(b * unit))
        cv2.ellipse(face, centre, axes, 0, 0, 360, colour, -1, cv2.LINE_AA)

    oval(cx, (eye + mouth) / 2 - 0.1 * unit, 0.92, 1.28, (214, 170, 148))
    for side in (-1, 1):
        oval(cx + side * 0.42 * unit, eye, 0.14, 0.06, (60, 45, 40))
    oval(cx, mouth - 0.42 * unit, 0.10, 0.03, (120, 80, 70))
    oval(cx, mouth - 0.03 * unit, 0.40, 0.07, (176, 84, 84))
    oval(cx, mouth + 0.05 * unit, 0.36, 0.09, (190, 92, 92))
    oval(cx, mouth, 0.40, 0.012, (92, 36, 38))
    x = (cx - 0.42 * unit, cx + 0.42 * unit, cx, cx - 0.40 * unit, cx + 0.40 * unit)
    y = (eye, eye, mouth - 0.42 * unit, mouth, mouth)
    crop = cv2.resize(cv2.GaussianBlur(face, (0, 0), 3), (size, size), interpolation=cv2.INTER_AREA)
    grain = np.random.default_rng(1).normal(0, 2, crop.shape)
    crop = np.clip(crop + grain, 0, 255).astype(np.uint8)
    return crop, np.stack([x, y], 1) * size / big


FACES = [pytest.param(smiling, id="smiling"), pytest.param(drawn, id="drawn")]
Face = Callable[[int], tuple[np.ndarray, np.ndarray]]


def warper(face: Face, size: int) -> warp.Warper:
    crop, points = face(size)
    return warp.Warper(crop, lips.find(crop, points), seed=3)


def darkness(crop: np.ndarray, mouth: lips.Lips) -> float:
    """Pixels in the mouth much darker than the skin."""
    x, y = (round(v) for v in mouth.centre)
    unit = mouth.unit
    part = crop[
        round(y - 0.2 * unit) : round(y + 0.4 * unit), round(x - 0.3 * unit) : round(x + 0.3 * unit)
    ]
    return float((part.astype(int).sum(-1) < 0.6 * mouth.lip.sum()).sum() / unit**2)


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("size", [128, 192, 320, 512])
def test_the_pictures_own_shape_gives_the_picture_back(face: Face, size: int) -> None:
    w = warper(face, size)
    crop, mask = w.render(w.lips.shape)
    assert crop.dtype == np.uint8
    assert crop.shape == w.crop.shape
    assert mask.shape == crop.shape[:2]
    assert np.abs(crop[mask > 0].astype(int) - w.crop[mask > 0]).mean() < 1


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("size", [128, 200, 512])
def test_nothing_changes_outside_the_mask_and_the_mask_ends_inside_the_crop(
    face: Face, size: int
) -> None:
    w = warper(face, size)
    for shape in (CLOSED, AH, np.array([0.2, 0.2, 0, 1, 0, 0]), np.array([1.1, 1.1, 1, 0, 0, 1])):
        crop, mask = w.render(shape)
        assert np.isfinite(mask).all()
        assert (mask >= 0).all()
        assert (mask <= 1).all()
        np.testing.assert_array_equal(crop[mask == 0], w.crop[mask == 0])
        edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert not edge.any()
        assert mask[round(w.lips.centre[1]), round(w.lips.centre[0])] == 1


def test_more_open_shows_more_of_the_mouth() -> None:
    w = warper(drawn, 256)
    seen = [
        darkness(w.render(np.array([o, o, 0, 0, 0, 0]))[0], w.lips) for o in (0.15, 0.4, 0.7, 1)
    ]
    assert seen == sorted(seen)
    assert seen[-1] > seen[0] + 0.02


def test_lips_close_over_a_smile() -> None:
    w = warper(smiling, 256)
    mouth = w.lips
    x = round(mouth.centre[0])
    rows = slice(round(mouth.upper[x]), round(mouth.lower[x]))

    teeth = w.crop[rows, x - 12 : x + 12].astype(float)
    shut = w.render(CLOSED)[0][rows, x - 12 : x + 12].astype(float)
    assert (np.abs(shut - teeth).max(-1) > 15).mean() > 0.6
    # A dark line parts the lips where there were teeth.
    assert (shut.sum(-1).min(0) < 0.8 * np.median(teeth.sum(-1), 0)).all()


@pytest.mark.parametrize("face", FACES)
def test_small_steps_of_the_shape_are_small_steps_of_the_picture(face: Face) -> None:
    w = warper(face, 192)
    before = w.render(CLOSED)[0].astype(float)
    largest = []
    for step in np.linspace(0.02, 1, 50):
        now = w.render(step * AH)[0].astype(float)
        largest.append(np.abs(now - before).mean())
        before = now
    largest = np.array(largest)
    assert largest.max() < 6 * np.median(largest) + 0.05


def test_rendering_leaves_nothing_behind_and_the_seed_decides_the_grain() -> None:
    w = warper(drawn, 192)
    first = w.render(AH)[0]
    w.render(CLOSED)
    w.render(AH, crop=w.crop[:, ::-1].copy(), lips=w.lips.moved(2, 1))
    np.testing.assert_array_equal(w.render(AH)[0], first)
    np.testing.assert_array_equal(warper(drawn, 192).render(AH)[0], first)
    crop, points = drawn(192)
    other = warp.Warper(crop, lips.find(crop, points), seed=4).render(AH)[0]
    assert (other != first).any()


def test_another_frame_is_painted_where_its_mouth_is() -> None:
    w = warper(drawn, 192)
    matrix = np.array([[1, 0, 3], [0, 1, 2.0]])
    moved = cv2.warpAffine(w.crop, matrix, (192, 192), borderMode=cv2.BORDER_REPLICATE)
    there = w.render(AH, crop=moved, lips=w.lips.moved(3, 2))[0].astype(int)
    here = cv2.warpAffine(w.render(AH)[0], matrix, (192, 192), borderMode=cv2.BORDER_REPLICATE)
    x, y = (round(v) for v in w.lips.centre)
    part = np.s_[y - 10 : y + 40, x - 25 : x + 25]
    assert np.abs(there[part] - here[part]).mean() < 4


def test_a_nudge_closes_a_gap_and_nothing_is_nothing() -> None:
    w = warper(drawn, 256)
    frame = w.render(np.array([0.25, 0.2, 0, 0, 0, 0]))[0]
    opened = lips.find(frame, drawn(256)[1])
    opened = opened if opened.gap else w.lips
    same, mask = warp.nudge(frame, opened)
    assert np.abs(same[mask > 0].astype(int) - frame[mask > 0]).mean() < 1
    shut = warp.nudge(frame, opened, open_delta=-0.3, press=0.5)[0]
    assert darkness(shut, w.lips) < 0.6 * darkness(frame, w.lips)
    wider = warp.nudge(frame, opened, wide_delta=0.5)[0]
    assert (wider != frame).any()
    np.testing.assert_array_equal(wider[mask == 0], frame[mask == 0])


def test_wild_shapes_stay_pictures() -> None:
    w = warper(smiling, 128)
    rng = np.random.default_rng(0)
    for _ in range(20):
        crop, _ = w.render(rng.uniform(-0.2, 1.3, 6))
        assert crop.std() > 5


def test_a_grey_photograph_stays_grey() -> None:
    crop, points = smiling(192)
    grey = np.repeat(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[:, :, None], 3, 2)
    shown = warp.Warper(grey, lips.find(grey, points)).render(AH)[0]
    assert np.ptp(shown.astype(int), axis=-1).max() <= 12


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("shift", [0, 30, -40])
def test_a_picture_without_a_face_does_no_harm(level: int, shift: int) -> None:
    """A detector may be wrong, and a face may hang out of the crop."""
    crop = np.full((128, 128, 3), level, np.uint8)
    points = drawn(128)[1] + shift
    mouth = lips.find(crop, points)
    w = warp.Warper(crop, mouth)
    for shape in (CLOSED, AH, np.ones(6)):
        shown, mask = w.render(shape)
        assert shown.shape == crop.shape
        assert np.isfinite(mask).all()
    warp.nudge(crop, mouth, open_delta=0.1, wide_delta=-1, press=1)
    lips.Tracker(crop, mouth).see(crop)
