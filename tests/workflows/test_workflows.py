"""The templates: complete, with a picture, and equal to their API twins."""

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
VIRTUAL = {"MarkdownNote", "Note", "Reroute"}
BYPASSED, MUTED = 4, 2


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_all_of_them_are_here():
    wanted = {
        "dub_a_video",
        "dub_every_stage",
        "portrait_to_talking_video",
        "several_languages",
        "draft_next_to_full",
        "choose_one_of_two_people",
        "wan_image_to_video_then_dub",
        "fix_sound_offset",
    }
    assert wanted <= set(NAMES)
    assert sorted(path.stem for path in (FOLDER / "api").glob("*.json")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_thumbnail(name):
    data = (FOLDER / f"{name}.jpg").read_bytes()
    assert data[:2] == b"\xff\xd8"
    assert 3_000 < len(data) < 400_000


def source(graph, link_id):
    """The node and slot that a link really comes from, through bypassed nodes; None if from nowhere."""
    nodes = {node["id"]: node for node in graph["nodes"]}
    link = next(link for link in graph["links"] if link[0] == link_id)
    _, origin, slot, _, _, _ = link
    node = nodes[origin]
    if node.get("mode") == MUTED:
        return None
    if node.get("mode") != BYPASSED:
        return [str(origin), slot]
    kind = node["outputs"][slot]["type"]
    for entry in node.get("inputs", []):
        if entry["type"] == kind:
            return None if entry.get("link") is None else source(graph, entry["link"])
    return None


@pytest.mark.parametrize("name", NAMES)
def test_api_twin_is_equal(name):
    graph, api = read(FOLDER / f"{name}.json"), read(FOLDER / "api" / f"{name}.json")
    alive = {
        str(node["id"]): node
        for node in graph["nodes"]
        if node["type"] not in VIRTUAL and node.get("mode", 0) not in (MUTED, BYPASSED)
    }
    assert set(api) == set(alive)
    for number, node in alive.items():
        twin = api[number]
        assert twin["class_type"] == node["type"]
        assert twin["_meta"]["title"] == node.get("title", node["type"])
        links = {
            entry["name"]: source(graph, entry["link"])
            for entry in node.get("inputs", [])
            if entry.get("link") is not None
        }
        sent = {key: value for key, value in twin["inputs"].items() if isinstance(value, list)}
        assert sent == {key: value for key, value in links.items() if value is not None}
        values = [v for v in twin["inputs"].values() if not isinstance(v, list)]
        held = list(node.get("widgets_values") or [])
        for value in values:
            assert value in held, f"#{number} {node['type']}: {value!r} is not in the template"
            held.remove(value)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_missing_when_it_opens(name):
    """Nodes that are switched on name no file of their own: the bundled sample is always there."""
    for node in read(FOLDER / "api" / f"{name}.json").values():
        assert node["class_type"] not in ("LoadImage", "LoadAudio", "LoadVideo", "UNETLoader")
        if node["class_type"] in ("LipSyncLoadSample", "LipSyncLoadAudio"):
            named = [v for k, v in node["inputs"].items() if k in ("clip", "sound", "file")]
            assert all(value.startswith("bundled") for value in named)


@pytest.mark.parametrize("name", NAMES)
def test_says_what_it_is_for(name):
    notes = [
        node for node in read(FOLDER / f"{name}.json")["nodes"] if node["type"] == "MarkdownNote"
    ]
    assert notes
    assert notes[0]["widgets_values"][0].startswith("## ")
