"""Leads a run: finds files, hands them to workers, writes down what they say, decides again."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from ..errors import LipSyncError, MediaError, SettingsError
from . import chain, ray_pool, row, shots
from .config import Config
from .manifest import NAME, File, Manifest, ManifestError
from .pool import Died, LocalPool, Pool
from .setup import WORK, Setup
from .step import FPS
from .worker import FULL, Post, Task, Told
from .write import CLIPS, HELD

log = logging.getLogger("lipsync.preprocess")

DEATHS = 2
"""Workers that may die over a file before it is left out."""
LOCK = ".lock"


class FullError(LipSyncError):
    """No space is left where the data goes; what was finished is safe."""


@dataclass(kw_only=True)
class Pace:
    """How the run goes, for whoever shows it."""

    files: int = 0
    files_done: int = 0
    bytes: int = 0
    bytes_done: int = 0
    clips: int = 0
    kept: int = 0
    """Clips of this run, and those among them that passed."""
    cpu: float = 0.0
    """CPU seconds of all workers."""
    peak: int = 0
    """Largest memory of one worker, bytes."""
    workers: int = 0
    began: float = field(default_factory=time.monotonic)
    notes: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def seconds_left(self) -> float | None:
        """By bytes of input, which cost about the same everywhere in one collection."""
        if not self.bytes_done:
            return None
        return self.seconds * (self.bytes - self.bytes_done) / self.bytes_done


class Watch(Protocol):
    """Called after everything that happens; may raise to stop the run."""

    def __call__(self, pace: Pace) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a run ended."""

    files: int
    by_state: dict[str, int]
    """Files by what became of them; their sum is ``files``."""
    clips: int
    hours: float
    """Of clips that passed everything."""
    pace: Pace

    def sentence(self) -> str:
        parts = ", ".join(f"{count} {state}" for state, count in sorted(self.by_state.items()))
        return f"{self.clips} clips, {self.hours:.2f} hours, from {self.files} files" + (
            f" ({parts})" if parts else ""
        )


def run(
    inputs: Path,
    output: Path,
    config: Config,
    *,
    workers: int = 0,
    per_gpu: int = 1,
    ray: str = "",
    keep_intermediate: bool = False,
    retry: bool = False,
    watch: Watch | None = None,
) -> Done:
    """Prepares every file below ``inputs`` into ``output``; what is there already is kept.

    ``workers``: processes, 0 for one a core. ``per_gpu``: how many of them may use one GPU. ``ray``:
    ``auto`` or an address, to run on a Ray cluster. ``retry``: give files that failed before another
    chance. Raises a :class:`LipSyncError` where nothing
    can be done; files that are no good are told in the manifest, not raised.
    """
    if not inputs.is_dir():
        raise SettingsError(f"{inputs} is not a folder; give the folder of raw videos")
    if ray and (reason := ray_pool.missing()) is not None:
        raise SettingsError(reason)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"{output} cannot be made ({error.strerror}); give another") from error
    setup = Setup(config, output)
    # Everything that can be refused is refused before the long work begins.
    chain(config, setup)
    with full_said(output), _told_before(output, setup):
        config, engine = _settled(config, setup)
    posts = _posts(config, output, workers, per_gpu, engine, keep_intermediate)
    with _locked(output), full_said(output), Manifest(output / NAME) as manifest:
        shutil.rmtree(output / WORK, ignore_errors=True)
        (output / "config.json").write_text(config.text(), encoding="utf-8")
        manifest.put_fact("sync_engine", engine)
        manifest.put_fact("detector", config.affine.detector)
        leader = _Leader(manifest, config, inputs, output, watch)
        if retry:
            manifest.retry()
        leader.rejudge()
        leader.look()
        try:
            if leader.waiting:
                leader.lead(_pool(posts, len(leader.waiting), ray, workers, per_gpu))
        finally:
            shutil.rmtree(output / WORK, ignore_errors=True)
        return leader.done()


class _Leader:
    """The one process that writes the manifest."""

    def __init__(
        self,
        manifest: Manifest,
        config: Config,
        inputs: Path,
        output: Path,
        watch: Watch | None,
    ) -> None:
        self.manifest = manifest
        self.config = config
        self.signature = config.signature()
        self.inputs = inputs
        self.output = output
        self.pace = Pace()
        self.waiting: deque[Task] = deque()
        self._watch = watch
        self._files: dict[str, File] = {}
        """Of this input folder, by path."""
        self._owner: dict[str, str] = {}
        """Path of the file that a key is worked on for."""
        self._cpu: dict[int, float] = {}

    def _warn_of_other_settings(self) -> None:
        others = sum(
            source["signature"] != self.signature and source["state"] == "done"
            for source in self.manifest.sources()
        )
        if others:
            self._say(f"{others} files were prepared with other settings and are made anew")

    def look(self) -> None:
        """Finds all files, and which of them need work."""
        found = list(_scan(self.inputs, self.output))
        known = {file.path: file for file in self.manifest.files()}
        for file in found:
            old = known.get(file.path)
            same = old is not None and (old.size, old.mtime_ns) == (file.size, file.mtime_ns)
            if same and old is not None and old.key and file.state == "found":
                file = replace(old, state="read", reason="")
            self._files[file.path] = file
        self.manifest.put_files(list(self._files.values()))
        below = str(self.inputs) + os.sep
        gone = [
            path
            for path, file in known.items()
            if path not in self._files and path.startswith(below) and file.state != "gone"
        ]
        self.manifest.forget_files(gone)
        self._warn_of_other_settings()
        self.pace.files = len(found)
        self.pace.bytes = sum(file.size for file in found)
        # The largest first, so that in the end no worker waits for one that has just begun a long one.
        for file in sorted(self._files.values(), key=lambda file: -file.size):
            if file.state == "found":
                self.waiting.append(Task(path=file.path))
            elif file.state == "read":
                self._take(file)
            else:
                self._count(file.path)

    def lead(self, pool: Pool) -> None:
        """Until every file is accounted for; the pool is closed however it ends."""
        self.pace.workers = pool.size
        try:
            self._lead(pool)
        finally:
            pool.close()

    def _lead(self, pool: Pool) -> None:
        numbers: dict[str, int] = {}
        while self.waiting or len(pool.idle()) < pool.size:
            for worker in pool.idle():
                if not self.waiting:
                    break
                task = self.waiting.popleft()
                if task.key:
                    self._clear(task.key)
                    self.manifest.begin(task.key, task.path, self.signature)
                    task = replace(task, done=self.manifest.segments_done(task.key))
                numbers[task.path] = worker
                pool.give(worker, task)
            for word in pool.hear(seconds=0.5):
                if isinstance(word, Died):
                    self._mourn(word)
                else:
                    self._note(word, numbers.get(word.path, -1))
            self._show()

    def rejudge(self) -> None:
        """Compares what was measured before with the thresholds of now; moves clips accordingly."""
        for source in self.manifest.sources():
            if source["signature"] == self.signature:
                self._rejudge(source["key"])

    def done(self) -> Done:
        states: dict[str, int] = {}
        clips, frames = self.manifest.kept()
        for file in self.manifest.files():
            if file.path in self._files:
                states[self._state(file)] = states.get(self._state(file), 0) + 1
        return Done(
            files=len(self._files),
            by_state=states,
            clips=clips,
            hours=frames / FPS / 3600,
            pace=self.pace,
        )

    def _state(self, file: File) -> str:
        if file.state != "read":
            return file.state
        source = self.manifest.source(file.key)
        if source is None or source["state"] != "done":
            return str(source["state"]) if source else "waiting"
        rows = self.manifest.rows(file.key)
        if any(one["step"] == "write" and one["state"] == "kept" for one in rows):
            return "kept"
        return "rejected"

    def _take(self, file: File) -> None:
        """A file whose content is known: whether it needs work, under this or another name."""
        owner = self._owner.setdefault(file.key, file.path)
        if owner != file.path:
            where = os.path.relpath(owner, self.inputs)
            self._put(replace(file, state="duplicate", reason=f"the same bytes as {where}"))
            self._count(file.path)
            return
        source = self.manifest.source(file.key)
        finished = source is not None and source["signature"] == self.signature
        if finished and source is not None and source["state"] in ("done", "failed"):
            self._count(file.path)
            return
        # First: its bytes have just been read, and are still in memory.
        self.waiting.appendleft(Task(path=file.path, key=file.key))

    def _note(self, told: Told, worker: int) -> None:
        before = self._cpu.get(worker, 0.0)
        self.pace.cpu += told.cpu - before if told.cpu >= before else told.cpu
        self._cpu[worker] = told.cpu
        self.pace.peak = max(self.pace.peak, told.peak)
        if told.rows:
            self.manifest.add(told.rows)
            written = [one for one in told.rows if one.step == "write"]
            self.pace.clips += len(written)
            self.pace.kept += sum(one.state == "kept" for one in written)
        if told.full:
            raise FullError(_full(self.output, told.error))
        if not told.last:
            return
        file = self._files[told.path]
        if file.state == "found":
            if told.error:
                self._put(replace(file, state="unreadable", reason=told.error))
                self._count(told.path)
                return
            file = replace(file, key=told.key, state="read")
            self._put(file)
            self._take(file)
            return
        self.manifest.finish(file.key, "failed" if told.error else "done", told.error)
        if told.error:
            self._say(f"{self._short(told.path)}: {told.error}")
        self._count(told.path)

    def _mourn(self, death: Died) -> None:
        """The worker is replaced already; its file is tried once more."""
        file = self._files[death.path]
        deaths = DEATHS
        if file.key:
            deaths = self.manifest.died(file.key)
        name = self._short(death.path)
        if deaths < DEATHS:
            self._say(f"a worker died over {name} ({death.how}); another one tries again")
            self.waiting.appendleft(Task(path=death.path, key=file.key))
            return
        reason = (
            f"{deaths} workers died over it ({death.how}): a damaged file, or too little memory"
        )
        self._say(f"{name} is left out: {reason}")
        if file.key:
            self.manifest.finish(file.key, "failed", reason)
        else:
            self._put(replace(file, state="unreadable", reason=reason))
        self._count(death.path)

    def _rejudge(self, key: str) -> None:
        changes: list[dict[str, Any]] = []
        rows = list(self.manifest.rows(key))
        order = [*self.config.steps, "write"]
        by_sample: dict[str, list[dict[str, Any]]] = {}
        for one in rows:
            by_sample.setdefault(one["sample"], []).append(one)
        turned_away = ""
        for one in rows:
            if one["step"] == "broken" and one["metrics"]:
                reason = row("broken").load().judge(one["metrics"], self.config)
                state = "rejected" if reason else "kept"
                if reason:
                    turned_away = "broken"
                elif one["state"] == "rejected" and len(by_sample) == 1:
                    # Nothing was made of it then.
                    self.manifest.reopen(key)
                    return
                if (state, reason) != (one["state"], one["reason"]):
                    changes.append({**_named(one), "state": state, "reason": reason})
        for own in by_sample.values():
            steps = {one["step"]: one for one in own}
            clip_steps = [name for name in order if name in ("av_sync", "quality", "write")]
            present = [steps[name] for name in clip_steps if name in steps]
            if not present:
                continue
            rejected = turned_away
            for one in present:
                reason = row(one["step"]).load().judge(one["metrics"], self.config)
                state = "kept"
                if rejected:
                    state, reason = "skipped", f"rejected earlier, by {rejected}"
                elif reason:
                    state, rejected = "rejected", one["step"]
                if (state, reason) != (one["state"], one["reason"]):
                    changes.append({**_named(one), "state": state, "reason": reason})
            if "write" not in steps:
                if not rejected:
                    # Was not encoded when it was rejected; only making it again gives it back.
                    self.manifest.reopen(key)
                    return
                continue
            self._place(steps["write"]["metrics"]["file"], HELD if rejected else CLIPS)
        if changes:
            self.manifest.rejudge(changes)

    def _place(self, name: str, folder: str) -> None:
        """Moves a clip and its features to where they belong by now."""
        other = HELD if folder == CLIPS else CLIPS
        for one in (Path(name), Path(name).with_suffix(".safetensors")):
            old, new = self.output / other / one, self.output / folder / one
            if old.exists() and not new.exists():
                new.parent.mkdir(parents=True, exist_ok=True)
                old.replace(new)

    def _clear(self, key: str) -> None:
        """Takes away clips that were made of a source with other settings."""
        source = self.manifest.source(key)
        if source is None or source["signature"] == self.signature:
            return
        for one in list(self.manifest.rows(key)):
            if one["step"] == "write":
                for folder in (CLIPS, HELD):
                    clip = self.output / folder / one["metrics"]["file"]
                    clip.unlink(missing_ok=True)
                    clip.with_suffix(".safetensors").unlink(missing_ok=True)

    def _put(self, file: File) -> None:
        self._files[file.path] = file
        self.manifest.put_files([file])

    def _count(self, path: str) -> None:
        self.pace.files_done += 1
        self.pace.bytes_done += self._files[path].size

    def _short(self, path: str) -> str:
        return os.path.relpath(path, self.inputs)

    def _say(self, text: str) -> None:
        log.warning("%s", text)
        self.pace.notes.append(text)

    def _show(self) -> None:
        if self._watch is not None:
            self._watch(self.pace)


def _named(one: dict[str, Any]) -> dict[str, Any]:
    return {"sample": one["sample"], "step": one["step"]}


def _scan(inputs: Path, output: Path) -> Iterator[File]:
    """Every file below ``inputs``, and every folder that cannot be read; the output is left out."""
    unreadable: list[OSError] = []
    skipped = output.resolve()
    for folder, folders, names in os.walk(inputs, onerror=unreadable.append):
        folders[:] = sorted(name for name in folders if Path(folder, name).resolve() != skipped)
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in links:
            # It may lead back here, or to what is prepared as another folder.
            reason = "a link to a folder is not followed"
            path = str(Path(folder, name))
            yield File(path=path, size=0, mtime_ns=0, state="unreadable", reason=reason)
        for name in sorted(names):
            path = Path(folder, name)
            try:
                found = path.stat()
            except OSError as error:
                reason = error.strerror or str(error)
                yield File(path=str(path), size=0, mtime_ns=0, state="unreadable", reason=reason)
                continue
            state, reason = "found", ""
            if not path.is_file():
                state, reason = "unreadable", "not a regular file"
            yield File(
                path=str(path),
                size=found.st_size,
                mtime_ns=found.st_mtime_ns,
                state=state,
                reason=reason,
            )
    for error in unreadable:
        reason = f"the folder cannot be read ({error.strerror})"
        log.warning("%s: %s", error.filename, reason)
        yield File(path=str(error.filename), size=0, mtime_ns=0, state="unreadable", reason=reason)


@contextmanager
def _told_before(output: Path, setup: Setup) -> Iterator[None]:
    """Why another detector is not to be had is said by the first run alone, unless it is news."""
    known = None
    if (output / NAME).exists():
        with Manifest(output / NAME) as manifest:
            known = manifest.fact("detector")
    faces = logging.getLogger("lipsync.faces")

    def quiet(record: logging.LogRecord) -> bool:
        return known is None or record.levelno != logging.WARNING

    faces.addFilter(quiet)
    try:
        yield
    finally:
        faces.removeFilter(quiet)
    if known is not None and setup.detector.name != known:
        log.warning("faces are found by %s now, by %s before", setup.detector.name, known)


def _settled(config: Config, setup: Setup) -> tuple[Config, str]:
    """``auto`` replaced by what it means here, so that all workers mean the same; the sync engine.

    What is fetched is fetched once, not by every worker at the same time.
    """
    engine = setup.sync_engine
    config = replace(
        config,
        shots=replace(config.shots, detector=shots.pick(config.shots.detector)),
        affine=replace(config.affine, detector=setup.detector.name),
    )
    if engine:
        config = replace(config, av_sync=replace(config.av_sync, engine=engine))
    return config, engine


def _pool(posts: list[Post], files: int, ray: str, workers: int, per_gpu: int) -> Pool:
    if ray:
        return ray_pool.RayPool(posts, ray, fill=not workers, per_gpu=per_gpu)
    count = max(min(len(posts), files), 1)
    threads = max((os.cpu_count() or 1) // count, 1)
    return LocalPool([replace(post, threads=threads) for post in posts[:count]])


def _posts(
    config: Config, output: Path, workers: int, per_gpu: int, engine: str, keep: bool
) -> list[Post]:
    """One for each worker. Those beyond ``per_gpu`` a GPU judge on the CPU."""
    cores = os.cpu_count() or 1
    count = workers or cores
    devices = ["cpu"] * count
    judged = config.quality.hyperiqa and config.quality.enabled and "quality" in config.steps
    if engine == "syncnet_v2" or judged or config.output.whisper == "always":
        import torch

        gpus = torch.cuda.device_count()
        for number in range(min(count, gpus * per_gpu)):
            devices[number] = f"cuda:{number % gpus}"
    return [
        Post(
            config=config,
            output=str(output),
            device=device,
            threads=max(cores // count, 1),
            keep_intermediate=keep,
        )
        for device in devices
    ]


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """One run at a time; the system lets go of the lock however a process ends."""
    with (output / LOCK).open("a+") as file:
        try:
            if os.name == "nt":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SettingsError(
                f"another run is at work in {output}; wait for it or give another folder"
            ) from error
        yield


@contextmanager
def full_said(output: Path) -> Iterator[None]:
    """Turns whatever says that no space is left into a :class:`FullError` in words."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise FullError(_full(output, (error.strerror or "").lower())) from error
        raise
    except ManifestError as error:
        # SQLite has its own words for it.
        if "full" in str(error) or "disk I/O" in str(error):
            raise FullError(_full(output, "database or disk is full")) from error
        raise


def _full(output: Path, reason: str) -> str:
    free = ""
    with suppress(OSError):
        free = f", {shutil.disk_usage(output).free / 1e6:.0f} MB free"
    return (
        f"{output} cannot take more ({reason}{free}); what is finished is safe: make room and run "
        "the same command again"
    )
