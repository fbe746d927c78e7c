"""Every detector answers alike; ``auto`` takes what is there."""

from __future__ import annotations

import numpy as np
import pytest

from lipsync_core.errors import FaceError, LipSyncError, SettingsError
from lipsync_core.faces.detect import DETECTORS, pick
from lipsync_core.faces.detect.base import Detector
from lipsync_core.faces.detect.given import Given
from lipsync_core.faces.detect.yunet import YuNet


@pytest.mark.parametrize("row", DETECTORS, ids=lambda row: row.name)
def test_each_row_finds_the_astronaut_or_says_what_is_missing(row, photo, face):
    advice = row.missing()
    if advice is not None:
        assert "\n" not in advice
        assert len(advice) > 20
        pytest.skip(advice)
    detector = row.make()
    assert isinstance(detector, Detector)
    assert detector.name == row.name
    found = detector.detect(photo)[0]
    assert found.points.shape == (5, 2)
    assert found.box.shape == (4,)
    unit = np.hypot(*(face[3:].mean(0) - face[:2].mean(0)))
    assert np.hypot(*(found.points.mean(0) - face.mean(0))) < 0.3 * unit
    assert (found.box[:2] < face.min(0) + 5).all()
    assert (found.box[2:] > face.max(0) - 5).all()
    assert detector.at(0) is None


def test_an_empty_picture_has_no_face(detector):
    assert detector.detect(np.full((240, 320, 3), 90, np.uint8)) == []
    assert detector.detect(np.zeros((20, 20, 3), np.uint8)) == []


def test_points_of_half_a_picture_are_half_as_far(detector, photo):
    import cv2

    small = cv2.resize(photo, (256, 256), interpolation=cv2.INTER_AREA)
    near, far = detector.detect(small)[0].points, detector.detect(photo)[0].points
    assert np.abs((near + 0.5) * 2 - 0.5 - far).max() < 10


def test_votes_make_points_steady(yunet, moved):
    """Half a pixel of movement must not throw the points about: which vote wins may change."""
    errors = []
    for step in range(12):
        image, matrix = moved(1.0, 0, 0.31 * step, 0.17 * step, size=(320, 320))
        points = yunet.detect(image)[0].points
        errors.append(points - (np.array([matrix[0, 2], matrix[1, 2]])))
    assert np.std(errors, axis=0).mean() < 0.5


def test_unknown_names_are_answered_with_the_known():
    with pytest.raises(SettingsError, match="auto, yunet, insightface, cascade"):
        pick("dlib")


def test_auto_falls_back_to_the_cascade_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setenv("LIPSYNC_MODELS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    from lipsync_core.weights import files

    if files.find("yunet") is not None:
        pytest.skip("YuNet lies in a folder of this machine that cannot be hidden")
    assert pick("auto").name == "cascade"
    with pytest.raises(LipSyncError):
        pick("yunet")


def test_a_file_that_is_not_the_network_is_refused(tmp_path):
    path = tmp_path / "face_detection_yunet_2023mar.onnx"
    path.write_bytes(b"not a network")
    with pytest.raises(FaceError, match="is not the YuNet network"):
        YuNet(path)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"points": np.zeros((3, 5, 2)), "boxes": np.zeros((3, 4))},
        {"points": np.zeros((3, 68, 2))},
        {"boxes": [1, 2, 3]},
    ],
)
def test_given_faces_of_a_wrong_shape_are_refused(arguments):
    with pytest.raises(FaceError):
        Given(**arguments)


def test_one_given_box_stands_for_every_frame(face):
    given = Given(boxes=[[100, 50, 200, 150]])
    assert np.array_equal(given.at(0)[0].points, given.at(99)[0].points)
    gap = Given(points=np.stack([face, np.full((5, 2), np.nan)]))
    assert len(gap.at(0)) == 1
    assert gap.at(1) == []
    assert gap.at(2) == []
