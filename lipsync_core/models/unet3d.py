"""LatentSync's denoiser: the Stable Diffusion 1.5 UNet, hearing audio, with motion modules between.

Facts: ByteDance LatentSync at commit a229c39 (Apache-2.0), names and shapes of its checkpoints.
Frames are folded into the batch, window by window, and stay so: activations are ``(B*T, C, H, W)``
in channels-last memory from the first convolution to the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import Attention, FeedForward, KeyValue
from .dense import Conv3x3, is_frugal, linear, portions
from .motion import MotionModule
from .norm import group_norm, norm_silu

AudioKeys = tuple[KeyValue, ...]
"""Keys and values of the audio for every spatial transformer, in the order in which they are met."""


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The published networks are the default (1.5, 1.6) and ``motion="none"`` (1.0)."""

    in_channels: int = 13
    """Noisy latent 4, mask 1, latent of the masked picture 4, latent of the reference 4."""
    out_channels: int = 4
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers: int = 2
    """Per block on the way down; one more on the way up."""
    heads: int = 8
    audio_width: int | None = 384
    """Width of the audio tokens; None where the network does not listen."""
    groups: int = 32
    motion: Literal["all", "decoder", "none"] = "all"
    motion_scales: tuple[int, ...] = (1, 2, 4, 8)
    """Reductions of the latent at which motion modules sit."""
    window: int = 24
    """Longest window the position table of the motion modules allows."""
    joint_norm: bool = True
    """Whether the norms of the ResNets share statistics over the frames of a window."""


def config_of(shapes: Mapping[str, Sequence[int]]) -> UNetConfig:
    """Reads the configuration off the tensors of a checkpoint.

    Head count and norm groups leave no trace in shapes; they are 8 and 32 in everything published.
    """
    depth = 1 + max(int(key.split(".")[1]) for key in shapes if key.startswith("down_blocks."))
    layers = 1 + max(
        int(key.split(".")[3]) for key in shapes if key.startswith("down_blocks.0.resnets.")
    )
    heard = shapes.get("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight")
    down = {
        int(key.split(".")[1])
        for key in shapes
        if key.startswith("down_blocks.") and ".motion_modules." in key
    }
    up = {
        depth - 1 - int(key.split(".")[1])
        for key in shapes
        if key.startswith("up_blocks.") and ".motion_modules." in key
    }
    tables = [shape for key, shape in shapes.items() if key.endswith("pos_encoder.pe")]
    return UNetConfig(
        in_channels=shapes["conv_in.weight"][1],
        out_channels=shapes["conv_out.weight"][0],
        channels=tuple(shapes[f"down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(depth)),
        layers=layers,
        audio_width=heard[1] if heard else None,
        motion="all" if down else "decoder" if up else "none",
        motion_scales=tuple(2**i for i in sorted(up)) if up else (1, 2, 4, 8),
        window=tables[0][1] if tables else 24,
    )


def time_wave(timestep: Tensor, width: int) -> Tensor:
    """``(B,)`` steps to ``(B, width)`` cosines then sines (DDPM's table, flipped as in SD 1.5)."""
    half = width // 2
    rate = torch.exp(
        torch.arange(half, device=timestep.device, dtype=torch.float32)
        * (-math.log(10000.0) / half)
    )
    angle = timestep.float()[:, None] * rate
    return torch.cat([torch.cos(angle), torch.sin(angle)], dim=-1)


class TimeEmbedding(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, inner)
        self.linear_2 = nn.Linear(inner, inner)

    def forward(self, wave: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(wave)))


class ResNet(nn.Module):
    def __init__(self, into: int, out: int, time_width: int, groups: int, joint: bool) -> None:
        super().__init__()
        self.joint = joint
        self.norm1 = nn.GroupNorm(groups, into, eps=1e-5)
        self.conv1 = Conv3x3(into, out)
        self.time_emb_proj = nn.Linear(time_width, out)
        self.norm2 = nn.GroupNorm(groups, out, eps=1e-5)
        self.conv2 = Conv3x3(out, out)
        self.conv_shortcut = nn.Conv2d(into, out, 1) if into != out else None

    def forward(self, x: Tensor, time: Tensor, frames: int) -> Tensor:
        """``time``: ``(B, D)``, after SiLU; the same for all frames of a window."""
        together = frames if self.joint else 1
        y = self.conv1(norm_silu(x, self.norm1, together))
        y = self.conv2(norm_silu(y, self.norm2, together, self.time_emb_proj(time)))
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        return x + y


class SpatialBlock(nn.Module):
    def __init__(self, width: int, heads: int, audio_width: int | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, heads)
        if audio_width is not None:
            self.norm2 = nn.LayerNorm(width)
            self.attn2 = Attention(width, heads, source_width=audio_width)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, tokens: Tensor, audio: KeyValue | None, double: bool) -> Tensor:
        tokens = self.attn1(self.norm1(tokens)) + tokens
        if double:
            tokens = torch.cat([tokens, tokens])
        if audio is not None:
            tokens = self.hear(tokens, audio)
        return self.ff(self.norm3(tokens)) + tokens

    def hear(self, tokens: Tensor, audio: KeyValue) -> Tensor:
        """Rows before those that ``audio`` has hear nothing.

        Their keys and values would be zero, for these layers have no bias, so that what they add
        is the bias of the last layer.
        """
        deaf = tokens.shape[0] - audio[0].shape[0]
        if deaf == 0:
            return self.attn2(self.norm2(tokens), audio) + tokens
        if deaf == tokens.shape[0]:
            return tokens + self.attn2.to_out[0].bias
        heard = tokens[deaf:]
        heard = self.attn2(self.norm2(heard), audio) + heard
        return torch.cat([tokens[:deaf] + self.attn2.to_out[0].bias, heard])


class SpatialTransformer(nn.Module):
    def __init__(self, width: int, heads: int, audio_width: int | None, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([SpatialBlock(width, heads, audio_width)])
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, audio: KeyValue | None, double: bool = False) -> Tensor:
        """``double``: the output holds the rows twice, first without audio, then with it."""
        count, width, height, breadth = x.shape
        tokens = group_norm(x, self.norm).permute(0, 2, 3, 1).reshape(count, -1, width)
        if is_frugal(x):
            tokens = self._in_portions(tokens, audio, double)
        else:
            tokens = self._attend(tokens, audio, double)
        if double:
            x = torch.cat([x, x])
        return tokens.reshape(-1, height, breadth, width).permute(0, 3, 1, 2) + x

    def _attend(self, tokens: Tensor, audio: KeyValue | None, double: bool) -> Tensor:
        tokens = linear(tokens, self.proj_in.weight[:, :, 0, 0], self.proj_in.bias)
        for block in self.transformer_blocks:
            tokens = block(tokens, audio, double)
        return linear(tokens, self.proj_out.weight[:, :, 0, 0], self.proj_out.bias)

    def _in_portions(self, tokens: Tensor, audio: KeyValue | None, double: bool) -> Tensor:
        """Frames do not meet here, so that a few at a time may pass through all layers."""
        count, places, width = tokens.shape
        heard = count if audio is None else audio[0].shape[0]
        out = tokens.new_empty(count * 2 if double else count, places, width)
        # rows that hear and rows that do not are never in one portion
        for start, stop in ((0, count - heard), (count - heard, count)):
            for part in portions(stop - start, places * width * 4):
                rows = slice(start + part.start, start + part.stop)
                some = None
                if audio is not None:
                    ears = part if start == count - heard else slice(0, 0)
                    some = (audio[0][ears], audio[1][ears])
                done = self._attend(tokens[rows], some, double)
                if double:
                    out[:count][rows], out[count:][rows] = done.chunk(2)
                else:
                    out[rows] = done
        return out


class Downsampler(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsampler(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = Conv3x3(width, width)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """``size`` is that of the next skip connection, so that odd pictures meet theirs."""
        return self.conv(F.interpolate(x, size=tuple(size), mode="nearest"))


class Level(nn.Module):
    """One resolution, down, middle or up: layers of ResNet, spatial transformer, motion module."""

    def __init__(
        self,
        widths: Sequence[tuple[int, int]],
        config: UNetConfig,
        *,
        spatial: int,
        motion: bool,
        down: bool = False,
        up: bool = False,
    ) -> None:
        super().__init__()
        time_width = config.channels[0] * 4
        out = widths[-1][1]
        self.resnets = nn.ModuleList(
            [ResNet(a, b, time_width, config.groups, config.joint_norm) for a, b in widths]
        )
        self.attentions = nn.ModuleList(
            [
                SpatialTransformer(out, config.heads, config.audio_width, config.groups)
                for _ in range(spatial)
            ]
        )
        self.motion_modules = nn.ModuleList(
            [MotionModule(out, config.heads, config.window) for _ in widths if motion]
        )
        self.downsamplers = nn.ModuleList([Downsampler(out)] if down else [])
        self.upsamplers = nn.ModuleList([Upsampler(out)] if up else [])


class UNet3D(nn.Module):
    """Predicts the noise of a window of latents."""

    def __init__(self, config: UNetConfig | None = None) -> None:
        super().__init__()
        config = config or UNetConfig()
        self.config = config
        self.checkpointing = False
        """Trades time for memory in training: layers are computed again on the way back."""
        channels = config.channels
        last = len(channels) - 1
        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(channels[0], channels[0] * 4)

        self.down_blocks = nn.ModuleList()
        into = channels[0]
        for i, out in enumerate(channels):
            widths = [(into if k == 0 else out, out) for k in range(config.layers)]
            moves = config.motion == "all" and 2**i in config.motion_scales
            self.down_blocks.append(
                Level(
                    widths,
                    config,
                    spatial=config.layers if i < last else 0,
                    motion=moves,
                    down=i < last,
                )
            )
            into = out
        self.mid_block = Level([(into, into)] * 2, config, spatial=1, motion=False)

        self.up_blocks = nn.ModuleList()
        back = channels[::-1]
        for i, out in enumerate(back):
            skip = back[min(i + 1, last)]
            widths = []
            for k in range(config.layers + 1):
                main = (back[max(i - 1, 0)]) if k == 0 else out
                widths.append((main + (skip if k == config.layers else out), out))
            moves = config.motion != "none" and 2 ** (last - i) in config.motion_scales
            self.up_blocks.append(
                Level(
                    widths,
                    config,
                    spatial=config.layers + 1 if i > 0 else 0,
                    motion=moves,
                    up=i < last,
                )
            )
        self.conv_norm_out = nn.GroupNorm(config.groups, channels[0], eps=1e-5)
        self.conv_out = nn.Conv2d(channels[0], config.out_channels, 3, padding=1)
        # so that training from an image model begins at the identity
        for layer in (self.conv_in, self.conv_out):
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    @property
    def hearing(self) -> list[Attention]:
        """The layers that attend to audio, in the order in which ``forward`` meets them."""
        levels = [*self.down_blocks, self.mid_block, *self.up_blocks]
        blocks = [
            block
            for level in levels
            for transformer in level.attentions
            for block in transformer.transformer_blocks
        ]
        return [block.attn2 for block in blocks if hasattr(block, "attn2")]

    def listen(self, audio: Tensor) -> AudioKeys:
        """Keys and values of ``audio`` ``(B*T, L, D)``: once a window, not once a step."""
        return tuple(layer.listen(audio) for layer in self.hearing)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        audio: Tensor | AudioKeys | None = None,
        *,
        guided: bool = False,
    ) -> Tensor:
        """Noise ``(B, 4, T, H, W)`` in ``sample`` ``(B, 13, T, H, W)``.

        ``timestep``: one for all or ``(B,)``. ``audio``: tokens ``(B*T, L, D)`` or ``(B, T, L, D)``,
        or what ``listen`` made of them; None leaves the audio layers out. With ``guided`` the
        result has ``2 B`` rows, first those that hear nothing (all-zero tokens), then those that
        hear; what both share is computed once.
        """
        return self.step(sample, timestep, audio, guided=guided)[0]

    def step(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        audio: Tensor | AudioKeys | None = None,
        *,
        guided: bool = False,
        deep: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """``forward``, and the one tensor by which the next step may be cut short.

        ``deep`` is what came out of the second-last layer on the way up at an earlier step; given
        it, only the first convolution and the last layer run (DeepCache, Ma et al. 2023).
        """
        batch, _, frames, *_ = sample.shape
        if guided and audio is None:
            raise ValueError("guidance compares with and without audio, but no audio was given")
        keys = self._keys(audio, batch * frames)
        if not isinstance(timestep, Tensor):
            timestep = torch.tensor(timestep, device=sample.device)
        wave = time_wave(timestep.reshape(-1).expand(batch), self.config.channels[0])
        time = F.silu(self.time_embedding(wave.to(sample.dtype)))

        x = sample.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        x = self.conv_in(x)
        run = self._run
        if deep is None:
            deep, x, time = self._deep(x, time, frames, keys, guided, run)
        elif guided:
            x, time = torch.cat([x, x]), torch.cat([time, time])
        level = self.up_blocks[-1]
        x = torch.cat([deep, x], dim=1)
        x = run(level.resnets[-1], x, time, frames)
        if level.attentions:
            x = run(level.attentions[-1], x, keys[-1] if keys else None)
        if level.motion_modules:
            x = run(level.motion_modules[-1], x, frames)
        together = frames if self.config.joint_norm else 1
        x = self.conv_out(norm_silu(x, self.conv_norm_out, together))
        return x.unflatten(0, (-1, frames)).transpose(1, 2), deep

    def _keys(self, audio: Tensor | AudioKeys | None, rows: int) -> AudioKeys:
        if audio is None:
            return ()
        if isinstance(audio, Tensor):
            audio = self.listen(audio.flatten(0, 1) if audio.dim() == 4 else audio)
        if audio and audio[0][0].shape[0] != rows:
            raise ValueError(f"audio for {audio[0][0].shape[0]} frames was given for {rows} frames")
        return audio

    def _run(self, layer: nn.Module, *inputs: Any) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, *inputs, use_reentrant=False)  # type: ignore[return-value]
        return layer(*inputs)

    def _deep(
        self,
        x: Tensor,
        time: Tensor,
        frames: int,
        keys: AudioKeys,
        guided: bool,
        run: Callable[..., Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All but the first and the last layer; also the first skip connection and ``time``, doubled
        if guided."""
        heard = iter(keys)
        double = guided
        skips = [x]
        for level in self.down_blocks:
            for k, resnet in enumerate(level.resnets):
                x = run(resnet, x, time, frames)
                if level.attentions:
                    x = run(level.attentions[k], x, next(heard, None), double)
                    if double:
                        # from here on the two halves differ
                        double = False
                        time = torch.cat([time, time])
                        skips = [torch.cat([skip, skip]) for skip in skips]
                if level.motion_modules:
                    x = run(level.motion_modules[k], x, frames)
                skips.append(x)
            for layer in level.downsamplers.children():
                x = layer(x)
                skips.append(x)
        x = run(self.mid_block.resnets[0], x, time, frames)
        x = run(self.mid_block.attentions[0], x, next(heard, None))
        x = run(self.mid_block.resnets[1], x, time, frames)
        final = self.up_blocks[-1]
        for level in self.up_blocks:
            for k, resnet in enumerate(level.resnets):
                if level is final and k == len(level.resnets) - 1:
                    break
                x = run(resnet, torch.cat([x, skips.pop()], dim=1), time, frames)
                if level.attentions:
                    x = run(level.attentions[k], x, next(heard, None))
                if level.motion_modules:
                    x = run(level.motion_modules[k], x, frames)
            for layer in level.upsamplers.children():
                x = layer(x, skips[-1].shape[-2:])
        return x, skips[0], time
