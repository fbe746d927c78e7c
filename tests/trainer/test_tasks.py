"""Every task keeps what the loop relies on, on rendered people and networks of a few thousand weights."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
for library in ("diffusers", "transformers", "omegaconf"):
    pytest.importorskip(library)

from safetensors.torch import save_file  # noqa: E402
from torch.utils.data import default_collate  # noqa: E402

from lipsync_core.errors import LipSyncError  # noqa: E402
from lipsync_core.models.unet3d import UNet3D, config_of  # noqa: E402
from lipsync_core.weights import tensors  # noqa: E402
from trainer import frozen, losses  # noqa: E402
from trainer.clips import Clips  # noqa: E402
from trainer.config import (  # noqa: E402
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    PairsConfig,
    Recipe,
    RunConfig,
    StageConfig,
)
from trainer.hear import hear  # noqa: E402
from trainer.loop import train  # noqa: E402
from trainer.presenters.make import Settings, make  # noqa: E402
from trainer.store import Part  # noqa: E402
from trainer.tasks import TASKS, named  # noqa: E402

CPU = torch.device("cpu")
SIDE = 64


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people") / "data"
    make(folder, Settings(hours=4 * 2.4 / 3600, seconds=2.4, resolution=SIDE))
    return folder


@pytest.fixture(scope="module")
def frozen_files(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, str]:
    """Ears, VAE and SyncNet as their own tasks export them, and features of these ears in the data."""
    folder = tmp_path_factory.mktemp("weights")
    files = {}
    for task in ("listener", "vae", "syncnet"):
        made = named(task)(recipe(task, data), CPU)
        made.begin(stage(task))
        path = folder / f"{task}.safetensors"
        made.export(made.network, path)
        files[task] = str(path)
    assert hear([data], files["listener"]) == 4
    return files


WEIGHTS = {
    "listener": LossConfig(noise=0, shapes=1),
    "vae": LossConfig(noise=0, pixel=1, edges=0.5, variance=0.1),
    "syncnet": LossConfig(noise=0, sync=1),
    "latentsync": LossConfig(noise=1, clean=0.1, snr_gamma=5, mask_weight=4, pixel=0.2, sync=0.05),
}


def stage(task: str, **changes: object) -> StageConfig:
    made = StageConfig(
        steps=4, batch=2, loss=WEIGHTS[task], optimizer=OptimizerConfig(learning_rate=1e-3)
    )
    return replace(made, **changes)


def recipe(task: str, data: Path, files: dict[str, str] | None = None, **model: object) -> Recipe:
    files = files or {}
    return Recipe(
        task=task,
        name=f"test_{task}",
        seed=3,
        data=DataConfig(train=[str(data)], resolution=SIDE, workers=0, cache_mb=64),
        model=replace(
            ModelConfig(
                channels=[32, 32, 32, 32],
                layers=2 if task == "latentsync" else 1,
                audio_width=64,
                vae=files.get("vae", ""),
                syncnet=files.get("syncnet", ""),
                syncnet_kind="syncnet-16-tiny",
            ),
            **model,
        ),
        stages={"only": stage(task)},
        run=RunConfig(gradient_checkpointing=False, validation_batches=1, validation_clips=1),
    )


def built(task: str, data: Path, files: dict[str, str]):
    made = named(task)(recipe(task, data, files), CPU)
    made.begin(stage(task))
    return made


def batch_of(task, numbers: list[int], validation: bool = False) -> dict:
    samples = task.samples(next(iter(task.recipe.stages.values())), validation=validation)
    return default_collate([samples[number] for number in numbers])


@pytest.fixture(params=[row.name for row in TASKS])
def task(request: pytest.FixtureRequest, data: Path, frozen_files: dict[str, str]):
    return built(request.param, data, frozen_files)


def test_losses_are_terms_of_the_recipe_and_reach_the_weights(task) -> None:
    now = next(iter(task.recipe.stages.values()))
    terms = task.losses(task.network, batch_of(task, [0, 1]), now)
    assert set(terms) <= {name for name in vars(now.loss) if getattr(now.loss, name) > 0}
    total = sum(getattr(now.loss, name) * term for name, term in terms.items())
    assert torch.isfinite(total)
    total.backward()
    moved = [w.grad.abs().max() for w in task.network.parameters() if w.grad is not None]
    assert max(moved) > 0


def test_a_loss_is_the_mean_over_its_samples_whoever_they_share_a_batch_with(task) -> None:
    now = next(iter(task.recipe.stages.values()))
    if task.name == "listener":
        # its mean is over moments with sound, of which samples have different numbers
        pairs = [[0, 0], [0], [0]]
    else:
        pairs = [[0, 1], [0], [1]]
    with torch.no_grad():
        both, first, second = (
            task.losses(task.network, batch_of(task, numbers), now) for numbers in pairs
        )
    for name, term in both.items():
        assert float(term) == pytest.approx(
            (float(first[name]) + float(second[name])) / 2, rel=2e-4, abs=1e-6
        )


def test_the_same_recipe_builds_the_same_network(
    task, data: Path, frozen_files: dict[str, str]
) -> None:
    again = built(task.name, data, frozen_files)
    for (name, one), (_, two) in zip(
        task.network.state_dict().items(), again.network.state_dict().items(), strict=True
    ):
        assert torch.equal(one, two), name


def test_validation_measures_what_a_switch_may_go_by(task, tmp_path: Path) -> None:
    now = next(iter(task.recipe.stages.values()))
    figures = task.validate(task.network, now, tmp_path)
    row = next(row for row in TASKS if row.name == task.name)
    assert set(figures) == set(row.figures)
    assert "reconstruction" in figures
    assert all(np.isfinite(value) for value in figures.values())
    if task.name != "listener":
        assert list(tmp_path.glob("*.png"))


def test_a_validation_clip_that_cannot_be_read_is_left_out(
    data: Path, frozen_files: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held = tmp_path / "held"
    shutil.copytree(data, held)
    first, *_ = sorted((held / "clips").rglob("*.mp4"))
    first.write_bytes(first.read_bytes()[:300])
    known = recipe("latentsync", data, frozen_files)
    known = replace(
        known,
        data=replace(known.data, validation=[str(held)]),
        run=replace(known.run, validation_clips=4),
    )
    # the same people are on both sides, which only this test wants
    task = named("latentsync")(known, CPU)
    task._sides = {True: Clips([str(held)])}
    task.begin(stage("latentsync"))
    figures = task.validate(task.network, stage("latentsync"), tmp_path)
    assert {"reconstruction", "sync", "offset"} == set(figures)
    assert caplog.text.count("is not drawn: its pictures cannot be read") == 1
    assert cv2.imread(str(tmp_path / "drawn.png")).shape[0] == 3 * 2 * 2 * SIDE


def test_validation_people_are_not_those_of_training(
    data: Path, frozen_files: dict[str, str]
) -> None:
    task = built("vae", data, frozen_files)
    sides = [task.samples(stage("vae"), validation=side).clips.sources() for side in (False, True)]
    assert not set(sides[0]) & set(sides[1])


def test_accumulated_pairs_are_negatives_of_each_other(data: Path, tmp_path: Path) -> None:
    said = {}
    for name, batch, accumulate in (("whole", 4, 1), ("parts", 2, 2)):
        only = stage(
            "syncnet",
            steps=2,
            batch=batch,
            accumulate=accumulate,
            loss=LossConfig(noise=0, sync=1, contrastive=0.5),
        )
        output = tmp_path / name
        run = RunConfig(output=str(output), log_every=1, validate_every=0, save_every=0)
        train(replace(recipe("syncnet", data), stages={"only": only}, run=run))
        with (output / "log.csv").open(newline="") as file:
            said[name] = [
                [float(row[key]) for key in ("loss", "sync", "contrastive", "norm")]
                for row in csv.DictReader(file)
            ]
    for parts, whole in zip(said["parts"], said["whole"], strict=True):
        assert parts == pytest.approx(whole, rel=5e-3)


def test_exports_are_told_by_their_tensors(
    frozen_files: dict[str, str], data: Path, tmp_path: Path
) -> None:
    kinds = {"listener": "whisper-hf", "vae": "taesd", "syncnet": "syncnet-16-tiny"}
    for name, kind in kinds.items():
        assert tensors.require(Path(frozen_files[name]), kind).name == kind
    task = built("latentsync", data, frozen_files)
    path = tmp_path / "unet.safetensors"
    task.export(task.network, path)
    state = tensors.read_tensors(path)
    tensors.require(path, "latentsync-unet")
    again = UNet3D(config_of({name: tuple(value.shape) for name, value in state.items()}))
    again.load_state_dict(state)


def test_an_exported_autoencoder_makes_the_same_pictures(data: Path, tmp_path: Path) -> None:
    task = named("vae")(recipe("vae", data, latent_scale=4.0), CPU)
    task.begin(stage("vae"))
    task.export(task.network, tmp_path / "vae.safetensors")
    crops = batch_of(task, [0], validation=True)["crops"][0]
    pictures = frozen.pictures(str(tmp_path / "vae.safetensors"), CPU)
    with torch.no_grad():
        plain, latents = task.network(crops, torch.zeros(len(crops), 4, 8, 8))
    # the file says by how much its latents are larger for the denoiser
    assert pictures.scale == 4
    assert float((pictures.encode(crops) / 4 - latents).abs().max()) < 0.02
    assert float((pictures.decode(latents * 4) - plain).abs().max()) < 0.02


def test_motion_comes_in_without_changing_a_picture(
    data: Path, frozen_files: dict[str, str]
) -> None:
    task = built("latentsync", data, frozen_files)
    # as it is made the last layer is zero, and everything would be equal to everything
    torch.nn.init.normal_(task.network.conv_out.weight, generator=torch.Generator().manual_seed(1))
    batch = batch_of(task, [0, 1])
    plain = stage("latentsync", loss=LossConfig())
    with torch.no_grad():
        before = float(task.losses(task.network, batch, plain)["noise"])
    second = stage("latentsync", motion="all", trainable=["motion_modules.", "attentions."])
    task.begin(second)
    with torch.no_grad():
        after = float(task.losses(task.network, batch, plain)["noise"])
    assert after == pytest.approx(before, rel=1e-5)
    learning = {name for name, w in task.network.named_parameters() if w.requires_grad}
    assert any("motion_modules." in name for name in learning)
    assert all("motion_modules." in name or "attentions." in name for name in learning)
    state = task.network.state_dict()
    task.begin(second)
    assert all(torch.equal(value, state[name]) for name, value in task.network.state_dict().items())


def test_features_of_other_ears_are_told_before_training(
    data: Path, frozen_files: dict[str, str]
) -> None:
    task = named("latentsync")(recipe("latentsync", data, frozen_files, audio_width=128), CPU)
    with pytest.raises(LipSyncError, match=r"64 wide, model\.audio_width is 128"):
        task.samples(stage("latentsync"), validation=False)


def test_noise_alone_leaves_no_trace_of_the_hidden_picture(
    data: Path, frozen_files: dict[str, str]
) -> None:
    task = built("latentsync", data, frozen_files)
    given: list[tuple[torch.Tensor, torch.Tensor]] = []

    def seen(noisy: torch.Tensor, timestep: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        given.append((noisy, timestep))
        return torch.zeros_like(noisy[:, :4])

    batch = batch_of(task, [0, 1, 2, 3])
    half = batch["crops"].shape[-1] // 2
    other = {**batch, "crops": batch["crops"].clone()}
    # only what is hidden: the lower middle
    other["crops"][..., half + 8 : half + 24, half - 8 : half + 8] *= -1
    loss = LossConfig(noise=1, clean=1)
    errors = []
    with torch.no_grad():
        for share in (1.0, 0.0):
            for one in (batch, other):
                terms = task.losses(seen, one, stage("latentsync", loss=loss, from_noise=share))
                errors.append(float(terms["clean"]))
    for (left, first), (right, second) in (given[:2], given[2:]):
        assert torch.equal(first, second)
        assert torch.equal(left, right) == bool((first > 950).all())
    # where drawing begins, with DDIM's twenty steps or with few
    assert all(951 <= step <= 999 for step in given[0][1].tolist())
    # the picture is still what has to be said
    assert errors[0] != errors[1]


def test_its_own_drawing_is_carried_on_towards_the_truth(
    data: Path, frozen_files: dict[str, str]
) -> None:
    from diffusers.schedulers import DPMSolverMultistepScheduler

    from lipsync_core.engines.latentsync.presets import NOISE

    task = built("latentsync", data, frozen_files)
    batch = batch_of(task, list(range(6)))
    asked: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def says(given: torch.Tensor, timestep: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        asked.append((given, timestep, torch.cos(3 * given[:, :4])))
        return asked[-1][2]

    with torch.no_grad():
        own = task.losses(says, batch, stage("latentsync", from_own=1.0, loss=LossConfig(clean=1)))
    (first, start, said), (given, steps, _) = asked
    assert ((start >= 951) & (steps < start) & (steps >= losses.LATER_STEPS[0])).all()
    assert torch.equal(first[:, 4:], given[:, 4:])
    for row in range(6):
        # the sampler's own step from the one to the other; its first is DDIM's
        sampler = DPMSolverMultistepScheduler(**NOISE, algorithm_type="dpmsolver++")
        sampler.set_timesteps(timesteps=[int(start[row]), int(steps[row]), 0])
        drawn = sampler.step(said[row], start[row], first[row, :4]).prev_sample
        torch.testing.assert_close(given[row, :4], drawn, rtol=1e-4, atol=1e-4)
    assert float(own["clean"]) > 0

    def right(given: torch.Tensor, timestep: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        alphas = task._alphas[timestep].view(-1, 1, 1, 1, 1)
        clean = task._latents(batch)[0][: len(given)]
        return (given[:, :4] - alphas.sqrt() * clean) / (1 - alphas).sqrt()

    with torch.no_grad():
        for share in (0.0, 1.0):
            terms = task.losses(
                right, batch, stage("latentsync", from_own=share, loss=LossConfig(clean=1))
            )
            assert float(terms["noise"]) < 1e-6


def test_of_pictures_that_are_compared_some_frames_stand_for_all(
    data: Path, frozen_files: dict[str, str]
) -> None:
    task = built("latentsync", data, frozen_files)
    batch = batch_of(task, [0, 1])

    def pixel(count: int, crops: torch.Tensor) -> float:
        loss = LossConfig(noise=1, pixel=1, decoded_frames=count)
        with torch.no_grad():
            terms = task.losses(
                task.network, {**batch, "crops": crops}, stage("latentsync", loss=loss)
            )
        return float(terms["pixel"])

    # hidden from the network are only the crops with which it is compared
    task._latents = lambda _, kept=task._latents(batch): kept  # type: ignore[method-assign]
    whole, some = pixel(0, batch["crops"]), pixel(3, batch["crops"])
    assert pixel(16, batch["crops"]) == whole
    assert 0.5 * whole < some < 2 * whole
    seen = losses.some_frames(batch["seed"], 16, 3)
    changed, unseen = batch["crops"].clone(), batch["crops"].clone()
    for row, frames in enumerate(seen.tolist()):
        others = [frame for frame in range(16) if frame not in frames]
        unseen[row, others] = 1
        changed[row, frames] = 1
    assert pixel(3, unseen) == some
    assert pixel(3, changed) > some


def test_ears_hear_a_short_block_as_the_same_part_of_a_long_one(data: Path) -> None:
    task = named("listener")(recipe("listener", data), CPU)
    mel = torch.randn(2, 80, 300, generator=torch.Generator().manual_seed(2))
    first = torch.tensor([0, 700])
    with torch.no_grad():
        cut = task.network(mel, first)
        # what enters the layers knows its neighbours and its place alone
        for row, start in enumerate(first.tolist()):
            block = torch.zeros(1, 80, 3000)
            block[..., 2 * start : 2 * start + 300] = mel[row]
            whole = task.network(block)[0, 0, start : start + 150]
            torch.testing.assert_close(cut[0, row, 1:-1], whole[1:-1], atol=1e-5, rtol=1e-5)
    task.network.zero_grad()
    task.network(mel, first).sum().backward()
    assert task.network.encoder.layers[0].fc1.weight.grad is not None


def test_codes_kept_in_memory_are_those_made_each_time(
    data: Path, frozen_files: dict[str, str]
) -> None:
    fresh = recipe("latentsync", data, frozen_files)
    kept = replace(fresh, data=replace(fresh.data, latents=True))
    found = []
    for one in (fresh, kept):
        task = named("latentsync")(one, CPU)
        task.begin(stage("latentsync"))
        found.append(torch.stack(task._latents(batch_of(task, [0, 1]))))
    assert torch.allclose(found[0], found[1], atol=1e-5)


def test_a_mouth_is_drawn_for_another_network_only_where_it_was_hidden(
    data: Path, frozen_files: dict[str, str]
) -> None:
    from lipsync_core.engines.latentsync import region

    task = built("latentsync", data, frozen_files)
    clip = task.samples(stage("latentsync"), validation=True).clips[0]
    crops, made, _ = task._draw(task.network, clip)
    outside = torch.from_numpy(region.paint(SIDE).copy()) == 0
    assert torch.equal(crops[..., outside], made[..., outside])
    assert not torch.equal(crops, made)


def test_starting_from_weights_takes_what_fits(
    data: Path, frozen_files: dict[str, str], tmp_path: Path
) -> None:
    task = built("latentsync", data, frozen_files)
    torch.nn.init.normal_(task.network.conv_in.weight)
    path = tmp_path / "unet.safetensors"
    task.export(task.network, path)
    again = named("latentsync")(recipe("latentsync", data, frozen_files, init=str(path)), CPU)
    assert torch.allclose(
        again.network.conv_in.weight, task.network.conv_in.weight.half().float(), atol=1e-6
    )
    with pytest.raises(LipSyncError, match=r"model\.channels"):
        named("latentsync")(
            recipe("latentsync", data, frozen_files, init=str(path), channels=[64, 64, 64, 64]),
            CPU,
        )


def test_hearing_twice_hears_nothing_new(data: Path, frozen_files: dict[str, str]) -> None:
    assert hear([data], frozen_files["listener"]) == 0


def test_hearing_leaves_out_what_it_cannot_read(
    data: Path, frozen_files: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(data, tmp_path / "data")
    torn, silent, *_ = sorted((tmp_path / "data" / "clips").rglob("*.safetensors"))
    torn.write_text("torn")
    save_file({"mel": torch.zeros(1)}, silent)
    others = named("listener")(replace(recipe("listener", data), seed=4), CPU)
    others.export(others.network, tmp_path / "ears.safetensors")
    assert hear([tmp_path / "data"], str(tmp_path / "ears.safetensors")) == 2
    assert caplog.text.count("is left out") == 2
    assert "it has no 'sound'" in caplog.text
    assert torn.read_text() == "torn"
    with pytest.raises(LipSyncError, match="nothing can be heard on --device xpu:7"):
        hear([tmp_path / "data"], frozen_files["listener"], device="xpu:7")


def test_shards_cannot_be_heard(
    data: Path, frozen_files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = [replace(one, features=Part("a.tar", 512, 8)) for one in Clips([str(data)]).entries]
    monkeypatch.setattr("trainer.data.Clips", lambda _: Clips(entries=packed))
    with pytest.raises(LipSyncError, match=r"a\.tar is a shard"):
        hear([data], frozen_files["listener"])


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(LipSyncError, match="latentsync"):
        named("latentsyn")


def test_half_of_the_pairs_of_a_validation_belong_together(data: Path) -> None:
    wanted = replace(recipe("syncnet", data), pairs=PairsConfig(positive=0.0))
    task = named("syncnet")(wanted, CPU)
    for validation, share in ((False, 0.0), (True, 0.5)):
        samples = task.samples(stage("syncnet"), validation=validation)
        together = [samples[number]["together"] for number in range(40)]
        assert abs(sum(together) / 40 - share) <= 0.2
