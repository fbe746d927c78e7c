"""The frozen networks whose opinion a loss asks, read from the weights catalogue or a file.

Nothing is downloaded; what is missing is named together with the command that brings it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lipsync_core.errors import WeightsError
from lipsync_core.weights import files, tensors
from lipsync_core.weights.catalog import CATALOG, Entry, entry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lipsync_core.models.vgg import Lpips
    from lipsync_core.models.videomae import VideoMAE

VGG = "vgg16"
HEADS = "lpips-vgg16"
VIDEOMAE = "videomae-v2-g"
"""Rows of the catalogue; the first and the last are also what a recipe says by default."""


def lpips(vgg: str = VGG) -> Lpips:
    """LPIPS in float32 on the CPU, with the VGG16 called ``vgg`` (a row or a path).

    Its linear layers come from the row ``lpips-vgg16`` or, where that file is absent, from an
    installed torchmetrics, which brings the same 7 kB.
    """
    from lipsync_core.models.vgg import Lpips

    return Lpips().load(_read(vgg, entry(VGG)), _heads()).train(False)


def _heads() -> dict[str, Tensor]:
    path = files.find(HEADS)
    if path is None and (package := find_spec("torchmetrics")) is not None:
        shipped = Path(package.origin or "").parent / "functional/image/lpips_models/vgg.pth"
        path = shipped if shipped.is_file() else None
    return tensors.load(HEADS, path=path)


def videomae(name: str = VIDEOMAE, *, dtype: torch.dtype | None = None) -> VideoMAE:
    """VideoMAE v2 (ViT-g) on the CPU from the row or path ``name``.

    ``dtype``: of the weights; None keeps that of the file, float16 in the published one (2 GB).
    """
    import torch

    from lipsync_core.models.videomae import VideoMAE, config_of

    state = _read(name, entry(VIDEOMAE))
    with torch.device("meta"):
        net = VideoMAE(config_of({key: tuple(value.shape) for key, value in state.items()}))
    net.load_state_dict(state, assign=True)
    return net.to(dtype).requires_grad_(False).train(False)


def _read(name: str, row: Entry) -> dict[str, Tensor]:
    """Tensors of the row called ``name``, or of the file there, which must be of the kind of ``row``."""
    if name not in {other.name for other in CATALOG}:
        path = Path(name).expanduser()
        if not path.is_file():
            raise WeightsError(
                f"'{name}' is neither a file nor a model of the catalogue; take {row.name}"
            )
        return tensors.load(row.name, path=path)
    if entry(name).kind != row.kind:
        raise WeightsError(f"{name} is {entry(name).title}, but {row.title} is needed: {row.name}")
    return tensors.load(name)
