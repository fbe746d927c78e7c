"""The command line of the preparation; takes the flags of LatentSync's script as well."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ..console import print_any_name
from ..errors import LipSyncError, SettingsError
from . import config as configs
from . import gpus
from .runner import Pace, Watch, full_said, run

ClickError = cast("type[Exception]", typer.BadParameter.__mro__[2])
BAD_INPUT = 2
EVERY = 30.0
"""Seconds between two lines of progress where there is no terminal."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def preprocess(
    input_dir: Annotated[
        Path | None,
        typer.Option("--input-dir", "--input_dir", help="Folder of raw videos, read only."),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            "--output_dir",
            help="Folder for the data; beside the input, with '_clips' after its name, if not given.",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML file; see --show-config.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="One setting: section.name=value.")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option("--resolution", help="Side of the clips: 256 or 512.")
    ] = None,
    sync_conf_threshold: Annotated[
        float | None,
        typer.Option(
            "--sync-conf-threshold",
            "--sync_conf_threshold",
            help="Least confidence of SyncNet; set av_sync.min_certainty for the embedded estimate.",
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            "--total-num-workers",
            "--total_num_workers",
            help="Processes; 0: one a core.",
        ),
    ] = 0,
    per_gpu: Annotated[
        int,
        typer.Option(
            "--per-gpu-num-workers", "--per_gpu_num_workers", help="Of these, how many use one GPU."
        ),
    ] = 1,
    ray: Annotated[
        str, typer.Option("--ray", help="Run on a Ray cluster: auto, or its address.")
    ] = "",
    keep_intermediate: Annotated[
        bool,
        typer.Option(
            "--keep-intermediate", help="Also write what each step made, a folder a step."
        ),
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try files again that failed in an earlier run.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report", help="Folder for the report; 'report' below the data if not given."
        ),
    ] = None,
    temp_dir: Annotated[str, typer.Option("--temp_dir", hidden=True)] = "",
    show_config: Annotated[
        bool,
        typer.Option("--show-config", help="Print all settings, as --config takes them, and stop."),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v")] = False,
) -> None:
    """Turns a folder of raw video into aligned clips of one speaking face each."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(name)s: %(message)s",
        stream=sys.stderr,
    )
    overrides = [*(set_ or [])]
    if resolution is not None:
        overrides.append(f"affine.resolution={resolution}")
    if sync_conf_threshold is not None:
        overrides.append(f"av_sync.min_confidence={sync_conf_threshold}")
    settings = configs.load(config, overrides)
    if show_config:
        typer.echo(settings.text())
        return
    if input_dir is None:
        raise SettingsError("give the folder of raw videos with --input-dir")
    if temp_dir:
        # LatentSync's script wants one, and deletes it.
        logging.getLogger("lipsync.preprocess").warning(
            "--temp_dir is not used: what is not finished lies below the output"
        )
    if workers < 0 or per_gpu < 1:
        raise SettingsError("--workers must be 0 or more and --per-gpu-num-workers 1 or more")
    output = output_dir or input_dir.with_name(f"{input_dir.resolve().name}_clips")
    with _shown() as watch:
        done = run(
            input_dir,
            output,
            settings,
            workers=workers,
            per_gpu=per_gpu,
            ray=ray,
            keep_intermediate=keep_intermediate,
            retry=retry_failed,
            watch=watch,
        )
    from .dataset import write_index, write_shards
    from .report import write_report

    shards = 0
    with full_said(output):
        index = write_index(output)
        if settings.output.shard_megabytes > 0:
            shards = write_shards(output, settings.output.shard_megabytes)
        page = write_report(output, report or output / "report")
    typer.echo(done.sentence())
    typer.echo(f"index: {index}" + (f", {shards} tar shards" if shards else ""))
    typer.echo(f"report: {page}")


@contextmanager
def _shown() -> Iterator[Watch]:
    """Progress on standard error: a bar on a terminal, else a line from time to time."""
    if not sys.stderr.isatty():
        last = [0.0]

        def lines(pace: Pace) -> None:
            if pace.seconds - last[0] >= EVERY or pace.files_done == pace.files:
                last[0] = pace.seconds
                typer.echo(f"{pace.files_done}/{pace.files} files, {_rate(pace)}", err=True)

        yield lines
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
    ]
    with Progress(*columns, console=Console(stderr=True)) as bars:
        bar = bars.add_task("files", total=None, rate="")
        told = [0]

        def show(pace: Pace) -> None:
            for note in pace.notes[told[0] :]:
                bars.console.print(note, markup=False)
            told[0] = len(pace.notes)
            bars.update(bar, completed=pace.files_done, total=pace.files, rate=_rate(pace))

        yield show


def _rate(pace: Pace) -> str:
    """Clips, how fast they come, how long it will take, and how busy the machine is."""
    minutes = max(pace.seconds / 60, 1e-6)
    left = pace.seconds_left
    parts = [f"{pace.kept} of {pace.clips} clips kept", f"{pace.clips / minutes:.1f} clips/min"]
    if left is not None:
        hours, rest = divmod(round(left), 3600)
        parts.append(f"{hours}:{rest // 60:02d}:{rest % 60:02d} left")
    parts.append(f"{pace.cpu / max(pace.seconds, 1e-6):.1f} cores busy")
    if pace.peak:
        parts.append(f"largest worker {pace.peak / 1e6:.0f} MB")
    if (gpu := gpus.busy()) is not None:
        parts.append(f"GPU {gpu[0]:.0%} busy, {gpu[1]:.0%} of its memory")
    return ", ".join(parts)


def main() -> None:
    """Bad files are no error; what keeps the run from going on is one line and exit code 2."""
    print_any_name()
    try:
        code = app(standalone_mode=False)
    except typer.Exit as stop:
        code = stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("preprocess: stopped; run the same command again to go on", err=True)
        code = 130
    except ClickError as error:
        typer.echo(f"preprocess: {cast(Any, error).format_message().rstrip('.')}", err=True)
        code = BAD_INPUT
    except LipSyncError as error:
        typer.echo(f"preprocess: {' '.join(str(error).split())}", err=True)
        code = BAD_INPUT
    sys.exit(code if isinstance(code, int) else 0)
