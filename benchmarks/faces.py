"""CPU cost of the face stages, each alone: `python benchmarks/faces.py [CLIP] [--detector NAME] [--frames N]`.

Thread time of one core with OpenCV held to one thread, in milliseconds per frame; decoding is not
counted. Without a clip it makes one: 1080p frames of the astronaut photograph, moved about.
"""

import argparse
import itertools
import time
from collections import defaultdict
from fractions import Fraction

import cv2
import numpy as np

from lipsync_core.faces import align, flow, mask, paste, track
from lipsync_core.faces.detect import pick
from lipsync_core.faces.templates import draft_template


class Synthetic:
    """One 1080p picture with the astronaut's face 400 px high."""

    def __init__(self, index, photo):
        self.index, self.time, self.size = index, Fraction(index, 25), (1920, 1080)
        turn = cv2.getRotationMatrix2D((222.0, 124.0), 3 * np.sin(index / 9), 3.55)
        turn[:, 2] += (960 - 222 + 40 * np.sin(index / 12), 480 - 124 + 20 * np.cos(index / 7))
        self._image = cv2.warpAffine(
            photo, turn, self.size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
        self._gray = cv2.cvtColor(self._image, cv2.COLOR_RGB2GRAY)

    def rgb(self):
        return self._image

    def region(self, x0, y0, x1, y1):
        columns = np.clip(np.arange(x0, x1), 0, self.size[0] - 1)
        rows = np.clip(np.arange(y0, y1), 0, self.size[1] - 1)
        if x0 >= 0 and y0 >= 0 and x1 <= self.size[0] and y1 <= self.size[1]:
            return self._image[y0:y1, x0:x1].copy()
        return self._image[rows][:, columns]

    def _small(self, plane, long_side):
        scale = long_side / max(self.size)
        size = (round(self.size[0] * scale), round(self.size[1] * scale))
        return cv2.resize(plane, size, interpolation=cv2.INTER_AREA)

    def luma(self, long_side):
        return self._small(self._gray, long_side)

    def reduced(self, long_side):
        return self._small(self._image, long_side)


class Clock:
    """Thread time by name."""

    def __init__(self):
        self.spent = defaultdict(list)

    def wrap(self, owner, name, label):
        plain = getattr(owner, name)

        def timed(*args, **kwargs):
            began = time.thread_time()
            try:
                return plain(*args, **kwargs)
            finally:
                self.spent[label].append(time.thread_time() - began)

        setattr(owner, name, timed)

    def measure(self, label, call, *args, **kwargs):
        began = time.thread_time()
        result = call(*args, **kwargs)
        self.spent[label].append(time.thread_time() - began)
        return result

    def line(self, label, frames):
        values = np.array(self.spent[label]) * 1e3
        return f"{label:<34} {len(values):>6} calls {np.median(values):>8.2f} ms median {values.sum() / frames:>7.2f} ms a frame"


def pictures(path):
    if path is not None:
        from lipsync_core.media.reader import Reader

        return iter(Reader(path))
    from skimage.data import astronaut

    photo = astronaut()
    return (Synthetic(index, photo) for index in itertools.count())


DIFFUSION = (256, 512)
"""Sides of LatentSync's crops."""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip", nargs="?")
    parser.add_argument("--detector", default="auto")
    parser.add_argument("--frames", type=int, default=150)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    clock = Clock()
    detector = pick(options.detector)

    first = next(pictures(options.clip))
    for side in (detector.search, detector.search * 3 // 4, detector.window):
        image = first.reduced(side)
        detector.detect(image)
        for _ in range(8):
            clock.measure(f"detect, {image.shape[1]}x{image.shape[0]}", detector.detect, image)
    detection = dict(clock.spent)
    clock.spent.clear()

    clock.wrap(track._Person, "move", "  movement of a face")
    clock.wrap(track.Tracker, "_look", "  look at a known face")
    clock.wrap(track.Tracker, "_search", "  search of the whole picture")
    clock.wrap(track.Shots, "see", "  shot cuts")
    tracker, frames = None, 0
    for picture in itertools.islice(pictures(options.clip), options.frames):
        tracker = tracker or track.Tracker(detector, picture.size, 25)
        clock.measure("  brightness picture (reader)", picture.luma, flow.LUMA_SIDE)
        clock.measure("tracker.see", tracker.see, picture)
        frames += 1
    people = clock.measure("tracker.finish", tracker.finish)
    if not people.tracks:
        raise SystemExit("no face in this clip: nothing further to measure")
    best = max(people.tracks, key=lambda one: one.present.sum())
    size = align.size_for(best)
    template = draft_template(size)
    matrices = clock.measure("align.fit, whole clip", align.fit, best.points, template)
    shapes = mask.mouth(template), mask.lower_face(template)
    rows = np.flatnonzero(best.present)
    for picture, row in zip(pictures(options.clip), range(min(frames, 60)), strict=False):
        if row not in rows:
            continue
        matrix = matrices[row]
        crop = clock.measure("align.cut", align.cut, picture, matrix, size)
        for name, shape, match in (
            ("mouth", shapes[0], False),
            ("mouth, light matched", shapes[0], True),
            ("lower face, light matched", shapes[1], True),
        ):
            clock.measure(
                f"paste, {name}",
                paste.paste,
                picture,
                crop,
                shape,
                matrix,
                match_colour=match,
            )
        # as the crops of a diffusion engine go back: larger, and with the source's detail kept
        for side in DIFFUSION:
            big = draft_template(side)
            fitted = align.fit(best.points[row : row + 1], big)[0]
            original = align.cut(picture, fitted, side)
            drawn = original.astype(np.float32)
            drawn[side // 2 :, side // 4 : -side // 4] *= 0.9
            clock.measure(
                f"paste, lower face of {side} px, detail kept",
                paste.paste,
                picture,
                drawn,
                mask.lower_face(big),
                fitted,
                original=original,
            )

    width, height = first.size
    height_of_face = np.median(best.boxes[rows, 3] - best.boxes[rows, 1])
    print(
        f"{width}x{height}, face {height_of_face:.0f} px high, crop {size} px, {detector.name}, {frames} frames"
    )
    for label, values in detection.items():
        print(f"{label:<34} {len(values):>6} calls {np.median(values) * 1e3:>8.2f} ms median")
    for label in sorted(
        clock.spent,
        key=lambda name: (
            name[:5] == "paste",
            name == "align.cut",
            not name.startswith(("t", "  ")),
        ),
    ):
        print(
            clock.line(
                label,
                frames if not label.startswith(("align.cut", "paste")) else len(clock.spent[label]),
            )
        )


if __name__ == "__main__":
    main()
