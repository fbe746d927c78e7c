"""Does latentsync-tiny lip-sync people and voices it has never met?

Held-out presenters are dubbed with the voices of other held-out presenters, through the engine as
``lipsync dub`` uses it. The truth is known: the same picture of the same person, rendered with the
mouth of the other voice. Measured from pixels: by how many frames the drawn mouth is late, and how
far its opening is from the true one. Beside it: the same network hearing nothing (the branch that
guidance uses, trained by audio dropout), the truth as the autoencoder alone gives it back, and other
denoisers that are named, such as the one that stood where stage 1 ended.

    python -m benchmarks.tiny --clips 40 --sheet benchmarks/results/tiny.png
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from lipsync_core.engines.latentsync import TINY, LatentSync, region
from lipsync_core.engines.latentsync.pictures import Pictures, load_coder
from lipsync_core.models.unet3d import UNet3D, config_of
from lipsync_core.types import Settings
from lipsync_core.weights import tensors
from trainer import frozen
from trainer.presenters import measure
from trainer.presenters.dubbing import dubbed, truth
from trainer.presenters.people import numbers
from trainer.presenters.take import Take

FPS = 25
SHOWN = 12
"""Frames of a clip on the sheet."""
SHEETS = 4
"""Clips on it."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What every process needs to know."""

    denoisers: dict[str, str]
    """By the name of the table's row; an empty path is the bundled one."""
    whisper: str
    vae: str
    side: int
    frames: int
    people: list[int]
    preset: str
    device: str


def engine_with(denoiser: str, wanted: Wanted) -> LatentSync:
    """The engine as it comes, or with networks of other files."""
    engine = LatentSync(replace(TINY, size=wanted.side))
    if wanted.whisper:
        engine._ears = frozen.whisper(wanted.whisper)
    loaded = engine._loaded

    def replaced(device, row):
        # the bundled ones fit each other alone, which is checked where they are loaded
        ears, engine._ears = engine._ears, None
        nets = loaded(device, row)
        engine._ears = ears
        if denoiser:
            state = tensors.read_tensors(Path(denoiser))
            unet = UNet3D(config_of({name: tuple(t.shape) for name, t in state.items()}))
            unet.load_state_dict({name: t.float() for name, t in state.items()})
            nets = replace(nets, unet=unet.train(False).requires_grad_(False).to(device))
        if wanted.vae:
            exact = device.type == "cpu"
            nets = replace(nets, pictures=frozen.pictures(wanted.vae, device, exact=exact, batch=4))
        kept[(str(device), row.name)] = nets
        return nets

    kept: dict = {}
    engine._loaded = lambda device, row: kept.get((str(device), row.name)) or replaced(device, row)
    return engine


def judged(drawn: np.ndarray, wanted: np.ndarray, take: Take) -> dict[str, float]:
    seen, right = (measure.opening(pictures, take.person) for pictures in (drawn, wanted))
    likeness = np.corrcoef(seen, right)[0, 1] if seen.std() > 1e-6 else 0.0
    return {
        "late_frames": float(measure.lag(seen, right)),
        "opening_error": float(np.abs(seen - right).mean()),
        "opening_r": float(likeness),
    }


def coded(pictures: Pictures, crops: np.ndarray, background: np.ndarray) -> np.ndarray:
    """What an ideal denoiser would leave: ``crops`` through the autoencoder, pasted as ever."""
    given = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1
    back = pictures.decode(pictures.encode(given)).clamp(-1, 1).permute(0, 2, 3, 1).numpy()
    paint = region.paint(crops.shape[1])[..., None]
    made = (back + 1) * 127.5 * paint + background * (1 - paint)
    return np.clip(made, 0, 255).round().astype(np.uint8)


def clip(job: tuple[int, Wanted]) -> tuple[dict[str, dict[str, float]], list[np.ndarray]]:
    """Scores of everybody on clip number ``job[0]``, and rows of the sheet."""
    k, wanted = job
    torch.set_num_threads(1)
    take, other = (
        Take(wanted.people[2 * k + i], wanted.frames, resolution=wanted.side, seed=1000 * i + k)
        for i in (0, 1)
    )
    right = truth(take, other)
    shown = np.linspace(2, wanted.frames - 3, SHOWN).astype(int)
    found: dict[str, dict[str, float]] = {}
    rows = [take.crops()[shown], right[shown]]
    for name, path in wanted.denoisers.items():
        engine = engine_with(path, wanted)
        for strength in (1.0, 0.0) if name == "tiny" else (1.0,):
            settings = Settings(preset=wanted.preset, strength=strength, device=wanted.device)
            drawn = dubbed(engine, take, other, settings)
            found[name if strength else "hears nothing"] = judged(drawn, right, take)
            if name == "tiny" and strength:
                rows.append(drawn[shown])
        engine.close()
    pictures = (
        frozen.pictures(wanted.vae, torch.device("cpu"), exact=True, batch=4)
        if wanted.vae
        else Pictures(load_coder(TINY.vae)[0], tiny=True, batch=4)
    )
    found["truth, coded"] = judged(coded(pictures, right, take.crops()), right, take)
    return found, rows if k < SHEETS else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=11, help="of the people; training used 0 and 1")
    parser.add_argument("--side", type=int, default=TINY.size, help="of the crops, pixels")
    parser.add_argument("--preset", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--final", default="", help="another denoiser in place of the bundled one")
    parser.add_argument("--whisper", default="", help="other ears")
    parser.add_argument("--vae", default="", help="another autoencoder")
    parser.add_argument(
        "--beside", nargs="*", default=[], metavar="NAME=FILE", help="denoisers to compare with"
    )
    parser.add_argument("--sheet", type=Path, help="PNG: source, truth, drawn, of some clips")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    others = dict(one.split("=", 1) for one in given.beside)
    wanted = Wanted(
        denoisers={"tiny": given.final, **others},
        whisper=given.whisper,
        vae=given.vae,
        side=given.side,
        frames=round(given.seconds * FPS),
        people=numbers(given.seed, 2 * given.clips, "held-out"),
        preset=given.preset,
        device=given.device,
    )
    began = time.perf_counter()
    found: dict[str, list[dict[str, float]]] = {}
    rows: list[np.ndarray] = []
    jobs = [(k, wanted) for k in range(given.clips)]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with multiprocessing.get_context("spawn").Pool(given.workers) as pool:
        for scores, parts in pool.imap(clip, jobs):
            for name, score in scores.items():
                found.setdefault(name, []).append(score)
            rows += [np.concatenate(list(part), axis=1) for part in parts]
    seconds = time.perf_counter() - began
    table = {}
    for name, scores in found.items():
        late = np.array([one["late_frames"] for one in scores])
        errors = np.array([one["opening_error"] for one in scores])
        table[name] = {
            "within_1_frame": float((np.abs(late) <= 1).mean()),
            "median_late_frames": float(np.median(late)),
            "opening_error": float(errors.mean()),
            "opening_r": float(np.mean([one["opening_r"] for one in scores])),
            # of pairs: the same clip drawn by both
            "less_error_in_tiny": float(
                np.mean(
                    [a["opening_error"] < e for a, e in zip(found["tiny"], errors, strict=True)]
                )
            ),
        }
        line = ", ".join(f"{key} {value:.3f}" for key, value in table[name].items())
        print(f"{name:14} {line}")
    print(f"{given.clips} clips of {given.seconds:g} s, {seconds:.0f} s")
    if given.sheet:
        given.sheet.parent.mkdir(parents=True, exist_ok=True)
        sheet = cv2.resize(
            np.concatenate(rows), None, fx=1.5, fy=1.5, interpolation=cv2.INTER_CUBIC
        )
        cv2.imwrite(str(given.sheet), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    if given.json:
        given.json.write_text(
            json.dumps({"clips": given.clips, "seed": given.seed, "models": table}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
