"""The same questions to every row of the catalogue."""

from __future__ import annotations

import re

import pytest

from lipsync_core.errors import WeightsError
from lipsync_core.weights import catalog, files


@pytest.mark.parametrize("row", catalog.CATALOG, ids=lambda row: row.name)
def test_a_row_is_complete_and_safe(row):
    assert re.fullmatch(r"[a-z0-9.-]+", row.name)
    assert row.title
    assert row.purpose
    assert row.licence
    assert row.bundled or re.fullmatch(r"[\w.-]+/[\w.-]+", row.repository)
    assert row.revision is None or re.fullmatch(r"[0-9a-f]{40}", row.revision)
    assert row.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", row.sha256)
    assert row.size > 0
    for name in (row.file, row.saved_as, *row.aliases):
        assert ".." not in name
        assert not name.startswith("/")
    assert "/" not in row.saved_as
    assert "/" not in row.folder
    if row.bundled:
        files.verify(files.find(row.name), row)
    else:
        assert row.url.startswith(f"https://huggingface.co/{row.repository}/resolve/")


def test_names_and_places_are_distinct():
    assert len({row.name for row in catalog.CATALOG}) == len(catalog.CATALOG)
    assert len({files.home(row) for row in catalog.CATALOG}) == len(catalog.CATALOG)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(WeightsError, match=r"'latentsync-2'; there are yunet, latentsync-1\.6"):
        catalog.entry("latentsync-2")


def test_listing_has_every_row(tmp_path, monkeypatch):
    monkeypatch.setenv("LIPSYNC_MODELS", str(tmp_path))
    held = files.listing()
    assert [line.row for line in held] == list(catalog.CATALOG)
    path = tmp_path / "detection" / "face_detection_yunet_2023mar.onnx"
    path.parent.mkdir()
    path.write_bytes(b"short")
    assert files.listing()[0].path == path
    assert files.listing()[0].state == "other size"
