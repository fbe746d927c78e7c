"""Crops lie where the template says, to a fraction of a pixel, at any scale."""

from __future__ import annotations

import numpy as np
import pytest

from lipsync_core.faces import align
from lipsync_core.faces.templates import Template, draft_template
from lipsync_core.types import FaceTrack


def track_of(points):
    count = len(points)
    return FaceTrack(
        points=np.asarray(points, np.float32),
        boxes=np.zeros((count, 4), np.float32),
        present=np.ones(count, bool),
        strength=np.ones(count, np.float32),
        shots=np.zeros(count, np.int32),
        detector="given",
    )


def carried(points, matrix):
    return points @ matrix[:, :2].T + matrix[:, 2]


@pytest.mark.parametrize("size", [128, 256, 512])
def test_eyes_and_mouth_land_on_the_template(face, size):
    template = draft_template(size)
    matrix = align.fit(face[None], template)[0]
    crop = carried(face, matrix)
    assert np.allclose(crop[:2].mean(0), np.array(template.eyes) * size, atol=0.02 * size)
    assert np.allclose(crop[3:].mean(0), np.array(template.mouth) * size, atol=0.02 * size)


def test_every_frame_is_laid_on_the_same_shape(face):
    angles = np.linspace(-0.6, 0.6, 9)
    turns = [
        np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) * (1 + a / 4) for a in angles
    ]
    points = np.stack([face @ turn.T + (30 * k, -7 * k) for k, turn in enumerate(turns)])
    matrices = align.fit(points, draft_template(256))
    crops = np.stack([carried(p, m) for p, m in zip(points, matrices, strict=True)])
    assert np.abs(crops - crops[0]).max() < 1e-6


def test_a_talking_mouth_hardly_moves_the_crop(face):
    points = np.repeat(face[None], 20, axis=0)
    points[:, 3:, 1] += 6 * np.abs(np.sin(np.arange(20)))[:, None]
    crops = [carried(face[:3], m) for m in align.fit(points, draft_template(160))]
    assert np.abs(np.array(crops) - np.array(crops).mean(0)).max() < 1.7
    free = align.WEIGHTS.copy()
    try:
        align.WEIGHTS[:] = 1
        loose = [carried(face[:3], m) for m in align.fit(points, draft_template(160))]
    finally:
        align.WEIGHTS[:] = free
    assert np.std(crops, axis=0).sum() < 0.85 * np.std(loose, axis=0).sum()


def test_pixels_that_are_not_square_are_made_so(face):
    template = draft_template(256)
    square = align.fit(face[None], template)[0]
    squeezed = align.fit((face / (1.5, 1))[None], template, sar=1.5)[0]
    assert np.allclose(carried(face / (1.5, 1), squeezed), carried(face, square))


def test_frames_without_points_take_the_nearest(face):
    points = np.stack([face, np.full((5, 2), np.nan), face + 50])
    points = np.concatenate([points, np.full((2, 5, 2), np.nan)])
    matrices = align.fit(points, draft_template(128))
    assert np.isfinite(matrices).all()
    assert np.array_equal(matrices[3], matrices[2])
    with pytest.raises(ValueError, match="no frame has points"):
        align.fit(np.full((2, 5, 2), np.nan), draft_template(128))


@pytest.mark.parametrize(("unit", "size"), [(20, 128), (60, 224), (154, 512), (900, 512)])
def test_a_crop_pixel_is_about_a_source_pixel(face, unit, size):
    scaled = face * unit / np.hypot(*(face[3:].mean(0) - face[:2].mean(0)))
    assert align.size_for(track_of(scaled[None])) == size


@pytest.mark.parametrize("scale", [0.3, 0.5, 0.9, 1.0, 2.2])
def test_cut_is_exact_below_the_pixel(as_clip, scale):
    """A soft blob lands on its place whatever the scale: no half pixel goes astray."""
    y, x = np.mgrid[:300, :400]
    image = 255 * np.exp(-((x - 201.3) ** 2 + (y - 148.6) ** 2) / (2 * 6**2))
    picture = as_clip([np.repeat(image[..., None], 3, axis=2).astype(np.uint8)])[0]
    matrix = np.array([[scale, 0, 60 - scale * 201.3], [0, scale, 64 - scale * 148.6]])
    crop = align.cut(picture, matrix, 128).astype(float)[..., 0]
    rows, columns = np.mgrid[:128, :128]
    assert (crop * columns).sum() / crop.sum() == pytest.approx(60, abs=0.1)
    assert (crop * rows).sum() / crop.sum() == pytest.approx(64, abs=0.1)


def test_a_smaller_crop_does_not_shimmer(as_clip):
    stripes = np.zeros((600, 600, 3), np.uint8)
    stripes[:, ::2] = 255
    picture = as_clip([stripes])[0]
    for shift in (0.0, 0.3, 0.7):
        crop = align.cut(picture, np.array([[0.31, 0, shift], [0, 0.31, 0]]), 128)
        assert np.ptp(crop[8:-8, 8:-8].astype(int)) < 40


@pytest.mark.parametrize("place", [(-40, -30), (470, 330), (2000, -900)])
def test_crops_at_and_beyond_the_border_repeat_the_edge(as_clip, photo, place):
    picture = as_clip([photo[:360, :480]])[0]
    matrix = np.array([[1.0, 0, -place[0]], [0, 1.0, -place[1]]])
    crop = align.cut(picture, matrix, 128)
    columns = np.clip(np.arange(128) + place[0], 0, 479)
    rows = np.clip(np.arange(128) + place[1], 0, 359)
    assert np.abs(crop.astype(int) - photo[rows][:, columns]).max() <= 1


def test_cut_reads_only_its_region(as_clip, photo):
    picture = as_clip([photo])[0]
    asked = []
    region = picture.region
    picture.region = lambda *box: asked.append(box) or region(*box)
    picture.rgb = None
    align.cut(picture, np.array([[1.0, 0, -200], [0, 1.0, -80]]), 128)
    (x0, y0, x1, y1) = asked[0]
    assert (x1 - x0) * (y1 - y0) < 150**2


def test_rows_that_are_not_wanted_stay_black(as_clip, photo):
    frame = as_clip([photo])[0]
    matrix = np.array([[0.9, 0.1, -40.3], [-0.1, 0.9, -20.7]])
    whole, lower = align.cut(frame, matrix, 96), align.cut(frame, matrix, 96, first=41)
    assert lower.shape == whole.shape
    assert not lower[:41].any()
    # Where a region begins rounds one sample in some thousands the other way.
    assert np.abs(lower[41:].astype(int) - whole[41:]).max() <= 1
    assert whole[:41].any()


def test_region_covers_the_crop_and_stays_inside():
    matrix = np.array([[1.0, 0, -100], [0, 1.0, -50]])
    assert align.region_of(matrix, 64) == (100, 50, 164, 114)
    assert align.region_of(matrix, 64, (140, 90)) == (100, 50, 140, 90)
    x0, y0, x1, y1 = align.region_of(np.array([[1.0, 0, 900], [0, 1.0, 0]]), 64, (140, 90))
    assert x1 <= x0 or y1 <= y0


def test_a_template_of_any_layout_is_met(face):
    template = Template(size=256, eyes=(0.4, 0.3), mouth=(0.6, 0.62))
    matrix = align.fit(face[None], template)[0]
    crop = carried(face, matrix)
    assert np.allclose(crop[:2].mean(0), [102.4, 76.8], atol=6)
    assert np.allclose(crop[3:].mean(0), [153.6, 158.7], atol=6)
    assert np.linalg.det(matrix[:, :2]) > 0


def test_a_stretched_template_shows_faces_wider(face):
    plain, wide = (
        draft_template(256),
        Template(size=256, eyes=(0.5, 189 / 512), mouth=(0.5, 343 / 512), stretch=1.2),
    )
    before = carried(face, align.fit(face[None], plain)[0])
    after = carried(face, align.fit(face[None], wide)[0])
    assert np.allclose(after[:, 1], before[:, 1])
    assert np.allclose(after[:, 0] - 128, 1.2 * (before[:, 0] - 128))
