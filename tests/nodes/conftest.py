"""The pack as ComfyUI loads it: under a made-up name, with the real API or a small stand-in for it.

``COMFYUI_PATH`` names a checkout of ComfyUI to use in place of the stand-in; everything here then
runs a second time against the real thing, so that the two cannot drift apart.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from pathlib import Path

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
