"""What is pasted changes nothing outside its mask and agrees with its surroundings."""

from __future__ import annotations

import numpy as np
import pytest

from lipsync_core.faces import align, mask, paste
from lipsync_core.faces.templates import draft_template

MASKS = {"mouth": mask.mouth, "lower_face": mask.lower_face}


def painted_over(image, x0, y0, rgb, alpha):
    result = image.copy()
    region = result[y0 : y0 + alpha.shape[0], x0 : x0 + alpha.shape[1]]
    region[:] = paste.blend(region, rgb, alpha)
    return result


@pytest.fixture
def scene(photo, face, as_clip):
    picture = as_clip([photo])[0]
    template = draft_template(160)
    matrix = align.fit(face[None] + np.array([0.31, 0.77]), template)[0]
    return picture, template, matrix


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("size", [128, 512])
def test_masks_are_smooth_and_fit_any_size(kind, size):
    template = draft_template(size)
    made = MASKS[kind](template)
    assert made.shape == (size, size)
    assert made.dtype == np.float32
    x, y = (np.array(template.mouth) * size).astype(int)
    assert made[y, x] == 1
    assert made[int(template.eyes[1] * size), x] == 0
    assert made.min() == 0
    edge = np.concatenate([made[0], made[:, 0], made[:, -1]])
    assert (edge == 0).all()
    assert np.abs(np.diff(made, axis=0)).max() < 50 / size
    with pytest.raises(ValueError, match="read-only"):
        made[0, 0] = 1


@pytest.mark.parametrize("kind", MASKS)
def test_masks_of_two_sizes_are_one_shape(kind):
    small, large = MASKS[kind](draft_template(128)), MASKS[kind](draft_template(512))
    reduced = large.reshape(128, 4, 128, 4).mean((1, 3))
    # Pixel centres of the two grids differ by 3/8 of a small pixel.
    assert np.abs(reduced - small).max() < 0.2


def test_nothing_changes_outside_the_mask(scene, photo):
    picture, template, matrix = scene
    crop = np.random.default_rng(0).integers(0, 256, (160, 160, 3)).astype(np.uint8)
    x0, y0, rgb, alpha = paste.paste(picture, crop, mask.mouth(template), matrix, match_colour=True)
    result = painted_over(photo, x0, y0, rgb, alpha)
    whole = np.zeros(photo.shape[:2], bool)
    whole[y0 : y0 + alpha.shape[0], x0 : x0 + alpha.shape[1]] = alpha > 0
    assert np.array_equal(result[~whole], photo[~whole])
    assert (result[whole] != photo[whole]).mean() > 0.5
    # And not beyond the ellipse: its support in the source, by pure geometry.
    y, x = np.nonzero(whole)
    crop_xy = np.stack([x, y], 1) @ matrix[:, :2].T + matrix[:, 2]
    away = (crop_xy - np.array(template.mouth) * 160) / template.unit
    radius = np.hypot(
        away[:, 0] / 0.66, np.where(away[:, 1] < 0, away[:, 1] / 0.36, away[:, 1] / 0.9)
    )
    assert radius.max() < 1 + 4 / (0.36 * template.unit)


def test_the_own_crop_is_hardly_seen(scene, photo):
    picture, template, matrix = scene
    crop = align.cut(picture, matrix, 160)
    x0, y0, rgb, alpha = paste.paste(picture, crop, mask.mouth(template), matrix, match_colour=True)
    source = picture.region(x0, y0, x0 + alpha.shape[1], y0 + alpha.shape[0]).astype(float)
    blended = source + alpha[..., None] * (rgb - source)
    assert np.abs(blended - source)[alpha > 0].mean() < 1.2
    # Not even by a fraction of a pixel: shifted copies fit worse.
    inner = alpha > 0.99
    errors = [np.abs(np.roll(rgb, shift, 1) - source)[inner].mean() for shift in (-1, 0, 1)]
    assert errors[1] < 0.5 * min(errors[0], errors[2])


def test_strength_scales_the_change(scene):
    picture, template, matrix = scene
    crop = np.full((160, 160, 3), 200, np.uint8)
    full = paste.paste(picture, crop, mask.mouth(template), matrix)
    half = paste.paste(picture, crop, mask.mouth(template), matrix, strength=0.5)
    assert np.allclose(half[3], full[3] / 2)
    assert np.array_equal(half[2], full[2])
    none = paste.paste(picture, crop, mask.mouth(template), matrix, strength=0.0)
    assert none[3].size == 0


def test_light_is_matched_at_the_rim(scene):
    picture, template, matrix = scene
    crop = align.cut(picture, matrix, 160).astype(np.float32)
    crop = crop + np.array([18.0, 8.0, -12.0], np.float32)
    shape = mask.mouth(template)
    x0, y0, plain, alpha = paste.paste(picture, crop, shape, matrix)
    _, _, matched, _ = paste.paste(picture, crop, shape, matrix, match_colour=True)
    source = picture.region(x0, y0, x0 + alpha.shape[1], y0 + alpha.shape[0])
    inner = alpha > 0.9
    before = np.abs((plain - source)[inner].mean(0))
    after = np.abs((matched - source)[inner].mean(0))
    assert (before > 7).all()
    assert (after < 2).all()


def test_light_is_not_taken_from_a_hand_in_the_rim(scene, photo, as_clip):
    picture, template, matrix = scene
    crop = align.cut(picture, matrix, 160)
    covered = photo.copy()
    covered[:, 236:] = 20
    shape = mask.mouth(template)
    x0, _, rgb, alpha = paste.paste(as_clip([covered])[0], crop, shape, matrix, match_colour=True)
    plain = paste.paste(as_clip([covered])[0], crop, shape, matrix)[2]
    columns = slice(0, 215 - x0)
    inner = alpha[:, columns] > 0.9
    assert np.abs((rgb - plain)[:, columns][inner].mean(0)).max() < 6


@pytest.mark.parametrize("place", [(3.0, 3.0), (509.0, 300.0), (255.0, 511.0)])
def test_a_face_at_the_border_is_cut_off_there(photo, face, as_clip, place):
    picture = as_clip([photo])[0]
    template = draft_template(128)
    matrix = align.fit((face - face.mean(0) + np.array(place))[None], template)[0]
    crop = np.zeros((128, 128, 3), np.uint8)
    x0, y0, rgb, alpha = paste.paste(picture, crop, mask.mouth(template), matrix)
    height, width = alpha.shape
    assert 0 <= x0 <= x0 + width <= 512
    assert 0 <= y0 <= y0 + height <= 512
    assert rgb.shape == (height, width, 3)
    painted_over(photo, x0, y0, rgb, alpha)


def test_a_face_outside_or_an_empty_mask_paints_nothing(photo, face, as_clip):
    picture = as_clip([photo])[0]
    template = draft_template(128)
    matrix = align.fit((face + 2000)[None], template)[0]
    crop = np.zeros((128, 128, 3), np.uint8)
    assert paste.paste(picture, crop, mask.mouth(template), matrix)[3].size == 0
    inside = align.fit(face[None], template)[0]
    assert paste.paste(picture, crop, np.zeros((128, 128), np.float32), inside)[3].size == 0


@pytest.mark.parametrize("size", [96, 160, 320])
def test_an_unchanged_crop_gives_the_source_back(scene, photo, face, size):
    picture = scene[0]
    template = draft_template(size)
    matrix = align.fit(face[None] + np.array([0.31, 0.77]), template)[0]
    crop = align.cut(picture, matrix, size)
    x0, y0, rgb, alpha = paste.paste(
        picture, crop, mask.lower_face(template), matrix, original=crop
    )
    result = painted_over(photo, x0, y0, rgb, alpha)
    assert np.abs(result.astype(int) - photo).max() <= 1


def test_the_old_mouth_does_not_shine_through_a_new_one(scene, photo):
    picture, template, matrix = scene
    crop = align.cut(picture, matrix, 160)
    new = crop.copy()
    x, y = (np.array(template.mouth) * 160).astype(int)
    new[y - 16 : y + 16, x - 24 : x + 24] = 60
    _, _, plain, alpha = paste.paste(picture, new, mask.mouth(template), matrix)
    _, _, kept, _ = paste.paste(picture, new, mask.mouth(template), matrix, original=crop)
    inside = (np.abs(plain - 60).max(axis=2) < 0.5) & (alpha == 1)
    assert inside.sum() > 200
    assert np.abs(kept - plain)[inside].max() < 1
