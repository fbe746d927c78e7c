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
LENGTHS = (2.0, 30.0)
"""Seconds of speech in a block; zeros follow, as inference pads."""
VARIETY = 160
"""Different blocks, more than an hour of speech; sound takes longer to make than to learn from."""
SPEAKERS = 6
"""Seconds after which another voice may speak."""


class Ears(nn.Module):
    """The encoder with a linear reading of each of its states."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        from transformers import WhisperConfig
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        self.encoder = WhisperEncoder(
            WhisperConfig(
                d_model=width,
                num_mel_bins=BANDS,
                max_source_positions=STEPS,
                encoder_layers=layers,
                encoder_attention_heads=width // HEAD_WIDTH,
                encoder_ffn_dim=4 * width,
                dropout=0.0,
            )
        )
        self.readings = nn.ModuleList([nn.Linear(width, SHAPES) for _ in range(layers + 1)])

    def forward(self, mel: Tensor) -> Tensor:
        """``(layers + 1, B, 1500, 6)`` shapes as each state tells them, of ``(B, 80, 3000)``."""
        states: list[Tensor] = []

        def entering(_: Any, args: tuple, kwargs: dict) -> None:
            states.append(args[0] if args else kwargs["hidden_states"])

        def leaving(_: Any, __: Any, result: Any) -> None:
            states.append(result[0] if isinstance(result, tuple) else result)

        layers: Any = self.encoder.layers
        handles = [layers[0].register_forward_pre_hook(entering, with_kwargs=True)]
        handles += [layer.register_forward_hook(leaving) for layer in layers]
        try:
            self.encoder(mel)
        finally:
            for handle in handles:
                handle.remove()
        return torch.stack([read(state) for read, state in zip(self.readings, states, strict=True)])


class Spoken:
    """Thirty seconds of invented speech, by number: ``mel (80, 3000)``, ``shapes (1500, 6)``,
    ``heard (1500,)`` 1 where there is sound.

    Numbers beyond ``VARIETY`` begin again; what was made is kept, 1 MB each.
    """

    def __init__(self, seed: int, *, held_out: bool) -> None:
        self.seed = seed
        self.held_out = held_out
        self._made: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return VARIETY

    def __getitem__(self, draw: int) -> dict[str, Any]:
        number = draw % VARIETY
        if number not in self._made:
            self._made[number] = self._make(number)
        return {**self._made[number], "seed": draw}

    def _make(self, number: int) -> dict[str, Any]:
        from ..presenters import people, voices
        from ..presenters.visemes import shapes

        rng = np.random.default_rng([self.seed, number])
        left = float(rng.uniform(*LENGTHS))
        sound: list[np.ndarray] = []
        truth: list[np.ndarray] = []
        while left >= LENGTHS[0]:
            seconds = min(left, float(rng.integers(2, SPEAKERS + 1)))
            # whole frames of 40 ms, so that the parts lie on the steps
            frames = int(seconds * 25)
            (speaker,) = people.numbers(
                int(rng.integers(1 << 31)), 1, "held-out" if self.held_out else "train"
            )
            speech = voices.speak(voices.voice(speaker), frames / 25, int(rng.integers(1 << 31)))
            sound.append(speech.sound[: frames * RATE // 25])
            truth.append(shapes(speech.parts, frames, speech.strength)[::2])
            left -= frames / 25
        samples = np.concatenate(sound)
        voice = MemoryVoice(Audio(samples=samples[None].astype(np.float32), rate=RATE))
        power = np.concatenate(list(mel_blocks(voice)), axis=1)[:, :BLOCK]
        mel = np.zeros((BANDS, BLOCK), np.float32)
        mel[:, : power.shape[1]] = (np.maximum(power, power.max() - DYNAMIC_RANGE) + 4) / 4
        shown = np.concatenate(truth)[:STEPS]
        wanted = np.zeros((STEPS, SHAPES), np.float32)
        wanted[: len(shown)] = shown
        return {
            "mel": torch.from_numpy(mel),
            "shapes": torch.from_numpy(wanted),
            "heard": torch.from_numpy((np.arange(STEPS) < len(shown)).astype(np.float32)),
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

    def begin(self, stage: StageConfig) -> None:
        self.network.requires_grad_(True)
        network: Any = self.network
        network.encoder.embed_positions.requires_grad_(False)
        # no state that is read has been through it
        network.encoder.layer_norm.requires_grad_(False)

    def samples(self, stage: StageConfig, *, validation: bool) -> Dataset[dict[str, Any]]:
        return Spoken(self.recipe.seed, held_out=validation)  # type: ignore[return-value]

    def losses(
        self, network: nn.Module, batch: Mapping[str, Any], stage: StageConfig
    ) -> dict[str, Tensor]:
        found = network(batch["mel"]).float()
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
