"""Save Dub: the result as a file in the output folder, with a player and its origin in the metadata."""

from __future__ import annotations

from typing import Any

from . import bridge, inputs, sockets
from .bridge import Schema, io, option, output, ui


class SaveDub(bridge.Node):
    """Writes a video and shows it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return Schema(
            node_id="LipSyncSaveDub",
            display_name="LipSync Save Dub",
            category=bridge.CATEGORY,
            description=(
                "Saves a video in ComfyUI's output folder and plays it on the node. A finished video is copied without "
                "encoding it again; frames are encoded once, with the sound. The workflow and the word that the mouth was "
                "generated go into the metadata."
            ),
            search_aliases=[
                "save video",
                "export dub",
                "video combine",
                "write mp4",
                "preview video",
            ],
            is_output_node=True,
            inputs=[
                option(
                    io.MultiType,
                    "video",
                    types=[io.Video, io.Image],
                    tooltip="A finished VIDEO, or the frames from Paste Back.",
                ),
                option(
                    io.String,
                    "filename_prefix",
                    default="lipsync/dub",
                    tooltip="Folder and beginning of the name inside the output folder; a number is added.",
                ),
                option(
                    io.Audio,
                    "audio",
                    optional=True,
                    tooltip="The sound for frames. A VIDEO brings its own.",
                ),
                inputs.fps("Frames per second of frames. A VIDEO keeps its own.", optional=True),
                inputs.tag(),
                option(
                    io.MultiType,
                    "before",
                    types=[io.Video, io.Image],
                    optional=True,
                    tooltip="The clip as it was, to compare on the node: left before, right after.",
                ),
                option(
                    sockets.Compare,
                    "player",
                    optional=True,
                    tooltip="Before and after side by side, once both are there.",
                ),
            ],
            outputs=[output(io.Video, "video", "The saved video, for nodes that come after.")],
        )

    @classmethod
    def execute(
        cls,
        video: Any,
        filename_prefix: str,
        audio: Any = None,
        fps: float = 25.0,
        tag: bool = True,
        before: Any = None,
        player: Any = None,
    ) -> io.NodeOutput:
        path = bridge.save_video(
            video, filename_prefix, audio=audio, fps=fps, tags=bridge.tags(cls.hidden, tag)
        )
        shown = ui.PreviewVideo([bridge.shown(path)]).as_dict()
        if before is not None:
            shown["lipsync_before"] = [bridge.shown(bridge.watchable(before, fps))]
        return io.NodeOutput(bridge.video(path), ui=shown)
