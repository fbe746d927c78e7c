"""YuNet, a 0.2 MB detector with five points, run by OpenCV."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ...errors import FaceError
from .base import Detection, Detector

SCORE = 0.6
VOTE_SCORE = 0.3
VOTE_OVERLAP = 0.5
FACE_OVERLAP = 0.3


class YuNet(Detector):
    """``cv2.FaceDetectorYN`` with the network of March 2023."""

    name = "yunet"
    # 0.013 from frame to frame; what is wrong for longer (pose, an open mouth) makes it more.
    noise = 0.022
    window = 160
    search = 640

    def __init__(self, path: Path) -> None:
        """``path``: the ONNX file; FaceError if OpenCV cannot read it."""
        self._net = _create(path)

    def detect(self, rgb: np.ndarray, *, side: float | None = None) -> list[Detection]:
        height, width = rgb.shape[:2]
        self._net.setInputSize((width, height))
        rows = self._net.detect(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1]
        if rows is None:
            return []
        rows = np.asarray(rows, np.float32)
        rows = rows[np.isfinite(rows).all(axis=1) & (rows[:, 2] > 0) & (rows[:, 3] > 0)]
        return _blend(rows[np.argsort(-rows[:, 14])])


def _blend(votes: np.ndarray) -> list[Detection]:
    """One face per group of overlapping votes ``(N, 15)``, best score first.

    The usual suppression keeps the best vote alone, and which of about nine that is changes from
    frame to frame: their mean has half the jitter (0.011 against 0.021 of the distance eyes to
    mouth, measured on talking clips).
    """
    found = []
    while len(votes) and votes[0, 14] >= SCORE:
        overlap = _overlap(votes[0], votes)
        group = votes[overlap > VOTE_OVERLAP]
        mean = np.average(group, axis=0, weights=group[:, 14])
        x, y, w, h = mean[:4]
        found.append(
            Detection(
                box=np.array([x, y, x + w, y + h], np.float32),
                points=mean[4:14].reshape(5, 2).astype(np.float32),
                score=float(votes[0, 14]),
            )
        )
        votes = votes[overlap <= FACE_OVERLAP]
    return found


def _overlap(one: np.ndarray, many: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes ``x y w h``: ``(N,)``."""
    start = np.maximum(one[:2], many[:, :2])
    end = np.minimum(one[:2] + one[2:4], many[:, :2] + many[:, 2:4])
    shared = np.prod(np.clip(end - start, 0, None), axis=1)
    return shared / (one[2] * one[3] + many[:, 2] * many[:, 3] - shared)


def _create(path: Path) -> cv2.FaceDetectorYN:
    if not hasattr(cv2, "FaceDetectorYN"):
        raise FaceError(
            f"OpenCV {cv2.__version__} has no FaceDetectorYN; install opencv-python 4.8 or later"
        )
    # OpenCV 5 warns at every creation that its new graph engine ignores the default target.
    levels = getattr(getattr(cv2, "utils", None), "logging", None)
    before = levels.getLogLevel() if levels else None
    if levels:
        levels.setLogLevel(levels.LOG_LEVEL_ERROR)
    try:
        # An overlap of 1 turns OpenCV's suppression off; 5000 candidates is its default.
        return cv2.FaceDetectorYN.create(str(path), "", (320, 320), VOTE_SCORE, 1.0, 5000)
    except cv2.error as error:
        raise FaceError(
            f"{path} is not the YuNet network that OpenCV can read; delete it and try again"
        ) from error
    finally:
        if levels:
            levels.setLogLevel(before)


def fetch() -> Path:
    """The network's file, downloaded on first use; WeightsError within seconds when offline."""
    from ...weights import files

    return files.fetch("yunet")


def missing() -> str | None:
    """None when it can run without a download; else what to do."""
    from ...weights import files

    if not hasattr(cv2, "FaceDetectorYN"):
        return f"OpenCV {cv2.__version__} has no FaceDetectorYN; install opencv-python 4.8 or later"
    if files.find("yunet") is None:
        return "the YuNet network is not on this machine; it is fetched on first use, or run: lipsync models download yunet"
    return None
