"""What an opening mouth reveals: dark, teeth, tongue, in the light, sharpness and grain of the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from .lips import Lips, ease, smooth_step

if TYPE_CHECKING:
    from .warp import Bend, Curves


def blur_of(crop: np.ndarray, lips: Lips) -> float:
    """Width (standard deviation in pixels) of the picture's sharpest edges in the face.

    A Gaussian edge blurred once more loses slope by a factor that depends on its own width alone.
    """
    x, unit = lips.centre[0], lips.unit
    rows = slice(max(round(lips.centre[1] - 1.25 * unit), 0), min(round(lips.chin), lips.size))
    columns = slice(max(round(x - 0.6 * unit), 0), min(round(x + 0.6 * unit), lips.size))
    gray = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[rows, columns].astype(np.float32)
    again = 1.5

    def slope(picture: np.ndarray) -> np.ndarray:
        return np.hypot(
            cv2.Scharr(picture, cv2.CV_32F, 1, 0), cv2.Scharr(picture, cv2.CV_32F, 0, 1)
        )

    first = slope(cv2.GaussianBlur(gray, (0, 0), 0.5))
    second = slope(cv2.GaussianBlur(gray, (0, 0), float(np.hypot(0.5, again))))
    strong = first >= np.quantile(first, 0.985)
    ratio = float(np.quantile(first[strong] / np.maximum(second[strong], 1e-3), 0.6))
    return float(np.clip(again / np.sqrt(max(ratio**2 - 1, 0.05)), 0.5, 0.05 * unit + 0.5))


def seal(region: np.ndarray, bend: Bend, curves: Curves, *, blur: float = 0.0) -> None:
    """Draws the line between lips that were brought together over an opening, into ``region``."""
    lips, unit = bend.lips, bend.lips.unit
    gap, own = curves.bottom - curves.top, curves.lower - curves.upper
    shut = smooth_step((own - gap) / (0.03 * unit)) * (1 - smooth_step(gap / (0.05 * unit)))
    seen = np.flatnonzero(shut > 0.01)
    if not len(seen):
        return
    a, b = int(seen[0]), int(seen[-1]) + 1
    middle = ((curves.top + curves.bottom) / 2)[a:b]
    width = max(0.010 * unit, 0.9 * blur, 0.7)
    top = max(int(middle.min() - 3 * width) - bend.y0, 0)
    low = min(int(middle.max() + 3 * width) + 2 - bend.y0, region.shape[0])
    line = 0.65 * shut[a:b] * np.exp(-(((bend.rows[top:low] - middle) / width) ** 2))
    box = region[top:low, a:b]
    box += line[:, :, None] * (0.6 * lips.dark + 0.25 * lips.lip - box)


_TOOTH_BORDERS = np.array([0.0, 0.125, 0.215, 0.295])
"""Where two upper teeth meet, in units from the middle; an incisor is 8.5 mm of a unit of some 66 mm."""
_TOOTH_PLACES = np.array(
    [0.0, 0.012, 0.06, 0.115, 0.125, 0.135, 0.17, 0.205, 0.215, 0.25, 0.295, 0.4]
)
_TOOTH_EDGES = np.array(
    [-0.008, 0.0, 0.002, -0.002, -0.010, -0.007, -0.005, -0.008, -0.013, -0.006, -0.020, -0.040]
)
"""Height of the biting edge there, in units below that of the middle teeth."""


class Cavity:
    """The inside of one person's mouth."""

    def __init__(self, crop: np.ndarray, lips: Lips, *, seed: int) -> None:
        unit = lips.unit
        self.blur = blur_of(crop, lips)
        sharp = unit >= 90 and self.blur < 0.014 * unit
        self._limit = 0.92 if sharp else 0.74
        self._grain = self._texture(crop, lips, seed)
        skin, lip, light = lips.skin, lips.lip, lips.light
        # As dark as this picture gets (nostrils, lip line); what light comes in is red, not as red as
        # painted lips.
        hue = 0.6 * lip / max(float(lip.mean()), 1) + 0.4 * skin / max(float(skin.mean()), 1)
        # Grey pictures stay grey.
        colourful = ease(float(np.ptp(skin)) / max(float(skin.max()), 1) / 0.12)
        hue = hue * (1 + colourful * np.array([0.12, -0.08, -0.06], np.float32))
        deep = 0.36 * float(lips.dark.mean()) + 0.07 * float(lip.mean())
        self._dark = (deep * np.clip(hue, 0.35, 1.6)).astype(np.float32)
        self._tongue = (0.62 * float(lip.mean()) * np.clip(hue, 0.45, 1.45)).astype(np.float32)
        # In the shade of the lips teeth are about as bright as the skin around, and far less red.
        warm = 1 - colourful * np.array([0.0, 0.05, 0.16], np.float32)
        pale = 0.62 * light * warm + 0.38 * skin
        self._teeth = (pale * (1.12 * skin.mean() / max(float(pale.mean()), 1))).astype(np.float32)
        self._drawn_teeth = 1 - ease((lips.gap / unit - 0.03) / 0.04)

    def limited(self, open_: float, own: float) -> float:
        """``open`` bent softly towards what this picture bears; never below what it already shows."""
        limit = max(self._limit, own + 0.25)
        knee = max(0.6 * limit, own)
        if open_ <= knee:
            return open_
        return knee + (limit - knee) * float(np.tanh((open_ - knee) / (limit - knee)))

    @staticmethod
    def _texture(crop: np.ndarray, lips: Lips, seed: int) -> np.ndarray:
        """``(n, n)`` float32 grain: what blurring takes from a calm piece of cheek, shuffled."""
        unit = lips.unit
        side = max(round(0.24 * unit), 8)
        gray = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)
        fine = gray - cv2.GaussianBlur(gray, (0, 0), 1.5)
        best, patch = np.inf, np.zeros((side, side), np.float32)
        for dx in (-0.55, -0.45, 0.25, 0.35):
            for dy in (-0.40, -0.25):
                x, y = round(lips.centre[0] + dx * unit), round(lips.centre[1] + dy * unit)
                piece = fine[max(y, 0) : y + side, max(x, 0) : x + side]
                if piece.shape == (side, side) and piece.std() < best:
                    best, patch = float(piece.std()), piece
        rng = np.random.default_rng(seed)
        tiles = [patch, patch[::-1], patch[:, ::-1], patch[::-1, ::-1]]
        count = int(np.ceil(1.6 * unit / side))
        rows = [np.hstack([tiles[rng.integers(4)] for _ in range(count)]) for _ in range(count)]
        return np.clip(np.vstack(rows), -12, 12).astype(np.float32)

    def paint(
        self,
        region: np.ndarray,
        bend: Bend,
        curves: Curves,
        *,
        widen: float,
        opening: float,
    ) -> None:
        """Fills the opening in ``region`` (float32, changed in place)."""
        lips = bend.lips
        unit = lips.unit
        u0, l0, u1, l1 = curves.upper, curves.lower, curves.top, curves.bottom
        gap = l1 - u1
        own = l0 - u0
        if float((gap - own).max()) < 0.05:
            seal(region, bend, curves, blur=self.blur)
            return
        seen = np.flatnonzero(gap > 0.05)
        a, b = max(int(seen[0]) - 2, 0), int(seen[-1]) + 3
        soft = max(1.1 * self.blur, 0.6)
        pad = int(np.ceil(2 * soft + 0.06 * unit)) + 1
        top = max(int(np.floor(u1[a:b].min())) - bend.y0 - pad, 0)
        low = min(int(np.ceil(l1[a:b].max())) - bend.y0 + pad, region.shape[0])
        up, down = u1[a:b], l1[a:b]
        g, g0 = gap[a:b], own[a:b]
        y = bend.rows[top:low]
        x = bend.columns[a:b]
        box = region[top:low, a:b]

        inside = smooth_step((y - up) / (2 * soft) + 0.5) * smooth_step(
            (down - y) / (2 * soft) + 0.5
        )
        alpha = inside * smooth_step(g / (0.02 * unit + soft))
        # Where the picture shows its own inside, that stays; below it begins what was hidden.
        parted = ease((lips.gap / unit - 0.01) / 0.02)
        more = smooth_step(np.clip(g - g0, 0, None) / (0.05 * unit))
        keep = smooth_step((l0[a:b] + 0.01 * unit - y) / (0.04 * unit))
        alpha = alpha * (1 - parted * (1 - more * (1 - keep)))

        colour = self._colour(lips, x, y, up, down, opening=opening, bite=curves.bite, widen=widen)
        # The grain stays with the face, not with the moving lips.
        row = top + bend.y0 - round(lips.centre[1] - 0.5 * unit)
        column = a + bend.x0 - round(lips.centre[0] - 0.75 * unit)
        grain = self._grain[max(row, 0) :, max(column, 0) :][: low - top, : b - a]
        if grain.shape == alpha.shape:
            colour += (0.8 * grain)[:, :, None]
        # Lips turn inwards at their border and lose light there.
        fresh = smooth_step((g - g0) / (0.08 * unit))
        outside = np.maximum(np.maximum(up - y, y - down), 0)
        rim = 0.25 * fresh * (1 - inside) * np.exp(-outside / (0.02 * unit))
        box *= (1 - rim)[:, :, None]
        box += alpha[:, :, None] * (colour - box)
        seal(region, bend, curves, blur=self.blur)

    def _colour(
        self,
        lips: Lips,
        x: np.ndarray,
        y: np.ndarray,
        up: np.ndarray,
        down: np.ndarray,
        *,
        opening: float,
        bite: float,
        widen: float,
    ) -> np.ndarray:
        """``(h, w, 3)`` dark, tongue and teeth for columns ``x`` and rows ``y``."""
        unit, cx = lips.unit, lips.centre[0]
        middle = int(np.argmin(np.abs(x - cx)))
        half = np.where(x < cx, cx - lips.left, lips.right - cx)
        xn = np.minimum(np.abs(x - cx) / np.maximum(half, 1) / widen, 1.2)
        gap = (down - up) / unit
        depth = (y - up) / unit
        # Tongue: a dome on the floor of the mouth; light reaches its front, not the throat behind.
        dome = down[middle] - 0.66 * gap[middle] * unit * (1 - 0.6 * xn**2)
        tongue = smooth_step((y - dome) / ((0.05 + 0.55 * gap[middle]) * unit))
        tongue = tongue * (
            0.85 * ease((opening - 0.05) / 0.10) * (1 - 0.75 * smooth_step(xn / 0.95))
        )
        colour = self._dark + tongue[:, :, None] * (self._tongue - self._dark)
        if not self._drawn_teeth:
            return colour
        # Upper teeth hang from the skull: their edge stays where it is when the lips move. A head
        # turned away shows one side foreshortened.
        place = np.abs(x - cx) / unit * (lips.half / np.maximum(half, 1))
        edge = 0.035 + np.interp(place, _TOOTH_PLACES, _TOOTH_EDGES)
        level = lips.centre[1] + lips.slope * (x - cx) + edge * unit
        tooth = smooth_step((level - y) / max(2 * self.blur, 0.016 * unit) + 0.5)
        shown = smooth_step((gap - 0.03 + 0.03 * bite) / (0.06 - 0.03 * bite))
        shown = shown * (1 - 0.9 * smooth_step((xn - 0.40) / 0.5)) * self._drawn_teeth
        line = max(self.blur / unit, 0.010)
        apart = np.exp(-(((place[:, None] - _TOOTH_BORDERS) / line) ** 2)).sum(1)
        # Thin lines fade as the picture gets coarser, as they do in photographs.
        look = (1 - 0.10 * min(0.012 / line, 1.0) * apart) * (1 - 0.30 * np.minimum(xn, 1) ** 2)
        shade = 0.68 + 0.32 * smooth_step(depth / 0.06)
        teeth = self._teeth * (look * shade)[:, :, None]
        colour += (tooth * shown)[:, :, None] * (teeth - colour)
        return colour
