"""Many dubs from one manifest: on this machine in order, or over ComfyUI servers that share the queue.

A row is known by what goes into it (the bytes of its files, its choices, the workflow), so a second
run of the same manifest goes on where the first one stopped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ..errors import SettingsError
from .fleet import run_there
from .here import run_here
from .journal import JOURNAL, Outcome
from .manifest import read
from .workflow import Workflow


def batch(
    manifest: Annotated[
        Path,
        typer.Argument(help="A .csv or .jsonl with video, voice, output, and choices by column."),
    ],
    server: Annotated[
        list[str] | None,
        typer.Option(help="A ComfyUI to send the rows to; several share them. None: this machine."),
    ] = None,
    workflow: Annotated[
        Path | None,
        typer.Option(help="The API workflow for servers; dub_a_video.json by default."),
    ] = None,
    output_dir: Annotated[
        Path, typer.Option(help="Folder that relative outputs go to; it is made if absent.")
    ] = Path(),
    log_file: Annotated[
        Path | None,
        typer.Option("--log", metavar="FILE.ndjson", help=f"The log; {JOURNAL} there by default."),
    ] = None,
    video_to: Annotated[
        str, typer.Option(metavar="'TITLE.INPUT'", help="Where the workflow takes the video.")
    ] = "",
    voice_to: Annotated[
        str, typer.Option(metavar="'TITLE.INPUT'", help="Where the workflow takes the voice.")
    ] = "",
    result: Annotated[
        str, typer.Option(metavar="TITLE", help="The node whose video is the result.")
    ] = "",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace outputs that other work left there.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of text.")
    ] = False,
) -> None:
    """Dub every row of MANIFEST, here or over ComfyUI servers; run again to go on."""
    from ..cli import _bars

    if not server and (workflow or video_to or voice_to or result):
        raise SettingsError("--workflow, --video-to, --voice-to and --result need a --server")
    rows = read(manifest, output_dir, overwrite=overwrite)
    graph = None
    if server:
        shipped = Path(__file__).parents[2] / "workflows" / "api" / "dub_a_video.json"
        graph = Workflow(workflow or shipped, video_to=video_to, voice_to=voice_to, result=result)
    book = log_file or output_dir / JOURNAL
    try:
        with _bars(quiet=as_json or not sys.stderr.isatty()) as stages:
            if server and graph:
                outcomes = run_there(rows, book, server, graph, progress=stages("rows"))
            else:
                # One bar for all rows, and one for whatever the row of the moment does.
                everything, moment = stages("rows"), stages("this row")
                outcomes = run_here(rows, book, stages=lambda stage: moment, progress=everything)
    except KeyboardInterrupt:
        typer.echo("lipsync: stopped; the same command goes on from here", err=True)
        raise typer.Exit(130) from None
    _tell(outcomes, as_json=as_json)
    if any(outcome.state == "failed" for outcome in outcomes):
        raise typer.Exit(1)


def _tell(outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    counts = {
        state: sum(outcome.state == state for outcome in outcomes)
        for state in ("done", "skipped", "failed")
    }
    if as_json:
        found = [vars(outcome) for outcome in outcomes]
        typer.echo(json.dumps(counts | {"rows": found}))
        return
    for outcome in outcomes:
        detail = f": {outcome.error}" if outcome.error else ""
        typer.echo(f"{outcome.state:<8}{outcome.output}{detail}")
    typer.echo(", ".join(f"{count} {state}" for state, count in counts.items()))
