"""The finished data as training reads it: an index, and tar shards where they are wanted."""

from __future__ import annotations

import io
import json
import logging
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .manifest import NAME, Manifest
from .step import FPS
from .write import CLIPS

log = logging.getLogger("lipsync.preprocess")

INDEX = "index.parquet"
PLAIN = "index.jsonl"
SHARDS = "shards"
SHARD_LIST = "shards.json"
"""In ``SHARDS``: which bytes of which tar file are whose, so that clips can be read at random."""
LISTED = ("key", "frames", "seconds", "source_key", "presenter")
"""What the list tells of a clip besides; a presenter is there where the data were rendered."""


def table(manifest: Manifest) -> list[dict[str, Any]]:
    """One row a finished clip, in a fixed order: files, stretch of the source, all that was measured."""
    paths = {source["key"]: source["path"] for source in manifest.sources()}
    clips: dict[str, dict[str, Any]] = {}
    for one in manifest.rows():
        if one["step"] in ("av_sync", "quality", "write") and one["state"] == "kept":
            clips.setdefault(one["sample"], {"source_key": one["source"]})[one["step"]] = one
    rows = []
    for key in sorted(clips):
        own = clips[key]
        if "write" not in own:
            continue
        written = own["write"]
        name = written["metrics"]["file"]
        rows.append(
            {
                "key": key,
                "clip": f"{CLIPS}/{name}",
                "features": f"{CLIPS}/{Path(name).with_suffix('.safetensors').as_posix()}",
                "frames": written["frames"],
                "seconds": written["frames"] / FPS,
                # As text, which a file's name need not be.
                "source": paths.get(own["source_key"], "")
                .encode(errors="backslashreplace")
                .decode(),
                "source_key": own["source_key"],
                "source_start": written["first"] / FPS,
                **{
                    name: value
                    for step in ("av_sync", "quality")
                    for name, value in own.get(step, {"metrics": {}})["metrics"].items()
                },
            }
        )
    return rows


def write_index(output: Path) -> Path:
    """``index.parquet``, or ``index.jsonl`` where pyarrow is not installed; appears complete."""
    with Manifest(output / NAME) as manifest:
        rows = table(manifest)
    names = list(dict.fromkeys(name for one in rows for name in one))
    rows = [{name: one.get(name) for name in names} for one in rows]
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        log.warning(
            "pyarrow is not installed, so the index is %s; run: pip install "
            '"lipsync-core[preprocess]"',
            PLAIN,
        )
        path = output / PLAIN
        part = path.with_suffix(".part")
        part.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    else:
        path = output / INDEX
        part = path.with_suffix(".part")
        if not rows:
            rows_table = pyarrow.table({"key": pyarrow.array([], pyarrow.string())})
        else:
            rows_table = pyarrow.Table.from_pylist(rows)
        pyarrow.parquet.write_table(rows_table, part)
    part.replace(path)
    return path


def write_shards(output: Path, megabytes: int) -> int:
    """WebDataset tar files of about ``megabytes``: ``KEY.mp4``, ``KEY.safetensors``, ``KEY.json``.

    Beside them ``shards.json``: one row a clip with what is ``LISTED``, the ``tar`` and, by ending,
    ``members`` as offset and size in bytes. The same clips give the same bytes. Returns how many
    tar files there are.
    """
    with Manifest(output / NAME) as manifest:
        rows = table(manifest)
    return pack(rows, output, megabytes)


def pack(rows: Sequence[Mapping[str, Any]], output: Path, megabytes: int) -> int:
    """``write_shards`` of these rows of an index; also for folders that have no manifest."""
    folder = output / SHARDS
    folder.mkdir(exist_ok=True)
    # An old list must not speak of new files, should this end half-way.
    (folder / SHARD_LIST).unlink(missing_ok=True)
    clips: list[dict[str, Any]] = []
    number = 0
    archive: tarfile.TarFile | None = None
    part = folder / "shard.part"
    filled = 0

    def end() -> None:
        nonlocal archive, number, filled
        if archive is not None:
            archive.close()
            part.replace(folder / _shard(number))
            number, filled, archive = number + 1, 0, None

    for one in rows:
        if archive is None:
            archive = tarfile.open(part, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        members = [
            ("mp4", (output / one["clip"]).read_bytes()),
            ("safetensors", (output / one["features"]).read_bytes()),
            ("json", json.dumps(one).encode()),
        ]
        places = {}
        for ending, data in members:
            info = tarfile.TarInfo(f"{one['key']}.{ending}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            filled += len(data)
            # What was added ends with the block that holds its last byte.
            blocks = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            places[ending] = [archive.offset - blocks, len(data)]
        kept = {name: one[name] for name in LISTED if name in one}
        clips.append({**kept, "tar": _shard(number), "members": places})
        if filled >= megabytes * 1_000_000:
            end()
    end()
    for old in folder.glob("clips-*.tar"):
        if int(old.stem.rpartition("-")[2]) >= number:
            old.unlink()
    listed = {"kind": "lipsync shards", "version": 1, "clips": clips}
    part.write_text(json.dumps(listed), encoding="utf-8")
    part.replace(folder / SHARD_LIST)
    return number


def _shard(number: int) -> str:
    return f"clips-{number:06d}.tar"
