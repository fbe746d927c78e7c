"""Reading pictures: any file PyAV opens becomes upright frames with exact times."""

from __future__ import annotations

import array
import logging
import math
import os
import queue
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..errors import MediaError
from . import pixels
from .decoder import STILL_RATE, Clip, Decoded, Session, chain
from .frame import Frame

log = logging.getLogger("lipsync.media")

CACHE_BYTES = 200_000_000
"""Decoded pictures kept while a clip is read backwards."""
NEAR = 8
"""A picture at most so many further on, or back, is read on to rather than sought."""
IDLE_SECONDS = 0.2
"""How often a reader that waits is asked whether it still wants to."""
PREFETCH_DEPTH = 8

T = TypeVar("T")


def probe(path: str | os.PathLike[str]) -> Clip:
    """Looks at the header and the first pictures of a clip.

    Raises ``MediaError`` if there is no picture to be had.
    """
    session = Session(Path(path))
    try:
        return session.clip
    finally:
        session.close()


class Reader:
    """The pictures of one clip, in order or by number, in memory that does not depend on length.

    ``start`` and ``end`` are seconds from the clip's first frame: frames whose time is at least
    ``start`` and below ``end`` make up the clip, and are counted and timed from there.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        start: Fraction | None = None,
        end: Fraction | None = None,
        whole: bool = False,
    ) -> None:
        """``whole``: what follows damage is left out up to the next key picture, not shown as it is."""
        self.path = Path(path)
        self._whole = whole
        self._session: Session | None = None
        if start is not None and start < 0:
            raise MediaError(f"the clip cannot start at {float(start)} s; give 0 or more")
        if end is not None and end <= (start or 0):
            raise MediaError(
                f"the clip would end at {float(end):g} s, not after its start at "
                f"{float(start or 0):g} s; give a later end"
            )
        self._start, self._end = start or Fraction(0), end
        session = Session(self.path)
        self._stored = session.stored
        clip = session.clip
        session.close()
        if not clip.is_still and (start is not None or end is not None):
            stop = min(end, clip.duration) if end is not None else clip.duration
            length = max(stop - self._start, 1 / clip.frame_rate)
            count = max(round(length * clip.frame_rate), 1)
            clip = replace(clip, duration=length, frame_count=count)
        self.clip = clip
        self._origin: int | None = None
        """Tick of the file's very first picture."""
        self._first: int | None = None
        """Tick of the clip's first picture, which has time 0."""
        self._ticks: array.array[int] = array.array("q")
        """Ticks of the clip's pictures as far as they are known, without a hole."""
        self._keys: array.array[int] = array.array("q")
        """Numbers of those that can be decoded from."""
        self._complete = False
        self._last_ticks = 0
        """Duration of the last picture, once known."""
        self._can_seek = True
        self._look = clip.look

    @property
    def frame_count(self) -> int | None:
        """Exact number of frames, once the clip has been read to its end."""
        return len(self._ticks) if self._complete else None

    @property
    def damaged(self) -> int:
        """Packets and pictures that were found damaged in the latest pass of ``frames``, so far.

        Lost packets of a transport stream are seen whatever the codec. Inside of packets H.264,
        MPEG-4 and AV1 notice nearly all damage, and so does VP9 read ``whole``; of HEVC's a third
        is concealed without a trace.
        """
        return self._session.damaged if self._session is not None else 0

    @property
    def edges(self) -> Sequence[int]:
        """When each frame begins and the last one ends, in ``clip.time_base`` from the first.

        Known after a first pass; without one, the clip is decoded for it. A ``range`` if the rate
        is constant.
        """
        if self.clip.is_still:
            return range(2)
        if not self._complete:
            for _ in self.frames():
                pass
        first = self._ticks[0]
        edges = [tick - first for tick in self._ticks]
        edges.append(edges[-1] + self._last_ticks)
        step = edges[1]
        if all(edge == number * step for number, edge in enumerate(edges)):
            return range(0, edges[-1] + 1, step)
        return array.array("q", edges)

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def frames(self) -> Iterator[Frame]:
        """Every frame in presentation order."""
        self._session = session = self._open()
        try:
            for decoded, index, ticks in self._run(session, 0):
                yield self._frame(session, decoded, index, ticks)
        finally:
            session.close()

    def windows(self, size: int) -> Iterator[list[Frame]]:
        """Every frame, as lists of ``size`` consecutive ones; the last may be shorter."""
        window: list[Frame] = []
        for frame in self.frames():
            window.append(frame)
            if len(window) == size:
                yield window
                window = []
        if window:
            yield window

    def follow(self, schedule: Iterable[int]) -> Iterator[Frame]:
        """The frames with these numbers, which may repeat, jump, and run backwards.

        Forwards nothing is decoded twice, nor what comes again right after a turn. Backwards goes by
        stretches from one key picture on. At most ``CACHE_BYTES`` are kept for either.
        """
        session = self._open()
        cursor = _Cursor(self, session)
        steps = np.fromiter(schedule, np.int64)
        try:
            for index, again in zip(steps, _coming_again(steps, cursor.room), strict=True):
                yield cursor.get(int(index), int(again))
        finally:
            cursor.session.close()

    def _open(self) -> Session:
        return Session(self.path, self.clip, self._stored, whole=self._whole)

    def _frame(self, session: Session, decoded: Decoded, index: int, ticks: int) -> Frame:
        assert self._first is not None
        video = session.upright(decoded.video)
        time = (decoded.tick - self._first) * session.time_base
        duration = ticks * session.time_base
        if self.clip.is_still:
            time, duration = Fraction(0), 1 / STILL_RATE
        return Frame(video, self._look, index=index, time=time, duration=duration)

    def _run(self, session: Session, index: int) -> Iterator[tuple[Decoded, int, int]]:
        """Pictures from number ``index`` on, with their numbers and durations in ticks.

        ``index`` is 0, or one whose tick is known; then the file is sought there, and the run
        begins at a key picture at or before it.
        """
        decoded: Iterator[Decoded] | None = None
        if index and self._can_seek:
            decoded = session.seek(self._ticks[index])
            if decoded is None:
                self._can_seek = False
                log.debug("%s cannot be sought; it is decoded from the beginning", self.path)
        elif not index and self._first is not None and self._start and self._can_seek:
            decoded = session.seek(self._first)
        if decoded is None:
            session.rewind()
            decoded = session.decode()
            if self._start and self._first is None:
                decoded = self._skip_to_start(session, decoded)
        number: int | None = None
        held: Decoded | None = None
        for picture in decoded:
            if self._origin is None:
                self._origin = picture.tick
            if self._first is None:
                if (picture.tick - self._origin) * session.time_base < self._start:
                    continue
                self._first = picture.tick
            if picture.tick < self._first:
                continue
            if held is not None:
                assert number is not None
                yield held, number, picture.tick - held.tick
                number += 1
            if self._ended(session, picture.tick):
                self._finish(number, held, picture.tick)
                if held is not None:
                    return
                break
            if not session.regular:
                self._can_seek = False
            if number is None:
                number = bisect_left(self._ticks, picture.tick)
                known = number < len(self._ticks)
                if (known and self._ticks[number] != picture.tick) or (index and not known):
                    # After seeking this file counts time differently.
                    self._can_seek = False
                    yield from self._run(session, index)
                    return
            self._note(number, picture)
            held = picture
        if held is None:
            if not self._ticks:
                raise MediaError(
                    f"{self.path} has no picture between {float(self._start):g} s and "
                    f"{'its end' if self._end is None else f'{float(self._end):g} s'}"
                )
            return
        assert number is not None
        step = max(round(1 / (self.clip.frame_rate * session.time_base)), 1)
        ticks = held.ticks or step
        self._finish(number + 1, held, held.tick + ticks)
        yield held, number, ticks

    def _skip_to_start(self, session: Session, decoded: Iterator[Decoded]) -> Iterator[Decoded]:
        """Seeks near a late start instead of decoding up to it."""
        first = next(decoded, None)
        if first is None:
            return iter(())
        self._origin = first.tick
        target = first.tick + math.floor(self._start / session.time_base)
        if self._start > 5 and session.regular:
            sought = session.seek(target)
            if sought is not None:
                return sought
            session.rewind()
            return session.decode()
        return chain(first, decoded)

    def _ended(self, session: Session, tick: int) -> bool:
        if self._end is None:
            return False
        assert self._origin is not None
        return (tick - self._origin) * session.time_base >= self._end

    def _finish(self, count: int | None, held: Decoded | None, until: int) -> None:
        if count is not None and held is not None and count == len(self._ticks):
            self._complete = True
            self._last_ticks = until - held.tick

    def _note(self, number: int, picture: Decoded) -> None:
        if number == len(self._ticks):
            self._ticks.append(picture.tick)
            if picture.video.key_frame:
                self._keys.append(number)


class _Cursor:
    """Where ``follow`` stands in the file, and the stretch it keeps for going backwards."""

    def __init__(self, reader: Reader, session: Session) -> None:
        self._reader = reader
        self.session = session
        self._run: Iterator[tuple[Decoded, int, int]] | None = None
        self._next = 0
        self._kept: dict[int, Frame] = {}
        self._latest: Frame | None = None

    @property
    def room(self) -> int:
        """So many pictures may be kept."""
        return max(CACHE_BYTES // self._bytes(), 8)

    def get(self, index: int, again: int) -> Frame:
        """Frame ``index``; those from number ``again`` up to it are kept for coming back."""
        frame = self._latest
        if frame is None or frame.index != index:
            frame = self._kept.get(index)
            if frame is None:
                frame = self._fetch(index, again)
            self._latest = frame
        if index >= again:
            self._kept[index] = frame
        return frame

    def _fetch(self, index: int, again: int) -> Frame:
        reader = self._reader
        if index < 0 or (reader.frame_count is not None and index >= reader.frame_count):
            raise MediaError(
                f"frame {index} of {reader.path} was asked for, but the clip has "
                f"{reader.frame_count if reader.frame_count is not None else 'none below 0'}"
            )
        backwards = self._run is not None and index < self._next
        if not backwards:
            for number in [number for number in self._kept if number < again]:
                del self._kept[number]
        lowest = index
        if self._run is None or backwards or self._worth_seeking(index):
            key = self._key(index)
            self._begin(key)
            if backwards:
                lowest = max(key, index - self.room + 1)
                self._kept.clear()
        return self._read_to(index, lowest)

    def _read_to(self, index: int, lowest: int) -> Frame:
        reader = self._reader
        assert self._run is not None
        for decoded, number, ticks in self._run:
            self._next = number + 1
            if number < lowest:
                continue
            frame = reader._frame(self.session, decoded, number, ticks)
            if number < index:
                self._kept[number] = frame
                continue
            if number > index:
                break
            if lowest < index:
                self._kept[number] = frame
            return frame
        raise MediaError(
            f"frame {index} of {reader.path} cannot be decoded; "
            f"the clip ends after {len(reader._ticks)} frames"
        )

    def _key(self, index: int) -> int:
        """The nearest number at or before ``index`` from which can be decoded."""
        reader = self._reader
        if not reader._can_seek:
            return 0
        place = bisect_right(reader._keys, index)
        return reader._keys[place - 1] if place else 0

    def _worth_seeking(self, index: int) -> bool:
        return index > self._next + NEAR and self._key(index) > self._next

    def _begin(self, key: int) -> None:
        self._run = self._reader._run(self.session, key)
        self._next = key

    def _bytes(self) -> int:
        clip = self._reader.clip
        kind = pixels.layout(clip.pixel_format)
        assert kind is not None
        area = clip.width * clip.height * np.dtype(kind.dtype).itemsize
        return max(area * (4 if kind.is_rgb or kind.alpha else 3 if not kind.log2_x else 2), 1)


def _coming_again(steps: np.ndarray, room: int) -> np.ndarray:
    """For each of ``steps`` the lowest number that is passed once more, backwards, right after the next turn.

    At most ``room`` numbers below the turn; one that no picture has where there is no turn to come.
    """
    again = np.full(len(steps), np.iinfo(np.int64).max)
    if not len(steps):
        return again
    starts = np.append(0, np.flatnonzero(np.diff(steps)) + 1)
    values = steps[starts]
    change = np.diff(values)
    back = (change < 0) & (change >= -NEAR)
    turns = np.flatnonzero(back & ~np.append(False, back[:-1]))
    ends = np.flatnonzero(back & ~np.append(back[1:], False)) + 1
    lowest = np.maximum(values[ends], values[turns] - room + 1)
    next_turn = np.searchsorted(starts[turns + 1] - 1, np.arange(len(steps)))
    ahead = next_turn < len(turns)
    again[ahead] = lowest[next_turn[ahead]]
    return again


def prefetch(
    iterable: Iterable[T],
    depth: int = PREFETCH_DEPTH,
    *,
    idle: Callable[[], object] | None = None,
    stop: threading.Event | None = None,
) -> Generator[T, None, None]:
    """The same items, made ahead of time in a thread, at most ``depth`` of them waiting or in the making.

    An exception in the thread is raised here; leaving early stops the thread and closes what it
    was reading. ``idle`` is called several times a second while there is nothing to hand out; it
    may raise to leave. ``stop`` is set on leaving, before the thread is waited for: what makes the
    items may look at it and end in the middle of one.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    done = object()
    items: queue.SimpleQueue[Any] = queue.SimpleQueue()
    room = threading.Semaphore(depth)
    stop = stop or threading.Event()
    failure: list[BaseException] = []

    def wanted() -> bool:
        room.acquire()
        return not stop.is_set()

    def work() -> None:
        if stop.is_set():
            return
        source = iter(iterable)
        try:
            while wanted() and (item := next(source, done)) is not done:
                items.put(item)
                # what waits here for room must not keep what was handed over
                del item
        except BaseException as error:
            failure.append(error)
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()
            items.put(done)

    thread = threading.Thread(target=work, name="lipsync-prefetch", daemon=True)
    try:
        thread.start()
        while True:
            try:
                item = items.get(timeout=None if idle is None else IDLE_SECONDS)
            except queue.Empty:
                if idle is not None:
                    idle()
                continue
            if item is done:
                break
            room.release()
            yield item
            del item
    finally:
        stop.set()
        room.release()
        # Ctrl-C may come while it starts: then it finds that it shall stop, before it reads.
        if thread.is_alive():
            thread.join()
    if failure:
        raise failure[0]
