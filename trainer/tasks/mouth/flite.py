"""Speech of voices built from recordings, with phone times, from libflite through ctypes."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np

VOICES = ("slt", "rms", "kal16", "kal", "awb")
"""A woman and a man (statistical), a man in two qualities (diphones), and a Scottish man (statistical)."""


class _Wave(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    ]


class _Voice(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("features", ctypes.c_void_p)]


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A spoken text with the phones of its synthesiser."""

    samples: np.ndarray
    """``(S,)`` float32 -1..1."""
    rate: int
    phones: list[tuple[float, str]]
    """Seconds at which each phone ends, and its name in the set of the voice."""


class Flite:
    """The voices of flite 2.2 (Debian: libflite1)."""

    def __init__(self) -> None:
        def library(part: str) -> ctypes.CDLL:
            return ctypes.CDLL(f"libflite{part}.so.1", mode=ctypes.RTLD_GLOBAL)

        try:
            self._library = library("")
            library("_usenglish")
            library("_cmulex")
            makers = {v: library(f"_cmu_us_{v}")[f"register_cmu_us_{v}"] for v in VOICES}
        except OSError as error:
            raise SystemExit(
                f"libflite was not found ({error}); install flite (Debian: libflite1)"
            ) from error
        pointer, number, word = ctypes.c_void_p, ctypes.c_float, ctypes.c_char_p
        for name, result, arguments in (
            ("flite_init", ctypes.c_int, []),
            ("flite_synth_text", pointer, [word, pointer]),
            ("flite_feat_set_float", None, [pointer, word, number]),
            ("utt_wave", ctypes.POINTER(_Wave), [pointer]),
            ("utt_relation", pointer, [pointer, word]),
            ("relation_head", pointer, [pointer]),
            ("item_next", pointer, [pointer]),
            ("item_feat_float", number, [pointer, word]),
            ("item_feat_string", word, [pointer, word]),
            ("delete_utterance", None, [pointer]),
        ):
            function = getattr(self._library, name)  # kept; an index would make a new one
            function.restype, function.argtypes = result, arguments
        self._library.flite_init()
        self._voices: dict[str, ctypes.c_void_p] = {}
        for name, make in makers.items():
            make.restype, make.argtypes = pointer, [word]
            self._voices[name] = ctypes.c_void_p(make(None))

    def say(self, text: str, voice: str, *, duration: float = 1.0, pitch: float = 1.0) -> Labelled:
        """``text`` (ASCII) by one of ``VOICES``, ``duration`` times as long, ``pitch`` times as high."""
        library, spoken_by = self._library, self._voices[voice]
        features = ctypes.cast(spoken_by, ctypes.POINTER(_Voice)).contents.features
        library.flite_feat_set_float(features, b"duration_stretch", duration)
        if voice.startswith("kal"):
            library.flite_feat_set_float(features, b"int_f0_target_mean", 95.0 * pitch)
        else:
            library.flite_feat_set_float(features, b"f0_shift", pitch)
        utterance = library.flite_synth_text(text.encode("ascii", "ignore"), spoken_by)
        wave = library.utt_wave(utterance).contents
        samples = np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).astype(np.float32)
        rate, phones = wave.sample_rate, []
        item = library.relation_head(library.utt_relation(utterance, b"Segment"))
        while item:
            name = library.item_feat_string(item, b"name").decode()
            phones.append((library.item_feat_float(item, b"end"), name))
            item = library.item_next(item)
        library.delete_utterance(utterance)
        return Labelled(samples=samples / 32768.0, rate=rate, phones=phones)
