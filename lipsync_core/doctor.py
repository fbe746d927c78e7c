"""What works on this machine, what does not, and what to do about it."""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

OLDEST_PYAV = (15, 0)
"""Older ones leave a film's own colour matrix out where they convert: dubs come out in slightly other colours.

A ComfyUI may bring such a one; elsewhere the package's requirements see to it."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report."""

    part: str
    state: Literal["ready", "optional", "broken"]
    """``optional``: absent, and only what it serves is unavailable. ``broken``: nothing can be dubbed."""
    found: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Looks at the interpreter, the libraries, the devices, the folders, the detectors, the engines and what scores.

    Downloads nothing and loads no network.
    """
    return [
        _python(),
        *_libraries(),
        *_encoders(),
        _torch(),
        *_folders(),
        *_detectors(),
        *_engines(),
        *_scorers(),
    ]


def _python() -> Finding:
    version = platform.python_version()
    fits = sys.version_info[:2] >= (3, 10)
    return Finding(
        part="Python",
        state="ready" if fits else "broken",
        found=f"{version} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        remedy="" if fits else "install Python 3.10 or newer",
    )


def _version(*names: str) -> str | None:
    for name in names:
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return None


def _libraries() -> list[Finding]:
    needed = {
        "pictures (OpenCV)": (
            "opencv-python",
            "opencv-python-headless",
            "opencv-contrib-python",
            "opencv-contrib-python-headless",
        ),
        "cascade (scikit-image)": ("scikit-image",),
        "weights (safetensors)": ("safetensors",),
        "downloads (huggingface_hub)": ("huggingface_hub", "huggingface-hub"),
    }
    lines = [_pyav()]
    for part, names in needed.items():
        found = _version(*names)
        lines.append(
            Finding(
                part=part,
                state="ready" if found else "broken",
                found=found or "not installed",
                remedy="" if found else f"pip install {names[0]}",
            )
        )
    return lines


def _pyav() -> Finding:
    part, least = "media (PyAV)", ".".join(map(str, OLDEST_PYAV))
    found = _version("av")
    if found is None:
        return Finding(part=part, state="broken", found="not installed", remedy="pip install av")
    version = re.match(r"(\d+)\.(\d+)", found.split()[1])
    if version is not None and tuple(map(int, version.groups())) < OLDEST_PYAV:
        return Finding(
            part=part,
            state="optional",
            found=f"{found} converts some films with another colour matrix than theirs",
            remedy=f'pip install --upgrade "av>={least}"',
        )
    return Finding(part=part, state="ready", found=found)


def _encoders() -> list[Finding]:
    import av

    serves = {
        "libx264": "8-bit mp4, mov and mkv",
        "libx265": "10-bit and HDR",
        "libvpx-vp9": "webm",
        "prores_ks": "mov with alpha",
        "aac": "sound in mp4 and mov",
        "libopus": "sound in webm",
    }
    lines = []
    for name, purpose in serves.items():
        present = name in av.codecs_available
        state = "ready" if present else ("broken" if name == "libx264" else "optional")
        lines.append(
            Finding(
                part=f"encoder {name}",
                state=state,
                found=purpose if present else f"not in this FFmpeg build ({purpose})",
                remedy=""
                if present
                else "install PyAV from PyPI: pip install --force-reinstall av",
            )
        )
    return lines


def _torch() -> Finding:
    extra = 'pip install "lipsync-core[diffusion]"'
    found = _version("torch")
    if found is None:
        return Finding(
            part="torch",
            state="optional",
            found="not installed; only the draft engine runs without it",
            remedy=extra,
        )
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding(
            part="torch",
            state="optional",
            found=f"{found} does not load ({' '.join(str(error).split())[:120]})",
            remedy="reinstall torch for this machine (https://pytorch.org)",
        )
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices = [
            f"cuda:{number} {torch.cuda.get_device_name(number)}"
            for number in range(torch.cuda.device_count())
        ] + devices
    if torch.backends.mps.is_available():
        devices.insert(0, "mps")
    return Finding(part="torch", state="ready", found=f"{found}; devices: {', '.join(devices)}")


def _folders() -> list[Finding]:
    from .cache import folder as cache_folder
    from .weights import files

    lines = [
        Finding(part="weights folder", state="ready", found=str(folder))
        for folder in files.folders()
    ]
    cache = cache_folder()
    nearest = next(path for path in (cache, *cache.parents) if path.exists())
    writable = os.access(nearest, os.W_OK)
    lines.append(
        Finding(
            part="track cache",
            state="ready" if writable else "optional",
            found=str(cache) if writable else f"{cache} is not writable",
            remedy="" if writable else "set LIPSYNC_CACHE to a folder that you may write",
        )
    )
    return lines


def _detectors() -> list[Finding]:
    from .faces.detect import DETECTORS

    return [_row("detector", row.name, row.summary, row.missing()) for row in DETECTORS]


def _engines() -> list[Finding]:
    from .engines import ENGINES

    return [_row("engine", row.name, row.summary, row.missing()) for row in ENGINES]


def _scorers() -> list[Finding]:
    from .scoring.engines import SCORERS

    return [_row("scoring", row.name, row.summary, row.missing()) for row in SCORERS]


def _row(kind: str, name: str, summary: str, missing: str | None) -> Finding:
    return Finding(
        part=f"{kind} {name}",
        state="optional" if missing else "ready",
        found=summary,
        remedy=missing or "",
    )
