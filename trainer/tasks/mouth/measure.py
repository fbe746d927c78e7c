"""Measures real lips with MediaPipe and keeps the curves as npz, for evaluation only.

MediaPipe is not a dependency of the product; install it apart (``pip install "mediapipe<0.11" av``).
The curves it writes are read by ``evaluate.py``, which needs neither MediaPipe nor the video's pixels.

    python -m trainer.tasks.mouth.measure OUT_DIR CLIP [CLIP ...]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

UPPER_INNER, LOWER_INNER = 13, 14
LEFT_CORNER, RIGHT_CORNER = 61, 291
LEFT_INNER, RIGHT_INNER = 78, 308
LEFT_EYE, RIGHT_EYE = 33, 263
NOSE_BRIDGE, CHIN = 168, 152
MARGIN = 0.9
"""Of the face's size: how much is kept around it when the picture is cut and enlarged."""
ENLARGED = 640
"""Pixels of the enlarged cut; GRID faces are only about 100 pixels wide."""


def _mesh(refine: bool) -> Any:
    try:
        import mediapipe
    except ImportError as error:
        raise SystemExit(
            'measuring real lips needs the package mediapipe: pip install "mediapipe<0.11"'
        ) from error
    return mediapipe.solutions.face_mesh.FaceMesh(
        static_image_mode=True, max_num_faces=1, refine_landmarks=refine
    )


def _points(mesh: Any, picture: np.ndarray) -> np.ndarray | None:
    """``(L, 2)`` landmarks of ``picture``, in its pixels."""
    found = mesh.process(picture).multi_face_landmarks
    if not found:
        return None
    height, width = picture.shape[:2]
    return np.array([(p.x * width, p.y * height) for p in found[0].landmark])


def _enlarged_points(mesh: Any, picture: np.ndarray) -> np.ndarray | None:
    """Finds the face, cuts it out, enlarges it and measures again: small faces come out steadier."""
    import cv2

    rough = _points(mesh, picture)
    if rough is None:
        return None
    centre = (rough.min(0) + rough.max(0)) / 2
    half = MARGIN * (rough.max(0) - rough.min(0)).max()
    scale = ENLARGED / (2 * half)
    matrix = np.array(
        [[scale, 0, ENLARGED / 2 - scale * centre[0]], [0, scale, ENLARGED / 2 - scale * centre[1]]]
    )
    cut = cv2.warpAffine(picture, matrix, (ENLARGED, ENLARGED), flags=cv2.INTER_CUBIC)
    return _points(mesh, cut)


def measure(clip: Path, *, refine: bool = True) -> dict[str, np.ndarray]:
    """Curves of one clip, one row per frame, lengths in units of the distance between the outer eye corners.

    ``time`` in seconds from the start of the container's clock, ``open`` between the inner lips,
    ``width`` between the mouth corners, ``jaw`` from nose bridge to chin; NaN where no face was found.
    """
    import av

    mesh = _mesh(refine)
    rows = []
    with av.open(str(clip)) as container:
        for frame in container.decode(video=0):
            points = _enlarged_points(mesh, frame.to_ndarray(format="rgb24"))
            row = [float(frame.pts * frame.time_base)] + [np.nan] * 3
            if points is not None:

                def gap(a: int, b: int, points: np.ndarray = points) -> float:
                    return float(np.linalg.norm(points[a] - points[b]))

                span = gap(LEFT_EYE, RIGHT_EYE)
                row[1:] = [
                    gap(UPPER_INNER, LOWER_INNER) / span,
                    gap(LEFT_CORNER, RIGHT_CORNER) / span,
                    gap(NOSE_BRIDGE, CHIN) / span,
                ]
            rows.append(row)
    table = np.array(rows).T
    return dict(zip(("time", "open", "width", "jaw"), table, strict=True))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--plain", action="store_true", help="the mesh without refined lips")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for clip in options.clips:
        curves = measure(clip, refine=not options.plain)
        np.savez(options.out / f"{clip.stem}.npz", **curves)  # type: ignore[arg-type]
        seen = np.isfinite(curves["open"]).mean()
        print(f"{clip.name}: {len(curves['time'])} frames, face in {seen:.0%}")


if __name__ == "__main__":
    main()
