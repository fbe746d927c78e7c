"""Many dubs from one manifest: on this machine in order, or over ComfyUI servers that share the queue.

A row is known by what goes into it (the bytes of its files, its choices, the workflow), so a second
run of the same manifest goes on where the first one stopped.
"""

from __future__ import annotations

import csv
import hashlib
import http.client
import io
import json
import logging
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import LipSyncError, MediaError, SettingsError
from .types import Settings

if TYPE_CHECKING:
    from .types import Progress, Stages

log = logging.getLogger("lipsync.batch")

FIXED = ("video", "voice", "output")
"""Columns that every manifest has; all others are choices."""
CHOICES = tuple(row.name for row in fields(Settings) if row.name != "cache")
JOURNAL = "lipsync-batch.ndjson"
"""Name of the log in the output folder where none is given: it tells a second run what is done."""
NAMESPACE = uuid.UUID("6b1c7a3e-1f0e-5c6b-9d0a-52f0c0b1a7d4")
"""Of the prompt ids; changes when the same row shall count as another one."""
DUB_NODE, SAVE_NODES = "LipSyncDubVideo", ("LipSyncSaveDub", "SaveVideo")
VIDEO_INPUTS = (("LipSyncLoadSample", "clip"), ("LoadVideo", "file"), ("LoadImage", "image"))
VOICE_INPUTS = (
    ("LipSyncLoadAudio", "file"),
    ("LipSyncLoadSample", "sound"),
    ("LoadAudio", "audio"),
)
FILE_INPUTS = frozenset({*VIDEO_INPUTS, *VOICE_INPUTS, (DUB_NODE, "speaker")})
"""Inputs of nodes that name a file in the server's input folder."""
IN_FLIGHT = 2
"""Prompts a server holds at once: one that runs, and one so that it never waits for us."""
POLL_SECONDS = 1.0
PATIENCE_SECONDS = 180.0
"""How long a silent server is asked again before its rows go to the others."""
ANSWER_SECONDS = 60.0
LOSSES = 3
"""Times a prompt may vanish with its server before the row counts as failed: it may be the cause."""
EARLIER_RUNS = 50
"""Failed runs of one row that are looked past to find a fresh prompt id."""
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
        replace = _boolean(choices.pop("overwrite", False), f"{manifest} line {line}: overwrite")
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
    from .media.writer import FORMATS

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


def _boolean(value: Any, what: str) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    found = words.get(str(value).strip().lower())
    if found is None:
        raise SettingsError(f"{what} {value!r} means nothing; write true or false")
    return found


def _unknown(place: str, column: str, known: Iterable[str]) -> SettingsError:
    names = sorted(known)
    lower = {name.lower(): name for name in names}
    near = get_close_matches(column.lower(), lower, n=1, cutoff=0.4)
    hint = f"did you mean {lower[near[0]]!r}?" if near else f"there are {', '.join(names)}"
    return SettingsError(f"{place}: unknown column {column!r}; {hint}")


def _digest(path: Path, seen: dict[Path, str]) -> str:
    if path not in seen:
        digest = hashlib.blake2b(digest_size=16)
        try:
            with path.open("rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
        except OSError as error:
            raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
        seen[path] = digest.hexdigest()
    return seen[path]


def identity(row: Row, seen: dict[Path, str], *facts: Any) -> str:
    """The row's number: the same bytes, choices and name give the same one on every machine."""
    choices = {}
    for column, value in row.choices.items():
        path = row.folder / str(value)
        choices[column] = _digest(path, seen) if path.is_file() else str(value)
    content = [_digest(row.video, seen), _digest(row.voice, seen), row.name, choices, *facts]
    return str(uuid.uuid5(NAMESPACE, json.dumps(content, sort_keys=True, default=str)))


def _part(row: Row, number: str) -> Path:
    """Where a result grows until it is whole, beside its place and with its ending."""
    return row.output.with_name(f".{row.output.stem}.{number[:8]}.part{row.output.suffix}")


def _refuse_existing(rows: Sequence[tuple[Row, str]], journal: Journal) -> None:
    for row, number in rows:
        if row.output.exists() and not row.overwrite and not journal.has_made(row, number):
            raise SettingsError(
                f"{row.place()}: {row.output} exists already and is not what this row makes; "
                "give another name, or --overwrite"
            )


# On this machine.


def settings_of(row: Row) -> Settings:
    """The row's choices as ``Settings``; SettingsError names the column and what it takes."""
    from . import engines
    from .cli import seconds
    from .dub import _settled
    from .faces.choose import parse
    from .faces.detect import DETECTORS

    choices: dict[str, Any] = {}
    for column, value in row.choices.items():
        if column not in CHOICES:
            raise _unknown(row.place(), column, (*FIXED, *CHOICES))
        try:
            if column in ("start", "end"):
                choices[column] = seconds(str(value))
            elif column in ("seed", "crf"):
                choices[column] = int(str(value))
            elif column == "strength":
                choices[column] = float(value)
            elif column == "tag":
                choices[column] = _boolean(value, column)
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


def run_here(
    rows: Sequence[Row], log_file: Path, *, stages: Stages | None = None, progress: Progress
) -> list[Outcome]:
    """Dubs the rows in order; a clip that comes again is not looked at again."""
    from .dub import dub

    settings = [settings_of(row) for row in rows]
    seen: dict[Path, str] = {}
    numbers = [identity(row, seen) for row in rows]
    outcomes: list[Outcome] = []
    with Journal(log_file) as journal:
        _refuse_existing(list(zip(rows, numbers, strict=True)), journal)
        progress(0, len(rows))
        for row, number, choice in zip(rows, numbers, settings, strict=True):
            outcome = Outcome(line=row.line, output=str(row.output), state="done")
            part, began = _part(row, number), time.monotonic()
            if journal.has_made(row, number):
                outcome.state = "skipped"
            else:
                journal.add("started", row, number)
                try:
                    row.output.parent.mkdir(parents=True, exist_ok=True)
                    dub(row.video, row.voice, part, settings=choice, stages=stages)
                    journal.keep(part, row, number)
                except (LipSyncError, OSError) as error:
                    outcome.state, outcome.error = "failed", _line(error)
                finally:
                    part.unlink(missing_ok=True)
            outcome.seconds = round(time.monotonic() - began, 3)
            _settle(journal, row, number, outcome)
            outcomes.append(outcome)
            progress(len(outcomes), len(rows))
    return outcomes


def _settle(journal: Journal, row: Row, number: str, outcome: Outcome) -> None:
    facts = {"error": outcome.error} if outcome.error else {}
    if outcome.server:
        facts["server"] = outcome.server
    journal.add(outcome.state, row, number, seconds=outcome.seconds, **facts)


def _line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# Over servers.


class Away(Exception):
    """The server did not answer, or broke off; asking again may help."""


class Refused(Exception):
    """The server answered that it will not."""


class Server:
    """One ComfyUI, spoken to over HTTP."""

    def __init__(self, url: str) -> None:
        text = url if "://" in url else f"http://{url}"
        try:
            parts = urllib.parse.urlsplit(text)
            sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            sound = False
        if not sound:
            raise SettingsError(f"{url!r} is no server; write http://127.0.0.1:8188")
        self.url = text.rstrip("/")
        # A proxy of the office cannot reach this machine's own ports.
        here = parts.hostname in ("localhost", "127.0.0.1", "::1")
        self._opener = urllib.request.build_opener(
            *([urllib.request.ProxyHandler({})] if here else [])
        )

    def open(
        self,
        path: str,
        data: Any = None,
        headers: dict[str, str] | None = None,
        *,
        method: str | None = None,
        wait: float = ANSWER_SECONDS,
    ) -> Any:
        request = urllib.request.Request(self.url + path, data, headers or {}, method=method)
        try:
            return self._opener.open(request, timeout=wait)
        except urllib.error.HTTPError as error:
            with error:
                answer = error.read(BLOCK).decode("utf-8", "replace")
            if error.code >= 500:
                raise Away(f"it answered {error.code} to {path.partition('?')[0]}") from error
            raise Refused(_complaint(error.code, answer)) from error
        except (OSError, http.client.HTTPException) as error:
            raise Away(_line(getattr(error, "reason", error))) from error

    def ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data else {}
        with self.open(path, data, headers) as answer:
            try:
                return json.load(answer)
            except ValueError as error:
                raise Away(f"{path} did not answer in JSON; is it a ComfyUI?") from error
            except (OSError, http.client.HTTPException) as error:
                raise Away(_line(error)) from error

    def find(self, number: str) -> tuple[str, dict[str, Any]]:
        """``queued``, ``success``, ``error`` or ``absent``, and the entry of the history.

        The queue is asked first: a prompt that ends between the two questions is then in the second.
        """
        queue = self.ask("/queue")
        waiting = [*queue.get("queue_running", ()), *queue.get("queue_pending", ())]
        if any(number in item[:2] for item in waiting):
            return "queued", {}
        entry = self.ask(f"/history/{number}").get(number)
        if entry is None:
            return "absent", {}
        status = entry.get("status") or {}
        good = status.get("completed", True) and status.get("status_str", "success") == "success"
        return ("success" if good else "error"), entry

    def has_input(self, name: str, size: int) -> bool:
        query = urllib.parse.urlencode({"filename": name, "type": "input"})
        try:
            with self.open(f"/view?{query}", method="HEAD") as answer:
                return answer.headers.get("Content-Length") == str(size)
        except Refused:
            return False

    def upload(self, path: Path, name: str) -> str:
        """Sends a file into the input folder and returns its name there."""
        edge = uuid.uuid4().hex
        fields_ = f'--{edge}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'
        head = (
            f'{fields_}--{edge}\r\nContent-Disposition: form-data; name="image"; '
            f'filename="{name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        ).encode()
        tail = f"\r\n--{edge}--\r\n".encode()
        size = len(head) + path.stat().st_size + len(tail)

        def body() -> Iterator[bytes]:
            yield head
            with path.open("rb") as file:
                while block := file.read(BLOCK):
                    yield block
            yield tail

        headers = {
            "Content-Type": f"multipart/form-data; boundary={edge}",
            "Content-Length": str(size),
        }
        with self.open("/upload/image", body(), headers, wait=10 * ANSWER_SECONDS) as answer:
            try:
                return str(json.load(answer)["name"])
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                raise Away(f"the upload of {path.name} broke off") from error

    def download(self, file: dict[str, Any], target: Path) -> None:
        query = urllib.parse.urlencode(
            {key: file.get(key, "") for key in ("filename", "subfolder", "type")}
        )
        with self.open(f"/view?{query}") as answer, target.open("wb") as result:
            expected, count = answer.headers.get("Content-Length"), 0
            while True:
                try:
                    block = answer.read(BLOCK)
                except (OSError, http.client.HTTPException) as error:
                    raise Away(f"the download broke off: {_line(error)}") from error
                if not block:
                    break
                result.write(block)
                count += len(block)
            if expected is not None and count != int(expected):
                raise Away(f"the download broke off after {count} of {expected} bytes")


def _complaint(code: int, answer: str) -> str:
    """What a refusal says, in one line."""
    if code == 413:
        return "the file is too large for the server; start it with a higher --max-upload-size"
    try:
        body = json.loads(answer)
        for node in (body.get("node_errors") or {}).values():
            for problem in node.get("errors", ()):
                return _line(f"{node.get('class_type')}: {problem['message']} {problem['details']}")
        return _line(body["error"]["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"it answered {code}"


@dataclass(kw_only=True)
class Job:
    """A row on its way through the servers."""

    row: Row
    number: str
    """Of the row; the prompt's own id differs where an earlier run of it failed."""
    graph: dict[str, Any]
    uploads: list[tuple[str, str, Path, str]]
    """``(node, input, file, name on the server)``."""
    prompt: str = ""
    losses: int = 0
    began: float = 0.0


class Workflow:
    """An API workflow whose nodes are addressed by their titles."""

    def __init__(self, path: Path, *, video_to: str, voice_to: str, result: str) -> None:
        try:
            graph = json.loads(path.read_text(encoding="utf-8"))
            self.titles: dict[str, list[str]] = {}
            for key, node in graph.items():
                title = (node.get("_meta") or {}).get("title") or node["class_type"]
                self.titles.setdefault(title, []).append(key)
        except FileNotFoundError:
            raise SettingsError(f"the workflow {path} does not exist; give --workflow") from None
        except (ValueError, AttributeError, KeyError, TypeError, OSError):
            raise SettingsError(
                f"{path} is not an API workflow; in ComfyUI: Workflow, Export (API)"
            ) from None
        if not all({"class_type", "inputs"} <= set(node) for node in graph.values()):
            raise SettingsError(f"{path} has nodes without class_type and inputs; export it again")
        self.path, self.graph = path, graph
        self.video = self._slot("video", video_to, VIDEO_INPUTS)
        self.voice = self._slot("voice", voice_to, VOICE_INPUTS)
        if result:
            self.result = self._node(result, "--result")
        else:
            found = [key for key, node in graph.items() if node["class_type"] in SAVE_NODES]
            if len(found) != 1:
                names = ", ".join(repr(self.title(key)) for key in found) or "none"
                raise SettingsError(
                    f"{path.name} must save one video, it saves {names}; say which: --result TITLE"
                )
            self.result = found[0]

    def facts(self) -> list[Any]:
        """What of the workflow makes a row another row."""
        return [self.graph, self.video, self.voice, self.result]

    def title(self, key: str) -> str:
        return next(title for title, keys in self.titles.items() if key in keys)

    def _node(self, title: str, what: str) -> str:
        keys = self.titles.get(title, [])
        if len(keys) != 1:
            state = "no node" if not keys else f"{len(keys)} nodes"
            known = ", ".join(repr(name) for name in self.titles)
            raise SettingsError(f"{what}: {self.path.name} has {state} called {title!r} of {known}")
        return keys[0]

    def _slot(self, what: str, given: str, classes: Sequence[tuple[str, str]]) -> tuple[str, str]:
        if given:
            title, _, name = given.rpartition(".")
            return self._node(title, f"--{what}-to"), name
        for kind, name in classes:
            found = [key for key, node in self.graph.items() if node["class_type"] == kind]
            # A socket that is fed by a wire does not read the file beside it.
            found = [
                key
                for key in found
                if isinstance(self.graph[key]["inputs"].get(name), str)
                and not isinstance(self.graph[key]["inputs"].get("audio"), list)
            ]
            if len(found) == 1:
                return found[0], name
            if found:
                names = ", ".join(f"'{self.title(key)}.{name}'" for key in found)
                raise SettingsError(
                    f"{self.path.name} has several places for the {what}: {names}; "
                    f"say which: --{what}-to"
                )
        raise SettingsError(
            f"{self.path.name} has no place for the {what}; say which: --{what}-to 'Title.input'"
        )

    def check(self, known: dict[str, Any], server: str) -> None:
        """Whether the server knows every node and gets every input that the node requires."""
        for key, node in self.graph.items():
            kind = node["class_type"]
            if kind not in known:
                raise SettingsError(
                    f"{server} has no node {kind} ({self.title(key)!r} in {self.path.name}); "
                    "install what brings it there"
                )
            for name in known[kind]["input"].get("required") or {}:
                if not any(own == name or own.startswith(f"{name}.") for own in node["inputs"]):
                    raise SettingsError(
                        f"{self.path.name}: {self.title(key)!r} lacks the input {name!r} that "
                        f"{server} requires"
                    )

    def job(self, row: Row, number: str, known: dict[str, Any], seen: dict[Path, str]) -> Job:
        """The prompt of a row; SettingsError names a column that leads nowhere or a value that is none."""
        graph = json.loads(json.dumps(self.graph))
        job = Job(row=row, number=number, graph=graph, uploads=[])
        for (key, name), path in ((self.video, row.video), (self.voice, row.voice)):
            self._send(job, key, name, path, seen)
        save = graph[self.result]["inputs"]
        if "filename_prefix" in save:
            save["filename_prefix"] = f"lipsync_batch/{_plain(row.output.stem)}-{number[:8]}"
        for node in graph.values():
            if node["class_type"] == DUB_NODE and "container" in node["inputs"]:
                container = row.output.suffix[1:].lower().replace("m4v", "mp4")
                node["inputs"]["container"] = _fits(
                    known, node["class_type"], "container", container, f"{row.place()}: output"
                )
        for column, value in row.choices.items():
            key, name = self._address(row, column, known)
            kind = graph[key]["class_type"]
            path = row.folder / str(value)
            if (kind, name) in FILE_INPUTS and path.is_file():
                self._send(job, key, name, path, seen)
                continue
            graph[key]["inputs"][name] = _fits(known, kind, name, value, f"{row.place()}: {column}")
        return job

    def _send(self, job: Job, key: str, name: str, path: Path, seen: dict[Path, str]) -> None:
        remote = f"{_plain(path.stem)}-{_digest(path, seen)[:12]}{path.suffix.lower()}"
        job.graph[key]["inputs"][name] = remote
        job.uploads.append((key, name, path, remote))

    def _address(self, row: Row, column: str, known: dict[str, Any]) -> tuple[str, str]:
        places: dict[str, tuple[str, str]] = {}
        dubs = [key for key, node in self.graph.items() if node["class_type"] == DUB_NODE]
        for title, keys in self.titles.items():
            sockets = known[self.graph[keys[0]]["class_type"]]["input"]
            for name in [*(sockets.get("required") or {}), *(sockets.get("optional") or {})]:
                if len(keys) == 1:
                    places[f"{title}.{name}"] = keys[0], name
                # The columns of a manifest for this machine mean the one node that dubs.
                if keys[0] in dubs and len(dubs) == 1 and name in CHOICES:
                    places[name] = keys[0], name
        if column not in places:
            raise _unknown(row.place(), column, (*FIXED, *places))
        return places[column]


def _plain(text: str) -> str:
    """A file name that no header, shell or file system misreads."""
    kept = "".join(sign if sign.isascii() and sign.isalnum() else "_" for sign in text)
    return kept[:60] or "file"


def _fits(known: dict[str, Any], kind: str, name: str, value: Any, what: str) -> Any:
    """``value`` as the node's input takes it; SettingsError says what it takes."""
    sockets = known[kind]["input"]
    spec = (sockets.get("required") or {}).get(name) or (sockets.get("optional") or {}).get(name)
    if not spec:
        raise SettingsError(f"{what}: {kind} has no input {name!r} there")
    sort, facts = spec[0], (spec[1] if len(spec) > 1 else {})
    options = sort if isinstance(sort, list) else facts.get("options")
    if options is not None:
        found = next((option for option in options if str(option) == str(value).strip()), None)
        if found is None:
            some = ", ".join(map(str, options[:12]))
            raise SettingsError(f"{what} {value!r} is none of: {some}")
        return found
    if sort == "BOOLEAN":
        return _boolean(value, what)
    if sort in ("INT", "FLOAT"):
        try:
            number = int(str(value)) if sort == "INT" else float(value)
        except ValueError:
            raise SettingsError(f"{what} {value!r} is not a number") from None
        low, high = facts.get("min", number), facts.get("max", number)
        if not low <= number <= high:
            raise SettingsError(f"{what} {value!r} is not between {low} and {high}")
        return number
    if sort != "STRING":
        raise SettingsError(f"{what} is a wire ({sort}), not a value")
    return str(value)


class Lane:
    """One server and the prompts that it holds."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.jobs: list[Job] = []
        self.silent_since: float | None = None
        self.next_try = 0.0
        self.gone = False


class Fleet:
    """Deals jobs out to servers until each is done or has failed."""

    def __init__(self, lanes: list[Lane], workflow: Workflow, journal: Journal) -> None:
        self.lanes, self.workflow, self.journal = lanes, workflow, journal
        self.waiting: deque[Job] = deque()
        self.outcomes: dict[int, Outcome] = {}

    def adopt(self, job: Job) -> None:
        """Looks where an earlier run left the job: still queued or done somewhere, failed, or nowhere."""
        for run in range(EARLIER_RUNS):
            job.prompt = (
                job.number if run == 0 else str(uuid.uuid5(uuid.UUID(job.number), str(run)))
            )
            found = [(lane, lane.server.find(job.prompt)[0]) for lane in self.lanes]
            for state in ("success", "queued"):
                for lane, there in found:
                    if there == state:
                        job.began = time.monotonic()
                        lane.jobs.append(job)
                        self._note("found", job, lane)
                        return
            if all(there == "absent" for _, there in found):
                break
        self.waiting.append(job)

    def run(self, progress: Progress, total: int) -> None:
        while self.waiting or any(lane.jobs for lane in self.lanes):
            for lane in self.lanes:
                if not lane.gone and time.monotonic() >= lane.next_try:
                    self._visit(lane)
            if all(lane.gone for lane in self.lanes):
                for job in self.waiting:
                    self._settle(job, "failed", None, "no server answers any more")
                self.waiting.clear()
            progress(len(self.outcomes), total)
            if self.waiting or any(lane.jobs for lane in self.lanes):
                time.sleep(POLL_SECONDS)

    def _visit(self, lane: Lane) -> None:
        try:
            for job in list(lane.jobs):
                self._follow(lane, job)
            while self.waiting and len(lane.jobs) < IN_FLIGHT:
                # It belongs to the lane from here on: a server that breaks off may have taken it.
                lane.jobs.append(self.waiting.popleft())
                self._send(lane, lane.jobs[-1])
            lane.silent_since = None
        except (Away, Refused) as error:
            now = time.monotonic()
            if lane.silent_since is None:
                log.warning("%s is away (%s); asking again", lane.server.url, error)
                lane.silent_since = now
            lane.next_try = now + min(5 * POLL_SECONDS, 10.0)
            if now - lane.silent_since > PATIENCE_SECONDS:
                log.warning("%s stays away; its rows go to the others", lane.server.url)
                lane.gone = True
                self.waiting.extendleft(reversed(lane.jobs))
                lane.jobs.clear()

    def _send(self, lane: Lane, job: Job) -> None:
        """Queues the prompt unless the server has it already: a lost answer never doubles a job."""
        job.began = job.began or time.monotonic()
        try:
            if lane.server.find(job.prompt)[0] != "absent":
                self._note("found", job, lane)
                return
            for key, name, path, remote in job.uploads:
                if not lane.server.has_input(remote, path.stat().st_size):
                    remote = lane.server.upload(path, remote)
                job.graph[key]["inputs"][name] = remote
            self._note("sending", job, lane)
            answer = lane.server.ask("/prompt", {"prompt": job.graph, "prompt_id": job.prompt})
            if answer.get("node_errors"):
                raise Refused(_complaint(200, json.dumps(answer)))
        except (Refused, OSError) as error:
            self._settle(job, "failed", lane, _line(error))

    def _follow(self, lane: Lane, job: Job) -> None:
        state, entry = lane.server.find(job.prompt)
        if state == "error":
            self._settle(job, "failed", lane, _failure(entry))
        elif state == "success":
            self._fetch(lane, job, entry)
        elif state == "absent":
            job.losses += 1
            if job.losses > LOSSES:
                self._settle(job, "failed", lane, f"the server lost it {job.losses} times")
                return
            self._note("lost", job, lane)
            self._send(lane, job)

    def _fetch(self, lane: Lane, job: Job, entry: dict[str, Any]) -> None:
        row, part = job.row, _part(job.row, job.number)
        shown = (entry.get("outputs") or {}).get(self.workflow.result) or {}
        files = [
            file
            for values in shown.values()
            if isinstance(values, list)
            for file in values
            if isinstance(file, dict) and file.get("type") == "output" and file.get("filename")
        ]
        try:
            if not files:
                raise Refused(f"{self.workflow.title(self.workflow.result)!r} saved no file")
            ending = Path(str(files[0]["filename"])).suffix.lower()
            if ending != row.output.suffix.lower().replace(".m4v", ".mp4"):
                raise Refused(f"the server made a {ending} file; name the output so")
            row.output.parent.mkdir(parents=True, exist_ok=True)
            try:
                lane.server.download(files[0], part)
            except Refused:
                self._again(lane, job)
                return
            self.journal.keep(part, row, job.number)
        except (Refused, LipSyncError, OSError) as error:
            self._settle(job, "failed", lane, _line(error))
        else:
            self._settle(job, "done", lane)
        finally:
            part.unlink(missing_ok=True)

    def _again(self, lane: Lane, job: Job) -> None:
        """The history tells of a file that was deleted since: a fresh prompt and name make it anew."""
        job.losses += 1
        if job.losses > LOSSES:
            self._settle(job, "failed", lane, "the server's result was deleted before it came here")
            return
        self._note("lost", job, lane)
        job.prompt = str(uuid.uuid5(uuid.UUID(job.number), f"anew {job.losses}"))
        save = job.graph[self.workflow.result]["inputs"]
        if isinstance(save.get("filename_prefix"), str):
            save["filename_prefix"] += f"-{job.losses}"
        self._send(lane, job)

    def _note(self, event: str, job: Job, lane: Lane) -> None:
        self.journal.add(event, job.row, job.number, prompt=job.prompt, server=lane.server.url)

    def _settle(self, job: Job, state: str, lane: Lane | None, error: str = "") -> None:
        if lane is not None and job in lane.jobs:
            lane.jobs.remove(job)
        outcome = Outcome(
            line=job.row.line,
            output=str(job.row.output),
            state=state,
            error=error,
            server=lane.server.url if lane else "",
            seconds=round(time.monotonic() - (job.began or time.monotonic()), 3),
        )
        self.outcomes[job.row.line] = outcome
        _settle(self.journal, job.row, job.number, outcome)


def _failure(entry: dict[str, Any]) -> str:
    for message in (entry.get("status") or {}).get("messages") or ():
        kind, facts = message[0], message[1]
        if kind == "execution_error":
            return _line(f"{facts.get('node_type')}: {facts.get('exception_message')}")
        if kind == "execution_interrupted":
            return "it was cancelled on the server"
    return "the server says that it failed, and no more"


def run_there(
    rows: Sequence[Row],
    log_file: Path,
    servers: Sequence[str],
    workflow: Workflow,
    *,
    progress: Progress,
) -> list[Outcome]:
    """Sends each row as one prompt; every row is checked against every server before the first goes."""
    lanes = [Lane(Server(url)) for url in dict.fromkeys(servers)]
    seen: dict[Path, str] = {}
    jobs: list[Job] = []
    for lane in lanes:
        try:
            known = lane.server.ask("/object_info")
        except (Away, Refused) as error:
            raise SettingsError(
                f"{lane.server.url} does not answer as a ComfyUI: {error}"
            ) from None
        workflow.check(known, lane.server.url)
        jobs = [
            workflow.job(row, identity(row, seen, *workflow.facts()), known, seen) for row in rows
        ]
    done: dict[int, Outcome] = {}
    with Journal(log_file) as journal:
        _refuse_existing([(job.row, job.number) for job in jobs], journal)
        fleet = Fleet(lanes, workflow, journal)
        progress(0, len(rows))
        for job in jobs:
            row = job.row
            if journal.has_made(row, job.number):
                done[row.line] = Outcome(line=row.line, output=str(row.output), state="skipped")
                _settle(journal, row, job.number, done[row.line])
                continue
            try:
                fleet.adopt(job)
            except (Away, Refused) as error:
                raise SettingsError(f"a server went away at the start: {error}") from None
        fleet.outcomes |= done
        fleet.run(progress, len(rows))
        progress(len(rows), len(rows))
    return [fleet.outcomes[row.line] for row in rows]


# The command.


def batch(
    manifest: Annotated[
        Path,
        typer.Argument(help="A .csv or .jsonl with video, voice, output, and choices by column."),
    ],
    server: Annotated[
        list[str] | None,
        typer.Option(help="A ComfyUI to send the rows to; several share them. None: this machine."),
    ] = None,
    workflow: Annotated[
        Path | None,
        typer.Option(help="The API workflow for servers; dub_a_video.json by default."),
    ] = None,
    output_dir: Annotated[
        Path, typer.Option(help="Folder that relative outputs go to; it is made if absent.")
    ] = Path(),
    log_file: Annotated[
        Path | None,
        typer.Option("--log", metavar="FILE.ndjson", help=f"The log; {JOURNAL} there by default."),
    ] = None,
    video_to: Annotated[
        str, typer.Option(metavar="'TITLE.INPUT'", help="Where the workflow takes the video.")
    ] = "",
    voice_to: Annotated[
        str, typer.Option(metavar="'TITLE.INPUT'", help="Where the workflow takes the voice.")
    ] = "",
    result: Annotated[
        str, typer.Option(metavar="TITLE", help="The node whose video is the result.")
    ] = "",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace outputs that other work left there.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of text.")
    ] = False,
) -> None:
    """Dub every row of MANIFEST, here or over ComfyUI servers; run again to go on."""
    from .cli import _bars

    if not server and (workflow or video_to or voice_to or result):
        raise SettingsError("--workflow, --video-to, --voice-to and --result need a --server")
    rows = read(manifest, output_dir, overwrite=overwrite)
    graph = None
    if server:
        shipped = Path(__file__).parents[1] / "workflows" / "api" / "dub_a_video.json"
        graph = Workflow(workflow or shipped, video_to=video_to, voice_to=voice_to, result=result)
    book = log_file or output_dir / JOURNAL
    try:
        with _bars(quiet=as_json or not sys.stderr.isatty()) as stages:
            if server and graph:
                outcomes = run_there(rows, book, server, graph, progress=stages("rows"))
            else:
                # One bar for all rows, and one for whatever the row of the moment does.
                everything, moment = stages("rows"), stages("this row")
                outcomes = run_here(rows, book, stages=lambda stage: moment, progress=everything)
    except KeyboardInterrupt:
        typer.echo("lipsync: stopped; the same command goes on from here", err=True)
        raise typer.Exit(130) from None
    _tell(outcomes, as_json=as_json)
    if any(outcome.state == "failed" for outcome in outcomes):
        raise typer.Exit(1)


def _tell(outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    counts = {
        state: sum(outcome.state == state for outcome in outcomes)
        for state in ("done", "skipped", "failed")
    }
    if as_json:
        found = [vars(outcome) for outcome in outcomes]
        typer.echo(json.dumps(counts | {"rows": found}, ensure_ascii=False))
        return
    for outcome in outcomes:
        detail = f": {outcome.error}" if outcome.error else ""
        typer.echo(f"{outcome.state:<8}{outcome.output}{detail}")
    typer.echo(", ".join(f"{count} {state}" for state, count in counts.items()))
