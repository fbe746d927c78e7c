"""Hears a voice and says how the mouth moves: a small network in numpy, then closures that are seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...audio.mel import BANDS, LEVEL, RATE, ROWS_PER_SECOND, loudness, mel_rows
from ...audio.voice import moving_sum
from ...errors import WeightsError

if TYPE_CHECKING:
    from ...types import Voice

SHAPES = ("open", "jaw", "wide", "round", "press", "fv")
"""The columns of a mouth shape."""
OPEN, JAW, WIDE, ROUND, PRESS, FV, VOICE = range(7)
OUTPUTS = 7
"""Columns of the network's output: the shapes, then ``VOICE``, how loud the voice alone is: 0 at 40 dB
under its loud moments and where nobody speaks, whatever else is heard."""

WEIGHTS = Path(__file__).with_name("mouth.safetensors")
"""Made by ``python -m trainer.tasks.mouth.train``; numbers in trainer/tasks/mouth/RESULTS.md."""

SPEECH_RANGE = 25.0
"""dB below the top within which a row counts as voice when its average colour is taken."""
QUIET_FILE = -55.0
"""dBFS: a voice track whose loud rows stay below this has no voice to follow."""
_WINDOW, _STEP = 3000, 500
"""Rows over which level and colour are taken, and from one such window to the next."""
_LEVEL_FALL = 15.0
"""dB by which a stretch may be softer than the whole and still be heard as voice."""
_CHUNK = 3000
"""Rows that go through the network at once; fixed, so that the result does not depend on anything."""
_HALO = 32
"""Rows of context on either side of a chunk; the network sees 30."""
_SMALL_PRODUCT = 262_144
"""Multiplications up to which OpenBLAS stays in the thread that asks."""

CLOSURE, MAYBE, DOUBT = 0.82, 0.6, 0.05
"""Of the network's press at a peak: from which on the lips meet, from which on they come half way, and over how
much more of it they begin to. In real speech seven of eight peaks above ``CLOSURE`` are closures, and four of seven
between the two (RESULTS.md); one made up is worse than one that is missed."""
CLOSED_SECONDS, CLOSING_SECONDS = 0.05, 0.018
"""How long a closure lasts at least, and the slope at its ends (sigma)."""
WEAK_PRESS = 0.5
"""How much a press without a peak narrows the mouth."""
_CENTRE = 6
"""Rows to either side of a peak of press over which its centre is taken."""
CLOSED_EARLY = 0.005
"""Seconds by which lips meet before the middle of the closure that is heard."""
TEETH_NARROW = 0.7
"""How much teeth on the lip narrow the mouth."""
OPEN_GAIN, LOUD_SHARE, ROUND_NARROWS, REST = 1.6, 0.1, 1.0, 0.02
"""How far the opening that is heard is drawn, how much loudness adds where there is speech, how much
rounded lips narrow the mouth, and the opening that still counts as closed.

Chosen on the lips of real clips (see RESULTS.md), so figures on those clips are not blind."""
ROUND_GAIN, ROUND_REST = 1.5, 0.1
"""Real voices are heard rounder at rest and less round in *u* and *w* than the labels have it."""
LIPS_TRACT = 1.06
"""By how much sounds are moved down the mel axis before it is asked how wide and how round the lips are.

Most people say *u* with the tongue far forward and round lips, most voices of training at the back,
where this puts it. Among the best values on real speech other than the clips with measured lips."""
LEAST_OPENING, LEAST_VOICE = 0.12, 0.25
"""Means of the network's open and voice over 0.3 s that speech has; wind has the one, a tune the other."""


def level_and_colour(rows: np.ndarray) -> tuple[float, np.ndarray]:
    """How loud the voice in ``rows`` (``(N, 40)`` dB or wider) is, and ``(40,)`` its average spectrum.

    The level is the 95th percentile of loudness, or 6 dB under the 99th where the voice is rare.
    """
    bands = rows[:, :BANDS]
    total = loudness(bands)
    usual, peak = np.percentile(total, [95, 99])
    top = max(usual, peak - 6.0)
    return float(top), bands[total > top - SPEECH_RANGE].astype(np.float32).mean(0)


def features(rows: np.ndarray, top: float | np.ndarray, colour: np.ndarray) -> np.ndarray:
    """``(N, 41)`` float32 inputs of the network: bands against ``colour``, loudness against ``top``.

    ``top`` and ``colour`` are one value each, or one per row.
    """
    bands = np.asarray(rows[:, :BANDS], np.float32)
    out = np.empty((len(bands), BANDS + 1), np.float32)
    out[:, :BANDS] = np.clip(bands - colour, -40.0, 25.0) / 15.0
    out[:, BANDS] = np.clip((loudness(bands) - top) / 20.0, -2.5, 0.5) + 1.0
    return out


def lowered(x: np.ndarray, factor: float) -> np.ndarray:
    """``(N, 41)`` features as if of a vocal tract ``factor`` times as long on the mel axis; loudness stays."""
    place = np.clip(np.arange(BANDS) * factor, 0, BANDS - 1)
    low = np.minimum(place.astype(int), BANDS - 2)
    part = (place - low).astype(np.float32)
    out = x.copy()
    out[:, :BANDS] = x[:, low] * (1 - part) + x[:, low + 1] * part
    return out


def _product(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """``rows @ matrix``, a few rows at a time.

    Larger products wake all threads of OpenBLAS, which wait for each other in a loop: ten times slower
    on two cores, and seconds for a sentence where other programs keep the cores busy.
    """
    size = max(_SMALL_PRODUCT // matrix.size, 1)
    parts = [rows[start : start + size] @ matrix for start in range(0, len(rows), size)]
    return np.concatenate(parts) if parts else rows @ matrix


class Network:
    """The trained network of ``models/mouth.py``, run with numpy."""

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            tensors = load_file(path)
        except FileNotFoundError as error:
            raise WeightsError(
                f"the mouth network {path} is missing; reinstall lipsync-core, it is part of it"
            ) from error
        except SafetensorError as error:
            raise WeightsError(
                f"the mouth network {path} is damaged ({error}); reinstall lipsync-core"
            ) from error
        self._layers = {
            name.removesuffix(".weight"): (
                # one (inputs, outputs) matrix a tap
                np.ascontiguousarray(tensor.astype(np.float32).transpose(2, 1, 0)),
                tensors[name.replace(".weight", ".bias")].astype(np.float32),
            )
            for name, tensor in tensors.items()
            if name.endswith(".weight")
        }
        self._dilations = [int(d) for d in tensors["dilations"]]

    def _convolve(self, x: np.ndarray, name: str, dilation: int = 1) -> np.ndarray:
        """Zeros beyond both ends, as many rows out as in."""
        taps, bias = self._layers[name]
        if len(taps) == 1:
            return _product(x, taps[0]) + bias
        reach = len(taps) // 2 * dilation
        padded = np.pad(x, ((reach, reach), (0, 0)))
        out = np.broadcast_to(bias, (len(x), len(bias))).copy()
        for tap, matrix in enumerate(taps):
            out += _product(padded[tap * dilation : tap * dilation + len(x)], matrix)
        return out

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """``(N, 41)`` features -> ``(N, 7)`` outputs in 0..1, 100 rows a second."""
        x = np.maximum(self._convolve(x, "first"), 0)
        for number, dilation in enumerate(self._dilations):
            x += np.maximum(self._convolve(x, f"blocks.{number}", dilation), 0)
        contact = np.maximum(self._convolve(x, "closure"), 0)
        logits = np.concatenate(
            [
                self._convolve(x, "shape"),
                self._convolve(contact, "contact"),
                self._convolve(x, "voice"),
            ],
            axis=1,
        )
        return 1.0 / (1.0 + np.exp(-np.clip(logits, -30, 30)))


@lru_cache(maxsize=2)
def network(path: Path = WEIGHTS) -> Network:
    """The shipped network, read once."""
    return Network(path)


class _Course:
    """Level and colour of a long voice, slowly changing: one estimate every five seconds."""

    def __init__(self, rows: np.ndarray) -> None:
        count = len(rows)
        whole_top, whole_colour = level_and_colour(rows[:: max(1, count // 15_000)])
        half = _WINDOW // 2
        if count <= _WINDOW:
            self.centres = np.array([0.0])
            tops, colours = [whole_top], [whole_colour]
        else:
            self.centres = np.arange(half, count - half + _STEP, _STEP, dtype=float)
            self.centres = np.minimum(self.centres, count - half)
            tops, colours = [], []
            for centre in self.centres.astype(int):
                top, colour = level_and_colour(rows[centre - half : centre + half])
                quiet = top < whole_top - _LEVEL_FALL
                tops.append(max(top, whole_top - _LEVEL_FALL))
                colours.append(whole_colour if quiet else colour)
        self.tops, self.colours = np.array(tops), np.array(colours)

    def at(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """``(N,)`` level and ``(N, 40)`` colour of rows ``start`` to ``stop``."""
        numbers = np.arange(len(self.centres), dtype=float)
        place = np.interp(np.arange(start, stop), self.centres, numbers)
        low = np.minimum(place.astype(int), max(0, len(self.centres) - 2))
        high = np.minimum(low + 1, len(self.centres) - 1)
        part = (place - low)[:, None]
        colours = self.colours[low] * (1 - part) + self.colours[high] * part
        return np.interp(np.arange(start, stop), self.centres, self.tops), colours


def raw_shapes(
    rows: np.ndarray, net: Network | None = None, heed: Callable[[], object] | None = None
) -> np.ndarray:
    """``(N, 7)`` float32 network output for ``(N, 41)`` rows of a whole voice, before drawing rules.

    ``heed`` is called for every half minute of it and may raise to leave.
    """
    net = net or network()
    count = len(rows)
    out = np.zeros((count, OUTPUTS), np.float32)
    if not count or np.percentile(rows[:, LEVEL], 98) < QUIET_FILE:
        return out
    course = _Course(rows)
    for start in range(0, count, _CHUNK):
        if heed is not None:
            heed()
        stop = min(start + _CHUNK, count)
        first, last = max(0, start - _HALO), min(count, stop + _HALO)
        x = features(rows[first:last], *course.at(first, last))
        # At the ends of the voice its own first and last rows go on, mirrored: to the network a
        # padding of zeros would be half a syllable.
        before, after = _HALO - (start - first), _HALO - (last - stop)
        mode = "reflect" if len(x) > _HALO else "edge"
        x = np.pad(x, ((before, after), (0, 0)), mode=mode)
        inner = slice(_HALO, _HALO + stop - start)
        out[start:stop] = net(x)[inner]
        out[start:stop, [WIDE, ROUND]] = net(lowered(x, LIPS_TRACT))[inner, WIDE : ROUND + 1]
    return out


def closures(press: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """When the lips meet, from the network's ``(N,)`` press at 100 rows a second.

    ``(E,)`` seconds and ``(E,)`` how firmly: a half from ``MAYBE`` on and 1 from ``CLOSURE`` on, each reached over
    ``DOUBT``, so that nothing hangs on a hair. The moment is the centre of the hump, not its highest row: a long
    closure is a plateau, highest anywhere.
    """
    padded = np.pad(press.astype(np.float64), 2)
    smooth = 0.25 * padded[1:-3] + 0.5 * padded[2:-2] + 0.25 * padded[3:-1]
    inner = np.pad(smooth, 1)
    peaks = (smooth >= inner[:-2]) & (smooth > inner[2:]) & (smooth > MAYBE)
    kept: list[int] = []
    for row in np.nonzero(peaks)[0]:
        if kept and row - kept[-1] < 6:  # two peaks of one closure
            if smooth[row] > smooth[kept[-1]]:
                kept[-1] = int(row)
        else:
            kept.append(int(row))
    steps = [np.clip((smooth[kept] - at) / DOUBT, 0, 1) for at in (MAYBE, CLOSURE)]
    firm = np.mean(steps, axis=0)
    rows = np.array(kept, np.int64)[:, None] + np.arange(-_CENTRE, _CENTRE + 1)
    weights = np.square(np.pad(press.astype(np.float64), _CENTRE)[rows + _CENTRE])
    centres = (weights * rows).sum(1) / weights.sum(1)
    return centres / ROWS_PER_SECOND, firm


def _intervals(moments: np.ndarray) -> np.ndarray:
    """``(T,)`` seconds from each moment to its nearer neighbour."""
    if len(moments) < 2:
        return np.full(len(moments), 0.04)
    steps = np.abs(np.diff(moments))
    nearer = np.minimum(np.concatenate([[np.inf], steps]), np.concatenate([steps, [np.inf]]))
    return np.clip(nearer, 0.001, 0.5)


def _contact(events: np.ndarray, firm: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """``(T,)`` 0..1: closed around each event, long enough to be seen.

    At 25 frames a second and more the frames on both sides of an event are closed, below that the
    nearest one.
    """
    out = np.zeros(len(moments), np.float32)
    if not len(events) or not len(moments):
        return out
    place = np.searchsorted(events, moments)
    for neighbour in (np.maximum(place - 1, 0), np.minimum(place, len(events) - 1)):
        outside = np.maximum(np.abs(moments - events[neighbour]) - CLOSED_SECONDS / 2, 0)
        shape = np.exp(-0.5 * (outside / CLOSING_SECONDS) ** 2)
        out = np.maximum(out, np.where(shape > 0.01, shape, 0) * firm[neighbour])
    order = np.argsort(moments, kind="stable")
    ordered = moments[order]
    right = np.clip(np.searchsorted(ordered, events), 0, len(ordered) - 1)
    left = np.maximum(right - 1, 0)
    for event, strength, a, b in zip(events, firm, left, right, strict=True):
        nearest = a if abs(ordered[a] - event) <= abs(ordered[b] - event) else b
        reach = 0.0401 if ordered[b] - ordered[a] <= 0.0401 else 0.0
        for frame in {a, b}:
            distance = abs(ordered[frame] - event)
            if distance <= reach or (frame == nearest and distance <= 0.25):
                out[order[frame]] = max(out[order[frame]], strength)
    return out.astype(np.float32)


def _presence(raw: np.ndarray) -> np.ndarray:
    """``(N,)`` float32 0..1: 0 where nobody has spoken for a while nor is about to."""
    opens = moving_sum(raw[:, OPEN], 31) > LEAST_OPENING * 31
    sounds = moving_sum(raw[:, VOICE], 31) > LEAST_VOICE * 31
    # 150 ms to get ready and to come to rest, fading over 100.
    wide = moving_sum((opens & sounds).astype(np.float32), 31) > 0.5
    ramp = np.hanning(13)[1:-1]
    faded = np.convolve(wide, ramp / ramp.sum())[len(ramp) // 2 :][: len(raw)]
    return np.clip(faded, 0, 1).astype(np.float32)


def draw(raw: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Shapes to be drawn at ``moments`` (seconds) from the network's output, 100 rows a second.

    ``raw``: ``(N, 7)`` of ``raw_shapes``.
    """
    if not raw.any():
        return np.zeros((len(moments), len(SHAPES)), np.float32)
    steps = _intervals(moments)
    # Short against a syllable, long enough that nothing flickers between two frames.
    sigma = np.maximum(0.014, 0.25 * steps)
    heard = _sample(raw, moments, sigma)
    present = _sample(_presence(raw)[:, None], moments, sigma)
    events, firm = closures(raw[:, PRESS])
    contact = _contact(events - CLOSED_EARLY, firm, moments)
    teeth = np.clip(1.3 * heard[:, FV] - 0.15, 0, 1)
    press = np.maximum(contact, WEAK_PRESS * np.clip(1.3 * heard[:, PRESS] - 0.1, 0, 1))
    narrowed = heard[:, OPEN] * np.maximum(1 - ROUND_NARROWS * heard[:, ROUND], 0)
    opening = OPEN_GAIN * narrowed + LOUD_SHARE * heard[:, VOICE]
    out = np.empty((len(moments), len(SHAPES)), np.float32)
    narrow = (1 - press) * (1 - TEETH_NARROW * teeth * (1 - contact))
    out[:, OPEN] = np.clip(opening - REST, 0, 1.1) * narrow
    out[:, JAW] = np.clip(1.2 * (heard[:, JAW] - 0.05), 0, 1)
    out[:, WIDE] = np.clip(1.15 * heard[:, WIDE] - 0.03, 0, 1)
    out[:, ROUND] = np.clip(ROUND_GAIN * heard[:, ROUND] - ROUND_REST, 0, 1)
    out[:, PRESS] = press
    out[:, FV] = teeth * (1 - contact)
    return out * present


def _sample(curves: np.ndarray, moments: np.ndarray, sigma: float | np.ndarray) -> np.ndarray:
    """``(T, C)`` values of ``(N, C)`` curves (100 rows a second) at ``moments``, under a Gaussian.

    ``sigma``: seconds, one or one per moment. Zeros beyond both ends.
    """
    spread = np.broadcast_to(np.asarray(sigma, np.float64) * ROWS_PER_SECOND, moments.shape)
    reach = int(np.ceil(3.5 * spread.max(initial=0.5)))
    out = np.zeros((len(moments), curves.shape[1]), np.float32)
    place = moments * ROWS_PER_SECOND
    inside = np.nonzero((place > -0.5) & (place < len(curves) - 0.5))[0]
    offsets = np.arange(-reach, reach + 1)
    for first in range(0, len(inside), 2048):
        at = inside[first : first + 2048]
        rows = np.round(place[at]).astype(int)[:, None] + offsets
        weights = np.exp(-0.5 * ((rows - place[at, None]) / spread[at, None]) ** 2)
        weights /= weights.sum(1, keepdims=True)
        weights[(rows < 0) | (rows >= len(curves))] = 0.0
        near = curves[np.clip(rows, 0, len(curves) - 1)]
        out[at] = np.einsum("tk,tkc->tc", weights, near)
    return out


def hear(voice: Voice, times: Sequence[Fraction] | np.ndarray) -> np.ndarray:
    """``(T, 6)`` float32 mouth shapes (``SHAPES``), each 0..1 and open up to 1.1, at ``times`` (seconds).

    Silence, and any time outside the voice, is a closed mouth: exact zeros. Takes about 0.9 MB for each
    minute of the voice.
    """
    moments = np.array([float(t) for t in times], np.float64)
    rows = [block.astype(np.float16) for block in mel_rows(voice.blocks(RATE))]
    if not rows or not len(moments):
        return np.zeros((len(moments), len(SHAPES)), np.float32)
    # Filled from the back as the blocks go: an hour is never held twice.
    end = sum(map(len, rows))
    table = np.empty((end, BANDS + 1), np.float16)
    while rows:
        block = rows.pop()
        table[end - len(block) : end] = block
        end -= len(block)
    raw = raw_shapes(table, heed=getattr(voice, "heed", None))
    del table
    return draw(raw, moments)
