"""What the draft engine makes of noise, silence, hum and music, and what it costs.

    python -m trainer.tasks.mouth.robustness SPEECH [--weights mouth.safetensors] [--held held.npz]

SPEECH is any recording of a voice. With ``--held``, also how well shapes and closures are heard in
synthetic speech that was not trained on: clean, under hiss and as rough as in training.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from lipsync_core.audio.mel import BANDS, RATE, decibels, loudness, mel_rows
from lipsync_core.engines.draft import speech
from lipsync_core.engines.draft.speech import OPEN, PRESS, SHAPES, Network, closures

from .augment import Corpus, example
from .evaluate import SoundFile, correlation
from .phones import targets

FPS = 25


def shapes_of(samples: np.ndarray, net: Network) -> np.ndarray:
    """``(T, 6)`` at 25 frames a second."""
    rows = np.concatenate(list(mel_rows([samples.astype(np.float32)]))).astype(np.float16)
    moments = np.arange(len(samples) * FPS // RATE) / FPS
    return speech.draw(speech.raw_shapes(rows, net), moments)


def not_speech(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Ten seconds each of what must leave the mouth closed."""
    clock = np.arange(10 * RATE) / RATE
    white = rng.standard_normal(len(clock))

    def scale(sound: np.ndarray, level: float) -> np.ndarray:
        return sound / np.sqrt(np.mean(sound**2)) * 10 ** (level / 20)

    brown = np.cumsum(white)
    brown -= np.convolve(brown, np.ones(800) / 800, mode="same")
    order = np.arange(1, 12)[:, None]
    hum = (np.sin(2 * np.pi * 50 * order * clock) / order).sum(0)
    notes = np.array([220.0, 277.2, 329.6])[:, None, None]
    chord = (np.sin(2 * np.pi * notes * order[:8] * clock) / order[:8] ** 1.5).sum((0, 1))
    tune = np.concatenate([
        (np.sin(2 * np.pi * f * order[:7] * clock[:4000]) / order[:7]).sum(0) * np.exp(-clock[:4000] * 6)
        for f in 220 * 2 ** (rng.integers(0, 24, 40) / 12)
    ])  # fmt: skip
    clicks = np.zeros(len(clock))
    clicks[rng.integers(0, len(clock), 25)] = 1
    return {
        "digital silence": np.zeros(len(clock)),
        "white noise -60 dBFS": scale(white, -60),
        "white noise -20 dBFS": scale(white, -20),
        "brown noise -25 dBFS": scale(brown, -25),
        "gusts -25 dBFS": scale(white * (1 + np.sin(2 * np.pi * 1.3 * clock)) ** 2, -25),
        "mains hum -25 dBFS": scale(hum, -25) + scale(white, -65),
        "chord -20 dBFS": scale(chord, -20) + scale(white, -65),
        "tune -20 dBFS": scale(tune, -20) + scale(white, -65),
        "clicks": 0.5 * clicks + scale(white, -65),
    }


THRESHOLDS = (0.4, 0.5, 0.6, 0.7, 0.75, 0.82, 0.85, 0.9)
"""Of press at a peak."""


def _noisy(rows: np.ndarray, below: float, rng: np.random.Generator) -> np.ndarray:
    """``(N, BANDS)`` rows under a hiss ``below`` dB softer than their mean."""
    power = 10.0 ** (rows.astype(np.float64) / 10)
    hiss = np.linspace(-8.0, 8.0, BANDS)  # white noise after pre-emphasis rises
    hiss += decibels(power.sum(1).mean()) - below - decibels((10.0 ** (hiss / 10)).sum())
    return decibels(power + 10.0 ** (hiss / 10) * rng.gamma(3.0, 1 / 3, rows.shape))


def _clean(corpus: Corpus, index: int, below: float | None) -> tuple[np.ndarray, np.ndarray]:
    """``(N, 41)`` rows of a whole item, as ``hear`` has them, and its ``(N, 6)`` shapes."""
    rows, parts = corpus.item(index)
    if below is not None:
        rows = _noisy(rows, below, np.random.default_rng(index))
    level = loudness(rows)[:, None]
    return np.concatenate([rows, level], 1).astype(np.float32), targets(parts, len(rows))


def held_out(net: Network, paths: list[Path]) -> None:
    """Correlations and closures on synthetic speech: clean, under hiss, and as in training."""
    corpus = Corpus.read(*paths)
    pooled = {threshold: np.zeros(3) for threshold in THRESHOLDS}
    for name, below in (("clean", None), ("20 dB", 20.0), ("10 dB", 10.0), ("rough", None)):
        heard, wanted = [], []
        found = {threshold: np.zeros(3) for threshold in THRESHOLDS}
        for index in range(len(corpus)):
            if name == "rough":
                x, shapes, _ = example(corpus, index, np.random.default_rng([12345, 0, index]))
                out = net(x)
            else:
                rows, shapes = _clean(corpus, index, below)
                out = speech.raw_shapes(rows, net)
            heard.append(out)
            wanted.append(shapes)
            seconds = len(out) / 100
            true = closures(shapes[:, PRESS])[0]
            for threshold, counts in found.items():
                guessed, firm = closures(out[:, PRESS] + speech.CLOSURE - threshold)
                guessed = guessed[firm > 0.5]
                guessed, inside = (e[(e > 0.2) & (e < seconds - 0.2)] for e in (guessed, true))
                near = np.abs(guessed[:, None] - inside[None]) <= 0.05
                counts += (near.any(1).sum() if near.size else 0, len(guessed), len(inside))
        a, b = (
            np.concatenate([table[22:-22, : len(SHAPES)] for table in tables])
            for tables in (heard, wanted)
        )
        each = (f"{n} {correlation(a[:, i], b[:, i]):.3f}" for i, n in enumerate(SHAPES))
        print(f"held out, {name}: r", " ".join(each))
        print("   closures, precision/recall:", "  ".join(
            f"at {threshold} {hits / max(guesses, 1):.2f}/{hits / max(truths, 1):.2f}"
            for threshold, (hits, guesses, truths) in found.items()
        ), f"of {found[0.5][2]:.0f}")  # fmt: skip
        if name != "rough":
            for threshold, counts in found.items():
                pooled[threshold] += counts
            _drawn(heard, wanted)
    print("peaks of press that are closures, clean, 20 and 10 dB together:", "  ".join(
        f"{low}-{high} {(pooled[low] - pooled.get(high, 0))[0]:.0f} of {(pooled[low] - pooled.get(high, 0))[1]:.0f}"
        for low, high in zip(THRESHOLDS, (*THRESHOLDS[1:], 1.0), strict=True)
    ))  # fmt: skip


def _drawn(heard: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    """Prints what rules of closing make of ``heard``, at 25 frames a second, beside what the labels would draw."""
    now = speech.CLOSURE, speech.MAYBE
    try:
        for whole, half in ((0.6, 0.6), (now[0], now[0]), now, (2.0, 2.0)):
            errors, opening, wrong = [], [], 0
            for out, shapes in zip(heard, wanted, strict=True):
                moments = np.arange(len(out) // 4) / 25
                labels = out.copy()
                labels[:, : len(SHAPES)] = shapes
                speech.CLOSURE, speech.MAYBE = now
                right = speech.draw(labels, moments)
                speech.CLOSURE, speech.MAYBE = whole, half
                ours = speech.draw(out, moments)
                errors.append((ours[:, OPEN] - right[:, OPEN]) ** 2)
                shut = right[:, PRESS] > 0.5
                opening.append(ours[shut, OPEN])
                beside = np.convolve(shut, np.ones(3), mode="same") > 0
                wrong += int(((ours[:, PRESS] > 0.5) & ~beside).sum())
            print(f"   closed from {whole}, half from {half}: square error of opening "
                  f"{np.concatenate(errors).mean():.4f}, opening at closures "
                  f"{np.concatenate(opening).mean():.3f}, frames pressed wrongly {wrong}")  # fmt: skip
    finally:
        speech.CLOSURE, speech.MAYBE = now


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("speech", type=Path)
    parser.add_argument("--weights", type=Path, default=speech.WEIGHTS)
    parser.add_argument("--held", type=Path, nargs="+")
    options = parser.parse_args()
    net = speech.network(options.weights)
    rng = np.random.default_rng(0)
    voice = SoundFile.read(options.speech).samples
    clean = shapes_of(voice, net)
    pause = np.zeros(2 * RATE, np.float32)
    middle = len(voice) // 2
    print("noise over speech: r of opening with the clean run, and mean/max opening in a 2 s pause")
    for snr in (40, 20, 10, 5):
        level = np.sqrt(np.mean(voice**2)) * 10 ** (-snr / 20)
        noise = level * rng.standard_normal(len(voice) + len(pause))
        noisy = shapes_of(voice + noise[: len(voice)], net)
        paused = shapes_of(np.concatenate([voice[:middle], pause, voice[middle:]]) + noise, net)
        quiet = paused[int((middle / RATE + 0.4) * FPS) : int((middle / RATE + 1.6) * FPS), OPEN]
        print(f"  SNR {snr:2d} dB: r {correlation(noisy[:, OPEN], clean[:, OPEN]):.2f}  "
              f"pause {quiet.mean():.3f}/{quiet.max():.3f}")  # fmt: skip
    for change in (-20, 20):
        other = shapes_of(voice * 10 ** (change / 20), net)
        print(f"level {change:+d} dB: r {correlation(other[:, OPEN], clean[:, OPEN]):.3f}")
    print("no speech: mean/max opening, frames pressed")
    for name, sound in not_speech(rng).items():
        shapes = shapes_of(sound, net)
        print(f"  {name:22} {shapes[:, OPEN].mean():.3f}/{shapes[:, OPEN].max():.3f}  "
              f"{(shapes[:, PRESS] > 0.5).sum()}")  # fmt: skip
    if options.held:
        held_out(net, options.held)
    minute = np.resize(voice, 60 * RATE)
    shapes_of(minute[:RATE], net)
    costs = []
    for _ in range(3):
        began = time.process_time()
        shapes_of(minute, net)
        costs.append(time.process_time() - began)
    print(f"one minute of sound: {min(costs):.3f} s CPU")


if __name__ == "__main__":
    main()
