"""What the registry looks at: dependencies, process calls, script names."""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = [
    ROOT / "__init__.py",
    *(ROOT / "nodes").rglob("*.py"),
    *(ROOT / "lipsync_core").rglob("*.py"),
]


def test_requirements_leave_comfyui_alone():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = {
        re.split(r"[<>=~!\[; ]", line)[0].lower() for line in lines if line[:1] not in ("#", "")
    }
    theirs = {
        "torch",
        "torchvision",
        "torchaudio",
        "numpy",
        "av",
        "transformers",
        "pillow",
        "scipy",
    }
    assert not names & theirs
    assert all("==" not in line for line in lines)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_shipped_code_starts_nothing(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & {"subprocess"}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is None or node.module.split(".")[0] != "subprocess"
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in ("eval", "exec", "os.system", "os.popen"), f"line {node.lineno}"


def test_page_scripts_patch_nobody():
    for path in (ROOT / "web").glob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert ".prototype" not in text, path.name
        assert not re.search(r"\b(window|globalThis)\.\w+\s*=[^=]", text), path.name


def test_locales_name_what_exists(nodes):
    for path in (ROOT / "locales").glob("*/nodeDefs.json"):
        for node_id, words in json.loads(path.read_text(encoding="utf-8")).items():
            schema = nodes[node_id].GET_SCHEMA()
            ids = {item.id for item in schema.inputs or []}
            assert set(words.get("inputs", {})) <= ids, f"{path.parent.name}: {node_id}"
            assert len(words.get("outputs", {})) <= len(schema.outputs or [])
