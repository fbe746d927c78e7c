"""The denoiser against the original's numbers, and the shortcuts against the plain way."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file  # noqa: E402

from lipsync_core.models.motion import position_table  # noqa: E402
from lipsync_core.models.unet3d import UNet3D, UNetConfig, config_of  # noqa: E402

TINY = UNetConfig(channels=(32, 32, 32, 64))
VARIANTS = {
    "stage1": {"motion": "none"},
    "noaudio": {"motion": "none", "audio_width": None},
    "motion_noaudio": {"audio_width": None},
    "efficient": {"motion": "decoder"},
    "motion_res_2_4": {"motion_scales": (2, 4)},
    "groups8": {"groups": 8},
    "inflated_gn": {"joint_norm": False},
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def weights(seeded):
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in UNet3D(TINY).state_dict().items()}
    tensors = seeded(shapes, 20240101)
    for key, shape in shapes.items():
        if key.endswith("pos_encoder.pe"):
            tensors[key] = position_table(shape[1], shape[2])
    return tensors


@pytest.fixture(scope="module")
def net(weights):
    return build(weights, TINY)


@pytest.fixture(scope="module")
def io(golden):
    return load_file(golden("latentsync/unet_tiny_io.safetensors"))


def build(weights, config):
    network = UNet3D(config).eval()
    network.load_state_dict({key: weights[key] for key in network.state_dict()})
    return network


def inputs(io, case):
    sample = io["f5.sample" if case == "none" else f"{case}.sample"]
    audio = io.get(f"{case}.audio")
    if case == "f16" and len(audio) == 16:
        # the silent half of a guided batch is not stored
        audio = torch.cat([torch.zeros_like(audio), audio])
    return sample, io[f"{case}.timestep"], audio


def off(got, expected):
    return ((got - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", ["256", "stage1", "stage2_efficient"])
def test_names_and_shapes_are_those_of_the_published_checkpoints(golden, name):
    facts = json.loads(golden(f"latentsync/keys_unet_{name}.json").read_text())
    shapes = {key: tuple(value["shape"]) for key, value in facts["keys"].items()}
    with torch.device("meta"):
        network = UNet3D(config_of(shapes))
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == shapes
    assert len(shapes) == facts["num_keys"]
    assert sum(p.numel() for p in network.parameters()) == facts["param_count"]


@pytest.mark.parametrize("case", ["f1", "f5", "f16", "odd", "none"])
@torch.no_grad()
def test_output_is_the_original_s(net, io, case):
    sample, timestep, audio = inputs(io, case)
    assert off(net(sample, timestep, audio), io[f"{case}.output"]) < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize(
    ("dtype", "allowed"),
    # a few roundings of each precision; the original in float16 and bfloat16 is as far from its float32
    [(torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 4e-2)],
)
@pytest.mark.parametrize("case", ["f1", "f5", "f16", "odd", "none"])
@torch.no_grad()
def test_output_on_a_gpu_is_the_original_s(weights, io, case, dtype, allowed, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    network = build(weights, TINY).to("cuda", dtype, memory_format=torch.channels_last)
    sample, timestep, audio = (
        value if value is None else value.to("cuda") for value in inputs(io, case)
    )
    audio = audio if audio is None else audio.to(dtype)
    assert (
        off(network(sample.to(dtype), timestep, audio).float().cpu(), io[f"{case}.output"])
        < allowed
    )


@torch.no_grad()
def test_inner_layers_are_the_original_s(net, io):
    seen = {}
    handles = [
        net.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: seen.update({name: out})
        )
        for name in ("down_blocks.0.downsamplers.0", "mid_block.resnets.1", "time_embedding")
    ]
    net(*inputs(io, "f5"))
    for handle in handles:
        handle.remove()
    assert off(seen["time_embedding"], io["f5.act.time_embedding"]) < 1e-5
    for name, act in (
        ("down_blocks.0.downsamplers.0", "down_blocks.0"),
        ("mid_block.resnets.1", "mid_block"),
    ):
        assert off(seen[name].unflatten(0, (1, 5)).transpose(1, 2), io[f"f5.act.{act}"]) < 1e-5


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_variants_are_the_original_s(golden, weights, io, name):
    expected = load_file(golden("latentsync/unet_tiny_variants_io.safetensors"))
    config = replace(TINY, **VARIANTS[name])
    sample, timestep, audio = inputs(io, "f5")
    network = build(weights, config)
    got = network(sample, timestep, audio if config.audio_width else None)
    assert off(got, expected[f"{name}.f5.output"]) < 1e-5


@torch.no_grad()
def test_guided_is_a_doubled_batch(net):
    """Seven frames: silence and speech in one batch, against the shared computation."""
    make = torch.Generator().manual_seed(7)
    sample = torch.randn(1, 13, 7, 8, 8, generator=make)
    audio = torch.randn(7, 50, 384, generator=make)
    plain = net(sample.repeat(2, 1, 1, 1, 1), 261, torch.cat([torch.zeros_like(audio), audio]))
    keys = net.listen(audio)
    assert off(net(sample, 261, keys, guided=True), plain) < 1e-5
    assert off(net(sample, 261, keys), plain[1:]) < 1e-5
    assert off(plain[:1], plain[1:]) > 1e-2, "the audio must matter for this to say anything"


@pytest.mark.parametrize("guided", [False, True])
@torch.no_grad()
def test_two_windows_in_one_batch_do_not_meet(net, guided):
    make = torch.Generator().manual_seed(3)
    sample = torch.randn(2, 13, 4, 8, 8, generator=make)
    audio = torch.randn(8, 50, 384, generator=make)
    together = net(sample, 401, net.listen(audio), guided=guided)
    alone = [
        net(sample[i : i + 1], 401, net.listen(audio[4 * i : 4 * i + 4]), guided=guided)
        for i in range(2)
    ]
    expected = torch.cat(
        [torch.cat(half) for half in zip(*(a.chunk(len(a)) for a in alone), strict=True)]
    )
    assert off(together, expected) < 1e-4


@pytest.mark.parametrize("guided", [False, True])
@torch.no_grad()
def test_the_kept_tensor_cuts_a_step_short_exactly(net, io, guided):
    sample, timestep, audio = inputs(io, "f5")
    keys = net.listen(audio.flatten(0, 1))
    full, deep = net.step(sample, timestep, keys, guided=guided)
    calls = []
    handle = net.mid_block.resnets[0].register_forward_hook(lambda *_: calls.append(1))
    short, _ = net.step(sample, timestep, keys, guided=guided, deep=deep)
    handle.remove()
    assert torch.equal(short, full)
    assert not calls
    assert deep.shape[1] == TINY.channels[0]


def test_checkpointing_changes_no_gradient(weights, io):
    sample, timestep, audio = inputs(io, "f5")
    gradients = []
    for checkpointing in (False, True):
        network = build(weights, TINY).train()
        network.checkpointing = checkpointing
        network(sample, timestep, audio).square().mean().backward()
        gradients.append([p.grad for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert all(g is not None and g.isfinite().all() for g in gradients[0])


@torch.no_grad()
def test_the_graph_does_not_break(net, io):
    sample, timestep, audio = inputs(io, "f5")
    keys = net.listen(audio.flatten(0, 1))
    compiled = torch.compile(net.step, backend="aot_eager", fullgraph=True)
    assert (
        off(
            compiled(sample, timestep, keys, guided=True)[0],
            net(sample, timestep, keys, guided=True),
        )
        < 1e-5
    )


@torch.no_grad()
def test_activations_stay_channels_last(net, io):
    broken = []

    def look(module, args, out):
        if not args[0].is_contiguous(memory_format=torch.channels_last):
            broken.append(module)

    handles = [
        m.register_forward_hook(look) for m in net.modules() if isinstance(m, torch.nn.Conv2d)
    ]
    sample, timestep, audio = inputs(io, "odd")
    net.to(memory_format=torch.channels_last)(sample, timestep, audio)
    for handle in handles:
        handle.remove()
    assert not broken


@torch.no_grad()
def test_too_long_a_window_and_wrong_audio_are_refused(net):
    with pytest.raises(ValueError, match="25 frames was given; this network knows 24"):
        net(torch.zeros(1, 13, 25, 8, 8), 1)
    with pytest.raises(ValueError, match="audio for 3 frames was given for 4 frames"):
        net(torch.zeros(1, 13, 4, 8, 8), 1, torch.zeros(3, 50, 384))
    with pytest.raises(ValueError, match="no audio was given"):
        net(torch.zeros(1, 13, 4, 8, 8), 1, guided=True)
