"""VGG's features against published numbers, LPIPS against torchmetrics' and its definition."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from lipsync_core.models.vgg import VGG16, VGG19, Lpips, Vgg, plan_of  # noqa: E402

SMALL = ((4, 4), (6,), (8, 8))

MUSETALK = [1.75878787, 1.08079731, 0.9641462, 0.72167557, 0.55870759]
"""Mean |difference| of relu1_1 … relu5_1 between two pairs of pictures, of MuseTalk's perceptual loss
(commit 0a89dec) at full scale, with weights drawn as below."""


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def shapes_of(network):
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def drawn(shapes, names=str):
    """``default_rng(crc32(name))`` normal draws; weights times 1.4 / sqrt(fan in), biases times 0.1."""
    result = {}
    for name, shape in shapes.items():
        z = np.random.default_rng(zlib.crc32(names(name).encode())).standard_normal(shape)
        z = z * (1.4 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.1)
        result[name] = torch.from_numpy(z.astype(np.float32))
    return result


def waves(number, side=256):
    """A picture ``(3, side, side)`` in -1..1 of triangle waves and a pattern."""
    y, x, c = np.meshgrid(np.arange(side), np.arange(side), np.arange(3), indexing="ij")
    first = np.abs((3 * x + 2 * y + 5 * number + 85 * c) % 510 - 255)
    second = np.abs((5 * y - 2 * x + 9 * number + 1000) % 510 - 255)
    grain = (37 * x + 101 * y + 17 * c + 29 * number + x * y) % 256
    levels = ((5 * first + 2 * second + grain) // 8).astype(np.uint8)
    return torch.from_numpy(levels).permute(2, 0, 1).float() / 255 * 2 - 1


@pytest.mark.parametrize(("plan", "last"), [(VGG16, 28), (VGG19, 34)])
def test_names_and_shapes_are_torchvision_s(plan, last):
    with torch.device("meta"):
        network = Vgg(plan)
    shapes = shapes_of(network)
    assert shapes["features.0.weight"] == (64, 3, 3, 3)
    assert shapes["features.5.weight"] == (128, 64, 3, 3)
    assert shapes[f"features.{last}.weight"] == (512, 512, 3, 3)
    assert f"features.{last + 1}.weight" not in shapes
    assert len(shapes) == 2 * sum(map(len, plan))
    assert plan_of({**shapes, "classifier.0.weight": (4096, 25088)}) == plan


def test_a_row_of_convolutions_with_norms_is_not_taken_for_vgg():
    norms = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
    with pytest.raises(ValueError, match="not VGG's"):
        plan_of({f"features.{name}": t.shape for name, t in norms.state_dict().items()})
    with pytest.raises(ValueError, match="not VGG's"):
        plan_of({"conv.weight": (4, 3, 3, 3)})


@torch.no_grad()
def test_features_are_those_of_musetalk_s_loss():
    """VGG19 up to relu5_1, the only layers that loss has."""
    network = Vgg((*VGG19[:4], (512,)))
    slices = (1, 6, 11, 20, 29)
    assert network.first == slices

    def name(key):
        number = int(key.split(".")[1])
        return key.replace("features", f"slice{1 + sum(number > end for end in slices)}")

    network.load_state_dict(drawn(shapes_of(network), name))
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    shown = [
        nn.functional.interpolate(
            torch.stack([waves(k) for k in pair]), (224, 224), mode="bilinear"
        )
        for pair in ((3, 4), (60, 61))
    ]
    real, fake = (network((x - mean) / deviation, network.first) for x in shown)
    apart = [(a - b).abs().mean().item() for a, b in zip(real, fake, strict=True)]
    assert apart == pytest.approx(MUSETALK, rel=1e-5)


def heads_of(plan, seed=0):
    torch.manual_seed(seed)
    return {
        f"lin{k}.model.1.weight": torch.rand(1, block[-1], 1, 1) for k, block in enumerate(plan)
    }


@pytest.fixture(scope="module")
def small():
    network = Lpips(SMALL)
    return network.load(drawn(shapes_of(Vgg(SMALL))), heads_of(SMALL))


def test_lpips_is_that_of_torchmetrics(monkeypatch):
    """The whole of theirs with VGG16's shape; only torchvision's random network is handed to it."""
    theirs = pytest.importorskip("torchmetrics.functional.image.lpips")
    weights = drawn(shapes_of(Vgg(VGG16)))

    def features(net, pretrained=False):
        row, into = [], 3
        for block in ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3):
            for out in block:
                row += [nn.Conv2d(into, out, 3, padding=1), nn.ReLU(inplace=False)]
                into = out
            row.append(nn.MaxPool2d(2, 2))
        network = nn.Sequential(*row)
        network.load_state_dict({k.removeprefix("features."): v for k, v in weights.items()})
        return network

    monkeypatch.setattr(theirs, "_get_tv_model_features", features)
    judge = theirs._NoTrainLpips(net="vgg", pnet_rand=True)
    heads = {k: v for k, v in judge.state_dict().items() if k.startswith("lin")}
    ours = Lpips().load(weights, heads)
    assert all(head.min() >= 0 for head in ours.heads)
    a = torch.stack([waves(0, 64), waves(7, 64)])
    b = torch.stack([waves(3, 64), 0.9 * waves(7, 64)])
    mine, right = a.clone().requires_grad_(), a.clone().requires_grad_()
    found, expected = ours(mine, b), judge(right, b).flatten()
    torch.testing.assert_close(found, expected, atol=0, rtol=1e-5)
    assert expected.min() > 1e-4
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(mine.grad, right.grad, atol=1e-5 * right.grad.abs().max(), rtol=0)


@torch.no_grad()
def test_lpips_is_its_definition(small):
    """Equation 1 of Zhang et al. 2018, place by place."""
    a, b = waves(0, 16)[None], waves(9, 16)[None]
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    total = 0.0
    layers = zip(
        small.net((a - shift) / scale), small.net((b - shift) / scale), small.heads, strict=True
    )
    for seen, right, head in layers:
        _, _, height, width = seen.shape
        for y in range(height):
            for x in range(width):
                left, other = seen[0, :, y, x], right[0, :, y, x]
                apart = left / (left.norm() + 1e-10) - other / (other.norm() + 1e-10)
                total += (head * apart.square()).sum().item() / (height * width)
    assert small(a, b).item() == pytest.approx(total, rel=1e-4)
    assert small(a, a).item() == 0


def test_nothing_of_the_judge_is_trained_and_dead_places_have_a_gradient(small):
    flat = torch.full((1, 3, 16, 16), -1.0, requires_grad=True)
    small(flat, waves(0, 16)[None]).sum().backward()
    assert torch.isfinite(flat.grad).all()
    assert flat.grad.abs().max() > 0
    assert not any(p.requires_grad for p in small.parameters())
    blind = Lpips(SMALL)
    zeros = {name: torch.zeros_like(value) for name, value in blind.net.state_dict().items()}
    blind.load(zeros, heads_of(SMALL))
    seen = waves(0, 16)[None].requires_grad_()
    blind(seen, waves(1, 16)[None]).sum().backward()
    assert torch.equal(seen.grad, torch.zeros_like(seen))
