"""Who a rendered presenter is: every choice about face, clothes, room, light and camera, from one number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["train", "held-out"]
SPLITS: tuple[Split, ...] = ("train", "held-out")
HELD_OUT = 1 << 30
"""Numbers of people and voices from here on are never trained on."""

Colour = tuple[float, ...]
"""Red, green, blue, 0..255."""

HAIR_STYLES = (
    "bald",
    "crop",
    "short",
    "parted",
    "curly",
    "fringe",
    "long",
    "long curly",
    "bun",
    "bob",
)
BEARDS = ("none", "stubble", "moustache", "goatee", "full")
CLOTHES = ("round", "collar", "v", "hood", "suit")
ROOMS = ("plain", "gradient", "blobs", "window", "shelves", "stripes")

_SKIN = (
    (244, 212, 190),
    (232, 190, 162),
    (214, 166, 132),
    (186, 134, 100),
    (143, 96, 70),
    (104, 68, 52),
)
_HAIR = (
    (24, 20, 19), (48, 32, 24), (84, 55, 36), (124, 84, 50), (186, 146, 92), (222, 190, 138),
    (142, 66, 34), (122, 120, 118), (196, 194, 190), (92, 46, 86), (40, 70, 104),
)  # fmt: skip
_HAIR_SHARES = (0.22, 0.2, 0.16, 0.1, 0.09, 0.05, 0.06, 0.05, 0.04, 0.015, 0.015)
_IRIS = ((70, 44, 28), (96, 64, 36), (110, 96, 52), (72, 104, 72), (84, 120, 150), (120, 136, 146))


@dataclass(frozen=True, kw_only=True)
class Person:
    """Lengths in units of the distance from the eyes to the closed mouth; angles in radians."""

    number: int
    seed: int
    """Of textures: skin, hair, room, noise."""

    width: float
    """Half width of the head at the cheekbones."""
    jaw: float
    """Half width at the angle of the jaw, as a share of ``width``."""
    chin: float
    """Half width just above the chin, likewise."""
    length: float
    """Where the chin ends, below the eyes."""
    eye_apart: float
    """Half distance of the eyes."""
    eye_wide: float
    eye_high: float
    eye_tilt: float
    fold: float
    """0..1: how much of the upper lid the fold hides."""
    brow_high: float
    brow_thick: float
    brow_tilt: float
    brow_arch: float
    nose_wide: float
    nose_long: float
    nose_out: float
    nose_bridge: float
    cheek: float
    mouth_wide: float
    """Half width of the mouth at rest."""
    lip_upper: float
    lip_lower: float
    bow: float
    """Depth of the notch of the upper lip."""
    teeth_show: float
    """How far the upper teeth reach below the resting mouth line."""
    smile: float
    """How much higher the corners of the mouth lie than its middle, at rest."""
    ear: float
    age: float
    """0..1: how clearly folds are seen."""
    freckles: float
    blush: float

    skin: Colour
    lip: Colour
    hair: Colour
    brow: Colour
    iris: Colour
    sclera: Colour
    teeth: Colour
    tongue: Colour
    cavity: Colour
    cloth: Colour
    cloth2: Colour
    wall: Colour
    wall2: Colour

    hair_style: str
    hair_line: float
    beard: str
    glasses: int
    """0: none; else the shape of the frames."""
    glasses_colour: Colour
    makeup: float
    earrings: bool
    clothes: str
    room: str

    light: tuple[float, float, float]
    """Towards the light: right of the picture, down, out of it; length 1."""
    ambient: float
    warmth: Colour
    """Factors on red, green and blue, about 1."""
    gloss: float

    noise: float
    """Standard deviation of the camera's noise, grey levels."""
    blur: float
    """Sigma in source pixels."""
    quality: int
    """Of JPEG blocks over each picture; 0: none."""
    contrast: float
    exposure: float

    unit: float
    """Source pixels from eyes to mouth in a picture of 640x480."""
    place: tuple[float, float]
    """Source pixels of the middle of the eyes at rest."""
    yaw: float
    pitch: float
    roll: float
    restless: float
    """How much the head moves, about 1."""


def numbers(seed: int, count: int, split: Split) -> list[int]:
    """``count`` different people of a split, drawn by ``seed``."""
    rng = np.random.default_rng([seed, 71])
    drawn = dict.fromkeys(int(n) for n in rng.integers(0, HELD_OUT, count))
    while len(drawn) < count:
        drawn[int(rng.integers(0, HELD_OUT))] = None
    return [number + (HELD_OUT if split == "held-out" else 0) for number in drawn]


def person(number: int) -> Person:
    """The same person for the same number, always."""
    rng = np.random.default_rng([number, 1])

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    def around(middle: float, spread: float) -> float:
        """Most near the middle, none beyond two and a half times the spread."""
        return middle + spread * float(np.clip(rng.standard_normal(), -2.5, 2.5))

    tone = between(0, len(_SKIN) - 1)
    skin = _mixed(_SKIN, tone, rng, 6)
    dark = tone / (len(_SKIN) - 1)
    female = rng.random() < 0.5
    age = between(0, 1) ** 1.6
    hair_number = int(rng.choice(len(_HAIR), p=_HAIR_SHARES))
    if dark > 0.6 and rng.random() < 0.85:
        hair_number = int(rng.integers(0, 2))
    elif age > 0.7 and rng.random() < 0.6:
        hair_number = int(rng.integers(7, 9))
    hair = _jittered(_HAIR[hair_number], rng, 8)
    brow = tuple(0.62 * h + 0.10 * s for h, s in zip(hair, skin, strict=True))
    styles = HAIR_STYLES[4:] if female else HAIR_STYLES[:6]
    style = str(rng.choice(styles))
    if not female and rng.random() < 0.08:
        style = "long"
    shares = [1.0, 0, 0, 0, 0] if female else [0.42, 0.2, 0.1, 0.12, 0.16]
    beard = str(rng.choice(BEARDS, p=shares))
    natural = np.array(skin) * (0.88 - 0.04 * dark, 0.60 + 0.06 * dark, 0.60 + 0.08 * dark)
    lip = tuple(float(v) for v in np.clip(natural + rng.normal(0, 5, 3), 25, 235))
    makeup = between(0.3, 1) if female and rng.random() < 0.6 else 0.0
    if makeup and rng.random() < 0.75:
        painted = ((176, 40, 52), (150, 36, 60), (196, 84, 96), (120, 30, 44), (206, 100, 84))
        paint = painted[int(rng.integers(len(painted)))]
        share = 0.35 + 0.55 * makeup
        lip = tuple(
            share * p * (1 - 0.25 * dark) + (1 - share) * bare
            for p, bare in zip(paint, lip, strict=True)
        )
    white = between(205, 240)
    cold = between(0, 26)
    tongue = (between(158, 190), between(76, 98), between(78, 100))
    aside, up = between(-0.85, 0.85), between(0.15, 0.8)
    light = np.array([aside, -up, 1.0])
    light /= np.linalg.norm(light)
    warm = around(0, 0.05)
    wall = tuple(float(v) for v in rng.uniform(30, 225, 3) * 0.55 + between(20, 100))
    wall2 = tuple(float(v) for v in rng.uniform(30, 225, 3) * 0.55 + between(20, 100))
    cloth = tuple(float(v) for v in rng.uniform(15, 230, 3) * between(0.4, 1.0))
    cloth2 = tuple(float(v) for v in rng.uniform(60, 240, 3))
    width = around(0.965, 0.045)
    return Person(
        number=number,
        seed=int(rng.integers(1 << 31)),
        width=width,
        jaw=around(0.80 if female else 0.85, 0.03),
        chin=around(0.40 if female else 0.46, 0.045),
        length=around(1.66 if female else 1.72, 0.055),
        eye_apart=around(0.455, 0.018),
        eye_wide=around(0.228, 0.013),
        eye_high=around(0.106, 0.012),
        eye_tilt=around(0.05, 0.05),
        fold=between(0, 1),
        brow_high=around(0.27, 0.03),
        brow_thick=around(0.042 if female else 0.058, 0.012),
        brow_tilt=around(0.0, 0.08),
        brow_arch=around(0.05, 0.02),
        nose_wide=around(0.205 + 0.05 * dark, 0.022),
        nose_long=around(0.64, 0.03),
        nose_out=around(0.27, 0.04),
        nose_bridge=around(0.085, 0.014),
        cheek=around(0.06, 0.03),
        mouth_wide=around(0.385, 0.03),
        lip_upper=around(0.092 + 0.02 * dark, 0.016),
        lip_lower=around(0.125 + 0.025 * dark, 0.018),
        bow=between(0.1, 0.35),
        teeth_show=around(0.052, 0.014),
        smile=around(0.012, 0.014),
        ear=around(1.0, 0.12),
        age=age,
        freckles=between(0.2, 1) if dark < 0.5 and rng.random() < 0.25 else 0.0,
        blush=between(0, 1),
        skin=skin,
        lip=lip,
        hair=hair,
        brow=brow,
        iris=_jittered(_IRIS[int(rng.integers(0, 2 if dark > 0.55 else len(_IRIS)))], rng, 8),
        sclera=(between(222, 240), between(220, 234), between(212, 230)),
        teeth=(white, white - cold / 3, white - cold),
        tongue=tongue,
        cavity=(between(38, 58), between(8, 18), between(10, 22)),
        cloth=cloth,
        cloth2=cloth2,
        wall=wall,
        wall2=wall2,
        hair_style=style,
        hair_line=around(-0.86, 0.07),
        beard=beard,
        glasses=int(rng.integers(1, 4)) if rng.random() < 0.22 else 0,
        glasses_colour=_jittered(((30, 26, 26), (92, 58, 34), (150, 150, 156))[int(rng.integers(3))], rng, 12),
        makeup=makeup,
        earrings=bool(female and rng.random() < 0.3),
        clothes=str(rng.choice(CLOTHES)),
        room=str(rng.choice(ROOMS)),
        light=(float(light[0]), float(light[1]), float(light[2])),
        ambient=between(0.42, 0.66),
        warmth=(1 + warm, 1.0, 1 - warm),
        gloss=between(0.03, 0.16),
        noise=between(0, 1) ** 2 * 6,
        blur=between(0, 1) ** 2 * 0.9,
        quality=int(rng.integers(70, 95)) if rng.random() < 0.35 else 0,
        contrast=around(1.0, 0.07),
        exposure=around(1.0, 0.08),
        unit=between(58, 92),
        place=(around(320, 34), around(186, 12)),
        yaw=around(0, 0.12),
        pitch=around(0, 0.06),
        roll=around(0, 0.045),
        restless=between(0.4, 1.5),
    )  # fmt: skip


def _jittered(colour: Colour, rng: np.random.Generator, spread: float) -> Colour:
    red, green, blue = np.clip(np.array(colour) + rng.normal(0, spread, 3), 4, 250)
    return float(red), float(green), float(blue)


def _mixed(
    ramp: tuple[Colour, ...], place: float, rng: np.random.Generator, spread: float
) -> Colour:
    low = min(int(place), len(ramp) - 2)
    share = place - low
    red, green, blue = (
        (1 - share) * a + share * b for a, b in zip(ramp[low], ramp[low + 1], strict=True)
    )
    return _jittered((red, green, blue), rng, spread)
