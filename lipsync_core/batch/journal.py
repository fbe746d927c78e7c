"""What became of the rows, so that the next run goes on from there."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MediaError, SettingsError
from .manifest import Row

JOURNAL = "lipsync-batch.ndjson"
"""Name of the log in the output folder where none is given: it tells a second run what is done."""


@dataclass(kw_only=True)
class Outcome:
    """What became of a row."""

    line: int
    output: str
    state: str
    """``done``, ``skipped`` (an earlier run made it) or ``failed``."""
    error: str = ""
    server: str = ""
    seconds: float = 0.0


class Journal:
    """The NDJSON log: one line an event, written through at once, read again by the next run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: dict[str, int] = {}
        torn = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"{path.parent} cannot be made: {error.strerror}") from error
        if path.exists():
            try:
                text = path.read_text(encoding="utf-8", errors="replace")
            except OSError as error:
                raise SettingsError(f"the log {path} cannot be read: {error.strerror}") from error
            torn = bool(text) and not text.endswith("\n")
            for line in text.splitlines():
                # A crash may have cut the last line short; what it said is then simply not known.
                with suppress(ValueError, TypeError, KeyError):
                    event = json.loads(line)
                    if event["event"] == "saving":
                        self._kept[event["id"]] = int(event["bytes"])
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"the log {path} cannot be written: {error.strerror}") from error
        if torn:
            self._file.write("\n")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *problem: object) -> None:
        self._file.close()

    def add(self, event: str, row: Row, number: str, **facts: Any) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = {"time": stamp, "event": event, "id": number, "line": row.line, "output": row.name}
        self._file.write(json.dumps(line | facts, ensure_ascii=False) + "\n")
        self._file.flush()

    def has_made(self, row: Row, number: str) -> bool:
        """Whether the output that is there is what an earlier run made of this very row."""
        return row.output.is_file() and self._kept.get(number) == row.output.stat().st_size

    def keep(self, part: Path, row: Row, number: str) -> None:
        """Gives a finished file its name; it is said before, so that no crash can lose the fact."""
        if row.output.exists() and not row.overwrite:
            raise MediaError(f"{row.output} appeared meanwhile; give the row another output")
        self.add("saving", row, number, bytes=part.stat().st_size)
        part.replace(row.output)


def part_of(row: Row, number: str) -> Path:
    """Where a result grows until it is whole, beside its place and with its ending."""
    return row.output.with_name(f".{row.output.stem}.{number[:8]}.part{row.output.suffix}")


def refuse_existing(rows: Sequence[tuple[Row, str]], journal: Journal) -> None:
    for row, number in rows:
        if row.output.exists() and not row.overwrite and not journal.has_made(row, number):
            raise SettingsError(
                f"{row.place()}: {row.output} exists already and is not what this row makes; "
                "give another name, or --overwrite"
            )


def settle(journal: Journal, row: Row, number: str, outcome: Outcome) -> None:
    facts = {"error": outcome.error} if outcome.error else {}
    if outcome.server:
        facts["server"] = outcome.server
    journal.add(outcome.state, row, number, seconds=outcome.seconds, **facts)


def line_of(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__
