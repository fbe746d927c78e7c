"""One picture of a clip, read lazily and painted in the file's own samples."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from . import pixels

if TYPE_CHECKING:
    import av
    import numpy as np


class Frame:
    """A ``Picture`` on the decoder's own memory; it is never changed, painting makes a new one."""

    __slots__ = ("_duration", "_index", "_look", "_time", "_video")

    def __init__(
        self,
        video: av.VideoFrame,
        look: pixels.Look,
        *,
        index: int,
        time: Fraction,
        duration: Fraction,
    ) -> None:
        self._video = video
        self._look = look
        self._index = index
        self._time = time
        self._duration = duration

    def __repr__(self) -> str:
        width, height = self.size
        name = self._look.kind.name
        return f"<Frame {self._index} at {float(self._time):.3f} s, {width}x{height} {name}>"

    @property
    def index(self) -> int:
        """Number of the frame in the clip, from 0."""
        return self._index

    @property
    def time(self) -> Fraction:
        """Seconds since the first frame of the clip."""
        return self._time

    @property
    def duration(self) -> Fraction:
        """Seconds until the next frame."""
        return self._duration

    @property
    def size(self) -> tuple[int, int]:
        """``(width, height)`` in stored pixels, upright; see ``Clip.sar`` for their shape."""
        return self._video.width, self._video.height

    @property
    def video(self) -> av.VideoFrame:
        """What the writer encodes; its time stamp belongs to the writer."""
        return self._video

    @property
    def look(self) -> pixels.Look:
        """Layout, colour matrix and range of the samples."""
        return self._look

    def rgb(self) -> np.ndarray:
        """The whole picture, ``(H, W, 3)`` uint8."""
        return self.region(0, 0, self._video.width, self._video.height)

    def region(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        """``(y1-y0, x1-x0, 3)`` uint8 RGB; outside the picture the edge is repeated."""
        return pixels.region(self._video, self._look, x0, y0, x1, y1)

    def luma(self, long_side: int) -> np.ndarray:
        """``(h, w)`` uint8 full-range brightness, longer side at most ``long_side``."""
        size = pixels.reduced_size(self._video.width, self._video.height, long_side)
        return pixels.luma(self._video, self._look, size)

    def reduced(self, long_side: int) -> np.ndarray:
        """``(h, w, 3)`` uint8 RGB of the same size as ``luma(long_side)``."""
        size = pixels.reduced_size(self._video.width, self._video.height, long_side)
        return pixels.reduced(self._video, self._look, size)

    def planes(self) -> list[np.ndarray]:
        """The samples themselves, one array a plane; not to be written to."""
        return pixels.planes(self._video, self._look.kind)

    def painted(self, x0: int, y0: int, rgb: np.ndarray, mask: np.ndarray) -> Frame:
        """A new frame that shows ``rgb`` at ``(x0, y0)`` where ``mask`` is above 0.

        ``rgb``: ``(h, w, 3)`` uint8 or float32 0..255, already composited with what was there;
        ``mask``: ``(h, w)``. Samples outside the mask stay bit for bit what they were.
        """
        if rgb.shape[:2] != mask.shape or rgb.ndim != 3 or rgb.shape[2] != 3:
            raise ValueError(
                f"painting needs rgb (h, w, 3) and a mask (h, w) of one size, "
                f"got {rgb.shape} and {mask.shape}"
            )
        video = pixels.painted(self._video, self._look, x0, y0, rgb, mask)
        return Frame(video, self._look, index=self._index, time=self._time, duration=self._duration)
