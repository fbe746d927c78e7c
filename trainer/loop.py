"""The loop: steps, batches, loss terms with names, saving. It and ``processes`` alone know accelerate."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lipsync_core.errors import SettingsError

from . import config, curriculum, processes, state, trackers
from .config import OptimizerConfig, Recipe, StageConfig
from .state import Ema, Position, Stopped, TrainingError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .tasks.base import Task

log = logging.getLogger("lipsync.trainer")

SAMPLES = "samples"
WEIGHTS = "weights"


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How a run goes, for whoever watches it."""

    position: Position
    recipe: Recipe
    figures: Mapping[str, float]
    """Of the last step: ``loss``, its terms, ``rate``, ``norm``."""
    steps_per_second: float
    waiting: float
    """Share of the time, 0..1, in which training waited for data."""
    seconds_left: float
    """Of the present stage, if it takes all its steps."""
    note: str = ""
    """What happened, if something did."""


Watch = Callable[[Pace], None]


def train(
    recipe: Recipe,
    *,
    resume: bool = True,
    kind: type[Task] | None = None,
    watch: Watch | None = None,
) -> Path:
    """Runs a recipe to its end; returns the folder of the run.

    Goes on from the newest state in that folder; without ``resume`` an earlier run is put aside.
    ``kind`` stands for the row of ``TASKS`` that the recipe names. The folder holds:

    - ``recipe.yaml``: the recipe with everything it inherits
    - ``log.csv``: loss, terms, rate and speed, a line every ``log_every`` steps; figures of validations
    - ``log.jsonl``: validations, decisions of the curriculum with their evidence, skipped steps
    - ``states/step-…``: what a resume needs, the newest ``keep``
    - ``samples/step-…``: what each validation draws
    - ``weights/step-….safetensors``: what the core loads, one beside each state;
      ``weights/<stage>.safetensors``: the end of a stage
    """
    with ExitStack() as ends:
        ends.callback(processes.forget)
        run = _Run(recipe, kind, resume=resume, watch=watch)
        ends.callback(run.close)
        run.train()
        run.accelerator.end_training()
    return run.folder


def rate(optimizer: OptimizerConfig, step: int, steps: int) -> float:
    """Learning rate of step number ``step`` of ``steps``, counted from 0."""
    share = min((step + 1) / optimizer.warmup, 1.0) if step < optimizer.warmup else 1.0
    left = 1 - max(step - optimizer.warmup, 0) / max(steps - optimizer.warmup, 1)
    if optimizer.schedule == "linear":
        share *= left
    elif optimizer.schedule == "cosine":
        share *= 0.5 * (1 + math.cos(math.pi * (1 - left)))
    return optimizer.learning_rate * share


class _Run:
    def __init__(
        self, recipe: Recipe, kind: type[Task] | None, *, resume: bool, watch: Watch | None
    ) -> None:
        self.recipe = recipe
        self.watch = watch
        self.folder = config.folder(recipe)
        self.accelerator = processes.accelerator(recipe)
        self.first = self.accelerator.is_main_process
        self.sharded = self.accelerator.is_fsdp2
        self.ranks = self.accelerator.num_processes
        self.signals = processes.Signals()
        with state.written(self.folder):
            if self.first and not resume and (aside := state.put_aside(self.folder)):
                log.warning("%s held a run; it is %s now", self.folder, aside)
        self.accelerator.wait_for_everyone()
        self.state = state.newest(self.folder)
        self.position = Position.load(self.state) if self.state else Position()
        with state.written(self.folder):
            if self.first:
                self._take_folder()
            self.trackers = self._trackers()
        self.task = self._task(kind)
        self.stage: StageConfig
        self.network: nn.Module
        """As wrapped for the processes."""
        self.twin: nn.Module | None = None
        """Under FSDP, where the first rank gathers the whole network to look at it."""
        self.ema: Ema | None = None
        self.wish = curriculum.Decision(ends=False, reason="")
        self.began, self.waited, self.steps_here = time.perf_counter(), 0.0, 0
        self.bad = 0
        """Samples of this rank's present step that could not be read."""

    # --- the story

    def train(self) -> None:
        names = list(self.recipe.stages)
        stage = self.position.stage or names[0]
        self._begin(stage, self.state)
        while True:
            if not self.position.ended:
                self._run_stage()
            following = names[names.index(self.position.stage) + 1 :]
            if not following:
                break
            self._hand_over(following[0])
        bad = self.position.bad_samples
        missed = f", {bad} samples could not be read" if bad else ""
        self._tell(f"done after {self.position.step} steps{missed}: {self.folder}")

    def _run_stage(self) -> None:
        run, position = self.recipe.run, self.position
        if self.first and run.validate_every:
            # what no validation could be made of is said now and not after hours
            self.task.samples(self.stage, validation=True)
        self.began, self.waited, self.steps_here = time.perf_counter(), 0.0, 0
        with self._batches() as batches, self.signals.heeded():
            while not position.ended:
                figures, stop, wish = self._step(batches)
                self._log(figures)
                stepped = time.perf_counter()
                full = position.stage_step >= self.stage.steps
                ends = full or wish
                # a wish is a step old and was validated then
                if not wish and (
                    _due(run.validate_every, position.step) or (full and run.validate_every)
                ):
                    self._validate()
                if ends:
                    self._end_stage()
                if ends or stop or _due(run.save_every, position.step):
                    self._save()
                # steps a second are of steps alone, or the first ones after a look would seem endless
                self.began += time.perf_counter() - stepped
                if stop and not self._finished:
                    raise Stopped(
                        f"stopped at step {position.step}, a state is saved; to go on: "
                        f"python -m trainer {self.folder}"
                    )

    def _begin(self, name: str, saved: Path | None = None) -> None:
        """Brings everything into the shape of a stage, and into ``saved`` if that is given."""
        from accelerate.utils import set_seed

        position, recipe = self.position, self.recipe
        if name not in recipe.stages:
            raise SettingsError(
                f"{self.folder} stands in stage {name!r}, which the recipe does not have; give that "
                "stage, or begin anew with --fresh"
            )
        self.stage = recipe.stages[name]
        position.stage = name
        # New parts begin alike on all ranks and after a resume, whatever was drawn before.
        set_seed(recipe.seed + 1000 * list(recipe.stages).index(name))
        self.task.begin(self.stage)
        network = self.task.network
        trained = [p for p in network.parameters() if p.requires_grad]
        if not trained:
            raise SettingsError(
                f"stages.{name}.trainable names no parameter of the network: "
                f"{', '.join(self.stage.trainable)}"
            )
        if recipe.run.compile:
            network.compile()
        self.twin = None
        if self.sharded and self.first:
            self.twin = copy.deepcopy(network).requires_grad_(False)
        self.network, self.optimizer = self._wrap(network)
        self.ema = Ema(self.network, recipe.run.ema) if recipe.run.ema else None
        set_seed(
            recipe.seed + 1000 * list(recipe.stages).index(name) + self.accelerator.process_index
        )
        if saved is not None:
            self._load(saved)
            if position.ended == "steps" and position.stage_step < self.stage.steps:
                # the recipe gives it more now
                position.ended = ""
        if (position.ranks, position.batch) != (self.ranks, self.stage.batch):
            if saved is not None:
                self._tell(
                    f"{position.ranks} x {position.batch} samples a batch then, {self.ranks} x "
                    f"{self.stage.batch} now: the losses will not be those of an unbroken run"
                )
            position.renumber(self.ranks, self.stage.batch)
        self.wish = self._look_back()
        if self.first:
            count = sum(p.numel() for p in trained)
            log.info("stage %s: %.1f million of the parameters are trained", name, count / 1e6)

    def _hand_over(self, name: str) -> None:
        """From one stage to the next in the same run."""
        if self.ema is not None:
            # what was judged and exported goes on, not the last step's weights
            self.ema.hand_over()
        network = self.network
        self.ema = None
        if self.sharded:
            # the network was cut in place: the next stage gets a new one with these weights
            weights = self.accelerator.get_state_dict(network)
            weights = processes.shared(self.accelerator, weights)
            stage = self.stage
            self.task = type(self.task)(self.recipe, self.accelerator.device)
            self.task.begin(stage)
            self.task.network.load_state_dict(weights)
        else:
            self.accelerator.unwrap_model(network, keep_fp32_wrapper=False)
        del network
        self.network, self.optimizer = self.accelerator.free_memory(self.network, self.optimizer)
        position = self.position
        position.stage_step, position.history, position.ended = 0, [], ""
        position.sums, position.count = {}, 0
        self._begin(name)

    # --- a step

    def _step(self, batches: Iterator[Any]) -> tuple[dict[str, float], bool, bool]:
        """One step of the optimizer: figures, whether to stop, whether the stage is to end."""
        import torch

        began = time.perf_counter()
        stage, position, accelerator = self.stage, self.position, self.accelerator
        speed = rate(stage.optimizer, position.stage_step, stage.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = speed
        sums: dict[str, torch.Tensor] = {}
        if stage.accumulate > 1 and self.task.compares(stage):
            sums = self._step_as_one([self._next(batches) for _ in range(stage.accumulate)])
        else:
            for number in range(stage.accumulate):
                batch = self._next(batches)
                # the ranks meet at the last part alone
                apart = number < stage.accumulate - 1
                with accelerator.no_sync(self.network) if apart else nullcontext():
                    with accelerator.autocast():
                        terms = self.task.losses(self.network, batch, stage)
                    loss = _weighted(terms, stage) / stage.accumulate
                    accelerator.backward(loss)
                for name, value in {"loss": loss * stage.accumulate, **terms}.items():
                    share = value.detach().float() / stage.accumulate
                    sums[name] = sums[name] + share if name in sums else share
        norm = accelerator.clip_grad_norm_(
            list(self.network.parameters()), stage.optimizer.clip or math.inf
        )
        # under FSDP each rank has its part of the sum
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else torch.as_tensor(norm)
        norm = norm.to(accelerator.device, torch.float32)
        told = self._agree(sums, norm)
        sound = math.isfinite(told["loss"])
        if told["broken"] == 0:
            self.optimizer.step()
        elif accelerator.scaler is not None:
            # takes a smaller scale, and no step, where the gradient is no number
            self.optimizer.step()
        self.optimizer.zero_grad()
        position.step += 1
        position.stage_step += 1
        position.bad_samples += int(told["bad"])
        self.bad = 0
        if told["broken"] and not (sound and accelerator.scaler is not None):
            self._skip(told)
        elif self.ema is not None and not told["broken"]:
            self.ema.update(position.stage_step)
        position.seconds += time.perf_counter() - began
        self.steps_here += 1
        figures = {name: told[name] for name in ("loss", *sorted(set(sums) - {"loss"}))}
        figures |= {"rate": speed, "norm": float(norm)}
        return figures, told["stop"] > 0, told["wish"] > 0

    def _step_as_one(self, batches: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Gradients of a loss in which the samples of all ``batches`` see each other; its terms."""
        from .losses import cached_backward

        accelerator, stage = self.accelerator, self.stage
        sums: dict[str, torch.Tensor] = {}

        def embed(*chunk: torch.Tensor) -> tuple[torch.Tensor, ...]:
            with accelerator.autocast():
                return self.network(*chunk)

        def loss(*embeddings: torch.Tensor) -> torch.Tensor:
            with accelerator.autocast():
                terms = self.task.compared(embeddings, batches, stage)
            value = _weighted(terms, stage)
            sums.update({k: v.detach().float() for k, v in {"loss": value, **terms}.items()})
            return value

        cached_backward(
            embed,
            [self.task.shown(batch) for batch in batches],
            loss,
            backward=accelerator.backward,
            quiet=lambda: accelerator.no_sync(self.network),
        )
        return sums

    def _agree(self, sums: Mapping[str, torch.Tensor], norm: torch.Tensor) -> dict[str, float]:
        """Means over the ranks, and what any of them has to say: all ranks then do the same.

        The only words that ranks exchange besides gradients, once a step.
        """
        import torch

        device = self.accelerator.device
        names = sorted(sums)
        broken = ~(torch.isfinite(sums["loss"]) & torch.isfinite(norm))
        said = torch.stack(
            [
                broken.float(),
                torch.tensor(float(self.signals.stop), device=device),
                torch.tensor(float(self.wish.ends), device=device),
                torch.tensor(float(self.bad), device=device),
                *(sums[name] for name in names),
            ]
        )
        if self.ranks > 1:
            said = self.accelerator.reduce(said, "sum")
        values = said.tolist()
        words = dict(zip(("broken", "stop", "wish", "bad"), values[:4], strict=True))
        means = {name: v / self.ranks for name, v in zip(names, values[4:], strict=True)}
        return {**words, **means}

    def _skip(self, told: Mapping[str, float]) -> None:
        self.position.skipped += 1
        skipped, most = self.position.skipped, self.recipe.run.max_skipped
        bad = [name for name, value in told.items() if not math.isfinite(value)]
        what = f"{', '.join(bad)} is no number" if bad else "the gradient is no number"
        self._tell(f"step {self.position.step} skipped: {what} ({skipped} of {most})")
        self._note("skipped", what=what, skipped=skipped)
        if skipped > most:
            raise TrainingError(
                f"{skipped} steps had a loss or gradient that is no number (last at step "
                f"{self.position.step}: {what}), run.max_skipped allows {most}; lower the learning "
                "rate, or train in bf16 or float32"
            )

    # --- data

    @contextmanager
    def _batches(self) -> Iterator[Iterator[Any]]:
        """Endless; whatever happens, no loading process outlives it."""
        import torch
        from torch.utils.data import DataLoader

        from .data import Draws

        data, position = self.recipe.data, self.position
        workers = data.workers
        loader = DataLoader(
            self.task.samples(self.stage, validation=False),
            batch_sampler=Draws(
                self.stage.batch,
                self.accelerator.process_index,
                self.ranks,
                position.batches,
            ),
            num_workers=workers,
            pin_memory=self.accelerator.device.type == "cuda",
            worker_init_fn=processes.calm if workers else None,
            # its own, or each new loader would take a number from what dropout draws from
            generator=torch.Generator().manual_seed(self.recipe.seed),
        )
        batches = iter(loader)
        try:
            yield batches
        finally:
            # An error that a loading process sent keeps the loader alive in its trace. Its processes heed
            # no SIGTERM, and the end of the program would wait for them for ever.
            end = getattr(batches, "_shutdown_workers", None)
            if end is not None:
                end()

    def _next(self, batches: Iterator[Any]) -> Any:
        from accelerate.utils import send_to_device

        began = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - began
        self.position.batches += 1
        if "skipped" in batch:
            self.bad += int(batch["skipped"].sum())
        return send_to_device(batch, self.accelerator.device, non_blocking=True)

    # --- looking

    def _validate(self) -> None:
        """Figures and pictures, by the first rank alone.

        The others do not wait here: they load and compute their part of the next step and meet the
        first one where gradients are summed, for which ``timeout_minutes`` leaves it time. What it
        decides reaches them with that step, so a stage ends one step after the validation that
        ended it.
        """
        position = self.position
        with self._whole() as network:
            if network is None:
                return
            folder = self.folder / SAMPLES / f"step-{position.step:09d}"
            folder.mkdir(parents=True, exist_ok=True)
            began = time.perf_counter()
            with state.same_dice():
                figures = self.task.validate(network, self.stage, folder)
            figures = {name: float(value) for name, value in figures.items()}
        switch = self.stage.switch
        if switch.when != "steps" and switch.metric not in figures:
            raise SettingsError(
                f"stages.{position.stage}.switch.metric is {switch.metric!r}, which the validation "
                f"does not give; there are {', '.join(sorted(figures))}"
            )
        position.history.append({"stage_step": float(position.stage_step), **figures})
        for tracker in self.trackers:
            named = {f"validation/{name}": value for name, value in figures.items()}
            tracker.write(position.step, position.stage, named)
        self.wish = self._look_back()
        self._note(
            "validation",
            figures=figures,
            seconds=round(time.perf_counter() - began, 3),
            decision=self.wish.reason,
            evidence=self.wish.evidence,
        )
        told = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self._tell(f"step {position.step}: {told}")
        log.info("stage %s: %s", position.stage, self.wish.reason)

    def _look_back(self) -> curriculum.Decision:
        """What the last validation decided, or nothing."""
        position = self.position
        if not self.first or not position.history:
            return curriculum.Decision(ends=False, reason="no validation yet")
        return curriculum.decide(
            self.stage.switch,
            position.history,
            stage_step=int(position.history[-1]["stage_step"]),
            steps=self.stage.steps,
        )

    def _end_stage(self) -> None:
        position = self.position
        decision = self.wish
        if position.stage_step >= self.stage.steps:
            decision = curriculum.decide(
                self.stage.switch,
                position.history,
                stage_step=position.stage_step,
                steps=self.stage.steps,
            )
        position.ended = "steps" if position.stage_step >= self.stage.steps else "switch"
        self._export(f"{position.stage}.safetensors")
        self._note("stage ends", reason=decision.reason, evidence=decision.evidence)
        self._tell(f"stage {position.stage} ends at step {position.step}: {decision.reason}")

    @property
    def _finished(self) -> bool:
        return bool(self.position.ended) and self.position.stage == list(self.recipe.stages)[-1]

    @contextmanager
    def _whole(self) -> Iterator[nn.Module | None]:
        """The network not wrapped, with the running mean if there is one; None but on the first rank.

        Under FSDP all ranks must come here.
        """
        if not self.sharded and not self.first:
            yield None
            return
        with self.ema.applied() if self.ema is not None else nullcontext():
            if not self.sharded:
                network = self.accelerator.unwrap_model(self.network)
                learning = network.training
                network.train(False)
                try:
                    yield network
                finally:
                    network.train(learning)
                return
            weights = self.accelerator.get_state_dict(self.network)
        if not self.first or self.twin is None:
            yield None
            return
        self.twin.load_state_dict(weights)
        self.twin.to(self.accelerator.device).train(False)
        try:
            yield self.twin
        finally:
            self.twin.to("cpu")

    # --- keeping

    def _save(self) -> None:
        """A state, and beside it the weights as the core reads them."""
        position, accelerator = self.position, self.accelerator
        name = f"step-{position.step:09d}"
        self._export(f"{name}.safetensors")
        part = self.folder / state.STATES / f".{name}.part"
        with state.written(self.folder, part):
            if self.first:
                state.unfinished(self.folder, position.step)
            accelerator.wait_for_everyone()
            accelerator.save_state(str(part))
            if self.ema is not None and (self.first or self.sharded):
                self.ema.save(part / self._ema_file)
            if self.first:
                position.save(part)
            accelerator.wait_for_everyone()
            if self.first:
                # last of all, so that beside every state there are its weights
                state.publish(part, self.recipe.run.keep)
                for old in sorted((self.folder / WEIGHTS).glob("step-*"))[: -self.recipe.run.keep]:
                    old.unlink()
        log.info("state of step %d saved", position.step)

    def _load(self, saved: Path) -> None:
        try:
            self.accelerator.load_state(str(saved))
        except (RuntimeError, ValueError, KeyError, FileNotFoundError) as error:
            raise TrainingError(
                f"{saved} does not fit the recipe ({' '.join(str(error).split())[:160]}); give the "
                "recipe it was made with, or begin anew with --fresh"
            ) from error
        if self.ema is not None:
            self.ema.load(saved / self._ema_file)

    def _export(self, name: str) -> None:
        with self._whole() as network:
            if network is None:
                return
            path = self.folder / WEIGHTS / name
            part = path.with_name(f".{path.stem}.part{path.suffix}")
            with state.written(self.folder), state.same_dice():
                path.parent.mkdir(exist_ok=True)
                self.task.export(network, part)
                part.replace(path)

    @property
    def _ema_file(self) -> str:
        return f"ema-{self.accelerator.process_index if self.sharded else 0}.pt"

    # --- telling

    def _log(self, figures: Mapping[str, float]) -> None:
        position = self.position
        if all(math.isfinite(value) for value in figures.values()):
            for name, value in figures.items():
                position.sums[name] = position.sums.get(name, 0.0) + value
            position.count += 1
        here = max(time.perf_counter() - self.began, 1e-9)
        speed, waiting = self.steps_here / here, self.waited / here
        if _due(self.recipe.run.log_every, position.step):
            row = {name: value / position.count for name, value in position.sums.items()}
            row |= {"steps_per_second": speed, "waiting": waiting, "skipped": position.skipped}
            row |= {"bad_samples": position.bad_samples}
            with state.written(self.folder):
                for tracker in self.trackers:
                    tracker.write(position.step, position.stage, row)
            position.sums, position.count = {}, 0
            self.began, self.waited, self.steps_here = time.perf_counter(), 0.0, 0
        self._show(figures, speed, waiting)

    def _show(
        self, figures: Mapping[str, float], speed: float, waiting: float, note: str = ""
    ) -> None:
        if self.watch is None or not self.first:
            return
        left = (self.stage.steps - self.position.stage_step) / speed if speed else math.inf
        self.watch(
            Pace(
                position=self.position,
                recipe=self.recipe,
                figures=figures,
                steps_per_second=speed,
                waiting=waiting,
                seconds_left=left,
                note=note,
            )
        )

    def _tell(self, line: str) -> None:
        """One line for people."""
        if not self.first:
            return
        if self.watch is None:
            log.warning("%s", line)
        else:
            self._show({}, 0.0, 0.0, note=line)

    def _note(self, event: str, **said: Any) -> None:
        if self.first:
            with state.written(self.folder):
                self.diary.write(event, self.position.step, stage=self.position.stage, **said)

    # --- setting up and taking down

    def _wrap(self, network: nn.Module) -> tuple[nn.Module, Any]:
        import torch

        chosen = self.stage.optimizer
        adamw = torch.optim.AdamW(
            [p for p in network.parameters() if p.requires_grad],
            lr=chosen.learning_rate,
            betas=(chosen.betas[0], chosen.betas[1]),
            eps=chosen.eps,
            weight_decay=chosen.weight_decay,
        )
        return self.accelerator.prepare(network, adamw)

    def _take_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = self.folder / "recipe.yaml"
        if self.state is not None and kept.is_file():
            try:
                changed = config.differences(config.load(kept), self.recipe)
            except SettingsError as error:
                changed = [f"{kept} is of another version ({error})"]
            if changed:
                log.warning("other than when the run began: %s", ", ".join(changed))
        part = kept.with_suffix(".part")
        part.write_text(config.text(self.recipe), encoding="utf-8")
        part.replace(kept)

    def _trackers(self) -> list[trackers.Tracker]:
        if not self.first:
            return []
        self.diary = trackers.Diary(self.folder, self.position.step)
        return trackers.open_all(self.recipe.run.trackers, self.folder, after=self.position.step)

    def _task(self, kind: type[Task] | None) -> Task:
        from accelerate.utils import set_seed

        if kind is None:
            from .tasks import named

            kind = named(self.recipe.task)
        set_seed(self.recipe.seed)
        return kind(self.recipe, self.accelerator.device)

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.close()
        self.accelerator.free_memory()


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _weighted(terms: Mapping[str, torch.Tensor], stage: StageConfig) -> torch.Tensor:
    unknown = [name for name in terms if name not in config.TERMS]
    assert terms, "the task gives no loss"
    assert not unknown, f"no weight has the name of {unknown}"
    parts = [getattr(stage.loss, name) * value for name, value in terms.items()]
    return sum(parts[1:], start=parts[0])
