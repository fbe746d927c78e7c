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
from typing import TYPE_CHECKING

from .errors import LipSyncError, MediaError, SettingsError
from .types import Settings, Stages, SyncScore

if TYPE_CHECKING:
    from torch import nn

    from .scoring.likeness import Extras, Frechet
    from .scoring.quality import Quality
    from .scoring.sync import Examination

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
    ("cosine", "higher"),
    ("late ms", "0"),
    ("confidence", "higher"),
    ("follows", "higher"),
    ("leak", "0"),
    ("silence", "higher"),
    ("flicker+", "0"),
    ("mouth SSIM", "higher"),
    ("mouth LPIPS", "lower"),
    ("outside changed", "0"),
    ("identity", "higher"),
    ("FID", "lower"),
    ("FVD", "lower"),
    ("s/frame", "lower"),
)
"""Heads of the table, and which way is better."""
OPTIONAL = ("LSE-C", "LSE-D", "cosine", "mouth LPIPS", "identity", "FID", "FVD")
"""Columns that are left out of a table in which nothing measured them."""
ALL = "all clips"
"""The clip's name in the rows that pool an engine's samples of all clips."""


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
    fvd: bool = False,
    overwrite: bool = False,
    stages: Stages | None = None,
) -> list[Row]:
    """Dubs every clip with every voice and every engine into the folder ``output``, and measures all.

    Without ``voices`` each clip speaks its own, and the new mouth is compared with the true one.
    ``engines``: names of ``ENGINES``; all that are ready where none is given. An engine that fails on a
    clip gets a row that says so, and the others go on. ``lpips``, ``identity``, ``fid``, ``fvd``: extras,
    with the caveats of ``scoring.likeness``; from several clips the last two are also taken together.
    """
    from .engines import ENGINES
    from .engines import pick as pick_engine
    from .scoring import likeness
    from .scoring.sync import open_network

    if not clips:
        raise SettingsError("there is no clip to compare engines on; give at least one video")
    names = list(engines) or [row.name for row in ENGINES if row.missing() is None]
    for name in names:
        pick_engine(name)
    settings = replace(settings or Settings(), overwrite=overwrite)
    look = _Look(open_network(scoring, settings.device), scoring, settings, stages)
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"{folder} is a file; name a folder for the results")
    for path in (*clips, *voices):
        if not Path(path).is_file():
            raise MediaError(f"{path}: no such file; give clips and voices that exist")
    extras = likeness.open_extras(
        lpips=lpips, identity=identity, fid=fid, fvd=fvd, device=settings.device
    )
    folder.mkdir(parents=True, exist_ok=True)
    pools: dict[str, dict[str, Frechet]] = {name: {} for name in names}
    rows: list[Row] = []
    for clip in map(Path, clips):
        rows.append(_source(clip, look))
        for voice in [Path(voice) for voice in voices] or [None]:
            for name in names:
                rows.append(
                    _dubbed(clip, voice, name, folder, look, settings, extras, pools[name], stages)
                )
    return rows + _pooled(rows, pools)


def _pooled(rows: Sequence[Row], pools: dict[str, dict[str, Frechet]]) -> list[Row]:
    """One more row an engine with FID and FVD over all its clips, where there are several."""
    from .scoring.likeness import caveat
    from .scoring.quality import Quality

    more = []
    for name, pool in pools.items():
        if pool and sum(row.engine == name and row.quality is not None for row in rows) > 1:
            values = {kind: distance.value() for kind, distance in pool.items()}
            caveats = tuple(
                f"{ALL}: {caveat(kind, distance.count)}" for kind, distance in pool.items()
            )
            more.append(
                Row(
                    clip=Path(ALL),
                    voice=None,
                    engine=name,
                    output=None,
                    score=None,
                    quality=Quality(**values, caveats=caveats),
                    seconds_per_frame=None,
                )
            )
    return more


def cells(row: Row) -> list[str]:
    """A row of the table, one text for each of ``COLUMNS``."""

    def shown(value: float | None, digits: int = 2) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    score, quality = row.score, row.quality
    own = "own" if row.voice is None else row.voice.stem
    if quality is None or (score is None and row.failure):
        return [row.clip.stem, own, row.engine, row.failure, *[""] * (len(COLUMNS) - 4)]
    late = "-"
    if score is not None:
        late = f"{score.audio_late_ms:.0f}" if score.accepted else f"({score.audio_late_ms:.0f})"
    return [
        row.clip.stem,
        own,
        row.engine,
        shown(score and score.lse_c),
        shown(score and score.lse_d),
        shown(score and score.similarity),
        late,
        shown(score and score.confidence),
        shown(quality.follows_voice),
        shown(quality.follows_old_voice),
        shown(quality.silence_closed),
        shown(quality.flicker_added),
        shown(quality.mouth_ssim, 3),
        shown(quality.mouth_lpips, 3),
        shown(quality.outside_changed, 3),
        shown(quality.identity, 3),
        shown(quality.fid, 1),
        shown(quality.fvd, 1),
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


def _source(clip: Path, look: _Look) -> Row:
    from .scoring.quality import assess

    row = Row(
        clip=clip, voice=None, engine=SOURCE, output=None, score=None, quality=None,
        seconds_per_frame=None,
    )  # fmt: skip
    try:
        found = look.at(clip)
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
    look: _Look,
    settings: Settings,
    extras: Extras,
    pools: dict[str, Frechet],
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
        found = look.at(target)
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
            extras=extras,
            pools=pools,
        )
    except LipSyncError as error:
        log.warning("%s on %s: %s", name, clip.name, error)
        return replace(row, output=None, failure=str(error))
    return replace(
        row, score=found.score, quality=quality, seconds_per_frame=spent / max(done.frames, 1)
    )


class _Look:
    """Scores every clip with the same hands; the network is loaded once."""

    def __init__(
        self, network: nn.Module | None, scoring: str, settings: Settings, stages: Stages | None
    ) -> None:
        self._network, self._scoring = network, scoring
        self._settings, self._stages = settings, stages

    def at(self, video: Path) -> Examination:
        from .scoring.sync import examine

        settings = self._settings
        return examine(
            video,
            engine=self._scoring,
            face=settings.face if settings.face != "all" else "largest",
            detector=settings.detector,
            device=settings.device,
            network=self._network,
            stages=self._stages,
        )
