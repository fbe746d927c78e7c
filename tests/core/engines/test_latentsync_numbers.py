"""LatentSync's mask, alignment, schedule and loop against the original's numbers."""

from __future__ import annotations

import copy
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
from safetensors.torch import load_file  # noqa: E402

from lipsync_core.engines.latentsync import pictures, presets, region, sampler  # noqa: E402
from lipsync_core.models.motion import position_table  # noqa: E402
from lipsync_core.models.unet3d import UNet3D, UNetConfig  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def shipped(golden):
    """The original's mask at 256 px, True where it hides."""
    mask = np.zeros((256, 256), bool)
    for run in json.loads(golden("latentsync/mask.json").read_text())["row_runs"]:
        for start, end in run["spans"]:
            mask[run["y0"] : run["y1"], start:end] = True
    return mask


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


def test_the_region_is_the_original_s(shipped, golden):
    assert overlap(region.hidden(256), shipped) > 0.999
    large = np.kron(shipped, np.ones((2, 2), bool))
    assert overlap(region.hidden(512), large) > 0.995
    small = shipped.reshape(64, 4, 64, 4).mean((1, 3)) >= 0.5
    assert overlap(region.hidden(64), small) > 0.98
    latent = load_file(golden("latentsync/masks_latent.safetensors"))
    for size, name in ((256, "mask.256to32"), (512, "mask.512to64")):
        theirs = 1 - latent[name].numpy()
        assert (np.abs(region.hidden_latent(size, 8) - theirs) > 0.5).sum() <= 2


@pytest.mark.parametrize("size", [64, 256, 512])
def test_nothing_is_painted_that_was_not_hidden(size):
    paint = region.paint(size)
    assert not paint[~region.hidden(size)].any()
    assert paint.max() == 1
    assert (paint == 1).mean() > 0.2
    step = max(np.abs(np.diff(paint, axis=0)).max(), np.abs(np.diff(paint, axis=1)).max())
    assert size < 256 or step < 0.25, "no seam may show"
    with pytest.raises(ValueError, match="read-only"):
        paint[0, 0] = 1


@pytest.mark.parametrize("size", [256, 512])
def test_alignment_is_the_original_s(golden, size):
    facts = load_file(golden("latentsync/align_matrices.safetensors"))
    theirs = facts[f"r{size}.matrix_none"].numpy()
    ours = np.stack([region.original_matrix(p, size) for p in facts["landmarks3"].numpy()])
    np.testing.assert_allclose(ours[..., :2], theirs[..., :2], atol=1e-5)
    np.testing.assert_allclose(ours[..., 2], theirs[..., 2], atol=2e-3)


def test_schedule_is_the_original_s(golden):
    facts = load_file(golden("latentsync/scheduler.safetensors"))
    steps = presets.scheduler(presets.preset("exact", "cpu"))
    assert steps.timesteps.tolist() == list(range(951, 0, -50))
    x = facts["steps20.x"][0]
    for i, time in enumerate(steps.timesteps):
        x = steps.step(facts["steps20.eps"][i], time, x).prev_sample
        torch.testing.assert_close(x, facts["steps20.x"][i + 1], atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def unet(seeded):
    network = UNet3D(UNetConfig(channels=(32, 32, 32, 64))).eval()
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    weights = seeded(shapes, 20240101)
    for name, shape in shapes.items():
        if name.endswith("pos_encoder.pe"):
            weights[name] = position_table(*shape[1:])
    network.load_state_dict(weights)
    return network


@pytest.fixture(scope="module")
def vae(seeded):
    from diffusers import AutoencoderKL

    shape = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 64),
    ).state_dict()
    weights = seeded({name: tuple(value.shape) for name, value in shape.items()}, 20240501)
    weights["quant_conv.weight"][4:] *= 0.3
    weights["quant_conv.bias"][4:] -= 2
    return pictures.Pictures(pictures.build_vae(weights), tiny=False, batch=3)


def test_the_loop_is_the_original_s(golden, unet, vae):
    """Five frames, two steps, guidance 1.5, from crops to pasted pictures."""
    facts = load_file(golden("latentsync/loop_tiny.safetensors"))
    crops = facts["faces"].float() / 127.5 - 1
    keep = facts["mask"][0]
    seen = vae.encode(crops * keep, facts["vae_noise_masked"])
    whole = vae.encode(crops, facts["vae_noise_ref"])
    mask = facts["mask_latents"][0, :, 0].expand(5, 1, -1, -1)
    shown = []
    latents, _ = sampler.denoise(
        unet,
        torch.cat([mask, seen, whole], dim=1),
        facts["audio"],
        facts["noise"],
        replace(presets.preset("exact", "cpu"), steps=2),
        watch=lambda _, tensors: shown.append({k: v.clone() for k, v in tensors.items()}),
    )

    def close(ours, name):
        theirs = facts[name]
        theirs = theirs[0].transpose(0, 1) if theirs.dim() == 5 else theirs
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)

    close(shown[0]["noise"], "step0.noise_pred_guided")
    close(shown[0]["after"], "step0.latents_after")
    close(latents, "step1.latents_after")
    decoded = vae.decode(latents)
    close(decoded, "decoded")
    close(decoded * (1 - keep) + crops * keep, "pasted")


@pytest.mark.parametrize("overlap", [0, 4, 8])
@pytest.mark.parametrize("count", [1, 5, 16, 17, 28, 36, 40, 100])
def test_windows_cover_every_frame_whole_and_blend_to_one(count, overlap):
    starts = sampler.window_starts(count, overlap)
    weights = sampler.window_weights(starts, count)
    total = np.zeros(count)
    for start, weight in zip(starts, weights, strict=True):
        assert start >= 0
        assert start + len(weight) <= count
        total[start : start + len(weight)] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert len(weights[0]) == min(count, 16)
    if overlap == 0 and count % 16 == 0:
        assert (weights == 1).all(), "windows side by side are not touched"
    if overlap and count > 16:
        assert all(b - a <= 16 - overlap for a, b in itertools.pairwise(starts))


@pytest.fixture(scope="module")
def clip():
    make = torch.Generator().manual_seed(11)
    return (
        torch.randn(28, 9, 8, 8, generator=make),
        torch.randn(28, 50, 384, generator=make),
        torch.randn(4, 8, 8, generator=make),
    )


QUICK = replace(presets.preset("best", "cpu"), steps=3)


def test_the_batch_of_windows_changes_nothing(unet, clip):
    """In float64: at 1 x 1 the norms of so small a network make much of the last bit of float32."""
    exact = copy.deepcopy(unet).double()
    alone, _ = sampler.denoise(exact, *clip, QUICK, batch=1)
    together, used = sampler.denoise(exact, *clip, QUICK, batch=4)
    assert used == 4
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=1e-4)


def test_windows_side_by_side_are_drawn_together_on_a_gpu_and_stay_the_same(unet, clip):
    """One at a time does not fill it: 16.1 for 18.5 fps at 256 px on an H200."""
    assert presets.preset("exact", "cpu").call == 16
    row = presets.preset("exact,steps=2", "cuda")
    assert row.call == 64
    assert presets.preset("exact,window=12", "cuda").call == 60
    assert presets.preset("exact,call=16", "cuda").call == 16
    assert presets.preset("best", "cuda").call == 36
    exact = copy.deepcopy(unet).double()
    conditions, tokens, noise = clip
    conditions, tokens = conditions.repeat(2, 1, 1, 1)[:48], tokens.repeat(2, 1, 1)[:48]
    together, _ = sampler.denoise(exact, conditions, tokens, noise, row, batch=4)
    for start in (0, 16, 32):
        part = slice(start, start + 16)
        alone, _ = sampler.denoise(exact, conditions[part], tokens[part], noise, row)
        torch.testing.assert_close(together[part], alone, atol=1e-4, rtol=1e-4)


def test_running_out_of_memory_halves_the_batch_and_goes_on(unet, clip, monkeypatch):
    expected, _ = sampler.denoise(unet, *clip, QUICK, batch=1)
    step, sizes = unet.step, []

    def small_machine(sample, *args, **options):
        sizes.append(len(sample))
        if len(sample) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(sample, *args, **options)

    monkeypatch.setattr(unet, "step", small_machine)
    got, used = sampler.denoise(unet, *clip, QUICK, batch=2)
    assert used == 1
    assert sizes.count(2) == 1, "what did not fit is not tried again"
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)

    def no_memory(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(unet, "step", no_memory)
    with pytest.raises(Exception, match="does not fit into the memory"):
        sampler.denoise(unet, *clip, QUICK)

    def broken(*args, **options):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(unet, "step", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        sampler.denoise(unet, *clip, QUICK)


def test_strength_scales_from_not_hearing_to_beyond(unet, clip):
    conditions, tokens, noise = (part[:16] if len(part) == 28 else part for part in clip)

    def run(strength, tokens=tokens):
        return sampler.denoise(unet, conditions, tokens, noise, QUICK, strength=strength)[0]

    deaf = run(0.0)
    torch.testing.assert_close(deaf, run(0.0, torch.zeros_like(tokens)), atol=1e-4, rtol=1e-4)
    once, twice = (run(s) - deaf for s in (1.0, 2.0))
    assert once.abs().max() > 0.01
    assert twice.square().mean() > 1.5 * once.square().mean()
    # 1 / 1.5 is plain listening, for which no comparison is computed
    plain = replace(QUICK, guidance=1.0)
    torch.testing.assert_close(
        run(1 / 1.5),
        sampler.denoise(unet, conditions, tokens, noise, plain)[0],
        atol=1e-4,
        rtol=1e-4,
    )


def test_known_frames_stay_and_steer_the_rest(unet, clip):
    conditions, tokens, noise = (part[:16] if len(part) == 28 else part for part in clip)
    known = torch.full((4, 4, 8, 8), 0.3)
    latents, _ = sampler.denoise(unet, conditions, tokens, noise, QUICK, known=known)
    assert torch.equal(latents[:4], known)
    other, _ = sampler.denoise(unet, conditions, tokens, noise, QUICK, known=-known)
    assert (latents[4:] - other[4:]).abs().max() > 1e-3


@pytest.mark.parametrize("row", presets.PRESETS, ids=lambda row: row.name)
def test_every_preset_runs_and_counts_its_passes(unet, clip, row, monkeypatch):
    conditions, tokens, noise = (part[:16] if len(part) == 28 else part for part in clip)
    short = replace(row, steps=min(row.steps, 6))
    rows = []
    block = unet.mid_block.resnets[0]
    handle = block.register_forward_hook(lambda _, args, __: rows.append(len(args[0]) / 16))
    latents, _ = sampler.denoise(unet, conditions, tokens, noise, short)
    handle.remove()
    assert latents.isfinite().all()
    assert sum(rows) == short.passes
    assert row.summary


def test_an_unknown_preset_lists_the_known():
    with pytest.raises(ValueError, match="no preset 'quick'; choose one of auto, exact, best"):
        presets.preset("quick", "cpu")
    assert presets.preset("auto", "cpu").name == "fast"
    assert presets.preset("auto", "cuda").name == "best"
    assert presets.preset("exact", "cpu").passes == 40


def test_the_vae_too_halves_when_memory_ends(vae, monkeypatch):
    latents = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    expected = vae.decode(latents)
    decode, sizes = vae.vae.decode, []

    def small_machine(given, *args, **options):
        sizes.append(len(given))
        if len(given) > 1:
            raise RuntimeError("MPS backend out of memory")
        return decode(given, *args, **options)

    monkeypatch.setattr(vae.vae, "decode", small_machine)
    monkeypatch.setattr(vae, "batch", 4)
    torch.testing.assert_close(vae.decode(latents), expected)
    assert sizes == [4, 2, 1, 1, 1, 1, 1]


def test_every_switch_is_reachable_from_the_preset_s_name():
    row = presets.preset(
        "best, steps=12,guidance=1.2,guided=0:0.5,sampler=unipc,compiled=yes,overlap=2", "cuda"
    )
    assert (row.name, row.steps, row.guidance, row.overlap) == ("best", 12, 1.2, 2)
    assert (row.guided, row.sampler, row.compiled) == ((0.0, 0.5), "unipc", True)
    assert row.passes == 18
    for wrong in (
        "steps=0",
        "steps",
        "speed=9",
        "window=0",
        "compiled=perhaps",
        "sampler=x",
        "guided=1",
    ):
        with pytest.raises(ValueError, match=f"'{wrong}' is no switch"):
            presets.preset(f"best,{wrong}", "cpu")


def test_windows_of_another_length():
    row = presets.preset("best,window=24", "cuda")
    assert (row.window, row.overlap, row.call) == (24, 4, 40), "whole windows are drawn together"
    assert presets.preset("best,window=8,overlap=2", "cuda").call == 36
    assert presets.preset("exact,window=8", "cpu").call == 16
    assert presets.preset("best,overlap=2", "cuda").call == presets.preset("best", "cuda").call
    for wrong in ("best,overlap=16", "best,window=4", "exact,window=8,overlap=8"):
        with pytest.raises(ValueError, match="choose an overlap below the window"):
            presets.preset(wrong, "cpu")
    starts = sampler.window_starts(20, 2, 8)
    assert starts == [0, 6, 12]
    shares = sampler.window_weights(starts, 20, 8)
    total = np.zeros(20)
    for start, row in zip(starts, shares, strict=True):
        total[start : start + 8] += row
    np.testing.assert_allclose(total, 1, rtol=1e-6)
