"""How well mouth and voice of a clip agree, and by how much they are apart."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from ..errors import FaceError, SettingsError
from ..types import Progress, Stages, SyncScore, SyncSegment
from . import embedded, engines
from .crops import Protocol
from .distance import MAX_SHIFT, ShiftCurve, existing, shift_curve, unbiased_means
from .motion import MouthMotion, Watched, watch, watch_again

if TYPE_CHECKING:
    from torch import nn

    from ..faces.detect.base import Detector
    from ..faces.track import People
    from ..types import FaceTrack, Voice
    from .engines import Scorer

log = logging.getLogger("lipsync.scoring")

FRAME_MS = 1000 / 25
"""Offsets count frames of this length whatever the clip's own rate, as SyncNet does."""
SEGMENT = 4.0
"""Seconds of one segment: shorter ones cannot tell chance from agreement."""
WEAK = 0.12
"""Agreement of a segment below which the mouth does not follow; foreign voices stay below in
nine of ten segments, true ones above in nine of ten (GRID)."""
LIKELY = 0.5
"""Confidence from which segments are judged at the offset found; below, as the clip stands."""
OFF = 1.6 * FRAME_MS
"""Milliseconds by which a segment's certain offset may differ from the clip's."""
UNITS = {
    "offset_frames": "frames of 40 ms, positive when the sound comes early (SyncNet's sign)",
    "audio_late_ms": "milliseconds, positive when the sound is later than the picture",
    "confidence": "0..1",
    "lse_c": "SyncNet distance, median minus minimum over 31 shifts",
    "lse_d": "SyncNet distance, minimum over 31 shifts",
    "similarity": "0..1, cosine of picture and sound at the best of 31 shifts",
    "similarity_gain": "-1..1, that minus the median over 31 shifts",
    "agreement": "-1..1, weighted correlation of mouth and voice",
    "start": "seconds",
    "end": "seconds",
    "speech_seconds": "seconds",
}
WEAK_SHARE = 0.4
"""Part of the clip's own gain below which a segment is weak for a network."""
SURE = 1.4
"""Steps above ``Scorer.likely`` from which the best shift of one segment is believed."""
_CHANCE = (3.0, 0.5)
"""Standard errors at which a best shift of 31 is as likely real as luck, and the width of the step."""
_FITS = (0.5, 0.05)
"""Cosine at which judges that were trained to say 1 or 0 say yes as likely as no, and the step."""
_LEAST_WINDOWS = 1


@dataclass(frozen=True, kw_only=True)
class Examination:
    """A score and all that it rests on, for reports."""

    score: SyncScore
    video: Path
    audio: Path | None
    """The voice, where it is not the video's own."""
    watched: Watched
    track: FaceTrack
    motion: MouthMotion
    heard: embedded.Heard
    match: embedded.Match
    voice_times: np.ndarray
    """``(T,)`` seconds of the voice at which each frame is shown."""
    course: np.ndarray
    """``(T,)`` -1..1: agreement of mouth and voice around each frame; NaN where nothing can be said."""
    curve: ShiftCurve | None = None
    """Of a network, padded as published where there is a published convention."""
    unbiased: ShiftCurve | None = None
    windows: np.ndarray | None = None
    """``(N,)`` seconds in the clip of each window of ``curve.confidence``."""

    @property
    def scorer(self) -> Scorer:
        """The row of what measured it."""
        return engines.row(self.score.engine)


def score(
    video: str | Path,
    audio: str | Path | None = None,
    *,
    engine: str = engines.AUTO,
    face: str = "largest",
    detector: str | Detector = "auto",
    start: Fraction | None = None,
    end: Fraction | None = None,
    protocol: Protocol = "original",
    device: str = "auto",
    stages: Stages | None = None,
) -> SyncScore:
    """Scores the mouth in ``video`` against its own sound, or against ``audio`` played from its start.

    ``engine``: a row of ``SCORERS``, or ``auto``: SyncNet v2 if it is ready, else the embedded
    estimate, which needs nothing. Raises a :class:`LipSyncError` with one line where nothing can be scored.
    """
    return examine(
        video,
        audio,
        engine=engine,
        face=face,
        detector=detector,
        start=start,
        end=end,
        protocol=protocol,
        device=device,
        stages=stages,
    ).score


def examine(
    video: str | Path,
    audio: str | Path | None = None,
    *,
    engine: str = engines.AUTO,
    face: str = "largest",
    detector: str | Detector = "auto",
    start: Fraction | None = None,
    end: Fraction | None = None,
    protocol: Protocol = "original",
    device: str = "auto",
    audio_at: Fraction = Fraction(0),
    network: nn.Module | None = None,
    stages: Stages | None = None,
) -> Examination:
    """As :func:`score`, with everything that a report shows.

    ``audio_at``: second of ``video`` at which ``audio`` begins. ``network``: the engine's network on its
    device already, in the hands of whoever manages its memory; without, it is read and put on
    ``device``.
    """
    from ..faces import choose, detect
    from ..media.audio import VoiceFile
    from ..media.reader import probe

    row = engines.row(pick(engine))
    if protocol not in get_args(Protocol):
        raise SettingsError(f"there is no crop protocol {protocol!r}; choose original or aligned")
    if protocol != get_args(Protocol)[0] and not row.has_protocols:
        log.warning("crop protocol %s says nothing to the %s; it is left out", protocol, row.title)
    if choose.parse(face)[0] == "all":
        raise SettingsError(
            "a score is of one face; choose largest, left, right, index:N or point:x,y "
            "(`lipsync speakers` says who of several is speaking)"
        )
    place = _place(row, device) if row.weights else device
    stages = stages or _unwatched
    # Everything that can be refused is refused before the long work begins.
    probe(video)
    voice = VoiceFile(video if audio is None else audio)
    if not row.weights:
        network = None
    elif network is None:
        network = row.load(place)
    finder = detect.pick(detector)
    watched = watch(
        video, detector=finder, start=start, end=end, progress=stages(f"faces ({finder.name})")
    )
    clip = watched.clip
    track = choose.choose(watched.people, face, watched.times.tolist(), (clip.width, clip.height))[
        0
    ]
    lead = watched.begins - voice.begins if audio is None else watched.start - audio_at
    found = judge(watched, track, embedded.hear(voice), lead)
    found = replace(found, video=Path(video), audio=Path(audio) if audio else None)
    if network is not None:
        found = _with_network(found, row, network, voice, lead, protocol, stages(row.title))
    log.info("%s: %s", video, found.score.summary)
    return found


def examine_people(
    video: str | Path,
    people: People,
    shares: Mapping[int, np.ndarray],
    *,
    voices: Mapping[int, Voice] | None = None,
    engine: str = engines.AUTO,
    device: str = "auto",
    network: nn.Module | None = None,
    stages: Stages | None = None,
) -> dict[int, Examination]:
    """Scores several people of a clip whose faces are known, each where they speak.

    ``shares``: by number of the track, ``(T,)`` 0..1 how much of each frame is theirs; frames at 0 do
    not count. ``voices``: what each of them is heard with, beginning with the first picture; the
    clip's own sound where there is none. ``network``: as ``examine`` has it. Whose mouth is nowhere seen
    well enough is left out.
    """
    from ..media.audio import VoiceFile

    row = engines.row(pick(engine))
    stages = stages or _unwatched
    if network is None:
        network = open_network(row.name, device)
    watched = watch_again(video, people, progress=stages("look"))
    own = VoiceFile(video) if any(number not in (voices or {}) for number in shares) else None
    heard: dict[int, embedded.Heard] = {}
    found = {}
    for number, share in shares.items():
        voice = (voices or {}).get(number, own)
        assert voice is not None
        lead = watched.begins - own.begins if voice is own and own is not None else Fraction(0)
        if id(voice) not in heard:
            heard[id(voice)] = embedded.hear(voice)
        speaks = share[: watched.frame_count] > 0
        if not (watched.motions[number].seen & speaks).any():
            continue
        one = judge(watched, people.tracks[number], heard[id(voice)], lead, speaks=speaks)
        if network is not None:
            track = replace(one.track, present=one.track.present & (share > 0))
            one = replace(
                _with_network(
                    replace(one, track=track),
                    row,
                    network,
                    voice,
                    lead,
                    "original",
                    stages(row.title),
                ),
                track=one.track,
            )
        found[number] = one
    return found


def open_network(engine: str, device: str = "auto") -> nn.Module | None:
    """The network behind ``engine`` on ``device``; None where it has none."""
    row = engines.row(pick(engine))
    return row.load(_place(row, device)) if row.weights else None


def judge(
    watched: Watched,
    track: FaceTrack,
    heard: embedded.Heard,
    lead: Fraction,
    *,
    speaks: np.ndarray | None = None,
) -> Examination:
    """The embedded estimate for one person of a clip that has been watched.

    ``lead``: second of the voice that is heard at the first picture. ``speaks``: ``(T,)`` bool, the
    frames that count; all where None.
    """
    number = next(i for i, other in enumerate(watched.people.tracks) if other is track)
    motion = watched.motions[number]
    if speaks is not None:
        motion = motion.where(speaks)
    if not motion.seen.any():
        raise FaceError("the face was never seen well enough to measure its mouth")
    times = watched.times + float(lead)
    match = embedded.match(motion, times, heard)
    accepted = match.confidence >= embedded.ACCEPT
    late = match.late_ms if match.confidence >= LIKELY else 0.0
    agreement = course(motion, times + late / 1000.0, heard)
    result = SyncScore(
        engine="embedded",
        offset_frames=-round(match.late_ms / FRAME_MS),
        audio_late_ms=round(match.late_ms, 1),
        confidence=round(match.confidence, 4),
        accepted=accepted,
        summary="",
        speech_seconds=round(match.seconds, 2),
        segments=_segments(watched, motion, times, heard, match),
        frames=watched.frame_count,
        face={
            "index": number,
            "seen": round(float(motion.seen.mean()), 4),
            "detector": watched.people.detector,
            "people": len(watched.people.tracks),
        },
        protocol={"method": "mouth speed by optical flow against predicted mouth, no weights"},
        units=UNITS,
    )
    return Examination(
        score=replace(result, summary=sentence(result)),
        video=watched.clip.path,
        audio=None,
        watched=watched,
        track=track,
        motion=motion,
        heard=heard,
        match=match,
        voice_times=times,
        course=agreement,
    )


def pick(engine: str) -> str:
    """The scoring engine that ``engine`` means on this machine; SettingsError for an unknown one."""
    if engine != engines.AUTO:
        return engines.row(engine).name
    reason = engines.SYNCNET_V2.missing()
    if reason is not None:
        log.info("scoring with the embedded estimate: %s", reason)
    return (engines.EMBEDDED if reason else engines.SYNCNET_V2).name


def sentence(result: SyncScore) -> str:
    """One line for people who have never heard of SyncNet."""
    if not result.accepted:
        if result.speech_seconds < embedded.LEAST_SECONDS:
            return (
                f"cannot tell: only {result.speech_seconds:.1f} s with a voice and a visible face"
            )
        offsets = [s.offset_frames for s in result.segments if s.offset_frames is not None]
        if len(offsets) >= 4 and max(offsets) - min(offsets) >= 3:
            return (
                f"cannot tell: the offset changes over the clip, from {offsets[0]:+d} to "
                f"{offsets[-1]:+d} frames; the sound drifts, or the clip was put together from several"
            )
        return (
            f"cannot tell: the mouth does not follow this voice clearly enough "
            f"({result.speech_seconds:.0f} s of speech, confidence {result.confidence:.0%}); "
            "another voice, a hidden mouth or too short a clip"
        )
    late = result.audio_late_ms
    frames = abs(late) / FRAME_MS
    # One frame and a half is what people begin to notice (ITU-R BT.1359: -125..+45 ms).
    if abs(late) <= 1.5 * FRAME_MS:
        verdict = f"in sync (within {max(abs(late), 1):.0f} ms)"
    elif late > 0:
        verdict = f"the sound is {late:.0f} ms late ({frames:.1f} frames)"
    else:
        verdict = f"the sound is {-late:.0f} ms early ({frames:.1f} frames)"
    weak = sum(s.state in ("weak", "off") for s in result.segments)
    parts = [verdict, f"confidence {result.confidence:.0%}"]
    if weak:
        parts.append(f"{weak} of {len(result.segments)} segments do not fit")
    return ", ".join(parts)


def _with_network(
    found: Examination,
    row: Scorer,
    network: nn.Module,
    voice: Voice,
    lead: Fraction,
    protocol: Protocol,
    progress: Progress,
) -> Examination:
    from . import judges

    judges.require(row.name, network)
    distances = judges.measure(
        judges.judge_of(row.name, network),
        found.watched,
        found.track,
        voice,
        voice_at_start=lead,
        protocol=protocol,
        progress=progress,
    )
    count = len(distances.table)
    base = replace(
        found.score,
        engine=row.name,
        protocol=_protocol(row, protocol, count, distances.counts),
    )
    if count < _LEAST_WINDOWS:
        least = row.frames + 1
        result = replace(base, offset_frames=0, audio_late_ms=0.0, confidence=0.0, accepted=False)
        text = (
            f"cannot tell: {row.title} needs at least {least} frames ({least / judges.FPS:.2f} s) of "
            "face and voice together"
        )
        return replace(found, score=replace(result, summary=text))
    rest = {"counts": distances.counts, "every": row.every}
    unbiased = shift_curve(distances.table, "none", **rest)
    curve = unbiased if row.is_cosine else shift_curve(distances.table, "zero", **rest)
    windows = distances.frames / judges.FPS
    certain = _certain(row, unbiased)
    result = replace(
        base,
        offset_frames=curve.offset_frames,
        audio_late_ms=-unbiased.offset_frames * FRAME_MS,
        confidence=round(certain, 4),
        accepted=certain >= embedded.ACCEPT,
        segments=_network_segments(
            found.score.segments,
            windows,
            distances.table,
            existing(distances.counts, row.every),
            unbiased,
            row,
        ),
    )
    if row.is_cosine:
        result = replace(result, similarity=1.0 - curve.lse_d, similarity_gain=curve.lse_c)
    else:
        result = replace(
            result,
            lse_c=curve.lse_c,
            lse_d=curve.lse_d,
            unbiased={
                "lse_c": unbiased.lse_c,
                "lse_d": unbiased.lse_d,
                "offset_frames": unbiased.offset_frames,
            },
        )
    result = replace(result, summary=sentence(result))
    return replace(found, score=result, curve=curve, unbiased=unbiased, windows=windows)


def _certain(row: Scorer, curve: ShiftCurve) -> float:
    """0..1: that voice and mouth belong together, from the unpadded curve of a network.

    None of the constants is fitted, see ``Scorer.likely``. Of the judges by cosine two things are
    asked besides: that they say yes at all, and that the best of 31 shifts is no luck.
    """
    height = (curve.lse_c - row.likely) / row.step
    if row.is_cosine:
        # Windows overlap: so many of them say as much as one.
        chance = curve.chance * math.sqrt(row.every / row.frames)
        yes = 1.0 - curve.lse_d
        height = min(height, (chance - _CHANCE[0]) / _CHANCE[1], (yes - _FITS[0]) / _FITS[1])
    return 1.0 / (1.0 + math.exp(-max(height, -50.0)))


def _protocol(row: Scorer, protocol: Protocol, count: int, counts: list[int]) -> dict[str, str]:
    """What a reader must know to compare the numbers."""
    told = {
        "frame_rate": "25",
        "windows": str(count),
        "shifts": f"-{MAX_SHIFT}..{MAX_SHIFT}",
        "weights": row.found()[0] if row.missing() is None else row.weights[0],
        "acceptance": "by numbers that are not fitted: no published weights were at hand",
    }
    if row.is_cosine:
        return told | {
            "crop": "LatentSync's alignment, lower half"
            if row.name == engines.STABLE_SYNCNET.name
            else "box of our detector, lower half",
            "window": f"{row.frames} frames, one every {row.every}",
            "padding": "none: only pairs that exist",
        }
    return told | {
        "crop": protocol,
        "padding": "lse_c, lse_d, offset_frames zero-padded as published; `unbiased` and "
        "audio_late_ms without padded pairs",
        "padded_share": f"{240 * len(counts) / (31 * count):.3f}" if count else "",
    }


def _network_segments(
    segments: Sequence[SyncSegment],
    windows: np.ndarray,
    table: np.ndarray,
    exists: np.ndarray,
    curve: ShiftCurve,
    row: Scorer,
) -> tuple[SyncSegment, ...]:
    """The same segments with what a network says of each."""
    result = []
    best = MAX_SHIFT - curve.offset_frames
    for segment in segments:
        inside = (windows >= segment.start) & (windows < segment.end)
        if not inside.any():
            result.append(segment)
            continue
        means = unbiased_means(table[inside], exists[inside])
        if not np.isfinite(means[best]):
            result.append(segment)
            continue
        middle = float(np.nanmedian(means))
        confidence = middle - float(means[best])
        state = segment.state
        own = MAX_SHIFT - int(np.nanargmin(means))
        certain = middle - float(np.nanmin(means)) >= row.likely + SURE * row.step
        if state in ("good", "weak", "off"):
            enough = WEAK_SHARE * max(curve.lse_c, row.likely)
            state = "good" if confidence >= enough else "weak"
            if certain and abs(own - curve.offset_frames) > 1:
                state = "off"
        result.append(
            replace(
                segment,
                state=state,
                lse_d=None if row.is_cosine else float(means[best]),
                confidence=confidence,
                offset_frames=own if certain else None,
            )
        )
    return tuple(result)


def _segments(
    watched: Watched,
    motion: MouthMotion,
    times: np.ndarray,
    heard: embedded.Heard,
    match: embedded.Match,
) -> tuple[SyncSegment, ...]:
    late = match.late_ms if match.confidence >= LIKELY else 0.0
    count = max(round(watched.duration / SEGMENT), 1)
    edges = np.linspace(0.0, watched.duration, count + 1)
    result = []
    for low, high in pairwise(edges.tolist()):
        rows = (watched.times >= low - 1e-9) & (watched.times < high - 1e-9)
        part = MouthMotion(
            speed=motion.speed[rows],
            opening=motion.opening[rows],
            width=motion.width[rows],
            gap=motion.gap[rows],
        )
        moments = times[rows] + late / 1000.0
        agreement = offset = None
        if not rows.any() or part.seen.mean() < 0.5:
            state = "no face"
        elif embedded.active_seconds(moments, heard, part.seen) < embedded.LEAST_SECONDS:
            state = "silent"
        else:
            agreement = embedded.agreement(part, moments, heard)
            state = "good" if agreement >= WEAK else "weak"
            own = embedded.match(part, times[rows], heard)
            if own.confidence >= embedded.ACCEPT:
                offset = -round(own.late_ms / FRAME_MS)
                if abs(own.late_ms - late) > OFF:
                    state = "off"
        result.append(
            SyncSegment(
                start=round(float(low), 3),
                end=round(float(high), 3),
                state=state,
                agreement=None if agreement is None else round(agreement, 3),
                offset_frames=offset,
            )
        )
    return tuple(result)


def course(motion: MouthMotion, moments: np.ndarray, heard: embedded.Heard) -> np.ndarray:
    """``(T,)`` agreement in a window of about three seconds around each frame, NaN where unknown."""
    mouth = embedded.signals(motion)
    voice = embedded.expected(heard, moments)
    inside = (moments >= 0.0) & (moments < heard.duration)
    known = np.isfinite(mouth[:, 0]) & inside
    rows = np.clip((moments * 100).astype(int), 0, len(heard.active) - 1)
    active = inside & heard.active[rows]
    step = float(np.median(np.diff(moments))) if len(moments) > 1 else 1.0
    reach = max(int(3.0 / step), 1)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / 0.9) ** 2)

    def local(values: np.ndarray) -> np.ndarray:
        # Computed through the spectrum: a long clip at once, and exact enough.
        size = len(values) + 2 * reach
        spectrum = np.fft.rfft(kernel, size)[:, None] * np.fft.rfft(values, size, axis=0)
        return np.fft.irfft(spectrum, size, axis=0)[reach : reach + len(values)]

    weight = known.astype(float)[:, None]
    mouth = np.where(known[:, None], mouth, 0.0)
    total = np.maximum(local(weight), 1e-6)
    mean_m, mean_v = local(mouth * weight) / total, local(voice * weight) / total
    cross = local(mouth * voice * weight) / total - mean_m * mean_v
    power = (local(mouth**2 * weight) / total - mean_m**2) * (
        local(voice**2 * weight) / total - mean_v**2
    )
    course = np.where(power > 1e-18, cross / np.sqrt(np.maximum(power, 1e-18)), 0.0)
    course = np.clip(course, -1.0, 1.0) @ embedded.WEIGHTS
    heard_share = local(active.astype(float)[:, None])[:, 0] / kernel.sum()
    seen_share = local(weight)[:, 0] / kernel.sum()
    return np.where((heard_share > 0.2) & (seen_share > 0.2), course, np.nan)


def _place(row: Scorer, device: str) -> str:
    """Where the network of ``row`` will run, which has to be ready: without torch no device is known."""
    row.found()
    return _device(device)


def _device(name: str) -> str:
    """A device that is there; SettingsError for one that is not."""
    from ..engines.latentsync import pick_device

    return str(pick_device(name))


def _unwatched(stage: str) -> Progress:
    def step(done: int, total: int, preview: np.ndarray | None = None) -> None:
        return None

    return step
