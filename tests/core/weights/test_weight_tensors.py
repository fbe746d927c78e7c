"""Reading, recognising, refusing and converting weights, with tiny networks in the real layouts."""

from __future__ import annotations

import json
import pickle
import struct

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402

from lipsync_core.errors import WeightsError  # noqa: E402
from lipsync_core.models.unet3d import UNet3D, UNetConfig  # noqa: E402
from lipsync_core.weights import catalog, files, tensors  # noqa: E402


def names(path):
    return json.loads(path.read_text())["keys"]


def shapes_of(keys):
    if isinstance(keys, list):
        return {fact["name"]: tuple(fact["shape"]) for fact in keys}
    return {name: tuple(fact["shape"]) for name, fact in keys.items()}


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("latentsync/keys_unet_256.json", "latentsync-unet-motion"),
        ("latentsync/keys_unet_stage1.json", "latentsync-unet"),
        ("latentsync/keys_unet_stage2_efficient.json", "latentsync-unet-decoder-motion"),
        ("latentsync/keys_syncnet_16_pixel_attn.json", "syncnet-16-pixel-attn"),
        ("latentsync/keys_syncnet_16_pixel.json", "syncnet-16-pixel"),
        ("latentsync/keys_syncnet_16_latent.json", "syncnet-16-latent"),
        ("latentsync/keys_syncnet_25_pixel.json", "syncnet-25-pixel"),
        ("latentsync/keys_eval_syncnet.json", "syncnet-v2"),
        ("wav2lip/keys_syncnet_color.json", "wav2lip-syncnet"),
        ("wav2lip/keys_wav2lip.json", "wav2lip"),
    ],
)
def test_published_networks_are_told_apart(golden, file, kind):
    found = tensors.identify(shapes_of(names(golden(file))))
    assert found is not None
    assert found.name == kind


def test_networks_of_the_libraries_are_recognised():
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    vae = diffusers.AutoencoderKL(block_out_channels=(32,), latent_channels=4)
    tiny = diffusers.AutoencoderTiny()
    config = transformers.WhisperConfig(d_model=64, encoder_layers=1, encoder_attention_heads=1)
    ears = transformers.models.whisper.modeling_whisper.WhisperEncoder(config)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
    )
    for network, prefix, kind in (
        (vae, "", "sd-vae"),
        (tiny, "", "taesd"),
        (ears, "model.encoder.", "whisper-hf"),
        (unet, "", "sd-unet"),
    ):
        shapes = {prefix + name: tuple(t.shape) for name, t in network.state_dict().items()}
        found = tensors.identify(shapes)
        assert found is not None
        assert found.name == kind
    assert tensors.identify({"weight": (3, 4)}) is None


def small_unet(motion="all"):
    torch.manual_seed(0)
    return UNet3D(UNetConfig(channels=(32, 32, 32, 32), motion=motion)).state_dict()


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "ddp", "safetensors", "legacy"])
def test_every_way_of_saving_reads_back(tmp_path, wrap):
    state = small_unet("none")
    path = tmp_path / ("net.safetensors" if wrap == "safetensors" else "net.pt")
    if wrap == "safetensors":
        save_file(state, path)
    elif wrap == "plain":
        torch.save(state, path)
    elif wrap == "state_dict":
        torch.save({"global_step": 7, "state_dict": state}, path)
    elif wrap == "ddp":
        torch.save({"model": {f"module.{name}": value for name, value in state.items()}}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=False)
    back = tensors.read_tensors(path)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    assert tensors.read_shapes(path) == {name: tuple(t.shape) for name, t in state.items()}
    assert tensors.require(path, "latentsync-unet").name == "latentsync-unet"


def test_a_full_size_checkpoint_loads_as_a_user_would(golden, tmp_path, monkeypatch):
    """5 GB of zeros as a sparse file: only the header and what is touched is read."""
    from lipsync_core.models.unet3d import config_of

    keys = shapes_of(names(golden("latentsync/keys_unet_256.json")))
    header, place = {}, 0
    for name, shape in keys.items():
        size = 4 * int(torch.Size(shape).numel())
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = tmp_path / "lipsync" / "latentsync-1.6_unet.safetensors"
    path.parent.mkdir()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + place)
    if path.stat().st_blocks * 512 > 1 << 28:
        pytest.skip("this file system knows no sparse files")
    monkeypatch.setenv("LIPSYNC_MODELS", str(tmp_path))
    state = tensors.load("latentsync-1.6")
    with torch.device("meta"):
        network = UNet3D(config_of({name: tuple(t.shape) for name, t in state.items()}))
    network.load_state_dict(state, assign=True)
    assert sum(p.numel() for p in network.parameters()) == 1_267_099_844
    with pytest.raises(WeightsError, match=r"1\.5 or 1\.6\) where .*\(1\.0, or stage 1"):
        tensors.load("latentsync-1.0", path=path)


def test_wrong_and_broken_files_are_refused_with_the_reason(tmp_path):
    cases = {
        "page.pt": (b"<!DOCTYPE html><html>", "is a web page"),
        "pointer.pt": (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        "empty.pt": (b"", "is empty"),
        "cut.pt": (b"PK\x03\x04" + b"\0" * 90, "damaged or not a weights file"),
        "noise.pt": (bytes(range(1, 255)) * 3, "damaged|more than tensors"),
        "noise.safetensors": (b"\xff" * 300, "damaged or not a weights file"),
        "code.pt": (pickle.dumps(pytest.raises), "more than tensors|damaged"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        for read in (tensors.read_shapes, tensors.read_tensors):
            with pytest.raises(WeightsError, match=message) as caught:
                read(path)
            assert "\n" not in str(caught.value)
    path = tmp_path / "cut.safetensors"
    save_file({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="damaged"):
        tensors.read_tensors(path)
    save_file({"a": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"1 tensors that no known network has .* where TAESD"):
        tensors.require(tmp_path / "other.safetensors", "taesd")


def test_a_damaged_file_is_one_line_wherever_the_damage_lies(tmp_path):
    """The older pickles, in which SyncNet v2 and others are published, have no end that is looked at first."""
    old = tmp_path / "old.pt"
    state = {f"layer.{k}": torch.zeros(3, 4) for k in range(3)}
    torch.save({"state_dict": state}, old, _use_new_zipfile_serialization=False)
    whole = old.read_bytes()
    contents = [(".pt", whole[:end]) for end in range(1, len(whole), 23)]
    # a sound file
    contents.append((".pt", b"RIFF\x24\x77\x01\0WAVEfmt "))
    for header in (b'{"a": {"dtype": "F32"}}', b'{"a": 3}', b"[]"):
        contents.append((".safetensors", len(header).to_bytes(8, "little") + header))
    for suffix, content in contents:
        path = tmp_path / f"damaged{suffix}"
        path.write_bytes(content)
        for read in (tensors.read_shapes, tensors.read_tensors):
            with pytest.raises(WeightsError) as caught:
                read(path)
            assert "\n" not in str(caught.value)


def test_loading_an_absent_row_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LIPSYNC_MODELS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(files, "_extra", [])
    with pytest.raises(WeightsError, match=r"lipsync models download taesd \(9\.8 MB\)"):
        tensors.load("taesd")


def test_convert_halves_and_is_found_again(tmp_path, monkeypatch):
    state = small_unet()
    source, target = tmp_path / "x.pt", tmp_path / "lipsync" / "latentsync-1.5_unet.safetensors"
    torch.save({"global_step": 1, "state_dict": state}, source)
    target.parent.mkdir()
    assert tensors.convert(source, target).name == "latentsync-unet-motion"
    back = load_file(target)
    assert back["conv_in.weight"].dtype == torch.float16
    torch.testing.assert_close(back["conv_norm_out.weight"].float(), state["conv_norm_out.weight"])
    assert [p.name for p in target.parent.iterdir()] == [target.name]
    monkeypatch.setenv("LIPSYNC_MODELS", str(tmp_path))
    assert files.find("latentsync-1.5") == target
    with pytest.raises(WeightsError, match="exists already"):
        tensors.convert(source, target)
    torch.save({"weight": torch.zeros(2)}, source)
    with pytest.raises(WeightsError, match="no network that we know"):
        tensors.convert(source, tmp_path / "y.safetensors")


def test_every_row_names_a_kind_that_exists():
    known = {kind.name for kind in tensors.KINDS} | {"onnx"}
    assert {row.kind for row in catalog.CATALOG} <= known


def test_the_older_vae_layout_is_renamed_as_diffusers_does():
    single = pytest.importorskip("diffusers.loaders.single_file_utils")
    diffusers = pytest.importorskip("diffusers")
    config = {
        "block_out_channels": (32, 32, 64, 64),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
    }
    vae = diffusers.AutoencoderKL(**config)
    modern = vae.state_dict()
    older = {older_name(name): value for name, value in modern.items()}
    older = {
        name: value[:, :, None, None] if ".attn_1." in name and value.dim() == 2 else value
        for name, value in older.items()
    }
    prefixed = {f"first_stage_model.{name}": value for name, value in older.items()}
    theirs = single.convert_ldm_vae_checkpoint(prefixed, config)
    for source in (prefixed, older, modern):
        ours = tensors.vae_names(source)
        assert ours.keys() == modern.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        found = tensors.identify({name: tuple(t.shape) for name, t in source.items()})
        assert found is not None
        assert found.name == "sd-vae"


def older_name(name: str) -> str:
    """CompVis' name of a tensor of AutoencoderKL."""
    import re

    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{3 - int(m[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = name.replace("mid_block.attentions.0.", "mid.attn_1.").replace("group_norm", "norm")
    for modern, old in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
        name = name.replace(f"attn_1.{modern}.", f"attn_1.{old}.")
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
