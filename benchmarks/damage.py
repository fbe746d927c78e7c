"""How much damage inside of videos is noticed when they are read whole, as the preparation reads them.

    python benchmarks/damage.py VIDEO [--seeds 32]

``VIDEO`` (a talking clip of some seconds) is encoded by several codecs into several containers; in each
copy one place is damaged: a few bytes made up, half a kilobyte or four of zeros, or, in a transport
stream, packets that are missing. A picture counts as spoilt that is shown and differs from the
undamaged one by more than one grey level on average.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from lipsync_core.errors import LipSyncError
from lipsync_core.media.reader import Reader

ENCODERS = {
    "h264": ("libx264", {"crf": "20", "preset": "veryfast"}),
    "hevc": ("libx265", {"crf": "22", "preset": "veryfast", "x265-params": "log-level=none"}),
    "vp9": ("libvpx-vp9", {"crf": "30", "b": "0", "deadline": "realtime", "cpu-used": "6"}),
    "av1": ("libsvtav1", {"crf": "32", "preset": "10"}),
    "mpeg4": ("mpeg4", {"b": "900k"}),
}
COPIES = ("h264.mp4", "hevc.mp4", "vp9.mp4", "av1.mp4", "mpeg4.mp4", "hevc.mkv", "vp9.mkv",
          "h264.ts", "hevc.ts")  # fmt: skip
SIDE, GOP = 320, 50
PACKET = 188
"""Bytes of one packet of a transport stream."""


def encode(source: Path, target: Path, codec: str) -> None:
    encoder, options = ENCODERS[codec]
    with av.open(str(target), "w") as out:
        stream = out.add_stream(encoder, rate=25, options=options)
        stream.width = stream.height = SIDE
        stream.pix_fmt, stream.gop_size = "yuv420p", GOP
        for frame in list(Reader(source).frames())[:200]:
            image = frame.rgb()
            side = min(image.shape[:2])
            image = cv2.resize(image[:side, :side], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode(None))


def damaged(path: Path, seeds: int) -> Iterator[bytes]:
    """The file's bytes, damaged in one place behind the first second, each time another."""
    whole = path.read_bytes()
    with av.open(str(path)) as source:
        places = [(one.pos, one.size) for one in source.demux(video=0) if one.size][25:]
    for seed in range(seeds):
        dice, data = random.Random(seed), bytearray(whole)
        if path.suffix == ".ts":
            count = len(data) // PACKET
            at = PACKET * dice.randrange(count * 3 // 10, count - 20)
            del data[at : at + PACKET * dice.choice((1, 3, 20))]
        else:
            start, size = dice.choice(places)
            at = start + dice.randrange(size)
            length = min((4, 40, 512, 4096)[seed % 4], len(data) - at)
            zeros = seed % 4 > 1
            data[at : at + length] = bytes(length) if zeros else dice.randbytes(length)
        yield bytes(data)


def pictures(path: Path) -> tuple[dict[Fraction, np.ndarray], int]:
    reader = Reader(path, whole=True)
    return {frame.time: frame.luma(SIDE).astype(int) for frame in reader.frames()}, reader.damaged


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--seeds", type=int, default=32)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    for copy in COPIES:
        count: Counter[str] = Counter()
        with tempfile.TemporaryDirectory() as place:
            intact = Path(place, copy)
            encode(options.video, intact, intact.stem)
            true, false_alarms = pictures(intact)
            count["false alarms"] = false_alarms
            for data in damaged(intact, options.seeds):
                path = intact.with_name(f"damaged{intact.suffix}")
                path.write_bytes(data)
                try:
                    found, noticed = pictures(path)
                except LipSyncError:
                    count["files refused"] += 1
                    continue
                spoilt = sum(
                    np.abs(picture - true[time]).mean() > 1
                    for time, picture in found.items()
                    if time in true
                )
                count["files hurt"] += bool(spoilt or noticed)
                count["of them not noticed"] += bool(spoilt and not noticed)
                count["pictures spoilt"] += int(spoilt)
                count["pictures left out"] += len(true) - len(found)
        print(json.dumps({"copy": copy, **count}), flush=True)


if __name__ == "__main__":
    main()
