"""VideoMAE v2's encoder against the original's numbers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file  # noqa: E402

from lipsync_core.models.videomae import VideoMAE, VideoMAEConfig, config_of, positions  # noqa: E402
from lipsync_core.weights import tensors  # noqa: E402

TINY = VideoMAEConfig(width=64, depth=2, heads=4, inner=279)
"""Of the reference data."""


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def net(seeded):
    network = VideoMAE(TINY)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    network.load_state_dict(seeded(shapes, 20240601))
    return network.requires_grad_(False)


@pytest.fixture
def frames():
    draw = torch.Generator().manual_seed(1)
    return torch.rand(2, 4, 3, 28, 42, generator=draw)


def test_names_and_shapes_are_those_of_the_published_checkpoint(golden):
    facts = json.loads(golden("latentsync/keys_videomaev2_vit_g.json").read_text())
    shapes = {name: tuple(fact["shape"]) for name, fact in facts["keys"].items()}
    assert config_of(shapes) == VideoMAEConfig()
    assert tensors.identify(shapes).name == "videomae"
    with torch.device("meta"):
        network = VideoMAE(config_of(shapes))
    assert {name: tuple(t.shape) for name, t in network.state_dict().items()} == shapes
    assert sum(p.numel() for p in network.parameters()) == facts["param_count"]


def test_the_configuration_is_read_off_the_tensors(net):
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    # heads leave no trace
    assert replace(config_of(shapes), heads=4) == TINY
    headless = {name: shape for name, shape in shapes.items() if not name.startswith("head.")}
    assert config_of(headless).classes == 0
    assert VideoMAE(config_of(headless)).state_dict().keys() == headless.keys()


def test_positions_are_the_original_s(golden):
    io = load_file(golden("latentsync/trepa_tiny_io.safetensors"))
    rows = positions(2048, 64)[[0, 1, 256, 2047]]
    torch.testing.assert_close(rows, io["pos_embed_tokens_0_1_256_2047"], atol=1e-7, rtol=0)


@torch.no_grad()
def test_features_are_the_original_s(net, golden):
    io = load_file(golden("latentsync/trepa_tiny_io.safetensors"))
    clip = io["real"].float().transpose(1, 2)[0]
    large = torch.nn.functional.interpolate(clip, (224, 224), mode="bicubic") / 2 + 0.5
    found = net(large.clamp(0, 1)[None])
    torch.testing.assert_close(found, io["features_real"], atol=1e-5, rtol=0)


def test_checkpointing_changes_memory_alone(net, frames):
    kept = []

    def gradient():
        seen = frames.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            features = net(seen)
        features.square().sum().backward()
        return seen.grad

    plain, count = gradient(), len(kept)
    kept.clear()
    net.checkpointing = True
    again = gradient()
    net.checkpointing = False
    torch.testing.assert_close(again, plain, atol=0, rtol=0)
    assert len(kept) < count / 2


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near(net, frames, dtype):
    half = VideoMAE(TINY)
    half.load_state_dict(net.state_dict())
    half.to(dtype)
    assert half.dtype == dtype
    exact, near = net(frames), half(frames.to(dtype)).float()
    assert near.isfinite().all()
    assert torch.nn.functional.cosine_similarity(exact, near).min() > 0.999


@torch.no_grad()
def test_order_of_frames_matters_and_odd_counts_are_refused(net, frames):
    assert (net(frames) - net(frames.flip(1))).abs().max() > 1e-3
    # two clips in one call are two calls
    torch.testing.assert_close(net(frames)[1:], net(frames[1:]), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="2 frames at a time, which 3 frames"):
        net(frames[:, :3])
