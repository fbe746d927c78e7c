"""Cuts a stream where the camera does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from ..errors import SettingsError
from ..media.pixels import reduced_size
from ..types import Picture
from .config import ShotsConfig
from .step import FPS, Book, Moment, Step, Stream

if TYPE_CHECKING:
    from .config import Config
    from .setup import Setup

T = TypeVar("T")

SIDE = 256
"""Longer side of the picture that cuts are looked for in; PySceneDetect reduces to about this too."""


class Watcher(Protocol):
    """Sees pictures in order and says where shots begin."""

    lag: int
    """Pictures after which its word on a picture is final."""

    def see(self, picture: Picture) -> None: ...

    def begins(self, number: int) -> bool:
        """Whether picture ``number`` begins a shot."""
        ...


class Shots(Step):
    """One sample for every shot; pictures wait for the few frames that the detector looks ahead."""

    name = "shots"
    takes = "stream"
    gives = "stream"

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        # Whether the detector is installed is said at once, not for every file.
        make(config.shots)

    def run(self, sample: Stream, book: Book) -> Iterator[Stream]:
        watcher = make(self.config.shots)
        count = shots = 0

        def marked() -> Iterator[tuple[Moment, bool]]:
            nonlocal count
            for picture, begins in delayed(sample.pictures, watcher):
                count += 1
                yield picture, begins

        timed = book.clock.each(self.name, marked())
        for part in split(timed, lambda pair: pair[1]):
            first = sample.first + count - 1
            shots += 1
            yield replace(
                sample,
                key=f"{sample.source.key}-h{first:06d}",
                parent=sample.source.key,
                first=first,
                pictures=(picture for picture, _ in part),
            )
        book.add(
            self.name, sample.source.key, metrics={"shots": shots, "frames": count}, frames=count
        )


def pick(name: str) -> str:
    """The detector that ``name`` means on this machine."""
    if name != "auto":
        return name
    return "adaptive" if find_spec("scenedetect") else "faces"


def make(config: ShotsConfig) -> Watcher:
    """The detector that the settings name."""
    if pick(config.detector) == "faces":
        return _Ours()
    return _SceneDetect(config)


class _Ours:
    """Our tracker's own: blind to fades and flashes, which are not cuts, and needs nothing."""

    def __init__(self) -> None:
        from ..faces.shots import FLASH, Shots

        self.lag = FLASH + 1
        self._shots = Shots()

    def see(self, picture: Picture) -> None:
        self._shots.see(picture.luma(SIDE))

    def begins(self, number: int) -> bool:
        return number in self._shots.cuts[-8:]


class _SceneDetect:
    """PySceneDetect's detectors, given our pictures one by one instead of a file."""

    def __init__(self, config: ShotsConfig) -> None:
        try:
            from scenedetect import AdaptiveDetector, ContentDetector, FrameTimecode
        except ImportError as error:
            raise SettingsError(
                "shot detection needs PySceneDetect; run: pip install "
                '"lipsync-core[preprocess]", or set shots.detector=faces'
            ) from error
        least = max(round(config.min_seconds * FPS), 1)
        if pick(config.detector) == "adaptive":
            self._detector = AdaptiveDetector(
                adaptive_threshold=config.threshold,
                min_content_val=config.min_content,
                min_scene_len=least,
            )
            self.lag = 2 * self._detector.window_width
        else:
            self._detector = ContentDetector(threshold=config.threshold, min_scene_len=least)
            self.lag = least
        self._code = FrameTimecode
        self._number = 0
        self._cuts: deque[int] = deque(maxlen=16)
        self._reformatter: Any = None

    def see(self, picture: Picture) -> None:
        image = self._small(picture)
        code = self._code(self._number, float(FPS))
        for cut in self._detector.process_frame(code, image):
            self._cuts.append(int(cut.frame_num))
        self._number += 1

    def begins(self, number: int) -> bool:
        return number in self._cuts

    def _small(self, picture: Picture) -> np.ndarray:
        """``(h, w, 3)`` BGR. A fifth of the time of an area average; cuts need no exact pixels."""
        video = getattr(getattr(picture, "picture", picture), "video", None)
        if video is None:
            return np.ascontiguousarray(picture.reduced(SIDE)[..., ::-1])
        if self._reformatter is None:
            from av.video.reformatter import VideoReformatter

            self._reformatter = VideoReformatter()
        width, height = reduced_size(video.width, video.height, SIDE)
        small = self._reformatter.reformat(
            video, width, height, "bgr24", interpolation="FAST_BILINEAR"
        )
        return small.to_ndarray()


def delayed(pictures: Iterable[Moment], watcher: Watcher) -> Iterator[tuple[Moment, bool]]:
    """Every picture with whether it begins a shot, once that is certain."""
    waiting: deque[Moment] = deque()
    given = 0
    for picture in pictures:
        watcher.see(picture)
        waiting.append(picture)
        if len(waiting) > watcher.lag:
            yield waiting.popleft(), watcher.begins(given)
            given += 1
    while waiting:
        yield waiting.popleft(), watcher.begins(given)
        given += 1


def split(items: Iterable[T], begins: Callable[[T], bool]) -> Iterator[Iterator[T]]:
    """Stretches of ``items``, each from one that begins up to the next; read in order, none is kept."""
    source = iter(items)
    pending: list[T] = []
    for item in source:
        pending = [item]
        break

    def stretch() -> Iterator[T]:
        yield pending.pop()
        for item in source:
            if begins(item):
                pending.append(item)
                return
            yield item

    while pending:
        part = stretch()
        yield part
        # What nobody looked at is passed over, so that the next stretch begins where it should.
        for _ in part:
            pass
