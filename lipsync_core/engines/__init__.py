"""Engines: aligned crops and speech in, crops with the new mouth out. One row each in ``ENGINES``."""

from __future__ import annotations

from pathlib import Path

from ..errors import EngineError
from .base import Engine
from .draft import Draft
from .latentsync import LATENTSYNC, own

ENGINES: tuple[Engine, ...] = (Draft(), *LATENTSYNC)
"""Best last: ``auto`` takes the last row that is ready and fast enough on this machine."""


def pick(name: str | Engine = "auto") -> Engine:
    """The engine of that name, ready to run; ``auto`` for the best one that is.

    ``ROW=PATH``, of a diffusion engine: the row with networks of one's own, see ``latentsync.own``. An
    engine object is handed back as it is. Raises ``EngineError`` for a name that is no row, or an engine
    that lacks something here.
    """
    if isinstance(name, Engine):
        return name
    if name == "auto":
        ready = [row for row in ENGINES if row.missing() is None and row.is_practical()]
        if not ready:
            raise EngineError("no engine is ready on this machine; run `lipsync doctor`")
        return ready[-1]
    name, _, path = name.partition("=")
    for engine in ENGINES:
        if engine.name == name:
            if path:
                if engine not in LATENTSYNC:
                    raise EngineError(
                        f"the {name} engine has no weights; {name}={path} means nothing"
                    )
                engine = own(engine.release, Path(path))
            absent = engine.missing()
            if absent is not None:
                raise EngineError(f"the {name} engine is not ready: {absent}")
            return engine
    names = ", ".join(["auto", *(engine.name for engine in ENGINES)])
    raise EngineError(f"there is no engine {name!r}; choose one of {names}")
