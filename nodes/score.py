"""SyncNet Score and Fix A/V Offset: do mouth and voice agree, and the sound moved where it does not."""

from __future__ import annotations

import json
from dataclasses import asdict
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from . import bridge, choices, inputs, sockets
from .bridge import Schema, io, option, output, ui

if TYPE_CHECKING:
    from ..lipsync_core.scoring.sync import Examination


def _measuring() -> list[Any]:
    """Inputs that say how it is measured, the same on both nodes."""
    return [
        option(
            io.Combo,
            "engine",
            options=list(choices.SCORES),
            default="auto",
            tooltip=(
                "What measures. syncnet_v2: the network of published numbers. stable_syncnet: LatentSync's judge. "
                "wav2lip_expert: Wav2Lip's. These need their weights. embedded: needs nothing. "
                "auto: syncnet_v2 if it is ready, else embedded."
            ),
        ),
        inputs.setting(
            "face",
            choices.ONE_FACE,
            "Whose mouth is looked at, if there are several people. index:0 is the leftmost.",
        ),
        option(
            io.Combo,
            "protocol",
            options=list(choices.PROTOCOLS),
            default="original",
            optional=True,
            advanced=True,
            tooltip="SyncNet's view of the face. original: numbers comparable with published ones. aligned: upright and steadier.",
        ),
        inputs.point(),
        inputs.detector(optional=True),
        option(
            sockets.Report,
            "report_text",
            optional=True,
            tooltip="What was found, after a run.",
        ),
    ]


def _examine(
    clip: bridge.Spoken, engine: str, face: str, protocol: str, point: str, detector: str
) -> Examination:
    from ..lipsync_core.scoring import sync

    bridge.share_models()
    # Held as long as it works: the memory manager forgets a network whose handle is gone.
    name = sync.pick(engine)
    judge = bridge.load_scorer(name) if name != "embedded" else None
    return sync.examine(
        clip.path,
        clip.voice,
        engine=engine,  # pyright: ignore[reportArgumentType]
        face=f"point:{point.strip()}" if point.strip() else face,
        detector=detector,
        start=clip.start,
        end=clip.end,
        protocol=protocol,  # pyright: ignore[reportArgumentType]
        audio_at=clip.start or Fraction(0),
        network=None if judge is None else judge.model,
        stages=bridge.stages,
    )


def _told(found: Examination) -> str:
    from ..lipsync_core.scoring import report

    return "\n".join([found.score.summary, *report.details(found)])


class SyncNetScore(bridge.Node):
    """How well mouth and voice of a video agree, and by how much they are apart."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return Schema(
            node_id="LipSyncScoreSync",
            display_name="LipSync SyncNet Score",
            category=bridge.CATEGORY,
            description=(
                "Measures how well the mouth in a video follows its voice, where it does not, and by how many frames the "
                "two are apart: with SyncNet where its weights are, with an estimate that needs no weights where they are not."
            ),
            search_aliases=[
                "syncnet",
                "lse-c",
                "lse-d",
                "sync confidence",
                "lip sync score",
                "av offset",
                "evaluate dub",
            ],
            is_output_node=True,
            inputs=[
                option(io.Video, "video", tooltip="The video whose mouth is looked at."),
                option(
                    io.Audio,
                    "audio",
                    optional=True,
                    tooltip="A voice to score in place of the video's own sound; it begins with the first picture.",
                ),
                *_measuring(),
            ],
            outputs=[
                output(
                    io.Image,
                    "picture",
                    "The result to look at: agreement over the offset and over time, mouth and sound.",
                ),
                output(
                    io.String,
                    "numbers",
                    "JSON: engine, lse_c, lse_d, offset_frames, audio_late_ms, confidence, accepted, segments, units.",
                ),
                output(
                    io.Int,
                    "offset_frames",
                    "Frames of 40 ms, positive when the sound comes early (SyncNet's sign); a guess where not accepted.",
                ),
                output(
                    io.Float,
                    "audio_late_ms",
                    "Milliseconds, positive when the sound is later than the picture.",
                ),
                output(
                    io.Float,
                    "confidence",
                    "0..1: that voice and mouth belong together and the offset is right within a frame.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, point: str = "") -> bool | str:
        return bridge.valid_point(point)

    @classmethod
    def execute(
        cls,
        video: Any,
        engine: str,
        face: str,
        audio: Any = None,
        protocol: str = "original",
        point: str = "",
        detector: str = "auto",
        report_text: Any = None,
    ) -> io.NodeOutput:
        from ..lipsync_core.scoring import report

        with bridge.scratch() as folder:
            clip = bridge.spoken(video, audio, folder)
            found = _examine(clip, engine, face, protocol, point, detector)
            picture = bridge.image(report.picture(found)[None])
        score = found.score
        return io.NodeOutput(
            picture,
            json.dumps(asdict(score), indent=1),
            score.offset_frames,
            score.audio_late_ms,
            score.confidence,
            ui=ui.PreviewText(_told(found)),
        )


class FixOffset(bridge.Node):
    """A video whose sound is early or late in, the same with its sound in time out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return Schema(
            node_id="LipSyncFixOffset",
            display_name="LipSync Fix A/V Offset",
            category=bridge.CATEGORY,
            description=(
                "Measures by how much the sound of a video is early or late against the mouth and moves it into time, exact "
                "to the sample. The picture is copied, not encoded again. Refuses where the measurement is not certain."
            ),
            search_aliases=[
                "audio delay",
                "audio offset",
                "av sync",
                "shift audio",
                "late sound",
                "desync",
            ],
            inputs=[
                option(io.Video, "video", tooltip="A video with its sound."),
                option(
                    io.Combo,
                    "unsure",
                    options=list(choices.UNSURE),
                    default="error",
                    tooltip="Where the offset is not certain: error stops and says why, pass hands the video on as it is.",
                ),
                *_measuring(),
            ],
            outputs=[
                output(io.Video, "video", "The same pictures with the sound in time."),
                output(
                    io.Float,
                    "moved_ms",
                    "Milliseconds by which the sound comes later than before; negative: earlier; 0: untouched.",
                ),
                output(io.String, "report", "What was measured, and what was done."),
            ],
        )

    @classmethod
    def validate_inputs(cls, point: str = "") -> bool | str:
        return bridge.valid_point(point)

    @classmethod
    def execute(
        cls,
        video: Any,
        unsure: str,
        engine: str,
        face: str,
        protocol: str = "original",
        point: str = "",
        detector: str = "auto",
        report_text: Any = None,
    ) -> io.NodeOutput:
        from ..lipsync_core.scoring import repair

        with bridge.scratch() as folder:
            clip = bridge.spoken(video, None, folder)
            found = _examine(clip, engine, face, protocol, point, detector)
            try:
                seconds = repair.correction(found)
            except repair.UncertainError as error:
                if unsure != "pass":
                    raise repair.UncertainError(
                        f"{error}. Set 'unsure' to pass to hand the video on unchanged"
                    ) from error
                seconds = Fraction(0)
            fixed = bridge.resounded(clip, seconds) if seconds else video
        done = f"the sound was moved by {float(seconds) * 1000:+.1f} ms, the picture is unchanged"
        told = f"{_told(found)}\n{done if seconds else 'nothing was changed'}"
        return io.NodeOutput(fixed, float(seconds) * 1000, told, ui=ui.PreviewText(told))
