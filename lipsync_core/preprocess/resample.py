"""Any frame rate to 25 and any sound to 16 kHz, by time, on the way and without an encode."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import closing
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ..errors import MediaError
from .step import FPS, Book, Moment, Source, Step, Stream
from .tape import Tape

if TYPE_CHECKING:
    from ..media.frame import Frame

log = logging.getLogger("lipsync.preprocess")


class Resample(Step):
    """Opens the source for its one decode. Every moment shows the picture whose time is nearest."""

    name = "resample"
    takes = "file"
    gives = "stream"

    def run(self, sample: Source, book: Book) -> Iterator[Stream]:
        import av

        from ..media.audio import VoiceFile
        from ..media.reader import Reader

        reader = Reader(sample.path, whole=True)
        # Listened through already, unless the filter of broken files is left out.
        voice = sample.voice or VoiceFile(sample.path)
        frames = reader.frames()
        tally: dict[str, Any] = {}
        with closing(frames):  # type: ignore[type-var]
            first = next(frames)
            pts, base = first.video.pts, first.video.time_base
            begins = pts * Fraction(base) if pts is not None and base is not None else Fraction(0)

            def rest() -> Iterator[Frame]:
                yield first
                known = 0
                try:
                    for frame in frames:
                        tally["torn"], known = reader.damaged > known, reader.damaged
                        yield frame
                except (MediaError, av.FFmpegError) as error:
                    # What came before is good, and is not given up.
                    log.warning("%s ends early (%s)", sample.path.name, error)
                    tally["ended"] = " ".join(str(error).split())[:200]

            yield Stream(
                key=f"{sample.key}-v",
                parent=sample.key,
                source=sample,
                first=0,
                pictures=book.clock.each(self.name, shown(rest(), tally)),
                tape=Tape(voice, begins - voice.begins),
                facts=reader.clip,
            )
        count = tally.get("frames", 0)
        metrics = {
            "fps": round(float(reader.clip.frame_rate), 3),
            "decoded": tally.get("decoded", 0),
            "frames": count,
            "repeated": tally.get("repeated", 0),
            "left_out": tally.get("left_out", 0),
            "worst_ms": round(1000 * float(tally.get("worst", 0)), 2),
            "damaged": reader.damaged,
            "damaged_seconds": tally.get("stand_ins", 0) / FPS,
            **({"ended_early": tally["ended"]} if "ended" in tally else {}),
        }
        book.add(self.name, sample.key, metrics=metrics, frames=count)


def shown(frames: Iterable[Frame], tally: dict[str, Any]) -> Iterator[Moment]:
    """One moment for every 1/25 s, with the frame whose time is nearest to it.

    ``tally`` takes counts: ``decoded``, ``frames``, ``repeated``, ``left_out`` and ``worst``, the
    seconds between a moment and the picture that it shows. Where whoever gives the frames sets
    ``torn``, pictures are missing before the one that is given, and moments that show none of their
    own are damaged; ``stand_ins`` counts them.
    """
    tally |= {"decoded": 0, "frames": 0, "repeated": 0, "left_out": 0, "worst": Fraction(0)}
    tally |= {"torn": False, "stand_ins": 0}
    number = 0
    held: Frame | None = None

    def until(frame: Frame, limit: Fraction, torn: bool) -> Iterator[Moment]:
        nonlocal number
        uses = 0
        while Fraction(number, FPS) < limit:
            away = abs(Fraction(number, FPS) - frame.time)
            tally["worst"] = max(tally["worst"], away)
            damaged = torn and away >= Fraction(1, FPS)
            tally["stand_ins"] += damaged
            yield Moment(frame, number, frame.time, damaged=damaged)
            number += 1
            uses += 1
            tally["frames"] = number
        tally["repeated"] += max(uses - 1, 0)
        tally["left_out"] += not uses

    # the reader looks one picture ahead, so that the gap may be on either side
    torn = [False] * 3
    for frame in frames:
        tally["decoded"] += 1
        torn = [*torn[1:], tally["torn"]]
        if held is not None:
            yield from until(held, (held.time + frame.time) / 2, any(torn))
        held = frame
    if held is not None:
        yield from until(held, held.time + held.duration - Fraction(1, 2 * FPS), any(torn[1:]))
