"""Terms of the losses and the draws they need: tensors in, numbers out, no state.

Axis letters are those of ``lipsync_core.types`` with ``B`` samples in front. Recipes and constants:
ByteDance LatentSync at commit a229c39 (Apache-2.0) and the papers named where they are used.

Terms about pictures give one number a sample, ``(B,)``, so that ``gated`` can leave samples out; all
are float32 whatever precision the networks run in. Every draw comes from the seed of its sample, on
the CPU: what a sample gets does not depend on who is in its batch, on ranks or on the device.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint, get_device_states, set_device_states

from lipsync_core.models.syncnet import StableSyncNet, stack, sync_loss

if TYPE_CHECKING:
    from lipsync_core.models.vgg import Lpips
    from lipsync_core.models.videomae import VideoMAE

Chunk = tuple[Tensor, ...]
"""Inputs of an encoder, each ``(n, …)``."""
Embed = Callable[..., tuple[Tensor, ...]]
"""Of the tensors of a chunk: embeddings, each ``(n, D)``."""


# --- draws


def _dice(seed: int, purpose: str) -> torch.Generator:
    """A generator of its own for each use of a seed: noise must not tell the time step.

    torch's generator on the CPU looks at the low 32 bits of a seed alone, hence the mixing.
    """
    mixed = np.random.SeedSequence([seed % 2**64, zlib.crc32(purpose.encode())])
    return torch.Generator().manual_seed(int(mixed.generate_state(1)[0]))


def mixed_noise(seeds: Tensor, shape: Sequence[int], alpha: float) -> Tensor:
    """Noise ``(B, C, T, h, w)`` of variance 1 that the frames of a clip share in part.

    Own noise times ``sqrt(1 / (1 + alpha**2))`` plus noise common to all frames times
    ``sqrt(alpha**2 / (1 + alpha**2))`` (mixed noise of Ge et al. 2023, "Preserve your own
    correlation"; LatentSync takes alpha 1, that is half the variance each). Alpha 0: each frame
    has its own. ``seeds``: ``(B,)`` whole numbers. On the CPU, float32.
    """
    batch, channels, _, height, width = shape
    assert len(seeds) == batch, "one seed a sample"
    own = math.sqrt(1 / (1 + alpha**2))
    common = math.sqrt(alpha**2 / (1 + alpha**2))
    rows = []
    for seed in seeds.tolist():
        shared = torch.randn(channels, 1, height, width, generator=_dice(seed, "noise of the clip"))
        each = torch.randn(tuple(shape[1:]), generator=_dice(seed, "noise of the frames"))
        rows.append(each * own + shared * common)
    return torch.stack(rows)


def timesteps(seeds: Tensor, count: int = 1000) -> Tensor:
    """One step of 0..``count - 1`` for each clip, ``(B,)`` int64 on the CPU, all equally likely."""
    return torch.cat(
        [torch.randint(count, (1,), generator=_dice(seed, "time step")) for seed in seeds.tolist()]
    )


FIRST_STEPS = (951, 999)
"""Where drawing begins: DDIM's twenty steps at the one, few steps at the other."""
LATER_STEPS = (50, 949)
"""Where drawing goes on. Below, the picture stands: what is wrong with it is no noise any more."""


def first_steps(seeds: Tensor) -> Tensor:
    """One of ``FIRST_STEPS`` for each clip, ``(B,)`` int64 on the CPU."""
    low, high = FIRST_STEPS
    return torch.cat(
        [
            torch.randint(low, high + 1, (1,), generator=_dice(s, "first step"))
            for s in seeds.tolist()
        ]
    )


def later_steps(timestep: Tensor, count: int = 1000) -> Tensor:
    """Steps of 0..``count - 1`` moved into ``LATER_STEPS``, in their order."""
    low, high = LATER_STEPS
    return low + timestep * (high + 1 - low) // count


def chosen(seeds: Tensor, share: float, purpose: str) -> Tensor:
    """``(B,)`` bool on the CPU: about ``share`` (0..1) of the samples, others for each ``purpose``."""
    return torch.stack(
        [torch.rand((), generator=_dice(s, purpose)) < share for s in seeds.tolist()]
    )


def some_frames(seeds: Tensor, frames: int, count: int) -> Tensor:
    """``(B, count)`` int64 of ``frames``, in order, other ones for each sample; all where ``count`` is 0."""
    rows = [torch.randperm(frames, generator=_dice(s, "frames to decode")) for s in seeds.tolist()]
    return torch.stack([row[: count or frames].sort().values for row in rows])


def drop_audio(tokens: Tensor, seeds: Tensor, share: float) -> Tensor:
    """``tokens`` ``(B, …)`` with all-zero rows for about ``share`` (0..1) of the samples.

    Zero tokens are what guidance calls silence (Ho and Salimans 2022); the original never trains
    that branch. Which samples hear nothing depends on their seed alone. Gives ``tokens`` itself
    where nobody is chosen.
    """
    deaf = chosen(seeds, share, "audio dropout")
    if not deaf.any():
        return tokens
    return tokens.masked_fill(deaf.to(tokens.device).view(-1, *[1] * (tokens.dim() - 1)), 0.0)


# --- the predicted noise


def _along(values: Tensor, like: Tensor) -> Tensor:
    """``(B,)`` as ``(B, 1, 1, …)`` in float32 beside ``like``."""
    return values.to(like.device, torch.float32).view(-1, *[1] * (like.dim() - 1))


def add_noise(clean: Tensor, noise: Tensor, timestep: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """``clean`` latents ``(B, …)`` at ``timestep`` ``(B,)`` of the diffusion, float32 (Ho et al. 2020)."""
    alpha = _along(alphas_cumprod[timestep.to(alphas_cumprod.device)], clean)
    return alpha.sqrt() * clean.float() + (1 - alpha).sqrt() * noise.float()


def clean_estimate(
    noisy: Tensor, predicted: Tensor, timestep: Tensor, alphas_cumprod: Tensor
) -> Tensor:
    """The clean latents ``(B, …)`` that ``predicted`` noise in ``noisy`` ones means, in one step.

    ``timestep``: ``(B,)``. ``alphas_cumprod``: the whole table. In float32: the original casts the
    table to half precision, which moves the estimate by up to 0.01 (of a range of about 4). Late
    steps multiply the error of the prediction, by 14.6 at step 999.
    """
    alpha = _along(alphas_cumprod[timestep.to(alphas_cumprod.device)], noisy)
    return (noisy.float() - (1 - alpha).sqrt() * predicted.float()) / alpha.sqrt()


def meant_noise(noisy: Tensor, clean: Tensor, timestep: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """The noise ``(B, …)`` whose prediction in ``noisy`` means ``clean``: ``clean_estimate`` backwards."""
    alpha = _along(alphas_cumprod[timestep.to(alphas_cumprod.device)], noisy)
    return (noisy.float() - alpha.sqrt() * clean.float()) / (1 - alpha).sqrt()


def noise_error(
    predicted: Tensor,
    noise: Tensor,
    *,
    timestep: Tensor | None = None,
    alphas_cumprod: Tensor | None = None,
    snr_gamma: float = 0.0,
    mask: Tensor | None = None,
    mask_weight: float = 1.0,
) -> Tensor:
    """Mean squared error of the noise ``(B, C, T, h, w)``, a scalar.

    ``snr_gamma`` above 0 weighs each sample by ``min(SNR, gamma) / SNR`` with SNR
    ``alpha / (1 - alpha)`` (min-SNR for noise prediction, Hang et al. 2023, who take 5), so that
    the early steps, whose noise hardly matters, count less; it needs ``timestep`` ``(B,)`` and the
    table. ``mask`` (broadcast to the latents, 1 where they are hidden and must be made, 0..1)
    with ``mask_weight``: how much more a hidden place counts than a seen one; the weights of a
    sample have mean 1, so the size of the term stays.
    """
    if snr_gamma <= 0 and (mask is None or mask_weight == 1):
        return F.mse_loss(predicted.float(), noise.float())
    rows = _weighed((predicted.float() - noise.float()).square(), mask, mask_weight)
    if snr_gamma > 0:
        if timestep is None or alphas_cumprod is None:
            raise ValueError("min-SNR weighting needs the time steps and the table of alphas")
        alpha = alphas_cumprod[timestep.to(alphas_cumprod.device)].to(rows)
        ratio = alpha / (1 - alpha)
        rows = rows * ratio.clamp(max=snr_gamma) / ratio
    return rows.mean()


LATE = 10.0
"""Steps whose noise has more than so many times the power of the picture count no more than that."""


def clean_error(
    estimate: Tensor,
    clean: Tensor,
    *,
    timestep: Tensor,
    alphas_cumprod: Tensor,
    mask: Tensor | None = None,
    mask_weight: float = 1.0,
) -> Tensor:
    """Mean squared error of the clean latents ``(B, C, T, h, w)`` that a prediction means, a scalar.

    It is the error of the noise divided by the SNR (Salimans and Ho 2022 weigh so where steps are
    few), but at most ``LATE`` times that error: the last steps multiply what little is wrong in the
    noise by up to 213, and would drown all others. ``mask`` and ``mask_weight`` as in ``noise_error``.
    """
    rows = _weighed((estimate.float() - clean.float()).square(), mask, mask_weight)
    alpha = alphas_cumprod[timestep.to(alphas_cumprod.device)].to(rows)
    return (rows * (LATE * alpha / (1 - alpha)).clamp(max=1)).mean()


def _weighed(errors: Tensor, mask: Tensor | None, mask_weight: float) -> Tensor:
    """Means ``(B,)`` of ``errors``, hidden places ``mask_weight`` times as much, weights of mean 1."""
    if mask is not None and mask_weight != 1:
        weights = 1 + (mask_weight - 1) * mask.to(errors).expand_as(errors)
        errors = errors * (weights / weights.flatten(1).mean(1).view(-1, *[1] * (errors.dim() - 1)))
    return errors.flatten(1).mean(1)


# --- decoded pictures


def gate(timestep: Tensor, max_timestep: int) -> Tensor:
    """Weights ``(B,)`` of the terms about decoded pictures: 1 below ``max_timestep``, 0 from it on.

    Pictures with weight 0 need not be decoded: pick the others (``weights > 0``) before. What is
    not decoded can neither fill the memory nor bring a NaN into the gradient.
    """
    return (timestep < max_timestep).float()


def gated(errors: Tensor, weights: Tensor) -> Tensor:
    """Mean over the whole batch of ``errors`` times ``weights`` ``(B,)``, a scalar.

    ``errors``: of all samples, or of those alone whose weight is not 0, in their order. Divided by
    the number of all samples, so that the sum over batches does not depend on how samples are
    grouped. Nobody under the gate gives 0.
    """
    weights = weights.to(errors)
    chosen = weights > 0
    if len(errors) == len(weights):
        errors = errors[chosen]
    assert len(errors) == int(chosen.sum()), "errors are of all samples or of the chosen ones"
    return (errors * weights[chosen]).sum() / len(weights)


def lower_half(pictures: Tensor) -> Tensor:
    """``(…, H, W)`` without the upper half of the rows: mouth and chin of an aligned crop."""
    return pictures[..., pictures.shape[-2] // 2 :, :]


def pixel_error(pictures: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute error ``(B,)`` of the lower halves of ``(B, T, 3, R, R)`` crops in -1..1."""
    return (lower_half(pictures).float() - lower_half(truth).float()).abs().flatten(1).mean(1)


def perceptual(lpips: Lpips, pictures: Tensor, truth: Tensor, *, rows: int = 0) -> Tensor:
    """LPIPS ``(B,)`` of the lower halves of ``(B, T, 3, R, R)`` crops in -1..1, mean over frames.

    In float32 also under autocast, as in the original. ``rows`` above 0: so many pictures at a
    time, whose activations are made again on the way back; the result is the same.
    """
    seen, right = (lower_half(x).float().flatten(0, 1) for x in (pictures, truth))
    with torch.autocast(seen.device.type, enabled=False):
        if rows > 0 and torch.is_grad_enabled():
            parts = zip(seen.split(rows), right.split(rows), strict=True)
            errors = torch.cat([checkpoint(lpips, a, b, use_reentrant=False) for a, b in parts])
        else:
            errors = lpips(seen, right)
    return errors.unflatten(0, pictures.shape[:2]).mean(1)


def sync_view(pictures: Tensor, net: StableSyncNet, *, side: int | None = None) -> Tensor:
    """What ``net`` is shown, ``(B, T * C, h, w)``, of ``(B, T, C, R, R)``.

    Of crops in -1..1 (C 3) the lower halves, after a bicubic resize (without antialias, as in the
    original) where they are not as large as ``net`` expects; of latents (C 4) the whole.
    ``side``: what it expects; None takes the product of its ladder's factors, which is right for
    ladders that end in one pixel, as all published ones do.
    """
    frames, channels = pictures.shape[1:3]
    wanted = net.config.visual.in_channels
    if (frames, frames * channels) != (net.config.frames, wanted):
        raise ValueError(
            f"SyncNet looks at {net.config.frames} frames of {wanted // net.config.frames} channels, "
            f"but was given {frames} of {channels}; use the SyncNet that belongs to the sampling"
        )
    if channels != 3:
        return pictures.flatten(1, 2)
    side = side or math.prod(across for _, across in net.config.visual.factors)
    if pictures.shape[-2:] != (side, side):
        small = F.interpolate(pictures.flatten(0, 1), (side, side), mode="bicubic")
        pictures = small.unflatten(0, pictures.shape[:2])
    return stack(pictures)


def sync(
    net: StableSyncNet,
    pictures: Tensor,
    sound: Tensor,
    *,
    side: int | None = None,
    checkpointing: bool = False,
) -> Tensor:
    """How little pictures and sound fit, ``(B,)``: minus the logarithm of their cosine, 0..11.5.

    ``pictures``: as ``sync_view`` takes them. ``sound``: ``(B, 1, 80, 52)`` log-mel in -4..4.
    ``checkpointing``: activations are made again on the way back.
    """
    shown = sync_view(pictures, net, side=side)
    if checkpointing and torch.is_grad_enabled():
        seen, heard = checkpoint(net, shown, sound, use_reentrant=False)
    else:
        seen, heard = net(shown, sound)
    return sync_loss(seen, heard, 1.0, reduction="none")


TREPA_SIDE = 224
"""Pixels; what VideoMAE v2 was trained on."""


def trepa(net: VideoMAE, pictures: Tensor, truth: Tensor) -> Tensor:
    """Distance ``(B,)`` of the motion in ``(B, T, 3, R, R)`` crops of -1..1 (TREPA, LatentSync).

    Bicubic to 224 pixels without antialias, clamped to 0..1 (no ImageNet mean, as in the original),
    features of unit length, mean of the squared difference over their entries. ``net.checkpointing``
    saves memory. No gradient goes to ``truth``. ``net`` runs in the precision of its weights, which may
    be half whatever the training runs in.
    """
    with torch.no_grad():
        right = _motion(net, truth)
    return (_motion(net, pictures) - right).square().mean(1)


def _motion(net: VideoMAE, pictures: Tensor) -> Tensor:
    frames = F.interpolate(pictures.float().flatten(0, 1), (TREPA_SIDE, TREPA_SIDE), mode="bicubic")
    frames = (frames / 2 + 0.5).clamp(0.0, 1.0).unflatten(0, pictures.shape[:2])
    # autocast would mix a third precision into the sums of a network that is in half already
    with torch.autocast(frames.device.type, enabled=False):
        features = net(frames.to(net.dtype)).float()
    if net.dtype == torch.float16 and features.requires_grad:
        _lift(frames, features)
    return F.normalize(features, dim=1)


def _lift(inputs: Tensor, outputs: Tensor) -> None:
    """Brings the gradient of ``outputs`` to a largest entry of 1 until it arrives at ``inputs``.

    This loss has gradients below the smallest float16, which would come out of the network as
    noise (measured: a cosine of 0.4 with the true one) unless a loss scaler stood outside.
    """
    peak: list[Tensor] = []

    def raised(gradient: Tensor) -> Tensor:
        peak[:] = [gradient.abs().amax().clamp_min(torch.finfo(gradient.dtype).tiny)]
        return gradient / peak[0]

    outputs.register_hook(raised)
    inputs.register_hook(lambda gradient: gradient * peak[0])


# --- SyncNet's own training


def pair_loss(seen: Tensor, heard: Tensor, together: Tensor) -> Tensor:
    """Binary cross-entropy of the cosine of embeddings ``(B, D)``, a scalar.

    ``together`` ``(B,)``: 1 where picture and sound belong to each other, 0 where not. Pairs do not
    see each other, so that accumulating batches gives exactly the gradient of one large batch.
    """
    return sync_loss(seen, heard, together)


def accuracy(seen: Tensor, heard: Tensor, together: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Share (0..1) of pairs whose cosine is on the right side of ``threshold`` (the original's 0.5)."""
    said = F.cosine_similarity(seen.float(), heard.float()) > threshold
    return (said == (together > 0.5).to(said.device)).float().mean()


def contrastive(
    seen: Tensor, heard: Tensor, temperature: float = 0.07, *, together: Tensor | None = None
) -> Tensor:
    """InfoNCE in both directions over a batch of positives ``(B, D)``, a scalar (Radford et al. 2021).

    Every other sample of the batch is a negative, so the batch size matters; ``cached_backward``
    or ``embedded`` give batches larger than the memory. Rows need unit length. ``together``
    ``(B,)``: where it is 0 the pair itself is a negative too, and asks for nothing to be near.
    """
    alike = seen.float() @ heard.float().T / temperature
    own = torch.arange(len(alike), device=alike.device)
    if together is not None:
        own = own[together > 0.5]
        if not len(own):
            return alike.sum() * 0
    return (F.cross_entropy(alike[own], own) + F.cross_entropy(alike.T[own], own)) / 2


def cached_backward(
    embed: Embed,
    chunks: Sequence[Chunk],
    loss: Callable[..., Tensor],
    *,
    backward: Callable[[Tensor], object] = torch.Tensor.backward,
    quiet: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Tensor:
    """The gradient of ``loss`` over all ``chunks`` as one batch, with the memory of one (GradCache).

    Gao et al. 2021: all chunks are embedded without a graph; the loss gives the gradient of each
    embedding; each chunk is embedded again with a graph, through which its part flows into the
    weights' ``.grad``. Returns the detached loss.

    Dropout falls the same way both times, as it would without the cache over the same chunks in
    the same order; ``loss`` itself must not draw. A norm over the batch would see chunks instead
    (SyncNet's norms are per sample). ``backward`` is called once, on the loss, and may scale it.
    ``quiet`` surrounds all chunks but the last: ``no_sync`` of a distributed network, whose ranks
    then exchange gradients once. The negatives of a rank are its own.
    """
    restore, columns = [], []
    with torch.no_grad():
        for chunk in chunks:
            restore.append(_remember(*chunk))
            columns.append(embed(*chunk))
    # up to 2025 torch kept weights that autocast cast here, without a graph, for the second pass
    torch.clear_autocast_cache()
    leaves = [torch.cat(parts).requires_grad_() for parts in zip(*columns, strict=True)]
    value = loss(*leaves)
    backward(value)
    sizes = [len(column[0]) for column in columns]
    gradients = [leaf.grad.split(sizes) for leaf in leaves if leaf.grad is not None]
    assert len(gradients) == len(leaves), "the loss must depend on all embeddings"
    for k, chunk in enumerate(chunks):
        restore[k]()
        with quiet() if k < len(chunks) - 1 else nullcontext():
            torch.autograd.backward(embed(*chunk), [parts[k] for parts in gradients])
    return value.detach()


def embedded(embed: Embed, chunks: Sequence[Chunk]) -> tuple[Tensor, ...]:
    """All embeddings of ``chunks``, with a graph that holds the activations of none of them.

    The cache of ``cached_backward`` for callers that want a loss to add to others: on the way
    back each chunk is embedded again by itself. What holds there for dropout and norms holds here.
    A DistributedDataParallel wrapper takes one call a step: use ``cached_backward`` around it.
    """
    columns = [checkpoint(embed, *chunk, use_reentrant=False) for chunk in chunks]
    return tuple(torch.cat(parts) for parts in zip(*columns, strict=True))


def _remember(*tensors: Tensor) -> Callable[[], None]:
    """Takes the state of the generators behind dropout; what it returns brings them back to it."""
    cpu = torch.get_rng_state()
    devices, states = get_device_states(*tensors)

    def restore() -> None:
        torch.set_rng_state(cpu)
        set_device_states(devices, states)

    return restore
