"""Engines: aligned crops and speech in, crops with the new mouth out. One row each in ``ENGINES``."""

from __future__ import annotations

from ..errors import EngineError
from .base import Engine
from .draft import Draft
from .latentsync import LATENTSYNC

ENGINES: tuple[Engine, ...] = (Draft(), *LATENTSYNC)
"""Best last: ``auto`` takes the last row that is ready and fast enough on this machine."""


def pick(name: str | Engine = "auto") -> Engine:
    """The engine of that name, ready to run; ``auto`` for the best one that is.

    An engine object is handed back as it is. Raises ``EngineError`` for a name that is no row, or an engine that lacks something here.
    """
    if isinstance(name, Engine):
        return name
    if name == "auto":
        ready = [row for row in ENGINES if row.missing() is None and row.is_practical()]
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
