"""The mouth must be found where it is, at every size."""

import cv2
import numpy as np
import pytest
from skimage import data

from lipsync_core.engines.draft import lips
from lipsync_core.faces.templates import draft_template

# Eyes, nose and mouth corners of the astronaut as YuNet sees them.
ASTRONAUT = np.array(
    [[201.5, 105.0], [245.2, 104.9], [220.7, 127.1], [203.9, 145.2], [242.4, 145.0]]
)


def aligned(size: int) -> tuple[np.ndarray, np.ndarray]:
    template = draft_template(size)
    eyes, mouth = ASTRONAUT[:2].mean(0), ASTRONAUT[3:].mean(0)
    scale = template.unit / np.hypot(*(mouth - eyes))
    shift = np.array(template.mouth) * size - scale * mouth
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    crop = cv2.warpAffine(data.astronaut(), matrix, (size, size), flags=cv2.INTER_CUBIC)
    return crop, ASTRONAUT * scale + shift


@pytest.mark.parametrize("size", [128, 192, 320, 512])
def test_a_smile_is_found_open_with_teeth_at_every_size(size: int) -> None:
    crop, points = aligned(size)
    mouth = lips.find(crop, points)
    assert 0.10 < mouth.gap / mouth.unit < 0.24
    assert mouth.teeth > 0.5
    assert abs(mouth.left - points[3, 0]) < 0.2 * mouth.unit
    assert abs(mouth.right - points[4, 0]) < 0.2 * mouth.unit
    assert mouth.upper.shape == mouth.lower.shape == (size,)
    assert (mouth.lower >= mouth.upper).all()


def test_a_shift_moves_everything() -> None:
    crop, points = aligned(192)
    mouth = lips.find(crop, points)
    moved = mouth.moved(3.0, -2.0)
    assert moved.left == pytest.approx(mouth.left + 3)
    assert moved.chin == pytest.approx(mouth.chin - 2)
    np.testing.assert_allclose(moved.upper[60:140], mouth.upper[57:137] - 2, atol=1e-3)
    np.testing.assert_array_equal(moved.edge, mouth.edge)


def test_the_tracker_follows_a_displaced_face_and_rests_on_a_still_one() -> None:
    crop, points = aligned(192)
    mouth = lips.find(crop, points)
    still = lips.Tracker(crop, mouth)
    for _ in range(3):
        assert still.see(crop).left == pytest.approx(mouth.left, abs=0.05)
    matrix = np.array([[1, 0, 2.5], [0, 1, -1.5]])
    shifted = cv2.warpAffine(crop, matrix, (192, 192), borderMode=cv2.BORDER_REPLICATE)
    seen = lips.Tracker(crop, mouth).see(shifted)
    assert seen.left == pytest.approx(mouth.left + 2.5, abs=0.4)
    assert seen.chin == pytest.approx(mouth.chin - 1.5, abs=0.4)


def drawn(
    size: int, red: np.ndarray, dark: np.ndarray, *, reach: float = 0.36
) -> tuple[np.ndarray, np.ndarray]:
    """A face of plain skin with lips and dark where the maps say, and its five points."""
    x, y, unit = mouth_of(size)
    skin = np.full((size, size, 3), (205.0, 165.0, 140.0), np.float32)
    picture = skin - red[..., None] * (25, 65, 55) - dark[..., None] * (90, 60, 50)
    crop = cv2.GaussianBlur(np.clip(picture, 0, 255).astype(np.uint8), (0, 0), 0.8)
    places = [(-0.4, -1), (0.4, -1), (0, -0.4), (-reach, 0), (reach, 0)]
    return crop, np.array([(x + across * unit, y + down * unit) for across, down in places])


def mouth_of(size: int) -> tuple[int, int, float]:
    template = draft_template(size)
    x, y = (round(float(at) * size) for at in template.mouth)
    return x, y, template.unit


def test_a_shut_line_that_is_faint_for_a_while_still_reaches_its_corner() -> None:
    x, y, unit = mouth_of(192)
    rows, columns = np.mgrid[:192, :192].astype(np.float32)
    across = (columns - x) / (0.40 * unit)
    # Lips whose colour and line fade from a third of the way to the left corner on, and come back.
    faint = 1 - 0.62 * np.exp(-(((across + 0.52) / 0.14) ** 4))
    red = np.exp(-(((rows - y) / (0.06 * unit)) ** 2)) * (np.abs(across) < 1) * faint
    dark = np.exp(-(((rows - y) / 1.6) ** 2)) * (np.abs(across) < 1) * faint
    mouth = lips.find(*drawn(192, red, dark))
    assert mouth.left == pytest.approx(x - 0.40 * unit, abs=0.06 * unit)
    assert mouth.right == pytest.approx(x + 0.40 * unit, abs=0.06 * unit)


def test_the_line_is_under_an_upper_lip_in_its_own_shade() -> None:
    x, y, unit = mouth_of(256)
    rows, columns = np.mgrid[:256, :256].astype(np.float32)
    across = (columns - x) / (0.36 * unit)
    arch = np.sqrt(np.clip(1 - across**2, 0, 1))
    upper = (rows < y) & (rows > y - 0.10 * unit * arch)
    lower = (rows >= y) & (rows < y + 0.14 * unit * arch)
    # Where the lips meet it is only a little darker than all of the upper one.
    rim = 0.12 * np.exp(-(((rows - y + 1) / 1.5) ** 2)) * (np.abs(across) < 1)
    mouth = lips.find(*drawn(256, upper + 0.8 * lower, 0.4 * upper + rim))
    line = mouth.upper[round(x - 0.2 * unit) : round(x + 0.2 * unit)]
    assert np.abs(line - y).max() < 0.035 * unit


def test_the_line_follows_a_thin_dark_one_where_it_bends_towards_the_corner() -> None:
    x, y, unit = mouth_of(352)
    rows, columns = np.mgrid[:352, :352].astype(np.float32)
    across = (columns - x) / (0.38 * unit)
    bend = 0.05 * unit * np.clip((np.abs(across) - 0.62) / 0.1, 0, 1)
    # Above it lip colour goes on, which draws the search upwards.
    red = (np.abs(across) < 1) * np.exp(-((((rows - y) / unit + 0.02) / 0.07) ** 2))
    dark = (np.abs(across) < 1) * np.exp(-(((rows - y - bend) / 2.0) ** 2))
    mouth = lips.find(*drawn(352, red, dark))
    for side in (-1, 1):
        at = round(x + side * 0.85 * 0.38 * unit)
        assert mouth.upper[at] == pytest.approx(y + 0.05 * unit, abs=0.010 * unit)


def test_a_speck_between_shut_lips_is_told_from_lips_that_meet_everywhere() -> None:
    x, y, unit = mouth_of(256)
    rows, columns = np.mgrid[:256, :256].astype(np.float32)
    within = np.abs(columns - x) < 0.38 * unit
    red = np.exp(-(((rows - y) / (0.07 * unit)) ** 2)) * within
    line = 0.3 * np.exp(-(((rows - y) / 1.6) ** 2)) * within
    speck = np.exp(-((np.hypot(columns - x - 0.12 * unit, rows - y) / (0.04 * unit)) ** 2))
    even, uneven = drawn(256, red, line), drawn(256, red, line + 0.7 * speck)
    assert lips.unevenness(even[0], lips.find(*even)) < 0.01
    assert lips.unevenness(uneven[0], lips.find(*uneven)) > 0.04
