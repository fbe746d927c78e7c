"""Norms over a window of frames, with what stands before and after them."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from lipsync_core.models import norm as norms  # noqa: E402
from lipsync_core.models.attention import FeedForward  # noqa: E402
from lipsync_core.models.norm import group_norm, join_activations, norm_silu  # noqa: E402


@torch.no_grad()
def test_joint_norm_shares_statistics_over_the_window_alone():
    make = torch.Generator().manual_seed(1)
    norm = torch.nn.GroupNorm(4, 8)
    x = torch.randn(6, 8, 3, 5, generator=make)
    joint = group_norm(x.contiguous(memory_format=torch.channels_last), norm, 3)
    expected = norm(x.unflatten(0, (2, 3)).transpose(1, 2)).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(joint, expected)
    torch.testing.assert_close(group_norm(x, norm, 1), norm(x))


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("learns", [False, True])
def test_what_is_added_before_the_norm_is_the_same_for_a_window(frames, learns):
    make = torch.Generator().manual_seed(2)
    norm = torch.nn.GroupNorm(4, 8)
    x = torch.randn(6, 8, 3, 5, generator=make).contiguous(memory_format=torch.channels_last)
    add = torch.randn(2, 8, generator=make)
    expected = F.silu(
        group_norm(x + add.repeat_interleave(3, dim=0)[:, :, None, None], norm, frames)
    )
    before = x.clone()
    with torch.set_grad_enabled(learns):
        torch.testing.assert_close(norm_silu(x, norm, frames, add), expected)
    if learns:
        assert torch.equal(x, before)


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("adds", [False, True])
@torch.no_grad()
def test_the_way_through_planes_gives_the_same(frames, adds, monkeypatch):
    """As on CUDA, whose norm answers in planes whatever memory it gets."""
    make = torch.Generator().manual_seed(2)
    norm = torch.nn.GroupNorm(4, 8)
    torch.nn.init.normal_(norm.weight, generator=make)
    x = torch.randn(6, 8, 3, 5, generator=make).contiguous(memory_format=torch.channels_last)
    add = torch.randn(2, 8, generator=make) if adds else None
    expected = norm_silu(x.clone(), norm, frames, add)
    usual = F.group_norm
    monkeypatch.setattr(norms, "_is_planar", lambda _: True)
    monkeypatch.setattr(F, "group_norm", lambda x, *given: usual(x.contiguous(), *given))
    before = x.clone()
    got = norm_silu(x, norm, frames, add)
    torch.testing.assert_close(got, expected)
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x, before)


class Ops(TorchDispatchMode):
    """Names of the operations that run, but for views."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.names.append(op.overloadpacket.__name__)
        return op(*args, **(kwargs or {}))


@pytest.mark.parametrize(("adds", "copies"), [(False, 1), (True, 0)])
@torch.no_grad()
def test_planes_cost_no_copies_where_something_is_computed_anyway(adds, copies):
    with torch.device("meta"):
        norm, add = torch.nn.GroupNorm(4, 8), torch.empty(2, 8) if adds else None
        x = torch.empty(6, 8, 3, 5).contiguous(memory_format=torch.channels_last)
        with Ops() as ops:
            made = norm_silu(x, norm, 3, add)
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert ops.names.count("clone") == copies


@torch.no_grad()
def test_the_last_layer_of_a_feed_forward_adds_its_bias_by_itself():
    with torch.device("meta"):
        layer, tokens = FeedForward(8), torch.empty(2, 5, 8)
        with Ops() as ops:
            layer(tokens)
    assert ops.names.count("addmm") == 2
    assert "mm" not in ops.names


@torch.no_grad()
def test_an_autoencoder_with_joined_activations_draws_the_same():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(3)
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 64),
        latent_channels=4,
    ).train(False)
    names = set(vae.state_dict())
    pictures, latents = torch.randn(2, 3, 16, 16), torch.randn(2, 4, 8, 8)
    expected = vae.encode(pictures).latent_dist.mode(), vae.decode(latents).sample
    join_activations(vae)
    torch.testing.assert_close(vae.encode(pictures).latent_dist.mode(), expected[0])
    torch.testing.assert_close(vae.decode(latents).sample, expected[1])
    assert set(vae.state_dict()) == names
    assert not [m for m in vae.modules() if isinstance(m, torch.nn.SiLU)], "an activation was left"
