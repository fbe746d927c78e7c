"""Every node: documented, with the core's words and defaults."""

from pathlib import Path
from typing import get_args

import pytest

ROOT = Path(__file__).parents[2]
IDS = [
    "LipSyncLoadSample",
    "LipSyncLoadAudio",
    "LipSyncDubVideo",
    "LipSyncMatchLength",
    "LipSyncHearVoice",
    "LipSyncAlignFaces",
    "LipSyncLoadModel",
    "LipSyncSetMotion",
    "LipSyncSampleMouths",
    "LipSyncPasteFaces",
    "LipSyncSaveDub",
    "LipSyncScoreSync",
    "LipSyncFixOffset",
    "LipSyncDownloadModel",
    "LipSyncCheckSystem",
    "LipSyncTrainRecipe",
]
DRAWN = ("LIPSYNC_REPORT", "LIPSYNC_WAVE", "LIPSYNC_COMPARE")


def test_ids_never_change(nodes):
    assert list(nodes) == IDS


@pytest.mark.parametrize("node_id", IDS)
def test_texts(nodes, node_id):
    schema = nodes[node_id].GET_SCHEMA()
    assert schema.display_name
    assert schema.category.startswith("LipSync")
    assert len(schema.description) > 40
    for item in [*(schema.inputs or []), *(schema.outputs or [])]:
        assert item.tooltip, f"{node_id}: {item.id or item.display_name} has no tooltip"
    for item in schema.outputs or []:
        assert item.display_name, f"{node_id}: an output has no name"


@pytest.mark.parametrize("node_id", IDS)
def test_help_page(nodes, node_id):
    schema = nodes[node_id].GET_SCHEMA()
    page = (ROOT / "web" / "docs" / f"{node_id}.md").read_text(encoding="utf-8")
    for item in schema.inputs or []:
        if item.get_io_type() if hasattr(item, "get_io_type") else item.io_type:
            kind = item.get_io_type() if hasattr(item, "get_io_type") else item.io_type
            if kind not in DRAWN:
                assert f"| {item.id} |" in page, f"{node_id}.md does not explain {item.id}"
    for item in schema.outputs or []:
        assert f"| {item.display_name} |" in page
    picture = ROOT / "web" / "docs" / "images" / f"{node_id}.jpg"
    assert picture.stat().st_size > 2000


def test_search_aliases(pack, nodes, monkeypatch):
    """Where ComfyUI knows them, every node has some."""
    seen = {}
    bridge = pack.nodes.bridge

    def schema(**options):
        seen[options["node_id"]] = options
        return bridge.io.Schema(**bridge._fitting(bridge.io.Schema, options))

    for module in ("audio", "check", "dub", "faces", "models", "paste", "sample", "sampler"):
        monkeypatch.setattr(getattr(pack.nodes, module), "Schema", schema)
    for module in ("save", "score", "speech", "train"):
        monkeypatch.setattr(getattr(pack.nodes, module), "Schema", schema)
    for node in nodes.values():
        node.define_schema()
    assert list(seen) == IDS
    for node_id, options in seen.items():
        assert len(options["search_aliases"]) >= 4, node_id


def test_newer_words_are_dropped_not_refused(bridge):
    """A keyword that this ComfyUI does not know must not take the pack down."""
    made = bridge.Schema(node_id="X", display_name="X", description="x", from_the_future=1)
    assert made.node_id == "X"
    assert bridge.option(bridge.io.Int, "n", default=3, from_the_future=True).default == 3


def test_choices_are_the_core_s(pack):
    """The lists that schemas show without importing anything are those of the core."""
    from lipsync_pack.lipsync_core.engines import ENGINES
    from lipsync_pack.lipsync_core.engines.latentsync import LATENTSYNC
    from lipsync_pack.lipsync_core.engines.latentsync.presets import PRESETS
    from lipsync_pack.lipsync_core.faces.detect import DETECTORS
    from lipsync_pack.lipsync_core.scoring import sync
    from lipsync_pack.lipsync_core.scoring.engines import SCORERS

    choices = pack.nodes.choices
    known = [row.name for row in ENGINES]
    known += [row.name for row in LATENTSYNC if row.name not in known]
    assert sorted(choices.ENGINES) == sorted(known)
    assert list(choices.DETECTORS) == [row.name for row in DETECTORS]
    assert list(choices.SCORES) == ["auto", *(row.name for row in SCORERS)]
    assert get_args(sync.Protocol) == choices.PROTOCOLS
    assert list(choices.PRESETS) == ["auto", *(row.name for row in PRESETS)]


def test_defaults_are_the_core_s(pack, nodes):
    from lipsync_pack.lipsync_core.types import Settings

    settings = Settings()
    for node_id in ("LipSyncDubVideo", "LipSyncAlignFaces", "LipSyncSampleMouths"):
        for item in nodes[node_id].GET_SCHEMA().inputs:
            if item.id == "speaker":
                # Its word for nobody in particular: a list of choices cannot hold None.
                assert pack.nodes.bridge.speaker(item.default) is settings.speaker
            elif hasattr(settings, item.id) and item.id not in ("engine",):
                assert item.default == getattr(settings, item.id), (node_id, item.id)


def test_boxes_are_a_socket(nodes):
    """Newer pages draw fields for this type; left alone they would hide the real face."""
    item = next(i for i in nodes["LipSyncAlignFaces"].GET_SCHEMA().inputs if i.id == "boxes")
    assert item.extra_dict == {"forceInput": True}


def test_words_are_read_by_the_core(pack):
    from lipsync_pack.lipsync_core.faces.choose import parse

    for word in pack.nodes.choices.FACES:
        parse(word)
