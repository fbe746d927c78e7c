"""What a score found, as one page that needs no network, and as one picture."""

from __future__ import annotations

import base64
import html
import io
import json
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from string import Template as Page
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..errors import MediaError
from ..faces import align
from ..faces.templates import draft_template
from ..types import Progress, SyncSegment
from . import embedded
from .sync import FRAME_MS, WEAK, WEAK_SHARE, Examination

if TYPE_CHECKING:
    from ..media.frame import Frame

log = logging.getLogger("lipsync.scoring")

WORDS = {
    "good": "fits",
    "weak": "does not fit",
    "off": "fits elsewhere",
    "silent": "no speech",
    "no face": "no face",
}
"""The states of a segment for people."""
_POINTS = 1400
"""Points of a curve at most; a screen shows no more."""
_PREVIEW = ((120.0, 480, 28), (600.0, 400, 31), (float("inf"), 320, 33))
"""Seconds up to which a clip is shown with this long side in pixels and this rate factor."""
_HOPELESS = 0.05
"""Confidence below which not even a best guess is shown."""
_STILLS = 4
_STILL_SIDE = 224
_PAGE = Path(__file__).with_name("report.html")


@dataclass(frozen=True, kw_only=True)
class Curves:
    """The curves of a report on common moments, thinned out to what can be shown."""

    times: np.ndarray
    """``(P,)`` seconds of the clip."""
    course: np.ndarray
    """-1..1, NaN where nothing can be said. From a network: .5 is the confidence of the whole clip."""
    weak: float
    """What ``course`` stays below where the mouth does not follow."""
    measured: np.ndarray
    """Opening of the mouth, 0..1 between its own extremes, NaN where not seen."""
    predicted: np.ndarray
    """Opening that the voice asks for, 0..1."""
    wave: np.ndarray
    """Peak of the sound, 0..1."""


def check(output: str | Path, *inputs: str | Path, overwrite: bool = False) -> None:
    """Refuses a place for a report before the long work begins."""
    output = Path(output)
    if output.suffix.lower() not in (".html", ".htm"):
        raise MediaError(f"{output} does not end in .html; give the report a name that does")
    if not output.parent.is_dir():
        raise MediaError(f"the folder {output.parent} does not exist; make it or give another")
    if output.is_dir() or (output.exists() and not overwrite):
        raise MediaError(f"{output} exists already; choose another name or pass --overwrite")
    for path in inputs:
        if output.exists() and output.samefile(path):
            raise MediaError(f"{output} is the input itself; choose another name")


def check_before(before: str | Path, video: str | Path) -> None:
    """Refuses a clip whose faces cannot be where those of ``video`` are."""
    from ..media.reader import probe

    one, other = probe(before), probe(video)
    if (one.width, one.height) != (other.width, other.height):
        raise MediaError(
            f"{before} has pictures of {one.width}x{one.height}, {video} of "
            f"{other.width}x{other.height}; --before needs the clip that it was made from"
        )


def write(
    found: Examination,
    output: str | Path,
    *,
    before: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Writes the page for ``found``: one file with preview, curves, stills and numbers in it.

    ``before``: the clip as it was, of the same timing, for stills side by side; it may end earlier.
    """
    output = Path(output)
    check(output, found.video, overwrite=overwrite)
    if before is not None:
        check_before(before, found.video)
    text = page(found, before=before, progress=progress)
    # A folder of our own beside the output: a temporary file would keep its private permissions.
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".lipsync-") as folder:
        unfinished = Path(folder) / "report.html"
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(output)


def page(
    found: Examination,
    *,
    before: str | Path | None = None,
    progress: Progress | None = None,
) -> str:
    """The page as text."""
    result = found.score
    curves = sample(found)
    preview = _preview(found, progress)
    duration = found.watched.duration
    marks = [s for s in result.segments if s.state in ("weak", "off")]
    late = result.audio_late_ms
    tiles = [
        ("Offset", _offset_words(late) if result.accepted else "unknown", _offset_note(found)),
        ("Confidence", f"{result.confidence:.0%}", "that mouth and voice belong together"),
        (
            "Segments",
            f"{sum(s.state == 'good' for s in result.segments)} of "
            f"{sum(s.state in ('good', 'weak', 'off') for s in result.segments)}",
            "stretches with speech where the mouth fits",
        ),
    ]
    tiles += _network_tile(found)
    state = "unknown" if not result.accepted else "good" if _calm(found) else "weak"
    data = {
        "duration": duration,
        "times": _short(curves.times, 3),
        "course": _short(curves.course, 3),
        "measured": _short(curves.measured, 3),
        "predicted": _short(curves.predicted, 3),
    }
    return Page(_PAGE.read_text(encoding="utf-8")).substitute(
        title=html.escape(found.video.name),
        voice=html.escape(found.audio.name if found.audio else "its own sound"),
        state=state,
        summary=html.escape(result.summary[0].upper() + result.summary[1:]),
        tiles="".join(
            f'<div class="tile"><b>{html.escape(head)}</b><span>{html.escape(value)}</span>'
            f"<small>{html.escape(note)}</small></div>"
            for head, value, note in tiles
        ),
        preview=(
            f'<video controls playsinline preload="auto" src="{preview}"></video>'
            if preview
            else "<p class=note>No preview: this FFmpeg build has no encoder for browsers.</p>"
        ),
        jumps="".join(
            f'<button class="jump {s.state.replace(" ", "-")}" data-time="{s.start}">'
            f"{_clock(s.start)} {WORDS[s.state]}</button>"
            for s in marks
        )
        or "<span class=note>No weak segment.</span>",
        course=_course_chart(curves, result.segments, duration),
        opening=_opening_chart(curves, result.segments, duration),
        wave=_wave_chart(curves, result.segments, duration),
        offset=_offset_chart(found),
        offset_title=(
            f"Distance at every shift ({found.scorer.title}; the valley is the answer)"
            if found.curve is not None
            else "Agreement at every shift (the peak is the answer)"
        ),
        heads="".join(f"<th>{html.escape(head)}</th>" for head in _heads(found)),
        segments="".join(_row(s, len(_heads(found))) for s in result.segments),
        stills=_stills(found, before),
        facts="".join(
            f"<tr><td>{html.escape(str(key))}</td><td>{html.escape(value)}</td></tr>"
            for key, value in _facts(found)
        ),
        data=json.dumps(data).replace("</", "<\\/"),
        result=html.escape(json.dumps(asdict(result), indent=1)),
    )


def sample(found: Examination, points: int = _POINTS) -> Curves:
    """The curves of a report."""
    watched, heard = found.watched, found.heard
    times = np.linspace(0.0, watched.duration, min(points, max(watched.frame_count, 2)))
    lead = float(found.voice_times[0] - watched.times[0]) if len(watched.times) else 0.0
    moments = times + lead
    course, weak = _at_frames(found.course, watched.times, times), WEAK
    if found.unbiased is not None and found.windows is not None:
        # A window stands for the middle of its frames.
        row = found.scorer
        middles = found.windows + row.frames / 50
        place = np.searchsorted(middles, times).clip(0, len(middles) - 1)
        near = np.abs(middles[place] - times) < 0.1 + max(row.frames / 50, row.every / 25)
        whole = max(found.unbiased.lse_c, row.likely)
        course = np.where(near, 0.5 * found.unbiased.confidence[place] / whole, np.nan)
        weak = 0.5 * WEAK_SHARE
    predicted = embedded.at(heard.opening, moments)
    predicted[(moments < 0.0) | (moments > heard.duration)] = 0.0
    return Curves(
        times=times,
        course=course,
        weak=weak,
        measured=np.clip(_at_frames(found.motion.openness, watched.times, times), -0.1, 1.15),
        predicted=np.clip(predicted, 0.0, 1.0),
        wave=_peaks(found, times, lead),
    )


def _at_frames(values: np.ndarray, frames: np.ndarray, times: np.ndarray) -> np.ndarray:
    place = np.clip(np.searchsorted(frames, times, side="right") - 1, 0, len(frames) - 1)
    return values[place]


def _peaks(found: Examination, times: np.ndarray, lead: float) -> np.ndarray:
    """Peak of the sound between each moment and the next, 0..1."""
    from ..media.audio import VoiceFile

    rate = 8000
    voice = VoiceFile(found.audio or found.video)
    fine = [np.abs(block[: len(block) // 80 * 80]).reshape(-1, 80).max(1) for block in
            voice.blocks(rate) if len(block) >= 80]  # fmt: skip
    if not fine:
        return np.zeros(len(times))
    peaks = np.concatenate(fine)
    edges = np.concatenate([times, [times[-1] + (times[1] - times[0])]]) + lead
    places = np.clip((edges * 100).astype(int), 0, len(peaks))
    result = np.array(
        [
            peaks[low : max(high, low + 1)].max(initial=0.0)
            for low, high in pairwise(places.tolist())
        ]
    )
    return result / max(float(peaks.max()), 1e-6)


# --- drawing, as SVG -------------------------------------------------------------------------

_WIDE = 1000


def _line(x: np.ndarray, y: np.ndarray, name: str) -> str:
    """A polyline, broken where ``y`` is not known."""
    parts, pen = [], "M"
    for one, other in zip(x, y, strict=True):
        if not np.isfinite(other):
            pen = "M"
            continue
        parts.append(f"{pen}{one:.1f} {other:.1f}")
        pen = "L"
    return f'<path class="{name}" d="{" ".join(parts)}"/>' if parts else ""


def _bands(segments: tuple[SyncSegment, ...], duration: float, height: int) -> str:
    return "".join(
        f'<rect class="band {s.state.replace(" ", "-")}" data-time="{s.start}" '
        f'x="{s.start / duration * _WIDE:.1f}" y="0" '
        f'width="{(s.end - s.start) / duration * _WIDE:.1f}" height="{height}">'
        f"<title>{_clock(s.start)} to {_clock(s.end)}: {WORDS[s.state]}</title></rect>"
        for s in segments
        if s.state != "good"
    )


def _chart(inner: str, height: int, name: str, label: str, ticks: str = "") -> str:
    return (
        f'<div class="chart" data-name="{name}"><svg viewBox="0 0 {_WIDE} {height}" role="img" '
        f'aria-label="{html.escape(label)}" preserveAspectRatio="none">{inner}'
        f'<line class="head" x1="0" x2="0" y1="0" y2="{height}"/></svg>'
        f'{ticks}<span class="read"></span></div>'
    )


def _course_chart(curves: Curves, segments: tuple[SyncSegment, ...], duration: float) -> str:
    height = 150
    x = curves.times / duration * _WIDE
    y = (1.0 - (np.clip(curves.course, -0.4, 1.0) + 0.4) / 1.4) * height
    weak = (1.0 - (curves.weak + 0.4) / 1.4) * height
    zero = (1.0 - 0.4 / 1.4) * height
    inner = (
        _bands(segments, duration, height)
        + f'<line class="grid" x1="0" x2="{_WIDE}" y1="{zero:.1f}" y2="{zero:.1f}"/>'
        + f'<line class="limit" x1="0" x2="{_WIDE}" y1="{weak:.1f}" y2="{weak:.1f}"/>'
        + _line(x, y, "course")
    )
    return _chart(inner, height, "course", "Agreement of mouth and voice over time")


def _opening_chart(curves: Curves, segments: tuple[SyncSegment, ...], duration: float) -> str:
    height = 130
    x = curves.times / duration * _WIDE
    inner = (
        _bands(segments, duration, height)
        + _line(x, (1.06 - curves.predicted * 0.92) * height * 0.94, "predicted")
        + _line(x, (1.06 - curves.measured * 0.92) * height * 0.94, "measured")
    )
    return _chart(inner, height, "opening", "Measured and predicted opening of the mouth")


def _wave_chart(curves: Curves, segments: tuple[SyncSegment, ...], duration: float) -> str:
    height = 70
    x = curves.times / duration * _WIDE
    half = height / 2
    top = [f"{a:.1f} {half - b * half * 0.95:.1f}" for a, b in zip(x, curves.wave, strict=True)]
    low = [f"{a:.1f} {half + b * half * 0.95:.1f}" for a, b in zip(x, curves.wave, strict=True)]
    inner = (
        _bands(segments, duration, height)
        + f'<path class="wave" d="M{" L".join([*top, *reversed(low)])} Z"/>'
    )
    ticks = "".join(
        f'<span class="tick" style="left:{t / duration * 100:.2f}%">{_clock(t)}</span>'
        for t in _ticks(duration)
    )
    return _chart(
        inner, height, "wave", "Loudness of the voice", f'<div class="ticks">{ticks}</div>'
    )


def _ticks(duration: float) -> np.ndarray:
    step = next(
        (s for s in (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600) if duration / s <= 10), 1200
    )
    return np.arange(0.0, duration * 0.985, step)


def _offset_curve(found: Examination) -> tuple[np.ndarray, np.ndarray, bool]:
    """Milliseconds that the sound is later, the curve, and whether its valley is the answer."""
    if found.unbiased is not None:
        values = found.unbiased.distances
        reach = len(values) // 2
        return (np.arange(len(values)) - reach) * FRAME_MS, values, True
    return embedded.LAGS.astype(float), found.match.agreement, False


def _reach(found: Examination, values: np.ndarray, valley: bool) -> tuple[float, float]:
    """Lowest and highest value of the axis: a curve that says nothing must look flat."""
    low, high = float(values.min()), float(values.max())
    if valley:
        return low, max(high, low + found.scorer.likely)
    return min(low, -0.2), max(high, 0.6)


def _offset_chart(found: Examination) -> str:
    height, left = 210, 44
    late, values, valley = _offset_curve(found)
    known = np.isfinite(values)
    low, high = _reach(found, values[known], valley)
    room = (high - low) * 0.08 or 1.0
    low, high = low - room, high + room
    span = _WIDE - left - 10

    def across(ms: float | np.ndarray) -> Any:
        return left + (ms - late[0]) / (late[-1] - late[0]) * span

    def down(value: float | np.ndarray) -> Any:
        return (high - value) / (high - low) * (height - 26)

    parts = []
    for ms in range(-600, 601, 200):
        parts.append(
            f'<line class="grid" x1="{across(ms):.1f}" x2="{across(ms):.1f}" y1="0" y2="{height - 26}"/>'
            f'<text x="{across(ms):.1f}" y="{height - 8}" '
            f'text-anchor="{"end" if ms == 600 else "middle"}">'
            f"{'in sync' if ms == 0 else f'{ms:+d} ms'}</text>"
        )
    for value in np.linspace(low + room, high - room, 4):
        parts.append(
            f'<text x="{left - 6}" y="{down(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>'
        )
    parts.append(_line(across(late), down(values), "course"))
    at = found.score.audio_late_ms
    where = int(np.argmin(np.abs(late - at)))
    if known[where]:
        parts.append(
            f'<circle class="best{"" if found.score.accepted else " unsure"}" cx="{across(at):.1f}" cy="{down(values[where]):.1f}" r="6"/>'
        )
    return (
        f'<svg class="offset" viewBox="0 0 {_WIDE} {height}" role="img" '
        f'aria-label="How well mouth and voice agree if the sound is moved">{"".join(parts)}</svg>'
        '<div class="ends"><span>sound too early</span><span>sound too late</span></div>'
    )


# --- words -----------------------------------------------------------------------------------


def details(found: Examination) -> list[str]:
    """What a person may want to know besides the sentence, one line each."""
    result = found.score
    lines = []
    if result.lse_c is not None and result.lse_d is not None and result.unbiased is not None:
        lines.append(
            f"SyncNet v2: LSE-C {result.lse_c:.3f}, LSE-D {result.lse_d:.3f}, offset "
            f"{result.offset_frames:+d} frames (unpadded {result.unbiased['lse_c']:.3f}, "
            f"{result.unbiased['lse_d']:.3f}, {result.unbiased['offset_frames']:+.0f})"
        )
    elif result.similarity is not None:
        lines.append(
            f"{found.scorer.title}: cosine {result.similarity:.3f} at the best shift, "
            f"{result.similarity_gain:.3f} above the median of all, offset "
            f"{result.offset_frames:+d} frames in SyncNet's sign"
        )
    elif found.scorer.weights:
        lines.append(f"{found.scorer.title}: nothing could be measured")
    else:
        lines.append(
            f"embedded estimate: sound {result.audio_late_ms:+.0f} ms late, offset "
            f"{result.offset_frames:+d} frames in SyncNet's sign, from "
            f"{result.speech_seconds:.1f} s of speech"
        )
    for segment in result.segments:
        if segment.state in ("weak", "off"):
            own = ""
            if segment.state == "off" and segment.offset_frames is not None:
                own = f", there {segment.offset_frames:+d} frames"
            lines.append(f"{segment.start:.1f}-{segment.end:.1f} s: {segment.state}{own}")
    return lines


def _network_tile(found: Examination) -> list[tuple[str, str, str]]:
    result = found.score
    if result.lse_c is not None and result.lse_d is not None:
        note = "LSE-C (higher is better) / LSE-D (lower is better)"
        return [("SyncNet v2", f"{result.lse_c:.2f} / {result.lse_d:.2f}", note)]
    if result.similarity is not None:
        note = "likeness of mouth and sound, 0 to 1; and what their timing adds to it"
        return [
            (found.scorer.title, f"{result.similarity:.2f} / +{result.similarity_gain:.2f}", note)
        ]
    return []


def _clock(moment: float) -> str:
    return f"{int(moment // 60)}:{moment % 60:04.1f}"


def _offset_words(late: float) -> str:
    if abs(late) < 10:
        return "none"
    return f"{abs(late):.0f} ms {'late' if late > 0 else 'early'}"


def _offset_note(found: Examination) -> str:
    if found.score.confidence < _HOPELESS:
        return "nothing stands out"
    if not found.score.accepted:
        return f"best guess {_offset_words(found.score.audio_late_ms)}, not certain"
    if abs(found.score.audio_late_ms) < 10:
        return "mouth and sound come together"
    frames = abs(found.score.audio_late_ms) / FRAME_MS
    return f"of the sound; {frames:.1f} frames of a film with 25 a second"


def _calm(found: Examination) -> bool:
    return abs(found.score.audio_late_ms) <= 1.5 * FRAME_MS and not any(
        s.state in ("weak", "off") for s in found.score.segments
    )


def _heads(found: Examination) -> list[str]:
    """Columns of the table of segments; the last one only where a network judged."""
    heads = ["time", "state", "agreement (-1 to 1)", "own offset (frames)"]
    return [*heads, f"{found.scorer.title}, confidence"] if found.scorer.weights else heads


def _row(segment: SyncSegment, columns: int) -> str:
    cells = [
        f'<button class="jump" data-time="{segment.start}">{_clock(segment.start)} to '
        f"{_clock(segment.end)}</button>",
        f'<span class="dot {segment.state.replace(" ", "-")}"></span>{WORDS[segment.state]}',
        "" if segment.agreement is None else f"{segment.agreement:.2f}",
        "" if segment.offset_frames is None else f"{segment.offset_frames:+d}",
        "" if segment.confidence is None else f"{segment.confidence:.2f}",
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells[:columns]) + "</tr>"


def _facts(found: Examination) -> Iterator[tuple[str, str]]:
    result = found.score
    yield "measured by", found.scorer.title
    yield (
        "offset in SyncNet's sign",
        f"{result.offset_frames:+d} frames of 40 ms (plus: sound early)",
    )
    unsure = "" if result.accepted else " (not certain)"
    yield "sound is late by", f"{result.audio_late_ms:+.1f} ms{unsure}"
    if result.lse_c is not None and result.lse_d is not None:
        yield "LSE-C, LSE-D (zero-padded, as published)", f"{result.lse_c:.3f}, {result.lse_d:.3f}"
    if result.similarity is not None:
        yield (
            "cosine of mouth and sound, at the best shift and above the median",
            f"{result.similarity:.3f}, {result.similarity_gain:+.3f}",
        )
    if result.unbiased is not None:
        values = result.unbiased
        yield (
            "the same without padded comparisons",
            f"{values['lse_c']:.3f}, {values['lse_d']:.3f}, {values['offset_frames']:+.0f} frames",
        )
    yield "speech with a visible face", f"{result.speech_seconds:.1f} s"
    yield "frames", f"{result.frames} at {float(found.watched.clip.frame_rate):.3f} a second"
    yield "face", ", ".join(f"{key} {value}" for key, value in result.face.items())
    yield from result.protocol.items()


def _short(values: np.ndarray, digits: int) -> list[float | None]:
    return [round(float(v), digits) if np.isfinite(v) else None for v in values]


# --- pictures --------------------------------------------------------------------------------


def moments(found: Examination) -> list[tuple[float, str]]:
    """Times worth a look, with a word each: the weakest of each weak segment, and the best of all."""
    times = found.watched.times
    chosen: list[tuple[float, str]] = []
    weak = [s for s in found.score.segments if s.state in ("weak", "off")]
    for segment in sorted(weak, key=lambda s: s.agreement or 0.0)[: _STILLS - 1]:
        inside = (times >= segment.start) & (times < segment.end) & np.isfinite(found.course)
        if inside.any():
            place = int(np.flatnonzero(inside)[np.argmin(found.course[inside])])
            chosen.append((float(times[place]), WORDS[segment.state]))
    if np.isfinite(found.course).any():
        chosen.append((float(times[int(np.nanargmax(found.course))]), "fits best"))
    opening = found.motion.openness
    if np.isfinite(opening).any():
        widest = int(np.nanargmax(opening))
        chosen.append((float(times[widest]), "widest open"))
        if len(chosen) < _STILLS:
            chosen.append((float(times[int(np.nanargmin(opening))]), "most closed"))
    return sorted(chosen)


def _stills(found: Examination, before: str | Path | None) -> str:
    wanted = moments(found)
    if not wanted:
        return "<p class=note>No moment to show.</p>"
    places = [int(np.argmin(np.abs(found.watched.times - moment))) for moment, _ in wanted]
    rows = [("", _cut(found.video, found, places))]
    if before is not None:
        rows = [("before", _cut(Path(before), found, places)), ("after", rows[0][1])]
    result = []
    for number, (moment, word) in enumerate(wanted):
        # A clip that ended before its voice did has no picture of its own at the later moments.
        pictures = "".join(
            "<div>"
            + (
                f'<img alt="{label or word}" src="{_jpeg(crops[places[number]])}">'
                if places[number] in crops
                else '<p class="none">the clip had ended</p>'
            )
            + (f"<small>{label}</small>" if label else "")
            + "</div>"
            for label, crops in rows
        )
        kind = ' class="pair"' if before is not None else ""
        result.append(
            f'<figure{kind}>{pictures}<figcaption><button class="jump" data-time="{moment:.3f}">'
            f"{_clock(moment)}</button> {word}</figcaption></figure>"
        )
    return "".join(result)


def _cut(video: Path, found: Examination, places: list[int]) -> dict[int, np.ndarray]:
    """Upright face crops of these frames, as far as ``video`` has them; a still stands for all."""
    from ..media.reader import Reader, probe

    still = probe(video).is_still
    reader = Reader(video, start=None if still else found.watched.start or None)
    template = draft_template(_STILL_SIDE)
    matrices = align.fit(found.track.points, template, float(found.watched.clip.sar))
    if still:
        (frame,) = reader.follow([0])
        return {place: align.cut(frame, matrices[place], _STILL_SIDE) for place in places}
    wanted, last = set(places), max(places)
    shown = {}
    for frame in reader.frames():
        if frame.index > last:
            break
        if frame.index in wanted:
            shown[frame.index] = align.cut(frame, matrices[frame.index], _STILL_SIDE)
    return shown


def _jpeg(picture: np.ndarray) -> str:
    done, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 86])
    assert done
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _preview(found: Examination, progress: Progress | None) -> str | None:
    """The clip, small, as a data address; None where nothing that browsers play can be encoded."""
    import av

    from ..media.reader import Reader, prefetch

    codec, sound, kind = "libx264", "aac", "mp4"
    if codec not in av.codecs_available:
        codec, sound, kind = "libvpx", "libopus", "webm"
        if codec not in av.codecs_available or sound not in av.codecs_available:
            return None
    watched = found.watched
    _, side, factor = next(row for row in _PREVIEW if watched.duration <= row[0])
    reader = Reader(found.video, start=watched.start or None)
    ticks = 90_000
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as target:
        video: Any = target.add_stream(codec, rate=round(watched.clip.frame_rate) or 25)
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = Fraction(1, ticks)
        video.options = {"crf": str(factor), "preset": "veryfast"} if kind == "mp4" else {}
        voice: Any = target.add_stream(sound, rate=48_000 if sound == "libopus" else 44_100)
        voice.layout = "mono"
        voice.bit_rate = 64_000
        blocks = _spoken(found, voice.rate)
        heard = 0.0
        for frame in prefetch(reader.frames()):
            if frame.index >= watched.frame_count:
                break
            picture = _even(frame, side, watched.clip.sar)
            if frame.index == 0:
                video.height, video.width = picture.shape[:2]
            image = av.VideoFrame.from_ndarray(picture, format="rgb24")
            image.pts = round(frame.time * ticks)
            image.time_base = Fraction(1, ticks)
            target.mux(video.encode(image))
            while heard <= float(frame.time):
                block = next(blocks, None)
                if block is None:
                    break
                heard = _say(target, voice, block, heard)
            if progress is not None:
                progress(frame.index + 1, watched.frame_count)
        for block in blocks:
            heard = _say(target, voice, block, heard)
        target.mux(video.encode(None))
        target.mux(voice.encode(None))
    return f"data:video/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _even(frame: Frame, side: int, sar: Fraction) -> np.ndarray:
    picture = frame.reduced(side)
    height, width = picture.shape[:2]
    size = (max(round(width * float(sar)) // 2 * 2, 2), max(height // 2 * 2, 2))
    if size != (width, height):
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(picture)


def _say(target: Any, stream: Any, block: np.ndarray, heard: float) -> float:
    import av

    frame = av.AudioFrame.from_ndarray(block[None].astype(np.float32), format="fltp", layout="mono")
    frame.sample_rate = stream.rate
    frame.time_base = Fraction(1, stream.rate)
    frame.pts = round(heard * stream.rate)
    target.mux(stream.encode(frame))
    return heard + len(block) / stream.rate


def _spoken(found: Examination, rate: int) -> Iterator[np.ndarray]:
    """The voice as it is heard with the picture, from the first frame to the last."""
    from ..media.audio import VoiceFile

    lead = float(found.voice_times[0] - found.watched.times[0])
    skip = round(lead * rate)
    room = round(found.watched.duration * rate)
    if skip < 0:
        silence = min(-skip, room)
        room -= silence
        yield np.zeros(silence, np.float32)
    for block in VoiceFile(found.audio or found.video).blocks(rate):
        drop = min(max(skip, 0), len(block))
        skip -= drop
        block = block[drop : drop + room]
        room -= len(block)
        if len(block):
            yield block
        if room <= 0:
            return


def picture(found: Examination, width: int = 960) -> np.ndarray:
    """The report as one picture, ``(H, W, 3)`` uint8 RGB: words, offset curve, agreement, mouth, sound."""
    height = 720
    image = np.full((height, width, 3), 250, np.uint8)
    ink, faint = (35, 38, 45), (205, 208, 214)
    good, bad, blue = (28, 138, 88), (205, 70, 60), (38, 98, 196)
    result = found.score

    def write_text(text: str, x: int, y: int, size: float = 0.5, colour: Any = ink) -> None:
        # OpenCV's fonts know ASCII only.
        text = text.encode("ascii", "replace").decode()
        cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)

    def draw(x: np.ndarray, y: np.ndarray, colour: Any, thick: int = 1) -> None:
        known = np.isfinite(y)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], known.astype(int), [0]])))
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            points = np.stack([x[start:end], y[start:end]], 1)
            cv2.polylines(
                image, [np.round(points * 8).astype(np.int32)], False, colour, thick, cv2.LINE_AA, 3
            )

    left, right = 60, width - 24
    write_text(found.video.name[:80], left, 34, 0.6)
    for number, line in enumerate(_wrapped(result.summary, max((width - 90) // 9, 20))[:2]):
        write_text(line, left, 62 + 22 * number, 0.52, good if result.accepted else bad)
    curves = sample(found, right - left)
    x = left + curves.times / found.watched.duration * (right - left)

    def frame_of(top: int, bottom: int, title: str, marked: bool = True) -> None:
        if marked:
            for s in result.segments:
                if s.state in ("weak", "off"):
                    a, b = (
                        round(left + t / found.watched.duration * (right - left))
                        for t in (s.start, s.end)
                    )
                    cv2.rectangle(image, (a, top), (b, bottom), (250, 222, 216), -1)
        cv2.rectangle(image, (left, top), (right, bottom), faint, 1)
        write_text(title, left, top - 7, 0.42, (95, 100, 110))

    late, values, valley = _offset_curve(found)
    known = np.isfinite(values)
    title = (
        f"distance by {found.scorer.title} if the sound is moved"
        if valley
        else "agreement if the sound is moved"
    )
    frame_of(118, 278, f"{title} (ms; right: the sound is late)", marked=False)
    low, high = _reach(found, values[known], valley)
    across = left + (late - late[0]) / (late[-1] - late[0]) * (right - left)
    down = 272 - (values - low) / max(high - low, 1e-9) * 148
    for ms in range(-600, 601, 200):
        place = round(left + (ms - late[0]) / (late[-1] - late[0]) * (right - left))
        cv2.line(image, (place, 118), (place, 278), faint, 1)
        label = f"{ms:+d}" if ms else "0"
        write_text(label, place - 4 * len(label), 294, 0.38)
    draw(across, down, blue, 2)
    where = int(np.argmin(np.abs(late - result.audio_late_ms)))
    centre = (round(float(across[where])), round(float(down[where])))
    cv2.circle(image, centre, 5, good if result.accepted else bad, -1, cv2.LINE_AA)
    frame_of(330, 440, "agreement over time (red: weak)")
    draw(x, 436 - (np.clip(curves.course, -0.4, 1.0) + 0.4) / 1.4 * 102, blue, 2)
    frame_of(476, 586, "mouth: measured (dark) and what the voice asks for (blue)")
    draw(x, 580 - curves.predicted * 96, (120, 160, 230), 1)
    draw(x, 580 - np.clip(curves.measured, 0, 1.05) * 96, ink, 1)
    frame_of(622, 690, "sound")
    for place, peak in zip(np.round(x).astype(int), curves.wave, strict=True):
        half = round(float(peak) * 32)
        cv2.line(image, (int(place), 656 - half), (int(place), 656 + half), (130, 136, 148), 1)
    for moment in _ticks(found.watched.duration):
        place = round(left + moment / found.watched.duration * (right - left))
        write_text(_clock(float(moment)), place, 708, 0.38)
    return image


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width) or [""]
