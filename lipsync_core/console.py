"""Standard output as the command lines need it."""

from __future__ import annotations

import io
import sys


def print_any_name() -> None:
    """From now on a character that standard output does not have is printed as ``\\u043a``.

    Otherwise a file's name could end a program whose work is done: a pipe on Windows knows 256
    characters, and one of UTF-8 no name that is not text.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
