"""Finding, fetching and verifying, against a small server that answers as huggingface.co does."""

from __future__ import annotations

import hashlib
import http.server
import threading
import time
from dataclasses import replace

import pytest

from lipsync_core.errors import WeightsError
from lipsync_core.weights import catalog, files

CONTENT = bytes(range(256)) * (1 << 14)  # 4 MiB


class Hub(http.server.BaseHTTPRequestHandler):
    """One file, with the headers that huggingface_hub reads, in slow pieces, resumable."""

    protocol_version = "HTTP/1.1"
    content = CONTENT
    ranges: list[str | None] = []  # noqa: RUF012

    def answer(self, body: bool) -> None:
        if "/resolve/" not in self.path:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if "gone" in self.path:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        asked = self.headers.get("Range")
        start = int(asked.split("=")[1].split("-")[0]) if asked else 0
        part = self.content[start:]
        self.send_response(206 if asked else 200)
        digest = hashlib.sha256(self.content).hexdigest()
        for key, value in {
            "Content-Length": str(len(part)),
            "Content-Range": f"bytes {start}-{len(self.content) - 1}/{len(self.content)}",
            "Accept-Ranges": "bytes",
            "ETag": f'"{digest}"',
            "X-Linked-Size": str(len(self.content)),
            "X-Repo-Commit": "0" * 40,
        }.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.ranges.append(asked)
            self.wfile.write(part)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def row():
    return catalog.Entry(
        name="small",
        title="A small file",
        purpose="tests",
        repository="someone/small",
        file="weights/small.bin",
        revision="0" * 40,
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        size=len(CONTENT),
        licence="MIT",
        commercial=True,
        folder="lipsync",
        saved_as="small.bin",
        kind="onnx",
    )


@pytest.fixture
def place(tmp_path, monkeypatch, row):
    """A machine with an empty models folder and a catalogue of one row."""
    monkeypatch.setenv("LIPSYNC_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setattr(files, "_extra", [])
    monkeypatch.setattr(catalog, "CATALOG", (row,))
    monkeypatch.setattr(files, "CATALOG", (row,))
    return tmp_path / "models"


@pytest.fixture
def hub(monkeypatch):
    handler = type("Handler", (Hub,), {"ranges": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    for key in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(key, raising=False)
    yield handler
    server.shutdown()
    server.server_close()


def test_fetch_downloads_verifies_and_names_last(place, hub, row):
    counts = []
    path = files.fetch("small", progress=lambda done, total, preview=None: counts.append(done))
    assert path == place / "lipsync" / "small.bin"
    assert path.read_bytes() == CONTENT
    assert files.find("small") == path
    assert counts[0] == 0
    assert counts == sorted(counts)
    asked = len(hub.ranges)
    assert files.fetch("small") == path
    assert len(hub.ranges) == asked, "a file that is here is not asked for again"


def test_fetch_resumes_after_a_cancel(place, hub, row):
    class Cancel(BaseException):
        pass

    def cancel(done: int, total: int, preview=None) -> None:
        if done:
            raise Cancel

    with pytest.raises(Cancel):
        files.fetch("small", progress=cancel)
    assert files.find("small") is None, "half a file has no name"
    (part,) = [p for p in (place / "lipsync" / ".part").iterdir() if p.suffix != ".lock"]
    # what a connection broken at one third leaves behind
    third = len(CONTENT) // 3
    part.write_bytes(CONTENT[:third])
    counts = []
    path = files.fetch("small", progress=lambda done, total, preview=None: counts.append(done))
    assert path.read_bytes() == CONTENT
    assert hub.ranges[-1] is not None
    assert hub.ranges[-1].startswith(f"bytes={third}-")
    assert counts[0] == third
    assert counts[-1] == len(CONTENT)


def test_without_a_known_hash_the_server_s_counts(place, hub, row, monkeypatch):
    monkeypatch.setattr(catalog, "CATALOG", (replace(row, sha256=None),))
    part = place / "lipsync" / ".part" / ("small-" + "0" * 40)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 100)  # the beginning of something else
    with pytest.raises(WeightsError, match="where the server says"):
        files.fetch("small")
    assert files.fetch("small").read_bytes() == CONTENT


def test_a_repository_that_lacks_the_file_is_told_from_no_connection(place, hub, monkeypatch, row):
    gone = replace(row, file="weights/gone.bin")
    monkeypatch.setattr(catalog, "CATALOG", (gone,))
    with pytest.raises(WeightsError, match="it answers 404"):
        files.fetch("small")


def test_what_arrives_damaged_is_not_kept(place, hub, row, monkeypatch):
    other = replace(row, sha256="0" * 64)
    monkeypatch.setattr(catalog, "CATALOG", (other,))
    with pytest.raises(WeightsError, match=r"damaged.*SHA-256 begins"):
        files.fetch("small")
    assert not (place / "lipsync" / "small.bin").exists()
    assert not list(place.rglob("small.bin"))


@pytest.mark.parametrize("how", ["switch", "closed port"])
def test_offline_says_which_file_from_where_to_where_in_seconds(place, row, monkeypatch, how):
    if how == "switch":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    else:
        for key in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(key, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        files.fetch("small")
    assert time.monotonic() - began < 5.5
    message = str(caught.value)
    assert "\n" not in message
    assert row.url in message
    assert str(place / "lipsync" / "small.bin") in message


def test_verify_tells_truncated_from_exchanged(tmp_path, row):
    path = tmp_path / "small.bin"
    path.write_bytes(CONTENT)
    assert files.verify(path, row) == "as published"
    assert "size" in files.verify(path, replace(row, sha256=None))
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match="4,194,303 bytes where A small file has 4,194,304"):
        files.verify(path, row)
    path.write_bytes(b"x" + CONTENT[1:])
    with pytest.raises(WeightsError, match="is not A small file"):
        files.verify(path, row)
    with pytest.raises(WeightsError, match="cannot be read"):
        files.verify(tmp_path / "none", row)


def test_fetch_does_not_take_a_half_file_for_the_whole(place, row):
    (place / "lipsync").mkdir(parents=True)
    (place / "lipsync" / "small.bin").write_bytes(CONTENT[:100])
    with pytest.raises(WeightsError, match="has 100 bytes where"):
        files.fetch("small")
    assert files.listing()[0].state == "other size"


def test_a_converted_file_is_verified_by_its_tensors(tmp_path, row):
    numpy = pytest.importorskip("safetensors.numpy")
    import numpy as np

    names = ("netcnnaud.0.weight", "netcnnlip.0.weight")
    path = tmp_path / "small.safetensors"
    numpy.save_file({name: np.zeros(3, np.float16) for name in names}, path)
    compared = files.verify(path, replace(row, kind="syncnet-v2"))
    assert compared.startswith("tensors of SyncNet v2, whose values were not compared")
    with pytest.raises(WeightsError, match="SyncNet v2 where TAESD is needed"):
        files.verify(path, replace(row, kind="taesd"))


def test_the_command_says_what_of_a_converted_file_was_compared(place, row, monkeypatch, capsys):
    numpy = pytest.importorskip("safetensors.numpy")
    import numpy as np

    from lipsync_core import cli

    for module in (catalog, files):
        monkeypatch.setattr(module, "CATALOG", (replace(row, kind="syncnet-v2"),))
    names = ("netcnnaud.0.weight", "netcnnlip.0.weight")
    (place / "lipsync").mkdir(parents=True)
    path = place / "lipsync" / "small.safetensors"
    numpy.save_file({name: np.zeros(3, np.float16) for name in names}, path)
    monkeypatch.setattr("sys.argv", ["lipsync", "models", "verify"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr().out
    assert stop.value.code == 0
    assert "as published" not in said
    assert "not compared" in said
    assert str(path) in said


def test_folders_in_order_and_by_kind(place, row, tmp_path):
    extra = tmp_path / "comfy"
    files.add_folder(extra)
    files.add_folder(tmp_path / "vaes", "vae")
    files.add_folder(tmp_path / "sync", "lipsync")
    assert files.folders()[:4] == [extra, tmp_path / "vaes", tmp_path / "sync", place]
    for wrong in (tmp_path / "vaes" / "small.bin", tmp_path / "sync" / "other.bin"):
        wrong.parent.mkdir(exist_ok=True)
        wrong.write_bytes(b"")
    assert files.find("small") is None
    (place / "lipsync").mkdir(parents=True)
    (place / "lipsync" / "small.safetensors").write_bytes(b"")
    assert files.find("small") == place / "lipsync" / "small.safetensors"
    (tmp_path / "sync" / "small.bin").write_bytes(b"")
    assert files.find("small") == tmp_path / "sync" / "small.bin"


def test_a_shared_published_name_counts_only_with_its_size(place, row, monkeypatch):
    sister = replace(row, name="sister", saved_as="sister.bin", size=row.size + 1)
    monkeypatch.setattr(catalog, "CATALOG", (row, sister))
    monkeypatch.setattr(files, "CATALOG", (row, sister))
    place.mkdir()
    (place / "small.bin").write_bytes(b"0" * sister.size)
    renamed = replace(row, saved_as="first.bin")
    monkeypatch.setattr(catalog, "CATALOG", (renamed, sister))
    monkeypatch.setattr(files, "CATALOG", (renamed, sister))
    assert files.find("small") is None
    assert files.find("sister") == place / "small.bin"


def test_the_hub_cache_is_found(place, row, tmp_path):
    path = tmp_path / "hf/hub/models--someone--small/snapshots" / ("0" * 40) / "weights/small.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert files.find("small") == path


def test_absent_knows_alternatives_and_tells_the_command(place, row, monkeypatch):
    other = replace(row, name="other", saved_as="other.bin", title="The other", size=row.size + 1)
    monkeypatch.setattr(catalog, "CATALOG", (row, other))
    monkeypatch.setattr(files, "CATALOG", (row, other))
    assert files.absent("other|small").endswith("lipsync models download other (4.2 MB)")
    (place / "lipsync").mkdir(parents=True)
    (place / "lipsync" / "small.bin").write_bytes(CONTENT)
    assert files.absent("other|small") is None
    assert "The other not found" in files.absent("small", "other")
