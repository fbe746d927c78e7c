"""What is inside a weights file: safe reading, telling networks apart by their tensors, renaming."""

from __future__ import annotations

import json
import logging
import os
import re
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import WeightsError
from . import files
from .catalog import entry

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("lipsync.weights")

Shapes = Mapping[str, tuple[int, ...]]

WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which trainers put the tensors: LatentSync, OpenAI, VideoMAE, DeepSpeed."""

_HEADER_LIMIT = 100_000_000
"""Bytes; the limit of the safetensors format."""


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in ``path``, without reading their values."""
    _refuse_text(path)
    if path.suffix == ".safetensors":
        return _header(path)
    return {name: tuple(t.shape) for name, t in _unwrap(_unpickle(path, "meta"), path).items()}


def read_tensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """All tensors of ``path`` (safetensors, or a pickle read with ``weights_only``), unwrapped.

    On the CPU they are views of the file where its format allows it, so that nothing is read before
    it is used.
    """
    _refuse_text(path)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return _plain_names(load_file(path, device=device))
        except SafetensorError as error:
            raise _damaged(path, error) from error
    return _unwrap(_unpickle(path, device), path)


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _HEADER_LIMIT:
                raise ValueError("not a safetensors header")
            facts = json.loads(stream.read(length))
        facts.pop("__metadata__", None)
        return {name: tuple(int(side) for side in fact["shape"]) for name, fact in facts.items()}
    except (OSError, ValueError, struct.error, AttributeError, LookupError, TypeError) as error:
        raise _damaged(path, error) from error


def _refuse_text(path: Path) -> None:
    """The most common broken downloads are a web page and a pointer of git-lfs."""
    try:
        with path.open("rb") as stream:
            start = stream.read(64).lstrip()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror})") from error
    if not start:
        raise WeightsError(f"{path} is empty; delete it and download it again")
    if start.startswith(b"<"):
        raise WeightsError(f"{path} is a web page, not weights; delete it and download it again")
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(
            f"{path} is a git-lfs pointer, not the weights; run 'git lfs pull' there or download it again"
        )


def _damaged(path: Path, error: Exception) -> WeightsError:
    reason = (
        str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
    )
    return WeightsError(
        f"{path} is damaged or not a weights file ({reason}); delete it and download it again"
    )


def _unpickle(path: Path, device: str) -> Any:
    import pickle

    import torch

    try:
        return torch.load(
            path, map_location=device, weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() or "Unsupported" in str(error):
            raise WeightsError(
                f"{path} holds more than tensors and is not read, for it could run code; "
                "get the published file or a safetensors file"
            ) from error
        raise _damaged(path, error) from error
    except Exception as error:
        # the unpickler follows whatever bytes it meets; what it stumbles over is anybody's guess
        raise _damaged(path, error) from error


def _unwrap(loaded: Any, path: Path) -> dict[str, Tensor]:
    import torch

    for _ in range(2):
        inner = next(
            (loaded[key] for key in WRAPPERS if isinstance(loaded, dict) and key in loaded), None
        )
        if not isinstance(inner, dict):
            break
        loaded = inner
    if not isinstance(loaded, dict):
        raise WeightsError(f"{path} holds a {type(loaded).__name__}, not a set of tensors")
    tensors = {key: value for key, value in loaded.items() if torch.is_tensor(value)}
    if not tensors:
        raise WeightsError(f"{path} holds no tensors")
    return _plain_names(tensors)


def _plain_names(tensors: dict[str, Any]) -> dict[str, Any]:
    """Without the prefixes that parallel training and compiling put before every name."""
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name[len(prefix) :]: value for name, value in tensors.items()}
    return tensors


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A network that we can tell by its tensors."""

    name: str
    title: str
    test: Callable[[Shapes], bool]


def _latentsync(shapes: Shapes) -> bool:
    first = shapes.get("conv_in.weight", ())
    return len(first) == 4 and first[1] == 13 and "up_blocks.3.resnets.2.conv2.weight" in shapes


def _moves(shapes: Shapes, part: str) -> bool:
    return any(name.startswith(part) and ".motion_modules." in name for name in shapes)


def _sync(shapes: Shapes, channels: int, attention: bool) -> bool:
    seen = shapes.get("visual_encoder.conv_in.weight", ())
    has = any(".attn.to_q." in name for name in shapes)
    heard = "audio_encoder.conv_in.weight" in shapes
    return heard and len(seen) == 4 and seen[1] == channels and has == attention


def _vgg(shapes: Shapes, last: int) -> bool:
    """``last``: number of the last convolution. With batch norms number 1 has weights too."""
    plain = "features.1.weight" not in shapes and f"features.{last + 2}.weight" not in shapes
    ends = (shapes.get(f"features.{number}.weight") for number in (0, last))
    return plain and list(ends) == [(64, 3, 3, 3), (512, 512, 3, 3)]


def _has(*names: str) -> Callable[[Shapes], bool]:
    return lambda shapes: all(name in shapes for name in names)


KINDS: tuple[Kind, ...] = (
    Kind(
        name="latentsync-unet-motion",
        title="a LatentSync UNet with motion modules (1.5 or 1.6)",
        test=lambda s: _latentsync(s) and _moves(s, "down_blocks."),
    ),
    Kind(
        name="latentsync-unet-decoder-motion",
        title="a LatentSync UNet with motion modules in the decoder only",
        test=lambda s: _latentsync(s) and _moves(s, "up_blocks."),
    ),
    Kind(
        name="latentsync-unet",
        title="a LatentSync UNet without motion modules (1.0, or stage 1 of training)",
        test=_latentsync,
    ),
    Kind(
        name="musetalk-unet",
        title="a MuseTalk UNet",
        test=lambda s: (
            s.get("conv_in.weight", (0, 0))[1] == 8
            and s.get("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight", (0, 0))[1]
            == 384
        ),
    ),
    Kind(
        name="sd-unet",
        title="a Stable Diffusion UNet",
        test=_has("conv_in.weight", "mid_block.resnets.0.conv1.weight"),
    ),
    Kind(
        name="sd-checkpoint",
        title="a whole Stable Diffusion checkpoint",
        test=lambda s: any(name.startswith("model.diffusion_model.") for name in s),
    ),
    Kind(
        name="syncnet-16-tiny",
        title="the tiny StableSyncNet for 64 px crops",
        test=lambda s: (
            _sync(s, 48, attention=False) and s["visual_encoder.conv_in.weight"][0] == 32
        ),
    ),
    Kind(
        name="syncnet-16-pixel-attn",
        title="StableSyncNet with attention (LatentSync 1.5 or 1.6)",
        test=lambda s: _sync(s, 48, attention=True),
    ),
    Kind(
        name="syncnet-16-pixel",
        title="StableSyncNet without attention (LatentSync 1.0)",
        test=lambda s: _sync(s, 48, attention=False),
    ),
    Kind(
        name="syncnet-16-latent",
        title="StableSyncNet on latents",
        test=lambda s: _sync(s, 64, attention=False),
    ),
    Kind(
        name="syncnet-25-pixel",
        title="StableSyncNet on 25 frames",
        test=lambda s: _sync(s, 75, attention=False),
    ),
    Kind(
        name="whisper-openai",
        title="Whisper in OpenAI's layout",
        test=_has("encoder.conv1.weight", "encoder.blocks.0.attn.query.weight"),
    ),
    Kind(
        name="whisper-hf",
        title="Whisper in Hugging Face's layout",
        test=lambda s: (
            any(name.endswith("encoder.layers.0.self_attn.q_proj.weight") for name in s)
            and any(name.endswith("encoder.conv1.weight") for name in s)
        ),
    ),
    Kind(
        name="sd-vae",
        title="a Stable Diffusion VAE",
        test=lambda s: any(
            _has(f"{p}quant_conv.weight", f"{p}encoder.{first}.conv1.weight")(s)
            and s[f"{p}quant_conv.weight"][0] == 8
            for p in ("", "first_stage_model.")
            for first in ("down_blocks.0.resnets.0", "down.0.block.0")
        ),
    ),
    Kind(
        name="taesd",
        title="TAESD",
        test=lambda s: (
            s.get("decoder.layers.0.weight", (0, 0))[1] == 4 and "encoder.layers.0.weight" in s
        ),
    ),
    Kind(
        name="syncnet-v2",
        title="SyncNet v2",
        test=_has("netcnnaud.0.weight", "netcnnlip.0.weight"),
    ),
    Kind(
        name="hyperiqa",
        title="HyperIQA",
        test=_has("res.lda1_pool.0.weight", "fc1w_conv.weight", "fc5b_fc.weight"),
    ),
    Kind(
        name="videomae",
        title="an encoder of VideoMAE v2",
        test=lambda s: (
            len(s.get("patch_embed.proj.weight", ())) == 5
            and _has("blocks.0.attn.q_bias", "fc_norm.weight")(s)
        ),
    ),
    Kind(name="vgg16", title="VGG16", test=lambda s: _vgg(s, 28)),
    Kind(name="vgg19", title="VGG19", test=lambda s: _vgg(s, 34)),
    Kind(
        name="lpips-vgg16",
        title="the linear layers of LPIPS on VGG16",
        test=lambda s: (
            [s.get(f"lin{n}.model.1.weight", (0, 0))[1] for n in range(5)]
            == [64, 128, 256, 512, 512]
        ),
    ),
    Kind(
        name="wav2lip",
        title="Wav2Lip",
        test=_has("face_encoder_blocks.0.0.conv_block.0.weight", "output_block.1.weight"),
    ),
    Kind(
        name="wav2lip-syncnet",
        title="Wav2Lip's SyncNet",
        test=_has("face_encoder.0.conv_block.0.weight", "audio_encoder.0.conv_block.0.weight"),
    ),
)
"""In the order of asking: a row may rely on those before it having said no."""


def identify(shapes: Shapes) -> Kind | None:
    """The network that has these tensors, or None."""
    return next((kind for kind in KINDS if kind.test(shapes)), None)


def require(path: Path, *kinds: str) -> Kind:
    """What ``path`` holds, which must be one of ``kinds``; otherwise ``WeightsError`` names both."""
    shapes = read_shapes(path)
    found = identify(shapes)
    if found is not None and found.name in kinds:
        return found
    wanted = " or ".join(kind.title for kind in KINDS if kind.name in kinds)
    if found is None:
        held = f"{len(shapes)} tensors that no known network has (first: {next(iter(shapes))})"
    else:
        held = found.title
    raise WeightsError(f"{path} holds {held} where {wanted} is needed; put the right file there")


def load(name: str, *, path: Path | None = None, device: str = "cpu") -> dict[str, Tensor]:
    """The tensors of catalogue row ``name``, from ``path`` or wherever ``files.find`` sees them.

    A file of another network is refused, and so is an absent one, both with what to do.
    """
    row = entry(name)
    path = path or files.find(name)
    if path is None:
        raise WeightsError(files.absent(name) or f"{row.title} is not here")
    require(path, row.kind)
    log.debug("reading %s from %s", row.title, path)
    return read_tensors(path, device)


def convert(source: Path, target: Path, *, half: bool = True, overwrite: bool = False) -> Kind:
    """Writes the tensors of ``source`` as safetensors, in float16 if ``half``; returns what it is.

    ``target`` gets its name when it is whole. Unknown networks are refused.
    """
    import torch
    from safetensors.torch import save_file

    if target.suffix != ".safetensors":
        raise WeightsError(f"{target} must end in .safetensors")
    if target.exists() and not overwrite:
        raise WeightsError(f"{target} exists already; name another file or allow to overwrite it")
    kind = identify(read_shapes(source))
    if kind is None:
        raise WeightsError(f"{source} is no network that we know; nothing was written")
    tensors = {
        name: value.to(torch.float16 if half and value.is_floating_point() else value.dtype)
        .contiguous()
        .clone()
        for name, value in read_tensors(source).items()
    }
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        save_file(tensors, part, metadata={"format": "pt", "lipsync": kind.name})
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return kind


_WHISPER = (
    (r"^(encoder|decoder)\.blocks\.", r"\1.layers."),
    (r"\.attn\.", ".self_attn."),
    (r"\.cross_attn\.", ".encoder_attn."),
    (r"_attn\.query\.", "_attn.q_proj."),
    (r"_attn\.key\.", "_attn.k_proj."),
    (r"_attn\.value\.", "_attn.v_proj."),
    (r"_attn\.out\.", "_attn.out_proj."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."),
    (r"\.cross_attn_ln\.", ".encoder_attn_layer_norm."),
    (r"\.mlp\.0\.", ".fc1."),
    (r"\.mlp\.2\.", ".fc2."),
    (r"\.mlp_ln\.", ".final_layer_norm."),
    (r"^encoder\.ln_post\.", "encoder.layer_norm."),
    (r"^encoder\.positional_embedding$", "encoder.embed_positions.weight"),
)


def whisper_encoder(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's part of either Whisper layout, by the names of transformers' ``WhisperEncoder``."""
    return dict(_whisper_encoder(tensors))


def _whisper_encoder(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, value in tensors.items():
        name = name.removeprefix("model.")
        if not name.startswith("encoder."):
            continue
        for old, new in _WHISPER:
            name = re.sub(old, new, name)
        yield name.removeprefix("encoder."), value


_VAE = (
    (r"\bmid\.block_1\.", "mid_block.resnets.0."),
    (r"\bmid\.block_2\.", "mid_block.resnets.1."),
    (r"\bmid\.attn_1\.", "mid_block.attentions.0."),
    (r"\bdown\.(\d)\.block\.", r"down_blocks.\1.resnets."),
    (r"\bdown\.(\d)\.downsample\.", r"down_blocks.\1.downsamplers.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"(attentions\.0\.)norm\.", r"\1group_norm."),
    (r"(attentions\.0\.)(query|q)\.", r"\1to_q."),
    (r"(attentions\.0\.)(key|k)\.", r"\1to_k."),
    (r"(attentions\.0\.)(value|v)\.", r"\1to_v."),
    (r"(attentions\.0\.)(proj_attn|proj_out)\.", r"\1to_out.0."),
)
"""The first half is CompVis' layout, the last lines also older files of diffusers."""


def vae_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The VAE's part of any layout of it, by the names of diffusers' ``AutoencoderKL``."""
    result = {}
    levels = [
        int(found[1]) for name in tensors if (found := re.search(r"decoder\.up\.(\d)\.", name))
    ]
    top = max(levels, default=0)
    for name, value in tensors.items():
        if "first_stage_model." in name:
            name = name.partition("first_stage_model.")[2]
        if not re.match(r"(encoder|decoder|quant_conv|post_quant_conv)\.", name):
            continue
        for old, new in _VAE:
            name = re.sub(old, new, name)
        # CompVis counts the levels of the decoder from the finest
        name = re.sub(
            r"\bup\.(\d)\.(block|upsample)\.",
            lambda m: (
                f"up_blocks.{top - int(m[1])}."
                + ("resnets." if m[2] == "block" else "upsamplers.0.")
            ),
            name,
        )
        if "attentions.0.to_" in name and value.dim() == 4:
            value = value[:, :, 0, 0]
        result[name] = value
    return result
