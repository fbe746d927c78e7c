"""Likeness by other people's networks: identity (CSIM) and FID. Both are extras.

Caveats, which the results carry with them (``CAVEATS``): FID compares two sets of pictures. Its
covariance has 2048 rows, so from fewer frames it is biased upwards and moves with their number, and
a clip has one person and one light. Compare it inside one table at most, at equal numbers of
frames, never with a paper's. FVD needs an I3D video network, which torchmetrics does not bring, and
hundreds of clips; it is not measured here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import EngineError, MediaError
from ..faces import align
from ..faces.detect.insightface import MODEL
from ..faces.templates import draft_template
from ..types import Progress

if TYPE_CHECKING:
    from ..types import Picture
    from .sync import Examination

_FACE = "w600k_r50.onnx"
"""The face recognition network inside InsightFace's model pack."""
_SIDE = 256
_BATCH = 8
_FID_FRAMES = 2048
"""Width of Inception's features: from fewer pictures their covariance has no full rank."""
CAVEATS = {
    "identity": (
        f"identity: cosine of ArcFace embeddings (InsightFace {MODEL}, {_FACE}; its weights are for "
        "non-commercial research only); 1 is the same picture"
    ),
    "fid": (
        "FID: Inception v3 on {count} aligned face crops a side, few for a distance that wants at "
        "least 2048, so it is too high; compare it inside this table only"
    ),
    "fvd": "FVD: not measured; it needs an I3D network, which torchmetrics does not bring",
}
"""What belongs beside the numbers, wherever they are shown."""


def check(*, identity: bool, fid: bool) -> None:
    """EngineError naming the extra that is missing, before the long work begins."""
    if identity:
        _recogniser_file()
    if fid:
        _frechet(None, check_only=True)


def compare_faces(
    found: Examination,
    source: str | Path,
    *,
    identity: bool = False,
    fid: bool = False,
    frames: int = 48,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """``identity``, ``fid`` and ``caveats`` of an examined clip against the clip it was made from.

    ``source``: the same face at the same place, frame for frame; its mouth may say something else.
    ``frames``: how many are looked at for the identity, evenly spread; FID takes all with a face.
    """
    from ..media.reader import Reader, probe

    watched = found.watched
    if (clip := probe(source)) and (clip.width, clip.height) != (
        watched.clip.width,
        watched.clip.height,
    ):
        raise MediaError(
            f"{source} has pictures of {clip.width}x{clip.height}, {found.video} of "
            f"{watched.clip.width}x{watched.clip.height}; the source must be of the same size"
        )
    who = Identity() if identity else None
    distance = Frechet() if fid else None
    template = draft_template(_SIDE)
    matrices = align.fit(found.track.points, template, float(watched.clip.sar))
    chosen = set(np.linspace(0, watched.frame_count - 1, frames).round().astype(int).tolist())
    start = watched.start or None
    pairs = zip(
        Reader(found.video, start=start).frames(),
        Reader(source, start=start).frames(),
        strict=False,
    )
    for ours, theirs in pairs:
        number = ours.index
        if number >= watched.frame_count:
            break
        if not found.track.present[number]:
            continue
        if who is not None and number in chosen:
            who.see(ours, theirs, found.track.points[number])
        if distance is not None:
            distance.see(
                align.cut(ours, matrices[number], _SIDE), align.cut(theirs, matrices[number], _SIDE)
            )
        if progress is not None:
            progress(number + 1, watched.frame_count)
    result: dict[str, Any] = {}
    caveats = []
    if who is not None:
        result["identity"] = who.mean()
        caveats.append(CAVEATS["identity"])
    if distance is not None:
        result["fid"] = distance.value()
        caveats += [CAVEATS["fid"].format(count=distance.count), CAVEATS["fvd"]]
        if distance.count >= _FID_FRAMES:
            caveats[-2] = f"FID: Inception v3 on {distance.count} aligned face crops a side"
    return result | {"caveats": tuple(caveats)}


class Identity:
    """Mean cosine between the face embeddings of two clips, frame by frame."""

    def __init__(self) -> None:
        """EngineError where the extra or its model is absent; downloads nothing."""
        path = _recogniser_file()
        from insightface.model_zoo import get_model

        self._network: Any = get_model(str(path), providers=["CPUExecutionProvider"])
        self._network.prepare(ctx_id=-1)
        self._values: list[float] = []

    def see(self, ours: Picture, theirs: Picture, points: np.ndarray) -> None:
        """``points``: ``(5, 2)`` of the face, which is at the same place in both pictures."""
        from insightface.utils.face_align import norm_crop

        centre = points.mean(0)
        reach = 4.0 * float(np.ptp(points, axis=0).max())
        x0, y0, x1, y1 = (
            int(v) for v in np.round([*(centre - reach / 2), *(centre + reach / 2)]).tolist()
        )
        pair = []
        for picture in (ours, theirs):
            # InsightFace's networks see BGR.
            face = np.ascontiguousarray(picture.region(x0, y0, x1, y1)[..., ::-1])
            embedding = self._network.get_feat(norm_crop(face, points - (x0, y0)))
            pair.append(np.asarray(embedding, np.float64).ravel())
        one, other = pair
        self._values.append(float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other))))

    def mean(self) -> float | None:
        return round(float(np.mean(self._values)), 4) if self._values else None


class Frechet:
    """Fréchet distance between the features of two sets of crops, by torchmetrics."""

    def __init__(self, network: Any = None) -> None:
        """``network``: a module from ``(B, 3, H, W)`` uint8 to ``(B, F)``; Inception v3 where None.

        EngineError where the extra is absent or Inception's weights (91 MB, fetched by
        torch-fidelity the first time) cannot be had.
        """
        self._metric = _frechet(network)
        self._waiting: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        self.count = 0

    def see(self, ours: np.ndarray, theirs: np.ndarray) -> None:
        """A crop of each set, ``(H, W, 3)`` uint8."""
        for crops, crop in zip(self._waiting, (ours, theirs), strict=True):
            crops.append(crop)
        self.count += 1
        if len(self._waiting[0]) == _BATCH:
            self._flush()

    def value(self) -> float | None:
        """None from fewer than two crops a side."""
        self._flush()
        return round(float(self._metric.compute()), 4) if self.count >= 2 else None

    def _flush(self) -> None:
        import torch

        for crops, real in zip(self._waiting, (False, True), strict=True):
            if crops:
                batch = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()
                with torch.inference_mode():
                    self._metric.update(batch, real=real)
                crops.clear()


def _frechet(network: Any, *, check_only: bool = False) -> Any:
    advice = 'FID is not installed; run: pip install "lipsync-core[quality]", or leave --fid out'
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance

        if network is None:
            import torch_fidelity  # noqa: F401
    except ImportError as error:
        raise EngineError(advice) from error
    if check_only:
        return None
    try:
        return FrechetInceptionDistance(feature=2048 if network is None else network)
    except OSError as error:
        raise EngineError(
            f"the Inception network of FID cannot be fetched ({error}); connect to the internet "
            "once, or leave --fid out"
        ) from error


def _recogniser_file() -> Path:
    from importlib.util import find_spec

    try:
        absent = any(find_spec(name) is None for name in ("insightface", "onnxruntime"))
    except ValueError:
        absent = True
    if absent:
        raise EngineError(
            'identity needs InsightFace; run: pip install "lipsync-core[insightface]" (its weights '
            "are for non-commercial research only), or leave --identity out"
        )
    path = Path.home() / ".insightface" / "models" / MODEL / _FACE
    if not path.is_file():
        raise EngineError(
            f"InsightFace's face recognition is not at {path}; fetch the model pack {MODEL} from the "
            "InsightFace project (non-commercial research only), or leave --identity out"
        )
    return path
