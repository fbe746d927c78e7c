"""The loop with a small task that is real: what it counts, skips, averages, keeps and hands over."""

from __future__ import annotations

import csv
import importlib.util
import json
import logging
import math
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("omegaconf")

import torch
from safetensors.torch import load_file

from lipsync_core.errors import SettingsError
from trainer import config, loop, processes, state
from trainer.clips import DataError
from trainer.config import (
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    Recipe,
    RunConfig,
    StageConfig,
    SwitchConfig,
)
from trainer.state import Ema, Position, Stopped, TrainingError

_spec = importlib.util.spec_from_file_location(
    "curve_task", Path(__file__).with_name("curve_task.py")
)
curve_task = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(curve_task)
Curve = curve_task.Curve

ONE = StageConfig(steps=12, batch=4, optimizer=OptimizerConfig(learning_rate=0.01))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(tmp_path):
    def make(*stages, kind=Curve, name="run", resume=True, watch=None, seed=3, dropout=0.0, **more):
        recipe = Recipe(
            name=name,
            seed=seed,
            data=DataConfig(workers=more.pop("workers", 0)),
            model=ModelConfig(audio_dropout=dropout),
            stages={f"s{i}": stage for i, stage in enumerate(stages)},
            run=RunConfig(
                **{
                    "output": str(tmp_path / name),
                    "log_every": 1,
                    "save_every": 0,
                    "validate_every": 0,
                    **more,
                }
            ),
        )
        return loop.train(recipe, kind=kind, resume=resume, watch=watch)

    return make


def table(folder):
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def column(folder, name):
    return [float(row[name]) for row in table(folder) if row[name]]


def diary(folder, event=None):
    said = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [one for one in said if event in (None, one["event"])]


def weights(folder, name="s0"):
    return load_file(folder / "weights" / f"{name}.safetensors")


def test_it_learns_and_leaves_what_it_says(run):
    folder = run(replace(ONE, steps=150), validate_every=50, save_every=60, keep=2)
    losses = column(folder, "loss")
    assert len(losses) == 150
    assert sum(losses[-20:]) < 0.7 * sum(losses[:20])
    assert config.load(folder).stages["s0"].steps == 150
    names = lambda part: sorted(path.name for path in (folder / part).iterdir())  # noqa: E731
    assert names("states") == ["step-000000120", "step-000000150"]
    kept = ["s0.safetensors", "step-000000120.safetensors", "step-000000150.safetensors"]
    assert names("weights") == kept
    assert names("samples") == [f"step-{step:09d}" for step in (50, 100, 150)]
    assert not list(folder.rglob("*.part*"))
    figures = [one["figures"]["reconstruction"] for one in diary(folder, "validation")]
    assert figures == column(folder, "validation/reconstruction")
    assert figures[-1] < figures[0]


def test_two_runs_with_one_seed_agree_and_another_seed_does_not(run):
    first, again = (column(run(ONE, name=name, dropout=0.3), "loss") for name in ("a", "b"))
    other = column(run(ONE, name="c", dropout=0.3, seed=4), "loss")
    assert first == again
    assert first != other


def test_accumulated_batches_are_one_large_batch(run):
    whole = run(replace(ONE, batch=8), name="whole")
    parts = run(replace(ONE, batch=2, accumulate=4), name="parts")
    assert column(parts, "loss") == pytest.approx(column(whole, "loss"), rel=1e-5)
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value, rtol=1e-4, atol=1e-6)


def test_terms_have_their_names_and_weights(run):
    folder = run(replace(ONE, steps=3, loss=LossConfig(noise=2, pixel=0.5)))
    for row in table(folder):
        loss, noise, pixel = (float(row[name]) for name in ("loss", "noise", "pixel"))
        assert loss == pytest.approx(2 * noise + 0.5 * pixel, rel=1e-6)


def test_a_line_of_the_log_is_the_mean_since_the_last(run):
    every = column(run(ONE, name="every"), "loss")
    third = run(ONE, name="third", log_every=3)
    assert [row["step"] for row in table(third)] == ["3", "6", "9", "12"]
    means = [sum(every[i : i + 3]) / 3 for i in (0, 3, 6, 9)]
    assert column(third, "loss") == pytest.approx(means, rel=1e-12)


class Broken(Curve):
    """The sample with number 17, in the fifth batch of four, is no number."""

    bad = 17


def test_a_step_that_is_no_number_is_skipped_and_counted(run):
    folder = run(ONE, kind=Broken)
    rows = table(folder)
    assert [row["skipped"] for row in rows] == ["0"] * 4 + ["1"] * 8
    assert rows[4]["loss"] == ""
    assert all(math.isfinite(value) for value in column(folder, "loss"))
    (said,) = diary(folder, "skipped")
    assert (said["step"], said["skipped"]) == (5, 1)
    assert "loss" in said["what"]
    # nothing of it is left in the weights or the optimizer
    assert all(value.isfinite().all() for value in weights(folder).values())


class Missing(Curve):
    """In the places of the samples 6 and 9, of the second and third batch of four, others were drawn."""

    def samples(self, stage, *, validation):
        points = super().samples(stage, validation=validation)

        class Counted(type(points)):
            def __getitem__(self, i):
                return {**super().__getitem__(i), "skipped": 2 * (i == 6) + (i == 9)}

        return Counted(points.seed, points.bad, points.slow)


def test_samples_that_could_not_be_read_are_counted_in_the_log(run):
    rows = table(run(ONE, kind=Missing))
    assert [row["bad_samples"] for row in rows] == ["0", "2"] + ["3"] * 10


class Unreadable(Curve):
    """Its loading process meets an error at sample 6."""

    def samples(self, stage, *, validation):
        points = super().samples(stage, validation=validation)

        class Torn(type(points)):
            def __getitem__(self, i):
                if i == 6:
                    raise DataError("too many clips cannot be read")
                return super().__getitem__(i)

        return Torn(points.seed, points.bad, points.slow)


def test_an_error_while_loading_leaves_no_process_to_wait_for(run):
    with pytest.raises(DataError, match="cannot be read") as caught:
        run(ONE, kind=Unreadable, workers=1)
    # the error, with its trace and all that hangs on it, is still held
    assert caught.value.__traceback__ is not None
    assert not multiprocessing.active_children()


class Hopeless(Curve):
    def losses(self, network, batch, stage):
        return {
            name: value * math.nan for name, value in super().losses(network, batch, stage).items()
        }


def test_too_many_of_them_end_the_run_in_one_line(run):
    with pytest.raises(
        TrainingError, match=r"^4 steps .* no number .* step 4.* allows 3"
    ) as caught:
        run(ONE, kind=Hopeless, max_skipped=3)
    assert "\n" not in str(caught.value)


def test_the_rate_rises_and_falls_as_the_recipe_says(run):
    optimizer = OptimizerConfig(learning_rate=0.01, schedule="linear", warmup=4)
    rates = column(run(replace(ONE, optimizer=optimizer)), "rate")
    assert rates[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    assert rates[4:] == pytest.approx([0.01 * (8 - i) / 8 for i in range(8)])
    cosine = OptimizerConfig(learning_rate=1.0, schedule="cosine")
    assert loop.rate(cosine, 0, 10) == 1
    assert loop.rate(cosine, 5, 10) == pytest.approx(0.5)
    assert loop.rate(cosine, 9, 10) < 0.03
    assert loop.rate(OptimizerConfig(learning_rate=3.0), 999, 10) == 3


def test_the_gradient_is_clipped_to_its_norm(run):
    # of plain descent a step is rate times gradient: AdamW hides that, the norm does not
    loose = run(replace(ONE, steps=1), name="loose")
    norm = column(loose, "norm")[0]
    tight = OptimizerConfig(learning_rate=0.01, clip=norm / 1e6, eps=1.0)
    free = OptimizerConfig(learning_rate=0.01, clip=0.0, eps=1.0)
    moved = []
    for name, optimizer in (("tight", tight), ("free", free)):
        before = load_start(run, name)
        after = weights(run(replace(ONE, steps=1, optimizer=optimizer), name=name))
        decayed = {key: value * (1 - 0.01 * 0.01) for key, value in before.items()}
        moved.append(max(float((after[key] - decayed[key]).abs().max()) for key in after))
    assert moved[0] < moved[1] / 1e3


def load_start(run, name):
    """The weights that a run begins with: those after a step of no length."""
    still = OptimizerConfig(learning_rate=0.0)
    return weights(run(replace(ONE, steps=1, optimizer=still), name=f"start-{name}"))


def test_the_running_mean_is_what_is_judged_and_exported(run):
    plain = run(ONE, name="plain", validate_every=12)
    mean = run(ONE, name="mean", validate_every=12, ema=0.9)
    assert column(plain, "loss") == column(mean, "loss")
    assert column(plain, "validation/reconstruction") != column(mean, "validation/reconstruction")
    ours, theirs = weights(mean)["last.weight"], weights(plain)["last.weight"]
    assert not torch.equal(ours, theirs)
    # the state holds the weights that go on learning
    saved = load_file(mean / "states" / "step-000000012" / "model.safetensors")
    assert torch.equal(saved["last.weight"], theirs)


def test_a_mean_of_what_does_not_move_is_that():
    network = torch.nn.Linear(3, 2)
    ema = Ema(network, 0.99)
    before = {name: value.clone() for name, value in network.named_parameters()}
    with torch.no_grad():
        network.weight += 1
    for step in range(1, 400):
        ema.update(step)
    with ema.applied():
        torch.testing.assert_close(network.weight, before["weight"] + 1, rtol=1e-3, atol=1e-3)
        assert torch.equal(network.bias, before["bias"])
    assert torch.equal(network.weight, before["weight"] + 1)


TWO = StageConfig(
    steps=10,
    batch=2,
    motion="all",
    trainable=["more", "last"],
    loss=LossConfig(noise=1, pixel=1),
    optimizer=OptimizerConfig(learning_rate=0.003),
)


def test_one_stage_goes_over_to_the_next_in_one_run(run):
    folder = run(ONE, TWO, save_every=16)
    rows = table(folder)
    assert [row["stage"] for row in rows] == ["s0"] * 12 + ["s1"] * 10
    assert {row["pixel"] for row in rows[:12]} == {""}
    assert all(row["pixel"] for row in rows[12:])
    assert {float(row["rate"]) for row in rows[12:]} == {0.003}
    one, two = weights(folder, "s0"), weights(folder, "s1")
    assert "more.weight" not in one
    assert two["more.weight"].abs().sum() > 0
    # what is not trained is as the first stage left it
    assert torch.equal(two["first.weight"], one["first.weight"])
    assert not torch.equal(two["last.weight"], one["last.weight"])
    ends = diary(folder, "stage ends")
    assert [(end["stage"], end["step"]) for end in ends] == [("s0", 12), ("s1", 22)]
    assert ends[0]["evidence"] == {"stage_step": 12, "steps": 12}


def test_the_running_mean_goes_on_to_the_next_stage(run):
    folder = run(ONE, TWO, ema=0.9)
    one, two = weights(folder, "s0"), weights(folder, "s1")
    last = load_file(folder / "states" / "step-000000012" / "model.safetensors")
    assert torch.equal(two["first.weight"], one["first.weight"])
    assert not torch.equal(two["first.weight"], last["first.weight"])


def test_a_resume_in_the_second_stage_rebuilds_that_one(run):
    # a line of the log is of steps before and after the state
    options = {"dropout": 0.3, "ema": 0.9, "save_every": 5, "log_every": 4}
    whole = run(ONE, TWO, name="whole", **options)
    stopped = 0

    def stop(pace):
        nonlocal stopped
        if pace.position.step == 17 and not stopped:
            stopped = 1
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match=r"step 18, .* python -m trainer .*parts"):
        run(ONE, TWO, name="parts", watch=stop, **options)
    folder = run(ONE, TWO, name="parts", **options)
    assert column(folder, "loss") == column(whole, "loss")
    for name, value in weights(whole, "s1").items():
        assert torch.equal(weights(folder, "s1")[name], value)


def test_a_resume_at_the_very_end_of_a_stage_goes_on_to_the_next(run):
    whole = run(ONE, TWO, name="whole")
    run(ONE, name="parts")
    # the second stage is added when the first is done
    folder = run(ONE, TWO, name="parts")
    assert column(folder, "loss") == column(whole, "loss")


def test_a_run_that_is_done_is_left_alone(run):
    folder = run(ONE)
    before = (folder / "log.csv").read_text()
    run(ONE)
    assert (folder / "log.csv").read_text() == before


def test_a_run_that_is_done_goes_on_where_the_recipe_gives_it_more_steps(run):
    whole = run(replace(ONE, steps=20), name="whole", dropout=0.3)
    run(ONE, name="more", dropout=0.3)
    folder = run(replace(ONE, steps=20), name="more", dropout=0.3)
    assert column(folder, "loss") == column(whole, "loss")


class Falling(Curve):
    """Validates to a curve that is flat from step 8 on."""

    steps = 0

    def validate(self, network, stage, folder):
        Falling.steps += 2
        return {"reconstruction": max(2.0 - 0.1 * Falling.steps, 1.2)}


def test_a_stage_that_has_converged_gives_way_and_says_why(run):
    Falling.steps = 0
    switch = SwitchConfig(when="converged", window=3, slope=0.01)
    told = []
    folder = run(
        replace(ONE, steps=1000, switch=switch),
        TWO,
        kind=Falling,
        validate_every=2,
        watch=lambda pace: told.append(pace.note),
    )
    # validations at 2, 4, 6, 8, 10, 12: the last three are flat; the ranks hear of it a step later
    end, _ = diary(folder, "stage ends")
    assert (end["stage"], end["step"]) == ("s0", 13)
    assert end["evidence"]["window"] == [1.2, 1.2, 1.2]
    assert end["evidence"]["fall"] == 0
    reasons = [one["decision"] for one in diary(folder, "validation") if one["stage"] == "s0"]
    assert reasons[:2] == ["1 of 3 validations", "2 of 3 validations"]
    assert "reconstruction falls by" in reasons[2]
    assert any("stage s0 ends at step 13: reconstruction falls by 0.000%" in line for line in told)
    assert table(folder)[-1]["stage"] == "s1"


def test_a_target_ends_a_stage(run):
    Falling.steps = 0
    switch = SwitchConfig(when="score", target=1.65, larger_is_better=False)
    folder = run(replace(ONE, steps=1000, switch=switch), TWO, kind=Falling, validate_every=2)
    end = diary(folder, "stage ends")[0]
    assert (end["step"], end["evidence"]) == (5, {"value": 1.6, "target": 1.65})


class Silent(Curve):
    def validate(self, network, stage, folder):
        return {"luck": 1.0}


def test_a_figure_that_the_task_does_not_give_is_one_line(run):
    stage = replace(ONE, switch=SwitchConfig(when="converged"))
    with pytest.raises(SettingsError, match=r"'reconstruction', which .* there are luck"):
        run(stage, kind=Silent, validate_every=2)


def test_nothing_to_train_is_one_line(run):
    with pytest.raises(SettingsError, match=r"stages.s0.trainable names no parameter.*nowhere"):
        run(replace(ONE, trainable=["nowhere"]))


def test_looking_and_saving_draw_nothing_from_what_training_draws(run):
    calm = run(ONE, name="calm", dropout=0.5)
    busy = run(ONE, name="busy", dropout=0.5, validate_every=1, save_every=3)
    assert column(calm, "loss") == column(busy, "loss")


def test_loading_in_other_processes_changes_nothing(run, tmp_path):
    here = run(ONE, name="here", dropout=0.5)
    recipe = config.load(here)
    there = loop.train(
        replace(
            recipe,
            data=DataConfig(workers=2),
            run=replace(recipe.run, output=str(tmp_path / "there")),
        ),
        kind=Curve,
    )
    assert column(here, "loss") == column(there, "loss")


@pytest.mark.parametrize("precision", ["bf16", "no"])
def test_precision(run, precision):
    folder = run(replace(ONE, steps=100), precision=precision)
    losses = column(folder, "loss")
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])
    assert all(value.dtype == torch.float32 for value in weights(folder).values())


def test_half_precision_without_a_gpu_is_one_line(run):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SettingsError, match=r"run\.precision=fp16 needs a GPU"):
        run(ONE, precision="fp16")


@pytest.fixture
def halved(monkeypatch):
    """Half precision with its scaler on a processor, where accelerate itself refuses it."""

    def give(scale):
        plain = processes.accelerator

        def with_scaler(recipe):
            made = plain(recipe)
            made.native_amp = True
            made.state._shared_state["_mixed_precision"] = "fp16"
            made.state._mixed_precision = "fp16"
            made.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
            return made

        monkeypatch.setattr(processes, "accelerator", with_scaler)

    return give


def test_half_precision_learns_as_full_precision_does(run, halved):
    full = run(ONE, name="full")
    halved(1024.0)
    half = run(ONE, name="half")
    assert column(half, "loss") == pytest.approx(column(full, "loss"), rel=0.02)
    # the norm is that of the gradient, not of the scaled one
    assert column(half, "norm") == pytest.approx(column(full, "norm"), rel=0.05)
    assert column(half, "loss") != column(full, "loss")


def test_a_scale_that_is_too_large_comes_down_and_is_no_skipped_step(run, halved):
    halved(2.0**24)
    folder = run(replace(ONE, steps=40))
    assert {row["skipped"] for row in table(folder)} == {"0"}
    norms = [float(row["norm"]) if row["norm"] else math.nan for row in table(folder)]
    assert not math.isfinite(norms[0])
    assert all(math.isfinite(norm) for norm in norms[-20:])
    losses = column(folder, "loss")
    assert sum(losses[-5:]) < sum(losses[:5])


def test_a_loss_that_is_no_number_counts_under_a_scale_too(run, halved):
    halved(1024.0)
    folder = run(ONE, kind=Broken)
    assert table(folder)[-1]["skipped"] == "1"
    assert all(value.isfinite().all() for value in weights(folder).values())


def test_the_scale_is_in_the_state(run, halved):
    halved(1024.0)
    whole = run(ONE, TWO, name="whole", kind=Broken)

    def stop(pace):
        if pace.position.step == 9:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        run(ONE, TWO, name="parts", kind=Broken, watch=stop)
    # another one to begin with, which the state replaces
    halved(4096.0)
    folder = run(ONE, TWO, name="parts", kind=Broken)
    assert column(folder, "loss") == column(whole, "loss")
    assert column(folder, "norm") == column(whole, "norm")


def test_fresh_puts_the_old_run_aside(run, caplog):
    folder = run(ONE)
    (folder / "mine.txt").write_text("kept")
    with caplog.at_level(logging.WARNING):
        again = run(ONE, resume=False)
    assert again == folder
    assert (folder.with_name("run.1") / "mine.txt").read_text() == "kept"
    assert not (folder / "mine.txt").exists()
    assert "run.1" in caplog.text
    assert len(column(folder, "loss")) == 12


def test_a_resume_with_another_recipe_says_what_is_other(run, caplog):
    run(ONE)
    with caplog.at_level(logging.WARNING):
        run(replace(ONE, optimizer=OptimizerConfig(learning_rate=0.02)), TWO)
    assert "stages.s0.optimizer.learning_rate, stages.s1" in caplog.text


def test_a_folder_that_cannot_be_written_is_one_line(run, tmp_path):
    (tmp_path / "file").write_text("somebody's")
    for output in (tmp_path / "file", tmp_path / "file" / "run"):
        for resume in (True, False):
            with pytest.raises(TrainingError, match=r"file.* cannot be written") as caught:
                run(ONE, output=str(output), resume=resume)
            assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "somebody's"


def test_what_cannot_validate_is_said_before_the_first_step(run):
    class Unseen(Curve):
        def samples(self, stage, *, validation):
            if validation:
                raise DataError("no clip is long enough")
            return super().samples(stage, validation=validation)

    steps = []
    with pytest.raises(DataError, match="long enough"):
        run(ONE, kind=Unseen, validate_every=6, watch=steps.append)
    assert not steps


def test_a_state_of_another_network_is_one_line(run):
    run(ONE)

    class Wider(Curve):
        def __init__(self, recipe, device):
            super().__init__(recipe, device)
            self.network.last = torch.nn.Linear(16, 5)

    with pytest.raises(TrainingError, match="does not fit the recipe") as caught:
        run(ONE, TWO, kind=Wider)
    assert "\n" not in str(caught.value)


def test_a_stage_that_the_recipe_no_longer_has_is_one_line(run, tmp_path):
    folder = run(ONE)
    saved = folder / "states" / "step-000000012"
    position = Position.load(saved)
    position.stage = "gone"
    position.save(saved)
    with pytest.raises(SettingsError, match="stage 'gone', which the recipe does not have"):
        run(ONE)


def test_a_line_torn_by_a_kill_is_dropped(run):
    folder = run(ONE)
    whole = (folder / "log.csv").read_text()
    (folder / "log.csv").write_text(whole + "13,s0,0.1")
    (folder / "log.jsonl").write_text((folder / "log.jsonl").read_text() + '{"event": "vali')
    run(ONE)
    assert (folder / "log.csv").read_text() == whole
    assert all(one["event"] for one in diary(folder))


def test_tensorboard_holds_the_same_figures(run):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run(ONE, trackers=["csv", "tensorboard"], validate_every=6)
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    seen = [event.value for event in events.Scalars("train/loss")]
    assert seen == pytest.approx(column(folder, "loss"))
    assert [event.step for event in events.Scalars("validation/reconstruction")] == [6, 12]


def test_a_tracker_that_is_not_installed_is_one_line(run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(SettingsError, match=r"run.trackers names wandb, .* pip install wandb"):
        run(ONE, trackers=["wandb"])


def test_training_again_in_the_same_process_may_use_another_precision(run):
    run(replace(ONE, steps=2), name="a", precision="bf16")
    run(replace(ONE, steps=2), name="b", precision="no")


def test_states_can_be_found_without_the_loop(run):
    folder = run(ONE, save_every=5)
    newest = state.newest(folder)
    assert newest is not None
    position = Position.load(newest)
    assert (position.step, position.stage, position.ended) == (12, "s0", "steps")
    assert position.drawn == 48
