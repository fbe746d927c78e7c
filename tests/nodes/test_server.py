"""The pack in a running ComfyUI: every node there, every API workflow run, one cancelled.

Needs ``COMFYUI_PATH`` (a checkout), and ``COMFYUI_PYTHON`` where this interpreter lacks ComfyUI's
requirements. A minute or two on two cores.
"""

import json
import re
import time
import wave
from pathlib import Path

import pytest

av = pytest.importorskip("av")

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / "workflows" / "api").glob("*.json"))
IDS = {
    found
    for path in (ROOT / "nodes").glob("*.py")
    for found in re.findall(r'node_id="(\w+)"', path.read_text(encoding="utf-8"))
}


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def videos(server, entry):
    """The files in the output folder that a run says it made."""
    listed = [
        item
        for output in entry["outputs"].values()
        for items in output.values()
        for item in items
        if isinstance(item, dict) and item.get("type") == "output"
    ]
    return [server.folder / "output" / item["subfolder"] / item["filename"] for item in listed]


def test_every_node_is_registered(server):
    described = server.call("/object_info")
    ours = {
        name for name, node in described.items() if node["python_module"] == "custom_nodes.lipsync"
    }
    assert len(IDS) > 10
    assert ours == IDS, server.log()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_runs(server, path):
    prompt = read(path)
    entry = server.wait(server.queue(prompt))
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"]
    savers = [node for node in prompt.values() if node["class_type"] == "LipSyncSaveDub"]
    made = videos(server, entry)
    assert len(made) == len(savers)
    for video in made:
        with av.open(str(video)) as container:
            frames = sum(1 for _ in container.decode(video=0))
            assert frames > 25
            assert container.streams.audio
            assert "LipSync" in container.metadata.get("comment", "")


def long_dub(server, seconds=150):
    """The one-node dub with a voice so long that it is surely still running when it is stopped."""
    voice = server.folder / "input" / "long.wav"
    if not voice.exists():
        with wave.open(str(voice), "wb") as sound:
            sound.setparams((1, 2, 16000, 0, "NONE", ""))
            beat = b"".join(
                (6000 * (-1) ** (i // 60)).to_bytes(2, "little", signed=True) for i in range(8000)
            )
            sound.writeframes((beat + bytes(16000)) * seconds)
    prompt = read(ROOT / "workflows" / "api" / "dub_a_video.json")
    for node in prompt.values():
        if node["class_type"] == "LipSyncLoadSample":
            node["inputs"]["sound"] = voice.name
        elif node["class_type"] == "LipSyncDubVideo":
            node["inputs"]["engine"] = "draft"
    return prompt


def test_cancel_stops_and_leaves_nothing(server):
    short = read(ROOT / "workflows" / "api" / "dub_a_video.json")
    server.wait(server.queue(short))
    before = server.files()
    prompt_id = server.queue(long_dub(server))
    end = time.monotonic() + 90
    # Interrupted while it writes: its unfinished video lies in the temp folder by then.
    while not any(path.is_file() and path.suffix == ".mp4" for path in server.files() - before):
        assert not server.call(f"/history/{prompt_id}"), "ended before it could be cancelled"
        assert time.monotonic() < end, server.log()
        time.sleep(0.1)
    asked = time.monotonic()
    server.call("/interrupt", {})
    entry = server.wait(prompt_id, 30)
    took = time.monotonic() - asked
    events = [name for name, _ in entry["status"]["messages"]]
    assert "execution_interrupted" in events, entry["status"]
    assert took < 5, f"{took:.1f} s until it stopped"
    assert server.files() == before
    again = server.wait(server.queue(short))
    assert again["status"]["status_str"] == "success", again["status"]["messages"]
