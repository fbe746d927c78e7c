"""Trains the curve with its network cut in shards, one for each process, without a GPU.

accelerate offers FSDP on accelerators alone. What it would find there is put in its place, and from
then on everything is real: torch cuts the network, gathers it and saves it over gloo.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

from trainer import processes

_spec = importlib.util.spec_from_file_location(
    "curve_task", Path(__file__).with_name("curve_task.py")
)
curve_task = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(curve_task)

plain = processes.accelerator


def sharded(recipe: Any) -> Any:
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    made = plain(recipe)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="no_wrap", state_dict_type="SHARDED_STATE_DICT"
    )
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    made.state._shared_state["distributed_type"] = DistributedType.FSDP
    made.state._shared_state["fsdp_plugin"] = plugin
    made.state.distributed_type = DistributedType.FSDP
    made.state.fsdp_plugin = plugin
    assert made.is_fsdp2
    return made


if __name__ == "__main__":
    processes.accelerator = sharded
    torch.set_num_threads(1)
    curve_task.main()
