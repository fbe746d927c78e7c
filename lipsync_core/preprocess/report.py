"""What was kept, what was not and why: a page to look at, and the same as CSV."""

from __future__ import annotations

import base64
import csv
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import LipSyncError
from . import STEPS
from .manifest import NAME, Manifest
from .step import FPS
from .thumbs import jpeg
from .write import CLIPS, HELD

EXAMPLES = 8
"""Pictures beside each reason, and of clips that were kept."""
MOST = 20_000
"""Values that a histogram is made of; more look the same."""
BARS = 24
"""At most, in a histogram."""
_MADE = ("shots", "segments", "clips")
CHARTS = [
    ("seconds", "duration", "s"),
    ("yaw", "head turned aside (yaw)", "degrees, estimated"),
    ("roll", "head tilted (roll)", "degrees"),
    ("offset_frames", "sound and lips apart, before correction", "frames of 40 ms"),
    ("sync_confidence", "confidence of the sync", "SyncNet, or 0..1 of the embedded estimate"),
    ("sharpness", "sharpness", "fine detail per contrast"),
    ("brightness", "brightness", "0..255"),
    ("face_px", "height of the crop in the source", "px"),
    ("blockiness", "blocks of compression", "1: none"),
    ("hyperiqa", "HyperIQA", "about 0..100"),
]
LIMITS = {
    "offset_frames": (("av_sync", "max_offset", -1), ("av_sync", "max_offset", 1)),
    "sharpness": (("quality", "min_sharpness", 1),),
    "brightness": (("quality", "min_brightness", 1), ("quality", "max_brightness", 1)),
    "face_px": (("quality", "min_face", 1),),
    "blockiness": (("quality", "max_blockiness", 1),),
    "hyperiqa": (("quality", "min_hyperiqa", 1),),
}
"""Settings that a chart shows as lines, and their sign; the sync's confidence has two, by engine."""


@dataclass
class Stage:
    """One line of the funnel."""

    taken: int = 0
    kept: int = 0
    rejected: int = 0
    failed: int = 0
    made: int = 0
    """Samples that came out: a stream may become many shots, a shot many segments."""
    frames: int = 0
    """That came out, 1/25 s each."""
    seconds: float = 0.0
    """CPU time."""


@dataclass
class Reason:
    """Rejections that differ in their numbers alone."""

    step: str
    text: str
    """The first of them, in full."""
    count: int = 0
    seconds: float = 0.0
    """Of video."""
    samples: list[tuple[str, str]] = field(default_factory=list)
    """Sample and file of a few."""


@dataclass
class Summary:
    """Everything that the page and the tables are made of."""

    files: Counter[str] = field(default_factory=Counter)
    file_rows: list[dict[str, Any]] = field(default_factory=list)
    stages: dict[str, Stage] = field(default_factory=lambda: {row.name: Stage() for row in STEPS})
    reasons: dict[tuple[str, str], Reason] = field(default_factory=dict)
    values: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Of clips that passed everything."""
    refused: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Of those that did not."""
    found_seconds: float = 0.0
    """Of video in all files that could be read."""
    damaged_seconds: float = 0.0
    """Of video that could not be read and is part of no clip."""
    damaged_files: int = 0
    ended_early: int = 0
    """Files of which only the beginning could be read."""
    mended_sound: int = 0
    """Files whose sound has holes."""
    kept: list[tuple[str, str]] = field(default_factory=list)
    engine: str = ""

    @property
    def hours(self) -> float:
        """Of clips that passed everything."""
        return self.stages["write"].frames / FPS / 3600


def write_report(output: Path, folder: Path) -> Path:
    """``index.html``, ``funnel.csv``, ``files.csv`` and ``samples.csv`` in ``folder``; the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    with Manifest(output / NAME) as manifest:
        summary = summarise(manifest)
        thumbs = manifest.thumbs()
        _write_csv(folder / "samples.csv", _sample_rows(manifest))
    _write_csv(folder / "files.csv", summary.file_rows)
    _write_csv(folder / "funnel.csv", _funnel_rows(summary))
    page = folder / "index.html"
    part = page.with_suffix(".part")
    text = _page(summary, thumbs, output, _config(output))
    part.write_text(text, encoding="utf-8", errors="backslashreplace")
    part.replace(page)
    return page


def summarise(manifest: Manifest) -> Summary:
    """Counts a manifest. Descendants of a file that was turned away count nowhere."""
    summary = Summary(engine=str(manifest.fact("sync_engine") or ""))
    sources = {source["key"]: source for source in manifest.sources()}
    clips: Counter[str] = Counter()
    frames: Counter[str] = Counter()
    reasons: dict[str, str] = {}
    away = ""
    damaged: dict[str, float] = {}
    measured = _Measured(summary)
    for one in manifest.rows():
        metrics, step, stage = one["metrics"], one["step"], summary.stages.get(one["step"])
        if stage is None:
            continue
        stage.seconds += one["seconds"]
        measured.see(one)
        if step == "broken":
            summary.found_seconds += metrics.get("seconds", 0)
            summary.mended_sound += bool(metrics.get("sound_mended"))
        if step == "resample":
            damaged[one["source"]] = metrics.get("damaged_seconds", 0)
            summary.damaged_files += bool(metrics.get("damaged") or damaged[one["source"]])
            summary.damaged_seconds += damaged[one["source"]]
            summary.ended_early += "ended_early" in metrics
        if step == "broken" and one["state"] == "rejected":
            away = one["source"]
        if one["state"] == "skipped" or (away == one["source"] and step != "broken"):
            continue
        # What is left at the end of a shot is rejected as a sample of its own.
        stage.taken += not (step == "segment" and one["state"] == "rejected")
        length = one["frames"] or round(metrics.get("seconds", 0) * FPS)
        if one["state"] != "kept":
            # The shot that it was the end of counts with all its frames.
            stage.frames -= length if step == "segment" else 0
            stage.rejected += one["state"] == "rejected"
            stage.failed += one["state"] == "failed"
            reasons.setdefault(one["source"], one["reason"])
            path = sources.get(one["source"], {}).get("path", "")
            _note(summary, step, one["reason"], length / FPS, one["sample"], path)
            continue
        stage.kept += 1
        stage.made += next((metrics[name] for name in _MADE if name in metrics), 1)
        stage.frames += (
            round(metrics["kept_seconds"] * FPS) if "kept_seconds" in metrics else length
        )
        if step == "write":
            clips[one["source"]] += 1
            frames[one["source"]] += one["frames"]
            # One of each file: they are to show how much there is to see.
            if len(summary.kept) < 2 * EXAMPLES and clips[one["source"]] == 1:
                summary.kept.append((one["sample"], metrics["file"]))
    measured.end()
    for file in manifest.files():
        source = sources.get(file.key, {})
        state, reason = file.state, file.reason
        if state == "read":
            state = "kept" if clips[file.key] else str(source.get("state", "waiting"))
            state = {"done": "rejected", "open": "waiting"}.get(state, state)
            reason = "" if state == "kept" else source.get("reason") or reasons.get(file.key, "")
        summary.files[state] += 1
        own = file.key if state == "kept" else ""
        summary.file_rows.append(
            {
                "path": file.path,
                "state": state,
                "reason": reason,
                "clips": clips[own],
                "kept_seconds": frames[own] / FPS,
                "damaged_seconds": damaged.get(own, 0),
                "key": file.key,
                "bytes": file.size,
                "cpu_seconds": round(source.get("seconds") or 0, 2),
            }
        )
        if state in ("unreadable", "failed", "gone"):
            _note(summary, "files", reason, 0, "", file.path)
    return summary


def _note(summary: Summary, step: str, text: str, seconds: float, sample: str, path: str) -> None:
    """Groups by the words of a reason; its numbers and names in quotes may differ."""
    name = Path(path).name
    plain = text.replace(name, "the file") if name else text
    kind = re.sub(r"'[^']*'|\d+(\.\d+)?%?", "#", plain)
    reason = summary.reasons.setdefault((step, kind), Reason(step, plain))
    reason.count += 1
    reason.seconds += seconds
    if len(reason.samples) < EXAMPLES:
        reason.samples.append((sample, name))


class _Measured:
    """Sorts what was measured of clips by whether they passed in the end; holds one source at a time."""

    def __init__(self, summary: Summary) -> None:
        self._summary = summary
        self._source = ""
        self._clips: dict[str, dict[str, Any]] = {}
        self._passed: set[str] = set()

    def see(self, row: dict[str, Any]) -> None:
        if row["source"] != self._source:
            self.end()
            self._source = row["source"]
        if row["step"] in ("av_sync", "quality", "write"):
            known = self._clips.setdefault(row["sample"], {"seconds": row["frames"] / FPS})
            known.update(row["metrics"])
            if row["step"] == "write" and row["state"] == "kept":
                self._passed.add(row["sample"])

    def end(self) -> None:
        for clip, metrics in self._clips.items():
            into = self._summary.values if clip in self._passed else self._summary.refused
            for name, *_ in CHARTS:
                value = metrics.get(name)
                if isinstance(value, (int, float)) and math.isfinite(value):
                    values = into[name]
                    if len(values) < MOST:
                        # no minus in front of nothing
                        values.append(float(value) + 0.0)
        self._clips, self._passed = {}, set()


def _funnel_rows(summary: Summary) -> list[dict[str, Any]]:
    total = sum(stage.seconds for stage in summary.stages.values()) or 1.0
    return [
        {
            "step": row.name,
            "what": row.title,
            "in": stage.taken,
            "kept": stage.kept,
            "made": stage.made,
            "rejected": stage.rejected,
            "failed": stage.failed,
            "hours_out": round(stage.frames / FPS / 3600, 4),
            "cpu_seconds": round(stage.seconds, 2),
            "cpu_share": round(stage.seconds / total, 4),
        }
        for row in STEPS
        if (stage := summary.stages[row.name]).taken or stage.seconds
    ]


def _sample_rows(manifest: Manifest) -> Iterable[dict[str, Any]]:
    names = ("sample", "step", "parent", "state", "reason", "seconds", "first", "frames")
    for one in manifest.rows():
        yield {**{name: one[name] for name in names}, "metrics": one["metrics"]}


def _write_csv(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    part = path.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer: csv.DictWriter[str] | None = None
        for one in rows:
            if writer is None:
                writer = csv.DictWriter(file, list(one))
                writer.writeheader()
            writer.writerow(one)
    part.replace(path)


def _config(output: Path) -> dict[str, Any]:
    """The settings of the latest run; empty where they are not known."""
    try:
        return json.loads((output / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _page(
    summary: Summary, thumbs: dict[str, bytes], output: Path, config: dict[str, Any] | None = None
) -> str:
    count = sum(summary.files.values())
    clips = summary.stages["write"].kept
    kept = summary.stages["write"].frames / FPS
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width,initial-scale=1'>",
        f"<title>Preprocessing: {clips} clips</title><style>{_STYLE}</style><body>",
        "<header><h1>Preprocessing</h1>",
        f"<p class=small>{escape(str(output.resolve()))}</p></header>",
        _tiles(summary, clips, kept, count),
        _files(summary, count),
        "<h2>Funnel</h2>",
        _funnel(summary),
        "<h2>Why samples were left out</h2>",
        _reasons(summary, thumbs, output),
    ]
    if summary.kept:
        pictures = [
            _figure(thumb, Path(name).stem.rpartition("-")[0].rpartition("-")[0])
            for _, name in summary.kept
            if (thumb := _from_file(output / CLIPS / name)) is not None
        ]
        parts += ["<h2>Some that were kept</h2>", f"<div class=row>{''.join(pictures)}</div>"]
    charts = [
        _histogram(
            summary.values[name],
            summary.refused[name],
            title,
            unit,
            _limits(name, config or {}, summary.engine),
        )
        for name, title, unit in CHARTS
        if summary.values.get(name) or summary.refused.get(name)
    ]
    parts += [
        "<h2>Histograms</h2>",
        "<p class='small legend'><i class=kept></i>kept <i class=out></i>left out "
        "<i class=limit></i>limit of the settings</p>"
        if charts
        else "",
        f"<div class=charts>{''.join(charts) or 'no clip was measured'}</div>",
    ]
    parts.append(
        "<footer class=small>Tables: <a href=funnel.csv>funnel.csv</a>, "
        "<a href=files.csv>files.csv</a> (every file, duplicates too), "
        "<a href=samples.csv>samples.csv</a> (every sample at every step). Another limit is tried "
        "with the same command and <code>--set</code>; nothing is computed again for it.</footer>"
    )
    return "\n".join(parts)


def _tiles(summary: Summary, clips: int, kept: float, count: int) -> str:
    """What one wants to know first."""
    engine = {"syncnet_v2": "SyncNet v2", "embedded": "lip speed (no weights)"}
    cpu = sum(stage.seconds for stage in summary.stages.values())
    # what a file says of its length may be a frame short of what it holds
    found = max(kept, summary.found_seconds)
    tiles = [
        (_time(kept), f"kept of {_time(found)} of video"),
        (f"{clips:,}", "clips"),
        (f"{count:,}", "files looked at"),
        (
            f"{60 * clips / cpu:.1f}" if cpu else "-",
            f"clips kept per core-minute; {_time(cpu)} of CPU",
        ),
        (engine.get(summary.engine, "not judged"), "judged the sync"),
    ]
    cells = [f"<div><b>{escape(big)}</b><span>{escape(small)}</span></div>" for big, small in tiles]
    return f"<div class=tiles>{''.join(cells)}</div>"


def _files(summary: Summary, count: int) -> str:
    """What became of the files, and what could not be read of them."""
    order = ("kept", "rejected", "duplicate", "unreadable", "failed")
    states = sorted(
        summary.files.items(), key=lambda one: order.index(one[0]) if one[0] in order else 9
    )
    bar = "".join(
        f"<i class='{escape(state)}' style='flex:{number}' title='{number} {escape(state)}'></i>"
        for state, number in states
    )
    said = ", ".join(f"{number} {escape(state)}" for state, number in states)
    lines = (
        [f"<div class=share>{bar}</div><p class=small>Files: {said or 'none'}.</p>"]
        if count
        else []
    )
    if summary.damaged_files:
        lost = _time(summary.damaged_seconds)
        lines.append(
            f"<p>The pictures of {_counted(summary.damaged_files)} are damaged: {lost} of video could not be read "
            "and is cut out; no clip shows what stands in for it.</p>"
        )
    if summary.ended_early:
        lines.append(
            f"<p>Of {_counted(summary.ended_early)} only the beginning could be read, and is used.</p>"
        )
    if summary.mended_sound:
        lines.append(
            f"<p>The sound of {_counted(summary.mended_sound)} has holes, and is silent there.</p>"
        )
    return "\n".join(lines)


def _counted(files: int) -> str:
    return "1 file" if files == 1 else f"{files} files"


def _funnel(summary: Summary) -> str:
    rows = _funnel_rows(summary)
    most = max([summary.found_seconds / 3600, *(row["hours_out"] for row in rows)]) or 1
    lines = [
        "<div class=scroll><table><tr><th>step<th>video that is left<th class=n>in<th class=n>out"
        "<th class=n>rejected<th class=n>failed<th class=n>CPU</tr>"
    ]
    for row in rows:
        width = 100 * row["hours_out"] / most
        lines.append(
            f"<tr><td><b>{escape(row['step'])}</b><br><span class=small>{escape(row['what'])}</span>"
            f"<td class=bar><i style='width:{width:.1f}%'></i>"
            f"<span>{_time(row['hours_out'] * 3600)}</span>"
            f"<td class=n>{row['in']}<td class=n>{row['made']}<td class=n>{row['rejected'] or ''}"
            f"<td class=n>{row['failed'] or ''}"
            f"<td class=n>{row['cpu_seconds']:.1f} s<br>"
            f"<span class=small>{row['cpu_share']:.0%}</span></tr>"
        )
    return "\n".join([*lines, "</table></div>"])


def _reasons(summary: Summary, thumbs: dict[str, bytes], output: Path) -> str:
    if not summary.reasons:
        return "<p>Nothing was left out.</p>"
    parts = []
    order = {row.name: number for number, row in enumerate(STEPS)}
    for reason in sorted(summary.reasons.values(), key=lambda r: (order.get(r.step, -1), -r.count)):
        figures = []
        for sample, name in reason.samples:
            thumb = thumbs.get(sample) or (_held(output, sample) if "-c" in sample else None)
            figures.append((thumb, name))
        length = f", {_time(reason.seconds)} of video" if reason.seconds >= 0.05 else ""
        parts.append(
            f"<section><h3><span class=tag>{escape(reason.step)}</span> {escape(reason.text)}</h3>"
            f"<p class=small>{reason.count} like this{length}</p>"
            f"{_examples(figures)}</section>"
        )
    return "\n".join(parts)


def _examples(found: Sequence[tuple[bytes | None, str]]) -> str:
    """Pictures where there are any, else the names alone."""
    if any(thumb is not None for thumb, _ in found):
        return f"<div class=row>{''.join(_figure(*one) for one in found)}</div>"
    names = ", ".join(escape(name) for name in dict.fromkeys(name for _, name in found))
    return f"<p class='small names'>such as {names}</p>"


def _figure(thumb: bytes | None, name: str) -> str:
    picture = "<span class=none></span>"
    if thumb is not None:
        picture = f"<img alt='' src='data:image/jpeg;base64,{base64.b64encode(thumb).decode()}'>"
    title = escape(name, quote=True)
    return f"<figure title='{title}'>{picture}<figcaption>{escape(name)}</figcaption></figure>"


def _held(output: Path, sample: str) -> bytes | None:
    """The picture of a clip whose verdict changed after it was made."""
    found = next((output / HELD / sample[:2]).glob(f"*-{sample}.mp4"), None)
    return _from_file(found) if found is not None else None


def _from_file(path: Path) -> bytes | None:
    from ..media.reader import Reader

    try:
        frames = Reader(path).frames()
        return jpeg(next(frames).rgb())
    except (LipSyncError, StopIteration, OSError):
        return None


def _limits(name: str, config: dict[str, Any], engine: str) -> list[float]:
    """Where the settings draw the line in chart ``name``."""
    rows = LIMITS.get(name, ())
    if name == "sync_confidence":
        rows = (("av_sync", "min_confidence" if engine == "syncnet_v2" else "min_certainty", 1),)
    found = [(config.get(section, {}).get(field), sign) for section, field, sign in rows]
    return [sign * float(value) for value, sign in found if isinstance(value, (int, float))]


def _edges(low: float, high: float, whole: bool) -> np.ndarray:
    """Borders of the bars, at round numbers; a bar a number where there are few and whole ones."""
    if whole and 0 < high - low < BARS:
        return np.arange(low - 0.5, high + 1)
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        # One value alone: one bar, with nothing on either side.
        width = max(abs(low) * 0.02, 0.5 if whole else 1e-3)
        return low + width * np.array([-1.5, -0.5, 0.5, 1.5])
    rough = (high - low) / BARS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return step * np.arange(first, max(last, first + 1) + 1)


def _histogram(
    kept: Sequence[float],
    refused: Sequence[float],
    title: str,
    unit: str,
    limits: Sequence[float] = (),
) -> str:
    """One chart as SVG: what was kept, what was left out on top of it, limits, the outermost values."""
    data = np.asarray([*kept, *refused])
    low, high = float(data.min()), float(data.max())
    edges = _edges(low, high, bool(np.equal(np.mod(data, 1), 0).all()))
    below = np.histogram(kept, edges)[0] if len(kept) else np.zeros(len(edges) - 1, int)
    above = np.histogram(refused, edges)[0] if len(refused) else np.zeros(len(edges) - 1, int)
    wide, tall, most = 300.0, 90.0, (below + above).max()
    step = wide / len(below)
    bars = []
    for index, (inner, outer) in enumerate(zip(below, above, strict=True)):
        name = f"{_number(edges[index])} to {_number(edges[index + 1])}"
        top = tall
        for kind, number in (("kept", inner), ("out", outer)):
            if number:
                height = tall * number / most
                top -= height
                bars.append(
                    f"<rect class={kind} x='{index * step + 0.5:.1f}' y='{top:.1f}' "
                    f"width='{max(step - 1, 1):.1f}' height='{height:.1f}'>"
                    f"<title>{name}: {number} {'left out' if kind == 'out' else kind}</title></rect>"
                )
    span = float(edges[-1] - edges[0])
    lines = [
        f"<line class=limit x1='{at:.1f}' x2='{at:.1f}' y1='-4' y2='{tall}'>"
        f"<title>limit: {_number(limit)}</title></line>"
        for limit in limits
        if 0 <= (at := wide * (limit - float(edges[0])) / span) <= wide
    ]
    said = f"{len(kept)} kept"
    if len(kept):
        said += f", median {_number(float(np.median(kept)))}"
    if len(refused):
        said += f"; {len(refused)} left out"
    if low == high:
        ends = f"<text x='{wide / 2:.0f}' y='{tall + 14}' text-anchor=middle>{_number(low)}</text>"
    else:
        ends = (
            f"<text x=0 y='{tall + 14}'>{_number(low)}</text>"
            f"<text x='{wide:.0f}' y='{tall + 14}' text-anchor=end>{_number(high)}</text>"
        )
    return (
        f"<figure class=chart><figcaption><b>{escape(title)}</b><br>"
        f"<span class=small>{escape(unit)}; {said}</span></figcaption>"
        f"<svg viewBox='0 -4 {wide:.0f} {tall + 22:.0f}' role=img>{''.join(bars)}{''.join(lines)}"
        f"<line class=axis x1=0 x2='{wide:.0f}' y1='{tall}' y2='{tall}'/>{ends}</svg></figure>"
    )


def _number(value: float) -> str:
    """Three digits, and no minus in front of nothing."""
    text = f"{value:.3g}"
    if "e" in text:
        text = f"{value:,.0f}"
    return text if float(text.replace(",", "")) else "0"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


_STYLE = """
:root{color-scheme:light dark;--ink:#1b2330;--soft:#5d6b80;--line:#dde2ea;--bar:#2f6fb5;--tint:#d5e4f5;
--page:#f7f8fa;--card:#fff;--out:#d9822b;--bad:#b4413c;--mute:#b8c1cf}
@media(prefers-color-scheme:dark){:root{--ink:#e8ecf2;--soft:#9aa6b8;--line:#2f3744;--bar:#6aa5e3;
--tint:#25405e;--page:#12161c;--card:#1a2029;--out:#e0a05a;--bad:#e0726c;--mute:#4b5666}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:1060px;
margin:0 auto;padding:2em 1em 4em}
h1{font-size:1.5em;margin:0}h2{font-size:1.1em;margin:2.2em 0 .7em}
h3{font-size:.95em;font-weight:600;margin:0;overflow-wrap:anywhere}p{margin:.4em 0}
header p{margin:0;overflow-wrap:anywhere}
.small,figcaption{color:var(--soft);font-size:.85em}.chart b{color:var(--ink)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(160px,1fr));gap:.8em;margin:1.2em 0}
.tiles div,section,.chart,.scroll{background:var(--card);border:1px solid var(--line);
border-radius:8px}
.tiles div{padding:.8em 1em}.tiles b{display:block;font-size:1.45em;line-height:1.25}
.tiles span{color:var(--soft);font-size:.85em}
.share{display:flex;height:10px;gap:2px;border-radius:5px;overflow:hidden}
.share i{background:var(--mute);min-width:3px}.share .kept{background:var(--bar)}
.share .rejected{background:var(--out)}.share .unreadable,.share .failed{background:var(--bad)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.5em .8em;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}th{font-weight:600;color:var(--soft);font-size:.85em}
.n{text-align:right;font-variant-numeric:tabular-nums}
.bar{width:36%;position:relative;min-width:9em}.bar i{position:absolute;left:.8em;top:.55em;
height:1.9em;max-width:calc(100% - 1.6em);background:var(--tint);border-left:3px solid var(--bar);
border-radius:2px}.bar span{position:relative;padding-left:.6em;line-height:2.1}
section{padding:.8em 1em;margin-bottom:.7em}section p{margin:.2em 0 .5em}.names{overflow-wrap:anywhere}
.tag{background:var(--tint);border-radius:4px;padding:.1em .5em;font-size:.85em;font-weight:500}
.row{display:flex;flex-wrap:wrap;gap:.7em}
figure{margin:0}.row figure{width:96px}.row img,.none{max-width:96px;max-height:96px;display:block;
border-radius:6px}.none{width:96px;height:54px;background:var(--tint)}
.row figcaption{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(290px,1fr));gap:.8em}
.chart{padding:.8em 1em}svg{width:100%;height:auto;overflow:visible;margin-top:.5em}
rect.kept{fill:var(--bar)}rect.out{fill:var(--out);opacity:.75}
.legend i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin:0 .35em 0 1em;
vertical-align:-.05em}.legend .kept{background:var(--bar);margin-left:0}.legend .out{background:var(--out)}
.legend .limit{width:0;border-left:2px dashed var(--ink);border-radius:0}
line{stroke:var(--ink);stroke-width:1.5}line.limit{stroke-dasharray:4 3}
.axis{stroke:var(--line);stroke-width:1}text{font-size:11px;fill:var(--soft)}a{color:var(--bar)}
footer{margin-top:2.5em;border-top:1px solid var(--line);padding-top:1em}
"""
