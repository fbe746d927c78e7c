"""The commands `lipsync score`, `compare` and `speakers`; the command line registers them."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import SettingsError
from .engines import AUTO, NAMES

if TYPE_CHECKING:
    from ..types import Progress, Stages, SyncScore
    from .quality import Quality
    from .sync import Examination


def score(
    video: Annotated[Path, typer.Argument(help="The video whose mouth is looked at.")],
    audio: Annotated[
        Path | None,
        typer.Option("--audio", help="A voice to score instead of the video's own sound."),
    ] = None,
    engine: Annotated[
        str, typer.Option(help=f"What measures: {', '.join(NAMES)}; see `lipsync doctor`.")
    ] = AUTO,
    face: Annotated[
        str, typer.Option(help="largest, left, right, index:N or point:x,y[@seconds].")
    ] = "largest",
    detector: Annotated[
        str, typer.Option(help="Face detector: auto, yunet, cascade, insightface.")
    ] = "auto",
    protocol: Annotated[
        str, typer.Option(help="SyncNet's crops: original (comparable) or aligned (steadier).")
    ] = "original",
    start: Annotated[
        str | None, typer.Option(help="Begin here in the video (12.5 or 1:02.5).")
    ] = None,
    end: Annotated[str | None, typer.Option(help="Stop here in the video.")] = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            "--fix",
            metavar="OUT",
            help="Write the video with its sound moved into sync; refused where it is not certain.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE.html", help="Write a page that shows the result."),
    ] = None,
    quality: Annotated[
        bool,
        typer.Option(
            "--quality", help="Also silence and flicker; with --before what else has changed."
        ),
    ] = False,
    before: Annotated[
        Path | None,
        typer.Option(
            "--before", help="The clip as it was: stills side by side in the report, and --quality."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that exist.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of text.")
    ] = False,
) -> None:
    """Say how well mouth and voice of VIDEO agree, and by how much they are apart."""
    from ..cli import seconds
    from . import report as reports
    from .repair import check, fix_sound
    from .sync import examine

    begin, stop = (seconds(text) if text is not None else None for text in (start, end))
    if report is not None:
        reports.check(report, video, overwrite=overwrite)
    if before is not None:
        if report is None and not quality:
            raise SettingsError(
                "--before adds stills to a report and more to --quality; "
                "give --report FILE.html or --quality as well"
            )
        reports.check_before(before, video)
    if fix is not None:
        if start is not None or end is not None:
            raise SettingsError(
                "--fix moves the sound of a whole file; leave out --start and --end"
            )
        check(video, audio, fix, overwrite=overwrite)
    with _bars(quiet=as_json or not sys.stderr.isatty()) as stages:
        found = examine(
            video,
            audio,
            engine=engine,  # pyright: ignore[reportArgumentType]
            face=face,
            detector=detector,
            start=begin,
            end=stop,
            protocol=protocol,  # pyright: ignore[reportArgumentType]
            device=device,
            stages=stages,
        )
        if report is not None:
            reports.write(
                found, report, before=before, overwrite=overwrite, progress=stages("report")
            )
        rated = _rated(found, before, stages("quality")) if quality else None
        fixed = None
        if fix is not None:
            fixed = fix_sound(found, fix, overwrite=overwrite, progress=stages("fix"))
    if as_json:
        extra: dict[str, Any] = {"video": str(video), "audio": str(audio) if audio else None}
        if fixed is not None:
            extra["fixed"] = {"output": str(fix), "moved_ms": fixed}
        if report is not None:
            extra["report"] = str(report)
        if rated is not None:
            extra["quality"] = asdict(rated)
        typer.echo(json.dumps(plain(found.score) | extra))
        return
    typer.echo(f"{video}: {found.score.summary}")
    for line in reports.details(found):
        typer.echo(f"  {line}")
    if rated is not None:
        for line in rated.lines():
            typer.echo(f"  {line}")
    if fixed is not None:
        typer.echo(f"  {fix}: the sound was moved by {fixed:+.1f} ms, the picture is unchanged")
    if report is not None:
        typer.echo(f"  {report}: open it in a browser")


def _rated(found: Examination, before: Path | None, progress: Progress) -> Quality:
    """Quality beside sync, against the clip as it was where that is given."""
    from ..errors import MediaError
    from ..media.audio import VoiceFile
    from .quality import assess

    old = None
    if before is not None:
        try:
            old = VoiceFile(before)
        except MediaError:
            # A portrait, or a film without sound: there is no old voice to follow.
            old = None
    return assess(found, source=before, old_voice=old, progress=progress)


def speakers(
    video: Annotated[Path, typer.Argument(help="A video with several people.")],
    voice: Annotated[
        list[Path] | None,
        typer.Option(help="One voice of several, of the video's timing; without: its own sound."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the turns to this JSON file, to be edited."),
    ] = None,
    detector: Annotated[str, typer.Option(help="Face detector.")] = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it exists.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of text.")
    ] = False,
) -> None:
    """Say who in VIDEO is speaking when."""
    from . import speakers as who

    if output is not None:
        if output.is_dir() or (output.exists() and not overwrite):
            raise SettingsError(f"{output} exists already; choose another name or pass --overwrite")
        if not output.parent.is_dir():
            raise SettingsError(f"the folder {output.parent} does not exist; make it first")
        if any(output.exists() and output.samefile(path) for path in (video, *(voice or []))):
            raise SettingsError(f"{output} is an input itself; choose another name")
    with _bars(quiet=as_json or not sys.stderr.isatty()) as stages:
        found = who.who_speaks(video, voice or (), detector=detector, stages=stages)
    if output is not None:
        who.save(found, output)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
        return
    for number, person in enumerate(found.people):
        x, y = person["place"]
        typer.echo(f"person {number}: about ({x}, {y}), first seen {person['first_seen']:.1f} s")
    for turn in found.turns:
        typer.echo(
            f"  {turn.start:7.2f}-{turn.end:.2f} s: person {turn.person}"
            + (f", voice {turn.voice}" if voice and len(voice) > 1 else "")
            + (f" (agreement {turn.agreement:.2f})" if turn.agreement is not None else "")
        )
    if not found.turns:
        typer.echo("  nobody's mouth follows the sound")


def plain(result: SyncScore) -> dict[str, Any]:
    """A score as JSON has it; numbers that do not exist are null."""
    return asdict(result)


def _bars(*, quiet: bool) -> AbstractContextManager[Stages]:
    # The command line's own bars; it imports this module, so not at the top.
    from ..cli import _bars as bars

    return bars(quiet=quiet)


def compare(
    clips: Annotated[list[Path], typer.Argument(help="Videos to run every engine on.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder for the results.")],
    voice: Annotated[
        list[Path] | None,
        typer.Option(help="A new voice; may be given several times. Without: the clip's own."),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(help="An engine; may be given several times. Without: all that are ready."),
    ] = None,
    scoring: Annotated[str, typer.Option(help=f"What measures sync: {', '.join(NAMES)}.")] = AUTO,
    detector: Annotated[str, typer.Option(help="Face detector.")] = "auto",
    face: Annotated[str, typer.Option(help="largest, left, right, index:N, point:x,y.")] = (
        "largest"
    ),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    lpips: Annotated[
        bool, typer.Option("--lpips", help="Also LPIPS of the mouth (needs torchmetrics[image]).")
    ] = False,
    identity: Annotated[
        bool,
        typer.Option("--identity", help="Also identity (needs insightface; research only)."),
    ] = False,
    fid: Annotated[
        bool,
        typer.Option("--fid", help="Also FID (needs torchmetrics[image]; rough from few frames)."),
    ] = False,
    fvd: Annotated[
        bool,
        typer.Option("--fvd", help="Also FVD (needs videomae-v2-g, 2 GB; rough from few clips)."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results that exist.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
) -> None:
    """Run several engines over the same CLIPS and print one table."""
    from ..compare import compare as run
    from ..compare import table as tabulated
    from ..types import Settings

    with _bars(quiet=as_json or not sys.stderr.isatty()) as stages:
        rows = run(
            clips,
            output,
            voices=voice or (),
            engines=engine or (),
            scoring=scoring,
            settings=Settings(detector=detector, face=face, device=device),
            lpips=lpips,
            identity=identity,
            fid=fid,
            fvd=fvd,
            overwrite=overwrite,
            stages=stages,
        )
    if as_json:
        typer.echo(json.dumps({"rows": [asdict(row) for row in rows]}, default=str))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    heads, texts, caveats = tabulated(rows)
    for title, better in heads:
        table.add_column(
            f"{title}\n[dim]{better}[/]",
            justify="left" if not better else "right",
            overflow="fold",
        )
    for text in texts:
        table.add_row(*text)
    # A file or a pipe has no edge; a narrow window folds words rather than lose them.
    Console(width=None if sys.stdout.isatty() else 240).print(table)
    for caveat in caveats:
        typer.echo(caveat)
