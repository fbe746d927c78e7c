"""What can score sync: one row each in ``SCORERS``. Importing this loads nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import EngineError, SettingsError

if TYPE_CHECKING:
    from pathlib import Path

AUTO = "auto"
"""The word for SyncNet v2 where its weights are, else the estimate that needs none. The other
networks are taken by name only: nobody has measured where their numbers mean yes."""


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """One scoring engine: how it is called, what it needs, what its numbers mean."""

    name: str
    title: str
    """For people."""
    summary: str
    """One line for lists."""
    weights: tuple[str, ...] = ()
    """Rows of the catalogue, any one of which will do, the best first; empty: needs nothing."""
    frames: int = 1
    """Pictures under one embedding, at 25 a second."""
    every: int = 1
    """Frames from the beginning of one window of pictures to the next."""
    batch: int = 20
    """Windows that go through the network at once."""
    is_cosine: bool = False
    """It compares by the cosine, which was trained to be 1 for what belongs together and 0 for what
    does not; otherwise by Euclidean distance."""
    likely: float = 0.0
    """Median minus smallest distance over the shifts (unpadded) at which its answer is taken for as
    likely right as wrong. Not fitted here: no published weights could be had for that."""
    step: float = 1.0
    """Width of the step from wrong to right around ``likely``."""
    has_protocols: bool = False
    """The choice of the crop protocol means something to it."""

    def missing(self) -> str | None:
        """None when it can run here; else one line saying what is absent and how to get it."""
        if not self.weights:
            return None
        from importlib.util import find_spec

        from ..weights.files import absent

        if find_spec("torch") is None:
            return 'torch is not installed; run: pip install "lipsync-core[diffusion]"'
        return absent("|".join(self.weights))

    def found(self) -> tuple[str, Path]:
        """Catalogue row and path of the weights that are used; EngineError where there are none."""
        from ..weights import files

        if (reason := self.missing()) is not None:
            raise EngineError(f"scoring engine {self.name} is not ready: {reason}")
        for name in self.weights:
            if (path := files.find(name)) is not None:
                return name, path
        raise AssertionError(self.name)

    def load(self, device: str = "cpu") -> Any:
        """The network with its published weights on ``device``, an ``nn.Module``."""
        from ..weights import tensors
        from . import judges

        name, path = self.found()
        state = tensors.read_tensors(path)
        try:
            return judges.build(self.name, state).to(device)
        except (RuntimeError, KeyError) as error:
            raise EngineError(
                f"{path} is not {self.title} ({str(error).splitlines()[0]}); "
                f"run: lipsync models download {name}"
            ) from error


SYNCNET_V2 = Scorer(
    name="syncnet_v2",
    title="SyncNet v2",
    summary="the network behind the published LSE-C and LSE-D; needs its weights (55 MB) and torch",
    weights=("syncnet-v2",),
    frames=5,
    # 3 is accepted, as data sets are filtered (LatentSync).
    likely=2.5,
    step=0.36,
    has_protocols=True,
)
STABLE_SYNCNET = Scorer(
    name="stable_syncnet",
    title="StableSyncNet",
    summary="LatentSync's judge, 16 frames at a time; needs its weights (1.6 GB) and torch, slow on a CPU",
    weights=("latentsync-1.6-syncnet", "latentsync-1.5-syncnet", "latentsync-1.0-syncnet"),
    frames=16,
    # Its windows overlap by twelve frames even so, and one costs 0.1 TFLOP.
    every=4,
    batch=4,
    is_cosine=True,
    likely=0.15,
    step=0.04,
)
WAV2LIP_EXPERT = Scorer(
    name="wav2lip_expert",
    title="Wav2Lip's expert",
    summary="the judge that Wav2Lip is trained against; needs its weights (197 MB) and torch; research only",
    weights=("wav2lip-expert",),
    frames=5,
    is_cosine=True,
    likely=0.15,
    step=0.04,
)
EMBEDDED = Scorer(
    name="embedded",
    title="embedded estimate",
    summary="lip speed by optical flow against the predicted mouth; needs nothing",
)

SCORERS: tuple[Scorer, ...] = (SYNCNET_V2, STABLE_SYNCNET, WAV2LIP_EXPERT, EMBEDDED)
NAMES: tuple[str, ...] = (AUTO, *(row.name for row in SCORERS))
"""What people may type."""


def row(name: str) -> Scorer:
    """The row called ``name``; SettingsError lists the names that exist."""
    for one in SCORERS:
        if one.name == name:
            return one
    raise SettingsError(f"there is no scoring engine {name!r}; choose one of {', '.join(NAMES)}")
