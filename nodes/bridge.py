"""The only file that knows both worlds: ComfyUI's progress, folders, memory and sockets; the core's nouns."""

from __future__ import annotations

import contextlib
import inspect
import io as bytes_io
import itertools
import json
import logging
import math
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import folder_paths
from comfy_api.v0_0_2 import ComfyExtension, Input, InputImpl, io, ui

from ..lipsync_core.errors import LipSyncError, MediaError, SettingsError
from ..lipsync_core.types import Audio, Progress, Settings
from . import choices
from .sockets import LoadedModel

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ..lipsync_core.engines.base import Engine
    from ..lipsync_core.faces.detect.base import Detector
    from ..lipsync_core.staged import Patch

log = logging.getLogger("lipsync.comfyui")

CATEGORY = "LipSync"
MODEL_FOLDER = "lipsync"
CORE_FOLDERS = ("diffusion_models", "checkpoints")
"""Where people also keep such files, among those of other models."""
MOTION_KEPT, MOTION_OFF = "from the model", "off"
UNET_PARAMETERS = 1_300_000_000
"""Of a LatentSync UNet; ComfyUI chooses the precision by it."""
MODEL_SUFFIXES = {".safetensors", ".pt", ".pth", ".ckpt"}
PREVIEW_SIDE = 512
"""Longest side in pixels of a picture sent while a node works."""
PREVIEW_SECONDS = 0.25
"""Time between two previews; each is a JPEG on the wire."""
VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".webm"}
REPORT_SECONDS = 0.1
"""Time between two progress messages; cancelling is looked for at every call."""

__all__ = [
    "CATEGORY",
    "ComfyExtension",
    "Input",
    "LipSyncError",
    "Node",
    "Schema",
    "io",
    "option",
    "output",
    "ui",
]


# Schemas ------------------------------------------------------------------------------------------


@cache
def _known(kind: type) -> frozenset[str] | None:
    """Names that the constructor of ``kind`` takes; None when it takes any."""
    parameters = inspect.signature(kind).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters)


def _fitting(kind: type, options: dict[str, Any]) -> dict[str, Any]:
    known = _known(kind)
    return options if known is None else {k: v for k, v in options.items() if k in known}


def Schema(**options: Any) -> io.Schema:
    """``io.Schema``, leaving out what this version of ComfyUI does not know yet."""
    options.setdefault("category", CATEGORY)
    return io.Schema(**_fitting(io.Schema, options))


def option(kind: Any, name: Any, **options: Any) -> Any:
    """``kind.Input``, leaving out what this version of ComfyUI does not know yet."""
    return kind.Input(name, **_fitting(kind.Input, options))


def output(kind: Any, name: str, tooltip: str, **options: Any) -> Any:
    """``kind.Output`` with a name in both generations of the page."""
    return kind.Output(display_name=name, tooltip=tooltip, **_fitting(kind.Output, options))


class Node(io.ComfyNode):
    """Base of all nodes here."""


# Progress, previews, cancelling -------------------------------------------------------------------


def check_cancel() -> None:
    """Raises ComfyUI's own exception when the user pressed Cancel; it may be a ``BaseException``."""
    from comfy.model_management import throw_exception_if_processing_interrupted

    throw_exception_if_processing_interrupted()


def import_listening(*names: str) -> None:
    """Imports libraries that take seconds to load, and leaves when Cancel is pressed meanwhile.

    The import goes on by itself then. What fails to import is left to whoever needs it.
    """
    import importlib
    import threading

    def load() -> None:
        with contextlib.suppress(ImportError):
            for name in names:
                importlib.import_module(name)

    loading = threading.Thread(target=load, name="lipsync-import", daemon=True)
    loading.start()
    while loading.is_alive():
        loading.join(0.05)
        check_cancel()


def progress(after: float = 0.0) -> Progress:
    """What a core stage calls while it works: ComfyUI's bar and preview, and Cancel at every call.

    ``after``: seconds before the first message, for what is mostly done sooner.
    """
    from comfy.utils import ProgressBar

    bar: Any = None
    begins = time.monotonic() + after
    reported = previewed = -math.inf

    def step(done: int, total: int, preview: np.ndarray | None = None) -> None:
        nonlocal bar, reported, previewed
        check_cancel()
        now = time.monotonic()
        if now < begins:
            return
        total = max(int(total), int(done), 1)
        bar = bar or ProgressBar(total)
        picture = None
        if preview is not None and now - previewed >= PREVIEW_SECONDS:
            previewed = now
            picture = ("JPEG", _small(preview), PREVIEW_SIDE)
        if picture or now - reported >= REPORT_SECONDS or done >= total:
            reported = now
            bar.update_absolute(int(done), total, picture)

    return step


def stages(name: str) -> Progress:
    """The core's ``Stages``: each stage fills the bar anew."""
    log.info("%s", name)
    return progress()


def _small(picture: np.ndarray) -> Any:
    import numpy as np
    from PIL import Image

    picture = np.asarray(picture)
    if picture.dtype != np.uint8:
        picture = np.clip(picture, 0, 255).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(picture))
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    return image


# Pictures -----------------------------------------------------------------------------------------


class Frames(Sequence):
    """An IMAGE batch as the core sees it: one ``(H, W, 3)`` uint8 array at a time, nothing copied ahead."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Frames(self.images[index])
        import numpy as np

        picture = self.images[index].detach().to(device="cpu").float().numpy()
        picture = picture[..., :3] if picture.shape[-1] >= 3 else picture[..., :1].repeat(3, -1)
        # In numpy: torch would wake all its threads five times for one small picture. fmax also
        # makes black of what some node left undefined.
        picture = np.minimum(np.fmax(picture, 0.0), 1.0)
        return np.rint(picture * 255.0).astype(np.uint8)

    @property
    def size(self) -> tuple[int, int]:
        """``(width, height)``."""
        return int(self.images.shape[2]), int(self.images.shape[1])


def frames(images: Any, *, what: str = "images") -> Frames:
    """An IMAGE input of any size, with or without alpha, in any precision, on any device.

    Raises ``MediaError`` when it is absent or empty.
    """
    if images is None:
        raise MediaError(f"{what}: nothing arrived; connect an IMAGE")
    if images.ndim == 3:
        images = images[None]
    if images.ndim != 4:
        raise MediaError(
            f"{what}: expected pictures as (frames, height, width, channels), "
            f"got {images.ndim} dimensions"
        )
    count, height, width, channels = (int(side) for side in images.shape)
    if not count:
        raise MediaError(f"{what}: the batch holds no picture; check the node before it")
    if not height or not width or not channels:
        raise MediaError(f"{what}: the pictures are {width}x{height}; check the node before it")
    return Frames(images)


def masks(mask: Any, count: int, *, what: str = "mask") -> torch.Tensor:
    """A MASK as ``(count, H, W)`` float32 on the CPU; one mask stands for all frames."""
    if mask.ndim == 4 and mask.shape[-1] == 1:
        mask = mask[..., 0]
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3 or not mask.numel():
        raise MediaError(
            f"{what}: expected masks as (frames, height, width), got {tuple(mask.shape)}"
        )
    mask = mask.detach().to(device="cpu").float().nan_to_num(0.0).clamp(0, 1)
    if mask.shape[0] == 1:
        return mask.expand(count, -1, -1)
    if mask.shape[0] != count:
        raise MediaError(
            f"{what}: {mask.shape[0]} masks for {count} frames; give one, or one a frame"
        )
    return mask


def planes(mask: Any, count: int, *, what: str = "mask") -> np.ndarray | None:
    """``masks`` as the core takes them; None where nothing is connected."""
    return None if mask is None else masks(mask, count, what=what).numpy()


def _finished(tensor: torch.Tensor) -> torch.Tensor:
    """Where ComfyUI keeps what travels between nodes, and in the precision it was told to use."""
    import comfy.model_management as memory

    dtype = getattr(memory, "intermediate_dtype", lambda: tensor.dtype)()
    return tensor.to(device=memory.intermediate_device(), dtype=dtype)


def image(pictures: np.ndarray) -> torch.Tensor:
    """``(T, H, W, 3)`` uint8, or float 0..255, as IMAGE."""
    import numpy as np
    import torch

    pictures = np.ascontiguousarray(pictures)
    return _finished(torch.from_numpy(pictures).float().div(255).clamp(0, 1))


def mask(planes: np.ndarray) -> torch.Tensor:
    """``(T, H, W)`` 0..1 or bool as MASK."""
    import numpy as np
    import torch

    return _finished(torch.from_numpy(np.ascontiguousarray(planes, np.float32)))


def pick(images: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    """The pictures in another order, some perhaps more than once; the batch itself if nothing changes."""
    import torch

    if list(order) == list(range(images.shape[0])):
        return images
    if len(set(order)) == 1:
        return images[order[0]].expand(len(order), -1, -1, -1)
    step = progress()
    picked = torch.empty((len(order), *images.shape[1:]), dtype=images.dtype, device=images.device)
    for place, index in enumerate(order):
        picked[place] = images[index]
        step(place + 1, len(order))
    return picked


# Sound --------------------------------------------------------------------------------------------


def sound(audio: Any, *, what: str = "voice") -> Audio:
    """An AUDIO input as the core's ``Audio``; a lazy mapping, any channel count, any precision.

    Raises ``MediaError`` when there is no sound (a silent video gives None) or it is empty.
    """
    if audio is None:
        raise MediaError(
            f"{what}: there is no sound; the video it comes from has no sound track. "
            "Connect LipSync Load Audio instead"
        )
    try:
        waveform, rate = audio["waveform"], int(audio["sample_rate"])
    except (KeyError, TypeError) as error:
        raise MediaError(f"{what}: this is no AUDIO ({type(audio).__name__})") from error
    if waveform.ndim == 3:
        if waveform.shape[0] > 1:
            log.warning(
                "%s: a batch of %d sounds arrived, using the first", what, waveform.shape[0]
            )
        waveform = waveform[0] if waveform.shape[0] else waveform.reshape(0, 0)
    elif waveform.ndim == 1:
        waveform = waveform[None]
    if waveform.ndim != 2 or not waveform.numel():
        raise MediaError(f"{what}: the sound is empty; check the node before it")
    if rate <= 0:
        raise MediaError(f"{what}: the sound says {rate} samples per second")
    return Audio(
        samples=_copied(waveform.detach().to(device="cpu").float().numpy(), rate), rate=rate
    )


def audio(value: Audio) -> dict[str, Any]:
    """The core's ``Audio`` as AUDIO."""
    import numpy as np
    import torch

    samples = value.samples
    # a piece of a longer sound must not change with it
    if not (samples.flags.owndata and samples.flags.writeable and samples.dtype == np.float32):
        samples = _copied(samples, int(value.rate))
    return {"waveform": torch.from_numpy(samples)[None], "sample_rate": int(value.rate)}


def _copied(samples: np.ndarray, rate: int) -> np.ndarray:
    """A copy of ``(K, S)``, ten seconds at a time, between which Cancel is heard."""
    from ..lipsync_core.media.audio import joined

    step = 10 * rate
    parts = [samples[:, at : at + step] for at in range(0, max(samples.shape[1], 1), step)]
    return joined(parts, check_cancel)


def playable(value: Audio) -> ui.SavedResult:
    """The core's ``Audio`` as a file that the page can play."""
    from ..lipsync_core.media import batch

    path = temporary(".wav")
    try:
        batch.save_sound(value, path, check_cancel)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return shown(path)


# Files --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder of ours under ComfyUI's temp folder, gone when the block ends, however it ends."""
    base = Path(folder_paths.get_temp_directory())
    base.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="lipsync-", dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def temporary(suffix: str) -> Path:
    """A fresh name in ComfyUI's temp folder for a result that later nodes read."""
    base = Path(folder_paths.get_temp_directory())
    base.mkdir(parents=True, exist_ok=True)
    return base / f"lipsync_{uuid.uuid4().hex[:12]}{suffix}"


def _place(path: Path) -> ui.SavedResult | None:
    for kind, base in (
        (io.FolderType.output, folder_paths.get_output_directory()),
        (io.FolderType.temp, folder_paths.get_temp_directory()),
        (io.FolderType.input, folder_paths.get_input_directory()),
    ):
        with contextlib.suppress(ValueError):
            relative = path.resolve().relative_to(Path(base).resolve())
            parent = "" if relative.parent == Path() else relative.parent.as_posix()
            return ui.SavedResult(relative.name, parent, kind)
    return None


def shown(path: Path) -> ui.SavedResult:
    """A file in one of ComfyUI's folders, as the page asks for it."""
    place = _place(path)
    assert place is not None, path
    return place


def save_name(prefix: str, suffix: str, size: tuple[int, int]) -> Path:
    """The next free name for ``prefix`` in the output folder; ComfyUI refuses names that leave it."""
    folder, name, counter, _, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory(), size[0], size[1]
    )
    return Path(folder) / f"{name}_{counter:05}_{suffix}"


def keep_text(folder: str, name: str, suffix: str, text: Callable[[str], str]) -> Path:
    """``text(name)`` as a file in ``folder`` of the output folder; no file is ever replaced.

    One that says just that is taken as it is; beside one that says something else the new one, and
    the name in its text, becomes ``name-2`` and so on.
    """
    base = Path(folder_paths.get_output_directory()) / folder
    base.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        free = name if number == 1 else f"{name}-{number}"
        path, content = base / f"{free}{suffix}", text(free).encode()
        if not path.exists():
            break
        if path.is_file() and path.read_bytes() == content:
            return path
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def input_files(*kinds: str) -> list[str]:
    """Names in the input folder that hold ``image``, ``video`` or ``audio``."""
    folder = folder_paths.get_input_directory()
    names = (
        [entry.name for entry in os.scandir(folder) if entry.is_file()]
        if Path(folder).is_dir()
        else []
    )
    return sorted(folder_paths.filter_files_content_types(names, list(kinds)))


def input_names(*suffixes: str) -> list[str]:
    """Names in the input folder that end so."""
    folder = Path(folder_paths.get_input_directory())
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(suffixes))


def input_path(name: str) -> Path:
    """The file behind a name from an upload or ``name [output]``, never outside ComfyUI's folders."""
    if not folder_paths.exists_annotated_filepath(name):
        raise MediaError(f"'{name}' is not in the input folder; choose another file, or upload it")
    return Path(folder_paths.get_annotated_filepath(name))


def exists(name: str) -> bool:
    """Whether a name from an upload, or ``name [output]``, is a file in ComfyUI's folders."""
    return bool(folder_paths.exists_annotated_filepath(name))


def kept(make: Callable[[Path], Path]) -> Path:
    """A bundled file in ComfyUI's temp folder, made when it is first asked for."""
    folder = Path(folder_paths.get_temp_directory()) / "lipsync-bundled"
    folder.mkdir(parents=True, exist_ok=True)
    return make(folder)


def input_state(name: str) -> Any:
    """Changes when the file does; for ``fingerprint_inputs``."""
    if not folder_paths.exists_annotated_filepath(name):
        return name
    state = Path(folder_paths.get_annotated_filepath(name)).stat()
    return name, state.st_mtime_ns, state.st_size


# Video --------------------------------------------------------------------------------------------


def is_video(value: Any) -> bool:
    return hasattr(value, "get_components")


def _streamed(video: Any) -> str | bytes_io.BytesIO | None:
    """The file behind a VIDEO, or None when it exists as pictures only or has edits of its own."""
    # The base class would encode everything into memory; in 0.3.64 that even fails.
    own = getattr(type(video), "get_stream_source", None)
    if own is None or own is getattr(Input.Video, "get_stream_source", None):
        return None
    pending = getattr(video, "has_pending_frame_edits", None)
    if pending is not None and (pending() if callable(pending) else pending):
        return None
    return video.get_stream_source()


def trim_window(video: Any) -> tuple[Fraction | None, Fraction | None]:
    """First and last second of a VIDEO that counts; None where it is the file's own."""
    window = getattr(video, "get_active_trim_window", None)
    if window is None:
        return None, None
    start, duration = (Fraction(value).limit_denominator(1_000_000) for value in window())
    return (start or None), (start + duration if duration > 0 else None)


def clip_file(
    clip: Any, folder: Path, *, fps: float
) -> tuple[Path, Fraction | None, Fraction | None]:
    """A VIDEO or IMAGE as a file that the core can stream: path, first and last second.

    A VIDEO that is a file is used where it lies; anything else is written into ``folder`` without
    loss. ``fps`` counts for an IMAGE batch.
    """
    if clip is None:
        raise MediaError("clip: nothing arrived; connect a VIDEO or an IMAGE")
    if not is_video(clip):
        return _stored(frames(clip, what="clip"), folder, rate(fps)), None, None
    source = _streamed(clip)
    if source is None:
        parts = clip.get_components()
        return (
            _stored(frames(parts.images, what="clip"), folder, Fraction(parts.frame_rate)),
            None,
            None,
        )
    start, end = trim_window(clip)
    if isinstance(source, (str, os.PathLike)):
        return Path(source), start, end
    path = folder / "clip.mkv"
    source.seek(0)
    with path.open("wb") as file:
        while block := source.read(1 << 20):
            check_cancel()
            file.write(block)
    return path, start, end


def _stored(pictures: Frames, folder: Path, frame_rate: Fraction) -> Path:
    from ..lipsync_core.media import batch

    return batch.save(pictures, folder / "clip", frame_rate, progress())


def voice_file(
    voice: Any, clip: Path, start: Fraction | None, end: Fraction | None, folder: Path
) -> Path:
    """The voice as a file: what is connected, else the sound of the clip within its trim window."""
    from ..lipsync_core.media import audio as media_audio
    from ..lipsync_core.media import batch

    if voice is None:
        if start is None and end is None:
            return clip
        whole = media_audio.load(clip, check_cancel)
        length = None if end is None else end - (start or 0)
        part = batch.cut_sound(whole, start or Fraction(0), length)
        return batch.save_sound(part, folder / "voice.wav", check_cancel)
    return batch.save_sound(sound(voice), folder / "voice.wav", check_cancel)


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """A VIDEO with its sound as files that the core can stream."""

    path: Path
    start: Fraction | None = None
    end: Fraction | None = None
    """First and last second of the file that count; None where they are its own."""
    voice: Path | None = None
    """The sound where it is not in the file; it begins with the first picture that counts."""
    parts: Any = None
    """The pictures and the sound, of a VIDEO that is no file."""
    suffix: str = ".mkv"
    """Of a file that can hold the same pictures."""


def spoken(clip: Any, voice: Any, folder: Path) -> Spoken:
    """A VIDEO, and ``voice`` in place of its own sound if that is connected; ``folder`` for what is no file."""
    from ..lipsync_core.media import batch

    if clip is None or not is_video(clip):
        raise MediaError("video: nothing arrived; connect a VIDEO")
    path = folder / "voice.wav"
    if _streamed(clip) is not None:
        place, start, end = clip_file(clip, folder, fps=25.0)
        heard = None if voice is None else batch.save_sound(sound(voice), path, check_cancel)
        return Spoken(path=place, start=start, end=end, voice=heard, suffix=_suffix(clip))
    parts = clip.get_components()
    heard = batch.save_sound(sound(parts.audio if voice is None else voice), path, check_cancel)
    pictures = frames(parts.images, what="video")
    place = _stored(pictures, folder, Fraction(parts.frame_rate))
    return Spoken(path=place, voice=heard, parts=parts)


def resounded(clip: Spoken, seconds: Fraction) -> Any:
    """The same pictures as VIDEO with the sound ``seconds`` later; compressed ones are copied."""
    from ..lipsync_core.scoring import repair

    if clip.parts is not None:
        moved = repair.moved_sound(sound(clip.parts.audio), seconds)
        return InputImpl.VideoFromComponents(replace(clip.parts, audio=audio(moved)))
    path = temporary(clip.suffix)
    repair.shift_sound(clip.path, path, seconds, progress=progress())
    if clip.start is None and clip.end is None:
        return video(path)
    start = clip.start or Fraction(0)
    return InputImpl.VideoFromFile(
        str(path),
        start_time=float(start),
        duration=0.0 if clip.end is None else float(clip.end - start),
    )


def own_length(clip: Path, start: Fraction | None, end: Fraction | None) -> str:
    """The length policy under which a clip with its own sound keeps all its pictures, and no more.

    A sound track mostly ends some samples before or after its picture.
    """
    from ..lipsync_core.media.audio import open_voice
    from ..lipsync_core.media.reader import Reader

    sound_length = open_voice(clip, start=start, end=end).duration
    picture = Reader(clip, start=start, end=end).clip.duration
    return "cut" if sound_length >= picture else "silence"


def video(path: Path) -> Any:
    """A file as VIDEO."""
    return InputImpl.VideoFromFile(str(path))


def video_size(value: Any) -> tuple[int, int]:
    width, height = value.get_dimensions()
    return int(width), int(height)


def workflow_tags(hidden: Any) -> dict[str, Any]:
    """What ComfyUI writes into files so that dropping one into the page brings its graph back."""
    from comfy.cli_args import args

    if args.disable_metadata or hidden is None:
        return {}
    tags = dict(hidden.extra_pnginfo or {})
    if hidden.prompt is not None:
        tags["prompt"] = hidden.prompt
    return tags


# Models -------------------------------------------------------------------------------------------


def register_folders() -> None:
    """Makes ``models/lipsync`` known; folders named in extra_model_paths.yaml stay in front."""
    base = str(Path(folder_paths.models_dir) / MODEL_FOLDER)
    paths, suffixes = folder_paths.folder_names_and_paths.get(MODEL_FOLDER, ([], set()))
    paths = [*paths, *([] if base in paths else [base])]
    # A new set: the one already there may be shared with other categories.
    folder_paths.folder_names_and_paths[MODEL_FOLDER] = (paths, set(suffixes) | MODEL_SUFFIXES)


BUNDLED = "latentsync-tiny (comes along)"


def bundled_checkpoints() -> list[str]:
    """The network of our own, where the pack was installed with it; the registry's archive has none."""
    from ..lipsync_core.weights import files

    return [BUNDLED] if files.find(BUNDLED.partition(" ")[0]) else []


def checkpoints() -> list[str]:
    """Names of files in the lipsync model folders, then those in ComfyUI's own that say what they are.

    The latter carry their folder: ``name [diffusion_models]``.
    """
    own = sorted(folder_paths.get_filename_list(MODEL_FOLDER))
    core = [
        f"{name} [{kind}]"
        for kind in CORE_FOLDERS
        if kind in folder_paths.folder_names_and_paths
        for name in sorted(folder_paths.get_filename_list(kind))
        if "latentsync" in name.lower()
    ]
    return [*own, *core]


def checkpoint_path(name: str) -> Path:
    """The file behind one of ``checkpoints`` or ``bundled_checkpoints``."""
    if name == BUNDLED:
        from ..lipsync_core.weights import files

        return files.fetch(BUNDLED.partition(" ")[0])
    for kind in CORE_FOLDERS:
        if name.endswith(f" [{kind}]"):
            return Path(folder_paths.get_full_path_or_raise(kind, name.removesuffix(f" [{kind}]")))
    return Path(folder_paths.get_full_path_or_raise(MODEL_FOLDER, name))


def share_models() -> Path:
    """Tells the core where this ComfyUI keeps weights; returns the models folder for downloads."""
    from ..lipsync_core.weights import files
    from ..lipsync_core.weights.catalog import CATALOG

    models = Path(folder_paths.models_dir)
    for kind in dict.fromkeys(row.folder for row in CATALOG):
        for path in folder_paths.folder_names_and_paths.get(kind, ([], set()))[0]:
            files.add_folder(path, kind)
    for core in CORE_FOLDERS:
        for path in folder_paths.folder_names_and_paths.get(core, ([], set()))[0]:
            files.add_folder(path, MODEL_FOLDER)
    files.add_folder(models)
    return models


def device() -> str:
    """The device that ComfyUI computes on, as the core's settings name it."""
    import comfy.model_management as memory

    return str(memory.get_torch_device())


def managed(network: Any) -> Any:
    """A network in the hands of ComfyUI's memory manager."""
    import comfy.model_management as memory
    import torch
    from comfy.model_patcher import ModelPatcher

    if isinstance(getattr(type(network), "device", None), property):
        # The manager writes into `device`, which networks of diffusers only let it read.
        holder = torch.nn.Module()
        holder.network = network
        network = holder
    return ModelPatcher(
        network, load_device=memory.get_torch_device(), offload_device=memory.unet_offload_device()
    )


def load(*patchers: Any, reserve: int = 0) -> None:
    """Brings networks onto their device, moving others away if needed; ``reserve``: bytes to work in."""
    import comfy.model_management as memory

    memory.load_models_gpu(list(patchers), memory_required=reserve)


def load_scorer(name: str) -> Any:
    """A scoring network on its device, as ComfyUI's memory manager holds it: it is the ``model``."""
    from ..lipsync_core.scoring import engines

    patcher = managed(engines.row(name).load("cpu"))
    load(patcher)
    return patcher


def load_latentsync(path: Path, release: str, dtype: str) -> LoadedModel:
    """A LatentSync checkpoint as what a LIPSYNC_MODEL socket carries."""
    import comfy.model_management as memory
    import torch

    from ..lipsync_core.engines.latentsync.hosted import open_checkpoint

    chosen = (
        memory.unet_dtype(
            device=memory.get_torch_device(),
            model_params=UNET_PARAMETERS,
            supported_dtypes=[torch.float16, torch.bfloat16, torch.float32],
        )
        if dtype == "auto"
        else getattr(torch, dtype)
    )
    engine = open_checkpoint(path, release=release, dtype=chosen, progress=progress())
    return LoadedModel(engine=engine, patchers=(managed(engine.unet), managed(engine.vae)))


@lru_cache(maxsize=1)
def _dubbing(path: Path, release: str, dtype: str, state: tuple[int, int]) -> LoadedModel:
    """The model of the last dub, so that the next one need not read it again."""
    return load_latentsync(path, release, dtype)


def engine(name: str, preset: str) -> Engine:
    """The engine called so; its networks, if it has any, in the hands of ComfyUI's memory manager."""
    from ..lipsync_core import engines
    from ..lipsync_core.engines.latentsync import LatentSync, dtypes_for, pick_device, presets
    from ..lipsync_core.weights import files

    row = engines.pick(name)
    path = files.find(row.release.weights) if isinstance(row, LatentSync) else None
    if path is None:
        return row
    place = pick_device(device())
    # What the command line would compute in, so that both give the same pictures.
    dtype, _ = dtypes_for(place, presets.preset(preset, place.type))
    facts = path.stat()
    words = str(dtype).removeprefix("torch.")
    model = _dubbing(path, row.name, words, (facts.st_mtime_ns, facts.st_size))
    load(*model.patchers)
    return model.engine


def speaker(choice: str) -> str | None:
    """What `Settings.speaker` takes."""
    if choice in choices.SPEAKERS:
        return None if choice == choices.EVERYBODY else choice
    return str(input_path(choice))


def with_motion(
    model: LoadedModel, motion: str, strength: float, window: int, overlap: int
) -> LoadedModel:
    """``model`` with another choice of temporal modules; engines without any pass through.

    ComfyUI's own patches do it, so that the weights stay shared with the model that came in.
    """
    if not model.patchers:
        log.info("the %s engine has no motion modules; it goes on unchanged", model.engine.name)
        return model
    import torch

    from ..lipsync_core.engines.latentsync import hosted

    unet = model.patchers[0].clone()
    names = list(unet.model.state_dict())
    if motion not in (MOTION_KEPT, MOTION_OFF):
        fresh = hosted.motion_tensors(checkpoint_path(motion))
        absent = [name for name in names if ".motion_modules." in name and name not in fresh]
        if absent:
            raise SettingsError(f"{motion} has no motion modules for {absent[0]} of this model")
        unet.add_patches({name: ("set", (value,)) for name, value in fresh.items()})
    scale = 0.0 if motion == MOTION_OFF else strength
    if scale != 1.0:
        ends = hosted.motion_outputs(names)
        nothing = {name: ("diff", (torch.zeros(1),)) for name in ends}
        unet.add_patches(nothing, strength_patch=0.0, strength_model=scale)
    changes: dict[str, Any] = {"window": window} if window else {}
    if overlap >= 0:
        changes["overlap"] = overlap
    return LoadedModel(engine=model.engine.tuned(**changes), patchers=(unet, *model.patchers[1:]))


def sampling_engine(
    model: LoadedModel, steps: int, scheduler: str, guidance: float, window_batch: int
) -> Engine:
    """The engine of ``model`` set up for one run, its networks on their device."""
    if not model.patchers:
        return model.engine
    changes: dict[str, Any] = {"steps": steps} if steps else {}
    if scheduler in choices.SAMPLERS:
        changes["sampler"] = scheduler
    if guidance >= 0:
        changes["guidance"] = guidance
    load(*model.patchers)
    return model.engine.tuned(batch=window_batch, **changes)


# Settings -----------------------------------------------------------------------------------------


def settings(**chosen: Any) -> Settings:
    """The core's settings with what the node's widgets say, on ComfyUI's device."""
    return Settings(**{"device": device(), **chosen})


def rate(fps: float) -> Fraction:
    """Frames per second as an exact fraction: 23.976 means 24000/1001."""
    if not fps > 0:
        raise SettingsError(f"fps must be above 0, not {fps}")
    nearest = round(fps * 1.001)
    if abs(nearest / 1.001 - fps) < 0.002 and abs(round(fps) - fps) > 0.002:
        return Fraction(nearest * 1000, 1001)
    return Fraction(str(round(fps, 3)))


def valid_point(point: Any) -> bool | str:
    """True, or what is wrong with ``x,y`` or ``x,y@seconds``; empty is no point."""
    if not isinstance(point, str) or not point.strip():
        return True
    place, _, moment = point.partition("@")
    try:
        numbers = [float(part) for part in place.split(",")] + [float(moment or 0)]
    except ValueError:
        numbers = []
    if len(numbers) == 3 and all(math.isfinite(number) for number in numbers):
        return True
    return f"point '{point}' is not x,y or x,y@seconds, such as 420,260 or 420,260@1.5"


# Faces --------------------------------------------------------------------------------------------


def known_faces(count: int, landmarks: Any, boxes: Any) -> Detector | None:
    """Faces that other nodes found, as a detector that hands them out; None if there are none."""
    from ..lipsync_core.faces.detect import mesh
    from ..lipsync_core.faces.detect.given import Given

    if landmarks is not None:
        return Given(points=mesh.five_points(landmarks["frames"], count))
    if boxes is not None:
        return Given(boxes=mesh.box_rows(boxes, count))
    return None


class Canvas:
    """A copy of a batch of pictures that patches are painted on; everything else keeps its value.

    Frames are copied as the painting gets to them, so that Cancel never waits for the whole batch.
    """

    def __init__(self, images: torch.Tensor) -> None:
        import numpy as np

        self._source = images.detach()
        self._pictures = np.empty(tuple(images.shape), np.float32)
        self._changed = np.zeros(tuple(images.shape[:3]), np.float32)
        self._copied = 0

    def put(self, patch: Patch) -> None:
        """Patches come in the order of their frames."""
        self._copy(patch.index + 1)
        rows = slice(patch.y, patch.y + patch.mask.shape[0])
        columns = slice(patch.x, patch.x + patch.mask.shape[1])
        region = self._pictures[patch.index, rows, columns, :3]
        region += patch.mask[..., None] * (patch.rgb / 255.0 - region)
        self._changed[patch.index, rows, columns] = patch.mask

    def _copy(self, end: int) -> None:
        while self._copied < end:
            check_cancel()
            frame = self._source[self._copied].to(device="cpu").float()
            self._pictures[self._copied] = frame.numpy()
            self._copied += 1

    @property
    def images(self) -> torch.Tensor:
        """The painted pictures as IMAGE."""
        import torch

        self._copy(len(self._pictures))
        return _finished(torch.from_numpy(self._pictures))

    @property
    def changed(self) -> torch.Tensor:
        """How far each pixel was replaced, as MASK."""
        import torch

        return _finished(torch.from_numpy(self._changed))


def flags(values: np.ndarray, side: int) -> torch.Tensor:
    """One number a frame as MASK ``(T, side, side)`` that takes no memory for its pixels."""
    import numpy as np
    import torch

    column = _finished(torch.from_numpy(np.asarray(values, np.float32)))
    return column[:, None, None].expand(-1, side, side)


# Saving -------------------------------------------------------------------------------------------


def tags(hidden: Any, generated: bool) -> dict[str, Any]:
    """Metadata for a file: the workflow, and where the mouth comes from."""
    from ..lipsync_core.dub import PROVENANCE

    found = workflow_tags(hidden)
    return {**found, "comment": PROVENANCE} if generated else found


def save_video(value: Any, prefix: str, *, audio: Any, fps: float, tags: dict[str, Any]) -> Path:
    """Writes a VIDEO or frames into the output folder under the next free name and returns the file.

    A VIDEO that is encoded already is copied packet by packet; frames are encoded once, by the core.
    """
    from ..lipsync_core.media import batch

    if is_video(value) and _streamed(value) is not None:
        if audio is not None:
            raise SettingsError(
                "the VIDEO brings its own sound; connect audio only together with frames (IMAGE)"
            )
        suffix = _suffix(value)
        target = save_name(prefix, suffix, video_size(value))
        part = target.with_name(f".{target.stem}.part{suffix}")
        source = _streamed(value)
        try:
            if isinstance(source, (str, os.PathLike)) and trim_window(value) == (None, None):
                batch.copy(Path(source), part, metadata=_texts(tags), progress=progress(after=0.5))
            else:
                value.save_to(str(part), metadata=tags or None)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return target
    parts = value.get_components() if is_video(value) else None
    pictures = frames(parts.images if parts else value, what="video")
    own = parts.audio if parts else None
    voice = own if audio is None else audio
    return batch.encode(
        pictures,
        save_name(prefix, ".mp4", pictures.size),
        Fraction(parts.frame_rate) if parts else rate(fps),
        sound=None if voice is None else sound(voice, what="audio"),
        metadata=_texts(tags),
        progress=progress(),
    )


def _texts(tags: dict[str, Any]) -> dict[str, str]:
    """Metadata as files hold it, by which the page finds a graph in them again."""
    return {key: v if isinstance(v, str) else json.dumps(v) for key, v in tags.items()}


def _suffix(value: Any) -> str:
    """The ending that a stream-copied VIDEO must have: that of its file, else of its container."""
    source = _streamed(value)
    if isinstance(source, (str, os.PathLike)) and Path(source).suffix.lower() in VIDEO_SUFFIXES:
        return Path(source).suffix.lower()
    names = value.get_container_format().split(",")
    return ".mp4" if "mp4" in names else ".webm" if "webm" in names else ".mkv"


def watchable(clip: Any, fps: float) -> Path:
    """A clip as a file that the page can ask for: where it lies, or written into the temp folder."""
    from ..lipsync_core.media import batch

    source = _streamed(clip) if is_video(clip) else None
    if isinstance(source, (str, os.PathLike)) and _place(Path(source)) is not None:
        return Path(source)
    parts = clip.get_components() if is_video(clip) else None
    pictures = frames(parts.images if parts else clip, what="before")
    if len(pictures) == 1:
        return batch.save(pictures, temporary(""), Fraction(1))
    frame_rate = Fraction(parts.frame_rate) if parts else rate(fps)
    return batch.encode(pictures, temporary(".mp4"), frame_rate, progress=progress())
