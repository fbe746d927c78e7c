"""Fit a mouth taken from one frame into another: parallax, light, and a mask that spares the jaw."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ...faces.mask import smooth_step
from ...faces.templates import Template

PATCH_BOX = (-0.85, -0.55, 0.85, 0.95)
"""Left, top, right, bottom of a lower face about the middle of the mouth, in units of the template."""

BLIND = 0.24
"""Share of a crop's rows, from above, that is never looked at: down to 1.43 units above the mouth, while the
sharpness of a picture is told from what is up to 1.25 above the lips (``cavity.blur_of``)."""

_SHARPEN = 0.04
_CRISP = np.array(
    [[0, -_SHARPEN, 0], [-_SHARPEN, 1 + 4 * _SHARPEN, -_SHARPEN], [0, -_SHARPEN, 0]], np.float32
)
"""Gives back what a donor loses on its way through two interpolations (14 % of its Laplacian)."""

_WORK_UNIT = 38.0
"""Eye-mouth distance in pixels at which flow and light are compared: lips blur away, cheeks stay."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """The lower face inside a crop, and the fields that depend on nothing but its size."""

    unit: float
    """Eye-mouth distance in crop pixels."""
    origin: tuple[int, int]
    """Left and top in crop pixels."""
    size: tuple[int, int]
    """Width and height in pixels."""
    x: np.ndarray
    """``(h, w)`` float32: units right of the middle of the mouth."""
    y: np.ndarray
    """``(h, w)`` float32: units below the middle of the mouth."""

    @property
    def slices(self) -> tuple[slice, slice]:
        (x0, y0), (w, h) = self.origin, self.size
        return slice(y0, y0 + h), slice(x0, x0 + w)


def region_of(template: Template) -> Region:
    """The lower face of a template, cut to the crop."""
    unit = template.unit
    mouth_x, mouth_y = template.mouth[0] * template.size, template.mouth[1] * template.size
    x0 = max(int(np.floor(mouth_x + PATCH_BOX[0] * unit)), 0)
    y0 = max(int(np.floor(mouth_y + PATCH_BOX[1] * unit)), 0)
    x1 = min(int(np.ceil(mouth_x + PATCH_BOX[2] * unit)), template.size)
    y1 = min(int(np.ceil(mouth_y + PATCH_BOX[3] * unit)), template.size)
    rows, columns = np.mgrid[y0:y1, x0:x1].astype(np.float32)
    return Region(
        unit=unit,
        origin=(x0, y0),
        size=(x1 - x0, y1 - y0),
        x=(columns - np.float32(mouth_x)) / np.float32(unit),
        y=(rows - np.float32(mouth_y)) / np.float32(unit),
    )


def ellipse(
    x: np.ndarray, y: np.ndarray, *, across: float, up: float, down: float, feather: float
) -> np.ndarray:
    """1 inside an ellipse about the mouth, falling to 0 at its rim over ``feather`` of the radius."""
    radius = np.sqrt((x / across) ** 2 + (y / np.where(y < 0, up, down)) ** 2)
    return smooth_step((1.0 - radius) / feather).astype(np.float32)


class Adapter:
    """Fits donor pictures to the crops of one template."""

    def __init__(self, template: Template) -> None:
        self.region = region_of(template)
        w, h = self.region.size
        scale = min(_WORK_UNIT / self.region.unit, 1.0)
        self._small = (max(round(w * scale), 8), max(round(h * scale), 8))
        self._unit = self.region.unit * self._small[0] / w
        # Only its low-passed part is used, so the coarsest will do.
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        # Centres of the small pixels in region pixels: cv2.resize keeps these when it enlarges.
        across = (np.arange(self._small[0]) + 0.5) * w / self._small[0] - 0.5
        along = (np.arange(self._small[1]) + 0.5) * h / self._small[1] - 0.5
        self._grid = np.stack(np.meshgrid(across, along), -1).astype(np.float32)
        x = cv2.resize(self.region.x, self._small, interpolation=cv2.INTER_AREA)
        y = cv2.resize(self.region.y, self._small, interpolation=cv2.INTER_AREA)
        # Nose and cheeks tell the pose; the chin moves with the mouth and would squeeze it.
        outer = ellipse(x, y, across=0.85, up=0.55, down=0.50, feather=0.15)
        inner = ellipse(x, y, across=0.62, up=0.30, down=1.60, feather=0.25)
        self._ring = (outer * (1.0 - inner) + np.float32(0.003)).astype(np.float32)
        # Smooth fields need half the pixels again: large blurs are what costs.
        self._coarse = (max(self._small[0] // 2, 4), max(self._small[1] // 2, 4))
        self._blur = 0.28 * self._unit * self._coarse[0] / self._small[0]
        self._ring_sum = self._smooth(np.ones_like(self._ring))
        self._x, self._y = x, y
        self._mask = ellipse(
            self.region.x, self.region.y, across=0.66, up=0.36, down=0.90, feather=0.30
        )
        self._core = ellipse(x, y, across=0.64, up=0.40, down=0.80, feather=0.30)

    @property
    def small_shape(self) -> tuple[int, int]:
        """Rows and columns of the size at which pictures are compared."""
        return self._small[1], self._small[0]

    def small(self, region: np.ndarray) -> np.ndarray:
        """The region reduced to the size at which pictures are compared."""
        return cv2.resize(region, self._small, interpolation=cv2.INTER_AREA)

    def _smooth(self, field: np.ndarray) -> np.ndarray:
        """A small field weighted with the ring and blurred, so that the mouth has no say: coarse."""
        ring = self._ring if field.ndim == 2 else self._ring[..., None]
        coarse = cv2.resize(field * ring, self._coarse, interpolation=cv2.INTER_AREA)
        return cv2.GaussianBlur(coarse, (0, 0), self._blur)

    def fit(
        self, donor: np.ndarray, matrix: np.ndarray, current: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws ``donor`` where the lower face of ``current`` is, in its pose and its light.

        ``donor``: RGB uint8 of any size; ``matrix``: ``(2, 3)`` from region pixels to donor pixels.
        ``current``: ``(h, w, 3)`` uint8, the region of the crop. Returns the picture, ``(h, w, 3)``
        uint8, and how far the two disagree outside the mouth, small, in grey levels.
        """
        small = self.small(current)
        turn = matrix[:, :2].T.astype(np.float32)
        places = self._grid @ turn + matrix[:, 2].astype(np.float32)
        w, h = self.region.size
        pixel = np.float32(w / self._small[0])
        stretch = float(np.sqrt(abs(np.linalg.det(turn)))) * float(pixel)
        source, shrink = donor, np.float32(1)
        if stretch > 1.5:
            source = cv2.resize(
                donor, None, fx=1 / stretch, fy=1 / stretch, interpolation=cv2.INTER_AREA
            )
            shrink = np.float32(source.shape[1] / donor.shape[1])

        first = _sampled(source, (places + 0.5) * shrink - 0.5)
        flow = self._flow.calc(
            cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), cv2.cvtColor(first, cv2.COLOR_RGB2GRAY), None
        )
        limit = 0.16 * self._unit
        flow = self._smooth(np.clip(flow, -limit, limit)) / self._ring_sum[..., None]
        flow = cv2.resize(flow, self._small, interpolation=cv2.INTER_LINEAR)
        places += (flow * pixel) @ turn

        second = _sampled(source, (places + 0.5) * shrink - 0.5).astype(np.float32)
        light = small.astype(np.float32)
        gain = self._smooth(light) / np.maximum(self._smooth(second), 1e-3)
        gain = np.clip(cv2.resize(gain, self._small), 0.6, 1.6)
        apart = np.abs(second * gain - light).max(-1)
        everywhere = cv2.resize(places, (w, h), interpolation=cv2.INTER_LINEAR)
        drawn = _sampled(donor.astype(np.float32), everywhere, cv2.INTER_CUBIC)
        drawn = cv2.filter2D(drawn, -1, _CRISP, borderType=cv2.BORDER_REPLICATE)
        gain = cv2.resize(gain, (w, h), interpolation=cv2.INTER_LINEAR)
        drawn = cv2.multiply(drawn, gain, dtype=cv2.CV_8U)
        return drawn, cv2.GaussianBlur(apart, (0, 0), 0.05 * self._unit)

    def mask(self, apart: np.ndarray) -> np.ndarray:
        """Where the picture may replace the region, ``(h, w)`` float32 0..1.

        A mouth-and-jaw ellipse, withdrawn where donor and frame disagree away from the mouth: there
        the current frame knows better where the face ends.
        """
        trust = 1.0 - smooth_step((apart - 22.0) / 26.0) * (1.0 - self._core)
        trust = cv2.erode(trust.astype(np.float32), np.ones((3, 3), np.uint8))
        trust = cv2.GaussianBlur(trust, (0, 0), 0.06 * self._unit)
        trust = cv2.resize(trust, self.region.size, interpolation=cv2.INTER_LINEAR)
        return self._mask * trust


def _sampled(picture: np.ndarray, places: np.ndarray, how: int = cv2.INTER_LINEAR) -> np.ndarray:
    """``picture`` at ``(h, w, 2)`` float32 places x, y; its edge goes on for ever."""
    return cv2.remap(picture, places, None, how, borderMode=cv2.BORDER_REPLICATE)  # pyright: ignore


def morph(first: np.ndarray, second: np.ndarray, share: float, unit: float) -> np.ndarray:
    """A picture ``share`` of the way from one mouth to another, moved along flow rather than faded.

    ``first``, ``second``: ``(h, w, 3)`` uint8; ``unit``: eye-mouth distance in their pixels.
    """
    h, w = first.shape[:2]
    scale = min(64.0 / unit, 1.0)
    size = (max(round(w * scale), 8), max(round(h * scale), 8))
    one = cv2.cvtColor(cv2.resize(first, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    two = cv2.cvtColor(cv2.resize(second, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    there, back = dis.calc(one, two, None), dis.calc(two, one, None)
    grid = np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1).astype(np.float32)

    def pull(picture: np.ndarray, flow: np.ndarray, amount: float) -> np.ndarray:
        flow = cv2.resize(cv2.GaussianBlur(flow, (0, 0), 1.0), (w, h))
        return _sampled(picture, grid + flow * np.float32(amount * w / size[0]))

    return cv2.addWeighted(
        pull(first, back, share), 1.0 - share, pull(second, there, 1.0 - share), share, 0.0
    )
