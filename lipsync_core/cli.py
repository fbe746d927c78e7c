"""The command line: `lipsync dub | batch | score | compare | speakers | demo | doctor | models`."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from . import __version__
from .batch import batch
from .console import print_any_name
from .errors import LipSyncError, SettingsError
from .scoring import cli as scoring
from .types import (
    STRONGEST,
    DraftMode,
    LengthPolicy,
    MissingPolicy,
    Progress,
    Settings,
    SilencePolicy,
    Stages,
)

if TYPE_CHECKING:
    import numpy as np

    from .dub import Dubbed

ClickError = cast("type[Exception]", typer.BadParameter.__mro__[2])
"""ClickException, of the click that typer brings inside it or beside it, whichever this one does."""

BAD_INPUT = 2
"""Exit code for everything that the user can mend."""
STOPPED = 130
"""Exit code after Ctrl-C, as shells have it."""

app = typer.Typer(
    name="lipsync",
    help="Give a talking video or a portrait a new voice track, and the mouth speaks it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
models = typer.Typer(help="The weights that engines and detectors use.", no_args_is_help=True)
app.add_typer(models, name="models")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def default(name: str) -> Any:
    """The default of a setting, so that the command line has none of its own."""
    return next(field.default for field in fields(Settings) if field.name == name)


def _named(literal: object) -> str:
    return ", ".join(get_args(literal))


def seconds(text: str) -> Fraction:
    """A time: seconds (``12.5``), ``m:ss`` or ``h:mm:ss``, read without rounding."""
    try:
        parts = [Fraction(part) for part in str(text).split(":")]
        if len(parts) > 3 or any(part < 0 for part in parts):
            raise ValueError
    except (ValueError, ZeroDivisionError):
        raise SettingsError(
            f"{text!r} is not a time; write seconds (12.5) or minutes (1:02.5)"
        ) from None
    return sum((part * 60**power for power, part in enumerate(reversed(parts))), start=Fraction(0))


@contextmanager
def _bars(*, quiet: bool) -> Iterator[Stages]:
    """Progress bars on standard error, one a stage, with rate and time left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        SpinnerColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:5.1f}/s" if speed else "")

    def silent(done: int, total: int, preview: np.ndarray | None = None) -> None:
        return None

    if quiet:
        yield lambda stage: silent
        return
    bars = Bars(
        SpinnerColumn(),
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )

    def begin(stage: str) -> Progress:
        task = bars.add_task(stage, total=None)

        def step(done: int, total: int, preview: np.ndarray | None = None) -> None:
            # A container's frame count is an estimate; never show more than all.
            bars.update(task, completed=done, total=max(done, total) or None)

        return step

    with bars:
        yield begin


@app.callback()
def _root(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say what each stage found.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(name)s: %(message)s",
        stream=sys.stderr,
    )
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def dub(
    video: Annotated[Path, typer.Argument(help="A video, or a still picture of a face.")],
    voice: Annotated[
        list[Path], typer.Argument(help="The new sound; several make one output each.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The file to write. With several voices: a folder, or a name with {voice} in it.",
        ),
    ],
    engine: Annotated[
        str,
        typer.Option(
            help="auto, or a row of `lipsync doctor`'s list; ROW=PATH takes networks of your own."
        ),
    ] = default("engine"),
    detector: Annotated[
        str, typer.Option(help="Face detector: auto, yunet, cascade, insightface.")
    ] = default("detector"),
    face: Annotated[
        str, typer.Option(help="largest, left, right, index:N, point:x,y[@seconds] or all.")
    ] = default("face"),
    speaker: Annotated[
        str | None,
        typer.Option(
            metavar="auto|FILE",
            help="Draw only who speaks at each moment; FILE: turns that `lipsync speakers` wrote, which "
            "may give several voices to several people in one output.",
        ),
    ] = default("speaker"),
    length: Annotated[
        str,
        typer.Option(help=f"What gives way if voice and picture differ: {_named(LengthPolicy)}."),
    ] = default("length"),
    missing: Annotated[
        str,
        typer.Option(
            help=f"Frames without the face: leave them, or stop: {_named(MissingPolicy)}."
        ),
    ] = default("missing"),
    start: Annotated[
        Fraction | None,
        typer.Option(parser=seconds, help="Begin here in the video (12.5 or 1:02.5)."),
    ] = default("start"),
    end: Annotated[
        Fraction | None, typer.Option(parser=seconds, help="Stop here in the video.")
    ] = default("end"),
    seed: Annotated[int, typer.Option(help="The same seed gives the same video.")] = default(
        "seed"
    ),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = default("device"),
    draft_mode: Annotated[
        str,
        typer.Option(help=f"Draft engine: re-use own mouths, or warp: {_named(DraftMode)}."),
    ] = default("draft_mode"),
    preset: Annotated[
        str, typer.Option(help="Diffusion engines: exact, best, balanced, cached, fast, preview.")
    ] = default("preset"),
    strength: Annotated[
        float, typer.Option(help=f"Diffusion engines: how far the voice leads, 0 to {STRONGEST:g}.")
    ] = default("strength"),
    silence: Annotated[
        str, typer.Option(help=f"Diffusion engines in pauses: {_named(SilencePolicy)}.")
    ] = default("silence"),
    codec: Annotated[
        str | None, typer.Option(help="Video encoder; chosen from the source by default.")
    ] = default("codec"),
    crf: Annotated[
        int | None, typer.Option(help="Constant rate factor; lower is better and larger.")
    ] = default("crf"),
    pixel_format: Annotated[
        str | None, typer.Option(help="Pixel format; the source's by default.")
    ] = default("pixel_format"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the output if it exists.")
    ] = default("overwrite"),
    tag: Annotated[
        bool,
        typer.Option("--tag/--no-tag", help="Say in the metadata that the mouth is generated."),
    ] = default("tag"),
    check: Annotated[
        bool, typer.Option("--check", help="Score the result and try its weak stretches again.")
    ] = False,
    segments: Annotated[
        str | None,
        typer.Option(help="Draw only these seconds anew: a-b,c-d. Needs --earlier."),
    ] = None,
    earlier: Annotated[
        Path | None, typer.Option(help="The result that --segments are put into.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make VIDEO speak VOICE."""
    from .dub import dub as run

    settings = Settings(
        engine=engine,
        detector=detector,
        face=face,
        speaker=speaker,
        length=length,  # pyright: ignore[reportArgumentType]
        missing=missing,  # pyright: ignore[reportArgumentType]
        start=start,
        end=end,
        seed=seed,
        device=device,
        draft_mode=draft_mode,  # pyright: ignore[reportArgumentType]
        preset=preset,
        strength=strength,
        silence=silence,  # pyright: ignore[reportArgumentType]
        codec=codec,
        crf=crf,
        pixel_format=pixel_format,
        overwrite=overwrite,
        tag=tag,
    )
    if (segments is None) != (earlier is None):
        raise SettingsError("--segments and --earlier belong together; give both or neither")
    if check and segments:
        raise SettingsError("--check and --segments are two ways to draw anew; give one of them")
    if (check or segments) and len(voice) > 1 and speaker in (None, "auto"):
        raise SettingsError(
            "--check and --segments make one result, several voices make one each; call once for "
            "each voice, or say in a file who speaks which (--speaker FILE)"
        )
    with _bars(quiet=as_json or not sys.stderr.isatty()) as stages:
        if segments and earlier:
            from .check import redo

            results = [
                redo(video, voice, earlier, output, segments, settings=settings, stages=stages)
            ]
        elif check:
            from .check import checked

            found = checked(video, voice, output, settings=settings, stages=stages)
            if as_json:
                typer.echo(json.dumps(asdict(found), default=_plain))
            else:
                typer.echo(found.sentence())
            return
        else:
            results = run(video, voice, output, settings=settings, stages=stages)
    _tell(results, as_json=as_json)


app.command()(batch)
app.command()(scoring.score)
app.command()(scoring.compare)
app.command()(scoring.speakers)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path(
        "demo.mp4"
    ),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the output if it exists.")
    ] = default("overwrite"),
    as_json: Json = False,
) -> None:
    """Make the bundled photograph speak the bundled sentence; nothing is downloaded."""
    from .demo import make

    with _bars(quiet=as_json or not sys.stderr.isatty()) as stages:
        results = make(output, overwrite=overwrite, stages=stages)
    _tell(results, as_json=as_json)


def _tell(results: list[Dubbed], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"outputs": [asdict(result) for result in results]}, default=_plain))
        return
    for result in results:
        typer.echo(result.sentence())


def _plain(value: object) -> object:
    if isinstance(value, Fraction):
        return float(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} does not go into JSON")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what works on this machine, and what to do about the rest."""
    from .doctor import examine

    report = examine()
    if as_json:
        typer.echo(json.dumps([asdict(line) for line in report], default=_plain))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("", "part", "state", "what to do"):
        table.add_column(title, overflow="fold")
    marks = {"ready": "[green]ok[/]", "optional": "[yellow]--[/]", "broken": "[red]!![/]"}
    for line in report:
        table.add_row(marks[line.state], *map(escape, (line.part, line.found, line.remedy)))
    Console().print(table)
    if any(line.state == "broken" for line in report):
        raise typer.Exit(1)


@models.command("list")
def models_list(as_json: Json = False) -> None:
    """Every published file that can be used: where it lies, what it is for, who may use it."""
    from .weights import files

    held = files.listing()
    if as_json:
        rows = [asdict(one.row) | {"path": one.path, "state": one.state} for one in held]
        typer.echo(json.dumps(rows, default=_plain))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("name", "here", "size", "licence", "commercial", "for"):
        table.add_column(title, overflow="fold")
    for one in held:
        allowed = {True: "yes", False: "no", None: "not stated"}[one.row.commercial]
        size = f"{one.row.size / 1e6:,.1f} MB"
        table.add_row(one.row.name, one.state, size, one.row.licence, allowed, one.row.purpose)
    Console().print(table)


Names = Annotated[list[str], typer.Argument(help="Names of `lipsync models list`.")]


@models.command("download")
def models_download(
    names: Names,
    folder: Annotated[
        Path | None, typer.Option(help="Models folder to put them in; the cache by default.")
    ] = None,
) -> None:
    """Download files of the catalogue; what was begun goes on where it stopped."""
    from .weights import catalog, files

    rows = [catalog.entry(name) for name in names]
    with _bars(quiet=not sys.stderr.isatty()) as stages:
        for row in rows:
            path = files.fetch(row.name, folder=folder, progress=stages(row.name))
            typer.echo(f"{row.name}: {path}")


@models.command("verify")
def models_verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names; all present by default.")
    ] = None,
) -> None:
    """Read files that are present and compare size and SHA-256 with the catalogue."""
    from .weights import catalog, files

    for name in names or []:
        catalog.entry(name)
    held = [one for one in files.listing() if (one.row.name in names if names else one.path)]
    wrong = []
    with _bars(quiet=not sys.stderr.isatty()) as stages:
        for one in held:
            try:
                if one.path is None:
                    raise LipSyncError(
                        f"{one.row.title} is not here; run: lipsync models download {one.row.name}"
                    )
                found = files.verify(one.path, one.row, stages(one.row.name))
                typer.echo(f"{one.row.name}: {found}, {one.path}")
            except LipSyncError as error:
                wrong.append(one.row.name)
                typer.echo(f"{one.row.name}: {error}")
    if not held:
        typer.echo("no file of the catalogue is on this machine")
    if wrong:
        raise LipSyncError(f"not as published: {', '.join(wrong)}")


@models.command("where")
def models_where(names: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """The folders that are searched, or where a file lies or would be put."""
    from .weights import catalog, files

    for folder in [] if names else files.folders():
        typer.echo(folder)
    for name in names or []:
        row = catalog.entry(name)
        typer.echo(files.find(name) or f"{files.home(row)} (absent)")


@models.command("convert")
def models_convert(
    source: Annotated[Path, typer.Argument(help="A checkpoint, .pt, .pth, .bin or .safetensors.")],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    full: Annotated[
        bool, typer.Option("--full", help="Keep float32; float16 by default, half the size.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the target.")] = False,
) -> None:
    """Write a checkpoint as safetensors, which opens faster and cannot run code."""
    from .weights import tensors

    kind = tensors.convert(source, target, half=not full, overwrite=overwrite)
    typer.echo(f"{target}: {kind.title}")


def main() -> None:
    """Runs the command line; what the user can mend is one line on standard error and exit code 2."""
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)
    print_any_name()
    try:
        code = app(standalone_mode=False)
    except typer.Exit as stop:
        code = stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = STOPPED
    except ClickError as error:
        context = getattr(error, "ctx", None)
        hint = f"; see `{context.command_path} --help`" if context else ""
        typer.echo(f"lipsync: {cast(Any, error).format_message().rstrip('.')}{hint}", err=True)
        code = BAD_INPUT
    except LipSyncError as error:
        typer.echo(f"lipsync: {' '.join(str(error).split())}", err=True)
        code = BAD_INPUT
    if code == STOPPED:
        # Said here, because newer versions of typer turn Ctrl-C into this code themselves.
        typer.echo("lipsync: stopped; no unfinished file is left", err=True)
    sys.exit(code if isinstance(code, int) else 0)


def _end(number: int, frame: object) -> None:
    """A machine that shuts down or a scheduler ends us as Ctrl-C does: what is unfinished is removed."""
    raise SystemExit(128 + number)
