"""What is installed: the core and the trainer, the latter under a name that is ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def packages() -> list[str]:
    """As ``pyproject.toml`` lists them."""
    conf = pytest.importorskip("setuptools.config.pyprojecttoml")
    read = conf.read_configuration(ROOT / "pyproject.toml", expand=False)
    return read["tool"]["setuptools"]["packages"]


def test_every_package_is_listed():
    found = []
    for top, name in (("lipsync_core", "lipsync_core"), ("trainer", "lipsync_trainer")):
        for file in (ROOT / top).rglob("__init__.py"):
            found.append(".".join((name, *file.parent.relative_to(ROOT / top).parts)))
    assert sorted(packages()) == sorted(found)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A wheel, built from a copy and unpacked."""
    pytest.importorskip("setuptools", minversion="77")
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("lipsync_core", "trainer"):
        shutil.copytree(ROOT / name, source / name, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    built = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = (source / "dist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(place / "site")
    return place / "site"


def call(installed: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "lipsync_trainer", *words],
        cwd=installed.parent,
        env={**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_only_ours_is_in_it(installed):
    tops = {path.name for path in installed.iterdir()}
    assert {name for name in tops if not name.endswith(".dist-info")} == {
        "lipsync_core",
        "lipsync_trainer",
    }


def test_the_trainer_runs_under_its_installed_name(installed):
    pytest.importorskip("omegaconf")
    assert "RECIPE" in call(installed, "--help")
    said = call(installed, "--list")
    assert "curriculum" in said
    assert "seed: 1247" in call(installed, "stage2", "--print-config")
