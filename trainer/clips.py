"""Clips as the preprocessor left them: in folders, or packed into shards that may be far away."""

from __future__ import annotations

import json
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lipsync_core.errors import LipSyncError

from .config import DataConfig
from .store import Part, Store

log = logging.getLogger("lipsync.trainer")

HELD_OUT = 20
"""Every so many sources one is for validation."""
REMEMBERED = 128 << 20
"""Bytes of what is worked out once of a clip."""


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

    def rows(self, name: str, span: slice | None) -> np.ndarray | None:
        """``stored(name)[span]`` of which only these rows are read."""
        try:
            return self._clips.store.tensor(self.entry.features, name, span)
        except (OSError, ValueError) as error:
            raise BadClip(f"its features cannot be read ({_line(error)})") from error

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Of ``stored(name)``, without reading it."""
        try:
            return self._clips.store.shape(self.entry.features, name)
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
        self._forget()

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
        try:
            rows = pyarrow.parquet.read_table(folder / INDEX).to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(
                f"{folder / INDEX} is damaged ({_line(error)[:160]}); write it anew: "
                "python -m lipsync_core.preprocess"
            ) from error
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
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"the index in {folder} holds what is no clip ({_line(error)}); write it anew: "
            "python -m lipsync_core.preprocess"
        ) from error


def _source(row: dict[str, Any]) -> str:
    # Rendered clips each are a recording of their own, of few presenters.
    if row.get("presenter") is not None:
        return f"presenter {row['presenter']}"
    return str(row.get("source_key") or row.get("source") or row["key"])


def _shards(path: str, store: Store) -> list[Entry]:
    try:
        table = json.loads(store.read(Part(path)))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({_line(error)})") from error
    known = isinstance(table, dict) and table.get("kind") == "lipsync shards"
    if not known or table.get("version") != 1:
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


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
