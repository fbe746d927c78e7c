"""Several engines over the same clips, measured by the same hands: one table.

Numbers of different papers do not compare (one method on one data set is published between 4.2 and
8.3 in Sync-C), so the clip itself is always the first row.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import LipSyncError, MediaError, SettingsError
from .types import Settings, Stages, SyncScore

if TYPE_CHECKING:
    from .scoring.quality import Quality

log = logging.getLogger("lipsync.compare")

SOURCE = "source"
"""The engine's name in the row of the clip as it was."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One engine on one clip with one voice."""

    clip: Path
    voice: Path | None
    """None: the clip's own voice, so that the true mouth is known."""
    engine: str
    output: Path | None
    score: SyncScore | None
    """None where the engine failed or the clip has no sound; ``failure`` says how."""
    quality: Quality | None
    seconds_per_frame: float | None
    """Wall-clock time of the dub, without looking for faces."""
    failure: str = ""


COLUMNS: tuple[tuple[str, str], ...] = (
    ("clip", ""),
    ("voice", ""),
    ("engine", ""),
    ("LSE-C", "higher"),
    ("LSE-D", "lower"),
    ("late ms", "0"),
    ("confidence", "higher"),
    ("follows", "higher"),
    ("leak", "0"),
    ("silence", "higher"),
    ("flicker+", "0"),
    ("mouth SSIM", "higher"),
    ("outside changed", "0"),
    ("identity", "higher"),
    ("FID", "lower"),
    ("s/frame", "lower"),
)
"""Heads of the table, and which way is better."""
OPTIONAL = ("identity", "FID")
"""Columns that are left out of a table in which nobody asked for them."""


def compare(
    clips: Sequence[str | Path],
    output: str | Path,
    *,
    voices: Sequence[str | Path] = (),
    engines: Sequence[str] = (),
    scoring: str = "auto",
    settings: Settings | None = None,
    lpips: bool = False,
    identity: bool = False,
    fid: bool = False,
    overwrite: bool = False,
    stages: Stages | None = None,
) -> list[Row]:
    """Dubs every clip with every voice and every engine into the folder ``output``, and measures all.

    Without ``voices`` each clip speaks its own, and the new mouth is compared with the true one.
    ``engines``: names of ``ENGINES``; all that are ready where none is given. An engine that fails on a
    clip gets a row that says so, and the others go on. ``identity``, ``fid``: extras, with the caveats
    of ``scoring.likeness``.
    """
    from .engines import ENGINES
    from .engines import pick as pick_engine
    from .scoring import likeness

    if not clips:
        raise SettingsError("there is no clip to compare engines on; give at least one video")
    names = list(engines) or [row.name for row in ENGINES if row.missing() is None]
    for name in names:
        pick_engine(name)
    likeness.check(identity=identity, fid=fid)
    extras = {"lpips": lpips, "identity": identity, "fid": fid}
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    settings = replace(settings or Settings(), overwrite=overwrite)
    rows: list[Row] = []
    for clip in map(Path, clips):
        rows.append(_source(clip, scoring, settings, stages))
        for voice in [Path(voice) for voice in voices] or [None]:
            for name in names:
                rows.append(_dubbed(clip, voice, name, folder, scoring, settings, extras, stages))
    return rows


def cells(row: Row) -> list[str]:
    """A row of the table, one text for each of ``COLUMNS``."""

    def shown(value: float | None, digits: int = 2) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    score, quality = row.score, row.quality
    own = "own" if row.voice is None else row.voice.stem
    if score is None or quality is None:
        return [row.clip.stem, own, row.engine, row.failure, *[""] * (len(COLUMNS) - 4)]
    return [
        row.clip.stem,
        own,
        row.engine,
        shown(score.lse_c),
        shown(score.lse_d),
        shown(score.audio_late_ms, 0) if score.accepted else f"({score.audio_late_ms:.0f})",
        shown(score.confidence),
        shown(quality.follows_voice),
        shown(quality.follows_old_voice),
        shown(quality.silence_closed),
        shown(quality.flicker_added),
        shown(quality.mouth_ssim, 3),
        shown(quality.outside_changed, 3),
        shown(quality.identity, 3),
        shown(quality.fid, 1),
        shown(row.seconds_per_frame, 3),
    ]


def table(rows: Sequence[Row]) -> tuple[list[tuple[str, str]], list[list[str]], list[str]]:
    """Heads, cells and footnotes of a table of ``rows``."""
    texts = [cells(row) for row in rows]
    kept = [
        place
        for place, (title, _) in enumerate(COLUMNS)
        if title not in OPTIONAL or any(text[place] not in ("", "-") for text in texts)
    ]
    heads = [COLUMNS[place] for place in kept]
    caveats = [text for row in rows if row.quality for text in row.quality.caveats]
    return heads, [[text[place] for place in kept] for text in texts], [*dict.fromkeys(caveats)]


def _source(clip: Path, scoring: str, settings: Settings, stages: Stages | None) -> Row:
    from .scoring.quality import assess

    row = Row(
        clip=clip, voice=None, engine=SOURCE, output=None, score=None, quality=None,
        seconds_per_frame=None,
    )  # fmt: skip
    try:
        found = _examined(clip, scoring, settings, stages)
        return replace(row, score=found.score, quality=assess(found))
    except MediaError as error:
        if not clip.is_file():
            raise
        # A clip without sound is a fair one to dub; only its own row has nothing to say.
        log.warning("%s has no row of its own: %s", clip.name, error)
        return replace(row, failure=str(error))


def _dubbed(
    clip: Path,
    voice: Path | None,
    name: str,
    folder: Path,
    scoring: str,
    settings: Settings,
    extras: dict[str, bool],
    stages: Stages | None,
) -> Row:
    from .dub import dub
    from .media.audio import VoiceFile
    from .scoring.quality import assess

    target = folder / f"{clip.stem}-{voice.stem if voice else 'own'}-{name}.mp4"
    row = Row(
        clip=clip, voice=voice, engine=name, output=target, score=None, quality=None,
        seconds_per_frame=None,
    )  # fmt: skip
    try:
        begun = time.perf_counter()
        done = dub(
            clip, voice or clip, target, settings=replace(settings, engine=name), stages=stages
        )[0]
        spent = done.seconds.get("dub", time.perf_counter() - begun)
        found = _examined(target, scoring, settings, stages)
        old = None
        if voice is not None:
            try:
                old = VoiceFile(clip)
            except MediaError:
                log.info("%s has no voice of its own that could leak", clip.name)
        quality = assess(
            found,
            reference=None if voice else clip,
            old_voice=old,
            source=clip,
            lpips=extras["lpips"] and voice is None,
            identity=extras["identity"],
            fid=extras["fid"],
        )
    except LipSyncError as error:
        log.warning("%s on %s: %s", name, clip.name, error)
        return replace(row, output=None, failure=str(error))
    return replace(
        row, score=found.score, quality=quality, seconds_per_frame=spent / max(done.frames, 1)
    )


def _examined(video: Path, scoring: str, settings: Settings, stages: Stages | None) -> Any:
    from .scoring.sync import examine

    return examine(
        video,
        engine=scoring,  # pyright: ignore[reportArgumentType]
        face=settings.face if settings.face != "all" else "largest",
        detector=settings.detector,
        device=settings.device,
        stages=stages,
    )
