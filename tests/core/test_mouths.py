"""Cutting, drawing and pasting at the same time: the same pictures, few frames held, no thread left."""

from __future__ import annotations

import threading
import weakref
from contextlib import closing
from typing import ClassVar

import numpy as np
import pytest

from lipsync_core import mouths
from lipsync_core.engines.base import Rendered, Session
from lipsync_core.faces.templates import Template
from lipsync_core.media.reader import PREFETCH_DEPTH
from lipsync_core.mouths import Mouth, drawn
from lipsync_core.types import FaceTrack

SIDE = 16
PATIENCE = 20.0
"""Seconds after which a test gives up; nothing sleeps as long where all is well."""


class Sheet:
    """A small frame of one grey value; those that are alive are counted."""

    alive: ClassVar[weakref.WeakSet[Sheet]] = weakref.WeakSet()
    size = (SIDE, SIDE)

    def __init__(self, index, pixels=None):
        self.index = index
        self.pixels = np.full((SIDE, SIDE, 3), 50, np.uint8) if pixels is None else pixels
        Sheet.alive.add(self)

    def region(self, x0, y0, x1, y1):
        rows, columns = np.arange(y0, y1), np.arange(x0, x1)
        return self.pixels[rows.clip(0, SIDE - 1)][:, columns.clip(0, SIDE - 1)]

    def painted(self, x0, y0, rgb, mask):
        pixels = self.pixels.copy()
        part = pixels[y0 : y0 + rgb.shape[0], x0 : x0 + rgb.shape[1]]
        part[mask > 0] = np.rint(rgb[mask > 0])
        return Sheet(self.index, pixels)


class Brighter(Session):
    """Makes every crop lighter by 10; ``during(outputs)`` is called while it draws."""

    window = 4

    def __init__(self, during=lambda outputs: None):
        self.during = during

    def render(self, crops, sources, outputs):
        self.during(outputs)
        return Rendered(crops=crops + np.uint8(10), masks=np.ones(crops.shape[:3], np.float32))


class Watched(Mouth):
    """Tells when it cuts and when it pastes."""

    def cut(self, frames):
        self.session.cutting([frame.index for frame in frames])
        return super().cut(frames)

    def paste(self, frame, before, crop, mask):
        self.session.pasting(frame.index)
        return super().paste(frame, before, crop, mask)


def mouth(session, count, present=None, kind=Mouth):
    here = np.ones(count, bool) if present is None else present
    return kind(
        track=FaceTrack(
            points=np.zeros((count, 5, 2), np.float32),
            boxes=np.zeros((count, 4), np.float32),
            present=here,
            strength=here.astype(np.float32),
            shots=np.zeros(count, np.int32),
            detector="none",
        ),
        template=Template(size=SIDE, eyes=(0.5, 0.3), mouth=(0.5, 0.6)),
        matrices=np.eye(2, 3)[None].repeat(count, 0),
        session=session,
    )


def watched(count, *, cutting=None, rendering=None, pasting=None):
    session = Brighter(rendering or (lambda outputs: None))
    session.cutting = cutting or (lambda indices: None)
    session.pasting = pasting or (lambda index: None)
    return mouth(session, count, kind=Watched)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "lipsync-prefetch"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not threads()


def test_every_frame_comes_out_in_order_and_says_whether_it_is_new():
    present = np.ones(23, bool)
    present[5:12] = False
    made = list(drawn(map(Sheet, range(23)), [mouth(Brighter(), 23, present)]))
    assert [frame.index for frame, _ in made] == list(range(23))
    assert [is_new for _, is_new in made] == present.tolist()
    assert [int(frame.pixels[8, 8, 0]) for frame, _ in made] == np.where(present, 60, 50).tolist()


def test_while_a_window_is_drawn_the_next_is_cut_and_the_last_is_pasted():
    """Each window is drawn only once the next has been begun to be cut, and the last to be pasted."""
    count = 5
    cut = [threading.Event() for _ in range(count)]
    pasted = [threading.Event() for _ in range(count)]
    both = []

    def rendering(outputs):
        window = outputs[0] // 4
        around = ([pasted[window - 1]] if window else []) + cut[window + 1 : window + 2]
        both.append(all(event.wait(PATIENCE) for event in around))

    person = watched(
        4 * count,
        cutting=lambda indices: cut[indices[0] // 4].set(),
        rendering=rendering,
        pasting=lambda index: pasted[index // 4].set(),
    )
    assert len(list(drawn(map(Sheet, range(4 * count)), [person]))) == 4 * count
    assert both == [True] * count


def test_a_face_is_cut_from_what_the_one_before_it_left():
    people = [mouth(Brighter(), 40) for _ in range(3)]
    made = [frame.pixels for frame, _ in drawn(map(Sheet, range(40)), people)]
    assert all((pixels[4:12, 4:12] == 80).all() for pixels in made)


@pytest.mark.parametrize("people", [1, 3])
def test_frames_in_flight_do_not_grow_with_the_clip(people):
    taken = 0

    def source():
        nonlocal taken
        for index in range(600):
            taken += 1
            yield Sheet(index)

    most = alive = given = 0
    crowd = [mouth(Brighter(), 600) for _ in range(people)]
    with closing(drawn(source(), crowd)) as made:
        for given, _ in enumerate(made, start=1):
            if given % 100 == 0:  # long enough for all stages to fill up
                threading.Event().wait(0.2)
            most = max(most, taken - given)
            alive = max(alive, len(Sheet.alive))
    assert given == 600
    # three windows on their way, and what waits to be encoded
    assert most <= 3 * 4 + PREFETCH_DEPTH
    # each may be there twice while it is painted; a stage that waits still knows its last
    assert alive <= 2 * 4 * 4 + PREFETCH_DEPTH


@pytest.mark.parametrize("people", [1, 2])
@pytest.mark.parametrize("stage", ["reading", "cutting", "rendering", "pasting"])
def test_an_error_in_any_stage_is_the_one_that_is_raised(stage, people):
    def fail(place):
        if np.max(place) >= 21:
            raise ValueError(f"{stage} failed")

    def source():
        for index in range(40):
            if stage == "reading":
                fail(index)
            yield Sheet(index)

    broken = {} if stage == "reading" else {stage: fail}
    crowd = [watched(40), watched(40, **broken)][-people:]
    with pytest.raises(ValueError, match=f"{stage} failed"):
        list(drawn(source(), crowd))


@pytest.mark.parametrize("people", [1, 2])
def test_who_stops_early_waits_for_nothing(people):
    """The engine is in the middle of a window, and the stages around it wait for it or for room."""
    begun = threading.Event()

    def rendering(outputs):
        if outputs[0] >= 8:
            begun.set()
            for _ in range(int(PATIENCE / 0.01)):
                crowd[0].session.heed()
                threading.Event().wait(0.01)
            raise AssertionError("nobody stopped it")

    crowd = [watched(400, rendering=rendering) for _ in range(people)]
    left = threading.Event()
    for person in crowd:
        person.session.heed = mouths.leaving(left)
    with closing(drawn(map(Sheet, range(400)), crowd, left=left)) as made:
        assert next(made)[0].index == 0
        assert begun.wait(PATIENCE)
    assert not threads()


def test_cancel_while_nothing_comes_ends_every_stage():
    class Cancelled(BaseException):
        pass

    def rendering(outputs):
        while True:
            person.session.heed()
            threading.Event().wait(0.01)

    def idle():
        raise Cancelled

    person = watched(400, rendering=rendering)
    left = threading.Event()
    person.session.heed = mouths.leaving(left)
    with pytest.raises(Cancelled):
        list(drawn(map(Sheet, range(400)), [person], idle=idle, left=left))
    assert not threads()


@pytest.mark.parametrize("late", [False, True])
def test_ctrl_c_while_the_stages_start_is_only_that(monkeypatch, late):
    """The signal comes when the first thread is asked for and, at the latest, when it runs already."""
    start, here = threading.Thread.start, threading.current_thread()
    reading = threading.Event()

    def interrupted(thread):
        if threading.current_thread() is not here:
            start(thread)
            return
        if late:
            start(thread)
            assert reading.wait(PATIENCE)
        raise KeyboardInterrupt

    def source():
        reading.set()
        for index in range(400):
            threading.Event().wait(0.01)
            yield Sheet(index)

    frames = source()
    made = drawn(frames, [mouth(Brighter(), 400)])
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(made)
    frames.close()
    assert not threads()
