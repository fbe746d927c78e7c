"""What sync numbers do not say: silence, leakage, flicker, and likeness to a reference clip.

SSIM and PSNR come from scikit-image with the field's settings (11 x 11 Gaussian, as torchmetrics
has them, to 1e-4), so that they need no torch. LPIPS, identity, FID and FVD, with what has to be said
beside them, are in ``likeness``.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..errors import MediaError, SettingsError
from ..faces import align, mask
from ..faces.templates import draft_template
from ..media.reader import probe
from ..types import Progress
from . import embedded
from .likeness import CAVEATS, NONE, Extras, Frechet, compare_faces
from .sync import Examination

if TYPE_CHECKING:
    from ..types import Picture, Voice

log = logging.getLogger("lipsync.scoring")

CLOSED = 0.3
"""Openness below which a mouth counts as shut; silent frames of GRID: median .02-.2."""
_FLICKER_SIDE = 128
_CROP_SIDE = 256
_LONG_SIDE = 960
"""The picture outside the mouth is compared at this size; full HD costs four times as much."""
UNITS = {
    "silence_closed": "0..1, share of frames without voice in which the mouth is shut",
    "follows_voice": "-1..1, agreement of the mouth with the voice",
    "follows_old_voice": "-1..1, agreement with the old voice beyond what both voices share",
    "flicker": "gray levels, mean second difference of the stabilised mouth",
    "flicker_added": "gray levels, flicker minus that of the reference",
    "mouth_ssim": "-1..1",
    "mouth_psnr": "dB",
    "mouth_lpips": "distance, AlexNet; lower is better",
    "identity": "-1..1, cosine of face embeddings against the source",
    "fid": "distance, Inception v3; lower is better, biased upwards from few frames",
    "fvd": "distance, VideoMAE v2; lower is better, biased upwards from few windows",
    "outside_ssim": "-1..1",
    "outside_psnr": "dB; none where nothing differs",
    "outside_lpips": "distance, AlexNet; lower is better",
    "outside_changed": "0..1, share of values outside the mouth that differ by more than 2 levels",
}


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Beside sync. A field is None where it could not be measured; ``notes`` says why."""

    silence_closed: float | None = None
    silence_frames: int = 0
    follows_voice: float | None = None
    follows_old_voice: float | None = None
    flicker: float | None = None
    flicker_added: float | None = None
    mouth_ssim: float | None = None
    mouth_psnr: float | None = None
    mouth_lpips: float | None = None
    outside_ssim: float | None = None
    outside_psnr: float | None = None
    outside_lpips: float | None = None
    outside_changed: float | None = None
    identity: float | None = None
    fid: float | None = None
    fvd: float | None = None
    compared_frames: int = 0
    caveats: tuple[str, ...] = ()
    """Which networks the extras come from, who may use them, and what they cannot say."""
    notes: tuple[str, ...] = ()
    units: dict[str, str] = field(default_factory=lambda: dict(UNITS))

    def lines(self) -> list[str]:
        """What was measured, one line each, for people."""
        told = [
            f"{words}: {value:{form}}"
            for words, value, form in (
                ("mouth closed where the voice is silent", self.silence_closed, ".0%"),
                ("agreement with the voice (-1 to 1)", self.follows_voice, ".2f"),
                ("agreement left with the old voice (0 is best)", self.follows_old_voice, ".2f"),
                ("flicker of the mouth, gray levels", self.flicker, ".2f"),
                ("more flicker than before, gray levels", self.flicker_added, "+.2f"),
                ("likeness of the mouth, SSIM (1 is the same)", self.mouth_ssim, ".3f"),
                ("likeness outside the mouth, SSIM (1 is the same)", self.outside_ssim, ".3f"),
                ("changed outside the mouth, by encoding too", self.outside_changed, ".1%"),
            )
            if value is not None
        ]
        return [*told, *self.notes]


def assess(
    found: Examination,
    *,
    reference: str | Path | None = None,
    old_voice: Voice | None = None,
    frames: int = 48,
    source: str | Path | None = None,
    extras: Extras = NONE,
    pools: dict[str, Frechet] | None = None,
    progress: Progress | None = None,
) -> Quality:
    """Measures the clip that was examined.

    ``reference``: the same pictures with the true mouth, frame for frame (the source of a clip that was
    dubbed with its own voice). ``source``: the clip that was dubbed, whose mouth may say something
    else: then only what lies outside the mouth is compared, and the flicker (``reference`` where not
    given). ``old_voice``: what the source spoke. ``frames``: how many are compared, evenly spread.
    ``extras``, ``pools``: see ``likeness``.
    """
    if extras.needs_source and (source := source or reference) is None:
        raise SettingsError(
            "identity, FID and FVD compare with a clip; give the one that was dubbed"
        )
    notes: list[str] = []
    closed, silent = _silence(found, notes)
    motion, times = found.motion, found.voice_times
    follows = embedded.agreement(motion, times, found.heard)
    leak = None
    if old_voice is not None:
        leak = _leak(found, embedded.hear(old_voice))
    likeness: dict[str, Any] = {}
    beside = reference or source
    if beside is not None and reference is None and probe(beside).is_still:
        notes.append("the source is a still picture, which has no frames to lie beside")
        beside = None
    flicker, likeness = _look(
        found, beside, frames, extras.lpips, notes, progress, same_mouth=reference is not None
    )
    if source is not None and extras.needs_source:
        likeness |= compare_faces(
            found, source, extras=extras, frames=frames, pools=pools, progress=progress
        )
    if extras.lpips is not None and likeness.get("outside_lpips") is not None:
        likeness["caveats"] = (CAVEATS["lpips"], *likeness.get("caveats", ()))
    return Quality(
        silence_closed=closed,
        silence_frames=silent,
        follows_voice=_rounded(follows),
        follows_old_voice=_rounded(leak),
        flicker=_rounded(flicker[0]),
        flicker_added=_rounded(flicker[0] - flicker[1])
        if flicker[0] is not None and flicker[1] is not None
        else None,
        notes=tuple(notes),
        **likeness,
    )


def _silence(found: Examination, notes: list[str]) -> tuple[float | None, int]:
    times, heard = found.voice_times, found.heard
    inside = (times >= 0.0) & (times < heard.duration)
    rows = np.clip((times * 100).astype(int), 0, len(heard.active) - 1)
    silent = ~(inside & heard.active[rows]) & found.motion.seen
    count = int(silent.sum())
    if count < 8:
        notes.append("silence: the voice has no pause of length")
        return None, count
    return round(float((found.motion.openness[silent] < CLOSED).mean()), 4), count


def _leak(found: Examination, old: embedded.Heard) -> float:
    """Correlation of the mouth with the old voice, with what the new voice explains taken out."""
    mouth = embedded.signals(found.motion)
    times = found.watched.times
    usable = np.isfinite(mouth[:, 0]) & (times < old.duration)
    if usable.sum() < 25:
        return 0.0
    new = embedded.expected(found.heard, found.voice_times)[usable]
    before = embedded.expected(old, times)[usable]
    mouth = mouth[usable]
    return float(
        embedded.WEIGHTS @ embedded.correlation(_without(mouth, new), _without(before, new))
    )


def _without(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Residuals of each column after a straight line on the same column of ``others``."""
    values, others = values - values.mean(0), others - others.mean(0)
    slope = (values * others).sum(0) / np.maximum((others**2).sum(0), 1e-12)
    return values - slope * others


def _look(
    found: Examination,
    reference: str | Path | None,
    frames: int,
    lpips: Any,
    notes: list[str],
    progress: Progress | None,
    *,
    same_mouth: bool,
) -> tuple[tuple[float | None, float | None], dict[str, Any]]:
    """One pass over the clip, and over the reference beside it."""
    from ..media.reader import Reader

    watched = found.watched
    small, large = draft_template(_FLICKER_SIDE), draft_template(_CROP_SIDE)
    sar = float(watched.clip.sar)
    small_matrices = align.fit(found.track.points, small, sar)
    large_matrices = align.fit(found.track.points, large, sar)
    weight = mask.mouth(small)
    flickers = (_Flicker(weight), _Flicker(weight))
    likeness = _Likeness(large, lpips) if reference else None
    chosen = set(np.linspace(0, watched.frame_count - 1, frames).round().astype(int).tolist())
    other = None
    if reference is not None:
        clip = probe(reference)
        if (clip.width, clip.height) != (watched.clip.width, watched.clip.height):
            raise MediaError(
                f"{reference} has pictures of {clip.width}x{clip.height}, {found.video} of "
                f"{watched.clip.width}x{watched.clip.height}; a reference must be of the same size"
            )
        other = Reader(reference, start=watched.start or None).frames()
    compared = 0
    cut = np.concatenate([[True], np.diff(found.track.shots) != 0])
    for frame in Reader(found.video, start=watched.start or None).frames():
        number = frame.index
        if number >= watched.frame_count:
            break
        beside = next(other, None) if other is not None else None
        if other is not None and beside is None:
            notes.append(f"the reference ends after {number} frames")
            break
        here = bool(found.track.present[number])
        for watch, picture in zip(flickers, (frame, beside), strict=True):
            if picture is None:
                continue
            if not here or cut[number]:
                watch.leave()
            if here:
                watch.see(align.cut(picture, small_matrices[number], _FLICKER_SIDE))
        if likeness is not None and beside is not None and here and number in chosen:
            likeness.see(frame, beside, large_matrices[number])
            compared += 1
        if progress is not None:
            progress(number + 1, watched.frame_count)
    result: dict[str, Any] = {"compared_frames": compared}
    if likeness is not None:
        means = likeness.means()
        if not same_mouth:
            means = {name: value for name, value in means.items() if not name.startswith("mouth")}
        result |= means
    return (flickers[0].mean(), flickers[1].mean()), result


class _Flicker:
    """Mean absolute second difference of a steady crop under a mask, in gray levels."""

    def __init__(self, weight: np.ndarray) -> None:
        self._weight = weight / weight.sum()
        self._last: list[np.ndarray] = []
        self._sum = 0.0
        self._count = 0

    def leave(self) -> None:
        self._last = []

    def see(self, crop: np.ndarray) -> None:
        gray = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)
        if len(self._last) == 2:
            bend = np.abs(self._last[0] - 2.0 * self._last[1] + gray)
            self._sum += float((bend * self._weight).sum())
            self._count += 1
        self._last = [*self._last[-1:], gray]

    def mean(self) -> float | None:
        return self._sum / self._count if self._count else None


class _Likeness:
    """SSIM, PSNR and LPIPS of mouths in the upright crop, SSIM and PSNR of the picture around it."""

    def __init__(self, template: Any, lpips: Any) -> None:
        self._template = template
        weight = mask.mouth(template)
        rows, columns = np.flatnonzero(weight.any(1)), np.flatnonzero(weight.any(0))
        self._box = (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)
        self._weight = weight
        self._mouth: list[tuple[float, float]] = []
        self._outside: list[tuple[float, float, float]] = []
        self._lpips: list[float] = []
        self._outside_lpips: list[float] = []
        self._network = lpips

    def see(self, frame: Picture, reference: Picture, matrix: np.ndarray) -> None:
        size = self._template.size
        ours, theirs = (align.cut(picture, matrix, size) for picture in (frame, reference))
        top, bottom, left, right = self._box
        ours, theirs = ours[top:bottom, left:right], theirs[top:bottom, left:right]
        weight = self._weight[top:bottom, left:right]
        self._mouth.append(compare(ours, theirs, weight))
        if self._network is not None:
            self._lpips.append(self._network(ours, theirs))
        ours, theirs = frame.reduced(_LONG_SIDE), reference.reduced(_LONG_SIDE)
        scale = ours.shape[1] / frame.size[0]
        # Everything that an engine may paint, lower face and feather, is not "outside".
        whole = mask.lower_face(self._template)
        shrink = np.diag([scale, ours.shape[0] / frame.size[1], 1.0])
        place = (shrink @ np.linalg.inv(np.vstack([matrix, (0, 0, 1)])))[:2]
        inside = cv2.warpAffine(whole, place, (ours.shape[1], ours.shape[0]))
        inside = cv2.dilate((inside > 0).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
        ssim, psnr = compare(ours, theirs, (~inside).astype(np.float32))
        apart = np.abs(ours.astype(np.int16) - theirs)[~inside]
        if self._network is not None:
            # The mouth is that of the reference, so that only what lies around it differs.
            around = np.where(inside[..., None], theirs, ours)
            self._outside_lpips.append(self._network(around, theirs))
        self._outside.append((ssim, psnr, float((apart > 2).mean()) if apart.size else 0.0))

    def means(self) -> dict[str, float | None]:
        if not self._mouth:
            return {}
        mouth, outside = np.array(self._mouth), np.array(self._outside)
        return {
            "mouth_ssim": _rounded(mouth[:, 0].mean()),
            "mouth_psnr": _finite(mouth[:, 1]),
            "outside_ssim": _rounded(outside[:, 0].mean()),
            "outside_psnr": _finite(outside[:, 1]),
            "outside_changed": _rounded(outside[:, 2].mean()),
            "mouth_lpips": _mean(self._lpips),
            "outside_lpips": _mean(self._outside_lpips),
        }


def compare(ours: np.ndarray, theirs: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """SSIM and PSNR (dB, infinite where equal) of ``(h, w, 3)`` uint8 under ``(h, w)`` weights."""
    from skimage.metrics import structural_similarity

    _, field_of, *_ = structural_similarity(
        ours,
        theirs,
        data_range=255,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    total = max(float(weight.sum()), 1e-9)
    ssim = float((field_of.mean(2) * weight).sum() / total)
    error = np.square(ours.astype(np.float64) - theirs).mean(2)
    mean = float((error * weight).sum() / total)
    return ssim, 10.0 * math.log10(255.0**2 / mean) if mean > 0 else math.inf


def _mean(values: list[float]) -> float | None:
    return _rounded(float(np.mean(values))) if values else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)


def _finite(values: np.ndarray) -> float | None:
    """The mean in dB of the finite values; None where all pairs are equal."""
    known = values[np.isfinite(values)]
    return _rounded(known.mean()) if len(known) else None
