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
    from torch import Tensor, nn

    from lipsync_core.engines.latentsync.pictures import Pictures
    from lipsync_core.models.syncnet import StableSyncNet
    from lipsync_core.models.vgg import Lpips
    from lipsync_core.models.videomae import VideoMAE

VGG = "vgg16"
HEADS = "lpips-vgg16"
VIDEOMAE = "videomae-v2-g"
VAE = "sd-vae-ft-mse"
"""Rows of the catalogue, of which a recipe may name others of the same kind."""


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


def pictures(name: str, device: torch.device, *, exact: bool = True, batch: int = 16) -> Pictures:
    """The VAE, or an autoencoder of TAESD's kind (a row or a path), on ``device``.

    ``exact``: in float32; otherwise in float16.
    """
    import torch

    from lipsync_core.engines.latentsync.pictures import Pictures, build_taesd, build_vae

    kind, loaded = _of_kinds(name, ("sd-vae", "taesd"), VAE)
    dtype = torch.float32 if exact else torch.float16
    if kind == "taesd":
        vae = build_taesd({key: value.float() for key, value in loaded.items()})
    else:
        vae = build_vae(tensors.vae_names(loaded))
    # past diffusers' own ``to``, which warns about nothing
    torch.nn.Module.to(vae, device, dtype)
    return Pictures(vae, tiny=kind == "taesd", batch=batch)


def syncnet(name: str) -> StableSyncNet:
    """StableSyncNet of whichever kind the row or path ``name`` holds, in float32 on the CPU."""
    from lipsync_core.models.syncnet import BY_KIND, StableSyncNet

    found = _of_kinds(name, tuple(BY_KIND), "latentsync-1.6-syncnet")
    net = StableSyncNet(BY_KIND[found[0]])
    net.load_state_dict({key: value.float() for key, value in found[1].items()})
    return net.requires_grad_(False).train(False)


def whisper(name: str) -> nn.Module:
    """The encoder of the row or path ``name``, in float32 on the CPU."""
    from lipsync_core.audio.whisper import build_encoder

    _, loaded = _of_kinds(name, ("whisper-openai", "whisper-hf"), "whisper-tiny")
    encoder = tensors.whisper_encoder(loaded)
    return build_encoder({key: value.float() for key, value in encoder.items()})


def digest(network: nn.Module) -> str:
    """Changes with any weight; names what was computed with them."""
    import hashlib

    state = network.state_dict()
    found = hashlib.blake2b(digest_size=8)
    for name in sorted(state):
        found.update(name.encode() + state[name].cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


UNETS = (
    "latentsync-unet-motion",
    "latentsync-unet-decoder-motion",
    "latentsync-unet",
    "sd-unet",
)


def unet_tensors(name: str) -> dict[str, Tensor]:
    """Tensors of a LatentSync or Stable Diffusion 1.5 UNet: a row (``sd15`` is one) or a path."""
    return _of_kinds(name, UNETS, "sd15")[1]


def _of_kinds(name: str, kinds: tuple[str, ...], example: str) -> tuple[str, dict[str, Tensor]]:
    """Kind and tensors of the row called ``name``, or of the file there."""
    rows = {row.name for row in CATALOG}
    if name in rows and entry(name).kind in kinds:
        return entry(name).kind, tensors.load(name)
    path = Path(name).expanduser()
    if name in rows or not path.is_file():
        if path.suffix in (".safetensors", ".pt", ".pth", ".bin", ".ckpt"):
            raise WeightsError(f"there is no file {name}; train it first, or take {example}")
        raise WeightsError(
            f"'{name}' is neither a file nor a fitting model of the catalogue; take {example}"
        )
    return tensors.require(path, *kinds).name, tensors.read_tensors(path)


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
