"""Phone names of flite's and festival's voices to the sounds of ``phones.py``, with closures told from bursts."""

from __future__ import annotations

import numpy as np

from .phones import CODES, IS_BILABIAL, IS_VOWEL, RELEASE, SILENCE, Segments

_ENGLISH = """
aa ɑ  ae æ  ah ʌ  ao ɔ  aw aʊ  ax ə  axr ɚ  ay aɪ  b b  ch tʃ  d d  dh ð  dx ɾ  eh ɛ  el l  em m  en n  er ɜ
ey eɪ  f f  g ɡ  hh h  hv h  ih ɪ  iy i  jh dʒ  k k  l l  m m  n n  nx n  ng ŋ  ow oʊ  oy ɔɪ  p p  r ɹ  s s
sh ʃ  t t  th θ  uh ʊ  uw u  v v  w w  y j  z z  zh ʒ  pau _  h# _  brth _
"""
_RUSSIAN = """
ii i  yy ɨ  uu u  ee ɛ  oo o  aa a  a ɐ  e ɪ  i ɪ  y ɨ  u ʊ  ae ə  ay ə  ur ʊ  p p  pp pɪ  b b  bb bɪ  t t  tt t
d d  dd d  k k  kk k  g ɡ  gg ɡ  c ts  ch tɕ  f f  ff f  v v  vv v  s s  ss s  z z  zz z  sh ʂ  sch ɕ  zh ʐ
h x  hh ç  m m  mm m  n n  nn n  l l  ll l  r r  rr r  j j  pau _
"""
_CZECH = """
a a  a: a  b b  c ts  ch x  c~ tʃ  d d  dz dz  dz~ dʒ  d~ ɟ  e ɛ  e: ɛ  f f  g ɡ  h ɦ  i ɪ  i: i  j j  k k  l l  m m
n n  n* ŋ  n~ ɲ  o o  o: o  p p  r r  r~ ʒ  r~* ʃ  s s  s~ ʃ  t t  t~ c  u ʊ  u: u  v v  z z  z~ ʒ  # _  _ ʔ
"""
_ITALIAN = """
i i  e e  E ɛ  a a  o o  O ɔ  u u  i1 i  e1 e  E1 ɛ  a1 a  o1 o  O1 ɔ  u1 u  j j  w w  p p  t t  k k  b b  d d  g ɡ
f f  s s  S ʃ  v v  z z  Z ʒ  ts ts  tS tʃ  dz dz  dZ dʒ  m m  n n  J ɲ  ng ŋ  nf v  l l  L ʎ  r r  # _
"""
_FINNISH = """
a ɑ  a: ɑ  e e  e: e  i i  i: i  o o  o: o  u u  u: u  y y  y: y  @ æ  @: æ  7 ø  7: ø  p p  p: p  t t  t: t  k k
k: k  b b  b: b  d d  d: d  g ɡ  g: ɡ  f f  f: f  T θ  s s  s: s  S ʃ  S: ʃ  h h  h: h  v ʋ  v: ʋ  m m  m: m  n n
n: n  N ŋ  N: ŋ  l l  l: l  L ʎ  r r  r: r  j j  j: j  w w  w: w  # _  ## _
"""
_CATALAN = """
ax ə  a a  a1 a  e e  e1 e  E ɛ  E1 ɛ  i i  i1 i  o o  o1 o  O ɔ  O1 ɔ  u u  u1 u  p p  t t  k k  b b  d d  g ɡ
f f  s s  S ʃ  z z  Z ʒ  ts ts  tS tʃ  dZ dʒ  m m  n n  J ɲ  N ŋ  l l  L ʎ  r ɾ  rr r  j j  w w  v v  pau _  # _  _ _
"""


def _table(text: str) -> dict[str, list[int]]:
    words = text.split()
    return {
        name: [CODES[symbol] for symbol in ipa]
        for name, ipa in zip(words[::2], words[1::2], strict=True)
    }


TABLES = {
    "english": _table(_ENGLISH),
    "russian": _table(_RUSSIAN),
    "czech": _table(_CZECH),
    "italian": _table(_ITALIAN),
    "finnish": _table(_FINNISH),
    "catalan": _table(_CATALAN),
}
_STOPS = frozenset(CODES[s] for s in "ptkbdɡcɟ")
_HOP = 0.0025
"""Seconds between the levels in which a burst is sought."""
_LEAST_RISE = 4.0
"""dB within 7.5 ms that a burst, or the opening of a voiced closure, has at least."""
_CLOSED_AFTER_PAUSE = 0.08
"""Seconds that lips have met when speech begins with a closure."""


def _levels(samples: np.ndarray, rate: int) -> np.ndarray:
    """``(N,)`` dB of the pre-emphasised sound under 7.5 ms, 400 a second."""
    crisp = np.diff(samples, prepend=samples[:1]).astype(np.float64)
    power = np.concatenate([[0.0], np.cumsum(crisp**2)])
    middle = np.arange(int(len(samples) / rate / _HOP)) * _HOP
    low = np.clip(((middle - 0.00375) * rate).astype(int), 0, len(samples))
    high = np.clip(((middle + 0.00375) * rate).astype(int), 0, len(samples))
    return 10 * np.log10((power[high] - power[low]) / np.maximum(high - low, 1) + 1e-9)


def _opening(levels: np.ndarray, start: float, end: float) -> float | None:
    """Seconds of the steepest rise in a stop, from 12 ms after its start to 10 after its end."""
    first, last = int((start + 0.012) / _HOP), int((end + 0.010) / _HOP)
    rise = levels[first + 3 : last] - levels[first : last - 3]
    if not len(rise) or rise.max() < _LEAST_RISE:
        return None
    return min((first + int(rise.argmax()) + 2) * _HOP, end)


def labelled_segments(
    samples: np.ndarray, rate: int, phones: list[tuple[float, str]], language: str
) -> Segments | None:
    """Sounds of one spoken text; None if a phone is not in the table of ``language``.

    The interval of a stop holds its closure, its burst and its breath: the closure ends at the burst.
    """
    table = TABLES[language]
    levels = _levels(samples, rate)
    silence, release = CODES[SILENCE], CODES[RELEASE]
    stream: list[tuple[float, int]] = []
    begin, length = 0.0, len(samples) / rate

    def put(end: float, code: int) -> None:
        if end > (stream[-1][0] if stream else 0.0) + 1e-6:
            stream.append((end, code))

    for end, name in phones:
        end = min(end, length)
        codes = table.get(name)
        if codes is None:
            return None
        if end <= begin:
            continue
        first = codes[0]
        if IS_BILABIAL[first] and stream and stream[-1][1] == silence:
            before = stream[-2][0] if len(stream) > 1 else 0.0
            early = max(before, begin - _CLOSED_AFTER_PAUSE + min(0.05, (end - begin) / 2))
            stream[-1] = (min(early, stream[-1][0]), silence)
            if stream[-1][0] <= before:
                stream.pop()
        if first in _STOPS:
            opened = _opening(levels, begin, end)
            put(end if opened is None else opened, first)
            put(end, codes[1] if len(codes) > 1 else release)
        elif len(codes) == 1:
            put(end, first)
        else:
            share = 0.5 if IS_VOWEL[codes[0]] and IS_VOWEL[codes[1]] else 0.4
            put(begin + share * (end - begin), first)
            put(end, codes[1])
        begin = end
    put(length, silence)
    return Segments(ends=np.array([e for e, _ in stream]), codes=np.array([c for _, c in stream]))
