"""The templates in ComfyUI's page, in the classic and the Nodes 2.0 renderer.

Needs the server of ``test_server.py``, Chromium, node, and ``PLAYWRIGHT_CORE``: a folder in which
``npm install playwright-core`` was run. ``WRITE_API_WORKFLOWS=1`` writes ``workflows/api/`` anew from what the
page sends for the templates, in place of comparing the two.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = "dub_a_video"


@pytest.fixture(scope="module")
def tools():
    """Paths of node, Chromium and the npm folder."""
    node = shutil.which("node")
    browser = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    npm = os.environ.get("PLAYWRIGHT_CORE")
    if not node or not browser:
        pytest.skip("node and chromium are needed to open the page")
    if not npm or not (Path(npm) / "node_modules" / "playwright-core").is_dir():
        pytest.skip("PLAYWRIGHT_CORE names no folder with node_modules/playwright-core")
    return node, browser, npm


@pytest.fixture(scope="module", params=["classic", "vue"])
def seen(request, tools, server):
    """What the page showed in one renderer."""
    node, browser, npm = tools
    script = Path(__file__).with_name("page.mjs")
    done = subprocess.run(
        [node, script, server.url, "lipsync", ROOT / "workflows", request.param, RUN, browser, npm],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, f"{done.stderr[-2000:]}\n{server.log(1000)}"
    return json.loads(done.stdout)


def test_every_template_opens_whole(seen):
    names = {path.stem for path in (ROOT / "workflows").glob("*.json")}
    assert {template["name"] for template in seen["templates"]} == names
    for template in seen["templates"]:
        assert template["listed"], template
        assert template["nodes"] == template["wanted"], template
        assert template["missing"] == [], template
        assert template["dialogs"] == [], template
        # Only Nodes 2.0 draws nodes as elements of the page.
        assert (template["drawn"] > 0) == (seen["renderer"] == "vue"), template


def test_api_twins_are_what_the_page_sends(seen):
    """``workflows/api/`` is generated; with ``WRITE_API_WORKFLOWS`` set, here."""
    if seen["renderer"] != "classic":
        pytest.skip("what is sent does not depend on how it is drawn")
    for template in seen["templates"]:
        twin = ROOT / "workflows" / "api" / f"{template['name']}.json"
        if os.environ.get("WRITE_API_WORKFLOWS"):
            text = json.dumps(template["prompt"], indent=2, ensure_ascii=False) + "\n"
            twin.write_text(text, encoding="utf-8")
        assert json.loads(twin.read_text(encoding="utf-8")) == template["prompt"], twin.name


def test_no_console_error_of_ours(seen):
    assert seen["errors"] == []


def test_run_shows_a_video_that_plays(seen):
    assert seen["run"] == "success"
    if seen["renderer"] == "vue" and seen["frontend"].startswith("1.27."):
        pytest.skip("Nodes 2.0 of frontend 1.27 is a preview without a video player")
    playing = [video for video in seen["videos"] if video["played"] > 0.1 and video["width"]]
    assert playing, seen["videos"]
    assert all(video["refused"] is None for video in playing)
    assert playing[0]["seconds"] > 5
