"""Paste Back: the new mouths into their frames."""

from __future__ import annotations

from typing import Any

from . import bridge, sockets
from .bridge import Schema, io, option, output


class PasteBack(bridge.Node):
    """Puts crops back where they were cut, and says what changed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return Schema(
            node_id="LipSyncPasteFaces",
            display_name="LipSync Paste Back",
            category=f"{bridge.CATEGORY}/stages",
            description=(
                "Puts the crops back into the frames they were cut from, with soft edges and matched light. Everything "
                "outside the mask keeps its value, and frames without the face come out as they went in."
            ),
            search_aliases=[
                "composite face",
                "restore face",
                "uncrop",
                "blend mouth",
                "paste face",
            ],
            inputs=[
                option(io.Image, "images", tooltip="The frames that went into Face Align."),
                option(sockets.Face, "faces", tooltip="From Face Align."),
                option(
                    io.Image,
                    "crops",
                    tooltip="From the sampler, perhaps improved by other nodes on the way.",
                ),
                option(
                    io.Mask,
                    "mask",
                    optional=True,
                    tooltip="Where a crop replaces its frame, from the sampler. Not connected: mouth and jaw.",
                ),
                option(
                    io.Mask,
                    "occlusion",
                    optional=True,
                    tooltip="1 where something is in front of the face and must stay, in frame pixels: one mask, or one a frame.",
                ),
                option(
                    io.Float,
                    "feather",
                    default=0.0,
                    min=0.0,
                    max=0.2,
                    step=0.005,
                    tooltip="Soften the mask's edge further, as a part of the crop's side; 0 leaves the engine's own softness.",
                ),
                option(
                    io.Boolean,
                    "match_colour",
                    default=True,
                    tooltip="Shift the light of the crop so that it agrees with the frame around the mask.",
                ),
            ],
            outputs=[
                output(io.Image, "images", "The frames with the new mouths."),
                output(
                    io.Mask,
                    "changed",
                    "How far each pixel was replaced: 0 is untouched to the bit.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        images: Any,
        faces: Any,
        crops: Any,
        feather: float,
        match_colour: bool,
        mask: Any = None,
        occlusion: Any = None,
    ) -> io.NodeOutput:
        from ..lipsync_core import staged

        frames = bridge.frames(images)
        painted = bridge.Canvas(frames.images)
        for patch in staged.paste(
            frames,
            faces,
            bridge.frames(crops, what="crops"),
            masks=bridge.planes(mask, len(frames)),
            occlusion=bridge.planes(occlusion, len(frames), what="occlusion"),
            feather=feather,
            match_colour=match_colour,
            progress=bridge.progress(),
        ):
            painted.put(patch)
        return io.NodeOutput(painted.images, painted.changed)
