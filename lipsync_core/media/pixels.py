"""Pixels as the decoder left them: planes, colour matrices, and painting in the file's own format.

Nothing here converts a whole 1080p picture unless ``rgb`` asks for it. Chroma is taken to lie in
the middle of the luma samples it covers; because painting adds *differences*, a siting that is
half a sample off cannot shift a picture, only soften the colour of the change by as much.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

if TYPE_CHECKING:
    import av

PRIMARIES_WEIGHTS = {
    # Kr, Kb by the number that ITU-T H.273 gives to a colour matrix.
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}
YCGCO = 8
FULL_RANGE = 2
LIMITED_RANGE = 1

_PLANAR = re.compile(r"yuv(?P<j>j)?(?P<alpha>a)?(?P<sub>4[1-4][0-4])p(?P<bits>\d+)?(?:le)?")
_SUBSAMPLING = {
    "410": (2, 2),
    "411": (2, 0),
    "420": (1, 1),
    "422": (1, 0),
    "440": (0, 1),
    "444": (0, 0),
}
_SEMI = {
    "nv12": (8, 0, 1, 1),
    "nv21": (8, 0, 1, 1),
    "nv16": (8, 0, 1, 0),
    "nv24": (8, 0, 0, 0),
    "p010le": (10, 6, 1, 1),
    "p012le": (12, 4, 1, 1),
    "p016le": (16, 0, 1, 1),
    "p210le": (10, 6, 1, 0),
    "p410le": (10, 6, 0, 0),
}
_PACKED = {
    "rgb24": ("rgb", 8),
    "bgr24": ("bgr", 8),
    "rgba": ("rgba", 8),
    "bgra": ("bgra", 8),
    "argb": ("argb", 8),
    "abgr": ("abgr", 8),
    "rgb0": ("rgbx", 8),
    "bgr0": ("bgrx", 8),
    "0rgb": ("xrgb", 8),
    "0bgr": ("xbgr", 8),
    "rgb48le": ("rgb", 16),
    "bgr48le": ("bgr", 16),
    "rgba64le": ("rgba", 16),
    "bgra64le": ("bgra", 16),
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one pixel format lies in memory."""

    name: str
    kind: Literal["yuv", "semi", "gray", "gbr", "packed"]
    bits: int
    shift: int = 0
    """Samples are stored shifted left by this many bits (p010 and the like)."""
    log2_x: int = 0
    log2_y: int = 0
    """Chroma is smaller by these powers of two."""
    alpha: bool = False
    order: str = ""
    """Channels of a packed format as they follow each other."""
    full: bool = False
    """The name itself says full range (yuvj420p)."""

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        return np.uint8 if self.bits <= 8 else np.uint16

    @property
    def is_rgb(self) -> bool:
        return self.kind in ("gbr", "packed")


@cache
def layout(name: str) -> Layout | None:
    """What is known of the pixel format ``name``; None if it has to be converted on reading."""
    if match := _PLANAR.fullmatch(name):
        log2_x, log2_y = _SUBSAMPLING.get(match["sub"], (-1, -1))
        if log2_x < 0:
            return None
        return Layout(
            name=name,
            kind="yuv",
            bits=int(match["bits"] or 8),
            log2_x=log2_x,
            log2_y=log2_y,
            alpha=bool(match["alpha"]),
            full=bool(match["j"]),
        )
    if match := re.fullmatch(r"yuva(4[1-4][0-4])p(\d+)?(?:le)?", name):
        log2_x, log2_y = _SUBSAMPLING[match[1]]
        return Layout(
            name=name,
            kind="yuv",
            bits=int(match[2] or 8),
            log2_x=log2_x,
            log2_y=log2_y,
            alpha=True,
        )
    if match := re.fullmatch(r"gray(?:(\d+)le)?", name):
        return Layout(name=name, kind="gray", bits=int(match[1] or 8))
    if match := re.fullmatch(r"gbr(a)?p(?:(\d+)le)?", name):
        return Layout(name=name, kind="gbr", bits=int(match[2] or 8), alpha=bool(match[1]))
    if name in _SEMI:
        bits, shift, log2_x, log2_y = _SEMI[name]
        return Layout(name=name, kind="semi", bits=bits, shift=shift, log2_x=log2_x, log2_y=log2_y)
    if name in _PACKED:
        order, bits = _PACKED[name]
        return Layout(name=name, kind="packed", bits=bits, order=order, alpha="a" in order)
    return None


def native_format(fmt: av.VideoFormat) -> str:
    """The format to read ``fmt`` as: itself, or the nearest planar one that loses nothing."""
    if layout(fmt.name) is not None:
        return fmt.name
    bits = max((component.bits for component in fmt.components), default=8)
    alpha = any(component.is_alpha for component in fmt.components) or fmt.has_palette
    if fmt.has_palette or fmt.is_rgb or fmt.name.startswith(("rgb", "bgr", "gbr", "xyz", "bayer")):
        if bits <= 8:
            return "rgba" if alpha else "rgb24"
        return "rgba64le" if alpha else "rgb48le"
    if len(fmt.components) <= 2:
        if alpha:
            return "rgba" if bits <= 8 else "rgba64le"
        return "gray" if bits <= 8 else "gray16le"
    wide, tall = fmt.chroma_width(64), fmt.chroma_height(64)
    sub = {(32, 32): "420", (32, 64): "422", (64, 32): "440", (16, 64): "411"}.get(
        (wide, tall), "444"
    )
    depth = next((d for d in (8, 10, 12, 16) if bits <= d), 16)
    if alpha and depth == 12 and sub == "420":
        depth = 16
    return f"yuv{'a' if alpha else ''}{sub}p" + (f"{depth}le" if depth > 8 else "")


def planes(video: av.VideoFrame, kind: Layout) -> list[np.ndarray]:
    """The frame's planes as arrays on its own memory, padding left out.

    ``(H, W)`` each; interleaved planes ``(H, W, n)``. Written to only in frames that we made.
    """
    arrays = []
    size = np.dtype(kind.dtype).itemsize
    for number, plane in enumerate(video.planes):
        depth = 1
        if kind.kind == "packed":
            depth = len(kind.order)
        elif kind.kind == "semi" and number == 1:
            depth = 2
        chroma = kind.kind in ("yuv", "semi") and number in (1, 2)
        width = -(-video.width // (1 << kind.log2_x)) if chroma else video.width
        height = -(-video.height // (1 << kind.log2_y)) if chroma else video.height
        stride = plane.line_size // size
        flat = np.frombuffer(plane, dtype=kind.dtype)  # type: ignore[call-overload]
        rows = flat[: stride * height].reshape(height, stride)[:, : width * depth]
        arrays.append(rows.reshape(height, width, depth) if depth > 1 else rows)
    return arrays


def blank_like(video: av.VideoFrame, name: str, width: int, height: int) -> av.VideoFrame:
    """A new frame of this format and size with the colour tags of ``video``; pixels undefined."""
    import av

    fresh = av.VideoFrame(width, height, name)
    copy_tags(video, fresh)
    return fresh


def copy_tags(source: av.VideoFrame, target: av.VideoFrame) -> None:
    """Gives ``target`` the colour tags and the time of ``source``."""
    for tag in ("color_range", "colorspace", "color_trc", "color_primaries"):
        # Older PyAV has only the first two.
        with suppress(AttributeError, ValueError):
            setattr(target, tag, getattr(source, tag))
    target.pts = source.pts
    if source.time_base is not None:
        target.time_base = source.time_base


def turned_format(name: str) -> str:
    """The format of a picture of format ``name`` after a quarter turn.

    Chroma that is halved in one direction only (4:2:2) would come out halved in the other, which
    no common format is; such samples are repeated to 4:4:4.
    """
    kind = layout(name)
    assert kind is not None
    if kind.kind != "yuv" or kind.log2_x == kind.log2_y:
        return name
    return re.sub(r"(yuv[ja]?)4\d\d", r"\g<1>444", name)


def turned(video: av.VideoFrame, kind: Layout, quarters: int, mirror: bool) -> av.VideoFrame:
    """The picture mirrored left to right if asked, then turned clockwise by quarter turns.

    Sample values are kept; see ``turned_format`` for what happens to 4:2:2.
    """
    source = planes(video, kind)
    name = turned_format(kind.name) if quarters % 2 else kind.name
    if name != kind.name:
        height, width = source[0].shape[:2]
        for number in (1, 2):
            chroma = source[number]
            chroma = chroma.repeat(1 << kind.log2_y, axis=0).repeat(1 << kind.log2_x, axis=1)
            source[number] = np.ascontiguousarray(chroma[:height, :width])
    width, height = video.width, video.height
    if quarters % 2:
        width, height = height, width
    fresh = blank_like(video, name, width, height)
    target_kind = layout(name)
    assert target_kind is not None
    code = {1: cv2.ROTATE_90_CLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_COUNTERCLOCKWISE}
    for old, new in zip(source, planes(fresh, target_kind), strict=True):
        picture = cv2.flip(old, 1) if mirror else old
        new[...] = cv2.rotate(picture, code[quarters % 4]) if quarters % 4 else picture
    return fresh


def duplicate(video: av.VideoFrame, kind: Layout) -> av.VideoFrame:
    """A frame of our own with the same pixels: the decoder may still refer to the original."""
    fresh = blank_like(video, video.format.name, video.width, video.height)
    for old, new in zip(planes(video, kind), planes(fresh, kind), strict=True):
        new[...] = old
    return fresh


def padded(video: av.VideoFrame, kind: Layout, width: int, height: int) -> av.VideoFrame:
    """The picture with its right and lower edge repeated up to a larger size."""
    fresh = blank_like(video, video.format.name, width, height)
    for old, new in zip(planes(video, kind), planes(fresh, kind), strict=True):
        tall, wide = old.shape[:2]
        new[:tall, :wide] = old
        new[tall:, :wide] = old[-1:]
        new[:, wide:] = new[:, wide - 1 : wide]
    return fresh


def is_translucent(video: av.VideoFrame, kind: Layout) -> bool:
    """Whether any pixel lets something through."""
    if not kind.alpha:
        return False
    opaque = (1 << kind.bits) - 1
    found = planes(video, kind)
    alpha = found[0][..., kind.order.index("a")] if kind.kind == "packed" else found[3]
    return bool(alpha.min() < opaque)


@dataclass(frozen=True)
class Look:
    """How the samples of a clip become RGB and back: layout, colour matrix and range."""

    kind: Layout
    colorspace: int
    """H.273 number of the matrix; one that we do not know counts as BT.709 for HD, else BT.601."""
    full: bool
    """Full range (0..255) rather than limited (16..235)."""
    forward: np.ndarray = field(init=False, repr=False, compare=False)
    """``(3, 3)`` float32: a difference in RGB 0..255 to one in samples of the file's depth."""
    backward: np.ndarray = field(init=False, repr=False, compare=False)
    """``(3, 4)`` float64: 8-bit samples to RGB 0..255."""
    expand: np.ndarray = field(init=False, repr=False, compare=False)
    """``(256,)`` uint8: 8-bit luma to full range."""

    def __post_init__(self) -> None:
        matrix = _matrix(self.colorspace)
        luma, chroma, black = (255.0, 255.0, 0.0) if self.full else (219.0, 224.0, 16.0)
        eight = np.diag([luma, chroma, chroma]) / 255.0 @ matrix
        top = (1 << self.kind.bits) - 1
        scale = top / 255.0 if self.full else float(1 << (self.kind.bits - 8))
        inverse = np.linalg.inv(eight)
        offset = inverse @ np.array([black, 128.0, 128.0])
        codes = (np.arange(256) - black) * 255.0 / luma
        put = object.__setattr__
        put(self, "forward", (eight * scale).astype(np.float32))
        put(self, "backward", np.hstack([inverse, -offset[:, None]]))
        put(self, "expand", np.clip(np.rint(codes), 0, 255).astype(np.uint8))


def _matrix(colorspace: int) -> np.ndarray:
    """``(3, 3)``: RGB 0..1 to Y 0..1, Cb and Cr -0.5..0.5."""
    if colorspace == YCGCO:
        return np.array([[0.25, 0.5, 0.25], [-0.25, 0.5, -0.25], [0.5, 0.0, -0.5]])
    red, blue = PRIMARIES_WEIGHTS[colorspace]
    luma = np.array([red, 1.0 - red - blue, blue])
    cb = (np.array([0.0, 0.0, 1.0]) - luma) / (2.0 * (1.0 - blue))
    cr = (np.array([1.0, 0.0, 0.0]) - luma) / (2.0 * (1.0 - red))
    return np.stack([luma, cb, cr])


@lru_cache(maxsize=64)
def look(name: str, colorspace: int, color_range: int, height: int, still: bool) -> Look:
    """The look of frames of format ``name`` with these tags.

    Untagged pictures are read as players read them: BT.601 for stills and below 720 lines, BT.709
    above; limited range for YUV, full range for gray and RGB.
    """
    kind = layout(name)
    assert kind is not None, name
    if colorspace not in PRIMARIES_WEIGHTS and colorspace != YCGCO:
        colorspace = 1 if height >= 720 and not still else 5
    full = kind.full or color_range == FULL_RANGE
    if kind.kind == "gray" and color_range != LIMITED_RANGE:
        full = True
    return Look(kind, colorspace, full or kind.is_rgb)


def region(video: av.VideoFrame, view: Look, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    """``(y1-y0, x1-x0, 3)`` uint8 RGB of that part; outside the picture the edge is repeated."""
    if x1 <= x0 or y1 <= y0:
        raise ValueError(f"an empty region was asked for: x {x0} to {x1}, y {y0} to {y1}")
    width, height = video.width, video.height
    left, right = min(max(x0, 0), width - 1), max(min(x1, width), 1)
    top, bottom = min(max(y0, 0), height - 1), max(min(y1, height), 1)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    inside = _inner(planes(video, view.kind), view, left, top, right, bottom)
    if (left, top, right, bottom) == (x0, y0, x1, y1):
        return inside
    # A box that lies wholly outside is first widened to touch the picture.
    first_x, first_y = min(x0, left), min(y0, top)
    sides = (top - first_y, max(y1, bottom) - bottom, left - first_x, max(x1, right) - right)
    around = cv2.copyMakeBorder(inside, *sides, cv2.BORDER_REPLICATE)
    around = around[y0 - first_y : y1 - first_y, x0 - first_x : x1 - first_x]
    return np.ascontiguousarray(around)


def _eight(plane: np.ndarray, kind: Layout, full: bool) -> np.ndarray:
    """The plane in 8 bits; rounding is harmless because only differences are painted."""
    if kind.bits <= 8:
        return plane
    if kind.shift:
        return cv2.convertScaleAbs(plane, alpha=1.0 / (1 << 8))
    top = (1 << kind.bits) - 1
    return cv2.convertScaleAbs(plane, alpha=255.0 / top if full else 1.0 / (1 << (kind.bits - 8)))


def _inner(
    source: list[np.ndarray], view: Look, left: int, top: int, right: int, bottom: int
) -> np.ndarray:
    """``region`` for a box that lies inside the picture."""
    kind = view.kind
    box = (slice(top, bottom), slice(left, right))
    if kind.kind == "packed":
        pixels = source[0][box]
        chosen = [kind.order.index(letter) for letter in "rgb"]
        if kind.bits > 8:
            pixels = np.stack([_eight(pixels[..., c], kind, True) for c in chosen], axis=-1)
            return np.ascontiguousarray(pixels)
        if chosen == [0, 1, 2] and pixels.shape[-1] == 3:
            return pixels.copy()
        return cv2.merge([pixels[..., c] for c in chosen])
    if kind.kind == "gbr":
        return cv2.merge([_eight(source[plane][box], kind, True) for plane in (2, 0, 1)])
    luma = _eight(source[0][box], kind, view.full)
    if kind.kind == "gray":
        gray = luma.copy() if view.full else cv2.LUT(luma, view.expand)
        return cv2.merge([gray, gray, gray])
    step_x, step_y = 1 << kind.log2_x, 1 << kind.log2_y
    tall, wide = source[1].shape[:2]
    # One chroma sample of margin, so that interpolation does not know where the region ends.
    from_x, from_y = max(left // step_x - 1, 0), max(top // step_y - 1, 0)
    to_x, to_y = min(-(-right // step_x) + 1, wide), min(-(-bottom // step_y) + 1, tall)
    cut = (slice(from_y, to_y), slice(from_x, to_x))
    if kind.kind == "semi":
        pair = source[1][cut]
        chroma = [pair[..., 0], pair[..., 1]]
        if kind.name == "nv21":
            chroma.reverse()
    else:
        chroma = [source[1][cut], source[2][cut]]
    size = ((to_x - from_x) * step_x, (to_y - from_y) * step_y)
    inner = (
        slice(top - from_y * step_y, bottom - from_y * step_y),
        slice(left - from_x * step_x, right - from_x * step_x),
    )
    full_size = []
    for part in chroma:
        part = _eight(np.ascontiguousarray(part), kind, view.full)
        if step_x > 1 or step_y > 1:
            part = cv2.resize(part, size, interpolation=cv2.INTER_LINEAR)
        full_size.append(part[inner])
    return cv2.transform(cv2.merge([luma, *full_size]), view.backward)


def painted(
    video: av.VideoFrame, view: Look, x0: int, y0: int, rgb: np.ndarray, mask: np.ndarray
) -> av.VideoFrame:
    """A copy with ``rgb`` ``(h, w, 3)`` 0..255 put at ``(x0, y0)`` wherever ``mask`` ``(h, w)`` > 0.

    The difference to ``region`` is added in the file's own samples, so that a pixel whose colour
    is asked to stay keeps its exact value. A chroma sample changes only where the mask covers all
    the luma that shares it; alpha never changes.
    """
    kind = view.kind
    fresh = duplicate(video, kind)
    left, top = max(x0, 0), max(y0, 0)
    right, bottom = min(x0 + mask.shape[1], video.width), min(y0 + mask.shape[0], video.height)
    if right <= left or bottom <= top:
        return fresh
    active = (mask[top - y0 : bottom - y0, left - x0 : right - x0] > 0).view(np.uint8)
    bx, by, bw, bh = cv2.boundingRect(active)
    if not bw:
        return fresh
    active = active[by : by + bh, bx : bx + bw]
    left, top = left + bx, top + by
    right, bottom = left + bw, top + bh
    wanted = rgb[top - y0 : bottom - y0, left - x0 : right - x0]
    target = planes(fresh, kind)
    box = (slice(top, bottom), slice(left, right))
    before = _inner(target, view, left, top, right, bottom)
    delta = cv2.subtract(wanted.astype(np.float32), before, dtype=cv2.CV_32F)
    if not active.all():
        delta = cv2.copyTo(delta, active)
    highest = (1 << kind.bits) - 1
    if kind.is_rgb:
        scale = highest / 255.0
        for channel, letter in enumerate("rgb"):
            change = delta[..., channel] * scale
            if kind.kind == "packed":
                _add(target[0][..., kind.order.index(letter)][box], change, 0, highest)
            else:
                _add(target[(2, 0, 1)[channel]][box], change, 0, highest)
        return fresh
    _add(target[0][box], cv2.transform(delta, view.forward[:1]), kind.shift, highest)
    if kind.kind == "gray":
        return fresh
    change, box = _chroma_change(delta, active, view, (left, top, right, bottom), video)
    if kind.kind == "semi":
        order = (1, 0) if kind.name == "nv21" else (0, 1)
        for channel in (0, 1):
            part = target[1][..., order[channel]][box]
            _add(part, change[..., channel], kind.shift, highest)
    else:
        for channel in (0, 1):
            _add(target[1 + channel][box], change[..., channel], 0, highest)
    return fresh


def _chroma_change(
    delta: np.ndarray,
    active: np.ndarray,
    view: Look,
    box: tuple[int, int, int, int],
    video: av.VideoFrame,
) -> tuple[np.ndarray, tuple[slice, slice]]:
    """What to add to chroma ``(h, w, 2)``, and where in the chroma planes."""
    step_x, step_y = 1 << view.kind.log2_x, 1 << view.kind.log2_y
    left, top, right, bottom = box
    if step_x > 1 or step_y > 1:
        pad = (top % step_y, -bottom % step_y, left % step_x, -right % step_x)
        if any(pad):
            # Beyond the edge of an odd-sized picture there is nothing to protect.
            edge_x = pad[3] if right == video.width else 0
            edge_y = pad[1] if bottom == video.height else 0
            if edge_x or edge_y:
                edge = (0, edge_y, 0, edge_x, cv2.BORDER_REPLICATE)
                delta = cv2.copyMakeBorder(delta, *edge)
                active = cv2.copyMakeBorder(active, *edge)
                pad = (pad[0], pad[1] - edge_y, pad[2], pad[3] - edge_x)
            delta = cv2.copyMakeBorder(delta, *pad, cv2.BORDER_CONSTANT, value=(0.0, 0.0, 0.0))
            active = cv2.copyMakeBorder(active, *pad, cv2.BORDER_CONSTANT, value=(0,))
        size = (delta.shape[1] // step_x, delta.shape[0] // step_y)
        delta = cv2.resize(delta, size, interpolation=cv2.INTER_AREA)
        covered = active[::step_y, ::step_x]
        for dy in range(step_y):
            for dx in range(step_x):
                covered = covered & active[dy::step_y, dx::step_x]
        delta = cv2.copyTo(delta, covered)
    change = cv2.transform(delta, view.forward[1:])
    from_x, from_y = left // step_x, top // step_y
    return change, (
        slice(from_y, from_y + change.shape[0]),
        slice(from_x, from_x + change.shape[1]),
    )


def _add(part: np.ndarray, change: np.ndarray, shift: int, highest: int) -> None:
    """Adds in place, rounded to the nearest sample and kept within the format's range."""
    if shift:
        value = np.clip(np.rint((part >> shift) + change), 0, highest).astype(part.dtype)
        part[...] = np.where(np.rint(change) == 0, part, value << shift)
    elif part.dtype == np.uint8:
        part[...] = cv2.add(
            np.ascontiguousarray(part), np.ascontiguousarray(change), dtype=cv2.CV_8U
        )
    else:
        part[...] = np.clip(np.rint(part + change), 0, highest)


@lru_cache(maxsize=256)
def reduced_size(width: int, height: int, long_side: int) -> tuple[int, int]:
    """Size of the reduced picture: the longer side at most ``long_side``, never enlarged.

    Among the sizes just below, the one whose other side comes out whole is taken, because both
    axes are said to be reduced by one and the same factor.
    """
    longest = max(width, height)
    if longest <= long_side:
        return width, height
    shortest = min(width, height)

    def miss(side: int) -> float:
        exact = shortest * side / longest
        return abs(exact - round(exact)) / max(exact, 1.0)

    lowest = max(long_side - long_side // 50, 1)
    side = min(range(long_side, lowest - 1, -1), key=lambda s: (round(miss(s), 6), -s))
    if miss(long_side) < 2e-4:
        side = long_side
    other = max(round(shortest * side / longest), 1)
    return (side, other) if width >= height else (other, side)


def _shrink(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Area average. A whole factor is taken first: OpenCV is many times faster at those."""
    factor = min(plane.shape[1] // size[0], plane.shape[0] // size[1])
    if plane.shape[1] == size[0] and plane.shape[0] == size[1]:
        return plane
    if factor >= 2 and (plane.shape[1] != size[0] * factor or plane.shape[0] != size[1] * factor):
        tall, wide = plane.shape[0] // factor, plane.shape[1] // factor
        if plane.shape[0] % factor == 0 and plane.shape[1] % factor == 0:
            plane = cv2.resize(plane, (wide, tall), interpolation=cv2.INTER_AREA)
    if plane.shape[1] < size[0] or plane.shape[0] < size[1]:
        return cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR)
    return cv2.resize(plane, size, interpolation=cv2.INTER_AREA)


def luma(video: av.VideoFrame, view: Look, size: tuple[int, int]) -> np.ndarray:
    """``(h, w)`` uint8 full-range brightness of the given ``(w, h)``."""
    kind = view.kind
    if kind.is_rgb:
        return cv2.cvtColor(reduced(video, view, size), cv2.COLOR_RGB2GRAY)
    small = _eight(_shrink(planes(video, kind)[0], size), kind, view.full)
    if view.full:
        return small.copy()
    return cv2.LUT(small, view.expand)


def reduced(video: av.VideoFrame, view: Look, size: tuple[int, int]) -> np.ndarray:
    """``(h, w, 3)`` uint8 RGB of the given ``(w, h)``."""
    kind = view.kind
    source = planes(video, kind)
    if kind.kind == "packed":
        small = _shrink(source[0], size)
        return _inner([small], view, 0, 0, size[0], size[1])
    if kind.kind == "gbr":
        small = [_shrink(plane, size) for plane in source[:3]]
        return _inner(small, view, 0, 0, size[0], size[1])
    small = _eight(_shrink(source[0], size), kind, view.full)
    if kind.kind == "gray":
        gray = small if view.full else cv2.LUT(small, view.expand)
        return cv2.merge([gray, gray, gray])
    if kind.kind == "semi":
        pair = _shrink(np.ascontiguousarray(source[1]), size)
        chroma = [pair[..., 0], pair[..., 1]]
        if kind.name == "nv21":
            chroma.reverse()
    else:
        chroma = [_shrink(source[1], size), _shrink(source[2], size)]
    chroma = [_eight(np.ascontiguousarray(part), kind, view.full) for part in chroma]
    return cv2.transform(cv2.merge([small, *chroma]), view.backward)
