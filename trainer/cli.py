"""The command line of training."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from lipsync_core.console import print_any_name
from lipsync_core.errors import LipSyncError, SettingsError

from . import config

if TYPE_CHECKING:
    from .loop import Pace, Watch

ClickError = cast("type[Exception]", typer.BadParameter.__mro__[2])
BAD_INPUT = 2
STOPPED = 130
EVERY = 30.0
"""Seconds between two lines of progress where there is no terminal."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(no_args_is_help=True)
def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A YAML file, the name of a recipe that comes along (--list), or a run's folder."
        ),
    ] = "",
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="As stages.stage1.steps=1000."),
    ] = None,
    init: Annotated[
        str, typer.Option(help="Weights to begin with: sd15, latentsync-1.6, or a file.")
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the run; runs/NAME if not given."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--fresh",
            help="Go on from the newest state of the folder, or put what is there aside and begin.",
        ),
    ] = True,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the whole recipe as YAML, and stop.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the memory that each stage needs, and stop."),
    ] = False,
    listing: Annotated[
        bool, typer.Option("--list", help="Print the recipes that come along, and stop.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v")] = False,
) -> None:
    """Trains what a recipe says; the same command again goes on where it stopped.

    For several processes: accelerate launch -m trainer RECIPE [KEY=VALUE]...
    """
    logging.basicConfig(
        level=logging.INFO if verbose and _first() else logging.WARNING,
        format="%(name)s: %(message)s",
        stream=sys.stderr,
    )
    if listing:
        for name, line in config.listed():
            typer.echo(f"{name:<24}{line}")
        return
    if not recipe:
        raise SettingsError("name a recipe; --list shows those that come along")
    said = list(settings or [])
    said += [f"model.init={init}"] if init else []
    said += [f"run.output={output}"] if output is not None else []
    chosen = config.load(recipe, said)
    if print_config:
        typer.echo(config.text(chosen), nl=False)
        return
    if dry_run:
        from .memory import table

        typer.echo(table(chosen))
        return
    from .loop import train as run

    with _shown() as watch:
        folder = run(chosen, resume=resume, watch=watch)
    if _first():
        typer.echo(folder)


def _first() -> bool:
    """Whether this is the process that talks; launchers number them in RANK."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def _shown() -> Iterator[Watch | None]:
    """Progress on standard error: a bar on a terminal, else a line from time to time."""
    if not _first():
        yield None
        return
    if not sys.stderr.isatty():
        last = [0.0]

        def lines(pace: Pace) -> None:
            if pace.note:
                typer.echo(pace.note, err=True)
            elif time.monotonic() - last[0] >= EVERY:
                last[0] = time.monotonic()
                typer.echo(f"{pace.position.stage}: {_where(pace)}, {_figures(pace)}", err=True)

        yield lines
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.table import Column

    columns: list[Any] = [
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=10),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        # on a narrow terminal it takes two lines
        TextColumn("{task.fields[pace]}", table_column=Column(ratio=1, overflow="fold")),
    ]
    with Progress(*columns, console=Console(stderr=True), expand=True) as bars:
        stages: dict[str, Any] = {}

        def show(pace: Pace) -> None:
            position = pace.position
            if pace.note:
                bars.console.print(pace.note, markup=False, highlight=False)
                return
            if position.stage not in stages:
                total = pace.recipe.stages[position.stage].steps
                stages[position.stage] = bars.add_task(position.stage, total=total, pace="")
            bars.update(
                stages[position.stage],
                completed=position.stage_step,
                pace=f"{_figures(pace)}, {_speed(pace)}",
            )

        yield show


def _where(pace: Pace) -> str:
    steps = pace.recipe.stages[pace.position.stage].steps
    return f"step {pace.position.stage_step} of {steps}, {_speed(pace)}"


def _speed(pace: Pace) -> str:
    text = f"{pace.steps_per_second:.2f} steps/s, {pace.waiting:.0%} waiting for data"
    if pace.seconds_left < 1e9:
        hours, rest = divmod(round(pace.seconds_left), 3600)
        text += f", {hours}:{rest // 60:02d}:{rest % 60:02d} left"
    return text


def _figures(pace: Pace) -> str:
    hidden = ("rate", "norm")
    return ", ".join(f"{k} {v:.4g}" for k, v in pace.figures.items() if k not in hidden)


def main() -> None:
    """Runs the command line; what the user can mend is one line on standard error and exit code 2."""
    from .state import Stopped

    print_any_name()
    try:
        code = app(standalone_mode=False)
    except typer.Exit as stop:
        code = stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("trainer: stopped at once; the last saved state is whole", err=True)
        code = STOPPED
    except ClickError as error:
        typer.echo(
            f"trainer: {cast(Any, error).format_message().rstrip('.')}; see --help", err=True
        )
        code = BAD_INPUT
    except Stopped as stop:
        if _first():
            typer.echo(f"trainer: {stop}", err=True)
        code = STOPPED
    except LipSyncError as error:
        # all processes read the same recipe: one line is enough
        if _first() or not isinstance(error, SettingsError):
            typer.echo(f"trainer: {' '.join(str(error).split())}", err=True)
        code = BAD_INPUT
    sys.exit(code if isinstance(code, int) else 0)
