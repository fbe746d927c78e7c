"""The nodes, one file a stage, in the order of the flow; `NODES` is the whole list."""

from __future__ import annotations

from . import bridge
from .audio import LoadAudio, MatchLength
from .check import SelfCheck
from .dub import DubVideo
from .faces import FaceAlign
from .models import LoadModel, ModelDownloader, MotionModule
from .paste import PasteBack
from .sample import Sample
from .sampler import Sampler
from .save import SaveDub
from .score import FixOffset, SyncNetScore
from .speech import WhisperFeatures
from .train import TrainRecipe

__all__ = ["NODES", "comfy_entrypoint"]

NODES: list[type[bridge.io.ComfyNode]] = [
    Sample,
    LoadAudio,
    DubVideo,
    MatchLength,
    WhisperFeatures,
    FaceAlign,
    LoadModel,
    MotionModule,
    Sampler,
    PasteBack,
    SaveDub,
    SyncNetScore,
    FixOffset,
    ModelDownloader,
    SelfCheck,
    TrainRecipe,
]


class LipSync(bridge.ComfyExtension):
    """What ComfyUI loads."""

    async def get_node_list(self) -> list[type[bridge.io.ComfyNode]]:
        # Not in on_load, which ComfyUI 0.3.64 never calls; schemas list what lies in the folder.
        bridge.register_folders()
        return list(NODES)


async def comfy_entrypoint() -> LipSync:
    return LipSync()
