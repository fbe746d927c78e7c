"""Sound: Load Audio, and Match Length for frames and a voice that differ."""

from __future__ import annotations

from dataclasses import asdict
from fractions import Fraction
from typing import Any

from . import bridge, choices, inputs, sockets
from .bridge import Schema, io, option, output

SENTENCE = "bundled sentence"


class LoadAudio(bridge.Node):
    """A voice from a file or from the graph, trimmed, with its speech found."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return Schema(
            node_id="LipSyncLoadAudio",
            display_name="LipSync Load Audio",
            category=bridge.CATEGORY,
            description=(
                "Loads a voice from a sound or video file, or takes one from the graph, cuts out the part you want and "
                "shows where there is speech. Rate and channels stay as they are."
            ),
            search_aliases=[
                "load voice",
                "upload audio",
                "trim audio",
                "speech detection",
                "vad",
                "waveform",
            ],
            inputs=[
                option(
                    io.Combo,
                    "file",
                    options=[SENTENCE, *bridge.input_files("audio", "video")],
                    default=SENTENCE,
                    tooltip="A sound or video in ComfyUI's input folder; the button uploads one. Not used when audio is connected.",
                ),
                option(
                    io.Float,
                    "start",
                    default=0.0,
                    min=0.0,
                    max=86400.0,
                    step=0.01,
                    tooltip="Second at which the voice begins.",
                ),
                option(
                    io.Float,
                    "duration",
                    default=0.0,
                    min=0.0,
                    max=86400.0,
                    step=0.01,
                    tooltip="Seconds to take; 0 takes everything to the end.",
                ),
                option(
                    io.Audio,
                    "audio",
                    optional=True,
                    tooltip="A sound from the graph, in place of the file.",
                ),
                option(
                    sockets.Wave,
                    "wave",
                    optional=True,
                    tooltip="The voice after a run: speech, the opening of the mouth, and handles for start and duration.",
                ),
            ],
            outputs=[
                output(
                    io.Audio, "audio", "The part that was cut out, with its own rate and channels."
                ),
                output(io.Float, "seconds", "How long it is."),
                output(
                    io.String, "report", "Length, rate, channels, and how much of it is speech."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str, audio: Any = None) -> bool | str:
        if file == SENTENCE or audio is not None or bridge.exists(file):
            return True
        return f"'{file}' is not in the input folder; choose another file, or upload it"

    @classmethod
    def fingerprint_inputs(cls, file: str, **_: Any) -> Any:
        return bridge.input_state(file)

    @classmethod
    def execute(
        cls, file: str, start: float, duration: float, audio: Any = None, wave: Any = None
    ) -> io.NodeOutput:
        from ..lipsync_core import demo, staged
        from ..lipsync_core.media import batch
        from ..lipsync_core.media.audio import load

        if audio is None:
            path = demo.SENTENCE if file == SENTENCE else bridge.input_path(file)
            whole = load(path, bridge.check_cancel)
        else:
            whole = bridge.sound(audio)
        part = batch.cut_sound(whole, Fraction(str(start)), Fraction(str(duration)) or None)
        # The whole voice is drawn, so that the handles can be moved outwards again.
        portrait = staged.describe(whole, bridge.progress())
        drawing = {**asdict(portrait), "file": bridge.playable(part)}
        return io.NodeOutput(
            bridge.audio(part),
            float(part.duration),
            portrait.sentence(start, start + float(part.duration)),
            ui={"lipsync_wave": [drawing]},
        )


class MatchLength(bridge.Node):
    """As many frames as the voice needs, or as much voice as there are frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return Schema(
            node_id="LipSyncMatchLength",
            display_name="LipSync Match Length",
            category=f"{bridge.CATEGORY}/stages",
            description=(
                "Makes frames and voice equally long: plays the frames back and forth, repeats, holds or cuts them, or "
                "fills the voice with silence."
            ),
            search_aliases=[
                "ping pong",
                "loop frames",
                "pad audio",
                "video length adjuster",
                "bounce",
            ],
            inputs=[
                option(
                    io.Image,
                    "images",
                    tooltip="The frames of the clip; one picture is held for as long as the voice.",
                ),
                option(io.Audio, "audio", tooltip="The voice that will be spoken."),
                inputs.fps("Frames per second of the clip."),
                inputs.setting(
                    "length",
                    choices.LENGTHS,
                    "auto: bounce if the voice is longer, else cut. bounce: back and forth. loop: from the beginning "
                    "again. hold: the last frame stays. silence: the voice waits for the picture. stretch: the picture "
                    "plays slower or faster. cut: the shorter one decides.",
                ),
            ],
            outputs=[
                output(io.Image, "images", "The frames, one for every row of the features."),
                output(io.Audio, "audio", "The voice, as long as the frames."),
                output(io.Int, "frame_count", "How many frames there are now."),
            ],
        )

    @classmethod
    def execute(cls, images: Any, audio: Any, fps: float, length: str) -> io.NodeOutput:
        from ..lipsync_core.media import batch

        frames = bridge.frames(images)
        voice = bridge.sound(audio)
        order, voice = batch.match(len(frames), voice, bridge.rate(fps), length)
        return io.NodeOutput(bridge.pick(frames.images, order), bridge.audio(voice), len(order))
