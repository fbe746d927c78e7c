"""One window through the denoiser at full size: ours beside a plain layout, in one process.

    python benchmarks/latentsync.py [--size 256] [--frames 16] [--repeats 1] [--threads 2] [--no-motion]

Weights are random. "plain" runs the same modules as the original does: five axes, frames folded away
and back around every convolution, a doubled batch for guidance, keys and values of the audio made
anew in every call. Both times are given as CPU seconds and as wall clock, the least of the repeats.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
import torch.nn.functional as F

from lipsync_core.models.unet3d import UNet3D, UNetConfig, time_wave


def random_weights(config: UNetConfig) -> UNet3D:
    network = UNet3D(config)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return network.eval().requires_grad_(False)


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


def measure(name: str, call, repeats: int) -> torch.Tensor:
    best = (float("inf"), float("inf"))
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        with torch.no_grad():
            result = call()
        best = min(best, (time.process_time() - cpu, time.perf_counter() - wall))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{name:28s} {best[0]:7.1f} CPU s {best[1]:7.1f} s wall   peak RSS {peak:.1f} GB",
        flush=True,
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-motion", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="a small network, to try this script")
    choices = parser.parse_args()
    torch.set_num_threads(choices.threads)
    torch.manual_seed(0)
    config = UNetConfig(
        motion="none" if choices.no_motion else "all",
        **({"channels": (32, 32, 32, 64)} if choices.tiny else {}),
    )
    network = random_weights(config)
    side = choices.size // 8
    sample = torch.randn(1, 13, choices.frames, side, side)
    audio = torch.randn(choices.frames, 50, 384)
    silent = torch.cat([torch.zeros_like(audio), audio])
    doubled = sample.repeat(2, 1, 1, 1, 1)
    plain = Plain(network)
    theirs = measure("plain, float32", lambda: plain(doubled, 261, silent), choices.repeats)
    network.to(memory_format=torch.channels_last)
    keys = network.listen(audio)
    ours = measure(
        "ours, float32", lambda: network(sample, 261, keys, guided=True), choices.repeats
    )
    print(f"relative difference {(ours - theirs).abs().max() / theirs.abs().max():.1e}")
    network.to(torch.bfloat16)
    keys = network.listen(audio.bfloat16())
    half = measure(
        "ours, bfloat16",
        lambda: network(sample.bfloat16(), 261, keys, guided=True),
        choices.repeats,
    )
    error = (half.float() - theirs).square().mean().sqrt() / theirs.square().mean().sqrt()
    print(f"relative error of bfloat16 {error:.1e} (RMS)")


if __name__ == "__main__":
    main()
