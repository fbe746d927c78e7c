"""Every published file that this suite can use: where it is, what it is, who may use it.

Sizes and hashes are those of the pinned revisions. ``None`` means that nobody has told us, and then
only the size is checked. Nothing here is downloaded by being listed.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import WeightsError


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of one release."""

    name: str
    """What people type: ``lipsync models download NAME``."""
    title: str
    purpose: str
    """One line: what it is needed for."""
    repository: str
    """``owner/name`` on huggingface.co; empty for a file that comes with this package."""
    file: str
    """Path inside the repository."""
    revision: str | None
    """Commit that was looked at; None follows the main branch."""
    sha256: str | None
    size: int
    """Bytes; to three digits only where ``exact`` is false."""
    exact: bool = True
    licence: str
    commercial: bool | None
    """Whether the licence allows commercial use; None where it does not say."""
    folder: str
    """Sub-folder of a models folder, named as ComfyUI names its own."""
    saved_as: str
    """File name in that folder. Releases that share a published name are told apart by this one."""
    kind: str
    """What ``tensors.identify`` must find in it; ``onnx`` is not looked into."""
    aliases: tuple[str, ...] = ()
    """Other names under which people keep the same weights in the same folder."""

    @property
    def bundled(self) -> bool:
        """Whether it comes with this package, and there is nothing to download."""
        return not self.repository

    @property
    def url(self) -> str:
        return f"https://huggingface.co/{self.repository}/resolve/{self.revision or 'main'}/{self.file}"


_RAIL = "CreativeML Open RAIL++-M"

CATALOG: tuple[Entry, ...] = (
    Entry(
        name="yunet",
        title="YuNet face detector (2023 March)",
        purpose="finds faces and five landmarks; the default detector",
        repository="opencv/face_detection_yunet",
        file="face_detection_yunet_2023mar.onnx",
        revision="3cc26e7f1014a5ee5d74a42acee58bafc9d0a310",
        sha256="8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
        size=232_589,
        licence="MIT",
        commercial=True,
        folder="detection",
        saved_as="face_detection_yunet_2023mar.onnx",
        kind="onnx",
    ),
    Entry(
        name="latentsync-1.6",
        title="LatentSync 1.6 UNet (512 px)",
        purpose="engine latentsync-1.6",
        repository="ByteDance/LatentSync-1.6",
        file="latentsync_unet.pt",
        revision="c42c7e6c8e9c213626389fa7d9a3c444b8536353",
        sha256="0a478e89eb660f82da4c35dbdde8a5adfb27f99d1b4e50edd03729e1e98316d3",
        size=5_072_222_488,
        licence=_RAIL,
        commercial=True,
        folder="lipsync",
        saved_as="latentsync-1.6_unet.pt",
        kind="latentsync-unet-motion",
    ),
    Entry(
        name="latentsync-1.5",
        title="LatentSync 1.5 UNet (256 px)",
        purpose="engine latentsync-1.5",
        repository="ByteDance/LatentSync-1.5",
        file="latentsync_unet.pt",
        revision="32a20d29aead0498e3e885e90dbbe8027da1b61b",
        sha256="6440b49a7ccceff56cdc001f5f17605216337f5bbd66fa360139768926e23f51",
        size=5_072_348_184,
        licence=_RAIL,
        commercial=True,
        folder="lipsync",
        saved_as="latentsync-1.5_unet.pt",
        kind="latentsync-unet-motion",
    ),
    Entry(
        name="latentsync-1.0",
        title="LatentSync 1.0 UNet (256 px, no motion modules)",
        purpose="engine latentsync-1.0",
        repository="ByteDance/LatentSync",
        file="latentsync_unet.pt",
        revision="405eda8eab9f65c1a6e0c292a5dee5a08089e2ae",
        sha256=None,
        size=3_400_000_000,
        exact=False,
        licence=_RAIL,
        commercial=True,
        folder="lipsync",
        saved_as="latentsync-1.0_unet.pt",
        kind="latentsync-unet",
    ),
    Entry(
        name="latentsync-tiny",
        title="latentsync-tiny UNet (64 px, for trying things)",
        purpose="engine latentsync-tiny",
        repository="",
        file="latentsync-tiny_unet.safetensors",
        revision=None,
        sha256="bdce8da66baf35f29507cfa1b03f1e771bd4c43bf135d566ec47d481c6bdcded",
        size=12572088,
        licence="Apache-2.0",
        commercial=True,
        folder="lipsync",
        saved_as="latentsync-tiny_unet.safetensors",
        kind="latentsync-unet-motion",
    ),
    Entry(
        name="latentsync-tiny-vae",
        title="autoencoder of latentsync-tiny",
        purpose="engine latentsync-tiny",
        repository="",
        file="latentsync-tiny_vae.safetensors",
        revision=None,
        sha256="6d5a80954a265b0721219e7ee1c9fab912b084b2ff8e67442c4b05c1579ac49e",
        size=568642,
        licence="Apache-2.0",
        commercial=True,
        folder="lipsync",
        saved_as="latentsync-tiny_vae.safetensors",
        kind="taesd",
    ),
    Entry(
        name="latentsync-tiny-whisper",
        title="ears of latentsync-tiny",
        purpose="engine latentsync-tiny",
        repository="",
        file="latentsync-tiny_whisper.safetensors",
        revision=None,
        sha256="b9a6daf9365c1e88d86f40842f44787d4c74cd3176d72227b8b18adffeafeb18",
        size=451392,
        licence="Apache-2.0",
        commercial=True,
        folder="lipsync",
        saved_as="latentsync-tiny_whisper.safetensors",
        kind="whisper-hf",
    ),
    Entry(
        name="latentsync-1.6-syncnet",
        title="StableSyncNet of LatentSync 1.6",
        purpose="training loss, and scoring engine stable_syncnet",
        repository="ByteDance/LatentSync-1.6",
        file="stable_syncnet.pt",
        revision="c42c7e6c8e9c213626389fa7d9a3c444b8536353",
        sha256="77678d13861a02d6e83d0b169962175b6266be773f1f6f85fda2b0182e225118",
        size=1_605_328_746,
        licence=_RAIL,
        commercial=True,
        folder="lipsync",
        saved_as="latentsync-1.6_syncnet.pt",
        kind="syncnet-16-pixel-attn",
    ),
    Entry(
        name="latentsync-1.5-syncnet",
        title="StableSyncNet of LatentSync 1.5",
        purpose="training loss, and scoring engine stable_syncnet",
        repository="ByteDance/LatentSync-1.5",
        file="stable_syncnet.pt",
        revision="32a20d29aead0498e3e885e90dbbe8027da1b61b",
        sha256="dccc464554b85ed939ae5cf63000e5803d4b21d8c7dae2260544a10aeb1ac483",
        size=1_605_324_224,
        licence=_RAIL,
        commercial=True,
        folder="lipsync",
        saved_as="latentsync-1.5_syncnet.pt",
        kind="syncnet-16-pixel-attn",
    ),
    Entry(
        name="latentsync-1.0-syncnet",
        title="SyncNet of LatentSync 1.0 (no attention)",
        purpose="training loss, and scoring engine stable_syncnet",
        repository="ByteDance/LatentSync",
        file="latentsync_syncnet.pt",
        revision="405eda8eab9f65c1a6e0c292a5dee5a08089e2ae",
        sha256="38fa63bad3ed2332f647c40a5dc616cb0e233db8579f698f62af4c41965c4da5",
        size=1_488_019_828,
        licence=_RAIL,
        commercial=True,
        folder="lipsync",
        saved_as="latentsync-1.0_syncnet.pt",
        kind="syncnet-16-pixel",
    ),
    Entry(
        name="whisper-tiny",
        title="Whisper tiny (OpenAI file)",
        purpose="what the LatentSync engines hear with",
        repository="ByteDance/LatentSync-1.6",
        file="whisper/tiny.pt",
        revision="c42c7e6c8e9c213626389fa7d9a3c444b8536353",
        sha256="65147644a518d12f04e32d6f3b26facc3f8dd46e5390956a9424a650c0ce22b9",
        size=75_572_083,
        licence="MIT",
        commercial=True,
        folder="audio_encoders",
        saved_as="whisper_tiny.pt",
        kind="whisper-openai",
        aliases=("tiny.pt", "whisper/tiny.pt"),
    ),
    Entry(
        name="whisper-tiny-hf",
        title="Whisper tiny (Hugging Face file)",
        purpose="the same network in the other layout; either will do",
        repository="openai/whisper-tiny",
        file="model.safetensors",
        revision="169d4a4341b33bc18d8881c4b69c2e104e1cc0af",
        sha256="7ebd0e69e78190ffe1438491fa05cc1f5c1aa3a4c4db3bc1723adbb551ea2395",
        size=151_061_672,
        licence="Apache-2.0",
        commercial=True,
        folder="audio_encoders",
        saved_as="whisper_tiny_hf.safetensors",
        kind="whisper-hf",
        aliases=("whisper-tiny/model.safetensors",),
    ),
    Entry(
        name="sd-vae-ft-mse",
        title="Stable Diffusion VAE, MSE fine-tune",
        purpose="pictures to latents and back, for the LatentSync engines",
        repository="stabilityai/sd-vae-ft-mse",
        file="diffusion_pytorch_model.safetensors",
        revision="31f26fdeee1355a5c34592e401dd41e45d25a493",
        sha256="a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",
        size=334_643_276,
        licence="MIT",
        commercial=True,
        folder="vae",
        saved_as="sd-vae-ft-mse.safetensors",
        kind="sd-vae",
        aliases=(
            "sd-vae-ft-mse/diffusion_pytorch_model.safetensors",
            "vae-ft-mse-840000-ema-pruned.safetensors",
        ),
    ),
    Entry(
        name="taesd",
        title="TAESD, a tiny VAE",
        purpose="quick previews and the fastest presets, in place of the full VAE",
        repository="madebyollin/taesd",
        file="diffusion_pytorch_model.safetensors",
        revision="931366cc24b8bc15d6f682fa2e0352f1deec397b",
        sha256="d7956d561b1efbd861ad9b03fd8f01510f9e87eddc07bdfd20837009433f6ee5",
        size=9_793_292,
        licence="MIT",
        commercial=True,
        folder="vae_approx",
        saved_as="taesd.safetensors",
        kind="taesd",
        aliases=("taesd/diffusion_pytorch_model.safetensors",),
    ),
    Entry(
        name="sd15",
        title="Stable Diffusion 1.5, its UNet",
        purpose="training: what LatentSync's first stage begins with",
        # The authors' own repository is gone; this one says that it is its mirror.
        repository="stable-diffusion-v1-5/stable-diffusion-v1-5",
        file="unet/diffusion_pytorch_model.safetensors",
        revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        sha256="19da7aaa4b880e59d56843f1fcb4dd9b599c28a1d9d9af7c1143057c8ffae9f1",
        size=3_438_167_540,
        licence="CreativeML Open RAIL-M",
        commercial=True,
        folder="lipsync",
        saved_as="sd15_unet.safetensors",
        kind="sd-unet",
        aliases=("stable-diffusion-v1-5/unet/diffusion_pytorch_model.safetensors",),
    ),
    Entry(
        name="vgg16",
        title="VGG16 (ImageNet)",
        purpose="training: the features behind the LPIPS loss",
        repository="timm/vgg16.tv_in1k",
        file="model.safetensors",
        revision="3394518cba29aee1ea82a49d971be90d2dd1dab7",
        sha256="57b026918159a6bf9faf8405c3a551903768e7138989d9c6224a14227203fad8",
        size=553_000_000,
        exact=False,
        licence="BSD-3-Clause",
        commercial=True,
        folder="lipsync",
        saved_as="vgg16.safetensors",
        kind="vgg16",
    ),
    Entry(
        name="lpips-vgg16",
        title="LPIPS 0.1, linear layers on VGG16",
        purpose="training: the LPIPS loss; an installed torchmetrics brings it too",
        repository="chaofengc/IQA-PyTorch-Weights",
        file="LPIPS_v0.1_vgg-a78928a0.pth",
        revision="e03d58097b4b231515f900fa8006a2168becc745",
        sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        size=7_289,
        licence="BSD-2-Clause",
        commercial=True,
        folder="lipsync",
        saved_as="lpips_vgg16.pth",
        kind="lpips-vgg16",
    ),
    Entry(
        name="videomae-v2-g",
        title="VideoMAE v2 ViT-g/14 (Something-Something v2)",
        purpose="training: the TREPA loss of LatentSync's stage 2; compare: FVD",
        repository="OpenGVLab/VideoMAE2",
        file="mae-g/vit_g_hybrid_pt_1200e_ssv2_ft.pth",
        revision="97d119d270aca7a1217fff7f413c0c543eb325d9",
        sha256=None,
        size=2_020_000_000,
        exact=False,
        licence="Apache-2.0",
        commercial=True,
        folder="lipsync",
        saved_as="vit_g_hybrid_pt_1200e_ssv2_ft.pth",
        kind="videomae",
        # as a checkpoints folder of LatentSync has it
        aliases=("auxiliary/vit_g_hybrid_pt_1200e_ssv2_ft.pth",),
    ),
    Entry(
        name="syncnet-v2",
        title="SyncNet v2 (Chung and Zisserman)",
        purpose="scoring: offset and confidence as published numbers have them",
        repository="ByteDance/LatentSync-1.5",
        file="auxiliary/syncnet_v2.model",
        revision="32a20d29aead0498e3e885e90dbbe8027da1b61b",
        sha256="961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442",
        size=54_573_114,
        licence="not stated for the weights (code MIT)",
        commercial=None,
        folder="lipsync",
        saved_as="syncnet_v2.model",
        kind="syncnet-v2",
    ),
    Entry(
        name="hyperiqa",
        title="HyperIQA (KonIQ-10k)",
        purpose="preprocess: quality.hyperiqa, the visual quality that LatentSync's data was chosen by",
        repository="ByteDance/LatentSync-1.5",
        file="auxiliary/koniq_pretrained.pkl",
        revision="32a20d29aead0498e3e885e90dbbe8027da1b61b",
        # The authors' own file, of their Google Drive, under another address.
        sha256="ff9277bcc68ecc10e77d88b6d0a32825ec3c85562095542734ec6212eaaf6d81",
        size=109_768_650,
        licence="not stated for the weights (code MIT; asked: SSL92/hyperIQA#50)",
        commercial=None,
        folder="lipsync",
        saved_as="koniq_pretrained.pkl",
        kind="hyperiqa",
    ),
    Entry(
        name="wav2lip-expert",
        title="Wav2Lip's expert (SyncNet_color)",
        purpose="scoring: the judge that Wav2Lip is trained against",
        # A copy: the authors' own link is a share of their university's.
        repository="Nekochu/Wav2Lip",
        file="lipsync_expert.pth",
        revision="fb925b05f0d353850ee0c56810e4545e274e2b5a",
        sha256="9b9936c721696446eeed353032cab242a8cf0eed8c46cde540366f6ae5493be5",
        size=197_357_631,
        licence="research and personal use only (trained on LRS2)",
        commercial=False,
        folder="lipsync",
        saved_as="lipsync_expert.pth",
        kind="wav2lip-syncnet",
    ),
)


def entry(name: str) -> Entry:
    """The row called ``name``. ``WeightsError`` lists the names that exist."""
    for row in CATALOG:
        if row.name == name:
            return row
    known = ", ".join(row.name for row in CATALOG)
    raise WeightsError(f"no model is called '{name}'; there are {known}")
