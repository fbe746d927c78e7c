"""``python -m trainer.presenters``: makes a data set of rendered presenters, or shows one of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from lipsync_core.errors import LipSyncError

BAD_INPUT = 2


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"presenters: {message}", file=sys.stderr)
        sys.exit(BAD_INPUT)


def parser() -> argparse.ArgumentParser:
    """The command line with its defaults."""
    from .make import VOICES, Settings
    from .people import SPLITS

    usual = Settings()
    top = _Parser(prog="python -m trainer.presenters", description=(__doc__ or "").strip())
    actions = top.add_subparsers(dest="action", required=True, parser_class=_Parser)
    one = actions.add_parser("make", help="write a data set, ready for training")
    one.add_argument("--output", type=Path, required=True, help="folder of the data")
    one.add_argument("--hours", type=float, default=usual.hours)
    one.add_argument("--seed", type=int, default=usual.seed)
    one.add_argument("--resolution", type=int, default=usual.resolution, help="side of the crops")
    one.add_argument(
        "--split",
        choices=SPLITS,
        default=usual.split,
        help="two sets of people and voices that never meet",
    )
    one.add_argument(
        "--people", type=int, default=usual.people, help="how many; 0: another one in every clip"
    )
    one.add_argument("--voices", choices=VOICES, default=usual.voices)
    one.add_argument("--seconds", type=float, default=usual.seconds, help="length of a clip")
    one.add_argument("--crf", type=int, default=usual.crf, help="of x264")
    one.add_argument("--workers", type=int, default=1, help="processes")
    two = actions.add_parser("show", help="write one film of 640x480 with sound")
    two.add_argument("-o", "--output", type=Path, required=True, help="the film")
    two.add_argument("--seed", type=int, required=True, help="number of the person")
    words = two.add_mutually_exclusive_group()
    words.add_argument(
        "--voice", type=Path, help="a sound file to speak; the draft engine hears it"
    )
    words.add_argument("--say-seed", type=int, default=0, help="seed of invented words")
    two.add_argument("--seconds", type=float, default=6.0, help="of invented words")
    two.add_argument("--overwrite", action="store_true", help="replace an existing film")
    return top


def main() -> None:
    """Makes or shows; exit code 2 and one line for what cannot be done."""
    options = parser().parse_args()
    try:
        (_make if options.action == "make" else _show)(options)
    except KeyboardInterrupt:
        print("presenters: stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except LipSyncError as error:
        print(f"presenters: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(BAD_INPUT)


def _make(options: argparse.Namespace) -> None:
    from .make import Settings, make

    values = {
        name: value
        for name, value in vars(options).items()
        if name in Settings.__dataclass_fields__
    }
    told = [0]

    def progress(done: int, total: int) -> None:
        if done * 20 // total > told[0]:
            told[0] = done * 20 // total
            print(f"{done}/{total} clips", file=sys.stderr, flush=True)

    made = make(options.output, Settings(**values), workers=options.workers, progress=progress)
    print(made.sentence())
    print(f"index: {made.index}")


def _show(options: argparse.Namespace) -> None:
    from .show import show

    shown = show(
        options.output,
        number=options.seed,
        seconds=options.seconds,
        say=options.say_seed,
        voice=options.voice,
        overwrite=options.overwrite,
    )
    print(f"{shown.path}: {shown.frames} frames")
    if shown.found is None:
        print("YuNet is not on this machine; see: lipsync models list")
    else:
        print(
            f"YuNet finds the face in {shown.found} of {shown.frames} frames (every tenth was looked "
            f"at), {shown.error:.1%} of the distance eyes to mouth off"
        )


if __name__ == "__main__":
    main()
