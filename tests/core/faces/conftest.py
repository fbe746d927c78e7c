"""Clips made of one photograph, with known movement, and the detector file where it lies."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from lipsync_core.faces.detect.cascade import Cascade
from lipsync_core.faces.detect.yunet import YuNet

FACE = np.array(
    [[200.6, 103.6], [246.0, 104.4], [221.3, 125.0], [202.0, 142.9], [240.9, 143.6]], np.float64
)
"""Eyes, nose and mouth corners in ``skimage.data.astronaut()``."""


class ArrayPicture:
    """A ``Picture`` on an array."""

    def __init__(self, image: np.ndarray, index: int = 0, fps: int = 25) -> None:
        self.image = np.ascontiguousarray(image)
        self.index = index
        self.time = Fraction(index, fps)

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[1], self.image.shape[0]

    def rgb(self) -> np.ndarray:
        return self.image

    def region(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        columns = np.clip(np.arange(x0, x1), 0, self.size[0] - 1)
        rows = np.clip(np.arange(y0, y1), 0, self.size[1] - 1)
        return self.image[rows][:, columns]

    def luma(self, long_side: int) -> np.ndarray:
        return cv2.cvtColor(self.reduced(long_side), cv2.COLOR_RGB2GRAY)

    def reduced(self, long_side: int) -> np.ndarray:
        scale = min(1.0, long_side / max(self.size))
        if scale == 1:
            return self.image
        size = (round(self.size[0] * scale), round(self.size[1] * scale))
        return cv2.resize(self.image, size, interpolation=cv2.INTER_AREA)


@lru_cache(maxsize=1)
def _photo() -> np.ndarray:
    from skimage.data import astronaut

    return astronaut()


@pytest.fixture
def photo() -> np.ndarray:
    """A real face, ``(512, 512, 3)`` uint8; its points are ``face``."""
    return _photo().copy()


@pytest.fixture
def face() -> np.ndarray:
    return FACE.copy()


@pytest.fixture
def as_clip():
    """Turns images into pictures with numbers and times."""
    return lambda images, fps=25: [ArrayPicture(image, k, fps) for k, image in enumerate(images)]


@pytest.fixture
def moved(photo):
    """The photograph under a similarity: ``moved(scale, degrees, x, y)`` gives image and matrix."""

    def make(scale=1.0, degrees=0.0, x=0.0, y=0.0, size=(480, 360)):
        middle = FACE.mean(0)
        matrix = cv2.getRotationMatrix2D((float(middle[0]), float(middle[1])), degrees, scale)
        matrix[:, 2] += np.array(size) / 2 - middle + (x, y)
        flags = cv2.INTER_AREA if scale < 0.7 else cv2.INTER_CUBIC
        source = photo
        if scale < 0.7:
            source = cv2.GaussianBlur(photo, (0, 0), 0.5 / scale)
        image = cv2.warpAffine(
            source, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
        )
        del flags
        return image, matrix

    return make


@lru_cache(maxsize=4)
def _backdrop(size: tuple[int, int]) -> np.ndarray:
    from skimage.data import coffee

    return cv2.resize(cv2.GaussianBlur(coffee(), (0, 0), 2), size, interpolation=cv2.INTER_AREA)


@pytest.fixture
def backdrop():
    """A textured picture without a face."""
    return lambda size=(640, 360): _backdrop(size).copy()


@pytest.fixture
def placed(photo):
    """Puts a head on an image: ``placed(image, x, y, scale=1, other=False)`` changes ``image``.

    ``other``: somebody else, mirrored, darker and in other colours.
    """

    def put(image, x, y, scale=1.0, other=False):
        head, centre = photo[20:240, 120:320], FACE.mean(0) - (120, 20)
        alpha = np.zeros(head.shape[:2], np.float32)
        cv2.ellipse(alpha, ((100.0, 110.0), (185.0, 205.0), 0.0), 1.0, -1)
        alpha = cv2.GaussianBlur(alpha, (0, 0), 4)
        if other:
            head, alpha = head[:, ::-1], alpha[:, ::-1]
            head = (255 * (head / 255.0) ** 1.3)[..., ::-1].clip(0, 255).astype(np.uint8)
            centre = np.array([head.shape[1] - 1 - centre[0], centre[1]])
        matrix = np.array([[scale, 0, x - scale * centre[0]], [0, scale, y - scale * centre[1]]])
        size = (image.shape[1], image.shape[0])
        head = cv2.warpAffine(np.ascontiguousarray(head), matrix, size, flags=cv2.INTER_LINEAR)
        alpha = cv2.warpAffine(np.ascontiguousarray(alpha), matrix, size)[..., None]
        image[:] = np.rint(image * (1 - alpha) + head * alpha).astype(np.uint8)
        return image

    return put


@lru_cache(maxsize=1)
def _yunet_file() -> Path | None:
    from lipsync_core.weights import files

    found = files.find("yunet")
    if found is not None:
        return found
    shared = Path(__file__).parents[4] / "shared" / "models" / "face_detection_yunet_2023mar.onnx"
    return shared if shared.is_file() else None


@pytest.fixture(params=["yunet", "cascade"])
def detector(request):
    """Every detector that needs no extra, one after the other."""
    if request.param == "cascade":
        return Cascade()
    if _yunet_file() is None:
        pytest.skip("the YuNet network is not on this machine")
    return YuNet(_yunet_file())


@pytest.fixture
def yunet():
    if _yunet_file() is None:
        pytest.skip("the YuNet network is not on this machine")
    return YuNet(_yunet_file())
