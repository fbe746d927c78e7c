"""Mouth shape -> pixels: bends one picture of a face and paints what an opening mouth reveals."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ...faces.align import whole_levels
from .cavity import Cavity, seal
from .lips import ANGLES, OPEN_GAIN, Lips, ease, smooth_step

NEUTRAL = np.zeros(6, np.float32)

# Amplitudes in units; from dense landmarks on talking clips (chin .07-.27, half-width .36-.47).
_WIDE, _ROUND = 0.10, 0.24
_JAW = 0.15
_RAISE = 0.16
"""Part of an opening that the upper lip does; the jaw does the rest."""


_SAG = 0.30
_BITE = 0.045
_SHADE = np.array([0.22, 0.32, 0.36], np.float32)
"""What the shadow of a lip takes from the teeth; light that comes through lips is red."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Inner borders of the lips in crop pixels, one value per column of a ``Bend``'s region."""

    upper: np.ndarray
    """``(w,)`` as the picture has them."""
    lower: np.ndarray
    top: np.ndarray
    """``(w,)`` as they shall be."""
    bottom: np.ndarray
    bite: float
    """0..1: how far the lower lip lies on the upper teeth."""


@dataclass(frozen=True, kw_only=True)
class Motion:
    """What else moves than the inner borders of the lips."""

    widen: float
    """Factor of the mouth's width."""
    chin: float
    """How far the chin goes down, in units."""
    skip: tuple[float, float] = (0.0, 0.0)
    """Units of the upper and of the lower lip rolled out of sight at the inner border."""
    thin: float = 0.0
    """Part of the lips' height that is pressed away; negative thickens."""
    blur: float = 0.7
    """Softness of the lips' borders in pixels."""
    stretch: bool = False
    """Fill the opening from what the picture shows in it: no painting will follow."""


def _look_up(picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return cv2.remap(picture, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


class Bend:
    """The part of a crop that a mouth can move, and the map that moves it. Holds no pixels.

    Displacements are computed on every second pixel, in pixel centres, and enlarged; they vanish at
    the border of the mask, so that nothing shows where the picture goes on unchanged.
    """

    def __init__(self, lips: Lips) -> None:
        unit = lips.unit
        cx = lips.centre[0]
        self.lips = lips
        self.mask = self._mask()
        seen_x, seen_y = np.flatnonzero(self.mask.any(0)), np.flatnonzero(self.mask.any(1))
        self.x0, self.x1 = int(seen_x[0]), int(seen_x[-1]) + 1
        self.y0, self.y1 = int(seen_y[0]), int(seen_y[-1]) + 1
        self.x1 -= (self.x1 - self.x0) % 2
        self.y1 -= (self.y1 - self.y0) % 2
        width, height = self.x1 - self.x0, self.y1 - self.y0
        self.columns = np.arange(self.x0, self.x1, dtype=np.float32)
        self.rows = np.arange(self.y0, self.y1, dtype=np.float32)[:, None]
        self._grid_x = np.repeat(self.columns[None], height, 0)
        self._grid_y = np.repeat(self.rows, width, 1)
        x = self.columns.reshape(-1, 2).mean(1)
        y = self.rows.reshape(-1, 2).mean(1)[:, None]
        self._x, self._y = x, y

        patch = self.mask[self.y0 : self.y1, self.x0 : self.x1]
        # Enlarging spreads by a pixel or two: keep that inside the mask.
        patch = cv2.erode(patch, np.ones((5, 5), np.uint8))
        self._quiet = cv2.resize(patch, (width // 2, height // 2), interpolation=cv2.INTER_AREA)

        half = self._half(x)
        line = (self._curve(lips.upper, x) + self._curve(lips.lower, x)) / 2
        fall = np.exp(-(((y - line) / (0.33 * unit)) ** 2))
        fall = fall * np.exp(-((np.abs(x - cx) / half / 2) ** 4))
        # The cheeks follow pursed lips, the outline of the face does not.
        sides = np.interp(np.deg2rad([0, 180]), ANGLES, lips.edge) / unit
        room = np.where(x < cx, cx - x, x - cx) / unit
        room = np.where(x < cx, sides[1], sides[0]) - room
        self._pull = ((x - cx) * fall * smooth_step((room - 0.06) / 0.36)).astype(np.float32)
        # Where shut lips meet: a smile hides half behind each, a dropped jaw was mostly the lower one.
        self._share = _RAISE + 0.34 * lips.teeth
        rest = lips.upper + self._share * (lips.lower - lips.upper)
        columns = np.arange(len(rest), dtype=np.float32)
        inside = (columns > lips.left) & (columns < lips.right)
        # An opening mouth loses the waves of its shut line.
        self._plain = rest.copy()
        if inside.sum() > 4:
            at = (columns - cx) / max(lips.half, 1)
            self._plain[inside] = np.polyval(np.polyfit(at[inside], rest[inside], 2), at[inside])
        self._fine = 1.1 * max(cx - lips.left, lips.right - cx)
        right, left = np.interp(np.deg2rad([40, 140]), ANGLES, lips.edge) * np.cos(np.deg2rad(40))
        reach = np.clip(np.where(x < cx, left, right), 0.40 * unit, 0.66 * unit)
        self._chin = np.exp(-((np.abs(x - cx) / reach) ** 3)).astype(np.float32)

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
        """``(h, w)`` float32: mouth and jaw, feathered, inside the face; below, room for a dropped jaw."""
        lips, unit, size = self.lips, self.lips.unit, self.lips.size
        cx, cy = lips.centre
        step = max(round(unit / 30), 1)
        x = (np.arange(0, size, step, dtype=np.float32) + (step - 1) / 2)[None]
        y = x.T
        radius = np.hypot(x - cx, y - cy)
        angle = np.arctan2(y - cy, x - cx)
        angle = np.where(angle < -np.pi / 2, angle + 2 * np.pi, angle)
        below = smooth_step((np.sin(ANGLES) - 0.35) / 0.6)
        reach = np.minimum(lips.edge, 0.95 * unit) + (0.02 + 0.40 * below) * unit
        edge = np.interp(angle, ANGLES, reach)
        mask = smooth_step(
            (edge - radius) / ((0.20 + 0.10 * np.sin(np.clip(angle, 0, np.pi))) * unit)
        )
        mask = mask * smooth_step((y - cy + 0.44 * unit) / (0.26 * unit))
        border = np.minimum(np.minimum(x, size - 1 - x), np.minimum(y, size - 1 - y)) / unit
        mask = mask * smooth_step((border - 0.015) / 0.12)
        full = (mask.shape[1] * step, mask.shape[0] * step)
        mask = cv2.resize(mask.astype(np.float32), full, interpolation=cv2.INTER_LINEAR)
        mask = np.ascontiguousarray(mask[:size, :size])
        edge_rows = [0, size - 1]
        mask[edge_rows] = 0
        mask[:, edge_rows] = 0
        mask.flags.writeable = False
        return mask

    def curves(
        self,
        *,
        widen: float,
        opening: float,
        bite: float = 0.0,
        purse: float = 0.0,
        sag: float = 1.0,
    ) -> Curves:
        """Where the borders of the lips are and where they shall be.

        ``widen``: factor of the mouth's width. ``opening``: the gap in units wanted in the middle.
        ``bite``: 0..1, the upper lip lifted off the teeth for f and v. ``purse``: 0..1, the opening drawn
        together from its corners. ``sag``: 0..1, how far the corners follow the jaw.
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
        extra = max(opening - own, 0.0) * unit
        # Lips part in the middle first and stay together towards the corners, the more so when rounded.
        grown = ease(extra / unit / 0.18)
        within = np.clip(np.abs(xn) / (1 - 0.12 * (1 - grown) - 0.20 * purse), 0, 1)
        arch = (1 - within**2.1) ** (1.20 - 0.38 * grown)
        share = self._share
        rest = upper + share * (lower - upper)
        kept = min(opening / own, 1.0) if own > 0 else 0.0
        plain = self._curve(self._plain, source)
        rest = rest + ease(extra / unit / 0.10) * arch * (plain - rest)
        # A dropping jaw pulls the corners along; without it every open mouth is a grin.
        corners = _SAG * sag * extra * xn**2 * np.exp(1 - xn**2)
        teeth = _BITE * bite * unit * (1 - within**2) ** 1.5
        top = rest + corners - share * kept * (lower - upper) - _RAISE * extra * arch - 0.35 * teeth
        gap = kept * (lower - upper) + extra * arch + teeth * max(1 - extra / unit / 0.1, 0)
        top = top.astype(np.float32)
        return Curves(
            upper=upper, lower=lower, top=top, bottom=(top + gap).astype(np.float32), bite=bite
        )

    def apply(self, picture: np.ndarray, curves: Curves, motion: Motion) -> np.ndarray:
        """The region bent so that the lips lie on the wanted curves, ``(h, w, 3)`` float32.

        ``picture``: the crop as float32, which OpenCV looks up faster than uint8.
        """
        four = (curves.upper, curves.lower, curves.top, curves.bottom)
        coarse = tuple(curve.reshape(-1, 2).mean(1) for curve in four)
        upper, through, lower = self._sources(coarse, self._x, self._y, self._chin, motion)
        source = np.where(self._y < coarse[2], upper, np.where(self._y > coarse[3], lower, through))
        dy = (source - self._y) * self._quiet
        dx = (1 / motion.widen - 1) * self._pull * self._quiet
        shape = (self.x1 - self.x0, self.y1 - self.y0)
        map_x = cv2.resize(dx.astype(np.float32), shape, interpolation=cv2.INTER_LINEAR)
        map_y = cv2.resize(dy.astype(np.float32), shape, interpolation=cv2.INTER_LINEAR)
        cv2.add(map_x, self._grid_x, map_x)
        cv2.add(map_y, self._grid_y, map_y)
        region = _look_up(picture, map_x, map_y)
        if self.lips.gap > 0 or motion.stretch:
            self._part(region, picture, map_x, four, motion)
        return region

    def _part(
        self,
        region: np.ndarray,
        picture: np.ndarray,
        map_x: np.ndarray,
        curves: tuple[np.ndarray, ...],
        motion: Motion,
    ) -> None:
        """Draws both lips and what is between them as three layers with soft borders, into ``region``.

        One map cannot do it: it jumps at the rims, where every pixel counts.
        """
        unit = self.lips.unit
        seen = np.flatnonzero(np.abs(self.columns - self.lips.centre[0]) <= self._fine)
        box = slice(seen[0], seen[-1] + 1)
        u0, l0, u1, l1 = (curve[box] for curve in curves)
        soft = max(motion.blur, 0.6)
        pad = int(np.ceil(soft)) + 2
        top = max(int(u1.min()) - pad - self.y0, 0)
        low = min(int(l1.max()) + pad + 1 - self.y0, region.shape[0])
        if low - top < 2:
            return
        y = self.rows[top:low]
        chin = np.repeat(self._chin, 2)[box]
        four = u0, l0, u1, l1
        upper, between, lower = (
            _look_up(picture, map_x[top:low, box], source.astype(np.float32))
            for source in self._sources(four, self.columns[box], y, chin, motion)
        )
        # Lips that come down shade the teeth they come over.
        covered = smooth_step((u1 - u0) / (0.05 * unit))
        shadow = covered * np.exp(-np.clip(y - u1, 0, None) / (0.03 * unit))
        between *= 1 - shadow[:, :, None] * _SHADE
        inside = smooth_step((y - u1) / (2 * soft) + 0.5) * smooth_step((l1 - y) / (2 * soft) + 0.5)
        inside = inside * np.minimum(l1 - u1, 1)
        below = smooth_step((y - (u1 + l1) / 2) / (2 * soft) + 0.5)
        lips = upper + below[:, :, None] * (lower - upper)
        lips += inside[:, :, None] * (between - lips)
        region[top:low, box] = lips

    def _sources(
        self,
        curves: tuple[np.ndarray, ...],
        x: np.ndarray,
        y: np.ndarray,
        chin: np.ndarray,
        motion: Motion,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``(h, w)`` source rows for columns ``x`` and rows ``y``, three times.

        As if everything lay above, between and below the inner borders of the lips.
        """
        lips, unit = self.lips, self.lips.unit
        u0, l0, u1, l1 = curves
        drop = motion.chin * unit
        over, under = u1 - y, y - l1
        rise = (u1 - u0) * (1 - smooth_step(over / (0.30 * unit)))
        foot = lips.chin + drop
        weight = smooth_step(1.15 * under / np.maximum(foot - l1, 0.1 * unit))
        fall = (1 - weight) * (l1 - l0) + weight * (drop * chin)
        tail = max(min(0.42 * unit, self.y1 - 1 - foot), 0.05 * unit)
        fall = fall * (1 - smooth_step((y - foot) / tail))

        # The lips' own rows near the line: rolled in (skipped), pressed together or pushed out.
        distance = np.maximum(np.maximum(over, under), 0)
        roll = motion.thin * distance * np.exp(-((distance / (0.14 * unit)) ** 2))
        near = unit * np.exp(-distance / (0.09 * unit))
        inner = smooth_step((self._half(x) - np.abs(x - lips.centre[0])) / (0.10 * unit) + 0.3)
        upwards, downwards = motion.skip
        upper = y - rise - (roll + upwards * near) * inner
        lower = y - fall + (roll + downwards * near) * inner
        if motion.stretch:
            through = u0 + (y - u1) / np.maximum(l1 - u1, 1e-3) * (l0 - u0)
        else:
            # Own teeth stand still behind the lips; a raised upper lip shows their roots.
            root = 0.02 * unit * smooth_step((u0 - u1) / (0.02 * unit))
            parted = l0 - u0 > 2 * root
            high = np.where(parted, u0 + root, u0 - upwards * unit * inner)
            low = np.where(parted, l0, l0 + downwards * unit * inner)
            lips_only = np.where(y < (u1 + l1) / 2, high, low)
            through = np.where(parted, np.clip(y, high, np.maximum(high, low)), lips_only)
        return upper, through, lower

    def put(self, crop: np.ndarray, region: np.ndarray) -> np.ndarray:
        """A copy of ``crop`` with the region in its place."""
        out = crop.copy()
        out[self.y0 : self.y1, self.x0 : self.x1] = whole_levels(region)
        return out


class Warper:
    """Draws any mouth shape on one picture, or on crops of a clip whose own mouth rests.

    ``crop``: ``(h, w, 3)`` uint8 aligned to ``draft_template``; ``lips``: ``lips.find`` of it. What is
    painted between the lips is made once, from the picture's own light, sharpness and grain.
    """

    def __init__(self, crop: np.ndarray, lips: Lips, *, seed: int = 0) -> None:
        self.crop = crop
        self.lips = lips
        self._picture = crop.astype(np.float32)
        self._bend = Bend(lips)
        self._cavity = Cavity(crop, lips, seed=seed)

    def render(
        self, shape: np.ndarray, *, crop: np.ndarray | None = None, lips: Lips | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """``(h, w, 3)`` uint8 crop showing ``shape`` ``(6,)``, and its ``(h, w)`` float32 mask.

        ``crop`` and ``lips``: another frame of the same person and its mouth (``lips.Tracker``);
        without them the picture given at the start. The mask must not be written to.
        """
        picture = self._picture if crop is None else crop.astype(np.float32)
        crop = self.crop if crop is None else crop
        if lips is not None and lips is not self._bend.lips:
            self._bend = Bend(lips)
        elif lips is None and self._bend.lips is not self.lips:
            self._bend = Bend(self.lips)
        bend = self._bend
        lips = bend.lips
        own = lips.shape
        open_, jaw, wide, round_, press, fv = (float(v) for v in np.clip(shape, 0, 1.1))
        open_ = self._cavity.limited(open_, float(own[0]))
        opening = OPEN_GAIN * open_
        parted = lips.gap / lips.unit
        widen = 1 + _WIDE * (wide - float(own[2])) - _ROUND * (round_ - float(own[3]))
        widen -= 0.35 * max(opening - parted, 0)
        curves = bend.curves(
            widen=widen,
            opening=opening,
            bite=min(fv, 1),
            purse=min(round_, 1),
            sag=1 - 0.7 * min(wide, 1),
        )
        # The shadow of the shut line must not end up on both rims of the opening.
        seam = 0.012 * ease(opening / 0.07) * max(0.0, 1 - parted / 0.03)
        tuck = 0.4 * lips.bottom / lips.unit * fv
        # A rim is blurred with the teeth behind it; closing lips must not drag that along.
        rim = self._cavity.blur / lips.unit * (1 - min(opening / parted, 1.0)) if parted else 0.0
        motion = Motion(
            widen=widen,
            chin=_JAW * (jaw - float(own[1])) - 0.01 * press,
            skip=(seam + rim, 1.4 * seam + rim + tuck),
            thin=0.35 * press - 0.15 * round_,
            blur=self._cavity.blur,
        )
        region = bend.apply(picture, curves, motion)
        self._cavity.paint(region, bend, curves, widen=widen, opening=opening)
        return bend.put(crop, region), bend.mask


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
    curves = bend.curves(widen=widen, opening=opening)
    motion = Motion(
        widen=widen,
        chin=0.45 * (opening - own) - 0.01 * press,
        thin=0.35 * press,
        stretch=opening >= own,
    )
    region = bend.apply(crop.astype(np.float32), curves, motion)
    seal(region, bend, curves)
    return bend.put(crop, region), bend.mask
