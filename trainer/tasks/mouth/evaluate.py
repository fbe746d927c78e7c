"""Compares what the draft engine hears with real lips measured by ``measure.py``.

    python -m trainer.tasks.mouth.evaluate LIPS_DIR CLIP [CLIP ...] [--weights mouth.safetensors] [--ideal] [--events]

With ``--ideal`` nothing is heard: the true sounds of GRID's sentences, found by ``align.py``, go through the
table of ``phones.py`` and the drawing rules. That is what a perfect listener would reach with these labels.
``--events`` lists, for clips of GRID, every stretch of frames drawn closed and every closure that was missed.

Two ranks of the real lips are given for the frames drawn closed. The plain one is ``percentile_ranks``; it also
orders the frames in which the lips are shut, by what the measuring makes of them. The visible one,
``visible_ranks``, takes all shut lips for equal.

Reads the sound of each clip and ``LIPS_DIR/<clip>.npz``. Clips of the GRID corpus are named after their
sentence (``lbax4n``: lay blue at x four now), so their p, b and m can be found.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from lipsync_core.audio.mel import BANDS, RATE, loudness, mel_rows
from lipsync_core.engines.draft import speech
from lipsync_core.engines.draft.speech import JAW, OPEN, PRESS, ROUND, WIDE

LAGS = np.arange(-500, 501, 10)
"""Milliseconds; positive: the real mouth comes later than the heard one."""

NEAR = 0.12
"""Seconds around the aligned closure within which the real lips are narrowest: that frame counts."""

SHUT = 0.02
"""Of the span of the eyes: lips that measure less are shut. It is a pixel or two in clips of GRID; lips that
meet in speech and lips at rest read .001 to .006 alike. .01 and .03 give the same ranks."""

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_WORDS = (
    {"b": "bin", "l": "lay", "p": "place", "s": "set"},
    {"b": "blue", "g": "green", "r": "red", "w": "white"},
    {"a": "at", "b": "by", "i": "in", "w": "with"},
    None,  # a letter
    dict(zip("z123456789", _DIGITS, strict=True)),
    {"n": "now", "a": "again", "p": "please", "s": "soon"},
)


@dataclass(frozen=True)
class SoundFile:
    """A ``Voice`` from the sound of a file, whole in memory."""

    samples: np.ndarray

    @classmethod
    def read(cls, path: Path) -> SoundFile:
        """Decodes to 16 kHz, one channel."""
        import av

        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        with av.open(str(path)) as container:
            frames = [f for d in container.decode(audio=0) for f in resampler.resample(d)]
            frames += resampler.resample(None)
        return cls(np.concatenate([f.to_ndarray()[0] for f in frames]).astype(np.float32))

    @property
    def duration(self) -> Fraction:
        return Fraction(len(self.samples), RATE)

    def blocks(self, rate: int) -> Iterator[np.ndarray]:
        """One block with everything."""
        assert rate == RATE
        yield self.samples


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r over the rows where both are finite."""
    good = np.isfinite(a) & np.isfinite(b)
    if good.sum() < 3 or a[good].std() < 1e-9 or b[good].std() < 1e-9:
        return 0.0
    return float(np.corrcoef(a[good], b[good])[0, 1])


def percentile_ranks(curve: np.ndarray) -> np.ndarray:
    """0..1 for each frame: the share of the clip's frames that are lower, ties counted half."""
    below = (curve[None, :] < curve[:, None]).mean(1)
    ties = (curve[None, :] == curve[:, None]).mean(1)
    return below + ties / 2


def visible_ranks(curve: np.ndarray) -> np.ndarray:
    """0..1 for each frame: the share of the clip's frames in which the lips are visibly nearer to each other."""
    seen = np.maximum(curve, SHUT)
    return (seen[None, :] < seen[:, None]).mean(1)


def grid_sentence(stem: str) -> str | None:
    """The sentence of a GRID clip by its name, or None."""
    if len(stem) != 6:
        return None
    words = []
    for letter, table in zip(stem, _WORDS, strict=True):
        if table is not None and letter not in table:
            return None
        words.append(table[letter] if table is not None else letter.upper())
    return " ".join(words)


def bilabials(sound: np.ndarray, text: str) -> np.ndarray:
    """Seconds of the middle of each p, b and m closure of ``text`` in ``sound``.

    The sentence is said by espeak-ng and its rows are aligned to those of the sound (dynamic time
    warping of loudness-normalised bands); good to two or three hundredths of a second.
    """
    from scipy.signal import resample_poly

    from .espeak import Espeak, Style
    from .phones import IS_BILABIAL, segments

    espeak = Espeak()
    said = espeak.say(text, Style(voice="en-us", words_per_minute=150))
    assert said is not None
    parts = segments(said.samples, espeak.rate, said.phones)
    a = _comparable(resample_poly(said.samples, 320, 441).astype(np.float32))
    b = _comparable(sound)
    cost = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    total = np.full((len(a) + 1, len(b) + 1), np.inf)
    total[0, 0] = 0
    for i in range(len(a)):
        for j in range(len(b)):
            total[i + 1, j + 1] = cost[i, j] + min(
                total[i, j], total[i, j + 1] + 0.3, total[i + 1, j] + 0.3
            )
    i, j, place = len(a), len(b), np.zeros(len(a))
    while i and j:
        place[i - 1] = j - 1
        step = np.argmin([total[i - 1, j - 1], total[i - 1, j] + 0.3, total[i, j - 1] + 0.3])
        i, j = i - (step != 2), j - (step != 1)
    middle = (parts.starts + parts.ends)[IS_BILABIAL[parts.codes]] / 2
    return np.interp(middle * 100, np.arange(len(a)), place) / 100


def _comparable(sound: np.ndarray) -> np.ndarray:
    rows = np.concatenate(list(mel_rows([sound])))
    return speech.features(rows, *speech.level_and_colour(rows)) * np.r_[np.ones(BANDS), 6.0]


def energy_curve(rows: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """The baseline: loudness in dB within 40 dB of the top, under a Gaussian of 40 ms."""
    total = loudness(rows[:, :BANDS])
    top = np.percentile(total, 95)
    scaled = np.clip((total - top) / 40 + 1, 0, None).astype(np.float32)
    return speech._sample(scaled[:, None], moments, 0.04)[:, 0]


def lag_curve(raw: np.ndarray, moments: np.ndarray, lips: np.ndarray) -> np.ndarray:
    """Correlation of opening at every one of ``LAGS``."""
    return np.array(
        [correlation(speech.draw(raw, moments - lag / 1000)[:, OPEN], lips) for lag in LAGS]
    )


def ideal_shapes(rows: np.ndarray, samples: np.ndarray, text: str) -> np.ndarray:
    """``(N, 7)`` outputs of a network that makes no mistake: the training targets of the true sounds."""
    from .align import aligned
    from .augment import strengths, voice_level
    from .phones import targets, with_breath

    parts = aligned(samples, text)
    if parts is None:
        raise SystemExit(f"the words were not found in the sound: {text}")
    bands, spoken = rows[:, :BANDS], with_breath(parts)
    shapes = targets(spoken, len(bands), strengths(bands, spoken))
    return np.concatenate([shapes, voice_level(bands, parts)[:, None]], 1).astype(np.float32)


def events(
    sound: np.ndarray, text: str, lips: dict[str, np.ndarray], pressed: np.ndarray
) -> list[str]:
    """A line for each stretch of ``(T,)`` frames drawn closed, and for each closure of ``text`` without one."""
    from .align import aligned
    from .phones import IS_BILABIAL, SYMBOLS

    parts = aligned(sound, text)
    if parts is None:
        return ["the words were not found in the sound"]
    times, ranks, seen = lips["time"], percentile_ranks(lips["open"]), visible_ranks(lips["open"])
    names = [SYMBOLS[code] for code in parts.codes]
    bilabial = IS_BILABIAL[parts.codes]

    def around(index: int) -> str:
        before, after = names[max(0, index - 2) : index], names[index + 1 : index + 3]
        return f"{''.join(before)}[{names[index]}]{''.join(after)}"

    def values(frames: np.ndarray) -> str:
        return (
            f"opening {lips['open'][frames].mean():.3f}, rank {ranks[frames].mean():.2f}, "
            f"visible {seen[frames].mean():.2f}"
        )

    lines = []
    met = np.zeros(len(names), bool)
    frames = np.nonzero(pressed)[0]
    for run in np.split(frames, np.nonzero(np.diff(frames) > 1)[0] + 1):
        if not len(run):
            continue
        begin, end = times[run[0]] - 0.05, times[run[-1]] + 0.05
        here = bilabial & (parts.starts < end) & (parts.ends > begin)
        met |= here
        middle = (times[run[0]] + times[run[-1]]) / 2
        index = int(here.argmax()) if here.any() else int(np.searchsorted(parts.ends, middle))
        kind = "found " if here.any() else "wrong "
        lines.append(
            f"{kind} {times[run[0]]:.2f} s {len(run)} frames {around(index)}: {values(run)}"
        )
    for index in np.nonzero(bilabial & ~met)[0]:
        inside = np.nonzero((times >= parts.starts[index]) & (times <= parts.ends[index]))[0]
        place = inside if len(inside) else np.array([np.abs(times - parts.starts[index]).argmin()])
        lines.append(f"missed {parts.starts[index]:.2f} s {around(int(index))}: {values(place)}")
    return lines


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("lips", type=Path)
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--weights", type=Path, default=speech.WEIGHTS)
    parser.add_argument("--ideal", action="store_true", help="the true sounds instead of a network")
    parser.add_argument("--events", action="store_true", help="list every closure")
    options = parser.parse_args()
    net = speech.network(options.weights)
    print("clip      open  loud  jaw   (loud) width (loud) lag ms (r)    "
          "press>.5: n, real rank, visible rank | true closures: n, drawn rank, real rank, caught")  # fmt: skip
    table, mean_lags, cpu, seconds = [], [], 0.0, 0.0
    at_press: list[float] = []
    seen_at_press: list[float] = []
    at_closure: list[float] = []
    real_at_closure: list[float] = []
    caught: list[bool] = []
    for clip in options.clips:
        with np.load(options.lips / f"{clip.stem}.npz") as stored:
            lips = {name: stored[name] for name in stored.files}
        sound = SoundFile.read(clip)
        began = time.process_time()
        rows = np.concatenate(list(mel_rows([sound.samples])))
        text = grid_sentence(clip.stem)
        if options.ideal:
            if text is None:
                raise SystemExit(f"{clip.name} does not name its sentence as clips of GRID do")
            raw = ideal_shapes(rows, sound.samples, text)
        else:
            raw = speech.raw_shapes(rows, net)
        heard = speech.draw(raw, lips["time"])
        cpu += time.process_time() - began
        seconds += float(sound.duration)
        loud = energy_curve(rows, lips["time"])
        lags = lag_curve(raw, lips["time"], lips["open"])
        mean_lags.append(lags)
        row = [
            correlation(heard[:, OPEN], lips["open"]),
            correlation(loud, lips["open"]),
            correlation(heard[:, JAW], lips["jaw"]),
            correlation(loud, lips["jaw"]),
            correlation(heard[:, WIDE] - heard[:, ROUND], lips["width"]),
            correlation(loud, lips["width"]),
        ]
        table.append(row)
        ranks = percentile_ranks(lips["open"])
        closed = heard[:, PRESS] > 0.5
        at_press += list(ranks[closed])
        seen = visible_ranks(lips["open"])
        seen_at_press += list(seen[closed])
        line = f"{clip.stem:9.9} " + " ".join(f"{v:+.2f}" for v in row)
        line += f"  {LAGS[lags.argmax()]:+4d} ({lags.max():.2f})    {closed.sum():2d} "
        line += (
            f"{ranks[closed].mean():.2f} {seen[closed].mean():.2f}" if closed.any() else "  -    -"
        )
        if text:
            drawn = percentile_ranks(heard[:, OPEN])
            here, real, hits = [], [], []
            for moment in bilabials(sound.samples, text):
                near = np.nonzero(np.abs(lips["time"] - moment) <= NEAR)[0]
                frame = near[np.argmin(lips["open"][near])]
                here.append(drawn[frame])
                real.append(ranks[frame])
                hits.append(bool(closed[max(0, frame - 1) : frame + 2].any()))
            at_closure += here
            real_at_closure += real
            caught += hits
            if here:
                line += f" | {len(here)} {np.mean(here):.2f} {np.mean(real):.2f} {sum(hits)}"
            line += f" ({text})"
        print(line)
        if options.events and text:
            print(*events(sound.samples, text, lips, closed), sep="\n")
    mean = np.mean(table, 0)
    peak = np.mean(mean_lags, 0)
    print(f"{'mean':9} " + " ".join(f"{v:+.2f}" for v in mean)
          + f"  {LAGS[peak.argmax()]:+4d} ({peak.max():.2f})"
          + f"    {len(at_press)} {np.mean(at_press):.2f} {np.mean(seen_at_press):.2f}"
          + (f" | {len(at_closure)} {np.mean(at_closure):.2f} {np.mean(real_at_closure):.2f}"
             f" {sum(caught)}" if at_closure else ""))  # fmt: skip
    print(f"mean r of opening {mean[0]:.3f} (loudness {mean[1]:.3f}), width {mean[4]:.3f}; "
          f"{cpu / seconds * 60:.3f} s CPU a minute of sound")  # fmt: skip


if __name__ == "__main__":
    main()
