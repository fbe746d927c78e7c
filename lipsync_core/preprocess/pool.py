"""Workers in processes of this machine; one that dies is said and replaced."""

from __future__ import annotations

import multiprocessing
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

from ..errors import LipSyncError
from .worker import Post, Task, Told, Worker

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess


class WorkerError(LipSyncError):
    """No worker can be kept alive."""


@dataclass(frozen=True)
class Died:
    """A worker is gone in the middle of a task."""

    path: str
    how: str
    """Such as ``signal 9 (SIGKILL)``."""


class Pool(ABC):
    """Some workers, each with at most one task."""

    size: int

    @abstractmethod
    def idle(self) -> list[int]:
        """Workers that wait for a task."""

    @abstractmethod
    def give(self, worker: int, task: Task) -> None:
        """Hands ``task`` to a worker that is idle."""

    @abstractmethod
    def hear(self, seconds: float) -> Iterator[Told | Died]:
        """What was said, waiting for the first word no longer than ``seconds``."""

    @abstractmethod
    def close(self) -> None:
        """Ends all workers, in the middle of their work if need be."""


class LocalPool(Pool):
    """Started afresh rather than forked: decoders and networks do not survive a fork."""

    def __init__(self, posts: Sequence[Post]) -> None:
        self.size = len(posts)
        self._posts = list(posts)
        self._context = multiprocessing.get_context("spawn")
        self._hands = [self._hire(post) for post in self._posts]
        self._silent = 0
        """Deaths since a worker last said anything."""

    def idle(self) -> list[int]:
        return [number for number, hand in enumerate(self._hands) if not hand.path]

    def give(self, worker: int, task: Task) -> None:
        hand = self._hands[worker]
        assert not hand.path
        hand.path = task.path
        # A worker that has just died is noticed by `hear`.
        with suppress(OSError):
            hand.line.send(task)

    def hear(self, seconds: float) -> Iterator[Told | Died]:
        ready = connection.wait([hand.line for hand in self._hands], timeout=seconds)
        for number, hand in enumerate(self._hands):
            if hand.line not in ready:
                continue
            try:
                told: Told = hand.line.recv()
            except (EOFError, OSError):
                yield from self._bury(number)
                continue
            self._silent = 0
            if told.last:
                hand.path = ""
            yield told

    def close(self) -> None:
        for hand in self._hands:
            with suppress(OSError):
                hand.line.send(None)
            hand.line.close()
        for hand in self._hands:
            hand.process.join(timeout=0.5 if not hand.path else 0)
            if hand.process.is_alive():
                hand.process.terminate()
                hand.process.join(timeout=5)

    def _bury(self, number: int) -> Iterator[Died]:
        hand = self._hands[number]
        hand.process.join(timeout=5)
        code = hand.process.exitcode
        hand.line.close()
        self._silent += 1
        if self._silent > 2 * self.size + 2:
            raise WorkerError(
                f"workers end as soon as they start ({_said(code)}); there may be too little memory "
                f"for {self.size} of them: give fewer with --workers"
            )
        self._hands[number] = self._hire(self._posts[number])
        if hand.path:
            yield Died(hand.path, _said(code))

    def _hire(self, post: Post) -> _Hand:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, post), daemon=True)
        process.start()
        theirs.close()
        return _Hand(process, ours)


@dataclass
class _Hand:
    process: BaseProcess
    line: Any
    path: str = ""
    """Of the file at work."""


def _said(code: int | None) -> str:
    if code is not None and code < 0:
        name = ""
        with suppress(ValueError):
            name = f" ({signal.Signals(-code).name})"
        return f"signal {-code}{name}"
    return f"exit code {code}"


def _serve(line: Any, post: Post) -> None:
    """Runs in the worker's process until the line is closed or None comes."""
    # The keyboard's interrupt is for the one who leads; workers end with the line.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = Worker(post)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while (task := line.recv()) is not None:
            worker.work(task, line.send)
