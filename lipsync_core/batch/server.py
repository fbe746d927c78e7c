"""A ComfyUI spoken to over HTTP."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from .journal import line_of
from .manifest import BLOCK

ANSWER_SECONDS = 60.0


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
            raise Refused(complaint(error.code, answer)) from error
        except (OSError, http.client.HTTPException) as error:
            raise Away(line_of(getattr(error, "reason", error))) from error

    def ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data else {}
        with self.open(path, data, headers) as answer:
            try:
                return json.load(answer)
            except ValueError as error:
                raise Away(f"{path} did not answer in JSON; is it a ComfyUI?") from error
            except (OSError, http.client.HTTPException) as error:
                raise Away(line_of(error)) from error

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
                    raise Away(f"the download broke off: {line_of(error)}") from error
                if not block:
                    break
                result.write(block)
                count += len(block)
            if expected is not None and count != int(expected):
                raise Away(f"the download broke off after {count} of {expected} bytes")


def complaint(code: int, answer: str) -> str:
    """What a refusal says, in one line."""
    if code == 413:
        return "the file is too large for the server; start it with a higher --max-upload-size"
    try:
        body = json.loads(answer)
        for node in (body.get("node_errors") or {}).values():
            for problem in node.get("errors", ()):
                return line_of(
                    f"{node.get('class_type')}: {problem['message']} {problem['details']}"
                )
        return line_of(body["error"]["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"it answered {code}"
