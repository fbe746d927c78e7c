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

from .errors import FaceError, MediaError
from .types import Settings, Stages, SyncScore

if TYPE_CHECKING:
    from torch import nn

    from .dub import Drawn, Dubbed
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
    """Of the file that was kept: of the person who speaks longest."""
    people: dict[int, SyncScore]
    """Of everyone who was given a mouth, by number of the person; each in their own turns."""
    takes: tuple[Take, ...]
    """Every stretch that was tried again, and whether the new take stayed."""

    def sentence(self) -> str:
        """One line for people, and one more for each stretch that was tried again."""
        if len(self.people) > 1:
            told = "; ".join(f"person {n}: {score.summary}" for n, score in self.people.items())
        else:
            told = self.score.summary
        lines = [f"{self.dubbed.output}: {told}"]
        lines += [
            f"  {take.start:.1f}-{take.end:.1f} s: tried again, "
            + ("the new take is kept" if take.kept else "the first take is kept")
            + f" ({_told(take.before)} before, {_told(take.after)} after)"
            for take in self.takes
        ]
        return "\n".join(lines)


def _told(value: float) -> str:
    return f"{value:.2f}"


def checked(
    clip: str | Path,
    voices: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    settings: Settings | None = None,
    attempts: int = 1,
    scoring: str = "auto",
    stages: Stages | None = None,
) -> Checked:
    """As ``dub`` with one result; then scores it and tries its weak stretches again.

    Everyone who was given a mouth is scored, each where they speak. Each of ``attempts`` draws the weak
    stretches once more in another way (the other mode of the draft engine, another seed of the
    others); of each the take that follows the voice better is kept. The file appears under its name
    only when all is done.
    """
    from .dub import draw
    from .media.writer import check_output
    from .scoring import segments
    from .scoring.sync import open_network

    settings = settings or Settings()
    output = Path(output)
    network = open_network(scoring, settings.device)
    inputs = [Path(voices)] if isinstance(voices, (str, Path)) else [Path(v) for v in voices]
    check_output(output, inputs=(Path(clip), *inputs), overwrite=settings.overwrite)
    takes: list[Take] = []
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".lipsync-") as folder:
        best = Path(folder) / f"take{output.suffix}"
        ((dubbed, drawn),) = draw(clip, voices, best, settings=settings, stages=stages)
        look = _Look(drawn, inputs, network, scoring, stages)
        people = look.at(best)
        for attempt in range(1, attempts + 1):
            stretches = [
                (start, min(end, dubbed.duration))
                for start, end in segments.weak(_joined(people))
                if start < dubbed.duration
            ]
            if not stretches:
                break
            log.info("%d weak stretches get another take", len(stretches))
            other = Path(folder) / f"take-{attempt}{output.suffix}"
            again = _otherwise(settings, dubbed, attempt)
            draw(clip, voices, other, settings=again, stages=stages, only=stretches)
            # Judged in its place: a take of its own shows old mouths outside the stretches.
            merged = Path(folder) / f"merged-{attempt}{output.suffix}"
            splice(best, other, merged, stretches, settings=settings)
            after = look.at(merged)
            found = segments.judge_takes(_joined(people), _joined(after), stretches)
            takes += found
            kept = [s for s, take in zip(stretches, found, strict=True) if take.kept]
            if kept and len(kept) < len(stretches):
                merged = Path(folder) / f"kept-{attempt}{output.suffix}"
                splice(best, other, merged, kept, settings=settings)
                after = look.at(merged)
            if kept:
                best, people = merged, after
        best.replace(output)
    return Checked(
        dubbed=replace(dubbed, output=output),
        score=_joined(people, segments=False),
        people=people,
        takes=tuple(takes),
    )


class _Look:
    """Scores takes of one dub: its people are known, so no face is searched again."""

    def __init__(
        self,
        drawn: Drawn,
        voices: Sequence[Path],
        network: nn.Module | None,
        scoring: str,
        stages: Stages | None,
    ) -> None:
        from .media.audio import VoiceFile

        self._drawn, self._scoring, self._stages = drawn, scoring, stages
        self._network = network
        self._shares: dict[int, np.ndarray] = {}
        self._voices: dict[int, VoiceFile] = {}
        several = len({voice for _, voice in drawn.shares}) > 1
        longest: dict[int, float] = {}
        for (person, voice), share in drawn.shares.items():
            self._shares[person] = np.maximum(self._shares.get(person, 0.0), share)
            # Where several are heard at once, each mouth is held against its own voice: the one that
            # it speaks most.
            if several and share.sum() > longest.get(person, 0.0):
                longest[person] = float(share.sum())
                self._voices[person] = VoiceFile(voices[voice])

    def at(self, video: Path) -> dict[int, SyncScore]:
        """Scores by person, the one who speaks longest first."""
        from .scoring.sync import examine_people

        order = sorted(self._shares, key=lambda person: -float(self._shares[person].sum()))
        found = examine_people(
            video,
            self._drawn.people,
            {person: self._shares[person] for person in order},
            voices=self._voices,
            engine=self._scoring,
            network=self._network,
            stages=self._stages,
        )
        if not found:
            raise FaceError(
                f"no mouth of {video.name} was seen well enough to be checked; leave --check out"
            )
        return {person: one.score for person, one in found.items()}


def _joined(people: dict[int, SyncScore], *, segments: bool = True) -> SyncScore:
    """The score of the first, with everybody's segments."""
    first = next(iter(people.values()))
    if not segments:
        return first
    return replace(first, segments=tuple(s for one in people.values() for s in one.segments))


def _otherwise(settings: Settings, dubbed: Dubbed, attempt: int) -> Settings:
    if dubbed.engine == "draft":
        return replace(settings, draft_mode="warp" if "units" in dubbed.mode else "units")
    return replace(settings, seed=settings.seed + attempt)


def splice(
    old: str | Path,
    new: str | Path,
    output: str | Path,
    stretches: Sequence[Stretch],
    *,
    settings: Settings | None = None,
) -> int:
    """Writes ``old`` with ``stretches`` from ``new``, blended at their edges; returns frames taken over.

    Both are results of one clip with one voice, so that frame is frame; the sound is that of ``old``.
    The pictures are encoded once more, at a quality above that of the takes.
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
        voice=VoiceFile(old),
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
    voices: str | Path | Sequence[str | Path],
    earlier: str | Path,
    output: str | Path,
    text: str,
    *,
    settings: Settings | None = None,
    stages: Stages | None = None,
) -> Dubbed:
    """Puts new drawings of the stretches ``text`` (``a-b,c-d``) into an ``earlier`` result.

    The face track of the clip is that of the earlier run, from the cache; only the stretches are
    drawn. The sound is that of the earlier result.
    """
    from .dub import draw
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
    spoken = [Path(voices)] if isinstance(voices, (str, Path)) else [Path(v) for v in voices]
    inputs = (Path(clip), *spoken, Path(earlier))
    check_output(output, inputs=inputs, overwrite=settings.overwrite)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".lipsync-") as folder:
        take, merged = (Path(folder) / f"{name}{output.suffix}" for name in ("take", "merged"))
        settings = replace(settings, overwrite=False)
        ((done, _),) = draw(clip, voices, take, settings=settings, stages=stages, only=stretches)
        if abs(done.duration - length) > Fraction(1, 10):
            raise MediaError(
                f"{earlier} is {float(length):.2f} s long, and {Path(clip).name} with this voice "
                f"{float(done.duration):.2f} s: it was not made from them, or with other choices"
            )
        splice(earlier, take, merged, stretches, settings=settings)
        merged.replace(output)
    return replace(done, output=output)
