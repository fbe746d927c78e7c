"""Whisper Features: what an engine hears in a voice, one row a frame."""

from __future__ import annotations

from typing import Any

from . import bridge, choices, inputs, sockets
from .bridge import Schema, io, option, output


class WhisperFeatures(bridge.Node):
    """The voice as numbers that the network understands."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return Schema(
            node_id="LipSyncHearVoice",
            display_name="LipSync Whisper Features",
            category=f"{bridge.CATEGORY}/stages",
            description=(
                "Hears the voice the way an engine does: Whisper's layers for LatentSync, mouth shapes for the draft "
                "engine. Another voice for the same clip needs this node again, and not the face again."
            ),
            search_aliases=[
                "audio encoder",
                "whisper",
                "audio features",
                "mouth shapes",
                "visemes",
            ],
            inputs=[
                option(io.Audio, "audio", tooltip="The voice."),
                inputs.fps("Frames per second of the clip that will speak it."),
                option(
                    io.Combo,
                    "engine",
                    options=list(choices.ENGINES),
                    default=choices.ENGINES[0],
                    tooltip="The engine that will listen; it must be the one of the model.",
                ),
            ],
            outputs=[
                output(
                    sockets.Features,
                    "features",
                    "What is heard, one row for every frame of picture.",
                ),
                output(io.Int, "frame_count", "How many frames of picture the voice needs."),
            ],
        )

    @classmethod
    def execute(cls, audio: Any, fps: float, engine: str) -> io.NodeOutput:
        from ..lipsync_core import staged

        bridge.share_models()
        if engine != choices.ENGINES[0]:
            bridge.import_listening("transformers.models.whisper.modeling_whisper")
        heard = staged.hear(
            bridge.sound(audio), staged.row(engine), bridge.rate(fps), bridge.progress()
        )
        return io.NodeOutput(heard, len(heard.times))
