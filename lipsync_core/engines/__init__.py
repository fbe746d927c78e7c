"""Engines: aligned crops and speech in, crops with the new mouth out. One row each in ``ENGINES``."""

from __future__ import annotations

from ..errors import EngineError
from .base import Engine
from .draft import Draft

ENGINES: tuple[Engine, ...] = (Draft(),)
"""Best last: ``auto`` takes the last row that is ready on this machine."""


def pick(name: str = "auto") -> Engine:
    """The engine of that name, ready to run; ``auto`` for the best one that is.

    Raises ``EngineError`` for a name that is no row, or an engine that lacks something here.
    """
    if name == "auto":
        ready = [engine for engine in ENGINES if engine.missing() is None]
        if not ready:
            raise EngineError("no engine is ready on this machine; run `lipsync doctor`")
        return ready[-1]
    for engine in ENGINES:
        if engine.name == name:
            absent = engine.missing()
            if absent is not None:
                raise EngineError(f"the {name} engine is not ready: {absent}")
            return engine
    names = ", ".join(["auto", *(engine.name for engine in ENGINES)])
    raise EngineError(f"there is no engine {name!r}; choose one of {names}")
