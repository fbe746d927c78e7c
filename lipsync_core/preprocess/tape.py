"""The sound of a source beside its pictures, read forwards, a few seconds of it at hand."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from .step import RATE

if TYPE_CHECKING:
    from ..types import Voice

KEPT = 10 * RATE
"""Samples that stay at hand behind what was last asked for."""


class Tape:
    """Mono sound at 16 kHz by time of the picture. Memory does not grow with its length."""

    def __init__(self, voice: Voice, lead: Fraction) -> None:
        """``lead``: second of the voice that is heard at the first picture, may be negative."""
        self._blocks: Iterator[np.ndarray] = voice.blocks(RATE)
        self.lead = lead
        self._lead = round(lead * RATE)
        self._data = np.zeros(0, np.float32)
        self._from = 0
        """Sample of the voice at which ``_data`` begins."""
        self._ended = False

    def cut(self, first: int, count: int) -> np.ndarray:
        """``(count,)`` float32 from sample ``first`` after the first picture; silence where there is none.

        ``first`` may go back by no more than ten seconds.
        """
        start = first + self._lead
        self._read(start + count)
        result = np.zeros(count, np.float32)
        low, high = max(start, self._from), min(start + count, self._from + len(self._data))
        if high > low:
            result[low - start : high - start] = self._data[low - self._from : high - self._from]
        old = min(start - KEPT - self._from, len(self._data))
        if old > KEPT:
            self._data, self._from = self._data[old:].copy(), self._from + old
        return result

    def _read(self, until: int) -> None:
        parts = [self._data]
        end = self._from + len(self._data)
        while end < until and not self._ended:
            block = next(self._blocks, None)
            if block is None:
                self._ended = True
                break
            parts.append(block)
            end += len(block)
        if len(parts) > 1:
            self._data = np.concatenate(parts)
