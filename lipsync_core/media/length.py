"""What gives way when voice and picture differ in length.

============  =============================================  ======================================
policy        the voice is longer than the picture           the voice is shorter
============  =============================================  ======================================
``auto``      ``bounce``                                     ``cut``
``cut``       the voice is cut off where the picture ends    the picture ends with the voice
``bounce``    the picture runs back and forth, its end       the picture ends with the voice
              frames shown once at each turn
``loop``      the picture begins again from its first frame  the picture ends with the voice
``hold``      the last frame stands still                    the picture ends with the voice
``silence``   as ``bounce``: no word of the voice is lost    the whole picture is kept, the voice
                                                             is followed by silence
``stretch``   the picture is slowed down to the voice's      the picture is sped up to the voice's
              length                                         length
============  =============================================  ======================================

A still is shown for as long as the voice lasts under every policy. The output always covers the
sound: its last frame is the first to reach the end of it, so the two agree within one frame.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from ..errors import MediaError, SettingsError
from ..types import LengthPolicy
from . import timing

Motion = Literal["forward", "bounce", "loop", "hold", "resample"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Which source frame is shown when, computed on demand for any output frame."""

    policy: LengthPolicy
    """The policy that was applied; never ``auto``."""
    frame_count: int
    """Output frames."""
    audio_duration: Fraction
    """Seconds of sound in the output: cut, or padded with silence, to this."""
    motion: Motion
    frame_rate: Fraction
    """Average output rate."""
    speed: Fraction
    """Source seconds per output second; 1 unless stretched."""
    time_base: Fraction
    """Every source time below is a whole number of this many seconds."""
    edges: Sequence[int]
    """``source_count + 1`` times: when each source frame begins, and when the last one ends.

    A ``range`` if the rate is constant, so that it takes no memory.
    """

    @property
    def source_count(self) -> int:
        """Frames of the source."""
        return len(self.edges) - 1

    @property
    def duration(self) -> Fraction:
        """Seconds of picture in the output."""
        return self.time(self.frame_count)

    def __len__(self) -> int:
        return self.frame_count

    def source(self, index: int) -> int:
        """The source frame that output frame ``index`` shows."""
        count = self.source_count
        if self.motion == "resample":
            shown = self.time(index) * self.speed / self.time_base
            return min(max(bisect_right(self.edges, shown) - 1, 0), count - 1)
        if index < count:
            return index
        if self.motion == "hold":
            return count - 1
        if self.motion == "loop":
            return index % count
        assert self.motion == "bounce", (index, self.motion)
        place = index % _period(count)
        return place if place < count else _period(count) - place

    def time(self, index: int) -> Fraction:
        """Seconds at which output frame ``index`` appears; exact."""
        if self.motion == "resample":
            return timing.frame_time(index, self.frame_rate)
        return self._ticks(index) * self.time_base

    def frame_duration(self, index: int) -> Fraction:
        """Seconds for which output frame ``index`` stands."""
        return self.time(index + 1) - self.time(index)

    def sources(self) -> Iterator[int]:
        """The schedule for ``Reader.follow``."""
        return (self.source(index) for index in range(self.frame_count))

    def times(self) -> PlanTimes:
        """When each output frame appears, as a sequence that takes no memory."""
        return PlanTimes(self)

    def __iter__(self) -> Iterator[tuple[int, Fraction, Fraction]]:
        """``(source frame, time, duration)`` of every output frame."""
        after = self.time(0)
        for index in range(self.frame_count):
            at, after = after, self.time(index + 1)
            yield self.source(index), at, after - at

    def _ticks(self, index: int) -> int:
        """When output frame ``index`` begins."""
        count, edges = self.source_count, self.edges
        if index <= count:
            return edges[index]
        if self.motion == "hold":
            return edges[count] + (index - count) * max(edges[count] - edges[count - 1], 1)
        if self.motion == "loop":
            rounds, place = divmod(index, count)
            return rounds * edges[count] + edges[place]
        assert self.motion == "bounce", (index, self.motion)
        rounds, place = divmod(index, _period(count))
        # Shown once forwards and, but for the two end frames, once backwards.
        first, last = edges[1], edges[count] - edges[count - 1]
        whole = 2 * edges[count] - first - last if count > 1 else edges[count]
        if place <= count:
            return rounds * whole + edges[place]
        # Frames count-2 down to 2*count-1-place have been shown on the way back.
        back = edges[count - 1] - edges[_period(count) - place + 1]
        return rounds * whole + edges[count] + back


class PlanTimes(Sequence[Fraction]):
    """The times of a plan's output frames."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __len__(self) -> int:
        return self._plan.frame_count

    def __getitem__(self, index: int) -> Fraction:  # type: ignore[override]
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]  # type: ignore[return-value]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._plan.time(index)


def _period(count: int) -> int:
    """Frames from one start of a bounce to the next: both end frames are shown once."""
    return max(2 * count - 2, 1)


def plan(
    edges: Sequence[int],
    time_base: Fraction,
    voice_duration: Fraction,
    policy: LengthPolicy = "auto",
    *,
    is_still: bool = False,
) -> Plan:
    """The schedule of an output.

    ``edges``: when each source frame begins, in whole ``time_base`` units from the first (so
    ``edges[0]`` is 0), and when the last one ends. ``voice_duration``: seconds. See the table above
    for the policies; ``is_still`` shows the one frame of a picture for as long as the voice lasts.
    """
    if policy not in get_args(LengthPolicy):
        known = ", ".join(get_args(LengthPolicy))
        raise SettingsError(f"there is no length policy {policy!r}; choose one of {known}")
    if len(edges) < 2 or edges[0] != 0 or edges[-1] <= 0:
        raise MediaError("the clip has no frames to show")
    if voice_duration <= 0:
        raise MediaError("the voice has no length")
    count = len(edges) - 1
    picture = edges[-1] * time_base
    if policy == "auto" or (policy == "silence" and voice_duration > picture):
        policy = "bounce" if voice_duration > picture else "cut"
    rate = count / picture
    speed = Fraction(1)
    sound = voice_duration
    motion: Motion = "forward"
    if is_still:
        motion = "hold"
    elif policy == "stretch" and voice_duration != picture:
        motion, speed = "resample", picture / voice_duration
    elif policy == "silence":
        sound = picture
    elif voice_duration > picture:
        if policy == "cut":
            sound = picture
        elif policy in ("bounce", "loop", "hold"):
            motion = policy
    base = Plan(
        policy=policy,
        frame_count=0,
        audio_duration=sound,
        motion=motion,
        frame_rate=rate,
        speed=speed,
        time_base=time_base,
        edges=edges,
    )
    return Plan(**{**base.__dict__, "frame_count": _covering(base, sound)})


def constant_edges(frame_count: int, ticks: int = 1) -> range:
    """Edges of ``frame_count`` frames of ``ticks`` time units each, without memory."""
    return range(0, (frame_count + 1) * ticks, ticks)


def _covering(base: Plan, sound: Fraction) -> int:
    """The fewest output frames that last as long as the sound."""
    if base.motion == "resample":
        return timing.frame_count(sound, base.frame_rate)
    if base.motion == "forward":
        count = bisect_left(base.edges, sound / base.time_base)
        return min(max(count, 1), base.source_count)
    low, high = 1, max(base.source_count, 1)
    while base.time(high) < sound:
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        if base.time(middle) < sound:
            low = middle + 1
        else:
            high = middle
    return high
