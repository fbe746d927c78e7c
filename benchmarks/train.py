"""Training: steps a second and the share that waits for data; memory per recipe; one process and two.

    python -m benchmarks.train [--data FOLDER] [--steps 24] [--only memory|speed|scaling]

Without ``--data`` a few minutes of rendered presenters are made first. The tiny recipes are run as
they are, one after the other, each with what the one before it made; the published ones are
estimated. Times are by the clock and, because other programs may be running, in CPU seconds a sample.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trainer import config, memory

ROOT = Path(__file__).parents[1]
TINY = {
    "tiny_listener": {"data": False},
    "tiny_vae": {"data": True},
    "tiny_syncnet": {"data": True},
    "tiny_latentsync": {"data": True},
}
EARS = ("tiny_listener", "hear")
ENDS = {"model.vae": ("tiny_vae", "code"), "model.syncnet": ("tiny_syncnet", "judge")}
"""Settings of tiny_latentsync that name what others made."""


def launch(words: list[str], ranks: int) -> dict:
    """Runs the trainer to its end; what it took."""
    command = [sys.executable, "-m", "trainer", *words]
    if ranks > 1:
        command[1:2] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        command[5:5] = [str(ranks), "-m"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(command, cwd=ROOT, env=env, stdout=said, stderr=said)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)}\n{said.read()}")
    return {
        "wall_s": round(time.monotonic() - began, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "peak_mb": round(used.ru_maxrss / 1024),
    }


def trained(
    name: str,
    place: Path,
    data: Path,
    steps: int,
    *,
    ranks: int = 1,
    stage: str = "",
    run: str = "",
) -> dict:
    """A tiny recipe for a few steps of one stage: speed, waiting, memory."""
    recipe = config.load(name)
    stage = stage or next(iter(recipe.stages))
    output = place / f"{name}-{stage}-{ranks}{run}"
    words = [name, f"stages.{stage}.steps={steps}", "run.validate_every=0", "run.save_every=0"]
    words += [f"stages.{stage}.switch.when=steps"]
    words += [f"stages.{other}=null" for other in recipe.stages if other != stage]
    words += ["run.log_every=4", f"run.output={output}"]
    if TINY[name]["data"]:
        words += [f"data.train=[{data}]"]
    if name == "tiny_latentsync":
        words += [
            f"{key}={place / f'{made}-{end}-1' / 'weights' / f'{end}.safetensors'}"
            for key, (made, end) in ENDS.items()
        ]
    took = launch(words, ranks)
    with (output / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # the first line is of steps that warm up
    rows = rows[1:] or rows
    seconds = sum(1 / float(row["steps_per_second"]) for row in rows)
    speed = len(rows) / seconds
    samples = recipe.stages[stage].batch * recipe.stages[stage].accumulate * ranks
    (state,) = (output / "states").glob("step-*")
    kept = {
        "weights": size(state, "model*"),
        "AdamW": size(state, "optimizer*"),
        "mean": size(state, "ema*"),
    }
    one = next(one for one in memory.estimates(recipe) if one.stage == stage)
    guess = {"weights": one.weights, "AdamW": one.optimizer, "mean": one.mean}
    return {
        "stage": stage,
        "processes": ranks,
        "steps_per_s": round(speed, 3),
        "samples_per_s": round(speed * samples, 2),
        "waiting_for_data": round(
            sum(float(row["waiting"]) / float(row["steps_per_second"]) for row in rows) / seconds, 3
        ),
        "cpu_s_per_sample_start_included": round(took["cpu_s"] / (steps * samples), 3),
        "kept_mb": {key: round(value / 1e6, 2) for key, value in kept.items()},
        "estimated_mb": {key: round(value / 1e6, 2) for key, value in guess.items()},
        **took,
    }


def size(folder: Path, pattern: str) -> int:
    return sum(file.stat().st_size for file in folder.glob(pattern) if file.is_file())


def estimated(name: str) -> list[dict]:
    return [
        {
            "stage": one.stage,
            "parameters_m": round(one.parameters / 1e6, 2),
            "trained_m": round(one.trained / 1e6, 2),
            "weights_mb": round(one.weights / 1e6, 2),
            "gradients_mb": round(one.gradients / 1e6, 2),
            "AdamW_mb": round(one.optimizer / 1e6, 2),
            "mean_mb": round(one.mean / 1e6, 2),
            "together_mb": round(one.total / 1e6, 2),
        }
        for one in memory.estimates(config.load(name))
    ]


def presenters(folder: Path) -> Path:
    command = [sys.executable, "-m", "trainer.presenters", "make", "--output", str(folder)]
    command += ["--hours", "0.03", "--resolution", "64"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder


def hear(place: Path, data: Path) -> None:
    """The data as the ears hear it that were trained first."""
    recipe, stage = EARS
    ears = place / f"{recipe}-{stage}-1" / "weights" / f"{stage}.safetensors"
    command = [sys.executable, "-m", "trainer.hear", str(data), "--whisper", str(ears)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--only", choices=["memory", "speed", "scaling"])
    options = parser.parse_args()
    result: dict[str, object] = {}
    if options.only in (None, "memory"):
        result["estimated"] = {name: estimated(name) for name, _ in config.listed()}
    if options.only in (None, "speed", "scaling"):
        with tempfile.TemporaryDirectory() as made:
            place = Path(made)
            data = options.data.resolve() if options.data else presenters(place / "data")
            speed = []
            for name in TINY:
                if name == "tiny_latentsync":
                    hear(place, data)
                for stage in config.load(name).stages:
                    speed.append(
                        {"recipe": name, **trained(name, place, data, options.steps, stage=stage)}
                    )
            result["measured"] = speed
            if options.only != "speed":
                one = next(row for row in speed if row["stage"] == "stage1")
                two = trained("tiny_latentsync", place, data, options.steps, ranks=2)
                with ThreadPoolExecutor(2) as pool:
                    apart = list(
                        pool.map(
                            lambda run: trained(
                                "tiny_latentsync", place, data, options.steps, run=run
                            ),
                            ("-a", "-b"),
                        )
                    )
                # ranks go at the pace of the slower one; that of two strangers is what the machine allows
                allowed = 2 * min(row["samples_per_s"] for row in apart)
                result["two_processes"] = {
                    **two,
                    "samples_per_s_against_one": round(
                        two["samples_per_s"] / one["samples_per_s"], 2
                    ),
                    "two_strangers_against_one": round(allowed / one["samples_per_s"], 2),
                }
    with contextlib.suppress(OSError):
        result["load"] = [round(value, 1) for value in os.getloadavg()]
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
