"""The pack as ComfyUI loads it: under a made-up name, with the real API or a small stand-in for it.

``COMFYUI_PATH`` names a checkout of ComfyUI to use in place of the stand-in; everything here then
runs a second time against the real thing, so that the two cannot drift apart.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the nodes hand tensors on; torch is not installed")

ROOT = Path(__file__).parents[2]
COMFYUI = os.environ.get("COMFYUI_PATH")


def _comfyui(folder: Path) -> None:
    """Puts ``comfy``, ``comfy_api`` and ``folder_paths`` on the path and points them at ``folder``."""
    if COMFYUI:
        sys.path.insert(0, COMFYUI)
        import comfy.cli_args

        comfy.cli_args.args.cpu = True
    else:
        sys.path.insert(0, str(Path(__file__).parent / "fakes"))
    import folder_paths

    for name in ("input", "output", "temp", "models"):
        (folder / name).mkdir()
    folder_paths.set_input_directory(str(folder / "input"))
    folder_paths.set_output_directory(str(folder / "output"))
    folder_paths.set_temp_directory(str(folder / "temp"))
    folder_paths.models_dir = str(folder / "models")


@pytest.fixture(scope="session")
def comfy_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("comfy")


@pytest.fixture(scope="session")
def pack(comfy_folder):
    """The root package, imported the way ComfyUI does it."""
    os.environ["LIPSYNC_CACHE"] = str(comfy_folder / "tracks")
    _comfyui(comfy_folder)
    spec = importlib.util.spec_from_file_location(
        "lipsync_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["lipsync_pack"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def bridge(pack):
    return pack.nodes.bridge


@pytest.fixture(scope="session")
def nodes(pack):
    """Node id to class."""
    extension = asyncio.run(pack.comfy_entrypoint())
    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}


@pytest.fixture(scope="session")
def run(nodes):
    """``run(node_id, **inputs)`` as the executor calls a node; optional inputs may be left out."""

    def call(node_id, **inputs):
        clone = nodes[node_id].PREPARE_CLASS_CLONE({})
        with torch.inference_mode():
            return clone.EXECUTE_NORMALIZED(**inputs)

    return call


class Server:
    """A ComfyUI of its own: this pack alone, folders of its own, reached over HTTP."""

    def __init__(self, folder: Path, process: subprocess.Popen, url: str):
        self.folder, self.process, self.url = folder, process, url

    def log(self, letters: int = 3000) -> str:
        """The end of what the server said."""
        return (self.folder / "server.log").read_text(encoding="utf-8", errors="replace")[-letters:]

    def call(self, path: str, body: Any = None) -> Any:
        """GET, or POST with a body; the answer's JSON, None where it is empty."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json"} if data else {}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.code} {error.read().decode()[:2000]}") from None
        return json.loads(text) if text else None

    def queue(self, prompt: dict) -> str:
        """The id of a prompt that was accepted whole."""
        answer = self.call("/prompt", {"prompt": prompt})
        assert not answer.get("node_errors"), answer
        return answer["prompt_id"]

    def wait(self, prompt_id: str, seconds: float = 180) -> dict:
        """The entry in the history once the prompt has ended, however it ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            entry = self.call(f"/history/{prompt_id}").get(prompt_id)
            if entry:
                return entry
            assert self.process.poll() is None, self.log()
            time.sleep(0.1)
        raise AssertionError(f"no end after {seconds:g} s\n{self.log()}")

    def files(self) -> set[Path]:
        """Everything that lies in the output and temp folders now."""
        return {
            path
            for name in ("output", "temp")
            for path in (self.folder / name).rglob("*")
            if path.is_file() or path.name.startswith("lipsync-")
        }


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """ComfyUI on the CPU at a free port of this machine, with this checkout as its only pack.

    ``COMFYUI_PYTHON`` is the interpreter that has ComfyUI's requirements (default: this one),
    ``COMFYUI_ARGS`` more arguments for ``main.py``.
    """
    if not COMFYUI:
        pytest.skip("COMFYUI_PATH names no checkout of ComfyUI")
    checkout = Path(COMFYUI).resolve()
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    able = [python, "-c", "import aiohttp, av, safetensors, sqlalchemy, torch, transformers, yaml"]
    try:
        tried = subprocess.run(able, capture_output=True, text=True, check=False, timeout=120)
    except OSError as error:
        pytest.skip(f"COMFYUI_PYTHON: {error}")
    if tried.returncode:
        pytest.skip(f"{python} cannot run ComfyUI: {tried.stderr.strip().splitlines()[-1]}")

    folder = tmp_path_factory.mktemp("server")
    for name in ("custom_nodes", "input", "output", "temp", "user", "models"):
        (folder / name).mkdir()
    try:
        (folder / "custom_nodes" / "lipsync").symlink_to(ROOT, target_is_directory=True)
    except OSError as error:
        pytest.skip(f"the pack cannot be linked into ComfyUI here: {error}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [python, "main.py", "--cpu", "--disable-auto-launch", "--listen", "127.0.0.1"]
    command += ["--port", str(port), "--base-directory", str(folder)]
    command += ["--database-url", f"sqlite:///{folder / 'user' / 'test.db'}"]
    command += shlex.split(os.environ.get("COMFYUI_ARGS", ""))
    environment = {
        **os.environ,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "LIPSYNC_CACHE": str(folder / "tracks"),
    }
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    running = Server(folder, process, f"http://127.0.0.1:{port}")
    try:
        end = time.monotonic() + 180
        while True:
            assert process.poll() is None, f"ComfyUI ended at start\n{running.log()}"
            assert time.monotonic() < end, f"ComfyUI does not answer\n{running.log()}"
            try:
                running.call("/system_stats")
                break
            except OSError:
                time.sleep(0.3)
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(15)
