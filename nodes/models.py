"""Models: what lies in the model folders, on their way into a graph; and the way into the folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import bridge, sockets
from .bridge import Schema, io, option, output

DRAFT = "draft (no weights needed)"
AUTO = "auto"
"""Take what the file itself says."""
DTYPES = ("auto", "float32", "float16", "bfloat16")
RELEASES = (AUTO, "latentsync-1.0", "latentsync-1.5", "latentsync-1.6")


class LoadModel(bridge.Node):
    """A checkpoint from the model folders, or the draft engine, as LIPSYNC_MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return Schema(
            node_id="LipSyncLoadModel",
            display_name="Load LipSync Model",
            category=f"{bridge.CATEGORY}/stages",
            description=(
                "Gets the network that draws the mouth. The draft engine needs no file, and latentsync-tiny comes along to "
                "try every stage of diffusion (it knows rendered faces only); checkpoints are looked for in "
                "models/lipsync, in diffusion_models and checkpoints where their name says latentsync, and in the folders "
                "of extra_model_paths.yaml."
            ),
            search_aliases=["latentsync loader", "lip sync checkpoint", "unet", "load latentsync"],
            inputs=[
                option(
                    io.Combo,
                    "model",
                    options=[DRAFT, *bridge.bundled_checkpoints(), *bridge.checkpoints()],
                    default=DRAFT,
                    tooltip="The draft engine, the small network that comes along, or a checkpoint file from the model folders.",
                ),
                option(
                    io.Combo,
                    "release",
                    options=list(RELEASES),
                    default=AUTO,
                    advanced=True,
                    tooltip=(
                        "Which LatentSync the file is. auto: told by its name, size and content; 1.5 and 1.6 hold the "
                        "same tensors, so a renamed file may need a word here."
                    ),
                ),
                option(
                    io.Combo,
                    "dtype",
                    options=list(DTYPES),
                    default="auto",
                    advanced=True,
                    tooltip="Precision of the network. auto: what ComfyUI chooses for this device.",
                ),
            ],
            outputs=[
                output(
                    sockets.Model,
                    "model",
                    "The network, moved between devices by ComfyUI's memory manager. For Motion Module and the sampler.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model: str, release: str = AUTO, dtype: str = "auto") -> io.NodeOutput:
        from ..lipsync_core import engines

        bridge.share_models()
        if model == DRAFT:
            return io.NodeOutput(sockets.LoadedModel(engine=engines.pick("draft")))
        return io.NodeOutput(bridge.load_latentsync(bridge.checkpoint_path(model), release, dtype))


class MotionModule(bridge.Node):
    """The part of the network that makes neighbouring frames agree."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        files = bridge.checkpoints()
        return Schema(
            node_id="LipSyncSetMotion",
            display_name="LipSync Motion Module",
            category=f"{bridge.CATEGORY}/stages",
            description=(
                "Attaches, swaps or switches off the temporal modules of a LatentSync model, and says how many frames they "
                "see together and how far these windows overlap. The draft engine has none and passes through unchanged."
            ),
            search_aliases=[
                "temporal",
                "context length",
                "window overlap",
                "animatediff",
                "motion",
            ],
            inputs=[
                option(sockets.Model, "model", tooltip="From Load LipSync Model."),
                option(
                    io.Combo,
                    "motion",
                    options=[bridge.MOTION_KEPT, bridge.MOTION_OFF, *files],
                    default=bridge.MOTION_KEPT,
                    tooltip="Keep the modules of the checkpoint, switch them off, or take those of another file.",
                ),
                option(
                    io.Float,
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much neighbouring frames are listened to: 0 not at all, 1 as trained.",
                ),
                option(
                    io.Int,
                    "window",
                    default=0,
                    min=0,
                    max=32,
                    tooltip=(
                        "Frames that the modules see together. 0 takes the preset's 16, on which they were trained; fewer "
                        "save memory, LatentSync knows 24 at most."
                    ),
                ),
                option(
                    io.Int,
                    "overlap",
                    default=-1,
                    min=-1,
                    max=24,
                    tooltip=(
                        "Frames that two windows share and blend, fewer than the window has; more is smoother and slower. "
                        "-1 takes the preset's."
                    ),
                ),
            ],
            outputs=[
                output(
                    sockets.Model,
                    "model",
                    "The model with this choice; the one that came in is unchanged.",
                )
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, motion: str, strength: float, window: int, overlap: int
    ) -> io.NodeOutput:
        return io.NodeOutput(bridge.with_motion(model, motion, strength, window, overlap))


class ModelDownloader(bridge.Node):
    """Brings a file of the catalogue into the models folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        from ..lipsync_core.weights.catalog import CATALOG

        rows = [row for row in CATALOG if not row.bundled]

        return Schema(
            node_id="LipSyncDownloadModel",
            display_name="LipSync Model Downloader",
            category=bridge.CATEGORY,
            description=(
                "Downloads one published file of LipSync's catalogue into ComfyUI's models folder, checks it and says "
                "where it is. A file that is there already is not downloaded again. Nothing else can be downloaded here."
            ),
            search_aliases=[
                "download latentsync",
                "huggingface",
                "weights",
                "get model",
                "whisper tiny",
            ],
            is_output_node=True,
            not_idempotent=True,
            inputs=[
                option(
                    io.Combo,
                    "file",
                    options=[row.name for row in rows],
                    default=rows[0].name,
                    tooltip="; ".join(
                        f"{row.name}: {_size(row.size)}, {row.licence}" for row in rows
                    ),
                ),
                option(
                    sockets.Report,
                    "report_text",
                    optional=True,
                    tooltip="What was done appears here after a run.",
                ),
            ],
            outputs=[output(io.String, "path", "Where the file lies.")],
        )

    @classmethod
    def execute(cls, file: str, report_text: Any = None) -> io.NodeOutput:
        from ..lipsync_core.weights import files
        from ..lipsync_core.weights.catalog import entry

        path: Path = files.fetch(file, folder=bridge.share_models(), progress=bridge.progress())
        row = entry(file)
        text = f"{row.title}\n{path}\n{row.purpose}\nLicence: {row.licence}"
        return io.NodeOutput(str(path), ui=bridge.ui.PreviewText(text))


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
