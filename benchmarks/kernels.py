"""The Triton kernels beside PyTorch's own, at the shapes of LatentSync's denoiser for 512 px.

    LIPSYNC_KERNELS=on python benchmarks/kernels.py [--side 64] [--profile]

One JSON line for each kernel and precision: the largest difference from PyTorch in double precision
(of the attention: from PyTorch in the same), milliseconds of both. Then one guided call of the whole
denoiser on a window, with random weights, without and with the kernels, and what the kernels of each
call took (``--profile``). Needs a CUDA GPU.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import torch
import torch.nn.functional as F
from latentsync import random_weights
from torch import Tensor

from lipsync_core.models import fused
from lipsync_core.models.unet3d import UNetConfig

DEVICE = torch.device("cuda")


def milliseconds(call: Callable[[], object], times: int = 20) -> float:
    for _ in range(3):
        call()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(times):
        call()
    end.record()
    torch.cuda.synchronize()
    return round(begin.elapsed_time(end) / times, 3)


def say(**words: object) -> None:
    print(json.dumps(words), flush=True)


def norms(dtype: torch.dtype, side: int) -> None:
    x = torch.randn(32, 320, side, side, device=DEVICE, dtype=dtype) * 2 + 3
    x = x.contiguous(memory_format=torch.channels_last)
    norm = torch.nn.GroupNorm(32, 320, device=DEVICE, dtype=dtype)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    for frames in (1, 16):
        tall = x.double().permute(0, 2, 3, 1).reshape(32 // frames, frames * side, side, 320)
        right = F.group_norm(
            tall.permute(0, 3, 1, 2), 32, norm.weight.double(), norm.bias.double(), norm.eps
        )
        right = F.silu(right).permute(0, 2, 3, 1).reshape(32, side, side, 320).permute(0, 3, 1, 2)
        got = fused.group_norm(x, norm, frames, silu=True)
        say(
            kernel=f"norm and SiLU over {frames} frames",
            dtype=str(dtype),
            off=(got - right).abs().max().item(),
            ms=milliseconds(lambda frames=frames: fused.group_norm(x, norm, frames, silu=True)),
            torch_ms=milliseconds(lambda: F.silu(norm(x))),
        )


def frames(dtype: torch.dtype, side: int) -> None:
    for places, width in ((side**2, 320), (side**2 // 4, 640), (side**2 // 16, 1280)):
        tokens = torch.randn(3, 2, 16, places, width, device=DEVICE, dtype=dtype)

        def theirs(tokens: Tensor = tokens, width: int = width) -> Tensor:
            split = (t.flatten(2).unflatten(2, (-1, width // 8)).transpose(1, 2) for t in tokens)
            return F.scaled_dot_product_attention(*split).transpose(1, 2)

        got, right = fused.attend_frames(*tokens, 8), theirs().reshape(tokens[0].shape)
        say(
            kernel=f"attention over 16 frames at {places} places of {width}",
            dtype=str(dtype),
            off=(got - right).abs().max().item(),
            ms=milliseconds(lambda tokens=tokens: fused.attend_frames(*tokens, 8)),
            torch_ms=milliseconds(theirs),
        )


def gate(dtype: torch.dtype, side: int) -> None:
    both = torch.randn(32 * side**2, 2560, device=DEVICE, dtype=dtype)
    hidden, scale = both.chunk(2, dim=-1)
    say(
        kernel="gate",
        dtype=str(dtype),
        off=(fused.gate(both) - hidden.double() * F.gelu(scale.double())).abs().max().item(),
        ms=milliseconds(lambda: fused.gate(both)),
        torch_ms=milliseconds(lambda: hidden * F.gelu(scale)),
    )


def whole(side: int, profiled: bool) -> None:
    network = random_weights(UNetConfig())
    network.to(DEVICE, torch.float16, memory_format=torch.channels_last)  # type: ignore[call-overload]
    sample = torch.randn(1, 13, 16, side, side, device=DEVICE, dtype=torch.float16)
    keys = network.listen(torch.randn(16, 50, 384, device=DEVICE, dtype=torch.float16))
    time = torch.tensor(261, device=DEVICE)
    works, made = fused.works, {}
    for name, answer in (("plain", lambda device: False), ("kernels", works)):
        fused.works = answer

        def call() -> Tensor:
            return network(sample, time, keys, guided=True)

        made[name] = call().float()
        say(call=name, ms=milliseconds(call, 5))
        if profiled:
            with torch.profiler.profile(
                activities=[torch.profiler.ProfilerActivity.CUDA]
            ) as profile:
                call()
                torch.cuda.synchronize()
            rows = sorted(profile.key_averages(), key=lambda row: -row.self_device_time_total)
            for row in rows[:25]:
                say(ms=round(row.self_device_time_total / 1e3, 2), times=row.count, what=row.key)
    plain, fast = made["plain"], made["kernels"]
    say(difference_rms=((fast - plain).norm() / plain.norm()).item())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=64, help="of the latent; 64 is 512 px")
    parser.add_argument("--profile", action="store_true")
    choices = parser.parse_args()
    if not torch.cuda.is_available() or not fused.works(DEVICE):
        raise SystemExit("needs a CUDA GPU, Triton, and LIPSYNC_KERNELS=on")
    with torch.no_grad():
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            for one in (norms, frames, gate):
                one(dtype, choices.side)
        whole(choices.side, choices.profile)


if __name__ == "__main__":
    main()
