"""A small Whisper encoder that hears mouth shapes: the ears of ``latentsync-tiny``.

It learns from invented speech whose mouth shapes are known. Its states are read like those of the
published Whisper.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lipsync_core.audio.whisper import BANDS, BLOCK, DYNAMIC_RANGE, HEAD_WIDTH, RATE, mel_blocks
from lipsync_core.errors import SettingsError
from lipsync_core.media.audio import MemoryVoice
from lipsync_core.types import Audio

from .base import Task

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from ..config import Recipe, StageConfig

SHAPES = 6
"""Open, jaw, wide, round, press, fv."""
STEPS = BLOCK // 2
"""Of the encoder in its 30 s."""
SHORTEST = 2
"""Seconds of speech in a block of 30 s that is not full; zeros follow, as inference pads."""
FULL = 0.4
"""Share of such blocks that are spoken through; shorter ones always are."""
SPEAKERS = 6
"""Seconds after which another voice may speak."""
LOUDNESS = (0.06, 0.11)
"""Root mean square of a voice: who speaks in one recording is about as loud as the others there."""


class Ears(nn.Module):
    """The encoder with a linear reading of each of its states."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.encoder = _encoder(width, layers, STEPS)
        self.readings = nn.ModuleList([nn.Linear(width, SHAPES) for _ in range(layers + 1)])
        # not a part of the network: the same layers behind another table of places
        self._short: list[nn.Module] = []

    def forward(self, mel: Tensor, first: Tensor | None = None) -> Tensor:
        """``(layers + 1, B, N / 2, 6)`` shapes as each state tells them, of ``(B, 80, N)``.

        Fewer than 3000 columns are as if cut from a block of 30 s, at the steps ``first`` ``(B,)``.
        """
        encoder: Any = self.encoder
        if mel.shape[-1] < BLOCK:
            encoder = self._cut(mel.shape[-1] // 2, first)
        states: list[Tensor] = []

        def entering(_: Any, args: tuple, kwargs: dict) -> None:
            states.append(args[0] if args else kwargs["hidden_states"])

        def leaving(_: Any, __: Any, result: Any) -> None:
            states.append(result[0] if isinstance(result, tuple) else result)

        handles = [encoder.layers[0].register_forward_pre_hook(entering, with_kwargs=True)]
        handles += [layer.register_forward_hook(leaving) for layer in encoder.layers]
        try:
            encoder(mel)
        finally:
            for handle in handles:
                handle.remove()
        return torch.stack([read(state) for read, state in zip(self.readings, states, strict=True)])

    def _cut(self, steps: int, first: Tensor | None) -> Any:
        """The encoder for blocks of ``steps``, which transformers' own takes in one length alone."""
        whole: Any = self.encoder
        table = whole.embed_positions.weight
        if not self._short or self._short[0].config.max_source_positions != steps:  # type: ignore[union-attr]
            short: Any = _encoder(table.shape[1], len(whole.layers), steps)
            short.conv1, short.conv2 = whole.conv1, whole.conv2
            short.layers, short.layer_norm = whole.layers, whole.layer_norm
            short.embed_positions = _Places(steps)
            self._short = [short]
        short = self._short[0]
        start = torch.zeros(1, dtype=torch.int64) if first is None else first
        places = start.to(table.device)[:, None] + torch.arange(steps, device=table.device)
        short.embed_positions.weight = table[places]
        return short


class _Places(nn.Module):
    """Rows of the table of positions that begin at another step in each sample."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.num_embeddings = steps
        self.weight = torch.zeros(0)

    def forward(self, _: Tensor) -> Tensor:
        return self.weight


def _encoder(width: int, layers: int, steps: int) -> nn.Module:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    return WhisperEncoder(
        WhisperConfig(
            d_model=width,
            num_mel_bins=BANDS,
            max_source_positions=steps,
            encoder_layers=layers,
            encoder_attention_heads=width // HEAD_WIDTH,
            encoder_ffn_dim=4 * width,
            dropout=0.0,
        )
    )


class Spoken:
    """Blocks of invented speech, by number: ``mel (80, N)``, ``shapes (N / 2, 6)``, ``heard (N / 2,)``
    1 where there is sound, with ``N`` 100 columns a second.

    Numbers beyond ``len`` begin again; what was made is kept while ``kept_mb`` suffice.
    """

    def __init__(
        self, seed: int, *, held_out: bool, seconds: float, hours: float = 1, kept_mb: int = 0
    ) -> None:
        if not SHORTEST <= seconds <= BLOCK / 100:
            raise SettingsError(
                f"blocks of {seconds:g} s were asked for; Whisper hears {SHORTEST} to {BLOCK / 100:g}"
            )
        self.seed = seed
        self.held_out = held_out
        self.frames = int(seconds * 25)
        self.count = max(1, round(hours * 3600 / seconds))
        each = 2 * 2 * self.frames * (2 * BANDS + SHAPES + 1)
        self.kept = kept_mb * 1_000_000 // each
        self._made: dict[int, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, draw: int) -> dict[str, Any]:
        number = draw % len(self)
        made = self._made.get(number)
        if made is None:
            # in half precision also the first time, so that keeping changes nothing
            made = {name: value.half() for name, value in self._make(number).items()}
            if len(self._made) < self.kept:
                self._made[number] = made
        return {**{name: value.float() for name, value in made.items()}, "seed": draw}

    def _make(self, number: int) -> dict[str, Tensor]:
        from ..presenters import people, voices
        from ..presenters.visemes import shapes

        # whole frames of 40 ms, so that the parts lie on the steps
        rng = np.random.default_rng([self.seed, self.frames, number])
        left = self.frames
        if left == BLOCK // 4 and rng.random() > FULL:
            # whole seconds: in less a voice may not have begun, and only its noise be made loud
            left = 25 * int(rng.integers(SHORTEST, BLOCK // 100 + 1))
        sound: list[np.ndarray] = []
        truth: list[np.ndarray] = []
        while left > 0:
            frames = min(left, int(rng.integers(2, SPEAKERS + 1)) * 25)
            (speaker,) = people.numbers(
                int(rng.integers(1 << 31)), 1, "held-out" if self.held_out else "train"
            )
            speech = voices.speak(voices.voice(speaker), frames / 25, int(rng.integers(1 << 31)))
            level = float(np.sqrt(np.mean(speech.sound**2)))
            loud = float(rng.uniform(*LOUDNESS)) / max(level, 1e-6)
            sound.append(speech.sound[: frames * RATE // 25] * loud)
            truth.append(shapes(speech.parts, frames, speech.strength)[::2])
            left -= frames
        samples = np.concatenate(sound)
        voice = MemoryVoice(Audio(samples=samples[None].astype(np.float32), rate=RATE))
        columns, steps = 4 * self.frames, 2 * self.frames
        power = np.concatenate(list(mel_blocks(voice)), axis=1)[:, :columns]
        mel = np.zeros((BANDS, columns), np.float32)
        mel[:, : power.shape[1]] = (np.maximum(power, power.max() - DYNAMIC_RANGE) + 4) / 4
        shown = np.concatenate(truth)[:steps]
        wanted = np.zeros((steps, SHAPES), np.float32)
        wanted[: len(shown)] = shown
        return {
            "mel": torch.from_numpy(mel),
            "shapes": torch.from_numpy(wanted),
            "heard": torch.from_numpy((np.arange(steps) < len(shown)).astype(np.float32)),
        }


class Listener(Task):
    """Squared error of the shapes, read off every state."""

    name: ClassVar[str] = "listener"

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        super().__init__(recipe, device)
        width = recipe.model.audio_width
        if width % HEAD_WIDTH:
            raise SettingsError(
                f"model.audio_width is {width}; Whisper's heads are {HEAD_WIDTH} wide, so take a multiple of it"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.network = Ears(width, recipe.model.layers)
        network: Any = self.network
        network.encoder.embed_positions.requires_grad_(False)
        # no state that is read has been through it
        network.encoder.layer_norm.requires_grad_(False)

    def begin(self, stage: StageConfig) -> None:
        """Every stage trains all that learns at all."""

    def samples(self, stage: StageConfig, *, validation: bool) -> Dataset[dict[str, Any]]:
        return Spoken(  # type: ignore[return-value]
            self.recipe.seed,
            held_out=validation,
            seconds=stage.seconds,
            hours=self.recipe.data.hours,
            kept_mb=self.recipe.data.cache_mb,
        )

    def losses(
        self, network: nn.Module, batch: Mapping[str, Any], stage: StageConfig
    ) -> dict[str, Tensor]:
        mel = batch["mel"]
        # every place of the 30 s has its turn
        first = batch["seed"] * 7919 % (STEPS - mel.shape[-1] // 2 + 1)
        found = network(mel, first).float()
        heard = batch["heard"][None, :, :, None]
        error = (found - batch["shapes"][None]).square() * heard
        return {"shapes": error.sum() / heard.sum().clamp(min=1) / len(found)}

    @torch.no_grad()
    def validate(
        self, network: nn.Module, stage: StageConfig, folder: Path | None
    ) -> dict[str, float]:
        samples = self.samples(stage, validation=True)
        error, likeness = [], []
        for number in range(self.recipe.run.validation_batches):
            one = samples[number]
            found = network(one["mel"][None].to(self.device))[-1, 0].float().cpu()
            heard = one["heard"] > 0
            error.append(float((found - one["shapes"])[heard].square().mean()))
            both = torch.stack([found[heard, 0], one["shapes"][heard, 0]])
            likeness.append(float(torch.corrcoef(both)[0, 1]))
        return {
            "reconstruction": sum(error) / len(error),
            "opening_r": sum(likeness) / len(likeness),
        }

    def export(self, network: nn.Module, path: Path) -> None:
        """The encoder alone, in Hugging Face's layout."""
        from safetensors.torch import save_file

        inner: Any = getattr(network, "module", network)
        tensors = {
            f"model.encoder.{name}": value.detach().half().contiguous()
            for name, value in inner.encoder.state_dict().items()
        }
        save_file(tensors, path, metadata={"format": "pt", "lipsync": "whisper-hf"})
