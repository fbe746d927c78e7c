"""Where the mouth is in an aligned crop: lip line, corners, opening, chin, cheeks and colours."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np

WORK_UNIT = 80
"""Eye-mouth distance in the small picture that is searched, so that every number below is in it."""

ANGLES = np.deg2rad(np.arange(-20, 201, 5)).astype(np.float32)
"""Directions from the mouth in which the edge of the face is sought; 0 right, 90 degrees down."""

OPEN_GAIN = 0.27
"""Gap between the lips at ``open`` = 1, in units; p95 of talkers is .13-.41 (dense landmarks)."""

_LEFT, _ABOVE, _WIDE, _HIGH = 0.85, 0.45, 1.7, 1.40
"""Searched window around the middle of the mouth corners, in units: left, above, width, height."""
_OFF = 3
"""How far a smoothed lip line may lie beside the dark one, in pixels of the small picture."""
_STEP = 1.0
"""What a step of brightness below the lip line counts beside the darkness on it."""
_FAINT = 0.75
"""How much of what tells a mouth from cheek is left where its line is faint."""


@dataclass(frozen=True, kw_only=True)
class Lips:
    """One mouth, in crop pixels. Curves hold one value per column of the crop."""

    size: int
    """Side of the crop."""
    unit: float
    """Distance eyes to mouth, the ruler of everything drawn."""
    centre: tuple[float, float]
    """Middle of the mouth under the nose, on the lip line; off the middle of the corners in a turned head."""
    left: float
    """x of the mouth corner on the left of the picture."""
    right: float
    upper: np.ndarray
    """``(w,)`` float32 y of the inner border of the upper lip; equal to ``lower`` where closed."""
    lower: np.ndarray
    """``(w,)`` float32 y of the inner border of the lower lip."""
    top: float
    """Height of the upper lip's red in the middle, pixels above ``upper``."""
    bottom: float
    """Height of the lower lip's red in the middle, pixels below ``lower``."""
    edge: np.ndarray
    """``(a,)`` float32 distance from ``centre`` to the face's edge (cheeks, jaw, chin) at ``ANGLES``."""
    skin: np.ndarray
    """``(3,)`` float32 RGB around the mouth."""
    lip: np.ndarray
    """``(3,)`` float32 RGB of the lips."""
    dark: np.ndarray
    """``(3,)`` float32 RGB of the darkest places around the mouth (lip line, nostrils)."""
    light: np.ndarray
    """``(3,)`` float32 RGB of a white surface in this light, as bright as the face's highlights."""
    teeth: float
    """0..1: how surely the opening shows teeth."""
    shape: np.ndarray
    """``(6,)`` float32 mouth shape that this mouth already has; drawing it changes nothing."""

    @cached_property
    def gap(self) -> float:
        """Largest distance between the lips in pixels."""
        return float((self.lower - self.upper).max())

    @property
    def half(self) -> float:
        """Half the distance of the corners."""
        return (self.right - self.left) / 2

    @property
    def slope(self) -> float:
        """Pixels that the mouth's axis goes down per pixel to the right."""
        ends = [round(min(max(x, 0), self.size - 1)) for x in (self.left, self.right)]
        first, last = ((self.upper[i] + self.lower[i]) / 2 for i in ends)
        return float(last - first) / max(ends[1] - ends[0], 1)

    @cached_property
    def chin(self) -> float:
        """y of the lower edge of the chin."""
        return self.centre[1] + float(np.interp(np.pi / 2, ANGLES, self.edge))

    def moved(self, dx: float, dy: float) -> Lips:
        """The same mouth shifted by ``(dx, dy)`` pixels."""
        columns = np.arange(len(self.upper), dtype=np.float32) - dx

        def along(curve: np.ndarray, at: np.ndarray) -> np.ndarray:
            return np.interp(at, np.arange(len(curve)), curve).astype(np.float32)

        return replace(
            self,
            centre=(self.centre[0] + dx, self.centre[1] + dy),
            left=self.left + dx,
            right=self.right + dx,
            upper=along(self.upper, columns) + np.float32(dy),
            lower=along(self.lower, columns) + np.float32(dy),
        )


def _between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """As ``np.clip``, which takes longer to begin than small pictures take."""
    return np.minimum(np.maximum(values, low), high)


def smooth_step(value: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, smooth in between."""
    value = _between(value, 0, 1)
    return value * value * (3 - 2 * value)


def ease(value: float) -> float:
    """``smooth_step`` of one number."""
    value = min(max(value, 0.0), 1.0)
    return value * value * (3 - 2 * value)


def _median(values: np.ndarray) -> np.ndarray:
    """As ``np.median(values, axis=0)`` of finite ones, which takes some 20 us longer, a dozen times a mouth."""
    half, odd = divmod(len(values), 2)
    if odd:
        return np.partition(values, half, axis=0)[half]
    values = np.partition(values, (half - 1, half), axis=0)
    return (values[half - 1] + values[half]) / 2


def _quantile(values: np.ndarray, share: float) -> float:
    """As ``np.quantile(values, share)`` of finite ones, which takes some 50 us longer."""
    place = share * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    values = np.partition(values, (low, high))
    return float(values[low] + (place - low) * (values[high] - values[low]))


def _rows_at(rows: np.ndarray, height: int) -> np.ndarray:
    """The nearest of ``height`` rows, as an index."""
    nearest = np.rint(rows).astype(np.intp)
    np.maximum(nearest, 0, out=nearest)
    return np.minimum(nearest, height - 1, out=nearest)


@dataclass(frozen=True, kw_only=True)
class _Window:
    """The searched part of the crop, at ``WORK_UNIT``."""

    lab: np.ndarray
    """``(h, w, 3)`` float32 CIE Lab."""
    scale: float
    """Window pixels per crop pixel."""
    origin: np.ndarray
    """``(2,)`` crop position of the centre of the window's first pixel."""

    def inside(self, points: np.ndarray) -> np.ndarray:
        return (points - self.origin) * self.scale


def _window(crop: np.ndarray, middle: np.ndarray, unit: float) -> _Window:
    scale = WORK_UNIT / unit
    shape = (round(_WIDE * WORK_UNIT) + 1, round(_HIGH * WORK_UNIT) + 1)
    origin = middle - np.array([_LEFT, _ABOVE]) * unit
    source = crop
    if scale < 0.9:
        source = cv2.GaussianBlur(crop, (0, 0), 0.5 / scale)
    matrix = np.array([[1 / scale, 0, origin[0]], [0, 1 / scale, origin[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    rgb = cv2.warpAffine(source, matrix, shape, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    lab = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return _Window(lab=lab, scale=scale, origin=origin)


def _seam(cost: np.ndarray, *, step: float = 1.5) -> np.ndarray:
    """Cheapest left-to-right path through ``(h, w)``, one row per column."""
    height, width = cost.shape
    # One row more on both sides, which no path takes.
    totals = np.full((width, height + 2), np.inf, np.float32)
    totals[0, 1:-1] = cost[:, 0]
    columns = np.ascontiguousarray(cost.T)
    beside = np.empty(height, np.float32)
    pay = np.float32(step)
    for before, after, column in zip(totals[:-1], totals[1:, 1:-1], columns[1:], strict=True):
        np.minimum(before[2:], before[:-2], out=beside)
        np.add(beside, pay, out=beside)
        np.minimum(beside, before[1:-1], out=beside)
        np.add(beside, column, out=after)
    path = np.empty(width, np.int64)
    row = path[-1] = int(np.argmin(totals[-1])) - 1
    for x in range(width - 2, -1, -1):
        above, level, below = totals[x, row : row + 3].tolist()
        if min(above, below) + step < level:
            row += 1 if below <= above else -1
        path[x] = row
    return path.astype(np.float32)


def _redness(
    lab: np.ndarray, middle: np.ndarray, half: float, slope: float
) -> tuple[np.ndarray, float]:
    """How much each pixel has the lips' colour rather than the skin's: 0 skin, 1 lip, and the contrast.

    The axis runs from the skin around the mouth to the reddest part of the mouth region, so that it
    follows painted, dark and tinted faces; brightness counts half.
    """
    height, width = lab.shape[:2]
    xs = np.arange(width, dtype=np.float32) - np.float32(middle[0])
    ys = np.arange(height, dtype=np.float32)[:, None] - np.float32(middle[1])
    dx, dy = xs / WORK_UNIT, (ys - np.float32(slope) * xs) / WORK_UNIT
    features = cv2.GaussianBlur(lab, (0, 0), 1.2) * np.array([0.5, 1, 1], np.float32)
    reach = half / WORK_UNIT
    mouth = (dx / (reach * 0.85)) ** 2 + ((dy - 0.03) / 0.16) ** 2 < 1
    ring = ((dx / (reach * 1.45)) ** 2 + ((dy - 0.04) / 0.30) ** 2 < 1) & (
        (dx / (reach * 1.2)) ** 2 + ((dy - 0.04) / 0.22) ** 2 > 1
    )
    skin = _median(features[ring])
    inside = features[mouth]
    darker = skin[0] - inside[:, 0]
    # Without colour (a grey photograph) lips are what is a little darker than skin.
    grey = float(np.clip(1 - inside[:, 1].std() / 2, 0, 1))
    score = inside[:, 1] - 0.25 * (1 - grey) * np.abs(darker) + grey * np.minimum(darker, 10)
    lip = _median(inside[score >= _quantile(score, 0.7)])
    axis = lip - skin
    contrast = float(np.linalg.norm(axis))
    value = (features - skin) @ axis / max(contrast**2, 9.0)
    return value.astype(np.float32), contrast


def find(crop: np.ndarray, points: np.ndarray) -> Lips:
    """Measures the mouth of an aligned crop without a landmark model.

    ``crop``: ``(h, w, 3)`` uint8 aligned to ``draft_template``; ``points``: ``(5, 2)`` in its pixels.
    """
    points = np.asarray(points, np.float64)
    eyes, corners = points[:2].mean(0), points[3:5]
    corners = corners[np.argsort(corners[:, 0])]
    middle = corners.mean(0)
    unit = float(np.hypot(*(middle - eyes)))
    view = _window(crop, middle, unit)
    lab = view.lab
    inner = view.inside(corners)
    slope = float(
        np.clip((inner[1, 1] - inner[0, 1]) / max(inner[1, 0] - inner[0, 0], 1), -0.3, 0.3)
    )
    here = view.inside(middle)
    half = float(np.clip((inner[1, 0] - inner[0, 0]) / 2, 0.24 * WORK_UNIT, 0.52 * WORK_UNIT))
    red, contrast = _redness(lab, here, half, slope)

    line = _lip_line(lab, red, here, half, slope)
    left, right = _corners(lab, red, line, here, half)
    line = _straightened(line, left, right)
    axis = here[1] + slope * (np.arange(lab.shape[1]) - here[0])
    upper, lower, teeth = _inner_edges(lab, red, contrast, axis, line, left, right)
    thick = _thickness(red, upper, lower, left, right)
    return _assemble(crop, points, view, red, left, right, upper, lower, teeth, thick)


def _lip_line(
    lab: np.ndarray, red: np.ndarray, middle: np.ndarray, half: float, slope: float
) -> np.ndarray:
    """``(w,)`` y of the dark line between the lips."""
    height, width = lab.shape[:2]
    light = cv2.GaussianBlur(lab[:, :, 0], (0, 0), 1.5)
    dark = light - cv2.GaussianBlur(light, (0, 0), 0.09 * WORK_UNIT)
    # The detector's corners are off by up to .18 of a unit: look beyond them.
    more = half + 0.10 * WORK_UNIT
    x0, x1 = max(round(middle[0] - more), 1), min(round(middle[0] + more), width - 2)
    reach = round(0.15 * WORK_UNIT)
    columns = np.arange(x0, x1 + 1)
    axis = middle[1] + slope * (columns - middle[0])
    rows = np.arange(-reach, reach + 1)
    index = _rows_at(np.rint(axis) + rows[:, None], height)
    # The line lies between lips: red just above and below it. A nostril or a moustache has none.
    near = cv2.GaussianBlur(_between(red, 0, 1.2), (0, 0), 0.05 * WORK_UNIT)
    cost = dark[index, columns] * 2.0 - 7.0 * near[index, columns]
    # Light comes from above: an upper lip in its own shade is dark all over, the lower one begins bright.
    fine = cv2.GaussianBlur(lab[:, :, 0], (0, 0), 1.0)
    step = np.roll(fine, -3, 0) - fine
    # A step out of the lips, onto the chin, is none: what is bright must be red as well.
    onto = np.roll(red, -6, 0)[index, columns]
    sure = smooth_step((np.minimum(near[index, columns], onto) - 0.5) / 0.3)
    cost = cost - _STEP * sure * _between(step[index, columns], 0, 15)
    cost = cost + 10.0 * (rows[:, None] / reach) ** 2
    path = _seam(cost.astype(np.float32))
    found = np.round(axis) + path - reach
    found = cv2.blur(found[None].astype(np.float32), (13, 1), borderType=cv2.BORDER_REPLICATE)[0]
    found = found + _back_on_dark(lab, columns, found, np.abs(columns - middle[0]) / half)
    everywhere = np.arange(width)
    out = np.interp(everywhere, columns, found)
    return out.astype(np.float32)


def _back_on_dark(
    lab: np.ndarray, columns: np.ndarray, line: np.ndarray, out: np.ndarray
) -> np.ndarray:
    """What a smoothed line lacks to lie on the thin dark line near the corners, in pixels.

    A sliver of skin left between the two would hang in the open mouth. ``out``: how far each column is
    from the middle, 1 at the corners; what is dark further in may be a gap between teeth.
    """
    light = lab[:, :, 0]
    thin = cv2.GaussianBlur(light, (0, 0), 3.0) - cv2.GaussianBlur(light, (0, 0), 1.0)
    offsets = np.arange(-_OFF, _OFF + 1, dtype=np.float32)[:, None]
    x = np.repeat(columns[None].astype(np.float32), len(offsets), 0)
    weight = cv2.remap(thin, x, (line + offsets).astype(np.float32), cv2.INTER_LINEAR)
    weight = np.maximum(weight, 0) ** 2
    lack = (weight * offsets).sum(0) / (weight.sum(0) + 4.0)
    lack = lack * smooth_step((out - 0.45) / 0.25)
    return cv2.blur(lack[None].astype(np.float32), (5, 1), borderType=cv2.BORDER_REPLICATE)[0]


def _corners(
    lab: np.ndarray, red: np.ndarray, line: np.ndarray, middle: np.ndarray, half: float
) -> tuple[float, float]:
    """x of both ends of the mouth: where neither a dark line nor lip colour goes on."""
    width = lab.shape[1]
    light = cv2.GaussianBlur(lab[:, :, 0], (0, 0), 1.0)
    columns = np.arange(width)

    def sample(picture: np.ndarray, shift: float) -> np.ndarray:
        return picture[_rows_at(line + shift, picture.shape[0]), columns]

    here = np.min([sample(light, s) for s in (-1, 0, 1)], axis=0)
    side = (sample(light, -7) + sample(light, 7)) / 2
    dark = np.maximum(side - here, 0)
    colour = np.mean(_between(np.stack([sample(red, s) for s in (-4, -2, 0, 2, 4)]), 0, 1), axis=0)
    centre = np.abs(columns - middle[0]) < 0.5 * half
    evidence = 0.5 * dark / max(float(_median(dark[centre])), 3.0)
    evidence = _between(evidence, 0, 1.0) + colour / max(float(_median(colour[centre])), 0.3)
    evidence = cv2.blur(evidence[None].astype(np.float32), (5, 1))[0]

    def end(direction: int) -> float:
        # Each side by its own measure: light from one side leaves little of the other.
        own = centre & ((columns - middle[0]) * direction >= 0)
        limit = 0.55 * float(_median(evidence[own]))
        expected = middle[0] + direction * half
        x = middle[0] + direction * (half - 0.22 * WORK_UNIT)
        last = expected + direction * 0.16 * WORK_UNIT
        ahead = x
        # A line may be faint for a while and go on: a shut mouth opened on one side of that is a smirk.
        while (last - ahead) * direction > 0:
            found = float(evidence[min(max(round(ahead), 0), width - 1)])
            if found <= _FAINT * limit:
                break
            ahead += direction
            if found > limit:
                x = ahead
        # The detector's own corner keeps a vote: evidence is noisy in beards and blur.
        trust = 0.9 if (x - expected) * direction > 0 else 0.75
        return trust * x + (1 - trust) * expected

    return float(end(-1)), float(end(1))


def _straightened(line: np.ndarray, left: float, right: float) -> np.ndarray:
    """Outside the corners the line goes on level, where the search saw only cheek."""
    columns = np.arange(len(line))
    x0, x1 = int(np.ceil(left)), int(np.floor(right))
    return np.interp(columns, columns[x0 : x1 + 1], line[x0 : x1 + 1]).astype(np.float32)


def _inner_edges(
    lab: np.ndarray,
    red: np.ndarray,
    contrast: float,
    axis: np.ndarray,
    line: np.ndarray,
    left: float,
    right: float,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Inner borders of the lips where teeth or a dark gap part them; else both are the lip line.

    Both borders hang between the corners like a power arch. Their two heights are chosen together, so
    that what lies between looks unlike lips (pale or dark) and what lies just outside looks like lips.
    """
    height, width = lab.shape[:2]
    closed = line.copy(), line.copy(), 0.0
    middle, half = (left + right) / 2, (right - left) / 2
    columns = np.arange(int(np.ceil(left)) + 2, int(np.floor(right)) - 1)
    if contrast < 5 or len(columns) < 8:
        return closed
    light = cv2.GaussianBlur(lab[:, :, 0], (0, 0), 1.0)
    # Teeth are a hole in the red: what closing the red from above and below would fill.
    bounded = _between(red, 0, 1.4)
    full = cv2.morphologyEx(
        bounded, cv2.MORPH_CLOSE, np.ones((round(0.34 * WORK_UNIT), 1), np.uint8)
    )
    hole = (full - bounded) / np.maximum(full, 0.5)
    pale = smooth_step((hole - 0.06) / 0.20) * smooth_step((full - 0.4) / 0.3)
    rows = _rows_at(line[columns] + np.arange(-9, 13)[:, None], height)
    around = light[rows, columns][red[rows, columns] > 0.6]
    lip_light = _quantile(around, 0.6) if around.size else float(_median(light.ravel()))
    dark = smooth_step((lip_light - 3 - light) / 10) * smooth_step((full - 0.3) / 0.3)
    # A shaded or painted upper lip is dark as well, but keeps its colour.
    colour = np.hypot(lab[:, :, 1], lab[:, :, 2])
    colour = cv2.GaussianBlur(colour, (0, 0), 1.0)
    lip_colour = colour[rows, columns][red[rows, columns] > 0.6]
    typical = float(_median(lip_colour if lip_colour.size else colour.ravel()))
    dark = dark * (1 - smooth_step((colour / max(typical, 1) - 0.88) / 0.25))
    if typical < 2:
        # A grey photograph: nothing tells teeth from skin, or a gap from lips.
        return closed
    foreign = np.maximum(dark, pale) * 2 - 1
    sure = min(1.0, contrast / 12)
    lips = smooth_step((red - 0.2) / 0.4) * 2 - 1
    total = np.concatenate([np.zeros((1, width)), np.cumsum(foreign * sure, 0)]).astype(np.float32)
    band = np.concatenate([np.zeros((1, width)), np.cumsum(lips * sure, 0)]).astype(np.float32)
    rims = 0.04 * WORK_UNIT, 0.06 * WORK_UNIT

    def at(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _rows_at(rows, height + 1), columns

    def parted(base: np.ndarray, arch: np.ndarray, heights: np.ndarray) -> tuple[float, int, int]:
        """How much better than shut lips two arches over ``base`` explain the picture, and which."""
        edge = base[columns] + heights[:, None] * arch[columns]
        here = at(edge)
        area, there = total[here].sum(1), band[here]
        above = (there - band[at(edge - rims[0])]).mean(1) / rims[0]
        below = (band[at(edge + rims[1])] - there).mean(1) / rims[1]
        # Skin is as pale as teeth: without lip on both sides there is no opening, however large.
        framed = (above[:, None] > -0.3 * sure) & (below[None, :] > 0.1 * sure)
        bands = rims[0] * above[:, None] + rims[1] * below[None, :]
        score = (area[None, :] - area[:, None]) + 1.5 * len(columns) * bands
        gap = heights[None, :] - heights[:, None]
        # The dark line is a border of the opening, or lies in it under the upper teeth.
        far = edge[:, len(columns) // 2] - line[columns[len(columns) // 2]]
        framed &= (far > -0.14 * WORK_UNIT)[:, None] & (far > -0.03 * WORK_UNIT)[None, :]
        score = np.where(framed & (gap >= 0) & (gap < 0.45 * WORK_UNIT), score, -np.inf)
        i, j = np.unravel_index(int(np.argmax(score)), score.shape)
        # A shut mouth explains a thin dark line as well; parting the lips must pay for itself.
        cheap = max(float(np.diag(score).max()), 0.0) + 0.007 * WORK_UNIT * len(columns)
        if gap[i, j] < 0.035 * WORK_UNIT:
            return 0.0, 0, 0
        return float(score[i, j]) - cheap, int(i), int(j)

    every = _between((np.arange(width) - middle) / half, -1, 1)
    ends = np.interp([left + 2, right - 2], np.arange(width), line)
    straight = ends.mean() + (ends[1] - ends[0]) / 2 * every
    wide = (1 - np.abs(every) ** 2.2) ** 0.7
    narrow = _between(1 - (every / 0.7) ** 2, 0, 1) ** 0.8
    every_height = np.arange(-0.15, 0.42, 0.01) * WORK_UNIT
    small_height = np.arange(-0.08, 0.11, 0.01) * WORK_UNIT

    def best(
        *families: tuple[np.ndarray, np.ndarray, np.ndarray],
    ) -> tuple[float, np.ndarray, np.ndarray]:
        found = []
        for base, arch, heights in families:
            gain, i, j = parted(base, arch, heights)
            found.append((gain, base + heights[i] * arch, base + heights[j] * arch))
        return max(found, key=lambda option: option[0])

    gain, upper, lower = best(
        (straight, wide, every_height), (line, wide, every_height), (line, narrow, small_height)
    )
    if gain <= 0:
        # The line may have followed teeth; the detector's corners have not.
        gain, upper, lower = best((axis, wide, every_height))
    if gain <= 0:
        return closed
    reach = (np.abs(every) < 0.6) & (lower - upper > 2)
    rows = _rows_at((upper + lower)[reach] / 2, height)
    seen = float(_median(lab[rows, np.flatnonzero(reach), 0]))
    teeth = float(np.clip((seen - 0.75 * lip_light) / (0.35 * lip_light), 0, 1))
    return upper.astype(np.float32), lower.astype(np.float32), teeth


def _thickness(
    red: np.ndarray, upper: np.ndarray, lower: np.ndarray, left: float, right: float
) -> tuple[float, float]:
    """Heights of the upper and of the lower lip's red around the middle, in units."""
    middle, half = (left + right) / 2, (right - left) / 2
    columns = np.arange(int(middle - 0.4 * half), int(middle + 0.4 * half) + 1)
    reach = np.arange(2, round(0.24 * WORK_UNIT))
    up = _rows_at(upper[columns] - reach[:, None], red.shape[0])
    low = _rows_at(lower[columns] + reach[:, None], red.shape[0])

    def run(colour: np.ndarray) -> float:
        out = colour < 0.45
        out[:2] = False
        ends = np.where(out.any(0), np.argmax(out, 0), len(out))
        return float(_median(ends) + 2) / WORK_UNIT

    top, bottom = run(red[up, columns]), run(red[low, columns])
    return float(np.clip(top, 0.04, 0.14)), float(np.clip(bottom, 0.06, 0.18))


def _assemble(
    crop: np.ndarray,
    points: np.ndarray,
    view: _Window,
    red: np.ndarray,
    left: float,
    right: float,
    upper: np.ndarray,
    lower: np.ndarray,
    teeth: float,
    thick: tuple[float, float],
) -> Lips:
    width = crop.shape[1]
    unit = WORK_UNIT / view.scale
    columns = np.arange(width, dtype=np.float64)

    def back(curve: np.ndarray) -> np.ndarray:
        at = (columns - view.origin[0]) * view.scale
        return (np.interp(at, np.arange(len(curve)), curve) / view.scale + view.origin[1]).astype(
            np.float32
        )

    up, low = back(upper), back(lower)
    x0, x1 = (float(v / view.scale + view.origin[0]) for v in (left, right))
    nose = points[2, 0] - points[:2, 0].mean()
    centre_x = float(
        np.clip((x0 + x1) / 2 + 0.25 * nose, x0 + 0.35 * (x1 - x0), x1 - 0.35 * (x1 - x0))
    )
    at = round(centre_x)
    centre_y = float((up[at] + low[at]) / 2)
    gap = float((low - up).max())
    edge = _edge(crop, (centre_x, centre_y), unit, nose / unit)
    skin, lip, dark, light = _colours(crop, view, red, upper, lower)
    opening = gap / unit / OPEN_GAIN
    # A smile parts the lips with the jaw shut; a dark gap is a dropped jaw.
    shape = np.array([opening, opening * (0.9 - 0.5 * teeth), 0, 0, 0, 0], np.float32)
    return Lips(
        size=width,
        unit=unit,
        centre=(centre_x, centre_y),
        left=x0,
        right=x1,
        upper=up,
        lower=low,
        top=thick[0] * unit,
        bottom=thick[1] * unit,
        edge=edge,
        skin=skin,
        lip=lip,
        dark=dark,
        light=light,
        teeth=teeth,
        shape=shape,
    )


def _edge(crop: np.ndarray, centre: tuple[float, float], unit: float, turn: float) -> np.ndarray:
    """``(a,)`` distance to the edge of the face at ``ANGLES``: the strongest change near the usual place.

    ``turn``: how far the nose is off the middle of the eyes, in units; the near side is shorter.
    """
    # Means over photographed faces (dense landmarks), from the side of the mouth down to the chin.
    degrees, usual = (-20, 0, 18, 34, 50, 66, 90), (0.98, 0.86, 0.79, 0.73, 0.69, 0.68, 0.67)
    folded = np.minimum(np.rad2deg(ANGLES), 180 - np.rad2deg(ANGLES))
    side = np.cos(ANGLES)
    expected = np.interp(folded, degrees, usual) - 1.5 * turn * side * np.abs(side)
    expected = np.clip(expected, 0.45, 1.15)
    steps = np.linspace(-0.30, 0.20, 51)
    radius = (expected[None] + steps[:, None]) * unit
    work = np.clip(unit / 40, 1, None)
    soft = cv2.GaussianBlur(crop, (0, 0), 0.6 * work) if work > 1 else crop
    far = 0.05 * unit

    def at(r: np.ndarray) -> np.ndarray:
        x = (centre[0] + r * np.cos(ANGLES)).astype(np.float32)
        y = (centre[1] + r * np.sin(ANGLES)).astype(np.float32)
        rgb = cv2.remap(soft, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)

    inside, outside = at(radius - far), at(radius + far)
    change = np.sqrt((((outside - inside) * np.array([0.7, 1, 1], np.float32)) ** 2).sum(-1))
    # Faces end in shade or in another colour; a step to brighter skin is a cheek, not an edge.
    change = np.where(outside[:, :, 0] > inside[:, :, 0] + 4, 0.6 * change, change)
    change = np.minimum(change, 25) / 25
    # Beyond one edge there may be others, of the neck or the collar: the first clear one counts.
    passed = np.maximum.accumulate(change, 0)
    passed = np.concatenate([np.zeros((8, len(ANGLES))), passed[:-8]])
    cost = 2.0 * passed - 3.0 * change + 1.5 * (steps[:, None] / 0.15) ** 2
    cost = np.pad(cost, ((0, 0), (1, 1)), mode="edge")
    path = _seam(cost.astype(np.float32), step=0.5)[1:-1]
    path = cv2.GaussianBlur(path[None], (0, 0), 1.2, borderType=cv2.BORDER_REPLICATE)[0]
    found = expected + np.interp(path, np.arange(len(steps)), steps)
    return (found * unit).astype(np.float32)


def _within(low: float, high: float) -> slice:
    # Rounded first: .85 - .55 is a hair under .3.
    return slice(math.floor(round(low * WORK_UNIT, 6)) + 1, math.ceil(round(high * WORK_UNIT, 6)))


def _columns(low: float, high: float) -> slice:
    """Those of the searched window between two distances from its middle, in units; neither is in."""
    return _within(_LEFT + low, _LEFT + high)


def _rows(low: float, high: float) -> slice:
    """As ``_columns``."""
    return _within(_ABOVE + low, _ABOVE + high)


def _colours(
    crop: np.ndarray, view: _Window, red: np.ndarray, upper: np.ndarray, lower: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Skin, lip, black and white as this picture shows them."""
    rgb = np.clip(cv2.cvtColor(view.lab, cv2.COLOR_LAB2RGB), 0, 1) * 255
    beside = rgb[_rows(-0.42, -0.05)]
    cheeks = [
        beside[:, columns].reshape(-1, 3)
        for columns in (_columns(-0.5, -0.25), _columns(0.25, 0.5))
    ]
    skin = _median(np.concatenate(cheeks))
    middle = _columns(-0.25, 0.25)
    ys = np.arange(red.shape[0])[:, None]
    above, below = upper[middle], lower[middle]
    lips = (ys < above - 2) & (ys > above - 9) | (ys > below + 2) & (ys < below + 12)
    red = red[:, middle][lips]
    lip = _median(rgb[:, middle][lips][red >= _quantile(red, 0.5)])
    around = rgb[:, _columns(-0.55, 0.55)].reshape(-1, 3)
    bright = around.sum(1)
    high = _median(around[bright >= _quantile(bright, 0.95)])
    inside = rgb[_rows(-0.40, 0.40), _columns(-0.30, 0.30)].reshape(-1, 3)
    bright = inside.sum(1)
    dark = _median(inside[bright <= _quantile(bright, 0.01)])
    # Highlights keep some of the skin's hue; part of it is taken out.
    light = float(high.max()) * (0.4 + 0.6 * high / max(float(high.max()), 1))
    skin, lip, dark, light = np.array([skin, lip, dark, light], np.float32)
    return skin, lip, dark, light


def unevenness(crop: np.ndarray, lips: Lips) -> float:
    """How much the brightness changes along a shut lip line, as a part of the lips' brightness.

    .02 for lips that meet everywhere; a corner of a tooth or a speck of dark between them makes .05 to .1.
    """
    step = lips.unit / WORK_UNIT
    x = np.arange(lips.left + 0.2 * lips.half, lips.right - 0.2 * lips.half, step)
    line = np.interp(x, np.arange(len(lips.upper)), (lips.upper + lips.lower) / 2)
    rows = line + np.arange(-4, 5)[:, None] * step
    gray = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)
    gray = cv2.GaussianBlur(gray, (0, 0), max(0.8 * step, 0.3))
    columns = np.repeat(x[None].astype(np.float32), len(rows), 0)
    band = cv2.remap(gray, columns, rows.astype(np.float32), cv2.INTER_LINEAR)
    along = band.min(0)
    slow = cv2.GaussianBlur(along[None], (0, 0), 5)[0]
    return float((along - slow).std() / max(float(band.mean()), 1.0))


class Tracker:
    """Carries a mouth measured once over to the next aligned crops of the same clip.

    Aligned crops hardly move, so only a small shift is corrected, and only as fast as a head wanders:
    what is measured frame by frame trembles, and a trembling lip line is seen before a displaced one.
    """

    REACH = 0.10
    """Largest shift that is followed, in units."""

    def __init__(self, crop: np.ndarray, lips: Lips) -> None:
        self.lips = lips
        self._scale = min(1.0, 40 / lips.unit)
        self._shift = np.zeros(2)
        self._first = True
        unit = lips.unit
        # Nose base and upper lip: they hold still relative to the lip line while the jaw moves.
        x, y = lips.centre[0], (lips.centre[1] + float(lips.upper[round(lips.centre[0])])) / 2
        self._box = (x - 0.50 * unit, y - 0.42 * unit, x + 0.50 * unit, y + 0.10 * unit)
        self._template = self._cut(crop, 0.0)
        # The parabola through a lopsided peak is off by a constant; the picture's own peak tells it.
        self._bias = np.zeros(2)
        self._bias = self._measured(crop)

    def _cut(self, crop: np.ndarray, margin: float) -> np.ndarray:
        x0, y0, x1, y1 = self._box
        step = 1 / self._scale
        more = round(margin * self.lips.unit * self._scale)
        width = round((x1 - x0) * self._scale) + 2 * more
        height = round((y1 - y0) * self._scale) + 2 * more
        matrix = np.array([[step, 0, x0 - more * step], [0, step, y0 - more * step]])
        patch = cv2.warpAffine(
            crop,
            matrix,
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        gray = cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY).astype(np.float32)
        return cv2.GaussianBlur(gray, (0, 0), 1.0)

    def _measured(self, crop: np.ndarray) -> np.ndarray:
        """``(2,)`` shift of the face in pixels; the last one where it is not recognised."""
        seen = self._cut(crop, self.REACH)
        score = cv2.matchTemplate(seen, self._template, cv2.TM_CCOEFF_NORMED)
        row, column = np.unravel_index(int(np.argmax(score)), score.shape)
        if score[row, column] <= 0.5:
            return self._shift
        peak = np.array([_peak(score[row], int(column)), _peak(score[:, column], int(row))])
        centre = (np.array(score.shape[::-1]) - 1) / 2
        return (peak - centre) / self._scale - self._bias

    def see(self, crop: np.ndarray) -> Lips:
        """The mouth in the next crop; a cut to another shot needs a new tracker."""
        pace = 1.0 if self._first else 0.25
        self._first = False
        self._shift = self._shift + pace * (self._measured(crop) - self._shift)
        return self.lips.moved(float(self._shift[0]), float(self._shift[1]))


def _peak(values: np.ndarray, at: int) -> float:
    """Position of a maximum to a fraction of a sample, by the parabola through its neighbours."""
    if not 0 < at < len(values) - 1:
        return float(at)
    a, b, c = (float(v) for v in values[at - 1 : at + 2])
    bend = a - 2 * b + c
    return at if bend >= 0 else at + 0.5 * (a - c) / bend
