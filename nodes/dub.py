"""Dub Video: the whole dub in one node, streamed from file to file."""

from __future__ import annotations

from typing import Any

from . import bridge, choices, inputs
from .bridge import Schema, io, option, output


class DubVideo(bridge.Node):
    """A clip and a voice in, the clip speaking the voice out; memory does not depend on length."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return Schema(
            node_id="LipSyncDubVideo",
            display_name="LipSync Dub Video",
            category=bridge.CATEGORY,
            description=(
                "Makes the person in a video or a picture speak a voice track: finds and follows the face, hears the "
                "voice, draws the mouth and puts it back. Works through files of any length without holding them in memory."
            ),
            search_aliases=[
                "lip sync",
                "lipsync",
                "latentsync",
                "wav2lip",
                "talking head",
                "dubbing",
                "talking portrait",
                "lipsync video",
            ],
            inputs=[
                option(
                    io.MultiType,
                    "clip",
                    types=[io.Video, io.Image],
                    tooltip="Who shall speak: a VIDEO, or IMAGE (one picture, or the frames of a clip at the fps below).",
                ),
                option(
                    io.Audio,
                    "voice",
                    optional=True,
                    tooltip="What shall be said. Not connected: the video's own sound, so that its mouth follows it again.",
                ),
                inputs.setting(
                    "engine",
                    ["auto", *choices.ENGINES],
                    "What draws the mouth. draft needs no weights; auto takes the best one that is ready.",
                ),
                inputs.setting(
                    "face",
                    choices.FACES,
                    "Which person, if there are several. index:0 is the leftmost; all gives everybody the voice.",
                ),
                inputs.setting(
                    "length",
                    choices.LENGTHS,
                    "What gives way when voice and picture differ in length. auto: play back and forth if the voice is "
                    "longer, cut the picture if it is shorter.",
                ),
                option(
                    io.Int,
                    "seed",
                    default=choices.default("seed"),
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,
                    tooltip="The same seed gives the same video.",
                ),
                option(
                    io.Combo,
                    "speaker",
                    options=[*choices.SPEAKERS, *bridge.input_names(".json")],
                    default=choices.EVERYBODY,
                    optional=True,
                    tooltip=(
                        "With several people: draw a mouth only while its person speaks. auto: found by the video's own "
                        "sound. Or a file of turns in the input folder. face 'largest' then stands for everybody who speaks."
                    ),
                ),
                inputs.fps(
                    "Frames per second of a clip given as IMAGE. A VIDEO keeps its own.",
                    optional=True,
                    advanced=True,
                ),
                inputs.point(),
                inputs.detector(optional=True),
                inputs.missing(optional=True),
                inputs.setting(
                    "draft_mode",
                    choices.DRAFT_MODES,
                    "Draft engine: re-use the person's own mouths (units), bend one picture (warp), or measure and choose.",
                    optional=True,
                    advanced=True,
                ),
                inputs.setting(
                    "preset",
                    choices.PRESETS,
                    "LatentSync engines: how much work is spent. auto: best on a GPU, fast on a CPU.",
                    optional=True,
                    advanced=True,
                ),
                inputs.strength(
                    "LatentSync engines: how far the voice leads; 0 not at all, 1 as its authors chose.",
                    optional=True,
                ),
                inputs.setting(
                    "silence",
                    choices.SILENCES,
                    "LatentSync engines in pauses: what the model makes of it, a mouth told to close, or the source's own.",
                    optional=True,
                    advanced=True,
                ),
                option(
                    io.Combo,
                    "container",
                    options=list(choices.CONTAINERS),
                    default="mp4",
                    optional=True,
                    advanced=True,
                    tooltip="Kind of file for the result. webm and mov can keep transparency.",
                ),
                inputs.tag(),
            ],
            outputs=[
                output(
                    io.Video, "video", "The clip speaking the voice, with the voice as its sound."
                ),
                output(
                    io.String,
                    "report",
                    "One line: frames, seconds, engine, detector, frames without the face.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, point: str = "", speaker: str = choices.EVERYBODY) -> bool | str:
        if speaker not in choices.SPEAKERS and not bridge.exists(speaker):
            return (
                f"speaker '{speaker}' is not in the input folder; choose off, auto or another file"
            )
        return bridge.valid_point(point)

    @classmethod
    def fingerprint_inputs(cls, speaker: str = choices.EVERYBODY, **_: Any) -> Any:
        return bridge.input_state(speaker)

    @classmethod
    def execute(
        cls,
        clip: Any,
        engine: str,
        face: str,
        length: str,
        seed: int,
        voice: Any = None,
        speaker: str = choices.EVERYBODY,
        fps: float = 25.0,
        point: str = "",
        detector: str = "auto",
        missing: str = "pass",
        draft_mode: str = "auto",
        preset: str = "auto",
        strength: float = 1.0,
        silence: str = "model",
        container: str = "mp4",
        tag: bool = True,
    ) -> io.NodeOutput:
        from ..lipsync_core.dub import dub

        bridge.share_models()
        with bridge.scratch() as folder:
            path, start, end = bridge.clip_file(clip, folder, fps=fps)
            settings = bridge.settings(
                engine=bridge.engine(engine, preset),
                speaker=bridge.speaker(speaker),
                face=f"point:{point.strip()}" if point.strip() else face,
                length=bridge.own_length(path, start, end)
                if voice is None and length == "auto"
                else length,
                seed=seed,
                detector=detector,
                missing=missing,
                draft_mode=draft_mode,
                preset=preset,
                strength=strength,
                silence=silence,
                tag=tag,
                start=start,
                end=end,
                overwrite=True,
            )
            result = dub(
                path,
                bridge.voice_file(voice, path, start, end, folder),
                bridge.temporary(f".{container}"),
                settings=settings,
                stages=bridge.stages,
            )[0]
        return io.NodeOutput(bridge.video(result.output), result.sentence().partition(": ")[2])
