"""ByteDance's LatentSync with its published weights: diffusion in the latents of aligned crops."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import Engine, Session

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from ...faces.templates import Template
    from ...types import FaceTrack, Settings, Voice
    from .presets import Preset
    from .session import Nets, Speech

log = logging.getLogger("lipsync.latentsync")

WHISPER = ("whisper-tiny", "whisper-tiny-hf")
VAE = "sd-vae-ft-mse"
TAESD = "taesd"
UNETS = ("latentsync-unet-motion", "latentsync-unet-decoder-motion", "latentsync-unet")
EARS = ("whisper-openai", "whisper-hf")
"""Kinds of files."""
OWN = ("unet.safetensors", "vae.safetensors", "whisper.safetensors")
"""Networks of one's own in a folder."""
LIBRARIES = ("torch", "diffusers", "transformers", "safetensors")


@dataclass(frozen=True, kw_only=True)
class Release:
    """What differs between the published networks besides their weights."""

    name: str
    weights: str
    """Row of the weights catalogue."""
    size: int
    """Side of the square crop in pixels that it was trained on."""
    eyes: float
    mouth: float
    """Height of the middle of the eyes and of the mouth line in the crop, as a fraction of its side.

    The original aligns middles of brows and nose instead, and 1.6 with other landmarks than those
    before it. These are medians over ten people of where the five points of YuNet lie in crops
    aligned in its way, with MediaPipe's mesh for the landmarks; between people they vary by .01 and .02.
    """
    cost: str
    ears: tuple[str, ...] = WHISPER
    vae: str = VAE
    """Rows of the weights catalogue, too; any of ``ears`` will do."""

    @property
    def stretch(self) -> float:
        """Its crops are 3:4 and squeezed to a square."""
        return 4 / 3


RELEASES: tuple[Release, ...] = (
    Release(
        name="latentsync-1.0",
        weights="latentsync-1.0",
        size=256,
        eyes=0.2755,
        mouth=0.6070,
        cost="frame by frame, 6.5 GB of GPU memory",
    ),
    Release(
        name="latentsync-1.5",
        weights="latentsync-1.5",
        size=256,
        eyes=0.2755,
        mouth=0.6070,
        cost="8 GB of GPU memory",
    ),
    Release(
        name="latentsync-1.6",
        weights="latentsync-1.6",
        size=512,
        eyes=0.2754,
        mouth=0.6151,
        cost="18 GB of GPU memory",
    ),
)


TINY = Release(
    name="latentsync-tiny",
    weights="latentsync-tiny",
    size=64,
    eyes=0.2755,
    mouth=0.6070,
    cost="comes along, for trying things",
    ears=("latentsync-tiny-whisper",),
    vae="latentsync-tiny-vae",
)
"""Ours, trained on rendered people by ``trainer/recipes/tiny_*.yaml``: all of the way that the
published networks go, without a download. It knows no real face."""


class LatentSync(Engine):
    """One release; networks are loaded at the first use and stay until ``close``."""

    def __init__(self, release: Release, given: Mapping[str, Path] | None = None) -> None:
        """``given``: files in place of the release's, by the name of the catalogue row that they stand for."""
        self.release = release
        self.name = release.name
        self._given = dict(given or {})
        whose = "weights of our own" if release is TINY else "ByteDance's weights"
        self.summary = f"diffusion at {release.size} px with {whose}; {release.cost}"
        self._nets: dict[tuple[str, str, str], Nets] = {}
        self._ears: Any = None
        self._cache: Any = None

    def missing(self) -> str | None:
        """Names the libraries, or else the files, that are absent; loads nothing."""
        from ...weights import files

        absent = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
        if absent:
            return f"{', '.join(absent)} not installed; run: pip install 'lipsync-core[diffusion]'"
        needed = (self.release.weights, "|".join(self.release.ears), self.release.vae)
        return files.absent(*(row for row in needed if row.partition("|")[0] not in self._given))

    def is_practical(self) -> bool:
        """Only with an accelerator: a processor takes minutes for a second of video. The tiny one never
        takes the place of an engine that knows real faces."""
        if self.release is TINY:
            return False
        import torch

        return torch.cuda.is_available() or torch.backends.mps.is_available()

    def check(self, settings: Settings) -> None:
        """Refuses a device that is not here, and a preset that this device cannot follow."""
        from .presets import preset

        preset(settings.preset, pick_device(settings.device).type)

    def close(self) -> None:
        """Lets go of all networks and of what was kept of the last clip."""
        self._nets.clear()
        self._ears = self._cache = None

    def template(self, track: FaceTrack) -> Template:
        """The crop of the release, squeezed sideways as its training crops were."""
        from ...faces.templates import Template

        return Template(
            size=self.release.size,
            eyes=(0.5, self.release.eyes),
            mouth=(0.5, self.release.mouth),
            stretch=self.release.stretch,
        )

    def listen(self, voice: Voice, times: Sequence[Fraction]) -> Speech:
        """Whisper's states around each of ``times``; silence where the voice has ended."""
        from ...audio.whisper import RATE, Features, build_encoder
        from ...weights import files, tensors
        from .session import hear

        if self._ears is None:
            names = self.release.ears
            name = next((name for name in names if files.find(name)), names[0])
            read = self._read(names[0]) if names[0] in self._given else tensors.load(name)
            loaded = tensors.whisper_encoder(read)
            # small enough for the CPU, and exact there
            self._ears = build_encoder({key: value.float() for key, value in loaded.items()})
        last = max(times, default=Fraction(0))
        beyond = int((last + Fraction(1, 5)) * RATE) if last >= voice.duration else None
        return hear(Features(voice, self._ears, sample_count=beyond), times)

    def start(
        self,
        *,
        speech: Speech,
        track: FaceTrack,
        study: dict[str, np.ndarray] | None,
        settings: Settings,
    ) -> Session:
        """Loads the networks onto ``settings.device`` if they are not there yet."""
        from .pictures import LatentCache
        from .presets import preset
        from .session import LatentSession

        device = pick_device(settings.device)
        row = preset(settings.preset, device.type)
        nets = self._loaded(device, row)
        if self._cache is None:
            self._cache = LatentCache()
        log.info(
            "%s: preset %s, %g passes a window, on %s in %s",
            self.name,
            row.name,
            row.passes,
            device,
            str(nets.unet.conv_in.weight.dtype).removeprefix("torch."),
        )
        return LatentSession(
            nets,
            speech,
            track,
            row,
            size=self.release.size,
            seed=settings.seed,
            cache=self._cache,
            strength=settings.strength,
            silence=settings.silence,
            batch=batch_for(device, self.release.size),
        )

    def _loaded(self, device: torch.device, row: Preset) -> Nets:
        import torch

        from ...errors import WeightsError
        from ...models.unet3d import UNet3D, config_of
        from ...weights import files
        from ...weights.catalog import entry
        from .pictures import Pictures, load_coder
        from .session import Nets

        dtype, vae_dtype = dtypes_for(device, row)
        # a network draws in the latents of its own autoencoder; TAESD reads those of Stable Diffusion
        coder = TAESD if row.tiny_vae and self.release.vae == VAE else self.release.vae
        key = (str(device), str(dtype), coder)
        if key in self._nets:
            return self._nets[key]
        # one set at a time: two would not fit where one does
        held = [nets.unet for nets in self._nets.values()]
        self._nets.clear()
        # what was rounded for one preset would not be exact for another
        unet = next((net for net in held if net.conv_in.weight.dtype == dtype), None)
        held.clear()
        if unet is None:
            state = self._read(self.release.weights)
            with torch.device("meta"):
                unet = UNet3D(config_of({name: tuple(t.shape) for name, t in state.items()}))
            unet.load_state_dict(state, assign=True)
            unet.train(False).requires_grad_(False)
            if self.release.weights not in self._given:
                self._check_release()
        unet.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        ears = int(self._ears.layer_norm.weight.shape[0]) if self._ears is not None else None
        if ears is not None and unet.config.audio_width != ears:
            place = self._given.get(self.release.weights) or files.find(self.release.weights)
            raise WeightsError(
                f"{place} listens to features {unet.config.audio_width} wide, "
                f"but the Whisper that was found gives {ears}; it needs {entry(self.release.ears[0]).title}"
            )
        vae, tiny = load_coder(coder, self._given.get(coder))
        # past diffusers' own ``to``, which warns about nothing
        torch.nn.Module.to(vae, device, vae_dtype)
        many = 8 if device.type == "cuda" else 2
        pictures = Pictures(vae, tiny=tiny, batch=many)
        self._nets[key] = Nets(unet=unet, pictures=pictures)
        return self._nets[key]

    def _read(self, name: str) -> dict[str, Tensor]:
        """Tensors of the catalogue's row ``name``, or of the file that is given in its place."""
        from ...weights import tensors

        path = self._given.get(name)
        if path is None:
            return tensors.load(name)
        tensors.require(path, *(UNETS if name == self.release.weights else EARS))
        return tensors.read_tensors(path)

    def _check_release(self) -> None:
        """1.5 and 1.6 have the same tensors; their files differ in size, which is what can be told."""
        from ...weights import files
        from ...weights.catalog import CATALOG

        path = files.find(self.release.weights)
        size = path.stat().st_size if path else 0
        for row in CATALOG:
            if row.exact and row.size == size and row.name != self.release.weights:
                log.warning(
                    "%s has the size of %s, yet it is used as %s: crops of %d px may be wrong for it",
                    path,
                    row.title,
                    self.release.name,
                    self.release.size,
                )


def pick_device(name: str) -> torch.device:
    """``auto`` takes CUDA, then Metal, then the CPU; a device that is absent is refused."""
    import torch

    from ...errors import SettingsError

    metal = torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if metal else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"there is no device {name!r}; use auto, cpu, cuda or mps") from error
    here = {"cuda": torch.cuda.is_available(), "mps": metal, "cpu": True}
    if not here.get(device.type, False):
        raise SettingsError(f"{name} is not available on this machine; use --device cpu or auto")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise SettingsError(f"there is no {name}: this machine has {count}, counted from cuda:0")
    return device


def dtypes_for(device: torch.device, row: Preset) -> tuple[torch.dtype, torch.dtype]:
    """Of the denoiser and of the VAE, whose eight bits of bfloat16 would show as bands."""
    import torch

    from ...models.dense import multiplies_bfloat16

    if device.type == "cuda":
        return torch.float16, torch.float16
    if device.type == "cpu" and row.name != "exact" and multiplies_bfloat16():
        return torch.bfloat16, torch.float32
    return torch.float32, torch.float32


def batch_for(device: torch.device, size: int) -> int:
    """Windows to denoise at once in the memory that is free; too many is mended on the way."""
    import torch

    if device.type != "cuda":
        return 1
    free, _ = torch.cuda.mem_get_info(device)
    # a guided window of 512 px in half precision, with room to spare
    each = 8 * 2**30 * (size / 512) ** 2
    return max(1, min(4, int(free // each)))


def own(release: Release, path: Path) -> LatentSync:
    """``release`` with networks of one's own, as the trainer exports them.

    ``path`` is a UNet, or a folder with any of ``OWN``; what it lacks is the release's. The same engine as
    long as the files stay the same. EngineError where there is nothing of that kind.
    """
    from ...errors import EngineError

    path = path.expanduser()
    names = dict(zip(OWN, (release.weights, release.vae, release.ears[0]), strict=True))
    if path.is_dir():
        given = {row: path / file for file, row in names.items() if (path / file).is_file()}
        if not given:
            raise EngineError(
                f"{path} holds none of {', '.join(OWN)}; name a UNet's file, or put one there"
            )
    elif path.is_file():
        given = {release.weights: path}
    else:
        raise EngineError(f"{release.name}={path}: there is no such file or folder")
    marks = [(row, str(file.resolve()), file.stat().st_mtime_ns) for row, file in given.items()]
    return _own(release, path.name, tuple(marks))


@lru_cache(maxsize=1)
def _own(release: Release, title: str, marks: tuple[tuple[str, str, int], ...]) -> LatentSync:
    engine = LatentSync(release, {row: Path(file) for row, file, _ in marks})
    engine.name = f"{release.name}={title}"
    return engine


LATENTSYNC: tuple[LatentSync, ...] = tuple(LatentSync(release) for release in (TINY, *RELEASES))
"""Rows for ``ENGINES``, the newest last."""
