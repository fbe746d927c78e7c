"""Cuts are found; flashes, pans, fades and movement are none."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lipsync_core.faces.shots import Shots


@pytest.fixture
def scenes():
    from skimage import data

    names = (data.astronaut, data.coffee, data.rocket, data.chelsea)
    return [cv2.resize(cv2.cvtColor(make(), cv2.COLOR_RGB2GRAY), (480, 270)) for make in names]


def cuts_of(images):
    shots = Shots()
    for image in images:
        shots.see(image)
    return shots.cuts


def shaken(scene, count, step=1.0):
    rng = np.random.default_rng(1)
    for t in range(count):
        shift = np.float64([[1, 0, 3 * np.sin(t / 3) * step], [0, 1, 2 * np.cos(t / 4) * step]])
        image = cv2.warpAffine(scene, shift, (480, 270), borderMode=cv2.BORDER_REFLECT)
        yield np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def test_every_cut_is_found_to_the_frame(scenes):
    images = [image for scene in scenes for image in shaken(scene, 12)]
    assert cuts_of(images) == [12, 24, 36]
    shots = Shots()
    for image in images:
        shots.see(image)
    assert shots.numbers(48).tolist() == [0] * 12 + [1] * 12 + [2] * 12 + [3] * 12


@pytest.mark.parametrize("length", [1, 3])
def test_a_flash_is_no_cut(scenes, length):
    images = list(shaken(scenes[0], 20))
    for t in range(8, 8 + length):
        images[t] = np.clip(images[t].astype(int) + 170, 0, 255).astype(np.uint8)
    assert cuts_of(images) == []


def test_a_fade_is_no_cut(scenes):
    images = [
        (image * (1 - t / 12)).astype(np.uint8) for t, image in enumerate(shaken(scenes[0], 11))
    ]
    assert cuts_of(images) == []


def test_a_pan_is_no_cut(scenes):
    wide = cv2.resize(scenes[1], (960, 270))
    images = [wide[:, 16 * t : 16 * t + 480] for t in range(28)]
    assert cuts_of(images) == []


def test_a_still_and_a_black_clip_have_one_shot(scenes):
    assert cuts_of([scenes[0]] * 10) == []
    assert cuts_of([np.zeros((270, 480), np.uint8)] * 10) == []


def test_a_change_of_size_is_a_cut(scenes):
    assert cuts_of([scenes[0], scenes[0][:, :300]]) == [1]
