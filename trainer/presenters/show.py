"""A whole picture of a presenter speaking, with sound: for demos, and for dubbing with known truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lipsync_core.errors import SettingsError
from lipsync_core.preprocess.step import FPS, RATE, SAMPLES_PER_FRAME

from .people import HELD_OUT
from .render import SOURCE_SIZE
from .take import Take

if TYPE_CHECKING:
    from lipsync_core.faces.detect.base import Detector

    from .voices import Speech


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What was written, and the truth of it."""

    path: Path
    frames: int
    take: Take
    found: int | None
    """Frames in which YuNet finds the face, None where it is not there."""
    error: float
    """Mean distance of YuNet's points from the true ones, as a share of that from eyes to mouth."""


def show(
    output: Path,
    *,
    number: int,
    seconds: float = 6.0,
    say: int = 0,
    voice: Path | None = None,
    overwrite: bool = False,
    look: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Shown:
    """Writes 640x480 at 25 frames a second.

    ``say``: seed of invented words, for ``seconds``; or ``voice``: a file, whose mouth the draft engine
    hears. ``look``: try the detector on every tenth frame.
    """
    import av

    from lipsync_core.media.audio import MemoryVoice
    from lipsync_core.media.frame import Frame
    from lipsync_core.media.writer import Writer
    from lipsync_core.preprocess.write import described
    from lipsync_core.types import Audio

    if not 0 <= number < 2 * HELD_OUT:
        raise SettingsError(f"--seed is {number}; give 0 to {2 * HELD_OUT - 1}")
    if voice is None and not 0.2 <= seconds <= 3600:
        raise SettingsError(f"--seconds is {seconds:g}; give 0.2 to 3600")
    speech, curve, frame_count = None, None, round(seconds * FPS)
    if voice is not None:
        speech, curve, frame_count = heard(voice)
    take = Take(number, frame_count, resolution=256, seed=say, speech=speech, curve=curve)
    painter = take.full_painter()
    detector = _detector() if look else None
    found, tried, errors = 0, 0, []
    facts = described(Path(f"presenter-{number}"), *SOURCE_SIZE, frame_count)
    sound = take.sound
    track = None
    if np.abs(sound).max(initial=0.0) > 1e-3:
        track = MemoryVoice(Audio(samples=np.ascontiguousarray(sound[None]), rate=RATE))
    with Writer(
        output,
        clip=facts,
        voice=track,
        audio_duration=Fraction(frame_count, FPS),
        codec="libx264",
        overwrite=overwrite,
    ) as writer:
        for index in range(frame_count):
            picture = take.frame(index, painter)
            if detector is not None and index % 10 == 0:
                tried += 1
                faces = detector.detect(picture)
                found += bool(faces)
                errors += [
                    _error(face.points, take.points[index])
                    for face in faces[:1]
                    if face.points is not None
                ]
            video = av.VideoFrame.from_ndarray(picture, format="rgb24")
            time = Fraction(index, FPS)
            writer.write(
                Frame(video, facts.look, index=index, time=time, duration=Fraction(1, FPS)),
                time,
                Fraction(1, FPS),
            )
            if progress is not None:
                progress(index + 1, frame_count)
    return Shown(
        path=output,
        frames=frame_count,
        take=take,
        found=None if detector is None else round(found / max(tried, 1) * frame_count),
        error=float(np.mean(errors)) if errors else float("nan"),
    )


def heard(voice: Path) -> tuple[Speech, np.ndarray, int]:
    """A voice file's sound, the mouth curve that the draft engine hears in it (100 a second), its frames."""
    from lipsync_core.engines.draft.speech import hear
    from lipsync_core.media.audio import open_voice

    from ..tasks.mouth.phones import CODES, SILENCE, Segments
    from .visemes import STEPS
    from .voices import Speech

    opened = open_voice(voice)
    frame_count = max(1, int(opened.duration * FPS))
    sound = np.concatenate(list(opened.blocks(RATE)))[: frame_count * SAMPLES_PER_FRAME]
    sound = np.pad(sound, (0, frame_count * SAMPLES_PER_FRAME - len(sound)))
    curve = hear(opened, np.arange(frame_count * STEPS // FPS) / STEPS)
    # Nobody knows the phones of a file.
    parts = Segments(ends=np.array([frame_count / FPS]), codes=np.array([CODES[SILENCE]]))
    return Speech(sound=sound, parts=parts, strength=np.ones(1)), curve, frame_count


def _detector() -> Detector | None:
    from lipsync_core.errors import LipSyncError
    from lipsync_core.faces import detect

    try:
        return detect.pick("yunet")
    except LipSyncError:
        return None


def _error(found: np.ndarray, true: np.ndarray) -> float:
    unit = float(np.linalg.norm(true[3:].mean(0) - true[:2].mean(0)))
    return float(np.linalg.norm(found - true, axis=1).mean()) / unit
