"""Where eyes and mouth belong in an aligned crop."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Template:
    """An upright square crop. Positions are fractions of ``size``, so any size fits."""

    size: int
    """Side of the crop in pixels."""
    eyes: tuple[float, float]
    """Middle between the eyes."""
    mouth: tuple[float, float]
    """Middle of the mouth line."""
    stretch: float = 1.0
    """How many times wider than high the crop shows things; some networks were trained so."""

    @property
    def unit(self) -> float:
        """Distance eyes to mouth in crop pixels: the ruler of everything drawn in the crop."""
        return (self.mouth[1] - self.eyes[1]) * self.size


def draft_template(size: int) -> Template:
    """The draft engine's crop: room for an open jaw below, brows above."""
    return Template(size=size, eyes=(0.5, 189 / 512), mouth=(0.5, 343 / 512))
