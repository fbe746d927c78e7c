"""A dub that looks at its own result: weak stretches get another take, and the better one stays."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import MediaError
from .types import Settings, Stages, SyncScore

if TYPE_CHECKING:
    from .dub import Dubbed
    from .media.frame import Frame
    from .scoring.segments import Stretch, Take

log = logging.getLogger("lipsync.check")

_MASTER_CRF = 12
"""Rate factor of takes that are encoded once more when they are put together."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What became of a dub that was checked."""

    dubbed: Dubbed
    score: SyncScore
    """Of the file that was kept."""
    takes: tuple[Take, ...]
    """Every stretch that was tried again, and whether the new take stayed."""

    def sentence(self) -> str:
        """One line for people."""
        kept = sum(take.kept for take in self.takes)
        tried = f", {kept} of {len(self.takes)} further takes kept" if self.takes else ""
        return f"{self.dubbed.output}: {self.score.summary}{tried}"


def checked(
    clip: str | Path,
    voice: str | Path,
    output: str | Path,
    *,
    settings: Settings | None = None,
    attempts: int = 1,
    scoring: str = "auto",
    stages: Stages | None = None,
) -> Checked:
    """As ``dub`` with one voice; then scores the result and tries its weak stretches again.

    Each of ``attempts`` draws the clip once more in another way (the other mode of the draft engine,
    another seed of the others); of each weak stretch the take that follows the voice better is
    kept. The file appears under its name only when all is done.
    """
    from .dub import dub
    from .media.writer import check_output
    from .scoring import segments
    from .scoring.sync import examine

    settings = settings or Settings()
    output = Path(output)
    check_output(output, inputs=(Path(clip), Path(voice)), overwrite=settings.overwrite)

    def look(video: Path) -> SyncScore:
        face = "largest" if settings.face == "all" else settings.face
        return examine(
            video,
            engine=scoring,  # pyright: ignore[reportArgumentType]
            face=face,
            detector=settings.detector,
            device=settings.device,
            stages=stages,
        ).score

    takes: list[Take] = []
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".lipsync-") as folder:
        best = Path(folder) / f"take{output.suffix}"
        dubbed = dub(clip, voice, best, settings=settings, stages=stages)[0]
        score = look(best)
        for attempt in range(1, attempts + 1):
            stretches = segments.weak(score)
            if not stretches:
                break
            log.info("%d weak stretches get another take", len(stretches))
            other = Path(folder) / f"take-{attempt}{output.suffix}"
            dub(clip, voice, other, settings=_otherwise(settings, dubbed, attempt), stages=stages)
            found = segments.judge_takes(score, look(other), stretches)
            takes += found
            kept = [s for s, take in zip(stretches, found, strict=True) if take.kept]
            if kept:
                merged = Path(folder) / f"merged-{attempt}{output.suffix}"
                splice(best, other, voice, merged, kept, settings=settings)
                best, score = merged, look(merged)
        best.replace(output)
    return Checked(dubbed=replace(dubbed, output=output), score=score, takes=tuple(takes))


def _otherwise(settings: Settings, dubbed: Dubbed, attempt: int) -> Settings:
    if dubbed.engine == "draft":
        return replace(settings, draft_mode="warp" if "units" in dubbed.mode else "units")
    return replace(settings, seed=settings.seed + attempt)


def splice(
    old: str | Path,
    new: str | Path,
    voice: str | Path,
    output: str | Path,
    stretches: Sequence[Stretch],
    *,
    settings: Settings | None = None,
) -> int:
    """Writes ``old`` with ``stretches`` from ``new``, blended at their edges; returns frames taken over.

    Both are results of one clip with one voice, so that frame is frame. The pictures are encoded
    once more, at a quality above that of the takes.
    """
    from .media.audio import VoiceFile
    from .media.reader import Reader
    from .media.writer import Writer

    settings = settings or Settings()
    before, after = Reader(old), Reader(new)
    if (before.clip.width, before.clip.height) != (after.clip.width, after.clip.height):
        raise MediaError(
            f"{old} and {new} are not takes of one clip: their pictures differ in size"
        )
    taken = 0
    with Writer(
        output,
        clip=before.clip,
        voice=voice,
        audio_duration=VoiceFile(old).duration,
        codec=settings.codec,
        crf=settings.crf if settings.crf is not None else _MASTER_CRF,
        pixel_format=settings.pixel_format,
        metadata=before.clip.metadata,
        overwrite=settings.overwrite,
        inputs=(Path(old), Path(new)),
    ) as writer:
        for one, other, share in _pairs(before, after, stretches):
            frame = one
            if other is not None and share > 0:
                taken += 1
                frame = other if share >= 1 else _between(one, other, share)
            writer.write(frame, one.time, one.duration)
    return taken


def _pairs(
    before: Any, after: Any, stretches: Sequence[Stretch]
) -> Iterator[tuple[Frame, Frame | None, float]]:
    from .scoring.segments import shares

    others = after.frames()
    for frame in before.frames():
        other = next(others, None)
        yield frame, other, float(shares([frame.time], stretches)[0])


def _between(old: Frame, new: Frame, share: float) -> Frame:
    """``old`` going over into ``new``, painted only where the two differ."""
    from .scoring.segments import blend

    one, other = old.rgb(), new.rgb()
    # Below this the takes differ by their encoding alone.
    differs = np.abs(one.astype(np.int16) - other).max(2) > 6
    rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
    if not len(rows):
        return old
    y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    mixed = blend(one[y0:y1, x0:x1], other[y0:y1, x0:x1], share)
    return old.painted(int(x0), int(y0), mixed, np.ones(mixed.shape[:2], np.float32))


def redo(
    clip: str | Path,
    voice: str | Path,
    earlier: str | Path,
    output: str | Path,
    text: str,
    *,
    settings: Settings | None = None,
    stages: Stages | None = None,
) -> Dubbed:
    """Puts new drawings of the stretches ``text`` (``a-b,c-d``) into an ``earlier`` result.

    The face track of the clip is that of the earlier run, from the cache. The new take is drawn in
    full, and only its stretches are used.
    """
    from .dub import dub
    from .media.reader import probe
    from .media.writer import check_output
    from .scoring import segments

    settings = settings or Settings()
    output = Path(output)
    stretches = segments.parse(text)
    end = max(end for _, end in stretches)
    length = probe(earlier).duration
    if end > length + Fraction(1, 10):
        raise MediaError(
            f"segment up to {float(end):g} s asked for, but {earlier} ends after {float(length):g} s"
        )
    inputs = (Path(clip), Path(voice), Path(earlier))
    check_output(output, inputs=inputs, overwrite=settings.overwrite)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".lipsync-") as folder:
        take, merged = (Path(folder) / f"{name}{output.suffix}" for name in ("take", "merged"))
        done = dub(clip, voice, take, settings=settings, stages=stages)[0]
        taken = splice(earlier, take, voice, merged, stretches, settings=settings)
        merged.replace(output)
    return replace(done, output=output, painted=min(done.painted, taken))
