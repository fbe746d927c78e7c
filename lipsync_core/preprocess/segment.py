"""Cuts a shot into pieces of one length, exact to the frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .shots import split
from .step import FPS, Book, Moment, Step, Stream


class Segment(Step):
    """Five seconds each; what is left at the end is kept from two seconds on."""

    name = "segment"
    takes = "stream"
    gives = "stream"

    def run(self, sample: Stream, book: Book) -> Iterator[Stream]:
        length = round(self.config.segment.seconds * FPS)
        least = round(self.config.segment.min_seconds * FPS)
        count = pieces = 0

        def numbered() -> Iterator[tuple[int, Moment]]:
            nonlocal count
            for picture in sample.pictures:
                count += 1
                yield count - 1, picture

        for part in split(numbered(), lambda pair: pair[0] % length == 0):
            first = sample.first + count - 1
            key = f"{sample.source.key}-s{first:06d}"
            tally = [0]
            pictures = _counted(part, tally)
            yield replace(sample, key=key, parent=sample.key, first=first, pictures=pictures)
            for _ in pictures:
                pass
            if tally[0] >= least:
                pieces += 1
                continue
            book.add(
                self.name,
                key,
                parent=sample.key,
                state="rejected",
                reason=f"{tally[0] / FPS:.2f} s left at the end of a shot; "
                f"kept from {least / FPS:g} s on",
                first=first,
                frames=tally[0],
            )
        book.add(
            self.name,
            sample.key,
            parent=sample.source.key,
            metrics={"segments": pieces},
            first=sample.first,
            frames=count,
        )


def _counted(part: Iterator[tuple[int, Moment]], tally: list[int]) -> Iterator[Moment]:
    for _, picture in part:
        tally[0] += 1
        yield picture
