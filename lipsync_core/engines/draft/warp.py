"""Mouth shape -> pixels: bends one picture of a face and paints what an opening mouth reveals."""

from __future__ import annotations

import cv2
import numpy as np

from .cavity import Cavity
from .lips import OPEN_GAIN, Lips, ease, smooth_step

NEUTRAL = np.zeros(6, np.float32)

# Amplitudes in units; from dense landmarks on talking clips (chin .07-.27, half-width .36-.47).
_WIDE, _ROUND = 0.10, 0.24
_JAW = 0.15
_RAISE = 0.16
"""Part of an opening that the upper lip does; the jaw does the rest."""


class Bend:
    """The part of a crop that a mouth can move, and the map that moves it. Holds no pixels.

    Displacements are computed on every second pixel, in pixel centres, and enlarged; they vanish at
    the border of the mask, so that nothing shows where the picture goes on unchanged.
    """

    def __init__(self, lips: Lips) -> None:
        unit, size = lips.unit, lips.size
        cx, cy = lips.centre
        self.lips = lips
        self.x0 = int(max(np.floor(cx - 1.05 * unit), 0))
        self.x1 = int(min(np.ceil(cx + 1.05 * unit), size))
        self.y0 = int(max(np.floor(cy - 0.45 * unit), 0))
        self.y1 = size
        self.x1 -= (self.x1 - self.x0) % 2
        self.y0 += (self.y1 - self.y0) % 2
        width, height = self.x1 - self.x0, self.y1 - self.y0
        self.columns = np.arange(self.x0, self.x1, dtype=np.float32)
        self.rows = np.arange(self.y0, self.y1, dtype=np.float32)[:, None]
        self._grid_x = np.repeat(self.columns[None], height, 0)
        self._grid_y = np.repeat(self.rows, width, 1)
        x = self.columns.reshape(-1, 2).mean(1)
        y = self.rows.reshape(-1, 2).mean(1)[:, None]
        self._x, self._y = x, y

        self.mask = self._mask()
        patch = self.mask[self.y0 : self.y1, self.x0 : self.x1]
        self._quiet = cv2.resize(patch, (width // 2, height // 2), interpolation=cv2.INTER_AREA)

        half = self._half(x)
        line = (self._curve(lips.upper, x) + self._curve(lips.lower, x)) / 2
        fall = np.exp(-(((y - line) / (0.33 * unit)) ** 2)) * np.exp(
            -((np.abs(x - cx) / half / 2) ** 4)
        )
        self._pull = ((x - cx) * fall).astype(np.float32)
        reach = np.where(x < cx, cx - self._edge(0), self._edge(1) - cx)
        reach = np.clip(0.80 * reach, 0.40 * unit, 0.66 * unit)
        self._chin = np.exp(-((np.abs(x - cx) / reach) ** 3)).astype(np.float32)

    def _edge(self, side: int) -> float:
        """x of the face's edge halfway between mouth and chin."""
        row = round((self.lips.centre[1] + self.lips.chin) / 2)
        return float(self.lips.cheeks[min(row, len(self.lips.cheeks) - 1), side])

    def _half(self, x: np.ndarray) -> np.ndarray:
        """Half-width of the mouth on each column's side of the middle."""
        lips = self.lips
        cx = lips.centre[0]
        return np.where(x < cx, max(cx - lips.left, 1.0), max(lips.right - cx, 1.0)).astype(
            np.float32
        )

    @staticmethod
    def _curve(curve: np.ndarray, at: np.ndarray) -> np.ndarray:
        return np.interp(at, np.arange(len(curve)), curve).astype(np.float32)

    def _mask(self) -> np.ndarray:
        """``(h, w)`` float32: mouth and jaw, feathered, inside the face."""
        lips, unit = self.lips, self.lips.unit
        size = lips.size
        y = np.arange(size, dtype=np.float32)[:, None]
        x = np.arange(size, dtype=np.float32)
        cx, cy = lips.centre
        dx = (x - cx) / (0.92 * unit)
        down = max(lips.chin - cy, 0.4 * unit) + 0.40 * unit
        dy = np.where(y < cy, (y - cy) / (0.42 * unit), (y - cy) / down)
        radius = np.sqrt(dx**2 + dy**2)
        mask = smooth_step((1 - radius) / 0.28)
        left, right = lips.cheeks[:, :1], lips.cheeks[:, 1:]
        # Below the chin the jaw moves into the neck; only the sides are held there.
        side = np.minimum(x - left, right - x) / unit
        mask = mask * smooth_step((side + 0.02) / 0.16)
        border = np.minimum(np.minimum(x, size - 1 - x), np.minimum(y, size - 1 - y)) / unit
        mask = mask * smooth_step((border - 0.01) / 0.12)
        mask = mask.astype(np.float32)
        mask.flags.writeable = False
        return mask

    def curves(
        self, *, widen: float, opening: float, up: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Borders of the lips per column of the region: before ``(upper, lower)``, after, and the arch.

        ``opening``: the gap in units that is wanted in the middle; ``up``: extra lift of the upper lip in
        units; ``widen``: factor of the mouth's width.
        """
        lips, unit = self.lips, self.lips.unit
        x = self.columns
        cx = lips.centre[0]
        half = self._half(x)
        xn = (x - cx) / (half * widen)
        fall = np.exp(-((np.abs(x - cx) / half / 2) ** 4))
        source = x + (x - cx) * (1 / widen - 1) * fall
        upper, lower = self._curve(lips.upper, source), self._curve(lips.lower, source)
        own = lips.gap / unit
        arch = (1 - np.clip(np.abs(xn), 0, 1) ** 2.2) ** 0.7
        share = _RAISE + 0.34 * lips.teeth
        rest = upper + share * (lower - upper)
        kept = min(opening / own, 1.0) if own > 0 else 0.0
        extra = max(opening - own, 0.0) * unit * arch
        kappa = ease(max(opening - own, 0) / 0.10)
        if kappa > 0:
            inside = np.abs(xn) < 1
            if inside.sum() > 4:
                fit = np.polyval(np.polyfit(xn[inside], rest[inside], 2), np.clip(xn, -1, 1))
                rest = rest + kappa * arch * (fit - rest)
        top = rest - share * kept * (lower - upper) - _RAISE * extra - up * unit * arch
        bottom = rest + (1 - share) * kept * (lower - upper) + (1 - _RAISE) * extra
        return (
            upper,
            lower,
            top.astype(np.float32),
            np.maximum(top, bottom).astype(np.float32),
            arch,
        )

    def apply(
        self,
        crop: np.ndarray,
        curves: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray],
        *,
        widen: float,
        chin: float,
        skip: tuple[float, float],
        thin: float,
        stretch: bool,
    ) -> np.ndarray:
        """The region of ``crop`` bent so that the lips lie on the wanted curves, ``(h, w, 3)`` uint8.

        ``chin``: its shift in units. ``skip``: units of the upper and lower lip rolled out of sight.
        ``thin``: compression of the lips, negative thickens. ``stretch``: fill the opening from what the
        picture shows in it (no painting will follow).
        """
        lips, unit = self.lips, self.lips.unit
        u0, l0, u1, l1, _ = (c.reshape(-1, 2).mean(1) for c in curves)
        x, y = self._x, self._y
        drop = chin * unit
        over, under = u1 - y, y - l1
        above, below = over > 0, under > 0

        rise = (u1 - u0) * (1 - smooth_step(over / (0.30 * unit)))
        foot = lips.chin + drop
        t = under / np.maximum(foot - l1, 0.1 * unit)
        weight = smooth_step(1.15 * t)
        fall = (1 - weight) * (l1 - l0) + weight * (drop * self._chin)
        tail = max(min(0.42 * unit, self.y1 - 1 - foot), 0.05 * unit)
        fall = fall * (1 - smooth_step((y - foot) / tail))
        dy = np.where(above, -rise, np.where(below, -fall, 0))

        # The lips' own rows near the line: rolled in (skipped), pressed together or pushed out.
        distance = np.maximum(np.maximum(over, under), 0)
        roll = thin * distance * np.exp(-((distance / (0.14 * unit)) ** 2))
        near = np.exp(-distance / (0.09 * unit))
        inner = smooth_step((self._half(x) - np.abs(x - lips.centre[0])) / (0.10 * unit) + 0.3)
        dy = np.where(
            above,
            dy - (roll + skip[0] * unit * near) * inner,
            np.where(below, dy + (roll + skip[1] * unit * near) * inner, dy),
        )
        gap = ~(above | below)
        if stretch:
            tall = np.maximum(l1 - u1, 1e-3)
            through = u0 + (y - u1) / tall * (l0 - u0)
        else:
            # Own teeth stand still behind the lips; a raised upper lip shows their roots.
            root = 0.02 * unit * smooth_step((u0 - u1) / (0.02 * unit))
            parted = l0 - u0 > 2 * root
            high = np.where(parted, u0 + root, u0 - skip[0] * unit * inner)
            low = np.where(parted, l0, l0 + skip[1] * unit * inner)
            lips_only = np.where(y < (u1 + l1) / 2, high, low)
            through = np.where(parted, np.clip(y, high, np.maximum(high, low)), lips_only)
        dy = np.where(gap, through - y, dy)
        dx = (1 / widen - 1) * self._pull
        quiet = self._quiet
        return self._remap(crop, dx * quiet, dy * quiet)

    def _remap(self, crop: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        shape = (self.x1 - self.x0, self.y1 - self.y0)
        map_x = cv2.resize(dx.astype(np.float32), shape, interpolation=cv2.INTER_LINEAR)
        map_y = cv2.resize(dy.astype(np.float32), shape, interpolation=cv2.INTER_LINEAR)
        cv2.add(map_x, self._grid_x, map_x)
        cv2.add(map_y, self._grid_y, map_y)
        return cv2.remap(crop, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)

    def put(self, crop: np.ndarray, region: np.ndarray) -> np.ndarray:
        """A copy of ``crop`` with the region in its place."""
        out = crop.copy()
        out[self.y0 : self.y1, self.x0 : self.x1] = region
        return out


class Warper:
    """Draws any mouth shape on one picture, or on crops of a clip whose own mouth rests.

    ``crop``: ``(h, w, 3)`` uint8 aligned to ``draft_template``; ``lips``: ``lips.find`` of it. What is
    painted between the lips is made once, from the picture's own light, sharpness and grain.
    """

    def __init__(self, crop: np.ndarray, lips: Lips, *, seed: int = 0) -> None:
        self.crop = crop
        self.lips = lips
        self._bend = Bend(lips)
        self._cavity = Cavity(crop, lips, seed=seed)

    def render(
        self, shape: np.ndarray, *, crop: np.ndarray | None = None, lips: Lips | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """``(h, w, 3)`` uint8 crop showing ``shape`` ``(6,)``, and its ``(h, w)`` float32 mask.

        ``crop`` and ``lips``: another frame of the same person and its mouth (``lips.Tracker``);
        without them the picture given at the start. The mask must not be written to.
        """
        picture = self.crop if crop is None else crop
        if lips is not None and lips is not self._bend.lips:
            self._bend = Bend(lips)
        elif lips is None and self._bend.lips is not self.lips:
            self._bend = Bend(self.lips)
        bend = self._bend
        lips = bend.lips
        own = lips.shape
        open_, jaw, wide, round_, press, fv = (float(v) for v in np.clip(shape, 0, 1.1))
        open_ = self._cavity.limited(open_, float(own[0]))
        # A lip on teeth needs a small gap to show them.
        opening = max(OPEN_GAIN * open_, 0.045 * fv)
        widen = 1 + _WIDE * (wide - own[2]) - _ROUND * (round_ - own[3])
        curves = bend.curves(widen=widen, opening=opening, up=0.02 * fv)
        parted = lips.gap / lips.unit
        # The shadow of the shut line must not end up on both rims of the opening.
        seam = 0.020 * ease(opening / 0.07) * max(0.0, 1 - parted / 0.03)
        tuck = 0.4 * lips.bottom / lips.unit * fv
        region = bend.apply(
            picture,
            curves,
            widen=widen,
            chin=_JAW * (jaw - float(own[1])) - 0.01 * press,
            skip=(seam, seam + tuck),
            thin=0.35 * press - 0.15 * round_,
            stretch=False,
        )
        self._cavity.paint(
            region, bend, curves, widen=widen, opening=opening, jaw=jaw, round_=round_
        )
        return bend.put(picture, region), bend.mask


def nudge(
    crop: np.ndarray,
    lips: Lips,
    *,
    open_delta: float = 0.0,
    wide_delta: float = 0.0,
    press: float = 0.0,
    bend: Bend | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Corrects the mouth of a real frame a little; paints nothing that the frame does not show.

    ``open_delta``: added to the gap between the lips, in units of ``lips.unit``, signed; the result
    never goes below shut. ``wide_delta``: -1 (rounded) .. 1 (wide). ``press``: 0..1, lips thinned.
    ``bend``: ``Bend(lips)``, if the same lips are used again. Returns crop and mask like ``Warper``.
    """
    bend = Bend(lips) if bend is None else bend
    own = lips.gap / lips.unit
    opening = max(own + open_delta, 0.0)
    widen = 1 + (_WIDE if wide_delta > 0 else _ROUND) * wide_delta
    curves = bend.curves(widen=widen, opening=opening, up=0.0)
    region = bend.apply(
        crop,
        curves,
        widen=widen,
        chin=0.45 * (opening - own) - 0.01 * press,
        skip=(0.0, 0.0),
        thin=0.35 * press,
        stretch=True,
    )
    return bend.put(crop, region), bend.mask
