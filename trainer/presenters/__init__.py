"""People who were never filmed: rendered talking heads with perfect truth, from a number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .streaming import stream

__all__ = ["stream"]


def __getattr__(name: str) -> Any:
    # Importing the package must not import OpenCV.
    if name == "stream":
        from .streaming import stream

        return stream
    raise AttributeError(f"{__name__} has no {name}")
