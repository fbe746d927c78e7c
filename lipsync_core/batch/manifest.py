"""The rows of a manifest: what they name, what may be chosen in them, and by what a row is known."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..errors import LipSyncError, SettingsError
from ..types import Settings

FIXED = ("video", "voice", "output")
"""Columns that every manifest has; all others are choices."""
CHOICES = tuple(row.name for row in fields(Settings) if row.name != "cache")
NAMESPACE = uuid.UUID("6b1c7a3e-1f0e-5c6b-9d0a-52f0c0b1a7d4")
"""Of the prompt ids; changes when the same row shall count as another one."""
BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Row:
    """One dub of the manifest."""

    line: int
    """Line of the manifest, from 1."""
    video: Path
    voice: Path
    name: str
    """The output as the manifest calls it, with its ending."""
    output: Path
    folder: Path
    """Of the manifest: files that it names are looked for there."""
    choices: dict[str, Any]
    """Column to value: fields of ``Settings``, or ``Node title.input``."""
    overwrite: bool = False

    def place(self) -> str:
        return f"line {self.line} ({self.name})"


def read(manifest: Path, folder: Path, *, overwrite: bool = False) -> list[Row]:
    """The rows of a ``.csv`` or ``.jsonl`` manifest; its files are looked for beside it.

    Raises ``SettingsError`` with one line for a column that is missing, a file that is not there,
    or two rows that would write one file.
    """
    rows: list[Row] = []
    taken: dict[str, int] = {}
    for line, cells in _cells(manifest):
        for name in FIXED:
            if not isinstance(cells.get(name), str) or not cells[name].strip():
                near = get_close_matches(name, [key for key in cells if key not in FIXED], n=1)
                raise SettingsError(
                    f"{manifest} line {line} has no {name}; "
                    + (
                        f"is the column {near[0]!r} meant?"
                        if near
                        else f"needed: {', '.join(FIXED)}"
                    )
                )
        video, voice = (manifest.parent / Path(cells[name].strip()) for name in FIXED[:2])
        for what, path in (("video", video), ("voice", voice)):
            if not path.is_file():
                raise SettingsError(f"{manifest} line {line}: the {what} {path} does not exist")
        output = _output(manifest, line, cells["output"].strip(), folder)
        if output.exists() and any(output.samefile(source) for source in (video, voice)):
            raise SettingsError(f"{manifest} line {line}: {output} is also an input")
        same = str(output.resolve()).casefold()
        if same in taken:
            raise SettingsError(
                f"{manifest} lines {taken[same]} and {line} both write {output}; rename one"
            )
        taken[same] = line
        choices = {key: value for key, value in cells.items() if key not in FIXED}
        replace = boolean(choices.pop("overwrite", False), f"{manifest} line {line}: overwrite")
        name = output.as_posix()
        with suppress(ValueError):
            name = output.relative_to(folder).as_posix()
        rows.append(
            Row(
                line=line,
                video=video,
                voice=voice,
                name=name,
                output=output,
                folder=manifest.parent,
                choices=choices,
                overwrite=overwrite or replace,
            )
        )
    if not rows:
        raise SettingsError(f"{manifest} has no rows; needed are the columns {', '.join(FIXED)}")
    return rows


def _cells(manifest: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and the cells that are not empty."""
    kind = manifest.suffix.lower()
    if kind not in (".csv", ".jsonl", ".ndjson"):
        raise SettingsError(f"{manifest} is no manifest; give a .csv or .jsonl file")
    try:
        text = manifest.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SettingsError(f"the manifest {manifest} does not exist") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{manifest} is not UTF-8; save it as such") from None
    except OSError as error:
        raise SettingsError(f"{manifest} cannot be read: {error.strerror}") from error
    if kind != ".csv":
        for line, source in enumerate(text.splitlines(), start=1):
            if not source.strip():
                continue
            try:
                cells = json.loads(source)
            except ValueError as error:
                raise SettingsError(f"{manifest} line {line} is not JSON: {error}") from None
            if not isinstance(cells, dict):
                raise SettingsError(f"{manifest} line {line} is not a JSON object")
            for name, value in cells.items():
                if isinstance(value, (dict, list)):
                    raise SettingsError(f"{manifest} line {line}: {name} must be one value")
            yield line, {key: value for key, value in cells.items() if value is not None}
        return
    table = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        head = [name.strip() for name in next(table, [])]
        if twice := {name for name in head if head.count(name) > 1}:
            raise SettingsError(f"{manifest} has the column {min(twice)!r} twice")
        for values in table:
            if not any(value.strip() for value in values):
                continue
            if len(values) > len(head):
                raise SettingsError(
                    f"{manifest} line {table.line_num} has {len(values)} cells for {len(head)} "
                    "columns; put quotes around a cell that holds a comma"
                )
            pairs = zip(head, values, strict=False)
            yield table.line_num, {key: value for key, value in pairs if value.strip()}
    except csv.Error as error:
        raise SettingsError(f"{manifest} line {table.line_num}: {error}") from None


def _output(manifest: Path, line: int, name: str, folder: Path) -> Path:
    from ..media.writer import FORMATS

    output = folder / name
    if not output.suffix:
        output = output.with_name(f"{output.name}.mp4")
    if output.suffix.lower() not in FORMATS:
        raise SettingsError(
            f"{manifest} line {line}: output {name!r} must end in {', '.join(FORMATS)}"
        )
    if output.is_dir():
        raise SettingsError(f"{manifest} line {line}: {output} is a folder")
    return output


def boolean(value: Any, what: str) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    found = words.get(str(value).strip().lower())
    if found is None:
        raise SettingsError(f"{what} {value!r} means nothing; write true or false")
    return found


def unknown_column(place: str, column: str, known: Iterable[str]) -> SettingsError:
    names = sorted(known)
    lower = {name.lower(): name for name in names}
    near = get_close_matches(column.lower(), lower, n=1, cutoff=0.4)
    hint = f"did you mean {lower[near[0]]!r}?" if near else f"there are {', '.join(names)}"
    return SettingsError(f"{place}: unknown column {column!r}; {hint}")


def settings_of(row: Row) -> Settings:
    """The row's choices as ``Settings``; SettingsError names the column and what it takes."""
    from .. import engines
    from ..cli import seconds
    from ..dub import _settled
    from ..faces.choose import parse
    from ..faces.detect import DETECTORS

    choices: dict[str, Any] = {}
    for column, value in row.choices.items():
        if column not in CHOICES:
            raise unknown_column(row.place(), column, (*FIXED, *CHOICES))
        try:
            if column in ("start", "end"):
                choices[column] = seconds(str(value))
            elif column in ("seed", "crf"):
                choices[column] = int(str(value))
            elif column == "strength":
                choices[column] = float(value)
            elif column == "tag":
                choices[column] = boolean(value, column)
            else:
                choices[column] = str(value).strip()
        except SettingsError as error:
            raise SettingsError(f"{row.place()}: {column}: {error}") from None
        except ValueError:
            raise SettingsError(f"{row.place()}: {column} {value!r} is not a number") from None
    detector = choices.get("detector", "auto")
    if detector not in (known := ["auto", *(one.name for one in DETECTORS)]):
        raise SettingsError(
            f"{row.place()}: there is no detector {detector!r}; choose one of {', '.join(known)}"
        )
    try:
        settings = _settled(Settings(overwrite=True), choices)
        parse(settings.face)
        engines.pick(settings.engine)
    except LipSyncError as error:
        raise SettingsError(f"{row.place()}: {error}") from error
    return settings


def digest(path: Path, seen: dict[Path, str]) -> str:
    if path not in seen:
        found = hashlib.blake2b(digest_size=16)
        try:
            with path.open("rb") as file:
                while block := file.read(BLOCK):
                    found.update(block)
        except OSError as error:
            raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
        seen[path] = found.hexdigest()
    return seen[path]


def identity(row: Row, seen: dict[Path, str], *facts: Any) -> str:
    """The row's number: the same bytes, choices and name give the same one on every machine."""
    choices = {}
    for column, value in row.choices.items():
        path = row.folder / str(value)
        choices[column] = digest(path, seen) if path.is_file() else str(value)
    content = [digest(row.video, seen), digest(row.voice, seen), row.name, choices, *facts]
    return str(uuid.uuid5(NAMESPACE, json.dumps(content, sort_keys=True, default=str)))
