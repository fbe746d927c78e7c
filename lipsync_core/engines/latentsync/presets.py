"""Named ways of sampling, from what the original does to what is quick."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from ...errors import SettingsError

WINDOW = 16
"""Frames that the networks were trained to see together."""
TOGETHER = 4
"""Windows that are drawn together on CUDA where they stand side by side: a GPU is not filled by one."""

NOISE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}
"""The noise of training."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    name: str
    summary: str
    sampler: Literal["ddim", "dpm", "unipc"]
    steps: int
    guidance: float = 1.5
    """How far beyond the prediction without audio; 1 needs no such prediction."""
    guided: tuple[float, float] = (0.0, 1.0)
    """Part of the steps in which guidance is used; outside it the prediction with audio stands alone."""
    window: int = WINDOW
    """Frames that the motion modules see together; more than they were trained on helps nobody."""
    overlap: int = 4
    """Frames that consecutive windows share and blend."""
    call: int = 36
    """Frames drawn together, so that the same windows come about whatever memory allows at once."""
    refresh: int = 1
    """Every so many steps the whole network runs; in between only its last layer (feature caching)."""
    tiny_vae: bool = False
    """TAESD in place of the full VAE."""
    compiled: bool = False
    """torch.compile on the denoiser: minutes at the start, then faster."""

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.window:
            raise SettingsError(
                f"windows of {self.window} frames cannot share {self.overlap}; choose an overlap below the window"
            )

    def changed(self, **changes: Any) -> Preset:
        """The same with other fields; about as many frames are drawn together in windows of another length."""
        made = replace(self, **changes)
        if made.window == self.window or "call" in changes:
            return made
        step = made.window - made.overlap
        return replace(made, call=max(round(made.call / step), 1) * step)

    def guides(self, step: int) -> bool:
        """Whether step number ``step`` compares with and without audio."""
        return self.guided[0] * self.steps <= step < self.guided[1] * self.steps

    @property
    def passes(self) -> float:
        """Runs of the whole denoiser a window, counting a comparison as two."""
        full = [step for step in range(self.steps) if step % self.refresh == 0]
        return sum(2.0 if self.guides(s) and self.guidance != 1 else 1.0 for s in full)


PRESETS: tuple[Preset, ...] = (
    Preset(
        name="exact",
        summary="the original's sampling: 20 DDIM steps, windows side by side",
        sampler="ddim",
        steps=20,
        overlap=0,
        call=WINDOW,
    ),
    Preset(
        name="best",
        summary="the same with windows that overlap and blend",
        sampler="ddim",
        steps=20,
    ),
    Preset(
        name="balanced",
        summary="10 steps of DPM-Solver++, guidance in the first 6",
        sampler="dpm",
        steps=10,
        guided=(0.0, 0.6),
    ),
    Preset(
        name="cached",
        summary="20 DDIM steps, the whole network in every third only",
        sampler="ddim",
        steps=20,
        refresh=3,
    ),
    Preset(
        name="fast",
        summary="4 steps of UniPC, guidance in the first 2",
        sampler="unipc",
        steps=4,
        guided=(0.0, 0.5),
    ),
    Preset(
        name="preview",
        summary="2 steps of DPM-Solver++ without guidance, TAESD",
        sampler="dpm",
        steps=2,
        guidance=1.0,
        tiny_vae=True,
    ),
)


def preset(words: str, device: str) -> Preset:
    """The row called so; ``auto`` is ``best`` on an accelerator and ``fast`` on a CPU.

    Single switches follow the name: ``best,steps=12,guidance=1.2,guided=0:0.5,compiled=yes``.
    """
    name, *switches = [word.strip() for word in words.split(",")]
    if name == "auto":
        name = "fast" if device == "cpu" else "best"
    for row in PRESETS:
        if row.name == name:
            if device == "cuda" and not row.overlap:
                row = replace(row, call=max(row.call, TOGETHER * WINDOW))
            return row.changed(**dict(_switch(switch) for switch in switches))
    known = ", ".join(["auto", *(row.name for row in PRESETS)])
    raise SettingsError(f"there is no preset {name!r}; choose one of {known}")


_FREE = (
    "steps",
    "guidance",
    "guided",
    "window",
    "overlap",
    "call",
    "refresh",
    "tiny_vae",
    "compiled",
)
_WORDS = {"yes": True, "true": True, "no": False, "false": False}
_LEAST = {"steps": 1, "window": 1, "overlap": 0, "call": 1, "refresh": 1}


def _switch(change: str) -> tuple[str, Any]:
    """``steps=12`` as a field of `Preset` and its value."""
    name, _, text = change.partition("=")
    try:
        if name == "sampler" and text in ("ddim", "dpm", "unipc"):
            return name, text
        if name not in _FREE:
            raise KeyError(name)
        if name in ("tiny_vae", "compiled"):
            return name, _WORDS[text]
        if name == "guided":
            first, last = (float(part) for part in text.split(":"))
            return name, (first, last)
        value: Any = float(text) if name == "guidance" else int(text)
        if value < _LEAST.get(name, 0):
            raise ValueError(name)
    except (KeyError, ValueError) as error:
        raise SettingsError(
            f"'{change}' is no switch of a preset; there are sampler=ddim|dpm|unipc, steps=20, guidance=1.5, "
            "guided=0:0.5, window=16, overlap=0..15, call=36, refresh=3, tiny_vae=yes|no, compiled=yes|no"
        ) from error
    return name, value


def scheduler(row: Preset) -> Any:
    """A fresh scheduler of diffusers with its steps set; it keeps no memory of another window."""
    from diffusers.schedulers import (
        DDIMScheduler,
        DPMSolverMultistepScheduler,
        UniPCMultistepScheduler,
    )

    made: Any
    if row.sampler == "ddim":
        made = DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    elif row.sampler == "dpm":
        # few steps reach further when the first is at full noise
        made = DPMSolverMultistepScheduler(
            **NOISE, algorithm_type="dpmsolver++", timestep_spacing="trailing"
        )
    else:
        made = UniPCMultistepScheduler(**NOISE, timestep_spacing="trailing")
    made.set_timesteps(row.steps)
    return made
