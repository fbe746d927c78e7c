"""Feathered masks of mouth and jaw for aligned crops of any size; 1 where we may paint."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .templates import Template


@lru_cache(maxsize=32)
def mouth(
    template: Template,
    *,
    wide: float = 0.66,
    up: float = 0.36,
    down: float = 0.90,
    feather: float = 0.30,
) -> np.ndarray:
    """Half an ellipse above the mouth and half a longer one below: ``(size, size)`` float32, read-only.

    Radii in units of the distance eyes to mouth, from the middle of the mouth. ``feather``: part
    of the radius over which 1 falls to 0; outside the ellipse the mask is exactly 0. The defaults
    leave the nose and the jaw's outline to the source.
    """
    x, y = _grid(template)
    radius = np.hypot(x / wide, np.where(y < 0, y / up, y / down))
    return _frozen(smooth_step((1 - radius) / max(feather, 1e-3)))


@lru_cache(maxsize=32)
def lower_face(template: Template, *, feather: float = 0.12) -> np.ndarray:
    """Everything from under the eyes to the chin, for engines that redraw cheeks: as ``mouth``.

    A box with round corners: the region that LatentSync-like networks are given to fill.
    """
    x, y = _grid(template)
    # In units of the distance eyes to mouth: 1.1 to either side, nose bridge to below the chin.
    top, bottom, half, corner = -0.62, 1.12, 1.05, 0.55
    middle, tall = (top + bottom) / 2, (bottom - top) / 2
    across = np.maximum(np.abs(x) - (half - corner), 0)
    along = np.maximum(np.abs(y - middle) - (tall - corner), 0)
    inside = corner - np.hypot(across, along)
    return _frozen(smooth_step(inside / max(feather, 1e-3)))


def smooth_step(value: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, and without a kink between."""
    value = np.clip(value, 0, 1)
    return value * value * (3 - 2 * value)


def _grid(template: Template) -> tuple[np.ndarray, np.ndarray]:
    """``(1, size)`` and ``(size, 1)``: place of each pixel from the mouth in units eyes to mouth.

    Template fractions times size are pixel-centre coordinates.
    """
    steps = np.arange(template.size, dtype=np.float64)
    x = (steps - template.mouth[0] * template.size) / (template.unit * template.stretch)
    y = (steps - template.mouth[1] * template.size) / template.unit
    return x[None, :], y[:, None]


def _frozen(mask: np.ndarray) -> np.ndarray:
    mask = mask.astype(np.float32)
    mask.setflags(write=False)
    return mask
