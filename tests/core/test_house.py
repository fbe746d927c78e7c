"""What holds for the house as a whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def fresh(code: str) -> str:
    """Runs ``code`` in a new interpreter and returns what it prints."""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("module", ["lipsync_core", "lipsync_core.cli", "lipsync_core.dub"])
def test_importing_the_core_brings_neither_comfyui_nor_torch(module):
    loaded = set(fresh(f"import sys, {module}; print(*sys.modules)").split())
    foreign = {"comfy", "comfy_api", "folder_paths", "nodes", "server", "torch", "trainer", "av"}
    assert not foreign & {name.split(".")[0] for name in loaded}


def test_the_draft_path_runs_where_torch_is_absent():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import lipsync_core.engines as engines, lipsync_core.faces.track\n"
        "import lipsync_core.media.reader, lipsync_core.media.writer\n"
        "import lipsync_core.engines.draft.speech, lipsync_core.engines.draft.warp\n"
        "print(engines.pick('draft').name)"
    )
    assert fresh(code) == "draft"


def test_a_name_that_standard_output_cannot_say_ends_nothing(tmp_path):
    words = [sys.executable, "-m", "lipsync_core", "models", "where", "syncnet-v2"]
    folder = {"LIPSYNC_MODELS": str(tmp_path / "\u043a\u0438\u043d\u043e")}
    result = subprocess.run(
        words,
        cwd=ROOT,
        env={**os.environ, **folder, "PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert rb"\u043a\u0438\u043d\u043e" in result.stdout


def test_shipped_code_starts_no_process():
    shipped = [
        path
        for folder in ("lipsync_core", "nodes", "trainer")
        for path in (ROOT / folder).rglob("*.py")
    ]
    assert len(shipped) > 20
    for path in shipped:
        text = path.read_text(encoding="utf-8")
        for word in ("import subprocess", "os.system(", "os.popen(", "shell=True"):
            assert word not in text, f"{path.relative_to(ROOT)} holds {word!r}"


def test_every_default_of_the_command_line_is_the_one_in_settings():
    import inspect
    from dataclasses import fields

    from lipsync_core import cli
    from lipsync_core.types import Settings

    parameters = inspect.signature(cli.dub).parameters
    for field in fields(Settings):
        if field.name != "cache":
            assert parameters[field.name].default == field.default
