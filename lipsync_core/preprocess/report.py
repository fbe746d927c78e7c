"""What was kept, what was not and why: a page to look at, and the same as CSV."""

from __future__ import annotations

import base64
import csv
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
_MADE = ("shots", "segments", "clips")
CHARTS = [
    ("seconds", "duration of kept clips", "s"),
    ("yaw", "head turned aside (yaw)", "degrees, estimated"),
    ("roll", "head tilted (roll)", "degrees"),
    ("offset_frames", "sound and lips apart, before correction", "frames of 40 ms"),
    ("sync_confidence", "confidence of the sync", "SyncNet, or 0..1 of the embedded estimate"),
    ("sharpness", "sharpness", "fine detail per contrast"),
    ("brightness", "brightness", "0..255"),
    ("face_px", "height of the crop in the source", "px"),
    ("blockiness", "blocks of compression", "1: none"),
]


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
    part.write_text(_page(summary, thumbs, output), encoding="utf-8")
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
    for one in manifest.rows():
        metrics, step, stage = one["metrics"], one["step"], summary.stages.get(one["step"])
        if stage is None:
            continue
        stage.seconds += one["seconds"]
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
        for name in ("yaw", "roll", "offset_frames", "sync_confidence", "sharpness", "brightness",
                     "face_px", "blockiness"):  # fmt: skip
            _value(summary, name, metrics.get(name))
        if step == "write":
            clips[one["source"]] += 1
            frames[one["source"]] += one["frames"]
            _value(summary, "seconds", one["frames"] / FPS)
            if len(summary.kept) < EXAMPLES:
                summary.kept.append((one["sample"], metrics["file"]))
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


def _value(summary: Summary, name: str, value: Any) -> None:
    if isinstance(value, (int, float)) and math.isfinite(value):
        values = summary.values[name]
        if len(values) < MOST:
            values.append(float(value))


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


def _page(summary: Summary, thumbs: dict[str, bytes], output: Path) -> str:
    count = sum(summary.files.values())
    states = ", ".join(f"{number} {escape(state)}" for state, number in summary.files.most_common())
    engine = {"syncnet_v2": "SyncNet v2", "embedded": "the embedded estimate (lip speed)"}
    sync = engine.get(summary.engine, "not judged")
    clips = summary.stages["write"].kept
    cpu = sum(stage.seconds for stage in summary.stages.values())
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width,initial-scale=1'>",
        f"<title>Preprocessing: {clips} clips</title><style>{_STYLE}</style><body>",
        "<h1>Preprocessing</h1>",
        f"<p class=big><b>{clips}</b> clips, <b>{_time(summary.hours * 3600)}</b> kept "
        f"from <b>{count}</b> files</p>",
        f"<p>Files: {states or 'none'}. Sync: {escape(sync)}. CPU time: {_time(cpu)}"
        + (f", {60 * clips / cpu:.1f} clips kept per core-minute" if cpu else "")
        + ".</p>",
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
        _histogram(summary.values[name], title, unit)
        for name, title, unit in CHARTS
        if summary.values.get(name)
    ]
    parts += ["<h2>Histograms</h2>", f"<div class=charts>{''.join(charts) or 'nothing kept'}</div>"]
    parts.append(
        "<p class=small>Tables: <a href=funnel.csv>funnel.csv</a>, <a href=files.csv>files.csv</a> "
        "(every file, duplicates too), <a href=samples.csv>samples.csv</a> (every sample at every step).</p>"
    )
    return "\n".join(parts)


def _funnel(summary: Summary) -> str:
    rows = _funnel_rows(summary)
    most = max((row["hours_out"] for row in rows), default=0) or 1
    lines = [
        "<div class=scroll><table><tr><th>step<th class=n>in<th class=n>made<th class=n>rejected"
        "<th class=n>failed<th>video that is left<th class=n>CPU<th class=n>share</tr>"
    ]
    for row in rows:
        width = 100 * row["hours_out"] / most
        lines.append(
            f"<tr><td><b>{escape(row['step'])}</b><br><span class=small>{escape(row['what'])}</span>"
            f"<td class=n>{row['in']}<td class=n>{row['made']}<td class=n>{row['rejected'] or ''}"
            f"<td class=n>{row['failed'] or ''}"
            f"<td class=bar><i style='width:{width:.1f}%'></i>"
            f"<span>{_time(row['hours_out'] * 3600)}</span>"
            f"<td class=n>{row['cpu_seconds']:.1f} s<td class=n>{row['cpu_share']:.0%}</tr>"
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
        length = f", {_time(reason.seconds)} of video" if reason.seconds else ""
        parts.append(
            f"<section><h3>{escape(reason.step)}: {escape(reason.text)}</h3>"
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
    return f"<figure>{picture}<figcaption>{escape(name)}</figcaption></figure>"


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


def _histogram(values: Sequence[float], title: str, unit: str) -> str:
    """One chart as SVG: bars, the outermost values, the median."""
    data = np.asarray(values)
    low, high = float(data.min()), float(data.max())
    if np.equal(np.mod(data, 1), 0).all() and high - low < BARS:
        edges = np.arange(low - 0.5, high + 1.5)
    else:
        edges = np.linspace(low, high if high > low else low + 1, BARS + 1)
    counts = np.histogram(data, edges)[0]
    wide, tall, step = 300.0, 90.0, 300.0 / len(counts)
    bars = "".join(
        f"<rect x='{index * step + 0.5:.1f}' y='{tall - tall * count / counts.max():.1f}' "
        f"width='{max(step - 1, 1):.1f}' height='{tall * count / counts.max():.1f}'>"
        f"<title>{edges[index]:.3g} to {edges[index + 1]:.3g}: {count}</title></rect>"
        for index, count in enumerate(counts)
        if count
    )
    span = float(edges[-1] - edges[0])
    middle = wide * (float(np.median(data)) - float(edges[0])) / span
    return (
        f"<figure class=chart><figcaption><b>{escape(title)}</b><br>"
        f"<span class=small>{escape(unit)}; {len(data)} values, median {np.median(data):.3g}</span>"
        f"</figcaption><svg viewBox='0 -4 {wide:.0f} {tall + 22:.0f}' role=img>{bars}"
        f"<line x1='{middle:.1f}' x2='{middle:.1f}' y1='-4' y2='{tall}'/>"
        f"<line class=axis x1=0 x2='{wide}' y1='{tall}' y2='{tall}'/>"
        f"<text x=0 y='{tall + 14}'>{low:.3g}</text>"
        f"<text x='{wide}' y='{tall + 14}' text-anchor=end>{high:.3g}</text></svg></figure>"
    )


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


_STYLE = """
:root{color-scheme:light dark;--ink:#1d2430;--soft:#667085;--line:#d9dee7;--bar:#2f6fb5;--tint:#dbe8f6;
--page:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#98a2b3;--line:#343b47;--bar:#6aa5e3;
--tint:#24384f;--page:#14181f}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:1000px;
margin:2em auto;padding:0 1em}
h1{font-size:1.6em;margin:0}h2{font-size:1.15em;margin:2em 0 .5em}h3{font-size:1em;margin:0;
overflow-wrap:anywhere}
.big{font-size:1.25em}.small,figcaption{color:var(--soft);font-size:.85em}.chart b{color:var(--ink)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.35em .6em;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft);font-size:.85em}.n{text-align:right;font-variant-numeric:tabular-nums}
.bar{width:28%;position:relative;min-width:9em}.bar i{position:absolute;left:0;top:.4em;height:1.4em;
background:var(--tint);border-radius:3px}.bar span{position:relative;padding-left:.4em}
section p{margin:.2em 0 .5em}.names{overflow-wrap:anywhere}section{border-top:1px solid var(--line);padding:.8em 0}.row{display:flex;flex-wrap:wrap;gap:.6em}
figure{margin:0}.row figure{width:96px}.row img,.none{max-width:96px;max-height:96px;display:block;
border-radius:4px}.none{width:96px;height:54px;background:var(--tint)}
.row figcaption{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(260px,1fr));gap:1.4em}
svg{width:100%;height:auto}rect{fill:var(--bar)}line{stroke:var(--ink);stroke-width:1.5}
.axis{stroke:var(--line);stroke-width:1}text{font-size:11px;fill:var(--soft)}a{color:var(--bar)}
"""
