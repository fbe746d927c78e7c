"""SyncNet (Chung and Zisserman, 2016; the 2020 release): five frames and a fifth of a second of sound.

Layer sizes and key names follow the published ``syncnet_v2.model``.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

EMBEDDING = 1024
FRAMES = 5
"""Video frames under one embedding, at 25 a second."""
ROWS = 20
"""Rows of coefficients under one embedding, at 100 a second."""
SIZE = 224
"""Side of the face crop in pixels."""


def _head() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, EMBEDDING)
    )


def _sound() -> nn.Sequential:
    def block(before: int, after: int, kernel: int | tuple[int, int], padding: int) -> list:
        return [
            nn.Conv2d(before, after, kernel, padding=padding),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]

    return nn.Sequential(
        *block(1, 64, 3, 1),
        nn.MaxPool2d(1, 1),
        *block(64, 192, 3, 1),
        nn.MaxPool2d(3, (1, 2)),
        *block(192, 384, 3, 1),
        *block(384, 256, 3, 1),
        *block(256, 256, 3, 1),
        nn.MaxPool2d(3, 2),
        *block(256, 512, (5, 4), 0),
    )


def _lips() -> nn.Sequential:
    def block(before: int, after: int, *, frames: int, side: int, step: int, padding: int) -> list:
        return [
            nn.Conv3d(
                before, after, (frames, side, side), (1, step, step), padding=(0, padding, padding)
            ),
            nn.BatchNorm3d(after),
            nn.ReLU(),
        ]

    def pool(padding: int) -> nn.MaxPool3d:
        return nn.MaxPool3d((1, 3, 3), (1, 2, 2), padding=(0, padding, padding))

    return nn.Sequential(
        *block(3, 96, frames=FRAMES, side=7, step=2, padding=0),
        pool(0),
        *block(96, 256, frames=1, side=5, step=2, padding=1),
        pool(1),
        *block(256, 256, frames=1, side=3, step=1, padding=1),
        *block(256, 256, frames=1, side=3, step=1, padding=1),
        *block(256, 256, frames=1, side=3, step=1, padding=1),
        pool(0),
        *block(256, 512, frames=1, side=6, step=1, padding=0),
    )


class SyncNetV2(nn.Module):
    """Embeds lips and sound so that what belongs together lies close (Euclidean distance)."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = _sound()
        self.netfcaud = _head()
        self.netcnnlip = _lips()
        self.netfclip = _head()
        self._flat: tuple[tuple[object, ...], nn.Sequential] | None = None

    def hear(self, rows: Tensor) -> Tensor:
        """``(N, 1, 13, 20)`` windows of coefficients, unscaled, to ``(N, 1024)``."""
        return self.netfcaud(self.netcnnaud(rows).flatten(1))

    def look(self, crops: Tensor) -> Tensor:
        """``(N, 3, T, 224, 224)`` BGR 0..255 crops to ``(N * (T - 4), 1024)``, one row a window of 5.

        Only the first layer spans frames, so a run of ``T`` frames costs ``T - 4`` windows and not
        five times as many frames.
        """
        if crops.device.type == "cpu" and not (self.training or _learns(self)):
            return self.netfclip(self._flat_lips()(_stacked(crops)).flatten(1))
        lips = self.netcnnlip(crops)
        return self.netfclip(lips.movedim(1, 2).flatten(0, 1).flatten(1))

    def _flat_lips(self) -> nn.Sequential:
        """``netcnnlip`` in two dimensions, made once; made anew when the weights are others."""
        state = [*self.netcnnlip.parameters(), *self.netcnnlip.buffers()]
        now = tuple((one.data_ptr(), one.dtype, one._version) for one in state)
        if self._flat is None or self._flat[0] != now:
            # A tuple, so that it is no part of the network's state.
            self._flat = (now, _flattened(self.netcnnlip))
        return self._flat[1]

    def forward(self, crops: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of lips and of sound; shapes as in :meth:`look` and :meth:`hear`."""
        return self.look(crops), self.hear(rows)


def _learns(network: nn.Module) -> bool:
    return any(value.requires_grad for value in network.parameters())


def _stacked(crops: Tensor) -> Tensor:
    """``(N, 3, T, H, W)`` to ``(N * (T - 4), 15, H, W)``: the frames of each window as channels."""
    windows = crops.unfold(2, FRAMES, 1).permute(0, 2, 1, 5, 3, 4)
    flat = windows.flatten(2, 3).flatten(0, 1)
    return flat.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _flattened(lips: nn.Sequential) -> nn.Sequential:
    """The same numbers from convolutions in two dimensions, each normalisation inside of the one
    before: two thirds of the time on a processor."""
    layers: list[nn.Module] = []
    for layer in lips:
        if isinstance(layer, nn.Conv3d):
            _, *kernel = layer.kernel_size
            made = nn.Conv2d(
                layer.in_channels * layer.kernel_size[0],
                layer.out_channels,
                (kernel[0], kernel[1]),
                stride=layer.stride[1:],  # type: ignore[arg-type]
                padding=layer.padding[1:],  # type: ignore[arg-type]
                device=layer.weight.device,
                dtype=layer.weight.dtype,
            )
            made.weight.copy_(layer.weight.flatten(1, 2))
            assert layer.bias is not None
            assert made.bias is not None
            made.bias.copy_(layer.bias)
            layers.append(made.to(memory_format=torch.channels_last))
        elif isinstance(layer, nn.BatchNorm3d):
            conv = cast(nn.Conv2d, layers[-1])
            mean, spread = layer.running_mean, layer.running_var
            assert conv.bias is not None
            assert mean is not None
            assert spread is not None
            gain = layer.weight / torch.sqrt(spread + layer.eps)
            conv.weight.mul_(gain[:, None, None, None])
            conv.bias.copy_((conv.bias - mean) * gain + layer.bias)
        elif isinstance(layer, nn.MaxPool3d):
            sizes = (layer.kernel_size, layer.stride, layer.padding)
            layers.append(nn.MaxPool2d(*(size[1:] for size in sizes)))  # type: ignore[index]
        else:
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers).requires_grad_(False)


def load(state: dict[str, Tensor]) -> SyncNetV2:
    """The network with a published state, ready to score; wrong tensors raise ``RuntimeError``."""
    with torch.device("meta"):
        network = SyncNetV2()
    network.load_state_dict(state, assign=True)
    return network.train(False).requires_grad_(False)
