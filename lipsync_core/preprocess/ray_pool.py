"""The same workers as actors on a Ray cluster; videos and clips never pass through its object store."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from ..errors import SettingsError
from .pool import Died, Pool, WorkerError
from .worker import Post, Task, Told, Worker

log = logging.getLogger("lipsync.preprocess")

AHEAD = 4
"""Messages that may wait for us; an actor that is faster stops until they are read."""


def missing() -> str | None:
    """None when Ray is installed; else one line saying how to get it."""
    if find_spec("ray") is None:
        return 'Ray is not installed; run: pip install "lipsync-core[ray]", or leave --ray out'
    return None


class RayPool(Pool):
    """Actors keep detector and networks; they read and write a file system that all nodes share.

    ``address``: ``auto`` for the cluster that this machine belongs to, or one of its own if there is
    none; else where the cluster is.
    """

    def __init__(
        self, posts: Sequence[Post], address: str, *, fill: bool = False, per_gpu: int = 1
    ) -> None:
        """``fill``: as many workers as the cluster has cores, whatever the number of ``posts``."""
        import ray

        self._ray = ray
        # Whoever has a cluster running already, ours or their own, keeps it.
        self._ours = not ray.is_initialized()
        if self._ours:
            self._join(address, len(posts))
        self._posts = self._spread(posts[0], per_gpu) if fill else list(posts)
        self._per_gpu = per_gpu
        self.size = len(self._posts)
        self._actors = [self._hire(post) for post in self._posts]
        self._silent = 0

    def idle(self) -> list[int]:
        return [number for number, actor in enumerate(self._actors) if actor.words is None]

    def give(self, worker: int, task: Task) -> None:
        actor = self._actors[worker]
        assert actor.words is None
        actor.path = task.path
        work = actor.handle.work.options(_generator_backpressure_num_objects=AHEAD)
        actor.words = work.remote(task)

    def hear(self, seconds: float) -> Iterator[Told | Died]:
        busy = {id(actor.words): number for number, actor in enumerate(self._actors) if actor.words}
        streams = [self._actors[number].words for number in busy.values()]
        if not streams:
            return
        ready, _ = self._ray.wait(streams, num_returns=1, timeout=seconds, fetch_local=False)
        for stream in ready:
            number = busy[id(stream)]
            actor = self._actors[number]
            try:
                told: Told = self._ray.get(next(stream))
            except StopIteration:
                actor.words, actor.path = None, ""
                continue
            except self._ray.exceptions.RayError as error:
                yield self._bury(number, error)
                continue
            self._silent = 0
            if told.last:
                actor.words, actor.path = None, ""
            yield told

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor.handle, no_restart=True)
        if self._ours:
            self._ray.shutdown()

    def _join(self, address: str, workers: int) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "include_dashboard": False}
        try:
            self._ray.init(address=address, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            if address != "auto":
                raise SettingsError(
                    f"no Ray cluster answers at {address} ({' '.join(str(error).split())[:120]})"
                ) from error
            log.info("no Ray cluster is running; one is started on this machine")
            self._ray.init(num_cpus=workers, **options)

    def _hire(self, post: Post) -> _Actor:
        on_gpu = post.device != "cpu"
        if on_gpu:
            # Ray shows each actor its own GPU alone.
            post = replace(post, device="cuda:0")
        made = self._ray.remote(
            num_cpus=post.threads, num_gpus=1 / self._per_gpu if on_gpu else 0, max_restarts=0
        )(_RayWorker)
        return _Actor(handle=made.remote(post))

    def _spread(self, post: Post, per_gpu: int) -> list[Post]:
        """One worker a core of the cluster; the first ones judge on its GPUs."""
        have = self._ray.cluster_resources()
        count = max(int(have.get("CPU", 1)), 1)
        gpus = int(have.get("GPU", 0)) if post.device != "cpu" else 0
        return [
            replace(post, threads=1, device="cuda:0" if number < gpus * per_gpu else "cpu")
            for number in range(count)
        ]

    def _bury(self, number: int, error: Exception) -> Died:
        actor = self._actors[number]
        self._silent += 1
        if self._silent > 2 * self.size + 2:
            raise WorkerError(f"Ray's workers end as soon as they start ({_line(error)})")
        self._actors[number] = self._hire(self._posts[number])
        return Died(actor.path, _line(error))


@dataclass
class _Actor:
    handle: Any
    path: str = ""
    words: Any = None
    """What it says to the task at hand, as Ray's generator."""


class _RayWorker:
    """A worker as Ray wants one: what it tells is a generator, so that nothing waits for the end."""

    def __init__(self, post: Post) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self._worker = Worker(post)
        # One for all tasks: what a thread has freed, the next one often cannot have, and a worker
        # grew by a tenth of a gigabyte a file.
        self._thread = ThreadPoolExecutor(max_workers=1)

    def work(self, task: Task) -> Iterator[Told]:
        """Everything that is told of ``task``, while it is worked on."""
        import queue

        said: queue.Queue[Told] = queue.Queue(maxsize=AHEAD)
        working = self._thread.submit(self._worker.work, task, said.put)
        while True:
            told = said.get()
            yield told
            if told.last:
                working.result()
                return


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
