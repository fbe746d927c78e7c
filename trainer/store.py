"""Parts of files: whole files of a folder, members of tar shards, here or at an address."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import secrets
import struct
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lipsync_core import cache as caches
from lipsync_core.errors import LipSyncError

log = logging.getLogger("lipsync.trainer")

LIMIT = 20 << 30
"""Bytes of distant shards that are kept on disk at most."""
ATTEMPTS = 3
TIMEOUT = 60
"""Seconds without an answer."""
SUFFIX = ".member"
LONGEST_HEADER = 1 << 20
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


@dataclass(frozen=True)
class Part:
    """A file, or the bytes of one member of a tar file."""

    path: str
    """On disk, or an address (``https://…``, ``s3://…``)."""
    offset: int = 0
    size: int | None = None
    """None: to the end."""

    @property
    def distant(self) -> bool:
        return "://" in self.path


class Store:
    """Reads parts and the tensors in them. Holds nothing open, so it can go to any process.

    What is distant is fetched by the part, three times tried, and kept on disk in ``cache``; the
    parts that were used longest ago go first when there are more than ``limit`` bytes.
    """

    def __init__(self, cache: Path | None = None, limit: int = LIMIT) -> None:
        self.cache = cache
        self.limit = limit
        self._kept: int | None = None
        """Bytes in the cache, as far as this process knows."""

    def open(self, part: Part) -> BinaryIO:
        """A file of the part's bytes alone."""
        part = self._here(part)
        if part.size is None and not part.offset:
            return Path(part.path).open("rb")
        return io.BytesIO(self.read(part))

    def read(self, part: Part) -> bytes:
        """All bytes of the part; ``OSError`` or ``ValueError`` where they are not all there."""
        part = self._here(part)
        with Path(part.path).open("rb") as file:
            file.seek(part.offset)
            data = file.read(-1 if part.size is None else part.size)
        if part.size is not None and len(data) < part.size:
            raise ValueError(f"{part.path} ends too early")
        return data

    def shape(self, part: Part, name: str) -> tuple[int, ...] | None:
        """Of a tensor in a safetensors file, or None."""
        part = self._here(part)
        with Path(part.path).open("rb") as file:
            row = _header(file, part).get(name)
        return None if row is None else tuple(row["shape"])

    def tensor(self, part: Part, name: str, rows: slice | None = None) -> np.ndarray | None:
        """A tensor of a safetensors file, or these rows of it and no other bytes; None if it has none.

        Read here rather than by its library, which cannot begin in the middle of a tar file and
        keeps a mapped file open.
        """
        part = self._here(part)
        with Path(part.path).open("rb") as file:
            row = _header(file, part).get(name)
            if row is None:
                return None
            kind = row["dtype"]
            if kind not in _DTYPES:
                raise ValueError(f"{name} is stored as {kind}, which is not read here")
            shape = list(row["shape"])
            first, last = row["data_offsets"]
            dtype = np.dtype(_DTYPES[kind]).newbyteorder("<")
            if last - first != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"{name} does not have the size that its shape {shape} says")
            if rows is not None:
                start, stop, step = rows.indices(shape[0])
                assert step == 1
                each = math.prod(shape[1:]) * dtype.itemsize
                shape[0] = max(stop - start, 0)
                first, last = first + start * each, first + (start + shape[0]) * each
            file.seek(first, os.SEEK_CUR)
            # Into memory of its own, because torch warns of arrays that cannot be written to.
            values = np.empty(shape, dtype)
            count = file.readinto(memoryview(values.reshape(-1).view(np.uint8)))  # type: ignore[attr-defined]
        if count < last - first:
            raise ValueError(f"{name} is cut off")
        return values

    def _here(self, part: Part) -> Part:
        """The same bytes in a file on disk."""
        if not part.distant:
            return part
        folder = self.cache or caches.folder() / "shards"
        name = hashlib.sha256(f"{part.path} {part.offset} {part.size}".encode()).hexdigest()[:40]
        path = folder / (name + SUFFIX)
        # The list of shards may be another tomorrow; members are what their place says.
        if part.size is not None and path.exists():
            with suppress(OSError):
                os.utime(path)
            return Part(str(path))
        data = fetch(part)
        folder.mkdir(parents=True, exist_ok=True)
        self._make_room(folder, len(data))
        # Several processes may fetch the same part: each writes its own file, the last name stays.
        work = folder / f"{name}.{secrets.token_hex(4)}.part"
        try:
            work.write_bytes(data)
            work.replace(path)
        finally:
            work.unlink(missing_ok=True)
        return Part(str(path))

    def _make_room(self, folder: Path, size: int) -> None:
        if self._kept is not None and self._kept + size <= self.limit:
            self._kept += size
            return
        files = []
        for path in folder.glob("*" + SUFFIX):
            with suppress(OSError):
                facts = path.stat()
                files.append((facts.st_mtime, facts.st_size, path))
        kept = sum(one for _, one, _ in files)
        if kept + size > self.limit:
            # A tenth more than needed, so that not every part that comes looks at all others.
            aim = self.limit * 9 // 10 - size
            for _, one, path in sorted(files, key=lambda row: row[0]):
                if kept <= aim:
                    break
                # Another process reads it, on Windows, or has removed it already.
                with suppress(OSError):
                    path.unlink()
                    kept -= one
        self._kept = kept + size


def fetch(part: Part) -> bytes:
    """The bytes of a distant part, by one request for their range."""
    for attempt in range(ATTEMPTS):
        try:
            web = part.path.startswith(("http://", "https://"))
            return _from_web(part) if web else _from_storage(part)
        except LipSyncError:
            raise
        # What libraries for storage raise is not known here; all of it is told after the last try.
        except Exception as error:
            if attempt + 1 == ATTEMPTS:
                raise OSError(f"{part.path} cannot be read ({error})") from error
            log.info("%s: %s; trying again", part.path, error)
            time.sleep(2.0**attempt)
    raise AssertionError


def _from_web(part: Part) -> bytes:
    # Not through fsspec, which wants aiohttp for this.
    request = urllib.request.Request(part.path)
    if part.size is not None:
        request.add_header("Range", f"bytes={part.offset}-{part.offset + part.size - 1}")
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        if part.size is not None and answer.status != 206:
            raise LipSyncError(
                f"{part.path} is not given in parts (status {answer.status} for a range); "
                "put the shards on a server that knows Range, or copy them here"
            )
        data = answer.read()
    if part.size is not None and len(data) != part.size:
        raise ValueError(f"{len(data)} bytes came where {part.size} were asked for")
    return data


def _from_storage(part: Part) -> bytes:
    try:
        import fsspec
    except ImportError as error:
        raise LipSyncError(
            f"reading {part.path} needs fsspec and its package for such addresses; "
            "run: pip install fsspec s3fs"
        ) from error
    try:
        system, path = fsspec.core.url_to_fs(part.path)
    except (ImportError, ValueError) as error:
        # fsspec names the package that is missing, or the protocol that it does not know.
        raise LipSyncError(f"{part.path} cannot be opened: {error}") from error
    end = None if part.size is None else part.offset + part.size
    data = system.cat_file(path, start=part.offset, end=end)
    if part.size is not None and len(data) != part.size:
        raise ValueError(f"{len(data)} bytes came where {part.size} were asked for")
    return data


def _header(file: BinaryIO, part: Part) -> dict[str, Any]:
    """Names of the tensors with their place; ``file`` then stands where their bytes begin."""
    file.seek(part.offset)
    (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\xff"))
    if length > LONGEST_HEADER:
        raise ValueError("not a safetensors file")
    text = file.read(length)
    if len(text) < length:
        raise ValueError("not a whole safetensors file")
    table = json.loads(text)
    table.pop("__metadata__", None)
    return table
