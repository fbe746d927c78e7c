"""The commands by which the figures in ``benchmarks/results`` were measured can be typed as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

for library in ("torch", "diffusers", "transformers", "omegaconf"):
    pytest.importorskip(library)

ROOT = Path(__file__).parents[2]
OURS = ("tiny", "train", "colours")


def commands(path: Path) -> set[str]:
    """``-m benchmarks.tiny`` or ``benchmarks/tiny.py``: whatever is written behind ``python``."""
    found = re.findall(r"python ((?:-m )?benchmarks[./]\w+(?:\.py)?)", path.read_text("utf-8"))
    return {one for one in found if re.split(r"[./]", one)[1] in OURS}


@pytest.mark.parametrize("name", OURS)
def test_what_is_written_starts(name):
    written = commands(ROOT / "benchmarks" / f"{name}.py")
    written |= {
        one
        for one in commands(ROOT / "benchmarks" / "results" / "README.md")
        if re.split(r"[./]", one)[1] == name
    }
    assert written
    for one in written:
        said = subprocess.run(
            [sys.executable, *one.split(), "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert said.returncode == 0, said.stderr
        assert "usage:" in said.stdout
