"""The judges of the losses from files as users have them."""

from __future__ import annotations

import json
import struct
from importlib.util import find_spec

import pytest

torch = pytest.importorskip("torch")

from lipsync_core.errors import WeightsError  # noqa: E402
from lipsync_core.models.vgg import VGG16, VGG19, Vgg  # noqa: E402
from lipsync_core.models.videomae import VideoMAE, VideoMAEConfig  # noqa: E402
from lipsync_core.weights import tensors  # noqa: E402
from trainer import frozen  # noqa: E402


@pytest.fixture
def models(tmp_path, monkeypatch):
    """An empty models folder, and nothing of this machine's own."""
    monkeypatch.setenv("LIPSYNC_MODELS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "lipsync").mkdir()
    return tmp_path / "lipsync"


def write_zeros(path, shapes, dtype="F32"):
    """A safetensors file of any size that holds zeros and takes no room on the disk."""
    header, place = {}, 0
    for name, shape in shapes.items():
        size = int(torch.Size(shape).numel()) * int(dtype[1:]) // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + place)
    if path.stat().st_blocks * 512 > 1 << 26:
        pytest.skip("this file system knows no sparse files")


def vgg_shapes(plan=VGG16):
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in Vgg(plan).state_dict().items()}
    return {**shapes, "pre_logits.fc1.weight": (4096, 512, 7, 7), "head.fc.bias": (1000,)}


def heads(widths=(64, 128, 256, 512, 512)):
    return {f"lin{k}.model.1.weight": torch.full((1, c, 1, 1), 0.5) for k, c in enumerate(widths)}


def test_lpips_is_read_from_the_catalogue_s_files(models):
    write_zeros(models / "vgg16.safetensors", vgg_shapes())
    torch.save(heads(), models / "lpips_vgg16.pth")
    judge = frozen.lpips()
    assert not judge.training
    assert not any(p.requires_grad for p in judge.parameters())
    assert judge.heads[4].eq(0.5).all()
    assert judge(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)).item() == 0


def test_the_heads_of_an_installed_torchmetrics_are_the_published_ones(models):
    if find_spec("torchmetrics") is None:
        pytest.skip("needs torchmetrics")
    published = frozen._heads()
    assert tensors.identify({k: tuple(v.shape) for k, v in published.items()}).name == "lpips-vgg16"
    # facts of that file: no weight is negative, some count for much
    assert min(v.min() for v in published.values()) >= 0
    assert max(v.max() for v in published.values()) > 0.5


def test_videomae_is_read_in_its_own_precision_without_filling_the_memory(models, golden):
    facts = json.loads(golden("latentsync/keys_videomaev2_vit_g.json").read_text())["keys"]
    shapes = {name: tuple(fact["shape"]) for name, fact in facts.items()}
    path = models / "vit_g_hybrid_pt_1200e_ssv2_ft.safetensors"
    write_zeros(path, shapes, "F16")
    judge = frozen.videomae()
    assert judge.config == VideoMAEConfig()
    assert judge.dtype == torch.float16
    assert not any(p.requires_grad for p in judge.parameters())


@pytest.mark.parametrize("container", ["model", "module", None])
def test_every_container_of_videomae_is_opened(models, container):
    small = VideoMAE(VideoMAEConfig(width=32, depth=1, inner=64))
    state = small.state_dict()
    path = models / "mine.pth"
    torch.save({container: state} if container else state, path)
    judge = frozen.videomae(str(path), dtype=torch.float32)
    frames = torch.rand(1, 4, 3, 28, 28)
    assert torch.equal(judge(frames), small(frames))
    judge = frozen.videomae(str(path), dtype=torch.bfloat16)
    assert judge.dtype == torch.bfloat16


def test_what_is_missing_or_wrong_is_named(models):
    with pytest.raises(WeightsError, match="lipsync models download videomae-v2-g"):
        frozen.videomae()
    with pytest.raises(WeightsError, match="neither a file nor a model of the catalogue"):
        frozen.lpips("vgg16-mine.pth")
    with pytest.raises(WeightsError, match=r"taesd is TAESD.* vgg16"):
        frozen.lpips("taesd")
    write_zeros(models / "vgg.safetensors", vgg_shapes(VGG19))
    with pytest.raises(WeightsError, match="holds VGG19 where VGG16 is needed"):
        frozen.lpips(str(models / "vgg.safetensors"))


def test_vgg_with_norms_and_other_lpips_are_other_networks():
    norms = {"features.0.weight": (64, 3, 3, 3), "features.1.weight": (64,)}
    for number in (27, 28, 30, 34):
        norms[f"features.{number}.weight"] = (512, 512, 3, 3)
    assert tensors.identify(norms) is None
    assert tensors.identify(vgg_shapes()).name == "vgg16"
    assert tensors.identify(vgg_shapes(VGG19)).name == "vgg19"
    alex = {k: tuple(v.shape) for k, v in heads((64, 192, 384, 256, 256)).items()}
    assert tensors.identify(alex) is None


def test_what_is_not_there_is_told_as_a_file_or_as_a_name(models):
    with pytest.raises(WeightsError, match=r"^there is no file runs/x/code\.safetensors; train it"):
        frozen.pictures("runs/x/code.safetensors", torch.device("cpu"))
    with pytest.raises(WeightsError, match="neither a file nor a fitting model of the catalogue"):
        frozen.unet_tensors("latentsync-1.7")
    # of the catalogue, but not on this machine
    with pytest.raises(WeightsError, match="lipsync models download sd15"):
        frozen.unet_tensors("sd15")
