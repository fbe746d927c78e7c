"""Where weights lie on this machine, and how they get there.

A models folder has one sub-folder a sort (``lipsync``, ``vae``, ``detection`` ...), as ComfyUI has
it, so that files which people already own are found. Nothing is downloaded unless ``fetch`` is
called; a file gets its name only when it is whole.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import os
import shutil
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import WeightsError
from .catalog import CATALOG, Entry, entry

if TYPE_CHECKING:
    from ..types import Progress

log = logging.getLogger("lipsync.weights")

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
    """Where ``fetch`` will put the file of ``row``: under ``folder``, ``LIPSYNC_MODELS`` or the cache."""
    base = folder or os.environ.get("LIPSYNC_MODELS") or cache_folder()
    return Path(base).expanduser() / row.folder / row.saved_as


def verify(path: Path, row: Entry, progress: Progress | None = None) -> None:
    """Raises ``WeightsError`` unless ``path`` is, byte for byte, what ``row`` says. Reads it whole."""
    size = _size(path)
    if size < 0:
        raise WeightsError(
            f"{path} cannot be read; download it again: lipsync models download {row.name}"
        )
    wrong = size != row.size if row.exact else abs(size - row.size) > 0.02 * row.size
    if wrong:
        raise WeightsError(
            f"{path} has {size:,} bytes where {row.title} has {'' if row.exact else 'about '}{row.size:,}: "
            f"it is another file or not whole; delete it and run: lipsync models download {row.name}"
        )
    if row.sha256 is None:
        return
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        done = 0
        while block := stream.read(1 << 22):
            digest.update(block)
            done += len(block)
            if progress:
                progress(done, size)
    if digest.hexdigest() != row.sha256:
        raise WeightsError(
            f"{path} is not {row.title}: its SHA-256 begins {digest.hexdigest()[:12]} where "
            f"{row.sha256[:12]} was expected; delete it and run: lipsync models download {row.name}"
        )


def fetch(name: str, *, folder: Path | str | None = None, progress: Progress | None = None) -> Path:
    """The file of row ``name``, downloaded and verified if this machine does not have it yet.

    ``folder``: the models folder to put it in. ``progress`` counts bytes; it may raise to cancel,
    and the next call goes on where this one stopped. Without a connection, or with
    ``HF_HUB_OFFLINE`` set, a ``WeightsError`` says within seconds which file to put where.
    """
    row = entry(name)
    found = find(name)
    if found is not None:
        return found
    target = home(row, folder)
    if _offline():
        raise _absent(row, target, "HF_HUB_OFFLINE is set")
    reason = _unreachable(row)
    if reason:
        raise _absent(row, target, reason)
    part = target.parent / ".part" / row.name
    try:
        part.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(
            f"cannot write into {target.parent} ({error.strerror}); name another folder with LIPSYNC_MODELS"
        ) from error
    log.info("downloading %s, %.1f MB", row.title, row.size / 1e6)
    arrived = _download(row, target, part, progress)
    try:
        verify(arrived, row)
    except WeightsError as error:
        arrived.unlink(missing_ok=True)
        raise WeightsError(
            f"{row.title} arrived damaged from {row.repository}; run the download again ({error})"
        ) from error
    arrived.replace(target)
    shutil.rmtree(part, ignore_errors=True)
    return target


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


def _unreachable(row: Entry) -> str | None:
    """Why the server cannot be reached, or None. huggingface_hub itself would retry for 23 seconds."""
    outcome: list[str | None] = []

    def ask() -> None:
        request = urllib.request.Request(_endpoint(), method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS):
                outcome.append(None)
        except urllib.error.HTTPError:
            outcome.append(None)
        except urllib.error.URLError as error:
            # a missing certificate store is a matter of urllib, not of the client that downloads
            certificates = "CERTIFICATE" in str(error.reason).upper()
            outcome.append(None if certificates else f"no connection to {_endpoint()}")
        except (OSError, ValueError) as error:
            outcome.append(f"no connection to {_endpoint()}: {error}")

    asking = threading.Thread(target=ask, name="lipsync-probe", daemon=True)
    asking.start()
    asking.join(PROBE_SECONDS + 0.5)
    return outcome[0] if outcome else f"{_endpoint()} does not answer"


def _download(row: Entry, target: Path, part: Path, progress: Progress | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        """Hands the count of bytes to ``progress`` in place of drawing."""

        def __init__(self, *args: Any, **options: Any) -> None:
            options["disable"] = True
            super().__init__(*args, **options)
            self.reached = int(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> bool | None:
            self.reached += int(n or 0)
            if progress:
                progress(min(self.reached, row.size), row.size)
            return None

    options: dict[str, Any] = {"endpoint": _endpoint(), "etag_timeout": PROBE_SECONDS * 2}
    # older versions draw their own bar and know no other
    if "tqdm_class" in inspect.signature(hf_hub_download).parameters:
        options["tqdm_class"] = Bar
    if progress:
        progress(0, row.size)
    try:
        return Path(
            hf_hub_download(
                row.repository, row.file, revision=row.revision, local_dir=part, **options
            )
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise _absent(row, target, reason) from error


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
            converted = path.suffix != Path(row.file).suffix
            same = not row.exact or converted or _size(path) == row.size
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
    size = sum(row.size for row in first) / 1e6
    shown = f"{size / 1e3:.1f} GB" if size >= 1e3 else f"{size:.1f} MB"
    return (
        f"{', '.join(row.title for row in first)} not found in {folders()[0]} or beyond; run: "
        f"lipsync models download {' '.join(row.name for row in first)} ({shown})"
    )
