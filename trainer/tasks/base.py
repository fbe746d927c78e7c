"""What the loop asks of a task: networks, samples, loss terms by name, a look at the result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.utils.data import Dataset

    from ..config import Recipe, StageConfig


class Task(ABC):
    """One kind of training. It knows lip sync; the loop does not.

    The loop calls in this order: the constructor; ``begin`` for the stage; wraps ``network`` for
    its processes; ``losses`` for every batch; ``validate`` and ``export`` now and then; ``begin``
    again when the curriculum goes on, after which ``network`` may have other parameters.
    """

    name: ClassVar[str]

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        """Builds ``network`` on the CPU; reads weights; touches no data yet."""
        self.recipe = recipe
        self.device = device
        self.network: nn.Module
        """The one module that is trained, saved and wrapped."""

    @abstractmethod
    def begin(self, stage: StageConfig) -> None:
        """Brings ``network`` and the frozen networks into the shape of ``stage``.

        Adds or drops motion modules, sets ``requires_grad``, loads onto ``device`` the frozen
        networks that the stage's losses need and lets go of the others. The same stage twice
        changes nothing.
        """

    @abstractmethod
    def samples(self, stage: StageConfig, *, validation: bool) -> Dataset[dict[str, Any]]:
        """Sample number ``i`` for any whole ``i`` from 0 on, the same at every call."""

    @abstractmethod
    def losses(
        self, network: nn.Module, batch: Mapping[str, Any], stage: StageConfig
    ) -> dict[str, Tensor]:
        """Terms by the names of ``LossConfig``, not weighted, scalars of the mean over the batch.

        ``network`` is ``self.network`` as wrapped by the loop and must be called through its
        ``forward``. All randomness comes from ``batch["seed"]``, so that a loss does not depend on
        the number of processes.
        """

    def compares(self, stage: StageConfig) -> bool:
        """Whether samples of a batch see each other, so that the batches of a step make one large one.

        Then ``compared`` is asked about the embeddings that ``network`` gives of ``shown``.
        """
        return False

    def shown(self, batch: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """What ``network`` is given of a batch, without a gradient."""
        raise NotImplementedError

    def compared(
        self,
        embeddings: Sequence[Tensor],
        batches: Sequence[Mapping[str, Any]],
        stage: StageConfig,
    ) -> dict[str, Tensor]:
        """``losses`` of the embeddings of all ``batches``, one after the other."""
        raise NotImplementedError

    @abstractmethod
    def validate(
        self, network: nn.Module, stage: StageConfig, folder: Path | None
    ) -> dict[str, float]:
        """Figures on held-out data. With ``folder`` also pictures: a contact sheet, a clip.

        Called on the first rank alone, with ``network`` not wrapped and on ``device``, holding the
        running mean of the weights where the recipe keeps one. The other ranks go on with the next
        step, so nothing in here may be a collective call.
        """

    @abstractmethod
    def export(self, network: nn.Module, path: Path) -> None:
        """Writes ``network`` in the published layout, as safetensors with float16 where exact enough,
        so that the core loads it at once."""
