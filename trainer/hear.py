"""``python -m trainer.hear``: stores Whisper features beside clips that were made without them."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from lipsync_core.errors import LipSyncError, SettingsError

from .cli import BAD_INPUT, ClickError

log = logging.getLogger("lipsync.trainer")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def hear(
    folders: list[Path],
    whisper: str,
    *,
    device: str = "cpu",
    told: Callable[[int, int], None] = lambda done, of: None,
) -> int:
    """Adds ``whisper (W, L, D)`` float16 of the encoder ``whisper`` (a row or a path) to every clip.

    Clips that have features of this very encoder are left as they are; those of another are heard
    again. Each file is replaced as a whole; what cannot be read is named in the log and left as it
    is. Returns how many were heard.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import load_file, save

    from lipsync_core.preprocess.features import states

    from . import frozen
    from .data import Clips, DataError

    encoder = frozen.whisper(whisper)
    try:
        encoder = encoder.to(device)
    # torch asserts that it was built for a device
    except (RuntimeError, AssertionError) as error:
        said = " ".join(str(error).split())[:120]
        raise SettingsError(f"nothing can be heard on --device {device} ({said})") from error
    mark = frozen.digest(encoder)
    clips = Clips([str(folder) for folder in folders])
    heard = 0
    for number, entry in enumerate(clips.entries):
        if entry.features.distant or entry.features.size is not None:
            raise DataError(
                f"{entry.features.path} is a shard, in which nothing can be replaced; hear the folder it "
                "was packed from, and pack that again"
            )
        path = Path(entry.features.path)
        try:
            with safe_open(path, framework="numpy") as file:
                facts = dict(file.metadata() or {})
            known = json.loads(facts.get("lipsync", "{}"))
            fresh = known.get("whisper") != mark
            stored = load_file(path) if fresh else {}
            sound = stored["sound"].astype("float32") / 32768 if fresh else None
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            what = f"it has no {error}" if isinstance(error, KeyError) else error
            log.warning("clip %s is left out: %s", entry.key, what)
            continue
        if sound is not None:
            stored["whisper"] = states(sound, encoder, device)
            facts["lipsync"] = json.dumps({**known, "whisper": mark})
            part = path.with_name(f"{path.name}.{os.getpid()}.part")
            try:
                part.write_bytes(save(stored, metadata=facts))
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
            heard += 1
        told(number + 1, len(clips))
    return heard


@app.command(no_args_is_help=True)
def run(
    folders: Annotated[list[Path], typer.Argument(help="Folders of the preprocessor.")],
    whisper: Annotated[
        str, typer.Option(help="A model of the catalogue, or a file.")
    ] = "whisper-tiny",
    device: Annotated[str, typer.Option(help="Where it hears, as torch calls it.")] = "cpu",
) -> None:
    """Stores Whisper features beside the clips of FOLDERS."""

    def told(done: int, of: int) -> None:
        if done % 50 == 0 or done == of:
            typer.echo(f"{done} of {of} clips", err=True)

    typer.echo(f"heard {hear(folders, whisper, device=device, told=told)} clips")


def main() -> None:
    """One line and exit code 2 for what cannot be done."""
    try:
        app(standalone_mode=False)
    except LipSyncError as error:
        print(f"hear: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except ClickError as error:
        print(f"hear: {cast(Any, error).format_message().rstrip('.')}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except typer.Exit as leaving:
        sys.exit(leaving.exit_code)


if __name__ == "__main__":
    main()
