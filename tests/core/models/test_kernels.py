"""The Triton kernels against PyTorch: on a GPU where there is one, in Triton's interpreter elsewhere."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402

ROOT = Path(__file__).parents[3]
INTERPRETED = not torch.cuda.is_available()
if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton comes with PyTorch's CUDA builds alone", allow_module_level=True)
if INTERPRETED:
    if "triton" in sys.modules:
        pytest.skip(
            "Triton was imported to compile; it cannot interpret now", allow_module_level=True
        )
    os.environ["TRITON_INTERPRET"] = "1"
DEVICE = "cpu" if INTERPRETED else "cuda"

from lipsync_core.models import fused, kernels  # noqa: E402


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize(("windows", "rows", "width"), [(2, 300, 64), (3, 70, 320), (1, 130, 96)])
def test_group_norm_of_values_far_from_zero(windows, rows, width, adds, silu):
    x = numbers(windows, rows, width) * 2 + numbers(width, seed=1) * 30
    weight, bias, add = (
        numbers(width, seed=2),
        numbers(width, seed=3),
        numbers(windows, width, seed=4),
    )
    given = x + add[:, None] if adds else x
    expected = F.group_norm(
        given.double().transpose(1, 2), 32, weight.double(), bias.double(), 1e-5
    ).transpose(1, 2)
    expected = F.silu(expected) if silu else expected
    got = kernels.group_norm(x, weight, bias, 32, 1e-5, add if adds else None, silu)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("batch", "frames", "places", "width", "heads"),
    [(2, 16, 5, 64, 8), (1, 7, 9, 80, 2), (1, 24, 3, 40, 1), (2, 1, 4, 64, 8)],
)
def test_attention_over_the_frames_of_a_place(batch, frames, places, width, heads):
    tokens = [numbers(batch, frames, places, width, seed=k) for k in range(3)]
    split = [t.unflatten(-1, (heads, -1)).permute(0, 2, 3, 1, 4) for t in tokens]
    expected = F.scaled_dot_product_attention(*split).permute(0, 3, 1, 2, 4).flatten(3)
    got = fused.attend_frames(*tokens, heads)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_a_gate_is_half_scaled_by_gelu_of_the_other():
    both = numbers(7, 10, 2 * 96)
    hidden, gate = both.chunk(2, dim=-1)
    torch.testing.assert_close(fused.gate(both), hidden * F.gelu(gate), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(INTERPRETED, reason="needs a CUDA GPU")
@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_denoiser_is_the_same_with_and_without_kernels(dtype, monkeypatch):
    from lipsync_core.models.unet3d import UNet3D, UNetConfig

    torch.manual_seed(0)
    net = UNet3D(UNetConfig(channels=(32, 32, 32, 64))).train(False)
    for parameter in net.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    net = net.to(DEVICE, dtype, memory_format=torch.channels_last)
    sample, audio = numbers(1, 13, 16, 16, 16).to(dtype), numbers(16, 50, 384).to(dtype)
    monkeypatch.setenv("LIPSYNC_KERNELS", "on")
    monkeypatch.setattr(fused, "_KNOWN", {})
    assert fused.is_fused(sample)
    got = net(sample, 261, audio, guided=True)
    monkeypatch.setattr(fused, "works", lambda device: False)
    expected = net(sample, 261, audio, guided=True)
    away = (got.float() - expected.float()).norm() / expected.float().norm()
    assert 0 < away < {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]


@pytest.mark.parametrize(("word", "told"), [("", ""), ("off", ""), ("on", "do not work here")])
def test_kernels_run_on_request_and_a_machine_on_which_they_fail_goes_on(word, told):
    asked = "import torch; from lipsync_core.models import fused; print(fused.works(torch.device('cuda', 99)))"
    done = subprocess.run(
        [sys.executable, "-c", asked],
        cwd=ROOT,
        env={**os.environ, "LIPSYNC_KERNELS": word},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "False"
    assert told in done.stderr
    assert bool(done.stderr) == bool(told)
