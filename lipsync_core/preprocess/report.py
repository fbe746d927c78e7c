"""What was kept, what was not and why: a page to look at, and the same as CSV."""

from __future__ import annotations

from pathlib import Path


def write_report(output: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "index.html"
