"""Likeness by other people's networks: LPIPS, identity (CSIM), FID and FVD. All are extras.

Caveats, which the results carry with them (``CAVEATS``): FID and FVD compare two sets. The covariance
of FID has 2048 rows and that of FVD 1408, so from fewer samples both are biased upwards and move with
their number, and a clip has one person and one light. Compare them inside one table at most, at equal
numbers of samples, never with a paper's. FVD is that of VideoMAE v2's features (Ge et al. 2024,
"content-debiased"), not of I3D's: those are published as a program, which is not run here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
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

log = logging.getLogger("lipsync.scoring")

_FACE = "w600k_r50.onnx"
"""The face recognition network inside InsightFace's model pack."""
_SIDE = 256
_BATCH = 8
_FID_FRAMES = 2048
"""Width of Inception's features: from fewer pictures their covariance has no full rank."""
VIDEOMAE = "videomae-v2-g"
"""The catalogue's row for FVD."""
_WINDOW = 16
"""Frames under one feature of FVD; windows share none."""
_WINDOW_SIDE = 224
CAVEATS = {
    "lpips": "LPIPS: AlexNet; of the mouth in its box of the aligned crop, only where the true mouth is known",
    "identity": (
        f"identity: cosine of ArcFace embeddings (InsightFace {MODEL}, {_FACE}; its weights are for "
        "non-commercial research only); 1 is the same picture"
    ),
    "fid": (
        "FID: Inception v3 on {count} aligned face crops a side, few for a distance that wants at "
        "least 2048, so it is too high; compare it inside this table only"
    ),
    "fid_enough": (
        "FID: Inception v3 on {count} aligned face crops a side; compare it inside this table only"
    ),
    "fvd": (
        "FVD: VideoMAE v2 features (not I3D's of most papers) of {count} windows of 16 frames a side; "
        "below some hundreds it says more about the sample than about the method; compare it inside "
        "this table only"
    ),
}
"""What belongs beside the numbers, wherever they are shown."""


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What is asked for beside the plain measures, with its networks in memory; None: not asked for."""

    lpips: Callable[[np.ndarray, np.ndarray], float] | None = None
    """Distance of two ``(h, w, 3)`` uint8 pictures."""
    identity: Any = None
    """InsightFace's recogniser."""
    fid: Any = None
    """A module from ``(B, 3, H, W)`` uint8 to ``(B, F)``."""
    fvd: Any = None
    """A module from ``(B, 16, 3, 224, 224)`` uint8 to ``(B, F)``."""

    @property
    def needs_source(self) -> bool:
        """Something in it compares with the clip that was dubbed."""
        return any(one is not None for one in (self.identity, self.fid, self.fvd))


NONE = Extras()


def open_extras(
    *,
    lpips: bool = False,
    identity: bool = False,
    fid: bool = False,
    fvd: bool = False,
    device: str = "auto",
) -> Extras:
    """Loads what is asked for; EngineError in one line, before the long work, where something is absent."""
    return Extras(
        lpips=_lpips() if lpips else None,
        identity=_recogniser() if identity else None,
        fid=_inception() if fid else None,
        fvd=_videomae(device) if fvd else None,
    )


def compare_faces(
    found: Examination,
    source: str | Path,
    *,
    extras: Extras,
    frames: int = 48,
    pools: dict[str, Frechet] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Identity, FID and FVD of the examined faces against those of ``source``, frame for frame.

    ``source``: the clip that was dubbed, whose mouth may say something else. ``frames``: how many are
    compared for identity, evenly spread; FID and FVD see all. ``pools``: takes the samples of several
    clips together, by ``fid`` and ``fvd``. MediaError where the pictures differ in size.
    """
    from ..media.reader import Reader, probe

    watched = found.watched
    clip = probe(source)
    if not clip.is_still and (clip.width, clip.height) != (
        watched.clip.width,
        watched.clip.height,
    ):
        raise MediaError(
            f"{source} has pictures of {clip.width}x{clip.height}, {found.video} of "
            f"{watched.clip.width}x{watched.clip.height}; the source must be of the same size"
        )
    who = Identity(extras.identity) if extras.identity is not None else None
    pools = {} if pools is None else pools
    pictures = _distance(extras.fid, pools, "fid")
    windows = _distance(extras.fvd, pools, "fvd")
    template = draft_template(_SIDE)
    matrices = align.fit(found.track.points, template, float(watched.clip.sar))
    wide = align.fit(found.track.points, draft_template(_WINDOW_SIDE), float(watched.clip.sar))
    chosen = set(np.linspace(0, watched.frame_count - 1, frames).round().astype(int).tolist())
    start = watched.start or None
    other = (
        _still(source, watched.frame_count)
        if clip.is_still
        else Reader(source, start=start).frames()
    )
    run: list[tuple[np.ndarray, np.ndarray]] = []
    last = -1
    for ours, theirs in zip(Reader(found.video, start=start).frames(), other, strict=False):
        number = ours.index
        if number >= watched.frame_count:
            break
        if not found.track.present[number]:
            continue
        if who is not None and number in chosen:
            who.see(ours, theirs, found.track.points[number])
        if pictures is not None:
            pictures.see(*(align.cut(one, matrices[number], _SIDE) for one in (ours, theirs)))
        if windows is not None:
            if run and (last != number - 1 or found.track.shots[last] != found.track.shots[number]):
                run = []
            pair = [align.cut(one, wide[number], _WINDOW_SIDE) for one in (ours, theirs)]
            run.append((pair[0], pair[1]))
            last = number
            if len(run) == _WINDOW:
                windows.see(*(np.stack(side) for side in zip(*run, strict=True)))
                run = []
        if progress is not None:
            progress(number + 1, watched.frame_count)
    result: dict[str, Any] = {}
    caveats = []
    if who is not None:
        result["identity"] = who.mean()
        caveats.append(CAVEATS["identity"])
    if pictures is not None:
        result["fid"] = pictures.value()
        caveats.append(caveat("fid", pictures.count))
    if windows is not None:
        result["fvd"] = windows.value()
        caveats.append(caveat("fvd", windows.count))
    return result | {"caveats": tuple(caveats)}


def caveat(name: str, count: int) -> str:
    """What belongs beside an FID or FVD of ``count`` samples a side."""
    if name == "fid" and count >= _FID_FRAMES:
        name = "fid_enough"
    return CAVEATS[name].format(count=count)


def _still(source: str | Path, count: int) -> Any:
    from ..media.reader import Reader

    (frame,) = Reader(source).follow([0])
    return (frame for _ in range(count))


def _distance(network: Any, pools: dict[str, Frechet], name: str) -> Frechet | None:
    if network is None:
        return None
    pool = pools.setdefault(name, Frechet(network))
    return Frechet(network, pool=pool)


class Identity:
    """Mean cosine between the face embeddings of two clips, frame by frame."""

    def __init__(self, network: Any) -> None:
        """``network``: InsightFace's recogniser."""
        self._network = network
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
    """Fréchet distance between the features of two sets of samples, by torchmetrics."""

    def __init__(self, network: Any, *, pool: Frechet | None = None) -> None:
        """``network``: a module from a batch of samples to ``(B, F)``. ``pool``: is given the same."""
        self._network = network
        self._pool = pool
        self._metric: Any = None
        self._waiting: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        self._taken = 0

    @property
    def count(self) -> int:
        """Samples a side."""
        return self._taken + len(self._waiting[0])

    def see(self, ours: np.ndarray, theirs: np.ndarray) -> None:
        """A sample of each set, ``(..., H, W, 3)`` uint8."""
        for samples, sample in zip(self._waiting, (ours, theirs), strict=True):
            samples.append(sample)
        if len(self._waiting[0]) == _BATCH:
            self._flush()

    def value(self) -> float | None:
        """None from fewer than two samples a side."""
        self._flush()
        return round(float(self._metric.compute()), 4) if self.count >= 2 else None

    def _flush(self) -> None:
        import torch

        for samples, real in zip(self._waiting, (False, True), strict=True):
            if samples:
                batch = torch.from_numpy(np.stack(samples)).movedim(-1, -3).contiguous()
                with torch.inference_mode():
                    features = self._network(batch).float().cpu()
                samples.clear()
                self._take(features, real)

    def _take(self, features: Any, real: bool) -> None:
        if self._metric is None:
            self._metric = _gaussians(features.shape[1])
        self._metric.update(features, real=real)
        self._taken += len(features) * real
        if self._pool is not None:
            self._pool._take(features, real)


def _gaussians(width: int) -> Any:
    """torchmetrics' Fréchet distance of features that are there already."""
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Known(torch.nn.Identity):
        num_features = width

    return FrechetInceptionDistance(feature=Known())


def _mismatched(option: str, error: RuntimeError) -> EngineError:
    """What a torchvision that was built for another torch ends in."""
    return EngineError(
        f"torchvision does not fit this torch ({_brief(error)}); install the two together "
        f"(https://pytorch.org), or leave --{option} out"
    )


_QUALITY = 'is not installed; run: pip install "lipsync-core[quality]"'


def _lpips() -> Callable[[np.ndarray, np.ndarray], float]:
    try:
        import torch
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity as Lpips

        network = Lpips(net_type="alex")
    except ImportError as error:
        raise EngineError(f"LPIPS {_QUALITY}, or leave --lpips out") from error
    except RuntimeError as error:
        raise _mismatched("lpips", error) from error
    except OSError as error:
        raise EngineError(
            f"AlexNet, which LPIPS looks with, cannot be fetched ({_brief(error)}); connect to the "
            "internet once, or leave --lpips out"
        ) from error

    def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
        pair = [
            torch.from_numpy(np.ascontiguousarray(p)).permute(2, 0, 1)[None].float() / 127.5 - 1.0
            for p in (ours, theirs)
        ]
        with torch.inference_mode():
            return float(network(*pair))

    return distance


def _inception() -> Any:
    try:
        # Named here because torchmetrics asks for it only once in a process.
        import torch_fidelity  # noqa: F401
        from torchmetrics.image.fid import FrechetInceptionDistance

        return FrechetInceptionDistance(feature=2048).inception
    except RuntimeError as error:
        raise _mismatched("fid", error) from error
    except ImportError as error:
        raise EngineError(f"FID {_QUALITY}, or leave --fid out") from error
    except OSError as error:
        raise EngineError(
            f"the Inception network of FID cannot be fetched ({_brief(error)}); connect to the "
            "internet once, or leave --fid out"
        ) from error


def _videomae(device: str) -> Any:
    from ..weights import files, tensors

    try:
        import torch
        import torchmetrics.image.fid  # noqa: F401
    except RuntimeError as error:
        raise _mismatched("fvd", error) from error
    except ImportError as error:
        raise EngineError(f"FVD {_QUALITY}, or leave --fvd out") from error
    if (reason := files.absent(VIDEOMAE)) is not None:
        raise EngineError(f"FVD: {reason}; or leave --fvd out")
    from ..models.videomae import VideoMAE, config_of
    from .sync import _device

    state = tensors.load(VIDEOMAE)
    with torch.device("meta"):
        network = VideoMAE(config_of({name: tuple(t.shape) for name, t in state.items()}))
    network.load_state_dict(state, assign=True)
    network = network.train(False).requires_grad_(False)
    place = torch.device(_device(device))
    if place.type == "cpu":
        log.warning("FVD on a CPU takes minutes for every second of video")
        network = network.float()
    return windows(network.to(place))


def windows(network: Any) -> Any:
    """VideoMAE as FVD asks it: ``(B, 16, 3, 224, 224)`` uint8 to ``(B, D)``."""
    import torch

    class Asked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, windows: Any) -> Any:
            where = next(network.parameters())
            # One at a time: two thousand tokens each.
            parts = [network(one[None].to(where) / 255.0) for one in windows]
            return torch.cat(parts)

    return Asked()


def _recogniser() -> Any:
    path = _recogniser_file()
    try:
        from insightface.model_zoo import get_model

        network: Any = get_model(str(path), providers=["CPUExecutionProvider"])
    # The errors of onnxruntime have no base of their own; a file of another network gives None.
    except Exception as error:
        raise EngineError(
            f"InsightFace cannot read {path} ({_brief(error)}); fetch the model pack {MODEL} again"
        ) from error
    if not hasattr(network, "get_feat"):
        raise EngineError(
            f"{path} is no face recognition network; fetch the model pack {MODEL} again"
        )
    network.prepare(ctx_id=-1)
    return network


def _brief(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:120] if text else type(error).__name__


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
