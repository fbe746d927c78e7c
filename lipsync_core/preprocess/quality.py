"""What the eye would reject: blur, wrong light, a face too small, compression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..errors import EngineError
from .step import Book, Clip, Step

if TYPE_CHECKING:
    from .config import Config
    from .setup import Setup

SIDE = 256
"""Detail is measured at this size whatever the clip's."""
FRAMES = 8


class Quality(Step):
    """Measures a few frames of the clip; every limit is a setting."""

    name = "quality"
    takes = "clip"
    gives = "clip"

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        if config.quality.hyperiqa:
            from .setup import hyperiqa_missing

            if (reason := hyperiqa_missing()) is not None:
                raise EngineError(f"quality.hyperiqa is on, but {reason}")

    def run(self, sample: Clip, book: Book) -> Iterator[Clip]:
        metrics = {**measure(sample.crops), **sample.found}
        if self.config.quality.hyperiqa:
            metrics["hyperiqa"] = by_hyperiqa(sample.crops, self.setup.hyperiqa)
        result = book.judge(self, sample, metrics)
        if result is not None:
            yield result

    @staticmethod
    def judge(metrics: Mapping[str, Any], config: Config) -> str:
        limits = config.quality
        if metrics["face_px"] < limits.min_face:
            return f"the face is {metrics['face_px']:.0f} px high, at least {limits.min_face:g}"
        if metrics["sharpness"] < limits.min_sharpness:
            return (
                f"blurred: sharpness {metrics['sharpness']:.3f}, at least {limits.min_sharpness:g}"
            )
        if metrics["brightness"] < limits.min_brightness:
            return (
                f"too dark: {metrics['brightness']:.0f} of 255, at least {limits.min_brightness:g}"
            )
        if metrics["brightness"] > limits.max_brightness:
            return (
                f"too bright: {metrics['brightness']:.0f} of 255, at most {limits.max_brightness:g}"
            )
        if metrics["clipped"] > limits.max_clipped:
            return f"{metrics['clipped']:.0%} black or white, at most {limits.max_clipped:.0%}"
        if metrics["blockiness"] > limits.max_blockiness:
            return (
                f"blocks of compression: {metrics['blockiness']:.2f}, "
                f"at most {limits.max_blockiness:g}"
            )
        if limits.hyperiqa and metrics.get("hyperiqa", limits.min_hyperiqa) < limits.min_hyperiqa:
            return f"HyperIQA {metrics['hyperiqa']:.1f}, at least {limits.min_hyperiqa:g}"
        return ""


def measure(crops: np.ndarray) -> dict[str, float]:
    """``sharpness``, ``brightness`` and ``clipped`` of ``(T, R, R, 3)`` crops."""
    chosen = np.unique(np.linspace(0, len(crops) - 1, FRAMES).round().astype(int))
    detail, light, clipped = [], [], []
    for number in chosen:
        gray = cv2.cvtColor(crops[number], cv2.COLOR_RGB2GRAY)
        if gray.shape[0] != SIDE:
            gray = cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        # The face, not its surroundings.
        gray = gray[SIDE // 8 : -SIDE // 8, SIDE // 8 : -SIDE // 8]
        detail.append(sharpness(gray))
        light.append(float(gray.mean()))
        clipped.append(float(((gray < 6) | (gray > 249)).mean()))
    return {
        "sharpness": round(float(np.median(detail)), 4),
        "brightness": round(float(np.mean(light)), 1),
        "clipped": round(float(np.mean(clipped)), 4),
    }


def by_hyperiqa(crops: np.ndarray, network: Any) -> float:
    """HyperIQA of the first, the middle and the last of ``(T, R, R, 3)``, the mean.

    The middle 224 of 256 pixels, as LatentSync chose its data at 256 px; other sizes are brought to
    that one first, so that a threshold means the same.
    """
    import torch

    from ..models.hyperiqa import SIZE as INNER

    edge = (SIDE - INNER) // 2
    pictures = []
    for number in (0, len(crops) // 2, len(crops) - 1):
        picture = crops[number]
        if picture.shape[0] != SIDE:
            picture = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        pictures.append(picture[edge : edge + INNER, edge : edge + INNER])
    device = next(network.parameters()).device
    given = torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        return round(float(network(given).mean()), 2)


def sharpness(gray: np.ndarray) -> float:
    """0..1: detail finer than about three pixels per contrast of the picture, ``(h, w)`` uint8.

    Light and contrast cancel out. A little blur before the difference keeps noise from counting
    as detail.
    """
    picture = cv2.GaussianBlur(gray.astype(np.float32), (0, 0), 0.7)
    fine = picture - cv2.GaussianBlur(picture, (0, 0), 2.0)
    return float(fine.std() / max(float(picture.std()), 4.0))
