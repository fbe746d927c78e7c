"""The command line of training: one line for what can be mended, and what it prints."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("omegaconf")

from trainer import config
from trainer.cli import main

SMALL = "task: vae\nstages:\n  one: {steps: 5, loss: {noise: 0, pixel: 1}}\n"


@pytest.fixture
def call(monkeypatch, capsys):
    def make(*words):
        monkeypatch.setattr(sys, "argv", ["trainer", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return make


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def test_the_printed_recipe_is_the_one_that_runs(call, recipe, tmp_path):
    code, out, _ = call(recipe, "stages.one.steps=7", "--print-config", "-o", tmp_path / "run")
    again = tmp_path / "again.yaml"
    again.write_text(out)
    assert code == 0
    said = [f"run.output={tmp_path / 'run'}", "stages.one.steps=7"]
    assert config.load(again) == config.load(recipe, said)


def test_init_is_short_for_the_setting(call):
    assert "init: sd14" in call("stage1", "--init", "sd14", "--print-config")[1]


def test_the_list_has_a_line_for_each_recipe(call):
    code, out, _ = call("--list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [name for name, _ in config.listed()]


def test_a_dry_run_estimates_and_writes_nothing(call, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    code, out, _ = call("stage1", "--dry-run")
    assert code == 0
    assert "849.96 M" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stagee1"], "did you mean 'stage1'"),
        (["stage1", "stages.stage1.stps=3"], "did you mean 'steps'"),
        (["stage1", "nonsense"], "write key=value"),
        (["stage1", "--fersh"], "fersh"),
        (["stage1", "stages.stage1.steps=-3"], "stages.stage1.steps is -3"),
    ],
)
def test_what_can_be_mended_is_one_line_and_exit_code_2(call, words, said):
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert err.startswith("trainer: ")
    assert said in err
    assert err.count("\n") == 1


def test_without_a_word_there_is_the_help(call):
    _, out, err = call()
    assert "RECIPE" in out + err


def test_a_recipe_without_data_is_one_line(call, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    pytest.importorskip("diffusers")
    code, _, err = call("tiny_vae", "-o", tmp_path / "run")
    assert code == 2
    assert "data.train" in err.splitlines()[-1]


def test_only_the_first_of_several_processes_talks_of_the_recipe(call, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert call("stagee1")[::2] == (2, "")
