"""Sample: something to try with at once, and one click away from the user's own files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import bridge
from .bridge import Schema, io, option, output

PORTRAIT = "bundled portrait"
TWO_PEOPLE = "bundled picture of two people"
LATE = "bundled clip with late sound"
SENTENCE = "bundled sentence"


class Sample(bridge.Node):
    """A clip and a voice that are always there, or files from the input folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        pictures = bridge.input_files("video", "image")
        voices = bridge.input_files("audio", "video")
        return Schema(
            node_id="LipSyncLoadSample",
            display_name="LipSync Sample",
            category=bridge.CATEGORY,
            description=(
                "Photographs, a clip and a spoken sentence that come with LipSync, so that a workflow runs at once. "
                "Use the buttons to put your own video or picture, and your own voice, in their place."
            ),
            search_aliases=["demo", "example", "test face", "portrait", "talking head", "lip sync"],
            inputs=[
                option(
                    io.Combo,
                    "clip",
                    options=[PORTRAIT, TWO_PEOPLE, LATE, *pictures],
                    default=PORTRAIT,
                    tooltip=(
                        "Who shall speak: a bundled photograph, or a video or picture from ComfyUI's input folder. The clip with "
                        "late sound is for the nodes that measure and mend that."
                    ),
                ),
                option(
                    io.Combo,
                    "sound",
                    options=[SENTENCE, *voices],
                    default=SENTENCE,
                    tooltip="What shall be said: the bundled sentence, or a sound or video from ComfyUI's input folder.",
                ),
            ],
            outputs=[
                output(
                    io.Video, "video", "The clip as VIDEO; a photograph is a clip of one frame."
                ),
                output(io.Audio, "voice", "The sound, with its own rate and channels."),
                output(io.Image, "picture", "The first picture of the clip."),
            ],
        )

    @classmethod
    def validate_inputs(cls, clip: str, sound: str) -> bool | str:
        for name, bundled in ((clip, (PORTRAIT, TWO_PEOPLE, LATE)), (sound, (SENTENCE,))):
            if name not in bundled and not bridge.exists(name):
                return f"'{name}' is not in the input folder; choose another file, or upload it"
        return True

    @classmethod
    def fingerprint_inputs(cls, clip: str, sound: str) -> Any:
        return bridge.input_state(clip), bridge.input_state(sound)

    @classmethod
    def execute(cls, clip: str, sound: str) -> io.NodeOutput:
        from ..lipsync_core import demo
        from ..lipsync_core.demo import late, people
        from ..lipsync_core.media.audio import load
        from ..lipsync_core.media.batch import first_picture

        bundled: dict[str, Callable[[Path], Path]] = {
            PORTRAIT: demo.photograph,
            TWO_PEOPLE: people.two,
            LATE: lambda folder: late.clip(folder, stages=bridge.stages),
        }
        path: Path = bridge.kept(bundled[clip]) if clip in bundled else bridge.input_path(clip)
        voice = demo.SENTENCE if sound == SENTENCE else bridge.input_path(sound)
        return io.NodeOutput(
            bridge.video(path),
            bridge.audio(load(voice, bridge.check_cancel)),
            bridge.image(first_picture(path)[None]),
        )
