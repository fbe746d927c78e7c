"""Who in a clip is speaking when, and a file of it that people can edit."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MediaError, SettingsError
from ..types import FaceTrack, Progress, Stages
from . import embedded
from .motion import Watched, watch, watch_again
from .sync import LIKELY, course

if TYPE_CHECKING:
    from ..faces.detect.base import Detector
    from ..faces.track import People
    from ..media.reader import Clip
    from ..types import Voice

log = logging.getLogger("lipsync.scoring")

NOBODY = -1
AUTO = "auto"
"""The word for turns that are found rather than read from a file."""
SILENT = 0.10
"""Agreement that somebody must beat to be taken for the speaker while a voice is heard."""
_TURN = 0.25
"""What a change of speaker costs, in agreement times seconds: half a second of clear speech."""
_FADE = 0.16
"""Seconds over which a mouth is faded in at the beginning of a turn and out at its end."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One person against one voice, over the whole clip."""

    person: int
    """Number of the track."""
    voice: int
    """Number of the voice."""
    confidence: float
    audio_late_ms: float
    peak: float


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A stretch in which one person speaks with one voice."""

    start: float
    """Seconds of the clip."""
    end: float
    person: int
    voice: int
    agreement: float | None = None
    """Mean over the turn; None in a file that people wrote."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Who speaks when."""

    turns: tuple[Turn, ...]
    pairs: tuple[Pair, ...] = ()
    people: tuple[dict[str, Any], ...] = ()
    """For people to recognise each other: place in the picture and time of the first sight."""

    @property
    def voices(self) -> int:
        """How many voices the turns name; 1 where all are of the first."""
        return 1 + max((turn.voice for turn in self.turns), default=0)

    def of_voice(self, number: int, given: int) -> Assignment:
        """The turns of one of ``given`` voices; a single voice takes all turns."""
        if given == 1:
            return self
        return replace(self, turns=tuple(turn for turn in self.turns if turn.voice == number))


def who_speaks(
    video: str | Path,
    voices: Sequence[str | Path] = (),
    *,
    detector: str | Detector = "auto",
    start: Fraction | None = None,
    end: Fraction | None = None,
    stages: Stages | None = None,
) -> Assignment:
    """Proposes who speaks when in ``video``: with its own sound, or with each of ``voices``."""
    from ..faces import detect
    from ..media.audio import VoiceFile
    from .sync import _unwatched

    tracks = [VoiceFile(path) for path in voices] or [VoiceFile(video)]
    finder = detect.pick(detector)
    stages = stages or _unwatched
    watched = watch(
        video, detector=finder, start=start, end=end, progress=stages(f"faces ({finder.name})")
    )
    leads = [float(watched.start if voices else watched.begins - voice.begins) for voice in tracks]
    return assign(watched, tracks, leads)


def assign(watched: Watched, voices: Sequence[Voice], leads: Sequence[float]) -> Assignment:
    """The same for a clip that has been watched; ``leads``: second of each voice at the first picture."""
    if not watched.people.tracks:
        raise SettingsError(f"{watched.clip.path.name} shows no face, so nobody can be speaking")
    pairs, turns = [], []
    for number, (voice, lead) in enumerate(zip(voices, leads, strict=True)):
        heard = embedded.hear(voice)
        times = watched.times + lead
        matches = [embedded.match(motion, times, heard) for motion in watched.motions]
        pairs += [
            Pair(
                person=person,
                voice=number,
                confidence=round(match.confidence, 4),
                audio_late_ms=round(match.late_ms, 1),
                peak=round(match.peak, 4),
            )
            for person, match in enumerate(matches)
        ]
        # One file has one offset, so the surest person says what it is for all.
        best = max(matches, key=lambda match: match.confidence)
        late = best.late_ms if best.confidence >= LIKELY else 0.0
        moments = times + late / 1000.0
        courses = np.stack([course(motion, moments, heard) for motion in watched.motions])
        turns += _turns(courses, watched.times, moments, heard, number)
    found = Assignment(
        turns=tuple(sorted(turns, key=lambda turn: (turn.start, turn.voice))),
        pairs=tuple(pairs),
        people=tuple(_person(track, watched) for track in watched.people.tracks),
    )
    log.info("%d turns of %d people", len(found.turns), len(found.people))
    return found


def _turns(
    courses: np.ndarray,
    times: np.ndarray,
    moments: np.ndarray,
    heard: embedded.Heard,
    voice: int,
) -> list[Turn]:
    """The path of least regret through "nobody" and everybody, and its stretches."""
    count = len(times)
    step = np.diff(times, append=times[-1] + (times[-1] - times[0]) / max(count - 1, 1))
    rows = np.clip((moments * 100).astype(int), 0, len(heard.active) - 1)
    active = (moments >= 0.0) & (moments < heard.duration) & heard.active[rows]
    gains = np.full((len(courses) + 1, count), -1.0)
    gains[0] = np.where(active, SILENT, 0.5)
    for person, values in enumerate(courses):
        gains[person + 1] = np.where(np.isfinite(values), values, -1.0)
    gains *= step
    best = gains[:, 0].copy()
    came = np.zeros(gains.shape, int)
    for frame in range(1, count):
        leader = int(best.argmax())
        change = best[leader] - _TURN
        came[:, frame] = np.where(best >= change, np.arange(len(best)), leader)
        best = np.maximum(best, change) + gains[:, frame]
    path = np.empty(count, int)
    path[-1] = int(best.argmax())
    for frame in range(count - 1, 0, -1):
        path[frame - 1] = came[path[frame], frame]
    edges = [0, *(np.flatnonzero(np.diff(path)) + 1).tolist(), count]
    result = []
    for low, high in pairwise(edges):
        person = int(path[low]) - 1
        if person == NOBODY:
            continue
        values = courses[person, low:high]
        result.append(
            Turn(
                start=round(float(times[low]), 3),
                end=round(float(times[high - 1] + step[high - 1]), 3),
                person=person,
                voice=voice,
                agreement=round(float(np.nanmean(values)), 3),
            )
        )
    return result


def _person(track: FaceTrack, watched: Watched) -> dict[str, Any]:
    first = int(np.argmax(track.present))
    middle = track.points[track.present].mean(axis=(0, 1)) if track.present.any() else (0.0, 0.0)
    return {
        "first_seen": round(float(watched.times[first]), 3),
        "seen": round(float(track.present.mean()), 4),
        "place": [round(float(value)) for value in middle],
    }


def only_while_speaking(
    track: FaceTrack, person: int, assignment: Assignment, times: Sequence[float] | np.ndarray
) -> FaceTrack:
    """The track with its mouth painted in this person's turns only, faded at their ends.

    ``times``: seconds of each row of the track.
    """
    strength = speaking(person, assignment, times)
    return replace(
        track,
        present=track.present & (strength > 0.0),
        strength=(track.strength * strength).astype(np.float32),
    )


def speaking(
    person: int, assignment: Assignment, times: Sequence[float] | np.ndarray
) -> np.ndarray:
    """``(T,)`` 0..1: whether this person speaks at ``times``, with a ramp at both ends of a turn."""
    moments = np.asarray([float(time) for time in times])
    strength = np.zeros(len(moments))
    for turn in assignment.turns:
        if turn.person == person:
            inside = np.minimum(moments - turn.start, turn.end - moments)
            strength = np.maximum(strength, np.clip(inside / _FADE + 0.5, 0.0, 1.0))
    return strength * strength * (3.0 - 2.0 * strength)


def check(spec: str, clip: Clip, *, trimmed: bool = False) -> int:
    """Refuses what ``turns_of`` could not follow, before the long work begins; ``spec`` as there.

    Returns how many voices the turns name.
    """
    from ..media.audio import VoiceFile

    if clip.is_still:
        raise SettingsError(
            f"{clip.path.name} is a still picture, in which nobody speaks; leave --speaker out"
        )
    if spec != AUTO:
        found = load(spec)
        if trimmed:
            raise SettingsError(
                "a file of speakers counts people and seconds of the whole clip; "
                "leave out --start and --end, or use --speaker auto"
            )
        return found.voices
    try:
        VoiceFile(clip.path)
    except MediaError as error:
        raise SettingsError(
            f"--speaker auto sees by the clip's own sound who speaks, and {clip.path.name} has none "
            "that can be read; name the turns in a file (--speaker FILE) or choose with --face"
        ) from error
    return 1


def turns_of(
    spec: str,
    clip: Clip,
    people: People,
    *,
    start: Fraction | None = None,
    end: Fraction | None = None,
    progress: Progress | None = None,
) -> Assignment:
    """Who of ``people`` speaks when: found in the clip (``auto``), or read from the file ``spec``.

    Times are seconds from ``start``. SettingsError where nobody of them speaks.
    """
    from ..media.audio import VoiceFile

    if spec != AUTO:
        found = load(spec, people=len(people.tracks))
        if found.people and len(found.people) != len(people.tracks):
            raise SettingsError(
                f"{spec} is about {len(found.people)} people, but {len(people.tracks)} were found in "
                f"{clip.path.name}; write it anew with the same --detector"
            )
    else:
        voice = VoiceFile(clip.path)
        watched = watch_again(clip.path, people, start=start, end=end, progress=progress)
        found = assign(watched, [voice], [float(watched.begins - voice.begins)])
    if not found.turns:
        raise SettingsError(
            f"nobody in {clip.path.name} is seen to speak; choose with --face instead of --speaker, "
            "or name the turns in a file (--speaker FILE)"
        )
    return found


def save(assignment: Assignment, path: str | Path) -> None:
    """Writes an assignment as JSON that people can edit: change ``person`` or the times of a turn."""
    text = {
        "turns": [asdict(turn) for turn in assignment.turns],
        "people": list(assignment.people),
        "pairs": [asdict(pair) for pair in assignment.pairs],
    }
    Path(path).write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")


def load(path: str | Path, *, people: int | None = None) -> Assignment:
    """Reads what ``save`` wrote or a person edited; SettingsError says which turn is wrong and why."""
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        turns = data["turns"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f'{path} is not an assignment of speakers ({error}); it needs {{"turns": [...]}}'
        ) from error
    result = []
    for number, turn in enumerate(turns):
        try:
            one = Turn(
                start=float(turn["start"]),
                end=float(turn["end"]),
                person=int(turn["person"]),
                voice=int(turn.get("voice", 0)),
                agreement=turn.get("agreement"),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SettingsError(
                f"turn {number} of {path} is not complete ({error}); "
                "it needs start, end (seconds) and person (number)"
            ) from error
        if not 0.0 <= one.start < one.end:
            raise SettingsError(
                f"turn {number} of {path} runs from {one.start:g} to {one.end:g} s; "
                "its end must come after its start"
            )
        if one.voice < 0:
            raise SettingsError(
                f"turn {number} of {path} is given to voice {one.voice}; voices count from 0"
            )
        if one.person < 0 or (people is not None and one.person >= people):
            raise SettingsError(
                f"turn {number} of {path} is given to person {one.person}; "
                f"there are {people if people is not None else 'persons from 0 on'}"
            )
        result.append(one)
    return Assignment(turns=tuple(result), people=tuple(data.get("people", ())))
