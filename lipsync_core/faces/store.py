"""Tracks as named arrays, to be kept in a file and read back."""

from __future__ import annotations

import numpy as np

from ..errors import FaceError
from ..types import FaceTrack
from .track import People

_FIELDS = ("points", "boxes", "present", "strength", "shots")


def to_arrays(people: People) -> dict[str, np.ndarray]:
    """Everything ``from_arrays`` needs; plain numeric arrays with ``/`` in their names."""
    arrays = {
        "people/persons": np.asarray(people.persons, np.int32),
        "people/counts": np.array([people.frame_count, people.searches], np.int64),
        "people/detector": np.frombuffer(people.detector.encode(), np.uint8).copy(),
    }
    for number, track in enumerate(people.tracks):
        for name in _FIELDS:
            values = getattr(track, name)
            arrays[f"track{number}/{name}"] = (
                values.astype(np.uint8) if values.dtype == bool else values
            )
    return arrays


def from_arrays(arrays: dict[str, np.ndarray]) -> People:
    """What ``to_arrays`` was given, to the bit; FaceError when arrays are absent or do not fit."""
    try:
        persons = arrays["people/persons"].astype(int).tolist()
        frame_count, searches = arrays["people/counts"].astype(int).tolist()
        detector = arrays["people/detector"].astype(np.uint8).tobytes().decode()
        tracks = []
        for number in range(len(persons)):
            values = {name: np.asarray(arrays[f"track{number}/{name}"]) for name in _FIELDS}
            if any(len(value) != frame_count for value in values.values()):
                raise ValueError("rows differ")
            values["present"] = values["present"].astype(bool)
            tracks.append(FaceTrack(detector=detector, **values))
    except (KeyError, ValueError) as error:
        raise FaceError(
            f"the stored face track is damaged ({error}); delete it and run again"
        ) from error
    return People(
        tracks=tracks,
        persons=persons,
        frame_count=frame_count,
        detector=detector,
        searches=searches,
    )
