"""What goes wrong in the middle of a night, made to happen."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from lipsync_core.media.reader import Reader
from lipsync_core.preprocess.manifest import NAME, Manifest
from lipsync_core.preprocess.runner import run
from lipsync_core.preprocess.setup import Setup

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals and limits")
psutil = pytest.importorskip("psutil")
PATIENCE = 120
ROOT = Path(__file__).resolve().parents[3]


def wait_for(condition, process):
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if condition():
            return True
        if process.poll() is not None:
            return condition()
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"nothing came: {process.communicate()}")


def workers(process):
    try:
        children = psutil.Process(process.pid).children(recursive=True)
        return [one for one in children if "spawn_main" in " ".join(one.cmdline())]
    except psutil.NoSuchProcess:
        return []


def written(output):
    return sorted((output / "clips").rglob("*.mp4")) if (output / "clips").exists() else []


def finish(process):
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def test_killed_in_the_middle_it_goes_on_where_it_was(maker, command, rows, tmp_path):
    raw, output = tmp_path / "raw", tmp_path / "data"
    raw.mkdir()
    # One long file of six shots: what is finished of a file counts, not only whole files.
    maker.clip(raw / "long.mp4", ([0] * 55 + [1] * 55) * 3)
    process = command(raw, output)
    assert wait_for(lambda: len(written(output)) >= 3, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    stamps = {path: path.stat().st_mtime_ns for path in written(output)}
    assert 3 <= len(stamps) < 6
    known = {one["sample"]: one["finished"] for one in rows(output) if one["step"] == "write"}
    assert len(known) >= len(stamps) - 1
    code, out, err = finish(command(raw, output))
    assert code == 0, err
    assert "6 clips" in out
    repeated = [path for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp]
    # At most the one that was in flight.
    assert len(repeated) <= 1
    after = {one["sample"]: one["finished"] for one in rows(output) if one["step"] == "write"}
    assert {key: after[key] for key in known} == known
    assert all(sum(1 for _ in Reader(path).frames()) == 55 for path in written(output))
    assert not (output / ".work").exists()


def test_a_dead_worker_is_said_and_replaced(maker, command, tmp_path):
    raw, output = tmp_path / "raw", tmp_path / "data"
    raw.mkdir()
    maker.clip(raw / "a.mp4", [0] * 55 + [1] * 55)
    process = command(raw, output)
    assert wait_for(lambda: written(output), process)
    (worker,) = workers(process)
    worker.send_signal(signal.SIGKILL)
    code, out, err = finish(process)
    assert code == 0
    assert "2 clips" in out
    assert "a worker died over a.mp4 (signal 9 (SIGKILL)); another one tries again" in err


def test_a_file_that_kills_its_workers_is_left_out(maker, command, tmp_path):
    raw, output = tmp_path / "raw", tmp_path / "data"
    raw.mkdir()
    maker.clip(raw / "bad.mp4", [0] * 55 + [1] * 55 + [0] * 300)
    process = command(raw, output)
    assert wait_for(lambda: written(output), process)
    killed = set()

    def shoot():
        for worker in workers(process):
            # The second one only once it is at work on the file.
            if worker.pid not in killed and len(written(output)) > len(killed):
                worker.kill()
                killed.add(worker.pid)
        return len(killed) == 2

    assert wait_for(shoot, process)
    code, out, err = finish(process)
    assert code == 0, err
    assert "1 failed" in out
    assert "is left out: 2 workers died over it" in err
    with Manifest(output / NAME) as manifest:
        (source,) = manifest.sources()
    assert source["state"] == "failed"
    # What it gave until then is not lost.
    assert written(output)
    code, out, _ = finish(command(raw, output, "--retry-failed"))
    assert code == 0
    assert "1 kept" in out


def test_no_space_is_said_and_the_rest_follows_later(maker, command, tmp_path):
    raw, output = tmp_path / "raw", tmp_path / "data"
    raw.mkdir()
    maker.clip(raw / "a.mp4", [0] * 55)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (110_000, 110_000))"
    code, _, err = finish(command(raw, output, before=limit))
    assert code == 2
    assert "cannot take more" in err.strip().splitlines()[-1]
    assert "run the same command again" in err
    assert not written(output)
    assert not list(output.rglob("*.part*"))
    code, out, err = finish(command(raw, output))
    assert code == 0, err
    assert "1 clips" in out


def test_a_folder_that_cannot_be_read_is_said(settings, caplog, monkeypatch):
    config = settings()
    # Whatever is loaded at first use is loaded while we may still read everything.
    Setup(config, Path()).detector.detect(np.zeros((64, 64, 3), np.uint8))
    me = os.geteuid()
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        for name in ("XDG_CACHE_HOME", "HF_HOME", "LIPSYNC_MODELS"):
            monkeypatch.setenv(name, place)
        shut = base / "raw" / "shut"
        shut.mkdir(parents=True)
        shut.chmod(0)
        if me == 0:
            # Root may read everything; nobody may not.
            base.chmod(0o777)
            os.seteuid(65534)
        try:
            done = run(base / "raw", base / "data", config)
        finally:
            os.seteuid(me)
            shut.chmod(0o700)
    assert done.by_state == {"unreadable": 1}
    assert "the folder cannot be read" in caplog.text


def test_two_runs_do_not_share_an_output(maker, command, tmp_path):
    raw, output = tmp_path / "raw", tmp_path / "data"
    raw.mkdir()
    maker.clip(raw / "a.mp4", [0] * 200)
    first = command(raw, output)
    assert wait_for(lambda: workers(first), first)
    code, _, err = finish(command(raw, output))
    assert code == 2
    assert "another run is at work" in err
    assert finish(first)[0] == 0


def test_progress_says_how_busy_the_machine_is(monkeypatch):
    from lipsync_core.preprocess import cli, gpus
    from lipsync_core.preprocess.runner import Pace

    pace = Pace(files=4, files_done=1, bytes=400, bytes_done=100, clips=6, kept=5, cpu=30.0)
    pace.began -= 20
    monkeypatch.setattr(gpus, "_library", lambda: None)
    assert gpus.busy() is None
    told = cli._rate(pace)
    assert told.startswith("5 of 6 clips kept, 18.0 clips/min, 0:01:00 left, 1.5 cores busy")
    assert "GPU" not in told

    class Driver:
        """The four calls that are made, as NVML documents them, for two GPUs."""

        def nvmlDeviceGetCount_v2(self, count):
            count._obj.value = 2
            return 0

        def nvmlDeviceGetHandleByIndex_v2(self, number, handle):
            handle._obj.value = number + 1
            return 0

        def nvmlDeviceGetUtilizationRates(self, handle, use):
            use._obj.gpu = 40 * handle.value
            return 0

        def nvmlDeviceGetMemoryInfo(self, handle, memory):
            memory._obj.total, memory._obj.used = 100, 10 * handle.value
            return 0

    monkeypatch.setattr(gpus, "_library", Driver)
    assert gpus.busy() == (0.6, 0.15)
    assert "GPU 60% busy, 15% of its memory" in cli._rate(pace)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_a_worker_s_memory_is_its_own(tmp_path):
    """Not that of whoever started it, which a new process takes over in one of the system's counts."""
    code = "from lipsync_core.preprocess.worker import _peak; print(_peak())"
    large = np.ones(400_000_000, np.uint8)
    child = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert large[-1]
    assert 5_000_000 < int(child.stdout) < 300_000_000


def test_an_actor_of_ray_works_in_one_thread(settings, maker, tmp_path):
    """A thread for every file kept what the ones before had freed."""
    from lipsync_core.preprocess.ray_pool import _RayWorker
    from lipsync_core.preprocess.worker import Post, Task

    path = maker.clip(tmp_path / "a.mp4", [2] * 52)
    actor = _RayWorker(Post(config=settings(), output=str(tmp_path / "data")))
    threads = set()
    real = actor._worker.work

    def watched(task, tell):
        threads.add(threading.get_ident())
        real(task, tell)

    actor._worker.work = watched
    for number in range(3):
        told = list(actor.work(Task(path=str(path), key=f"{number:024d}")))
        assert [one.last for one in told][-1:] == [True]
        assert told[0].rows
    assert len(threads) == 1
    assert threading.get_ident() not in threads
