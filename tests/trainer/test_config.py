"""Recipes: inheritance, overrides, and one clear line for whatever means nothing."""

from __future__ import annotations

import pytest

pytest.importorskip("omegaconf")

from lipsync_core.errors import SettingsError
from trainer import config
from trainer.config import Recipe, StageConfig

SMALL = "stages:\n  one: {steps: 5}\n  two: {steps: 7, batch: 3}\nseed: 3\n"


@pytest.fixture
def write(tmp_path):
    def make(text, name="small.yaml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return make


def names():
    return [name for name, _ in config.listed()]


@pytest.mark.parametrize("name", names())
def test_every_recipe_loads_and_says_in_a_line_what_it_is(name):
    recipe = config.load(name)
    assert recipe.name == name
    assert dict(config.listed())[name].endswith((".", ")"))


@pytest.mark.parametrize("name", names())
def test_the_weights_that_a_recipe_names_are_in_the_catalogue_or_made_by_a_recipe(name):
    from lipsync_core.weights.catalog import CATALOG

    model = config.load(name).model
    rows = {row.name for row in CATALOG}
    for word in (model.init, model.vae, model.whisper, model.syncnet, model.vgg, model.videomae):
        made_by = word.split("/")[1].replace("small_vae", "tiny_vae") if "/" in word else ""
        assert not word or word in rows or made_by in names(), word


def test_the_recipes_of_the_issue_are_there():
    wanted = "stage1 stage1_512 stage2 stage2_512 stage2_efficient curriculum syncnet_16_pixel_attn"
    wanted += " syncnet_16_pixel syncnet_16_latent syncnet_25_pixel tiny_latentsync tiny_syncnet"
    assert set(wanted.split()) <= set(names())
    assert "mouth" not in names()


def test_the_curriculum_goes_from_the_first_stage_to_the_second():
    recipe = config.load("curriculum")
    one, two = recipe.stages.values()
    assert list(recipe.stages) == ["stage1", "stage2"]
    assert (one.motion, two.motion, one.switch.when) == ("none", "all", "converged")
    assert one.loss.sync == 0 < two.loss.sync
    assert config.load("stage2").stages["stage2"].loss == two.loss


def test_defaults_are_those_of_the_dataclasses(write):
    recipe = config.load(write("stages: {only: {}}"))
    assert recipe.stages == {"only": StageConfig()}
    plain = Recipe(name="small", stages={"only": StageConfig()})
    assert recipe == plain


def test_what_is_printed_loads_as_the_same(write):
    recipe = config.load("curriculum", ["stages.stage1.steps=10", "run.trackers=[csv,tensorboard]"])
    again = config.load(write(config.text(recipe), "printed.yaml"))
    assert again == recipe
    assert config.differences(again, recipe) == []


def test_overrides(write):
    path = write(SMALL)
    recipe = config.load(
        path, ["stages.one.steps=10", "stages.two.optimizer.learning_rate=3e-4", "seed=9"]
    )
    assert recipe.stages["one"].steps == 10
    assert recipe.stages["two"].optimizer.learning_rate == 3e-4
    assert (recipe.seed, recipe.stages["two"].batch) == (9, 3)
    assert list(config.load(path, ["stages.one=null"]).stages) == ["two"]
    given = config.load(path, ["data.train=[a,b]"])
    assert given.data.train == ["a", "b"]


def test_a_text_of_which_nothing_is_said_is_empty(write):
    path = write("model: {init: sd15, syncnet: x}\nstages: {one: {}}")
    made = config.load(path, ["model.init=", "model.syncnet="])
    assert (made.model.init, made.model.syncnet) == ("", "")


@pytest.mark.parametrize("word", ["no", "bf16"])
def test_a_precision_is_a_word_also_where_yaml_sees_a_truth_value(write, word):
    assert config.load("tiny_vae", [f"run.precision={word}"]).run.precision == word
    written = write(f"base: tiny_vae\nrun: {{precision: {word}}}\n")
    assert config.load(written).run.precision == word


def test_bases_are_merged_deep_and_in_chains(write):
    write(SMALL + "model: {heads: 4, init: x}\n", "deep/first.yaml")
    write("base: first.yaml\nstages: {one: null, three: {steps: 9}}\nseed: 4", "deep/second.yaml")
    last = write("base: deep/second.yaml\nmodel: {heads: 2}\nstages: {two: {batch: 1}}")
    recipe = config.load(last)
    assert list(recipe.stages) == ["two", "three"]
    assert recipe.stages["two"] == StageConfig(steps=7, batch=1)
    assert (recipe.seed, recipe.model.heads, recipe.model.init) == (4, 2, "x")


def test_a_base_may_be_a_recipe_that_comes_along(write):
    recipe = config.load(write("base: stage2\nstages: {stage2: {batch: 4}}"))
    assert recipe.stages["stage2"].batch == 4
    assert recipe.stages["stage2"].loss.trepa == 10


def test_who_names_all_stages_sets_their_order(write):
    write(SMALL, "base.yaml")
    turned = config.load(write("base: base.yaml\nstages: {two: {}, one: {}}"))
    assert list(turned.stages) == ["two", "one"]
    named = config.load(write("base: base.yaml\nstages: {two: {batch: 9}}"))
    assert list(named.stages) == ["one", "two"]


def test_a_base_that_comes_round_again_is_an_error(write):
    write("base: b.yaml", "a.yaml")
    path = write("base: a.yaml", "b.yaml")
    with pytest.raises(SettingsError, match=r"circle: b\.yaml -> a\.yaml -> b\.yaml"):
        config.load(path)


def test_the_folder_of_a_run_is_a_recipe(write, tmp_path):
    path = write(SMALL + "name: mine\n", "mine/recipe.yaml")
    recipe = config.load(path.parent)
    assert recipe.name == "mine"
    assert config.folder(recipe) == path.parent
    assert config.folder(config.load(path)) == config.RUNS / "mine"
    with pytest.raises(SettingsError, match="without recipe"):
        config.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seeed: 3", "no setting seeed; did you mean 'seed'"),
        ("model: {head: 3}", "no setting model.head; did you mean 'heads'"),
        (
            "stages: {one: {optimizer: {learn_rate: 3}}}",
            "stages.one.optimizer.learn_rate; did you mean 'learning_rate'",
        ),
        ("stages: {one: {steps: many}}", "stages.one.steps: Value 'many'"),
        ("stages: {}", "no stages"),
        ("stages: {one: null}", "no stages"),
        ("stages: {one: 5}", "stages.one is a section"),
        ("stages: [one]", "stages holds sections by name"),
        ("model: 5", "model is a section"),
        ("data: {train: folder}", r"data.train is a list; write data.train=\[folder\]"),
        ("task: latentsink", "task is 'latentsink'; did you mean 'latentsync'"),
        ("data: {sampling: contiguous}", "data.sampling is 'contiguous'; did you mean 'contiguous"),
        ("run: {precision: fp15}", "run.precision is 'fp15'; did you mean 'fp16'"),
        ("run: {trackers: [csw]}", "run.trackers is 'csw'; did you mean 'csv'"),
        ("run: {ema: 1}", "run.ema is 1"),
        ("run: {keep: 0}", "run.keep is 0; 1 or more"),
        ("run: {validation_batches: 0}", "run.validation_batches is 0; 1 or more"),
        ("task: vae\nmodel: {init: a.safetensors}", "task vae begins from scratch"),
        ("model: {audio_dropout: 1.5}", "model.audio_dropout is 1.5"),
        ("stages: {one: {steps: 0}}", "stages.one.steps is 0; 1 or more"),
        ("stages: {one: {loss: {sync: -1}}}", "stages.one.loss.sync is -1; 0 or more"),
        ("stages: {one: {optimizer: {clip: .nan}}}", "stages.one.optimizer.clip is nan"),
        ("stages: {one: {optimizer: {schedule: cosin}}}", "schedule is 'cosin'; did you mean 'cos"),
        ("stages: {one: {optimizer: {betas: [0.9]}}}", "betas holds 1 numbers"),
        ("stages: {one: {motion: some}}", "stages.one.motion is 'some'"),
        ("stages: {one: {loss: {sync: 1}}}", "model.syncnet names no network"),
        ("stages: {one: {loss: {noise: 0}}}", "every term has weight 0"),
        (
            "model: {syncnet: x}\nstages: {one: {loss: {sync: 1, decoded_frames: 4}}}",
            "decoded_frames is 4, but sync must see all",
        ),
        ("stages: {one: {switch: {when: later}}}", "switch.when is 'later'"),
        (
            "stages: {one: {switch: {when: converged, metric: reconstuction}}}",
            "switch.metric is 'reconstuction'; did you mean 'reconstruction'",
        ),
        (
            "model: {syncnet: x}\nstages: {one: {switch: {when: score, metric: opening_error}}}",
            "switch.metric is 'opening_error'",
        ),
        (
            "stages: {one: {switch: {when: score, metric: sync}}}",
            "switch.metric is 'sync', which model.syncnet judges",
        ),
        (
            "stages: {one: {switch: {when: score}}}\nrun: {validate_every: 0}",
            "run.validate_every is 0",
        ),
        ("base: nowhere.yaml", "there is no base"),
        ("base: [a, b]", "base names one file"),
        ("- a\n- b", "must hold names and values"),
        ("a: [", "is not a YAML file"),
        ("seed: ${nothing}", "nothing"),
    ],
)
def test_whatever_means_nothing_is_one_line(write, text, said):
    whole = (
        text if "stages" in text or text.startswith(("-", "a:")) else f"{text}\nstages: {{s: {{}}}}"
    )
    with pytest.raises(SettingsError, match=said) as caught:
        config.load(write(whole))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed", "write key=value"),
        ("=3", "write key=value"),
        ("sed=3", "no setting sed; did you mean 'seed'"),
        ("stages.on.steps=3", "no stage 'on' .* did you mean 'one'"),
        ("stages.one.stops=3", "did you mean 'steps'"),
        ("data.train=folder", r"write data.train=\[folder\]"),
    ],
)
def test_a_wrong_override_is_one_line(write, override, said):
    with pytest.raises(SettingsError, match=said):
        config.load(write(SMALL), [override])


def test_a_recipe_that_is_not_there_names_the_nearest():
    with pytest.raises(SettingsError, match="did you mean 'stage1'"):
        config.load("stagee1")


def test_differences_are_named_in_full(write):
    path = write(SMALL)
    other = config.load(path, ["stages.two.loss.noise=2", "seed=4"])
    assert config.differences(config.load(path), other) == ["seed", "stages.two.loss.noise"]
    fewer = config.load(path, ["stages.one=null"])
    assert config.differences(config.load(path), fewer) == ["stages.one"]


def test_the_mouth_network_names_its_own_trainer():
    with pytest.raises(SettingsError, match=r"python -m trainer\.tasks\.mouth\.train"):
        config.load("mouth")
