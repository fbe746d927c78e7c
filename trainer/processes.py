"""One process among others: what accelerate is told at the start, what ranks share, and signals."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from lipsync_core.errors import SettingsError

from .config import Recipe
from .state import TrainingError


def accelerator(recipe: Recipe) -> Any:
    try:
        from accelerate import Accelerator
        from accelerate.utils import (
            DistributedDataParallelKwargs,
            DistributedType,
            InitProcessGroupKwargs,
        )
    except ImportError as error:
        raise SettingsError(
            'training needs accelerate; run: pip install "lipsync-core[train]"'
        ) from error
    import torch

    launched = int(os.environ.get("WORLD_SIZE", "1"))
    gpu = torch.cuda.is_available() or torch.xpu.is_available()
    if recipe.run.precision == "fp16" and not gpu:
        raise SettingsError("run.precision=fp16 needs a GPU, and none is here; give no or bf16")
    try:
        made = Accelerator(
            # several processes without a GPU: accelerate would leave each of them alone
            cpu=launched > 1 and not gpu,
            mixed_precision=recipe.run.precision,
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=timedelta(minutes=recipe.run.timeout_minutes)),
                DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            ],
        )
    except ValueError as error:
        # what this device cannot do
        raise SettingsError(f"run.precision={recipe.run.precision}: {error}") from error
    if made.num_processes != launched:
        raise TrainingError(
            f"{launched} processes were started, which found {made.num_processes} of them; start "
            "them with: accelerate launch -m trainer RECIPE"
        )
    kind = made.distributed_type
    plain = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if kind not in (*plain, DistributedType.MULTI_XPU) and not made.is_fsdp2:
        raise TrainingError(
            f"{kind.value} is not for this trainer; launch with data parallelism (the default of "
            "accelerate launch) or with --use_fsdp --fsdp_version 2"
        )
    return made


def shared(accelerator: Any, weights: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the first rank has gathered, on all ranks."""
    from accelerate.utils import broadcast_object_list

    said = [dict(weights) if accelerator.is_main_process else None]
    return broadcast_object_list(said)[0]


def forget() -> None:
    """What accelerate keeps for the process, so that its next run may have another precision."""
    if "accelerate" not in sys.modules:
        return
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


class Signals:
    """SIGTERM and Ctrl-C become a wish to stop; the second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.stop = False

    @contextmanager
    def heeded(self) -> Iterator[None]:
        before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                before[number] = signal.signal(number, self._hear)
            except ValueError:
                # not the main thread: whoever owns that hears them
                break
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: object) -> None:
        if self.stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.stop = True


def calm(worker: int) -> None:
    """Workers that load leave signals to the process they load for, which goes on until its step is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
