"""Regions, brightness and painting, in every pixel format that is read."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from lipsync_core.media import pixels
from lipsync_core.media.frame import Frame

FORMATS = [
    "yuv420p",
    "yuv422p",
    "yuv444p",
    "yuv411p",
    "yuv440p",
    "yuvj420p",
    "yuva420p",
    "yuv420p10le",
    "yuv422p10le",
    "yuv444p12le",
    "yuva444p10le",
    "nv12",
    "nv21",
    "p010le",
    "gray",
    "gray10le",
    "rgb24",
    "bgr24",
    "rgba",
    "bgra",
    "argb",
    "gbrp",
    "gbrp10le",
    "gbrap",
    "rgb48le",
    "rgba64le",
]


def colours(width: int, height: int) -> np.ndarray:
    """A smooth picture well inside the gamut of every matrix."""
    x, y = np.linspace(0, 1, width)[None], np.linspace(0, 1, height)[:, None]
    planes = [60 + 120 * x + 0 * y, 70 + 100 * y + 0 * x, 90 + 40 * x + 40 * y]
    return np.rint(np.stack(planes, axis=-1)).astype(np.uint8)


def frame(name: str, width: int = 96, height: int = 64, *, colorspace=1, full=False) -> Frame:
    video = av.VideoFrame.from_ndarray(colours(width, height), format="rgb24")
    if name.startswith("gray"):
        # swscale would weight by BT.601 and choose the range itself.
        luma = colours(width, height) @ [0.2126, 0.7152, 0.0722]
        luma = luma if full else 16 + luma * 219 / 255
        top = 255 if name == "gray" else 1023 if full else 1020
        video = av.VideoFrame(width, height, name)
        (plane,) = pixels.planes(video, pixels.layout(name))
        plane[...] = np.rint(luma * top / 255)
    elif name != "rgb24":
        video = video.reformat(
            format=name,
            dst_color_range=2 if full else 1,
            interpolation="AREA",
            **({} if pixels.layout(name).is_rgb else {"dst_colorspace": colorspace}),
        )
    view = pixels.look(name, colorspace, 2 if full else 1, height, False)
    return Frame(video, view, index=3, time=Fraction(3, 25), duration=Fraction(1, 25))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("full", [False, True])
def test_region_is_the_picture(name, full):
    got = frame(name, full=full or name in ("yuvj420p",))
    wanted = colours(96, 64).astype(int)
    if name.startswith("gray"):
        wanted = np.repeat((wanted @ [0.2126, 0.7152, 0.0722])[..., None], 3, axis=2)
    assert np.abs(got.rgb() - wanted).max() <= 6
    assert np.abs(got.rgb() - wanted).mean() < 1.6
    # A part does not know where it was cut, and repeats the edge outside.
    part = got.region(11, 7, 40, 51)
    assert np.array_equal(part, got.rgb()[7:51, 11:40])
    around = got.region(-5, -3, 101, 70)
    assert np.array_equal(around, np.pad(got.rgb(), ((3, 6), (5, 5), (0, 0)), mode="edge"))
    away = got.region(-20, 70, -10, 75)
    assert (away == got.rgb()[-1, 0]).all()


@pytest.mark.parametrize("colorspace", [1, 4, 5, 7, 9])
def test_matrices(colorspace):
    if colorspace == 9 and int(av.__version__.split(".")[0]) == 17:
        pytest.skip("this PyAV cannot make BT.2020")
    got = frame("yuv444p", colorspace=colorspace)
    assert np.abs(got.rgb() - colours(96, 64).astype(int)).max() <= 3


def test_untagged_pictures_are_read_as_players_do():
    assert pixels.look("yuv420p", 2, 0, 1080, False).colorspace == 1
    assert pixels.look("yuv420p", 2, 0, 576, False).colorspace == 5
    assert pixels.look("yuvj420p", 2, 0, 2000, True).colorspace == 5
    assert pixels.look("yuvj420p", 2, 0, 2000, True).full
    assert not pixels.look("yuv420p", 2, 0, 1080, False).full


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", [(96, 64), (97, 63)])
def test_painting_changes_what_is_masked_and_nothing_else(name, size):
    width, height = size
    if size != (96, 64) and name in ("yuv411p",):
        pytest.skip("swscale does not make odd 4:1:1")
    before = frame(name, width, height)
    kept = [plane.copy() for plane in before.planes()]
    mask = np.zeros((40, 40), np.float32)
    mask[5:33, 7:31] = 1
    mask[5, 7] = 0.01
    rgb = before.region(20, 10, 60, 50).astype(np.float32)
    rgb += mask[..., None] * np.array([25, -20, 15], np.float32)
    # Whatever stands outside the mask does not count.
    rgb[0, 0] = 255
    after = before.painted(20, 10, rgb, mask)
    for old, plane in zip(kept, before.planes(), strict=True):
        assert np.array_equal(old, plane)
    inside = np.zeros((height, width), bool)
    inside[10:50, 20:60] = mask > 0
    kind = before.look.kind
    for at, (old, new) in enumerate(zip(kept, after.planes(), strict=True)):
        same = old == new if old.ndim == 2 else (old == new).all(axis=2)
        chroma = kind.kind in ("yuv", "semi") and at in (1, 2)
        covered = inside
        if chroma:
            step_x, step_y = 1 << kind.log2_x, 1 << kind.log2_y
            tall, wide = old.shape[:2]
            covered = np.pad(
                inside, ((0, tall * step_y - height), (0, wide * step_x - width)), mode="edge"
            )
            covered = covered.reshape(tall, step_y, wide, step_x).all(axis=(1, 3))
        assert same[~covered].all()
        if kind.alpha and kind.kind != "packed" and at == 3:
            assert same.all()
        elif kind.kind != "packed":
            assert not same[covered].all()
    if kind.kind == "packed" and kind.alpha:
        letter = kind.order.index("a")
        assert np.array_equal(kept[0][..., letter], after.planes()[0][..., letter])
    # Away from the mask's edge, where chroma is shared, the colour is the one asked for.
    got = after.region(20, 10, 60, 50)[10:28, 12:26]
    wanted = rgb[10:28, 12:26]
    if kind.kind == "gray":
        wanted = np.repeat((wanted @ [0.2126, 0.7152, 0.0722])[..., None], 3, axis=2)
        change = (got.astype(float) - before.region(20, 10, 60, 50)[10:28, 12:26]).mean()
        assert abs(change - (25 * 0.2126 - 20 * 0.7152 + 15 * 0.0722)) < 1
    else:
        assert np.abs(got - wanted).max() <= (0.51 if kind.kind == "packed" else 3.5)
    assert (after.index, after.time, after.duration) == (3, Fraction(3, 25), Fraction(1, 25))


@pytest.mark.parametrize("name", FORMATS)
def test_painting_what_is_there_changes_nothing(name):
    before = frame(name, 97 if name != "yuv411p" else 96, 63)
    mask = np.ones((60, 60), np.float32)
    after = before.painted(-7, -5, before.region(-7, -5, 53, 55), mask)
    for old, new in zip(before.planes(), after.planes(), strict=True):
        assert np.array_equal(old, new)


@pytest.mark.parametrize("name", ["yuv420p", "yuv420p10le", "rgb24", "nv12"])
def test_painting_over_the_edge_reaches_the_last_samples(name):
    before = frame(name, 97, 63)
    rgb = before.region(67, 33, 107, 73).astype(np.float32)
    after = before.painted(67, 33, rgb + np.float32(20), np.ones((40, 40), np.float32))
    change = after.rgb().astype(int) - before.rgb()
    assert np.abs(change[33:, 67:] - 20).max() <= 2
    assert not np.any(change[:32, :66])
    outside = before.painted(200, 200, rgb, np.ones((40, 40), np.float32))
    assert np.array_equal(outside.rgb(), before.rgb())


@pytest.mark.parametrize("name", FORMATS)
def test_brightness_and_reduced_picture(name):
    full = name == "yuvj420p"
    got = frame(name, 192, 96, full=full)
    weights = [0.299, 0.587, 0.114] if got.look.kind.is_rgb else [0.2126, 0.7152, 0.0722]
    gray = colours(192, 96) @ np.array(weights)
    luma = got.luma(96)
    assert luma.shape == (48, 96)
    wanted = gray.reshape(48, 2, 96, 2).mean(axis=(1, 3))
    assert np.abs(luma - wanted).max() <= 2.5
    small = got.reduced(96)
    assert small.shape == (48, 96, 3)
    whole = colours(192, 96).reshape(48, 2, 96, 2, 3).mean(axis=(1, 3))
    if name.startswith("gray"):
        whole = np.repeat(wanted[..., None], 3, axis=2)
    assert np.abs(small - whole).max() <= 6
    assert got.luma(5000).shape == (96, 192)


@pytest.mark.parametrize("size", [(1920, 1080), (1080, 1920), (1279, 717), (524, 524), (3000, 7)])
@pytest.mark.parametrize("side", [960, 640, 320, 100])
def test_both_axes_shrink_by_one_factor(size, side):
    width, height = pixels.reduced_size(*size, side)
    assert max(width, height) <= max(side, 1)
    assert max(width, height) >= 0.97 * min(side, max(size))
    if min(size) > 100:
        # Less than a quarter of a reduced pixel over the whole picture.
        assert abs(size[1] * width / size[0] - height) < 0.25


def test_formats_that_are_converted_lose_nothing():
    for name, native in {
        "pal8": "rgba",
        "yuyv422": "yuv422p",
        "uyvy422": "yuv422p",
        "gray16be": "gray16le",
        "yuv420p10be": "yuv420p10le",
        "rgb48be": "rgb48le",
        "rgb565le": "rgb24",
        "monob": "gray",
        "ya8": "rgba",
        "gbrp12be": "rgb48le",
    }.items():
        assert pixels.native_format(av.VideoFormat(name, 64, 64)) == native
    for name in FORMATS:
        assert pixels.native_format(av.VideoFormat(name, 64, 64)) == name
