"""What came out of each step as files, under the folder names that people know; only when asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import row
from .step import FPS, RATE, SAMPLES_PER_FRAME, Book, Clip, Moment, Row, Source, Stream

if TYPE_CHECKING:
    from ..media.writer import Writer
    from .setup import Setup


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A stretch of the source that is to be written."""

    path: Path
    first: int
    end: int


def keep(source: Source, rows: list[Row], setup: Setup) -> None:
    """Writes ``resampled``, ``shot`` and ``segmented`` of a source, from its own pictures.

    The source is decoded once more for it, because only now it is known where shots end; nothing is
    encoded twice.
    """
    pieces = list(_pieces(source, rows, setup.output))
    if pieces:
        _write(source, pieces, setup)


def keep_clip(clip: Clip, folder: str, setup: Setup) -> None:
    """Writes a clip as it left a step."""
    from .write import encode

    path = _place(setup.output, folder, clip.source, clip.key)
    setup.work.mkdir(parents=True, exist_ok=True)
    part = setup.work / path.name
    encode(part, clip.crops, clip.heard(), setup.config.output.crf)
    part.replace(path)


def _place(output: Path, folder: str, source: Source, key: str) -> Path:
    from .write import file_name

    path = output / folder / file_name(source, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _pieces(source: Source, rows: list[Row], output: Path) -> Iterator[_Piece]:
    for one in rows:
        # A shot is what was cut into segments, a segment what a face was looked for in.
        if one.step == "resample" and one.frames:
            name = row("resample").folder
        elif one.step == "segment" and one.state == "kept":
            name = row("shots").folder
        elif one.step == "affine":
            name = row("segment").folder
        else:
            continue
        yield _Piece(
            path=_place(output, name, source, one.sample),
            first=one.first,
            end=one.first + one.frames,
        )


def _write(source: Source, pieces: list[_Piece], setup: Setup) -> None:
    from .resample import Resample

    book = Book(source, lambda rows: None)
    for stream in Resample(setup.config, setup).run(source, book):
        waiting = sorted(pieces, key=lambda piece: piece.first)
        open_now: list[tuple[_Piece, Writer, ExitStack]] = []
        try:
            for picture in stream.pictures:
                while waiting and waiting[0].first <= picture.index:
                    piece = waiting.pop(0)
                    stack = ExitStack()
                    open_now.append((piece, _open(piece, stream, setup, stack), stack))
                for piece, writer, _ in open_now:
                    if picture.index < piece.end:
                        _add(writer, picture, picture.index - piece.first)
                for entry in [entry for entry in open_now if entry[0].end <= picture.index + 1]:
                    open_now.remove(entry)
                    _close(entry, setup)
        finally:
            for entry in open_now:
                _close(entry, setup)


def _open(piece: _Piece, stream: Stream, setup: Setup, stack: ExitStack) -> Writer:
    from ..media.audio import SILENCE_PEAK, MemoryVoice
    from ..media.writer import Writer
    from ..types import Audio
    from .tape import Tape

    count = piece.end - piece.first
    # A tape of its own: pieces overlap, and a tape only runs forwards.
    tape = Tape(_voice(stream), stream.tape.lead)
    sound = tape.cut(piece.first * SAMPLES_PER_FRAME, count * SAMPLES_PER_FRAME)
    voice = None
    if len(sound) and float(np.abs(sound).max()) > SILENCE_PEAK:
        voice = MemoryVoice(Audio(samples=sound[None], rate=RATE))
    facts = replace(
        stream.facts,
        frame_rate=Fraction(FPS),
        time_base=Fraction(1, FPS),
        frame_count=count,
        duration=Fraction(count, FPS),
    )
    setup.work.mkdir(parents=True, exist_ok=True)
    return stack.enter_context(
        Writer(
            setup.work / piece.path.name,
            clip=facts,
            voice=voice,
            audio_duration=Fraction(count, FPS),
            crf=setup.config.output.crf,
            overwrite=True,
        )
    )


def _voice(stream: Stream) -> Any:
    from ..media.audio import VoiceFile

    return VoiceFile(stream.source.path)


def _add(writer: Writer, picture: Moment, index: int) -> None:
    from ..media.frame import Frame

    assert isinstance(picture.picture, Frame)
    writer.write(picture.picture, Fraction(index, FPS), Fraction(1, FPS))


def _close(entry: tuple[_Piece, Writer, ExitStack], setup: Setup) -> None:
    piece, writer, stack = entry
    stack.close()
    writer.path.replace(piece.path)
