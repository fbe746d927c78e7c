"""InsightFace's detector: strong on hard poses, weights for research only."""

from __future__ import annotations

import numpy as np

from ...errors import FaceError
from .base import Detection, Detector

MODEL = "buffalo_l"
EXTRA = "pip install 'lipsync-core[insightface]'"


class InsightFace(Detector):
    """``insightface.app.FaceAnalysis`` with its detection model alone (five points)."""

    name = "insightface"
    noise = 0.012
    window = 320
    search = 640

    def __init__(self) -> None:
        """FaceError when the extra or its model is absent; downloads nothing by itself."""
        advice = missing()
        if advice is not None:
            raise FaceError(advice)
        from insightface.app import FaceAnalysis

        self._app = FaceAnalysis(name=MODEL, allowed_modules=["detection"])
        self._app.prepare(ctx_id=-1, det_size=(self.window, self.window))
        self._side = self.window

    def detect(self, rgb: np.ndarray, *, side: float | None = None) -> list[Detection]:
        wanted = self.window if max(rgb.shape[:2]) <= self.window else self.search
        if wanted != self._side:
            self._app.prepare(ctx_id=-1, det_size=(wanted, wanted))
            self._side = wanted
        faces = self._app.get(np.ascontiguousarray(rgb[..., ::-1]))
        found = [
            Detection(
                box=np.asarray(face.bbox, np.float32),
                points=np.asarray(face.kps, np.float32),
                score=float(face.det_score),
            )
            for face in faces
        ]
        return sorted(found, key=lambda face: -face.score)


def missing() -> str | None:
    """None when it can run; else what to install or to fetch."""
    from importlib.util import find_spec
    from pathlib import Path

    if find_spec("insightface") is None or find_spec("onnxruntime") is None:
        return f"the insightface detector is not installed; {EXTRA} (its weights are for research only)"
    folder = Path.home() / ".insightface" / "models" / MODEL
    if not any(folder.glob("*.onnx")):
        return f"the insightface model {MODEL} is not in {folder}; fetch it from the InsightFace project (research only)"
    return None
