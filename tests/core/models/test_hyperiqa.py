"""HyperIQA's published layout, and one number of it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from lipsync_core.models import hyperiqa  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@torch.no_grad()
def test_it_gives_the_original_s_number(seeded):
    """The value was made by the authors' code with the same weights and pictures."""
    with torch.device("meta"):
        shapes = {n: tuple(v.shape) for n, v in hyperiqa.HyperIQA().state_dict().items()}
    shapes = {name: shape for name, shape in shapes.items() if "num_batches" not in name}
    assert len(shapes) == 302
    weights = seeded(shapes, 20260101)
    weights |= {n: v.abs() + 0.5 for n, v in weights.items() if n.endswith("running_var")}
    network = hyperiqa.load(weights)
    assert sum(parameter.numel() for parameter in network.parameters()) == 27_375_369
    make = torch.Generator().manual_seed(7)
    pictures = torch.rand(2, 3, 224, 224, generator=make)
    expected = torch.tensor([-375.51489, -363.48718])
    torch.testing.assert_close(network(pictures), expected, rtol=1e-5, atol=0)
