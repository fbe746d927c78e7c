"""HyperIQA's published layout, and one number of it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from lipsync_core.errors import WeightsError  # noqa: E402
from lipsync_core.models import hyperiqa  # noqa: E402
from lipsync_core.weights import catalog, tensors  # noqa: E402


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


def as_published(state, path):
    """Writes ``state`` as PyTorch 0.4 wrote the authors' file: an unzipped pickle of tensors of a GPU."""

    def on_gpu(storage):
        # made anew for every tensor, and so written out every time
        return "".join(["cuda", ":0"])

    known = list(torch.serialization._package_registry)
    torch.serialization.register_package(0, on_gpu, lambda storage, place: None)
    try:
        torch.save(state, path, _use_new_zipfile_serialization=False)
    finally:
        torch.serialization._package_registry[:] = known


def test_a_file_in_the_published_layout_is_recognised_and_judges(tmp_path):
    """As many bytes as the published one, but for the digits of memory addresses in its pickle."""
    torch.manual_seed(0)
    network = hyperiqa.HyperIQA()
    state = network.state_dict()
    for name in [name for name in state if "num_batches" in name]:
        del state[name]
    path = tmp_path / "koniq_pretrained.pkl"
    as_published(state, path)
    assert path.read_bytes()[:2] != b"PK"
    assert b"cuda:0" in path.read_bytes()[:2000]
    digits = 2 * len(state) * 6
    assert abs(path.stat().st_size - catalog.entry("hyperiqa").size) < digits
    tensors.require(path, "hyperiqa")
    given = tensors.read_tensors(path)
    assert {value.device.type for value in given.values()} == {"cpu"}
    pictures = torch.rand(3, 3, 224, 224)
    with torch.no_grad():
        expected = network.train(False)(pictures)
        torch.testing.assert_close(hyperiqa.load(given)(pictures), expected)


def test_another_network_is_refused(tmp_path):
    state = hyperiqa.HyperIQA().state_dict()
    del state["fc5b_fc.weight"]
    torch.save(state, tmp_path / "a.pkl")
    with pytest.raises(WeightsError, match="HyperIQA"):
        tensors.require(tmp_path / "a.pkl", "hyperiqa")
