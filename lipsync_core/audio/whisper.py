"""What LatentSync hears: five states of Whisper's encoder for every 20 ms, computed as they are needed.

Facts: openai/whisper ``audio.py`` (MIT) for the spectrogram; LatentSync at commit a229c39 for which
states are taken, and for what happens at the seams of its 30 s blocks and at the end.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from .windows import AFTER, BEFORE, STEPS_PER_SECOND

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ..types import Voice

RATE = 16_000
"""Samples per second."""
HOP = 160
"""Samples between columns of the spectrogram: 10 ms."""
FFT = 400
"""Samples under one column: 25 ms."""
BANDS = 80
BLOCK = 3000
"""Columns that the encoder takes at once: 30 s."""
HEAD_WIDTH = 64
"""Of every Whisper; the one number of its configuration that shapes do not tell."""
DYNAMIC_RANGE = 8.0
"""Decades below the loudest value of the whole voice at which the spectrogram is cut off."""
_KEPT_BLOCKS = 3


@lru_cache(maxsize=1)
def _filters() -> np.ndarray:
    """``(201, 80)`` Slaney triangles from 0 to 8000 Hz, as OpenAI took them from librosa."""
    from transformers.audio_utils import mel_filter_bank

    return mel_filter_bank(
        num_frequency_bins=FFT // 2 + 1,
        num_mel_filters=BANDS,
        min_frequency=0.0,
        max_frequency=RATE / 2,
        sampling_rate=RATE,
        norm="slaney",
        mel_scale="slaney",
    )


def _columns(samples: np.ndarray, count: int) -> np.ndarray:
    """``(80, count)`` log10 mel power of ``samples``, which begin where the first column's window does."""
    import torch

    # torch in float32, as the original, so that quiet bands carry the same rounding
    sound = torch.from_numpy(samples[: (count - 1) * HOP + FFT].astype(np.float32))
    spectrum = torch.stft(
        sound, FFT, HOP, window=torch.hann_window(FFT), center=False, return_complex=True
    )
    filters = torch.from_numpy(_filters().T.astype(np.float32))
    return (filters @ spectrum.abs().square()).clamp(min=1e-10).log10().numpy()


def mel_blocks(voice: Voice, sample_count: int | None = None) -> Iterator[np.ndarray]:
    """Log10 mel power of the voice, ``(80, N)`` float32, ``N`` 3000 in all but the last block.

    ``S // 160`` columns in all. Column ``i`` is centred on ``i * 10`` ms, the sound mirrored at both
    ends. ``sample_count`` appends silence up to that length. Memory is one block.
    """
    half = FFT // 2
    pending = np.zeros(0)
    begun = False
    heard = made = 0
    for block in _sound(voice, sample_count):
        heard += len(block)
        pending = np.concatenate([pending, block])
        if not begun and len(pending) > half:
            pending = np.concatenate([pending[half:0:-1], pending])
            begun = True
        while begun and len(pending) >= (BLOCK - 1) * HOP + FFT:
            yield _columns(pending, BLOCK)
            made += BLOCK
            pending = pending[BLOCK * HOP :]
    rest = heard // HOP - made
    if rest > 0:
        yield _columns(np.concatenate([pending, pending[-2 : -half - 2 : -1]]), rest)


def _sound(voice: Voice, sample_count: int | None) -> Iterator[np.ndarray]:
    """At least two columns' worth, so that the shortest sound has one step of features."""
    wanted = max(sample_count or 0, FFT)
    heard = 0
    for block in voice.blocks(RATE):
        heard += len(block)
        yield np.nan_to_num(np.asarray(block, np.float64), posinf=0.0, neginf=0.0)
    while heard < wanted:
        length = min(wanted - heard, RATE)
        yield np.zeros(length)
        heard += length


def build_encoder(tensors: Mapping[str, Tensor]) -> nn.Module:
    """Whisper's encoder of the size that ``tensors`` have, by transformers' names."""
    import torch
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    width, bands, _ = tensors["conv1.weight"].shape
    if bands != BANDS:
        raise ValueError(f"Whisper with {BANDS} mel bands is needed, this one has {bands}")
    config = WhisperConfig(
        d_model=width,
        num_mel_bins=bands,
        max_source_positions=tensors["embed_positions.weight"].shape[0],
        encoder_layers=1 + max(int(n.split(".")[1]) for n in tensors if n.startswith("layers.")),
        encoder_attention_heads=width // HEAD_WIDTH,
        encoder_ffn_dim=tensors["layers.0.fc1.weight"].shape[0],
    )
    with torch.device("meta"):
        encoder = WhisperEncoder(config)
    encoder.load_state_dict(dict(tensors), assign=True)
    return encoder.train(False).requires_grad_(False)


def encode(encoder: nn.Module, mel: Tensor) -> Tensor:
    """``(1500, layers + 1, D)``: what enters the first layer and what leaves each, before the last norm.

    ``mel``: ``(80, 3000)``, normalised. The states are caught on their way, because what
    transformers returns as the last of them has been through the final norm.
    """
    import torch

    states: list[Tensor] = []

    def entering(_: Any, args: tuple, kwargs: dict) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])

    def leaving(_: Any, __: Any, result: Any) -> None:
        states.append(result[0] if isinstance(result, tuple) else result)

    layers: Any = encoder.layers
    handles = [layers[0].register_forward_pre_hook(entering, with_kwargs=True)]
    handles += [layer.register_forward_hook(leaving) for layer in layers]
    try:
        with torch.no_grad():
            encoder(mel[None])
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([state[0] for state in states], dim=1)


class Features:
    """The features of one voice, ``step_count`` rows of ``(layers + 1, D)``, 50 a second.

    The voice is read once for its loudest moment and then again as rows are asked for, from the
    front; a few encoded blocks of 30 s are kept, so that memory does not grow with its length.
    """

    def __init__(
        self,
        voice: Voice,
        encoder: nn.Module,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        sample_count: int | None = None,
    ) -> None:
        self._voice = voice
        self._encoder = encoder
        self._device = device
        self._dtype = dtype
        self._sample_count = sample_count
        self._kept: OrderedDict[int, Tensor] = OrderedDict()
        self._source: Iterator[np.ndarray] = iter(())
        self._next = 0
        self._silence: Tensor | None = None
        self.width = int(encoder.layer_norm.weight.shape[0])  # type: ignore[union-attr]
        levels = []
        self.peak = -10.0
        """Loudest log10 mel power of the voice."""
        for block in mel_blocks(voice, sample_count):
            self.peak = max(self.peak, float(block.max()))
            pairs = block.shape[1] // 2
            levels.append(block[:, : pairs * 2].reshape(BANDS, pairs, 2).max(axis=(0, 2)))
        self.levels = np.concatenate(levels)
        """``(step_count,)`` loudest log10 mel power of each step."""

    @property
    def step_count(self) -> int:
        return len(self.levels)

    def rows(self, steps: np.ndarray) -> Tensor:
        """``(*steps.shape, layers + 1, D)`` on the device of the encoder."""
        import torch

        flat = steps.reshape(-1)
        blocks = flat // (BLOCK // 2)
        parts = torch.cat([self._block(int(b)) for b in np.unique(blocks)])
        offsets = np.searchsorted(np.unique(blocks), blocks) * (BLOCK // 2)
        chosen = torch.from_numpy(offsets + flat % (BLOCK // 2)).to(parts.device)
        return parts[chosen].unflatten(0, steps.shape)

    def tokens(self, steps: np.ndarray) -> Tensor:
        """``(T, L, D)`` for ``(T, 10)`` steps: step after step, all layers of each."""
        return self.rows(steps).flatten(1, 2)

    def silence(self) -> Tensor:
        """``(L, D)`` tokens of a moment in the middle of thirty silent seconds."""
        if self._silence is None:
            quiet = np.full((BANDS, BLOCK), self.peak - DYNAMIC_RANGE, np.float32)
            middle = BLOCK // 4
            self._silence = self._encode(quiet)[middle : middle + BEFORE + AFTER].flatten(0, 1)
        return self._silence

    def _block(self, number: int) -> Tensor:
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        mel = None
        if number < self._next or self._next == 0:
            self._source = mel_blocks(self._voice, self._sample_count)
            self._next = 0
        while self._next <= number:
            mel = next(self._source, None)
            if mel is None:
                raise ValueError(
                    f"the voice became shorter while it was read: {number} blocks left"
                )
            self._next += 1
        assert mel is not None
        self._kept[number] = self._encode(mel)
        while len(self._kept) > _KEPT_BLOCKS:
            self._kept.popitem(last=False)
        return self._kept[number]

    def _encode(self, mel: np.ndarray) -> Tensor:
        import torch

        # zero after normalising, not silence: what LatentSync's networks were trained to hear
        padded = np.zeros((BANDS, BLOCK), np.float32)
        padded[:, : mel.shape[1]] = (np.maximum(mel, self.peak - DYNAMIC_RANGE) + 4.0) / 4.0
        given = torch.from_numpy(padded).to(self._device, self._dtype or torch.float32)
        # a whole block, whatever it holds, keeps the index arithmetic simple
        return encode(self._encoder, given)


def steps_of(sample_count: int) -> int:
    """Steps of features that so many samples give; full blocks are cut to whole steps."""
    columns = sample_count // HOP
    return columns // BLOCK * (BLOCK // 2) + columns % BLOCK // 2


__all__ = [
    "RATE",
    "STEPS_PER_SECOND",
    "Features",
    "build_encoder",
    "encode",
    "mel_blocks",
    "steps_of",
]
