"""What a dub asks of the process it runs in: OpenCV's threads held back, memory given back."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

_lock = threading.Lock()
_held = 0
_before = 0


@contextmanager
def opencv_in_one() -> Iterator[None]:
    """OpenCV computes in the thread that asks it, in the whole process, until the last who wants that is done.

    For work that keeps the cores busy with threads of its own, such as decoding, drawing and encoding at once:
    OpenCV's wait for work in a loop. Without them a draft of 1080p went from 22 to 25 frames a second on two cores
    that had other work too. What is computed is the same.
    """
    import cv2

    global _held, _before
    with _lock:
        if not _held:
            _before = cv2.getNumThreads()
            cv2.setNumThreads(1)
        _held += 1
    try:
        yield
    finally:
        with _lock:
            _held -= 1
            if not _held:
                cv2.setNumThreads(_before)


def give_back() -> None:
    """Hands the system the memory that is free between blocks in use; does nothing where the C library cannot.

    Pictures of some megabytes, made in one thread and freed in another, leave holes that glibc keeps: 130 MB
    after a minute of 1080p. Takes 2 to 20 ms.
    """
    if (trim := _trim()) is not None:
        trim(0)


@lru_cache
def _trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # musl has none
        return None
