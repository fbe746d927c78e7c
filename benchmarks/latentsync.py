"""The LatentSync engine at full size with random weights: one window on a CPU, or fps on a GPU.

    python benchmarks/latentsync.py [--original LATENTSYNC_CHECKOUT] [--size 256] [--frames 16]
        [--repeats 3] [--threads 2] [--no-motion] [--no-guidance] [--vae] [--tiny]
    python benchmarks/latentsync.py --device cuda [--sizes 256 512]

On a CPU ours runs beside a plain layout, in turns and in one process: the same modules as the original
arranges them, with five axes, frames folded away and back around every convolution, a doubled batch for
guidance, keys and values of the audio made anew in every call. With ``--original`` the checkout's own
network takes the plain one's place, with the same weights (it needs diffusers, einops and omegaconf).
Times are CPU seconds and wall clock, the least of the repeats.

On a GPU every preset draws the same frames at one window and at more windows at once: fps of the
sampling with encoding and decoding, peak memory, the share of the matrix throughput that the same GPU
reaches on square products, and the PSNR of compiled, batched and half-precision pictures against plain.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
import time
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from lipsync_core.models.motion import position_table
from lipsync_core.models.unet3d import UNet3D, UNetConfig, time_wave


def random_weights(config: UNetConfig) -> UNet3D:
    """Of the scale that keeps activations alive, cut from one stretch of noise: quick at any size."""
    noise = torch.randn(2**22 + 77)
    with torch.device("meta"):
        network = UNet3D(config).train(False).requires_grad_(False)
    state = {}
    for number, (key, value) in enumerate(network.state_dict().items()):
        if key.endswith("pos_encoder.pe"):
            state[key] = position_table(value.shape[1], value.shape[2])
            continue
        skip = number * 7919 % 2**20
        long = noise.repeat(-(-(value.numel() + skip) // len(noise)))
        one = long[skip : skip + value.numel()].view(value.shape).clone()
        if value.dim() > 1:
            one *= value[0].numel() ** -0.5
        else:
            one = one * 0.05 + float("norm" in key and key.endswith("weight"))
        state[key] = one
    network.load_state_dict(state, assign=True)
    return network


def original(checkout: Path, state: dict[str, torch.Tensor]) -> Any:
    """The published class with ``state``, sharing its memory; a word in place of it where it cannot run."""
    # this file has the name of its package
    here = Path(__file__).resolve().parent
    sys.path[:] = [str(checkout), *(one for one in sys.path if Path(one).resolve() != here)]
    try:
        import latentsync.utils  # noqa: F401 - the parent of what is replaced
        from omegaconf import OmegaConf

        # its helpers open videos and plots, which a network does not need
        stub: Any = types.ModuleType("latentsync.utils.util")
        stub.zero_rank_log = lambda *_: None
        sys.modules["latentsync.utils.util"] = stub
        from latentsync.models.unet import UNet3DConditionModel
    except ImportError as error:
        return f"it cannot be imported here: {error}"
    settings: Any = OmegaConf.to_container(
        OmegaConf.load(checkout / "configs" / "unet" / "stage2.yaml")
    )
    model = settings["model"]
    model["use_motion_module"] = any(".motion_modules." in key for key in state)
    with torch.device("meta"):
        network = UNet3DConditionModel(**model).train(False).requires_grad_(False)
    torch.nn.Module.load_state_dict(network, state, assign=True)
    return network


class Plain:
    """The same network in the original's layout, ``(B, C, T, H, W)`` between all layers."""

    def __init__(self, network: UNet3D) -> None:
        self.network = network

    def conv(self, layer, x):
        batch = len(x)
        y = layer(x.transpose(1, 2).flatten(0, 1).contiguous())
        return y.unflatten(0, (batch, -1)).transpose(1, 2)

    def norm(self, layer, x):
        return F.group_norm(x.contiguous(), layer.num_groups, layer.weight, layer.bias, layer.eps)

    def resnet(self, layer, x, time_embedding):
        y = self.conv(layer.conv1, F.silu(self.norm(layer.norm1, x)))
        y = y + layer.time_emb_proj(time_embedding)[:, :, None, None, None]
        y = self.conv(layer.conv2, F.silu(self.norm(layer.norm2, y)))
        if layer.conv_shortcut is not None:
            x = self.conv(layer.conv_shortcut, x)
        return x + y

    def attend(self, layer, tokens, source=None):
        source = tokens if source is None else source
        q, k, v = layer.to_q(tokens), layer.to_k(source), layer.to_v(source)
        q, k, v = (t.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for t in (q, k, v))
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return layer.to_out[0](seen)

    def feed(self, layer, tokens):
        hidden, gate = layer.net[0].proj(tokens).chunk(2, dim=-1)
        return layer.net[2](hidden * F.gelu(gate))

    def spatial(self, layer, x, audio):
        batch, width, _, height, breadth = x.shape
        rest = x = x.transpose(1, 2).flatten(0, 1).contiguous()
        y = F.group_norm(x, layer.norm.num_groups, layer.norm.weight, layer.norm.bias, 1e-6)
        tokens = layer.proj_in(y).permute(0, 2, 3, 1).reshape(len(x), -1, width)
        for block in layer.transformer_blocks:
            tokens = self.attend(block.attn1, block.norm1(tokens)) + tokens
            tokens = self.attend(block.attn2, block.norm2(tokens), audio) + tokens
            tokens = self.feed(block.ff, block.norm3(tokens)) + tokens
        y = tokens.reshape(len(x), height, breadth, width).permute(0, 3, 1, 2).contiguous()
        return (layer.proj_out(y) + rest).unflatten(0, (batch, -1)).transpose(1, 2)

    def motion(self, layer, x):
        layer = layer.temporal_transformer
        batch, width, frames, height, breadth = x.shape
        rest = x = x.transpose(1, 2).flatten(0, 1).contiguous()
        y = F.group_norm(x, layer.norm.num_groups, layer.norm.weight, layer.norm.bias, 1e-6)
        tokens = layer.proj_in(y.permute(0, 2, 3, 1).reshape(len(x), -1, width))
        for block in layer.transformer_blocks:
            for norm, attention in zip(block.norms, block.attention_blocks, strict=True):
                places = norm(tokens).unflatten(0, (batch, frames)).transpose(1, 2).flatten(0, 1)
                places = self.attend(attention, places + attention.pos_encoder.pe[:, :frames])
                back = places.unflatten(0, (batch, -1)).transpose(1, 2).flatten(0, 1)
                tokens = back + tokens
            tokens = self.feed(block.ff, block.ff_norm(tokens)) + tokens
        y = layer.proj_out(tokens).reshape(len(x), height, breadth, width).permute(0, 3, 1, 2)
        return (y.contiguous() + rest).unflatten(0, (batch, -1)).transpose(1, 2)

    def level(self, level, k, x, time_embedding, audio):
        x = self.resnet(level.resnets[k], x, time_embedding)
        if level.attentions:
            x = self.spatial(level.attentions[k], x, audio)
        if level.motion_modules:
            x = self.motion(level.motion_modules[k], x)
        return x

    def __call__(self, sample, timestep, audio):
        network = self.network
        wave = time_wave(torch.full((len(sample),), float(timestep)), network.config.channels[0])
        now = F.silu(network.time_embedding(wave.to(sample.dtype)))
        x = self.conv(network.conv_in, sample)
        skips = [x]
        for level in network.down_blocks:
            for k in range(len(level.resnets)):
                x = self.level(level, k, x, now, audio)
                skips.append(x)
            for layer in level.downsamplers:
                x = self.conv(layer.conv, x)
                skips.append(x)
        middle = network.mid_block
        x = self.resnet(middle.resnets[0], x, now)
        x = self.spatial(middle.attentions[0], x, audio)
        x = self.resnet(middle.resnets[1], x, now)
        for level in network.up_blocks:
            for k in range(len(level.resnets)):
                x = self.level(level, k, torch.cat([x, skips.pop()], dim=1), now, audio)
            for layer in level.upsamplers:
                x = F.interpolate(x, scale_factor=(1.0, 2.0, 2.0), mode="nearest")
                x = self.conv(layer.conv, x)
        return self.conv(network.conv_out, F.silu(self.norm(network.conv_norm_out, x)))


def measure(rows: dict[str, Callable[[], torch.Tensor]], repeats: int) -> dict[str, torch.Tensor]:
    """Runs ``rows`` in turns; the output of each. Prints the least times."""
    best = dict.fromkeys(rows, (float("inf"), float("inf")))
    made = {}
    for _ in range(repeats):
        for name, call in rows.items():
            cpu, wall = time.process_time(), time.perf_counter()
            with torch.no_grad():
                made[name] = call()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            best[name] = min(best[name][0], cpu), min(best[name][1], wall)
            print(f"  {name:28s} {cpu:7.2f} CPU s {wall:7.2f} s wall", file=sys.stderr, flush=True)
    first = next(iter(best.values()))
    for name, (cpu, wall) in best.items():
        print(
            f"{name:28s} {cpu:7.2f} CPU s {wall:7.2f} s wall   "
            f"{cpu / first[0]:.3f} and {wall / first[1]:.3f} of the first",
            flush=True,
        )
    return made


def off(got: torch.Tensor, expected: torch.Tensor) -> str:
    got, expected = got.float(), expected.float()
    worst = (got - expected).abs().max() / expected.abs().max()
    return f"{worst:.1e} at worst, {(got - expected).norm() / expected.norm():.1e} RMS"


def on_cpu(choices: argparse.Namespace) -> None:
    """One call of the denoiser, and the VAE a frame."""
    torch.set_num_threads(choices.threads)
    torch.manual_seed(0)
    config = UNetConfig(
        motion="none" if choices.no_motion else "all",
        **({"channels": (32, 32, 32, 64)} if choices.tiny else {}),
    )
    network = random_weights(config)
    theirs: Any = Plain(network)
    name = "plain"
    if choices.original is None:
        print("the original is not run: no checkout was given with --original")
    else:
        made = original(choices.original, network.state_dict())
        if isinstance(made, str):
            print(f"the original is not run: {made}")
        else:
            name = "original"

            def theirs(sample, timestep, audio):
                return made(sample, torch.tensor(timestep), audio).sample

    side = choices.size // 8
    sample = torch.randn(1, 13, choices.frames, side, side)
    audio = torch.randn(choices.frames, 50, 384)
    heard, given, guided = audio, sample, not choices.no_guidance
    if guided:
        heard = torch.cat([torch.zeros_like(audio), audio])
        given = sample.repeat(2, 1, 1, 1, 1)
    # ours is another object: its convolutions hold copies in another order of memory
    with torch.device("meta"):
        ours = UNet3D(config).train(False).requires_grad_(False)
    ours.load_state_dict(network.state_dict(), assign=True)
    ours.to(memory_format=torch.channels_last)
    keys = ours.listen(audio)
    rows = {
        f"{name}, float32": lambda: theirs(given, 261, heard),
        "ours, float32": lambda: ours(sample, 261, keys, guided=guided),
    }
    made32 = measure(rows, choices.repeats)
    expected, got = made32.values()
    print(f"difference of ours {off(got, expected)}")
    if choices.float32:
        return
    if name == "original":
        # what only its float32 weights are held by
        del network
    ours.to(torch.bfloat16)
    half = ours.listen(audio.bfloat16())
    if name == "original":
        made.to(torch.bfloat16)
    else:
        network.to(torch.bfloat16)
    rows = {
        f"{name}, bfloat16": lambda: theirs(given.bfloat16(), 261, heard.bfloat16()),
        "ours, bfloat16": lambda: ours(sample.bfloat16(), 261, half, guided=guided),
    }
    made16 = measure(rows, choices.repeats)
    for row, value in made16.items():
        print(f"difference of {row} from float32 {off(value, expected)}")
    if choices.vae:
        del ours, theirs
        gc.collect()
        pictures = autoencoder(torch.device("cpu"), torch.float32)
        frame = torch.randn(2, 3, choices.size, choices.size).clamp(-1, 1)
        latent = torch.randn(2, 4, side, side)
        measure(
            {
                "VAE, encode two frames": lambda: pictures.encode(frame),
                "VAE, decode two frames": lambda: pictures.decode(latent),
            },
            choices.repeats,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak RSS of all of it {peak:.1f} GB")


def autoencoder(device: torch.device, dtype: torch.dtype) -> Any:
    """Stable Diffusion's VAE at its published size, in the engine's own wrapper."""
    from diffusers import AutoencoderKL

    from lipsync_core.engines.latentsync.pictures import Pictures

    with device:
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
        )
    torch.nn.Module.to(vae.train(False).requires_grad_(False), device, dtype)
    return Pictures(vae, tiny=False, batch=8 if device.type == "cuda" else 2)


def tiny_autoencoder(device: torch.device, dtype: torch.dtype) -> Any:
    from diffusers import AutoencoderTiny

    from lipsync_core.engines.latentsync.pictures import Pictures

    with device:
        vae = AutoencoderTiny().train(False).requires_grad_(False)
    torch.nn.Module.to(vae, device, dtype)
    return Pictures(vae, tiny=True, batch=8)


def matrix_peak(device: torch.device) -> float:
    """FLOP/s of the best of a few square products in half precision."""
    best = 0.0
    for side in (4096, 8192, 16384):
        a = torch.randn(side, side, device=device, dtype=torch.float16)
        for _ in range(3):
            a @ a
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(10):
            a @ a
        torch.cuda.synchronize()
        best = max(best, 20 * side**3 / (time.perf_counter() - began))
    return best


def counted(network: UNet3D, side: int, guided: bool) -> float:
    """FLOP of one call on a window, from the shapes alone."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad():
        shadow = UNet3D(network.config).train(False)
        sample, audio = torch.empty(1, 13, 16, side, side), torch.empty(16, 50, 384)
        keys = shadow.listen(audio)
        with FlopCounterMode(display=False) as counter:
            shadow(sample, torch.tensor(261), keys, guided=guided)
    return float(counter.get_total_flops())


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of pictures in -1..1."""
    error = (a.clamp(-1, 1) - b.clamp(-1, 1)).square().mean().item()
    return round(10 * torch.log10(torch.tensor(4 / max(error, 1e-12))).item(), 1)


def draw(
    nets: tuple[UNet3D, Any, Any], inputs: tuple[torch.Tensor, ...], preset: Any, batch: int
) -> tuple[torch.Tensor, float, int]:
    """Pictures of ``inputs`` (frames, mask, tokens, noise), seconds, and the batch that fitted."""
    from lipsync_core.engines.latentsync.sampler import denoise

    network, full, tiny = nets
    frames, mask, tokens, noise = inputs
    pictures = tiny if preset.tiny_vae else full
    torch.cuda.synchronize()
    began = time.perf_counter()
    seen = pictures.encode(torch.cat([frames, frames * 0.5]))
    given = torch.cat([mask, torch.cat(seen.cpu().chunk(2), dim=1)], dim=1)
    latents, used = denoise(network, given, tokens, noise, preset, batch=batch)
    done = pictures.decode(latents).cpu()
    torch.cuda.synchronize()
    return done, time.perf_counter() - began, used


def on_gpu(choices: argparse.Namespace) -> None:
    """Every preset at every size; one JSON line for each run, so that a cut run keeps what it had."""
    from lipsync_core.engines.latentsync import region
    from lipsync_core.engines.latentsync.presets import PRESETS
    from lipsync_core.engines.latentsync.sampler import window_starts

    device, dtype = torch.device("cuda"), torch.float16
    say = lambda **words: print(json.dumps(words), flush=True)  # noqa: E731
    peak = matrix_peak(device)
    say(gpu=torch.cuda.get_device_name(), matrix_tflops=round(peak / 1e12), torch=torch.__version__)
    network = random_weights(UNetConfig(**({"channels": (32, 32, 32, 64)} if choices.tiny else {})))
    network.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    nets = (network, autoencoder(device, dtype), tiny_autoencoder(device, dtype))
    make = torch.Generator().manual_seed(0)
    for size in choices.sizes:
        side, count = size // 8, choices.windows * 16
        frames = torch.rand(count, 3, size, size, generator=make) * 2 - 1
        tokens = torch.randn(count, 50, 384, generator=make)
        noise = torch.randn(4, side, side, generator=make)
        mask = torch.from_numpy(region.hidden_latent(size, 8))[None].expand(count, -1, -1, -1)
        inputs = (frames, mask, tokens, noise)
        flop = {guided: counted(network, side, guided) for guided in (False, True)}
        expected: dict[str, torch.Tensor] = {}

        for preset in PRESETS:
            passes = [preset.guides(s) and preset.guidance != 1 for s in range(preset.steps)]
            whole = [guided for s, guided in enumerate(passes) if s % preset.refresh == 0]
            windows = len(window_starts(count, preset.overlap, preset.window))
            for compiled in (False, True):
                if compiled and preset.name not in choices.compiled:
                    continue
                row = replace(preset, compiled=compiled)
                for batch in (1, *choices.batches):
                    gc.collect()
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                    began = time.perf_counter()
                    try:
                        draw(nets, inputs, row, batch)
                        warm = time.perf_counter() - began
                        done, seconds, used = min(
                            (draw(nets, inputs, row, batch) for _ in range(choices.repeats)),
                            key=lambda one: one[1],
                        )
                    except Exception as error:
                        say(size=size, preset=row.name, batch=batch, failed=str(error)[:200])
                        continue
                    plain = expected.setdefault(row.name, done)
                    say(
                        size=size,
                        preset=row.name,
                        compiled=compiled,
                        batch=used,
                        fps=round(count / seconds, 2),
                        first_s=round(warm, 1),
                        # of the denoiser alone; the VAE's time is in the seconds
                        share_of_peak=round(
                            windows * sum(flop[guided] for guided in whole) / seconds / peak, 3
                        ),
                        peak_gb=round(torch.cuda.max_memory_allocated() / 2**30, 1),
                        psnr_to_plain=psnr(done, plain),
                    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--original", type=Path, help="a checkout of bytedance/LatentSync")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-motion", action="store_true")
    parser.add_argument("--no-guidance", action="store_true", help="one row in place of two")
    parser.add_argument("--float32", action="store_true", help="leave bfloat16 out")
    parser.add_argument("--vae", action="store_true", help="the VAE as well")
    parser.add_argument("--tiny", action="store_true", help="a small network, to try this script")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--batches", type=int, nargs="*", default=[2, 4])
    parser.add_argument("--windows", type=int, default=4, help="of 16 frames, drawn on a GPU")
    parser.add_argument("--compiled", nargs="*", default=["exact", "fast"], metavar="PRESET")
    choices = parser.parse_args()
    if choices.device == "cuda":
        on_gpu(choices)
    else:
        on_cpu(choices)


if __name__ == "__main__":
    main()
