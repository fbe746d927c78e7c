"""The recipe that a node writes is one that the trainer takes, and says what was chosen."""

import os
import shlex
from pathlib import Path

import pytest

pytest.importorskip("omegaconf", reason="the trainer reads its recipes with OmegaConf")

from trainer import config
from trainer.tasks import TASKS

ROOT = Path(__file__).parents[2]
NODE = "LipSyncTrainRecipe"


@pytest.fixture
def make(run, comfy_folder):
    """Runs the node on an empty folder; ``make(recipe, name, **inputs)``."""
    folder = comfy_folder / "output" / "lipsync_train"

    def call(recipe="stage2", name="anna", **inputs):
        given = {"data": "data/clips", "init": "", "steps": 0, "batch": 0}
        given |= {"learning_rate": 0.0, "processes": 1, **inputs}
        return run(NODE, recipe=recipe, name=name, **given)

    for path in folder.glob("*") if folder.is_dir() else ():
        path.unlink()
    return call


def read(out):
    """What the trainer makes of the file."""
    return config.load(out.result[0])


def refusal(make, *args, **inputs):
    with pytest.raises(Exception) as caught:
        make(*args, **inputs)
    line = str(caught.value)
    assert line
    assert "\n" not in line
    return line


def test_choices_are_the_trainer_s(pack):
    choices = pack.nodes.choices
    loaded = {name: config.load(name) for name, _ in config.listed()}
    assert {name: tuple(recipe.stages) for name, recipe in loaded.items()} == choices.RECIPES
    parts = [field.name for field in config.fields(config.Recipe)]
    assert [part for part in parts if part != "name"] == list(choices.RECIPE_PARTS)


def test_data_is_asked_for_where_the_task_reads_any(pack):
    without = [name for name, _ in config.listed() if config.load(name).task == "listener"]
    assert without == list(pack.nodes.choices.RECIPES_WITHOUT_DATA)


@pytest.mark.parametrize("recipe", [name for name, _ in config.listed()])
def test_nothing_chosen_is_the_recipe_itself(make, recipe):
    out = make(recipe)
    assert config.differences(read(out), config.load(recipe)) == ["name", "data.train"]
    assert out.result[1].startswith(f"base: {recipe}.yaml\nname: anna\n")


def begins_from_scratch(name):
    return not next(row for row in TASKS if row.name == config.load(name).task).continues


def test_weights_to_begin_with_are_refused_where_none_are_taken(pack, make):
    from_scratch = [name for name, _ in config.listed() if begins_from_scratch(name)]
    assert from_scratch == list(pack.nodes.train.FROM_SCRATCH)
    for name in from_scratch:
        assert "begins from scratch" in refusal(make, name, init="a.safetensors")


@pytest.mark.parametrize("recipe", [name for name, _ in config.listed()])
def test_what_is_chosen_arrives(make, recipe):
    init = "" if begins_from_scratch(recipe) else "runs/first/weights/stage1.safetensors"
    out = make(
        recipe,
        "other-2_x",
        data="data/clips\n\n  C:\\more clips \n",
        validation="données/held out",
        init=init,
        steps=77,
        batch=3,
        learning_rate=3e-5,
    )
    found = read(out)
    assert found.name == "other-2_x"
    assert found.data.train == ["data/clips", "C:\\more clips"]
    assert found.data.validation == ["données/held out"]
    assert found.model.init == init
    for stage in found.stages.values():
        assert (stage.steps, stage.batch, stage.optimizer.learning_rate) == (77, 3, 3e-5)
    changed = {name.rpartition(".")[2] for name in config.differences(found, config.load(recipe))}
    assert changed == {
        *("name", "train", "validation", "steps", "batch", "learning_rate"),
        *(["init"] if init else []),
    }


OVERRIDES = [
    "run.precision=bf16",
    "stages.stage2.loss={sync: 0.1, trepa: 0}",
    "stages.stage2.optimizer.betas=[0.9, 0.95]",
    "stages.stage2.trainable=[motion_modules.]",
    "stages.stage2.optimizer.eps=1e-6",
    "data.workers = 3",
    'run.output="1e5"',
    "seed=5",
]


def test_overrides_say_what_they_say_on_the_command_line(make):
    found = read(make(overrides="\n".join(OVERRIDES), batch=2))
    line = [one.replace(" = ", "=") for one in OVERRIDES]
    line += ["name=anna", "data.train=[data/clips]", "stages.stage2.batch=2"]
    wanted = config.load("stage2", line)
    assert config.differences(found, wanted) == []
    assert found.run.output == "1e5"


def test_overrides_count_more_than_what_is_chosen_above(make):
    said = "stages.stage1.batch=5\nstages.stage2=null\ndata.train=[elsewhere]"
    found = read(make("curriculum", data="here", batch=2, overrides=said))
    assert list(found.stages) == ["stage1"]
    assert found.stages["stage1"].batch == 5
    assert found.data.train == ["elsewhere"]


@pytest.mark.parametrize("name", ["1e5", "007", "09", "no", "null", "x", "0x1F", "1_000"])
def test_names_stay_words(make, name):
    out = make(name=name, data=name)
    assert Path(out.result[0]).stem == name
    assert (read(out).name, read(out).data.train) == (name, [name])


@pytest.mark.parametrize(
    "name", ["", "../x", "a/b", "a b", "-x", "ä", "x.yaml", "x" * 65, "stage2", "Stage2"]
)
def test_names_that_cannot_be(make, name, comfy_folder):
    before = sorted(comfy_folder.rglob("*"))
    assert "name" in refusal(make, name=name)
    assert sorted(comfy_folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ("batch", "key=value"),
        ("=4", "key=value"),
        ("learning_rate=1e-4", "stages"),
        ("stage2.batch=4", "stages.stage2.batch=4"),
        ("name=x", "name"),
        ("base=stage1.yaml", "base"),
        ("stages.stage1.batch=4", "no stage stage1; there is stage2"),
        ("stages={stage3: {}}", "no stage stage3"),
        ("data.train=[a", "data.train"),
        ("seed=2026-99-99", "seed"),
        ("seed=!!python/object/apply:os.getcwd []", "seed"),
    ],
)
def test_overrides_that_mean_nothing(make, said, names):
    assert names in refusal(make, overrides=f"run.keep=2\n{said}")


def test_a_recipe_that_does_not_come_along(make):
    """The choice may be connected, and a server may not have looked at what it says."""
    assert "curriculum, " in refusal(make, "mouth")


def test_no_data(make):
    assert "data is empty" in refusal(make, data=" \n ")
    assert read(make("tiny_listener", data="")).data.train == []
    assert read(make(data="", overrides="data.train=[a]")).data.train == ["a"]


def test_no_file_is_replaced(make):
    first = Path(make().result[0])
    made = first.stat().st_mtime_ns
    assert Path(make().result[0]) == first
    assert first.stat().st_mtime_ns == made
    # A run of its own, too: with the first one's name it would go on in the first one's folder.
    other = make(batch=2)
    assert Path(other.result[0]).name == "anna-2.yaml"
    assert config.folder(read(other)).name == "anna-2"
    assert Path(make(batch=2).result[0]).name == "anna-2.yaml"
    assert Path(make(batch=3).result[0]).name == "anna-3.yaml"
    first.write_bytes(first.read_bytes() + b"seed: 3\n")
    assert Path(make().result[0]).name == "anna-4.yaml"
    assert b"seed: 3" in first.read_bytes()
    assert len(list(first.parent.iterdir())) == 4


def test_the_command(make, comfy_folder):
    out = make()
    path, text, command = out.result
    assert path == str(comfy_folder / "output" / "lipsync_train" / "anna.yaml")
    assert command == f'python -m trainer "{path}"'
    told = (out.ui.as_dict() if hasattr(out.ui, "as_dict") else out.ui)["text"]
    told = told if isinstance(told, str) else told[0]
    assert told.index(str(ROOT)) < told.index('pip install -e ".[train]"') < told.index(command)
    assert text in told
    several = make(processes=4)
    assert several.result[:2] == (path, text)
    assert several.result[2] == f'accelerate launch --num_processes 4 -m trainer "{path}"'


@pytest.mark.skipif(os.name == "nt", reason="quotes of a POSIX shell")
@pytest.mark.parametrize("path", ["/a b/c.yaml", "/it's/c.yaml", '/$HOME/`x`/"!\\/c.yaml'])
def test_the_command_survives_a_shell(pack, path):
    words = shlex.split(pack.nodes.train._command(Path(path), 1))
    assert words == ["python", "-m", "trainer", path]
