"""Terms of the losses: published values, seeds, gradients, precision."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch import nn  # noqa: E402

from lipsync_core.models.syncnet import Ladder, StableSyncNet, SyncNetConfig, stack  # noqa: E402
from lipsync_core.models.vgg import Lpips  # noqa: E402
from lipsync_core.models.videomae import VideoMAE, VideoMAEConfig  # noqa: E402
from trainer import losses  # noqa: E402

SEEDS = torch.tensor([7, -3, 2**40 + 1, 2**62, 0, 8])


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def lpips():
    torch.manual_seed(1)
    network = Lpips(((4, 4), (6,)))
    heads = {f"lin{k}.model.1.weight": torch.rand(1, c, 1, 1) for k, c in enumerate((4, 6))}
    return network.load(network.net.state_dict(), heads)


PIXELS = SyncNetConfig(
    audio=Ladder(in_channels=1, channels=(32, 128), factors=((4, 4), (4, 4))),
    visual=Ladder(in_channels=12, channels=(32, 128), factors=((2, 4), (4, 4))),
    frames=4,
)
"""Crops of 16 pixels, their lower halves 8 x 16."""


@pytest.fixture(scope="module")
def syncnet():
    torch.manual_seed(2)
    return StableSyncNet(PIXELS).requires_grad_(False)


@pytest.fixture(scope="module")
def videomae():
    torch.manual_seed(3)
    return VideoMAE(VideoMAEConfig(width=32, depth=2, heads=4, inner=64)).requires_grad_(False)


def crops(batch=2, frames=4, side=16, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(batch, frames, 3, side, side, generator=draw) * 2 - 1


# --- draws


@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
def test_mixed_noise_has_variance_one_and_the_share_that_alpha_says(alpha):
    noise = losses.mixed_noise(SEEDS, (6, 4, 8, 40, 40), alpha)
    assert noise.dtype == torch.float32
    assert noise.var() == pytest.approx(1, abs=0.04)
    assert abs(noise.mean()) < 0.03
    common = (noise[:, :, :-1] * noise[:, :, 1:]).mean()
    assert common == pytest.approx(alpha**2 / (1 + alpha**2), abs=0.04)
    # samples and channels share nothing
    assert abs((noise[:-1] * noise[1:]).mean()) < 0.03
    assert abs((noise[:, :-1] * noise[:, 1:]).mean()) < 0.03


def test_draws_do_not_depend_on_who_shares_the_batch():
    shape = (4, 3, 4, 4)
    whole = losses.mixed_noise(SEEDS, (6, *shape), 1.0)
    steps = losses.timesteps(SEEDS)
    tokens = torch.ones(6, 2, 3)
    heard = losses.drop_audio(tokens, SEEDS, 0.5)
    torch.manual_seed(99)
    for part in ([0], [5, 2], [4, 3, 1]):
        seeds = SEEDS[part]
        assert torch.equal(losses.mixed_noise(seeds, (len(part), *shape), 1.0), whole[part])
        assert torch.equal(losses.timesteps(seeds), steps[part])
        assert torch.equal(losses.drop_audio(tokens[part], seeds, 0.5), heard[part])
    before = torch.get_rng_state()
    losses.mixed_noise(SEEDS, (6, *shape), 1.0)
    assert torch.equal(torch.get_rng_state(), before), "the global generator is others' business"


def test_seeds_that_agree_in_their_low_bits_are_different_seeds():
    seeds = torch.tensor([5, 5 + 2**32, 5 + 2**40])
    noise = losses.mixed_noise(seeds, (3, 1, 1, 8, 8), 0.0)
    assert len({tuple(row.flatten().tolist()) for row in noise}) == 3


def test_what_frames_share_is_drawn_apart_from_what_they_do_not():
    shape = (6, 4, 3, 16, 16)
    common = losses.mixed_noise(SEEDS, shape, 1e9)[:, :, 0].flatten(1)
    own = losses.mixed_noise(SEEDS, shape, 0.0).flatten(1)[:, : common.shape[1]]
    assert abs((common * own).mean()) < 0.05


def test_steps_and_silence_are_drawn_evenly_and_apart():
    seeds = torch.arange(4000)
    steps = losses.timesteps(seeds)
    assert steps.dtype == torch.int64
    assert steps.min() >= 0
    assert steps.max() <= 999
    counts = torch.bincount(steps // 100, minlength=10)
    assert counts.min() > 320
    assert counts.max() < 480
    silent = losses.drop_audio(torch.ones(4000, 1), seeds, 0.2)[:, 0] == 0
    assert silent.float().mean() == pytest.approx(0.2, abs=0.02)
    # one seed, two uses: who hears nothing is no matter of the step
    assert abs(steps[silent].float().mean() - steps[~silent].float().mean()) < 40
    assert losses.timesteps(seeds[:9], count=3).max() < 3


def test_dropping_audio_zeroes_whole_samples_in_a_copy():
    tokens = torch.rand(6, 4, 50, 8) + 0.1
    kept = tokens.clone()
    heard = losses.drop_audio(tokens, SEEDS, 0.5)
    assert torch.equal(tokens, kept)
    silent = (heard == 0).flatten(1).all(1)
    assert torch.equal(heard[~silent], tokens[~silent])
    assert losses.drop_audio(tokens, SEEDS, 0.0) is tokens
    assert losses.drop_audio(tokens, SEEDS, 1.0).abs().max() == 0


# --- the predicted noise


def test_noising_and_the_clean_estimate_are_the_original_s(golden):
    io = load_file(golden("latentsync/train_step.safetensors"))
    step, table = io["train.timesteps"], io["alphas_cumprod"]
    noisy = losses.add_noise(io["train.z"], io["train.noise"], step, table)
    torch.testing.assert_close(noisy, io["train.z_t"], atol=1e-6, rtol=0)
    clean = losses.clean_estimate(io["train.z_t"], io["train.pred_noise"], step, table)
    torch.testing.assert_close(clean, io["train.pred_z0"], atol=1e-5, rtol=0)
    back = losses.clean_estimate(noisy, io["train.noise"], step, table)
    torch.testing.assert_close(back, io["train.z"], atol=1e-4, rtol=0)
    # the original's table in half precision stays within what we say of it
    coarse = losses.clean_estimate(io["train.z_t"], io["train.pred_noise"], step, table.half())
    assert 1e-3 < (coarse - clean).abs().max() < 0.01
    half = losses.clean_estimate(io["train.z_t"].half(), io["train.pred_noise"], step, table)
    assert half.dtype == torch.float32


def test_the_noise_term_is_plain_by_default():
    said, noise = torch.randn(3, 4, 2, 8, 8), torch.randn(3, 4, 2, 8, 8)
    assert torch.equal(losses.noise_error(said, noise), F.mse_loss(said, noise))
    mask = torch.rand(3, 1, 1, 8, 8)
    assert torch.equal(losses.noise_error(said, noise, mask=mask), F.mse_loss(said, noise))
    assert losses.noise_error(said.half(), noise).dtype == torch.float32


def test_min_snr_follows_its_paper(golden):
    table = load_file(golden("latentsync/train_step.safetensors"))["alphas_cumprod"]
    step = torch.tensor([0, 150, 437, 999])
    said, noise = torch.randn(4, 4, 2, 8, 8), torch.randn(4, 4, 2, 8, 8)
    found = losses.noise_error(said, noise, timestep=step, alphas_cumprod=table, snr_gamma=5.0)
    expected = 0.0
    for k, t in enumerate(step.tolist()):
        alpha = table[t].item()
        ratio = alpha / (1 - alpha)
        expected += min(ratio, 5.0) / ratio * F.mse_loss(said[k], noise[k]).item() / 4
    assert found.item() == pytest.approx(expected, rel=1e-5)
    late = losses.noise_error(
        said[2:], noise[2:], timestep=step[2:], alphas_cumprod=table, snr_gamma=5.0
    )
    torch.testing.assert_close(late, F.mse_loss(said[2:], noise[2:]))
    with pytest.raises(ValueError, match="needs the time steps"):
        losses.noise_error(said, noise, snr_gamma=5.0)


def test_the_mask_moves_weight_and_adds_none():
    noise = torch.zeros(2, 4, 3, 8, 8)
    mask = torch.zeros(1, 1, 1, 8, 8)
    mask[..., 4:, :] = 1
    flat = torch.ones_like(noise)
    assert losses.noise_error(flat, noise, mask=mask, mask_weight=3.0).item() == pytest.approx(1)
    hidden = losses.noise_error(flat * mask, noise, mask=mask, mask_weight=3.0)
    seen = losses.noise_error(flat * (1 - mask), noise, mask=mask, mask_weight=3.0)
    assert (hidden / seen).item() == pytest.approx(3)


def test_the_clean_error_is_the_noise_s_over_the_snr_up_to_a_limit():
    table = torch.linspace(0.999, 0.005, 1000)
    clean, noise = torch.randn(2, 2, 4, 3, 8, 8).unbind()
    said = noise + 0.3 * torch.randn_like(noise)
    for step in (5, 500, 999):
        steps = torch.tensor([step, step])
        noisy = losses.add_noise(clean, noise, steps, table)
        meant = losses.clean_estimate(noisy, said, steps, table)
        ratio = float(table[step] / (1 - table[step]))
        found = losses.clean_error(meant, clean, timestep=steps, alphas_cumprod=table)
        expected = float(losses.noise_error(said, noise)) * min(1 / ratio, losses.LATE)
        assert float(found) == pytest.approx(expected, rel=1e-3)
    mask = torch.zeros(1, 1, 3, 8, 8)
    mask[..., 4:, :] = 1
    wrong = torch.cat([torch.zeros(2, 4, 3, 4, 8), torch.ones(2, 4, 3, 4, 8)], dim=-2)
    # hidden half wrong, seen half right: weights 1 and 4, of mean 1
    found = losses.clean_error(
        wrong,
        0 * wrong,
        timestep=torch.tensor([5, 5]),
        alphas_cumprod=table,
        mask=mask,
        mask_weight=4,
    )
    assert float(found) == pytest.approx(0.8)


def test_the_meant_noise_leads_back_to_the_clean_latents():
    table = torch.linspace(0.999, 0.005, 1000)
    clean, noisy = torch.randn(2, 3, 4, 2, 4, 4).unbind()
    steps = torch.tensor([0, 400, 999])
    noise = losses.meant_noise(noisy, clean, steps, table)
    back = losses.clean_estimate(noisy, noise, steps, table)
    torch.testing.assert_close(back, clean, atol=1e-4, rtol=1e-4)


def test_purposes_choose_samples_apart_from_each_other():
    seeds = torch.arange(4000)
    first, second = (losses.chosen(seeds, 0.3, purpose) for purpose in ("one", "another"))
    assert first.float().mean() == pytest.approx(0.3, abs=0.03)
    assert second[first].float().mean() == pytest.approx(0.3, abs=0.04)
    assert not losses.chosen(seeds, 0.0, "one").any()


def test_drawing_begins_and_goes_on_where_presets_do():
    from lipsync_core.engines.latentsync.presets import PRESETS, scheduler

    begins = {int(scheduler(row).timesteps[0]) for row in PRESETS}
    assert {min(begins), max(begins)} == set(losses.FIRST_STEPS)
    drawn = losses.first_steps(torch.arange(2000))
    assert (int(drawn.min()), int(drawn.max())) == losses.FIRST_STEPS
    later = losses.later_steps(torch.arange(1000))
    assert (int(later[0]), int(later[-1])) == losses.LATER_STEPS
    assert (later.diff() >= 0).all()
    assert later.max() < drawn.min()


def test_frames_to_decode_are_some_and_each_has_its_turn():
    every = losses.some_frames(SEEDS, 7, 0)
    assert every.tolist() == [list(range(7))] * len(SEEDS)
    seeds = torch.arange(2000)
    some = losses.some_frames(seeds, 16, 4)
    assert some.shape == (2000, 4)
    assert (some.diff(dim=1) > 0).all()
    counts = torch.bincount(some.flatten(), minlength=16)
    assert counts.min() > 420
    assert counts.max() < 580
    assert torch.equal(losses.some_frames(seeds[7:9], 16, 4), some[7:9])


# --- decoded pictures


def test_nobody_under_the_gate_is_zero_and_not_nan():
    errors = torch.tensor([math.nan, 2.0, math.inf, 4.0], requires_grad=True)
    step = torch.tensor([999, 100, 500, 499])
    weights = losses.gate(step, 500)
    assert weights.tolist() == [0, 1, 0, 1]
    total = losses.gated(errors, weights)
    assert total.item() == pytest.approx(6 / 4)
    total.backward()
    assert errors.grad.tolist() == [0, 0.25, 0, 0.25]
    # of the chosen alone, as when only they were decoded
    assert losses.gated(errors[weights > 0], weights).item() == pytest.approx(6 / 4)
    nobody = losses.gated(errors[:0], losses.gate(step, 0))
    assert nobody.item() == 0
    nobody.backward()
    assert losses.gated(errors, losses.gate(step, 0)).item() == 0
    assert losses.gate(step, 1000).sum() == 4


def test_pixel_error_looks_at_the_lower_half_of_each_sample():
    a = crops()
    b = a.clone()
    b[0, :, :, :8] += 1
    assert losses.pixel_error(a, b).tolist() == [0, 0]
    b[1, :, :, 8:] += 0.5
    torch.testing.assert_close(losses.pixel_error(a, b), torch.tensor([0.0, 0.5]))


def test_perceptual_is_lpips_of_lower_halves_however_it_is_cut(lpips):
    a, b = crops(seed=1), crops(seed=2)
    found = losses.perceptual(lpips, a, b)
    assert found.shape == (2,)
    one = torch.stack([lpips(a[1, t : t + 1, :, 8:], b[1, t : t + 1, :, 8:]) for t in range(4)])
    torch.testing.assert_close(found[1], one.mean())
    changed = b.clone()
    changed[:, :, :, :8] = 0
    torch.testing.assert_close(losses.perceptual(lpips, a, changed), found)
    gradients = []
    for rows in (0, 3, 1):
        seen = a.clone().requires_grad_()
        losses.perceptual(lpips, seen, b, rows=rows).sum().backward()
        gradients.append(seen.grad)
    assert gradients[0][:, :, :, 8:].abs().min() > 0
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(gradients[2], gradients[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(
            losses.perceptual(lpips, a.bfloat16().float(), b), found, atol=0.01, rtol=0.1
        )
        assert torch.equal(losses.perceptual(lpips, a, b), found), "float32 under autocast too"


def test_sync_is_the_cross_entropy_of_the_cosine(syncnet):
    pictures, sound = crops(), torch.randn(2, 1, 16, 16)
    found = losses.sync(syncnet, pictures, sound)
    seen, heard = syncnet(stack(pictures), sound)
    torch.testing.assert_close(found, -(seen * heard).sum(1).log())
    upper = pictures.clone()
    upper[:, :, :, :8] = 0
    assert torch.equal(losses.sync(syncnet, upper, sound), found)
    plain, again = (pictures.clone().requires_grad_() for _ in range(2))
    losses.sync(syncnet, plain, sound).sum().backward()
    losses.sync(syncnet, again, sound, checkpointing=True).sum().backward()
    torch.testing.assert_close(again.grad, plain.grad)
    assert plain.grad[:, :, :, 8:].abs().max() > 0


def test_sync_resizes_crops_that_are_not_the_network_s_size(syncnet):
    large = crops(side=32)
    view = losses.sync_view(large, syncnet)
    small = F.interpolate(large.flatten(0, 1), (16, 16), mode="bicubic").unflatten(0, (2, 4))
    assert torch.equal(view, stack(small))
    assert losses.sync_view(large, syncnet, side=32).shape == (2, 12, 16, 32)
    with pytest.raises(ValueError, match="4 frames of 3 channels, but was given 5 of 3"):
        losses.sync_view(crops(frames=5), syncnet)


def test_a_latent_syncnet_sees_latents_whole():
    ladder = Ladder(in_channels=16, channels=(32, 128), factors=((4, 4), (4, 4)))
    net = StableSyncNet(replace(PIXELS, visual=ladder))
    latents = torch.randn(2, 4, 4, 16, 16)
    assert torch.equal(losses.sync_view(latents, net), latents.flatten(1, 2))
    assert losses.sync(net, latents, torch.randn(2, 1, 16, 16)).shape == (2,)


def test_trepa_and_its_gradient_are_the_original_s(golden, seeded):
    io = load_file(golden("latentsync/trepa_tiny_io.safetensors"))
    net = VideoMAE(VideoMAEConfig(width=64, depth=2, heads=4, inner=279))
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    net.load_state_dict(seeded(shapes, 20240601))
    net.requires_grad_(False)
    for checkpointing in (False, True):
        net.checkpointing = checkpointing
        fake = io["fake"].float().transpose(1, 2).requires_grad_()
        loss = losses.trepa(net, fake, io["real"].float().transpose(1, 2))
        assert loss.shape == (1,)
        assert loss.item() == pytest.approx(io["loss"].item(), rel=1e-5)
        (gradient,) = torch.autograd.grad(loss.sum(), fake)
        gradient = gradient.transpose(1, 2)
        largest = io["grad_fake_frames_0_7_15"].abs().max()
        assert largest > 1e-8
        torch.testing.assert_close(
            gradient[:, :, [0, 7, 15]], io["grad_fake_frames_0_7_15"], atol=1e-5 * largest, rtol=0
        )
        torch.testing.assert_close(gradient.norm(), io["grad_fake_norm"], atol=0, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_trepa_s_gradient_survives_half_precision(videomae, dtype):
    """Its entries are below the smallest float16, and nobody may scale the loss outside."""
    half = VideoMAE(videomae.config)
    half.load_state_dict(videomae.state_dict())
    half.requires_grad_(False).to(dtype)
    truth = crops(1, 2, seed=4)
    found, seen = (crops(1, 2, seed=3).requires_grad_() for _ in range(2))
    (true,) = torch.autograd.grad(losses.trepa(videomae, seen, truth).sum() * 1e-3, seen)
    assert true.abs().max() < 6e-6
    loss = losses.trepa(half, found, truth).sum()
    for factor in (1e-3, 65.536):
        (gradient,) = torch.autograd.grad(loss * factor, found, retain_graph=True)
        error = gradient * (1e-3 / factor) - true
        assert (error.norm() / true.norm()).item() < 0.1
    (none,) = torch.autograd.grad(loss * 0, found)
    assert torch.equal(none, torch.zeros_like(none))


def test_trepa_is_of_each_sample_and_near_in_half_precision(videomae):
    a, b = crops(seed=3), crops(seed=4)
    b[1] = a[1]
    found = losses.trepa(videomae, a, b)
    assert found[0] > 0
    assert found[1] == 0
    torch.testing.assert_close(losses.trepa(videomae, a[:1], b[:1]), found[:1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(losses.trepa(videomae, a, b), found)
    half = VideoMAE(videomae.config)
    half.load_state_dict(videomae.state_dict())
    near = losses.trepa(half.bfloat16(), a, b)
    assert near.dtype == torch.float32
    assert near[0].item() == pytest.approx(found[0].item(), rel=0.2)


def test_pictures_get_the_slope_that_differences_show(lpips, syncnet, videomae):
    """Central differences along the gradient, as wide as float32 and the kinks allow."""
    sound = torch.randn(1, 1, 16, 16)
    truth = crops(1, seed=6) * 0.5

    terms = {
        "pixel": (lambda x: losses.pixel_error(x, truth), 1e-4),
        "lpips": (lambda x: losses.perceptual(lpips, x, truth), 1e-3),
        "sync": (lambda x: losses.sync(syncnet, x, sound), 1e-3),
        "trepa": (lambda x: losses.trepa(videomae, x, truth), 1e-1),
    }
    for name, (term, reach) in terms.items():
        seen = (crops(1, seed=5) * 0.5).requires_grad_()
        (gradient,) = torch.autograd.grad(term(seen).sum(), seen)
        norm = gradient.norm()
        assert norm > 0, name
        move = reach * gradient / norm
        with torch.no_grad():
            rise = (term(seen + move) - term(seen - move)).item() / (2 * reach)
        assert rise == pytest.approx(norm.item(), rel=0.03), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_terms_stay_float32_and_near_under_autocast(lpips, syncnet, dtype):
    a, b, sound = crops(seed=7), crops(seed=8), torch.randn(2, 1, 16, 16)
    exact = [losses.pixel_error(a, b), losses.sync(syncnet, a, sound)]
    with torch.autocast("cpu", dtype=dtype):
        near = [losses.pixel_error(a, b), losses.sync(syncnet, a, sound)]
        pair = losses.pair_loss(*syncnet(stack(a), sound), torch.tensor([1.0, 0.0]))
    for left, right in zip(near, exact, strict=True):
        assert left.dtype == torch.float32
        torch.testing.assert_close(left, right, atol=0.03, rtol=0.03)
    assert pair.isfinite()


# --- SyncNet's own training


def test_pairs_and_their_accuracy():
    seen = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [3.0, 1.0]]), dim=1)
    heard = F.normalize(torch.tensor([[1.0, 0.1], [1.0, 0.0], [1.0, 0.0], [1.0, 3.0]]), dim=1)
    together = torch.tensor([1.0, 0.0, 0.0, 1.0])
    cosine = (seen * heard).sum(1)
    expected = F.binary_cross_entropy(cosine.clamp(1e-5, 1 - 1e-5), together)
    torch.testing.assert_close(losses.pair_loss(seen, heard, together), expected)
    # cosines .995, .71, 0, .6: the second negative is called a pair
    assert losses.accuracy(seen, heard, together).item() == 0.75
    assert losses.accuracy(seen, heard, together, threshold=0.65).item() == 0.5


def test_pairs_far_off_still_learn():
    """Orthogonal positives are where the plain logarithm has no slope or an endless one."""
    seen = torch.tensor([[1.0, 0.0]], requires_grad=True)
    losses.pair_loss(seen, torch.tensor([[0.0, 1.0]]), torch.ones(1)).backward()
    assert torch.isfinite(seen.grad).all()
    assert seen.grad[0, 1] < -1


def test_accumulated_pairs_are_one_batch():
    net = StableSyncNet(PIXELS)
    pictures, sound = torch.randn(6, 12, 8, 16), torch.randn(6, 1, 16, 16)
    together = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    losses.pair_loss(*net(pictures, sound), together).backward()
    whole = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    for k in range(0, 6, 2):
        part = slice(k, k + 2)
        (losses.pair_loss(*net(pictures[part], sound[part]), together[part]) / 3).backward()
    for left, right in zip((p.grad for p in net.parameters()), whole, strict=True):
        torch.testing.assert_close(left, right, atol=1e-6, rtol=1e-4)


def test_contrastive_knows_who_belongs_to_whom():
    seen = torch.eye(4)
    assert losses.contrastive(seen, seen, 0.01).item() == pytest.approx(0, abs=1e-6)
    assert losses.contrastive(seen, seen.roll(1, 0), 0.1).item() > 9
    blind = F.normalize(torch.ones(4, 8), dim=1)
    assert losses.contrastive(blind, blind).item() == pytest.approx(math.log(4))
    a, b = (F.normalize(torch.randn(5, 8), dim=1) for _ in range(2))
    table = (a @ b.T / 0.07).exp()
    expected = -(
        (table.diag() / table.sum(1)).log().mean() + (table.diag() / table.sum(0)).log().mean()
    )
    torch.testing.assert_close(losses.contrastive(a, b), expected / 2)
    torch.testing.assert_close(losses.contrastive(b, a), expected / 2)


class Pair(nn.Module):
    """Two encoders in float64, so that sums in another order do not hide a mistake."""

    def __init__(self, dropout):
        super().__init__()
        self.eye = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 8))
        self.ear = nn.Sequential(nn.Linear(5, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 8))
        self.double()
        self.rows = []

    def forward(self, pictures, sound):
        if torch.is_grad_enabled():
            self.rows.append(len(pictures))
        return F.normalize(self.eye(pictures), dim=1), F.normalize(self.ear(sound), dim=1)


def distance(seen, heard):
    """InfoNCE in float64."""
    alike = seen @ heard.T / 0.07
    own = torch.arange(len(alike))
    return F.cross_entropy(alike, own) + F.cross_entropy(alike.T, own)


def gradients(net):
    return torch.cat([p.grad.flatten() for p in net.parameters()])


def by_cache(net, chunks):
    value = losses.cached_backward(net, chunks, distance)
    assert not value.requires_grad
    return value


def by_checkpoint(net, chunks):
    value = distance(*losses.embedded(net, chunks))
    value.backward()
    return value


@pytest.mark.parametrize("way", [by_cache, by_checkpoint])
@pytest.mark.parametrize("sizes", [(7,), (3, 3, 1), (1,) * 7])
def test_the_cached_gradient_is_that_of_one_batch(way, sizes):
    net = Pair(0.0)
    pictures, sound = torch.randn(7, 6).double(), torch.randn(7, 5).double()
    expected = distance(*net(pictures, sound))
    expected.backward()
    whole = gradients(net)
    assert whole.norm() > 0.1
    net.zero_grad()
    net.rows.clear()
    chunks = list(zip(pictures.split(sizes), sound.split(sizes), strict=True))
    value = way(net, chunks)
    torch.testing.assert_close(value, expected.detach() if way is by_cache else expected)
    torch.testing.assert_close(gradients(net), whole, atol=1e-6, rtol=1e-6)
    if way is by_cache:
        assert net.rows == list(sizes), "no graph is larger than a chunk"


@pytest.mark.parametrize("way", [by_cache, by_checkpoint])
def test_dropout_falls_as_it_would_without_the_cache(way):
    net = Pair(0.5)
    pictures, sound = torch.randn(6, 6).double(), torch.randn(6, 5).double()
    chunks = list(zip(pictures.split(2), sound.split(2), strict=True))
    torch.manual_seed(5)
    columns = [net(*chunk) for chunk in chunks]
    distance(*(torch.cat(parts) for parts in zip(*columns, strict=True))).backward()
    whole, state = gradients(net), torch.get_rng_state()
    net.zero_grad()
    torch.manual_seed(5)
    way(net, chunks)
    torch.testing.assert_close(gradients(net), whole, atol=1e-6, rtol=1e-6)
    assert torch.equal(torch.get_rng_state(), state), "what is drawn next is the same"
    net.zero_grad()
    torch.manual_seed(6)
    way(net, chunks)
    assert (gradients(net) - whole).norm() > 1e-3, "the dropout does something"


def test_the_cache_scales_accumulates_and_keeps_quiet():
    net = Pair(0.0)
    pictures, sound = torch.randn(6, 6).double(), torch.randn(6, 5).double()
    chunks = list(zip(pictures.split(2), sound.split(2), strict=True))
    by_cache(net, chunks)
    once = gradients(net)
    quiet = []

    class Quiet:
        def __enter__(self):
            quiet.append(len(net.rows))

        def __exit__(self, *_):
            return None

    net.rows.clear()
    losses.cached_backward(
        net, chunks, distance, backward=lambda loss: (loss * 2).backward(), quiet=Quiet
    )
    torch.testing.assert_close(gradients(net), 3 * once)
    assert quiet == [0, 1], "all but the last chunk"
    with pytest.raises(AssertionError, match="all embeddings"):
        losses.cached_backward(net, chunks, lambda seen, heard: seen.sum())


def test_the_cache_finds_its_way_to_the_weights_under_autocast():
    """Weights cast without a graph must not be those of the second pass."""
    net = Pair(0.0).float()
    chunks = [(torch.randn(3, 6), torch.randn(3, 5)) for _ in range(2)]
    losses.cached_backward(net, chunks, losses.contrastive)
    exact = gradients(net)
    net.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses.cached_backward(net, chunks, losses.contrastive)
    near = gradients(net)
    assert ((near - exact).norm() / exact.norm()).item() < 0.1


def test_the_cache_trains_syncnet_s_networks(syncnet):
    net = StableSyncNet(PIXELS, dropout=0.0)
    pictures, sound = torch.randn(4, 12, 8, 16), torch.randn(4, 1, 16, 16)
    losses.contrastive(*net(pictures, sound)).backward()
    whole = gradients(net)
    net.zero_grad()
    chunks = list(zip(pictures.split(2), sound.split(2), strict=True))
    losses.cached_backward(net, chunks, losses.contrastive)
    torch.testing.assert_close(gradients(net), whole, atol=1e-5 * whole.abs().max(), rtol=0)


def test_pairs_that_do_not_belong_are_negatives_of_the_others_alone() -> None:
    draw = torch.Generator().manual_seed(5)
    seen, heard = (
        torch.nn.functional.normalize(torch.rand(6, 8, generator=draw), dim=1) for _ in range(2)
    )
    everybody = torch.ones(6)
    assert torch.equal(
        losses.contrastive(seen, heard, together=everybody), losses.contrastive(seen, heard)
    )
    some = torch.tensor([1.0, 0, 1, 1, 0, 1])
    rows = [0, 2, 3, 5]
    alike = seen @ heard.T / 0.07
    wanted = sum(
        float(torch.nn.functional.cross_entropy(table[rows], torch.tensor(rows)))
        for table in (alike, alike.T)
    )
    assert float(losses.contrastive(seen, heard, together=some)) == pytest.approx(wanted / 2, 1e-6)
    nobody = seen.clone().requires_grad_()
    losses.contrastive(nobody, heard, together=torch.zeros(6)).backward()
    assert not nobody.grad.any()
