"""Latent UNet Sampler: crops of a face and a voice in, crops that speak it out."""

from __future__ import annotations

from typing import Any

from . import bridge, choices, inputs, sockets
from .bridge import Schema, io, option, output

FROM_PRESET = "from the preset"


class Sampler(bridge.Node):
    """Draws the mouths."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return Schema(
            node_id="LipSyncSampleMouths",
            display_name="LipSync Latent UNet Sampler",
            category=f"{bridge.CATEGORY}/stages",
            description=(
                "Draws the mouth of the voice into every crop, window by window, and shows it while it works. With the "
                "draft engine nothing is sampled: the settings for steps and guidance do not apply."
            ),
            search_aliases=["ksampler", "latentsync sampler", "lip sync sampler", "denoise mouth"],
            inputs=[
                option(sockets.Model, "model", tooltip="From Load LipSync Model or Motion Module."),
                option(
                    sockets.Features,
                    "features",
                    tooltip="From Whisper Features, for the same engine.",
                ),
                option(sockets.Face, "faces", tooltip="From Face Align, for the same engine."),
                option(
                    io.Int,
                    "seed",
                    default=choices.default("seed"),
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,
                    tooltip="The same seed gives the same mouths, whatever the batch.",
                ),
                inputs.setting(
                    "preset",
                    choices.PRESETS,
                    "How much work is spent: exact does what the original did, best also blends windows, fast and "
                    "preview take few steps. auto: best on a GPU, fast on a CPU.",
                ),
                option(
                    io.Int,
                    "steps",
                    default=0,
                    min=0,
                    max=100,
                    advanced=True,
                    tooltip="Denoising steps; 0 takes the preset's.",
                ),
                option(
                    io.Combo,
                    "scheduler",
                    options=[FROM_PRESET, *choices.SAMPLERS],
                    default=FROM_PRESET,
                    advanced=True,
                    tooltip="The rule by which noise is taken away step by step.",
                ),
                option(
                    io.Float,
                    "guidance",
                    default=-1.0,
                    min=-1.0,
                    max=5.0,
                    step=0.1,
                    advanced=True,
                    tooltip="How far beyond the prediction without sound: 1 is fastest, 1.5 the original's; -1 takes the preset's.",
                ),
                inputs.strength(
                    "How far the voice leads: 0 not at all, 1 as its authors chose, 2 twice as far."
                ),
                inputs.setting(
                    "silence",
                    choices.SILENCES,
                    "In pauses of the voice: what the model makes of it, a mouth told to close, or the source's own mouth.",
                    advanced=True,
                ),
                option(
                    io.Int,
                    "window_batch",
                    default=0,
                    min=0,
                    max=64,
                    advanced=True,
                    tooltip="Windows worked on at once; 0 fits them to free memory. Changes speed only.",
                ),
                option(
                    io.Image,
                    "crops",
                    optional=True,
                    tooltip="Crops that were changed on the way, same size. Not connected: those of Face Align.",
                ),
            ],
            outputs=[
                output(io.Image, "crops", "The crops with the new mouth, one a frame."),
                output(
                    io.Mask, "mask", "1 where the crop is to replace the frame. For Paste Back."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        features: Any,
        faces: Any,
        seed: int,
        preset: str,
        steps: int,
        scheduler: str,
        guidance: float,
        strength: float,
        silence: str,
        window_batch: int,
        crops: Any = None,
    ) -> io.NodeOutput:
        from ..lipsync_core import staged

        engine = bridge.sampling_engine(model, steps, scheduler, guidance, window_batch)
        rendered = staged.render(
            faces,
            features,
            engine,
            bridge.settings(seed=seed, preset=preset, strength=strength, silence=silence),
            bridge.progress(),
            crops=None if crops is None else bridge.frames(crops, what="crops"),
        )
        return io.NodeOutput(bridge.image(rendered.crops), bridge.mask(rendered.masks))
