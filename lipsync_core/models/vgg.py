"""VGG's convolutions (Simonyan and Zisserman 2014) and LPIPS, a distance between their features.

Names are those of torchvision's files (``features.N.weight``, N counts convolutions, activations and
pools), which timm's share; LPIPS is Zhang et al. 2018, version 0.1, with the linear layers that
the authors publish.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

Plan = tuple[tuple[int, ...], ...]
"""Channels of the convolutions, block by block; a pool halves the picture between blocks."""

VGG16: Plan = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
VGG19: Plan = ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4)


def plan_of(shapes: Mapping[str, Sequence[int]]) -> Plan:
    """Reads the plan off ``features.N.weight``; raises ``ValueError`` where that is not plain VGG."""
    found = {
        int(match[1]): shape
        for key, shape in shapes.items()
        if (match := re.fullmatch(r"features\.(\d+)\.weight", key))
    }
    blocks: list[list[int]] = []
    expected = {0}
    for number, shape in sorted(found.items()):
        if number not in expected or len(shape) != 4:
            break
        # an activation lies between two convolutions, and a pool too between two blocks
        if number == 0 or (number - 3 in found and number - 2 not in found):
            blocks.append([])
        blocks[-1].append(shape[0])
        expected = {number + 2, number + 3}
    if not found or sum(map(len, blocks)) != len(found):
        raise ValueError("these tensors are not VGG's: no plain row of convolutions 'features.N'")
    return tuple(map(tuple, blocks))


class Vgg(nn.Module):
    """The convolutions up to the last activation, without the last pool and the classifier."""

    def __init__(self, plan: Plan = VGG16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        into = 3
        for block in plan:
            for out in block:
                layers += [nn.Conv2d(into, out, 3, padding=1), nn.ReLU()]
                into = out
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-1])
        # of each block, the numbers of its first and last activation
        ends = [k for k, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        self.first = tuple(start + 1 for start in (0, *(end + 1 for end in ends[:-1])))
        self.last = tuple(end - 1 for end in ends)

    def forward(self, pictures: Tensor, taps: Sequence[int] | None = None) -> list[Tensor]:
        """Outputs of layers ``taps`` (as the files count them) for normalised ``(N, 3, H, W)``.

        None takes the last activation of each block (relu1_2 … relu5_3 of VGG16); ``self.first``
        are relu1_1 … relu5_1, as MuseTalk's loss uses them.
        """
        wanted = self.last if taps is None else tuple(taps)
        found = {}
        for number, layer in enumerate(self.features[: max(wanted) + 1]):
            pictures = layer(pictures)
            if number in wanted:
                found[number] = pictures
        return [found[number] for number in wanted]


class Lpips(nn.Module):
    """How different two pictures look, from 0 up; differentiable, never trained."""

    shift: Tensor
    scale: Tensor

    def __init__(self, plan: Plan = VGG16) -> None:
        super().__init__()
        # ImageNet's mean and deviation for pictures in -1..1, as LPIPS rounds them
        self.register_buffer(
            "shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None], persistent=False
        )
        self.register_buffer(
            "scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None], persistent=False
        )
        self.net = Vgg(plan)
        self.heads = nn.ParameterList([torch.zeros(block[-1]) for block in plan])
        """Weight of each channel, none negative in the published ones."""

    def load(self, vgg: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> Lpips:
        """Takes the weights of a whole VGG file and of ``linN.model.1.weight`` ``(1, C, 1, 1)``."""
        self.net.load_state_dict(
            {key: value for key, value in vgg.items() if key.startswith("features.")}
        )
        with torch.no_grad():
            for number, head in enumerate(self.heads):
                head.copy_(heads[f"lin{number}.model.1.weight"].flatten())
        return self.requires_grad_(False)

    def forward(self, pictures: Tensor, truth: Tensor) -> Tensor:
        """Distance ``(N,)`` between pictures ``(N, 3, H, W)`` in -1..1, which need 16 pixels a side."""
        total = pictures.new_zeros(len(pictures))
        seen, right = (self.net((x - self.shift) / self.scale) for x in (pictures, truth))
        for a, b, head in zip(seen, right, self.heads, strict=True):
            apart = (_unit(a) - _unit(b)).square()
            total = total + (apart * head[:, None, None]).sum(1).mean((1, 2))
        return total


def _unit(x: Tensor) -> Tensor:
    # inside the root, so that places where nothing is active have a gradient
    return x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt()
