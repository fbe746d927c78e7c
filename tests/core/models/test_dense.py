"""The processor's way through the denoiser against PyTorch's own kernels."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402

from lipsync_core.models import dense  # noqa: E402
from lipsync_core.models.dense import Conv3x3, Linear, linear, portions, winograd  # noqa: E402
from lipsync_core.models.unet3d import UNet3D, UNetConfig  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("count", [0, 1, 5, 7, 64])
@pytest.mark.parametrize("most", [1, 3, 10, 1000])
def test_portions_are_all_rows_in_order_and_never_too_many(count, most):
    parts = list(portions(count, 2, most))
    rows = [row for part in parts for row in range(part.start, part.stop)]
    assert rows == list(range(count))
    assert all(1 <= part.stop - part.start <= max(1, most // 2) for part in parts)


@pytest.mark.parametrize(
    ("shape", "out"),
    [((5, 64, 8, 12), 72), ((1, 70, 4, 4), 64), ((9, 64, 32, 32), 64), ((3, 64, 8, 8), 500)],
)
@torch.no_grad()
def test_tiles_give_the_convolution(shape, out):
    """One portion and several, of pictures and of filters; no side of a picture is like the other."""
    make = torch.Generator().manual_seed(5)
    layer = Conv3x3(shape[1], out)
    x = torch.randn(shape, generator=make).contiguous(memory_format=torch.channels_last)
    got = winograd(x, layer.weight, layer.bias)
    exact = F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=1)
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert ((got - exact).norm() / exact.norm()).item() < 4e-6
    assert torch.equal(winograd(x, layer.weight, None), winograd(x, layer.weight, 0 * layer.bias))


@torch.no_grad()
def test_the_layer_takes_the_short_way_where_it_fits(monkeypatch):
    taken = []
    monkeypatch.setattr(dense, "winograd", lambda *given: taken.append(1) or winograd(*given))
    layer = Conv3x3(64, 64)
    layer(torch.zeros(1, 64, 8, 8))
    assert taken == [1]
    for x in (torch.zeros(1, 64, 6, 8), torch.zeros(1, 64, 4, 4)):
        assert layer(x).shape == x.shape
    Conv3x3(13, 64)(torch.zeros(1, 13, 8, 8))
    layer.bfloat16()(torch.zeros(1, 64, 8, 8).bfloat16())
    assert taken == [1]
    with torch.enable_grad():
        layer.float()(torch.zeros(1, 64, 8, 8)).sum().backward()
    assert taken == [1]
    assert layer.weight.grad is not None


@pytest.mark.parametrize("shape", [(7, 24), (2, 5, 24), (1, 2, 3, 24)])
@torch.no_grad()
def test_projections_are_those_of_pytorch(shape):
    make = torch.Generator().manual_seed(5)
    layer = Linear(24, 40)
    x = torch.randn(shape, generator=make)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
    half = layer.weight.chunk(2)[1]
    torch.testing.assert_close(linear(x, half), F.linear(x, half))
    wide = torch.randn(*shape[:-1], 48, generator=make)[..., :24]
    torch.testing.assert_close(layer(wide), F.linear(wide, layer.weight, layer.bias))


@pytest.mark.parametrize("guided", [False, True])
def test_small_portions_give_what_the_whole_gives(monkeypatch, guided):
    """With gradients the layers run whole and convolve plainly; the numbers are the same."""
    torch.manual_seed(11)
    network = UNet3D(UNetConfig(channels=(64, 64))).train(False)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    sample, audio = torch.randn(2, 13, 3, 16, 8), torch.randn(6, 50, 384)
    whole = network(sample, 261, audio, guided=guided)
    assert whole.requires_grad
    monkeypatch.setattr(dense, "PORTION", 5000)
    with torch.no_grad():
        parts = network(sample, 261, audio, guided=guided)
    assert ((parts - whole).abs().max() / whole.abs().max()).item() < 1e-5
