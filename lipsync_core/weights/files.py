"""Where weights lie on this machine, and how they get there.

A models folder has one sub-folder a sort (``lipsync``, ``vae``, ``detection`` ...), as ComfyUI has
it, so that files which people already own are found. Nothing is downloaded unless ``fetch`` is
called; a file gets its name only when it is whole.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from ..errors import WeightsError
from .catalog import CATALOG, Entry, entry

if TYPE_CHECKING:
    from ..types import Progress

log = logging.getLogger("lipsync.weights")

BUNDLED = Path(__file__).parent / "bundled"
"""What comes with this package."""
PROBE_SECONDS = 4.0
"""How long a silent network may keep us before we say that it is not there."""

_extra: list[tuple[Path, str | None]] = []


def cache_folder() -> Path:
    """The folder that is ours on this machine; it may not exist yet."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "lipsync" / "models"


def add_folder(path: Path | str, kind: str | None = None) -> None:
    """Looks for weights in ``path`` too, before all other folders.

    ``kind``: the sub-folder name that this folder stands for (``vae``); None where ``path`` is a
    models folder with sub-folders. For callers that have folders of their own, such as ComfyUI.
    """
    place = (Path(path).expanduser(), kind)
    if place not in _extra:
        _extra.append(place)


def folders() -> list[Path]:
    """All models folders in the order in which they are searched; not all need exist."""
    return list(dict.fromkeys([path for path, _ in _places()]))


def _places() -> Iterator[tuple[Path, str | None]]:
    yield from _extra
    named = os.environ.get("LIPSYNC_MODELS")
    if named:
        yield Path(named).expanduser(), None
    yield cache_folder(), None


def find(name: str) -> Path | None:
    """The file of catalogue row ``name`` on this machine, or None. Looks at names and sizes only.

    Besides our own names it knows the published ones, a ``.safetensors`` made by ``convert``, and
    the cache of huggingface_hub. A published name that several releases share
    (``latentsync_unet.pt``) counts only where the size says which release it is.
    """
    row = entry(name)
    for path in _candidates(row):
        if path.is_file():
            return path
    return None


def _candidates(row: Entry) -> Iterator[Path]:
    if row.bundled:
        # before any other of that name: these belong together
        yield BUNDLED / row.saved_as
        return
    published = Path(row.file).name
    shared = sum(Path(other.file).name == published for other in CATALOG) > 1
    names = (row.saved_as, str(Path(row.saved_as).with_suffix(".safetensors")), *row.aliases)
    for place, kind in _places():
        if kind not in (None, row.folder):
            continue
        bases = [place] if kind else [place / row.folder, place]
        for base in bases:
            yield from (base / name for name in dict.fromkeys(names))
            # "LatentSync-1.6/latentsync_unet.pt", as a download of the whole repository leaves it
            yield base / row.repository.rpartition("/")[2] / row.file
            loose = base / published
            if not shared or (row.exact and _size(loose) == row.size):
                yield loose
    hub = os.environ.get("HF_HUB_CACHE") or Path(
        os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface", "hub"
    )
    if row.revision:
        owner = "models--" + row.repository.replace("/", "--")
        yield Path(hub) / owner / "snapshots" / row.revision / row.file


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def home(row: Entry, folder: Path | str | None = None) -> Path:
    """Where ``fetch`` will put the file of ``row``: under ``folder``, ``LIPSYNC_MODELS`` or the cache.

    A file that comes with this package is where it came.
    """
    if row.bundled:
        return BUNDLED / row.saved_as
    base = folder or os.environ.get("LIPSYNC_MODELS") or cache_folder()
    return Path(base).expanduser() / row.folder / row.saved_as


def verify(path: Path, row: Entry, progress: Progress | None = None) -> str:
    """Raises ``WeightsError`` unless ``path`` is, byte for byte, what ``row`` says. Reads it whole.

    Of a file that ``convert`` made, or that holds the same weights in another layout, only names and
    shapes of its tensors are looked at. What was compared comes back, in words for people.
    """
    if not _published_form(path, row):
        from . import tensors

        held = tensors.require(path, row.kind)
        return f"tensors of {held.title}, whose values were not compared with the published file's"
    _check_size(path, row)
    if row.sha256 is None:
        return "of the published size, with no SHA-256 known to compare"
    found = _sha256(path, progress)
    if found != row.sha256:
        raise WeightsError(
            f"{path} is not {row.title}: its SHA-256 begins {found[:12]} where {row.sha256[:12]} was "
            f"expected; delete it and run: lipsync models download {row.name}"
        )
    return "as published"


def _published_form(path: Path, row: Entry) -> bool:
    """Whether ``path`` claims to be the published file itself, not a conversion or another layout."""
    if path.suffix != ".safetensors":
        return True
    return path.suffix == Path(row.file).suffix and path.name in (
        row.saved_as,
        Path(row.file).name,
    )


def _check_size(path: Path, row: Entry) -> None:
    size = _size(path)
    if size < 0:
        raise WeightsError(
            f"{path} cannot be read; download it again: lipsync models download {row.name}"
        )
    if not _right_size(size, row):
        raise WeightsError(
            f"{path} has {size:,} bytes where {row.title} has {'' if row.exact else 'about '}{row.size:,}: "
            f"it is another file or not whole; delete it and run: lipsync models download {row.name}"
        )


def _right_size(size: int, row: Entry) -> bool:
    return size == row.size if row.exact else abs(size - row.size) <= 0.02 * row.size


def _sha256(path: Path, progress: Progress | None) -> str:
    digest = hashlib.sha256()
    size = _size(path)
    done = 0
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
            done += len(block)
            if progress:
                progress(done, size)
    return digest.hexdigest()


def fetch(name: str, *, folder: Path | str | None = None, progress: Progress | None = None) -> Path:
    """The file of row ``name``, downloaded and verified if this machine does not have it yet.

    ``folder``: the models folder to put it in. ``progress`` counts bytes; it may raise to cancel,
    and the next call goes on where this one stopped. Without a connection, or with
    ``HF_HUB_OFFLINE`` set, a ``WeightsError`` says within seconds which file to put where.
    """
    row = entry(name)
    found = find(name)
    if found is not None:
        if _published_form(found, row):
            _check_size(found, row)
        return found
    if row.bundled:
        raise WeightsError(_left_out(row))
    target = home(row, folder)
    if _offline():
        raise _absent(row, target, "HF_HUB_OFFLINE is set")
    server = _ask(row, target)
    part = target.parent / ".part" / f"{row.name}-{row.revision or 'main'}"
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(
            f"cannot write into {target.parent} ({error.strerror}); name another folder with LIPSYNC_MODELS"
        ) from error
    log.info("downloading %s, %.1f MB", row.title, row.size / 1e6)
    with _alone(part, row, progress):
        if target.is_file():
            return target
        _download(row, target, part, server, progress)
        try:
            verify(part, row)
            if row.sha256 is None:
                _matches(part, server)
        except WeightsError as error:
            part.unlink(missing_ok=True)
            raise WeightsError(
                f"{row.title} arrived damaged from {row.repository}; run the download again ({error})"
            ) from error
        part.replace(target)
    return target


def _left_out(row: Entry) -> str:
    return (
        f"{row.title} comes with this package, but {BUNDLED / row.saved_as} is absent (the archive of "
        "the ComfyUI registry leaves it out); install from the repository"
    )


def _offline() -> bool:
    return any(
        os.environ.get(key, "").upper() in ("1", "ON", "YES", "TRUE")
        for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _absent(row: Entry, target: Path, reason: str) -> WeightsError:
    return WeightsError(
        f"{row.title} is not on this machine and cannot be downloaded ({reason}); get it from {row.url} "
        f"and save it as {target}"
    )


@dataclass(frozen=True, kw_only=True)
class _Remote:
    """What the server says of a file."""

    url: str
    size: int | None
    sha256: str | None


def _ask(row: Entry, target: Path) -> _Remote:
    """Asks the server for the file, once and briefly; huggingface_hub would retry for 23 seconds."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(row.repository, row.file, revision=row.revision, endpoint=_endpoint())
    answers: list[_Remote] = []
    problems: list[Exception] = []

    def ask() -> None:
        try:
            data = get_hf_file_metadata(url, timeout=PROBE_SECONDS)
        # whichever http client this version of huggingface_hub has, with errors of its own
        except Exception as error:
            problems.append(error)
            return
        etag = data.etag or ""
        answers.append(_Remote(url=url, size=data.size, sha256=etag if len(etag) == 64 else None))

    # a name server that does not answer blocks longer than any timeout of the client
    asking = threading.Thread(target=ask, name="lipsync-probe", daemon=True)
    asking.start()
    asking.join(PROBE_SECONDS + 0.5)
    if answers:
        return answers[0]
    if not problems:
        raise _absent(row, target, f"{_endpoint()} does not answer")
    status = getattr(getattr(problems[0], "response", None), "status_code", None)
    reason = f"it answers {status}" if status else f"no connection to {_endpoint()}"
    raise _absent(row, target, reason) from problems[0]


@contextmanager
def _alone(part: Path, row: Entry, progress: Progress | None) -> Iterator[None]:
    """Lets one process at a time write ``part``; the others wait and may cancel."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{part}.lock")
    while True:
        try:
            lock.acquire(timeout=1)
            break
        except Timeout:
            if progress:
                progress(max(_size(part), 0), row.size)
    try:
        yield
    finally:
        lock.release()


class _Counted:
    """A file being written that tells how far it is; raising there stops the download."""

    def __init__(self, stream: BinaryIO, total: int, progress: Progress) -> None:
        self.stream = stream
        self.total = total
        self.progress = progress

    def write(self, block: bytes) -> int:
        written = self.stream.write(block)
        self.progress(min(self.stream.tell(), self.total), self.total)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _download(
    row: Entry, target: Path, part: Path, server: _Remote, progress: Progress | None
) -> None:
    """Appends to ``part`` what is missing of it. What has come stays there when this is cut short."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        build_hf_headers,
        disable_progress_bars,
        enable_progress_bars,
    )

    size = server.size or (row.size if row.exact else None)
    done = max(_size(part), 0)
    if size is not None and done > size:
        part.unlink()
        done = 0
    ours = progress is not None and not are_progress_bars_disabled()
    if ours:
        disable_progress_bars()
    try:
        with part.open("ab") as stream:
            sink: Any = stream
            if progress is not None:
                progress(done, size or row.size)
                sink = _Counted(stream, size or row.size, progress)
            http_get(
                server.url,
                sink,
                resume_size=done,
                headers=build_hf_headers(),
                expected_size=size,
            )
    except OSError as error:
        raise _broken(row, target, error) from error
    except Exception as error:
        # http errors of whichever client is installed; a cancel by ``progress`` goes through
        if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "requests"):
            raise _broken(row, target, error) from error
        raise
    finally:
        if ours:
            enable_progress_bars()


def _broken(row: Entry, target: Path, error: Exception) -> WeightsError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return WeightsError(
        f"the download of {row.title} into {target.parent} stopped ({reason}); run it again, it goes on "
        "where it stopped"
    )


def _matches(part: Path, server: _Remote) -> None:
    """Raises unless the file has the hash that the server gave, where the catalogue has none."""
    if server.sha256 is None:
        return
    found = _sha256(part, None)
    if found != server.sha256:
        raise WeightsError(f"SHA-256 {found[:12]} where the server says {server.sha256[:12]}")


@dataclass(frozen=True, kw_only=True)
class Held:
    """One line of ``lipsync models list``."""

    row: Entry
    path: Path | None
    state: Literal["absent", "present", "other size"]


def listing() -> list[Held]:
    """Every row of the catalogue with where it lies, by name and size alone, without reading it."""
    result = []
    for row in CATALOG:
        path = find(row.name)
        state: Literal["absent", "present", "other size"] = "absent"
        if path is not None:
            same = not _published_form(path, row) or _right_size(_size(path), row)
            state = "present" if same else "other size"
        result.append(Held(row=row, path=path, state=state))
    return result


def absent(*names: str) -> str | None:
    """One line saying which of these rows are missing and how to get them; None if all are here.

    A name may hold alternatives: ``whisper-tiny|whisper-tiny-hf`` is there if either is.
    """
    wanted = [name for name in names if not any(find(part) for part in name.split("|"))]
    if not wanted:
        return None
    first = [entry(name.split("|")[0]) for name in wanted]
    lost = next((row for row in first if row.bundled), None)
    if lost is not None:
        return _left_out(lost)
    size = sum(row.size for row in first) / 1e6
    shown = f"{size / 1e3:.1f} GB" if size >= 1e3 else f"{size:.1f} MB"
    return (
        f"{', '.join(row.title for row in first)} not found in {folders()[0]} or beyond; run: "
        f"lipsync models download {' '.join(row.name for row in first)} ({shown})"
    )
