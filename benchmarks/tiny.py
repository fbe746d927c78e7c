"""Does latentsync-tiny lip-sync people and voices it has never met?

Held-out presenters are dubbed with the voices of other held-out presenters, through the engine as
``lipsync dub`` uses it. The truth is known: the same picture of the same person, rendered with the
mouth of the other voice. Measured from pixels: by how many frames the drawn mouth is late, and how
far its opening is from the true one. Beside it: the same network hearing nothing (the branch that
guidance uses, trained by audio dropout), and, with ``--stage1``, a network that ended with stage 1.

    python benchmarks/tiny.py --clips 40 --sheet benchmarks/results/tiny.png
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from lipsync_core.engines.latentsync import TINY, LatentSync
from lipsync_core.models.unet3d import UNet3D, config_of
from lipsync_core.types import Settings
from lipsync_core.weights import tensors
from trainer.presenters import measure
from trainer.presenters.dubbing import dubbed, truth
from trainer.presenters.people import numbers
from trainer.presenters.take import Take

FPS = 25


def engine_with(path: Path | None) -> LatentSync:
    """The engine as it comes, or with the denoiser of another file."""
    engine = LatentSync(TINY)
    if path is not None:
        state = tensors.read_tensors(path)
        unet = UNet3D(config_of({name: tuple(t.shape) for name, t in state.items()}))
        unet.load_state_dict({name: t.float() for name, t in state.items()})
        loaded = engine._loaded

        def replaced(device, row):
            return replace(loaded(device, row), unet=unet.train(False).to(device))

        engine._loaded = replaced
    return engine


def judged(drawn: np.ndarray, wanted: np.ndarray, take: Take) -> dict[str, float]:
    seen, right = (measure.opening(pictures, take.person) for pictures in (drawn, wanted))
    likeness = np.corrcoef(seen, right)[0, 1] if seen.std() > 1e-6 else 0.0
    return {
        "late_frames": float(measure.lag(seen, right)),
        "opening_error": float(np.abs(seen - right).mean()),
        "opening_r": float(likeness),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=11, help="of the people; training used 0 and 1")
    parser.add_argument("--preset", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--final", type=Path, help="another denoiser in place of the bundled one")
    parser.add_argument("--stage1", type=Path, help="a denoiser that ended with stage 1")
    parser.add_argument("--sheet", type=Path, help="PNG: source, truth, drawn, of some clips")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.manual_seed(0)
    people = numbers(given.seed, 2 * given.clips, "held-out")
    frames = round(given.seconds * FPS)
    models = {
        "tiny": (engine_with(given.final), 1.0),
        "hears nothing": (engine_with(given.final), 0.0),
    }
    if given.stage1:
        models["stage 1 only"] = (engine_with(given.stage1), 1.0)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    rows: list[np.ndarray] = []
    began = time.perf_counter()
    for k in range(given.clips):
        take = Take(people[2 * k], frames, resolution=64, seed=k)
        other = Take(people[2 * k + 1], frames, resolution=64, seed=1000 + k)
        wanted = truth(take, other)
        shown = np.linspace(2, frames - 3, 12).astype(int)
        parts = [take.crops()[shown], wanted[shown]]
        for name, (engine, strength) in models.items():
            settings = Settings(preset=given.preset, strength=strength, device=given.device)
            drawn = dubbed(engine, take, other, settings)
            found[name].append(judged(drawn, wanted, take))
            parts.append(drawn[shown])
        if k < 4:
            rows += [np.concatenate(list(part), axis=1) for part in parts[:3]]
    seconds = time.perf_counter() - began
    table = {}
    for name, scores in found.items():
        late = np.array([one["late_frames"] for one in scores])
        table[name] = {
            "within_1_frame": float((np.abs(late) <= 1).mean()),
            "median_late_frames": float(np.median(late)),
            "opening_error": float(np.mean([one["opening_error"] for one in scores])),
            "opening_r": float(np.mean([one["opening_r"] for one in scores])),
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
