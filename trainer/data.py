"""Clips as the preprocessor left them, and the samples that are drawn from them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lipsync_core import cache as caches
from lipsync_core.audio import sync_mel
from lipsync_core.audio.windows import window_steps
from lipsync_core.errors import LipSyncError, SettingsError

from . import sampling as samplings
from .config import DataConfig, PairsConfig
from .store import Part, Store

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    Samples = Dataset[dict[str, Any]]
else:
    # torch takes anything that can be asked for a number, and is not loaded for that.
    Samples = object

log = logging.getLogger("lipsync.trainer")

FPS = 25
"""Pictures a second of every clip."""
HELD_OUT = 20
"""Every so many sources one is for validation."""
TRIES = 100
"""Clips that may be bad one after the other for a single sample."""
REMEMBERED = 128 << 20
"""Bytes of what is worked out once of a clip."""
WORKERS = 1024
"""Loading processes whose bad samples are counted apart."""


HEARD_ALIKE = 0.02
"""Of the largest value: so much may features differ that another machine computed in half precision."""


class BadClip(Exception):
    """A sample cannot be made of this clip; the reason in one line."""


class DataError(LipSyncError):
    """The data cannot be trained on.

    Of a text with several lines the last is kept: from a loading process torch sends the whole
    trace, and makes the error anew of that.
    """

    def __init__(self, text: str) -> None:
        last = text.strip().splitlines()[-1]
        super().__init__(last.partition(f"{type(self).__name__}: ")[2] or last)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What an index tells of a clip."""

    key: str
    source: str
    """Name of the recording, the same for all clips of it; nothing of one is in train and validation."""
    frame_count: int
    picture: Part
    features: Part


class Clip:
    """One clip on disk; files are opened when they are asked for and closed at once."""

    def __init__(self, entry: Entry, clips: Clips, number: int) -> None:
        self.entry = entry
        self.number = number
        """In the collection."""
        self._clips = clips

    def __repr__(self) -> str:
        return f"clip {self.key}"

    @property
    def key(self) -> str:
        return self.entry.key

    @property
    def source(self) -> str:
        return self.entry.source

    @property
    def frame_count(self) -> int:
        return self.entry.frame_count

    def crops(self, frames: Sequence[int], size: int) -> np.ndarray:
        """``(T, size, size, 3)`` uint8 RGB of these frames, in the order they are asked for.

        Stored crops of another size are averaged down or brought up by Lanczos' filter.
        """
        return self._clips._crops(self, frames, size)

    def stored(self, name: str) -> np.ndarray | None:
        """What the preprocessor kept under this name, or None: ``mel (80, N)``, ``whisper (W, L, D)``
        float16, ``sound (S,)`` int16, ``points (T, 5, 2)``, ``matrices (T, 2, 3)``, ``boxes (T, 4)``,
        ``times (T,)``; made-up clips also ``shapes (T, 6)`` and ``landmarks (T, 68, 2)``."""
        return self.rows(name, None)

    def sound(self) -> np.ndarray:
        """``(T * 640,)`` float32 -1..1 at 16 kHz."""
        sound = self.stored("sound")
        if sound is None or sound.ndim != 1:
            raise BadClip("it has no sound")
        return sound.astype(np.float32) / 32768

    def rows(self, name: str, span: slice | None) -> np.ndarray | None:
        """``stored(name)[span]`` of which only these rows are read."""
        try:
            return self._clips.store.tensor(self._clips._place(self, name), name, span)
        except (OSError, ValueError) as error:
            raise BadClip(f"its features cannot be read ({_line(error)})") from error

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Of ``stored(name)``, without reading it."""
        try:
            return self._clips.store.shape(self._clips._place(self, name), name)
        except (OSError, ValueError) as error:
            raise BadClip(f"its features cannot be read ({_line(error)})") from error

    def remember(
        self, name: str, make: Callable[[], tuple[np.ndarray, ...]]
    ) -> tuple[np.ndarray, ...]:
        """What ``make`` gives, kept in this process for the next time, as far as there is room."""
        return self._clips._remember((self.number, name), make)


class Clips(Sequence[Clip]):
    """The clips of folders that the preprocessor made, or of shards (addresses of ``shards.json``).

    In a fixed order, that of their names. May be sent to other processes; those begin with empty
    caches.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]] = (),
        *,
        cache: Path | None = None,
        cache_mb: int = 0,
        entries: Sequence[Entry] | None = None,
    ) -> None:
        """``cache``: where pieces of distant shards are kept. ``cache_mb``: memory for decoded
        pictures in each loading process; a small set that fits in is decoded once."""
        self.store = Store(cache)
        self.cache_mb = cache_mb
        if entries is None:
            entries = [one for path in paths for one in read_index(os.fspath(path), self.store)]
            entries = sorted(entries, key=lambda one: (one.key, one.picture.path))
            if not entries:
                raise DataError(
                    f"no clips in {', '.join(map(str, paths)) or 'data.train, which is empty'}; "
                    "run the preprocessor first: python -m lipsync_core.preprocess"
                )
        self.entries = list(entries)
        self._heard: dict[int, str] = {}
        self._forget()

    def hear(self, encoder: Any, *, device: str = "cpu", folder: Path | None = None) -> int:
        """Sees to it that ``whisper`` of every clip is what this encoder makes of its sound.

        What is stored serves where it is of this encoder, for which one clip is heard as a trial; all
        others are heard once and kept on disk, in ``folder`` or the user's cache. Processes that do
        this at the same time share the work. Returns how many clips were heard.
        """
        from lipsync_core.preprocess import features

        kept = (folder or caches.folder() / "heard") / _digest(encoder)
        kept.mkdir(parents=True, exist_ok=True)
        own = len(encoder.layers) + 1, int(encoder.layer_norm.weight.shape[0])
        trusted: bool | None = None
        count = 0
        for number in np.random.default_rng(os.getpid()).permutation(len(self)).tolist():
            clip = self[number]
            try:
                shape = clip.shape("whisper")
                if shape is not None and shape[1:] == own and trusted is None:
                    trusted = _alike(
                        features.states(clip.sound(), encoder, device), clip.stored("whisper")
                    )
                if shape is not None and shape[1:] == own and trusted:
                    continue
                sound = clip.sound()
            except BadClip as error:
                # It is counted when it is drawn.
                log.info("%s is not heard: %s", clip, error)
                continue
            name = hashlib.sha256(sound.tobytes()).hexdigest()[:40]
            path = kept / f"{name}.safetensors"
            if not path.exists():
                part = kept / f"{name}.{secrets.token_hex(4)}.part"
                features.write(part, {"whisper": features.states(sound, encoder, device)}, {})
                part.replace(path)
                count += 1
            self._heard[number] = str(path)
        if count:
            log.info("heard %d of %d clips, kept in %s", count, len(self), kept)
        return count

    def _place(self, clip: Clip, name: str) -> Part:
        heard = self._heard.get(clip.number) if name == "whisper" else None
        return clip.entry.features if heard is None else Part(heard)

    def _forget(self) -> None:
        self._pictures: dict[tuple[int, int], np.ndarray] = {}
        self._picture_bytes = 0
        self._known: OrderedDict[tuple[int, str], tuple[np.ndarray, ...]] = OrderedDict()
        self._known_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        for name in ("_pictures", "_picture_bytes", "_known", "_known_bytes"):
            state.pop(name)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, number: int) -> Clip:  # type: ignore[override]
        return Clip(self.entries[number], self, range(len(self.entries))[number])

    def sources(self) -> list[str]:
        return sorted({one.source for one in self.entries})

    def of(self, sources: set[str]) -> Clips:
        """The clips of these sources."""
        kept = [one for one in self.entries if one.source in sources]
        return Clips(cache=self.store.cache, cache_mb=self.cache_mb, entries=kept)

    def _crops(self, clip: Clip, frames: Sequence[int], size: int) -> np.ndarray:
        wanted = np.asarray(list(frames), np.int64)
        if not len(wanted) or wanted.min() < 0 or wanted.max() >= clip.frame_count:
            raise ValueError(f"frames {frames} of a clip of {clip.frame_count}")
        kept = self._pictures.get((clip.number, size))
        if kept is None:
            whole = clip.frame_count * size * size * 3
            if self._picture_bytes + whole > self.cache_mb << 20:
                return self._decode(clip, wanted, size)
            try:
                kept = self._decode(clip, np.arange(clip.frame_count), size)
            except BadClip:
                # What is wanted may be there all the same; memory must not decide what is drawn.
                return self._decode(clip, wanted, size)
            self._pictures[clip.number, size] = kept
            self._picture_bytes += whole
        return kept[wanted]

    def _decode(self, clip: Clip, wanted: np.ndarray, size: int) -> np.ndarray:
        from .decode import pictures

        try:
            with self.store.open(clip.entry.picture) as file:
                return pictures(file, wanted, size)
        except (OSError, ValueError) as error:
            # PyAV's errors are among these two.
            raise BadClip(f"its pictures cannot be read ({_line(error)})") from error

    def _remember(
        self, key: tuple[int, str], make: Callable[[], tuple[np.ndarray, ...]]
    ) -> tuple[np.ndarray, ...]:
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        made = make()
        self._known[key] = made
        self._known_bytes += sum(one.nbytes for one in made)
        while self._known_bytes > REMEMBERED and len(self._known) > 1:
            _, old = self._known.popitem(last=False)
            self._known_bytes -= sum(one.nbytes for one in old)
        return made


def read_index(path: str, store: Store) -> list[Entry]:
    """The clips of one folder (``index.parquet`` or ``index.jsonl``) or of one ``shards.json``."""
    if path.endswith(".json"):
        return _shards(path, store)
    from lipsync_core.preprocess.dataset import INDEX, PLAIN

    folder = Path(path)
    if not folder.is_dir():
        raise DataError(
            f"{path} is not a folder; name one that the preprocessor made, "
            "or the address of a shards.json"
        )
    if (folder / INDEX).exists():
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise DataError(
                f"reading {folder / INDEX} needs pyarrow; run: "
                'pip install "lipsync-core[preprocess]"'
            ) from error
        rows = pyarrow.parquet.read_table(folder / INDEX).to_pylist()
    elif (folder / PLAIN).exists():
        lines = (folder / PLAIN).read_text(encoding="utf-8").splitlines()
        try:
            rows = [json.loads(line) for line in lines if line]
        except ValueError as error:
            raise DataError(f"{folder / PLAIN} is damaged ({error}); write it anew") from error
    else:
        raise DataError(
            f"{folder} holds neither {INDEX} nor {PLAIN}; "
            "run the preprocessor on it: python -m lipsync_core.preprocess"
        )
    try:
        return [
            Entry(
                key=row["key"],
                source=_source(row),
                frame_count=int(row["frames"]),
                picture=Part(str(folder / row["clip"])),
                features=Part(str(folder / row["features"])),
            )
            for row in rows
        ]
    except KeyError as error:
        raise DataError(
            f"the index in {folder} has no column {error}; write it anew: "
            "python -m lipsync_core.preprocess"
        ) from error


def _source(row: dict[str, Any]) -> str:
    # Rendered clips each are a recording of their own, of few presenters.
    if row.get("presenter") is not None:
        return f"presenter {row['presenter']}"
    return str(row.get("source_key") or row.get("source") or row["key"])


def _digest(encoder: Any) -> str:
    """A name of these weights."""
    known = hashlib.sha256()
    for name, values in sorted(encoder.state_dict().items()):
        known.update(name.encode())
        known.update(values.detach().cpu().float().contiguous().numpy().tobytes())
    return known.hexdigest()[:16]


def _alike(heard: np.ndarray, stored: np.ndarray | None) -> bool:
    if stored is None or heard.shape != stored.shape:
        return False
    wide = stored.astype(np.float32)
    away = np.abs(heard.astype(np.float32) - wide).max()
    alike = bool(away <= HEARD_ALIKE * np.abs(wide).max())
    if not alike:
        log.warning("the stored features are of another encoder; the clips are heard again")
    return alike


def _shards(path: str, store: Store) -> list[Entry]:
    try:
        table = json.loads(store.read(Part(path)))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({_line(error)})") from error
    if table.get("kind") != "lipsync shards" or table.get("version") != 1:
        raise DataError(f"{path} is not a list of shards that this version reads")
    folder = path.rpartition("/")[0] if "://" in path else str(Path(path).parent)
    entries = []
    for row in table["clips"]:
        tar = f"{folder}/{row['tar']}"
        picture, features = (Part(tar, *row["members"][name]) for name in ("mp4", "safetensors"))
        entries.append(
            Entry(
                key=row["key"],
                source=_source(row),
                frame_count=int(row["frames"]),
                picture=picture,
                features=features,
            )
        )
    return entries


def split(config: DataConfig, *, every: int = HELD_OUT, cache_mb: int = 0) -> tuple[Clips, Clips]:
    """Training's clips and validation's, which never share a source.

    Validation's own folders where some are named; what comes from a source of theirs is then left
    out of training, and said. Else every twentieth source of ``train``, the first one always.
    """
    train = Clips(config.train, cache_mb=cache_mb)
    names = train.sources()
    if config.validation:
        validation = Clips(config.validation, cache_mb=cache_mb)
        held = set(validation.sources())
        both = held & set(names)
        if both:
            log.warning(
                "%d of %d sources are in data.validation too; training leaves them out",
                len(both),
                len(names),
            )
    else:
        if len(names) < 2:
            raise DataError(
                f"all clips of {', '.join(config.train)} come from one source, so none can be held "
                "out; add another recording, or name folders for data.validation"
            )
        held = set(names[::every])
        validation = train.of(held)
    kept = set(names) - held
    if not kept:
        raise DataError(
            "every source of data.train is in data.validation too; name other recordings"
        )
    return train.of(kept), validation


class _Drawn(Samples):
    """Samples by number: the same for the same seed and number, whoever asks, in any order.

    Every clip has its turn once in each round of ``len`` draws, in an order of that round. A clip
    that turns out bad gives its place to another that depends on the number alone.
    """

    def __init__(self, clips: Clips, *, least: int, what: str, seed: int, max_bad: int) -> None:
        import torch

        self.clips = clips
        self.seed = seed
        self.max_bad = max_bad
        counts = np.array([one.frame_count for one in clips.entries])
        self.usable = np.flatnonzero(counts >= least)
        short = len(clips) - len(self.usable)
        if not len(self.usable):
            raise DataError(
                f"{what} needs clips of {least} frames, the longest of {len(clips)} has "
                f"{counts.max(initial=0)}; prepare longer clips (segment.seconds of the preprocessor)"
            )
        if short:
            log.info("%d of %d clips have less than %d frames, left out", short, len(clips), least)
        # Shared with the loading processes: each counts in its own place, so that no count is lost.
        self._bad = torch.zeros(WORKERS + 1, dtype=torch.int64).share_memory_()
        self._told = torch.zeros(len(clips), dtype=torch.uint8).share_memory_()
        self._round: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        """Draws of one round; numbers beyond it are as good."""
        return len(self.usable)

    @property
    def bad(self) -> int:
        """Samples that were skipped so far, by this process and those that load for it."""
        return int(self._bad.sum())

    def check(self) -> None:
        """Raises when more than ``max_bad`` samples were skipped."""
        if self.bad > self.max_bad:
            raise DataError(
                f"{self.bad} samples could not be read, more than data.max_bad={self.max_bad} "
                f"({int(self._told.sum())} of {len(self.clips)} clips; the log names them); "
                "run the preprocessor again, or raise data.max_bad"
            )

    def __getitem__(self, draw: int) -> dict[str, Any]:
        if draw < 0:
            raise IndexError("draws count from 0")
        _one_thread_in_workers()
        skipped = 0
        while True:
            clip = self.clips[self._chosen(draw, skipped)]
            try:
                sample = self._make(clip, np.random.default_rng([self.seed, draw, skipped]))
            except BadClip as error:
                skipped += 1
                self._count(clip, str(error))
                self.check()
                if skipped >= TRIES:
                    raise DataError(
                        f"{TRIES} clips in a row could not be read, the last of them {clip.key}: "
                        f"{error}; run the preprocessor again"
                    ) from error
                continue
            entropy = np.random.SeedSequence([self.seed, draw, TRIES])
            return {
                **sample,
                "seed": int(entropy.generate_state(1, np.uint64)[0] >> 1),
                "clip": clip.number,
                "key": clip.key,
                "skipped": skipped,
            }

    def _make(self, clip: Clip, rng: np.random.Generator) -> dict[str, Any]:
        raise NotImplementedError

    def _chosen(self, draw: int, attempt: int) -> int:
        count = len(self.usable)
        if attempt:
            rng = np.random.default_rng([self.seed, draw, attempt, count])
            return int(self.usable[rng.integers(count)])
        number, place = divmod(draw, count)
        if self._round is None or self._round[0] != number:
            rng = np.random.default_rng([self.seed, number])
            self._round = number, rng.permutation(self.usable)
        return int(self._round[1][place])

    def _count(self, clip: Clip, reason: str) -> None:
        import torch

        worker = torch.utils.data.get_worker_info()
        self._bad[0 if worker is None else 1 + worker.id % WORKERS] += 1
        if not self._told[clip.number]:
            self._told[clip.number] = 1
            log.warning("%s is skipped: %s", clip, reason)


class Windows(_Drawn):
    """Pictures of a clip with reference pictures and what is heard meanwhile.

    Sample ``i`` (``R`` is ``resolution``):

    - ``crops (T, 3, R, R)``, ``reference (T, 3, R, R)`` float32 -1..1
    - ``audio (T, 10 * L, D)`` float32, with "audio" in ``gives``: Whisper's tokens around each frame,
      as inference cuts them
    - ``mel (1, 80, N)`` float32, with "mel": the sync spectrogram of the window, 52 columns of 16 frames
    - without ``pictures``: no ``crops``, no ``reference``, and nothing is decoded
    - any other word of ``gives``: the stored rows of these frames, float32
    - ``frames (T,)``, ``reference_frames (T,)`` int64; ``clip``, ``seed``, ``skipped`` int; ``key``
    """

    def __init__(
        self,
        clips: Clips,
        *,
        sampling: str = "contiguous-16",
        resolution: int = 256,
        seed: int = 0,
        gives: Sequence[str] = ("audio", "mel"),
        pictures: bool = True,
        max_bad: int = 1000,
    ) -> None:
        self.pictures = pictures
        self.sampling = samplings.named(sampling)
        self.resolution = resolution
        self.gives = tuple(gives)
        super().__init__(
            clips,
            least=self.sampling.min_frames,
            what=f"sampling {sampling}",
            seed=seed,
            max_bad=max_bad,
        )

    def _make(self, clip: Clip, rng: np.random.Generator) -> dict[str, Any]:
        import torch

        pick = self.sampling.pick(clip, rng)
        sample: dict[str, Any] = {
            "frames": torch.from_numpy(pick.frames),
            "reference_frames": torch.from_numpy(pick.reference),
        }
        if self.pictures:
            both = clip.crops([*pick.frames, *pick.reference], self.resolution)
            sample["crops"], sample["reference"] = to_pictures(both).split(len(pick.frames))
        for name in self.gives:
            sample[name] = torch.from_numpy(self._given(name, clip, pick.frames))
        return sample

    def _given(self, name: str, clip: Clip, frames: np.ndarray) -> np.ndarray:
        if name == "audio":
            return tokens(clip, frames)
        if name == "mel":
            return mel_window(clip, int(frames[0]), columns(len(frames)))
        rows = clip.rows(name, slice(int(frames[0]), int(frames[-1]) + 1))
        if rows is None:
            raise BadClip(f"it has no {name}")
        return _checked(name, rows, len(frames)).astype(np.float32)


class Pairs(_Drawn):
    """Pictures and sound that belong together, or do not: what SyncNet learns from.

    Sample ``i``: ``crops (T, 3, R, R)`` float32 -1..1, ``mel (1, 80, N)`` float32 (52 columns of 16
    frames, 80 of 25), ``together`` 1.0 or 0.0; ``frames (T,)`` and ``heard``, the first frame of
    the sound; ``clip``, ``other`` (number of the clip that is heard), ``seed``, ``skipped``, ``key``.
    """

    def __init__(
        self,
        clips: Clips,
        *,
        frames: int = 16,
        resolution: int = 256,
        seed: int = 0,
        pairs: PairsConfig | None = None,
        max_bad: int = 1000,
    ) -> None:
        self.frames = frames
        self.resolution = resolution
        self.pairs = pairs or PairsConfig()
        if self.pairs.min_shift < 1:
            raise SettingsError(f"pairs.min_shift is {self.pairs.min_shift}; it is 1 or more")
        least = frames + self.pairs.min_shift
        super().__init__(clips, least=least, what="a pair", seed=seed, max_bad=max_bad)
        if self.pairs.other_clips > 0 and len(self.usable) < 2:
            raise DataError("pairs.other_clips needs two clips, there is one; set it to 0")

    def _make(self, clip: Clip, rng: np.random.Generator) -> dict[str, Any]:
        import torch

        last = clip.frame_count - self.frames
        shift = self.pairs.min_shift
        together = rng.random() < self.pairs.positive
        start = heard = int(rng.integers(last + 1))
        other = clip
        if not together:
            if rng.random() < self.pairs.other_clips:
                place = int(rng.integers(len(self.usable) - 1))
                own = int(np.searchsorted(self.usable, clip.number))
                other = self.clips[int(self.usable[place + (place >= own)])]
                heard = int(rng.integers(other.frame_count - self.frames + 1))
            else:
                # In a short clip not every window has another that is far enough away.
                first = np.arange(last + 1)
                first = first[(first >= shift) | (first + shift <= last)]
                start = int(rng.choice(first))
                away = np.arange(last + 1)
                heard = int(rng.choice(away[np.abs(away - start) >= shift]))
        frames = start + np.arange(self.frames)
        return {
            "crops": to_pictures(clip.crops(frames.tolist(), self.resolution)),
            "mel": torch.from_numpy(mel_window(other, heard, columns(self.frames))),
            "together": float(together),
            "frames": torch.from_numpy(frames),
            "heard": heard,
            "other": other.number,
        }


@dataclass
class Draws:
    """Numbers of the samples of each batch of one rank, without end; for ``batch_sampler``.

    The ``k``-th batch of rank ``r`` is the draws ``(k * world + r) * batch`` and on: all ranks
    together walk through 0, 1, 2, …, and to resume is to begin at another ``k``.
    """

    batch: int
    rank: int = 0
    world: int = 1
    start: int = 0
    """Number of the first batch."""
    end: int | None = None
    """Number of the batch before which to stop."""

    def __iter__(self) -> Iterator[list[int]]:
        number = self.start
        while self.end is None or number < self.end:
            first = (number * self.world + self.rank) * self.batch
            yield list(range(first, first + self.batch))
            number += 1


def columns(frame_count: int) -> int:
    """Columns of the sync spectrogram under so many frames: 52 for 16, 80 for 25, 16 for 5."""
    return -(-frame_count * sync_mel.COLUMNS_PER_SECOND // FPS)


def mel_start(frame: int) -> int:
    """Column at which the sound of this frame begins."""
    return frame * sync_mel.COLUMNS_PER_SECOND // FPS


def mel_window(clip: Clip, frame: int, width: int) -> np.ndarray:
    """``(1, 80, width)`` float32 -4..4 from the beginning of ``frame``."""
    mel = clip.stored("mel")
    if mel is None:
        raise BadClip("it has no mel")
    start = mel_start(frame)
    if mel.ndim != 2 or mel.shape[0] != sync_mel.BANDS or mel.shape[1] < start + width:
        raise BadClip(
            f"its mel is {mel.shape}, where frame {frame} needs columns up to {start + width}"
        )
    cut = mel[None, :, start : start + width].astype(np.float32)
    if not np.isfinite(cut).all():
        raise BadClip("its mel holds values that are no numbers")
    return np.ascontiguousarray(cut)


def tokens(clip: Clip, frames: np.ndarray, name: str = "whisper") -> np.ndarray:
    """``(T, 10 * L, D)`` float32 around each frame, cut by the rule of inference."""
    shape = clip.shape(name)
    if shape is None:
        raise BadClip(f"it has no {name}; prepare it with output.whisper=always")
    if len(shape) != 3 or shape[0] < 1:
        raise BadClip(f"its {name} is {shape}, expected (steps, layers, width)")
    wanted = 2 * clip.frame_count
    if abs(shape[0] - wanted) > 2:
        raise BadClip(f"its {name} has {shape[0]} steps, {clip.frame_count} frames have {wanted}")
    steps = window_steps([Fraction(int(frame), FPS) for frame in frames], shape[0])
    first = int(steps.min())
    rows = clip.rows(name, slice(first, int(steps.max()) + 1))
    assert rows is not None
    cut = rows[steps - first].reshape(len(frames), -1, shape[2]).astype(np.float32)
    if not np.isfinite(cut).all():
        raise BadClip(f"its {name} holds values that are no numbers")
    return cut


def to_pictures(crops: np.ndarray) -> Any:
    """``(T, 3, R, R)`` float32 -1..1, a torch tensor, of ``(T, R, R, 3)`` uint8."""
    import torch

    # Moved as bytes, which is a quarter of the work.
    return torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1)


def _checked(name: str, rows: np.ndarray, count: int) -> np.ndarray:
    """``rows`` if there is one for every frame and all are numbers."""
    if len(rows) != count:
        raise BadClip(f"its {name} ends before its pictures do")
    if not np.isfinite(rows).all():
        raise BadClip(f"its {name} holds values that are no numbers")
    return rows


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


_quiet: int | None = None


def _one_thread_in_workers() -> None:
    """OpenCV's threads do not outlive a fork, and loading processes are as many as there are cores."""
    global _quiet
    if _quiet == os.getpid():
        return
    import torch

    if torch.utils.data.get_worker_info() is not None:
        import cv2

        cv2.setNumThreads(0)
    _quiet = os.getpid()


__all__ = [
    "BadClip",
    "Clip",
    "Clips",
    "DataError",
    "Draws",
    "Pairs",
    "Windows",
    "columns",
    "mel_start",
    "mel_window",
    "split",
    "to_pictures",
    "tokens",
]
