"""Clips per core-minute of the preparation, step by step; memory, scaling, Ray beside the pool.

    python benchmarks/preprocess.py --input-dir RAW [--original LATENTSYNC_CHECKOUT] [--ray]

``--original`` also runs LatentSync's pipeline on copies of the same files as far as it goes without a GPU
and without weights: its own scripts for resampling, shots and segments (ffmpeg and scenedetect on the
path); of its alignment the three ffmpeg passes that it ends with, on pictures that were only resized; its
own HyperIQA network with random weights. Left out, and so free of charge for it: decord's check of every
file, InsightFace on every frame, S3FD and SyncNet. What it costs "at least" is compared with all of ours.
CPU time is compared, not the clock: other programs may be running.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lipsync_core.preprocess import STEPS
from lipsync_core.preprocess import config as configs
from lipsync_core.preprocess.manifest import NAME, Manifest
from lipsync_core.preprocess.runner import run

ORIGINAL = [
    ("resample", "resample_fps_hz", "resample_fps_hz_multiprocessing", "resampled"),
    ("shots", "detect_shot", "detect_shot_multiprocessing", "shot"),
    ("segment", "segment_videos", "segment_videos_multiprocessing", "segmented"),
]


ALIGNED = """
import subprocess, sys, av, cv2
from pathlib import Path
source, target, side = Path(sys.argv[1]), Path(sys.argv[2]), 256
for path in sorted(source.rglob("*.mp4")):
    silent, sound = target / "temp.mp4", target / "temp.wav"
    ffmpeg = ["ffmpeg", "-y", "-loglevel", "error"]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{side}x{side}", "-r", "25", "-i", "-"]
    first = [*ffmpeg, *raw, "-c:v", "libx264", "-crf", "13", "-pix_fmt", "yuv420p", str(silent)]
    with subprocess.Popen(first, stdin=subprocess.PIPE) as writer, av.open(str(path)) as video:
        for frame in video.decode(video=0):
            picture = cv2.resize(frame.to_ndarray(format="rgb24"), (side, side))
            writer.stdin.write(picture.tobytes())
        writer.stdin.close()
    subprocess.run([*ffmpeg, "-i", path, "-q:a", "0", "-map", "a", sound], check=True)
    last = ["-c:v", "libx264", "-c:a", "aac", "-map", "0:v", "-map", "1:a", "-q:v", "0", "-q:a", "0"]
    out = target / path.relative_to(source)
    out.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([*ffmpeg, "-i", silent, "-i", sound, *last, out], check=True)
    silent.unlink()
    sound.unlink()
"""
JUDGED = """
import sys, av, torch
from pathlib import Path
from eval import hyper_iqa
hyper_iqa.model_zoo = type("Zoo", (), {"load_url": staticmethod(lambda _: {})})
torch.set_num_threads(1)
network = hyper_iqa.HyperNet(16, 112, 224, 112, 56, 28, 14, 7).train(False)
for path in sorted(Path(sys.argv[1]).rglob("*.mp4")):
    with av.open(str(path)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    chosen = [frames[0], frames[len(frames) // 2], frames[-1]]
    given = torch.stack([torch.from_numpy(f).permute(2, 0, 1) for f in chosen]) / 255
    made = network(given[:, :, 16:240, 16:240])
    hyper_iqa.TargetNet(made)(made["target_in_vec"]).mean().item()
"""


def children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def ours(raw: Path, output: Path, config: configs.Config, workers: int, ray: str = "") -> dict:
    before, began = children(), time.monotonic()
    done = run(raw, output, config, workers=workers, ray=ray)
    wall = time.monotonic() - began
    seconds: dict[str, float] = {}
    made = 0
    with Manifest(output / NAME) as manifest:
        for row in manifest.rows():
            seconds[row["step"]] = seconds.get(row["step"], 0.0) + row["seconds"]
            made += row["step"] == "write"
    total = sum(seconds.values())
    return {
        "workers": workers,
        "files": done.files,
        "clips_made": made,
        "clips_kept": done.clips,
        "wall_s": round(wall, 1),
        "clips_per_minute": round(60 * made / wall, 1),
        "cpu_s_in_steps": round(total, 2),
        # Start of the workers included: a second or two each, whatever the number of files.
        "cpu_s_in_all": round(children() - before, 2),
        "clips_per_core_minute": round(60 * made / total, 1),
        "peak_mb_per_worker": round(done.pace.peak / 1e6),
        "by_step": {
            step.name: {
                "cpu_s": round(seconds[step.name], 2),
                "clips_per_core_minute": round(60 * made / max(seconds[step.name], 1e-3), 1),
            }
            for step in STEPS
            if step.name in seconds
        },
    }


def original(raw: Path, checkout: Path, place: Path) -> dict:
    """Its scripts, called as its pipeline calls them; only ``.mp4`` is taken."""
    source = place / "raw"
    source.mkdir(parents=True)
    for path in raw.rglob("*.mp4"):
        shutil.copy(path, source / path.name)
    result: dict[str, object] = {"files": len(list(source.iterdir()))}
    total = 0.0
    calls = [
        (
            name,
            f"from preprocess.{module} import {function} as f; import sys; f(*sys.argv[1:], 1)",
            folder,
        )
        for name, module, function, folder in ORIGINAL
    ]
    calls += [("affine, its encodes", ALIGNED, "affine"), ("quality", JUDGED, "none")]
    for name, code, folder in calls:
        target = place / folder
        if code == ALIGNED:
            target.mkdir()
        before, began = children(), time.monotonic()
        given = [str(source)] if code == JUDGED else [str(source), str(target)]
        subprocess.run(
            [sys.executable, "-c", code, *given],
            cwd=checkout,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "OMP_NUM_THREADS": "1",
            },
        )
        used = children() - before
        total += used
        result[name] = {"cpu_s": round(used, 2), "wall_s": round(time.monotonic() - began, 1),
                        "files_out": len(list(target.rglob("*.mp4")))}  # fmt: skip
        source = target
    result["cpu_s"] = round(total, 2)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--input-dir", type=Path, required=True)
    parser.add_argument("--original", type=Path)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    config = configs.load(None, options.set)
    result: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        result["one_worker"] = one = ours(options.input_dir, base / "one", config, 1)
        result["two_workers"] = two = ours(options.input_dir, base / "two", config, 2)
        result["scaling_by_clock"] = round(one["wall_s"] / two["wall_s"], 2)
        result["scaling_by_cpu"] = round(one["cpu_s_in_steps"] / two["cpu_s_in_steps"], 2)
        if options.ray:
            result["ray_two_workers"] = ours(options.input_dir, base / "ray", config, 2, "auto")
        if options.original is not None:
            result["original"] = theirs = original(
                options.input_dir, options.original, base / "its"
            )
            same = sum(
                one["by_step"][name]["cpu_s"] for name in ("broken", "resample", "shots", "segment")
            )
            shared = sum(theirs[name]["cpu_s"] for name, *_ in ORIGINAL)
            result["same_steps_cpu_s"] = {"ours": round(same, 2), "original": round(shared, 2)}
            result["overall_cpu_s"] = {
                "ours, all steps": one["cpu_s_in_all"],
                "original, at least": theirs["cpu_s"],
                "times": round(theirs["cpu_s"] / one["cpu_s_in_all"], 2),
            }
    with contextlib.suppress(OSError):
        result["load"] = [round(value, 1) for value in os.getloadavg()]
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
