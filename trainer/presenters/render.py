"""Draws a presenter: a turned head, living eyes and a mouth of six numbers, into any crop or a whole picture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from .layers import (
    DEPTH_DENSITY,
    HEAD_BOX,
    JAW_DROP,
    Canvas,
    Layers,
    build,
    depth_field,
    matrix_of,
    outline,
)
from .people import Colour, Person
from .visemes import FV, JAW, OPEN, PRESS, ROUND, WIDE

SOURCE_SIZE = (640, 480)
"""Width and height of the picture that a crop is cut from."""
DEPTH_CANVAS = matrix_of(HEAD_BOX, DEPTH_DENSITY)
OPENING = 0.40
"""Height of the mouth's opening at an open of 1, in the distance from eyes to mouth."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One frame of somebody's motion; see ``Motion``."""

    yaw: float
    pitch: float
    head: np.ndarray
    body: np.ndarray
    blink: float
    gaze: np.ndarray
    index: int
    """Of the noise."""


@dataclass(frozen=True, kw_only=True)
class Mouth:
    """Outlines of a mouth in face coordinates, ``(N, 2)`` each, before the head turns."""

    upper: np.ndarray
    lower: np.ndarray
    inside: np.ndarray
    seam: np.ndarray
    teeth: np.ndarray
    lower_teeth: np.ndarray
    tongue: np.ndarray
    gleam: np.ndarray
    gap: float
    """Height of the opening in its middle."""


class Painter:
    """One person at one scale."""

    def __init__(
        self,
        person: Person,
        *,
        density: float,
        room_scale: float,
        size: tuple[int, int] = SOURCE_SIZE,
    ) -> None:
        """``density``: pixels of the result from eyes to mouth, at the most. ``room_scale``: pixels of
        the result per source pixel."""
        self.person = person
        self.layers: Layers = build(person, density, room_scale, size)
        self.depth = depth_field(person)
        self.unit = matrix_of(HEAD_BOX, density)
        self._lamp = _light_at(self.layers, self.unit, np.array([(-0.28, 1.0), (0.28, 1.0)]))
        e = person.eye_apart
        self._eye_light = _light_at(self.layers, self.unit, np.array([(-e, -0.04), (e, -0.04)]))
        levels = np.arange(256, dtype=np.float64)
        curve = ((levels / 255 - 0.5) * person.contrast + 0.5) * person.exposure * 255
        self._curve = np.clip(np.rint(curve), 0, 255).astype(np.uint8)

    def paint(
        self, moment: Moment, shape: np.ndarray, to_out: np.ndarray, size: tuple[int, int]
    ) -> np.ndarray:
        """``(h, w, 3)`` uint8 RGB. ``shape``: ``(6,)``. ``to_out``: ``(2, 3)`` source px to result px."""
        layers = self.layers
        turned = _after(to_out, _after(moment.head, _foreshortened(moment)))
        out = _warped(layers.room, to_out, size, cv2.BORDER_REPLICATE)
        for canvas, matrix in ((layers.behind, turned), (layers.body, _after(to_out, moment.body))):
            _lay(out, _warped(canvas, matrix, size, cv2.BORDER_CONSTANT))
        fold = _Turn(self, moment, shape, turned, size)
        _lay(out, fold.laid(layers.head))
        self._eyes(out, moment, fold)
        self._mouth(out, shape, fold)
        if layers.front is not None:
            _lay(out, fold.laid(layers.front))
        return self._filmed(out, moment, abs(float(np.linalg.det(to_out[:, :2]))) ** 0.5)

    def _eyes(self, out: np.ndarray, moment: Moment, turn: _Turn) -> None:
        person = self.person
        for side, light in zip((-1, 1), self._eye_light, strict=True):
            e, wide, high = person.eye_apart, person.eye_wide, person.eye_high
            t = np.linspace(-1, 1, 17)
            arch = (1 - t * t) ** 0.8
            x = side * (e + wide * t)
            tilt = -person.eye_tilt * wide * t
            low = tilt + 0.62 * high * arch
            top = tilt - high * (1.12 - 0.22 * person.fold) * arch - 0.01
            lid = top + moment.blink * (0.92 * low - top)
            look = moment.gaze * (0.075, 0.03)
            middle = np.array([side * e + look[0], -0.012 + look[1] + 0.02 * moment.blink])
            ring = np.linspace(0, 2 * np.pi, 20)
            disc = np.stack([np.cos(ring), np.sin(ring)], axis=1)
            radius = 0.092
            crease = top - 0.035 * (0.4 + arch)
            parts = [
                np.concatenate([np.stack([x, lid], 1), np.stack([x, low], 1)[::-1]]),
                middle + radius * disc,
                middle + 0.78 * radius * disc,
                middle + 0.42 * radius * disc,
                middle + (0.03 * person.light[0] + 0.025, -0.036) + 0.022 * disc,
                np.stack([x, lid], 1),
                np.concatenate([np.stack([x, crease], 1), np.stack([x, lid], 1)[::-1]]),
                np.stack([x, low], 1),
                np.stack([x, lid + 0.035], 1),
            ]
            patch = _Patch(turn, parts, margin=0.06)
            ball, iris, inner, pupil, spark, lash, cover, under, shadow = patch.parts
            skin = np.array(person.skin) * light
            white = np.array(person.sclera) * np.clip(light, 0.45, 1.05)
            patch.fill(cover, skin * (0.93, 0.88, 0.86))
            if moment.blink < 0.95:
                inside = patch.sheet(white)
                cv2.fillPoly(inside, [iris], _ink(np.array(person.iris) * 0.55), cv2.LINE_AA, 4)
                cv2.fillPoly(
                    inside,
                    [inner],
                    _ink(np.array(person.iris) * np.clip(light, 0.6, 1.1)),
                    cv2.LINE_AA,
                    4,
                )
                cv2.fillPoly(inside, [pupil], (14, 12, 12), cv2.LINE_AA, 4)
                cv2.polylines(
                    inside, [shadow], False, _ink(white * 0.55), patch.width(0.05), cv2.LINE_AA, 4
                )
                cv2.fillPoly(inside, [spark], (250, 250, 250), cv2.LINE_AA, 4)
                patch.insert(ball, inside)
            patch.line(under, skin * (0.72, 0.56, 0.54), 0.014)
            thick = 0.026 + 0.018 * person.makeup
            patch.line(lash, np.array(person.brow) * 0.38, thick)
            patch.onto(out, soft=0.004)

    def _mouth(self, out: np.ndarray, shape: np.ndarray, turn: _Turn) -> None:
        person = self.person
        mouth = mouth_of(person, shape)
        patch = _Patch(
            turn,
            [
                mouth.upper, mouth.lower, mouth.inside, mouth.seam, mouth.teeth, mouth.lower_teeth,
                mouth.tongue, mouth.gleam,
            ],
            margin=0.07,
        )  # fmt: skip
        upper, lower, inside, seam, teeth, lower_teeth, tongue, gleam = patch.parts
        light = self._lamp.mean(0)
        lip = np.array(person.lip) * light
        patch.fill(lower, lip * 1.02)
        patch.fill(upper, lip * 0.84)
        shine = patch.sheet(lip * 1.02)
        glow = lip * 1.1 + 30 * (0.4 + person.gloss * 5 + 0.6 * person.makeup)
        cv2.fillPoly(shine, [gleam], _ink(glow), cv2.LINE_AA, 4)
        shine = cv2.GaussianBlur(shine, (0, 0), max(0.5, 0.028 * patch.scale))
        patch.insert(lower, shine)
        if mouth.gap > 0.004:
            dark = np.array(person.cavity)
            deep = patch.sheet(dark)
            if mouth.gap > 0.05:
                lift = min(1.0, (mouth.gap - 0.05) / 0.2)
                flesh = dark + lift * 0.62 * (
                    np.array(person.tongue) * np.clip(light, 0.5, 1) - dark
                )
                cv2.fillPoly(deep, [tongue], _ink(flesh), cv2.LINE_AA, 4)
                deep = cv2.GaussianBlur(deep, (0, 0), max(0.5, 0.022 * patch.scale))
            white = np.array(person.teeth) * np.clip(light, 0.5, 1.04)
            if mouth.gap > 0.03:
                cv2.fillPoly(deep, [lower_teeth], _ink(white * 0.74), cv2.LINE_AA, 4)
            cv2.fillPoly(deep, [teeth], _ink(white * 0.93), cv2.LINE_AA, 4)
            patch.insert(inside, deep)
        if mouth.gap < 0.09:
            patch.line(seam, lip * (0.36, 0.26, 0.28), 0.022)
        across = self._lamp[1] / np.maximum(self._lamp[0], 0.05)
        patch.onto(out, soft=0.012, across=np.clip(across, 0.6, 1.6))

    def _filmed(self, out: np.ndarray, moment: Moment, scale: float) -> np.ndarray:
        """What the camera makes of it: blur, noise, tone, blocks."""
        person = self.person
        sigma = person.blur * min(scale, 1.0) if scale < 1 else person.blur * scale
        if sigma > 0.3:
            out = cv2.GaussianBlur(out, (0, 0), sigma)
        out = cv2.LUT(out, self._curve)
        if person.noise > 0.3:
            height, width = out.shape[:2]
            mark = (moment.index * 7919 + person.seed) % 104729
            grain = _grain()
            dy, dx = mark % 61, (mark // 61) % 59
            tiles = grain[dy : dy + min(height, 512), dx : dx + min(width, 512)]
            if tiles.shape[:2] != (height, width):
                tiles = np.tile(
                    tiles, (-(-height // tiles.shape[0]), -(-width // tiles.shape[1]), 1)
                )
                tiles = tiles[:height, :width]
            strength = person.noise * min(1.0, 0.45 + 0.55 * scale)
            out = _noisy(out, tiles, strength)
        if person.quality:
            coded = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, person.quality])[1]
            out = cv2.imdecode(coded, cv2.IMREAD_COLOR)
        return out


def mouth_of(person: Person, shape: np.ndarray) -> Mouth:
    """Outlines for ``(6,)`` numbers, each 0..1 and open up to 1.1."""
    opened, jaw, wide, rounded = (float(shape[k]) for k in (OPEN, JAW, WIDE, ROUND))
    press, fv = float(shape[PRESS]), float(shape[FV])
    half = person.mouth_wide * (1 + 0.17 * wide - 0.40 * rounded - 0.05 * opened - 0.05 * press)
    gap = OPENING * opened
    corner = 1.0 - person.smile + 0.05 * jaw * (1 - 0.5 * wide) + 0.22 * gap - 0.025 * wide
    top = 1.0 - 0.13 * gap - 0.03 * fv - 0.012 * rounded
    tucked = 0.075 * fv
    bottom = top + max(gap, tucked)
    t = np.linspace(-1, 1, 27)
    inner_x = half * (0.95 - 0.03 * press) * t
    power = 2.6 - 0.6 * rounded
    bell = 1 - np.abs(t) ** power
    corner = min(corner, 0.35 * top + 0.65 * bottom) if gap > 0 else corner
    edge_top = corner + (top - corner) * bell
    edge_low = corner + (bottom - corner) * bell
    if gap == 0 and not tucked:
        dip = 0.012 * np.exp(-((t / 0.22) ** 2)) * (1 - press)
        edge_top = edge_low = 1.0 + (corner - 1.0) * t**2 + dip
    up = (
        person.lip_upper
        * (1 - 0.12 * opened)
        * (1 - 0.62 * press)
        * (1 + 0.55 * rounded)
        * (1 - 0.15 * wide)
    )
    low = (
        person.lip_lower
        * (1 - 0.08 * opened)
        * (1 - 0.60 * press)
        * (1 + 0.5 * rounded)
        * (1 - 0.15 * wide)
    )
    low *= 1 - 0.5 * fv
    bow = 1 - person.bow * np.exp(-((t / 0.13) ** 2)) * (1 - 0.6 * rounded)
    slope = (1 - np.abs(t) ** 1.7) * (
        0.82 + 0.5 * np.exp(-(((np.abs(t) - 0.26) / 0.24) ** 2)) * 0.4
    )
    outer_x = half * t
    roof = edge_top - up * slope * bow - 0.004
    floor = edge_low + low * (1 - np.abs(t) ** 2.3) + 0.004
    inside = np.concatenate(
        [np.stack([inner_x, edge_top], 1), np.stack([inner_x, edge_low], 1)[::-1]]
    )
    rest = 1.0 + person.teeth_show - 0.035 * t * t - 0.02 * fv
    teeth_x = np.clip(1.02 * half * t, -0.31, 0.31)
    teeth = np.concatenate(
        [np.stack([teeth_x, edge_top - 0.05], 1), np.stack([teeth_x, rest], 1)[::-1]]
    )
    rim = edge_low - 0.003 - 0.045 * wide * (1 - 0.6 * opened) + 0.05 * t * t
    lower_teeth = np.concatenate(
        [np.stack([inner_x, rim], 1), np.stack([inner_x, edge_low + 0.05], 1)[::-1]]
    )
    ring = np.linspace(0, 2 * np.pi, 22)
    tongue = np.stack(
        [0.62 * half * np.cos(ring), bottom - 0.02 + 0.30 * gap * np.sin(ring)], axis=1
    )
    gleam = np.stack(
        [0.42 * half * np.cos(ring), bottom + 0.42 * low + 0.16 * low * np.sin(ring)], axis=1
    )
    return Mouth(
        upper=np.concatenate(
            [np.stack([outer_x, roof], 1), np.stack([outer_x, edge_top + 0.006], 1)[::-1]]
        ),
        lower=np.concatenate(
            [np.stack([outer_x, edge_low - 0.006], 1), np.stack([outer_x, floor], 1)[::-1]]
        ),
        inside=inside,
        seam=np.stack([1.02 * outer_x, 0.5 * (edge_top + edge_low)], 1),
        teeth=teeth,
        lower_teeth=lower_teeth,
        tongue=tongue,
        gleam=gleam,
        gap=max(gap, tucked),
    )


def points_of(person: Person) -> np.ndarray:
    """``(5, 2)`` at rest, before the head turns: eyes, tip of the nose, corners of the closed mouth.

    The corners stay where they are at rest: what the mouth says must not be told by where the crop
    is cut.
    """
    e, m = person.eye_apart, person.mouth_wide
    return np.array([(-e, 0.0), (e, 0.0), (0.0, person.nose_long - 0.02), (-m, 1.0), (m, 1.0)])


class _Turn:
    """Takes face coordinates to the result for one moment, and canvases of the head likewise."""

    def __init__(
        self,
        painter: Painter,
        moment: Moment,
        shape: np.ndarray,
        matrix: np.ndarray,
        size: tuple[int, int],
    ) -> None:
        self.matrix = matrix
        self.size = size
        self._tilt = np.array([np.sin(moment.yaw), np.sin(moment.pitch)])
        self._depth = painter.depth
        self._canvas = painter.unit
        self.scale = float(np.abs(np.linalg.det(matrix[:, :2])) ** 0.5)
        whole = _after(matrix, _inverse(DEPTH_CANVAS))
        near = cv2.warpAffine(
            self._depth, whole, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
        )
        back = _after(self._canvas, _inverse(matrix)).astype(np.float32)
        x = np.arange(size[0], dtype=np.float32)[None, :]
        y = np.arange(size[1], dtype=np.float32)[:, None]
        wide, high = self._canvas[0, 0], self._canvas[1, 1]
        self._map_x = back[0, 0] * x + (back[0, 1] * y + back[0, 2])
        self._map_y = back[1, 0] * x + (back[1, 1] * y + back[1, 2])
        self._map_x -= near * np.float32(wide * self._tilt[0])
        self._map_y -= near * np.float32(high * self._tilt[1])
        drop = JAW_DROP * float(shape[JAW])
        if drop > 0.002:
            face_x = (self._map_x - np.float32(self._canvas[0, 2])) * np.float32(1 / wide)
            face_y = (self._map_y - np.float32(self._canvas[1, 2])) * np.float32(1 / high)
            face_x *= face_x
            side = np.exp(face_x * face_x * np.float32(-2.2)) * np.float32(drop)
            once = face_y - side * _sinks(face_y)
            self._map_y -= side * _sinks(once) * np.float32(high)

    def laid(self, canvas: Canvas) -> np.ndarray:
        return cv2.remap(
            canvas.pixels,
            self._map_x,
            self._map_y,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
        )

    def points(self, points: np.ndarray) -> np.ndarray:
        """``(N, 2)`` face coordinates, as they are drawn, to result px: the inverse of ``laid``."""
        return (
            points_through(points, self._tilt, self._depth) @ self.matrix[:, :2].T
            + self.matrix[:, 2]
        )


def points_through(points: np.ndarray, tilt: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Where points come to lie when the head turns by ``tilt`` (sines of yaw and pitch)."""
    moved = points
    for _ in range(3):
        near = _sampled(depth, moved @ DEPTH_CANVAS[:, :2].T + DEPTH_CANVAS[:, 2])
        moved = points + near[:, None] * tilt
    return moved


def _sampled(field: np.ndarray, at: np.ndarray) -> np.ndarray:
    """``(N,)`` values of ``(h, w)`` between pixels."""
    x = np.clip(at[:, 0], 0, field.shape[1] - 1.001)
    y = np.clip(at[:, 1], 0, field.shape[0] - 1.001)
    i, j = y.astype(int), x.astype(int)
    b, a = y - i, x - j
    return (field[i, j] * (1 - a) + field[i, j + 1] * a) * (1 - b) + (
        field[i + 1, j] * (1 - a) + field[i + 1, j + 1] * a
    ) * b


def _sinks(y: np.ndarray) -> np.ndarray:
    """0 at the nose .. 1 at the chin: how much of the jaw's fall a height takes part in."""
    t = np.clip((y - np.float32(0.88)) * np.float32(1 / 0.62), 0, 1)
    return t * t * (3 - 2 * t)


class _Patch:
    """A small part of the result, painted finer and laid on."""

    def __init__(self, turn: _Turn, parts: list[np.ndarray], margin: float) -> None:
        placed = turn.points(np.concatenate(parts))
        room = margin * turn.scale + 1
        low = np.floor(placed.min(0) - room).astype(int)
        high = np.ceil(placed.max(0) + room).astype(int) + 1
        self._x0, self._y0 = max(int(low[0]), 0), max(int(low[1]), 0)
        self._x1, self._y1 = min(int(high[0]), turn.size[0]), min(int(high[1]), turn.size[1])
        self._fine = int(np.clip(np.ceil(110 / max(turn.scale, 1)), 2, 5))
        self.scale = turn.scale * self._fine
        fine = (placed - (self._x0, self._y0) + 0.5) * self._fine - 0.5
        rounded = np.rint(fine * 16).astype(np.int32)
        edges = np.cumsum([len(part) for part in parts])[:-1]
        self.parts = np.split(rounded, edges)
        self._shape = (
            max(self._y1 - self._y0, 0) * self._fine,
            max(self._x1 - self._x0, 0) * self._fine,
        )
        self._rgb = np.zeros((*self._shape, 3), np.uint8)
        self._cover = np.zeros(self._shape, np.uint8)

    def width(self, face: float) -> int:
        return max(1, round(face * self.scale))

    def sheet(self, colour: np.ndarray) -> np.ndarray:
        out = np.empty((*self._shape, 3), np.uint8)
        out[:] = _ink(colour)
        return out

    def fill(self, part: np.ndarray, colour: np.ndarray) -> None:
        if self._rgb.size:
            cv2.fillPoly(self._rgb, [part], _ink(colour), cv2.LINE_8, 4)
            cv2.fillPoly(self._cover, [part], 255, cv2.LINE_8, 4)

    def line(self, part: np.ndarray, colour: np.ndarray, width: float) -> None:
        if self._rgb.size:
            thick = self.width(width)
            cv2.polylines(self._rgb, [part], False, _ink(colour), thick, cv2.LINE_8, 4)
            cv2.polylines(self._cover, [part], False, 255, thick, cv2.LINE_8, 4)

    def insert(self, part: np.ndarray, sheet: np.ndarray) -> None:
        """What ``sheet`` shows inside of a polygon."""
        if self._rgb.size:
            mask = np.zeros(self._shape, np.uint8)
            cv2.fillPoly(mask, [part], 255, cv2.LINE_8, 4)
            cv2.copyTo(sheet, mask, self._rgb)
            cv2.bitwise_or(self._cover, mask, self._cover)

    def onto(self, out: np.ndarray, *, soft: float, across: np.ndarray | None = None) -> None:
        """Lays it on. ``across``: factor on each colour from the left edge to the right."""
        if not self._rgb.size:
            return
        # Colour runs out a little beyond its cover, so that soft edges do not turn dark.
        spread = cv2.dilate(self._rgb, None)
        rgb = np.where(self._cover[..., None] > 0, self._rgb, spread)
        cover = self._cover
        sigma = soft * self.scale
        if sigma > 0.5:
            cover = cv2.GaussianBlur(cover, (0, 0), sigma)
        size = (self._x1 - self._x0, self._y1 - self._y0)
        share = cover.astype(np.float32) * np.float32(1 / 255)
        ink = cv2.resize(rgb * share[..., None], size, interpolation=cv2.INTER_AREA)
        share = cv2.resize(share, size, interpolation=cv2.INTER_AREA)[..., None]
        if across is not None:
            ramp = np.linspace(0, 1, size[0])[:, None]
            ink *= (np.exp(np.log(across) * (ramp - 0.5) * 0.8)).astype(np.float32)
        part = out[self._y0 : self._y1, self._x0 : self._x1]
        part[:] = np.clip(part * (1 - share) + ink + 0.5, 0, 255)


def box_of(person: Person) -> np.ndarray:
    """``(N, 2)`` the outline that a detector's box holds: from the forehead to the chin."""
    line = outline(person)
    line = line[line[:, 1] > -0.95]
    return np.concatenate([line, line * (-1, 1)])


def _ink(colour: Colour | np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(min(max(round(float(v)), 0), 255)) for v in colour)
    return red, green, blue


def _foreshortened(moment: Moment) -> np.ndarray:
    return np.array([[np.cos(moment.yaw), 0, 0], [0, np.cos(moment.pitch), 0]])


def _after(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """``(2, 3)``: ``first``, then ``second``."""
    linear = second[:, :2] @ first[:, :2]
    return np.column_stack([linear, second[:, :2] @ first[:, 2] + second[:, 2]])


def _inverse(matrix: np.ndarray) -> np.ndarray:
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def _warped(canvas: Canvas, matrix: np.ndarray, size: tuple[int, int], border: int) -> np.ndarray:
    whole = _after(matrix, _inverse(canvas.matrix))
    return cv2.warpAffine(canvas.pixels, whole, size, flags=cv2.INTER_LINEAR, borderMode=border)


def _lay(out: np.ndarray, layer: np.ndarray) -> None:
    """Over ``out`` in place; ``layer`` ``(h, w, 4)`` with multiplied colours."""
    clear = 255 - layer[..., 3]
    below = cv2.multiply(out, cv2.merge([clear, clear, clear]), scale=1 / 255)
    cv2.add(below, layer[..., :3], dst=out)


def _light_at(layers: Layers, unit: np.ndarray, points: np.ndarray) -> np.ndarray:
    """``(N, 3)`` how light falls on a few places."""
    at = points @ unit[:, :2].T + unit[:, 2]
    return np.stack([_sampled(layers.shade[..., k], at) for k in range(3)], axis=1)


@lru_cache(maxsize=1)
def _grain() -> np.ndarray:
    """``(576, 576, 3)`` int8 noise of standard deviation 32; always the same. Read-only."""
    noise = np.random.default_rng(5).standard_normal((576, 576, 3)) * 32
    grain = np.clip(np.rint(noise), -127, 127).astype(np.int8)
    grain.setflags(write=False)
    return grain


def _noisy(out: np.ndarray, grain: np.ndarray, strength: float) -> np.ndarray:
    wide = grain.astype(np.int16) * round(strength * 8) // 256
    return np.clip(out + wide, 0, 255).astype(np.uint8)
