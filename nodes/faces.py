"""Face Align: one person through the frames, as upright crops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from . import bridge, choices, inputs, sockets
from .bridge import Schema, io, option, output


class FaceAlign(bridge.Node):
    """Finds and follows one face and cuts it out upright in every frame."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return Schema(
            node_id="LipSyncAlignFaces",
            display_name="LipSync Face Align",
            category=f"{bridge.CATEGORY}/stages",
            description=(
                "Finds the faces, follows one person through all frames and cuts an upright crop of it from each. Frames "
                "without the face are marked and later left untouched. Faces found by other nodes can be connected."
            ),
            search_aliases=[
                "face detection",
                "face crop",
                "landmarks",
                "face tracking",
                "affine",
                "yunet",
            ],
            inputs=[
                option(io.Image, "images", tooltip="The frames of the clip, in any size."),
                option(
                    io.Combo,
                    "engine",
                    options=list(choices.ENGINES),
                    default=choices.ENGINES[0],
                    tooltip="The engine that will draw the mouth: each has its own size and place of the face in the crop.",
                ),
                inputs.fps(
                    "Frames per second of the clip; everything that is meant in seconds goes by it."
                ),
                inputs.setting(
                    "face",
                    [name for name in choices.FACES if name != "all"],
                    "Which person, if there are several; index:0 is the leftmost. For a second person use the node a second time.",
                ),
                inputs.detector(),
                inputs.missing(),
                option(
                    io.Float,
                    "smoothing",
                    default=0.0,
                    min=0.0,
                    max=0.5,
                    step=0.01,
                    advanced=True,
                    tooltip="Seconds of calm on top of the tracker's own. 0 is best for most clips; more helps a trembling detector.",
                ),
                inputs.point(),
                option(
                    io.Custom("FACE_LANDMARKS"),
                    "landmarks",
                    optional=True,
                    tooltip="Faces found by ComfyUI's own face landmark node, in place of the detector.",
                ),
                option(
                    io.Custom("BOUNDING_BOX"),
                    "boxes",
                    optional=True,
                    # Newer pages draw fields for this type, and an untouched field would be taken for a face.
                    extra_dict={"forceInput": True},
                    tooltip="One box around the face, or one a frame, in place of the detector.",
                ),
                option(
                    io.Mask,
                    "mask",
                    optional=True,
                    tooltip="Look for faces only where the mask is 1: one mask, or one a frame.",
                ),
            ],
            outputs=[
                output(
                    sockets.Face,
                    "faces",
                    "Where the face is in every frame. For the sampler and Paste Back.",
                ),
                output(io.Image, "crops", "The face upright, one crop a frame."),
                output(
                    io.Mask,
                    "valid",
                    "1 in frames where the face can be painted, 0 where it is absent.",
                ),
                output(
                    io.Image,
                    "overlay",
                    "The frames with box and points drawn in, reduced to look at.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, point: str = "") -> bool | str:
        return bridge.valid_point(point)

    @classmethod
    def execute(
        cls,
        images: Any,
        engine: str,
        fps: float,
        face: str,
        detector: str,
        missing: str,
        smoothing: float,
        point: str = "",
        landmarks: Any = None,
        boxes: Any = None,
        mask: Any = None,
    ) -> io.NodeOutput:
        from ..lipsync_core import staged

        bridge.share_models()
        frames = bridge.frames(images)
        rate = bridge.rate(fps)
        faces = staged.find(
            frames,
            rate,
            staged.row(engine),
            bridge.settings(
                face=f"point:{point.strip()}" if point.strip() else face,
                detector=detector,
                missing=missing,
            ),
            given=bridge.known_faces(len(frames), landmarks, boxes),
            where=bridge.planes(mask, len(frames)),
            calm=smoothing,
            progress=bridge.progress(),
        )
        crops = bridge.image(staged.cut(frames, faces, bridge.progress()))
        return io.NodeOutput(
            replace(faces, crops=bridge.frames(crops)),
            crops,
            bridge.flags(faces.track.present, faces.template.size),
            bridge.image(staged.overlay(frames, faces)),
        )
