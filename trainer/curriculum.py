"""When a stage is over: decisions from numbers, with the evidence beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .config import SwitchConfig


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether the stage ends, and why."""

    ends: bool
    reason: str
    """One line."""
    evidence: dict[str, float | list[float]] = field(default_factory=dict)
    """What was compared with what."""


def decide(
    switch: SwitchConfig,
    history: Sequence[Mapping[str, float]],
    *,
    stage_step: int,
    steps: int,
) -> Decision:
    """Whether a stage of at most ``steps`` ends after ``stage_step``.

    ``history``: the figures of the stage's validations, oldest first. A figure that is no number
    decides nothing: the stage goes on.
    """
    if stage_step >= steps:
        return Decision(
            ends=True,
            reason=f"step {stage_step} of {steps}",
            evidence={"stage_step": stage_step, "steps": steps},
        )
    if switch.when == "steps":
        return _on(f"step {stage_step} of {steps}")
    if stage_step < switch.min_steps:
        return _on(f"step {stage_step}, before min_steps {switch.min_steps}")
    values = [figures[switch.metric] for figures in history if switch.metric in figures]
    if switch.when == "score":
        return _score(switch, values)
    return _converged(switch, values)


def _score(switch: SwitchConfig, values: Sequence[float]) -> Decision:
    if not values or not math.isfinite(values[-1]):
        return _on(f"{switch.metric} is not known")
    last = values[-1]
    reached = last >= switch.target if switch.larger_is_better else last <= switch.target
    sign = ">=" if switch.larger_is_better else "<="
    return Decision(
        ends=reached,
        reason=f"{switch.metric} {last:.6g}, target {sign} {switch.target:g}",
        evidence={"value": last, "target": switch.target},
    )


def _converged(switch: SwitchConfig, values: Sequence[float]) -> Decision:
    window = list(values[-switch.window :])
    if len(window) < switch.window:
        return _on(f"{len(window)} of {switch.window} validations")
    if not all(math.isfinite(value) for value in window):
        return _on(f"{switch.metric} is not a number in the last {switch.window} validations")
    fall = falling(window)
    return Decision(
        ends=fall < switch.slope,
        reason=(
            f"{switch.metric} falls by {fall:.3%} a validation over the last {switch.window}, "
            f"converged below {switch.slope:.3%}"
        ),
        evidence={"fall": fall, "slope": switch.slope, "window": window},
    )


def falling(values: Sequence[float]) -> float:
    """How much a figure falls from one value to the next, as a share of its mean.

    The slope of the line that fits best by least squares, against its height in the middle; below 0
    where the figure rises, which counts as converged too. A line, because the last value against the
    one before would be mostly noise.
    """
    count = len(values)
    mean = sum(values) / count
    middle = (count - 1) / 2
    slope = sum((i - middle) * (value - mean) for i, value in enumerate(values))
    slope /= sum((i - middle) ** 2 for i in range(count))
    if mean == 0:
        return 0.0 if slope == 0 else -math.copysign(math.inf, slope)
    # not -slope, which would print a flat line as -0 %
    return 0.0 - slope / abs(mean)


def _on(reason: str) -> Decision:
    return Decision(ends=False, reason=reason)
