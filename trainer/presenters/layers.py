"""What of a presenter does not change from frame to frame: head, hair, neck, clothes and room, painted once."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .people import Colour, Person

HEAD_BOX = (-1.75, -2.1, 1.75, 2.75)
"""``x0 y0 x1 y1`` that the head's canvases cover: 0, 0 between the eyes, 1 from there to the mouth."""
BODY_BOX = (-4.6, 1.2, 4.6, 6.4)
JAW_DROP = 0.27
"""How far the chin falls at a jaw of 1."""
ROOM_MARGIN = 40
"""Source pixels of room painted beyond the picture, for crops that reach over its edge."""
_FINEST = 120.0
DEPTH_DENSITY = 40.0
"""Pixels a unit of the depth field; one for all sizes, or landmarks would depend on the size of a crop."""


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """A picture with coverage: ``(h, w, 4)`` uint8, colours already multiplied by it."""

    pixels: np.ndarray
    matrix: np.ndarray
    """``(2, 3)`` from face coordinates to pixels of the canvas."""


@dataclass(frozen=True, kw_only=True)
class Layers:
    """From back to front; all in face coordinates but the room, which is in source pixels."""

    room: Canvas
    behind: Canvas
    body: Canvas
    head: Canvas
    front: Canvas | None
    """What lies over the eyes: frames of glasses."""
    shade: np.ndarray
    """``(h, w, 3)`` float32 on the head's canvas: how light falls on the bare head, about 1."""


class _Paper:
    """A canvas being painted, float32 0..255, with its own coordinates."""

    def __init__(self, box: tuple[float, float, float, float], density: float) -> None:
        self.box, self.density = box, density
        width = max(8, round((box[2] - box[0]) * density))
        height = max(8, round((box[3] - box[1]) * density))
        self.rgb = np.zeros((height, width, 3), np.float32)
        self.cover = np.zeros((height, width), np.float32)
        self.x = (box[0] + (np.arange(width, dtype=np.float32) + 0.5) / density)[None, :]
        self.y = (box[1] + (np.arange(height, dtype=np.float32) + 0.5) / density)[:, None]

    @property
    def shape(self) -> tuple[int, int]:
        return self.cover.shape[0], self.cover.shape[1]

    def place(self, points: np.ndarray) -> np.ndarray:
        """``(N, 2)`` int32 pixels times 16, as OpenCV draws with fractions."""
        at = (np.asarray(points, np.float64) - self.box[:2]) * self.density - 0.5
        return np.rint(at * 16).astype(np.int32)

    def filled(self, points: np.ndarray, soft: float = 0.0) -> np.ndarray:
        """``(h, w)`` float32 0..1: inside of a polygon; ``soft``: sigma of its edge."""
        mask = np.zeros(self.shape, np.uint8)
        cv2.fillPoly(mask, [self.place(points)], 255, cv2.LINE_AA, 4)
        return self.softened(mask.astype(np.float32) / 255, soft)

    def stroke(self, points: np.ndarray, width: float, soft: float = 0.0) -> np.ndarray:
        """The same of a line; one thinner than a pixel is fainter instead."""
        pixels = width * self.density
        mask = np.zeros(self.shape, np.uint8)
        cv2.polylines(mask, [self.place(points)], False, 255, max(1, round(pixels)), cv2.LINE_AA, 4)
        return self.softened(mask.astype(np.float32) * (min(pixels, 1.0) / 255), soft)

    def softened(self, mask: np.ndarray, soft: float) -> np.ndarray:
        sigma = soft * self.density
        return cv2.GaussianBlur(mask, (0, 0), sigma) if sigma > 0.3 else mask

    def bump(self, x: float, y: float, wide: float, high: float) -> np.ndarray:
        """A Gaussian hill of height 1."""
        across = np.exp(-0.5 * ((self.x - x) / wide) ** 2)
        return np.exp(-0.5 * ((self.y - y) / high) ** 2) * across

    def paint(self, mask: np.ndarray, colour: Colour | np.ndarray) -> None:
        """Over what is there, and beyond it."""
        share = mask[..., None]
        self.rgb += share * (np.asarray(colour, np.float32) - self.rgb)
        self.cover = mask + self.cover * (1 - mask)

    def tint(self, mask: np.ndarray, colour: Colour | np.ndarray) -> None:
        """Over what is there and nowhere else."""
        share = mask[..., None]
        self.rgb += share * (np.asarray(colour, np.float32) - self.rgb)

    def done(self, density: float) -> Canvas:
        """At the size that is wanted; this paper is finer."""
        return Canvas(
            pixels=_shrunk(self.premultiplied(), self.box, density),
            matrix=matrix_of(self.box, density),
        )

    def premultiplied(self) -> np.ndarray:
        out = np.empty((*self.shape, 4), np.float32)
        out[..., :3] = np.clip(self.rgb, 0, 255) * self.cover[..., None]
        out[..., 3] = self.cover * 255
        return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def matrix_of(box: tuple[float, float, float, float], density: float) -> np.ndarray:
    """``(2, 3)`` from the coordinates of ``box`` to pixel centres at ``density`` pixels a unit."""
    width, height = _size(box, density)
    wide, high = width / (box[2] - box[0]), height / (box[3] - box[1])
    return np.array([[wide, 0, -box[0] * wide - 0.5], [0, high, -box[1] * high - 0.5]])


def _size(box: tuple[float, float, float, float], density: float) -> tuple[int, int]:
    return max(8, round((box[2] - box[0]) * density)), max(8, round((box[3] - box[1]) * density))


def _shrunk(
    picture: np.ndarray, box: tuple[float, float, float, float], density: float
) -> np.ndarray:
    size = _size(box, density)
    if (picture.shape[1], picture.shape[0]) == size:
        return picture
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def build(person: Person, density: float, room_scale: float, size: tuple[int, int]) -> Layers:
    """Everything that stands still, for a face drawn at ``density`` pixels a unit.

    ``room_scale``: pixels of the room's canvas per source pixel. ``size``: of the source picture.
    """
    fine = min(max(2.0 * density, 48.0), max(density, _FINEST))
    rng = np.random.default_rng([person.seed, 1])
    paper = _Paper(HEAD_BOX, fine)
    depth = _depth(person, paper)
    relief = _relief(person, paper)
    shade, shine = _lit(person, depth + relief, fine)
    behind = _behind(person, fine, rng)
    _face(person, paper, shade, shine, rng)
    _features(person, paper, shade, rng)
    _hair(person, paper, rng)
    front = _glasses(person, fine) if person.glasses else None
    head_size = _size(HEAD_BOX, density)
    out_shade = cv2.resize(shade, head_size, interpolation=cv2.INTER_AREA)
    return Layers(
        room=_room(person, room_scale, size, rng),
        behind=behind.done(density),
        body=_body(person, max(16.0, min(fine, 60.0)), rng).done(min(density, 60.0)),
        head=paper.done(density),
        front=front.done(density) if front else None,
        shade=out_shade,
    )


def depth_field(person: Person) -> np.ndarray:
    """``(h, w)`` float32 on ``HEAD_BOX``: how far a point lies before the axis of the head."""
    paper = _Paper(HEAD_BOX, DEPTH_DENSITY)
    depth = _depth(person, paper)
    return cv2.GaussianBlur(depth, (0, 0), 0.04 * DEPTH_DENSITY)


def outline(person: Person) -> np.ndarray:
    """``(N, 2)``: half width of the head at heights from the crown to the chin, ``x y`` rows."""
    w, long = person.width, person.length
    rows = np.array(
        [
            (0.0, -1.62), (0.34, -1.56), (0.62, -1.40), (0.83, -1.12), (0.94, -0.72), (0.985, -0.3),
            (1.0, 0.1), (0.965, 0.45), (0.915, 0.75), (person.jaw, 1.06), (0.5 * (person.jaw + person.chin) + 0.04, long - 0.34),
            (person.chin, long - 0.16), (0.62 * person.chin, long - 0.05), (0.28 * person.chin, long - 0.008),
            (0.0, long),
        ]
    )  # fmt: skip
    rows[:, 0] *= w
    return _curve(rows, 72)


def _curve(points: np.ndarray, count: int) -> np.ndarray:
    """A smooth line through ``points`` ``(N, 2)``: Catmull-Rom, ``count`` points in all."""
    points = np.asarray(points, np.float64)
    whole = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    place = np.linspace(0, len(points) - 1 - 1e-9, count)
    i = place.astype(int)
    t = (place - i)[:, None]
    a, b, c, d = whole[i], whole[i + 1], whole[i + 2], whole[i + 3]
    return 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    )


def _mirrored(right: np.ndarray) -> np.ndarray:
    """A closed outline from its right half, top to bottom."""
    return np.concatenate([right, right[::-1] * (-1, 1)])


def _profile(person: Person, y: np.ndarray) -> np.ndarray:
    """Half width of the head at heights ``y``."""
    line = outline(person)
    order = np.maximum.accumulate(line[:, 1])
    return np.interp(y, order, line[:, 0]).astype(np.float32)


def _depth(person: Person, paper: _Paper) -> np.ndarray:
    """An egg, a little wider and longer than the face: at a steep rim a turned chin would tear."""
    half = _profile(person, np.clip(paper.y, -1.45, person.length - 0.3))
    across = paper.x / (half * 1.1 + 0.06)
    down = (paper.y - 0.1) / (person.length + 0.32)
    round_ = np.sqrt(np.clip(1 - np.abs(across) ** 2.3, 0, 1))
    tall = np.sqrt(np.clip(1 - np.abs(down) ** 2.4, 0, 1))
    return (0.86 * round_ * tall).astype(np.float32) + _nose(person, paper)


def _nose(person: Person, paper: _Paper) -> np.ndarray:
    long, wide = person.nose_long, person.nose_wide
    along = np.clip((paper.y + 0.12) / (long + 0.12), 0, 1.6)
    rise = np.where(along < 1, along**1.2, np.exp(-(((along - 1) / 0.13) ** 2)))
    breadth = person.nose_bridge + (wide * 0.52 - person.nose_bridge) * np.clip(along, 0, 1) ** 1.6
    ridge = person.nose_out * rise * np.exp(-0.5 * (paper.x / breadth) ** 2)
    wings = sum(0.10 * paper.bump(side * wide * 0.72, long - 0.03, 0.06, 0.07) for side in (-1, 1))
    return (ridge + wings).astype(np.float32)


def _relief(person: Person, paper: _Paper) -> np.ndarray:
    """Hills and hollows that light shows."""
    e, mouth = person.eye_apart, person.mouth_wide
    out = np.zeros(paper.shape, np.float32)
    for side in (-1, 1):
        out -= 0.085 * paper.bump(side * e, 0.0, 0.20, 0.13)
        out += 0.030 * paper.bump(side * e, 0.02, 0.11, 0.07)
        out += 0.055 * paper.bump(side * e * 0.95, -person.brow_high - 0.02, 0.26, 0.085)
        out += (0.05 + person.cheek) * paper.bump(side * 0.60, 0.42, 0.2, 0.17)
        out -= 0.022 * (0.5 + person.age) * paper.bump(side * e * 0.93, 0.20, 0.16, 0.035)
        fold = _curve(np.array([(0.24, 0.62), (0.34, 0.76), (0.43, 0.94), (0.44, 1.08)]), 24)
        line = paper.stroke(fold * (side, 1), 0.05, 0.035)
        out -= (0.012 + 0.05 * person.age) * line
        out -= 0.02 * paper.bump(side * (mouth + 0.07), 1.02, 0.05, 0.08)
    out += 0.075 * paper.bump(0, 1.0, 0.36, 0.22)
    out -= 0.018 * paper.bump(0, 0.83, 0.035, 0.07)
    out -= 0.055 * paper.bump(0, 1.24, 0.2, 0.055)
    out += 0.075 * paper.bump(0, person.length - 0.2, 0.2, 0.12)
    for row in range(3):
        y = -0.55 - 0.14 * row
        line = _curve(np.array([(-0.5, y + 0.03), (-0.2, y), (0.2, y), (0.5, y + 0.03)]), 24)
        out -= 0.022 * person.age**1.5 * paper.stroke(line, 0.025, 0.02)
    return out


def _lit(person: Person, height: np.ndarray, density: float) -> tuple[np.ndarray, np.ndarray]:
    """Diffuse light by channel ``(h, w, 3)`` and shine ``(h, w)``, from the slope of the face."""
    height = cv2.GaussianBlur(height, (0, 0), 0.018 * density)
    dx = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3) * (density / 8)
    dy = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3) * (density / 8)
    dx, dy = np.clip(dx, -2.2, 2.2), np.clip(dy, -2.2, 2.2)
    length = np.sqrt(dx * dx + dy * dy + 1)
    lx, ly, lz = person.light
    facing = np.clip((-dx * lx - dy * ly + lz) / length, 0, 1)
    # The other side is lit a little by the room; that is what keeps it from going black.
    fill = np.clip((dx * lx * 0.6 + 1) / length, 0, 1)
    light = person.ambient * (0.55 + 0.45 * fill) + (1.08 - person.ambient) * facing
    rgb = np.stack([light**0.85, light, light**1.1], axis=-1)
    half = np.array([lx, ly, lz + 1.0])
    half /= np.linalg.norm(half)
    shine = np.clip((-dx * half[0] - dy * half[1] + half[2]) / length, 0, 1) ** 28
    return (rgb * np.array(person.warmth)).astype(np.float32), shine.astype(np.float32)


def _noise(rng: np.random.Generator, shape: tuple[int, int], grain: float) -> np.ndarray:
    """``(h, w)`` smooth noise of standard deviation 1; ``grain``: size of its spots in pixels."""
    small = (max(3, int(shape[0] / grain) + 2), max(3, int(shape[1] / grain) + 2))
    field = rng.standard_normal(small).astype(np.float32)
    return cv2.resize(field, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def _face(
    person: Person, paper: _Paper, shade: np.ndarray, shine: np.ndarray, rng: np.random.Generator
) -> None:
    d = paper.density
    skin = np.empty((*paper.shape, 3), np.float32)
    skin[:] = person.skin
    red = person.blush * (
        paper.bump(-0.58, 0.45, 0.2, 0.16) + paper.bump(0.58, 0.45, 0.2, 0.16)
    ) + 0.7 * paper.bump(0, person.nose_long, 0.14, 0.1)
    skin *= 1 + red[..., None] * np.array([0.02, -0.10, -0.09], np.float32)
    under = paper.bump(-person.eye_apart, 0.15, 0.16, 0.06) + paper.bump(
        person.eye_apart, 0.15, 0.16, 0.06
    )
    skin *= 1 - under[..., None] * np.array([0.09, 0.12, 0.08], np.float32) * (0.4 + person.age)
    spots = 0.022 * _noise(rng, paper.shape, 0.22 * d) + 0.016 * _noise(rng, paper.shape, 0.05 * d)
    skin *= 1 + (spots + 0.010 * _noise(rng, paper.shape, 1.6))[..., None]
    if person.freckles:
        dots = np.clip(_noise(rng, paper.shape, 0.035 * d) - 1.1, 0, 1)
        dots *= paper.bump(0, 0.35, 0.62, 0.22)
        skin *= 1 - person.freckles * dots[..., None] * np.array([0.22, 0.36, 0.42], np.float32)
    lit = skin * shade + (255 * person.gloss * shine)[..., None]
    for side in (-1, 1):
        t = np.linspace(0, 2 * np.pi, 28)
        ear = np.stack([0.115 * np.cos(t), 0.27 * person.ear * np.sin(t)], axis=1)
        ear[:, 0] += 0.05 * np.sin(t) * -1
        middle = (side * (person.width * 0.99), 0.20)
        dim = np.array(person.skin) * person.warmth * (0.80 + 0.25 * side * person.light[0])
        paper.paint(paper.filled(ear * (side, 1) + middle, 0.008), dim)
        inner = ear * (0.5 * side, 0.62) + (middle[0] + side * 0.015, 0.18)
        paper.tint(0.55 * paper.filled(inner, 0.02), dim * 0.62)
        if person.earrings:
            drop = np.stack([0.035 * np.cos(t), 0.035 * np.sin(t)], axis=1)
            paper.paint(
                paper.filled(np.add(drop, (side * (person.width + 0.02), 0.5))), (214, 190, 120)
            )
    paper.paint(paper.filled(_mirrored(outline(person)), 0.006), lit)


def _features(person: Person, paper: _Paper, shade: np.ndarray, rng: np.random.Generator) -> None:
    skin = np.array(person.skin, np.float32)
    dim = skin * shade
    long, wide = person.nose_long, person.nose_wide
    # Under the nose: a soft shadow, nostrils, wings.
    paper.tint(0.32 * paper.bump(0, long + 0.09, wide * 0.8, 0.045), dim * 0.55)
    for side in (-1, 1):
        t = np.linspace(0, 2 * np.pi, 20)
        hole = np.stack([0.052 * np.cos(t), 0.026 * np.sin(t)], axis=1)
        hole = hole @ np.array([[1, 0.25 * side], [0, 1]]) + (side * wide * 0.45, long + 0.045)
        paper.tint(0.8 * paper.filled(hole, 0.012), skin * (0.34, 0.22, 0.2))
        wing = _curve(
            np.array([(0.80, -0.10), (1.02, -0.02), (1.0, 0.05), (0.78, 0.07)]) * (wide * side, 1)
            + (0, long - 0.01),
            16,
        )
        paper.tint(0.42 * paper.stroke(wing, 0.022, 0.012), dim * 0.5)
    # Lids: a crease above each eye, lashes and paint belong to the eye itself.
    for side in (-1, 1):
        e = person.eye_apart
        t = np.linspace(-1, 1, 20)
        lid = np.stack(
            [side * e + 1.04 * person.eye_wide * t, -0.045 - person.eye_high * 1.05 * (1 - t * t)],
            axis=1,
        )
        paper.tint(0.5 * paper.stroke(lid, 0.02, 0.01), dim * (0.6, 0.5, 0.48))
        if person.makeup:
            tone = np.array(person.cloth2) * 0.25 + skin * (0.62, 0.46, 0.5)
            paper.tint(0.55 * person.makeup * paper.bump(side * e, -0.10, 0.15, 0.06), tone)
        for k in range(3):
            foot = _curve(
                np.array([(0.25, -0.02 + 0.05 * k), (0.32, 0.06 * (k - 1)), (0.4, 0.09 * (k - 1))])
                * (side, 1)
                + (side * e, 0),
                10,
            )
            paper.tint(0.4 * person.age**2 * paper.stroke(foot, 0.012, 0.01), dim * 0.66)
    _brows(person, paper, rng)
    _beard(person, paper, shade, rng)


def _brows(person: Person, paper: _Paper, rng: np.random.Generator) -> None:
    for side in (-1, 1):
        t = np.linspace(-1, 1, 26)
        x = person.eye_apart + 0.30 * t + 0.02
        y = -person.brow_high - person.brow_arch * (1 - (t - 0.3) ** 2) - person.brow_tilt * t * 0.3
        thick = (
            person.brow_thick
            * np.clip(1.05 - 0.75 * np.clip(t, 0, 1) ** 1.5, 0.1, 1)
            * np.where(t < -0.8, 0.8, 1)
        )
        shape = np.concatenate([np.stack([x, y - thick], 1), np.stack([x, y + thick], 1)[::-1]]) * (
            side,
            1,
        )
        mask = paper.filled(shape, 0.014)
        hairs = 0.82 + 0.18 * _noise(rng, paper.shape, max(1.2, 0.02 * paper.density))
        paper.tint(np.clip(0.86 * mask * hairs, 0, 1), person.brow)


def _beard(person: Person, paper: _Paper, shade: np.ndarray, rng: np.random.Generator) -> None:
    if person.beard == "none":
        return
    mouth, long = person.mouth_wide, person.length
    face = paper.filled(_mirrored(outline(person)), 0.02)
    # Bare skin around the lips at rest, so that hair is never taken for the inside of the mouth.
    lips = np.clip(2.6 * paper.bump(0, 1.02, mouth * 0.78, 0.135), 0, 1)
    lip_line = np.array(
        [
            (-mouth - 0.1, 0.99),
            (-0.2, 0.83),
            (-0.05, 0.76),
            (0.05, 0.76),
            (0.2, 0.83),
            (mouth + 0.1, 0.99),
        ]
    )
    above = paper.stroke(_curve(lip_line, 30), 0.09, 0.025)
    chin = paper.filled(
        np.array(
            [
                (-0.26, 1.30),
                (0.26, 1.30),
                (0.34, long - 0.02),
                (0, long + 0.1),
                (-0.34, long - 0.02),
            ]
        ),
        0.05,
    )
    x = np.abs(paper.x) / person.width
    line = 0.52 + 0.55 * np.clip(1 - x, 0, 1) ** 0.75
    jaw = 1 / (1 + np.exp(np.clip((line - paper.y) / 0.035, -50, 50)))
    cheeks = jaw * face
    mask = {
        "stubble": 0.42 * np.maximum(cheeks, above * face),
        "moustache": 0.95 * above,
        "goatee": 0.95 * np.maximum(np.maximum(above, chin * face), 0.25 * cheeks),
        "full": 0.95 * np.maximum(cheeks, above * face),
    }[person.beard]
    mask = mask * (1 - lips)
    grain = _noise(rng, paper.shape, max(1.2, 0.022 * paper.density))
    hair = np.array(person.hair, np.float32) * 0.85 + np.array(person.skin, np.float32) * 0.08
    tone = hair * (0.55 + 0.5 * shade) * (1 + 0.16 * grain[..., None])
    strength = np.clip(mask * (1 + 0.14 * grain), 0, 1)
    paper.tint(strength, tone)


def _strands(person: Person, paper: _Paper, rng: np.random.Generator) -> np.ndarray:
    """``(h, w)`` about 1: light and dark hairs, combed down or curled, with a sheen."""
    curly = "curly" in person.hair_style
    grain = max(1.5, 0.035 * paper.density)
    if curly:
        hairs = 0.2 * _noise(rng, paper.shape, 0.11 * paper.density) + 0.1 * _noise(
            rng, paper.shape, grain
        )
    else:
        tall = (max(3, paper.shape[0] // 10), paper.shape[1])
        hairs = 0.15 * cv2.resize(
            _noise(rng, tall, grain),
            (paper.shape[1], paper.shape[0]),
            interpolation=cv2.INTER_LINEAR,
        )
    around = np.sqrt((paper.x / 1.05) ** 2 + ((paper.y + 0.1) / 1.6) ** 2)
    sheen = (
        0.28
        * np.exp(-0.5 * ((around - 0.82) / 0.07) ** 2)
        * np.clip(0.6 + 0.6 * paper.x * person.light[0], 0, 1)
    )
    fall = (
        1.0 - 0.18 * np.clip(np.abs(paper.x) - 0.6, 0, 1) + 0.25 * person.light[0] * paper.x * 0.6
    )
    return (fall + hairs + sheen).astype(np.float32)


def _hair(person: Person, paper: _Paper, rng: np.random.Generator) -> None:
    """What of the hair lies before the forehead and beside the face."""
    style = person.hair_style
    if style == "bald":
        return
    w, top = person.width, person.hair_line
    volume = {
        "crop": 0.05,
        "short": 0.13,
        "parted": 0.17,
        "curly": 0.26,
        "long curly": 0.26,
        "bun": 0.07,
    }.get(style, 0.14)
    side_low = {
        "crop": 0.0,
        "short": 0.15,
        "parted": 0.2,
        "curly": 0.25,
        "fringe": 0.2,
        "bun": 0.1,
    }.get(style, 0.6)
    outer = outline(person)
    outer = outer[outer[:, 1] < side_low + 0.25]
    middle = np.array([0.0, -0.2])
    away = outer - middle
    outer = outer + away / np.linalg.norm(away, axis=1, keepdims=True) * volume
    if "curly" in style:
        turn = np.linspace(0, 7 * np.pi, len(outer))
        outer = outer + 0.05 * np.sin(turn)[:, None] * (outer - middle)
    temple = w * (0.90 if style == "crop" else 0.86)
    if style == "fringe":
        inner = np.array(
            [
                (0.0, -0.44),
                (0.3, -0.42),
                (0.62, -0.40),
                (temple - 0.06, -0.3),
                (temple, side_low + 0.2),
            ]
        )
    elif style in ("parted", "long", "bob"):
        inner = np.array(
            [
                (0.0, top - 0.12),
                (0.28, top + 0.02),
                (0.6, top + 0.28),
                (temple - 0.04, -0.2),
                (temple, side_low + 0.2),
            ]
        )
    else:
        inner = np.array(
            [
                (0.0, top),
                (0.4, top + 0.03),
                (0.66, top + 0.2),
                (temple - 0.02, -0.28),
                (temple, side_low + 0.2),
            ]
        )
    inner = _curve(inner, 30)
    left = (-1, 1)
    mask = paper.filled(
        np.concatenate([outer, inner[::-1], inner * left, outer[::-1] * left]), 0.012
    )
    if style == "parted":
        sweep = np.array(
            [
                (-0.62, top - 0.06),
                (-0.1, top - 0.22),
                (0.5, top + 0.12),
                (0.8, -0.36),
                (0.84, -0.8),
                (0.2, -1.5),
                (-0.5, -1.3),
            ]
        )
        mask = np.maximum(
            mask, paper.filled(_curve(sweep, 40) * (1 if person.number % 2 else -1, 1), 0.02)
        )
    edge = cv2.GaussianBlur(mask, (0, 0), 0.05 * paper.density)
    paper.tint(0.34 * np.clip(edge - mask, 0, 1) * paper.cover, np.array(person.skin) * 0.4)
    tone = (
        np.array(person.hair, np.float32) * person.warmth * _strands(person, paper, rng)[..., None]
    )
    alpha = 0.72 * mask if style == "crop" else mask
    paper.paint(alpha, tone)


def _behind(person: Person, density: float, rng: np.random.Generator) -> _Paper:
    """Hair behind the head, and the neck before it."""
    paper = _Paper(HEAD_BOX, density)
    style = person.hair_style
    if style in ("long", "long curly", "bob"):
        low = 1.25 if style == "bob" else 2.6
        wide = person.width + (0.42 if "curly" in style else 0.2)
        right = _curve(
            np.array(
                [
                    (0.0, -1.78),
                    (0.7, -1.55),
                    (wide, -0.5),
                    (wide + 0.05, 0.5),
                    (wide, 1.2),
                    (wide - 0.08, low),
                    (0.3, low + 0.1),
                    (0, low),
                ]
            ),
            60,
        )
        if "curly" in style:
            right[:, 0] += 0.05 * np.sin(np.linspace(0, 17 * np.pi, len(right)))
        tone = np.array(person.hair, np.float32) * 0.72 * _strands(person, paper, rng)[..., None]
        paper.paint(paper.filled(_mirrored(right), 0.012), tone)
    elif style == "bun":
        t = np.linspace(0, 2 * np.pi, 30)
        bun = np.stack([0.4 * np.cos(t), -1.72 + 0.3 * np.sin(t)], axis=1)
        tone = np.array(person.hair, np.float32) * 0.85 * _strands(person, paper, rng)[..., None]
        paper.paint(paper.filled(bun, 0.012), tone)
    half = 0.56 + 0.9 * (person.jaw - 0.8)
    neck = _curve(np.array([(half, 0.9), (half, 1.6), (half + 0.02, 2.1), (half + 0.2, 2.75)]), 20)
    neck = np.concatenate([neck, neck[::-1] * (-1, 1)])
    across = np.clip(paper.x / half, -1, 1)
    round_ = 0.60 + 0.34 * np.sqrt(1 - 0.85 * across**2) + 0.22 * person.light[0] * across
    # The chin's shadow.
    chin = 1 - 0.42 * np.exp(-0.5 * (np.clip(paper.y - person.length + 0.05, 0, 9) / 0.22) ** 2)
    cords = 1 - 0.06 * (
        np.exp(-0.5 * ((np.abs(paper.x) - 0.2 - 0.1 * (2.4 - paper.y)) / 0.05) ** 2)
    )
    tone = np.array(person.skin, np.float32) * person.warmth * (round_ * chin * cords)[..., None]
    paper.paint(paper.filled(neck, 0.008), tone)
    return paper


def _body(person: Person, density: float, rng: np.random.Generator) -> _Paper:
    paper = _Paper(BODY_BOX, density)
    cloth, other = np.array(person.cloth, np.float32), np.array(person.cloth2, np.float32)
    right = _curve(
        np.array([(0.56, 2.12), (0.9, 2.3), (1.5, 2.52), (2.15, 2.85), (2.55, 3.5), (2.7, 6.4)]), 40
    )
    shape = np.concatenate([right, right[::-1] * (-1, 1)])
    light = 0.82 + 0.16 * person.light[0] * paper.x - 0.05 * np.clip(np.abs(paper.x) - 1.2, 0, 2)
    folds = 0.05 * _noise(rng, paper.shape, 0.5 * density) + 0.03 * _noise(
        rng, paper.shape, 0.1 * density
    )
    shade = (light + folds + 0 * paper.y)[..., None].astype(np.float32)
    paper.paint(paper.filled(shape, 0.01), cloth * shade)
    skin = np.array(person.skin, np.float32) * person.warmth * 0.86
    style = person.clothes
    deep = {"v": 3.1, "collar": 2.75, "suit": 3.4, "hood": 2.45}.get(style, 2.42)
    if style in ("v", "collar", "suit"):
        neckline = np.array([(-0.66, 2.05), (0.66, 2.05), (0.0, deep)])
    else:
        t = np.linspace(0, np.pi, 20)
        neckline = np.stack([0.68 * np.cos(t), 2.1 + (deep - 2.1) * np.sin(t)], axis=1)
    paper.tint(paper.filled(neckline, 0.012), skin)
    if style == "suit":
        shirt = np.array([(-0.6, 2.1), (0.6, 2.1), (0.16, deep), (-0.16, deep)])
        paper.tint(paper.filled(shirt, 0.01), (232, 232, 228))
        paper.tint(paper.filled(np.array([(-0.3, 2.1), (0.3, 2.1), (0, 2.5)]), 0.01), skin)
        paper.tint(
            paper.filled(np.array([(-0.1, 2.42), (0.1, 2.42), (0.14, 3.4), (-0.14, 3.4)]), 0.01),
            other,
        )
    if style in ("collar", "suit"):
        for side in (-1, 1):
            wing = np.array([(0.5, 2.02), (0.74, 2.16), (0.42, 2.68), (0.08, deep - 0.25)]) * (
                side,
                1,
            )
            paper.paint(
                paper.filled(wing, 0.008), cloth * 0.9 if style == "collar" else (224, 224, 220)
            )
            paper.tint(0.5 * paper.stroke(wing[1:], 0.02, 0.01), cloth * 0.4)
    elif style == "hood":
        for side in (-1, 1):
            rim = _curve(np.array([(0.3, 2.5), (0.72, 2.38), (0.98, 2.12)]) * (side, 1), 20)
            paper.paint(paper.stroke(rim, 0.34, 0.02), cloth * 0.8)
    else:
        paper.tint(
            0.6 * paper.stroke(neckline if style == "round" else neckline[[0, 2, 1]], 0.05, 0.012),
            cloth * 0.7,
        )
    return paper


def _glasses(person: Person, density: float) -> _Paper:
    paper = _Paper(HEAD_BOX, density)
    e = person.eye_apart
    t = np.linspace(0, 2 * np.pi, 49)
    power = {1: 2.0, 2: 4.0, 3: 3.0}[person.glasses]
    wide, high = {1: (0.27, 0.25), 2: (0.32, 0.2), 3: (0.31, 0.23)}[person.glasses]
    c, s = np.cos(t), np.sin(t)
    rim = np.stack(
        [
            np.sign(c) * np.abs(c) ** (2 / power) * wide,
            np.sign(s) * np.abs(s) ** (2 / power) * high + 0.03,
        ],
        axis=1,
    )
    thick = 0.030 if person.glasses == 1 else 0.05
    for side in (-1, 1):
        paper.paint(0.06 * paper.filled(np.add(rim, (side * e, 0))), (230, 240, 245))
        paper.paint(paper.stroke(np.add(rim, (side * e, 0)), thick), person.glasses_colour)
        arm = np.array([(e + wide, -0.02), (person.width + 0.02, -0.03)]) * (side, 1)
        paper.paint(paper.stroke(arm, thick), person.glasses_colour)
    bridge = _curve(np.array([(-(e - wide), 0.0), (0, -0.06), (e - wide, 0.0)]), 12)
    paper.paint(paper.stroke(bridge, thick), person.glasses_colour)
    return paper


def _room(person: Person, scale: float, size: tuple[int, int], rng: np.random.Generator) -> Canvas:
    """Out of focus, and a little wider than the picture."""
    wide = round((size[0] + 2 * ROOM_MARGIN) * scale)
    high = round((size[1] + 2 * ROOM_MARGIN) * scale)
    x = np.linspace(0, 1, wide, dtype=np.float32)[None, :]
    y = np.linspace(0, 1, high, dtype=np.float32)[:, None]
    one, two = np.array(person.wall, np.float32), np.array(person.wall2, np.float32)
    turn = rng.uniform(0, 2 * np.pi)
    ramp = np.clip(0.5 + (x - 0.5) * np.cos(turn) + (y - 0.5) * np.sin(turn), 0, 1)[..., None]
    picture = one * (0.9 + 0.2 * (1 - ramp))
    kind = person.room
    if kind != "plain":
        picture = one * (1 - ramp) + two * ramp
    soft = scale * rng.uniform(3, 12)
    if kind == "blobs":
        for _ in range(16):
            middle = (int(rng.uniform(0, wide)), int(rng.uniform(0, high)))
            colour = [float(v) for v in rng.uniform(20, 235, 3)]
            spot = picture.copy()
            cv2.circle(spot, middle, max(1, int(rng.uniform(8, 70) * scale)), colour, -1)
            picture = picture + rng.uniform(0.2, 0.7) * (spot - picture)
    elif kind in ("window", "shelves", "stripes"):
        picture = np.ascontiguousarray(picture)
        count = {"window": 2, "shelves": 26, "stripes": int(rng.integers(5, 14))}[kind]
        for k in range(count):
            colour = [
                float(v)
                for v in np.clip(two * rng.uniform(0.5, 1.6) + rng.normal(0, 18, 3), 5, 250)
            ]
            if kind == "window":
                left, top = rng.uniform(0, 0.7), rng.uniform(-0.1, 0.2)
                box = (left, top, left + rng.uniform(0.15, 0.3), top + rng.uniform(0.4, 0.7))
                colour = [238.0, 240.0, 236.0]
            elif kind == "shelves":
                left, row = rng.uniform(0, 1), int(rng.integers(4))
                box = (left, 0.25 * row + 0.05, left + rng.uniform(0.015, 0.05), 0.25 * row + 0.22)
            else:
                box = (k / count, 0.0, (k + 0.5) / count, 1.0)
            corner = (int(box[0] * wide), int(box[1] * high))
            cv2.rectangle(picture, corner, (int(box[2] * wide), int(box[3] * high)), colour, -1)
    picture = cv2.GaussianBlur(np.ascontiguousarray(picture, np.float32), (0, 0), max(soft, 0.5))
    picture += 2.0 * _noise(rng, (high, wide), 3 * max(scale, 0.34))[..., None]
    pixels = np.clip(np.rint(picture * np.array(person.warmth, np.float32)), 0, 255).astype(
        np.uint8
    )
    matrix = np.array(
        [
            [scale, 0, ROOM_MARGIN * scale + 0.5 * scale - 0.5],
            [0, scale, ROOM_MARGIN * scale + 0.5 * scale - 0.5],
        ]
    )
    return Canvas(pixels=pixels, matrix=matrix)
