"""Recipes: everything a run needs to know, one YAML file that can be read aloud."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lipsync_core.errors import SettingsError

log = logging.getLogger("lipsync.trainer")

RECIPES = Path(__file__).parent / "recipes"
RUNS = Path("runs")
"""Where runs go that do not say so themselves, below the working directory."""

SCHEDULES = ("constant", "linear", "cosine")
PRECISIONS = ("no", "bf16", "fp16")
TRACKERS = ("csv", "tensorboard", "wandb")
SWITCHES = ("steps", "converged", "score")
MOTIONS = ("none", "all", "decoder")
SIGNED = ("target",)
"""Numbers that may lie below 0."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is learned from."""

    train: list[str] = field(default_factory=list)
    """Folders that the preprocessor made, or addresses of their shards (``…/shards.json``)."""
    validation: list[str] = field(default_factory=list)
    """The same, of people who are not in ``train``; empty: every twentieth source of ``train``."""
    sampling: str = "contiguous-16"
    """A row of ``SAMPLINGS``: which frames are drawn and which show the face for reference."""
    resolution: int = 256
    """Side of the square crops; stored crops of another size are resized."""
    workers: int = 4
    """Processes that load, on each rank; 0 loads in the training process."""
    max_bad: int = 1000
    """So many samples may be unreadable, each counted and skipped, before the run ends."""
    cache_mb: int = 0
    """Memory of each loading process for decoded pictures; a small set that fits in is decoded once."""
    hours: float = 4.0
    """Of different speech that is invented for the listener; with one its voices are known better than others."""
    latents: bool = False
    """Keeps the VAE's codes of all clips in memory instead of encoding each time; for small sets."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network that is trained, and the frozen ones beside it. Words are rows of the weights
    catalogue or paths of files."""

    init: str = ""
    """``sd15``: Stable Diffusion 1.5's UNet; a LatentSync release; a checkpoint; empty: from scratch."""
    channels: list[int] = field(default_factory=lambda: [320, 640, 1280, 1280])
    layers: int = 2
    heads: int = 8
    groups: int = 32
    latent_scale: float = 1.0
    """What a small autoencoder's latents are multiplied by for the denoiser; the task ``vae`` writes it into its
    file. Where people differ more than mouths do, latents of variance 1 leave mouths below the noise."""
    audio_width: int = 384
    """Of the Whisper features: 384 for tiny, 768 for small."""
    motion_scales: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    vae: str = "sd-vae-ft-mse"
    whisper: str = "whisper-tiny"
    """With what the clips were heard. Training reads the stored features; ``python -m trainer.hear`` stores them."""
    syncnet: str = ""
    """StableSyncNet for the sync loss and for scores; needed where the sync loss has a weight."""
    syncnet_kind: str = "syncnet-16-pixel-attn"
    """A key of ``models.syncnet.BY_KIND``: what the syncnet task trains."""
    vgg: str = "vgg16"
    videomae: str = "videomae-v2-g"
    audio_dropout: float = 0.0
    """Share of samples that hear silence (all-zero tokens), which trains the null branch of guidance."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the named terms; a term of weight 0 is not computed."""

    noise: float = 1.0
    """Mean squared error of the predicted noise."""
    clean: float = 0.0
    """Mean squared error of the clean latents that the predicted noise means. Where noise prevails, which
    decides what quick sampling draws, ``noise`` hardly tells a right picture from a wrong one."""
    pixel: float = 0.0
    """Mean absolute error of the decoded lower half."""
    lpips: float = 0.0
    sync: float = 0.0
    trepa: float = 0.0
    contrastive: float = 0.0
    """InfoNCE over the pairs of a batch: how SyncNet begins where batches are too small for ``sync`` alone."""
    edges: float = 0.0
    """Mean absolute error of the steps between neighbouring pixels; of the VAE."""
    variance: float = 0.0
    """How far the variance of the autoencoder's latents is from 1."""
    shapes: float = 0.0
    """Squared error of the mouth shapes that the listener's states tell."""
    snr_gamma: float = 0.0
    """Above 0, min-SNR weighting (Hang et al. 2023) of the noise term."""
    max_timestep: int = 1000
    """Terms of decoded pictures count only below this step: above, the one-step estimate is a guess."""
    decoded_frames: int = 0
    """So many frames of a sample are decoded for ``pixel`` and ``lpips``, others each time, since decoding
    takes most of such a step; 0: all, as ``sync`` and ``trepa`` need them."""
    mask_weight: float = 1.0
    """How much more the hidden part of the latent counts in ``noise`` and ``clean`` than what is seen."""

    @property
    def decodes(self) -> bool:
        """Whether a term looks at decoded pictures."""
        return any(getattr(self, name) > 0 for name in DECODED)


DECODED = ("pixel", "lpips", "sync", "trepa")
"""Terms about pictures, for which the estimate of the clean latent is decoded."""
TERMS = (
    "noise",
    "clean",
    "pixel",
    "lpips",
    "sync",
    "trepa",
    "contrastive",
    "edges",
    "variance",
    "shapes",
)
"""What of ``LossConfig`` is the weight of a term."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW."""

    learning_rate: float = 1e-5
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    weight_decay: float = 0.01
    eps: float = 1e-8
    schedule: str = "constant"
    """``constant``, ``linear`` or ``cosine`` (both to 0 at the stage's last step)."""
    warmup: int = 0
    """Steps over which the rate rises from 0."""
    clip: float = 1.0
    """Largest norm of the gradient; 0: no limit."""


@dataclass(frozen=True, kw_only=True)
class SwitchConfig:
    """When a stage ends and the next begins."""

    when: str = "steps"
    """``steps``; ``converged``: the slope of a validation loss over a window of validations is small;
    ``score``: a validation figure reaches its target. ``steps`` ends the stage in any case."""
    metric: str = "reconstruction"
    """A name that the task's validation gives."""
    window: int = 5
    """Validations over which a line is fitted."""
    slope: float = 0.002
    """Relative fall of the metric per validation below which it has converged."""
    target: float = 0.0
    """For ``score``; reached from above or below, as ``larger_is_better`` says."""
    larger_is_better: bool = True
    min_steps: int = 0
    """Of the stage, before ``converged`` or ``score`` are asked."""


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """A stretch of training with one set of losses and trained weights."""

    steps: int = 100_000
    """Of the optimizer."""
    batch: int = 1
    """Samples of each rank at a time."""
    accumulate: int = 1
    """Batches per step."""
    trainable: list[str] = field(default_factory=list)
    """Parameters whose name contains one of these; empty: all."""
    motion: str = "none"
    """Motion modules of the UNet: ``none``, ``all`` or ``decoder``; what is new starts at the identity."""
    mixed_noise: float = 1.0
    """Alpha of the noise that the frames of a clip share, against their own (LatentSync: 1)."""
    from_noise: float = 0.0
    """Share of samples that are given noise alone at one of the steps where drawing begins. Training's own
    last steps leave a trace of the picture, from which a network that starts from scratch takes its colours."""
    from_own: float = 0.0
    """Share of samples that are given what the network itself drew in one step from noise, as drawing goes on.
    What it never sees in training, it takes for the truth: its mistakes then grow from step to step."""
    seconds: float = 30.0
    """Of a block of speech, for the listener; it learns fastest from short ones, and is asked in 30 s."""
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    switch: SwitchConfig = field(default_factory=SwitchConfig)


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """Positives and negatives of SyncNet."""

    positive: float = 0.5
    """Share of pairs that belong together; in a validation it is always a half."""
    min_shift: int = 1
    """Frames by which a negative is off at least; the original takes 1, which is hardly audible."""
    other_clips: float = 0.0
    """Share of the negatives whose sound is of another clip."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How it runs and what it leaves."""

    output: str = ""
    """Folder of the run; empty: ``runs/<name of the recipe>``."""
    precision: str = "no"
    """``no``, ``bf16`` or ``fp16``."""
    gradient_checkpointing: bool = True
    compile: bool = False
    ema: float = 0.0
    """Of the running mean of the weights that is kept at each step; 0: none."""
    log_every: int = 10
    validate_every: int = 10_000
    validation_batches: int = 8
    validation_clips: int = 1
    """Clips that are rendered, scored and drawn on the contact sheet at each validation."""
    save_every: int = 10_000
    keep: int = 3
    """Newest states that stay on disk."""
    trackers: list[str] = field(default_factory=lambda: ["csv"])
    """``csv``, ``tensorboard``, ``wandb``."""
    max_skipped: int = 100
    """Steps with a loss or gradient that is no number are skipped; one more than so many ends the run."""
    timeout_minutes: int = 120
    """So long ranks wait for the first one, which alone renders and scores at each validation."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All of it."""

    task: str = "latentsync"
    """A row of ``TASKS``."""
    name: str = ""
    seed: int = 1247
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    stages: dict[str, StageConfig] = field(default_factory=dict)
    """In order; each goes over to the next by its switch, in one run."""
    run: RunConfig = field(default_factory=RunConfig)


def load(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a YAML file, with ``key=value`` laid over it; SettingsError in one line.

    ``path`` is a file, the folder of a run, or the bare name of a recipe that comes along. A file
    may name another as its ``base``, from which it takes everything that it does not say itself; a
    stage that is set to null is dropped, and a file that names all stages sets their order. Files in
    the layout of ByteDance's LatentSync load too.
    """
    source = find(path)
    if source == RECIPES / "mouth.yaml":
        raise SettingsError(
            "the mouth network has a trainer of its own: python -m trainer.tasks.mouth.train "
            f"{source}; trainer/tasks/mouth/RESULTS.md has its commands"
        )
    layer = _inherited(source, ())
    said = _overrides(overrides)
    known = layer.get("stages") or {}
    for name in said.get("stages") or {}:
        if name not in known:
            raise SettingsError(
                f"there is no stage {name!r} in {source}; {_nearest(str(name), list(known))}"
            )
    merged = _merge(layer, said)
    merged.setdefault("name", source.stem)
    if Path(path).is_dir() and "output" not in said.get("run", {}):
        # the folder may have been moved since
        merged["run"] = {**merged.get("run", {}), "output": str(path)}
    return checked(_typed(merged, str(source)))


def find(path: Path | str) -> Path:
    """The file that ``path`` means: itself, the recipe of a run's folder, or one that comes along."""
    given = Path(path)
    if given.is_file():
        return given
    if given.is_dir():
        if (given / "recipe.yaml").is_file():
            return given / "recipe.yaml"
        raise SettingsError(f"{given} is a folder without recipe.yaml; name a recipe or a run")
    if given.name == str(given) and (RECIPES / f"{given}.yaml").is_file():
        return RECIPES / f"{given}.yaml"
    near = _nearest(given.stem, [name for name, _ in listed()])
    raise SettingsError(f"there is no recipe {given}; {near}")


def listed() -> list[tuple[str, str]]:
    """Name and first line of every recipe that comes along."""
    found = []
    for file in sorted(RECIPES.glob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        # the mouth network of the draft engine keeps its settings here too, in a form of its own
        if any(line.startswith(("task:", "base:")) for line in text.splitlines()):
            first = text.partition("\n")[0]
            found.append((file.stem, first.lstrip("# ") if first.startswith("#") else ""))
    return found


def text(recipe: Recipe) -> str:
    """As YAML that ``load`` takes, nothing left out."""
    return _omegaconf().to_yaml(_omegaconf().structured(recipe))


def folder(recipe: Recipe) -> Path:
    """Of the run."""
    return Path(recipe.run.output) if recipe.run.output else RUNS / recipe.name


def differences(one: Recipe, other: Recipe) -> list[str]:
    """Full names of the settings in which two recipes differ."""
    return _differ(_plain(one), _plain(other), "")


def checked(recipe: Recipe) -> Recipe:
    """The same, when its words and numbers mean something; else a SettingsError in one line."""
    from .sampling import SAMPLINGS
    from .tasks import TASKS

    if not recipe.stages:
        raise SettingsError("the recipe has no stages; give at least one, as stages: {name: {...}}")
    words: list[tuple[str, Any, Sequence[str]]] = [
        ("task", recipe.task, [row.name for row in TASKS]),
        ("data.sampling", recipe.data.sampling, [row.name for row in SAMPLINGS]),
        ("run.precision", recipe.run.precision, PRECISIONS),
        *(("run.trackers", tracker, TRACKERS) for tracker in recipe.run.trackers),
    ]
    row = next((row for row in TASKS if row.name == recipe.task), None)
    if row is not None and recipe.model.init and not row.continues:
        raise SettingsError(
            f"model.init is {recipe.model.init!r}, but the task {row.name} begins from scratch; leave it out"
        )
    for name, stage in recipe.stages.items():
        at = f"stages.{name}"
        words += [
            (f"{at}.motion", stage.motion, MOTIONS),
            (f"{at}.optimizer.schedule", stage.optimizer.schedule, SCHEDULES),
            (f"{at}.switch.when", stage.switch.when, SWITCHES),
        ]
    for name, word, known in words:
        if word not in known:
            raise SettingsError(f"{name} is {word!r}; {_nearest(word, known)}")
    _check_numbers(recipe, "")
    least: list[tuple[str, float, float]] = [
        ("data.resolution", recipe.data.resolution, 8),
        ("data.hours", recipe.data.hours, 0.01),
        ("model.latent_scale", recipe.model.latent_scale, 0.01),
        ("run.log_every", recipe.run.log_every, 1),
        ("run.validation_batches", recipe.run.validation_batches, 1),
        ("run.keep", recipe.run.keep, 1),
        ("run.timeout_minutes", recipe.run.timeout_minutes, 1),
    ]
    shares = [
        ("run.ema", recipe.run.ema),
        ("model.audio_dropout", recipe.model.audio_dropout),
        ("pairs.positive", recipe.pairs.positive),
        ("pairs.other_clips", recipe.pairs.other_clips),
    ]
    for name, stage in recipe.stages.items():
        at = f"stages.{name}"
        least += [
            (f"{at}.steps", stage.steps, 1),
            (f"{at}.batch", stage.batch, 1),
            (f"{at}.accumulate", stage.accumulate, 1),
            (f"{at}.loss.max_timestep", stage.loss.max_timestep, 1),
            (f"{at}.switch.window", stage.switch.window, 3),
        ]
        if len(stage.optimizer.betas) != 2:
            raise SettingsError(
                f"{at}.optimizer.betas holds {len(stage.optimizer.betas)} numbers; AdamW takes two"
            )
        shares += [(f"{at}.optimizer.betas", beta) for beta in stage.optimizer.betas]
        shares += [(f"{at}.from_noise", stage.from_noise), (f"{at}.from_own", stage.from_own)]
        _check_stage(recipe, name, stage)
    for name, number, bound in least:
        if number < bound:
            raise SettingsError(f"{name} is {number:g}; {bound:g} or more is needed")
    for name, share in shares:
        if share > 1 or (share == 1 and name.endswith(("ema", "betas"))):
            raise SettingsError(f"{name} is {share:g}; it is a share, below 1")
    return recipe


def _check_stage(recipe: Recipe, name: str, stage: StageConfig) -> None:
    from .tasks import TASKS

    at = f"stages.{name}"
    if not any(getattr(stage.loss, term) > 0 for term in TERMS):
        raise SettingsError(f"{at}.loss: every term has weight 0; give one of {', '.join(TERMS)}")
    if recipe.task == "latentsync" and stage.loss.sync > 0 and not recipe.model.syncnet:
        raise SettingsError(
            f"{at}.loss.sync is {stage.loss.sync:g}, but model.syncnet names no network that judges "
            "it; give latentsync-1.6-syncnet or a file, or set the weight to 0"
        )
    whole = [name for name in ("sync", "trepa") if getattr(stage.loss, name) > 0]
    if stage.loss.decoded_frames and whole:
        raise SettingsError(
            f"{at}.loss.decoded_frames is {stage.loss.decoded_frames}, but {' and '.join(whole)} "
            "must see all frames; set it to 0, or their weights"
        )
    switch = stage.switch
    known = next(row.figures for row in TASKS if row.name == recipe.task)
    if switch.when != "steps":
        if switch.metric not in known:
            raise SettingsError(
                f"{at}.switch.metric is {switch.metric!r}; {_nearest(switch.metric, known)}"
            )
        judged = recipe.task == "latentsync" and switch.metric != "reconstruction"
        if judged and not (recipe.model.syncnet and recipe.run.validation_clips):
            raise SettingsError(
                f"{at}.switch.metric is {switch.metric!r}, which model.syncnet judges on "
                "run.validation_clips clips; give both, or take reconstruction"
            )
        if recipe.run.validate_every == 0:
            raise SettingsError(
                f"{at}.switch.when is {switch.when!r}, but run.validate_every is 0, so that nothing "
                "would be measured"
            )


def _check_numbers(section: Any, prefix: str) -> None:
    for one in fields(section):
        value = getattr(section, one.name)
        values = value if isinstance(value, list) else [value]
        if isinstance(value, dict):
            for key, inner in value.items():
                _check_numbers(inner, f"{prefix}{one.name}.{key}.")
        elif is_dataclass(value):
            _check_numbers(value, f"{prefix}{one.name}.")
        elif one.name not in SIGNED:
            for number in values:
                # not >= also holds for what is no number at all
                if isinstance(number, (int, float)) and not number >= 0:
                    raise SettingsError(f"{prefix}{one.name} is {number:g}; 0 or more is needed")


def _omegaconf() -> Any:
    try:
        from omegaconf import OmegaConf
    except ImportError as error:
        raise SettingsError(
            'recipes need OmegaConf; run: pip install "lipsync-core[train]"'
        ) from error
    return OmegaConf


def _read(path: Path) -> dict[Any, Any]:
    conf = _omegaconf()
    try:
        layer = conf.to_container(conf.load(path), resolve=False)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {_line(error)}") from error
    except Exception as error:
        # PyYAML's and OmegaConf's errors have bases of their own, which are not ours to import
        if type(error).__module__.split(".")[0] not in ("yaml", "omegaconf", "builtins"):
            raise
        raise SettingsError(f"{path} is not a YAML file of settings: {_line(error)}") from error
    if not isinstance(layer, dict):
        raise SettingsError(f"{path} must hold names and values, found {type(layer).__name__}")
    return layer


def _inherited(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """What the file says, over what its base says, over what that one's base says."""
    here = path.resolve()
    if here in seen:
        chain = " -> ".join(one.name for one in (*seen, here))
        raise SettingsError(f"base goes round in a circle: {chain}")
    layer = _read(path)
    base = layer.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise SettingsError(f"{path}: base names one file, found {type(base).__name__}")
    from . import original

    if base is None and original.recognised(layer):
        layer, notes = original.recipe(layer)
        if notes:
            log.warning("%s is a file of LatentSync's; %s", path, "; ".join(notes))
    _check_names(Recipe, layer, "", str(path))
    if base is None:
        return _merge({}, layer)
    beside = path.parent / base
    if beside.is_file():
        under = beside
    elif "/" not in base and (RECIPES / f"{Path(base).stem}.yaml").is_file():
        under = RECIPES / f"{Path(base).stem}.yaml"
    else:
        raise SettingsError(f"{path}: there is no base {beside}")
    return _merge(_inherited(under, (*seen, here)), layer)


def _overrides(given: Sequence[str]) -> dict[str, Any]:
    conf = _omegaconf()
    for one in given:
        name, sign, _ = one.partition("=")
        if not sign or not name.strip():
            raise SettingsError(
                f"{one!r} is no setting; write key=value, as stages.stage1.steps=10"
            )
    try:
        layer = conf.to_container(conf.from_dotlist(list(given)), resolve=False)
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("yaml", "omegaconf", "builtins"):
            raise
        raise SettingsError(f"{' '.join(given)}: {_line(error)}") from error
    assert isinstance(layer, dict)
    _check_names(Recipe, layer, "", "key=value")
    return layer


def _merge(under: Mapping[Any, Any], over: Mapping[Any, Any]) -> dict[Any, Any]:
    """Sections are merged, everything else is replaced, a stage of null goes.

    Who names all stages sets their order; otherwise new ones come last.
    """
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = _merge(below, value)
        if key == "stages" and isinstance(value, Mapping):
            said = over["stages"]
            order = said if set(value) == set(said) else value
            value = {name: value[name] for name in order if value[name] is not None}
        result[key] = value
    return result


def _typed(layer: dict[Any, Any], where: str) -> Recipe:
    from omegaconf.errors import OmegaConfBaseException

    conf = _omegaconf()
    layer = _written_out(Recipe, layer)
    run = layer.get("run")
    if isinstance(run, Mapping) and run.get("precision") is False:
        # what YAML takes the word no for
        layer = {**layer, "run": {**run, "precision": "no"}}
    try:
        merged = conf.merge(conf.structured(Recipe), layer)
        result = conf.to_object(merged)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", "") or ""
        said = str(error).split("full_key")[0]
        raise SettingsError(f"{where}: {key}: {_line(said)}") from error
    assert isinstance(result, Recipe)
    return result


def _written_out(kind: type, given: Mapping[Any, Any]) -> dict[Any, Any]:
    """Texts of which nothing is said, as in ``model.init=``, are empty ones."""
    example = kind()
    result = dict(given)
    for name, value in given.items():
        default = getattr(example, name)
        if value is None and isinstance(default, str):
            result[name] = ""
        elif is_dataclass(default) and isinstance(value, Mapping):
            result[name] = _written_out(type(default), value)
    return result


def _check_names(kind: type, given: Mapping[Any, Any], prefix: str, where: str) -> None:
    known = {one.name: one for one in fields(kind)}
    example = kind()
    for name, value in given.items():
        if name not in known:
            every = sorted(known)
            raise SettingsError(
                f"{where}: there is no setting {prefix}{name}; {_nearest(str(name), every)}"
            )
        default = getattr(example, name)
        if is_dataclass(default):
            _check_section(type(default), value, f"{prefix}{name}", where)
        elif isinstance(default, list) and not isinstance(value, list):
            raise SettingsError(
                f"{where}: {prefix}{name} is a list; write {prefix}{name}=[{value}]"
            )
        elif isinstance(default, dict):
            if not isinstance(value, Mapping):
                raise SettingsError(f"{where}: {prefix}{name} holds sections by name")
            for key, stage in value.items():
                if stage is not None:
                    _check_section(StageConfig, stage, f"{prefix}{name}.{key}", where)


def _check_section(kind: type, value: Any, name: str, where: str) -> None:
    if not isinstance(value, Mapping):
        raise SettingsError(f"{where}: {name} is a section; give names and values")
    _check_names(kind, value, f"{name}.", where)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return value


def _differ(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str) -> list[str]:
    result = []
    for key in dict.fromkeys((*one, *other)):
        left, right = one.get(key), other.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            result += _differ(left, right, f"{prefix}{key}.")
        elif left != right:
            result.append(f"{prefix}{key}")
    return result


def _nearest(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'none'}"


def _line(error: object) -> str:
    return " ".join(str(error).split())[:200]
