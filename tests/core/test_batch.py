"""`lipsync batch`: on this machine, and over servers that speak as ComfyUI does."""

import csv
import email
import email.policy
import json
import sys
import threading
import urllib.parse
import uuid
import wave
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from skimage import data

from lipsync_core import batch, cli, dub
from lipsync_core.errors import SettingsError

SHIPPED = Path(__file__).parents[2] / "workflows" / "api"
LOCAL = {"engine": "draft", "detector": "cascade", "codec": "libx264", "crf": "0"}


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setenv("LIPSYNC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(batch.fleet, "POLL_SECONDS", 0.02)


@pytest.fixture
def folder(tmp_path):
    """A portrait and two voices."""
    picture = np.ascontiguousarray(data.astronaut()[:256, 96:352])
    cv2.imwrite(str(tmp_path / "face.png"), picture[..., ::-1])
    for name, pitch in (("a.wav", 120), ("b.wav", 180)):
        t = np.arange(9600) / 16000
        buzz = sum(np.sin(2 * np.pi * pitch * k * t) / k for k in range(1, 20))
        samples = 0.2 * buzz * np.clip(np.sin(2 * np.pi * 3 * t), 0, 1)
        with wave.open(str(tmp_path / name), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return tmp_path


def table(folder, rows, name="m.csv"):
    path = folder / name
    if name.endswith(".csv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            columns = list(dict.fromkeys(key for row in rows for key in row))
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def rows_of(*names, **choices):
    voices = ("a.wav", "b.wav")
    return [
        {"video": "face.png", "voice": voices[i % 2], "output": name, **choices}
        for i, name in enumerate(names)
    ]


def command(monkeypatch, capsys, *words):
    """``(exit code, standard output, standard error)``."""
    monkeypatch.setattr(sys, "argv", ["lipsync", "batch", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    told = capsys.readouterr()
    return stop.value.code, told.out, told.err


def planes(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]


def events(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("kind", ["m.csv", "m.jsonl"])
def test_rows_here_give_the_frames_of_a_dub_and_are_not_made_twice(
    folder, monkeypatch, capsys, kind
):
    manifest = table(folder, rows_of("one.mp4", "sub/two", **LOCAL), kind)
    words = (manifest, "--output-dir", folder / "out", "--json")
    code, told, _ = command(monkeypatch, capsys, *words)
    assert code == 0
    assert json.loads(told)["done"] == 2
    for voice, made in (("a.wav", "one.mp4"), ("b.wav", "sub/two.mp4")):
        alone = folder / f"alone_{voice}.mp4"
        dub(folder / "face.png", folder / voice, alone, **(LOCAL | {"crf": 0}))
        expected, found = planes(alone), planes(folder / "out" / made)
        assert len(expected) == len(found) == 15
        assert all(map(np.array_equal, expected, found))
    before = (folder / "out" / "one.mp4").stat().st_mtime_ns
    (folder / "out" / "sub" / "two.mp4").unlink()
    code, told, _ = command(monkeypatch, capsys, *words)
    answer = json.loads(told)
    assert (code, answer["skipped"], answer["done"]) == (0, 1, 1)
    assert (folder / "out" / "one.mp4").stat().st_mtime_ns == before
    kinds = [event["event"] for event in events(folder / "out" / batch.JOURNAL)]
    assert kinds == ["started", "saving", "done"] * 2 + ["skipped", "started", "saving", "done"]


def test_a_row_that_fails_here_does_not_stop_the_others(folder, monkeypatch, capsys):
    (folder / "broken.png").write_bytes(b"no picture")
    rows = rows_of("one.mp4", "two.mp4", **LOCAL)
    rows[0]["video"] = "broken.png"
    code, told, _ = command(monkeypatch, capsys, table(folder, rows), "--output-dir", folder / "o")
    assert code == 1
    assert "1 done, 0 skipped, 1 failed" in told
    assert sorted(path.name for path in (folder / "o").iterdir()) == [batch.JOURNAL, "two.mp4"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"video": "nobody.png"}, ["line 3", "video", "nobody.png", "does not exist"]),
        ({"voice": ""}, ["line 3", "no voice"]),
        ({"output": "ONE.mp4"}, ["lines 2 and 3", "both write"]),
        ({"output": "two.avi"}, ["must end in", ".mp4"]),
        ({"engin": "draft"}, ["'engin'", "did you mean 'engine'"]),
        ({"length": "long"}, ["line 3", "length", "bounce"]),
        ({"engine": "magic"}, ["line 3", "magic"]),
        ({"seed": "many"}, ["seed", "not a number"]),
        ({"Dub.engine": "draft"}, ["'Dub.engine'", "did you mean"]),
    ],
)
def test_a_bad_manifest_is_one_line_before_the_first_job(
    folder, monkeypatch, capsys, change, words
):
    rows = rows_of("one.mp4", "two.mp4", **LOCAL)
    rows[1] |= change
    code, _, error = command(
        monkeypatch, capsys, table(folder, rows), "--output-dir", folder / "out"
    )
    assert code == 2
    assert error.count("\n") == 1
    assert all(word in error for word in words), error
    assert not (folder / "out").exists()


def test_an_output_of_other_work_is_not_replaced(folder, monkeypatch, capsys):
    manifest = table(folder, rows_of("one.mp4", **LOCAL))
    (folder / "one.mp4").write_bytes(b"dear")
    words = (manifest, "--output-dir", folder)
    code, _, error = command(monkeypatch, capsys, *words)
    assert (code, error.count("\n")) == (2, 1)
    assert "exists already" in error
    assert (folder / "one.mp4").read_bytes() == b"dear"
    assert command(monkeypatch, capsys, *words, "--overwrite")[0] == 0
    assert len(planes(folder / "one.mp4")) == 15


def test_the_number_of_a_row_follows_its_content(folder):
    def number(**change):
        row = rows_of("one.mp4")[0] | change
        return batch.manifest.identity(batch.read(table(folder, [row]), folder / "o")[0], {})

    first = number()
    assert str(uuid.UUID(first)) == first == number()
    assert len({first, number(seed="1"), number(voice="b.wav"), number(output="x.mp4")}) == 4
    (folder / "a.wav").write_bytes((folder / "b.wav").read_bytes())
    assert number() != first


class Comfy:
    """A server with ComfyUI's endpoints and answers; what it runs ends when it is told to."""

    def __init__(self, port=0):
        self.inputs, self.outputs = {}, {}
        self.queue, self.history, self.taken = [], {}, []
        self.most, self.works, self.drop, self.fail = 0, True, 0, set()
        self.cut = self.asked = 0
        self.lock = threading.Lock()
        comfy = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *words):
                return None

            def do_HEAD(self):
                self.do_GET()

            def do_GET(self):
                comfy.get(self)

            def do_POST(self):
                comfy.post(self, self.rfile.read(int(self.headers["Content-Length"])))

        self.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.http.daemon_threads = True
        self.port = self.http.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self):
        self.http.shutdown()
        self.http.server_close()

    def answer(self, to, body, code=200, length=None):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        to.send_response(code)
        to.send_header("Content-Length", str(length or len(content)))
        to.end_headers()
        if to.command != "HEAD":
            to.wfile.write(content)

    def get(self, to):
        url = urllib.parse.urlsplit(to.path)
        with self.lock:
            if url.path == "/object_info":
                self.answer(to, NODES)
            elif url.path == "/queue":
                self.answer(to, {"queue_running": self.queue[:1], "queue_pending": self.queue[1:]})
                self.asked += 1
                if self.asked % 4 == 0:  # A prompt outlives some questions.
                    self.step()
            elif url.path.startswith("/history/"):
                number = url.path.rsplit("/", 1)[1]
                self.answer(to, {number: self.history[number]} if number in self.history else {})
            elif url.path == "/view":
                query = dict(urllib.parse.parse_qsl(url.query))
                store = self.inputs if query["type"] == "input" else self.outputs
                content = store.get(query["filename"])
                if content is None:
                    self.answer(to, b"", 404)
                elif self.cut and query["type"] == "output":
                    self.cut -= 1
                    to.close_connection = True
                    self.answer(to, content[:5], length=len(content))
                else:
                    self.answer(to, content)

    def post(self, to, body):
        with self.lock:
            if to.path == "/upload/image":
                head = f"Content-Type: {to.headers['Content-Type']}\r\n\r\n".encode()
                parts = email.message_from_bytes(head + body, policy=email.policy.HTTP)
                (file,) = [p for p in parts.iter_parts() if p.get_filename()]
                self.inputs[file.get_filename()] = file.get_payload(decode=True)
                self.answer(to, {"name": file.get_filename(), "subfolder": "", "type": "input"})
                return
            asked = json.loads(body)
            number, graph = asked["prompt_id"], asked["prompt"]
            self.taken.append(number)
            self.queue.append([len(self.taken), number, graph, {}, ["4"]])
            self.most = max(self.most, len(self.queue))
            if self.drop:
                self.drop -= 1  # Taken, but the answer never arrives.
                to.close_connection = True
                return
            self.answer(to, {"prompt_id": number, "number": 1, "node_errors": {}})

    def step(self):
        """Ends the running prompt."""
        if not self.queue or not self.works:
            return
        _, number, graph, *_ = self.queue.pop(0)
        prefix = graph["4"]["inputs"]["filename_prefix"]
        if any(word in prefix for word in self.fail):
            facts = {"node_type": "LipSyncDubVideo", "exception_message": "no face\nhere"}
            status = {"status_str": "error", "completed": False}
            status["messages"] = [["execution_start", {}], ["execution_error", facts]]
            self.history[number] = {"outputs": {}, "status": status}
            return
        name = f"{prefix.rsplit('/', 1)[1]}_00001_.mp4"
        sound = self.inputs[graph["2"]["inputs"]["sound"]]
        self.outputs[name] = b"dubbed " + graph["3"]["inputs"]["engine"].encode() + sound
        shown = {"filename": name, "subfolder": "lipsync_batch", "type": "output"}
        before = {"filename": "x.mp4", "subfolder": "", "type": "temp"}
        self.history[number] = {
            "outputs": {"4": {"lipsync_before": [before], "images": [shown], "animated": [True]}},
            "status": {"status_str": "success", "completed": True, "messages": []},
        }


NODES = {
    "LipSyncLoadSample": {
        "input": {
            "required": {
                "clip": ["COMBO", {"options": ["bundled portrait"]}],
                "sound": ["COMBO", {"options": ["bundled sentence"]}],
            }
        }
    },
    "LipSyncDubVideo": {
        "input": {
            "required": {
                "clip": ["VIDEO,IMAGE", {}],
                "engine": ["COMBO", {"options": ["auto", "draft"]}],
                "seed": ["INT", {"min": 0, "max": 99}],
            },
            "optional": {
                "strength": ["FLOAT", {"min": 0.0, "max": 3.0}],
                "container": ["COMBO", {"options": ["mp4", "webm"]}],
                "tag": ["BOOLEAN", {}],
            },
        }
    },
    "LipSyncSaveDub": {
        "input": {"required": {"video": ["VIDEO,IMAGE", {}], "filename_prefix": ["STRING", {}]}}
    },
}


@pytest.fixture
def comfy():
    server = Comfy()
    yield server
    server.stop()


def test_rows_over_two_servers(folder, monkeypatch, capsys, comfy):
    other = Comfy()
    names = [f"{number}.mp4" for number in range(8)]
    manifest = table(folder, rows_of(*names, **{"Dub.engine": "draft", "seed": "7"}))
    words = (manifest, "--server", comfy.url, "--server", other.url, "--output-dir", folder / "o")
    try:
        code, told, _ = command(monkeypatch, capsys, *words, "--json")
    finally:
        other.stop()
    assert (code, json.loads(told)["done"]) == (0, 8)
    taken = [*comfy.taken, *other.taken]
    assert len(taken) == len(set(taken)) == 8
    assert comfy.taken
    assert other.taken
    assert max(comfy.most, other.most) == batch.fleet.IN_FLIGHT
    for index, name in enumerate(names):
        voice = (folder / ("a.wav", "b.wav")[index % 2]).read_bytes()
        assert (folder / "o" / name).read_bytes() == b"dubbed draft" + voice
    assert not list((folder / "o").glob(".*"))
    assert (folder / "face.png").read_bytes() in comfy.inputs.values()


def test_a_lost_answer_never_doubles_a_job(folder, monkeypatch, capsys, comfy):
    comfy.drop, comfy.cut = 2, 1
    manifest = table(folder, rows_of("one.mp4", "two.mp4", "three.mp4"))
    code, told, _ = command(
        monkeypatch, capsys, manifest, "--server", comfy.url, "--output-dir", folder / "o"
    )
    assert (comfy.drop, comfy.cut) == (0, 0)
    assert code == 0, told
    assert len(comfy.taken) == len(set(comfy.taken)) == 3
    assert (folder / "o" / "one.mp4").read_bytes().startswith(b"dubbed auto")


def test_a_client_that_crashed_goes_on(folder, monkeypatch, capsys, comfy):
    manifest = table(folder, rows_of("one.mp4", "two.mp4", "three.mp4"))
    words = (manifest, "--server", comfy.url, "--output-dir", folder / "o", "--json")
    comfy.works = False

    def crash(seconds):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(batch.fleet.time, "sleep", crash)
        assert command(monkeypatch, capsys, *words)[0] == 130
    assert len(comfy.taken) == 2
    journal = folder / "o" / batch.JOURNAL
    with journal.open("a") as file:
        file.write('{"event": "savi')  # What a power cut leaves.
    comfy.works = True
    code, told, _ = command(monkeypatch, capsys, *words)
    assert (code, json.loads(told)["done"]) == (0, 3)
    assert len(comfy.taken) == len(set(comfy.taken)) == 3
    code, told, _ = command(monkeypatch, capsys, *words)
    assert (code, json.loads(told)["skipped"]) == (0, 3)
    assert len(comfy.taken) == 3
    # A result that was deleted is fetched again, not made again.
    (folder / "o" / "two.mp4").unlink()
    code, told, _ = command(monkeypatch, capsys, *words)
    assert (code, json.loads(told)["done"], len(comfy.taken)) == (0, 1, 3)
    # Unless the server lost it too.
    (folder / "o" / "two.mp4").unlink()
    comfy.outputs.clear()
    code, told, _ = command(monkeypatch, capsys, *words)
    assert (code, json.loads(told)["done"], len(set(comfy.taken))) == (0, 1, 4)
    assert (folder / "o" / "two.mp4").is_file()


def test_a_server_that_crashed_gets_its_prompts_again(folder, monkeypatch, capsys):
    first = Comfy()
    first.works = False
    manifest = table(folder, rows_of("one.mp4", "two.mp4", "three.mp4"))
    born, sleep, later = [], batch.fleet.time.sleep, []

    def meanwhile(seconds):
        sleep(seconds)
        if not later and len(first.taken) == 2:
            first.stop()
        later.append(seconds)
        if len(later) == 5:
            born.append(Comfy(first.port))

    monkeypatch.setattr(batch.fleet.time, "sleep", meanwhile)
    try:
        code, told, _ = command(
            monkeypatch, capsys, manifest, "--server", first.url, "--output-dir", folder / "o"
        )
    finally:
        born[0].stop()
    assert code == 0, told
    assert born[0].taken[:2] == first.taken
    assert len(born[0].taken) == len(set(born[0].taken)) == 3


def test_rows_of_a_server_that_stays_away_go_to_the_others(folder, monkeypatch, capsys, comfy):
    other = Comfy()
    other.works = False
    monkeypatch.setattr(batch.fleet, "PATIENCE_SECONDS", 0.05)
    manifest = table(folder, rows_of(*(f"{number}.mp4" for number in range(6))))
    sleep = batch.fleet.time.sleep

    def meanwhile(seconds):
        sleep(seconds)
        if other.taken and not other.history.get("stopped"):
            other.history["stopped"] = True
            other.stop()

    monkeypatch.setattr(batch.fleet.time, "sleep", meanwhile)
    words = (manifest, "--server", comfy.url, "--server", other.url, "--output-dir", folder / "o")
    code, told, _ = command(monkeypatch, capsys, *words)
    assert (code, len(set(comfy.taken)), len(comfy.taken)) == (0, 6, 6), told


def test_a_failure_is_told_and_tried_afresh_by_the_next_run(folder, monkeypatch, capsys, comfy):
    comfy.fail = {"two"}
    manifest = table(folder, rows_of("one.mp4", "two.mp4"))
    words = (manifest, "--server", comfy.url, "--output-dir", folder / "o")
    code, told, _ = command(monkeypatch, capsys, *words)
    assert code == 1
    assert "LipSyncDubVideo: no face here" in told
    comfy.fail = set()
    code, told, _ = command(monkeypatch, capsys, *words)
    assert code == 0, told
    assert len(comfy.taken) == len(set(comfy.taken)) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"Dub.engin": "draft"}, ["did you mean 'Dub.engine'"]),
        ({"Dubb.engine": "draft"}, ["did you mean 'Dub.engine'"]),
        ({"Dub.engine": "magic"}, ["'magic'", "auto, draft"]),
        ({"Dub.seed": "100"}, ["between 0 and 99"]),
        ({"Dub.clip": "x"}, ["wire"]),
        ({"output": "two.mkv"}, ["'mkv'", "mp4, webm"]),
    ],
)
def test_what_a_server_would_refuse_is_one_line_before_the_first_prompt(
    folder, monkeypatch, capsys, comfy, change, words
):
    rows = rows_of("one.mp4", "two.mp4")
    rows[1] |= change
    code, _, error = command(
        monkeypatch, capsys, table(folder, rows), "--server", comfy.url, "--output-dir", folder
    )
    assert (code, error.count("\n")) == (2, 1)
    assert "line 3" in error
    assert all(word in error for word in words), error
    assert not comfy.taken
    assert not comfy.inputs


@pytest.mark.parametrize("url", ["ftp://a", "http://", "a:99999", "http://[1"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(SettingsError, match="no server"):
        batch.server.Server(url)


def test_a_missing_node_and_a_silent_server_are_one_line(folder, monkeypatch, capsys, comfy):
    manifest = table(folder, rows_of("one.mp4"))
    words = (manifest, "--output-dir", folder, "--server", comfy.url, "--workflow")
    code, _, error = command(monkeypatch, capsys, *words, SHIPPED / "score_a_dub.json")
    assert (code, error.count("\n")) == (2, 1)
    assert "LipSyncScoreSync" in error
    comfy.stop()
    code, _, error = command(monkeypatch, capsys, *words, SHIPPED / "dub_a_video.json")
    assert (code, error.count("\n")) == (2, 1)
    assert "does not answer" in error


@pytest.mark.parametrize(
    ("name", "video", "voice"),
    [
        ("dub_a_video", "Clip and voice.clip", "Clip and voice.sound"),
        ("portrait_to_talking_video", "Portrait.clip", "Voice.file"),
        ("dub_every_stage", "Clip and voice.clip", "Clip and voice.sound"),
    ],
)
def test_where_shipped_workflows_take_video_and_voice(name, video, voice):
    flow = batch.Workflow(SHIPPED / f"{name}.json", video_to="", voice_to="", result="")
    assert ".".join((flow.title(flow.video[0]), flow.video[1])) == video
    assert ".".join((flow.title(flow.voice[0]), flow.voice[1])) == voice


def test_a_workflow_with_two_results_asks_which():
    with pytest.raises(SettingsError, match="--result"):
        batch.Workflow(SHIPPED / "draft_next_to_full.json", video_to="", voice_to="", result="")
    flow = batch.Workflow(
        SHIPPED / "draft_next_to_full.json", video_to="", voice_to="", result="Full result"
    )
    assert flow.title(flow.result) == "Full result"
