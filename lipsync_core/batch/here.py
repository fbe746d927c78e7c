"""The rows through the core, on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import LipSyncError
from .journal import Journal, Outcome, line_of, part_of, refuse_existing, settle
from .manifest import Row, identity, settings_of

if TYPE_CHECKING:
    from ..types import Progress, Stages


def run_here(
    rows: Sequence[Row], log_file: Path, *, stages: Stages | None = None, progress: Progress
) -> list[Outcome]:
    """Dubs the rows in order; a clip that comes again is not looked at again."""
    from ..dub import dub

    settings = [settings_of(row) for row in rows]
    seen: dict[Path, str] = {}
    numbers = [identity(row, seen) for row in rows]
    outcomes: list[Outcome] = []
    with Journal(log_file) as journal:
        refuse_existing(list(zip(rows, numbers, strict=True)), journal)
        progress(0, len(rows))
        for row, number, choice in zip(rows, numbers, settings, strict=True):
            outcome = Outcome(line=row.line, output=str(row.output), state="done")
            part, began = part_of(row, number), time.monotonic()
            if journal.has_made(row, number):
                outcome.state = "skipped"
            else:
                journal.add("started", row, number)
                try:
                    row.output.parent.mkdir(parents=True, exist_ok=True)
                    dub(row.video, row.voice, part, settings=choice, stages=stages)
                    journal.keep(part, row, number)
                except (LipSyncError, OSError) as error:
                    outcome.state, outcome.error = "failed", line_of(error)
                finally:
                    part.unlink(missing_ok=True)
            outcome.seconds = round(time.monotonic() - began, 3)
            settle(journal, row, number, outcome)
            outcomes.append(outcome)
            progress(len(outcomes), len(rows))
    return outcomes
