"""The estimate against the published sizes, and against what really lies in memory after a step."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("omegaconf")

import torch

from trainer import config, memory
from trainer.config import ModelConfig, Recipe, RunConfig, StageConfig

_spec = importlib.util.spec_from_file_location(
    "curve_task", Path(__file__).with_name("curve_task.py")
)
curve_task = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(curve_task)


@pytest.mark.parametrize(
    ("name", "stage", "millions", "trained"),
    [
        ("curriculum", "stage1", 849.96, 849.96),
        ("curriculum", "stage2", 1267.10, 674.79),
        ("stage2_efficient", "stage2", 1100.24, 284.66),
        ("syncnet_16_pixel_attn", "syncnet", 401.31, 401.31),
        ("syncnet_16_pixel", "syncnet", 371.77, 371.77),
        ("syncnet_16_latent", "syncnet", 65.54, 65.54),
    ],
)
def test_the_published_networks_have_their_published_size(name, stage, millions, trained):
    one = next(one for one in memory.estimates(config.load(name)) if one.stage == stage)
    assert one.parameters / 1e6 == pytest.approx(millions, abs=0.006)
    assert one.trained / 1e6 == pytest.approx(trained, abs=0.006)
    assert one.total == one.weights + one.trained * 12


def test_the_estimate_is_what_lies_there_after_a_step():
    recipe = Recipe(
        model=ModelConfig(init="not read"),
        run=RunConfig(ema=0.9),
        stages={"a": StageConfig(), "b": StageConfig(trainable=["last"])},
    )
    for one, name in zip(memory.estimates(recipe, curve_task.Curve), ("a", "b"), strict=True):
        task = curve_task.Curve(recipe, torch.device("cpu"))
        task.begin(recipe.stages[name])
        moving = [p for p in task.network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(moving)
        points = task.samples(recipe.stages[name], validation=False)[0]
        batch = {key: torch.as_tensor(value)[None] for key, value in points.items()}
        task.losses(task.network, batch, recipe.stages[name])["noise"].backward()
        optimizer.step()
        assert one.weights == sum(p.nbytes for p in task.network.parameters())
        assert one.gradients == sum(p.grad.nbytes for p in moving)
        kept = [v for state in optimizer.state.values() for k, v in state.items() if k != "step"]
        assert one.optimizer == sum(value.nbytes for value in kept)
        assert one.mean == one.gradients
    unkept = replace(recipe, run=RunConfig())
    assert memory.estimates(unkept, curve_task.Curve)[0].mean == 0


def test_the_table_names_every_stage_and_what_is_not_in_it():
    said = memory.table(config.load("curriculum"))
    assert "849.96 M" in said
    assert "13.60 GB" in said
    assert "Activations" in said
    assert len({len(line) for line in said.splitlines()[:3]}) == 1


def test_what_never_learns_has_no_gradient_in_the_estimate():
    (near, _) = memory.estimates(config.load("tiny_listener"))
    # 1500 positions of 64 numbers, and the last norm that nothing is read behind
    assert near.parameters - near.trained == 1500 * 64 + 2 * 64
    assert near.optimizer == 8 * near.trained
