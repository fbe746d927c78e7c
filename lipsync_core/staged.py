"""The dub one stage at a time, on pictures in memory: what a graph of nodes is made of.

The order is that of ``dub.py``: find, hear, render, paste. Long clips belong there; here every
stage hands its whole result on, so that people can look at it and change it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from .errors import EngineError, MediaError, SettingsError

if TYPE_CHECKING:
    import numpy as np

    from .engines.base import Engine, Rendered
    from .faces.detect.base import Detector
    from .faces.templates import Template
    from .types import Audio, FaceTrack, Progress, Settings, Voice

log = logging.getLogger("lipsync.staged")

OVERLAY_SIDE = 640
"""Longer side in pixels of the pictures that show what was found."""


@dataclass(frozen=True, kw_only=True)
class Faces:
    """One person in a batch of frames."""

    engine: str
    """The engine that the crops were cut for."""
    track: FaceTrack
    study: dict[str, np.ndarray] | None
    template: Template
    matrices: np.ndarray
    """``(T, 2, 3)`` float64, source px to crop px."""
    size: tuple[int, int]
    """``(W, H)`` of the frames."""
    rate: Fraction
    """Frames per second."""
    crops: Sequence[np.ndarray] = ()
    """``T`` crops ``(h, w, 3)`` uint8."""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What an engine hears in a voice, one row a frame."""

    engine: str
    speech: Any
    times: Sequence[Fraction]
    """Seconds of the voice, one per frame."""
    rate: Fraction


@dataclass(frozen=True, kw_only=True)
class Patch:
    """What changes in one frame."""

    index: int
    x: int
    y: int
    rgb: np.ndarray
    """``(h, w, 3)`` float32 0..255."""
    mask: np.ndarray
    """``(h, w)`` float32: 0 where the frame keeps its pixels."""


@dataclass(frozen=True, kw_only=True)
class Portrait:
    """A voice to look at."""

    duration: float
    rate: int
    channels: int
    peaks: list[float]
    """0..1, how far the sound swings in equal pieces of the whole."""
    speech: list[tuple[float, float]]
    """Seconds from and to which somebody speaks."""
    opening: list[float]
    """0..1, how far the mouth opens at most in each of the same pieces."""

    def sentence(self, start: float = 0.0, end: float | None = None) -> str:
        """One line for people about what lies between two seconds."""
        end = self.duration if end is None else min(end, self.duration)
        parts = [(max(a, start), min(b, end)) for a, b in self.speech]
        parts = [(a, b) for a, b in parts if b > a]
        spoken = sum(b - a for a, b in parts)
        return (
            f"{end - start:.2f} s, {self.rate} Hz, {self.channels} channel"
            f"{'' if self.channels == 1 else 's'}, {spoken:.2f} s of speech in {len(parts)} stretches"
        )


PEAKS = 600
"""Pieces of a voice's picture; more than a node is wide."""


def row(name: str) -> Engine:
    """The engine of that name; what it needs for drawing may still be absent."""
    from .engines import ENGINES, pick

    return next((engine for engine in ENGINES if engine.name == name), None) or pick(name)


class _Followed:
    """A voice that tells how far it has been heard, block by block."""

    def __init__(
        self, voice: Voice, progress: Progress, done: float = 0.0, share: float = 1.0
    ) -> None:
        self._voice, self._done, self._share = voice, done, share
        self.progress: Progress | None = progress
        """None once the stage is over: an engine may read the voice again in a later one."""
        self._told = (0, 100)

    @property
    def duration(self) -> Fraction:
        return self._voice.duration

    def blocks(self, rate: int) -> Iterator[np.ndarray]:
        total = max(float(self.duration), 1e-3)
        heard = 0.0
        for block in self._voice.blocks(rate):
            yield block
            heard += len(block) / rate
            part = self._done + self._share * min(heard / total, 1.0)
            self._told = round(100 * part), 100
            self.heed()

    def heed(self) -> None:
        """For whoever works on what was heard: says how far that is, which may end the work."""
        if self.progress is not None:
            self.progress(*self._told, None)


def describe(audio: Audio, progress: Progress) -> Portrait:
    """How ``audio`` looks: its swing, where there is speech, and how far the mouth opens."""
    import numpy as np

    from .audio.voice import speech as spoken
    from .engines.draft import speech
    from .media.audio import MemoryVoice
    from .media.timing import frame_count

    voice = MemoryVoice(audio)
    first, second = _Followed(voice, progress, 0, 0.5), _Followed(voice, progress, 0.5, 0.5)
    moments = [Fraction(index, 100) for index in range(frame_count(voice.duration, 100))]
    return Portrait(
        duration=float(voice.duration),
        rate=audio.rate,
        channels=len(audio.samples),
        peaks=_pieces(np.abs(audio.samples).max(axis=0)),
        speech=[(float(start), float(end)) for start, end in spoken(first)],
        opening=_pieces(speech.hear(second, moments)[:, speech.OPEN]),
    )


def _pieces(curve: np.ndarray) -> list[float]:
    """The highest value 0..1 in each of ``PEAKS`` equal pieces of ``curve``."""
    import numpy as np

    starts = np.linspace(0, len(curve), PEAKS + 1).astype(int)[:-1]
    highest = np.maximum.reduceat(curve, np.minimum(starts, len(curve) - 1))
    return [round(float(value), 2) for value in highest.clip(0, 1)]


def find(
    pictures: Sequence[np.ndarray],
    rate: Fraction,
    engine: Engine,
    settings: Settings,
    *,
    given: Detector | None = None,
    where: Sequence[np.ndarray] | None = None,
    calm: float = 0.0,
    progress: Progress,
) -> Faces:
    """Follows one person through ``pictures``, each ``(H, W, 3)`` uint8.

    ``given``: faces known already, in place of a detector. ``where``: one ``(h, w)`` mask a picture
    of any size, faces are looked for where it is 1. ``calm``: seconds of smoothing on top of the
    tracker's own.
    """
    from .dub import Studies
    from .faces import align, detect
    from .faces.choose import check_present, choose
    from .faces.track import Tracker
    from .media import batch

    if settings.face == "all":
        raise SettingsError("one Face Align follows one person; use one for each instead of 'all'")
    height, width = pictures[0].shape[:2]
    tracker = Tracker(given or detect.pick(settings.detector), (width, height), rate)
    studies = Studies(engine)
    for index in range(len(pictures)):
        picture = pictures[index]
        frame = batch.frame(picture, index, rate)
        looked_at = (
            frame if where is None else batch.frame(_only(picture, where[index]), index, rate)
        )
        sightings = tracker.see(looked_at)
        studies.see(frame, sightings)
        small = _marked(picture, [s.points for s in sightings], [s.box for s in sightings])
        progress(index + 1, len(pictures), small)
    people = tracker.finish()
    times = [index / rate for index in range(len(pictures))]
    (found,) = choose(people, settings.face, times, (width, height))
    number = next(i for i, track in enumerate(people.tracks) if track is found)
    if settings.missing == "error":
        check_present(found)
    track = _calmer(found, calm * float(rate))
    template = engine.template(track)
    return Faces(
        engine=engine.name,
        track=track,
        study=studies.states().get(people.persons[number]),
        template=template,
        matrices=align.fit(track.points, template),
        size=(width, height),
        rate=rate,
    )


def cut(pictures: Sequence[np.ndarray], faces: Faces, progress: Progress) -> np.ndarray:
    """The person's face upright in every picture: ``(T, h, w, 3)`` uint8; black where it is absent."""
    import numpy as np

    from .faces import align
    from .media import batch

    side = faces.template.size
    crops = np.zeros((len(pictures), side, side, 3), np.uint8)
    for index in range(len(pictures)):
        if faces.track.present[index]:
            frame = batch.frame(pictures[index], index, faces.rate)
            crops[index] = align.cut(frame, faces.matrices[index], side)
        progress(index + 1, len(pictures), crops[index])
    return crops


def hear(audio: Audio, engine: Engine, rate: Fraction, progress: Progress) -> Heard:
    """What ``engine`` hears in ``audio``, for a clip of ``rate`` frames per second."""
    from .media import timing
    from .media.audio import MemoryVoice

    voice = MemoryVoice(audio)
    count = timing.frame_count(voice.duration, rate)
    times = [timing.frame_time(index, rate) for index in range(count)]
    followed = _Followed(voice, progress)
    speech = engine.listen(followed, times)
    followed.progress = None
    return Heard(engine=engine.name, speech=speech, times=times, rate=rate)


def render(
    faces: Faces,
    heard: Heard,
    engine: Engine,
    settings: Settings,
    progress: Progress,
    *,
    crops: Sequence[np.ndarray] | None = None,
) -> Rendered:
    """Gives every crop the mouth of the voice; ``crops``: others than those in ``faces``, same size."""
    import numpy as np

    from .engines.base import Rendered

    crops = faces.crops if crops is None else crops
    _check_partners(faces, heard, engine, len(crops))
    side = faces.template.size
    if crops[0].shape[:2] != (side, side):
        raise MediaError(
            f"the crops are {crops[0].shape[1]}x{crops[0].shape[0]} where the {engine.name} engine was "
            f"given {side}x{side}; scale them back before the sampler, or improve them after it"
        )
    session = engine.start(
        speech=heard.speech, track=faces.track, study=faces.study, settings=settings
    )
    count = len(crops)
    drawn = np.zeros((count, side, side, 3), np.uint8)
    masks = np.zeros((count, side, side), np.float32)
    done = 0

    def still_there() -> None:
        progress(done, count, None)

    session.heed = still_there
    for start, end in _stretches(faces.track):
        for first in range(start, end, session.window):
            rows = list(range(first, min(first + session.window, end)))
            result = session.render(np.stack([crops[row] for row in rows]), rows, rows)
            drawn[rows] = np.clip(np.rint(result.crops), 0, 255).astype(np.uint8)
            masks[rows] = result.masks
            done = rows[-1] + 1
            progress(done, count, drawn[rows[-1]])
    for index in np.flatnonzero(faces.track.strength <= 0).tolist():
        drawn[index] = crops[index]
    progress(count, count, None)
    return Rendered(crops=drawn, masks=masks)


def paste(
    pictures: Sequence[np.ndarray],
    faces: Faces,
    crops: Sequence[np.ndarray],
    *,
    masks: Sequence[np.ndarray] | None = None,
    occlusion: Sequence[np.ndarray] | None = None,
    feather: float = 0.0,
    match_colour: bool = False,
    progress: Progress,
) -> Iterator[Patch]:
    """What changes in each picture when ``crops`` go back to where they were cut.

    ``crops`` may be of another size than they were cut; ``masks``: where a crop replaces its
    picture, any size. ``occlusion``: 1 where something stands in front, in the picture, any size.
    ``feather``: further softness of the mask as a part of the crop's side.
    """
    import numpy as np

    from .faces import mask as mouth_mask
    from .faces import paste as back
    from .media import batch

    _check_count("crops", len(crops), len(pictures))
    _check_count("faces", faces.track.frame_count, len(pictures))
    usual = mouth_mask.mouth(faces.template)
    for index in range(len(pictures)):
        if faces.track.strength[index] <= 0:
            progress(index + 1, len(pictures), None)
            continue
        crop = crops[index]
        mask = _fitted(usual if masks is None else masks[index], (crop.shape[1], crop.shape[0]))
        if feather > 0:
            mask = _softer(mask, feather * crop.shape[0])
        scaled = _scaled(faces.matrices[index], crop.shape[0] / faces.template.size)
        x, y, rgb, alpha = back.paste(
            batch.frame(pictures[index], index, faces.rate),
            crop,
            np.ascontiguousarray(mask, np.float32),
            scaled,
            strength=float(faces.track.strength[index]),
            match_colour=match_colour,
        )
        if occlusion is not None and alpha.size:
            front = _fitted(occlusion[index], faces.size)
            alpha = alpha * (1 - front[y : y + alpha.shape[0], x : x + alpha.shape[1]])
        if alpha.size:
            yield Patch(index=index, x=x, y=y, rgb=rgb, mask=alpha)
        progress(index + 1, len(pictures), None)


def overlay(pictures: Sequence[np.ndarray], faces: Faces) -> np.ndarray:
    """``(T, h, w, 3)`` uint8: the pictures reduced, with the face's box and points drawn in."""
    import numpy as np

    track = faces.track
    drawn = []
    for index in range(len(pictures)):
        here = bool(track.present[index])
        drawn.append(
            _marked(
                pictures[index],
                [track.points[index]] if here else [],
                [track.boxes[index]] if here else [],
            )
        )
    return np.stack(drawn)


def _check_partners(faces: Faces, heard: Heard, engine: Engine, count: int) -> None:
    for what, name in (("features", heard.engine), ("faces", faces.engine)):
        if name != engine.name:
            raise EngineError(
                f"the model is {engine.name} and the {what} were made for {name}; choose one engine in all nodes"
            )
    if heard.rate != faces.rate:
        raise SettingsError(
            f"the voice was heard at {float(heard.rate):g} frames per second and the faces were "
            f"followed at {float(faces.rate):g}; give both nodes the same fps"
        )
    _check_count("faces", faces.track.frame_count, count)
    if abs(len(heard.times) - count) > 1:
        raise SettingsError(
            f"there are {count} frames and the voice needs {len(heard.times)}; "
            "make them equally long with Match Length first"
        )


def _check_count(what: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise SettingsError(
            f"{what}: {found} for {wanted} frames; connect those of the same frames"
        )


def _stretches(track: FaceTrack) -> list[tuple[int, int]]:
    """``[start, end)`` of frames in which the face is painted, none reaching across a cut."""
    import numpy as np

    from .faces.smooth import spans

    pieces: list[tuple[int, int]] = []
    for start, end in spans(track.strength > 0):
        cuts = (np.flatnonzero(np.diff(track.shots[start:end])) + start + 1).tolist()
        pieces += zip([start, *cuts], [*cuts, end], strict=True)
    return pieces


def _calmer(track: FaceTrack, sigma: float) -> FaceTrack:
    """The track with its points averaged over ``sigma`` frames, never across a gap or a cut."""
    import cv2

    if sigma <= 0:
        return track
    points = track.points.copy()
    for start, end in _stretches(track):
        flat = track.points[start:end].reshape(end - start, -1)
        smooth = cv2.GaussianBlur(
            flat, (1, 0), sigmaX=1e-3, sigmaY=sigma, borderType=cv2.BORDER_REPLICATE
        )
        points[start:end] = smooth.reshape(-1, 5, 2)
    return replace(track, points=points)


def _only(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    fitted = _fitted(mask, (picture.shape[1], picture.shape[0]))
    return (picture * (fitted[..., None] > 0.5)).astype(picture.dtype)


def _fitted(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    import cv2
    import numpy as np

    plane = np.ascontiguousarray(plane, np.float32)
    if plane.shape[::-1] == size:
        return plane
    smaller = size[0] < plane.shape[1]
    return cv2.resize(plane, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def _softer(mask: np.ndarray, width: float) -> np.ndarray:
    import cv2

    return mask * cv2.GaussianBlur(mask, (0, 0), max(width, 0.3), borderType=cv2.BORDER_CONSTANT)


def _scaled(matrix: np.ndarray, factor: float) -> np.ndarray:
    """``matrix`` into a crop ``factor`` times as large; pixel centres stay pixel centres."""
    if factor == 1:
        return matrix
    scaled = matrix * factor
    scaled[:, 2] += (factor - 1) / 2
    return scaled


def _marked(
    picture: np.ndarray, points: Sequence[np.ndarray], boxes: Sequence[np.ndarray]
) -> np.ndarray:
    import cv2
    import numpy as np

    height, width = picture.shape[:2]
    scale = min(OVERLAY_SIDE / max(height, width), 1.0)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA)
    for box in boxes:
        x0, y0, x1, y1 = (round(float(v) * scale) for v in box)
        cv2.rectangle(small, (x0, y0), (x1, y1), (64, 220, 120), 2, cv2.LINE_AA)
    for face in points:
        for x, y in face:
            place = (round(float(x) * scale), round(float(y) * scale))
            cv2.circle(small, place, 3, (255, 200, 0), -1, cv2.LINE_AA)
    return small
