"""What was learnt of a clip, kept by the clip's content: a second voice needs no second look."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger("lipsync.cache")

LIMIT = 4 << 30
"""Bytes kept at most; the files that were used longest ago go first."""


def folder() -> Path:
    """``LIPSYNC_CACHE``, or the place where this system keeps what can be made again."""
    if given := os.environ.get("LIPSYNC_CACHE"):
        return Path(given)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "lipsync" / "tracks"


def key(path: Path, *facts: object) -> str:
    """A name made from the file's bytes and from everything else that shaped the result."""
    digest = hashlib.blake2b(digest_size=20)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    digest.update(repr(facts).encode())
    return digest.hexdigest()


def load(name: str, where: Path) -> dict[str, np.ndarray] | None:
    """The arrays kept under this name, or None; a damaged file counts as absent and is removed."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as parse

    path = where / f"{name}.safetensors"
    try:
        # Read whole rather than mapped: a mapped file cannot be replaced or pruned on Windows.
        arrays = parse(path.read_bytes())
        path.touch()
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError) as error:
        log.warning("the kept face track %s cannot be read (%s): looking again", path.name, error)
        path.unlink(missing_ok=True)
        return None
    return arrays


def save(name: str, arrays: dict[str, np.ndarray], where: Path) -> None:
    """Keeps the arrays under this name; a full or read-only disk only costs the second look."""
    from safetensors.numpy import save as pack

    try:
        where.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=where, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(pack(arrays))
            Path(temporary).replace(where / f"{name}.safetensors")
        finally:
            Path(temporary).unlink(missing_ok=True)
        _prune(where)
    except OSError as error:
        log.warning("the face track could not be kept in %s: %s", where, error)


def _prune(where: Path) -> None:
    files = sorted(
        ((path.stat(), path) for path in where.glob("*.safetensors")),
        key=lambda pair: pair[0].st_mtime,
    )
    excess = sum(stat.st_size for stat, _ in files) - LIMIT
    for stat, path in files[:-1]:
        if excess <= 0:
            return
        path.unlink(missing_ok=True)
        excess -= stat.st_size
