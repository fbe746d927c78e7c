"""What the doctor says of libraries that another program brought."""

import re
from pathlib import Path

import pytest

from lipsync_core import doctor

ROOT = Path(__file__).resolve().parents[2]


def pyav(monkeypatch, version):
    monkeypatch.setattr(doctor, "_version", lambda *names: version and f"{names[0]} {version}")
    return doctor.examine()[1]


@pytest.mark.parametrize(
    ("version", "state"),
    [("14.4.0", "optional"), ("15.0.0", "ready"), ("19.0.2", "ready"), (None, "broken")],
)
def test_an_old_pyav_is_said_with_what_to_do(monkeypatch, version, state):
    found = pyav(monkeypatch, version)
    assert (found.part, found.state) == ("media (PyAV)", state)
    assert ("pip install" in found.remedy) == (state != "ready")


def test_the_oldest_pyav_is_that_of_the_package():
    named = re.search(r'"av>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert named is not None
    least = tuple(map(int, named[1].split(".")))
    assert doctor.OLDEST_PYAV[: len(least)] == least
