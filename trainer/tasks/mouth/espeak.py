"""Speech with sample-exact phoneme times from libespeak-ng, through ctypes."""

from __future__ import annotations

import ctypes
import ctypes.util
from dataclasses import dataclass

import numpy as np

_SYNCHRONOUS = 2
_PHONEME_EVENTS_AS_IPA = 1 | 2
_CHARS_UTF8_END_PAUSE = 0x101
_EVENT_PHONEME = 7
_RATE, _PITCH, _RANGE, _WORD_GAP = 1, 3, 4, 7


class _Id(ctypes.Union):
    _fields_ = [("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a sentence is said."""

    voice: str
    """A language of espeak-ng, with a variant: ``fr``, ``en-us+f3``."""
    words_per_minute: int = 175
    pitch: int = 50
    pitch_range: int = 50
    word_gap: int = 0
    """In units of 10 ms."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """A spoken text."""

    samples: np.ndarray
    """``(S,)`` float32 -1..1."""
    phones: list[tuple[int, str]]
    """First sample and IPA of each phone; an empty IPA is a pause."""


class Espeak:
    """One process-wide synthesiser; espeak-ng keeps its state in globals."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1"
        try:
            self._library = ctypes.CDLL(name)
        except OSError as error:
            raise SystemExit(
                "libespeak-ng was not found; install espeak-ng (Debian: libespeak-ng1)"
            ) from error
        self.rate: int = self._library.espeak_Initialize(
            _SYNCHRONOUS, 0, None, _PHONEME_EVENTS_AS_IPA
        )
        if self.rate <= 0:
            raise SystemExit("espeak-ng did not start; is its data (espeak-ng-data) installed?")
        self._blocks: list[np.ndarray] = []
        self._phones: list[tuple[int, str]] = []
        self._callback = _CALLBACK(self._receive)  # kept, or the library would call freed memory
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, wave: object, count: int, events: object) -> int:
        if wave and count:
            self._blocks.append(np.ctypeslib.as_array(wave, (count,)).copy())  # type: ignore[arg-type]
        position = 0
        while events[position].type:  # type: ignore[index]
            event = events[position]  # type: ignore[index]
            if event.type == _EVENT_PHONEME:
                raw = ctypes.string_at(ctypes.addressof(event.id), 8).split(b"\0")[0]
                self._phones.append((event.sample, raw.decode("utf-8", "ignore")))
            position += 1
        return 0

    def say(self, text: str, style: Style) -> Said | None:
        """The text in the given style; None where espeak-ng refuses the voice or stays silent."""
        library = self._library
        if library.espeak_SetVoiceByName(style.voice.encode()) != 0:
            return None
        for parameter, value in (
            (_RATE, style.words_per_minute),
            (_PITCH, style.pitch),
            (_RANGE, style.pitch_range),
            (_WORD_GAP, style.word_gap),
        ):
            library.espeak_SetParameter(parameter, value, 0)
        self._blocks, self._phones = [], []
        raw = text.encode()
        library.espeak_Synth(raw, len(raw) + 1, 0, 1, 0, _CHARS_UTF8_END_PAUSE, None, None)
        if not self._blocks:
            return None
        samples = np.concatenate(self._blocks).astype(np.float32) / 32768.0
        if not np.abs(samples).max() > 0.01 or not self._phones:
            return None
        return Said(samples=samples, phones=self._phones)
