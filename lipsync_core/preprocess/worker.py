"""Takes one file through all steps; runs in a process of its own."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import LipSyncError
from . import chain, row
from .setup import Setup
from .step import Book, Clip, Row, Source, Step

if TYPE_CHECKING:
    from .config import Config

log = logging.getLogger("lipsync.preprocess")

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""No file can be written any more, whatever it is: the run stops, and the file is not blamed."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a worker is told to do."""

    path: str
    key: str = ""
    """Empty: only tell the file's key."""
    done: frozenset[str] = frozenset()
    """Segments that are finished already."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a worker says; one a task is ``last``."""

    path: str
    key: str = ""
    rows: list[Row] = field(default_factory=list)
    last: bool = False
    error: str = ""
    """Why the task could not be done, in one line."""
    full: bool = False
    """No space is left, or the place cannot be written to."""
    cpu: float = 0.0
    """CPU seconds of this process so far."""
    peak: int = 0
    """Largest memory of this process so far, bytes."""


@dataclass(frozen=True, kw_only=True)
class Post:
    """What a worker is started with."""

    config: Config
    output: str
    device: str = "cpu"
    threads: int = 1
    """Of decoder, encoder and networks; cores divided by workers."""
    keep_intermediate: bool = False


class Worker:
    """Made once in its process; answers one task after the other."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._setup = Setup(
            post.config,
            Path(post.output),
            device=post.device,
            keep_intermediate=post.keep_intermediate,
        )
        _calm(post.threads)

    def work(self, task: Task, tell: Callable[[Told], None]) -> None:
        """Does ``task``; everything that happens to the file is told, nothing is raised for it."""
        facts: dict[str, Any] = {}
        try:
            if not task.key:
                facts["key"] = content_key(Path(task.path))
            else:
                self._prepare(task, tell)
        except Exception as error:
            facts |= explained(error, Path(task.path))
        tell(Told(path=task.path, last=True, **facts, **_used()))

    def _prepare(self, task: Task, tell: Callable[[Told], None]) -> None:
        source = Source(key=task.key, path=Path(task.path))

        kept: list[Row] = []

        def send(rows: list[Row]) -> None:
            if self._post.keep_intermediate:
                kept.extend(rows)
            tell(Told(path=task.path, key=task.key, rows=rows, **_used()))

        book = Book(source, send, task.done)
        steps = chain(self._post.config, self._setup)
        try:
            _through(source, steps, book)
        except LipSyncError as error:
            if explained(error, source.path).get("full"):
                raise
            line = str(error).replace(str(source.path), source.path.name)
            book.add("resample", source.key, state="failed", reason=line)
        book.flush()
        if self._post.keep_intermediate:
            from .intermediate import keep

            keep(source, kept, self._setup)


def _through(sample: Any, steps: list[Step], book: Book) -> None:
    """Everything that becomes of ``sample``; each part is finished before the next is begun."""
    if not steps:
        return
    step, *rest = steps
    for made in book.clock.each(step.name, step.run(sample, book)):
        if step.setup.keep_intermediate and isinstance(made, Clip) and not made.rejected:
            from .intermediate import keep_clip

            keep_clip(made, row(step.name).folder, step.setup)
        _through(made, rest, book)


def content_key(path: Path) -> str:
    """The same for the same bytes, whatever the file is called; 24 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=12)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def explained(error: BaseException, path: Path) -> dict[str, Any]:
    """``error`` and ``full`` of :class:`Told`."""
    seen: BaseException | None = error
    while seen is not None:
        number = getattr(seen, "errno", None)
        about = getattr(seen, "filename", None)
        if number in FULL and str(about or "") != str(path):
            return {"error": os.strerror(number).lower(), "full": True}
        seen = seen.__cause__ or seen.__context__
    if isinstance(error, (LipSyncError, OSError)):
        text = " ".join(str(error).split()).replace(str(path), path.name)
        return {"error": text}
    log.exception("%s: an error of our own", path)
    return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def _calm(threads: int) -> None:
    """As many threads as this worker's share of the machine: more only get into each other's way."""
    import cv2

    from ..media import decoder, writer

    cv2.setNumThreads(threads)
    decoder.DECODER_THREADS = threads
    writer.ENCODER_THREADS = threads
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _used() -> dict[str, Any]:
    return {"cpu": time.process_time(), "peak": _peak()}


def _peak() -> int:
    """Largest memory of this process so far, bytes; 0 where the system does not say."""
    with suppress(OSError, ValueError, IndexError, StopIteration):
        # Of this program alone; the other count begins with that of whoever started it.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    # Windows has no such module.
    with suppress(ImportError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return 0
