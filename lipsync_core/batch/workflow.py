"""API workflows whose nodes are addressed by their titles, and a row's values in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from .manifest import CHOICES, FIXED, Row, boolean, digest, unknown_column

DUB_NODE, SAVE_NODES = "LipSyncDubVideo", ("LipSyncSaveDub", "SaveVideo")
VIDEO_INPUTS = (("LipSyncLoadSample", "clip"), ("LoadVideo", "file"), ("LoadImage", "image"))
VOICE_INPUTS = (
    ("LipSyncLoadAudio", "file"),
    ("LipSyncLoadSample", "sound"),
    ("LoadAudio", "audio"),
)
FILE_INPUTS = frozenset({*VIDEO_INPUTS, *VOICE_INPUTS, (DUB_NODE, "speaker")})
"""Inputs of nodes that name a file in the server's input folder."""


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
        remote = f"{_plain(path.stem)}-{digest(path, seen)[:12]}{path.suffix.lower()}"
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
            raise unknown_column(row.place(), column, (*FIXED, *places))
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
        return boolean(value, what)
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
