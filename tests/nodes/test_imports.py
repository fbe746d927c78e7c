"""Who knows whom: the core no ComfyUI, the pack no torch-heavy module before it runs."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAKES = Path(__file__).parent / "fakes"


def fresh(code, *paths):
    """What ``code`` prints in a process of its own."""
    path = "; ".join(f"sys.path.insert(0, {str(p)!r})" for p in paths)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {path}\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_core_knows_no_comfyui():
    code = """
import importlib, pkgutil, lipsync_core
for module in pkgutil.walk_packages(lipsync_core.__path__, "lipsync_core."):
    if module.name.rpartition(".")[2] == "__main__":
        continue
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        if error.name and error.name.split(".")[0] in ("comfy", "comfy_api", "folder_paths", "nodes"):
            raise
names = {name.split(".")[0] for name in sys.modules}
print(*sorted(names & {"comfy", "comfy_api", "folder_paths", "nodes", "comfy_execution"}))
"""
    assert fresh(code, ROOT) == []


def test_pack_loads_light():
    """ComfyUI has torch already; everything else that is heavy waits for the first run."""
    pytest.importorskip("torch")
    code = f"""
import comfy_api.v0_0_2, folder_paths, torch, asyncio, importlib.util
for name in ("input", "output", "temp"):
    getattr(folder_paths, f"set_{{name}}_directory")({str(FAKES)!r})
folder_paths.models_dir = {str(FAKES)!r}
before = set(sys.modules)
spec = importlib.util.spec_from_file_location(
    "p", {str(ROOT / "__init__.py")!r}, submodule_search_locations=[{str(ROOT)!r}])
module = importlib.util.module_from_spec(spec)
sys.modules["p"] = module
spec.loader.exec_module(module)
for node in asyncio.run(asyncio.run(module.comfy_entrypoint()).get_node_list()):
    node.GET_SCHEMA()
heavy = {{"cv2", "av", "skimage", "scipy", "diffusers", "transformers", "librosa", "safetensors"}}
print(*sorted({{name.split(".")[0] for name in set(sys.modules) - before}} & heavy))
"""
    assert fresh(code, FAKES) == []


def test_door_is_six_lines():
    lines = (ROOT / "__init__.py").read_text(encoding="utf-8").strip().splitlines()
    assert len(lines) == 6
    assert "NODE_CLASS_MAPPINGS" not in "".join(lines)
