"""A run that is killed and taken up again gives the loss curve of one that was not."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("omegaconf")

from trainer import state
from trainer.state import Position

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "trainer" / "curve_task.py"
SHARDED = PROGRAM.with_name("sharded_curve.py")
RECIPE = """
stages:
  one:
    {steps: 24, batch: 4, loss: {pixel: 0.5}, optimizer: {learning_rate: 0.01}}
  two:
    steps: 20
    batch: 2
    accumulate: 2
    motion: all
    trainable: [more, last]
    optimizer: {learning_rate: 0.003, schedule: cosine, warmup: 5}
model: {audio_dropout: 0.2}
data: {workers: 0}
run: {log_every: 1, save_every: 5, validate_every: 7, ema: 0.9, keep: 2}
"""


def start(
    recipe: Path, output: Path, ranks: int, *more: str, program: Path = PROGRAM
) -> subprocess.Popen:
    # one sample is no number: with two ranks only one of them sees it
    more = ("--bad", "85", *more)
    program = [str(program), str(recipe), f"run.output={output}", *more]
    command = [sys.executable, *program]
    if ranks > 1:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(ranks), *program]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        },
        stderr=subprocess.PIPE,
        text=True,
        # so that a kill reaches the launcher and all that it launched
        start_new_session=True,
    )


def finish(process: subprocess.Popen, code: int = 0) -> str:
    said = process.communicate(timeout=240)[1]
    assert process.returncode == code, said
    return said


def curve(output: Path) -> list[tuple[str, ...]]:
    """Every figure that is no time, as text: all its digits."""
    with (output / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    hidden = ("steps_per_second", "waiting")
    return [tuple(value for name, value in row.items() if name not in hidden) for row in rows]


def lines(output: Path) -> int:
    path = output / "log.csv"
    return path.read_text().count("\n") if path.is_file() else 0


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "curve.yaml"
    path.write_text(RECIPE)
    return path


def kill_at(line: int, *launched: object, program: Path = PROGRAM) -> None:
    """Starts a run and kills all of it, at once, soon after its log has so many lines."""
    _, output, *_ = launched
    process = start(*launched, "--slow", "0.01", program=program)
    try:
        began = time.monotonic()
        while lines(output) < line:
            assert process.poll() is None, line
            assert time.monotonic() - began < 200, line
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.05))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize(
    ("ranks", "program"),
    [
        (1, PROGRAM),
        (2, PROGRAM),
        pytest.param(2, SHARDED, marks=pytest.mark.slow),
    ],
)
def test_killed_at_a_random_moment_the_curve_is_the_same_to_the_last_bit(
    tmp_path, recipe, ranks, program
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(recipe, whole, ranks, program=program))
    # one kill in each stage, in the middle of whatever goes on then
    moments = [random.randint(7, 20), random.randint(29, 44)]
    for line in moments:
        kill_at(line, recipe, broken, ranks, program=program)
    finish(start(recipe, broken, ranks, program=program))
    assert len(curve(whole)) == 44 + 8, moments
    assert curve(broken) == curve(whole), moments
    with (whole / "log.csv").open(newline="") as file:
        assert [row["skipped"] for row in csv.DictReader(file)][-2] == "1"
    ours, theirs = (path / "weights" / "two.safetensors" for path in (broken, whole))
    assert ours.read_bytes() == theirs.read_bytes()
    assert len(list((broken / "states").iterdir())) == 2


def test_sigterm_saves_and_says_how_to_go_on(tmp_path, recipe):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    finish(start(recipe, whole, 1))
    # as schedulers do it: the processes that load hear it too
    process = start(recipe, stopped, 1, "--slow", "0.02", "data.workers=1")
    while lines(stopped) < 8:
        time.sleep(0.005)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGTERM)
    said = finish(process, 2)
    assert f"python -m trainer {stopped}" in said
    left = state.newest(stopped)
    assert left is not None
    assert Position.load(left).step == lines(stopped) - 1 - validations(stopped)
    finish(start(recipe, stopped, 1))
    assert curve(stopped) == curve(whole)


@pytest.mark.parametrize("room", [10_000, 3_500])
def test_a_full_disk_is_one_line_and_costs_no_state(tmp_path, recipe, room):
    """Files may not grow beyond ``room`` bytes: one of torch's, or one of safetensors', cannot."""
    resource = pytest.importorskip("resource")
    output = tmp_path / "run"
    finish(start(recipe, output, 1, "stages.one.steps=5", "stages.two=null"))
    before = state.newest(output)
    again = [sys.executable, str(PROGRAM), str(recipe), f"run.output={output}", "data.workers=0"]
    again += ["stages.one.steps=24", "stages.two=null"]
    full = subprocess.run(
        again,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )
    assert full.returncode == 2, full.stderr
    told = full.stderr.strip().splitlines()[-1]
    assert "cannot be written" in told
    assert "make room" in told
    assert state.newest(output) == before
    assert not list((output / "states").glob(".*"))
    finish(
        subprocess.Popen(
            again,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    assert Position.load(state.newest(output)).step == 24


def test_a_state_lies_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    part = state.unfinished(tmp_path, 5)
    Position(step=5).save(part)
    (part / "model.safetensors").write_bytes(b"weights")
    settled = []
    fsync, place = os.fsync, Path("/proc/self/fd")
    if not place.is_dir():
        pytest.skip("files cannot be told by their handles here")

    def noted(handle):
        settled.append((place / str(handle)).readlink())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    whole = state.publish(part, keep=2)
    assert {part / "model.safetensors", part / state.POSITION, part} <= set(settled[:-1])
    assert settled[-1] == whole.parent


def test_a_second_ctrl_c_stops_at_once(tmp_path, recipe):
    output = tmp_path / "run"
    process = start(recipe, output, 1, "--slow", "3", "data.workers=0", "run.save_every=1")
    while not (output / "recipe.yaml").is_file():
        time.sleep(0.05)
        assert process.poll() is None
    time.sleep(6)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    began = time.monotonic()
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert time.monotonic() - began < 12


def validations(output: Path) -> int:
    return (output / "log.jsonl").read_text().count('"validation"')


def test_a_state_that_was_not_finished_is_none(tmp_path):
    part = state.unfinished(tmp_path, 5)
    Position(step=5).save(part)
    assert state.newest(tmp_path) is None
    state.publish(part, keep=2)
    assert state.newest(tmp_path) == tmp_path / "states" / "step-000000005"
    # a later one without the file that is written last
    (tmp_path / "states" / "step-000000009").mkdir()
    assert state.newest(tmp_path) == tmp_path / "states" / "step-000000005"


def test_only_the_newest_states_stay(tmp_path):
    state.unfinished(tmp_path, 3)
    for step in (5, 10, 15, 20):
        part = state.unfinished(tmp_path, step)
        Position(step=step).save(part)
        state.publish(part, keep=2)
    names = sorted(path.name for path in (tmp_path / "states").iterdir())
    assert names == ["step-000000015", "step-000000020"]


def test_other_ranks_or_batches_go_on_behind_the_samples_that_are_used_up():
    position = Position(batches=7, ranks=2, batch=3)
    assert position.drawn == 42
    position.renumber(1, 8)
    assert (position.batches, position.drawn) == (6, 48)
