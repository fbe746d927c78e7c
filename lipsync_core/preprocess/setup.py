"""What a worker makes once and uses for every file: detector, networks, the place to write to."""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..faces.templates import Template, draft_template

if TYPE_CHECKING:
    from ..faces.detect.base import Detector
    from .config import Config

log = logging.getLogger("lipsync.preprocess")

WORK = ".work"
WHISPER = ("whisper-tiny", "whisper-tiny-hf")


class Setup:
    """Loaded at first use. ``device``: where networks run, such as ``cpu`` or ``cuda:1``."""

    def __init__(
        self,
        config: Config,
        output: Path,
        *,
        device: str = "cpu",
        keep_intermediate: bool = False,
    ) -> None:
        self.config = config
        self.output = output
        self.device = device
        self.keep_intermediate = keep_intermediate
        self.work = output / WORK / f"{os.getpid()}-{secrets.token_hex(4)}"
        """Where this process alone writes what is not finished."""
        self._detector: Detector | None = None
        self._syncnet: Any = None
        self._whisper: Any = None
        self._hyperiqa: Any = None

    @property
    def template(self) -> Template:
        """Where eyes and mouth lie in the crops."""
        return template(self.config.affine.template, self.config.affine.resolution)

    @property
    def detector(self) -> Detector:
        if self._detector is None:
            from ..faces import detect

            self._detector = detect.pick(self.config.affine.detector)
        return self._detector

    @property
    def sync_engine(self) -> str:
        """``syncnet_v2``, ``embedded``, or empty where nothing judges the sync."""
        if not self.config.av_sync.enabled or "av_sync" not in self.config.steps:
            return ""
        from ..scoring import sync

        return sync.pick(self.config.av_sync.engine)

    @property
    def syncnet(self) -> Any:
        """SyncNet v2 on the device."""
        if self._syncnet is None:
            from ..scoring.engines import SYNCNET_V2

            self._syncnet = SYNCNET_V2.load(self.device)
        return self._syncnet

    @property
    def hyperiqa(self) -> Any:
        """HyperIQA on the device."""
        if self._hyperiqa is None:
            from ..models import hyperiqa
            from ..weights import tensors

            self._hyperiqa = hyperiqa.load(tensors.load("hyperiqa")).to(self.device)
        return self._hyperiqa

    @property
    def whisper(self) -> Any | None:
        """Whisper's encoder, or None where its features are not wanted or cannot be had."""
        wanted = self.config.output.whisper
        if wanted == "never" or (wanted == "auto" and whisper_missing()):
            return None
        if self._whisper is None:
            from ..audio.whisper import build_encoder
            from ..weights import files, tensors

            name = next((name for name in WHISPER if files.find(name)), WHISPER[0])
            loaded = tensors.whisper_encoder(tensors.load(name))
            encoder = build_encoder({key: value.float() for key, value in loaded.items()})
            self._whisper = encoder.to(self.device)
        return self._whisper


def whisper_missing() -> str | None:
    """None when Whisper features can be made; else one line saying what is absent."""
    from importlib.util import find_spec

    from ..weights import files

    absent = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed; run: pip install 'lipsync-core[diffusion]'"
    return files.absent("|".join(WHISPER))


def hyperiqa_missing() -> str | None:
    """None when HyperIQA can judge; else one line saying what is absent."""
    from importlib.util import find_spec

    from ..weights import files

    if find_spec("torch") is None:
        return "torch not installed; run: pip install 'lipsync-core[diffusion]'"
    return files.absent("hyperiqa")


def template(name: str, size: int) -> Template:
    """The crop of ``latentsync`` (the release trained at ``size``) or of ``draft``."""
    if name == "draft":
        return draft_template(size)
    from ..engines.latentsync import RELEASES

    release = next(row for row in reversed(RELEASES) if row.size == size)
    return Template(
        size=size,
        eyes=(0.5, release.eyes),
        mouth=(0.5, release.mouth),
        stretch=release.stretch,
    )
