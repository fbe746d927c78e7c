"""Clips per core-minute of the preparation, step by step; memory, scaling, Ray beside the pool.

    python benchmarks/preprocess.py --input-dir RAW [--original LATENTSYNC_CHECKOUT] [--ray]

``--original`` also runs LatentSync's pipeline on copies of the same files, as far as it goes without its
weights: its own scripts for resampling, shots and segments (ffmpeg and scenedetect on the path); of its
alignment the three ffmpeg passes that it ends with, on pictures that were only resized; its own S3FD,
SyncNet and HyperIQA with random weights of the published shape, on the frames that they would see, S3FD's
answers replaced by where the alignment puts a face. Its networks run on the processor here, as ours do.
Left out, and so free of charge for it: decord's check of every file and InsightFace on every frame.

Three comparisons of CPU time (not of the clock: other programs may be running): ``without_networks``
leaves S3FD and SyncNet out of the original, HyperIQA in it; ``as_it_comes`` has them in, against
ours without any weights but the detector's; ``same_judges`` has SyncNet v2 and HyperIQA on both sides.
It needs torch and python_speech_features beside ffmpeg and scenedetect.
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
from typing import Any

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
SYNCED = """
import sys, types, cv2, torch, shutil, numpy
from pathlib import Path
torch.set_num_threads(1)
torch.manual_seed(0)
# What these modules import and none of what is run here uses.
class Absent(types.ModuleType):
    def __getattr__(self, name): return Absent(name)
for name in ("torchvision", "latentsync.utils.util", "scenedetect.video_manager", "tqdm"):
    try: __import__(name)
    except ImportError: sys.modules[name] = Absent(name)
sys.modules["latentsync.utils.util"].check_model_and_download = lambda path: None
kept = torch.load
states = {}
torch.load = lambda path, **_: states[Path(path).name]
from eval.detectors.s3fd.nets import S3FDNet
from eval.syncnet.syncnet import S
states["sfd_face.pth"] = S3FDNet(device="cpu").state_dict()
states["syncnet_v2.model"] = S().state_dict()
from eval.syncnet_detect import SyncNetDetector
from eval.syncnet import SyncNetEval
from eval.eval_sync_conf import syncnet_eval
from scenedetect import ContentDetector, detect, open_video
source, target = Path(sys.argv[1]), Path(sys.argv[2])
detector = SyncNetDetector(device="cpu", detect_results_dir=str(target / "detected"))
found = detector.s3f_detector.detect_faces
def seen(image, conf_th, scales):
    found(image, conf_th=conf_th, scales=scales)
    side = image.shape[0]
    return numpy.array([[0.12 * side, 0.05 * side, 0.88 * side, 0.95 * side, 0.99]])
detector.s3f_detector.detect_faces = seen
class Cut:
    def __init__(self, number): self.frame_num = number
def scenes(folder):
    # The same detector by the name it has today.
    path = str(Path(folder) / "video.mp4")
    found = [(Cut(a.frame_num), Cut(b.frame_num)) for a, b in detect(path, ContentDetector())]
    return found or [(Cut(0), Cut(open_video(path).duration.frame_num))]
detector.scene_detect = scenes
network = SyncNetEval(device="cpu")
network.loadParameters("syncnet_v2.model")
for path in sorted(source.rglob("*.mp4")):
    try: syncnet_eval(network, detector, str(path), str(target / "temp"), str(target / "detected"))
    except Exception as error:
        if "Face not detected" not in str(error): raise
    out = target / "clips" / path.relative_to(source)
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, out)
shutil.rmtree(target / "detected")
"""


def children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def busy() -> float:
    """CPU seconds that this machine has worked, for anybody; 0 where it does not say."""
    try:
        user, nice, system, _, _, *rest = map(
            int, Path("/proc/stat").read_text().splitlines()[0].split()[1:8]
        )
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def ours(raw: Path, output: Path, config: configs.Config, workers: int, ray: str = "") -> dict:
    before, began = children(), time.monotonic()
    working, own = busy(), time.process_time()
    done = run(raw, output, config, workers=workers, ray=ray)
    wall = time.monotonic() - began
    working = busy() - working
    used = children() - before + time.process_time() - own
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
        "cpu_s_in_all": round(used, 2),
        # What else ran meanwhile; Ray's own processes count here too.
        "cpu_s_of_others": round(max(working - used, 0.0), 1),
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


def with_judges(folder: Path, overrides: list[str]) -> configs.Config:
    """SyncNet v2 and HyperIQA by random weights of full size; our own search for the detector stays."""
    import torch

    from lipsync_core.models import hyperiqa, syncnet_v2
    from lipsync_core.weights import files

    detector = files.find("yunet")
    (folder / "lipsync").mkdir(parents=True)
    if detector is not None:
        (folder / "detection").mkdir()
        shutil.copy(detector, folder / "detection" / detector.name)
    torch.manual_seed(0)
    torch.save(syncnet_v2.SyncNetV2().state_dict(), folder / "lipsync" / "syncnet_v2.model")
    torch.save(hyperiqa.HyperIQA().state_dict(), folder / "lipsync" / "koniq_pretrained.pkl")
    os.environ["LIPSYNC_MODELS"] = str(folder)
    judges = ["av_sync.engine=syncnet_v2", "quality.hyperiqa=true"]
    return configs.load(None, [*judges, *overrides])


def original(raw: Path, checkout: Path, place: Path) -> dict:
    """Its scripts, called as its pipeline calls them; only ``.mp4`` is taken."""
    source = place / "raw"
    source.mkdir(parents=True)
    for path in raw.rglob("*.mp4"):
        shutil.copy(path, source / path.name)
    result: dict[str, Any] = {"files": len(list(source.iterdir()))}
    calls = [
        (
            name,
            f"from preprocess.{module} import {function} as f; import sys; f(*sys.argv[1:], 1)",
            folder,
        )
        for name, module, function, folder in ORIGINAL
    ]
    calls += [
        ("affine, its encodes", ALIGNED, "affine"),
        ("av_sync", SYNCED, "synced"),
        ("quality", JUDGED, "none"),
    ]
    for name, code, folder in calls:
        target = place / folder
        target.mkdir(exist_ok=True)
        before, began = children(), time.monotonic()
        subprocess.run(
            [sys.executable, "-c", code, str(source), str(target)],
            cwd=checkout,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "PYTHONPATH": str(checkout),
                "OMP_NUM_THREADS": "1",
            },
        )
        result[name] = {"cpu_s": round(children() - before, 2),
                        "wall_s": round(time.monotonic() - began, 1),
                        "files_out": len(list(target.rglob("*.mp4")))}  # fmt: skip
        source = target / "clips" if code == SYNCED else target
    return result


def compared(ours: float, theirs: float) -> dict[str, float]:
    """CPU seconds of the whole, and how many times ours goes into theirs."""
    return {"ours": round(ours, 2), "original": round(theirs, 2), "times": round(theirs / ours, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--input-dir", type=Path, required=True)
    parser.add_argument("--original", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--ray", action="store_true", help="the last number of workers on Ray, too")
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    raw, config = options.input_dir, configs.load(None, options.set)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        runs = [ours(raw, base / f"{n}", config, n) for n in options.workers]
        result["ours"] = runs
        if len(runs) > 1:
            result["scaling_by_clock"] = round(runs[0]["wall_s"] / runs[-1]["wall_s"], 2)
            times = [one["cpu_s_in_steps"] for one in runs]
            result["scaling_by_cpu"] = round(times[0] / times[-1], 2)
        if options.ray:
            result["ray"] = ours(raw, base / "ray", config, options.workers[-1], "auto")
        if options.original is not None:
            result["original"] = theirs = original(raw, options.original.resolve(), base / "its")
            judged = with_judges(base / "models", options.set)
            result["ours_with_judges"] = same = ours(raw, base / "judged", judged, 1)
            shared = ("broken", "resample", "shots", "segment")
            everything = sum(one["cpu_s"] for one in theirs.values() if isinstance(one, dict))
            result["times"] = {
                "same_steps": compared(
                    sum(runs[0]["by_step"][name]["cpu_s"] for name in shared),
                    sum(theirs[name]["cpu_s"] for name, *_ in ORIGINAL),
                ),
                "without_networks": compared(
                    runs[0]["cpu_s_in_all"], everything - theirs["av_sync"]["cpu_s"]
                ),
                "as_it_comes": compared(runs[0]["cpu_s_in_all"], everything),
                "same_judges": compared(same["cpu_s_in_all"], everything),
            }
    with contextlib.suppress(OSError):
        result["load"] = [round(value, 1) for value in os.getloadavg()]
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
