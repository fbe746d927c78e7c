"""Writes a data set of presenters in the layout that the preprocessor leaves behind, with the truth beside it."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lipsync_core.errors import MediaError, SettingsError
from lipsync_core.preprocess import features, quality, write
from lipsync_core.preprocess.affine import pose
from lipsync_core.preprocess.config import OutputConfig
from lipsync_core.preprocess.dataset import write_index
from lipsync_core.preprocess.manifest import NAME, Manifest
from lipsync_core.preprocess.setup import WORK
from lipsync_core.preprocess.step import FPS, Clip, Row, Source

from .people import SPLITS, Split, numbers
from .take import Take

log = logging.getLogger("lipsync.presenters")

Voices = Literal["builtin", "espeak"]
VOICES: tuple[Voices, ...] = ("builtin", "espeak")
VERSION = 2
"""Changes when the same seed gives other pictures or sounds."""
SIDES = (32, 1024)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to make."""

    hours: float = 0.2
    seed: int = 0
    resolution: int = 64
    split: Split = "train"
    people: int = 0
    """How many different ones; 0: another one in every clip."""
    voices: Voices = "builtin"
    seconds: float = 5.0
    """Of a clip."""
    crf: int = OutputConfig().crf

    def checked(self) -> Settings:
        """The same, when it can be made; else a SettingsError in one line."""
        low, high = SIDES
        if not 0 < self.hours <= 10_000:
            raise SettingsError(f"--hours is {self.hours:g}; give more than 0, at most 10000")
        if not low <= self.resolution <= high or self.resolution % 8:
            raise SettingsError(
                f"--resolution is {self.resolution}; give a multiple of 8 from {low} to {high}"
            )
        if self.seed < 0:
            raise SettingsError(f"--seed is {self.seed}; give 0 or more")
        if self.people < 0:
            raise SettingsError(f"--people is {self.people}; give 1 or more, or 0 for no limit")
        if not 0.64 <= self.seconds <= 60:
            raise SettingsError(f"--seconds is {self.seconds:g}; give 0.64 to 60")
        if not 0 <= self.crf <= 51:
            raise SettingsError(f"--crf is {self.crf}; give 0 to 51")
        if self.split not in SPLITS:
            raise SettingsError(f"--split is {self.split!r}; choose one of {', '.join(SPLITS)}")
        if self.voices not in VOICES:
            raise SettingsError(f"--voices is {self.voices!r}; choose one of {', '.join(VOICES)}")
        return self

    @property
    def frames(self) -> int:
        """Of a clip."""
        return round(self.seconds * FPS)

    @property
    def clip_count(self) -> int:
        return max(1, round(self.hours * 3600 * FPS / self.frames))

    def signature(self) -> dict[str, Any]:
        """All that a clip depends on; more hours of the same are no other data."""
        return {**asdict(self), "hours": None, "version": VERSION}


@dataclass(frozen=True, kw_only=True)
class Order:
    """One clip to be made."""

    index: int
    presenter: int
    settings: Settings
    output: str

    @property
    def source(self) -> Source:
        """The film that the clip would come from, if there were one."""
        name = f"presenter-{self.presenter:010d}-{self.index:06d}"
        told = f"{name} {sorted(self.settings.signature().items())}"
        key = hashlib.blake2b(told.encode(), digest_size=8).hexdigest()
        return Source(key=key, path=Path(f"{name}.mp4"))

    @property
    def key(self) -> str:
        return f"{self.source.key}-c000000"


@dataclass(frozen=True, kw_only=True)
class Made:
    """What is in the folder now."""

    clips: int
    hours: float
    people: int
    new: int
    index: Path

    def sentence(self) -> str:
        return (
            f"{self.clips} clips, {self.hours:.2f} hours, {self.people} people, "
            f"{self.new} clips new"
        )


def make(
    output: Path,
    settings: Settings,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Made:
    """Makes what is not there yet; a run that was broken off goes on where it stopped.

    ``workers``: processes; 1 works in this one, but for voices of espeak-ng, which have a new one a clip.
    """
    settings = settings.checked()
    if workers < 1:
        raise SettingsError(f"--workers is {workers}; give 1 or more")
    if settings.voices == "espeak":
        from .spoken import check

        check()
    _ready(output)
    orders = _orders(output, settings)
    with Manifest(output / NAME) as manifest:
        _same(manifest, settings, output)
        there = _there(manifest, output)
        waiting = [order for order in orders if order.key not in there]
        done = len(orders) - len(waiting)
        try:
            for order, rows in _made(waiting, workers):
                source = order.source
                manifest.begin(source.key, str(source.path), "presenters")
                manifest.add(rows)
                manifest.finish(source.key, "done")
                done += 1
                if progress is not None:
                    progress(done, len(orders))
        finally:
            shutil.rmtree(output / WORK, ignore_errors=True)
        clips, frames = manifest.kept()
    index = write_index(output)
    return Made(
        clips=clips,
        hours=frames / FPS / 3600,
        people=len({order.presenter for order in orders}),
        new=len(waiting),
        index=index,
    )


def _ready(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        foreign = not (output / NAME).exists() and any(output.iterdir())
    except OSError as error:
        raise MediaError(f"{output} cannot be made ({error.strerror}); give another") from error
    if foreign:
        raise SettingsError(f"{output} holds other files; give a new or an empty folder")


def _same(manifest: Manifest, settings: Settings, output: Path) -> None:
    """Refuses to mix two data sets."""
    known = manifest.fact("presenters")
    if known is None and manifest.sources():
        raise SettingsError(f"{output} holds clips of real videos; give another folder")
    wanted = settings.signature()
    if known is not None and known != wanted:
        other = next(name for name in wanted if known.get(name) != wanted[name])
        raise SettingsError(
            f"{output} was made with {other} {known.get(other)}, not {wanted[other]}; "
            "give another folder"
        )
    manifest.put_fact("presenters", wanted)


def _orders(output: Path, settings: Settings) -> list[Order]:
    count = settings.clip_count
    cast = numbers(settings.seed, min(settings.people or count, count), settings.split)
    return [
        Order(index=i, presenter=cast[i % len(cast)], settings=settings, output=str(output))
        for i in range(count)
    ]


def _there(manifest: Manifest, output: Path) -> set[str]:
    """Keys of clips that were finished and still are there."""
    return {
        row["sample"]
        for row in manifest.rows()
        if row["step"] == "write"
        and (output / write.CLIPS / row["metrics"]["file"]).exists()
        and (output / write.CLIPS / row["metrics"]["file"]).with_suffix(".safetensors").exists()
    }


def _made(orders: list[Order], workers: int) -> Iterator[tuple[Order, list[Row]]]:
    workers = min(workers, len(orders))
    # espeak-ng carries on where its last words left it; only the first of a process repeat.
    fresh = bool(orders) and orders[0].settings.voices == "espeak"
    if workers <= 1 and not fresh:
        for order in orders:
            yield order, make_clip(order)
        return
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(
        workers, _alone, maxtasksperchild=1 if fresh else None
    ) as pool:
        yield from pool.imap(_told, orders)


def _alone() -> None:
    """One thread a worker: the pictures are small, and there is a worker for every core."""
    import cv2

    cv2.setNumThreads(1)


def _told(order: Order) -> tuple[Order, list[Row]]:
    return order, make_clip(order)


def take_of(order: Order) -> Take:
    """The presenter, the words and the movement of a clip."""
    settings = order.settings
    seed = settings.seed * 1_000_003 + order.index
    speech = None
    if settings.voices == "espeak":
        from .spoken import say

        speech = say(order.presenter, settings.frames / FPS, seed)
    return Take(
        order.presenter,
        settings.frames,
        resolution=settings.resolution,
        seed=seed,
        speech=speech,
    )


def make_clip(order: Order) -> list[Row]:
    """Writes one clip and its features; returns what the manifest is to know of it."""
    take = take_of(order)
    clip = _clip(order, take)
    output = Path(order.output)
    name = write.file_name(order.source, order.key)
    video = output / write.CLIPS / name
    beside = video.with_suffix(".safetensors")
    work = output / WORK / f"{os.getpid()}-{secrets.token_hex(4)}"
    work.mkdir(parents=True)
    video.parent.mkdir(parents=True, exist_ok=True)
    measured = {**quality.measure(clip.crops), **clip.found}
    stored = features.tensors(clip, None, "cpu") | truth(take)
    try:
        features.write(work / beside.name, stored, _facts(order, take, measured, name))
        write.encode(work / video.name, clip.crops, clip.heard(), order.settings.crf)
        # The features first: where there is a clip, its features are there too.
        (work / beside.name).replace(beside)
        (work / video.name).replace(video)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    size = video.stat().st_size + beside.stat().st_size
    row = {"sample": order.key, "source": order.source.key, "parent": None, "state": "kept"}
    row |= {"reason": "", "seconds": 0.0, "first": 0, "frames": take.frame_count}
    return [
        Row(step="quality", metrics={**measured, **_who(order)}, **row),
        Row(step="write", metrics={"file": name, "bytes": size}, **row),
    ]


def truth(take: Take) -> dict[str, np.ndarray]:
    """What no camera tells: ``shapes (T, 6)`` and ``shapes50 (2 T, 6)`` float32 mouths at 25 and 50
    a second, ``phones (N,)`` int16 rows of ``SYMBOLS`` of ``trainer.tasks.mouth.phones`` and
    ``phone_ends (N,)`` float64 seconds."""
    parts = take.speech.parts
    return {
        "shapes": np.ascontiguousarray(take.shapes),
        "shapes50": np.ascontiguousarray(take.shapes50),
        "phones": parts.codes.astype(np.int16),
        "phone_ends": parts.ends.astype(np.float64),
    }


def _clip(order: Order, take: Take) -> Clip:
    from .render import SOURCE_SIZE

    source = order.source
    heights = np.hypot(take.matrices[:, 1, 0], take.matrices[:, 1, 1])
    return Clip(
        key=order.key,
        parent=f"{source.key}-s000",
        source=source,
        first=0,
        crops=take.crops(),
        sound=take.sound,
        margin=0,
        points=take.points,
        boxes=take.boxes,
        matrices=take.matrices,
        times=take.times,
        facts=write.described(source.path, *SOURCE_SIZE, take.frame_count),
        found={
            **pose(take.points, 1.0),
            "face_px": round(take.resolution / float(np.median(heights)), 1),
        },
    )


def _who(order: Order) -> dict[str, Any]:
    return {"presenter": order.presenter, "split": order.settings.split}


def _facts(order: Order, take: Take, measured: dict[str, Any], name: str) -> dict[str, Any]:
    from ..tasks.mouth.phones import SYMBOLS

    return {
        "clip": name,
        "source": str(order.source.path),
        "first_frame": 0,
        "frames": take.frame_count,
        "fps": FPS,
        "resolution": take.resolution,
        "template": "latentsync",
        "sound_shift": 0,
        **measured,
        **_who(order),
        "seed": take.seed,
        "phones": " ".join(SYMBOLS[code] for code in take.speech.parts.codes),
    }
