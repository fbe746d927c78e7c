"""Recipes: everything a run needs to know, one YAML file that can be read aloud."""

from __future__ import annotations

from dataclasses import dataclass, field


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
    audio_width: int = 384
    """Of the Whisper features: 384 for tiny, 768 for small."""
    motion_scales: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    vae: str = "sd-vae-ft-mse"
    whisper: str = "whisper-tiny"
    """Hears clips whose features were not stored."""
    syncnet: str = ""
    """StableSyncNet for the sync loss and for scores; needed where the sync loss has a weight."""
    syncnet_kind: str = "syncnet-16-pixel-attn"
    """A key of ``models.syncnet.BY_KIND``, or ``tiny``: what is trained by the syncnet task."""
    vgg: str = "vgg16"
    videomae: str = "videomae-v2-g"
    audio_dropout: float = 0.0
    """Share of samples that hear silence (all-zero tokens), which trains the null branch of guidance."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the named terms; a term of weight 0 is not computed."""

    noise: float = 1.0
    """Mean squared error of the predicted noise."""
    pixel: float = 0.0
    """Mean absolute error of the decoded lower half."""
    lpips: float = 0.0
    sync: float = 0.0
    trepa: float = 0.0
    snr_gamma: float = 0.0
    """Above 0, min-SNR weighting (Hang et al. 2023) of the noise term."""
    max_timestep: int = 1000
    """Terms of decoded pictures count only below this step: above, the one-step estimate is a guess."""
    mask_weight: float = 1.0
    """How much more the hidden part of the latent counts in the noise term than the part that is seen."""


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
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    switch: SwitchConfig = field(default_factory=SwitchConfig)


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """Positives and negatives of SyncNet."""

    positive: float = 0.5
    """Share of pairs that belong together."""
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
    """Steps with a loss or gradient that is no number are skipped; so many end the run."""


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
