"""What became of every file and every sample: one SQLite database beside the data."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import LipSyncError
from .step import Row

NAME = "manifest.sqlite"
_TABLES = """
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, key TEXT, state TEXT, reason TEXT);
CREATE TABLE IF NOT EXISTS sources (
    key TEXT PRIMARY KEY, path TEXT, state TEXT, signature TEXT, deaths INTEGER DEFAULT 0,
    reason TEXT DEFAULT '', seconds REAL DEFAULT 0);
CREATE TABLE IF NOT EXISTS samples (
    sample TEXT, step TEXT, source TEXT, parent TEXT, state TEXT, reason TEXT, metrics TEXT,
    seconds REAL, first INTEGER, frames INTEGER, finished REAL, PRIMARY KEY (sample, step));
CREATE INDEX IF NOT EXISTS samples_source ON samples (source);
CREATE TABLE IF NOT EXISTS thumbs (sample TEXT PRIMARY KEY, step TEXT, jpeg BLOB);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT);
"""
_UNNAMED = {code: code + 0xF0000 for code in range(0xD800, 0xE000)}
_NAMED = {code: other for other, code in _UNNAMED.items()}
"""What Python makes of bytes of a file name that are no text, and where SQLite, which takes text
alone, keeps it: in an area of Unicode that nobody uses."""
THUMBS = 24
"""Pictures kept for each step's rejections; the report shows no more."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A path that was found, and what is known of it."""

    path: str
    size: int
    mtime_ns: int
    key: str = ""
    state: str = "found"
    """``found``, ``read``, ``duplicate``, ``unreadable`` or ``gone``."""
    reason: str = ""


class ManifestError(LipSyncError):
    """The database cannot be opened or written."""


class Manifest:
    """Written by one process. What it was told is on disk when a call returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._said():
            self._db = sqlite3.connect(path, isolation_level=None, timeout=10)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_TABLES)

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise ManifestError(f"{self.path} cannot be used ({error})") from error

    @contextmanager
    def _together(self) -> Iterator[None]:
        with self._said():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        with self._said():
            return [_told(one) for one in self._db.execute(query, _kept(values))]

    def _do(self, query: str, *rows: Sequence[Any]) -> None:
        self._db.executemany(query, [_kept(values) for values in rows])

    # files

    def file(self, path: str) -> File | None:
        found = self._all("SELECT * FROM files WHERE path = ?", (path,))
        return File(**found[0]) if found else None

    def put_files(self, files: Sequence[File]) -> None:
        with self._together():
            self._do(
                "INSERT OR REPLACE INTO files (path, size, mtime_ns, key, state, reason) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                *((f.path, f.size, f.mtime_ns, f.key, f.state, f.reason) for f in files),
            )

    def files(self) -> list[File]:
        return [File(**found) for found in self._all("SELECT * FROM files ORDER BY path")]

    def forget_files(self, paths: Sequence[str]) -> None:
        """Files that are not there any more; what was made of them stays."""
        with self._together():
            self._do(
                "UPDATE files SET state = 'gone', reason = 'no longer in the input folder' "
                "WHERE path = ?",
                *((path,) for path in paths),
            )

    # sources

    def source(self, key: str) -> dict[str, Any] | None:
        found = self._all("SELECT * FROM sources WHERE key = ?", (key,))
        return found[0] if found else None

    def sources(self) -> list[dict[str, Any]]:
        return self._all("SELECT * FROM sources ORDER BY path")

    def begin(self, key: str, path: str, signature: str) -> None:
        """A source is worked on from now; rows of another signature are forgotten."""
        known = self.source(key)
        with self._together():
            if known is not None and known["signature"] != signature:
                self._db.execute("DELETE FROM samples WHERE source = ?", (key,))
                known = None
            if known is None:
                self._do(
                    "INSERT OR REPLACE INTO sources (key, path, state, signature) "
                    "VALUES (?, ?, 'open', ?)",
                    (key, path, signature),
                )
            else:
                self._do("UPDATE sources SET state = 'open', path = ? WHERE key = ?", (path, key))

    def finish(self, key: str, state: str, reason: str = "") -> None:
        """``done`` or ``failed``."""
        with self._together():
            self._do(
                "UPDATE sources SET state = ?, reason = ?, seconds = "
                "(SELECT total(seconds) FROM samples WHERE source = ?) WHERE key = ?",
                (state, reason, key, key),
            )

    def reopen(self, key: str) -> None:
        """To be worked on again, from the beginning."""
        with self._together():
            self._db.execute("DELETE FROM samples WHERE source = ?", (key,))
            self._db.execute("UPDATE sources SET state = 'open', deaths = 0 WHERE key = ?", (key,))

    def retry(self) -> None:
        """Files and sources that failed count as not looked at."""
        with self._together():
            self._db.execute(
                "DELETE FROM samples WHERE source IN (SELECT key FROM sources WHERE state = 'failed')"
            )
            self._db.execute(
                "UPDATE sources SET state = 'open', deaths = 0, reason = '' WHERE state = 'failed'"
            )
            self._db.execute(
                "UPDATE files SET state = 'found', key = '' WHERE state = 'unreadable'"
            )

    def died(self, key: str) -> int:
        """A worker died over this source; how many have by now."""
        with self._together():
            self._db.execute("UPDATE sources SET deaths = deaths + 1 WHERE key = ?", (key,))
        known = self.source(key)
        return int(known["deaths"]) if known else 0

    # samples

    def add(self, rows: Sequence[Row]) -> None:
        """All of ``rows`` or none of them."""
        now = time.time()
        with self._together():
            self._do(
                "INSERT OR REPLACE INTO samples VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                *(
                    (
                        row.sample, row.step, row.source, row.parent, row.state, row.reason,
                        json.dumps(row.metrics), row.seconds, row.first, row.frames, now,
                    )
                    for row in rows
                ),
            )  # fmt: skip
            for row in rows:
                if row.thumb is not None:
                    self._db.execute(
                        "INSERT OR IGNORE INTO thumbs SELECT ?, ?, ? WHERE "
                        "(SELECT count(*) FROM thumbs WHERE step = ?) < ?",
                        (row.sample, row.step, row.thumb, row.step, THUMBS),
                    )

    def rows(self, source: str | None = None) -> Iterator[dict[str, Any]]:
        """Every row, source by source and oldest first, ``metrics`` as a dict; read as it is asked for."""
        query, values = "SELECT * FROM samples", ()
        if source is not None:
            query, values = f"{query} WHERE source = ?", (source,)
        with self._said():
            for one in self._db.execute(f"{query} ORDER BY source, rowid", values):
                yield {**_told(one), "metrics": json.loads(one["metrics"])}

    def kept(self) -> tuple[int, int]:
        """Clips that passed everything, and their frames."""
        (found,) = self._all(
            "SELECT count(*) AS clips, total(frames) AS frames FROM samples "
            "WHERE step = 'write' AND state = 'kept'"
        )
        return int(found["clips"]), int(found["frames"])

    def segments_done(self, source: str) -> frozenset[str]:
        """Segments whose clips are all written."""
        found = self._all(
            "SELECT sample FROM samples WHERE source = ? AND step = 'affine'", (source,)
        )
        return frozenset(one["sample"] for one in found)

    def rejudge(self, changes: Sequence[Mapping[str, Any]]) -> None:
        """Other verdicts for rows that exist: ``sample``, ``step``, ``state``, ``reason``."""
        with self._together():
            self._do(
                "UPDATE samples SET state = ?, reason = ? WHERE sample = ? AND step = ?",
                *((one["state"], one["reason"], one["sample"], one["step"]) for one in changes),
            )

    def thumbs(self) -> dict[str, bytes]:
        """Small JPEGs by sample."""
        return {one["sample"]: one["jpeg"] for one in self._all("SELECT sample, jpeg FROM thumbs")}

    # facts of the whole

    def fact(self, name: str) -> Any:
        found = self._all("SELECT value FROM facts WHERE name = ?", (name,))
        return json.loads(found[0]["value"]) if found else None

    def put_fact(self, name: str, value: Any) -> None:
        with self._together():
            self._db.execute(
                "INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value))
            )


def _kept(values: Sequence[Any]) -> list[Any]:
    return [
        value.translate(_UNNAMED) if isinstance(value, str) and not value.isascii() else value
        for value in values
    ]


def _told(row: sqlite3.Row) -> dict[str, Any]:
    return {
        name: value.translate(_NAMED) if isinstance(value, str) and not value.isascii() else value
        for name, value in zip(row.keys(), tuple(row), strict=True)
    }
