"""Group norm of frames in channels-last memory, over one frame or over a window of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import fused


def group_norm(x: Tensor, norm: nn.GroupNorm, frames: int = 1) -> Tensor:
    """Normalises ``(B*T, C, H, W)`` with statistics over groups of channels, ``frames``, H and W.

    ``frames`` 1 is the usual norm. With channels-last memory the frames of a window lie behind each
    other like rows of one tall picture, so the joint norm is the usual norm of a view.
    """
    if fused.is_fused(x):
        return fused.group_norm(x, norm, frames)
    count, width, height, breadth = x.shape
    made = _normed(_tall(x, frames), norm)
    if frames > 1:
        made = made.permute(0, 2, 3, 1).reshape(count, height, breadth, width).permute(0, 3, 1, 2)
    return made


def _tall(x: Tensor, frames: int) -> Tensor:
    """``(B, C, T*H, W)`` of ``(B*T, C, H, W)``: a view, if memory is channels-last."""
    if frames == 1:
        return x
    count, width, height, breadth = x.shape
    x = x.permute(0, 2, 3, 1).reshape(count // frames, frames * height, breadth, width)
    return x.permute(0, 3, 1, 2)


def _normed(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    return F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)


def norm_silu(x: Tensor, norm: nn.GroupNorm, frames: int = 1, add: Tensor | None = None) -> Tensor:
    """``group_norm``, then SiLU. ``add``: ``(B, C)``, one row for the frames of a window, comes first.

    ``x`` may be overwritten where no gradient is wanted.
    """
    learns = torch.is_grad_enabled()
    if fused.is_fused(x):
        if add is not None and frames == 1:
            add = add.repeat_interleave(len(x) // len(add), dim=0)
        return fused.group_norm(x, norm, frames, add, silu=True)
    if add is not None and len(add) * frames != len(x):
        add = add.repeat_interleave(len(x) // (len(add) * frames), dim=0)
    if _is_planar(x):
        return _silu_planar(x, norm, frames, add)
    if add is not None:
        rows = add.repeat_interleave(frames, dim=0)[:, :, None, None]
        x = x + rows if learns else x.add_(rows)
    return F.silu(group_norm(x, norm, frames), inplace=not learns)


def _is_planar(x: Tensor) -> bool:
    """Whether PyTorch's group norm wants and gives one plane after the other, and nobody else sees to it."""
    # meta: so that what CUDA does can be counted without it
    planar = x.device.type in ("cuda", "meta")
    return planar and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _silu_planar(x: Tensor, norm: nn.GroupNorm, frames: int, add: Tensor | None) -> Tensor:
    """``norm_silu``: from channels-last memory to planes by the sum, and back by SiLU, so that neither way
    is a copy of its own."""
    tall = _tall(x, frames)
    if add is not None:
        planes = torch.empty_like(tall, memory_format=torch.contiguous_format)
        tall = torch.add(tall, add[:, :, None, None], out=planes)
    out = torch.empty_like(x, memory_format=torch.channels_last)
    torch.ops.aten.silu.out(_normed(tall, norm), out=_tall(out, frames))
    return out


class NormSiLU(nn.GroupNorm):
    """A group norm with the SiLU that follows it."""

    def forward(self, input: Tensor) -> Tensor:
        if fused.is_fused(input):
            return fused.group_norm(input, self, 1, silu=True)
        return F.silu(super().forward(input))


def with_silu(norm: nn.GroupNorm) -> NormSiLU:
    """``norm``, its parameters shared, with SiLU."""
    with torch.device("meta"):
        made = NormSiLU(norm.num_groups, norm.num_channels, norm.eps)
    made.weight, made.bias = norm.weight, norm.bias
    return made.train(norm.training)


def join_activations(vae: Any) -> None:
    """In diffusers' autoencoders of the Stable Diffusion kind, lets each norm do its activation too."""
    for module in list(vae.modules()):
        if isinstance(getattr(module, "nonlinearity", None), nn.SiLU) and isinstance(
            getattr(module, "norm1", None), nn.GroupNorm
        ):
            module.norm1, module.norm2 = with_silu(module.norm1), with_silu(module.norm2)
            module.nonlinearity = nn.Identity()
        if isinstance(getattr(module, "conv_act", None), nn.SiLU) and isinstance(
            getattr(module, "conv_norm_out", None), nn.GroupNorm
        ):
            module.conv_norm_out, module.conv_act = with_silu(module.conv_norm_out), nn.Identity()
