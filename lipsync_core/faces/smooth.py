"""The best path through noisy points, knowing the whole clip: no lag, no jitter."""

from __future__ import annotations

import numpy as np


def fuse(
    measured: np.ndarray,
    noise: np.ndarray,
    turn: np.ndarray,
    shift: np.ndarray,
    drift: np.ndarray,
    *,
    rounds: int = 2,
) -> np.ndarray:
    """Points of every frame from detections of some and the movement between all: ``(T, L)`` complex.

    ``measured``: ``(T, L)`` complex source px ``x + iy``, NaN rows where nobody looked. ``noise``:
    ``(T,)`` variance of a detection. ``turn``, ``shift``: ``(T,)`` complex, so that a point of row
    ``t - 1`` reappears at ``turn[t] * z + shift[t]``, with variance ``drift[t]``.

    A Kalman filter forward and a Rauch-Tung-Striebel pass backward: every frame is the weighted
    mean of the detections before and after it, carried along by the movement. ``rounds`` more
    passes weigh down detections that disagree with their neighbours. Nothing else is smoothed: the
    movement is real (a shaking hand, a nod), and blunting it makes the crop shake instead.
    """
    given = np.isfinite(measured.real).all(axis=1)
    if not given.any():
        raise ValueError("a track needs at least one detection")
    weight = np.ones(len(measured))
    path = _pass(measured, given, noise, turn, shift, drift)
    for _ in range(rounds):
        rest = np.abs(path - measured).mean(axis=1) / np.sqrt(noise)
        # Huber: beyond one and a half times the usual a detection counts in proportion only.
        usual = max(float(np.median(rest[given])), 0.5)
        weight = np.where(given, np.maximum(rest / (1.5 * usual), 1.0), 1.0)
        path = _pass(measured, given, noise * weight**2, turn, shift, drift)
    return path


def _pass(
    measured: np.ndarray,
    given: np.ndarray,
    noise: np.ndarray,
    turn: np.ndarray,
    shift: np.ndarray,
    drift: np.ndarray,
) -> np.ndarray:
    frame_count = len(measured)
    path = np.empty_like(measured)
    predicted = np.empty_like(measured)
    variance = np.empty(frame_count)
    state = measured[int(np.argmax(given))]
    spread = 1e9
    for t in range(frame_count):
        if t:
            state = turn[t] * state + shift[t]
            spread += drift[t]
        predicted[t] = state
        if given[t]:
            gain = spread / (spread + noise[t])
            state = state + gain * (measured[t] - state)
            spread *= 1 - gain
        path[t], variance[t] = state, spread
    for t in range(frame_count - 2, -1, -1):
        gain = variance[t] / (variance[t] + drift[t + 1])
        path[t] += gain * (path[t + 1] - predicted[t + 1]) / turn[t + 1]
    return path


def spans(flags: np.ndarray) -> list[tuple[int, int]]:
    """Runs of True in ``(T,)`` as ``[start, end)`` pairs."""
    edges = np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8))
    return list(
        zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True)
    )
