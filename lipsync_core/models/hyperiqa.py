"""HyperIQA (Su et al., CVPR 2020): how good a picture looks, by a small network made for that picture.

Layer sizes and key names follow the authors' code and, with them, the published ``koniq_pretrained.pkl``
(KonIQ-10k), which was never opened here. What is known of it fits: 109,768,650 bytes, as its 302 float
tensors have under these names, without counters, in PyTorch 0.4's pickle of tensors on ``cuda:0``;
listings of its pickle name no other kind of tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = 224
"""Side of the pictures in pixels."""
MEAN = (0.485, 0.456, 0.406)
SPREAD = (0.229, 0.224, 0.225)
LAYERS = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Width within the blocks and number of blocks: ResNet-50."""
LOCAL = ((256, 16), (512, 32), (1024, 64))
"""Channels after the first three layers, and what of each is looked at place by place."""
SEEN = 16
"""Numbers that each of these three adds to what is judged."""
WIDTHS = (224, 112, 56, 28, 14)
"""Inputs of the judging network's layers; the last gives one number."""
FEATURES = 112
"""Channels of the 7x7 picture of meaning from which its weights are made."""
GRID = 49


class Block(nn.Module):
    """The bottleneck of ResNet."""

    def __init__(self, into: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * 4
        self.conv1 = nn.Conv2d(into, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample = None
        if stride != 1 or into != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(into, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Backbone(nn.Module):
    """ResNet-50 that also says what it sees place by place on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        into = 64
        for number, (width, count) in enumerate(LAYERS, 1):
            blocks = []
            for k in range(count):
                blocks.append(Block(into, width, 2 if k == 0 and number > 1 else 1))
                into = width * 4
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        for number, (channels, kept) in enumerate(LOCAL, 1):
            pool = nn.Sequential(nn.Conv2d(channels, kept, 1, bias=False), nn.AvgPool2d(7, 7))
            places = (SIZE // 2 ** (number + 1) // 7) ** 2
            setattr(self, f"lda{number}_pool", pool)
            setattr(self, f"lda{number}_fc", nn.Linear(kept * places, SEEN))
        self.lda4_pool = nn.AvgPool2d(7, 7)
        self.lda4_fc = nn.Linear(into, WIDTHS[0] - SEEN * len(LOCAL))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(N, 2048, 7, 7)`` meaning and ``(N, 224)`` what is judged."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        seen = []
        for number in range(1, len(LAYERS) + 1):
            x = self.get_submodule(f"layer{number}")(x)
            places = self.get_submodule(f"lda{number}_pool")(x)
            seen.append(self.get_submodule(f"lda{number}_fc")(places.flatten(1)))
        return x, torch.cat(seen, dim=1)


class HyperIQA(nn.Module):
    """Makes the weights of a judge from what a picture shows, and has it judge that picture."""

    def __init__(self) -> None:
        super().__init__()
        self.res = Backbone()
        self.conv1 = nn.Sequential(
            nn.Conv2d(2048, 1024, 1),
            nn.ReLU(),
            nn.Conv2d(1024, 512, 1),
            nn.ReLU(),
            nn.Conv2d(512, FEATURES, 1),
            nn.ReLU(),
        )
        for number, (into, out) in enumerate(pairwise(WIDTHS), 1):
            weights = nn.Conv2d(FEATURES, into * out // GRID, 3, padding=1)
            setattr(self, f"fc{number}w_conv", weights)
            setattr(self, f"fc{number}b_fc", nn.Linear(FEATURES, out))
        self.fc5w_fc = nn.Linear(FEATURES, WIDTHS[-1])
        self.fc5b_fc = nn.Linear(FEATURES, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """``(N,)`` quality, about 0..100, of ``(N, 3, 224, 224)`` RGB in 0..1."""
        mean, spread = (pictures.new_tensor(row)[:, None, None] for row in (MEAN, SPREAD))
        meaning, x = self.res((pictures - mean) / spread)
        meaning = self.conv1(meaning)
        whole = meaning.mean(dim=(2, 3))
        for number, (into, out) in enumerate(pairwise(WIDTHS), 1):
            weight = self.get_submodule(f"fc{number}w_conv")(meaning).reshape(-1, out, into)
            bias = self.get_submodule(f"fc{number}b_fc")(whole)
            x = torch.sigmoid(torch.einsum("noi,ni->no", weight, x) + bias)
        return (self.fc5w_fc(whole) * x).sum(dim=1) + self.fc5b_fc(whole)[:, 0]


def load(state: Mapping[str, Tensor]) -> HyperIQA:
    """The network with a published state, ready to judge; wrong tensors raise ``RuntimeError``."""
    with torch.device("meta"):
        network = HyperIQA()
    # counters that only training reads, and that files of older PyTorch do not hold
    counters = {name for name in network.state_dict() if name.endswith("num_batches_tracked")}
    state = {**{name: torch.tensor(0) for name in counters}, **state}
    network.load_state_dict(state, assign=True)
    return network.train(False).requires_grad_(False)
