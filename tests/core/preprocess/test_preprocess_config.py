import pytest

from lipsync_core.errors import SettingsError
from lipsync_core.preprocess import STEPS, chain
from lipsync_core.preprocess import config as configs
from lipsync_core.preprocess.setup import Setup

pytest.importorskip("omegaconf")


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("qualty:\n  min_face: 3\n", "quality"),
        ("quality:\n  min_faces: 3\n", "min_face"),
        ("av_sync: {max_ofset: 3}\n", "max_offset"),
    ],
)
def test_an_unknown_name_is_an_error_that_names_the_nearest(tmp_path, text, near):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=f"did you mean '{near}'") as caught:
        configs.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "quality: [1\n",
        "- a\n- b\n",
        "quality: 3\n",
        "quality: {min_face: wide}\n",
        "affine: {resolution: 300}\n",
        "segment: {seconds: 1}\n",
        "steps: [broken, nonsense]\n",
    ],
)
def test_what_means_nothing_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        configs.load(path)
    assert "\n" not in str(caught.value)


def test_a_file_and_single_settings_are_laid_over_the_defaults(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("quality:\n  min_face: 50\n  enabled: false\n")
    config = configs.load(path, ["quality.min_face=70", "affine.resolution=512"])
    assert (config.quality.min_face, config.quality.enabled) == (70, False)
    assert config.affine.resolution == 512
    assert config.segment == configs.SegmentConfig()


@pytest.mark.parametrize("one", ["av_sync.max_offset=1", "quality.min_face=1", "broken.min_side=9"])
def test_thresholds_keep_what_was_made(one):
    assert configs.load(None, [one]).signature() == configs.Config().signature()


@pytest.mark.parametrize(
    "one", ["affine.resolution=512", "segment.seconds=4", "shots.enabled=false", "output.crf=20"]
)
def test_anything_else_makes_it_anew(one):
    assert configs.load(None, [one]).signature() != configs.Config().signature()


def test_what_is_shown_can_be_given_back(tmp_path):
    config = configs.load(None, ["av_sync.max_offset=4", "steps=[resample,segment,affine]"])
    path = tmp_path / "settings.yaml"
    path.write_text(config.text())
    assert configs.load(path) == config


def test_the_order_must_make_sense(tmp_path):
    quality_first = configs.load(
        None, ["steps=[broken,resample,shots,segment,affine,quality,av_sync]"]
    )
    names = [step.name for step in chain(quality_first, Setup(quality_first, tmp_path))]
    assert names[-3:] == ["quality", "av_sync", "write"]
    for steps in ("[broken,resample,segment,shots]", "[broken,affine,resample,segment]"):
        wrong = configs.load(None, [f"steps={steps}"])
        with pytest.raises(SettingsError):
            chain(wrong, Setup(wrong, tmp_path))


@pytest.mark.parametrize("row", STEPS, ids=lambda row: row.name)
def test_every_row_is_what_it_says(row, tmp_path):
    step = row.load()(configs.Config(), Setup(configs.Config(), tmp_path))
    assert step.name == row.name
    assert step.takes in ("file", "stream", "clip")
    assert row.name == "write" or hasattr(configs.Config(), row.name)
