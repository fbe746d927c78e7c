"""What the registry looks at: dependencies, process calls, script names."""

import ast
import json
import os
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


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def in_english(node):
    """What the schema of a node says, in the form of ``nodeDefs.json``."""
    schema = node.GET_SCHEMA()
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {
            item.id: {"name": item.id, "tooltip": item.tooltip} for item in schema.inputs or []
        },
        "outputs": {
            str(number): {"name": item.display_name, "tooltip": item.tooltip}
            for number, item in enumerate(schema.outputs or [])
        },
    }


def test_english_is_what_the_schemas_say(nodes):
    """``WRITE_LOCALES=1`` writes ``locales/en/nodeDefs.json`` anew, in place of comparing."""
    path = ROOT / "locales" / "en" / "nodeDefs.json"
    said = {node_id: in_english(node) for node_id, node in nodes.items()}
    if os.environ.get("WRITE_LOCALES"):
        path.write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read(path) == said, "run this test once with WRITE_LOCALES=1"


LANGUAGES = sorted(path.name for path in (ROOT / "locales").iterdir() if path.is_dir())


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_there_in_every_language(nodes, language):
    words = read(ROOT / "locales" / language / "nodeDefs.json")
    assert set(words) == set(nodes)
    for node_id, node in nodes.items():
        wanted, given = in_english(node), words[node_id]
        assert given["display_name"]
        assert given["description"]
        for part in ("inputs", "outputs"):
            assert set(given[part]) == set(wanted[part]), (node_id, part)
            for name, texts in given[part].items():
                assert texts["name"], (node_id, part, name)
                assert texts["tooltip"], (node_id, part, name)


@pytest.mark.parametrize("language", LANGUAGES)
def test_widgets_speak_every_language(language):
    said = {}
    for path in (ROOT / "web").glob("*.js"):
        text = path.read_text(encoding="utf-8")
        said |= dict(re.findall(r'say\(\s*"(\w+)",\s*"([^"]*)",?\s*\)', text))
    assert len(said) > 8
    words = read(ROOT / "locales" / language / "main.json")["lipsync"]
    assert set(words) == set(said)
    assert all(words.values())
    if language == "en":
        assert words == said
