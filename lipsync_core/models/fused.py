"""Layers of inference on an NVIDIA GPU for which PyTorch has no kernel, or one of another layout.

``kernels.py`` has them in Triton, which comes with PyTorch's CUDA builds for Linux. They are asked for
with ``LIPSYNC_KERNELS=on``: so far they have run in Triton's interpreter alone, where they give PyTorch's
numbers (``tests/core/models/test_kernels.py``); ``benchmarks/kernels.py`` is to say on a GPU what they
bring. Where they do not work (Triton needs a C compiler at its first use), where gradients are wanted,
and where PyTorch compiles (it fuses then by itself), the caller's plain layers run.
"""

from __future__ import annotations

import logging
import os

import torch
import torch.nn.functional as F
from torch import Tensor, nn

log = logging.getLogger("lipsync.kernels")

FRAMES = 32
"""Most frames that the attention over time takes."""


_KNOWN: dict[torch.device, bool] = {}


def works(device: torch.device) -> bool:
    """Tried once on small numbers: a GPU, driver or compiler that they fail on is no reason to stop."""
    if device not in _KNOWN:
        _KNOWN[device] = device.type == "cuda" and _tried(device)
    return _KNOWN[device]


def is_fused(x: Tensor) -> bool:
    """Whether ``x`` is to be computed by the kernels."""
    return _fits(x) and not torch.compiler.is_compiling() and works(x.device)


def attends_frames(x: Tensor) -> bool:
    """Whether ``attend_frames`` takes ``x``, ``(B, T, P, D)``: also where PyTorch compiles, if ``works``
    was asked before."""
    if not _fits(x) or x.shape[1] > FRAMES:
        return False
    return _KNOWN.get(x.device, False) if torch.compiler.is_compiling() else works(x.device)


def _fits(x: Tensor) -> bool:
    return (
        x.is_cuda
        and not torch.is_grad_enabled()
        and x.dtype in (torch.float16, torch.bfloat16, torch.float32)
    )


def _tried(device: torch.device) -> bool:
    if torch.version.hip or os.environ.get("LIPSYNC_KERNELS", "off").lower() != "on":
        return False
    try:
        from . import kernels
    except ImportError:
        return False
    try:
        x = torch.linspace(-1, 1, 2 * 5 * 64, device=device).sin().view(2, 5, 64)
        ones, zeros = x.new_ones(64), x.new_zeros(64)
        normed = F.group_norm(x.transpose(1, 2), 32, eps=1e-5).transpose(1, 2)
        halves = x.flatten(0, 1).chunk(2, dim=-1)
        seen = F.scaled_dot_product_attention(*[x.view(2, 5, 4, 16).transpose(1, 2)] * 3)
        pairs = (
            (kernels.group_norm(x, ones, zeros, 32, 1e-5, None, False), normed),
            (kernels.gate(x.flatten(0, 1)), halves[0] * F.gelu(halves[1])),
            (
                kernels.attend_frames(*[x[:, :, None]] * 3, 4)[:, :, 0],
                seen.transpose(1, 2).flatten(2),
            ),
        )
        wrong = max(float((got - expected).abs().max()) for got, expected in pairs)
        if not wrong < 1e-3:
            raise RuntimeError(f"results are off by {wrong:.1g}")
    except Exception as error:
        log.warning(
            "the Triton kernels do not work here, PyTorch's own are used (slower): %s",
            str(error).strip().partition("\n")[0] or type(error).__name__,
        )
        return False
    return True


def group_norm(
    x: Tensor, norm: nn.GroupNorm, frames: int, add: Tensor | None = None, silu: bool = False
) -> Tensor:
    """``norm`` of ``(B*T, C, H, W)`` over groups of channels, ``frames``, H and W; channels-last.

    ``add``: ``(B*T / frames, C)``, added to ``x`` before. ``silu``: SiLU of the result.
    """
    from . import kernels

    count, channels, height, breadth = x.shape
    rows = x.permute(0, 2, 3, 1).contiguous().view(count // frames, -1, channels)
    if add is not None:
        add = add.contiguous()
    made = kernels.group_norm(rows, norm.weight, norm.bias, norm.num_groups, norm.eps, add, silu)
    return made.view(count, height, breadth, channels).permute(0, 3, 1, 2)


def attend_frames(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """All ``(B, T, P, D)``, T at most ``FRAMES``: at each of the ``P`` places frames look at frames."""
    if torch.compiler.is_compiling():
        return torch.ops.lipsync.attend_frames(query, key, value, heads)
    return _attend_frames(query, key, value, heads)


def _attend_frames(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    from . import kernels

    return kernels.attend_frames(query.contiguous(), key.contiguous(), value.contiguous(), heads)


# what PyTorch's compiler sees of it: one operation whose result has the shape of the queries
if hasattr(torch.library, "custom_op"):
    torch.library.custom_op("lipsync::attend_frames", _attend_frames, mutates_args=())
    torch.library.register_fake(
        "lipsync::attend_frames",
        lambda query, key, value, heads: query.new_empty(query.shape),
    )


def gate(both: Tensor) -> Tensor:
    """``(..., 2 I)`` to ``(..., I)``: the first half scaled by GELU of the second."""
    from . import kernels

    return kernels.gate(both.flatten(0, -2).contiguous()).unflatten(0, both.shape[:-1])
